//! One source of a job: what to list for it, and how the keys of its rows are spelled.
//!
//! A folder, a file, a local glob, a prefix, object or glob of a bucket. Users join their tables on the row
//! keys, so a key is the source as it was given plus the path below it, and nothing is made absolute.

use super::{PlanError, kind::kind_of};
use crate::{location::Location, selection::SourceKind, storage::ObjectMeta};
use globset::{GlobBuilder, GlobMatcher};
use std::path::Path;

/// A key with one of these is a glob; to list a name that has one, write it as `[*]`.
const GLOB_CHARACTERS: &[char] = &['*', '?', '[', '{'];

/// A parsed source.
#[derive(Debug, Clone)]
pub struct Source {
    /// As the user gave it.
    pub given: String,
    /// Its store; the key is the folder, prefix or object.
    pub location: Location,
    /// What to take below it.
    pub reach: Reach,
    /// What its objects are; never [`SourceKind::Auto`].
    pub kind: SourceKind,
    /// What goes before the path below [`Source::location`] to make the key of a row.
    row_prefix: String,
}

/// What a source stands for.
#[derive(Debug, Clone)]
pub enum Reach {
    /// A local path, which may be a file or a folder.
    Path,
    /// Everything below the prefix, which is empty or ends with `/`.
    Below,
    /// The object of exactly this key, and everything below `key/`.
    ExactOrBelow,
    /// What matches, by the path below the location's key.
    Glob {
        /// The pattern; `*` stops at `/`, as in a shell, and `**` does not.
        pattern: GlobMatcher,
        /// The pattern's literal beginning, which narrows the listing.
        literal: String,
    },
}

impl Source {
    /// Parses a source; a relative one starts from `base_dir`. `exists` says whether a local path is there:
    /// a folder that is called `photos [2020]` is that folder and no glob.
    ///
    /// # Errors
    /// [`PlanError::Location`] or [`PlanError::BadGlob`].
    pub fn parse(
        given: &str,
        asked: SourceKind,
        base_dir: &Path,
        exists: impl Fn(&Path) -> bool,
    ) -> Result<Self, PlanError> {
        let location = Location::parse(given, base_dir)?;
        if !location.is_local() {
            let key = location.key();
            // The query of a URL is no glob: nothing can be listed there.
            return match key.find(GLOB_CHARACTERS).filter(|_| !location.is_web()) {
                Some(at) => Self::glob(given, asked, at + given.len() - key.len(), base_dir),
                None => Ok(Self {
                    given: given.to_owned(),
                    reach: if key.is_empty() || key.ends_with('/') {
                        Reach::Below
                    } else {
                        Reach::ExactOrBelow
                    },
                    kind: kind_of(asked, given),
                    // The store as it was spelled: an account may be written in two ways.
                    row_prefix: format!("{}/{key}", given[..given.len() - key.len()].trim_end_matches('/')),
                    location,
                }),
            };
        }
        match given.find(GLOB_CHARACTERS) {
            Some(at) if !exists(Path::new(&location.to_string())) => Self::glob(given, asked, at, base_dir),
            _ => Ok(Self {
                given: given.to_owned(),
                location,
                reach: Reach::Path,
                kind: kind_of(asked, given),
                row_prefix: given.trim_end_matches('/').to_owned(),
            }),
        }
    }

    /// `at` is the place of the first glob character in `given`.
    fn glob(given: &str, asked: SourceKind, at: usize, base_dir: &Path) -> Result<Self, PlanError> {
        let folder_len = given[..at].rfind('/').map_or(0, |slash| slash + 1);
        let (folder, pattern) = given.split_at(folder_len);
        let built = GlobBuilder::new(&numbers_spelled_out(pattern)).literal_separator(true).build();
        let built = built.map_err(|error| PlanError::BadGlob {
            glob: given.to_owned(),
            reason: error.kind().to_string(),
        })?;
        let location = Location::parse(if folder.is_empty() { "." } else { folder }, base_dir)?;
        // A backslash escapes in a glob; what is behind one is not literal as it stands.
        let literal = given[folder_len..at].split('\\').next().unwrap_or_default().to_owned();
        Ok(Self {
            given: given.to_owned(),
            location,
            reach: Reach::Glob { pattern: built.compile_matcher(), literal },
            kind: kind_of(asked, given),
            row_prefix: folder.to_owned(),
        })
    }

