//! The images of a bench: the user's, or photo-like ones that are drawn here.
//!
//! Reading them is the measure of the fetch stage. They are kept in memory, within bounds, so that decoding is measured
//! without the disk.

use super::{job::Gathered, prediction::Speed};
use crate::{bench::stages::process_cpu_seconds, cli::ComputeArgs, pipeline::pace::Pace};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::{path::Path, sync::Arc, time::Instant};
use trawl_common::{location::Location, planning::filter::Filter, storage::Stores};
use turbojpeg_sys as tj;

/// Images that are kept: enough to be like the others.
const KEPT: usize = 512;

/// And their bytes in all.
pub const KEPT_BYTES: u64 = 512 << 20;

/// A photo of a web corpus: the size that the field's benchmarks use.
const DRAWN_SIZE: [usize; 2] = [500, 375];

/// Images that are drawn.
const DRAWN: u32 = 32;

/// Files in memory.
pub struct Sample {
    /// Their bytes.
    pub files: Vec<Bytes>,
    /// How fast they were read, if they were.
    pub read: Option<Speed>,
    /// What else reading showed, for a job's sample.
    pub gathered: Option<Gathered>,
}

/// Reads some of the first `limit` images of `source`, evenly taken.
///
/// # Errors
/// If it cannot be listed or read, or has no images.
pub async fn read(
    source: &str,
    base_dir: &Path,
    stores: &Arc<Stores>,
    limit: u64,
    compute: &ComputeArgs,
) -> Result<Sample> {
    let place = Location::parse(source, base_dir)?;
    let store = stores.open(&place).await;
    // By their names, as a job takes them; what is inside is the decoder's business.
    let names = Filter::new(&[], &[])?;
    let (mut listed, mut pages) = (Vec::new(), store.list(place.key(), None));
    while let Some(page) = pages.next().await {
        listed.extend(page?.objects.into_iter().filter(|object| names.takes(&object.key, false)));
        if listed.len() as u64 >= limit {
            break;
        }
    }
    listed.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    ensure!(!listed.is_empty(), "`{source}` has no images: give --images a folder or prefix that has");
    let every = listed.len().div_ceil(KEPT);
    let mut room = KEPT_BYTES;
    let chosen: Vec<_> = listed
        .into_iter()
        .step_by(every)
        .take_while(|object| {
            room = room.saturating_sub(object.size);
            room > 0
        })
        .collect();
    ensure!(!chosen.is_empty(), "the first image of `{source}` is larger than {} MiB", KEPT_BYTES >> 20);
    let limits = compute.fetch_limits();
    let (began, cpu) = (Instant::now(), process_cpu_seconds());
    let gets = stream::iter(chosen).map(|object| {
        let store = store.clone();
        async move { store.get(&object.key, limits.max_image_bytes).await }
    });
    let read: Vec<_> = gets.buffer_unordered(Pace::new(limits.reads).limit()).collect().await;
    let (took, cpu) = (began.elapsed().as_secs_f64(), process_cpu_seconds() - cpu);
    let files: Vec<Bytes> = read.into_iter().filter_map(Result::ok).map(|object| object.bytes).collect();
    ensure!(!files.is_empty(), "no image of `{source}` could be read: check the path and the permissions");
    let count = files.len() as f64;
    let speed = Speed { images_per_second: count / took.max(1e-9), cpu_seconds_an_image: cpu / count };
    Ok(Sample { files, read: Some(speed), gathered: None })
}

/// Photo-like JPEGs: smooth shapes under noise, at quality 90. The same ones each time.
///
/// # Errors
/// If the encoder fails.
pub fn drawn() -> Result<Sample> {
    let [width, height] = DRAWN_SIZE;
    let files = (0..DRAWN).map(|seed| photo(seed, width, height)).collect::<Result<_>>()?;
    Ok(Sample { files, read: None, gathered: None })
}

/// One of them.
///
/// # Errors
/// If the encoder fails.
pub fn photo(seed: u32, width: usize, height: usize) -> Result<Bytes> {
    let mut noise = seed.wrapping_mul(2_654_435_761) | 1;
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3_usize {
                // A xorshift: any cheap noise will do.
                noise ^= noise << 13;
                noise ^= noise >> 17;
                noise ^= noise << 5;
                let phase = (x * (channel + 2) + y * (5 - channel)) as f32 / 40.0 + seed as f32;
                let smooth = phase.sin() * 80.0 + 128.0;
                pixels.push((smooth + (noise % 24) as f32).clamp(0.0, 255.0) as u8);
            }
        }
    }
    jpeg(&pixels, width, height)
}

fn jpeg(rgb: &[u8], width: usize, height: usize) -> Result<Bytes> {
    let side = |n: usize| libc::c_int::try_from(n).context("a side of a drawn image");
    let (width, height) = (side(width)?, side(height)?);
    // SAFETY: the handle is checked and destroyed here; the pixels are width * height * 3 bytes; the encoder allocates
    // the output, whose pointer and length it sets, and it is freed here after it was copied.
    unsafe {
        let handle = tj::tj3Init(tj::TJINIT_TJINIT_COMPRESS as libc::c_int);
        ensure!(!handle.is_null(), "libjpeg-turbo gives no encoder");
        tj::tj3Set(handle, tj::TJPARAM_TJPARAM_QUALITY as libc::c_int, 90);
        tj::tj3Set(handle, tj::TJPARAM_TJPARAM_SUBSAMP as libc::c_int, tj::TJSAMP_TJSAMP_420 as libc::c_int);
        let (mut out, mut length) = (std::ptr::null_mut(), 0);
        let format = tj::TJPF_TJPF_RGB as libc::c_int;
        let refused = tj::tj3Compress8(handle, rgb.as_ptr(), width, 0, height, format, &mut out, &mut length);
        let file = (refused == 0).then(|| {
            Bytes::copy_from_slice(std::slice::from_raw_parts(out, usize::try_from(length).unwrap_or(0)))
        });
        tj::tj3Free(out.cast());
        tj::tj3Destroy(handle);
        file.context("a drawn image could not be encoded")
    }
}
