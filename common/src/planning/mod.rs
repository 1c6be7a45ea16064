//! From sources to messages: the producer's half of a job.
//!
//! [`enumerate`] lists what the [`source`]s reach and the [`filter`] takes, [`cut`] makes numbered batches
//! of it, [`plan_log`] keeps plan files, [`submit`] opens the output and publishes, [`preview`] is the dry
//! run. The order that must never change: job spec, then a plan file, then the messages of its batches. A
//! producer may be killed anywhere in between; the next one finds what was planned and goes on with the
//! same numbers.

pub mod cancellation;
pub mod capture;
pub mod contents;
pub mod cut;
pub mod enumerate;
pub mod feed;
pub mod filter;
pub mod hold;
pub mod kind;
pub mod left_out;
pub mod plan_log;
pub mod preview;
pub mod publish;
pub mod rebuild;
pub mod repair;
pub mod reservoir;
pub mod sample;
pub mod shape;
pub mod since;
pub mod sizes;
pub mod source;
pub mod submit;

use crate::{
    broker::BrokerError,
    job::{JobId, JobSpecError},
    ledger::LedgerError,
    location::LocationError,
    results::{footer::FetchFooterError, plan_file::PlanFileError},
    storage::StorageError,
};

pub use enumerate::Enumeration;
pub use feed::Ready;
pub use preview::{DryRun, dry_run, sampled};
pub use shape::PlanShape;
pub use submit::{Enlisting, Opened, Planned, enlist, open_output, preflight};

/// Why a job could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A source or the output names no place.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// A source that is not there.
    #[error("the source `{given}` does not exist: {reason}")]
    SourceMissing {
        /// As the user gave it.
        given: String,
        /// What was looked for.
        reason: String,
    },
    /// Every source is there, and none has an image.
    #[error(
        "no images in {}: {skipped} objects were left out by name; images are known by their extension \
         ({}), --include '*' takes everything", .sources.join(", "), filter::IMAGE_EXTENSIONS.join(", ")
    )]
    NoImages {
        /// As the user gave them.
        sources: Vec<String>,
        /// Objects that the filters left out.
        skipped: u64,
    },
    /// A glob that does not parse.
    #[error("the glob `{glob}` is not usable: {reason}")]
    BadGlob {
        /// The glob.
        glob: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An output to go on from that is not complete.
    #[error(
        "{out} has no _SUCCESS: what its job has not done yet would never be done; finish it first, see `trawl repair`"
    )]
    Unfinished {
        /// As the user gave it.
        out: String,
    },
    /// A pattern of paths that does not parse.
    #[error(transparent)]
    BadCapture(#[from] capture::BadCapture),
    /// A batch size out of range.
    #[error("a batch size of {0} is not within 1 to {max}", max = crate::batch::MAX_BATCH_IMAGES)]
    BadBatchSize(u32),
    /// The output belongs to another job.
    #[error(
        "{out} belongs to job {job}, which differs in {}: choose another --out, or remove that one first",
        .differences.join(", ")
    )]
    OtherJob {
        /// The output.
        out: String,
        /// The job that has it.
        job: JobId,
        /// The fields that differ.
        differences: Vec<String>,
    },
    /// The output has results and no spec that says of what.
    #[error("{out} has `{found}` but no _trawl/job.json: choose an empty --out, or remove what is there")]
    Leftovers {
        /// The output.
        out: String,
        /// The first object that should not be there.
        found: String,
    },
    /// A part in the output is another job's or another model's.
    #[error(
        "`{key}` has {what} {found} instead of {expected}: `trawl repair OUT --discard` removes the part, or remove it by \
         hand, then submit again"
    )]
    ForeignPart {
        /// The part.
        key: String,
        /// What differs.
        what: &'static str,
        /// In the part.
        found: String,
        /// In the job.
        expected: String,
    },
    /// The spec in the output cannot be read.
    #[error("`{key}` cannot be used")]
    JobSpec {
        /// The object.
        key: String,
        /// Why.
        #[source]
        reason: JobSpecError,
    },
    /// A plan file cannot be written or read.
    #[error("`{key}` cannot be used")]
    PlanFile {
        /// The object.
        key: String,
        /// Why.
        #[source]
        reason: PlanFileError,
    },
    /// Plan files that do not follow one another, or do not sum to the plan's end mark.
    #[error("the plan below `{prefix}` contradicts itself: {reason}; choose another --out and submit again")]
    BrokenPlan {
        /// Where the plan files are.
        prefix: String,
        /// What does not fit.
        reason: String,
    },
    /// A part's footer cannot be read.
    #[error(transparent)]
    Footer(#[from] FetchFooterError),
    /// The job was cancelled while it was being planned.
    #[error("job {0} was cancelled; submitting it again resumes it")]
    Cancelled(JobId),
    /// We were asked to stop.
    #[error("stopped before the plan was complete; the same command goes on where this one stopped")]
    Interrupted,
    /// A source that holds or names images cannot be read.
    #[error(transparent)]
    Contents(#[from] contents::ContentsError),
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl PlanError {
    /// Whether it is the output that is wrong, and not the way to it: a plan or a part that cannot be read.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::BrokenPlan { .. } | Self::PlanFile { .. } | Self::ForeignPart { .. } => true,
            Self::Footer(FetchFooterError::Unusable { .. }) => true,
            Self::Footer(FetchFooterError::Storage(_))
            | Self::Location(_)
            | Self::SourceMissing { .. }
            | Self::NoImages { .. }
            | Self::BadGlob { .. }
            | Self::Unfinished { .. }
            | Self::BadCapture(_)
            | Self::BadBatchSize(_)
            | Self::OtherJob { .. }
            | Self::Leftovers { .. }
            | Self::JobSpec { .. }
            | Self::Cancelled(_)
            | Self::Interrupted
            | Self::Contents(_)
            | Self::Storage(_)
            | Self::Broker(_)
            | Self::Ledger(_) => false,
        }
    }

    /// Whether the same call may succeed later; it goes on where this one stopped.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_transient(),
            Self::Broker(error) => error.is_transient(),
            Self::Ledger(error) => error.is_transient(),
            Self::Footer(error) => error.is_transient(),
            Self::Contents(error) => error.is_transient(),
            Self::Location(_)
            | Self::SourceMissing { .. }
            | Self::NoImages { .. }
            | Self::BadGlob { .. }
            | Self::Unfinished { .. }
            | Self::BadCapture(_)
            | Self::BadBatchSize(_)
            | Self::OtherJob { .. }
            | Self::Leftovers { .. }
            | Self::ForeignPart { .. }
            | Self::JobSpec { .. }
            | Self::PlanFile { .. }
            | Self::BrokenPlan { .. }
            | Self::Cancelled(_)
            | Self::Interrupted => false,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
