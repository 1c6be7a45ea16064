//! The images of the simulated bucket, and the row that each of them must get.
//!
//! Made once for all seeds. The expected row comes from the preprocessing and the fake model alone, without a
//! pipeline: it is what an undisturbed run gives.

use bytes::Bytes;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::LazyLock,
};
use trawl_common::{
    bundle::BundleSpec,
    error_code::ErrorCode,
    job::{Decode, Orient, Truncated, hex_sha256},
    results::row::{Outcome, ResultRow},
};
use trawl_worker::{
    model::{fake::fake_row, output},
    preprocess::{self, Limits, Recipe, Scratch},
};

/// The bundle that describes the fake model.
pub const BUNDLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/model.pt");

/// Classes kept in a row.
pub const TOPK: u16 = 3;

/// More than any seed needs.
const MOST: usize = 64;

/// An object and what becomes of it.
pub struct Photo {
    pub bytes: Bytes,
    /// Its row but for the key and the tag.
    row: ResultRow,
    /// Of its pixels; `None` if it has none.
    pub pixels: Option<u64>,
}

/// Whole images, and the same ones cut off in the middle.
pub static PHOTOS: LazyLock<(Vec<Photo>, Vec<Photo>)> = LazyLock::new(|| {
    let whole: Vec<Bytes> = (0..MOST).map(png).collect();
    let spoiled = whole.iter().map(|bytes| bytes.slice(..bytes.len() / 2));
    (whole.iter().cloned().map(Photo::of).collect(), spoiled.map(Photo::of).collect())
});

fn png(number: usize) -> Bytes {
    let shade = u8::try_from(number % 250).unwrap_or(0);
    let image = image::RgbImage::from_fn(9, 7, |x, y| image::Rgb([shade, x as u8 * 20, y as u8 * 30]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("memory takes it");
    bytes.into_inner().into()
}

/// What tells one image's pixels from another's.
pub fn fingerprint(pixels: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    pixels.hash(&mut hasher);
    hasher.finish()
}

impl Photo {
    fn of(bytes: Bytes) -> Self {
        let bundle = BundleSpec::read(Path::new(BUNDLE)).expect("the golden bundle");
        let recipe = Recipe {
            input: bundle.input.clone(),
            decode: Decode::Exact,
            truncated: Truncated::Reject,
            orient: Orient::None,
            limits: Limits::default(),
        };
        let (width, height, outcome, pixels) = match preprocess::prepare(&bytes, &recipe, &mut Scratch::new())
        {
            Ok(prepared) => {
                let answer = output::interpret(&fake_row(&prepared.pixels), &bundle, usize::from(TOPK));
                let outcome = Outcome::Ok(answer.expect("the fake is finite"));
                let seen = fingerprint(&prepared.pixels);
                (Some(prepared.width), Some(prepared.height), outcome, Some(seen))
            }
            Err(error) => {
                let outcome = Outcome::Failed { code: error.code, message: error.message };
                (error.width, error.height, outcome, None)
            }
        };
        let (size, etag) = (bytes.len() as u64, Some(hex_sha256(&bytes)[..32].to_owned()));
        let carried = Vec::new();
        let row = ResultRow { key: String::new(), etag, size, width, height, outcome, carried };
        Self { bytes, row, pixels }
    }

    /// Whether `row` is the right one for this image under `key`; a `killer`'s is the one that blames it.
    pub fn is_answered_by(&self, row: &ResultRow, key: &str, killer: bool) -> bool {
        if killer {
            let blamed = matches!(&row.outcome, Outcome::Failed { code: ErrorCode::CrashedWorker, .. });
            return row.key == key && blamed;
        }
        *row == ResultRow { key: key.to_owned(), ..self.row.clone() }
    }
}
