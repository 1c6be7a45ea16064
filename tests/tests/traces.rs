//! Traces of real jobs on real servers, at a collector of the test's own; and what becomes of a job without one.
//!
//! The collector decodes what arrives, so that names, links and times are looked at as any other would see them.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use trawl_tests::{
    collector::{Collector, Span},
    programs::{Running, run, tiny_model},
    scene::{PATIENCE, Scene, job_id},
};

/// What `FLUSH_PATIENCE` allows at an exit, and the rest of the exit on a busy machine.
const EXIT: Duration = Duration::from_secs(2 + 8);

/// Stands in a header; as the environment has it, and as it goes out.
const SECRET: &str = "canary-otlp-77c1";

/// Ends a worker and gives what it logged.
fn ended(mut worker: Running) -> String {
    worker.signal(libc::SIGTERM);
    let status = worker.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    worker.log()
}

/// The spans within `process`, by name.
fn stages(spans: &[Span], process: &Span) -> BTreeMap<String, Span> {
    let own = spans.iter().filter(|span| span.trace == process.trace && span.parent == process.id);
    own.map(|span| (span.name.clone(), span.clone())).collect()
}

/// The span of the submission, with its children.
fn submission(spans: &[Span], job: &str) -> Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == "submit").collect();
    let [submit] = found[..] else { panic!("{spans:#?}") };
    assert_eq!((submit.kind, &*submit.parent, &*submit.service), (SpanKind::Producer, "", "trawl"));
    assert_eq!((submit.get("trawl.job.id"), submit.get("trawl.batches")), (job, "12"));
    let children = stages(spans, submit);
    assert_eq!(children.keys().collect::<Vec<_>>(), ["enumerate", "plan", "publish"]);
    assert_eq!(children["publish"].kind, SpanKind::Client);
    submit.clone()
}

/// The spans of all deliveries: each of a trace of its own, linked to `submit`.
fn deliveries(spans: &[Span], submit: &Span, queue: &str) -> Vec<Span> {
    let name = format!("process {queue}");
    let processes: Vec<_> = spans.iter().filter(|span| span.name == name).cloned().collect();
    for process in &processes {
        assert_eq!(
            (process.kind, &*process.parent, &*process.service),
            (SpanKind::Consumer, "", "gpu-fleet")
        );
        assert_eq!(process.links, [(submit.trace.clone(), submit.id.clone())], "{process:#?}");
        assert_ne!(process.trace, submit.trace, "of its own");
        for (name, value) in [
            ("messaging.system", "rabbitmq"),
            ("messaging.destination.name", queue),
            ("messaging.operation.type", "process"),
            ("trawl.job.id", submit.get("trawl.job.id")),
        ] {
            assert_eq!(process.get(name), value, "{name} of {process:#?}");
        }
        assert!(process.get("messaging.rabbitmq.message.delivery_tag").parse::<u64>().unwrap() > 0);
    }
    for kind in ["batch", "feed", "finalize"] {
        assert!(processes.iter().any(|process| process.get("trawl.message.kind") == kind), "{processes:#?}");
    }
    processes
}

/// One span a delivery of each batch: two of the one that came `again`.
fn assert_attempts(processes: &[Span], batches: usize, again: &str) {
    let mut attempts = BTreeMap::<&str, Vec<&str>>::new();
    for process in processes.iter().filter(|process| process.get("trawl.message.kind") == "batch") {
        attempts.entry(process.get("trawl.batch.number")).or_default().push(process.get("trawl.attempt"));
    }
    assert_eq!(attempts.len(), batches, "{attempts:?}");
    for (number, attempts) in &attempts {
        let expected: &[&str] = if *number == again { &["0", "1"] } else { &["0"] };
        assert_eq!(attempts, expected, "batch {number}");
    }
}

/// A delivery that went well has each of its stages, one after the other, and says how it ended.
fn assert_stages(spans: &[Span], process: &Span) {
    assert_eq!((process.get("trawl.images"), process.get("trawl.images_ok")), ("2", "2"), "{process:#?}");
    assert_eq!((process.get("trawl.images_failed"), process.get("trawl.outcome")), ("0", "done"));
    for stage in ["fetch", "decode", "forward"] {
        let spent: f64 = process.get(&format!("trawl.stage.{stage}_ms")).parse().unwrap();
        assert!(spent > 0.0, "{stage} of {process:#?}");
    }
    let stages = stages(spans, process);
    let order = ["wait", "claim", "compute", "encode", "put", "commit", "ack"];
    let mut last = process.began;
    for name in order {
        let stage = stages.get(name).unwrap_or_else(|| panic!("no {name} in {stages:#?}"));
        assert!(last <= stage.began && stage.began <= stage.ended, "{name} in {stages:#?}");
        last = stage.ended;
    }
    assert!(last <= process.ended);
    let (fetch, compute) = (&stages["fetch"], &stages["compute"]);
    assert!(compute.began <= fetch.began && fetch.ended <= compute.ended);
    assert_eq!(stages.len(), order.len() + 1, "{stages:#?}");
}

