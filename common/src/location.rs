//! Where something is: a local path, a key in a bucket, or a URL of a web server.
//!
//! Sources, outputs, models and the keys of rows are all written the same way. Parsed at the edge, before
//! anything connects; a URL that carries credentials is refused, because it would end up in messages,
//! rows and logs. It must never repeat such a URL.

mod secrets;

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

/// The endings of Azure's storage hosts, by cloud. The account's name and `dfs.` or `blob.` come before them.
const AZURE_CLOUDS: [&str; 3] = ["core.windows.net", "core.chinacloudapi.cn", "core.usgovcloudapi.net"];

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
    /// A key, or a prefix, in a bucket of Google Cloud Storage.
    Gcs {
        /// The bucket.
        bucket: String,
        /// May be empty: the whole bucket.
        key: String,
    },
    /// A blob, or a prefix, in a container of Azure Blob Storage.
    Azure {
        /// The container.
        container: String,
        /// The account, if the URL names one; else it is the environment's.
        account: Option<AzureAccount>,
        /// May be empty: the whole container.
        key: String,
    },
    /// Something on a web server, which can be read and nothing else.
    Http {
        /// Scheme, host and port in lower case: `https://example.com`.
        origin: String,
        /// Path and query as they were written, without the leading slash.
        key: String,
    },
}

/// A storage account of Azure as `abfss://container@account.dfs.core.windows.net` names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AzureAccount {
    /// For example `photos`.
    pub name: String,
    /// For example `core.windows.net`.
    pub cloud: String,
}

/// A text that names no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LocationError {
    /// `ftp://` and the like.
    #[error(
        "trawl does not know the scheme `{0}://`: use a folder, file://, s3://, gs://, az://, abfss:// or https://"
    )]
    Scheme(String),
    /// `s3:///key`.
    #[error("`{scheme}://` must go on with the name of a {what}: {scheme}://{what}/prefix")]
    NoBucket {
        /// The scheme; the rest is not repeated, it may be anything.
        scheme: &'static str,
        /// What that store calls it.
        what: &'static str,
    },
    /// `abfss://container@example.com/x`.
    #[error(
        "`{host}` is no storage host of Azure: it looks like abfss://container@account.dfs.core.windows.net/path"
    )]
    NoAccount {
        /// What stands behind the `@`.
        host: String,
    },
    /// `https://a b/`.
    #[error("the {scheme}:// URL names no host that can be asked: {reason}")]
    BadHost {
        /// The scheme.
        scheme: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `s3://key:secret@bucket`, or a signature in the query. The text is not repeated.
    #[error("the URL of `{place}` carries credentials ({what}): {remedy}")]
    Credentials {
        /// Bucket, container or host.
        place: String,
        /// Where they are in it.
        what: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// An output on a web server.
    #[error("`{0}` can only be read: results go to a folder or a bucket (s3://, gs://, az://)")]
    ReadOnly(String),
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
        match scheme.to_ascii_lowercase().as_str() {
            "file" => Self::local(Path::new(rest), base_dir),
            "s3" => {
                let (bucket, key) = bucket_and_key("s3", "bucket", rest)?;
                Ok(Self::S3 { bucket, key })
            }
            "gs" => {
                let (bucket, key) = bucket_and_key("gs", "bucket", rest)?;
                Ok(Self::Gcs { bucket, key })
            }
            "az" => Self::azure("az", rest),
            "abfss" => Self::azure("abfss", rest),
            "abfs" => Self::azure("abfs", rest),
            "https" => Self::http("https", rest),
            "http" => Self::http("http", rest),
            // The scheme alone: the rest may carry credentials.
            _ => Err(LocationError::Scheme(scheme.chars().take(40).collect())),
        }
    }

    fn azure(scheme: &'static str, rest: &str) -> Result<Self, LocationError> {
        let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
        let Some((container, host)) = authority.rsplit_once('@') else {
            let (container, key) = bucket_and_key(scheme, "container", rest)?;
            return Ok(Self::Azure { container, account: None, key });
        };
        if container.contains([':', '@']) {
            return Err(secrets::in_authority(scheme, host));
        }
        secrets::none_in_query(scheme, host, key)?;
        if container.is_empty() {
            return Err(LocationError::NoBucket { scheme, what: "container" });
        }
        let host = host.to_ascii_lowercase();
        let account = AZURE_CLOUDS.iter().find_map(|cloud| {
            let before = host.strip_suffix(cloud)?;
            let name = before.strip_suffix(".dfs.").or_else(|| before.strip_suffix(".blob."))?;
            let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
            plain.then(|| AzureAccount { name: name.to_owned(), cloud: (*cloud).to_owned() })
        });
        match account {
            Some(account) => Ok(Self::Azure {
                container: container.to_owned(),
                account: Some(account),
                key: key.to_owned(),
            }),
            None => Err(LocationError::NoAccount { host }),
        }
    }

    fn http(scheme: &'static str, rest: &str) -> Result<Self, LocationError> {
        let at = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (host, key) = rest.split_at(at);
        if let Some((_, host)) = host.rsplit_once('@') {
            return Err(secrets::in_authority(scheme, host));
        }
        secrets::none_in_query(scheme, host, key)?;
        let bad = |reason| Err(LocationError::BadHost { scheme, reason });
        if host.is_empty() {
            return bad("there is nothing between `//` and the path");
        }
        if host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '%') || key.starts_with('\\') {
            return bad("it has a character that no host has");
        }
        // `https://host?query` is `https://host/?query`.
        let key = key.strip_prefix('/').unwrap_or(key);
        Ok(Self::Http { origin: format!("{scheme}://{}", host.to_lowercase()), key: key.to_owned() })
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
            Self::Local { key }
            | Self::S3 { key, .. }
            | Self::Gcs { key, .. }
            | Self::Azure { key, .. }
            | Self::Http { key, .. } => key,
        }
    }

    fn key_mut(&mut self) -> &mut String {
        match self {
            Self::Local { key }
            | Self::S3 { key, .. }
            | Self::Gcs { key, .. }
            | Self::Azure { key, .. }
            | Self::Http { key, .. } => key,
        }
    }

    /// The same store, another key.
    pub fn with_key(&self, key: impl Into<String>) -> Self {
        let mut other = self.clone();
        *other.key_mut() = key.into();
        other
    }

    /// The same place, written without a slash at its end.
    #[must_use]
    pub fn without_trailing_slash(mut self) -> Self {
        let key = self.key_mut();
        key.truncate(key.trim_end_matches('/').len());
        self
    }

    /// Where the store begins, for messages and maps: `s3://bucket`, `https://host`; empty for local paths.
    pub fn root(&self) -> String {
        match self {
            Self::Local { .. } => String::new(),
            Self::S3 { bucket, .. } => format!("s3://{bucket}"),
            Self::Gcs { bucket, .. } => format!("gs://{bucket}"),
            Self::Azure { container, account: None, .. } => format!("az://{container}"),
            Self::Azure { container, account: Some(AzureAccount { name, cloud }), .. } => {
                format!("abfss://{container}@{name}.dfs.{cloud}")
            }
            Self::Http { origin, .. } => origin.clone(),
        }
    }

    /// Whether both are in one store, so that a listing of one can meet the other.
    pub fn same_store(&self, other: &Self) -> bool {
        // Asked for each object of a listing: no strings are made.
        match (self, other) {
            (Self::Local { .. }, Self::Local { .. }) => true,
            (Self::S3 { bucket: one, .. }, Self::S3 { bucket: two, .. })
            | (Self::Gcs { bucket: one, .. }, Self::Gcs { bucket: two, .. })
            | (Self::Http { origin: one, .. }, Self::Http { origin: two, .. }) => one == two,
            (
                Self::Azure { container: one, account: ones, .. },
                Self::Azure { container: two, account: twos, .. },
            ) => one == two && ones == twos,
            _ => false,
        }
    }

    /// The place `name` below this one.
    pub fn join(&self, name: &str) -> Self {
        match self.key().trim_end_matches('/') {
            "" => self.with_key(name),
            key => self.with_key(format!("{key}/{name}")),
        }
    }

    /// Whether it is on a web server, which can be read but not listed.
    pub fn is_web(&self) -> bool {
        matches!(self, Self::Http { .. })
    }

    /// Whether it is on this machine's file system.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local { .. })
    }
}

