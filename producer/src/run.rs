//! `trawl run` and `trawl replay`: hand over to `trawl-worker`.
//!
//! What computes needs libtorch, and this binary must start without it; so it replaces itself by the
//! worker, with every argument untouched. Nothing is parsed here: the worker knows its own flags, `--help`
//! among them.

use crate::errors::Stop;
use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

/// The binary that does the work.
pub const WORKER: &str = "trawl-worker";

/// The global flags that take a value and may stand before the command's name.
const WITH_VALUE: [&str; 4] = ["--output", "--log-format", "--amqp-url", "--redis-url"];

/// The commands that are the worker's.
const HANDED_OVER: [&str; 2] = ["run", "replay"];

/// The worker's arguments, if the command line (without the program's name) asks for `run` or `replay`; global flags
/// before the name go along.
pub fn requested(arguments: &[OsString]) -> Option<Vec<OsString>> {
    let mut position = 0;
    loop {
        let text = arguments.get(position)?.to_str()?;
        if WITH_VALUE.contains(&text) {
            position += 2;
        } else if text.starts_with('-') {
            // `--output=json`, `-v`; `--help` and `--version` are trawl's own.
            if matches!(text, "-h" | "--help" | "-V" | "--version" | "--") {
                return None;
            }
            position += 1;
        } else {
            break;
        }
    }
    let command = HANDED_OVER.iter().find(|name| arguments[position] == OsStr::new(name))?;
    let mut handed = vec![OsString::from(*command)];
    handed.extend_from_slice(&arguments[..position]);
    handed.extend_from_slice(&arguments[position + 1..]);
    Some(handed)
}

/// Replaces this process by the worker; comes back only if that fails.
pub fn hand_over(arguments: &[OsString]) -> Stop {
    let Some(worker) = find_worker() else { return missing() };
    let error = Command::new(&worker).args(arguments).exec();
    Stop::failed(format!("`{}` cannot be started: {error}", worker.display()))
}

/// The worker beside this binary, else the first on PATH.
pub fn find_worker() -> Option<PathBuf> {
    let beside = env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(beside.into_iter().chain(env::split_paths(&path)))
}

fn find_in(dirs: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    // An empty entry of PATH means the working directory, which is nothing to run a program from unasked.
    dirs.filter(|dir| !dir.as_os_str().is_empty()).map(|dir| dir.join(WORKER)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The worker is not on this machine.
pub fn missing() -> Stop {
    Stop::not_found(format!("`trawl run` and `trawl replay` need `{WORKER}`, which is neither beside `trawl` nor on PATH"))
        .hint("install it beside `trawl` (`cargo build --release` makes both), or use `trawl submit` with workers elsewhere")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(arguments: &[&str]) -> Option<Vec<String>> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        requested(&arguments)
            .map(|handed| handed.into_iter().map(|a| a.into_string().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_pass_untouched() {
        let line = ["run", "photos", "--model", "m.pt", "--out=o", "-v", "--", "--odd", ""];
        assert_eq!(handed(&line).unwrap(), line);
        assert_eq!(handed(&["run", "--help"]).unwrap(), ["run", "--help"]);
        assert_eq!(
            handed(&["--output", "json", "-v", "run", "x"]).unwrap(),
            ["run", "--output", "json", "-v", "x"]
        );
        assert_eq!(handed(&["--output=json", "run", "x"]).unwrap(), ["run", "--output=json", "x"]);
        assert_eq!(handed(&["-v", "replay", "o", "k"]).unwrap(), ["replay", "-v", "o", "k"]);
    }

    #[test]
    fn other_commands_are_ours() {
        for line in
            [&["submit", "run"][..], &["help", "run"], &["--output", "run", "jobs"], &["-h", "run"], &[]]
        {
            assert_eq!(handed(line), None, "{line:?}");
        }
    }

    #[test]
    fn only_a_program_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (empty, full) = (dir.path().join("empty"), dir.path().join("full"));
        std::fs::create_dir_all(empty.join(WORKER)).unwrap();
        std::fs::create_dir(&full).unwrap();
        let program = full.join(WORKER);
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let find = || find_in([PathBuf::new(), empty.clone(), full.clone()].into_iter());
        assert_eq!(find(), None, "not executable");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(), Some(program));
    }
}
