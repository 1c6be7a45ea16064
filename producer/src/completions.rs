//! `trawl completions`: a completion script for a shell.

use crate::{cli::Cli, errors::Stop};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;
use trawl_common::config::exit;

/// Prints the script.
///
/// # Errors
/// What the writer gives.
pub fn run(shell: Shell, out: &mut dyn Write) -> Result<u8, Stop> {
    // Made in memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "trawl", &mut script);
    out.write_all(&script)?;
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
}
