#!/bin/sh
# Holds the resampler's NEON code to the portable code's pixels, on a machine that is not ARM: its tests, built for aarch64,
# run by an emulator.
#
#   scripts/check-neon.sh
#
# Wants a rustc with the standard library of aarch64-unknown-linux-gnu (`rustup target add`, or RUSTC=path), and Debian's
# gcc-aarch64-linux-gnu and qemu-user. The rest of the worker is not built: its C libraries are not here for ARM.
# The emulator checks results, not speed.
set -eu
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
rustc=${RUSTC:-rustc}

fail() { echo "check-neon: $*" >&2; exit 1; }
command -v qemu-aarch64 >/dev/null || fail "qemu-aarch64 is missing: install qemu-user"
command -v aarch64-linux-gnu-gcc >/dev/null || fail "aarch64-linux-gnu-gcc is missing: install gcc-aarch64-linux-gnu"
[ -d "$("$rustc" --print target-libdir --target $target)" ] || fail "$rustc has no standard library for $target: rustup target add $target"

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
# All that the resampler asks of its surroundings: its place, and the names of the filters.
cat >"$made/lib.rs" <<RUST
extern crate self as trawl_common;
pub mod bundle {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Interpolation { Nearest, Box, Bilinear, Hamming, Bicubic, Lanczos }
}
#[allow(dead_code)]
mod preprocess {
    #[path = "$PWD/worker/src/preprocess/resample/mod.rs"]
    mod resample;
}
RUST
"$rustc" --edition 2024 --test --target $target -C linker=aarch64-linux-gnu-gcc -C opt-level=2 -C debug-assertions=on \
	-C target-feature=+crt-static \
	-o "$made/tests" "$made/lib.rs"
# Static, since qemu-user 7.2 was seen to spin in the loader's code when a thread starts.
qemu-aarch64 "$made/tests" "$@"
