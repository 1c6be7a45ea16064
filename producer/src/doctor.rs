//! `trawl doctor`: checks one by one what a job needs, and says what is wrong in the words of the fix.
//!
//! Writes nothing but scratch objects below `_trawl-doctor/` of the store it was told to check, and removes
//! them. It declares no queue and changes no job.

use crate::{
    cli::DoctorArgs,
    connect::{self, Context},
    errors::Stop,
    report, run,
};
use bytes::Bytes;
use futures::TryStreamExt;
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
    config::{OutputFormat, exit, unix_ms},
    job::QueueName,
    ledger::Ledger,
    location::Location,
    model_file,
    storage::{
        Storage, StorageError, Stores,
        probe::{ConditionalPut, probe},
    },
};

/// The scratch objects are a few bytes.
const MAX_SCRATCH_BYTES: u64 = 4096;

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
    found(Check::new("broker", bounded(broker(cx, &args.queue)).await))?;
    found(Check::new("ledger", bounded(ledger(cx)).await))?;
    found(Check::new("memory", bounded(memory(cx)).await))?;
    if let Some(place) = &args.store {
        match Location::parse(place, &cx.base_dir) {
            Err(error) => found(Check::new("store", Err(error.into())))?,
            Ok(place) => {
                found(Check::new("store", bounded(store(&cx.stores, &place)).await))?;
                found(Check::new("create-only", bounded(create_only(&cx.stores, &place)).await))?;
            }
        }
    }
    if let Some(bundle) = &args.model {
        found(Check::new("model", bounded(model(&cx.stores, bundle, &cx.base_dir)).await))?;
    }
    found(Check::new("worker", worker().await))?;
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
    format!("{mark} {:<7} {}", check.check, crate::text::printable(&check.detail))
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

/// Writes, reads, races, lists and deletes below a scratch prefix of `place`.
async fn store(stores: &Stores, place: &Location) -> Result<String, Stop> {
    let began = Instant::now();
    let scratch = place.join(&format!("_trawl-doctor/{:x}-{:x}", unix_ms(), std::process::id()));
    let store = stores.open(place).await;
    let checked = exercise(store.as_ref(), scratch.key()).await;
    // What could not be written cannot be removed; the check's own error says more.
    let _ = store.delete(&format!("{}/plain", scratch.key())).await;
    if scratch.is_local() {
        remove_empty_folders(scratch.to_string()).await;
    }
    checked?;
    Ok(format!("{place}: write, read, list and delete work ({} ms)", began.elapsed().as_millis()))
}

/// Whether the store's create-only write is one: workers ask the same before their first commit.
async fn create_only(stores: &Stores, place: &Location) -> Result<String, Stop> {
    let scratch = place.join(&format!("_trawl-doctor/{:x}-{:x}", unix_ms(), std::process::id()));
    let store = stores.open(place).await;
    let found = probe(store.as_ref(), |round| format!("{}/race-{round}", scratch.key())).await;
    if scratch.is_local() {
        remove_empty_folders(scratch.to_string()).await;
    }
    match found? {
        ConditionalPut::Real => Ok(format!("{place}: of all who create one object, one wins")),
        ConditionalPut::Unreliable { reason } => Err(Stop::failed(format!(
            "{place}: {reason}; workers look before they put instead: there is one part a batch, but of two workers \
             at the same batch the later one's may stand"
        ))),
    }
}

async fn exercise(store: &dyn Storage, scratch: &str) -> Result<(), Stop> {
    let plain = format!("{scratch}/plain");
    store.put(&plain, Bytes::from_static(b"trawl doctor")).await?;
    if store.get(&plain, MAX_SCRATCH_BYTES).await?.bytes != b"trawl doctor"[..] {
        return Err(Stop::failed(format!("`{plain}` reads back other than it was written")));
    }
    let mut listed = Vec::new();
    let mut pages = store.list(&format!("{scratch}/"), None);
    while let Some(page) = pages.try_next().await? {
        listed.extend(page.objects.into_iter().map(|object| object.key));
    }
    if listed != [plain.clone()] {
        return Err(Stop::failed(format!("a listing gives {} objects where 1 was written", listed.len())));
    }
    store.delete(&plain).await?;
    match store.head(&plain).await {
        Err(StorageError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(Stop::failed("a deleted object is still there")),
    }
}

/// A bucket has no folders; on a disk they would stay. Folders that hold something are left alone.
async fn remove_empty_folders(scratch: String) {
    let removed = tokio::task::spawn_blocking(move || {
        let scratch = Path::new(&scratch);
        let _ = std::fs::remove_dir(scratch);
        if let Some(parent) = scratch.parent() {
            let _ = std::fs::remove_dir(parent);
        }
    });
    let _ = removed.await;
}

async fn model(stores: &Stores, bundle: &str, base_dir: &Path) -> Result<String, Stop> {
    let location = Location::parse(bundle, base_dir)?;
    let file = model_file::obtain(stores, &location, None, &model_file::default_cache_dir()).await?;
    let path = file.path.clone();
    let read = tokio::task::spawn_blocking(move || BundleSpec::read(&path)).await;
    let spec = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
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
        assert_eq!(line(&wrong, false), "FAIL c       wrong (turn it)");
        assert_eq!(line(&ok, true), "✓ a       fine");
        assert_eq!(line(&away, false), "FAIL b       away");
        let json = serde_json::to_value(&away).unwrap();
        assert_eq!(json, serde_json::json!({"check": "b", "ok": false, "detail": "away"}));
    }

    #[tokio::test]
    async fn a_good_store_passes_and_nothing_is_left_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let local = Location::parse(dir.path().to_str().unwrap(), Path::new("/")).unwrap();
        let stores = Stores::in_memory();
        for place in [local, Location::parse("s3://bucket/labels", Path::new("/")).unwrap()] {
            let said = store(&stores, &place).await.unwrap();
            assert!(said.contains("list and delete work"), "{said}");
            let said = create_only(&stores, &place).await.unwrap();
            assert!(said.contains("one wins"), "{said}");
            let left: Vec<_> = stores.open(&place).await.list(place.key(), None).try_collect().await.unwrap();
            assert!(left.iter().all(|page| page.objects.is_empty()), "{left:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
