//! What ships has no failpoints: the file compiled as a release build compiles it.

use std::{path::Path, process::Command};

/// Passes every kind of place, with a setting that a build with failpoints refuses.
const PROGRAM: &str = r#"
#[path = "FILE"]
#[allow(dead_code)]
mod failpoint;

fn main() {
    use std::{pin::pin, task::{Context, Poll, Waker}};
    assert!(!failpoint::ENABLED);
    failpoint::check();
    failpoint::hit_blocking(failpoint::DECODE_BEFORE);
    assert!(!failpoint::error(failpoint::FETCH_ERROR));
    let mut hit = pin!(failpoint::hit(failpoint::PUT_BEFORE));
    assert_eq!(hit.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()));
}
"#;

// A debug build has them, or the tests of faults would test nothing.
#[cfg(debug_assertions)]
const _: () = assert!(trawl_common::failpoint::ENABLED);

#[test]
fn a_release_build_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("main.rs"), folder.path().join("main"));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/failpoint.rs");
    std::fs::write(&source, PROGRAM.replace("FILE", file)).unwrap();
    let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
    // As `cargo build --release` calls it; nothing but the profile decides.
    let built = Command::new(rustc)
        .args(["--edition", "2024", "-C", "opt-level=3", "-o"])
        .args([&program, &source])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let ended = Command::new(&program).env("TRAWL_FAILPOINTS", "no such place").output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let bytes = std::fs::read(&program).unwrap();
    assert!(!bytes.windows(16).any(|text| text == b"TRAWL_FAILPOINTS"), "the code is in it");
}

#[test]
fn no_profile_turns_them_on() {
    let workspace = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")).unwrap();
    assert!(!workspace.contains("debug-assertions"), "a profile with debug assertions has failpoints");
    for package in ["common", "worker", "producer"] {
        let path = format!("{}/../{package}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        let manifest = std::fs::read_to_string(path).unwrap();
        let default = manifest.lines().find(|line| line.starts_with("default ="));
        assert!(!default.is_some_and(|line| line.contains("failpoints")), "{package} ships with failpoints");
    }
}
