//! `trawl completions`, a completion script for a shell, and `trawl man`, the manual pages.

use crate::{cli, errors::Stop};
use clap_complete::Shell;
use std::{io::Write, path::Path};
use trawl_common::{command_line, config::exit};

/// Prints the script.
///
/// # Errors
/// What the writer gives.
pub fn run(shell: Shell, out: &mut dyn Write) -> Result<u8, Stop> {
    // Made in memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "trawl", &mut script);
    out.write_all(&script)?;
    Ok(exit::OK)
}

/// Writes the manual pages and prints their names.
///
/// # Errors
/// Failed if the folder cannot be written.
pub fn manual(dir: &Path, out: &mut dyn Write) -> Result<u8, Stop> {
    let written = command_line::write_manual(cli::command(), dir).map_err(|error| {
        Stop::failed(format!("the manual pages cannot be written to `{}`: {error}", dir.display()))
    })?;
    for path in written {
        writeln!(out, "{}", path.display())?;
    }
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_has_a_script_that_knows_the_commands() {
        for shell in Shell::value_variants() {
            let mut out = Vec::new();
            run(*shell, &mut out).unwrap();
            let script = String::from_utf8(out).unwrap();
            assert!(script.contains("submit") && script.contains("doctor"), "{shell}");
        }
    }

    #[test]
    fn every_command_has_a_manual_page_that_reads_without_a_warning() {
        let (dir, mut out) = (tempfile::tempdir().unwrap(), Vec::new());
        manual(dir.path(), &mut out).unwrap();
        let pages = String::from_utf8(out).unwrap();
        for name in cli::command().get_subcommands().filter(|sub| !sub.is_hide_set()) {
            assert!(pages.contains(&format!("/trawl-{}.1\n", name.get_name())), "{name} in {pages}");
        }
        assert!(pages.contains("/trawl.1\n") && pages.contains("/trawl-dead-retry.1\n"), "{pages}");
        for page in pages.lines() {
            let text = std::fs::read_to_string(page).unwrap();
            assert!(text.contains(".SH EXAMPLES"), "{page}");
            let read =
                std::process::Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z", page]).output();
            match read {
                Ok(read) => assert_eq!(String::from_utf8_lossy(&read.stderr), "", "{page}"),
                // Not every machine can read manual pages.
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
            }
        }
    }
}
