//! Why objects of a listing are left out, and how many for each reason.
//!
//! Counted by the listing beside the one total that plan files keep: the total goes on with a resumed producer, the
//! reasons are of one listing and are for people, in the dry run. A few numbers, however many objects there are.

use serde::{Serialize, Serializer, ser::SerializeMap};

/// Why an object is no image of the job. The first reason that is found counts: names come before sizes and dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its name does not end as an image's, and nobody asked for other names.
    NotAnImage,
    /// No `--include` matches.
    NotIncluded,
    /// An `--exclude` matches.
    Excluded,
    /// `--min-size`, `--max-size`.
    Size,
    /// `--modified-from`, `--modified-before`.
    Date,
    /// An output of `--since` has it.
    Since,
    /// The source's own glob does not match.
    Unreached,
    /// It is not what the source is made of: no archive among archives, no table among tables.
    OtherType,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NotAnImage,
        Self::NotIncluded,
        Self::Excluded,
        Self::Size,
        Self::Date,
        Self::Since,
        Self::Unreached,
        Self::OtherType,
    ];

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAnImage => "not_an_image",
            Self::NotIncluded => "not_included",
            Self::Excluded => "excluded",
            Self::Size => "size",
            Self::Date => "date",
            Self::Since => "since",
            Self::Unreached => "unreached",
            Self::OtherType => "other_type",
        }
    }

    /// For people, behind a number.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotAnImage => "without an image's extension",
            Self::NotIncluded => "matched by no --include",
            Self::Excluded => "matched by --exclude",
            Self::Size => "outside the size bounds",
            Self::Date => "outside the date bounds",
            Self::Since => "in an output of --since",
            Self::Unreached => "not matched by the source",
            Self::OtherType => "not of the source's type",
        }
    }
}

/// How many objects were left out, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    objects: [u64; Reason::ALL.len()],
}

impl LeftOut {
    /// Counts one.
    pub fn note(&mut self, reason: Reason) {
        self.objects[reason as usize] += 1;
    }

    /// Objects left out for `reason`.
    pub fn of(&self, reason: Reason) -> u64 {
        self.objects[reason as usize]
    }

    /// The reasons that there were.
    pub fn there(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().map(|reason| (reason, self.of(reason))).filter(|(_, objects)| *objects > 0)
    }
}

impl Serialize for LeftOut {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(Reason::ALL.len()))?;
        for reason in Reason::ALL {
            map.serialize_entry(reason.name(), &self.of(reason))?;
        }
        map.end()
    }
}
