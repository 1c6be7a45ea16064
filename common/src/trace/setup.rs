//! Switches traces on, by OpenTelemetry's own environment variables and by nothing else.
//!
//! Once, at the start of a process that has a runtime, and ended once before its end. On: an endpoint is set
//! (`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT`) and nobody says no (`OTEL_SDK_DISABLED`,
//! `OTEL_TRACES_EXPORTER=none`). What cannot be used is said in one warning, and the work goes on without traces. The
//! queue of ended spans is bounded (`OTEL_BSP_MAX_QUEUE_SIZE`, 2,048) and what does not fit is dropped. Headers are
//! read by the exporter alone and must never get into a text.

use super::{TRACER, collector::Collector};
use crate::{services::refuse_plain, telemetry::Redacted};
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_http::Request;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use std::{env, time::Duration};
use tokio::runtime::Handle;

/// How long the end of a process waits for its last spans: an answer of a collector that is there, and no more.
pub const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// The standard's default for one request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// The samplers that the SDK has; it takes `parentbased_always_on` for any other name without a word.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The traces of this process; end them before it ends.
#[must_use = "the last spans are sent by `end`"]
#[derive(Debug)]
pub struct Traces(Option<SdkTracerProvider>);

/// Where spans go.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// With its credentials, if it has any.
    endpoint: String,
    patience: Duration,
    /// What is odd about the rest, and what is done instead.
    remarks: Vec<String>,
}

/// Reads the environment and switches traces on if they are asked for; `service` is the name of this program where
/// the environment gives none. Connects to nothing yet.
pub fn init(service: &'static str, runtime: &Handle) -> Traces {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let provider = wanted(&variable).and_then(|wanted| match wanted {
        Some(wanted) => provider(service, runtime, &wanted, &variable).map(Some),
        None => Ok(None),
    });
    match provider {
        Ok(Some(provider)) => {
            // A second one in a process changes nothing, as with logs.
            let _ = TRACER.set(provider.tracer("trawl"));
            Traces(Some(provider))
        }
        Ok(None) => Traces(None),
        Err(reason) => {
            tracing::warn!("traces are off: {reason}");
            Traces(None)
        }
    }
}

impl Traces {
    /// Sends what is left, for [`FLUSH_PATIENCE`] at most. Blocks: not for a thread of the runtime, which must still
    /// run.
    pub fn end(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_PATIENCE)
        {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// What the environment asks for; `Err` says why it cannot be had.
fn wanted(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Wanted>, String> {
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let Some((name, endpoint)) = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .find_map(|name| Some((name, variable(name)?)))
    else {
        return Ok(None);
    };
    match variable("OTEL_TRACES_EXPORTER").as_deref().map(str::trim) {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => return Err(format!("OTEL_TRACES_EXPORTER is `{other}`; trawl has `otlp` and `none`")),
    }
    let protocol = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    if let Some((name, value)) = protocol.into_iter().find_map(|name| Some((name, variable(name)?)))
        && value.trim() != "http/protobuf"
    {
        return Err(format!(
            "{name} is `{value}` and trawl speaks `http/protobuf`: set it to that, and the endpoint to the \
             collector's HTTP port (mostly 4318)"
        ));
    }
    let request = Request::get(&endpoint).body(()).ok();
    let usable = request.is_some_and(|request| {
        matches!(request.uri().scheme_str(), Some("http" | "https")) && request.uri().host().is_some()
    });
    if !usable {
        let shown = Redacted(&endpoint);
        return Err(format!("{name} is `{shown}`, which is no URL; it looks like http://collector:4318"));
    }
    let timeout = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
    let timeout = timeout.into_iter().find_map(|name| variable(name)?.trim().parse().ok());
    let patience = timeout.map_or(REQUEST_PATIENCE, Duration::from_millis);
    let remarks = remarks(&endpoint, variable);
    Ok(Some(Wanted { endpoint, patience, remarks }))
}

fn remarks(endpoint: &str, variable: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(name) = variable("OTEL_TRACES_SAMPLER").filter(|name| !SAMPLERS.contains(&name.as_str())) {
        let known = SAMPLERS.join(", ");
        remarks
            .push(format!("OTEL_TRACES_SAMPLER is `{name}`, which is none of {known}; every trace is taken"));
    }
    let headers = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
    // As of the other services: but this one is asked for by a full URL, and mostly has no secret.
    if headers.into_iter().any(|name| variable(name).is_some()) && refuse_plain(endpoint).is_err() {
        remarks.push(
            "the headers of OTEL_EXPORTER_OTLP_HEADERS go to another machine over a plain connection: use https:// \
             if one of them is a secret"
                .to_owned(),
        );
    }
    remarks
}

fn provider(
    service: &'static str,
    runtime: &Handle,
    wanted: &Wanted,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<SdkTracerProvider, String> {
    let collector = Collector::new(&wanted.endpoint, runtime.clone(), wanted.patience)?;
    // Endpoint, headers, timeout and compression are read from the environment by the exporter itself. Its error may
    // hold a header's value, or the endpoint with its password.
    let exporter = SpanExporter::builder().with_http().with_http_client(collector).build().map_err(|_| {
        "the OTEL_EXPORTER_OTLP_* variables cannot be used: look at _COMPRESSION (trawl has none) and _HEADERS"
    })?;
    for remark in &wanted.remarks {
        tracing::warn!("{remark}");
    }
    let mut resource =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let named = |list: String| list.split(',').any(|entry| entry.trim_start().starts_with("service.name="));
    if variable("OTEL_SERVICE_NAME").is_none() && !variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(named) {
        resource = resource.with_service_name(service);
    }
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(variables: &[(&str, &str)]) -> Result<Option<Wanted>, String> {
        let found = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        wanted(&found)
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");

    #[test]
    fn an_endpoint_switches_traces_on_and_anybody_switches_them_off() {
        assert_eq!(asked(&[]), Ok(None));
        assert_eq!(asked(&[("OTEL_SERVICE_NAME", "x")]), Ok(None));
        let on = asked(&[ENDPOINT]).unwrap().unwrap();
        assert_eq!(
            (&*on.endpoint, on.patience, on.remarks),
            ("http://127.0.0.1:4318", REQUEST_PATIENCE, vec![])
        );
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/v1/traces");
        assert_eq!(asked(&[ENDPOINT, own]).unwrap().unwrap().endpoint, "https://c/v1/traces");
        assert_eq!(asked(&[ENDPOINT, ("OTEL_SDK_DISABLED", "True")]), Ok(None));
        assert_eq!(asked(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
        let quick = asked(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_TIMEOUT", "250")]).unwrap().unwrap();
        assert_eq!(quick.patience, Duration::from_millis(250));
    }

    #[test]
    fn what_cannot_be_used_is_said_without_its_password() {
        let error = asked(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://u:canary@c:4317")]).unwrap_err();
        assert!(error.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && !error.contains("canary"), "{error}");
        assert!(asked(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")]).is_err());
        let error = asked(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap_err();
        assert!(error.contains("http/protobuf"), "{error}");
        assert!(asked(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")]).is_err());
        let odd = asked(&[ENDPOINT, ("OTEL_TRACES_SAMPLER", "xray")]).unwrap().unwrap();
        assert!(odd.remarks[0].contains("xray"));
        let secret = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=canary");
        assert_eq!(asked(&[ENDPOINT, secret]).unwrap().unwrap().remarks, Vec::<String>::new());
        let plain =
            asked(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"), secret]).unwrap().unwrap();
        assert!(plain.remarks[0].contains("plain") && !plain.remarks[0].contains("canary"));
    }
}
