//! The context that travels with a message: the W3C `traceparent` and `tracestate` of the submission.
//!
//! Written by the producer, carried by `job.json` and by the headers of every message, read by the worker. Plain texts,
//! so that a process without traces hands them on all the same. It must never carry a text on that is not of the
//! standard's form: headers come from whoever may publish.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use serde::{Deserialize, Deserializer, Serialize};
use std::str::FromStr;

/// Bytes of a `traceparent` of version 00: version, trace id, span id and flags in hex.
const TRACEPARENT_BYTES: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// A longer `tracestate` is left behind, as the standard allows.
const MAX_TRACESTATE_BYTES: usize = 512;

/// Where a trace comes from. Its texts are of the standard's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceContext {
    traceparent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
}

impl TraceContext {
    /// Reads both headers; `None` if the first is not a valid `traceparent` of version 00. A second one that is none
    /// is left out.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        parent(traceparent)?;
        let tracestate = tracestate
            .filter(|text| !text.is_empty() && text.len() <= MAX_TRACESTATE_BYTES)
            .filter(|text| TraceState::from_str(text).is_ok())
            .map(str::to_owned);
        Some(Self { traceparent: traceparent.to_owned(), tracestate })
    }

    /// `version-trace-span-flags`, all hex.
    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// What other systems have added, if anything.
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// That of a span of this process; `None` if it is of no trace.
    pub(super) fn of(span: &SpanContext) -> Option<Self> {
        if !span.is_valid() {
            return None;
        }
        let flags = span.trace_flags().to_u8() & TraceFlags::SAMPLED.to_u8();
        let traceparent = format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
        Self::parse(&traceparent, Some(&span.trace_state().header()))
    }

    /// For a link of a span of this process.
    pub(super) fn remote(&self) -> Option<SpanContext> {
        let (trace, span, flags) = parent(&self.traceparent)?;
        let state = self.tracestate.as_deref().and_then(|text| TraceState::from_str(text).ok());
        Some(SpanContext::new(trace, span, flags, true, state.unwrap_or_default()))
    }
}

/// The parts of a `traceparent`, if it is one.
fn parent(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    if text.len() != TRACEPARENT_BYTES || !text.bytes().all(lower_hex) {
        return None;
    }
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version != "00" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span, flags))
}

/// Reads the one of a file; what is none is left out, because no job may fail for the sake of its trace.
///
/// # Errors
/// Those of the format alone.
pub fn lenient<'de, D: Deserializer<'de>>(from: D) -> Result<Option<TraceContext>, D::Error> {
    #[derive(Deserialize)]
    struct Texts {
        #[serde(default)]
        traceparent: String,
        #[serde(default)]
        tracestate: Option<String>,
    }
    let texts = Option::<Texts>::deserialize(from)?;
    Ok(texts.and_then(|texts| TraceContext::parse(&texts.traceparent, texts.tracestate.as_deref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_what_was_written() {
        let read = TraceContext::parse(PARENT, Some("vendor=1")).unwrap();
        let span = read.remote().unwrap();
        assert!(span.is_remote() && span.is_sampled());
        assert_eq!(TraceContext::of(&span).unwrap(), read);
        assert_eq!((read.traceparent(), read.tracestate()), (PARENT, Some("vendor=1")));
        assert_eq!(TraceContext::parse(PARENT, Some("no state")).unwrap().tracestate(), None);
        let long = format!("vendor={}", "x".repeat(MAX_TRACESTATE_BYTES));
        assert_eq!(TraceContext::parse(PARENT, Some(&long)).unwrap().tracestate(), None);
        assert!(TraceContext::of(&SpanContext::empty_context()).is_none());
    }

    #[test]
    fn strange_texts_are_not_carried_on() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c8031-9cb7ad6b7169203331-0-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\n-01",
        ] {
            assert!(TraceContext::parse(text, None).is_none(), "{text}");
        }
    }

    #[test]
    fn a_file_with_a_broken_one_is_read_without() {
        #[derive(Deserialize)]
        struct File {
            #[serde(default, deserialize_with = "lenient")]
            trace: Option<TraceContext>,
        }
        let read = |json: &str| serde_json::from_str::<File>(json).unwrap().trace;
        let good = TraceContext::parse(PARENT, None).unwrap();
        assert_eq!(read(&format!("{{\"trace\":{}}}", serde_json::to_string(&good).unwrap())), Some(good));
        for json in ["{}", "{\"trace\":null}", "{\"trace\":{}}", "{\"trace\":{\"traceparent\":\"x\"}}"] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
