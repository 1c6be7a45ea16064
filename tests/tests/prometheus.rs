//! A real Prometheus beside a real fleet: what is exported can be scraped, alerted on and looked at.
//!
//! The configuration, the alert rules and the dashboards are the shipped ones. What a panel asks for must be there
//! from the first job on: a panel that stays empty until something goes wrong cannot be told from one that is broken.

use serde_json::Value;
use std::collections::BTreeMap;
use trawl_tests::{
    programs::{make_model, run},
    prometheus::{Prometheus, RATE_INTERVAL, complaints},
    repository,
    scene::{PATIENCE, Scene, job_id},
    wait,
    web::{self, Monitor, monitor_command},
};

/// Series that can exist on a machine with a GPU only.
const ONLY_ON_A_GPU: [(&str, &str); 1] = [(
    "trawl_device_memory_bytes",
    "libtorch's allocator holds memory of CUDA devices; a CPU worker has none",
)];

/// Images of the job and of a batch; the job takes some ten scrapes.
const IMAGES: u32 = 320;
const BATCH: u32 = 8;

#[test]
fn what_is_shipped_for_prometheus_and_grafana_shows_a_real_fleet() {
    let scene = Scene::new("prometheus");
    scene.bucket.upload_images(&scene.input(), IMAGES);
    let monitor = Monitor::start(&mut monitor_command(scene.stack, None), scene.dir.path());
    let worker = scene.worker(&["--http", "127.0.0.1:0", "--micro-batch", "4"]);
    let at_work = worker.http_address();
    let prometheus = Prometheus::start(scene.dir.path(), &at_work, &monitor.address);
    // Before there is work: Prometheus reads its lists of targets some seconds after its start.
    both_are_scraped(&prometheus);
    let slow = make_model(&["--work", "16"]);
    let job = job_id(run(&mut scene.submit(&slow, &["--batch-size", &BATCH.to_string()])));

    wait::until("the first parts, and with them the figures of each stage", PATIENCE, || {
        (worker.metric("trawl_batches_total{outcome=\"done\"}") >= 2.0).then_some(())
    });
    for (name, address) in [("worker", at_work.as_str()), ("monitor", monitor.address.as_str())] {
        let metrics = web::ask(address, "GET", "/metrics", &[], "");
        assert_eq!(metrics.status, 200);
        let metrics = String::from_utf8(metrics.body).expect("UTF-8");
        assert_eq!(complaints(&metrics), "", "promtool on the {name}'s\n{metrics}");
    }
    dashboards_show(&prometheus);
    scene.assert_exact(&job, (IMAGES / BATCH) as usize, IMAGES as usize);
    rules_are_in_force(&prometheus);
}

fn both_are_scraped(prometheus: &Prometheus) {
    let up = wait::until("both targets to be scraped", PATIENCE, || {
        let targets = prometheus.get("targets", &[("state", "active")]);
        let state = |target: &Value| {
            let job = target["labels"]["job"].as_str().expect("a job").to_owned();
            (job, target["health"].as_str().expect("a state").to_owned(), target["lastError"].clone())
        };
        let mut states: Vec<_> = targets["activeTargets"].as_array()?.iter().map(state).collect();
        states.sort_by(|one, other| one.0.cmp(&other.0));
        (states.len() == 2 && states.iter().all(|(_, health, _)| health != "unknown")).then_some(states)
    });
    for ((job, health, error), expected) in up.iter().zip(["trawl-monitor", "trawl-worker"]) {
        assert_eq!((job.as_str(), health.as_str()), (expected, "up"), "{error}");
    }
}

/// Every rule of the shipped file is there and was evaluated without an error.
fn rules_are_in_force(prometheus: &Prometheus) {
    let shipped = std::fs::read_to_string(repository().join("deploy/prometheus/rules/trawl.yml"));
    let shipped = shipped.expect("the shipped rules");
    let mut expected: Vec<&str> =
        shipped.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    expected.sort_unstable();
    assert!(expected.len() > 10, "{expected:?}");
    let rules = wait::until("every rule to be evaluated", PATIENCE, || {
        let told = prometheus.get("rules", &[("type", "alert")]);
        let groups = told["groups"].as_array()?.iter();
        let rules: Vec<Value> =
            groups.filter_map(|group| group["rules"].as_array()).flatten().cloned().collect();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    let mut names: Vec<&str> = rules.iter().filter_map(|rule| rule["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, expected);
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{}: {}", rule["name"], rule["lastError"]);
    }
}

/// Every expression of every dashboard has had a series, and every variable a value.
fn dashboards_show(prometheus: &Prometheus) {
    let mut open: Vec<(String, String)> = Vec::new();
    let folder = repository().join("deploy/grafana/dashboards");
    for file in std::fs::read_dir(folder).expect("the dashboards") {
        let path = file.expect("a file").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a dashboard");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        let variables = variables_of(prometheus, &name, &dashboard);
        for (panel, expression) in expressions(&dashboard["panels"]) {
            open.push((format!("{name}, `{panel}`"), filled_in(&expression, &variables)));
        }
    }
    let total = open.len();
    assert!(total > 50, "{total}");
    let (excused, mut open): (Vec<_>, Vec<_>) = open
        .into_iter()
        .partition(|(_, expression)| ONLY_ON_A_GPU.iter().any(|(name, _)| expression.contains(name)));
    for (place, expression) in &excused {
        // Prometheus takes them all the same.
        eprintln!("on a GPU only: {place}: {expression}: {} series", prometheus.series(expression));
    }
    // What was seen once was there; a rate needs two scrapes.
    let began = std::time::Instant::now();
    while !open.is_empty() && began.elapsed() < PATIENCE {
        open.retain(|(_, expression)| prometheus.series(expression) == 0);
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let open: Vec<String> =
        open.into_iter().map(|(place, expression)| format!("{place}: {expression}")).collect();
    assert!(open.is_empty(), "{} of {total} expressions have no series:\n{}", open.len(), open.join("\n"));
    eprintln!("{total} expressions, {} of them on a GPU only, have series", excused.len());
}

/// The dashboard's variables with the value that Grafana would choose first.
fn variables_of(prometheus: &Prometheus, board: &str, dashboard: &Value) -> BTreeMap<String, String> {
    let mut known = BTreeMap::from([("__rate_interval".to_owned(), RATE_INTERVAL.to_owned())]);
    for variable in dashboard["templating"]["list"].as_array().expect("a list of variables") {
        let Some(definition) = variable["definition"].as_str() else { continue };
        let name = variable["name"].as_str().expect("a name");
        let asked = filled_in(definition, &known);
        let inner = asked.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) =
            inner.and_then(|inner| inner.rsplit_once(", ")).expect("label_values(SERIES, LABEL)");
        let value =
            wait::until(&format!("a value of ${name} on the board {board}: {asked}"), PATIENCE, || {
                prometheus.label_values(selector, label).into_iter().next()
            });
        known.insert(name.to_owned(), value);
    }
    known
}

/// The expressions of panels and of the panels within them, with the panel's title.
fn expressions(panels: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in panels.as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap_or("untitled").to_owned();
            found.push((title, target["expr"].as_str().expect("an expression").to_owned()));
        }
        found.extend(expressions(&panel["panels"]));
    }
    found
}

fn filled_in(expression: &str, variables: &BTreeMap<String, String>) -> String {
    let filled = variables.iter().fold(expression.to_owned(), |text, (name, value)| {
        text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value)
    });
    assert!(!filled.contains('$'), "a variable that nobody defines: {filled}");
    filled
}
