//! The sources of a job as one deterministic stream of images.
//!
//! Sources in the order given, the keys of each in byte order, so that the same bucket gives the same plan
//! and a listing can go on after any image of it. Runs as a task of its own, a few pages ahead of whoever
//! takes them, so that listing overlaps with planning and publishing. An object that two sources reach is
//! listed twice: rows belong to sources, and telling would need every key in memory.

use super::{
    PlanError,
    capture::{self, Capture},
    contents::{ContentsError, Opening},
    filter::Filter,
    kind,
    left_out::{LeftOut, Reason},
    since::Seen,
    source::{Reach, Source},
};
use crate::{
    batch::ImageRef,
    carried::CarriedColumn,
    job::JobSpec,
    location::Location,
    offload::offload,
    results::{Cursor, Inside, OutputLayout},
    selection::{Selection, SourceKind},
    storage::{ListPage, ObjectMeta, Storage, StorageError, Stores},
};
use futures::StreamExt;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::mpsc, task::JoinHandle};

/// Pages listed ahead of the taker: enough to hide a request, few enough to hold in memory.
const PAGES_AHEAD: usize = 4;

/// One image of the stream, and where the listing stands after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The image.
    pub image: ImageRef,
    /// Index of its source.
    pub source: usize,
    /// The key in its store of the object that it is, or lies in.
    pub store_key: String,
    /// Where that object goes on behind it, if there may be more in it.
    pub inside: Option<Inside>,
    /// As in [`super::contents::Entry::group_rows`].
    pub group_rows: u32,
    /// Images up to it, itself included, in all.
    pub images: u64,
    /// Objects left out by the filters before it, in all.
    pub skipped: u64,
    /// Entries with unlistable names in the pages before its own, in all.
    pub unlistable: u64,
}

impl Found {
    /// Where the listing stands after this image.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            source: self.source,
            after: Some(self.store_key.clone()),
            inside: self.inside.clone(),
            images: self.images,
            skipped: self.skipped,
            unlistable: self.unlistable,
        }
    }
}

/// What one page of a listing gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The images; none on a page on which everything was left out.
    pub found: Vec<Found>,
    /// Where the listing stands after the page; past the last source on the last page.
    pub cursor: Cursor,
    /// What this listing left out so far; of a resumed job the cursor's total has more.
    pub left_out: LeftOut,
}

impl Page {
    /// Whether everything is listed.
    pub fn is_last(&self, sources: usize) -> bool {
        self.cursor.source == sources
    }
}

/// The sources and filters of a job, parsed.
#[derive(Debug, Clone)]
pub struct Scope {
    sources: Vec<Source>,
    filter: Filter,
    capture: Option<Capture>,
    base_dir: PathBuf,
    select: Selection,
    carry: Vec<CarriedColumn>,
    limit: u64,
    out: OutputLayout,
}

impl Scope {
    /// Parses the sources and globs of a spec. Asks the file system, and no bucket.
    ///
    /// # Errors
    /// [`PlanError::Location`] or [`PlanError::BadGlob`].
    pub async fn of(spec: &JobSpec) -> Result<Self, PlanError> {
        let (given, base_dir, kind) = (spec.sources.clone(), spec.base_dir.clone(), spec.select.kind);
        let parsed = offload(move || {
            let base_dir = Path::new(&base_dir);
            let source = |given: &String| Source::parse(given, kind, base_dir, Path::exists);
            given.iter().map(source).collect::<Result<_, _>>()
        });
        Ok(Self {
            sources: parsed.await?,
            filter: Filter::new(&spec.include, &spec.exclude)?.bounded(&spec.select),
            capture: spec.select.capture.as_deref().map(str::parse).transpose()?,
            base_dir: spec.base_dir.clone().into(),
            select: spec.select.clone(),
            carry: spec.carry.clone(),
            limit: spec.limit.unwrap_or(u64::MAX),
            out: OutputLayout::new(Location::parse(&spec.out, Path::new(&spec.base_dir))?),
        })
    }