    /// The key prefix of the source's folder in its store: empty, or ending with `/`.
    pub fn folder(&self) -> String {
        match self.location.key() {
            "" => String::new(),
            key if key.ends_with('/') => key.to_owned(),
            key => format!("{key}/"),
        }
    }

    /// What of a key is below the source's folder. For each object of a listing, so it makes no string.
    fn below<'k>(&self, key: &'k str) -> Option<&'k str> {
        let folder = self.location.key();
        let below = key.strip_prefix(folder)?;
        if folder.is_empty() || folder.ends_with('/') { Some(below) } else { below.strip_prefix('/') }
    }

    /// The path of an object below the source, if the source reaches it; a named object has its base name.
    pub fn path_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        if self.is_named(key) {
            return key.rsplit('/').next();
        }
        let path = self.below(key)?;
        match &self.reach {
            Reach::Path | Reach::Below | Reach::ExactOrBelow => Some(path),
            Reach::Glob { pattern, .. } => pattern.is_match(path).then_some(path),
        }
    }

    /// Whether the source is this very object.
    pub fn is_named(&self, key: &str) -> bool {
        matches!(self.reach, Reach::Path | Reach::ExactOrBelow) && key == self.location.key()
    }

    /// The key of an object's row.
    pub fn row_key(&self, object: &ObjectMeta) -> String {
        if self.is_named(&object.key) {
            return self.given.clone();
        }
        let below = self.below(&object.key).unwrap_or(&object.key);
        match self.row_prefix.as_str() {
            prefix if prefix.ends_with('/') => format!("{prefix}{below}"),
            // A glob without a folder gives bare names; a source of `/` was trimmed to nothing.
            "" if self.given.starts_with('/') => format!("/{below}"),
            "" => below.to_owned(),
            prefix => format!("{prefix}/{below}"),
        }
    }
}

/// The most numbers that one `{a..b}` stands for: shards of a data set, not its images.
const MAX_NUMBERS: u64 = 100_000;

