//! The local store on real folders: order, odd names, races, limits.

use super::*;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, os::unix::fs::symlink};

struct Folder {
    store: LocalStorage,
    root: tempfile::TempDir,
}

impl Folder {
    fn with(files: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        Self { store: LocalStorage::new(root.path()), root }
    }

    async fn pages(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ListPage>, StorageError> {
        self.store.list(prefix, after).collect::<Vec<_>>().await.into_iter().collect()
    }

    async fn keys(&self, prefix: &str, after: Option<&str>) -> Vec<String> {
        let pages = self.pages(prefix, after).await.unwrap();
        pages.into_iter().flat_map(|page| page.objects).map(|object| object.key).collect()
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    crate::contract::storage::suite(Arc::new(LocalStorage::new(root.path())), "contract/run/").await;
    let left: Vec<_> = walk_names(root.path());
    assert!(
        !left.iter().any(|name| name.starts_with(TEMPORARY_PREFIX)),
        "temporary files are left: {left:?}"
    );
}

fn walk_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .flat_map(|entry| {
            let mut names = vec![entry.file_name().to_string_lossy().into_owned()];
            if entry.path().is_dir() {
                names.extend(walk_names(&entry.path()));
            }
            names
        })
        .collect()
}

#[tokio::test]
async fn order_is_that_of_the_whole_keys() {
    let files =
        ["a-b/1", "a.jpg", "a/1", "a/b/c", "a/b.jpg", "a0", "B", "b/", "back\\slash", "z/é", "z/e\u{301}"];
    let folder = Folder::with(&files.map(|f| if f.ends_with('/') { "b/x" } else { f }));
    let listed = folder.keys("", None).await;
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    assert_eq!(listed, sorted);
    assert_eq!(listed.len(), files.len());
    // Any start gives exactly the rest.
    for (i, key) in listed.iter().enumerate() {
        assert_eq!(folder.keys("", Some(key)).await, listed[i + 1..], "after {key}");
    }
    // Starts that are no key themselves: folders, and names between.
    for start in ["a", "a/", "a/b", "a/b/", "a/zzz", "b", "zz", "A"] {
        let expected: Vec<_> = listed.iter().filter(|key| key.as_str() > start).cloned().collect();
        assert_eq!(folder.keys("", Some(start)).await, expected, "after {start}");
    }
    // Any prefix gives exactly the keys that begin with it.
    for prefix in ["a", "a/", "a/b", "a/b/", "a/b/c", "a.jpg", "a-", "B", "nothing", "a.jpg/", "z/"] {
        let expected: Vec<_> = listed.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        assert_eq!(folder.keys(prefix, None).await, expected, "prefix {prefix}");
    }
}

#[tokio::test]
async fn pages_have_a_thousand_objects() {
    let files: Vec<String> = (0..1001).map(|i| format!("d{}/{i:05}", i % 3)).collect();
    let folder = Folder::with(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let sizes: Vec<_> = folder.pages("", None).await.unwrap().iter().map(|p| p.objects.len()).collect();
    assert_eq!(sizes, [1000, 1]);
}

#[tokio::test]
async fn links_are_followed_but_never_in_circles() {
    let folder = Folder::with(&["real/a.jpg", "real/deep/b.jpg"]);
    let root = folder.root.path();
    symlink(root.join("real/a.jpg"), root.join("link.jpg")).unwrap();
    symlink(root.join("real"), root.join("linked")).unwrap();
    symlink(root, root.join("real/deep/up")).unwrap();
    symlink(root.join("nowhere"), root.join("broken")).unwrap();
    symlink(root.join("self"), root.join("self")).unwrap();
    let keys = folder.keys("", None).await;
    assert_eq!(
        keys,
        ["link.jpg", "linked/a.jpg", "linked/deep/b.jpg", "real/a.jpg", "real/deep/b.jpg"],
        "the way up is skipped, the link sideways is not"
    );
}

#[tokio::test]
async fn what_is_no_file_is_skipped_and_what_is_no_text_is_counted() {
    let folder = Folder::with(&["a", "sub/b"]);
    let root = folder.root.path();
    fs::write(root.join(OsStr::from_bytes(b"bad\xff.jpg")), "x").unwrap();
    fs::write(root.join(".trawl-tmp-1-2"), "half").unwrap();
    let fifo = std::ffi::CString::new(root.join("fifo").to_str().unwrap()).unwrap();
    // SAFETY: the path is NUL-terminated and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let pages = folder.pages("", None).await.unwrap();
    assert_eq!(pages.iter().map(|p| p.unlistable).sum::<u64>(), 1);
    assert_eq!(folder.keys("", None).await, ["a", "sub/b"]);
    let of_sub = folder.pages("sub/", None).await.unwrap();
    assert_eq!(of_sub.iter().map(|p| p.unlistable).sum::<u64>(), 0, "it lies outside the prefix");
    // Neither hangs nor is called missing.
    assert!(matches!(folder.store.get("fifo", 10).await, Err(StorageError::Invalid { .. })));
    assert!(matches!(folder.store.get("sub", 10).await, Err(StorageError::NotFound { .. })));
    assert!(matches!(folder.store.head("sub").await, Err(StorageError::NotFound { .. })));
}

#[tokio::test]
async fn a_missing_root_is_no_store_a_missing_prefix_is_empty() {
    let folder = Folder::with(&["a"]);
    assert!(folder.keys("nested/not/there/", None).await.is_empty());
    let store = LocalStorage::new(folder.root.path().join("gone"));
    let first = store.list("", None).next().await.unwrap();
    assert!(matches!(first, Err(StorageError::NoSuchStore { .. })), "{first:?}");
}

#[tokio::test]
async fn keys_never_leave_the_root() {
    let folder = Folder::with(&["a/b"]);
    for key in ["../x", "a/../../x", "/etc/passwd", "a//b", "a/", "", ".", "a/./b", "a\0b"] {
        assert!(matches!(folder.store.get(key, 1).await, Err(StorageError::Invalid { .. })), "{key:?}");
        let put = folder.store.put(key, Bytes::new()).await;
        assert!(matches!(put, Err(StorageError::Invalid { .. })), "{key:?}");
    }
    for prefix in ["../", "/etc/", "a//", "a/../b", "./"] {
        let first = folder.store.list(prefix, None).next().await;
        assert!(matches!(first, Some(Err(StorageError::Invalid { .. }))), "{prefix:?}");
    }
}

#[tokio::test]
async fn errors_name_what_is_in_the_way() {
    let folder = Folder::with(&["file", "dir/x"]);
    let put = |key: &'static str| folder.store.put(key, Bytes::from_static(b"1"));
    assert!(matches!(put("file/below").await, Err(StorageError::Invalid { .. })));
    assert!(matches!(put("dir").await, Err(StorageError::Invalid { .. })));
    let long: &'static str = "n".repeat(300).leak();
    assert!(matches!(put(long).await, Err(StorageError::Invalid { .. })));
    assert!(matches!(folder.store.get("file/below", 1).await, Err(StorageError::NotFound { .. })));
    folder.store.delete("file/below").await.unwrap();
    folder.store.delete("dir").await.unwrap();
    assert_eq!(folder.keys("", None).await, ["dir/x", "file"]);
    let failed = |code| folder.store.failed("k", &io::Error::from_raw_os_error(code));
    assert!(matches!(failed(libc::EACCES), StorageError::Forbidden { .. }));
    assert!(failed(libc::ENOSPC).to_string().contains("no space is left"));
    assert!(failed(libc::ESTALE).is_transient());
}

#[test]
fn claims_without_hard_links_have_one_winner_too() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("t");
    let (first, _) = Temporary::create(root.path()).unwrap();
    let (second, _) = Temporary::create(root.path()).unwrap();
    assert!(rename_if_absent(&first.path, &target).unwrap());
    assert!(!rename_if_absent(&second.path, &target).unwrap());
}
