//! Gets a model onto this machine together with its description, wherever that lies.
//!
//! Before a job is planned, a model is checked or a bench begins; a worker never comes here, it gets one file by its digest.
//! A bundle describes itself. A bare model is described by files beside it in the same store: `NAME.json` of ours, timm's
//! `config.json`, or Hugging Face's `config.json` with its `preprocessor_config.json`; a folder may be laid out as Triton's.
//! What is found is put into a copy of the model, which is a bundle from then on and has a digest of its own. Must never guess:
//! two descriptions, or one that does not hold, are errors.

use crate::{
    bundle::{self, BundleError, BundleSpec, add_description, beside::Beside, triton},
    location::Location,
    model_file::{self, ModelFile, ModelFileError},
    storage::{Storage, StorageError, Stores},
};
use futures::TryStreamExt;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file beside a model of more bytes is not one of those that are known: 100,000 labels have a tenth of it.
const MAX_BESIDE_BYTES: u64 = 100 << 20;

/// A folder with more objects is no model's.
const MAX_LISTED: usize = 10_000;

/// A model with its description inside.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The bundle.
    pub file: ModelFile,
    /// What it says.
    pub spec: BundleSpec,
    /// Where the bundle is: the place that was given, or this machine's cache if it was made here.
    pub location: Location,
    /// The files that described it, if it did not do so itself.
    pub described_by: Vec<String>,
}

/// Why there is no model to use.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The model's file.
    #[error(transparent)]
    File(#[from] ModelFileError),
    /// What the model's file says.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A file beside it that does not hold.
    #[error("the model `{model}` cannot be described by `{file}`: {reason}")]
    Beside {
        /// The model's place.
        model: String,
        /// The file's.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A folder without a model.
    #[error("`{folder}` is no model: {reason}")]
    NoModel {
        /// The folder.
        folder: String,
        /// What was looked for.
        reason: String,
    },
}

impl ImportError {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::File(error) => error.is_transient(),
            Self::Bundle(_) | Self::Beside { .. } | Self::NoModel { .. } => false,
        }
    }
}

impl From<StorageError> for ImportError {
    fn from(error: StorageError) -> Self {
        Self::File(error.into())
    }
}

/// The model at `given`: a bundle, a bare model with its description beside it, or a folder with either.
///
/// # Errors
/// [`ImportError`]. Cancel safe: what is half made never gets a final name.
pub async fn import(stores: &Stores, given: &Location, cache_dir: &Path) -> Result<Imported, ImportError> {
    let store = stores.open(given).await;
    let place = Place::find(&store, given).await?;
    if place.model.is_local() {
        // Before the digest, which reads the whole file: what is no model is said at once.
        match read(PathBuf::from(place.model.to_string())).await {
            Err(ImportError::Bundle(BundleError::NoSpec { .. } | BundleError::Unreadable { .. })) => {}
            read => drop(read?),
        }
    }
    let file = model_file::obtain(stores, &place.model, None, cache_dir).await?;
    match read(file.path.clone()).await {
        Ok(spec) => {
            place.agree(&spec)?;
            Ok(Imported { file, spec, location: place.model, described_by: Vec::new() })
        }
        Err(ImportError::Bundle(BundleError::NoSpec { .. })) => {
            let (spec, described_by) = place.describe(&*store).await?;
            place.agree(&spec)?;
            let file = model_file::derive(&file, cache_dir, {
                let spec = spec.clone();
                move |copy| add_description(copy, &spec).map_err(std::io::Error::other)
            });
            let file = file.await?;
            let location = Location::parse(&file.path.to_string_lossy(), Path::new("/")).map_err(|e| {
                ImportError::NoModel { folder: file.path.display().to_string(), reason: e.to_string() }
            })?;
            Ok(Imported { file, spec, location, described_by })
        }
        Err(error) => Err(error),
    }
}

async fn read(path: PathBuf) -> Result<BundleSpec, ImportError> {
    let read = tokio::task::spawn_blocking(move || BundleSpec::read(&path)).await;
    Ok(read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?)
}

/// A model and the folders that may say more of it.
struct Place {
    model: Location,
    /// Where descriptions are looked for, the nearest first.
    folders: Vec<Location>,
    /// The configuration of Triton's, with its place.
    triton: Option<(Location, triton::Config)>,
}

impl Place {
    /// A file is what it is; a folder has one version in it, or several in Triton's layout.
    async fn find(store: &Arc<dyn Storage>, given: &Location) -> Result<Self, ImportError> {
        let key = given.key();
        let is_file = if key.is_empty() || key.ends_with('/') {
            false
        } else if given.is_local() {
            let path = PathBuf::from(given.to_string());
            !tokio::task::spawn_blocking(move || path.is_dir()).await.unwrap_or(false)
        } else {
            // A name says enough: an object that is missing is an error of its own.
            bundle::has_suffix(key) || exists(&**store, key).await?
        };
        if is_file {
            let folder = given.with_key(key.rsplit_once('/').map_or("", |(folder, _)| folder));
            return Ok(Self { model: given.clone(), folders: vec![folder], triton: None });
        }
        Self::within(store, given.clone().without_trailing_slash()).await
    }

