//! Walks a folder in the order in which a bucket lists: byte order of the whole keys.
//!
//! Depth first, each folder's entries sorted with a folder compared as its name plus `/`, so that `a.jpg`
//! comes before `a/b.jpg` as `.` comes before `/`. In memory are the sorted names of the folders that are
//! open, never the tree. It must never loop through symbolic links.

use super::{LocalStorage, TEMPORARY_PREFIX, meta};
use crate::storage::{ListPage, StorageError};
use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Objects in one page, as S3 has it.
const PAGE_OBJECTS: usize = 1000;

/// A walk that stands between two pages.
#[derive(Debug)]
pub(super) struct Walk {
    store: LocalStorage,
    prefix: String,
    start_after: String,
    /// The folders that are open, the outermost first; each lies in the one before.
    open: Vec<Folder>,
    started: bool,
}

#[derive(Debug)]
struct Folder {
    /// The key of its contents up to the last slash; empty for the root.
    key: String,
    /// Device and inode: a folder inside itself is a loop.
    identity: (u64, u64),
    /// What is left, in reverse order. Folders end in `/`.
    names: Vec<Box<str>>,
}

impl Walk {
    pub(super) fn new(
        store: LocalStorage,
        prefix: &str,
        start_after: Option<&str>,
    ) -> Result<Self, StorageError> {
        let (folder, name) = prefix.rsplit_once('/').map_or(("", prefix), |(folder, name)| (folder, name));
        // `/` alone, or a leading slash, leaves an empty folder with a slash behind it.
        let bad_folder = if prefix.contains('/') { super::check_key(folder).is_err() } else { false };
        if bad_folder || name.contains('\0') {
            let reason =
                "in a folder a prefix is a path without a leading slash, `//`, `.` and `..`".to_owned();
            return Err(StorageError::Invalid { key: prefix.to_owned(), reason });
        }
        let start_after = start_after.unwrap_or_default().to_owned();
        Ok(Self { store, prefix: prefix.to_owned(), start_after, open: Vec::new(), started: false })
    }

    pub(super) fn store(&self) -> &str {
        &self.store.name
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The next page, or `None` at the end. Blocks on the file system.
    pub(super) fn next_page(&mut self) -> Result<Option<ListPage>, StorageError> {
        let mut page = ListPage::default();
        if !self.started {
            self.started = true;
            self.open_first(&mut page)?;
        }
        while page.objects.len() < PAGE_OBJECTS {
            let Some(folder) = self.open.last_mut() else { break };
            let Some(name) = folder.names.pop() else {
                self.open.pop();
                continue;
            };
            let key = format!("{}{name}", folder.key);
            if key.ends_with('/') {
                if self.may_hold_wanted(&key) {
                    self.open_folder(key, &mut page)?;
                }
            } else if key.starts_with(&self.prefix) && key > self.start_after {
                self.add_file(&key, &mut page)?;
            }
        }
        Ok(if page == ListPage::default() { None } else { Some(page) })
    }

    /// Opens the innermost folder that holds the whole prefix.
    fn open_first(&mut self, page: &mut ListPage) -> Result<(), StorageError> {
        if !self.store.root.is_dir() {
            return match fs::metadata(&self.store.root) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.store.failed("", &e)),
                _ => Err(StorageError::NoSuchStore { store: self.store.name.to_string() }),
            };
        }
        let folder = self.prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let key = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        self.open_folder(key, page)
    }

    /// Whether a key below `folder` (which ends in `/`) can match the prefix and come after the start.
    fn may_hold_wanted(&self, folder: &str) -> bool {
        let on_the_way = folder.starts_with(&self.prefix) || self.prefix.starts_with(folder);
        on_the_way && (folder > self.start_after.as_str() || self.start_after.starts_with(folder))
    }

    fn open_folder(&mut self, key: String, page: &mut ListPage) -> Result<(), StorageError> {
        let path = self.path(&key);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) => return Ok(()),
            Err(error) => return self.gone_or_failed(&key, &error),
        };
        let identity = (metadata.dev(), metadata.ino());
        if self.open.iter().any(|folder| folder.identity == identity) {
            tracing::debug!(folder = %path.display(), "a link leads back into a folder above it: skipped");
            return Ok(());
        }
        match self.sorted_names(&key, &path, page) {
            Ok(names) => self.open.push(Folder { key, identity, names }),
            Err(error) => return self.gone_or_failed(&key, &error),
        }
        Ok(())
    }

    /// The names that are of interest, the last first.
    fn sorted_names(&self, key: &str, path: &Path, page: &mut ListPage) -> io::Result<Vec<Box<str>>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
                continue;
            }
            let Some(name) = name.to_str() else {
                page.unlistable += u64::from(self.concerns(key, &name));
                continue;
            };
            let mut kind = entry.file_type()?;
            if kind.is_symlink() {
                match fs::metadata(entry.path()) {
                    Ok(target) => kind = target.file_type(),
                    // A link to nowhere, or one that vanished, is no object.
                    Err(_) => continue,
                }
            }
            if kind.is_dir() {
                names.push(format!("{name}/").into_boxed_str());
            } else if kind.is_file() {
                names.push(name.into());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// Whether a name that is not text lies within the prefix and after the start, as far as its bytes say:
    /// a walk that was resumed must not count again what the one before it counted.
    fn concerns(&self, folder: &str, name: &OsStr) -> bool {
        let key = [folder.as_bytes(), name.as_encoded_bytes()].concat();
        key.starts_with(self.prefix.as_bytes()) && key.as_slice() > self.start_after.as_bytes()
    }

    fn add_file(&self, key: &str, page: &mut ListPage) -> Result<(), StorageError> {
        match fs::metadata(self.path(key)) {
            Ok(metadata) if metadata.is_file() => page.objects.push(meta(key, &metadata)),
            Ok(_) => {}
            Err(error) => self.gone_or_failed(key, &error)?,
        }
        Ok(())
    }

    /// What vanished since its folder was read is not listed; anything else ends the listing, since a list
    /// with silent holes would be taken for complete.
    fn gone_or_failed(&self, key: &str, error: &io::Error) -> Result<(), StorageError> {
        match self.store.failed(key, error) {
            StorageError::NotFound { .. } => Ok(()),
            error => Err(error),
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.store.root.join(key.trim_end_matches('/'))
    }
}
