//! `trawl doctor`: checks one by one what a job needs, and says what is wrong in the words of the fix.
//!
//! Writes nothing but scratch objects below `_trawl-doctor/` of the store it was told to check, and removes
//! them. It declares no queue and changes no job.

mod store;

use crate::{
    cli::{DoctorArgs, DoctorTopic},
    connect::{self, Context},
    errors::Stop,
    report, run,
};
use serde::Serialize;
use std::{
    env,
    io::Write,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use trawl_common::{
    broker::Broker,
    bundle::{BundleSpec, HeadSpec},
    config::{OutputFormat, exit},
    job::QueueName,
    ledger::Ledger,
    location::Location,
    model_file,
    model_import::{Imported, import},
    storage::Stores,
};

/// A check that takes longer is no check; loading libtorch from a cold disk takes seconds.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    check: &'static str,
    ok: bool,
    detail: String,
    #[serde(skip)]
    code: u8,
}

impl Check {
    fn new(check: &'static str, found: Result<String, Stop>) -> Self {
        match found {
            Ok(detail) => Self { check, ok: true, detail, code: exit::OK },
            Err(stop) => {
                // Of a service that is away the message says what to look at, and the hint would be this command.
                let hint = stop.hint.filter(|_| stop.code != exit::TRANSIENT);
                let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                Self { check, ok: false, detail: format!("{}{hint}", stop.message), code: stop.code }
            }
        }
    }
}

/// Runs all checks and prints each as it ends.
///
/// # Errors
/// Only what the printer gives; a check that fails is a line and an exit code.
pub async fn run(cx: &Context, args: &DoctorArgs, out: &mut dyn Write) -> Result<u8, Stop> {
    let mut checks = Vec::new();
    let mut found = |check: Check| -> Result<(), Stop> {
        if cx.output == OutputFormat::Text {
            writeln!(out, "{}", line(&check, speaks_utf8()))?;
            out.flush()?;
        }
        checks.push(check);
        Ok(())
    };
    found(Check::new("trawl", Ok(format!("version {}", env!("CARGO_PKG_VERSION")))))?;
    if args.looks_at(DoctorTopic::Services) {
        found(Check::new("broker", bounded(broker(cx, &args.queue)).await))?;
        found(Check::new("ledger", bounded(ledger(cx)).await))?;
        found(Check::new("memory", bounded(memory(cx)).await))?;
    }
    if let Some(place) = args.store.as_ref().filter(|_| args.looks_at(DoctorTopic::Store)) {
        match Location::parse(place, &cx.base_dir) {
            Err(error) => found(Check::new("store", Err(error.into())))?,
            Ok(place) => store::check(&cx.stores, &place.without_trailing_slash(), &mut found).await?,
        }
    }
    if let Some(bundle) = args.model.as_ref().filter(|_| args.looks_at(DoctorTopic::Model)) {
        found(Check::new("model", bounded(model(&cx.stores, bundle, &cx.base_dir)).await))?;
    }
    if args.looks_at(DoctorTopic::Worker) {
        found(Check::new("worker", worker().await))?;
    }
    if cx.output == OutputFormat::Json {
        report::print_json(out, &checks)?;
    }
    Ok(verdict(&checks))
}

/// 0 if all passed, 5 if waiting may mend all that did not, else 1.
fn verdict(checks: &[Check]) -> u8 {
    let mut failed = checks.iter().filter(|check| !check.ok).peekable();
    if failed.peek().is_none() {
        return exit::OK;
    }
    if failed.all(|check| check.code == exit::TRANSIENT) { exit::TRANSIENT } else { exit::FAILED }
}

fn line(check: &Check, utf8: bool) -> String {
    let mark = match (check.ok, utf8) {
        (true, true) => "✓",
        (false, true) => "✗",
        (true, false) => "ok  ",
        (false, false) => "FAIL",
    };
    format!("{mark} {:<11} {}", check.check, crate::text::printable(&check.detail))
}

