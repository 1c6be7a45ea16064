//! `trawl submit`: plans a job, enqueues its batches and prints its id.
//!
//! The order is fixed: everything that can be checked locally, then the services, then `job.json`, then the
//! model, and only then the first message. A command that was killed anywhere is given again and goes on;
//! nothing here may publish before the spec and the model are where a worker looks for them.

mod dry_run;
mod estimate;

use crate::{
    bucket,
    cli::SubmitArgs,
    connect::{self, Context},
    errors::Stop,
    follow::{self, Following},
    next,
    progress::{self, JsonLines},
    report,
};
use bytes::Bytes;
use serde::Serialize;
use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    broker::{Broker, topology},
    config::{JobArgs, OutputFormat, exit},
    job::{JobSpec, ModelRef, hex_sha256},
    ledger::{JobState, Ledger},
    location::Location,
    model_file::{self, ModelFile},
    model_import::{Imported, import},
    planning::{
        PlanError, Ready,
        submit::{Enlisting, Opened, Planned, enlist, open_output},
    },
    results::{Columns, OutputLayout},
    stdin_list,
    storage::{StorageError, Stores},
    trace,
};

/// Messages under way to the broker at once: its confirms take milliseconds, so that this many make
/// thousands of batches a second; a message of the largest batch has megabytes, so more would cost memory.
const PUBLISH_WINDOW: usize = 64;

/// A job that is ready to be placed.
#[derive(Debug)]
struct Prepared {
    spec: JobSpec,
    model: ModelFile,
}

/// What became of a submission.
#[derive(Debug)]
pub struct Submitted {
    /// As it is in the output: an earlier submission's, if this one resumed it.
    spec: JobSpec,
    opened: Opened,
    /// None if there was nothing to do.
    planned: Option<Planned>,
}

/// The services a job is placed into.
#[derive(Clone, Copy)]
pub struct Services<'a> {
    stores: &'a Arc<Stores>,
    broker: &'a dyn Broker,
    ledger: &'a dyn Ledger,
}

/// Runs the command.
///
/// # Errors
/// Usage for what is wrong with the flags or the model, not found for sources and buckets, transient for
/// services that are away, the signal's code if one came.
pub async fn run(cx: &Context, args: &SubmitArgs, out: &mut dyn Write) -> Result<u8, Stop> {
    let stop = &cx.shutdown.draining;
    let cache_dir = model_file::default_cache_dir();
    let prepared = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(interrupted(cx)),
        prepared = prepare(&args.job, &cx.base_dir, &cx.stores, &cache_dir) => prepared?,
    };
    if args.dry_run {
        return dry_run::run(cx, args, &prepared.spec, &prepared.model, out).await;
    }
    // All messages of the job are created in this span; it ends when the job is placed.
    let span = trace::begin("submit", trace::Kind::Producer, None);
    span.set("messaging.operation.type", "create");
    span.set("messaging.operation.name", "submit");
    let (broker, ledger) = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(interrupted(cx)),
        connected = connect::both(&cx.services) => connected?,
    };
    ledger.warn_if_evicting().await;
    let services = Services { stores: &cx.stores, broker: &broker, ledger: &ledger };
    let mut shown = progress::Enlisting::new();
    let prepared = Prepared { spec: JobSpec { trace: span.context(), ..prepared.spec }, ..prepared };
    let placed = placed_within(span, &prepared.spec, async {
        place(services, &prepared, args.ready, &mut |planned| shown.show(planned), stop).await
    });
    let placed = placed.await;
    shown.end();
    let submitted = placed.map_err(|stop| follow::with_signal(cx, stop))?;
    announce(&submitted, cx.output, out)?;
    if args.watch {
        return follow(cx, args.strict, services, &submitted, out).await;
    }
    if submitted.planned.is_some() {
        next::say(cx.output, &next::submitted(submitted.spec.job.as_str(), &submitted.spec.out));
    }
    Ok(exit::OK)
}