    async fn within(store: &Arc<dyn Storage>, folder: Location) -> Result<Self, ImportError> {
        let at = folder.join(triton::CONFIG);
        let config = match fetch(&**store, &at).await? {
            Some(text) => triton::Config::read(&String::from_utf8_lossy(&text)).map_err(|reason| {
                ImportError::Beside { model: folder.to_string(), file: at.to_string(), reason }
            })?,
            None => triton::Config::none(),
        };
        let names = names(&**store, &folder).await?;
        let versions: Vec<u64> = names
            .iter()
            .filter_map(|name| name.strip_suffix(&config.file)?.strip_suffix('/')?.parse().ok())
            .collect();
        let direct = names.contains(&config.file);
        let none = |reason: String| ImportError::NoModel { folder: folder.to_string(), reason };
        let model = match config.version(&versions) {
            Some(version) if direct => {
                return Err(none(format!(
                    "it has `{0}` and `{version}/{0}`: remove one of them",
                    config.file
                )));
            }
            Some(version) => folder.join(&version.to_string()).join(&config.file),
            None if direct => folder.join(&config.file),
            None => {
                return Err(none(format!(
                    "there is neither `{0}` in it nor a version such as `1/{0}` that may be used",
                    config.file
                )));
            }
        };
        let mut folders = vec![folder.clone()];
        if !direct {
            let own = model.key().rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.insert(0, model.with_key(own));
        }
        Ok(Self { model, folders, triton: Some((at, config)) })
    }

    /// The description from the files beside the model, and their places.
    async fn describe(&self, store: &dyn Storage) -> Result<(BundleSpec, Vec<String>), ImportError> {
        let stem = self.model.key().rsplit('/').next().unwrap_or_default();
        let stem = bundle::stem(stem);
        let called = self.triton.as_ref().map_or(stem, |(at, config)| {
            // Every model of such a folder is called model.pt.
            let folder = at.key().rsplit('/').nth(1).filter(|name| !name.is_empty());
            config.name.as_deref().or(folder).unwrap_or(stem)
        });
        let labels = self.labels(store).await?;
        for folder in &self.folders {
            let mut beside = Beside { name: called.to_owned(), labels: labels.clone(), ..Beside::default() };
            let own = folder.join(&format!("{stem}.json"));
            beside.own = fetch(store, &own).await?.map(|json| (own.to_string(), json));
            let config = folder.join(bundle::beside::CONFIG);
            if config != own {
                beside.config = fetch(store, &config).await?.map(|json| (config.to_string(), json));
            }
            let processor = folder.join(bundle::beside::PROCESSOR);
            beside.processor = fetch(store, &processor).await?.map(|json| (processor.to_string(), json));
            if let Some(described) = beside.describe() {
                return described.map_err(|(file, reason)| ImportError::Beside {
                    model: self.model.to_string(),
                    file,
                    reason,
                });
            }
        }
        let looked = self.folders.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        Err(BundleError::NoSpec {
            path: self.model.to_string().into(),
            beside: format!(
                "{stem}.json, {} or {} in {looked}",
                bundle::beside::CONFIG,
                bundle::beside::PROCESSOR
            ),
        }
        .into())
    }

    /// The labels that Triton's configuration names.
    async fn labels(&self, store: &dyn Storage) -> Result<Option<(String, Vec<String>)>, ImportError> {
        let Some((at, config)) = &self.triton else { return Ok(None) };
        let Some(name) = &config.labels else { return Ok(None) };
        let folder = at.with_key(at.key().rsplit_once('/').map_or("", |(folder, _)| folder));
        let place = folder.join(name);
        let text = fetch(store, &place).await?.ok_or_else(|| ImportError::Beside {
            model: self.model.to_string(),
            file: at.to_string(),
            reason: format!("its `label_filename` is `{name}`, and there is no such file"),
        })?;
        Ok(Some((place.to_string(), triton::labels(&String::from_utf8_lossy(&text)))))
    }

    /// Whether Triton's configuration fits.
    fn agree(&self, spec: &BundleSpec) -> Result<(), ImportError> {
        let Some((at, config)) = &self.triton else { return Ok(()) };
        config.agree(spec).map_err(|reason| ImportError::Beside {
            model: self.model.to_string(),
            file: at.to_string(),
            reason,
        })
    }
}

async fn exists(store: &dyn Storage, key: &str) -> Result<bool, ImportError> {
    match store.head(key).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A small object, or none.
async fn fetch(store: &dyn Storage, place: &Location) -> Result<Option<Vec<u8>>, ImportError> {
    match store.get(place.key(), MAX_BESIDE_BYTES).await {
        Ok(object) => Ok(Some(object.bytes.to_vec())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The names of the objects below a folder.
async fn names(store: &dyn Storage, folder: &Location) -> Result<Vec<String>, ImportError> {
    let prefix = if folder.key().is_empty() { String::new() } else { format!("{}/", folder.key()) };
    let mut names = Vec::new();
    let mut pages = store.list(&prefix, None);
    while let Some(page) = pages.try_next().await? {
        names.extend(
            page.objects.iter().filter_map(|object| Some(object.key.strip_prefix(&prefix)?.to_owned())),
        );
        if names.len() > MAX_LISTED {
            let reason = format!("it has more than {MAX_LISTED} objects: name the model's file");
            return Err(ImportError::NoModel { folder: folder.to_string(), reason });
        }
    }
    Ok(names)
}

#[cfg(test)]
#[path = "model_import_tests.rs"]
mod tests;
