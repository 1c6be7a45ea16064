//! Gets a model bundle onto this machine and proves that it is the one the job was submitted with.
//!
//! Before a model is loaded, in the worker and, to learn its digest, in `submit`. A model is code: the
//! file that is handed out here always has the digest that was asked for, also when it comes from the
//! cache.

use crate::{
    job::{JobSpec, hex_sha256},
    location::Location,
    results::OutputLayout,
    storage::{StorageError, Stores},
};
use sha2::{Digest, Sha256};
use std::{
    fs::{File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// A bundle of more bytes is refused; it is held in memory once while it is fetched.
pub const MAX_MODEL_BYTES: u64 = 8 << 30;

/// Reads are hashed in pieces of this size.
const HASH_CHUNK_BYTES: usize = 1 << 20;

/// Between two looks at whether another process is done with fetching.
const LOCK_PACE: Duration = Duration::from_millis(50);

/// Why a bundle is not at hand.
#[derive(Debug, thiserror::Error)]
pub enum ModelFileError {
    /// The store.
    #[error("the model cannot be fetched")]
    Storage(#[from] StorageError),
    /// The local file or the cache.
    #[error("the model file `{path}` cannot be used: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Another model than the job's.
    #[error(
        "the model at `{location}` has sha256 {found}, the job was submitted with {expected}: it was replaced; submit a new job for the new model"
    )]
    Digest {
        /// Where it is.
        location: String,
        /// Its digest.
        found: String,
        /// The job's.
        expected: String,
    },
}

impl ModelFileError {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage(e) => e.is_transient(),
            Self::Io { .. } | Self::Digest { .. } => false,
        }
    }
}

/// A bundle on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Where it can be opened.
    pub path: PathBuf,
    /// Hex sha256 of its bytes.
    pub sha256: String,
}

/// The directory that holds fetched bundles when no `--cache` is given.
pub fn default_cache_dir() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .unwrap_or_else(std::env::temp_dir)
        .join("trawl/models")
}

/// The bundle at `location`, verified if `expected` is given. A local one is used where it lies; one in a
/// bucket is fetched into `cache_dir`, named by its digest, unless it is there. Processes of one host that want the same
/// digest fetch it once.
///
/// # Errors
/// [`ModelFileError`]. Cancel safe: a half-written cache file is never given its final name.
pub async fn obtain(
    stores: &Stores,
    location: &Location,
    expected: Option<&str>,
    cache_dir: &Path,
) -> Result<ModelFile, ModelFileError> {
    let check = |found: &str| match expected {
        Some(expected) if expected != found => Err(ModelFileError::Digest {
            location: location.to_string(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        }),
        _ => Ok(()),
    };
    if location.is_local() {
        let path = PathBuf::from(location.to_string());
        let sha256 = hash_file(path.clone()).await?;
        check(&sha256)?;
        return Ok(ModelFile { path, sha256 });
    }
    // Of the processes of a host that want the same model, one fetches it and the others find it.
    let mut _alone = None;
    if let Some(expected) = expected {
        let path = cache_dir.join(format!("{expected}.pt"));
        let cached = || async {
            // Hashed again: a cache that was cut short by a full disk must not be loaded.
            let found = hash_file(path.clone()).await;
            let sha256 = expected.to_owned();
            found.is_ok_and(|found| found == sha256).then(|| ModelFile { path: path.clone(), sha256 })
        };
        if let Some(file) = cached().await {
            return Ok(file);
        }
        _alone = Some(lock(&path.with_extension("lock")).await?);
        if let Some(file) = cached().await {
            return Ok(file);
        }
    }
    let object = stores.open(location).await.get(location.key(), MAX_MODEL_BYTES).await?;
    let cache_dir = cache_dir.to_owned();
    let file = blocking(move || {
        let sha256 = hex_sha256(&object.bytes);
        let path = cache_dir.join(format!("{sha256}.pt"));
        write_atomically(&cache_dir, &path, &object.bytes)
            .map_err(|source| ModelFileError::Io { path: path.clone(), source })?;
        Ok(ModelFile { path, sha256 })
    })
    .await?;
    check(&file.sha256)?;
    Ok(file)
}

/// The bundle of a job from its `place`, or from its output: a job that was begun on another machine may name a file of that
/// machine's, and `submit` puts a copy beside the results.
///
/// # Errors
/// As [`obtain`].
pub async fn of_job(
    stores: &Stores,
    spec: &JobSpec,
    place: &Location,
    out: &Location,
    cache_dir: &Path,
) -> Result<ModelFile, ModelFileError> {
    let sha256 = Some(spec.model.sha256.as_str());
    match obtain(stores, place, sha256, cache_dir).await {
        Err(ModelFileError::Io { .. }) if place.is_local() => {}
        obtained => return obtained,
    }
    let copy = out.with_key(OutputLayout::new(out.clone()).model(&spec.model.sha256));
    obtain(stores, &copy, sha256, cache_dir).await
}

/// Makes another bundle out of one: a copy in `cache_dir` that `change` has been at, named by its digest.
///
/// # Errors
/// [`ModelFileError::Io`], also for what `change` gives. Cancel safe.
pub async fn derive(
    from: &ModelFile,
    cache_dir: &Path,
    change: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> Result<ModelFile, ModelFileError> {
    let (from, dir) = (from.path.clone(), cache_dir.to_owned());
    blocking(move || {
        let derive = || -> io::Result<ModelFile> {
            std::fs::create_dir_all(&dir)?;
            let copy = tempfile::NamedTempFile::new_in(&dir)?.into_temp_path();
            std::fs::copy(&from, &copy)?;
            change(&copy)?;
            let sha256 = hash(&copy)?;
            let path = dir.join(format!("{sha256}.pt"));
            copy.persist(&path)?;
            Ok(ModelFile { path, sha256 })
        };
        derive().map_err(|source| ModelFileError::Io { path: from.clone(), source })
    })
    .await
}

/// Holds `path` against every other process of this host until it is dropped; the system lets go of it if we die. The
/// file stays, empty: who removed it might remove somebody else's. Cancel safe.
async fn lock(path: &Path) -> Result<File, ModelFileError> {
    let open = || -> io::Result<File> {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        File::options().create(true).truncate(false).write(true).open(path)
    };
    let failed = |source| ModelFileError::Io { path: path.to_owned(), source };
    let file = open().map_err(failed)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A file system without locks: fetched more than once is no harm.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PACE).await,
        }
    }
}

fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; HASH_CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hasher.update(&chunk[..n]),
        }
    }
}

async fn hash_file(path: PathBuf) -> Result<String, ModelFileError> {
    blocking(move || hash(&path).map_err(|source| ModelFileError::Io { path: path.clone(), source })).await
}

fn write_atomically(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    // A random name of its own, since two containers that share the folder may both be process 1; removed
    // again if anything fails; the rename makes the file whole.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ModelFileError> + Send + 'static,
) -> Result<T, ModelFileError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test]
    async fn one_of_many_fetches_and_a_damaged_copy_is_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let stores = Stores::in_memory();
        let place = Location::parse("s3://models/m.pt", Path::new("/")).unwrap();
        let store = stores.open(&place).await;
        store.put("m.pt", Bytes::from_static(b"weights")).await.unwrap();
        let sha256 = hex_sha256(b"weights");
        let get = || obtain(&stores, &place, Some(&sha256), dir.path());
        // Another process has it under way.
        std::fs::create_dir_all(dir.path()).unwrap();
        let other = lock(&dir.path().join(format!("{sha256}.lock"))).await.unwrap();
        let waiting = get();
        tokio::pin!(waiting);
        let early = tokio::time::timeout(3 * LOCK_PACE, &mut waiting).await;
        assert!(early.is_err(), "it must wait for the other");
        // The other one is done, and the model is gone from its place: it is not asked for again.
        write_atomically(dir.path(), &dir.path().join(format!("{sha256}.pt")), b"weights").unwrap();
        store.delete("m.pt").await.unwrap();
        drop(other);
        let file = waiting.await.unwrap();
        assert_eq!(std::fs::read(&file.path).unwrap(), b"weights");
        assert_eq!(get().await.unwrap(), file);
        // Cut short by a full disk.
        std::fs::write(&file.path, b"weigh").unwrap();
        store.put("m.pt", Bytes::from_static(b"weights")).await.unwrap();
        assert_eq!(std::fs::read(&get().await.unwrap().path).unwrap(), b"weights");
        // Replaced at its place since.
        std::fs::remove_file(&file.path).unwrap();
        store.put("m.pt", Bytes::from_static(b"others")).await.unwrap();
        assert!(matches!(get().await.unwrap_err(), ModelFileError::Digest { .. }));
    }
}