/// A pattern with each `{000..123}` as `{000,001,...}`, as shells and WebDataset read it. One that is not two numbers
/// in order, or is too long, stays as it is and matches itself.
fn numbers_spelled_out(pattern: &str) -> String {
    let (mut spelled, mut rest) = (String::with_capacity(pattern.len()), pattern);
    while let Some(open) = rest.find('{') {
        let (before, inside) = rest.split_at(open + 1);
        spelled.push_str(before);
        rest = inside;
        let Some(close) = inside.find('}') else { break };
        let Some((first, last)) = inside[..close].split_once("..") else { continue };
        if let (Ok(from), Ok(to)) = (first.parse::<u64>(), last.parse::<u64>())
            && from <= to
            && to - from < MAX_NUMBERS
        {
            let width = if first.starts_with('0') { first.len() } else { 1 };
            let numbers: Vec<String> = (from..=to).map(|n| format!("{n:0width$}")).collect();
            spelled.push_str(&numbers.join(","));
            rest = &inside[close..];
        }
    }
    spelled + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(given: &str) -> Source {
        Source::parse(given, SourceKind::Auto, Path::new("/base"), |path| path == Path::new("/base/odd [1]"))
            .unwrap()
    }

    fn row_key(given: &str, key: &str) -> String {
        source(given).row_key(&ObjectMeta { key: key.into(), size: 1, etag: None, modified: None })
    }

    #[test]
    fn row_keys_are_the_source_as_given_and_the_path_below() {
        assert_eq!(row_key("photos/", "base/photos/x/a.jpg"), "photos/x/a.jpg");
        assert_eq!(row_key("./photos", "base/photos/a.jpg"), "./photos/a.jpg");
        assert_eq!(row_key(".", "base/a.jpg"), "./a.jpg");
        assert_eq!(row_key("/", "a.jpg"), "/a.jpg");
        assert_eq!(row_key("../other", "other/a.jpg"), "../other/a.jpg");
        assert_eq!(row_key("file:///data", "data/a.jpg"), "file:///data/a.jpg");
        assert_eq!(row_key("photos/one.jpg", "base/photos/one.jpg"), "photos/one.jpg");
        assert_eq!(row_key("odd [1]", "base/odd [1]/a.jpg"), "odd [1]/a.jpg");
        assert_eq!(row_key("s3://b", "x/a.jpg"), "s3://b/x/a.jpg");
        assert_eq!(row_key("s3://b/x", "x"), "s3://b/x");
        assert_eq!(row_key("s3://b/x", "x/a.jpg"), "s3://b/x/a.jpg");
        assert_eq!(row_key("s3://b/x/", "x//../a.jpg"), "s3://b/x//../a.jpg");
        assert_eq!(row_key("gs://b", "x/a.jpg"), "gs://b/x/a.jpg");
        assert_eq!(row_key("az://c/x", "x/a.jpg"), "az://c/x/a.jpg");
        let account = "abfs://c@Acct.blob.core.windows.net";
        assert_eq!(row_key(account, "x/a.jpg"), format!("{account}/x/a.jpg"));
        assert_eq!(row_key(&format!("{account}/*/a.jpg"), "x/a.jpg"), format!("{account}/x/a.jpg"));
        assert_eq!(row_key("*.jpg", "base/a.jpg"), "a.jpg");
        assert_eq!(row_key("photos/**/*.jpg", "base/photos/x/a.jpg"), "photos/x/a.jpg");
        assert_eq!(row_key("/*.jpg", "a.jpg"), "/a.jpg");
        assert_eq!(row_key("s3://b/x/*.jpg", "x/a.jpg"), "s3://b/x/a.jpg");
    }

    #[test]
    fn globs_reach_what_a_shell_would() {
        let deep = source("photos/**/*.jpg");
        assert_eq!(deep.folder(), "base/photos/");
        for (key, reached) in
            [("base/photos/a.jpg", true), ("base/photos/x/y/a.jpg", true), ("base/photos/a.png", false)]
        {
            assert_eq!(deep.path_of(key).is_some(), reached, "{key}");
        }
        assert!(source("photos/*.jpg").path_of("base/photos/x/a.jpg").is_none());
        assert!(source("s3://b/{2023,2024}-*/a?.jpg").path_of("2024-05/a1.jpg").is_some());
        let Reach::Glob { literal, .. } = source("s3://b/x/pre*/a.jpg").reach else { panic!("a glob") };
        assert_eq!(literal, "pre");
    }

    #[test]
    fn ranges_of_numbers_are_as_in_a_shell() {
        for (pattern, spelled) in [
            ("{8..11}.tar", "{8,9,10,11}.tar"),
            ("a{008..011}-{1..2}", "a{008,009,010,011}-{1,2}"),
            ("{a..c}{2..1}{1,2}{3..", "{a..c}{2..1}{1,2}{3.."),
            ("{0..100000}", "{0..100000}"),
        ] {
            assert_eq!(numbers_spelled_out(pattern), spelled);
        }
        assert!(source("s3://b/{000..012}.tar").path_of("007.tar").is_some());
        assert!(source("s3://b/{000..012}.tar").path_of("013.tar").is_none());
    }

    #[test]
    fn a_prefix_without_a_slash_is_a_name_and_not_a_beginning() {
        let source = source("s3://b/photos");
        assert_eq!(source.path_of("photos/a.jpg"), Some("a.jpg"));
        assert_eq!(source.path_of("photos"), Some("photos"));
        assert_eq!(source.path_of("photos-old/a.jpg"), None);
    }
}
