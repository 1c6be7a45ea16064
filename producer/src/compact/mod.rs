//! `trawl compact`: a finished output again, in larger files, at another place.
//!
//! Not in place: no store swaps many objects for one at once, so that a reader of `OUT/*.parquet` would meet rows twice or
//! not at all in between, and a part that a late worker puts again would bring its rows back. The new output has a
//! plan of its own, in which a file is a batch: the same images in the same order, cut into fewer. So it is an output as
//! any other to every reader and command, and what holds for those holds here: a part is put once, `finalize` compares
//! parts with plan before it writes manifest and `_SUCCESS`, and a compaction that was killed goes on where it stopped.
//! Parts are looked up in the manifest piece by piece, never all at once.
//! It must never write to the output that it reads.

mod cut;
mod plan;

use crate::{cli::CompactArgs, errors::Stop, report};
use cut::{Group, groups};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use std::{io::Write, sync::Arc};
use trawl_common::{
    audit::part::mismatch,
    batch::BatchNumber,
    config::{OutputFormat, exit},
    disposition::describe,
    finalize::{Finalized, finalize},
    job::{JobId, JobSpec},
    location::Location,
    results::{Merger, OutputLayout, PartFooter, manifest_pieces::ManifestParts, part::read_footer},
    standing,
    storage::{PutOutcome, Storage, Stores},
    text::counted,
};

/// Parts fetched ahead of the one that is copied.
const PARTS_AHEAD: usize = 4;

/// `compacted.json` is a few names.
const MAX_MARK_BYTES: u64 = 64 << 10;

/// `_trawl/compacted.json`: which compaction a place belongs to. Written first and never changed, so that two of
/// different outputs, or in different cuts, do not meet in one place.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// The output that is copied.
    from: String,
    /// Its job.
    job: JobId,
    /// When that was submitted.
    created_unix_ms: u64,
    /// Bytes of a file.
    target_size: u64,
    /// Files.
    files: u64,
}

/// Copies the output at `from` to `to`.
///
/// # Errors
/// Failed if it is not finished or not whole, usage if `to` is no place for it, or what a store gives.
pub async fn run(
    stores: &Arc<Stores>,
    from: &Location,
    to: &Location,
    args: &CompactArgs,
    output: OutputFormat,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let (from, to) = (from.clone().without_trailing_slash(), to.clone().without_trailing_slash());
    apart(&from, &to)?;
    let spec = standing::spec(stores, &from).await?;
    let source = Place { store: &*stores.open(&from).await, layout: &OutputLayout::new(from.clone()) };
    let Some(manifest) = standing::manifest(source.store, source.layout).await? else {
        return Err(Stop::failed(format!(
            "job {} is not finished: {from} has no _SUCCESS with a manifest beside it (`trawl status {from}`); only a \
             finished output is compacted",
            spec.job
        )));
    };
    let (rows, listed, before) = (manifest.rows, manifest.listed(), manifest.bytes());
    let mut parts = ManifestParts::new(source.store, source.layout, manifest);
    let groups = groups(&mut parts, args.target_size).await?;
    if !args.dry_run {
        let target = Place { store: &*stores.open(&to).await, layout: &OutputLayout::new(to.clone()) };
        let compaction = Compaction { source, target, spec: &spec, rows, groups: &groups };
        compaction.write(stores, &to, args, &mut parts).await?;
    }
    let report = serde_json::json!({
        "job": spec.job, "from": from.to_string(), "to": to.to_string(), "rows": rows,
        "parts": listed, "bytes": before, "files": groups.len(), "written": !args.dry_run,
    });
    match output {
        OutputFormat::Json => report::print_json(out, &report)?,
        OutputFormat::Text => writeln!(
            out,
            "{} of {} {} {} in {to}",
            counted(rows, "row", "rows"),
            counted(listed, "part", "parts"),
            if args.dry_run { "would be" } else { "are" },
            counted(groups.len() as u64, "file", "files"),
        )?,
    }
    Ok(exit::OK)
}

/// Refuses a target that is the source, or within it, or around it.
fn apart(from: &Location, to: &Location) -> Result<(), Stop> {
    let (a, b) = (format!("{from}/"), format!("{to}/"));
    if a.starts_with(&b) || b.starts_with(&a) {
        return Err(Stop::usage(format!("{to} and {from} overlap: give --to a place of its own")));
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Place<'a> {
    store: &'a dyn Storage,
    layout: &'a OutputLayout,
}

struct Compaction<'a> {
    source: Place<'a>,
    target: Place<'a>,
    spec: &'a JobSpec,
    /// In all of it.
    rows: u64,
    groups: &'a [Group],
}

