//! The S3 store on a store's bad days: throttling, lost replies, cut bodies, in front of a real server.

use bytes::Bytes;
use futures::future::join_all;
use std::time::{Duration, Instant};
use trawl_common::{
    contract::storage::list_all,
    retry::RetryPolicy,
    storage::{
        PutOutcome, Storage,
        s3::{S3Config, S3Storage},
    },
};
use trawl_tests::{
    http_faults::{HttpFaults, Misdeed, Rule},
    stack::shared_value,
    unique,
};

/// Quick repeats: the faults are made up, nobody has to be spared.
const QUICK: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(5),
    max_interval: Duration::from_millis(50),
    max_elapsed: Duration::from_secs(30),
};

/// One more try, as good as none: what fails every time must end soon.
const IMPATIENT: RetryPolicy = RetryPolicy { max_elapsed: Duration::from_millis(200), ..QUICK };

/// A fault front before the stack's server, and the store through it and past it.
struct Rig {
    front: HttpFaults,
    through: S3Storage,
    past: S3Storage,
    prefix: String,
}

impl Rig {
    fn new(name: &str, seed: u64, policy: RetryPolicy) -> Self {
        let env = |name| shared_value("s3", name);
        let endpoint = env("AWS_ENDPOINT_URL");
        let front = HttpFaults::before(&endpoint, seed);
        let store = |endpoint: String| {
            let config = S3Config {
                endpoint,
                region: env("AWS_REGION"),
                access_key: env("AWS_ACCESS_KEY_ID"),
                secret_key: env("AWS_SECRET_ACCESS_KEY"),
            };
            S3Storage::with_config("trawl", config).paced(policy)
        };
        let (through, past) = (store(front.url(&endpoint)), store(endpoint));
        Self { front, through, past, prefix: format!("{}/", unique(name)) }
    }

    fn key(&self, name: impl std::fmt::Display) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn objects(&self) -> usize {
        list_all(&self.past, &self.prefix, None).await.len()
    }
}

fn body(seed: usize, length: usize) -> Bytes {
    (0..length).map(|i| ((i * (seed + 3)) >> 3) as u8).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn without_rules_everything_passes_unchanged() {
    let rig = Rig::new("plain", 1, QUICK);
    let odd = rig.key("odd name+&%20 \u{1f431}'\".bin");
    for (name, length) in [(rig.key("empty"), 0), (odd.clone(), 5), (rig.key("large"), 9 << 20)] {
        let bytes = body(1, length);
        assert_eq!(rig.through.put_if_absent(&name, bytes.clone()).await.unwrap(), PutOutcome::Created);
        assert_eq!(rig.through.put_if_absent(&name, bytes.clone()).await.unwrap(), PutOutcome::AlreadyExists);
        assert_eq!(rig.through.head(&name).await.unwrap().size, length as u64);
        assert!(rig.through.get(&name, u64::MAX).await.unwrap().bytes == bytes, "{name}");
        assert!(rig.past.get(&name, u64::MAX).await.unwrap().bytes == bytes, "{name}");
    }
    assert_eq!(rig.through.get_suffix(&odd, 2).await.unwrap().bytes, body(1, 5)[3..]);
    assert_eq!(list_all(&rig.through, &rig.prefix, None).await.len(), 3);
    rig.through.delete(&odd).await.unwrap();
    assert!(rig.through.get(&odd, 1).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn throttling_is_waited_out() {
    let rig = Rig::new("throttled", 7, QUICK);
    rig.front.set([Rule::new(Misdeed::SlowDown).share(0.3)]);
    let puts = (0..60).map(|i| {
        let (key, rig) = (rig.key(i), &rig);
        async move { rig.through.put_if_absent(&key, body(i, 500)).await.unwrap() }
    });
    let outcomes = join_all(puts).await;
    assert!(outcomes.iter().all(|outcome| *outcome == PutOutcome::Created), "{outcomes:?}");
    for i in 0..60 {
        assert_eq!(rig.through.get(&rig.key(i), 500).await.unwrap().bytes, body(i, 500));
    }
    let (struck, requests) = (rig.front.struck(Misdeed::SlowDown), rig.front.requests());
    assert_eq!(requests - struck, 120, "each put and get once");
    assert!((20..100).contains(&struck), "{struck} of {requests} requests is not 30 %");
}

#[tokio::test]
async fn a_put_whose_reply_is_lost_leaves_one_object() {
    let rig = Rig::new("lost", 11, QUICK);
    rig.front.set([
        Rule::new(Misdeed::LoseReply).share(0.3).methods(&["PUT"]),
        Rule::new(Misdeed::FalseError).share(0.3).methods(&["PUT"]),
    ]);
    let mut recognised = 0;
    for i in 0..30 {
        match rig.through.put_if_absent(&rig.key(i), body(i, 300)).await.unwrap() {
            PutOutcome::Created => {}
            PutOutcome::AlreadyExists => recognised += 1,
        }
        assert_eq!(rig.past.get(&rig.key(i), 300).await.unwrap().bytes, body(i, 300));
    }
    assert!(recognised > 5, "only {recognised} of 30 puts met their own object");
    assert!(rig.front.struck(Misdeed::LoseReply) > 0 && rig.front.struck(Misdeed::FalseError) > 0);
    assert_eq!(rig.objects().await, 30);

    // Once, for certain: the put happened, the second try is told so.
    rig.front.set([Rule::new(Misdeed::LoseReply).methods(&["PUT"]).times(1)]);
    let outcome = rig.through.put_if_absent(&rig.key("once"), body(1, 10)).await.unwrap();
    assert_eq!(outcome, PutOutcome::AlreadyExists);
    assert_eq!(rig.objects().await, 31);
}

#[tokio::test]
async fn half_a_body_is_never_taken_for_the_object() {
    let rig = Rig::new("half", 3, QUICK);
    let (key, bytes) = (rig.key("object"), body(5, 200_000));
    rig.past.put(&key, bytes.clone()).await.unwrap();
    rig.front.set([Rule::new(Misdeed::Truncate).methods(&["GET"]).times(3)]);
    assert!(rig.through.get(&key, u64::MAX).await.unwrap().bytes == bytes);
    assert_eq!(rig.front.struck(Misdeed::Truncate), 3);

    let impatient = Rig::new("half", 3, IMPATIENT);
    let key = impatient.key("object");
    impatient.past.put(&key, bytes).await.unwrap();
    impatient.front.set([Rule::new(Misdeed::Truncate).methods(&["GET"])]);
    let error = impatient.through.get(&key, u64::MAX).await.expect_err("no whole body ever came");
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_delay_is_only_slow_and_rules_keep_to_their_paths() {
    let rig = Rig::new("late", 3, QUICK);
    rig.front.set([
        Rule::new(Misdeed::Delay(Duration::from_millis(250))).path("/slow-"),
        Rule::new(Misdeed::SlowDown).methods(&["HEAD"]).times(1),
    ]);
    let began = Instant::now();
    let slow = rig.key("x/slow-1");
    rig.through.put(&slow, body(1, 10)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    rig.through.put(&rig.key("quick"), body(1, 10)).await.unwrap();
    assert_eq!(rig.front.struck(Misdeed::Delay(Duration::from_millis(250))), 1);
    rig.through.head(&rig.key("quick")).await.unwrap();
    assert_eq!(rig.front.struck(Misdeed::SlowDown), 1);
    rig.front.heal();
    let began = Instant::now();
    rig.through.get(&slow, 10).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(250), "{:?}", began.elapsed());
}
