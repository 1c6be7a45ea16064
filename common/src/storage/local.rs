//! Folders as a store: keys are `/`-separated paths below a root.
//!
//! A put writes to a temporary name in the same folder and renames, a create-only put links, and both are
//! flushed down to the folder before they return. Listing is in [`walk`], how files are read together in
//! [`gathered`]. Every call into the file system that may wait runs on a blocking thread; those of [`at_once`]
//! give up instead. It must never follow a key out of its root, and never open what is no regular file (a FIFO would
//! hang the thread).

mod at_once;
mod gathered;
mod walk;

use super::{ListPage, Object, ObjectMeta, Passing, PutOutcome, Storage, StorageError};
use async_trait::async_trait;
use at_once::AtOnce;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use gathered::Gathered;
use std::{
    fmt,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Files with this beginning are puts under way, or left behind by a process that died; listings skip them.
const TEMPORARY_PREFIX: &str = ".trawl-tmp-";

/// How often a taken temporary name is passed over. Names are taken only by dead processes of the same id
/// or by other hosts on a shared file system, so a handful is plenty.
const TEMPORARY_ATTEMPTS: usize = 1000;

/// A folder.
#[derive(Clone)]
pub struct LocalStorage {
    root: Arc<Path>,
    name: Arc<str>,
    at_once: Arc<AtOnce>,
    reads: Arc<Gathered>,
}

impl fmt::Debug for LocalStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStorage").field("root", &self.root).finish_non_exhaustive()
    }
}

impl LocalStorage {
    /// The store whose keys are paths below `root`; `/` for the whole file system. Nothing is touched yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let name = format!("file://{}", root.to_string_lossy().trim_end_matches('/'));
        Self { root: root.into(), name: name.into(), at_once: Arc::default(), reads: Arc::default() }
    }

    fn path(&self, key: &str) -> Result<PathBuf, StorageError> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    /// The error of the file system in the words of the seam.
    fn failed(&self, key: &str, error: &io::Error) -> StorageError {
        let shown = self.root.join(key).to_string_lossy().into_owned();
        let store = self.name.to_string();
        let invalid = |reason: &str| StorageError::Invalid { key: shown.clone(), reason: reason.to_owned() };
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => StorageError::NotFound { key: shown },
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                StorageError::Forbidden { key: shown, reason: error.to_string() }
            }
            Some(libc::EISDIR) => invalid("it is a folder"),
            Some(libc::ENAMETOOLONG) => invalid("the name is too long for this file system"),
            Some(libc::ELOOP) => invalid("its symbolic links lead in a circle"),
            Some(libc::ENOSPC | libc::EDQUOT) => StorageError::Other {
                store,
                key: shown,
                reason: "no space is left: free some, or write elsewhere".into(),
            },
            // A network file system that lost its server.
            Some(code @ (libc::ESTALE | libc::ETIMEDOUT | libc::EMFILE | libc::ENFILE)) => {
                let late = code == libc::ETIMEDOUT;
                let cause = if late { Passing::TimedOut } else { Passing::Unavailable };
                StorageError::Transient { store, key: shown, cause, reason: error.to_string() }
            }
            _ => StorageError::Other { store, key: shown, reason: error.to_string() },
        }
    }

    /// Runs `work` on a blocking thread. Dropping the future does not stop it: a put that has begun ends.
    async fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Self, &str, &Path) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let path = self.path(key)?;
        let (store, key) = (self.clone(), key.to_owned());
        let task = tokio::task::spawn_blocking(move || work(&store, &key, &path));
        task.await.unwrap_or_else(|error| Err(self.ended_early(&error.to_string())))
    }

    /// The error of a call whose thread did not come to its end.
    fn ended_early(&self, why: &str) -> StorageError {
        let (store, key) = (self.name.to_string(), String::new());
        StorageError::Other { store, key, reason: format!("the file task ended early: {why}") }
    }

    /// Opens a regular file for reading; anything else that is there is no object.
    fn open(&self, key: &str, path: &Path) -> Result<(File, Metadata), StorageError> {
        // O_NONBLOCK matters for a FIFO only: opening one would wait for a writer.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(|e| self.failed(key, &e))?;
        let metadata = file.metadata().map_err(|e| self.failed(key, &e))?;
        if metadata.is_file() { Ok((file, metadata)) } else { Err(self.not_an_object(key, &metadata)) }
    }

    /// A folder is no object, as in a bucket; a device or FIFO is named as what it is.
    fn not_an_object(&self, key: &str, metadata: &Metadata) -> StorageError {
        let key = self.root.join(key).to_string_lossy().into_owned();
        if metadata.is_dir() {
            StorageError::NotFound { key }
        } else {
            StorageError::Invalid { key, reason: "it is neither a regular file nor a folder".into() }
        }
    }

    /// Exactly `len` bytes from where `file` stands.
    fn read_exactly(&self, key: &str, file: File, len: u64) -> Result<Bytes, StorageError> {
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        file.take(len).read_to_end(&mut bytes).map_err(|e| self.failed(key, &e))?;
        if bytes.len() as u64 == len {
            return Ok(bytes.into());
        }
        let reason = format!("it shrank from {len} to {} bytes while it was read", bytes.len());
        let key = self.root.join(key).to_string_lossy().into_owned();
        let (store, cause) = (self.name.to_string(), Passing::Unavailable);
        Err(StorageError::Transient { store, key, cause, reason })
    }

    /// Writes `bytes` to a temporary file beside `path`, flushed, creating the folders on the way.
    fn write_temporary(&self, key: &str, path: &Path, bytes: &[u8]) -> Result<Temporary, StorageError> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        create_folders(parent).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOTDIR | libc::EEXIST) => StorageError::Invalid {
                key: path.to_string_lossy().into_owned(),
                reason: format!("`{}` is not a folder", parent.display()),
            },
            _ => self.failed(key, &e),
        })?;
        let (temporary, mut file) = Temporary::create(parent).map_err(|e| self.failed(key, &e))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| self.failed(key, &e))?;
        Ok(temporary)
    }
}

