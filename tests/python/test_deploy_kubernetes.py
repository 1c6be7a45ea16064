"""deploy/kustomize: every overlay is rendered by kubectl's kustomize and held to Kubernetes' own schemas, strictly.

KEDA's two kinds have a schema here: what their definitions allow of what is used. No cluster is asked.
"""

import copy
import json
import re
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import jsonschema
import kubernetes_validate

import deployed
from deployed import DEPLOY, documents, run, source

KUSTOMIZE = DEPLOY / "kustomize"
OVERLAYS = sorted(path.name for path in (KUSTOMIZE / "overlays").iterdir())
# The oldest that has all that is used (`preStop.sleep`), and the newest known.
VERSIONS = ("1.30", "1.37")
# How long an upload and a commit may take after the grace, and what the kubelet keeps for itself.
UPLOAD_SECONDS = 10

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_REFERENCE = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "kind": {"type": "string"},
        "apiVersion": {"type": "string"},
        "envSourceContainerName": {"type": "string"},
    },
}
_WHOLE = {"type": "integer", "minimum": 0}


def _kind(spec: Dict[str, Any], required: List[str]) -> Dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": "keda.sh/v1alpha1"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {"type": "object", "additionalProperties": False, "required": required, "properties": spec},
        },
    }


KEDA = {
    "ScaledObject": _kind(
        {
            "scaleTargetRef": _REFERENCE,
            "minReplicaCount": _WHOLE,
            "maxReplicaCount": _WHOLE,
            "idleReplicaCount": _WHOLE,
            "pollingInterval": _WHOLE,
            "cooldownPeriod": _WHOLE,
            "initialCooldownPeriod": _WHOLE,
            "fallback": {
                "type": "object",
                "additionalProperties": False,
                "required": ["failureThreshold", "replicas"],
                "properties": {
                    "failureThreshold": _WHOLE,
                    "replicas": _WHOLE,
                    "behavior": {
                        "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
                    },
                },
            },
            # Its `behavior` is Kubernetes' own and checked as such below.
            "advanced": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"horizontalPodAutoscalerConfig": {"type": "object"}},
            },
            "triggers": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["type", "metadata"],
                    # Values are texts: a number or a bare `false` is refused by the cluster.
                    "properties": {"type": {"const": "rabbitmq"}, "metadata": _TEXTS, "authenticationRef": _REFERENCE},
                },
            },
        },
        ["scaleTargetRef", "triggers"],
    ),
    "TriggerAuthentication": _kind(
        {
            "secretTargetRef": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["parameter", "name", "key"],
                    "properties": {name: {"type": "string"} for name in ("parameter", "name", "key")},
                },
            }
        },
        ["secretTargetRef"],
    ),
}
# What the scaler knows in the mode used here.
TRIGGER_KEYS = {"protocol", "vhostName", "queueName", "mode", "excludeUnacknowledged", "value", "activationValue"}


def render(folder: Path) -> List[Dict[str, Any]]:
    done = run("kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stdout
    return documents(done.stdout)


def check(document: Dict[str, Any]) -> None:
    """Raises if a cluster would refuse it, or silently drop a part of it."""
    if document["kind"] in KEDA:
        jsonschema.validate(document, KEDA[document["kind"]])
        behavior = document["spec"].get("advanced", {}).get("horizontalPodAutoscalerConfig")
        if behavior:
            reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}
            spec = {"scaleTargetRef": reference, "maxReplicas": 1, **behavior}
            check(
                {
                    "apiVersion": "autoscaling/v2",
                    "kind": "HorizontalPodAutoscaler",
                    "metadata": {"name": "x"},
                    "spec": spec,
                }
            )
        return
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


class RenderedTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.rendered = {name: render(KUSTOMIZE / "overlays" / name) for name in OVERLAYS}
        cls.job = documents((KUSTOMIZE / "examples" / "submit-job.yaml").read_text())

    def only(self, overlay: str, kind: str, name: str) -> Dict[str, Any]:
        found = [d for d in self.rendered[overlay] if (d["kind"], d["metadata"]["name"]) == (kind, name)]
        self.assertEqual(len(found), 1, (overlay, kind, name))
        return found[0]

    def pods(self) -> Iterator[Tuple[str, Dict[str, Any]]]:
        for overlay, made in {**self.rendered, "example": self.job}.items():
            for document in made:
                if document["kind"] in ("Deployment", "Job"):
                    yield f"{overlay} {document['metadata'].get('name')}", document["spec"]["template"]["spec"]

    def test_kubernetes_takes_all_of_it(self) -> None:
        self.assertEqual(OVERLAYS, ["cpu", "gpu", "keda", "spot"])
        for overlay, made in {**self.rendered, "example": self.job}.items():
            for document in made:
                with self.subTest(overlay, kind=document["kind"]):
                    check(document)
                    if document["kind"] != "Namespace":
                        self.assertEqual(document["metadata"]["namespace"], "trawl")

    def test_what_is_wrong_is_found(self) -> None:
        def broken(kind: str, name: str, change) -> None:
            document = copy.deepcopy(self.only("keda", kind, name))
            check(document)
            change(document)
            with self.assertRaises((kubernetes_validate.ValidationError, jsonschema.ValidationError), msg=(kind, name)):
                check(document)

        container = lambda d: d["spec"]["template"]["spec"]["containers"][0]  # noqa: E731
        broken("Deployment", "trawl-worker", lambda d: container(d).update(imagePullPolice="Always"))
        broken("Deployment", "trawl-worker", lambda d: container(d)["startupProbe"].update(periodSeconds="2"))
        broken("Deployment", "trawl-monitor", lambda d: d["spec"].pop("selector"))
        broken("PodDisruptionBudget", "trawl-worker", lambda d: d["spec"].update(maxUnavailable=[1]))
        broken("NetworkPolicy", "trawl-worker", lambda d: d["spec"].update(policyTypes="Ingress"))
        broken("ScaledObject", "trawl-worker", lambda d: d["spec"]["triggers"][0]["metadata"].update(value=4))
        broken("ScaledObject", "trawl-worker", lambda d: d["spec"].update(coolDownPeriod=3))
        broken(
            "ScaledObject",
            "trawl-worker",
            lambda d: d["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"].update(down={}),
        )
        broken("TriggerAuthentication", "trawl-scaler", lambda d: d["spec"]["secretTargetRef"][0].pop("key"))

    def test_a_patch_that_meets_nothing_is_found(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copied = Path(folder) / "kustomize"
            shutil.copytree(KUSTOMIZE, copied)
            patch = copied / "overlays" / "spot" / "worker.yaml"
            patch.write_text(patch.read_text().replace("name: trawl-worker", "name: trawl-wroker", 1))
            self.assertNotEqual(run("kubectl", "kustomize", copied / "overlays" / "spot").returncode, 0)

    def test_pods_keep_to_the_restricted_standard(self) -> None:
        for where, pod in self.pods():
            with self.subTest(where):
                self.assertFalse({"hostNetwork", "hostPID", "hostIPC"} & set(pod))
                self.assertFalse([volume for volume in pod["volumes"] if "hostPath" in volume])
                self.assertIs(pod["automountServiceAccountToken"], False)
                self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
                self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                for container in pod["containers"]:
                    confined = container["securityContext"]
                    self.assertEqual(confined["capabilities"], {"drop": ["ALL"]})
                    self.assertEqual(
                        (confined["allowPrivilegeEscalation"], confined["readOnlyRootFilesystem"]), (False, True)
                    )
                    self.assertIn("memory", container["resources"]["limits"])
        namespace = self.only("cpu", "Namespace", "trawl")
        self.assertEqual(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")

    def test_a_drain_has_the_time_it_takes(self) -> None:
        for overlay in OVERLAYS:
            pod = self.only(overlay, "Deployment", "trawl-worker")["spec"]["template"]["spec"]
            environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
            grace, allowed = int(environment["TRAWL_GRACE"]), pod["terminationGracePeriodSeconds"]
            self.assertGreaterEqual(allowed, grace + UPLOAD_SECONDS, overlay)
            if overlay == "spot":
                self.assertLessEqual(allowed, 30, "the shortest notice of the clouds")

    def test_probes_ask_what_is_served(self) -> None:
        served = set(re.findall(r'\.route\("(/\w+)"', source("worker/src/http.rs")))
        self.assertEqual(served, {"/livez", "/readyz", "/startupz", "/metrics"})
        for overlay in OVERLAYS:
            for name, port, startup in (("trawl-worker", 8266, "/startupz"), ("trawl-monitor", 8265, "/livez")):
                container = self.only(overlay, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]
                self.assertEqual([(p["name"], p["containerPort"]) for p in container["ports"]], [("http", port)])
                self.assertIn(f"0.0.0.0:{port}", " ".join(container["args"]))
                for probe, path in (
                    ("startupProbe", startup),
                    ("readinessProbe", "/readyz"),
                    ("livenessProbe", "/livez"),
                ):
                    self.assertEqual(container[probe]["httpGet"]["path"], path)
                    self.assertEqual(container[probe]["httpGet"]["port"], "http")

    def test_arguments_are_taken_by_the_programs_and_their_variables_are_set(self) -> None:
        worker, producer = deployed.flags(*deployed.WORKER_FLAGS), deployed.flags(*deployed.PRODUCER_FLAGS)
        known = {"worker": worker, "monitor": deployed.monitor_flags(), "submit": producer}
        for where, pod in self.pods():
            for container in pod["containers"]:
                asked = {word.split("=")[0] for word in container["args"] if word.startswith("--")}
                self.assertTrue(asked and asked <= known[container["name"]], (where, asked - known[container["name"]]))
                named = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
                self.assertLessEqual(named, {one["name"] for one in container["env"]}, where)

    def test_files_that_are_named_are_mounted(self) -> None:
        for where, pod in self.pods():
            for container in pod["containers"]:
                mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
                there = {
                    f"{mounts[volume['name']]}/{item['path']}"
                    for volume in pod["volumes"]
                    for part in volume.get("projected", {}).get("sources", [])
                    for item in part["secret"]["items"]
                }
                asked = {one["value"] for one in container["env"] if one["name"].endswith("_FILE")}
                self.assertEqual(asked, there, where)
                self.assertEqual({volume["name"] for volume in pod["volumes"]}, set(mounts), where)

    def test_secrets_are_named_on_the_page_and_are_not_here(self) -> None:
        page = (DEPLOY / "README.md").read_text()
        self.assertFalse([d for made in self.rendered.values() for d in made if d["kind"] == "Secret"])
        wanted = {"trawl-scaler"}
        for _, pod in self.pods():
            for volume in pod["volumes"]:
                wanted |= {part["secret"]["name"] for part in volume.get("projected", {}).get("sources", [])}
        self.assertEqual(wanted, {"trawl-worker", "trawl-monitor", "trawl-producer", "trawl-s3", "trawl-scaler"})
        for name in wanted:
            self.assertIn(f"create secret generic {name} ", page)

    def test_selectors_meet_their_pods(self) -> None:
        for overlay, made in self.rendered.items():
            labels = [d["spec"]["template"]["metadata"]["labels"] for d in made if d["kind"] == "Deployment"]
            meets = lambda wanted: [one for one in labels if wanted.items() <= one.items()]  # noqa: E731
            for document in made:
                spec, kind = document.get("spec", {}), document["kind"]
                if kind == "Service":
                    self.assertEqual(len(meets(spec["selector"])), 1)
                elif kind in ("Deployment", "PodDisruptionBudget"):
                    self.assertEqual(len(meets(spec["selector"]["matchLabels"])), 1, (overlay, document["metadata"]))
                elif kind == "NetworkPolicy":
                    self.assertTrue(meets(spec["podSelector"].get("matchLabels", {})), document["metadata"])

    def test_gpu_workers_ask_for_a_gpu_and_take_its_image(self) -> None:
        pod = self.only("gpu", "Deployment", "trawl-worker")["spec"]["template"]["spec"]
        container = pod["containers"][0]
        self.assertTrue(container["image"].endswith("-cuda"))
        self.assertEqual(container["resources"]["limits"]["nvidia.com/gpu"], 1)
        self.assertIn({"name": "TRAWL_DEVICE", "value": "cuda:0"}, container["env"])
        self.assertIn("nvidia.com/gpu", [one["key"] for one in pod["tolerations"]])
        for overlay in ("cpu", "spot", "keda"):
            self.assertTrue(
                self.only(overlay, "Deployment", "trawl-worker")["spec"]["template"]["spec"]["containers"][0][
                    "image"
                ].endswith("-cpu")
            )

    def test_threads_are_bounded_by_a_limit(self) -> None:
        for overlay in OVERLAYS:
            resources = self.only(overlay, "Deployment", "trawl-worker")["spec"]["template"]["spec"]["containers"][0][
                "resources"
            ]
            self.assertEqual(resources["limits"]["cpu"], resources["requests"]["cpu"], overlay)

    def test_keda_counts_what_workers_hold_of_queues_that_exist(self) -> None:
        scaled = self.only("keda", "ScaledObject", "trawl-worker")["spec"]
        authentication = self.only("keda", "TriggerAuthentication", "trawl-scaler")["spec"]
        self.assertEqual(
            {one["parameter"] for one in authentication["secretTargetRef"]}, {"host", "username", "password"}
        )
        self.assertEqual(scaled["minReplicaCount"], 0)
        self.assertNotIn("replicas", self.only("keda", "Deployment", "trawl-worker")["spec"])
        self.assertEqual(scaled["scaleTargetRef"]["name"], "trawl-worker")
        queues = {one["name"] for one in json.loads((DEPLOY / "rabbitmq" / "definitions.json").read_text())["queues"]}
        triggers = [one["metadata"] for one in scaled["triggers"]]
        self.assertEqual({one["queueName"] for one in triggers}, queues - {"trawl.dead"})
        for one in triggers:
            self.assertLessEqual(set(one), TRIGGER_KEYS)
            self.assertEqual(
                (one["protocol"], one["mode"], one["excludeUnacknowledged"], one["vhostName"]),
                ("http", "QueueLength", "false", "trawl"),
            )

    def test_components_go_over_every_overlay(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copied = Path(folder) / "kustomize"
            shutil.copytree(KUSTOMIZE, copied)
            for overlay in OVERLAYS:
                own = copied / "own"
                own.mkdir(exist_ok=True)
                parts = "\n".join(
                    f"  - ../components/{path.name}" for path in sorted((KUSTOMIZE / "components").iterdir())
                )
                (own / "kustomization.yaml").write_text(
                    f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../overlays/{overlay}]\ncomponents:\n{parts}\n"
                )
                made = render(own)
                for document in made:
                    check(document)
                pods = [d["spec"]["template"]["spec"] for d in made if d["kind"] == "Deployment"]
                self.assertEqual(len(pods), 2)
                for pod in pods:
                    self.assertIn(
                        {"name": "TRAWL_TLS_CA", "value": "/etc/trawl/tls/ca.pem"}, pod["containers"][0]["env"]
                    )
                settings = [d["data"] for d in made if d["kind"] == "ConfigMap"]
                self.assertEqual(settings[0]["TRAWL_INSECURE"], "true")


if __name__ == "__main__":
    unittest.main()
