//! Private RabbitMQ, Redis and S3 for one test binary.

use crate::repository;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};
use trawl_common::storage::object::AzureConfig;

/// Running servers.
#[derive(Debug)]
pub struct Stack {
    dir: PathBuf,
    /// What `env` of the stack exports.
    pub env: BTreeMap<String, String>,
}

/// The servers that all tests of this binary share; started by the first that asks.
///
/// # Panics
/// If they do not start; the script says why on stderr.
pub fn shared() -> &'static Stack {
    static SHARED: OnceLock<Stack> = OnceLock::new();
    SHARED.get_or_init(|| Stack::start("rabbitmq,redis,s3"))
}

/// The value of a variable that the stack exports, from servers `only` that all tests of this binary share.
///
/// # Panics
/// If they do not start.
pub fn shared_value(only: &str, name: &str) -> String {
    static SHARED: OnceLock<Stack> = OnceLock::new();
    let start = || {
        let stack = Stack::start(only);
        for (name, value) in &stack.env {
            // SAFETY: every test of a binary that uses this function calls it before anything else and waits
            // here for the first caller, so no other thread reads the environment meanwhile.
            unsafe { std::env::set_var(name, value) };
        }
        stack
    };
    SHARED.get_or_init(start).get(name).to_owned()
}

impl Stack {
    /// Starts the named servers in a folder of their own.
    ///
    /// # Panics
    /// If they do not start.
    pub fn start(only: &str) -> Self {
        Self::start_with(only, &[])
    }

    /// The same with TLS ports (`STACK_AMQPS_URL`, `STACK_REDISS_URL`), from the folder's ca.pem, server.pem and
    /// server.key. Clients must show a certificate of the same CA.
    ///
    /// # Panics
    /// If they do not start.
    pub fn start_tls(only: &str, folder: &Path) -> Self {
        Self::start_with(only, &["--tls", folder.to_str().expect("a folder of ours")])
    }

    fn start_with(only: &str, flags: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(crate::unique("trawl-stack"));
        let parent = std::process::id().to_string();
        script(&dir, &[&["up", "--only", only, "--parent-pid", &parent], flags].concat());
        let text = std::fs::read_to_string(dir.join("env")).expect("the stack writes its env file");
        let env = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('\'').to_owned()))
        });
        let env = env.collect();
        Self { dir, env }
    }

    /// One of the exported values.
    ///
    /// # Panics
    /// If the stack has no such server.
    pub fn get(&self, name: &str) -> &str {
        self.env.get(name).unwrap_or_else(|| panic!("{name} is not exported by the stack"))
    }

    /// How Azure is reached.
    ///
    /// # Panics
    /// If the stack has none.
    pub fn azure(&self) -> AzureConfig {
        let account = self.get("AZURE_STORAGE_ACCOUNT_NAME").to_owned();
        let endpoint = format!("{}/{account}", self.get("AZURITE_BLOB_STORAGE_URL"));
        AzureConfig { endpoint, account, key: self.get("AZURE_STORAGE_ACCOUNT_KEY").to_owned() }
    }

    /// Kills a server and starts it again on the same port with the same data.
    pub fn crash(&self, server: &str) {
        script(&self.dir, &["restart", server, "--kill9"]);
    }

    /// Stops a server; its data stay.
    pub fn stop(&self, server: &str) {
        script(&self.dir, &["stop", server]);
    }

    /// Runs RabbitMQ's own tool on the stack's node.
    ///
    /// # Panics
    /// If it fails.
    pub fn rabbitmqctl(&self, arguments: &[&str]) {
        script(&self.dir, &[&["rabbitmqctl", "--"], arguments].concat());
    }

    /// Starts it again on the same port with the same data.
    pub fn start_again(&self, server: &str) {
        script(&self.dir, &["start", server]);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        script(&self.dir, &["down"]);
    }
}

fn script(dir: &Path, arguments: &[&str]) {
    let (command, rest) = arguments.split_first().expect("a command");
    let status = Command::new("python3")
        .arg(repository().join("deploy/stack"))
        .arg(command)
        .arg("--dir")
        .arg(dir)
        .args(rest)
        .status()
        .expect("python3 is there: see `make setup`");
    assert!(status.success(), "deploy/stack {arguments:?} failed: {status}");
}
