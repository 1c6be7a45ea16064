//! A real Prometheus in the hands of a test: started with the shipped configuration, asked over its own API.
//!
//! Its folder is a copy of deploy/prometheus in which the targets and the pace of the scrapes are the test's; all else,
//! the alert rules too, is what an operator gets. It must never be reachable from elsewhere, nor outlive the test.

use crate::{programs::Running, repository, scene::PATIENCE, wait, web};
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

/// The line of the shipped configuration that the test replaces, and what it puts there.
const PACE: [&str; 2] = ["scrape_interval: 15s", "scrape_interval: 1s"];

/// What a range of some scrapes is at that pace, for Grafana's `$__rate_interval`.
pub const RATE_INTERVAL: &str = "1m";

/// A Prometheus that runs beside the test.
pub struct Prometheus {
    /// Host and port.
    address: String,
    _running: Running,
}

impl Prometheus {
    /// Starts one in `dir` that scrapes a worker and a monitor, and waits until it answers.
    ///
    /// # Panics
    /// If the program is missing or does not start.
    pub fn start(dir: &Path, worker: &str, monitor: &str) -> Self {
        let shipped = repository().join("deploy/prometheus");
        let folder = dir.join("prometheus");
        for inner in ["rules", "targets"] {
            fs::create_dir_all(folder.join(inner)).expect("a folder for the configuration");
        }
        let rules = fs::read(shipped.join("rules/trawl.yml")).expect("the shipped rules");
        fs::write(folder.join("rules/trawl.yml"), rules).expect("the rules");
        let config = fs::read_to_string(shipped.join("prometheus.yml")).expect("the shipped configuration");
        assert_eq!(config.matches(PACE[0]).count(), 1, "the pace of the scrapes stands once in\n{config}");
        fs::write(folder.join("prometheus.yml"), config.replace(PACE[0], PACE[1])).expect("a configuration");
        for (name, target) in [("worker", worker), ("monitor", monitor)] {
            let file = folder.join(format!("targets/{name}.yml"));
            fs::write(file, format!("- targets: [\"{target}\"]\n")).expect("a list of targets");
        }
        let address = free_address();
        let mut command = Command::new(program("prometheus"));
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let prometheus = Self { address, _running: Running::start(&mut command, dir) };
        wait::until("Prometheus to be ready", PATIENCE, || {
            web::try_ask(&prometheus.address, "/-/ready").filter(|answer| answer.status == 200)
        });
        prometheus
    }

    /// The `data` of an answer of its API; `path` begins behind `/api/v1/`.
    ///
    /// # Panics
    /// If it is an error: then with its words.
    pub fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let mut path = format!("/api/v1/{path}");
        for (n, (name, value)) in parameters.iter().enumerate() {
            let _written = write!(path, "{}{name}={}", if n == 0 { '?' } else { '&' }, url_encoded(value));
        }
        let answer = web::ask(&self.address, "GET", &path, &[], "");
        let told = answer.json();
        assert_eq!(told["status"], "success", "{path}: {told}");
        told["data"].clone()
    }

    /// How many series an expression has now.
    ///
    /// # Panics
    /// If Prometheus does not take it.
    pub fn series(&self, expression: &str) -> usize {
        self.get("query", &[("query", expression)])["result"].as_array().map_or(0, Vec::len)
    }

    /// The values of a label, as Grafana's `label_values` asks for them.
    ///
    /// # Panics
    /// If Prometheus does not take it.
    pub fn label_values(&self, selector: &str, label: &str) -> Vec<String> {
        let values = self.get(&format!("label/{label}/values"), &[("match[]", selector)]);
        let values = values.as_array().expect("a list").iter();
        values.map(|value| value.as_str().expect("a text").to_owned()).collect()
    }
}

/// What `promtool check metrics` says of a text of metrics; nothing, if all is well.
///
/// # Panics
/// If the program is missing.
pub fn complaints(metrics: &str) -> String {
    let mut command = Command::new(program("promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    child.stdin.take().expect("its input").write_all(metrics.as_bytes()).expect("it reads them");
    let ended = child.wait_with_output().expect("its end");
    let mut said =
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    if !ended.status.success() {
        let _written = write!(said, "{}", ended.status);
    }
    said
}

fn program(name: &'static str) -> &'static str {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    assert!(there, "no {name}: `make setup` installs it, or apt-get install prometheus");
    name
}

/// Prometheus does not say which port it took; this one was free a moment ago.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

fn url_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut coded, byte| {
        if byte.is_ascii_alphanumeric() {
            coded.push(char::from(byte));
        } else {
            let _written = write!(coded, "%{byte:02X}");
        }
        coded
    })
}
