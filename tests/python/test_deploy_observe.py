"""deploy/prometheus and deploy/grafana: rules fire when they should, and every expression names what is exported.

The names and labels come from the sources: worker/src/pipeline/{meters,tallies}.rs and, once it is there, monitor/src. Until then
the monitor's are those that were agreed on.
"""

import json
import re
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple

import deployed
from deployed import DEPLOY, documents, files, run

PROMETHEUS = DEPLOY / "prometheus"
RULES = PROMETHEUS / "rules" / "trawl.yml"
DASHBOARDS = files("dashboards/*.json")
# What Prometheus itself adds to a series, and what ../kustomize's scrape adds.
COMMON_LABELS = {"job", "instance", "node", "le", "alertname", "alertstate", "severity", "__name__"}
AGREED = """
trawl_monitor_service_up{service} trawl_queue_messages{queue,state} trawl_queue_consumers{queue} trawl_jobs{state}
trawl_job_stalled_seconds{queue} trawl_fleet_workers{state} trawl_fleet_images_per_second trawl_build_info{version}
"""
SUFFIXES = {"Counter": ("_total",), "Histogram": ("_bucket", "_sum", "_count"), "Gauge": ("",)}

Exported = Dict[str, Set[str]]


def registered(text: str) -> Exported:
    """The series that a source registers with prometheus-client: name with its type's suffix, and its labels.

    A registration is `register("name", ...)` or `register_with_unit("name", ..., Unit::Seconds, ...)`; its last
    argument ends in the name of a field or binding whose type stands in the same source.
    """
    prefix = re.search(r'with_prefix\("(\w+)"\)', text)
    labels = {
        name: set(re.findall(r"(?m)^\s*(?:pub(?:\([\w:]+\))? )?(?:r#)?(\w+): ", body))
        for name, body in re.findall(
            r"#\[derive\([^)]*EncodeLabelSet[^)]*\)\]\s*(?:pub(?:\([\w:]+\))? )?struct (\w+) \{(.*?)\n\}",
            text,
            re.DOTALL,
        )
    }
    found: Exported = {}
    calls = re.findall(
        r'\bregister(_with_unit)?\(\s*"(\w+)",\s*(?:"(?:[^"\\]|\\.)*"|\w+),\s*(?:Unit::(\w+),\s*)?([^;]*?),?\s*\);',
        text,
    )
    for _, name, unit, argument in calls:
        field = re.findall(r"\w+", re.sub(r"\.clone\(\)|Box::new", "", argument))[-1]
        declared = re.search(rf"\b{field}: ([^\n]+?),?\n", text) or re.search(rf"\blet {field} = ([^;]+);", text)
        assert declared, f"the type of {field}, registered as {name}, is not found"
        declaration = declared.group(1)
        for alias, meaning in re.findall(r"(?m)^type (\w+) = ([^;]+);", text):
            declaration = re.sub(rf"\b{alias}\b", meaning, declaration)
        kind = next((one for one in SUFFIXES if re.search(rf"\b{one}\b", declaration)), None)
        assert kind, f"{field} is {declaration}: no metric that this test knows"
        label = next((labels[one] for one in labels if re.search(rf"\b{one}\b", declaration)), set())
        full = "_".join(part for part in (prefix.group(1) if prefix else "", name, unit.lower()) if part)
        for suffix in SUFFIXES[kind]:
            found[full + suffix] = set(label)
    return found


def workers() -> Exported:
    """What a worker exports; one registry, whose prefix stands in the first of the sources."""
    return registered("".join(deployed.source(f"worker/src/pipeline/{name}.rs") for name in ("meters", "tallies")))


def exported() -> Exported:
    found = workers()
    assert len(found) > 10, found
    monitors: Exported = {}
    if deployed.monitor_is_here():
        for text in deployed.sources("monitor/src"):
            if "prometheus_client" in text:
                monitors.update(registered(text))
        assert monitors, "monitor/src registers no metric that this test can read: look at `registered`"
    else:
        monitors = {
            name: set(filter(None, label.split(","))) for name, label in re.findall(r"(\w+)(?:\{([\w,]*)\})?", AGREED)
        }
    for name, label in monitors.items():
        found[name] = found.get(name, set()) | label
    return found


