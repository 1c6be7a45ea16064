//! Seeded mutations of good input through the bodies of the fuzz targets: what `make test` can do of fuzzing.
//!
//! Every image format and everything that is parsed gets some thousand broken variants. None may panic, take long
//! or take memory. The same seed gives the same bytes on every machine; a failure names its round.

// Shared with the libFuzzer targets, which are a workspace of their own.
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::{
    collections::BTreeMap,
    panic::catch_unwind,
    path::Path,
    time::{Duration, Instant},
};
use trawl_common::{
    batch::{BatchNumber, ImageRef},
    error_code::ErrorCode,
    job::JobSpec,
    results::{
        Cursor, Manifest, PartFooter, PlanDone,
        manifest::MANIFEST_VERSION,
        part::encode_part,
        plan_file::encode_plan_file,
        row::{Outcome, ResultRow},
        schema::Columns,
    },
};

/// For each target.
const ROUNDS: u64 = 8000;

/// For one input; the slowest takes some milliseconds on a quiet machine.
const SLOWEST: Duration = Duration::from_secs(5);

/// What all rounds together may add to the process: decoders of a quarter megapixel need a few megabytes.
const MOST_KILOBYTES: u64 = 200 << 10;

/// Numbers at which parsers stumble.
const ODD: [u32; 10] = [0, 1, 2, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// xorshift64*.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end.max(1)
    }

    /// One to eight changes to a copy of one of `seeds`.
    fn mutant(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..1 + self.below(8) {
            self.change(&mut bytes, seeds);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        // Headers and footers matter more than their share of a file.
        let at = match self.below(3) {
            0 => self.below(bytes.len().min(64)),
            1 => bytes.len().saturating_sub(1 + self.below(512)),
            _ => self.below(bytes.len()),
        };
        let length = self.below(64).min(bytes.len() - at);
        match self.below(9) {
            _ if bytes.is_empty() => bytes.push(self.next() as u8),
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.next() as u8,
            2 => overwrite(bytes, at, &ODD[self.below(ODD.len())].to_le_bytes()),
            3 => overwrite(bytes, at, &ODD[self.below(ODD.len())].to_be_bytes()),
            4 => overwrite(bytes, at, &ODD[self.below(ODD.len())].to_be_bytes()[2..]),
            5 => drop(bytes.drain(at..at + length)),
            6 => {
                let again = bytes[at..at + length].to_vec();
                bytes.splice(at..at, again);
            }
            7 => bytes.truncate(at),
            _ => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                let piece = &other[from..(from + length.max(8)).min(other.len())];
                bytes.splice(at..at + length, piece.iter().copied());
            }
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes[at..].iter_mut().zip(with) {
        *byte = *new;
    }
}

/// The golden images by their format, which their names begin with.
fn images() -> BTreeMap<String, Vec<Vec<u8>>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images"));
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the golden images are in the tree")
        .map(|file| file.expect("an entry").path())
        .collect();
    files.sort();
    let mut images: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for file in files {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let format = name.split('_').next().unwrap_or_default().to_owned();
        images.entry(format).or_default().push(std::fs::read(&file).expect("a readable file"));
    }
    images
}

/// Peak of the process's memory, the C libraries' included.
fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    peak.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

fn attack(target: &str, seeds: &[Vec<u8>]) {
    for seed in seeds {
        // The good ones go through, and take what memory they take.
        targets::run(target, seed);
    }
    let (before, began) = (peak_kilobytes(), Instant::now());
    let mut noise = Noise(0x7261_776c + seeds.len() as u64);
    let mut slowest = (Duration::ZERO, 0);
    for round in 0..ROUNDS {
        let bytes = noise.mutant(seeds);
        let start = Instant::now();
        if catch_unwind(|| targets::run(target, &bytes)).is_err() {
            let file = std::env::temp_dir().join(format!("trawl-{target}-{round}"));
            std::fs::write(&file, &bytes).expect("a file");
            panic!("{target}, round {round}: its words are above, its bytes in {}", file.display());
        }
        slowest = slowest.max((start.elapsed(), round));
    }
    println!("{target}: {ROUNDS} rounds in {:?}, the slowest {slowest:?}", began.elapsed());
    assert!(slowest.0 < SLOWEST, "{target}: round {} took {:?}", slowest.1, slowest.0);
    let grown = peak_kilobytes().saturating_sub(before);
    assert!(grown < MOST_KILOBYTES, "{target}: the process grew by {grown} kB");
}

#[test]
fn broken_images_of_every_format_are_answers() {
    let images = images();
    let formats: Vec<&str> = images.keys().map(String::as_str).collect();
    assert_eq!(formats, ["bmp", "gif", "jpeg", "png", "tiff", "webp"]);
    for (format, seeds) in &images {
        attack(&format!("image_{format}"), seeds);
    }
    let all: Vec<Vec<u8>> = images.into_values().flatten().collect();
    attack("image_any", &all);
}

/// A frozen file of the wire format.
fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/../common/fixtures/v1/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("the wire's fixtures are in the tree")
}

#[test]
fn broken_messages_and_specs_are_answers() {
    attack("descriptor", &[fixture("batch.json"), fixture("finalize.json")]);
    attack("job_spec", &[fixture("job.json")]);
}

#[test]
fn broken_footers_are_answers() {
    let spec = JobSpec::parse(&fixture("job.json")).expect("the frozen spec");
    let row = ResultRow {
        key: "s3://bucket/a.jpg".into(),
        etag: None,
        size: 9,
        width: None,
        height: None,
        outcome: Outcome::Failed { code: ErrorCode::Truncated, message: "cut".into() },
        carried: Vec::new(),
    };
    let rows = vec![row; 3];
    let footer = PartFooter::new(&spec, BatchNumber(7), "attempt", "worker").counted(&rows);
    let part = encode_part(&rows, &Columns::classes(), &footer).expect("a part");
    let image = ImageRef::whole("s3://bucket/a.jpg", None, 9);
    let batches = [vec![image.clone(); 3], vec![image; 2]];
    let plan = encode_plan_file(BatchNumber(0), &batches, &Cursor { images: 5, ..Cursor::default() });
    let done = PlanDone { batches: 2, images: 5, skipped: 0, unlistable: 0 }.to_json();
    let manifest = manifest(&spec, &footer);
    attack("footer", &[part.to_vec(), plan.expect("a plan file").to_vec(), done.to_vec(), manifest]);
}

fn manifest(spec: &JobSpec, footer: &PartFooter) -> Vec<u8> {
    let mut manifest = Manifest {
        version: MANIFEST_VERSION,
        job: spec.job.clone(),
        batches: 0,
        rows: 0,
        images_ok: 0,
        images_failed: 0,
        errors: BTreeMap::new(),
        stages: Default::default(),
        model_sha256: spec.model.sha256.clone(),
        preprocess_sha256: spec.preprocess_digest(),
        created_unix_ms: 1,
        finished_unix_ms: 2,
        engines: Default::default(),
        trawl: "0".into(),
        parts: Vec::new(),
        pieces: Vec::new(),
    };
    manifest.push("part-00000007.parquet".into(), 1000, footer);
    manifest.to_json().to_vec()
}