/// A file that removes itself unless it was renamed away.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn create(folder: &Path) -> io::Result<(Self, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut taken = None;
        for _ in 0..TEMPORARY_ATTEMPTS {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{TEMPORARY_PREFIX}{}-{n}", process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((Self { path, renamed: false }, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(taken.unwrap_or_else(|| io::Error::other("no temporary name is free")))
    }

    /// Takes the place of `target`, whatever is there.
    fn replace(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        // The name is free again and may be another process's by now.
        self.renamed = true;
        Ok(())
    }

    /// Takes the name `target` if nobody has it; true if it was free.
    fn claim(mut self, target: &Path) -> io::Result<bool> {
        match fs::hard_link(&self.path, target) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // NFS may have linked and lost the reply; the count of links knows.
                Ok(fs::metadata(&self.path).is_ok_and(|m| m.nlink() > 1))
            }
            // File systems without hard links.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS)) =>
            {
                self.renamed = rename_if_absent(&self.path, target)?;
                Ok(self.renamed)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn rename_if_absent(from: &Path, to: &Path) -> io::Result<bool> {
    use std::{ffi::CString, os::unix::ffi::OsStrExt};
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    // SAFETY: both are NUL-terminated and outlive the call; AT_FDCWD needs no open folder.
    let result = unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_NOREPLACE)
    };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        error => Err(error),
    }
}

/// Creates `folder` and what is missing above it, each flushed into its parent: a file whose folder is lost
/// in a crash is lost too.
fn create_folders(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(folder.parent().unwrap_or(Path::new("/"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_folders(folder.parent().ok_or(error)?)?;
            match fs::create_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error),
                Ok(()) => sync_folder(folder.parent().unwrap_or(Path::new("/"))),
            }
        }
        // The usual case; also for a root that may not be written to (EACCES, EROFS, EISDIR for `/`).
        Err(_) if folder.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Modification time in nanoseconds and size, in hex.
fn etag(metadata: &Metadata) -> String {
    let nanoseconds = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    format!("{nanoseconds:x}-{:x}", metadata.len())
}

fn meta(key: &str, metadata: &Metadata) -> ObjectMeta {
    let modified = u64::try_from(metadata.mtime()).ok();
    ObjectMeta { key: key.to_owned(), size: metadata.len(), etag: Some(etag(metadata)), modified }
}

/// A key is a path of plain names.
fn check_key(key: &str) -> Result<(), StorageError> {
    let invalid = |reason: &str| StorageError::Invalid { key: key.to_owned(), reason: reason.to_owned() };
    if key.contains('\0') {
        return Err(invalid("a file name cannot contain a NUL byte"));
    }
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(invalid(
            "in a folder a key is a path without a leading or trailing slash, `//`, `.` and `..`",
        ));
    }
    Ok(())
}

