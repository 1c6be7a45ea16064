//! What is said of a delivery while it is worked on: the fields of its log lines, and its `process` span.
//!
//! Around the whole life of a delivery in this worker. Names and attributes follow OpenTelemetry's conventions for
//! messaging (see [`trawl_common::trace`]); what only trawl has begins with `trawl.`. The stages make their children
//! themselves, where they begin and end. Times of stages that overlap are sums, and therefore attributes
//! (`trawl.stage.<name>_ms`). Without a collector it costs one `tracing` span a batch.

use super::{Pipeline, batch::OpenBatch};
use tracing::{Instrument, Span, field::Empty};
use trawl_common::{
    batch::{BatchDescriptor, Message},
    broker::{Delivery, topology},
    disposition::Failure,
    job::JobId,
    stages::Stage,
    trace::{self, Kind, Running, TraceContext},
};

/// The surroundings of one piece of work.
pub(super) struct Traced {
    log: Span,
    process: Running,
    carried: Option<TraceContext>,
}

impl Pipeline {
    /// The surroundings of a delivery; `message` is what it says, if it is readable.
    pub(super) fn surroundings(&self, delivery: &Delivery, message: Option<&Message>) -> Traced {
        let log = match message {
            Some(Message::Batch(BatchDescriptor { job, batch, .. })) => batch_log(job, batch.0),
            Some(message) => job_log(message.job()),
            None => Span::none(),
        };
        let carried = delivery.trace.clone();
        if !trace::is_on() {
            return Traced { log, process: Running::default(), carried };
        }
        let queue = topology::work_queue(&self.queue);
        let process = trace::begin(format!("process {queue}"), Kind::Consumer, carried.as_ref());
        process.set("messaging.system", self.broker.system());
        process.set("messaging.operation.type", "process");
        process.set("messaging.operation.name", "process");
        process.set("messaging.destination.name", queue);
        process.set("messaging.client.id", self.worker.clone());
        process.set("messaging.message.body.size", whole(delivery.body.len() as u64));
        if let Some(tag) = delivery.tag {
            process.set("messaging.rabbitmq.message.delivery_tag", whole(tag));
        }
        process.set("trawl.attempt", i64::from(delivery.attempt));
        process.set("trawl.deliveries", i64::from(delivery.deliveries));
        process.set("trawl.redelivered", delivery.redelivered);
        if let Some(message) = message {
            process.set("trawl.job.id", message.job().to_string());
        }
        match message {
            Some(Message::Batch(descriptor)) => {
                process.set("trawl.message.kind", "batch");
                process.set("trawl.batch.number", whole(descriptor.batch.0));
                process.set("trawl.images", whole(descriptor.images.len() as u64));
            }
            Some(Message::Feed(_)) => process.set("trawl.message.kind", "feed"),
            Some(Message::Finalize(_)) => process.set("trawl.message.kind", "finalize"),
            None => {}
        }
        Traced::new(log, process, carried)
    }

    /// The surroundings of a batch that is taken over: nobody delivered it here.
    pub(super) fn surroundings_of_takeover(&self, job: &JobId, batch: u64) -> Traced {
        let process = trace::begin("take over", Kind::Internal, None);
        if trace::is_on() {
            process.set("messaging.client.id", self.worker.clone());
            process.set("trawl.job.id", job.to_string());
            process.set("trawl.batch.number", whole(batch));
        }
        Traced::new(batch_log(job, batch), process, None)
    }
}

impl Traced {
    fn new(log: Span, process: Running, carried: Option<TraceContext>) -> Self {
        if let Some((trace, span)) = process.ids() {
            log.record("trace_id", trace);
            log.record("span_id", span);
        }
        Self { log, process, carried }
    }

    /// Does `work` in them.
    pub(super) async fn around<T>(self, work: impl Future<Output = T>) -> T {
        let Self { log, process, carried } = self;
        process.around(carried, work).instrument(log).await
    }
}

// At the level of errors, so that no filter of lines takes the fields from those that it lets through.
fn batch_log(job: &JobId, batch: u64) -> Span {
    tracing::error_span!("batch", job.id = %job, batch.number = batch, trace_id = Empty, span_id = Empty)
}

fn job_log(job: &JobId) -> Span {
    tracing::error_span!("job", job.id = %job, trace_id = Empty, span_id = Empty)
}

/// Where the time of a batch went, on its process span.
pub(super) fn note_stages(batch: &OpenBatch) {
    if !trace::is_on() {
        return;
    }
    for (stage, us) in batch.stages().us {
        let name = match stage {
            Stage::Fetch => "trawl.stage.fetch_ms",
            Stage::Decode => "trawl.stage.decode_ms",
            Stage::Forward => "trawl.stage.forward_ms",
            // With a beginning and an end: spans.
            Stage::Encode | Stage::Put | Stage::Commit => continue,
        };
        trace::note(name, us as f64 / 1000.0);
    }
}

/// The kind of a failure, for `error.type`.
pub(super) fn error_type(failure: &Failure) -> &'static str {
    match failure {
        Failure::Message(_) => "message",
        Failure::Storage(_) => "storage",
        Failure::Ledger(_) => "ledger",
        Failure::ModelFile(_) => "model_file",
        Failure::Job(_) => "job",
        Failure::Model(_) => "model",
        Failure::Output(_) => "output",
        Failure::DeviceLost(_) => "device_lost",
        Failure::Draining => "draining",
    }
}

/// A count as an attribute, which has a sign.
pub(super) fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
