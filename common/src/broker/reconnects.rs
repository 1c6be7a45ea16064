//! Counts connections to the broker that were lost and made again, by what ended them: for `/metrics`.
//!
//! Beside the broker seam; fed by the real broker alone. The counts are of the whole process. Nothing here ever names
//! a broker or repeats its words.

use std::sync::atomic::{AtomicU64, Ordering};

/// What ended a connection that has been made again since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The network, or the broker's host: a reset, a broken pipe.
    Io,
    /// The broker was silent for two heartbeats.
    Heartbeat,
    /// The broker closed the connection: it shuts down, or somebody closed it there.
    Closed,
    /// The broker closed the channel: a delivery was held longer than its `consumer_timeout`, for one.
    Channel,
    /// The broker ended the subscription: its queue was deleted or moved.
    Cancelled,
    /// A message was not confirmed in time, so that its connection was given up.
    Unconfirmed,
    /// The publishing connection was found dead when it was next needed; what it died of was seen by nobody.
    Publisher,
    /// Anything else.
    Other,
}

impl Lost {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Io,
        Self::Heartbeat,
        Self::Closed,
        Self::Channel,
        Self::Cancelled,
        Self::Unconfirmed,
        Self::Publisher,
        Self::Other,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Heartbeat => "heartbeat",
            Self::Closed => "closed",
            Self::Channel => "channel",
            Self::Cancelled => "cancelled",
            Self::Unconfirmed => "unconfirmed",
            Self::Publisher => "publisher",
            Self::Other => "other",
        }
    }
}

static RECONNECTS: [AtomicU64; Lost::ALL.len()] = [const { AtomicU64::new(0) }; Lost::ALL.len()];

/// How often this process made a connection again that was `lost` so. Attempts that failed do not count.
pub fn reconnects(lost: Lost) -> u64 {
    RECONNECTS[lost as usize].load(Ordering::Relaxed)
}

/// Notes that a connection stands again.
pub(super) fn note(lost: Lost) {
    RECONNECTS[lost as usize].fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_the_list() {
        let mut names = std::collections::HashSet::new();
        for (n, lost) in Lost::ALL.into_iter().enumerate() {
            assert!(lost as usize == n && names.insert(lost.name()), "{lost:?}");
        }
        let before = reconnects(Lost::Other);
        note(Lost::Other);
        assert_eq!(reconnects(Lost::Other), before + 1);
    }
}
