//! How both binaries show their command line: help that leads with examples, and manual pages made of it.
//!
//! Works on the definition alone; what a flag means is not known here.

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What a command does, how it is called, examples, and then every flag.
const HELP: &str = "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}{all-args}{after-help}\n";

/// The same layout for every page: a command's examples are its `before_help`.
pub fn laid_out(command: Command) -> Command {
    command.help_template(HELP).mut_subcommands(laid_out)
}

/// Writes a manual page for `command` and each of its commands below `dir`, which is made. The answer is the
/// files, the first one being that of `command` itself.
///
/// # Errors
/// What the file system gives.
pub fn write_manual(command: Command, dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    // Full names (`trawl dead list`) and inherited flags are there only after this.
    let mut command = command;
    command.build();
    let (mut written, mut left) = (Vec::new(), vec![command]);
    while let Some(command) = left.pop() {
        let name = page_name(&command);
        let path = dir.join(format!("{name}.1"));
        fs::write(&path, page(&command)?)?;
        written.push(path);
        left.extend(visible(&command).cloned());
    }
    Ok(written)
}

/// `trawl-dead-list`.
fn page_name(command: &Command) -> String {
    command.get_bin_name().unwrap_or_else(|| command.get_name()).replace(' ', "-")
}

/// The commands that have a page: `help` has its own words, hidden ones none.
fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

/// One page in roff.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let name = page_name(command);
    let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
    let remarks = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    // Both have sections of their own; the generator would join them to others.
    let shown = command.clone().display_name(name).before_help(None).after_help(None);
    let man = Man::new(shown).source(concat!("trawl ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    literal("EXAMPLES", examples.trim_start_matches("Examples:")).to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut commands = Roff::new();
    for (i, sub) in visible(command).enumerate() {
        if i == 0 {
            commands.control("SH", ["COMMANDS"]);
        }
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        commands.control("TP", []);
        commands.text([bold(format!("{}(1)", page_name(sub)))]);
        commands.text([roman(about)]);
    }
    commands.to_writer(&mut page)?;
    literal("NOTES", &remarks).to_writer(&mut page)?;
    Ok(page)
}

/// A section whose lines stay as they are; none for an empty text.
fn literal(title: &str, text: &str) -> Roff {
    let mut roff = Roff::new();
    let text = text.trim_matches('\n');
    if text.is_empty() {
        return roff;
    }
    roff.control("SH", [title]);
    roff.control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn command() -> Command {
        let list = Command::new("list").about("Show them").before_help("Examples:\n  fish list | head");
        let secret = Command::new("secret").hide(true);
        let flag = Arg::new("depth").long("depth").help("How deep");
        laid_out(
            Command::new("fish")
                .about("Catches fish")
                .before_help("Examples:\n  fish list\n  .fish -x 'a\\b'")
                .after_help("Exit codes: 0 done.")
                .arg(flag)
                .subcommand(list)
                .subcommand(secret),
        )
    }

    #[test]
    fn examples_come_before_the_flags() {
        let help = command().render_help().to_string();
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text} in {help}"));
        assert!(at("Usage:") < at("Examples:") && at("Examples:") < at("--depth"), "{help}");
        assert!(at("--depth") < at("Exit codes"), "{help}");
    }

    #[test]
    fn every_command_that_is_shown_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let written = write_manual(command(), dir.path()).unwrap();
        let mut names: Vec<_> =
            written.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["fish-list.1", "fish.1"]);
        let page = fs::read_to_string(&written[0]).unwrap();
        for part in
            [".SH NAME", ".SH EXAMPLES", ".SH OPTIONS", ".SH COMMANDS", "fish\\-list(1)", "Exit codes"]
        {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("\n.fish"), "no example is a request to roff: {page}");
    }
}
