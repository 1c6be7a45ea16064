//! What is done with fuzzed bytes, and what must hold whatever they are.
//!
//! One function a target, for everything that reads bytes which somebody else may have written: queue messages, the
//! job's spec, footers of parts and plans, images. Shared by the libFuzzer targets and by the worker's test of
//! seeded mutations, which includes this file; so it names only crates that both have. Nothing here may
//! depend on time, chance or an earlier call.

use bytes::Bytes;
use std::cell::RefCell;
use trawl_common::{
    batch::Message,
    bundle::{Centre, InputSpec, Interpolation, ResizeMode},
    error_code::ErrorCode,
    job::{Decode, JobSpec, Orient, Truncated},
    results::{Manifest, PartFooter, PlanDone, PlanFileFooter, footer::FooterError},
};
use trawl_worker::preprocess::{Limits, Recipe, Scratch, prepare};

/// Small, so that an iteration takes microseconds and a header that lies is caught early.
const LIMITS: Limits = Limits { max_pixels: 250_000, max_side: 20_000, max_frames: 100 };

/// Height and width that the model is said to want.
const CROP: [u32; 2] = [24, 20];

/// What a footer may claim as its length, as in `trawl_common::results::footer`.
const MAX_FOOTER_BYTES: usize = 64 << 20;

/// A target by its name.
///
/// # Panics
/// If the bytes break what must hold, or there is no such target.
pub fn run(target: &str, data: &[u8]) {
    match target {
        "descriptor" => descriptor(data),
        "job_spec" => job_spec(data),
        "footer" => footer(data),
        "image_any" => image(data),
        "image_jpeg" => image(&with_magic(data, &[(0, b"\xff\xd8\xff")])),
        "image_png" => image(&with_magic(data, &[(0, b"\x89PNG\r\n\x1a\n")])),
        "image_gif" => image(&with_magic(data, &[(0, b"GIF89a")])),
        "image_webp" => image(&with_magic(data, &[(0, b"RIFF"), (8, b"WEBPVP8")])),
        "image_bmp" => image(&with_magic(data, &[(0, b"BM")])),
        "image_tiff" if data.starts_with(b"MM") => image(&with_magic(data, &[(0, b"MM\0*")])),
        "image_tiff" => image(&with_magic(data, &[(0, b"II*\0")])),
        _ => panic!("there is no target `{target}`"),
    }
}

/// A queue message: what is read is written back the same.
fn descriptor(data: &[u8]) {
    match Message::parse(data) {
        Ok(message) => assert_eq!(Message::parse(&message.to_json()).expect("its own JSON"), message),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A job's spec: what is read is written back the same, and is the same work.
fn job_spec(data: &[u8]) {
    if let Ok(spec) = JobSpec::parse(data) {
        let again = JobSpec::parse(&spec.to_json()).expect("its own JSON");
        assert_eq!(again, spec);
        assert!(spec.same_work(&again) && spec.differences(&again).is_empty());
        assert_eq!(spec.derived_id(), again.derived_id());
    }
}

/// The footers of parts and plan files, and the JSON beside them.
fn footer(data: &[u8]) {
    let (tail, size) = (Bytes::copy_from_slice(data), data.len() as u64);
    for size in [size, size.saturating_mul(1000)] {
        let errors = [PartFooter::read(&tail, size).err(), PlanFileFooter::read(&tail, size).err()];
        for error in errors.into_iter().flatten() {
            if let FooterError::NeedMore(needed) = error {
                assert!(needed > tail.len() && needed <= MAX_FOOTER_BYTES, "{needed} of {}", tail.len());
            }
        }
    }
    if let Ok(done) = PlanDone::parse(data) {
        assert_eq!(PlanDone::parse(&done.to_json()).expect("its own JSON"), done);
    }
    if let Ok(manifest) = Manifest::parse(data) {
        assert_eq!(Manifest::parse(&manifest.to_json()).expect("its own JSON"), manifest);
    }
}

/// The bytes with a format's marks where they belong, so that no iteration ends at the door.
fn with_magic(data: &[u8], marks: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    for (at, mark) in marks {
        let end = at + mark.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[*at..end].copy_from_slice(mark);
    }
    bytes
}

/// An image: pixels of the asked size, or an error with a code and one line of words.
fn image(bytes: &[u8]) {
    thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new()));
    let recipe = recipe(bytes.last().copied().unwrap_or(0));
    let prepared = SCRATCH.with_borrow_mut(|scratch| prepare(bytes, &recipe, scratch));
    match prepared {
        Ok(prepared) => {
            assert_eq!(prepared.pixels.len(), CROP[0] as usize * CROP[1] as usize * 3);
            assert!(u64::from(prepared.width) * u64::from(prepared.height) <= LIMITS.max_pixels);
            assert!(!prepared.truncated || recipe.truncated == Truncated::Accept);
        }
        Err(error) => {
            assert_ne!(error.code, ErrorCode::DecoderPanic, "{}", error.message);
            assert!(!error.message.is_empty() && !error.message.contains('\n'), "{:?}", error.message);
        }
    }
}

/// The last byte chooses among the recipes.
fn recipe(choice: u8) -> Recipe {
    let bit = |n: u8| choice >> n & 1 == 1;
    Recipe {
        input: InputSpec {
            crop: CROP,
            resize: Some(28.into()),
            resize_mode: if bit(0) { ResizeMode::Letterbox } else { ResizeMode::Shortest },
            interpolation: if bit(1) { Interpolation::Nearest } else { Interpolation::Bicubic },
            fill: None,
            centre: Centre::default(),
            mean: [0.0; 3],
            std: [1.0; 3],
        },
        decode: if bit(2) { Decode::Fast } else { Decode::Exact },
        truncated: if bit(3) { Truncated::Reject } else { Truncated::Accept },
        orient: if bit(4) { Orient::None } else { Orient::Exif },
        limits: LIMITS,
    }
}
