//! Hostile files, one at a time: each is one answer, soon, and costs no memory to speak of.
//!
//! A binary of its own with a single test, so that the process's peak of memory is this test's alone.

use std::time::{Duration, Instant};
use trawl_common::{
    bundle::{Centre, InputSpec, Interpolation, ResizeMode},
    job::{Decode, Orient, Truncated},
};
use trawl_worker::preprocess::{Limits, Recipe, Scratch, prepare};

#[path = "../../tests/src/bombs.rs"]
mod bombs;

/// For one image. A generous multiple of what any takes: the machine may be busy.
const SOON: Duration = Duration::from_millis(100);

/// What all of them together may add to the process's peak, beside the largest file itself.
const EXTRA_BYTES: u64 = 64 << 20;

fn recipe(truncated: Truncated) -> Recipe {
    let input = InputSpec {
        crop: [24, 24],
        resize: Some(28.into()),
        resize_mode: ResizeMode::Shortest,
        interpolation: Interpolation::Bilinear,
        fill: None,
        centre: Centre::default(),
        mean: [0.0; 3],
        std: [1.0; 3],
    };
    Recipe { input, decode: Decode::Exact, truncated, orient: Orient::Exif, limits: Limits::default() }
}

/// The most memory that this process had since [`forget_peak`].
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
}

/// Lets the peak begin anew with the memory in use: making the bombs took more than reading them.
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("a process may forget its own peak");
}

#[test]
fn every_bomb_is_an_answer_soon_and_without_memory() {
    let bombs = bombs::all();
    forget_peak();
    let before = peak_bytes();
    for bomb in &bombs {
        assert!(bomb.bytes.len() <= bombs::LARGEST, "{} has {} bytes", bomb.name, bomb.bytes.len());
        for truncated in [Truncated::Reject, Truncated::Accept] {
            let (was, began) = (peak_bytes(), Instant::now());
            let answer = prepare(&bomb.bytes, &recipe(truncated), &mut Scratch::new());
            let (took, grew) = (began.elapsed(), (peak_bytes() - was) >> 10);
            let code = answer.as_ref().err().map_or("", |error| error.code.as_str());
            let why = answer.as_ref().err().map_or("", |error| &error.message);
            println!("{:24} {code:16} {:6.2} ms {grew:6} KiB  {why}", bomb.name, took.as_secs_f64() * 1e3);
            let expected = if bomb.codes.is_empty() { &[""] } else { bomb.codes };
            // What accepts truncated images may read what is there.
            let filled = truncated == Truncated::Accept && expected.contains(&"truncated") && code.is_empty();
            assert!(expected.contains(&code) || filled, "{}: `{code}` ({why})", bomb.name);
            assert!(took < SOON, "{} took {took:?}", bomb.name);
        }
    }
    let extra = peak_bytes() - before;
    assert!(extra < EXTRA_BYTES, "the bombs took {} MiB", extra >> 20);
}
