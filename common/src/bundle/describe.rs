//! Puts a description into a model that came without: the file is then a bundle like any other.
//!
//! Once, before a job is planned, so that what was found beside a model travels inside it and is covered by its digest. The
//! same model and description give the same bytes. Must never leave half a bundle under its final name.

use super::{AT_START, Archive, BundleError, BundleSpec, EXTRA_NAME};
use std::{fs::File, io::Write, path::Path};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// Where torch puts the bytes of tensors; extra files need it less, but a reader may map them too.
const ALIGNMENT: u16 = 64;

/// Appends `spec` to the model at `path` as torch's `_extra_files` would have: a stored member `ROOT/extra/trawl.json`.
///
/// # Errors
/// [`BundleError`]; the file may be half written then. Blocking.
pub fn add_description(path: &Path, spec: &BundleSpec) -> Result<(), BundleError> {
    let bad = |reason: String| BundleError::BadSpec { path: path.into(), reason };
    let json = serde_json::to_vec(spec).map_err(|e| bad(e.to_string()))?;
    BundleSpec::parse(&json).map_err(bad)?;
    let Archive { root, .. } = Archive::open(path)?;
    append(path, &root, &json).map_err(|reason| BundleError::Unreadable {
        path: path.into(),
        reason: format!("it cannot be extended: {reason}"),
    })
}

fn append(path: &Path, root: &str, json: &[u8]) -> Result<(), String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let file = File::options().read(true).write(true).open(path).map_err(|e| words(&e))?;
    let mut zip = ZipWriter::new_append_with_config(AT_START, file).map_err(|e| words(&e))?;
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(ALIGNMENT);
    zip.start_file(format!("{root}/extra/{EXTRA_NAME}"), options).map_err(|e| words(&e))?;
    zip.write_all(json).map_err(|e| words(&e))?;
    let file = zip.finish().map_err(|e| words(&e))?;
    file.sync_all().map_err(|e| words(&e))
}
