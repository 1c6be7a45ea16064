//! Failpoints: named places in the code where a test makes the process die, wait or fail.
//!
//! They prove the order of settle and of planning: a worker that is killed exactly between the put and the
//! ledger shows what a crash there costs. Set by `TRAWL_FAILPOINTS`, read once: `NAME=ACTION[@N]`, several divided
//! by `;`. Actions: `kill` (SIGKILL to this process), `abort`, `panic`, `pause:5s` or `pause:300ms`, and `error`
//! for the places that ask [`error`]. With `@N` only the N-th pass acts, otherwise each.
//!
//! Debug builds have them, so that the tests' binaries need no second build; release builds do not contain any of
//! this (see [`ENABLED`]) unless the cargo feature `failpoints` asks for it. They must never be on in what ships.

/// Whether this build has failpoints.
pub const ENABLED: bool = cfg!(any(feature = "failpoints", debug_assertions));

/// Every place there is, in the order of a job's life; a name that is not here is refused at the start.
pub const NAMES: [&str; 19] = [
    PLAN_DURABLE,
    PUBLISH_BEFORE,
    PUBLISH_AFTER,
    INTAKE_BEFORE,
    FETCH_BEFORE,
    FETCH_ERROR,
    DECODE_BEFORE,
    PUT_BEFORE,
    PUT_AFTER,
    COMPLETE_BEFORE,
    COMPLETE_AFTER,
    ACK_BEFORE,
    ACK_AFTER,
    FINALIZE_BEFORE,
    MANIFEST_BEFORE,
    SUCCESS_BEFORE,
    FINISH_PUBLISHED,
    FINALIZED,
    SCREEN_DRAW,
];

/// A plan file is durable, nothing of it is published.
pub const PLAN_DURABLE: &str = "plan.durable";
/// A message is about to be published.
pub const PUBLISH_BEFORE: &str = "publish.before";
/// It is confirmed.
pub const PUBLISH_AFTER: &str = "publish.after";
/// A batch's message is parsed.
pub const INTAKE_BEFORE: &str = "intake.before";
/// An object is about to be read.
pub const FETCH_BEFORE: &str = "fetch.before";
/// The store does not give an object: `error`.
pub const FETCH_ERROR: &str = "fetch.error";
/// An image is about to be decoded, on a compute thread.
pub const DECODE_BEFORE: &str = "decode.before";
/// A part is about to be put.
pub const PUT_BEFORE: &str = "settle.put.before";
/// It is there.
pub const PUT_AFTER: &str = "settle.put.after";
/// The ledger is about to be told.
pub const COMPLETE_BEFORE: &str = "settle.complete.before";
/// It was.
pub const COMPLETE_AFTER: &str = "settle.complete.after";
/// A delivery is about to be settled.
pub const ACK_BEFORE: &str = "settle.ack.before";
/// It was.
pub const ACK_AFTER: &str = "settle.ack.after";
/// The `finalize` message of a job whose last batch is done was published.
pub const FINISH_PUBLISHED: &str = "settle.finish.published";
/// Plan and parts are about to be compared.
pub const FINALIZE_BEFORE: &str = "finalize.before";
/// They are equal, the manifest is about to be put.
pub const MANIFEST_BEFORE: &str = "finalize.manifest.before";
/// The manifest is there, `_SUCCESS` is not.
pub const SUCCESS_BEFORE: &str = "finalize.success.before";
/// `_SUCCESS` is there.
pub const FINALIZED: &str = "finalize.after";
/// A frame of `trawl watch` is about to be drawn; no batch comes here.
pub const SCREEN_DRAW: &str = "screen.draw";

#[cfg(any(feature = "failpoints", debug_assertions))]
mod armed;

#[cfg(any(feature = "failpoints", debug_assertions))]
pub use armed::{check, error, hit, hit_blocking};

#[cfg(not(any(feature = "failpoints", debug_assertions)))]
pub use disarmed::{check, error, hit, hit_blocking};

#[cfg(not(any(feature = "failpoints", debug_assertions)))]
mod disarmed {
    //! What is left of failpoints in a build that has none: nothing.

    /// Nothing.
    #[inline(always)]
    pub fn check() {}

    /// Nothing.
    #[inline(always)]
    pub async fn hit(_name: &'static str) {}

    /// Nothing.
    #[inline(always)]
    pub fn hit_blocking(_name: &'static str) {}

    /// False.
    #[inline(always)]
    pub fn error(_name: &'static str) -> bool {
        false
    }
}
