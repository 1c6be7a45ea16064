//! A test's own lane, prefix and folder on the shared servers, and the commands that a job needs there.

use crate::{
    bucket::Bucket,
    programs::{Ended, Running, run, with_stack},
    stack::{Stack, shared},
    unique, wait,
};
use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};
use tempfile::TempDir;
use trawl_common::broker::{Broker, DeadLetter, Verdict, rabbit::RabbitBroker};

/// Long enough for a debug build on two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One test's surroundings.
pub struct Scene {
    /// The shared servers.
    pub stack: &'static Stack,
    /// Their bucket.
    pub bucket: Bucket,
    /// The test's own name: its lane, and its prefix in the bucket.
    pub name: String,
    /// The test's own folder.
    pub dir: TempDir,
}

impl Scene {
    /// A scene on the servers that all tests of this binary share.
    ///
    /// # Panics
    /// If they do not start.
    pub fn new(name: &str) -> Self {
        let stack = shared();
        let dir = tempfile::tempdir().expect("a folder for the test");
        Self { stack, bucket: Bucket::of(stack), name: unique(name), dir }
    }

    /// The prefix of the test's images.
    pub fn input(&self) -> String {
        format!("{}/in/", self.name)
    }

    /// The prefix of the job's output.
    pub fn out(&self) -> String {
        format!("{}/out", self.name)
    }

    /// A `trawl` command.
    pub fn trawl(&self, arguments: &[&str]) -> Command {
        let mut command = with_stack("trawl", self.stack);
        command.current_dir(self.dir.path()).args(arguments);
        command
    }

    /// The `submit` of the test's images.
    pub fn submit(&self, model: &Path, flags: &[&str]) -> Command {
        let source = format!("s3://trawl/{}", self.input());
        let out = format!("s3://trawl/{}", self.out());
        let mut command = self.trawl(&["submit", &source, "--out", &out, "--queue", &self.name, "--model"]);
        command.arg(model).args(flags);
        command
    }

    /// A worker of the test's lane.
    pub fn worker_command(&self, flags: &[&str]) -> Command {
        let mut command = with_stack("trawl-worker", self.stack);
        command
            .args(["--queue", &self.name, "--threads", "1", "--cache"])
            .arg(self.dir.path().join("cache"))
            .args(flags);
        command
    }

    /// A worker that is ready.
    pub fn worker(&self, flags: &[&str]) -> Running {
        self.ready(&mut self.worker_command(flags))
    }

    /// The same with variables of its own.
    pub fn worker_with(&self, flags: &[&str], variables: &[(&str, &str)]) -> Running {
        self.ready(self.worker_command(flags).envs(variables.iter().copied()))
    }

    fn ready(&self, command: &mut Command) -> Running {
        let worker = Running::start(command, self.dir.path());
        worker.wait_for_log("worker ready", PATIENCE);
        worker
    }

    /// What `trawl status` says of a job.
    ///
    /// # Panics
    /// If it cannot say.
    pub fn status(&self, job: &str) -> serde_json::Value {
        run(&mut self.trawl(&["status", job, "--output", "json"])).expect(0).json()
    }

    /// The status of a job when it is complete.
    ///
    /// # Panics
    /// If it does not become so.
    pub fn wait_complete(&self, job: &str) -> serde_json::Value {
        wait::until("the job's completion", PATIENCE, || {
            let status = self.status(job);
            (status["state"] == "complete").then_some(status)
        })
    }

    /// The parts of the output.
    pub fn parts(&self) -> Vec<String> {
        self.bucket.keys(&format!("{}/part-", self.out()))
    }

    /// Waits for so many parts.
    ///
    /// # Panics
    /// If they do not come.
    pub fn wait_parts(&self, count: usize) {
        wait::until("parts", PATIENCE, || (self.parts().len() >= count).then_some(()));
    }

    /// Each key has one row.
    ///
    /// # Panics
    /// If it has not.
    pub fn assert_keys(&self, count: usize) {
        let rows = self.bucket.rows(&self.out());
        let keys: BTreeSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!((rows.len(), keys.len()), (count, count));
    }

    /// Waits for the end of a job of good images, and for its traces: one part a batch, one row an image, counters
    /// that say so, no message that waits.
    ///
    /// # Panics
    /// If anything is lost, doubled or left.
    pub fn assert_exact(&self, job: &str, batches: usize, images: usize) {
        let status = self.wait_complete(job);
        for (name, expected) in [
            ("images_planned", images),
            ("images_ok", images),
            ("images_failed", 0),
            ("batches_planned", batches),
            ("batches_done", batches),
        ] {
            assert_eq!(status[name], expected, "{name} of {status}");
        }
        assert_eq!(self.parts().len(), batches);
        self.assert_keys(images);
        assert!(self.bucket.has(&format!("{}/_SUCCESS", self.out())));
        wait::until("no waiting messages", PATIENCE, || (self.waiting_messages() == 0).then_some(()));
    }

    /// Messages of the lane that wait for a consumer.
    ///
    /// # Panics
    /// If RabbitMQ does not say.
    pub fn waiting_messages(&self) -> u64 {
        let lane = self.name.parse().expect("a lane's name");
        let asking = async {
            let broker = RabbitBroker::connect(self.stack.get("TRAWL_AMQP_URL")).await?;
            broker.depth(&lane).await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let depth = runtime.expect("a runtime").block_on(asking).expect("RabbitMQ answers");
        depth.map_or(0, |depth| depth.ready)
    }

    /// Dead letters of the lane.
    ///
    /// # Panics
    /// If RabbitMQ does not say.
    pub fn dead_letters(&self) -> usize {
        let looking = async {
            let broker = RabbitBroker::connect(self.stack.get("TRAWL_AMQP_URL")).await?;
            broker.judge_dead(usize::MAX, &mut |_| Verdict::Keep).await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let letters = runtime.expect("a runtime").block_on(looking).expect("RabbitMQ answers");
        let ours = |letter: &DeadLetter| letter.queue.as_ref().is_some_and(|lane| lane.as_str() == self.name);
        letters.iter().filter(|(letter, _)| ours(letter)).count()
    }

    /// What RabbitMQ itself says about the lane's queue, unacked messages included, once its statistics have
    /// settled: that takes seconds.
    ///
    /// # Panics
    /// If it does not become empty.
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

/// The job's id, which `submit` prints alone.
///
/// # Panics
/// If it prints anything else.
pub fn job_id(ended: Ended) -> String {
    let ended = ended.expect(0);
    let job = ended.stdout.trim().to_owned();
    assert!(!job.is_empty() && !job.contains(char::is_whitespace), "the job id alone: {:?}", ended.stdout);
    job
}
