//! Choosing among the dead letters: which are meant, and what becomes of them.
//!
//! After the life of a batch went wrong, for `trawl dead` and for the monitor's buttons. Letters are held in memory
//! while they are looked at, and are as long as somebody made them. It must never touch a letter that was not chosen.

use crate::{
    batch::Message,
    broker::{Broker, BrokerError, DeadLetter, Verdict},
    job::{JobId, QueueName},
};
use sha2::{Digest, Sha256};

/// Letters looked at in search of those that match: they are held in memory meanwhile, some ten kilobytes each.
pub const MAX_LOOKED_AT: usize = 5000;

/// Which letters are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Selection {
    /// Only letters of this job
    #[arg(long, value_name = "JOB")]
    pub job: Option<JobId>,

    /// Only letters of this lane
    #[arg(long, value_name = "NAME")]
    pub queue: Option<QueueName>,

    /// Only letters whose reason has this text in it, whatever its case
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,

    /// Only the letter that [`letter_id`] names so; not a flag: a page names letters, people choose them.
    #[arg(skip)]
    pub id: Option<String>,

    /// At most this many, the oldest first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5000), value_name = "N")]
    pub limit: u32,
}

impl Selection {
    /// Whether `letter` is meant.
    pub fn takes(&self, letter: &DeadLetter) -> bool {
        let wanted = self.reason.as_ref().map(|text| text.to_lowercase());
        self.queue.as_ref().is_none_or(|queue| letter.queue.as_ref() == Some(queue))
            && wanted.is_none_or(|text| letter.reason.to_lowercase().contains(&text))
            && self.id.as_ref().is_none_or(|id| letter_id(letter) == *id)
            // Parsing comes last: it is the dear one.
            && self.job.as_ref().is_none_or(|job| {
                Message::parse(&letter.body).is_ok_and(|message| message.job() == job)
            })
    }

    /// Whether every letter is meant.
    pub fn is_all(&self) -> bool {
        self.job.is_none() && self.queue.is_none() && self.reason.is_none() && self.id.is_none()
    }
}

/// A name for a letter that stays the same while it lies there. Two letters of the same bytes, lane, reason and time
/// have one name between them, and it does not matter which of them is meant.
pub fn letter_id(letter: &DeadLetter) -> String {
    let mut digest = Sha256::new();
    let lane = letter.queue.as_ref().map_or("", QueueName::as_str);
    for text in [lane.as_bytes(), letter.reason.as_bytes(), &letter.body] {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    digest.update(letter.died_unix_ms.unwrap_or(0).to_le_bytes());
    digest.update(letter.attempt.to_le_bytes());
    // 64 bits are plenty among the thousands that are looked at.
    digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Goes through the letters and gives back those that are meant, with what became of them.
///
/// # Errors
/// What the broker gives.
pub async fn judge(
    broker: &dyn Broker,
    selection: &Selection,
    verdict: Verdict,
) -> Result<Vec<(DeadLetter, Verdict)>, BrokerError> {
    let limit = selection.limit as usize;
    let mut taken = 0;
    let mut chosen = Vec::new();
    let mut decide = |letter: &DeadLetter| {
        let takes = taken < limit && selection.takes(letter);
        taken += usize::from(takes);
        chosen.push(takes);
        if takes { verdict } else { Verdict::Keep }
    };
    let looked_at = if selection.is_all() { limit } else { MAX_LOOKED_AT };
    let judged = broker.judge_dead(looked_at, &mut decide).await?;
    Ok(judged.into_iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(judged, _)| judged).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn letter(reason: &str, body: &str) -> DeadLetter {
        DeadLetter {
            queue: Some("gpu".parse().unwrap()),
            body: Bytes::from(body.to_owned()),
            attempt: 5,
            deliveries: 0,
            reason: reason.into(),
            worker: None,
            died_unix_ms: Some(7),
            trace: None,
        }
    }

    #[test]
    fn a_letters_name_is_its_own() {
        let first = letter("a", "bc");
        assert_eq!(letter_id(&first), letter_id(&first.clone()));
        assert_ne!(letter_id(&first), letter_id(&letter("ab", "c")), "lengths count");
        assert_ne!(letter_id(&first), letter_id(&DeadLetter { died_unix_ms: Some(8), ..first.clone() }));
        let one = Selection { id: Some(letter_id(&first)), limit: 9, ..Selection::default() };
        assert!(one.takes(&first) && !one.takes(&letter("x", "bc")) && !one.is_all());
    }
}