#[async_trait]
impl Storage for LocalStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>> {
        // Each page is made on a blocking thread that is free again while the page is consumed.
        let begin = walk::Walk::new(self.clone(), prefix, start_after);
        let pages = stream::unfold(Some(begin), |walk| async move {
            let mut walk = match walk? {
                Ok(walk) => walk,
                Err(error) => return Some((Err(error), None)),
            };
            let (store, key) = (walk.store().to_owned(), walk.prefix().to_owned());
            let task = tokio::task::spawn_blocking(move || (walk.next_page(), walk));
            match task.await {
                Ok((Ok(None), _)) => None,
                Ok((Ok(Some(page)), walk)) => Some((Ok(page), Some(Ok(walk)))),
                Ok((Err(error), _)) => Some((Err(error), None)),
                Err(error) => {
                    let reason = format!("the listing ended early: {error}");
                    Some((Err(StorageError::Other { store, key, reason }), None))
                }
            }
        });
        pages.boxed()
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        let path = self.path(key)?;
        if let Some(object) = self.at_once.read(&path, max_bytes) {
            return Ok(object);
        }
        let (store, key) = (self.clone(), key.to_owned());
        let read = self.reads.read(move || {
            let (file, metadata) = store.open(&key, &path)?;
            let size = metadata.len();
            if size > max_bytes {
                let key = path.to_string_lossy().into_owned();
                return Err(StorageError::TooLarge { key, size, limit: max_bytes });
            }
            Ok(Object { bytes: store.read_exactly(&key, file, size)?, size, etag: Some(etag(&metadata)) })
        });
        read.await.unwrap_or_else(|| Err(self.ended_early("its runtime ends")))
    }

    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        self.blocking(key, move |store, key, path| {
            let (mut file, metadata) = store.open(key, path)?;
            let size = metadata.len();
            let len = len.min(size);
            file.seek(SeekFrom::Start(size - len)).map_err(|e| store.failed(key, &e))?;
            Ok(Object { bytes: store.read_exactly(key, file, len)?, size, etag: Some(etag(&metadata)) })
        })
        .await
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        self.blocking(key, move |store, key, path| {
            let (mut file, metadata) = store.open(key, path)?;
            let size = metadata.len();
            let len = len.min(size.saturating_sub(offset));
            file.seek(SeekFrom::Start(offset.min(size))).map_err(|e| store.failed(key, &e))?;
            Ok(Object { bytes: store.read_exactly(key, file, len)?, size, etag: Some(etag(&metadata)) })
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.blocking(key, |store, key, path| {
            let metadata = fs::metadata(path).map_err(|e| store.failed(key, &e))?;
            if metadata.is_file() {
                Ok(meta(key, &metadata))
            } else {
                Err(store.not_an_object(key, &metadata))
            }
        })
        .await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
        self.blocking(key, move |store, key, path| {
            let temporary = store.write_temporary(key, path, &bytes)?;
            temporary.replace(path).and_then(|()| sync_parent(path)).map_err(|e| store.failed(key, &e))
        })
        .await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        self.blocking(key, move |store, key, path| {
            // The look is not decisive, only cheap: what is there need not be written a second time.
            let won = if path.symlink_metadata().is_ok() {
                false
            } else {
                let temporary = store.write_temporary(key, path, &bytes)?;
                temporary.claim(path).map_err(|e| store.failed(key, &e))?
            };
            // The loser too: who is told that the object exists must be able to rely on it.
            sync_parent(path).map_err(|e| store.failed(key, &e))?;
            Ok(if won { PutOutcome::Created } else { PutOutcome::AlreadyExists })
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.blocking(key, |store, key, path| match fs::remove_file(path) {
            Ok(()) => sync_parent(path).map_err(|e| store.failed(key, &e)),
            // A folder is no object, so there is nothing to remove.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EISDIR)) => Ok(()),
            Err(e) => Err(store.failed(key, &e)),
        })
        .await
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

#[cfg(test)]
mod tests;
