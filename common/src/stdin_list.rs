//! The source `-`: a list that comes by standard input, kept as a file so that a resumed job can read it again.
//!
//! Before the spec is made: the same list is the same file, and so the same job. The file's name says its form, by how
//! it begins.

use crate::{job::hex_sha256, offload::offload, planning::kind::STDIN};
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The longest list by standard input; longer ones belong into a bucket.
const MAX_LIST_BYTES: u64 = 1 << 30;

/// Puts what comes by standard input into `cache_dir`, and that file in the place of `-` among `sources`.
///
/// # Errors
/// If it cannot be read or kept, is longer than 1 GiB, or is asked for twice.
pub async fn keep(sources: &[String], cache_dir: &Path) -> io::Result<Vec<String>> {
    let mut sources = sources.to_vec();
    let wanted: Vec<usize> = (0..sources.len()).filter(|n| sources[*n] == STDIN).collect();
    match wanted[..] {
        [] => {}
        [at] => {
            let folder = cache_dir.join("lists");
            let file = offload(move || keep_all(io::stdin().lock(), &folder)).await?;
            sources[at] = file.to_str().map(str::to_owned).ok_or_else(|| {
                io::Error::other(format!("the cache folder {} is not UTF-8: choose another", file.display()))
            })?;
        }
        _ => return Err(io::Error::other("`-` is given twice, and there is one standard input")),
    }
    Ok(sources)
}

fn keep_all(input: impl Read, folder: &Path) -> io::Result<PathBuf> {
    let mut list = Vec::new();
    input.take(MAX_LIST_BYTES + 1).read_to_end(&mut list)?;
    if list.len() as u64 > MAX_LIST_BYTES {
        return Err(io::Error::other("the list by standard input has more than 1 GiB: give it as a file"));
    }
    let form = if list.trim_ascii_start().starts_with(b"{") { "jsonl" } else { "txt" };
    std::fs::create_dir_all(folder)?;
    let file = std::path::absolute(folder)?.join(format!("{}.{form}", &hex_sha256(&list)[..32]));
    let mut kept = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut kept, &list)?;
    // The same name has the same bytes: an older one may be replaced, its time with it.
    if !file.exists() {
        kept.persist(&file)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_list_is_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let kept = |list: &str| keep_all(list.as_bytes(), dir.path()).unwrap();
        let lines = kept("a.jpg\nb.jpg\n");
        assert_eq!(std::fs::read_to_string(&lines).unwrap(), "a.jpg\nb.jpg\n");
        assert_eq!(lines.extension().unwrap(), "txt");
        assert_eq!(kept("a.jpg\nb.jpg\n"), lines);
        assert_ne!(kept("a.jpg\n"), lines);
        assert_eq!(kept("\n {\"key\": \"a\"}\n").extension().unwrap(), "jsonl");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "nothing else is left behind");
    }

    #[tokio::test]
    async fn other_sources_stay_and_one_input_is_not_read_twice() {
        let given = ["s3://b/x".to_owned(), "photos/".to_owned()];
        assert_eq!(keep(&given, Path::new("/nowhere")).await.unwrap(), given);
        let twice = ["-".to_owned(), "-".to_owned()];
        assert!(keep(&twice, Path::new("/nowhere")).await.is_err());
    }
}
