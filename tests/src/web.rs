//! A small HTTP client for what the programs serve, and the monitor itself.
//!
//! Blocking, one request a connection, HTTP/1.0 so that nothing is chunked: what is tested is the server, and a client
//! that does next to nothing hides nothing.

use crate::{
    programs::{Running, with_stack},
    scene::PATIENCE,
    stack::Stack,
};
use serde_json::Value;
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// A monitor that runs beside the test.
pub struct Monitor {
    /// The process.
    pub running: Running,
    /// Host and port.
    pub address: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head, as it came.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error} in {} {}", self.head, String::from_utf8_lossy(&self.body))
        })
    }

    /// Everything that came, as text.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.head, String::from_utf8_lossy(&self.body))
    }

    /// A line of the head.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// The command of a monitor of the stack's services, on a free port.
pub fn monitor_command(stack: &Stack, token: Option<&str>) -> Command {
    let mut command = with_stack("trawl-monitor", stack);
    command
        .env("TRAWL_MONITOR_LISTEN", "127.0.0.1:0")
        .env("TRAWL_MANAGEMENT_URL", stack.get("RABBITMQ_MANAGEMENT_URL"));
    if let Some(token) = token {
        command.env("TRAWL_MONITOR_TOKEN", token);
    }
    command
}

impl Monitor {
    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    pub fn start(command: &mut Command, dir: &Path) -> Self {
        let running = Running::start(command, dir);
        running.wait_for_log("monitor ready", PATIENCE);
        let log = running.log();
        let address = log.split("http.address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = address.expect("it says where it listens").to_owned();
        Self { running, address }
    }

    /// A request.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        ask(&self.address, method, path, headers, body)
    }

    /// The JSON of a path that is there.
    ///
    /// # Panics
    /// If it is not.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, &[], "");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// A change, as a script makes it.
    pub fn post(&self, path: &str, token: &str) -> Answer {
        self.ask("POST", path, &[("Authorization", &format!("Bearer {token}"))], "")
    }

    /// An event stream.
    ///
    /// # Panics
    /// If it does not begin.
    pub fn events(&self, topics: &str) -> Events {
        let stream = self.send("GET", &format!("/api/events?topics={topics}"), &[], "");
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).expect("a status line");
        assert!(line.contains(" 200 "), "{line}");
        while line.trim() != "" {
            line.clear();
            lines.read_line(&mut line).expect("a head");
        }
        Events { lines }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        send(&self.address, method, path, headers, body).expect("the monitor listens")
    }
}

/// A request to whoever listens at `address`.
///
/// # Panics
/// If there is no answer.
pub fn ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut stream = send(address, method, path, headers, body).expect("somebody listens");
    answer(&mut stream).expect("an answer to its end")
}

/// The answer to a GET, if somebody listens at `address` yet.
pub fn try_ask(address: &str, path: &str) -> Option<Answer> {
    answer(&mut send(address, "GET", path, &[], "").ok()?).ok()
}

fn answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let none = || io::Error::other("it is no HTTP");
    let at = all.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(none)?;
    let head = String::from_utf8_lossy(&all[..at]).into_owned();
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).ok_or_else(none)?;
    Ok(Answer { status, head, body: all[at + 4..].to_vec() })
}

fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head =
        format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    Ok(stream)
}

/// The events of a stream.
pub struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    /// The next event: its name and its data.
    ///
    /// # Panics
    /// If there is none within the patience.
    pub fn next_event(&mut self) -> (String, Value) {
        let (mut name, mut line) = (String::new(), String::new());
        loop {
            line.clear();
            let read = self.lines.read_line(&mut line).expect("an event in time");
            assert!(read > 0, "the stream has ended");
            if let Some(event) = line.strip_prefix("event: ") {
                event.trim().clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).expect("JSON"));
            }
        }
    }

    /// Events of one name until `enough` is content with one; gives that.
    ///
    /// # Panics
    /// At the deadline.
    pub fn until(&mut self, name: &str, limit: Duration, mut enough: impl FnMut(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let (event, data) = self.next_event();
            if event == name && enough(&data) {
                return data;
            }
            assert!(began.elapsed() < limit, "waited {limit:?} for an event `{name}`; the last was {data}");
        }
    }
}
