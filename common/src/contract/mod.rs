//! One suite for each seam, which its fakes and its real implementations must both pass.
//!
//! Compiled for tests only (feature `testing`); it must never be reached from a program. A suite panics at
//! the first breach and names it.

pub mod broker;
pub mod ledger;
pub mod storage;
