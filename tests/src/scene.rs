//! A test's own lane, prefix and folder on servers that it shares with the other tests of its binary.
//!
//! What the tests of the whole job have in common: the two programs with the servers' addresses, and questions about
//! an output. Waits have a deadline and are for a condition.

use crate::{
    bucket::Bucket,
    programs::{Ended, Running, run, with_stack},
    stack::{Stack, shared},
    unique, wait,
};
use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};
use tempfile::TempDir;

/// Long enough for a debug build on two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A test's own lane, prefix and folder on the shared servers.
pub struct Scene {
    /// The servers.
    pub stack: &'static Stack,
    /// Their bucket.
    pub bucket: Bucket,
    /// The lane, and the prefix of all keys.
    pub name: String,
    /// A folder of the test's own.
    pub dir: TempDir,
}

impl Scene {
    /// On the servers that all tests of this binary share.
    ///
    /// # Panics
    /// If they do not start.
    pub fn new(name: &str) -> Self {
        let stack = shared();
        Self { stack, bucket: Bucket::of(stack), name: unique(name), dir: tempfile::tempdir().unwrap() }
    }

    /// The key of the output.
    pub fn out(&self) -> String {
        format!("{}/out", self.name)
    }

    /// The `trawl` command, in the test's folder.
    pub fn trawl(&self, arguments: &[&str]) -> Command {
        let mut command = with_stack("trawl", self.stack);
        command.current_dir(self.dir.path()).args(arguments);
        command
    }

    /// `trawl submit` of everything below the test's input.
    pub fn submit(&self, model: &Path, flags: &[&str]) -> Command {
        let source = format!("s3://trawl/{}/in/", self.name);
        let out = format!("s3://trawl/{}", self.out());
        let mut command = self.trawl(&["submit", &source, "--out", &out, "--queue", &self.name, "--model"]);
        command.arg(model).args(flags);
        command
    }

    /// A worker of the test's lane, not started.
    pub fn worker_command(&self, flags: &[&str]) -> Command {
        let mut command = with_stack("trawl-worker", self.stack);
        command
            .args(["--queue", &self.name, "--threads", "1", "--cache"])
            .arg(self.dir.path().join("cache"))
            .args(flags);
        command
    }

    /// A worker of the test's lane that is ready.
    pub fn worker(&self, flags: &[&str]) -> Running {
        let worker = Running::start(&mut self.worker_command(flags), self.dir.path());
        worker.wait_for_log("worker ready", PATIENCE);
        worker
    }

    /// What `trawl status` says of a job.
    pub fn status(&self, job: &str) -> serde_json::Value {
        run(&mut self.trawl(&["status", job, "--output", "json"])).expect(0).json()
    }

    /// Waits for the job's end.
    pub fn wait_complete(&self, job: &str) -> serde_json::Value {
        wait::until("the job's completion", PATIENCE, || {
            let status = self.status(job);
            (status["state"] == "complete").then_some(status)
        })
    }

    /// The keys of the parts.
    pub fn parts(&self) -> Vec<String> {
        self.bucket.keys(&format!("{}/part-", self.out()))
    }

    /// Each key has one row.
    ///
    /// # Panics
    /// If not.
    pub fn assert_keys(&self, count: usize) {
        let rows = self.bucket.rows(&self.out());
        let keys: BTreeSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!((rows.len(), keys.len()), (count, count));
    }

    /// What RabbitMQ itself says about a queue, once its statistics have settled.
    pub fn queue_is_empty(&self) {
        let url = self.stack.get("RABBITMQ_MANAGEMENT_URL");
        let program = "import sys,json,base64,urllib.request as r,urllib.parse as p\n\
            u=p.urlsplit(sys.argv[1]);q=r.Request(f'http://{u.hostname}:{u.port}/api/queues/%2f/'+sys.argv[2])\n\
            q.add_header('Authorization','Basic '+base64.b64encode(f'{u.username}:{u.password}'.encode()).decode())\n\
            print(json.load(r.urlopen(q)).get('messages',-1))";
        let queue = format!("trawl.{}", self.name);
        wait::until("an empty queue", PATIENCE, || {
            let ended = run(Command::new("python3").args(["-c", program, url, &queue])).expect(0);
            (ended.stdout.trim() == "0").then_some(())
        });
    }
}

/// The job that `trawl submit` printed.
///
/// # Panics
/// If it printed anything else.
pub fn job_id(ended: Ended) -> String {
    let ended = ended.expect(0);
    let job = ended.stdout.trim().to_owned();
    assert!(!job.is_empty() && !job.contains(char::is_whitespace), "the job id alone: {:?}", ended.stdout);
    job
}
