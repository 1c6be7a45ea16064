//! One suite per seam, which the real implementation and the one in memory must both pass.
//!
//! Compiled for tests only. A suite panics at the first breach and names it.

pub mod ledger;
pub mod storage;
