//! Gives this package's binaries, tests and examples the run path to libtorch, so that nothing needs `LD_LIBRARY_PATH`.
//!
//! tch sets one for its own binaries only: a link argument of a build script does not reach dependents.

use std::{env, path::Path};

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    let libtorch = env::var("LIBTORCH").unwrap_or_default();
    let library = Path::new(&libtorch).join("lib/libtorch_cpu.so");
    assert!(
        !libtorch.is_empty() && library.exists(),
        "libtorch is missing: LIBTORCH is `{libtorch}` and `{}` does not exist; run `make setup`, or set LIBTORCH to \
         the folder of a libtorch 2.11.0",
        library.display()
    );
    let library = library.canonicalize().expect("the file was there a moment ago");
    let folder = library.parent().expect("a file has a folder");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    // From target/PROFILE and from target/PROFILE/{deps,examples}: a checkout that was moved still runs.
    for up in ["../..", "../../.."] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/{up}/.libtorch/lib");
    }
}
