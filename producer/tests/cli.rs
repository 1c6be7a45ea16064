//! The `trawl` command as a user meets it, without any server.

use std::{
    path::Path,
    process::{Command, Output},
};

/// A port on which nothing listens: services are away at once.
const AWAY_AMQP: &str = "amqp://user:canary@127.0.0.1:1";
const AWAY_REDIS: &str = "redis://:canary@127.0.0.1:1";

fn trawl_in(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .env("PATH", dir)
        .env("HOME", dir)
        .env("TRAWL_AMQP_URL", AWAY_AMQP)
        .env("TRAWL_REDIS_URL", AWAY_REDIS)
        .output()
        .expect("the binary starts")
}

fn trawl(arguments: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().expect("a folder");
    texts(&trawl_in(dir.path(), arguments))
}

fn texts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code().expect("no signal"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_is_on_stdout_and_has_examples() {
    let (code, out, err) = trawl(&["--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("Examples:") && out.contains("submit") && out.contains("Exit codes"), "{out}");
    assert!(!out.contains("canary") && !out.contains("guest"), "{out}");
    let (code, out, _) = trawl(&["submit", "--help"]);
    assert_eq!(code, 0);
    assert!(out.contains("--batch-size") && out.contains("Examples:") && !out.contains("canary"), "{out}");
}

#[test]
fn no_arguments_is_usage() {
    let (code, out, err) = trawl(&[]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("Usage: trawl"), "{err}");
}

#[test]
fn a_misspelled_flag_is_answered_with_the_right_one() {
    let (code, _, err) = trawl(&["results", "./o", "--limt", "3"]);
    assert_eq!(code, 2);
    assert!(err.contains("--limit"), "{err}");
    let (code, _, err) = trawl(&["statsu"]);
    assert_eq!(code, 2);
    assert!(err.contains("status"), "{err}");
}

#[test]
fn what_is_wrong_with_the_flags_needs_no_server() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("bad.pt"), "no zip").expect("a file");
    let submit = |model: &str, more: &[&str]| {
        let arguments = [&["submit", "photos", "--model", model, "--out", "out"], more].concat();
        let (code, out, err) = texts(&trawl_in(dir.path(), &arguments));
        assert_eq!(out, "");
        (code, err)
    };
    let (code, err) = submit("bad.pt", &[]);
    assert!(code == 2 && err.contains("not TorchScript") && err.contains("export.py"), "{code} {err}");
    let (code, err) = submit("none.pt", &[]);
    assert!(code == 2 && err.starts_with("error: ") && err.contains("none.pt"), "{code} {err}");
    assert_eq!(submit("bad.pt", &["--batch-size", "0"]).0, 2);
    assert_eq!(submit("bad.pt", &["--limit", "0"]).0, 2);
    let (code, err) = submit("ftp://x/y.pt", &[]);
    assert!(code == 2 && err.contains("scheme"), "{code} {err}");
    let (code, err) = submit("s3://key:canary@bucket/m.pt", &[]);
    assert!(code == 2 && !err.contains("canary"), "{code} {err}");
    assert!(!dir.path().join("out").exists(), "nothing is made for a bad model");
}

#[test]
fn a_folder_that_is_no_output_is_not_found() {
    for command in ["status", "results", "failures"] {
        let (code, out, err) = trawl(&[command, "./nowhere"]);
        assert_eq!((code, out.as_str()), (4, ""), "{command}: {err}");
        assert!(err.contains("nowhere") && err.contains("hint:"), "{command}: {err}");
    }
}

#[test]
fn services_that_are_away_are_transient_and_no_password_is_printed() {
    for arguments in [&["jobs"][..], &["status", "job-1"], &["cancel", "job-1"], &["watch", "job-1"]] {
        let (code, out, err) = trawl(arguments);
        assert_eq!((code, out.as_str()), (5, ""), "{arguments:?}: {err}");
        assert!(err.contains("127.0.0.1:1") && !err.contains("canary"), "{arguments:?}: {err}");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut doctor = Command::new(alone(dir.path()));
    doctor.args(["doctor", "--store", ".", "--output", "json"]).current_dir(dir.path()).env("PATH", "");
    let doctor = doctor.env("TRAWL_AMQP_URL", AWAY_AMQP).env("TRAWL_REDIS_URL", AWAY_REDIS).output();
    let (code, out, err) = texts(&doctor.expect("it starts"));
    assert_eq!(code, 5, "{out} {err}");
    let checks: serde_json::Value = serde_json::from_str(&out).expect("one JSON document");
    let ok = |name: &str| {
        let found = checks.as_array().expect("a list").iter().find(|check| check["check"] == name);
        found.expect("the check is there")["ok"].as_bool().expect("yes or no")
    };
    assert!(!ok("broker") && !ok("ledger") && ok("put") && ok("create-only") && ok("worker"), "{checks}");
    assert!(!out.contains("canary") && !err.contains("canary"), "{out} {err}");
}

#[test]
fn completions_are_a_script() {
    let (code, out, _) = trawl(&["completions", "bash"]);
    assert_eq!(code, 0);
    assert!(out.contains("_trawl"), "{out}");
    assert_eq!(trawl(&["completions", "nosuch"]).0, 2);
}

/// A copy of the binary where no worker lies beside it.
fn alone(dir: &Path) -> std::path::PathBuf {
    let copy = dir.join("bin/trawl");
    std::fs::create_dir(dir.join("bin")).expect("a folder");
    std::fs::copy(env!("CARGO_BIN_EXE_trawl"), &copy).expect("a copy");
    copy
}

#[test]
fn run_without_a_worker_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = Command::new(alone(dir.path())).args(["run", "x", "--any"]).env("PATH", "").output();
    let (code, out, err) = texts(&output.expect("it starts"));
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(err.contains("trawl-worker") && err.contains("hint:"), "{err}");
}

#[test]
fn run_hands_every_argument_over() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a folder");
    let binary = alone(dir.path());
    let worker = dir.path().join("bin/trawl-worker");
    std::fs::write(&worker, "#!/bin/sh\nprintf '<%s>' \"$@\"\nexit 3\n").expect("a script");
    std::fs::set_permissions(&worker, std::fs::Permissions::from_mode(0o755)).expect("a program");
    let output = Command::new(binary).args(["--output", "json", "run", "a b", "--help", "--", "-v"]).output();
    let (code, out, _) = texts(&output.expect("it starts"));
    assert_eq!((code, out.as_str()), (3, "<run><--output><json><a b><--help><--><-v>"));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

/// What a command writes with these variables set: stdout, then stderr.
fn written(variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(arguments)
        .current_dir(dir.path())
        .env_clear()
        .env("TRAWL_AMQP_URL", AWAY_AMQP)
        .env("TRAWL_REDIS_URL", AWAY_REDIS)
        .envs(variables.iter().copied())
        .output()
        .expect("the binary starts");
    let (_, out, err) = texts(&output);
    out + &err
}

#[test]
fn help_errors_and_logs_obey_the_same_rule_of_colour() {
    let force = ("CLICOLOR_FORCE", "1");
    for command in [&["jobs", "--help"][..], &["jobs", "--no-such"], &["jobs", "-vvv"]] {
        let coloured = |variables: &[(&str, &str)], more: &[&str]| {
            written(variables, &[command, more].concat()).contains('\u{1b}')
        };
        assert!(!coloured(&[], &[]), "{command:?}: a pipe is no terminal");
        assert!(coloured(&[force], &[]), "{command:?}: forced");
        assert!(!coloured(&[force, ("NO_COLOR", "1")], &[]), "{command:?}: NO_COLOR");
        assert!(!coloured(&[force], &["--no-color"]), "{command:?}: --no-color");
    }
}

#[test]
fn a_log_line_is_a_json_object_with_the_names_that_are_documented() {
    let text = written(&[], &["jobs", "-vvv", "--log-format", "json"]);
    let lines: Vec<serde_json::Value> = text
        .lines()
        .filter(|line| !line.starts_with("error: ") && !line.starts_with("hint: "))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}")))
        .collect();
    assert!(!lines.is_empty(), "{text}");
    for line in &lines {
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{name} in {line}");
        }
    }
}
