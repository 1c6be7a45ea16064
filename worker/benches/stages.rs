//! Benches of what our own code does to an image and its row, one core, no libtorch: decode, resize, encode, plan.
//!
//! `make bench` runs them and gathers their figures; `-- decode` picks some. Whole runs are measured by
//! `trawl-worker bench`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use trawl_common::{
    batch::{BatchDescriptor, BatchNumber, ImageRef, Message},
    bundle::{Centre, InputSpec, Interpolation, ResizeMode},
    job::{Decode, Orient, Truncated},
    planning::{
        cut::Cutter,
        enumerate::{Found, Page},
    },
    results::{Cursor, part::PartFooter, part::encode_part, schema::Columns},
};
use trawl_worker::{
    bench::{sample::photo, stages},
    preprocess::{Limits, Recipe, Scratch, prepare, resize_again},
};

/// Rows of a part and images of a plan's batch: the default.
const BATCH: usize = 64;

fn recipe(decode: Decode, interpolation: Interpolation) -> Recipe {
    let input = InputSpec {
        crop: [224, 224],
        resize: Some(256.into()),
        resize_mode: ResizeMode::Shortest,
        interpolation,
        fill: None,
        centre: Centre::default(),
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    Recipe { input, decode, truncated: Truncated::Reject, orient: Orient::None, limits: Limits::default() }
}

/// An image that is decoded whole.
fn bitmap(width: u32, height: u32) -> Vec<u8> {
    let pixels = width * height * 3;
    let mut file = b"BM".to_vec();
    for word in [54 + pixels, 0, 54, 40, width, height] {
        file.extend(word.to_le_bytes());
    }
    file.extend([1, 0, 24, 0]);
    file.extend([0; 24]);
    file.extend((0..pixels).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8));
    file
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for (name, width, height) in [("500x375", 500, 375), ("12mp", 4000, 3000)] {
        let file = photo(7, width, height).expect("a drawn photo");
        for (mode, decode) in [("exact", Decode::Exact), ("fast", Decode::Fast)] {
            let (recipe, mut scratch) = (recipe(decode, Interpolation::Bicubic), Scratch::new());
            group.bench_function(format!("jpeg_{name}_{mode}"), |b| {
                b.iter(|| black_box(prepare(&file, &recipe, &mut scratch).expect("a photo")));
            });
        }
    }
    group.finish();
}

fn resize(c: &mut Criterion) {
    let mut group = c.benchmark_group("resize");
    group.throughput(Throughput::Elements(1));
    for (filter, interpolation) in [
        ("bilinear", Interpolation::Bilinear),
        ("bicubic", Interpolation::Bicubic),
        ("lanczos", Interpolation::Lanczos),
    ] {
        for (size, width, height) in [("500x375", 500, 375), ("4000x3000", 4000, 3000)] {
            let file = bitmap(width, height);
            let (recipe, mut scratch) = (recipe(Decode::Exact, interpolation), Scratch::new());
            prepare(&file, &recipe, &mut scratch).expect("a bitmap");
            group.bench_function(format!("{filter}_{size}"), |b| {
                b.iter(|| black_box(resize_again(&recipe, &mut scratch)));
            });
        }
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let rows = stages::rows(BATCH, 1000, 5).expect("rows");
    let spec = stages::job(&"0".repeat(64)).expect("a job");
    let footer = PartFooter::new(&spec, BatchNumber(0), "bench-0", "bench").counted(&rows);
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("part_of_64_top5", |b| {
        b.iter(|| black_box(encode_part(&rows, &Columns::classes(), &footer).expect("a part")));
    });
    group.finish();
}

fn plan(c: &mut Criterion) {
    const IMAGES: usize = 10_000;
    let found = |n: usize| Found {
        image: ImageRef::whole(
            format!("s3://bucket/folder/image_{n:08}.jpg"),
            Some(format!("{n:032x}")),
            90_000,
        ),
        source: 0,
        store_key: format!("folder/image_{n:08}.jpg"),
        inside: None,
        group_rows: 0,
        images: n as u64 + 1,
        skipped: 0,
        unlistable: 0,
    };
    let found = (0..IMAGES).map(found).collect();
    let page = Page { found, cursor: Cursor::default(), left_out: Default::default() };
    let spec = stages::job(&"0".repeat(64)).expect("a job");
    let mut group = c.benchmark_group("plan");
    group.throughput(Throughput::Elements(IMAGES as u64));
    group.bench_function("cut_and_describe_10000", |b| {
        b.iter_batched(
            || page.clone(),
            |page| {
                let mut cutter = Cutter::new(BATCH as u32, 0);
                cutter.push(page);
                let slice = cutter.take_full(0).expect("a full plan file");
                for (i, images) in slice.batches.into_iter().enumerate() {
                    let descriptor = BatchDescriptor {
                        job: spec.job.clone(),
                        batch: BatchNumber(i as u64),
                        out: spec.out.clone(),
                        created_unix_ms: spec.created_unix_ms,
                        model_sha256: spec.model.sha256.clone(),
                        images,
                    };
                    black_box(Message::Batch(descriptor).to_json());
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, decode, resize, encode, plan);
criterion_main!(benches);
