//! How an image becomes a model's input: the part of a description that decides pixels.
//!
//! Read with the rest of a bundle's description, in the producer and in the worker, whose `preprocess/` does what is said
//! here. Each rule is somebody's: torchvision's, timm's or Hugging Face's; a field that changes pixels must be here and
//! never be a worker's flag.

use serde::{Deserialize, Serialize};

/// The longest side a model may ask for, in pixels.
const MAX_INPUT_SIDE: u32 = 8192;

/// How an image becomes the model's input, `float32 [N, 3, H, W]`, RGB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Height and width of the input, in pixels.
    pub crop: [u32; 2],
    /// What it measures depends on [`InputSpec::resize_mode`]. Absent: no resize before a crop, and the crop's own size
    /// for `squash` and `letterbox`.
    #[serde(default)]
    pub resize: Option<Resize>,
    /// See [`ResizeMode`].
    pub resize_mode: ResizeMode,
    /// See [`Interpolation`].
    pub interpolation: Interpolation,
    /// What is around an image that does not fill the input, RGB. Absent: grey (114) for `letterbox`, else black.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<[u8; 3]>,
    /// See [`Centre`].
    #[serde(default, skip_serializing_if = "Centre::is_torchvisions")]
    pub centre: Centre,
    /// Mean by channel, of pixels scaled to 0..1.
    pub mean: [f32; 3],
    /// Standard deviation by channel, of pixels scaled to 0..1.
    pub std: [f32; 3],
}

/// What a resize is to reach, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Resize {
    /// One number for both sides, or for the one that counts.
    Side(u32),
    /// Height and width.
    Sides([u32; 2]),
}

impl Resize {
    /// Width and height.
    pub fn bounds(self) -> (u32, u32) {
        match self {
            Self::Side(side) => (side, side),
            Self::Sides([height, width]) => (width, height),
        }
    }
}

impl From<u32> for Resize {
    fn from(side: u32) -> Self {
        Self::Side(side)
    }
}

/// What the resize keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizeMode {
    /// The shorter side becomes `resize`, the longer is cut to whole pixels (torchvision); of two numbers, both sides
    /// reach them and the shape stays, rounded to whole pixels (timm). Then the centre is cropped.
    Shortest,
    /// Both sides become `resize`, whatever the shape; then the centre is cropped.
    Squash,
    /// The image fits into `resize` and keeps its shape, rounded to whole pixels; the rest is filled around the centre
    /// (timm's `border`).
    Letterbox,
}

/// The resize filter, as Pillow defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// `Image.NEAREST`.
    Nearest,
    /// `Image.BOX`.
    Box,
    /// `Image.BILINEAR`.
    Bilinear,
    /// `Image.HAMMING`.
    Hamming,
    /// `Image.BICUBIC`.
    Bicubic,
    /// `Image.LANCZOS`.
    Lanczos,
}

/// Where the centre is when an odd number of pixels is left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Centre {
    /// A crop begins at half of them rounded to even; a smaller image has the odd pixel of its border behind it.
    #[default]
    Torchvision,
    /// A crop begins at half of them rounded down; a smaller image has the odd pixel of its border before it.
    HuggingFace,
}

impl Centre {
    fn is_torchvisions(&self) -> bool {
        *self == Self::Torchvision
    }
}

impl InputSpec {
    /// Whether it can be done; the error is a sentence's end.
    pub(super) fn check(&self) -> Result<(), String> {
        let resize = self.resize.map(|resize| <[u32; 2]>::from(resize.bounds()));
        let mut sides = self.crop.into_iter().chain(resize.into_iter().flatten());
        if let Some(side) = sides.find(|side| !(1..=MAX_INPUT_SIDE).contains(side)) {
            return Err(format!("a side of {side} pixels is not within 1 to {MAX_INPUT_SIDE}"));
        }
        if !self.mean.iter().chain(&self.std).all(|v| v.is_finite()) || self.std.contains(&0.0) {
            return Err("mean and std must be finite numbers, and std not 0".into());
        }
        Ok(())
    }
}
