//! The journal of a batch that may have killed its worker: what was in work when the process ended without a word.
//!
//! Kept in the output, not in Redis, because it must outlive the worker, its host and the ledger. Written before
//! the dangerous step and removed after the part is put, so that whoever gets the batch next knows what the one
//! before it died of. It must never blame an image for one death: a machine that is taken away looks the same.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use trawl_common::{
    batch::BatchDescriptor,
    disposition::Failure,
    results::OutputLayout,
    storage::{Storage, StorageError},
};

/// So often a worker must have died with one image in work, alone, before the image is given up. The first time
/// may be a coincidence (a kill from outside), and the second one too on a fleet of spot machines; the image is
/// tried first after a death, so that a third coincidence would have to hit the same few milliseconds.
const DEATHS_TO_BLAME: u32 = 3;

/// A journal of more bytes is not ours: a batch of 10,000 images that all died has 200 KB.
const MAX_JOURNAL_BYTES: u64 = 4 << 20;

/// See the file's head.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// The job's incarnation, as in the descriptor.
    pub created_unix_ms: u64,
    /// Who wrote it last.
    #[serde(default)]
    pub worker: String,
    /// Passes over the whole batch, alone in their process, that have begun and not ended.
    pub passes: u32,
    /// The image in work (its index in the batch), while they are worked on one by one.
    pub current: Option<usize>,
    /// How often a worker died with an image in work.
    pub deaths: BTreeMap<usize, u32>,
}

impl Journal {
    /// An empty one for this batch.
    pub fn new(descriptor: &BatchDescriptor) -> Self {
        Self { created_unix_ms: descriptor.created_unix_ms, ..Self::default() }
    }

    /// What an earlier delivery of the batch left behind, with the death that ended it; `None` if there is
    /// nothing, or only of a job of the same name that was removed. An unreadable one is as good as none.
    ///
    /// # Errors
    /// What the store gives. Cancel safe.
    pub async fn read(
        store: &dyn Storage,
        layout: &OutputLayout,
        descriptor: &BatchDescriptor,
    ) -> Result<Option<Self>, Failure> {
        let key = layout.solo(descriptor.batch);
        let json = match store.get(&key, MAX_JOURNAL_BYTES).await {
            Ok(object) => object.bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let read = serde_json::from_slice::<Self>(&json);
        if let Err(error) = &read {
            tracing::warn!(%error, "`{key}` is not readable and not used");
        }
        let ours = read.ok().filter(|journal| journal.created_unix_ms == descriptor.created_unix_ms);
        Ok(ours.map(Self::after_a_death))
    }

    /// The journal as the next worker finds it.
    fn after_a_death(mut self) -> Self {
        if let Some(image) = self.current.take() {
            *self.deaths.entry(image).or_default() += 1;
        }
        self
    }

    /// Writes it. Not cancel safe in the sense that it may be written or not.
    ///
    /// # Errors
    /// What the store gives; the dangerous step must not be taken then.
    pub async fn write(
        &self,
        store: &dyn Storage,
        layout: &OutputLayout,
        descriptor: &BatchDescriptor,
    ) -> Result<(), StorageError> {
        let json = serde_json::to_vec(self).expect("a journal is plain data");
        store.put(&layout.solo(descriptor.batch), json.into()).await
    }

    /// Puts right what `worker` leaves behind that lives and gives the batch back: nobody died of it. What somebody
    /// else wrote is that one's death and stays, and so does what the store does not give.
    pub async fn forgive(
        store: &dyn Storage,
        layout: &OutputLayout,
        descriptor: &BatchDescriptor,
        worker: &str,
    ) {
        let Ok(object) = store.get(&layout.solo(descriptor.batch), MAX_JOURNAL_BYTES).await else { return };
        let Ok(mut journal) = serde_json::from_slice::<Self>(&object.bytes) else { return };
        if journal.worker != worker {
            return;
        }
        if journal.current.take().is_none() && journal.deaths.is_empty() {
            // A pass over the whole batch.
            journal.passes = journal.passes.saturating_sub(1);
        }
        if let Err(error) = journal.write(store, layout, descriptor).await {
            tracing::warn!(%error, "the journal of a batch could not be put right");
        }
    }

    /// The images that are given up, and after how many deaths.
    pub fn blamed(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.deaths.iter().filter(|(_, deaths)| **deaths >= DEATHS_TO_BLAME).map(|(image, n)| (*image, *n))
    }

    /// Whether the images have to be worked on one by one: somebody died with nothing but this batch in hand.
    pub fn one_by_one(&self) -> bool {
        self.passes > 0 || !self.deaths.is_empty()
    }

    /// The images that are left, those under suspicion first: if it is one of them, nothing else is in the way.
    pub fn left(&self, images: usize) -> Vec<usize> {
        let blamed: Vec<usize> = self.blamed().map(|(image, _)| image).collect();
        let suspects = self.deaths.keys().copied().filter(|image| *image < images && !blamed.contains(image));
        let others = (0..images).filter(|image| !self.deaths.contains_key(image));
        suspects.chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn died_with(images: &[usize]) -> Journal {
        images.iter().fold(Journal::default(), |journal, image| {
            Journal { current: Some(*image), ..journal }.after_a_death()
        })
    }

    #[test]
    fn one_image_is_blamed_only_after_several_deaths_of_its_own() {
        for innocent in [&[][..], &[4], &[4, 4], &[4, 5, 4, 5]] {
            assert_eq!(died_with(innocent).blamed().count(), 0, "{innocent:?}");
        }
        let guilty = died_with(&[4, 2, 4, 4]);
        assert_eq!(guilty.blamed().collect::<Vec<_>>(), [(4, 3)]);
        assert_eq!(guilty.left(6), [2, 0, 1, 3, 5], "the suspect first, the blamed one not at all");
        assert!(guilty.one_by_one() && !Journal::default().one_by_one());
    }

    #[test]
    fn an_index_beyond_the_batch_is_no_image() {
        assert_eq!(died_with(&[9]).left(2), [0, 1]);
    }

    #[test]
    fn it_reads_what_it_writes() {
        let journal = Journal { created_unix_ms: 7, passes: 1, ..died_with(&[1, 300]) };
        let json = serde_json::to_string(&journal).unwrap();
        assert_eq!(
            json,
            r#"{"created_unix_ms":7,"worker":"","passes":1,"current":null,"deaths":{"1":1,"300":1}}"#
        );
        assert_eq!(serde_json::from_str::<Journal>(&json).unwrap(), journal);
    }
}
