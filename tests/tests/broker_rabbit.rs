//! RabbitMQ against the contract of the broker seam.
//!
//! Uses the broker at `TRAWL_TEST_AMQP_URL` (with `RABBITMQ_MANAGEMENT_URL`) if that is set; else it starts a
//! private one with `deploy/stack`, crashes it once, and takes it down again. It never passes without a broker.

use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tempfile::TempDir;
use trawl_common::{
    broker::{Broker, rabbit::RabbitBroker},
    contract,
};

/// A stack with only a broker in it; goes down when dropped, or when this process dies.
struct Stack {
    dir: PathBuf,
    _root: TempDir,
}

impl Stack {
    fn up() -> Result<Self> {
        let root = tempfile::tempdir()?;
        let stack = Self { dir: root.path().join("stack"), _root: root };
        let parent = std::process::id().to_string();
        stack.run("up", &["--only", "rabbitmq", "--parent-pid", &parent])?;
        Ok(stack)
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Result<()> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/stack");
        let status = Command::new(&program)
            .args([command, "--dir"])
            .arg(&self.dir)
            .args(arguments)
            .status()
            .with_context(|| {
                format!("{} does not run; TRAWL_TEST_AMQP_URL names another broker", program.display())
            })?;
        ensure!(status.success(), "deploy/stack {command} failed: {status}");
        Ok(())
    }

    /// A value of the stack's `env` file.
    fn env(&self, name: &str) -> Result<String> {
        let env = std::fs::read_to_string(self.dir.join("env"))?;
        let assigned = |line: &str| {
            let value = line.strip_prefix("export ")?.strip_prefix(name)?.strip_prefix('=')?;
            Some(value.trim_matches(['\'', '"']).to_owned())
        };
        env.lines().find_map(assigned).with_context(|| format!("deploy/stack gave no {name}"))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Err(error) = self.run("down", &[]) {
            eprintln!("{error:#}");
        }
    }
}

async fn passes_the_contract(amqp_url: &str, management_url: &str) {
    contract::broker::suite(|| async {
        let broker = RabbitBroker::connect_with(amqp_url, contract::broker::POLICY).await;
        Arc::new(broker.expect("a connection")) as Arc<dyn Broker>
    })
    .await;
    contract::broker::rabbit_only(amqp_url, management_url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_passes_the_contract() -> Result<()> {
    if let Ok(amqp_url) = std::env::var("TRAWL_TEST_AMQP_URL") {
        let management_url = std::env::var("RABBITMQ_MANAGEMENT_URL")
            .context("TRAWL_TEST_AMQP_URL is set, so RABBITMQ_MANAGEMENT_URL must be too")?;
        passes_the_contract(&amqp_url, &management_url).await;
        return Ok(());
    }
    let stack = tokio::task::spawn_blocking(Stack::up).await??;
    let amqp_url = stack.env("TRAWL_AMQP_URL")?;
    passes_the_contract(&amqp_url, &stack.env("RABBITMQ_MANAGEMENT_URL")?).await;
    contract::broker::crash_is_survived(&amqp_url, || stack.run("restart", &["rabbitmq", "--kill9"])).await?;
    Ok(())
}
