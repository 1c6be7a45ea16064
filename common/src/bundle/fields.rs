//! Looks into somebody else's JSON: a field that is not there, or null, is none; one of another kind is an error that
//! names it with its value.
//!
//! For the readers of timm's and Hugging Face's files. Values are shown cut: a file may be anything.

use serde_json::{Map, Value};

/// Characters of a value that an error shows.
const SHOWN: usize = 80;

/// A JSON object of a file.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The value of a field.
    pub(super) fn get(self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    /// The names of all that have a value.
    pub(super) fn names(self) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    fn kind<T>(
        self,
        field: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        self.get(field)
            .map(|value| {
                read(value).ok_or_else(|| format!("`{field}` is {}: {wanted} was expected", quoted(value)))
            })
            .transpose()
    }

    pub(super) fn flag(self, field: &str) -> Result<Option<bool>, String> {
        self.kind(field, "true or false", Value::as_bool)
    }

    pub(super) fn number(self, field: &str) -> Result<Option<f64>, String> {
        self.kind(field, "a number", Value::as_f64)
    }

    pub(super) fn text(self, field: &str) -> Result<Option<&'a str>, String> {
        self.kind(field, "a text", Value::as_str)
    }

    pub(super) fn object(self, field: &str) -> Result<Option<Self>, String> {
        self.kind(field, "an object", |value| value.as_object().map(Self))
    }

    /// A number for each of three channels; one number stands for all.
    pub(super) fn three(self, field: &str) -> Result<Option<[f64; 3]>, String> {
        self.kind(field, "three numbers, one for each of red, green and blue,", |value| match value {
            Value::Number(_) => Some([value.as_f64()?; 3]),
            Value::Array(list) => match &list[..] {
                [all] => Some([all.as_f64()?; 3]),
                [red, green, blue] => Some([red.as_f64()?, green.as_f64()?, blue.as_f64()?]),
                _ => None,
            },
            _ => None,
        })
    }

    /// A list of sides in pixels.
    pub(super) fn sides(self, value: &Value, field: &str) -> Result<Vec<u32>, String> {
        let side = |value: &Value| value.as_u64().and_then(|side| u32::try_from(side).ok());
        let sides = value.as_array().and_then(|list| list.iter().map(side).collect());
        sides.ok_or_else(|| format!("`{field}` is {}: a list of whole numbers was expected", quoted(value)))
    }
}

/// A value as it is shown.
pub(super) fn quoted(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
