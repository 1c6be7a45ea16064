//! What the objects of a source are, by what the user said or by their names.
//!
//! Decided once, from the text of the source alone, so that a resumed producer decides the same.

use crate::selection::SourceKind;

/// Names of archives; those that are compressed as a whole cannot be read by ranges and are refused by name later.
pub const ARCHIVE_EXTENSIONS: &[&str] = &["tar", "tar.gz", "tgz", "tar.zst", "tar.bz2", "tar.xz"];

/// Names of tables.
pub const TABLE_EXTENSIONS: &[&str] = &["parquet"];

/// Names of lists.
pub const LIST_EXTENSIONS: &[&str] =
    &["txt", "csv", "jsonl", "ndjson", "txt.gz", "csv.gz", "jsonl.gz", "ndjson.gz"];

/// What Amazon calls the description of an inventory report.
pub const INVENTORY_NAME: &str = "manifest.json";

/// The source that is read from the standard input.
pub const STDIN: &str = "-";

/// The kind of the source `given`, which is never [`SourceKind::Auto`].
pub fn kind_of(asked: SourceKind, given: &str) -> SourceKind {
    if asked != SourceKind::Auto {
        return asked;
    }
    let base = given.rsplit('/').next().unwrap_or(given);
    if has_extension(base, ARCHIVE_EXTENSIONS) {
        SourceKind::Tar
    } else if has_extension(base, TABLE_EXTENSIONS) {
        SourceKind::Parquet
    } else if given == STDIN || has_extension(base, LIST_EXTENSIONS) {
        SourceKind::List
    } else if base == INVENTORY_NAME {
        SourceKind::Inventory
    } else {
        SourceKind::Images
    }
}

/// Whether an object of this name can hold what a source of `kind` holds; images are the filter's business.
pub fn holds(kind: SourceKind, name: &str) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    match kind {
        SourceKind::Tar => has_extension(base, ARCHIVE_EXTENSIONS),
        SourceKind::Parquet => has_extension(base, TABLE_EXTENSIONS),
        SourceKind::List => has_extension(base, LIST_EXTENSIONS) || has_extension(base, TABLE_EXTENSIONS),
        SourceKind::Inventory => base == INVENTORY_NAME,
        // Plan files.
        SourceKind::Failures => has_extension(base, TABLE_EXTENSIONS),
        SourceKind::Auto | SourceKind::Images => true,
    }
}

fn has_extension(base: &str, extensions: &[&str]) -> bool {
    let base = base.to_ascii_lowercase();
    extensions.iter().any(|extension| {
        base.strip_suffix(extension).is_some_and(|stem| stem.len() > 1 && stem.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_kind_unless_the_user_does() {
        for (given, kind) in [
            ("photos/", SourceKind::Images),
            ("s3://b/photos", SourceKind::Images),
            ("a.jpg", SourceKind::Images),
            ("s3://b/{0000..0099}.TAR", SourceKind::Tar),
            ("shards/*.tar.gz", SourceKind::Tar),
            ("s3://b/data/*.parquet", SourceKind::Parquet),
            ("keys.txt", SourceKind::List),
            ("keys.csv.gz", SourceKind::List),
            ("-", SourceKind::List),
            ("s3://inventory/b/daily/2026-11-22T01-00Z/manifest.json", SourceKind::Inventory),
            (".tar", SourceKind::Images),
        ] {
            assert_eq!(kind_of(SourceKind::Auto, given), kind, "{given}");
            assert_eq!(kind_of(SourceKind::List, given), SourceKind::List);
        }
        assert!(holds(SourceKind::Tar, "a/b.tar") && !holds(SourceKind::Tar, "a/b.json"));
    }
}
