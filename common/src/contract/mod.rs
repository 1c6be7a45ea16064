//! One suite for each seam, which its fakes and its real implementations must both pass.
//!
//! Compiled for tests only (feature `testing`); it must never be reached from a program.

pub mod broker;
