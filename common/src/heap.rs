//! Keeps glibc from having a heap a thread, first thing in a program that passes much from thread to thread.
//!
//! What one thread allocates and another frees goes back to the first one's heap, which its owner may not need again: a
//! submission of 10^6 images whose every batch is queued had 181 to 210 MB with eight heaps and 126 MB with one, in the
//! same time. What only allocates and frees much on several threads is slower with one (`trawl verify` by a third), so
//! this is for `trawl submit`. The worker has settings of its own, for tensors. Must run before any other thread exists:
//! the number is fixed with the first one.

/// One heap for all threads.
pub fn share() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets a parameter of the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
