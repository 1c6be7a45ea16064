//! What the tests of the whole share: private servers, the real binaries, images, and reading results.
//!
//! Servers come from `deploy/stack`, the very script that `make stack-up` uses, on free ports, one set per
//! test binary; a watchdog stops them when the binary ends, however it ends. Waiting is always for a
//! condition, with a deadline that fails the test.

mod background;
pub mod bombs;
pub mod browser;
pub mod bucket;
pub mod chaos;
pub mod collector;
pub mod gcs;
pub mod http_faults;
pub mod images;
pub mod programs;
pub mod prometheus;
pub mod proxy;
pub mod rows;
pub mod scene;
pub mod stack;
pub mod tmux;
pub mod wait;
pub mod web;
pub mod web_files;

use std::path::{Path, PathBuf};

/// The checkout.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace").to_owned()
}

/// A name that no other test uses.
pub fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
