//! Parts of a path as columns: `{class}/{name}.jpg`, and the `key=value` folders of Hive.
//!
//! Looked at for every image that is taken, after the filter and before the batches. A path that does not fit has nulls:
//! it is an image all the same.

use crate::carried::{Carried, CarriedColumn};
use std::{fmt, str::FromStr};

/// A pattern of the ends of paths: texts, and `{names}` that stand for anything but a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// As it was given.
    pattern: String,
    /// Between and around the names: one more than there are names.
    texts: Vec<String>,
    names: Vec<String>,
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a pattern of paths: it looks like {{class}}/{{name}}.jpg, with a text between any two names"
)]
pub struct BadCapture(String);

impl FromStr for Capture {
    type Err = BadCapture;

    fn from_str(pattern: &str) -> Result<Self, BadCapture> {
        let bad = || BadCapture(pattern.to_owned());
        let (mut texts, mut names, mut rest) = (Vec::new(), Vec::new(), pattern);
        while let Some((text, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(bad)?;
            let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            // Nothing says where one of two names ends and the other begins.
            if !plain || (text.is_empty() && !names.is_empty()) || names.iter().any(|known| known == name) {
                return Err(bad());
            }
            texts.push(text.to_owned());
            names.push(name.to_owned());
            rest = after;
        }
        texts.push(rest.to_owned());
        if names.is_empty() || rest.contains('}') {
            Err(bad())
        } else {
            Ok(Self { pattern: pattern.to_owned(), texts, names })
        }
    }
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

impl Capture {
    /// The names, in their order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What the names stand for in `path`, if its end fits. Each name takes as little as it can from the right.
    fn values<'p>(&self, path: &'p str) -> Option<Vec<&'p str>> {
        let (last, before) = self.texts.split_last()?;
        let mut rest = path.strip_suffix(last.as_str())?;
        let mut values = Vec::with_capacity(self.names.len());
        for text in before.iter().rev() {
            let from = match text.is_empty() {
                // The first name with nothing before it: back to the slash.
                true => rest.rfind('/').map_or(0, |slash| slash + 1),
                false => rest.rfind(text.as_str())? + text.len(),
            };
            let value = &rest[from..];
            if value.is_empty() || value.contains('/') {
                return None;
            }
            values.push(value);
            rest = &rest[..from - text.len()];
        }
        // A pattern begins where a name in the path does.
        let whole =
            rest.is_empty() || rest.ends_with('/') || before.first().is_some_and(|t| t.starts_with('/'));
        values.reverse();
        whole.then_some(values)
    }
}

/// Fills in what `carried` lacks of the columns `carry`, from the image's path.
pub fn fill(carried: &mut Carried, carry: &[CarriedColumn], capture: Option<&Capture>, path: &str) {
    if carry.is_empty() {
        return;
    }
    carried.resize(carry.len(), None);
    let captured = capture.and_then(|capture| Some((capture, capture.values(path)?)));
    for (value, column) in carried.iter_mut().zip(carry).filter(|(value, _)| value.is_none()) {
        let named = captured.as_ref().and_then(|(capture, values)| {
            let at = capture.names.iter().position(|name| *name == column.name)?;
            Some(values[at])
        });
        *value = named.or_else(|| of_folder(path, &column.name)).map(str::to_owned);
    }
}

/// The value of a folder `name=value`.
fn of_folder<'p>(path: &'p str, name: &str) -> Option<&'p str> {
    let (folders, _) = path.rsplit_once('/')?;
    folders.split('/').find_map(|folder| folder.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pattern: &str, path: &str) -> Option<Vec<String>> {
        let capture: Capture = pattern.parse().unwrap();
        capture.values(path).map(|values| values.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn names_stand_for_what_lies_between_the_texts() {
        let some = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(values("{class}/{name}.jpg", "train/cats/a.b.jpg"), some(&["cats", "a.b"]));
        assert_eq!(values("{split}/{class}/{name}.jpg", "cats/a.jpg"), None);
        assert_eq!(values("{class}/{name}.jpg", "cats/a.png"), None);
        assert_eq!(values("{day}-{n}.jpg", "x/2026-11-22-7.jpg"), some(&["2026-11-22", "7"]));
        assert_eq!(values("photos/{class}/", "photos/a/"), some(&["a"]));
        assert_eq!(values("os/{name}.jpg", "photos/a.jpg"), None, "a folder's whole name");
        for bad in ["", "x", "{}", "{a}{b}", "{a}/{a}", "{a", "{a b}", "a}/{b}/}"] {
            assert!(bad.parse::<Capture>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_source_says_itself_stays() {
        let carry: Vec<_> = ["id", "class", "country"]
            .into_iter()
            .map(|name| CarriedColumn { name: name.into(), kind: Default::default() })
            .collect();
        let capture: Capture = "{class}/{name}.jpg".parse().unwrap();
        let mut carried = vec![Some("7".to_owned())];
        fill(&mut carried, &carry, Some(&capture), "country=ch/id=9/cats/a.jpg");
        assert_eq!(carried, [Some("7".into()), Some("cats".into()), Some("ch".into())]);
        let mut nothing = Vec::new();
        fill(&mut nothing, &[], Some(&capture), "cats/a.jpg");
        assert!(nothing.is_empty());
    }
}
