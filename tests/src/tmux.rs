//! A terminal that a test looks at: one window of a private tmux server.
//!
//! What a program draws is read back as the text that somebody would see, after tmux has understood every escape.
//! The server has its own socket and no configuration, and ends with the test.

use crate::{unique, wait};
use std::{
    process::{Command, Output},
    time::Duration,
};

/// A frame is drawn within two seconds on a busy machine; the rest is for starting a program.
const PATIENCE: Duration = Duration::from_secs(60);

/// The window.
pub struct Terminal {
    socket: String,
}

impl Terminal {
    /// A shell in a window of this size, with these variables, in this folder; `None` where tmux is not installed.
    ///
    /// # Panics
    /// If tmux does not start.
    pub fn open(size: (u16, u16), variables: &[(&str, &str)], dir: &std::path::Path) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            return None;
        }
        let terminal = Self { socket: unique("trawl-tmux") };
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let mut command = terminal.tmux();
        command.args(["-f", "/dev/null", "-u", "new-session", "-d", "-s", "t", "-x", &width, "-y", &height]);
        command.arg("-c").arg(dir);
        // A shell without anybody's configuration; what the developer's shell exports must not reach the tests.
        command.args(["env", "-i", "PS1=$ ", "TERM=screen-256color", "LC_ALL=C.UTF-8"]);
        for kept in ["PATH", "HOME", "TMPDIR"] {
            if let Ok(value) = std::env::var(kept) {
                command.arg(format!("{kept}={value}"));
            }
        }
        command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.args(["/bin/sh", "-i"]);
        let opened = command.output().expect("tmux starts");
        assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
        terminal.wait("a prompt", |text| text.contains('$'));
        Some(terminal)
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        // The test's own terminal, if it has one, is not asked.
        command.args(["-L", &self.socket]).env_remove("TMUX");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.tmux().args(arguments).output().expect("tmux answers");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Types a line.
    pub fn enter(&self, line: &str) {
        self.run(&["send-keys", "-t", "t", "-l", line]);
        self.press("Enter");
    }

    /// Presses a key, by tmux's name of it.
    pub fn press(&self, key: &str) {
        self.run(&["send-keys", "-t", "t", key]);
    }

    /// Gives the window another size.
    pub fn resize(&self, width: u16, height: u16) {
        self.run(&["resize-window", "-t", "t", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// What is to be seen.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.run(&["capture-pane", "-p", "-t", "t"]).stdout).into_owned()
    }

    /// Whether anything to be seen has a colour.
    pub fn is_coloured(&self) -> bool {
        let shown = self.run(&["capture-pane", "-p", "-e", "-t", "t"]).stdout;
        let shown = String::from_utf8_lossy(&shown).into_owned();
        // `ESC [ 1 ; 36 m`; 39 and 49 are the terminal's own colours.
        let escapes = shown.split("\u{1b}[").skip(1).filter_map(|rest| rest.split_once('m'));
        escapes.flat_map(|(numbers, _)| numbers.split(';')).any(|number| {
            number.parse().is_ok_and(|n: u8| matches!(n, 30..=38 | 40..=48 | 90..=97 | 100..=107))
        })
    }

    /// Whether the alternate screen is up, and whether the cursor is hidden.
    pub fn is_full_screen(&self) -> (bool, bool) {
        let asked = self.run(&["display-message", "-p", "-t", "t", "#{alternate_on} #{cursor_flag}"]).stdout;
        let answer = String::from_utf8_lossy(&asked).trim().to_owned();
        (answer.starts_with('1'), answer.ends_with('0'))
    }

    /// The process that has the terminal at this moment: its group has the number of its first process.
    ///
    /// # Panics
    /// If nobody has it.
    pub fn foreground(&self) -> i32 {
        let asked = self.run(&["display-message", "-p", "-t", "t", "#{pane_pid}"]).stdout;
        let shell = String::from_utf8_lossy(&asked).trim().to_owned();
        let stat = std::fs::read_to_string(format!("/proc/{shell}/stat")).expect("the shell is there");
        // After the name in brackets: state, parent, group, session, terminal, and the group that has the terminal.
        let fields = stat.rsplit(')').next().expect("a process has a name");
        fields.split_whitespace().nth(5).and_then(|group| group.parse().ok()).expect("a number")
    }

    /// Waits until what is to be seen is as wanted, and gives it.
    ///
    /// # Panics
    /// If it does not become so.
    pub fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait::until(what, PATIENCE, || {
                last = self.text();
                wanted(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("waited for {what}, and saw:\n{last}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended with its shell.
        let _ended = self.tmux().arg("kill-server").output();
    }
}
