//! A log line as one flat JSON object, with what its surroundings say: the fields of the spans that it is within.
//!
//! Beside the life of a batch: a batch's work is within a span with `job.id` and `batch.number`, so that each line
//! that is written meanwhile has them, also those of retries deep in a store. A name that the line itself has is its
//! own; of spans, the inner one's counts. It must never write a name twice.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;
use std::fmt;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// The format. Works with [`tracing_subscriber::fmt::format::JsonFields`].
pub(super) struct JsonLine;

/// Names and values in their order.
#[derive(Default)]
struct Line(Vec<(String, Value)>);

impl Line {
    /// Adds what is not there yet.
    fn add(&mut self, name: &str, value: impl Into<Value>) {
        if !self.0.iter().any(|(known, _)| known == name) {
            self.0.push((name.to_owned(), value.into()));
        }
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(name(field), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(name(field), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(name(field), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(name(field), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(name(field), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(name(field), format!("{value:?}"));
    }
}

fn name(field: &Field) -> &str {
    let name = field.name();
    name.strip_prefix("r#").unwrap_or(name)
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Line::default();
        line.add("timestamp", time);
        line.add("level", event.metadata().level().as_str());
        event.record(&mut line);
        // One of the `log` crate says by fields where it comes from.
        let logged = line.0.iter().position(|(name, _)| name == "log.target").map(|at| line.0.remove(at).1);
        line.0.retain(|(name, _)| !name.starts_with("log."));
        line.add("target", logged.unwrap_or_else(|| event.metadata().target().into()));
        let mut span = ctx.lookup_current();
        while let Some(within) = span {
            if let Some(fields) = within.extensions().get::<FormattedFields<N>>()
                && let Ok(Value::Object(fields)) = serde_json::from_str(&fields.fields)
            {
                for (name, value) in fields {
                    line.add(&name, value);
                }
            }
            span = within.parent();
        }
        writeln!(to, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{Arc, Mutex},
    };
    use tracing::field::Empty;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(log: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let to = written.clone();
        let subscriber =
            tracing_subscriber::fmt().json().event_format(JsonLine).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_has_what_its_spans_say_and_each_name_once() {
        let lines = lines(|| {
            let outer = tracing::error_span!("lane", queue = "q", attempt = 9);
            let _outer = outer.enter();
            let batch = tracing::error_span!(
                "batch",
                job.id = "j\"1",
                batch.number = 7_u64,
                trace_id = Empty,
                attempt = 2
            );
            batch.record("trace_id", "abc");
            let _batch = batch.enter();
            tracing::warn!(batch.number = 8_u64, error = %"a\nb", "still failing");
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        let found: Value = serde_json::from_str(line).unwrap();
        for (name, value) in [
            ("level", Value::from("WARN")),
            ("message", "still failing".into()),
            ("error", "a\nb".into()),
            ("job.id", "j\"1".into()),
            ("batch.number", 8.into()),
            ("attempt", 2.into()),
            ("queue", "q".into()),
            ("trace_id", "abc".into()),
            ("target", module_path!().into()),
        ] {
            assert_eq!(found[name], value, "{name} in {line}");
        }
        assert_eq!(line.matches("batch.number").count(), 1, "{line}");
        assert!(line.starts_with("{\"timestamp\":\"2"), "{line}");
    }

    #[test]
    fn a_line_outside_of_spans_has_its_own() {
        let lines = lines(|| tracing::info!(worker = 1_i64, ready = true, share = 0.5, "worker ready"));
        let found: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            (&found["worker"], &found["ready"], &found["share"]),
            (&1.into(), &true.into(), &0.5.into())
        );
        assert_eq!(found.as_object().unwrap().len(), 7, "{found}");
    }
}
