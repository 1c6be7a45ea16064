//! libFuzzer's door to the target `image_any`; what must hold is in `src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trawl_fuzz::run("image_any", data));
