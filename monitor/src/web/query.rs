//! The part of a request behind the question mark, bounded and checked.

use super::answers::Refusal;
use axum::http::Uri;
use std::{borrow::Cow, collections::HashMap, str::FromStr};

/// A longer query is none of our pages'.
const MAX_QUERY_BYTES: usize = 4096;

/// The values by name; of a repeated one the first counts.
pub struct Query<'a>(HashMap<Cow<'a, str>, Cow<'a, str>>);

impl<'a> Query<'a> {
    /// Reads the query of `uri`.
    ///
    /// # Errors
    /// If it is too long.
    pub fn of(uri: &'a Uri) -> Result<Self, Refusal> {
        let text = uri.query().unwrap_or_default();
        if text.len() > MAX_QUERY_BYTES {
            return Err(Refusal::bad_request("the query is too long"));
        }
        let mut values = HashMap::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            values.entry(name).or_insert(value);
        }
        Ok(Self(values))
    }

    /// A value as text; an empty one is none.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(AsRef::as_ref).filter(|value| !value.is_empty())
    }

    /// A value as something else.
    ///
    /// # Errors
    /// If it is none.
    pub fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let bad = |_| Refusal::bad_request(format!("`{name}` has a value that is none"));
        self.text(name).map(|value| value.parse().map_err(bad)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_checked() {
        let uri: Uri = "/x?limit=5&label=a%26b+c&limit=9&min=x&empty=".parse().unwrap();
        let query = Query::of(&uri).unwrap();
        assert_eq!(query.parsed::<usize>("limit").unwrap(), Some(5));
        assert_eq!((query.text("label"), query.text("empty"), query.text("no")), (Some("a&b c"), None, None));
        assert_eq!(query.parsed::<f32>("min").unwrap_err().status, 400);
        let long: Uri = format!("/x?{}", "a".repeat(5000)).parse().unwrap();
        assert!(Query::of(&long).is_err());
    }
}
