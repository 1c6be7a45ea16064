//! Runs the real binaries, as built beside the tests.

use crate::{repository, stack::Stack};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::Duration,
};

/// A program of the workspace, `trawl` or `trawl-worker`, in a clean environment.
///
/// # Panics
/// If it is not built; `make test` builds it first.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(built(name));
    // What the developer's shell exports must not reach the tests.
    command.env_clear();
    for kept in ["PATH", "HOME", "TMPDIR", "LANG"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The same with the servers' addresses.
pub fn with_stack(name: &str, stack: &Stack) -> Command {
    let mut command = program(name);
    command.envs(&stack.env);
    command
}

fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test");
    // target/debug/deps/NAME-HASH, or target/debug/NAME
    let beside = test.parent().expect("a program lies in a folder");
    let target = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside };
    let path = target.join(name);
    assert!(
        path.is_file(),
        "{} is not built: run `make test`, or `cargo build --workspace --bins --examples`",
        path.display()
    );
    path
}

/// What a program left behind.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Its output.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

impl Ended {
    /// The exit code; -1 after a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Fails the test unless the code is `code`.
    ///
    /// # Panics
    /// If it is another.
    #[must_use]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The output as one JSON document.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {}", self.stdout))
    }
}

/// Runs to the end.
///
/// # Panics
/// If it cannot be started.
pub fn run(command: &mut Command) -> Ended {
    let output = command.output().expect("the program starts");
    Ended {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A program that runs beside the test and is killed with it; its messages go to a file.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command, dir: &Path) -> Self {
        let log = dir.join(format!("{}.log", crate::unique("program")));
        let file = std::fs::File::create(&log).expect("a log file");
        let child = command.stdout(Stdio::null()).stderr(file).spawn().expect("the program starts");
        Self { child, log }
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log holds `text`.
    pub fn wait_for_log(&self, text: &str, limit: Duration) {
        crate::wait::until(&format!("`{text}` in the log"), limit, || {
            self.log().contains(text).then_some(())
        });
    }

    /// Where it serves HTTP, by its log.
    ///
    /// # Panics
    /// If it was not started with `--http`.
    pub fn http_address(&self) -> String {
        let log = self.log();
        let address = log.split("http.address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        address.expect("it was started with --http").to_owned()
    }

    /// What it answers at its `--http` address: status and body.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn http(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.http_address());
        let program = "import sys,urllib.request as r\no=r.build_opener(r.ProxyHandler({}))\n\
                       try: a=o.open(sys.argv[1])\nexcept r.HTTPError as e: a=e\nprint(a.status, a.read().decode())";
        run(Command::new("python3").args(["-c", program, &url])).expect(0).stdout
    }

    /// The value of one of its metrics; 0 if there is no such series yet.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.http("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes no pointers; the child has not been waited for, so the pid is still its own.
        unsafe { libc::kill(self.pid(), signal) };
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let log = self.log.clone();
        crate::wait::until(&format!("the end of the program logging to {}", log.display()), limit, || {
            self.child.try_wait().expect("a child can be waited for")
        })
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already or not: both are fine.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of a program of the failed test:\n{}", self.log());
        }
    }
}

/// The tiny model's bundle, made once per test binary by the workspace's own example.
///
/// # Panics
/// If it cannot be made.
pub fn tiny_model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| make_model(&[] as &[&str]))
}

/// A variant of the tiny model.
///
/// # Panics
/// If it cannot be made.
pub fn make_model(flags: &[impl AsRef<OsStr>]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("{}.pt", crate::unique("trawl-tiny")));
    let ended = run(program("examples/tiny_model").arg(&path).args(flags));
    let _ended = ended.expect(0);
    path
}

/// The Python of the tests' environment, with pyarrow and duckdb.
pub fn python() -> Command {
    Command::new(repository().join(".venv/bin/python"))
}
