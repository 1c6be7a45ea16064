//! The wire JSON of version 1, frozen: every later version must read these files.
//!
//! A change that makes one of these tests fail needs a new version number, not a new fixture.

use trawl_common::{
    batch::{BatchDescriptor, BatchNumber, FeedRequest, FinalizeRequest, ImageRef, Message, MessageError},
    job::{Decode, JobSpec, JobSpecError, ModelRef, Orient, Precision, Truncated},
};

const JOB: &[u8] = include_bytes!("../fixtures/v1/job.json");
const BATCH: &[u8] = include_bytes!("../fixtures/v1/batch.json");
const FEED: &[u8] = include_bytes!("../fixtures/v1/feed.json");
const FINALIZE: &[u8] = include_bytes!("../fixtures/v1/finalize.json");

fn job() -> JobSpec {
    JobSpec {
        version: 1,
        job: "job-2f1d0c9b8a76".parse().unwrap(),
        queue: "default".parse().unwrap(),
        sources: vec!["photos".into(), "s3://bucket/more/".into()],
        base_dir: "/home/ann".into(),
        include: vec!["*.jpg".into()],
        exclude: vec![],
        select: Default::default(),
        carry: Vec::new(),
        limit: Some(1000),
        batch_size: 256,
        out: "s3://bucket/labels".into(),
        model: ModelRef { location: "s3://bucket/labels/_trawl/model-ab.pt".into(), sha256: "ab".into() },
        topk: 5,
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient: Orient::None,
        precision: Precision::Fp32,
        created_unix_ms: 1_790_000_000_000,
        trace: None,
    }
}

fn batch() -> Message {
    Message::Batch(BatchDescriptor {
        job: "job-2f1d0c9b8a76".parse().unwrap(),
        batch: BatchNumber(42),
        out: "s3://bucket/labels".into(),
        created_unix_ms: 1_790_000_000_000,
        model_sha256: "ab".into(),
        images: vec![
            ImageRef::whole("s3://bucket/more/a b\"\n.jpg", Some("d41d8cd9".into()), 51_234),
            ImageRef::whole("photos/ü.png", None, 7),
        ],
    })
}

fn feed() -> Message {
    Message::Feed(FeedRequest {
        job: "job-2f1d0c9b8a76".parse().unwrap(),
        out: "s3://bucket/labels".into(),
        created_unix_ms: 1_790_000_000_000,
        chain: 0xfedc_ba98_7654_3210,
        file: 3,
        from: BatchNumber(42),
    })
}

fn finalize() -> Message {
    Message::Finalize(FinalizeRequest {
        job: "job-2f1d0c9b8a76".parse().unwrap(),
        out: "s3://bucket/labels".into(),
    })
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn version_1_is_read_and_written_as_it_was() {
    assert_eq!(JobSpec::parse(JOB).unwrap(), job());
    assert_eq!(json(&job().to_json()), json(JOB));
    for (fixture, message) in [(BATCH, batch()), (FEED, feed()), (FINALIZE, finalize())] {
        assert_eq!(Message::parse(fixture).unwrap(), message);
        assert_eq!(json(&message.to_json()), json(fixture));
    }
}

#[test]
fn the_same_work_has_the_same_id_whatever_its_name_time_and_model_file() {
    let (a, mut b) = (job(), job());
    b.job = "other".parse().unwrap();
    b.created_unix_ms += 1;
    b.model.location = "/elsewhere.pt".into();
    assert!(a.same_work(&b));
    assert_eq!(a.derived_id(), b.derived_id());
    b.topk = 6;
    assert!(!a.same_work(&b));
    assert_eq!(a.differences(&b), ["topk"]);
    assert_ne!(a.derived_id(), b.derived_id());
}

#[test]
fn other_versions_and_junk_are_named() {
    let with = |bytes: &[u8], from: &str, to: &str| {
        String::from_utf8_lossy(bytes).replacen(from, to, 1).into_bytes()
    };
    assert!(matches!(Message::parse(&with(BATCH, "\"v\":1", "\"v\":2")), Err(MessageError::Version(2))));
    assert!(
        matches!(Message::parse(&with(BATCH, "batch", "banana")), Err(MessageError::Kind(kind)) if kind == "banana")
    );
    assert!(matches!(Message::parse(&with(BATCH, "\"size\"", "\"sise\"")), Err(MessageError::Json(_))));
    assert!(matches!(Message::parse(b"\xff\x00"), Err(MessageError::Json(_))));
    let empty = br#"{"v":1,"kind":"batch","body":{"job":"j","batch":0,"out":"o","created_unix_ms":1,"model_sha256":"","images":[]}}"#;
    assert!(matches!(Message::parse(empty), Err(MessageError::ImageCount(0))));
    assert!(matches!(Message::parse(&vec![b' '; 17 << 20]), Err(MessageError::TooLarge(_))));
    let later = with(JOB, "\"version\": 1", "\"version\": 9");
    assert!(matches!(JobSpec::parse(&later), Err(JobSpecError::Version { found: 9 })));
    assert!(matches!(JobSpec::parse(&with(JOB, "\"topk\"", "\"topkk\"")), Err(JobSpecError::Json(_))));
    // A job name becomes part of keys and queues.
    assert!(matches!(JobSpec::parse(&with(JOB, "job-2f", "../2f")), Err(JobSpecError::Json(_))));
}