    /// How many sources there are.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Makes sure that every source is there: one cheap request each, so that a misspelled second source is
    /// known before the first is planned.
    ///
    /// # Errors
    /// [`PlanError::SourceMissing`], or what the store says.
    pub async fn check_sources(&self, stores: &Stores) -> Result<(), PlanError> {
        for source in &self.sources {
            let store = stores.open(&source.location).await;
            let missing = |reason: &str| PlanError::SourceMissing {
                given: source.given.clone(),
                reason: reason.to_owned(),
            };
            if source.location.is_local() {
                if tokio::fs::metadata(source.location.to_string()).await.is_err() {
                    return Err(missing(&format!("there is no {} on this machine", source.location)));
                }
                continue;
            }
            if source.location.is_web() && matches!(source.reach, Reach::ExactOrBelow) {
                match store.head(source.location.key()).await {
                    Err(StorageError::NotFound { .. }) => return Err(missing("the server does not have it")),
                    other => drop(other?),
                }
                continue;
            }
            let prefix = match source.reach {
                Reach::Below | Reach::Path | Reach::Glob { .. } => source.folder(),
                Reach::ExactOrBelow => source.location.key().to_owned(),
            };
            // A first page answers whether the bucket is there and whether anything is.
            let first = store.list(&prefix, None).next().await;
            let page = match first.transpose() {
                Err(StorageError::NoSuchStore { store }) => {
                    return Err(missing(&format!("there is no bucket {store}")));
                }
                other => other?,
            };
            let named = !matches!(source.reach, Reach::Glob { .. }) && !prefix.is_empty();
            if named && page.is_none_or(|page| page.objects.is_empty() && page.unlistable == 0) {
                return Err(missing("nothing in the bucket begins with it"));
            }
        }
        Ok(())
    }

    fn is_output(&self, source: &Source, key: &str) -> bool {
        if !source.location.same_store(self.out.root()) {
            return false;
        }
        let (folder, out) = (source.folder(), self.out.prefix());
        // An output below the source is left out whole. Where the source lies in the output (or is it), only
        // the names that a job writes are.
        if out.starts_with(&folder) && out != folder {
            return key.starts_with(&out);
        }
        let own = key.strip_prefix(&out).is_some_and(|name| name.starts_with("_trawl/"));
        own || key == self.out.success() || self.out.batch_of_part(key).is_some()
    }
}

/// A listing under way; dropping it ends it.
#[derive(Debug)]
pub struct Enumeration {
    pages: mpsc::Receiver<Result<Page, PlanError>>,
    lister: JoinHandle<()>,
}

impl Enumeration {
    /// Starts to list after `cursor`.
    pub fn start(scope: Scope, stores: Arc<Stores>, cursor: Cursor) -> Self {
        let (send, pages) = mpsc::channel(PAGES_AHEAD);
        let lister = tokio::spawn(async move {
            let seen = Seen::default();
            let left_out = LeftOut::default();
            let mut lister = Lister { scope, stores, cursor, left_out, seen, send: send.clone() };
            if let Err(Stop::Failed(error)) = lister.run().await {
                // Nobody takes any more: then nobody wants to know.
                let _ = send.send(Err(error)).await;
            }
        });
        Self { pages, lister }
    }

    /// The next page; `None` after the last one. Cancel safe.
    ///
    /// # Errors
    /// [`PlanError`]; there are no more pages after one.
    pub async fn next(&mut self) -> Result<Option<Page>, PlanError> {
        match self.pages.recv().await {
            Some(page) => page.map(Some),
            None => {
                // The task has ended; if it panicked, a half-listed bucket must not look like a whole one.
                if let Err(error) = (&mut self.lister).await
                    && error.is_panic()
                {
                    std::panic::resume_unwind(error.into_panic());
                }
                Ok(None)
            }
        }
    }
}

impl Drop for Enumeration {
    fn drop(&mut self) {
        self.lister.abort();
    }
}

/// Why a lister ends early.
enum Stop {
    /// The limit is reached, or nobody takes the pages.
    Enough,
    Failed(PlanError),
}

impl<E: Into<PlanError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

struct Lister {
    scope: Scope,
    stores: Arc<Stores>,
    cursor: Cursor,
    left_out: LeftOut,
    /// What earlier outputs have.
    seen: Seen,
    send: mpsc::Sender<Result<Page, PlanError>>,
}

