//! OpenTelemetry spans: from a submission through its messages to what a worker does with each delivery.
//!
//! Beside the life of a batch, and off unless the environment names a collector ([`setup`]): then nothing is built up,
//! and what is called here looks at one pointer. Spans are made by hand where the stages begin and end, and not by a
//! layer over `tracing`: a layer would look at every event of every crate, while there are some ten spans a batch, and
//! a link and a remote context are not to be had from `tracing` without it anyway.
//!
//! After the semantic conventions for messaging: the span `submit` is the creation context of all messages of a job
//! (kind producer), and what sends them is a child of it (`publish`, kind client). A worker's `process` span (kind
//! consumer) is of a trace of its own with a **link** to the creation context: a job may have a hundred thousand
//! batches, which no trace holds, and a sampler then decides batch by batch. The context travels in the headers
//! `traceparent` and `tracestate` ([`TraceContext`]) and stays in `job.json` for batches that are queued later.
//!
//! Nothing here may ever slow or fail the work, wait without a bound, or log a header that is sent to the collector.

mod collector;
mod context;
pub mod setup;

pub use context::{TraceContext, lenient};

use opentelemetry::{
    Context, KeyValue, Value,
    context::FutureExt,
    trace::{Link, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::SdkTracer;
use std::{borrow::Cow, sync::OnceLock};

/// Set once by [`setup::init`] if there is a collector.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Whether spans are made at all: ask before a name or an attribute is put together.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// What a span is to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Internal,
    /// Its creation context.
    Producer,
    /// Sends it.
    Client,
    /// Works on it.
    Consumer,
}

/// A span under way; it ends when this is dropped. Without a collector it is nothing.
#[must_use = "the span ends when this is dropped"]
#[derive(Debug, Default)]
pub struct Running(Option<Context>);

/// The context that is handed on with what is published while a delivery is worked on, or a job is submitted.
struct Carried(TraceContext);

/// Begins a trace, with a link to where its work comes from.
pub fn begin(name: impl Into<Cow<'static, str>>, kind: Kind, link: Option<&TraceContext>) -> Running {
    let Some(tracer) = TRACER.get() else { return Running(None) };
    let links = link.and_then(TraceContext::remote).map(|context| vec![Link::with_context(context)]);
    let builder = builder(tracer, name.into(), kind).with_links(links.unwrap_or_default());
    let span = tracer.build_with_context(builder, &Context::new());
    Running(Some(Context::new().with_span(span)))
}

/// Begins a child of the span that this task is within, if it is within one.
pub fn child(name: &'static str) -> Running {
    child_of_kind(name, Kind::Internal)
}

/// The same for one that sends messages.
pub fn child_of_kind(name: &'static str, kind: Kind) -> Running {
    let Some(tracer) = TRACER.get() else { return Running(None) };
    Context::map_current(|within| {
        if !within.has_active_span() {
            return Running(None);
        }
        let span = tracer.build_with_context(builder(tracer, name.into(), kind), within);
        Running(Some(Context::new().with_span(span)))
    })
}

fn builder(tracer: &SdkTracer, name: Cow<'static, str>, kind: Kind) -> SpanBuilder {
    tracer.span_builder(name).with_kind(match kind {
        Kind::Internal => SpanKind::Internal,
        Kind::Producer => SpanKind::Producer,
        Kind::Client => SpanKind::Client,
        Kind::Consumer => SpanKind::Consumer,
    })
}

/// Says something of the span that this task is within.
pub fn note(key: &'static str, value: impl Into<Value>) {
    if is_on() {
        Context::map_current(|within| within.span().set_attribute(KeyValue::new(key, value)));
    }
}

/// Says of the span that this task is within that its work failed: `code` is one of a few words, `reason` free of
/// secrets.
pub fn note_failure(code: &'static str, reason: impl FnOnce() -> String) {
    if is_on() {
        Context::map_current(|within| failed(within, code, reason()));
    }
}

fn failed(context: &Context, code: &'static str, reason: String) {
    let span = context.span();
    span.set_attribute(KeyValue::new("error.type", code));
    span.set_status(Status::error(reason));
}

/// What goes with the messages that are published from here; `None` outside of a submission and of a delivery that
/// carried none.
pub fn carried() -> Option<TraceContext> {
    Context::map_current(|within| within.get::<Carried>().map(|carried| carried.0.clone()))
}

impl Running {
    /// Says something of it.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Says that its work failed: `code` is one of a few words, `reason` free of secrets.
    pub fn fail(&self, code: &'static str, reason: impl FnOnce() -> String) {
        if let Some(context) = &self.0 {
            failed(context, code, reason());
        }
    }

    /// What goes with messages that are made within it.
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().and_then(|context| TraceContext::of(context.span().span_context()))
    }

    /// Trace and span id, in hex, for logs.
    pub fn ids(&self) -> Option<(String, String)> {
        let context = self.0.as_ref()?;
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| (span.trace_id().to_string(), span.span_id().to_string()))
    }

    /// Runs `work` within it; `carried` goes with what is published meanwhile. Ends the span afterwards, and also if
    /// the future is dropped.
    pub async fn around<T>(self, carried: Option<TraceContext>, work: impl Future<Output = T>) -> T {
        let mut within = self.0.clone().unwrap_or_default();
        if let Some(carried) = carried {
            within = within.with_value(Carried(carried));
        }
        let done = work.with_context(within).await;
        drop(self);
        done
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_collector_there_is_nothing_and_contexts_are_handed_on() {
        let given =
            TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None).unwrap();
        assert!(!is_on() && carried().is_none());
        let span = begin("process", Kind::Consumer, Some(&given));
        assert!(span.ids().is_none() && span.context().is_none());
        let seen = span.around(Some(given.clone()), async {
            tokio::task::yield_now().await;
            let stage = child("put");
            stage.set("trawl.attempt", 1);
            note("trawl.images", 1);
            carried()
        });
        assert_eq!(seen.await, Some(given));
        assert!(carried().is_none(), "only within");
    }
}
