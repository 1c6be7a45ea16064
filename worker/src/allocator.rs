//! Tunes glibc's allocator for libtorch, first thing in `main`.
//!
//! A forward pass on the CPU allocates and frees the same large activation tensors over and over. By
//! default glibc maps and unmaps each of them, and the page faults cost 2 to 2.7 times the whole pass at
//! batches of 16 and more (EfficientNet-Lite0, measured). Must run before any other thread exists: the
//! number of arenas is fixed with the first thread.

/// Keeps freed memory in one arena, ready for the next pass.
pub fn tune() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // One arena: others are capped at 64 MiB, so the thresholds below would do nothing in our threads.
        const ARENAS: libc::c_int = 1;
        // Larger requests only are mapped; no activation tensor comes near it.
        const MMAP_THRESHOLD_BYTES: libc::c_int = 1 << 30;
        // Grow by this much at a time.
        const TOP_PAD_BYTES: libc::c_int = 64 << 20;
        // SAFETY: mallopt only sets parameters of the allocator; no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_TOP_PAD, TOP_PAD_BYTES);
        }
    }
}