def used(expression: str) -> Iterator[Tuple[str, Set[str]]]:
    """The series of ours that an expression names, with the labels of their matchers."""
    for name, matchers in re.findall(r"\b(trawl_\w+)(?:\{([^}]*)\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers or ""))


def panels(dashboard: Dict[str, Any]) -> List[Dict[str, Any]]:
    return [inner for panel in dashboard["panels"] for inner in (panel, *panel.get("panels", []))]


def expressions(dashboard: Dict[str, Any]) -> List[str]:
    found = [target["expr"] for panel in panels(dashboard) for target in panel.get("targets", [])]
    return found + [one["expr"] for one in dashboard["annotations"]["list"] if "expr" in one]


def plain(expression: str) -> str:
    """What Prometheus would get from Grafana."""
    expression = expression.replace("$__rate_interval", "5m").replace("$__interval", "1m")
    return re.sub(r"\$\{?\w+\}?", ".*", expression)


class SourcesTest(unittest.TestCase):
    def test_the_worker_s_metrics_are_read_from_its_source(self) -> None:
        found = workers()
        for name, label in {
            "trawl_images_total": {"outcome"},
            "trawl_image_bytes_total": set(),
            "trawl_stage_duration_seconds_bucket": {"stage"},
            "trawl_batch_fill_ratio_sum": set(),
            "trawl_inflight_batches": set(),
            "trawl_build_info": {"version", "torch"},
            "trawl_stage_ceiling_images_per_second": {"stage"},
            "trawl_store_requests_total": {"op", "code"},
            "trawl_store_throttled_total": set(),
            "trawl_amqp_reconnects_total": {"reason"},
            "trawl_quarantined_total": {"reason"},
            "trawl_device_memory_bytes": {"device"},
            "trawl_last_commit_timestamp_seconds": set(),
        }.items():
            self.assertEqual(found.get(name), label, name)

    def test_other_ways_to_write_it_are_read_too(self) -> None:
        text = """
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueueState {
    pub queue: String,
    state: &'static str,
}
struct M {
    messages: Family<QueueState, Gauge>,
    scrapes: Counter,
}
let mut registry = Registry::with_prefix("trawl");
let speed = Gauge::<f64, AtomicU64>::default();
registry.register("queue_messages", "Depth", self.messages.clone());
registry.register(
    "scrapes",
    "Said \\"so\\"",
    m.scrapes.clone(),
);
registry.register("fleet_images_per_second", "Speed", speed.clone());
"""
        expected = {
            "trawl_queue_messages": {"queue", "state"},
            "trawl_scrapes_total": set(),
            "trawl_fleet_images_per_second": set(),
        }
        self.assertEqual(registered(text), expected)

    def test_the_monitor_exports_what_was_agreed_on(self) -> None:
        for name, label in re.findall(r"(\w+)(?:\{([\w,]*)\})?", AGREED):
            self.assertLessEqual(set(filter(None, label.split(","))), exported()[name], name)


class PageTest(unittest.TestCase):
    """docs/metrics.md lists what is exported, with its type and its labels."""

    def test_the_page_has_every_metric_and_no_other(self) -> None:
        expected = {}
        for name, label in exported().items():
            root = re.sub(r"_(bucket|sum|count)$", "", name)
            kind = "histogram" if root != name else "counter" if name.endswith("_total") else "gauge"
            expected[root] = (kind, label)
        listed = re.findall(r"(?m)^\| `(trawl_\w+)` \| (\w+) \| ([^|]*)\|", deployed.source("docs/metrics.md"))
        found = {name: (kind, set(re.findall(r"`(\w+)`", re.sub(r"`error_code`", "", cell)))) for name, kind, cell in listed}
        self.assertEqual(len(found), len(listed), "a metric is listed twice")
        self.assertEqual(found, expected)

    def test_the_page_has_every_label_of_the_closed_sets(self) -> None:
        page = deployed.source("docs/metrics.md")
        for metric, path, enum in (
            ("trawl_batches_total", "worker/src/pipeline/outcomes.rs", "BatchEnd"),
            ("trawl_quarantined_total", "worker/src/pipeline/outcomes.rs", "Quarantine"),
            ("trawl_commit_conflicts_total", "worker/src/pipeline/outcomes.rs", "Winner"),
            ("trawl_amqp_reconnects_total", "common/src/broker/reconnects.rs", "Lost"),
            ("trawl_store_requests_total", "common/src/storage/counted.rs", "StoreOp"),
            ("trawl_store_requests_total", "common/src/storage/counted.rs", "StoreCode"),
        ):
            body = deployed.source(path).split(f"impl {enum} {{")[1].split("pub fn name")[1].split("\n    }")[0]
            names = re.findall(r'=> "(\w+)"', body)
            self.assertGreater(len(names), 1, enum)
            row = next(line for line in page.splitlines() if line.startswith(f"| `{metric}`"))
            labels = set(re.findall(r"\w+", row.split("|")[3]))
            self.assertLessEqual(set(names), labels, metric)


class RulesTest(unittest.TestCase):
    def rules(self) -> List[Dict[str, Any]]:
        return [rule for group in documents(RULES.read_text())[0]["groups"] for rule in group["rules"]]

    def test_promtool_takes_all_of_it(self) -> None:
        for arguments in (
            ("check", "config", PROMETHEUS / "prometheus.yml"),
            ("check", "config", "--syntax-only", DEPLOY / "compose" / "prometheus.yml"),
            ("check", "rules", RULES),
            ("test", "rules", PROMETHEUS / "tests" / "trawl.yml"),
        ):
            done = run("promtool", *arguments)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertNotIn("FAILED", done.stdout)

    def test_the_cluster_s_jobs_are_right_but_for_the_discovery(self) -> None:
        # Debian's Prometheus is built without Kubernetes; its relabelling and the rest are checked.
        text = (PROMETHEUS / "kubernetes.yml").read_text()
        text, count = re.subn(r"kubernetes_sd_configs: .*", 'static_configs: [{targets: ["x:1"]}]', text)
        self.assertEqual(count, 1)
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as config:
            config.write(text)
            config.flush()
            done = run("promtool", "check", "config", config.name)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_every_alert_is_tested_and_its_test_can_fail(self) -> None:
        tests = (PROMETHEUS / "tests" / "trawl.yml").read_text()
        for rule in self.rules():
            self.assertIn(rule["alert"], tests)
            self.assertLessEqual({"summary", "action"}, set(rule["annotations"]), rule["alert"])
            self.assertIn(rule["labels"]["severity"], ("page", "ticket"))
        text = RULES.read_text()
        for rule in self.rules():
            # An alert that never fires must not pass.
            start = text.index(f"alert: {rule['alert']}\n")
            end = text.find("- alert:", start)
            block = text[start : end if end >= 0 else len(text)]
            silenced = re.sub(r"expr: (\|\n(?:\s{10,}.*\n)+|.*\n)", "expr: vector(0) > 1\n", block, count=1)
            self.assertNotEqual(silenced, block)
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "rules").mkdir()
                (Path(folder) / "tests").mkdir()
                (Path(folder) / "rules" / "trawl.yml").write_text(text.replace(block, silenced))
                (Path(folder) / "tests" / "trawl.yml").write_text(tests)
                done = run("promtool", "test", "rules", Path(folder) / "tests" / "trawl.yml")
                self.assertNotEqual(done.returncode, 0, rule["alert"])

    def test_rules_and_their_tests_name_what_is_exported(self) -> None:
        known = exported()
        series = [rule["expr"] for rule in self.rules()] + [
            one["series"]
            for test in documents((PROMETHEUS / "tests" / "trawl.yml").read_text())[0]["tests"]
            for one in test["input_series"]
        ]
        for expression in series:
            for name, label in used(expression):
                self.assertIn(name, known)
                self.assertLessEqual(label, known[name] | COMMON_LABELS, expression)

    def test_jobs_are_called_alike_everywhere(self) -> None:
        for path in (
            PROMETHEUS / "prometheus.yml",
            PROMETHEUS / "kubernetes.yml",
            DEPLOY / "compose" / "prometheus.yml",
        ):
            names = {job["job_name"] for job in documents(path.read_text())[0]["scrape_configs"]}
            self.assertLessEqual({"trawl-worker", "trawl-monitor"}, names, path)
        named = {name for rule in self.rules() for name in re.findall(r'job="([\w-]+)"', rule["expr"])}
        self.assertEqual(named, {"trawl-worker", "trawl-monitor"})