impl Lister {
    async fn run(&mut self) -> Result<(), Stop> {
        self.seen = Seen::read(&self.scope.select.since, &self.scope.base_dir, &self.stores).await?;
        let sources = self.scope.sources.clone();
        for (index, source) in sources.iter().enumerate().skip(self.cursor.source) {
            if index > self.cursor.source {
                self.cursor = Cursor { source: index, after: None, inside: None, ..self.cursor.clone() };
            }
            let store = self.stores.open(&source.location).await;
            match self.list(source, &store).await {
                Err(Stop::Enough) if self.send.is_closed() => return Err(Stop::Enough),
                Err(Stop::Enough) => break,
                other => other?,
            }
        }
        self.cursor = Cursor { source: sources.len(), after: None, inside: None, ..self.cursor.clone() };
        self.page(Vec::new()).await
    }

    async fn list(&mut self, source: &Source, store: &Arc<dyn Storage>) -> Result<(), Stop> {
        if let (Some(key), Some(inside)) = (self.cursor.after.clone(), self.cursor.inside.clone()) {
            // The producer before this one stopped in the middle of an object.
            let object = store.head(&key).await?;
            if object.etag != inside.etag {
                return Err(ContentsError::Changed { key: source.row_key(&object) }.into());
            }
            self.open(source, store, object, inside.next).await?;
        }
        let folder = source.folder();
        match &source.reach {
            Reach::Below => self.pages(source, store, &folder).await,
            Reach::Glob { literal, .. } => {
                let prefix = if source.location.is_local() { folder } else { folder + literal };
                self.pages(source, store, &prefix).await
            }
            Reach::Path => {
                let path = source.location.to_string();
                let metadata = tokio::fs::metadata(&path).await.map_err(|error| {
                    PlanError::SourceMissing { given: source.given.clone(), reason: error.to_string() }
                })?;
                if metadata.is_dir() {
                    self.pages(source, store, &folder).await
                } else {
                    self.single(source, store).await
                }
            }
            Reach::ExactOrBelow => {
                self.single(source, store).await?;
                if source.location.is_web() {
                    return Ok(());
                }
                self.pages(source, store, &folder).await
            }
        }
    }

    /// The object that the source names, if there is one: it is the first of a listing that begins with it.
    async fn single(&mut self, source: &Source, store: &Arc<dyn Storage>) -> Result<(), Stop> {
        let key = source.location.key();
        if self.cursor.after.is_some() {
            return Ok(());
        }
        let object = if source.location.is_local() || source.location.is_web() {
            Some(store.head(key).await?)
        } else {
            let first = store.list(key, None).next().await.transpose()?.unwrap_or_default();
            first.objects.into_iter().next().filter(|object| object.key == key)
        };
        match object {
            Some(object) => self.take(source, store, ListPage { objects: vec![object], unlistable: 0 }).await,
            None => Ok(()),
        }
    }

    async fn pages(&mut self, source: &Source, store: &Arc<dyn Storage>, prefix: &str) -> Result<(), Stop> {
        let after = self.cursor.after.clone();
        let mut pages = store.list(prefix, after.as_deref());
        while let Some(page) = pages.next().await {
            self.take(source, store, page?).await?;
        }
        Ok(())
    }

    /// The images of a page of the listing: its objects, or what is in them.
    async fn take(&mut self, source: &Source, store: &Arc<dyn Storage>, page: ListPage) -> Result<(), Stop> {
        if source.kind == SourceKind::Images {
            return self.take_images(source, page).await;
        }
        self.cursor.unlistable += page.unlistable;
        for object in page.objects {
            if object.key.ends_with('/') || self.scope.is_output(source, &object.key) {
                continue;
            }
            let named = source.is_named(&object.key);
            let refused = match source.path_of(&object.key) {
                _ if !named && !kind::holds(source.kind, &object.key) => Some(Reason::OtherType),
                None => Some(Reason::Unreached),
                Some(path) => self.scope.filter.excludes(path).then_some(Reason::Excluded),
            };
            match refused {
                None => self.open(source, store, object, 0).await?,
                Some(reason) => self.skip(reason),
            }
        }
        Ok(())
    }