/// Places a job within the span of its submission, which then says what became of it.
async fn placed_within(
    span: trace::Running,
    spec: &JobSpec,
    placing: impl Future<Output = Result<Submitted, Stop>>,
) -> Result<Submitted, Stop> {
    if trace::is_on() {
        span.set("messaging.system", "rabbitmq");
        span.set("messaging.destination.name", topology::work_queue(&spec.queue));
    }
    let context = span.context();
    let noting = async {
        let placed = placing.await;
        match &placed {
            Ok(submitted) if trace::is_on() => {
                trace::note("trawl.job.id", submitted.spec.job.to_string());
                let planned = submitted.planned.unwrap_or_default();
                trace::note("trawl.batches", i64::try_from(planned.batches).unwrap_or(i64::MAX));
                trace::note("trawl.images", i64::try_from(planned.images).unwrap_or(i64::MAX));
            }
            Ok(_) => {}
            Err(stop) => trace::note_failure("submit", || stop.message.clone()),
        }
        placed
    };
    span.around(context, noting).await
}

fn interrupted(cx: &Context) -> Stop {
    follow::with_signal(cx, Stop::signalled(exit::INTERRUPTED, "stopped before anything was enqueued"))
}

/// Checks all that can be checked without the services, and makes the spec.
async fn prepare(
    args: &JobArgs,
    base_dir: &Path,
    stores: &Arc<Stores>,
    cache_dir: &Path,
) -> Result<Prepared, Stop> {
    let kept = stdin_list::keep(&args.sources, cache_dir).await;
    let kept = kept.map_err(|error| Stop::failed(format!("the list by standard input: {error}")))?;
    let args = &JobArgs { sources: kept, ..args.clone() };
    let out = args.out_location(base_dir)?;
    let given = args.model_location(base_dir)?;
    // The digest is not known yet; everything else of the spec is refused before a model is fetched.
    args.spec(base_dir, ModelRef { location: String::new(), sha256: String::new() })?;
    let Imported { file: model, spec: bundle, location, .. } = import(stores, &given, cache_dir).await?;
    if bundle.heads.iter().any(|head| head.head.has_labels() && head.labels.is_empty()) {
        tracing::warn!("the model `{}` has no labels: rows will have class numbers only", bundle.name);
    }
    let location = if location.is_local() {
        out.with_key(OutputLayout::new(out.clone()).model(&model.sha256))
    } else {
        location
    };
    let spec =
        args.spec(base_dir, ModelRef { location: location.to_string(), sha256: model.sha256.clone() })?;
    Columns::check(&bundle.heads, &spec.carry).map_err(Stop::usage)?;
    Ok(Prepared { spec, model })
}

/// Opens the output, brings the model there and enqueues the batches. Given again after it was stopped
/// anywhere, it goes on.
async fn place(
    services: Services<'_>,
    prepared: &Prepared,
    ready: Ready,
    on_progress: &mut (dyn FnMut(&Planned) + Send),
    cancel: &CancellationToken,
) -> Result<Submitted, Stop> {
    let Services { stores, broker, ledger } = services;
    let opening = async {
        broker.ensure_queue(&prepared.spec.queue).await?;
        let (opened, spec) = open_output(&prepared.spec, stores).await?;
        if !matches!(opened, Opened::AlreadyComplete) {
            bring_model(stores, &spec, &prepared.model).await?;
        }
        Ok::<_, Stop>((opened, spec))
    };
    let (opened, spec) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(PlanError::Interrupted.into()),
        opened = opening => opened?,
    };
    if matches!(opened, Opened::AlreadyComplete) {
        return Ok(Submitted { spec, opened, planned: None });
    }
    let enlisting = Enlisting { spec: &spec, stores, broker, ledger, window: PUBLISH_WINDOW, ready };
    let planned = enlist(enlisting, on_progress, cancel).await?;
    Ok(Submitted { spec, opened, planned: Some(planned) })
}