impl Compaction<'_> {
    /// In this order: mark, spec, plan, its end, parts, and `finalize`. Every step is the same when it is done again.
    async fn write(
        &self,
        stores: &Arc<Stores>,
        to: &Location,
        args: &CompactArgs,
        parts: &mut ManifestParts<'_>,
    ) -> Result<(), Stop> {
        self.claim(to, args).await?;
        let spec = self.new_spec(to);
        let Place { store, layout } = self.target;
        store.put_if_absent(&layout.job(), spec.to_json().into()).await?;
        plan::write(self.source, self.target, self.groups).await?;
        for (number, group) in (0..).map(BatchNumber).zip(self.groups) {
            let key = layout.part(number);
            match read_footer(store, &key).await {
                Ok(footer) => match mismatch(&spec, number, Some(group.rows), &footer) {
                    None => continue,
                    Some(wrong) => {
                        return Err(Stop::failed(format!(
                            "`{key}` has {} {} instead of {}: remove {to} and compact again",
                            wrong.what, wrong.found, wrong.expected
                        )));
                    }
                },
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
            let footer = PartFooter::new(&spec, number, format!("compact-{number}"), "trawl compact");
            let parts = entries(parts, group).await?;
            let bytes = self.merged(Merger::new(footer, args.row_group_rows as usize), parts).await?;
            store.put_if_absent(&key, bytes).await?;
            tracing::info!(file = %key, parts = group.batches(), rows = group.rows, "written");
        }
        match finalize(&spec.job, to, stores).await {
            Ok(Finalized::Written(manifest)) if manifest.rows == self.rows => Ok(()),
            Ok(other) => Err(Stop::failed(format!(
                "{to} does not hold what it should ({other:?}): remove it and compact again"
            ))),
            Err(error) => Err(Stop::failed(format!("{to} cannot be finished: {}", describe(&error)))),
        }
    }

    /// The job of the new output: the same work, in other batches and at another place, so under another name.
    fn new_spec(&self, to: &Location) -> JobSpec {
        let largest = self.groups.iter().map(|group| group.rows).max().unwrap_or(1);
        let mut spec = self.spec.clone();
        spec.batch_size = u32::try_from(largest).unwrap_or(u32::MAX);
        spec.out = to.to_string();
        spec.job = spec.derived_id();
        spec
    }

    /// Takes the place for this compaction.
    async fn claim(&self, to: &Location, args: &CompactArgs) -> Result<(), Stop> {
        let Place { store, layout } = self.target;
        let mark = Mark {
            from: self.source.layout.root().to_string(),
            job: self.spec.job.clone(),
            created_unix_ms: self.spec.created_unix_ms,
            target_size: args.target_size,
            files: self.groups.len() as u64,
        };
        let key = layout.compacted();
        let there = match store.get(&key, MAX_MARK_BYTES).await {
            Ok(object) => Some(object.bytes),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let there = match there {
            Some(there) => there,
            None => {
                let mut pages = store.list(&layout.prefix(), None);
                while let Some(page) = pages.try_next().await? {
                    if let Some(object) = page.objects.first() {
                        let what = format!("{to} is not empty (`{}` is there)", object.key);
                        return Err(Stop::usage(format!("{what}: give --to a place of its own")));
                    }
                }
                let json = serde_json::to_vec_pretty(&mark).map_err(|e| Stop::failed(e.to_string()))?;
                match store.put_if_absent(&key, json.into()).await? {
                    PutOutcome::Created => return Ok(()),
                    PutOutcome::AlreadyExists => store.get(&key, MAX_MARK_BYTES).await?.bytes,
                }
            }
        };
        match serde_json::from_slice::<Mark>(&there) {
            Ok(found) if found == mark => Ok(()),
            Ok(found) => Err(Stop::usage(format!(
                "{to} holds a compaction of {} (job {}, {} files of {} bytes): give --to a place of its own, or remove it",
                found.from, found.job, found.files, found.target_size
            ))),
            Err(error) => Err(Stop::failed(format!("`{key}` is not readable: {error}"))),
        }
    }

    /// The rows of a group's parts as one file.
    async fn merged(&self, mut merger: Merger, parts: Vec<Entry>) -> Result<bytes::Bytes, Stop> {
        let Place { store, layout } = self.source;
        let fetch = |part: Entry| async move {
            let key = layout.part(part.batch);
            let object = store.get(&key, part.bytes).await?;
            Ok::<_, Stop>((key, part, object.bytes))
        };
        let mut parts = stream::iter(parts).map(fetch).buffered(PARTS_AHEAD);
        while let Some((key, part, bytes)) = parts.try_next().await? {
            let batch = part.batch;
            let (added, back) = blocking(move || (merger.add(batch, bytes), merger)).await;
            merger = back;
            let footer = added.map_err(|error| damaged(&key, layout, &describe(&error)))?;
            if let Some(wrong) = mismatch(self.spec, batch, Some(part.rows), &footer) {
                let what = format!("it has {} {} instead of {}", wrong.what, wrong.found, wrong.expected);
                return Err(damaged(&key, layout, &what));
            }
        }
        let done = blocking(move || merger.finish()).await;
        done.map(|(bytes, _)| bytes).map_err(|error| Stop::failed(describe(&error)))
    }
}

/// What the manifest says of a part that is copied.
struct Entry {
    batch: BatchNumber,
    rows: u64,
    bytes: u64,
}

/// The entries of a group's parts; a group has no more of them than rows.
async fn entries(parts: &mut ManifestParts<'_>, group: &Group) -> Result<Vec<Entry>, Stop> {
    let mut entries = Vec::new();
    for place in group.parts.clone() {
        // The cut was made of these very entries.
        let found = parts.part(BatchNumber(place)).await?;
        let part = found.ok_or_else(|| Stop::failed(format!("the manifest does not list batch {place}")))?;
        entries.push(Entry { batch: part.batch, rows: part.rows, bytes: part.bytes });
    }
    Ok(entries)
}

fn damaged(key: &str, layout: &OutputLayout, what: &str) -> Stop {
    Stop::failed(format!(
        "part `{key}` is not what it should be: {what}; run `trawl verify {}`",
        layout.root()
    ))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

#[cfg(test)]
mod tests;
