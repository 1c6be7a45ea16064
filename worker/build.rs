//! Compiles `shim/`, the C++ that tch has no words for and the C beside libjpeg-turbo, and gives this package's binaries,
//! tests and examples the run path to libtorch, so that nothing needs `LD_LIBRARY_PATH`.
//!
//! tch sets one for its own binaries only: a link argument of a build script does not reach dependents.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The shim's own files: what is compiled, and what else a change of must compile it again.
const SOURCES: [&str; 9] = [
    "shim/module.cpp",
    "shim/outputs.cpp",
    "shim/exported.cpp",
    "shim/passes.cpp",
    "shim/convolution.cpp",
    "shim/fuse.cpp",
    "shim/in_place.cpp",
    "shim/shapes.cpp",
    "shim/device.cpp",
];
const HEADERS: [&str; 9] = [
    "shim/shim.h",
    "shim/engine.h",
    "shim/guard.h",
    "shim/outputs.h",
    "shim/passes.h",
    "shim/convolution.h",
    "shim/fuse.h",
    "shim/in_place.h",
    "shim/shapes.h",
];

/// The entropy decoding of JPEG, in place of libjpeg-turbo's.
const JPEG: &str = "shim/jpeg_entropy.c";

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
    compile_shim(folder.parent().expect("the folder `lib` is in one"));
    compile_jpeg();
}

/// With libjpeg-turbo's own sources and settings, of which the file takes in a part: no other version of them would do.
fn compile_jpeg() {
    println!("cargo:rerun-if-changed={JPEG}");
    let include = env::var("DEP_TURBOJPEG_INCLUDE").expect("turbojpeg-sys says where its headers are");
    let built = Path::new(&include).with_file_name("build");
    let sources = cmake_sources(&built).unwrap_or_else(|| {
        panic!(
            "the sources of libjpeg-turbo are not known to `{}`: trawl builds its own; unset TURBOJPEG_SOURCE",
            built.join("CMakeCache.txt").display()
        )
    });
    let mut build = cc::Build::new();
    // Optimised in a debug build too, as libjpeg-turbo is.
    build.pic(true).opt_level(3).define("NDEBUG", None).include(&built).include(sources.join("src"));
    // What is not called of libjpeg-turbo's file is not our matter.
    build.flag("-ffunction-sections").flag("-Wall").flag("-Wno-unused-parameter").flag("-Wno-sign-compare");
    build.file(JPEG).compile("trawl_jpeg");
}

/// The folder that CMake was given.
fn cmake_sources(built: &Path) -> Option<PathBuf> {
    let cache = std::fs::read_to_string(built.join("CMakeCache.txt")).ok()?;
    let line = cache.lines().find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="));
    line.map(PathBuf::from)
}

/// With the flags of torch-sys, whose tensors it shares: the same C++ ABI, or nothing links.
fn compile_shim(libtorch: &Path) {
    let mut build = cc::Build::new();
    // Optimised in a debug build too: what is slow there is libtorch's headers, not ours.
    build.cpp(true).pic(true).opt_level(2).flag("-std=c++17").flag("-Wall").flag("-Wextra");
    build.define("_GLIBCXX_USE_CXX11_ABI", "1").define("GLOG_USE_GLOG_EXPORT", None);
    // As system headers, whose warnings are not ours to mend.
    for include in ["include", "include/torch/csrc/api/include"] {
        build.flag("-isystem").flag(libtorch.join(include));
    }
    for file in SOURCES.into_iter().chain(HEADERS) {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rustc-env=TRAWL_SHIM_DIGEST={:016x}", digest());
    build.files(SOURCES).compile("trawl_shim");
}

/// Of the shim's files: what was found out about the passes holds for these.
fn digest() -> u64 {
    // FNV-1a, 64 bits: told apart must be the versions of a few files.
    let bytes =
        SOURCES.into_iter().chain(HEADERS).flat_map(|file| std::fs::read(file).expect("a file of ours"));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
