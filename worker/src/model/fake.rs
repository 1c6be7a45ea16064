//! A model without libtorch for tests of the pipeline: its answer is a hash of the pixels.
//!
//! It can be told to fail or to take its time. The same pixels always give the same row, whatever
//! micro-batch they come in, so a test can compute the expected output by itself.

use super::{Model, ModelError, Outputs};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// See the file's head.
#[derive(Debug, Default)]
pub struct FakeModel {
    /// Every forward pass takes at least this long.
    pub pass_time: Duration,
    /// Images of these first bytes make the pass raise.
    pub refuses: Option<u8>,
    /// More images than this do not fit into its memory.
    pub fits: Option<usize>,
    /// An image of this first byte kills the device.
    pub kills_device: Option<u8>,
    /// Forward passes so far.
    pub passes: AtomicU64,
}

/// Classes the fake tells apart.
pub const FAKE_CLASSES: usize = 10;

/// The fake's answer for one image.
pub fn fake_row(pixels: &[u8]) -> Vec<f32> {
    // FNV-1a, 64 bit.
    let hash = pixels
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    (0..FAKE_CLASSES).map(|i| f32::from(u8::try_from((hash >> (i * 6)) & 0x3f).unwrap_or(0)) / 8.0).collect()
}

impl Model for FakeModel {
    fn forward(&self, images: &[&[u8]]) -> Result<Outputs, ModelError> {
        self.passes.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.pass_time);
        let any = |first: Option<u8>| {
            first.is_some() && images.iter().any(|pixels| pixels.first().copied() == first)
        };
        if self.fits.is_some_and(|fits| images.len() > fits) {
            return Err(ModelError::OutOfMemory(format!("the fake has no room for {} images", images.len())));
        }
        if any(self.kills_device) {
            return Err(ModelError::DeviceLost("the fake's device fell off the bus".into()));
        }
        if any(self.refuses) {
            return Err(ModelError::Forward("the fake refuses this image".into()));
        }
        Ok(Outputs::single(images.iter().flat_map(|pixels| fake_row(pixels)).collect(), FAKE_CLASSES))
    }

    fn width(&self) -> usize {
        FAKE_CLASSES
    }
}