/// Whether the locale takes more than ASCII, in the order in which C programs ask.
fn speaks_utf8() -> bool {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

async fn bounded(check: impl Future<Output = Result<String, Stop>>) -> Result<String, Stop> {
    tokio::time::timeout(CHECK_TIMEOUT, check)
        .await
        .unwrap_or_else(|_| Err(Stop::transient(format!("no answer within {} s", CHECK_TIMEOUT.as_secs()))))
}

async fn broker(cx: &Context, queue: &QueueName) -> Result<String, Stop> {
    let began = Instant::now();
    let broker = connect::broker(&cx.services).await?;
    let connected = began.elapsed();
    let depth = match broker.depth(queue).await? {
        None => format!("queue `{queue}` is not there yet, the first submit or worker makes it"),
        Some(depth) => format!("queue `{queue}` has {} waiting and {} workers", depth.ready, depth.consumers),
    };
    let dead = match broker.dead_depth().await? {
        0 => String::new(),
        dead => format!("; the dead letters hold {dead}: `trawl dead list` shows them"),
    };
    Ok(format!("connected in {} ms; {depth}{dead}", connected.as_millis()))
}

async fn ledger(cx: &Context) -> Result<String, Stop> {
    let began = Instant::now();
    let ledger = connect::ledger(&cx.services).await?;
    let newest = ledger.jobs(1).await?;
    let newest = match newest.first() {
        Some(job) => format!("the newest job is {} ({})", job.job, job.state.name()),
        None => "it knows no jobs".to_owned(),
    };
    Ok(format!("answered in {} ms; {newest}", began.elapsed().as_millis()))
}

/// Whether Redis keeps what it is told when it is full.
async fn memory(cx: &Context) -> Result<String, Stop> {
    let policy = connect::ledger(&cx.services).await?.eviction_policy().await?;
    if policy.evicts_ours() {
        return Err(Stop::failed(policy.remedy()));
    }
    let limit = match policy.max_bytes {
        0 => "no limit".to_owned(),
        bytes => format!("a limit of {} bytes", crate::text::count(bytes)),
    };
    Ok(format!("Redis has {limit}, and maxmemory-policy {}", policy.policy))
}

async fn model(stores: &Stores, bundle: &str, base_dir: &Path) -> Result<String, Stop> {
    let location = Location::parse(bundle, base_dir)?;
    let Imported { spec, file, .. } = import(stores, &location, &model_file::default_cache_dir()).await?;
    Ok(format!("{} (sha256 {})", summary(&spec), &file.sha256[..12]))
}

/// A bundle in a few words.
pub fn summary(spec: &BundleSpec) -> String {
    let head = |head: &HeadSpec| {
        let named = head.name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default();
        match head.head.has_labels() {
            true => format!("{}{named}, {} labels", head.head.word(), head.labels.len()),
            false => format!("{}{named}", head.head.word()),
        }
    };
    let head = spec.heads.iter().map(head).collect::<Vec<_>>().join(" + ");
    let [height, width] = spec.input.crop;
    format!("{}: {head}, input {width}x{height}", crate::text::printable(&spec.name))
}

/// Asks the worker for its version, which loads libtorch.
async fn worker() -> Result<String, Stop> {
    let Some(path) = run::find_worker() else {
        return Ok(format!("`{}` is not on this machine; only `trawl run` needs it here", run::WORKER));
    };
    let asked =
        tokio::process::Command::new(&path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let failed = |reason: String| Stop::failed(format!("`{}` does not start: {reason}", path.display()));
    match tokio::time::timeout(CHECK_TIMEOUT, asked).await {
        Err(_) => Err(failed(format!("no answer within {} s", CHECK_TIMEOUT.as_secs()))),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Ok(Ok(output)) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            Ok(format!("{} at {}", version.trim(), path.display()))
        }
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(failed(format!("{}: {}", output.status, said.lines().next().unwrap_or_default())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_what_waiting_mends() {
        let ok = Check::new("a", Ok("fine".into()));
        let away = Check::new("b", Err(Stop::transient("away").hint("start it")));
        let wrong = Check::new("c", Err(Stop::usage("wrong").hint("turn it")));
        assert_eq!(verdict(std::slice::from_ref(&ok)), exit::OK);
        assert_eq!(verdict(&[ok.clone(), away.clone()]), exit::TRANSIENT);
        assert_eq!(verdict(&[away.clone(), wrong.clone()]), exit::FAILED);
        assert_eq!(line(&wrong, false), "FAIL c           wrong (turn it)");
        assert_eq!(line(&ok, true), "✓ a           fine");
        assert_eq!(line(&away, false), "FAIL b           away");
        let json = serde_json::to_value(&away).unwrap();
        assert_eq!(json, serde_json::json!({"check": "b", "ok": false, "detail": "away"}));
    }
}
