//! What can be wrong with an output, by name, and the next step for each.
//!
//! The names are the values of `kind` in `trawl verify --output json`: scripts depend on them, none may change.

use crate::batch::BatchNumber;
use serde::{Serialize, Serializer};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $name:literal, $title:literal, $remedy:literal;)*) => {
        /// A kind of finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind, in the order in which they are shown.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// In words, for people.
            pub fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)* }
            }

            /// The next step; `OUT` stands for the output.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$kind => $remedy,)* }
            }
        }
    };
}

kinds! {
    /// Plan files with holes, or that do not sum to their end mark.
    BrokenPlan, "broken_plan", "the plan contradicts itself",
        "the plan cannot be mended: submit to another --out";
    /// No end mark.
    OpenPlan, "open_plan", "the plan is not at its end",
        "wait for the producer, or finish its work: `trawl repair OUT`";
    /// A planned batch without a part.
    Missing, "missing", "batches without a part",
        "wait for the workers; if none is at it, `trawl repair OUT` enqueues them again";
    /// Not Parquet, cut off, or broken.
    Unreadable, "unreadable", "parts that cannot be read",
        "`trawl repair OUT --discard` removes them and enqueues their batches";
    /// Another object claims the same batch.
    Duplicate, "duplicate", "objects that repeat another batch's rows",
        "`trawl repair OUT --discard` removes them";
    /// Another job's, an earlier submission's, or beyond the plan.
    Foreign, "foreign", "parts that are not this job's",
        "`trawl repair OUT --discard` removes them and enqueues the batches whose place they hold";
    /// A Parquet file that no trawl wrote, where readers of the results look.
    Stray, "stray", "other Parquet files beside the parts",
        "readers of OUT/*.parquet take them for results: move them away; trawl removes nothing it did not write";
    /// Made by another model.
    WrongModel, "wrong_model", "parts of another model",
        "`trawl repair OUT --discard` removes them and enqueues their batches";
    /// Made from other pixels.
    WrongPreprocessing, "wrong_preprocessing", "parts of other preprocessing",
        "`trawl repair OUT --discard` removes them and enqueues their batches";
    /// More or fewer rows than planned, or than the footer says.
    WrongRows, "wrong_rows", "parts with another number of rows than planned",
        "`trawl repair OUT --discard` removes them and enqueues their batches";
    /// A planned key without a row.
    MissingKey, "missing_key", "parts that lack planned keys",
        "`trawl repair OUT --deep --discard` removes the parts and enqueues their batches";
    /// A key with more rows than planned.
    DuplicateKey, "duplicate_key", "parts that repeat keys",
        "`trawl repair OUT --deep --discard` removes the parts and enqueues their batches";
    /// A key that is not planned in this batch.
    UnexpectedKey, "unexpected_key", "parts with keys that are not planned",
        "`trawl repair OUT --deep --discard` removes the parts and enqueues their batches";
    /// The planned keys in another order.
    WrongOrder, "wrong_order", "parts whose rows are not in the plan's order",
        "`trawl repair OUT --deep --discard` removes the parts and enqueues their batches";
    /// The rows' error codes are not those of the footer.
    WrongCounts, "wrong_counts", "parts whose footers count other errors than their rows have",
        "`trawl repair OUT --deep --discard` removes the parts and enqueues their batches";
    /// `_SUCCESS` without a manifest that says what the parts say.
    BadManifest, "bad_manifest", "the manifest is not that of the parts",
        "`trawl repair OUT` has it written again";
    /// Not finished yet.
    NoSuccess, "no_success", "the job is not finished",
        "when nothing is missing and no worker is at it, `trawl repair OUT` asks for the finish";
}

impl Kind {
    /// Whether it only says that there is work left; everything else is damage.
    pub fn is_unfinished(self) -> bool {
        matches!(self, Self::OpenPlan | Self::Missing | Self::NoSuccess)
    }

    /// Whether removing the object is the way to mend it.
    pub fn is_discardable(self) -> bool {
        match self {
            Self::Unreadable
            | Self::Duplicate
            | Self::Foreign
            | Self::WrongModel
            | Self::WrongPreprocessing
            | Self::WrongRows
            | Self::MissingKey
            | Self::DuplicateKey
            | Self::UnexpectedKey
            | Self::WrongOrder
            | Self::WrongCounts => true,
            Self::BrokenPlan
            | Self::OpenPlan
            | Self::Missing
            | Self::Stray
            | Self::BadManifest
            | Self::NoSuccess => false,
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// The object, by its key in the store; `None` if it is about the job.
    pub object: Option<String>,
    /// The batch it is about.
    pub batch: Option<BatchNumber>,
    /// In words, with the values.
    pub detail: String,
    /// The tag of the object that was looked at, so that no other one is removed in its place.
    #[serde(skip)]
    pub etag: Option<String>,
}

impl Finding {
    /// About the job as a whole.
    pub fn of_job(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, object: None, batch: None, detail: detail.into(), etag: None }
    }

    /// About one object.
    pub fn of_object(kind: Kind, object: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { object: Some(object.into()), ..Self::of_job(kind, detail) }
    }

    /// The same about a batch.
    #[must_use]
    pub fn of_batch(self, batch: BatchNumber) -> Self {
        Self { batch: Some(batch), ..self }
    }
}
