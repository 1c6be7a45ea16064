//! One suite per seam, which the real implementation and the one in memory must both pass.
//!
//! Compiled for tests only (feature `testing`). A suite panics at the first breach and names it.

pub mod broker;
pub mod fleet;
pub mod ledger;
pub mod storage;