/// Writes a local model beside the results, where any worker finds it, unless it is there. Also for a job that
/// was begun by `run`, whose spec names a file of this machine's.
async fn bring_model(stores: &Arc<Stores>, spec: &JobSpec, model: &ModelFile) -> Result<(), Stop> {
    let out = Location::parse(&spec.out, Path::new("/"))?;
    let key = OutputLayout::new(out.clone()).model(&model.sha256);
    let place = Location::parse(&spec.model.location, Path::new("/"))?;
    if !place.is_local() && place != out.with_key(key.as_str()) {
        return Ok(());
    }
    let store = stores.open(&out).await;
    match store.head(&key).await {
        Ok(_) => return Ok(()),
        Err(StorageError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let (path, expected) = (model.path.clone(), model.sha256.clone());
    let read = tokio::task::spawn_blocking(move || {
        let bytes = std::fs::read(&path)?;
        let same = hex_sha256(&bytes) == expected;
        Ok::<_, io::Error>((bytes, same))
    });
    let read = read.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let (bytes, same) = read.map_err(|error| {
        Stop::usage(format!("the model file `{}` cannot be read: {error}", model.path.display()))
    })?;
    if !same {
        return Err(Stop::failed(format!(
            "the model file `{}` changed while it was read",
            model.path.display()
        ))
        .hint("give the same command again once it is written"));
    }
    // The name has the digest: whoever was first wrote the same bytes.
    store.put_if_absent(&key, Bytes::from(bytes)).await?;
    Ok(())
}

/// What `submit --output json` prints.
#[derive(Serialize)]
struct Document<'a> {
    job: &'a str,
    state: JobState,
    out: &'a str,
    queue: &'a str,
    batches: Option<u64>,
    images: Option<u64>,
    published: u64,
    skipped: Option<u64>,
    unlistable: Option<u64>,
    resumed: bool,
}

/// The job id alone on stdout, the rest on stderr; or the JSON document.
fn announce(submitted: &Submitted, output: OutputFormat, out: &mut dyn Write) -> Result<(), Stop> {
    let Submitted { spec, opened, planned } = submitted;
    match output {
        OutputFormat::Json => {
            let planned = planned.as_ref();
            let document = Document {
                job: spec.job.as_str(),
                state: match opened {
                    Opened::AlreadyComplete => JobState::Complete,
                    Opened::New | Opened::Resumed => JobState::Running,
                },
                out: &spec.out,
                queue: spec.queue.as_str(),
                batches: planned.map(|p| p.batches),
                images: planned.map(|p| p.images),
                published: planned.map_or(0, |p| p.published),
                skipped: planned.map(|p| p.skipped),
                unlistable: planned.map(|p| p.unlistable),
                resumed: !matches!(opened, Opened::New),
            };
            report::print_json(out, &document)?;
        }
        OutputFormat::Text => {
            match (opened, planned) {
                (Opened::AlreadyComplete, _) | (_, None) => {
                    eprintln!("{} is complete: nothing to do", spec.out);
                }
                (Opened::Resumed, Some(planned)) => eprintln!("resumed; {}", progress::enlisted(planned)),
                (Opened::New, Some(planned)) => eprintln!("{}", progress::enlisted(planned)),
            }
            writeln!(out, "{}", spec.job)?;
        }
    }
    // A script may read the id while --watch goes on.
    Ok(out.flush()?)
}

async fn follow(
    cx: &Context,
    strict: bool,
    services: Services<'_>,
    submitted: &Submitted,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let spec = &submitted.spec;
    if matches!(submitted.opened, Opened::AlreadyComplete) {
        let (_, progress) =
            bucket::progress(services.stores, &Location::parse(&spec.out, Path::new("/"))?).await?;
        eprintln!("{}", report::line(&progress));
        let failed = strict && progress.images_failed > 0;
        return Ok(if failed { exit::FAILED_IMAGES } else { exit::OK });
    }
    let following = Following {
        ledger: services.ledger,
        broker: Some(services.broker),
        job: &spec.job,
        strict,
        stop: &cx.shutdown.draining,
    };
    let followed = match cx.output {
        OutputFormat::Json => follow::follow(&following, &mut JsonLines::new(out, io::stderr())).await,
        OutputFormat::Text => follow::follow(&following, progress::for_people().as_mut()).await,
    };
    let (progress, code) = followed.map_err(|stop| follow::with_signal(cx, stop))?;
    next::say(cx.output, &next::standing(&progress, None));
    follow::verdict(&progress, code)
}

#[cfg(test)]
mod tests;