class DashboardsTest(unittest.TestCase):
    def all(self) -> Iterator[Tuple[str, Dict[str, Any]]]:
        self.assertEqual([path.stem for path in DASHBOARDS], ["fleet", "jobs", "worker"])
        for path in DASHBOARDS:
            yield path.stem, json.loads(path.read_text())

    def test_every_expression_names_what_is_exported(self) -> None:
        known, seen = exported(), set()
        for name, dashboard in self.all():
            asked = [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
            for expression in expressions(dashboard) + asked:
                for series, label in used(expression):
                    self.assertIn(series, known, name)
                    self.assertLessEqual(label, known[series] | COMMON_LABELS, (name, expression))
                    seen.add(series)
                    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
                        allowed = known[series] | COMMON_LABELS
                        self.assertLessEqual(set(re.findall(r"\w+", grouped)), allowed, (name, expression))
        # Every metric is somewhere to be seen.
        roots = lambda names: {re.sub(r"_(bucket|sum|count)$", "", one) for one in names}  # noqa: E731
        self.assertEqual(roots(known) - roots(seen), set())

    def test_prometheus_can_read_every_expression(self) -> None:
        rules = [
            {"record": f"x:{name}:{number}", "expr": plain(expression)}
            for name, dashboard in self.all()
            for number, expression in enumerate(expressions(dashboard))
        ]
        self.assertGreater(len(rules), 50)
        for change, expected in ((lambda text: text, 0), (lambda text: text.replace("sum(", "sum((", 1), 1)):
            with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
                file.write(change(json.dumps({"groups": [{"name": "x", "rules": rules}]})))
                file.flush()
                done = run("promtool", "check", "rules", file.name)
            self.assertEqual(bool(done.returncode), bool(expected), done.stdout)

    def test_dashboards_are_whole(self) -> None:
        names: Set[str] = set()
        for name, dashboard in self.all():
            self.assertNotIn(dashboard["uid"], names)
            names.add(dashboard["uid"])
            self.assertIsNone(dashboard.get("id"), "a number of one Grafana means another board in the next")
            known = {variable["name"] for variable in dashboard["templating"]["list"]}
            text = json.dumps(dashboard)
            asked = set(re.findall(r"\$\{?([a-z]\w*)", text))
            self.assertLessEqual(asked, known, name)
            taken: Set[Tuple[int, int]] = set()
            ids = [panel["id"] for panel in panels(dashboard)]
            self.assertEqual(len(ids), len(set(ids)), name)
            for panel in panels(dashboard):
                place = panel["gridPos"]
                cells = {
                    (x, y)
                    for x in range(place["x"], place["x"] + place["w"])
                    for y in range(place["y"], place["y"] + place["h"])
                }
                self.assertFalse(cells & taken, (name, panel["title"]))
                taken |= cells
                self.assertLessEqual(place["x"] + place["w"], 24)
                if panel["type"] != "row":
                    self.assertEqual(panel["datasource"]["uid"], "${datasource}", panel["title"])
                    self.assertTrue(panel["targets"] and panel["title"])


if __name__ == "__main__":
    unittest.main()