/// `bucket/key`, without credentials.
fn bucket_and_key(
    scheme: &'static str,
    what: &'static str,
    rest: &str,
) -> Result<(String, String), LocationError> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    if let Some((_, host)) = bucket.rsplit_once('@') {
        return Err(secrets::in_authority(scheme, host));
    }
    secrets::none_in_query(scheme, bucket, rest)?;
    if bucket.is_empty() {
        return Err(LocationError::NoBucket { scheme, what });
    }
    Ok((bucket.to_owned(), key.to_owned()))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { key } => write!(f, "/{key}"),
            // A web server's own page, which needs the slash to be one.
            Self::Http { origin, key } => write!(f, "{origin}/{key}"),
            other if other.key().is_empty() => f.write_str(&other.root()),
            other => write!(f, "{}/{}", other.root(), other.key()),
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
    fn clouds_and_web_servers() {
        assert_eq!(parse("gs://b/a b").unwrap(), Location::Gcs { bucket: "b".into(), key: "a b".into() });
        assert_eq!(
            parse("az://c/x").unwrap(),
            Location::Azure { container: "c".into(), account: None, key: "x".into() }
        );
        let Location::Azure { container, account: Some(account), key } =
            parse("abfs://c@Acct.blob.core.windows.net/x/y").unwrap()
        else {
            panic!("a container of an account")
        };
        assert_eq!(
            (&*container, &*account.name, &*account.cloud, &*key),
            ("c", "acct", "core.windows.net", "x/y")
        );
        assert_eq!(
            parse("HTTPS://Example.com:8443/A/b.jpg?x=1").unwrap(),
            Location::Http { origin: "https://example.com:8443".into(), key: "A/b.jpg?x=1".into() }
        );
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for text in [
            "/data/a.jpg",
            "s3://b",
            "s3://b/a/../c//d?e",
            "gs://bucket/two words/日本.jpg",
            "gs://bucket",
            "az://c/a?b=sig",
            "abfss://c@acct.dfs.core.windows.net",
            "abfss://c@acct.dfs.core.usgovcloudapi.net/p/q.jpg",
            "http://127.0.0.1:80/x",
            "https://[::1]:8080/x?y=z",
            "https://example.com/",
        ] {
            let location = parse(text).unwrap();
            assert_eq!(location.to_string(), text);
            assert_eq!(parse(&location.to_string()).unwrap(), location);
            assert!(text.starts_with(&location.root()), "{text}");
        }
    }

    #[test]
    fn refusals_name_the_fix_and_never_a_secret() {
        assert!(matches!(parse("ftp://x"), Err(LocationError::Scheme(_))));
        assert!(matches!(parse("s3:///x"), Err(LocationError::NoBucket { .. })));
        assert!(matches!(parse("https:///x"), Err(LocationError::BadHost { .. })));
        assert!(matches!(parse("https://a b/x"), Err(LocationError::BadHost { .. })));
        assert!(matches!(parse("abfss://c@example.com/x"), Err(LocationError::NoAccount { .. })));
        assert_eq!(parse(""), Err(LocationError::Empty));
    }
}
