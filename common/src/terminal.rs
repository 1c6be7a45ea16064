//! What may be written to a terminal: colour, and lines that move.
//!
//! One rule for both binaries, anstream's, which is clap's too: `--no-color` wins; else `NO_COLOR`,
//! `CLICOLOR_FORCE`, `CLICOLOR` and `TERM=dumb` in that order; else colour on a terminal. Nothing that redraws
//! itself may be written where a terminal cannot: to a file, a pipe, or `TERM=dumb`.

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use std::{
    env,
    ffi::{OsStr, OsString},
    io::IsTerminal,
};

/// The flag of both binaries.
pub const NO_COLOR_FLAG: &str = "--no-color";

/// Takes `--no-color` before the command line is parsed, so that the parser's own words obey it too.
pub fn obey_no_color<'a>(arguments: impl IntoIterator<Item = &'a OsString>) -> clap::ColorChoice {
    // What comes after `--` is somebody's file.
    let mut flags = arguments.into_iter().take_while(|argument| *argument != OsStr::new("--"));
    if flags.any(|argument| argument == OsStr::new(NO_COLOR_FLAG)) {
        ColorChoice::Never.write_global();
        return clap::ColorChoice::Never;
    }
    clap::ColorChoice::Auto
}

/// Whether `stream` takes colour.
pub fn colour<S: RawStream>(stream: &S) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

/// Whether `stream` is a terminal that can redraw what it shows.
pub fn redraws(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && !is_dumb(env::var_os("TERM").as_deref())
}

fn is_dumb(term: Option<&OsStr>) -> bool {
    term.is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Whether the terminal's locale has more than ASCII, as `LC_ALL`, `LC_CTYPE` and `LANG` say, the first one set.
pub fn has_unicode() -> bool {
    let asked = ["LC_ALL", "LC_CTYPE", "LANG"].map(|name| env::var(name).unwrap_or_default());
    names_unicode(&asked)
}

fn names_unicode(asked: &[String]) -> bool {
    let locale = asked.iter().find(|value| !value.is_empty()).map_or("", String::as_str).to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dumb_terminal_redraws_nothing() {
        for (term, dumb) in
            [(None, true), (Some(""), true), (Some("dumb"), true), (Some("xterm-256color"), false)]
        {
            assert_eq!(is_dumb(term.map(OsStr::new)), dumb, "{term:?}");
        }
        assert!(!redraws(&std::fs::File::open("/dev/null").unwrap()), "a file is no terminal");
    }

    #[test]
    fn the_first_locale_that_is_set_decides() {
        let asked = |all: &str, ctype: &str, lang: &str| {
            names_unicode(&[all.to_owned(), ctype.to_owned(), lang.to_owned()])
        };
        assert!(asked("", "", "en_US.UTF-8") && asked("", "C.utf8", "C"));
        assert!(!asked("C", "", "en_US.UTF-8") && !asked("", "", ""));
    }

    #[test]
    fn a_file_behind_the_dashes_is_no_flag() {
        let line = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(obey_no_color(&line(&["run", "--", "--no-color"])), clap::ColorChoice::Auto);
        assert_eq!(obey_no_color(&line(&["jobs"])), clap::ColorChoice::Auto);
    }
}