#[test]
fn every_delivery_is_a_trace_that_links_to_its_submission() {
    let (scene, collector) = (Scene::new("traces"), Collector::start());
    scene.bucket.upload_images(&scene.input(), 24);
    let (endpoint, headers) =
        (collector.endpoint(), format!("x-key={SECRET},authorization=Bearer%20{SECRET}"));
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", &headers),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ("TRAWL_LOG", "trace"),
    ];
    // One batch in the queue at a time: the rest is queued by the worker, long after the submission has ended.
    let mut submit = scene.submit(tiny_model(), &["--batch-size", "2", "--ready", "1"]);
    let submitted = run(submit.envs(variables));
    let submit_log = submitted.stderr.clone();
    let job = job_id(submitted);
    let points = [("TRAWL_FAILPOINTS", "fetch.error=error@5"), ("OTEL_SERVICE_NAME", "gpu-fleet")];
    let variables = [variables.as_slice(), &points].concat();
    let worker = scene.worker_with(&["--log-format", "json", "--prefetch", "1"], &variables);
    scene.assert_exact(&job, 12, 24);
    let log = ended(worker);
    for log in [&submit_log, &log] {
        assert!(!log.contains(SECRET) && !log.contains("traces cannot be sent"), "{log}");
    }
    assert_eq!(collector.header("authorization"), Some(format!("Bearer {SECRET}")));

    let spans = collector.spans();
    let submit = submission(&spans, &job);
    let spec: serde_json::Value =
        serde_json::from_slice(&scene.bucket.get(&format!("{}/_trawl/job.json", scene.out()))).unwrap();
    assert_eq!(spec["trace"]["traceparent"], format!("00-{}-{}-01", submit.trace, submit.id));
    let processes = deliveries(&spans, &submit, &format!("trawl.{}", scene.name));
    let (failed, good): (Vec<_>, Vec<_>) = processes.iter().partition(|process| process.failed);
    let [failed] = failed[..] else { panic!("{failed:#?}") };
    assert_eq!((failed.get("error.type"), failed.get("trawl.outcome")), ("storage", "retried"));
    assert_attempts(&processes, 12, failed.get("trawl.batch.number"));
    for process in good.into_iter().filter(|process| process.get("trawl.message.kind") == "batch") {
        assert_stages(&spans, process);
    }
    // The log says where to look.
    let line = log.lines().find(|line| line.contains("a batch was not completed")).expect("its line");
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["trace_id"], &line["span_id"]),
        (&failed.trace.as_str().into(), &failed.id.as_str().into())
    );
}

#[test]
fn without_an_endpoint_nothing_connects() {
    let (scene, collector) = (Scene::new("untraced"), Collector::start());
    scene.bucket.upload_images(&scene.input(), 4);
    let endpoint = collector.endpoint();
    // The one has no endpoint, the other is told not to.
    let mut submit = scene.submit(tiny_model(), &["--batch-size", "2"]);
    let job = job_id(run(submit.env("OTEL_SERVICE_NAME", "trawl").env("OTEL_TRACES_EXPORTER", "otlp")));
    let off = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_SDK_DISABLED", "true")];
    let worker = scene.worker_with(&[], &off);
    scene.assert_exact(&job, 2, 4);
    let log = ended(worker);
    assert!(!log.contains("trace_id"), "{log}");
    assert_eq!((collector.connections(), collector.spans().len()), (0, 0));
    let spec = scene.bucket.get(&format!("{}/_trawl/job.json", scene.out()));
    assert!(!String::from_utf8_lossy(&spec).contains("traceparent"));
}

/// A whole job with a collector that is of no use at `endpoint`; gives the worker's log.
fn job_without_collector(name: &str, endpoint: &str) -> String {
    let scene = Scene::new(name);
    scene.bucket.upload_images(&scene.input(), 8);
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
    let plain = Instant::now();
    let _planned = run(&mut scene.submit(tiny_model(), &["--dry-run"])).expect(0);
    let (plain, began) = (plain.elapsed(), Instant::now());
    let job = job_id(run(scene.submit(tiny_model(), &["--batch-size", "2"]).envs(variables)));
    assert!(began.elapsed() < plain + EXIT, "{:?} after {plain:?}", began.elapsed());
    let worker = scene.worker_with(&[], &variables);
    scene.assert_exact(&job, 4, 8);
    let began = Instant::now();
    let log = ended(worker);
    assert!(began.elapsed() < EXIT, "{:?}", began.elapsed());
    log
}

#[test]
fn a_collector_that_is_away_costs_one_warning() {
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log = job_without_collector("dead-collector", &format!("http://user:{SECRET}@127.0.0.1:{port}"));
    assert_eq!(log.matches("traces cannot be sent").count(), 1, "{log}");
    assert!(log.contains(&format!("127.0.0.1:{port}")) && !log.contains(SECRET), "{log}");
}

#[test]
fn a_collector_that_never_answers_delays_nothing() {
    let collector = Collector::silent();
    let log = job_without_collector("silent-collector", &collector.endpoint());
    assert!(collector.connections() > 0, "it was not even asked: {log}");
}

#[test]
fn an_endpoint_that_is_none_is_said_and_the_work_goes_on() {
    let scene = Scene::new("bad-endpoint");
    scene.bucket.upload_images(&scene.input(), 2);
    for (endpoint, protocol) in [("collector:4317", "http/protobuf"), ("http://127.0.0.1:4317", "grpc")] {
        let mut submit = scene.submit(tiny_model(), &["--dry-run"]);
        submit.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        let ended = run(&mut submit).expect(0);
        assert_eq!(
            ended.stderr.matches("traces are off: OTEL_EXPORTER_OTLP_").count(),
            1,
            "{}",
            ended.stderr
        );
    }
}