    /// The images in an object, from `next` on.
    async fn open(
        &mut self,
        source: &Source,
        store: &Arc<dyn Storage>,
        object: ObjectMeta,
        next: u64,
    ) -> Result<(), Stop> {
        self.cursor.after = Some(object.key.clone());
        let select = &self.scope.select;
        let opening = Opening {
            kind: source.kind,
            store: store.clone(),
            given: source.row_key(&object),
            object,
            next,
            // A list in a bucket names keys of the bucket; one in a folder, files as a shell would.
            root: select.root.clone().unwrap_or_else(|| match source.location.is_local() {
                true => String::new(),
                false => source.location.with_key("").to_string(),
            }),
            image_column: select.image_column.clone(),
            key_column: select.key_column.clone(),
            carry: self.scope.carry.clone(),
            codes: select.codes.clone().into(),
            location: source.location.clone(),
        };
        let object = &opening.object;
        let mut pages = opening.entries()?;
        while let Some(entries) = pages.next().await {
            let mut found = Vec::new();
            for entry in entries? {
                if self.cursor.images == self.scope.limit {
                    break;
                }
                self.cursor.inside = Some(Inside { next: entry.next, etag: object.etag.clone() });
                let Some(mut image) = entry.image else {
                    self.cursor.unlistable += 1;
                    continue;
                };
                let refused = self
                    .scope
                    .filter
                    .refuses(&entry.path, entry.named, image.size, object.modified)
                    .or_else(|| self.seen.has(&image).then_some(Reason::Since));
                if let Some(reason) = refused {
                    self.skip(reason);
                    continue;
                }
                capture::fill(&mut image.carried, &opening.carry, self.scope.capture.as_ref(), &entry.path);
                found.push(self.found(object.key.clone(), image, entry.group_rows));
            }
            self.page(found).await?;
            if self.cursor.images == self.scope.limit {
                return Err(Stop::Enough);
            }
        }
        self.cursor.inside = None;
        Ok(())
    }

    async fn take_images(&mut self, source: &Source, page: ListPage) -> Result<(), Stop> {
        let mut found = Vec::with_capacity(page.objects.len());
        for object in page.objects {
            if self.cursor.images == self.scope.limit {
                break;
            }
            // Consoles make objects called `folder/` to show folders.
            if object.key.ends_with('/') || self.scope.is_output(source, &object.key) {
                continue;
            }
            let Some(path) = source.path_of(&object.key) else {
                self.skip(Reason::Unreached);
                continue;
            };
            let (filter, named) = (&self.scope.filter, source.is_named(&object.key));
            if let Some(reason) = filter.refuses(path, named, object.size, object.modified) {
                self.skip(reason);
                continue;
            }
            let mut image = ImageRef::whole(source.row_key(&object), object.etag, object.size);
            if self.seen.has(&image) {
                self.skip(Reason::Since);
                continue;
            }
            capture::fill(&mut image.carried, &self.scope.carry, self.scope.capture.as_ref(), path);
            self.cursor.after = Some(object.key.clone());
            found.push(self.found(object.key, image, 0));
        }
        self.cursor.unlistable += page.unlistable;
        self.page(found).await?;
        if self.cursor.images == self.scope.limit { Err(Stop::Enough) } else { Ok(()) }
    }

    fn skip(&mut self, reason: Reason) {
        self.cursor.skipped += 1;
        self.left_out.note(reason);
    }

    fn found(&mut self, store_key: String, image: ImageRef, group_rows: u32) -> Found {
        self.cursor.images += 1;
        Found {
            image,
            source: self.cursor.source,
            store_key,
            inside: self.cursor.inside.clone(),
            group_rows,
            images: self.cursor.images,
            skipped: self.cursor.skipped,
            unlistable: self.cursor.unlistable,
        }
    }

    async fn page(&self, found: Vec<Found>) -> Result<(), Stop> {
        let page = Page { found, cursor: self.cursor.clone(), left_out: self.left_out };
        self.send.send(Ok(page)).await.map_err(|_| Stop::Enough)
    }
}

#[cfg(test)]
#[path = "enumerate_tests.rs"]
mod tests;
