//! Protocol buffers' text format, as far as Triton's `config.pbtxt` uses it: names with values, messages and lists.
//!
//! Read before a job is planned. A file may be anything: depth and size are bounded, and an error has the line.

/// Messages within messages; Triton's own go four deep.
const MAX_DEPTH: usize = 16;

/// A value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A number, a word or a text; quotes are gone.
    Scalar(String),
    /// Fields within braces.
    Message(Message),
}

/// Fields in the order of the file; a list is the same name several times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message(Vec<(String, Value)>);

impl Message {
    /// The names of the fields, with repetitions.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    fn all<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |(name, _)| name == field).map(|(_, value)| value)
    }

    /// The scalars of a field.
    pub(super) fn scalars<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(field).filter_map(|value| match value {
            Value::Scalar(text) => Some(text.as_str()),
            Value::Message(_) => None,
        })
    }

    /// The last scalar of a field, which is the one that counts.
    pub(super) fn scalar<'a>(&'a self, field: &'a str) -> Option<&'a str> {
        self.scalars(field).last()
    }

    /// The messages of a field.
    pub(super) fn messages<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a Message> {
        self.all(field).filter_map(|value| match value {
            Value::Message(message) => Some(message),
            Value::Scalar(_) => None,
        })
    }
}

/// Parses a whole file; the error is a sentence's end.
pub(super) fn parse(text: &str) -> Result<Message, String> {
    let mut parser = Parser { rest: text, line: 1 };
    let message = parser.message(None, 0)?;
    Ok(message)
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Parser<'a> {
    /// Fields until `end`, or until the end of the file.
    fn message(&mut self, end: Option<char>, depth: usize) -> Result<Message, String> {
        if depth > MAX_DEPTH {
            return Err(self.wrong("messages within messages without end"));
        }
        let mut message = Message::default();
        loop {
            match self.peek() {
                None if end.is_none() => return Ok(message),
                None => return Err(self.wrong("the file ends within a message")),
                Some(c) if Some(c) == end => {
                    self.take(c);
                    return Ok(message);
                }
                Some(',' | ';') => {
                    self.rest = &self.rest[1..];
                }
                Some(_) => {
                    let name = self.word()?.to_owned();
                    self.take(':');
                    self.values(&name, &mut message, depth)?;
                }
            }
        }
    }

    /// One value, or a list of them.
    fn values(&mut self, name: &str, message: &mut Message, depth: usize) -> Result<(), String> {
        if !self.take('[') {
            let value = self.value(depth)?;
            message.0.push((name.to_owned(), value));
            return Ok(());
        }
        while !self.take(']') {
            let value = self.value(depth)?;
            message.0.push((name.to_owned(), value));
            self.take(',');
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        match self.peek() {
            Some('{') => {
                self.take('{');
                self.message(Some('}'), depth + 1).map(Value::Message)
            }
            Some('<') => {
                self.take('<');
                self.message(Some('>'), depth + 1).map(Value::Message)
            }
            Some('"' | '\'') => self.text().map(Value::Scalar),
            _ => self.word().map(|word| Value::Scalar(word.to_owned())),
        }
    }

    /// A text, and those that follow it.
    fn text(&mut self) -> Result<String, String> {
        let mut text = String::new();
        while let Some(quote @ ('"' | '\'')) = self.peek() {
            self.take(quote);
            let mut chars = self.rest.char_indices();
            loop {
                match chars.next() {
                    Some((at, c)) if c == quote => {
                        self.rest = &self.rest[at + 1..];
                        break;
                    }
                    Some((_, '\\')) => match chars.next() {
                        Some((_, 'n')) => text.push('\n'),
                        Some((_, 't')) => text.push('\t'),
                        Some((_, c @ ('"' | '\'' | '\\'))) => text.push(c),
                        _ => return Err(self.wrong("a backslash before something else than n, t or a quote")),
                    },
                    Some((_, '\n')) | None => return Err(self.wrong("a text without its closing quote")),
                    Some((_, c)) => text.push(c),
                }
            }
        }
        Ok(text)
    }

    fn word(&mut self) -> Result<&'a str, String> {
        self.peek();
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_.+-".contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        if word.is_empty() {
            let found: String = self.rest.chars().take(1).collect();
            return Err(self.wrong(&format!("`{found}` where a name or a value was expected")));
        }
        self.rest = rest;
        Ok(word)
    }

    /// The next character that is no space and no comment.
    fn peek(&mut self) -> Option<char> {
        loop {
            let c = self.rest.chars().next()?;
            if c == '#' {
                self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]);
            } else if c.is_whitespace() {
                self.line += usize::from(c == '\n');
                self.rest = &self.rest[c.len_utf8()..];
            } else {
                return Some(c);
            }
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        found
    }

    fn wrong(&self, what: &str) -> String {
        format!("line {} has {what}", self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read() {
        let text = r#"
            # a comment { with braces
            name: "dogs" ; platform: 'pytorch' "_libtorch"
            max_batch_size : 8,
            input [ { name: "x" dims: [ 3, 224, -1 ] } ]
            version_policy < specific { versions: 1 versions: 3 } >
        "#;
        let message = parse(text).unwrap();
        assert_eq!(message.scalar("name"), Some("dogs"));
        assert_eq!(message.scalar("platform"), Some("pytorch_libtorch"));
        assert_eq!(message.scalar("max_batch_size"), Some("8"));
        let input = message.messages("input").next().unwrap();
        assert_eq!(input.scalars("dims").collect::<Vec<_>>(), ["3", "224", "-1"]);
        let policy = message.messages("version_policy").next().unwrap().messages("specific").next().unwrap();
        assert_eq!(policy.scalars("versions").collect::<Vec<_>>(), ["1", "3"]);
    }

    #[test]
    fn what_is_none_has_its_line() {
        for (text, line) in
            [("a: {\n", 2), ("\na: \"b\n\"", 2), ("a: [1, ", 1), ("}", 1), (&"a{".repeat(40), 1), ("a: }", 1)]
        {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("line {line} ")), "{text:?}: {error}");
        }
    }
}
