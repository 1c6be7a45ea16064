//! Logs: to stderr, as lines for people or as JSON for machines.
//!
//! Set up once, first thing in each binary. Data goes to stdout and never through here. [`Redacted`] is for
//! URLs in messages: credentials must never reach a log.

pub mod held;
mod json;

use crate::terminal;
use std::{env, fmt, io};
use tracing::Level;
use tracing_subscriber::EnvFilter;

/// The variables that hold a filter, the first one set wins.
const FILTER_VARIABLES: [&str; 2] = ["TRAWL_LOG", "RUST_LOG"];

/// Client libraries that at info and debug level tell about every request; a filter from the environment
/// can still open them. lapin is silent: it logs a returned message with its body, and an error for each
/// question about a queue that is not there; what matters of it comes back as an error and is logged by us.
const QUIET: &str = "lapin=off,aws_config=warn,aws_sdk_s3=warn,aws_runtime=warn,aws_smithy_runtime=warn,\
                     aws_smithy_runtime_api=warn,aws_smithy_http_client=warn,aws_smithy_checksums=warn,aws_sigv4=warn,hyper=warn,hyper_util=warn,\
                     rustls=warn,redis=warn,h2=warn,tower=warn";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people, coloured on a terminal.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Logging that cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
#[error(
    "{variable} is `{value}`, which is no log filter: {reason}; it looks like info or trawl_common=debug,info"
)]
pub struct TelemetryError {
    variable: &'static str,
    value: String,
    reason: String,
}

/// Starts logging to stderr at `default_level` or as `TRAWL_LOG` (else `RUST_LOG`) says. A second call
/// in one process changes nothing.
///
/// # Errors
/// [`TelemetryError`] if the environment's filter is not one.
pub fn init(format: LogFormat, default_level: Level) -> Result<(), TelemetryError> {
    let asked = FILTER_VARIABLES.iter().find_map(|&name| {
        env::var(name).ok().filter(|value| !value.trim().is_empty()).map(|value| (name, value))
    });
    let filter = filter(asked, default_level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| OneLine(Stderr));
    // An error means that a subscriber is there already; it stays.
    let _ = match format {
        LogFormat::Pretty => lines.with_ansi(terminal::colour(&io::stderr())).try_init(),
        LogFormat::Json => lines.json().with_ansi(false).event_format(json::JsonLine).try_init(),
    };
    Ok(())
}

/// Stderr, unless a screen is up there. The formatter writes an event at once.
struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if held::takes(event) { Ok(event.len()) } else { io::stderr().write(event) }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Keeps an event on its line: keys and servers' answers in it may hold line breaks, and a forged line looks like
/// any other. The formatter writes an event at once, and escapes what steers a terminal by itself.
struct OneLine<W>(W);

impl<W: io::Write> io::Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (body, end) = match event.strip_suffix(b"\n") {
            Some(body) => (body, b"\n".as_slice()),
            None => (event, b"".as_slice()),
        };
        if body.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            let mut line = Vec::with_capacity(event.len() + 16);
            for &byte in body {
                match byte {
                    b'\n' => line.extend(b"\\n"),
                    b'\r' => line.extend(b"\\r"),
                    _ => line.push(byte),
                }
            }
            line.extend(end);
            self.0.write_all(&line)?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Text from outside without characters that would steer a terminal or break a line.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        // Bidirectional overrides reorder what is shown; they are format characters, not controls. Line and
        // paragraph separators break lines in some viewers.
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// The filter: what is asked for comes after [`QUIET`], and a later directive for the same target wins.
fn filter(asked: Option<(&'static str, String)>, default_level: Level) -> Result<EnvFilter, TelemetryError> {
    let (variable, value) = asked.unwrap_or_else(|| ("the default", default_level.to_string()));
    EnvFilter::try_new(format!("{QUIET},{value}")).map_err(|error| TelemetryError {
        variable,
        value: value.chars().take(200).collect(),
        reason: error.to_string(),
    })
}

/// Displays a URL without user, password, query and fragment. Doubtful texts lose more rather than less:
/// everything up to the last `@` goes, wherever it stands.
///
/// ```
/// # use trawl_common::telemetry::Redacted;
/// assert_eq!(Redacted("amqp://ann:secret@rabbit:5672/lane?heartbeat=5").to_string(), "amqp://rabbit:5672/lane");
/// ```
#[derive(Clone, Copy)]
pub struct Redacted<'a>(pub &'a str);

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = match self.0.split_once("://") {
            // A scheme has no `@`; a text with one is a password that contains `://`.
            Some((scheme, rest)) if !scheme.contains('@') => (Some(scheme), rest),
            Some(_) | None => (None, self.0),
        };
        // The `@` before `?` and `#`: an unescaped password may contain those.
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        match scheme {
            Some(scheme) => write!(f, "{scheme}://{rest}"),
            None => f.write_str(rest),
        }
    }
}

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credential_survives() {
        for url in [
            "redis://:canary@host:6379/0",
            "redis://user:canary@host:6379/0",
            "redis://user:ca/na?ry#canary@host:6379/0",
            "user:canary@host:6379/0",
            "redis://u:can://ary@host:6379/0",
            "redis://host:6379/0?password=canary",
            "redis://host:6379/0#canary",
        ] {
            let shown = Redacted(url).to_string();
            assert!(!shown.contains("canary") && !shown.contains("ary"), "{shown}");
            assert!(shown.ends_with("host:6379/0"), "{shown}");
            assert_eq!(format!("{:?}", Redacted(url)), format!("\"{shown}\""));
        }
        assert_eq!(Redacted("http://[::1]:9000/x").to_string(), "http://[::1]:9000/x");
    }

    #[test]
    fn the_environment_may_open_what_is_quiet() {
        let shown = |asked: &str| filter(Some(("TRAWL_LOG", asked.into())), Level::INFO).unwrap().to_string();
        assert!(shown("debug").contains("lapin=off"), "{}", shown("debug"));
        assert!(shown("lapin=trace,info").contains("lapin=trace"));
        assert!(!shown("lapin=trace,info").contains("lapin=off"));
        assert!(filter(None, Level::WARN).unwrap().to_string().contains("warn"));
        let error = filter(Some(("TRAWL_LOG", "trawl=loud".into())), Level::INFO).unwrap_err();
        assert!(error.to_string().contains("TRAWL_LOG") && error.to_string().contains("trawl=loud"));
    }

    #[test]
    fn an_event_is_one_line_and_nothing_steers_the_terminal() {
        use io::Write;
        let written = |event: &str| {
            let mut line = OneLine(Vec::new());
            line.write_all(event.as_bytes()).unwrap();
            String::from_utf8(line.0).unwrap()
        };
        assert_eq!(written("a\n"), "a\n");
        assert_eq!(written("key=x\n2026 INFO forged\r\n\n"), "key=x\\n2026 INFO forged\\r\\n\n");
        assert_eq!(written("a\nb"), "a\\nb");
        assert_eq!(printable("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(printable("gpj.\u{202e}x\u{9b}\u{2028}"), "gpj.\\u{202e}x\\u{9b}\\u{2028}");
        assert_eq!(printable("größe/图.jpg 😀 'x' \"y\""), "größe/图.jpg 😀 'x' \"y\"");
    }

    #[test]
    fn starting_twice_is_harmless() {
        init(LogFormat::Json, Level::WARN).unwrap();
        init(LogFormat::Pretty, Level::WARN).unwrap();
    }
}
