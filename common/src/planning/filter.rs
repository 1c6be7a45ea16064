//! Which of the listed objects are images to predict.
//!
//! By name alone: nothing is opened while listing. The globs are the user's; a key that they leave out is
//! counted, so that an empty plan can say why it is empty.

use super::{PlanError, left_out::Reason};
use crate::selection::Selection;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::ops::{Range, RangeInclusive};

/// What names of images end in, in any case, when the user says nothing else.
pub const IMAGE_EXTENSIONS: &[&str] =
    &["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// The user's choice of names.
#[derive(Debug, Clone)]
pub struct Filter {
    include: Option<GlobSet>,
    exclude: GlobSet,
    bounds: Bounds,
}

/// Sizes in bytes and times in seconds since 1970 that are taken.
#[derive(Debug, Clone)]
struct Bounds {
    bytes: RangeInclusive<u64>,
    modified: Range<u64>,
}

impl Filter {
    /// Takes what matches one of `include` (or, if there are none, what has an image's extension) and none
    /// of `exclude`. A glob is matched against the path below the source and against the base name; `*`
    /// also matches `/`.
    ///
    /// # Errors
    /// [`PlanError::BadGlob`].
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, PlanError> {
        let include = if include.is_empty() { None } else { Some(glob_set(include)?) };
        let bounds = Bounds { bytes: 0..=u64::MAX, modified: 0..u64::MAX };
        Ok(Self { include, exclude: glob_set(exclude)?, bounds })
    }

    /// Whether to take the object with this path below its source. `named`: the user named this very object
    /// as a source, which needs no image extension then.
    pub fn takes(&self, path: &str, named: bool) -> bool {
        self.refuses_name(path, named).is_none()
    }

    /// Why not to take an object of this name and of so many bytes, last written at that second; `None` to take it. What
    /// nobody knows is within any bounds.
    pub fn refuses(&self, path: &str, named: bool, size: u64, modified: Option<u64>) -> Option<Reason> {
        self.refuses_name(path, named).or_else(|| self.refuses_bounds(size, modified))
    }

    fn refuses_name(&self, path: &str, named: bool) -> Option<Reason> {
        let base = path.rsplit('/').next().unwrap_or(path);
        match &self.include {
            Some(globs) if !globs.is_match(path) && !globs.is_match(base) => Some(Reason::NotIncluded),
            None if !named && !has_image_extension(base) => Some(Reason::NotAnImage),
            _ => self.excludes(path).then_some(Reason::Excluded),
        }
    }

    fn refuses_bounds(&self, size: u64, modified: Option<u64>) -> Option<Reason> {
        let Bounds { bytes, modified: times } = &self.bounds;
        if size != 0 && !bytes.contains(&size) {
            return Some(Reason::Size);
        }
        modified.filter(|at| !times.contains(at)).map(|_| Reason::Date)
    }

    /// The same filter within the bounds of `select`.
    #[must_use]
    pub fn bounded(mut self, select: &Selection) -> Self {
        let bytes = select.min_bytes.unwrap_or(0)..=select.max_bytes.unwrap_or(u64::MAX);
        let modified = select.modified_from.unwrap_or(0)..select.modified_before.unwrap_or(u64::MAX);
        self.bounds = Bounds { bytes, modified };
        self
    }

    /// Whether the user left out the object with this path below its source.
    pub fn excludes(&self, path: &str) -> bool {
        self.exclude.is_match(path) || self.exclude.is_match(path.rsplit('/').next().unwrap_or(path))
    }
}

/// The lower-case extension of a path's base name, or nothing.
pub(super) fn extension(path: &str) -> Option<String> {
    let base = path.rsplit('/').next().unwrap_or(path);
    let (stem, extension) = base.rsplit_once('.')?;
    (!stem.is_empty()).then(|| extension.to_ascii_lowercase())
}

fn has_image_extension(base: &str) -> bool {
    extension(base).is_some_and(|found| IMAGE_EXTENSIONS.contains(&found.as_str()))
}

fn glob_set(globs: &[String]) -> Result<GlobSet, PlanError> {
    let bad = |glob: &str, error: &globset::Error| PlanError::BadGlob {
        glob: glob.to_owned(),
        reason: error.kind().to_string(),
    };
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(GlobBuilder::new(glob).literal_separator(false).build().map_err(|e| bad(glob, &e))?);
    }
    set.build().map_err(|e| bad(&globs.join(" "), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let owned = |globs: &[&str]| globs.iter().map(ToString::to_string).collect::<Vec<_>>();
        Filter::new(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn images_by_extension_in_any_case() {
        let filter = filter(&[], &[]);
        for path in ["a.jpg", "x/b.JPEG", "c.d.TiFf", "ü/日本.webp"] {
            assert!(filter.takes(path, false), "{path}");
        }
        for path in ["a.txt", "jpg", ".jpg", "x.jpg/readme", "a.jpg.md5", "a.svg"] {
            assert!(!filter.takes(path, false), "{path}");
        }
        assert!(filter.takes("weird.dat", true));
    }

    #[test]
    fn globs_match_the_path_or_the_name() {
        let only = filter(&["*.dat", "cats/*"], &["*-thumb.*", "private/*"]);
        assert!(only.takes("a/b/c.dat", false));
        assert!(only.takes("cats/x/y", false));
        assert!(!only.takes("dogs/a.jpg", false), "an include replaces the extensions");
        assert!(!only.takes("cats/a-thumb.dat", false));
        assert!(!only.takes("private/x/a.dat", false));
        assert!(!only.takes("a.jpg", true), "an include also speaks for a file named as a source");
    }

    #[test]
    fn what_is_left_out_has_its_reason() {
        let images = filter(&[], &["*-thumb.*"]);
        assert_eq!(images.refuses_name("notes.txt", false), Some(Reason::NotAnImage));
        assert_eq!(images.refuses_name("a-thumb.jpg", false), Some(Reason::Excluded));
        assert_eq!(images.refuses_name("a.jpg", false), None);
        assert_eq!(filter(&["*.dat"], &[]).refuses_name("a.jpg", false), Some(Reason::NotIncluded));
        let select = Selection {
            min_bytes: Some(10),
            max_bytes: Some(20),
            modified_from: Some(100),
            ..Selection::default()
        };
        let bounded = images.bounded(&select);
        for (size, modified, reason) in [
            (9, None, Some(Reason::Size)),
            (21, Some(1), Some(Reason::Size)),
            (20, Some(99), Some(Reason::Date)),
            (10, Some(100), None),
            (0, None, None),
        ] {
            assert_eq!(bounded.refuses_bounds(size, modified), reason, "{size} {modified:?}");
        }
    }

    #[test]
    fn a_bad_glob_is_named() {
        let error = Filter::new(&["a[".to_owned()], &[]).unwrap_err();
        assert!(error.to_string().contains("`a[`"), "{error}");
    }
}
