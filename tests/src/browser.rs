//! A headless Chromium in the hands of a test, over its own protocol on a pair of pipes.
//!
//! No driver program and no port: commands go in by descriptor 3 and come back by descriptor 4, each a JSON text that
//! ends with a zero byte. Blocking, one page, and everything has a deadline. What a page complains about (exceptions,
//! refused scripts and styles) is kept for the test to look at.

use serde_json::{Value, json};
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

/// For an answer of the browser itself.
const ANSWER: Duration = Duration::from_secs(60);

/// For a page to become what the test waits for; debug builds on two busy cores.
const PATIENCE: Duration = Duration::from_secs(120);

/// Messages that may wait for the test.
const MAX_UNREAD: usize = 10_000;

/// The descriptors by which Chromium is spoken to.
const THEIR_INPUT: i32 = 3;
const THEIR_OUTPUT: i32 = 4;

/// A running browser with one page.
pub struct Browser {
    child: Child,
    input: File,
    answers: Receiver<Value>,
    page: String,
    next: u64,
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

fn program() -> &'static str {
    let there = |name: &&str| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
    };
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(there)
        .expect("no Chromium: `make setup` installs it, or apt-get install chromium")
}

/// A pipe whose ends lie above the descriptors that the browser is given.
fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0_i32; 2];
    // SAFETY: `pipe2` writes two descriptors into the array that it is given.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0, "a pipe");
    let above = |end: i32| {
        // SAFETY: the descriptor was just made and is closed once, here; its copy is owned by who gets it.
        unsafe {
            let copy = libc::fcntl(end, libc::F_DUPFD_CLOEXEC, 10);
            libc::close(end);
            assert!(copy >= 10, "a descriptor");
            OwnedFd::from_raw_fd(copy)
        }
    };
    (above(ends[0]), above(ends[1]))
}

impl Browser {
    /// Starts it, with an empty profile and an empty page of 1280 x 860.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().expect("a folder for the profile");
        let ((their_input, input), (output, their_output)) = (pipe(), pipe());
        let mut command = Command::new(program());
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-sync",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-dev-shm-usage",
            ])
            .args(["--remote-debugging-pipe", "--hide-scrollbars", "--force-color-profile=srgb"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (to_them, from_them) = (their_input.as_raw_fd(), their_output.as_raw_fd());
        // SAFETY: between fork and exec only `dup2` is called, on descriptors that live until after the spawn.
        unsafe {
            command.pre_exec(move || {
                if libc::dup2(to_them, THEIR_INPUT) < 0 || libc::dup2(from_them, THEIR_OUTPUT) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("Chromium starts");
        drop((their_input, their_output));
        let (send, answers) = sync_channel(MAX_UNREAD);
        std::thread::spawn(move || {
            let mut output = BufReader::new(File::from(output));
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { return };
                if send.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            input: File::from(input),
            answers,
            page: String::new(),
            next: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", &json!({"targetId": target, "flatten": true}));
        attached["sessionId"].as_str().expect("a session").clone_into(&mut browser.page);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, &json!({}));
        }
        browser.size(1280, 860);
        browser
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": parameters});
        if !self.page.is_empty() {
            message["sessionId"] = json!(self.page);
        }
        self.input.write_all(message.to_string().as_bytes()).expect("Chromium takes commands");
        self.input.write_all(&[0]).expect("Chromium takes commands");
        let deadline = Instant::now() + ANSWER;
        loop {
            let answer = match self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => panic!("Chromium does not answer {method}"),
                Err(RecvTimeoutError::Disconnected) => panic!("Chromium is gone"),
            };
            if answer["id"] == self.next {
                assert!(answer.get("error").is_none(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            self.note(&answer);
        }
    }

    /// Keeps what a page should not say.
    fn note(&mut self, event: &Value) {
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints.push(event["params"]["exceptionDetails"].to_string());
            }
            Some("Log.entryAdded") if event["params"]["entry"]["level"] == "error" => {
                let entry = &event["params"]["entry"];
                self.complaints.push(format!("{} {}", entry["text"], entry["url"]));
            }
            _ => {}
        }
    }

    /// What the pages have complained about so far.
    pub fn complaints(&mut self) -> Vec<String> {
        // Whatever is still on its way comes before the answer to this.
        self.eval("1");
        std::mem::take(&mut self.complaints)
    }

    /// Opens an address and waits until its document is there.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", &json!({"url": url}));
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
        self.until("the document", "document.readyState === 'complete'");
    }

    /// The value of an expression in the page; a promise is waited for.
    ///
    /// # Panics
    /// If it throws.
    pub fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let done = self.call("Runtime.evaluate", &parameters);
        assert!(done.get("exceptionDetails").is_none(), "{expression}: {}", done["exceptionDetails"]);
        done["result"]["value"].clone()
    }

    /// Waits until an expression is true, or anything but nothing; gives its value.
    ///
    /// # Panics
    /// At the deadline, with the text of the page.
    pub fn until(&mut self, what: &str, expression: &str) -> Value {
        let began = Instant::now();
        loop {
            let value = self.eval(expression);
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            if began.elapsed() > PATIENCE {
                let text = self.eval("document.body.innerText");
                panic!("waited {PATIENCE:?} for {what}; the page says: {text}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Clicks a button by its words, the first that is shown; waits for it.
    ///
    /// # Panics
    /// If none comes.
    pub fn click(&mut self, within: &str, words: &str) {
        let button = format!(
            "[...document.querySelectorAll({})].flatMap((e) => [...e.querySelectorAll('button')])\
             .find((b) => b.textContent.trim() === {} && b.checkVisibility() && !b.disabled)",
            json!(within),
            json!(words)
        );
        self.until(&format!("the button `{words}`"), &format!("{button} != null"));
        self.eval(&format!("{button}.click()"));
    }

    /// The size of the page, in pixels.
    pub fn size(&mut self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Whether the system likes it dark.
    pub fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", &features);
    }

    /// A picture of what is seen, as a PNG.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn picture(&mut self, path: &Path) {
        let shot = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        let bytes = base64(shot["data"].as_str().expect("a picture"));
        std::fs::write(path, bytes).expect("the picture is written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ended already or not: both are fine.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- complaints of the pages: {:#?}", self.complaints);
        }
    }
}

fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in text.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).expect("eight bits"));
        }
    }
    bytes
}
