//! The ledger at the far end of a line.

use super::{
    line::{Call, Line},
    weather::Service,
};
use crate::{
    batch::BatchNumber,
    job::JobId,
    ledger::{
        BatchOutcome, Begun, Claim, Completion, Fed, JobRecord, JobState, Ledger, LedgerError, Progress,
    },
};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};

/// One attempt a call.
pub struct FaultyLedger {
    inner: Arc<dyn Ledger>,
    line: Arc<Line>,
}

impl FaultyLedger {
    /// `inner`, seen by the process at the other end of `line`.
    pub fn new(inner: Arc<dyn Ledger>, line: Arc<Line>) -> Self {
        Self { inner, line }
    }

    async fn call<T: Send + 'static, Work>(
        &self,
        what: String,
        work: impl FnOnce(Arc<dyn Ledger>) -> Work,
    ) -> Result<T, LedgerError>
    where
        Work: Future<Output = Result<T, LedgerError>> + Send + 'static,
    {
        let failed = |reason: &str| LedgerError::Unreachable {
            ledger: "memory".to_owned(),
            reason: reason.to_owned(),
        };
        self.line.call(Call::new(Service::Ledger, what), failed, work(self.inner.clone())).await
    }
}

#[async_trait]
impl Ledger for FaultyLedger {
    async fn open(&self, record: &JobRecord) -> Result<(), LedgerError> {
        let record = record.clone();
        self.call("open".into(), |l| async move { l.open(&record).await }).await
    }

    async fn planned(&self, job: &JobId, batches: u64, images: u64) -> Result<(), LedgerError> {
        let job = job.clone();
        self.call(
            format!("planned {batches}"),
            move |l| async move { l.planned(&job, batches, images).await },
        )
        .await
    }

    async fn plan_complete(&self, job: &JobId, batches: u64, images: u64) -> Result<bool, LedgerError> {
        let (job, what) = (job.clone(), format!("plan complete {batches}"));
        self.call(what, move |l| async move { l.plan_complete(&job, batches, images).await }).await
    }

    async fn is_done(&self, job: &JobId, batch: BatchNumber) -> Result<bool, LedgerError> {
        let job = job.clone();
        self.call(format!("is done {}", batch.0), move |l| async move { l.is_done(&job, batch).await }).await
    }

    async fn begin(
        &self,
        job: &JobId,
        batch: BatchNumber,
        claimant: Option<&str>,
    ) -> Result<Option<Begun>, LedgerError> {
        let (job, claimant) = (job.clone(), claimant.map(str::to_owned));
        let what = format!("begin {}", batch.0);
        self.call(what, move |l| async move { l.begin(&job, batch, claimant.as_deref()).await }).await
    }

    async fn complete(
        &self,
        job: &JobId,
        batch: BatchNumber,
        outcome: &BatchOutcome,
    ) -> Result<Option<Completion>, LedgerError> {
        let (job, outcome) = (job.clone(), outcome.clone());
        let what = format!("complete {}", batch.0);
        self.call(what, move |l| async move { l.complete(&job, batch, &outcome).await }).await
    }

    async fn finalized(
        &self,
        record: &JobRecord,
        batches: u64,
        totals: &BatchOutcome,
    ) -> Result<(), LedgerError> {
        let (record, totals) = (record.clone(), totals.clone());
        self.call("finalized".into(), move |l| async move { l.finalized(&record, batches, &totals).await })
            .await
    }

    async fn forget(&self, job: &JobId) -> Result<(), LedgerError> {
        let job = job.clone();
        self.call("forget".into(), move |l| async move { l.forget(&job).await }).await
    }

    async fn claim(&self, job: &JobId, batch: BatchNumber, worker: &str) -> Result<(), LedgerError> {
        let (job, worker) = (job.clone(), worker.to_owned());
        self.call(format!("claim {}", batch.0), move |l| async move { l.claim(&job, batch, &worker).await })
            .await
    }

    async fn release(&self, job: &JobId, batch: BatchNumber) -> Result<(), LedgerError> {
        let job = job.clone();
        self.call(format!("release {}", batch.0), move |l| async move { l.release(&job, batch).await }).await
    }

    async fn claims(&self, job: &JobId, limit: usize) -> Result<Vec<Claim>, LedgerError> {
        let job = job.clone();
        self.call("claims".into(), move |l| async move { l.claims(&job, limit).await }).await
    }

    async fn reclaim(
        &self,
        job: &JobId,
        batch: BatchNumber,
        worker: &str,
        older_than: Duration,
    ) -> Result<bool, LedgerError> {
        let (job, worker) = (job.clone(), worker.to_owned());
        let what = format!("reclaim {}", batch.0);
        self.call(what, move |l| async move { l.reclaim(&job, batch, &worker, older_than).await }).await
    }

    async fn set_fed(&self, job: &JobId, fed: Fed) -> Result<(), LedgerError> {
        let job = job.clone();
        self.call("set fed".into(), move |l| async move { l.set_fed(&job, fed).await }).await
    }

    async fn advance_fed(&self, job: &JobId, fed: Fed) -> Result<(), LedgerError> {
        let job = job.clone();
        self.call("advance fed".into(), move |l| async move { l.advance_fed(&job, fed).await }).await
    }

    async fn fed(&self, job: &JobId) -> Result<Option<Fed>, LedgerError> {
        let job = job.clone();
        self.call("fed".into(), move |l| async move { l.fed(&job).await }).await
    }

    async fn cancel(&self, job: &JobId) -> Result<bool, LedgerError> {
        let job = job.clone();
        self.call("cancel".into(), move |l| async move { l.cancel(&job).await }).await
    }

    async fn pause(&self, job: &JobId) -> Result<bool, LedgerError> {
        let job = job.clone();
        self.call("pause".into(), move |l| async move { l.pause(&job).await }).await
    }

    async fn state(&self, job: &JobId) -> Result<Option<JobState>, LedgerError> {
        let job = job.clone();
        self.call("state".into(), move |l| async move { l.state(&job).await }).await
    }

    async fn progress(&self, job: &JobId) -> Result<Option<Progress>, LedgerError> {
        let job = job.clone();
        self.call("progress".into(), move |l| async move { l.progress(&job).await }).await
    }

    async fn jobs(&self, limit: usize) -> Result<Vec<Progress>, LedgerError> {
        self.call("jobs".into(), move |l| async move { l.jobs(limit).await }).await
    }
}
