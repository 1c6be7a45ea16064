//! Reads that wait for nothing: a file that the kernel holds in memory, read where it is asked for.
//!
//! Waking a thread for such a file, and then whoever waits for it, takes several times as long as reading it. The kernel is
//! asked to find the name and the bytes in memory or else to give up, so that this may be done on a tokio thread. It must
//! never be the one to report an error: what it does not give is read by a thread that may wait, which has the words.

use super::{etag, gathered::waits_of_this_thread};
use crate::storage::Object;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::{Errno, ReadWriteFlags, preadv2},
};
use std::{
    fs::{File, Metadata},
    io::IoSliceMut,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

/// Larger files are left to a thread: copying so much takes about 50 us, as long as a tokio task may go on by itself.
const MOST_BYTES: u64 = 512 << 10;

/// Files that were waited for although nothing was to wait, and no more are opened so: a file system across a network asks
/// its server when a file is opened, whatever the kernel has of it.
const MOST_WAITS: u32 = 8;

/// Such reads of a store.
#[derive(Default)]
pub(super) struct AtOnce {
    waits: AtomicU32,
}

/// Why a file was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// It would have to be waited for, it is too large, or something else is the matter with it.
    ThisOne,
    /// This system, or what it lets us do, has no such reads.
    Any,
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        match error {
            // A kernel before 5.12, a container that forbids what it does not know, a file system without such reads.
            Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP => Self::Any,
            _ => Self::ThisOne,
        }
    }
}

impl AtOnce {
    /// The whole of the file at `path`, if it is a regular one, is in memory and has at most `max_bytes`.
    pub(super) fn read(&self, path: &Path, max_bytes: u64) -> Option<Object> {
        if self.waits.load(Ordering::Relaxed) >= MOST_WAITS {
            return None;
        }
        let object = self.try_read(path, max_bytes);
        if object.as_ref().is_err_and(|refused| *refused == Refused::Any) {
            self.waits.store(MOST_WAITS, Ordering::Relaxed);
        }
        object.ok()
    }

    fn try_read(&self, path: &Path, max_bytes: u64) -> Result<Object, Refused> {
        let (file, metadata) = self.open(path)?;
        let size = metadata.len();
        if !metadata.is_file() || size > max_bytes.min(MOST_BYTES) {
            return Err(Refused::ThisOne);
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Refused::ThisOne)?];
        // One call: what it does not give is not in memory, or not there any more.
        let read = preadv2(&file, &mut [IoSliceMut::new(&mut bytes)], 0, ReadWriteFlags::NOWAIT)?;
        if read != bytes.len() {
            return Err(Refused::ThisOne);
        }
        Ok(Object { bytes: bytes.into(), size, etag: Some(etag(&metadata)) })
    }

    fn open(&self, path: &Path) -> Result<(File, Metadata), Refused> {
        // Only here: whoever takes memory may wait for another thread.
        let before = waits_of_this_thread();
        // O_NONBLOCK as in `LocalStorage::open`.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED)?);
        let metadata = file.metadata().map_err(|_| Refused::ThisOne)?;
        if waits_of_this_thread() != before {
            self.waits.fetch_add(1, Ordering::Relaxed);
        }
        Ok((file, metadata))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{ffi::CString, fs, os::unix::ffi::OsStrExt, os::unix::fs::symlink};

    /// A folder, and whether its file system has such reads at all: not each that has temporary files does.
    fn folder() -> (tempfile::TempDir, bool) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tried");
        fs::write(&file, b"tried").unwrap();
        let has = AtOnce::default().try_read(&file, 100).err() != Some(Refused::Any);
        (folder, has)
    }

    #[test]
    fn what_was_just_written_is_read_whole_and_as_a_thread_reads_it() {
        let (folder, has) = folder();
        let reads = AtOnce::default();
        for size in [0, 1, 4096, 70_000, usize::try_from(MOST_BYTES).unwrap()] {
            let file = folder.path().join(size.to_string());
            let written: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
            fs::write(&file, &written).unwrap();
            let read = reads.read(&file, MOST_BYTES);
            assert_eq!(read.is_some(), has, "{size} bytes");
            if let Some(Object { bytes, size: said, etag: tag }) = read {
                assert!(bytes == written, "{size} bytes are others");
                assert_eq!((said, tag), (size as u64, Some(etag(&fs::metadata(&file).unwrap()))));
            }
        }
    }

    #[test]
    fn what_is_large_or_no_file_is_left_to_those_with_words_for_it() {
        let (folder, _) = folder();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), [1; 100]).unwrap();
        fs::write(at("large"), vec![1; usize::try_from(MOST_BYTES).unwrap() + 1]).unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink(at("circle"), at("circle")).unwrap();
        let fifo = CString::new(at("fifo").as_os_str().as_bytes()).unwrap();
        // SAFETY: the name ends with a zero byte and outlives the call.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        let reads = AtOnce::default();
        for (name, most) in [
            ("file", 99),
            ("large", u64::MAX),
            ("folder", 100),
            ("circle", 100),
            ("fifo", 100),
            ("nothing", 100),
        ] {
            assert!(reads.read(&at(name), most).is_none(), "{name}");
        }
        let (refused, has) = (reads.try_read(&at("fifo"), 100), self::folder().1);
        assert!(!has || refused.err() == Some(Refused::ThisOne), "one odd file says nothing of the others");
    }

    #[test]
    fn where_files_are_waited_for_or_cannot_be_read_so_they_are_not_tried_again() {
        let (folder, has) = folder();
        let file = folder.path().join("tried");
        let reads = AtOnce { waits: AtomicU32::new(MOST_WAITS - 1) };
        assert_eq!(reads.read(&file, 100).is_some(), has);
        reads.waits.store(MOST_WAITS, Ordering::Relaxed);
        assert!(reads.read(&file, 100).is_none());
        for (error, refused) in [
            (Errno::NOSYS, Refused::Any),
            (Errno::OPNOTSUPP, Refused::Any),
            (Errno::AGAIN, Refused::ThisOne),
            (Errno::NOENT, Refused::ThisOne),
            (Errno::ACCESS, Refused::ThisOne),
        ] {
            assert_eq!(Refused::from(error), refused, "{error}");
        }
    }
}
