//! Where something is: a local path or a key in a bucket.
//!
//! Sources, outputs, models and the keys of rows are all written the same way. Parsed at the edge, before
//! anything connects; a URL that carries credentials is refused, because it would end up in messages,
//! rows and logs.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

/// A place in one of the stores that trawl knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// An absolute path of the local file system, `/`-separated, without the leading slash.
    Local {
        /// For example `data/photos/a.jpg` for `/data/photos/a.jpg`.
        key: String,
    },
    /// A key, or a prefix, in an S3 bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// May be empty: the whole bucket.
        key: String,
    },
}

/// A text that names no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LocationError {
    /// `ftp://` and the like.
    #[error("trawl does not know the scheme `{0}://`: use a folder, file:// or s3://")]
    Scheme(String),
    /// `s3:///key`.
    #[error("`{0}` names no bucket: it looks like s3://bucket/prefix")]
    NoBucket(String),
    /// `s3://key:secret@bucket`. The text is not repeated.
    #[error(
        "the URL of bucket `{0}` carries credentials: give them by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
    )]
    Credentials(String),
    /// An empty text.
    #[error("the location is empty")]
    Empty,
    /// A path that is not UTF-8.
    #[error("the path `{0}` is not UTF-8")]
    NotText(String),
}

impl Location {
    /// Parses a location; a relative path starts from `base_dir`.
    ///
    /// # Errors
    /// [`LocationError`] with the fix in its text.
    pub fn parse(text: &str, base_dir: &Path) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Self::local(Path::new(text), base_dir);
        };
        match scheme {
            "file" => Self::local(Path::new(rest), base_dir),
            "s3" => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                match bucket.rsplit_once('@') {
                    Some((_, host)) => Err(LocationError::Credentials(host.to_owned())),
                    None if bucket.is_empty() => Err(LocationError::NoBucket(text.to_owned())),
                    None => Ok(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() }),
                }
            }
            // The scheme alone: the rest may carry credentials.
            _ => Err(LocationError::Scheme(scheme.chars().take(40).collect())),
        }
    }

    fn local(path: &Path, base_dir: &Path) -> Result<Self, LocationError> {
        // `.` and `..` are resolved as text, without asking the file system: the path may not exist yet.
        let mut clean = PathBuf::from("/");
        for part in base_dir.join(path).components() {
            match part {
                Component::ParentDir => {
                    clean.pop();
                }
                Component::Normal(name) => clean.push(name),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        let text =
            clean.to_str().ok_or_else(|| LocationError::NotText(clean.to_string_lossy().into_owned()))?;
        Ok(Self::Local { key: text.trim_start_matches('/').to_owned() })
    }

    /// The key within its store.
    pub fn key(&self) -> &str {
        match self {
            Self::Local { key } | Self::S3 { key, .. } => key,
        }
    }

    /// The same store, another key.
    pub fn with_key(&self, key: impl Into<String>) -> Self {
        match self {
            Self::Local { .. } => Self::Local { key: key.into() },
            Self::S3 { bucket, .. } => Self::S3 { bucket: bucket.clone(), key: key.into() },
        }
    }

    /// The same place, written without a slash at its end.
    #[must_use]
    pub fn without_trailing_slash(mut self) -> Self {
        let (Self::Local { key } | Self::S3 { key, .. }) = &mut self;
        key.truncate(key.trim_end_matches('/').len());
        self
    }

    /// The place `name` below this one.
    pub fn join(&self, name: &str) -> Self {
        match self.key().trim_end_matches('/') {
            "" => self.with_key(name),
            key => self.with_key(format!("{key}/{name}")),
        }
    }

    /// Whether it is on this machine's file system.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local { .. })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { key } => write!(f, "/{key}"),
            Self::S3 { bucket, key } if key.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, LocationError> {
        Location::parse(text, Path::new("/base"))
    }

    #[test]
    fn paths_and_buckets() {
        assert_eq!(parse("photos/").unwrap().to_string(), "/base/photos");
        assert_eq!(parse("./a/../b").unwrap().to_string(), "/base/b");
        assert_eq!(parse("file:///x/y").unwrap().to_string(), "/x/y");
        assert_eq!(parse("s3://b").unwrap(), Location::S3 { bucket: "b".into(), key: String::new() });
        // A bucket's keys are opaque: nothing is resolved in them.
        assert_eq!(parse("s3://b/a/../c//d").unwrap().key(), "a/../c//d");
        assert_eq!(parse("s3://b/out/").unwrap().join("x").to_string(), "s3://b/out/x");
    }

    #[test]
    fn refusals_name_the_fix_and_never_a_secret() {
        assert!(matches!(parse("ftp://x"), Err(LocationError::Scheme(_))));
        assert!(matches!(parse("s3:///x"), Err(LocationError::NoBucket(_))));
        assert_eq!(parse(""), Err(LocationError::Empty));
        let error = parse("s3://AKIA:canary@bucket/x").unwrap_err();
        assert_eq!(error, LocationError::Credentials("bucket".into()));
        assert!(!error.to_string().contains("canary"));
    }
}
