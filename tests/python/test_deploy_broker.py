"""deploy/rabbitmq: the definitions are what trawl declares; on a real broker each user can do its part and no more."""

import base64
import hashlib
import json
import re
import secrets
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, List

import pika
import pika.exceptions

import deployed

sys.path.insert(0, str(deployed.DEPLOY))
from stack_lib import ports, processes, rabbitmq  # noqa: E402

FOLDER = deployed.DEPLOY / "rabbitmq"
TOPOLOGY = deployed.source("common/src/broker/topology.rs")
USERS = ("trawl-worker", "trawl-producer", "trawl-monitor", "trawl-scaler")
DEADLINE_SECONDS = 120.0


def definitions() -> Dict[str, Any]:
    return json.loads((FOLDER / "definitions.json").read_text(encoding="utf-8"))


def declared(lane: str) -> Dict[str, Dict[str, Any]]:
    """The queues of a lane and their arguments as topology.rs has them: its functions, read as text."""

    def text_of(function: str) -> str:
        found = re.search(rf"fn {function}\(.*?\n}}\n", TOPOLOGY, re.DOTALL)
        assert found, f"topology.rs has no {function}"
        return found.group(0)

    values = {
        "DEAD": deployed.constant(TOPOLOGY, "DEAD"),
        "i64::from(DELIVERY_LIMIT)": deployed.constant(TOPOLOGY, "DELIVERY_LIMIT"),
        "i64::from(DEAD_DELIVERY_LIMIT)": deployed.constant(TOPOLOGY, "DEAD_DELIVERY_LIMIT"),
        "delay": deployed.constant(TOPOLOGY, "RETRY_DELAY") * 1000,
        "&work_queue(queue)": f"trawl.{lane}",
        '""': "",
    }

    def arguments(function: str, exchange: Any = None) -> Dict[str, Any]:
        body = text_of(function)
        made: Dict[str, Any] = {}
        for name, value in re.findall(r'(?:text|number)\("([\w-]+)", ((?:[^()]|\([^()]*\))+)\)', body):
            value = value.strip()
            if value == "exchange":
                made[name] = exchange
            else:
                made[name] = values[value] if value in values else value.strip('"')
        to = re.search(r"dead_lettering\(([^)]*)\)\)", body)
        if to:
            made.update(arguments("dead_lettering", values[to.group(1)]))
        return made

    return {
        "trawl.dead": arguments("dead_shape"),
        f"trawl.{lane}": arguments("work_shape"),
        f"trawl.{lane}.retry": arguments("retry_shape"),
    }


def rendered(*more: str, passwords: Dict[str, str]) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:
        for user, password in passwords.items():
            (Path(folder) / user).write_text(password + "\n")
        argv = [sys.executable, str(FOLDER / "definitions.py"), "--passwords", folder, *more]
        return subprocess.run(argv, capture_output=True, text=True, check=False)


class DefinitionsTest(unittest.TestCase):
    def test_the_queues_are_those_that_trawl_declares(self) -> None:
        # Arguments of a queue cannot be changed: one that differs keeps every worker out with a 406.
        expected = declared("default")
        self.assertEqual(len(expected["trawl.default"]), 5, expected)
        self.assertEqual({queue["name"]: queue["arguments"] for queue in definitions()["queues"]}, expected)
        for queue in definitions()["queues"]:
            self.assertTrue(queue["durable"] and not queue["auto_delete"], queue["name"])

    def test_a_lane_more_is_declared_like_the_first(self) -> None:
        done = rendered("--lane", "gpu.a", "--lane", "default", passwords={"trawl-worker": "x"})
        self.assertEqual(done.returncode, 0, done.stderr)
        queues = {queue["name"]: queue["arguments"] for queue in json.loads(done.stdout)["queues"]}
        self.assertEqual(queues, {**declared("default"), **declared("gpu.a")})
        for lane in ("dead", "a.retry", "a b", "", "-a", "x" * 65):
            self.assertEqual(rendered("--lane", lane, passwords={"trawl-worker": "x"}).returncode, 2, lane)

    def test_the_dead_letters_are_a_fanout_bound_to_their_queue(self) -> None:
        made = definitions()
        exchange, binding = made["exchanges"], made["bindings"]
        self.assertEqual([(e["name"], e["type"], e["durable"]) for e in exchange], [("trawl.dead", "fanout", True)])
        self.assertEqual([(b["source"], b["destination"]) for b in binding], [("trawl.dead", "trawl.dead")])

    def test_a_policy_never_drops_a_message(self) -> None:
        for policy in definitions()["policies"]:
            # The queues' own x-overflow is reject-publish; a policy must not say otherwise, nor let messages expire.
            self.assertFalse(
                {"overflow", "message-ttl", "expires", "delivery-limit"} & set(policy["definition"]), policy
            )

    def test_no_password_is_in_it_and_hashes_are_made_from_files(self) -> None:
        self.assertEqual([user["password_hash"] for user in definitions()["users"]], [""] * len(USERS))
        done = rendered(passwords={"trawl-worker": "sécret", "trawl-monitor": "m"})
        users = {user["name"]: user["password_hash"] for user in json.loads(done.stdout)["users"]}
        salted = base64.b64decode(users["trawl-worker"])
        self.assertEqual(salted[4:], hashlib.sha256(salted[:4] + "sécret".encode()).digest())
        self.assertEqual([users["trawl-producer"], users["trawl-scaler"]], ["", ""])
        self.assertNotIn("sécret", done.stdout)
        self.assertEqual(rendered(passwords={}).returncode, 2)
        self.assertEqual(rendered(passwords={"trawl-worker": ""}).returncode, 2)


class BrokerTest(unittest.TestCase):
    """One node with the shipped rabbitmq.conf and the definitions, as compose starts it."""

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.root = Path(folder.name) / "broker"
        here = cls.root / "rabbitmq"
        here.mkdir(parents=True)
        cls.passwords = {user: secrets.token_hex(8) for user in USERS}
        cls.definitions = here / "definitions.json"
        cls.definitions.write_text(rendered(passwords=cls.passwords).stdout)
        cls.held = ports.HeldPorts(rabbitmq.PORTS)
        cls.record = {
            "ports": cls.held.by_name,
            "user": "trawl-monitor",
            "password": cls.passwords["trawl-monitor"],
            "cookie": "c" * 20,
        }
        spawned: List[subprocess.Popen] = []

        def end() -> None:
            processes.end(cls.root, None, {}, 0)
            for process in spawned:
                process.wait()

        cls.addClassCleanup(end)
        commands = rabbitmq.prepare(cls.root, here, cls.record)
        cls.configure(here / "rabbitmq.conf")
        cls.held.release()
        cls.log = here / "output.log"
        spawned += [processes.spawn(argv, env, here, cls.log) for argv, env in commands]
        deadline = time.monotonic() + DEADLINE_SECONDS
        while problem := rabbitmq.ready(cls.record, here):
            if spawned[-1].poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{problem}\n{cls.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)

    @classmethod
    def configure(cls, conf: Path) -> None:
        """The shipped file, with other ports and another place for the definitions."""
        shipped = (FOLDER / "rabbitmq.conf").read_text(encoding="utf-8")
        for name in ("management", "prometheus"):
            shipped, count = re.subn(
                rf"(?m)^{name}\.tcp\.port = .*$", f"{name}.tcp.port = {cls.record['ports'][name]}", shipped
            )
            assert count == 1, name
        shipped, count = re.subn(
            r"(?m)^definitions\.local\.path = .*$", f"definitions.local.path = {cls.definitions}", shipped
        )
        assert count == 1
        # A test machine's disk may be fuller than a broker's.
        shipped = re.sub(r"(?m)^disk_free_limit.*$", "disk_free_limit.absolute = 50MB", shipped)
        local = "\n".join(f"{name}.tcp.ip = 127.0.0.1" for name in ("management", "prometheus"))
        conf.write_text(f"listeners.tcp.1 = 127.0.0.1:{cls.record['ports']['amqp']}\n{local}\n{shipped}")

    def connect(self, user: str, password: str = "") -> pika.BlockingConnection:
        login = pika.PlainCredentials(user, password or self.passwords[user])
        parameters = pika.ConnectionParameters("127.0.0.1", self.record["ports"]["amqp"], "trawl", login)
        connection = pika.BlockingConnection(parameters)
        self.addCleanup(lambda: connection.is_open and connection.close())
        return connection

    def channel(self, user: str) -> Any:
        channel = self.connect(user).channel()
        channel.confirm_delivery()
        return channel

    def refused(self, user: str, what: Callable[[Any], Any]) -> None:
        with self.assertRaises((pika.exceptions.ChannelClosedByBroker, pika.exceptions.ConnectionClosed)) as caught:
            what(self.channel(user))
        self.assertEqual(caught.exception.reply_code, 403, caught.exception)

    def management(self, user: str, path: str) -> Any:
        token = base64.b64encode(f"{user}:{self.passwords[user]}".encode()).decode()
        url = f"http://127.0.0.1:{self.record['ports']['management']}/api/{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {token}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return json.load(answer)

    @staticmethod
    def declare(channel: Any, lane: str) -> None:
        """What common/src/broker/rabbit/declare.rs does, in its order."""
        shapes = declared(lane)
        channel.exchange_declare("trawl.dead", "fanout", durable=True)
        channel.queue_declare("trawl.dead", durable=True, arguments=shapes["trawl.dead"])
        channel.queue_bind("trawl.dead", "trawl.dead", "")
        for name in (f"trawl.{lane}.retry", f"trawl.{lane}"):
            channel.queue_declare(name, durable=True, arguments=shapes[name])

    def test_workers_and_producers_can_do_their_part(self) -> None:
        producer, worker = self.channel("trawl-producer"), self.channel("trawl-worker")
        # One lane that is in the definitions, with the same arguments or this is a 406, and one that is not.
        for lane in ("default", "another"):
            self.declare(producer, lane)
            self.declare(worker, lane)
            producer.basic_publish("", f"trawl.{lane}", b"{}", mandatory=True)
            worker.basic_qos(prefetch_count=2)
            method, _, body = next(worker.consume(f"trawl.{lane}", inactivity_timeout=30))
            self.assertEqual(body, b"{}")
            worker.basic_publish("", f"trawl.{lane}.retry", b"later", mandatory=True)
            worker.basic_publish("trawl.dead", f"trawl.{lane}", b"given up", mandatory=True)
            worker.basic_ack(method.delivery_tag)
            worker.cancel()
        # `trawl dead retry`
        method, _, body = producer.basic_get("trawl.dead")
        self.assertEqual(body, b"given up")
        producer.basic_publish("", "trawl.default", body, mandatory=True)
        producer.basic_ack(method.delivery_tag)
        for user in ("trawl-worker", "trawl-producer"):
            self.refused(user, lambda channel: channel.queue_declare("not-ours"))
            with self.assertRaises(urllib.error.HTTPError):
                self.management(user, "overview")

    def test_the_monitor_reads_and_moves_dead_letters_and_nothing_else(self) -> None:
        worker, monitor = self.channel("trawl-worker"), self.channel("trawl-monitor")
        self.declare(worker, "watched")
        worker.basic_publish("trawl.dead", "trawl.watched", b"given up", mandatory=True)
        for queue in ("trawl.watched", "trawl.dead"):
            monitor.queue_declare(queue, passive=True)
        method, _, body = monitor.basic_get("trawl.dead")
        monitor.basic_publish("", "trawl.watched", body, mandatory=True)
        monitor.basic_ack(method.delivery_tag)
        self.assertIn("trawl.watched", [queue["name"] for queue in self.management("trawl-monitor", "queues/trawl")])
        self.assertIn("rabbitmq_version", self.management("trawl-monitor", "overview"))
        self.refused("trawl-monitor", lambda channel: channel.basic_get("trawl.watched"))
        self.refused("trawl-monitor", lambda channel: channel.queue_delete("trawl.watched"))
        self.refused("trawl-monitor", lambda channel: channel.queue_purge("trawl.watched"))
        self.refused("trawl-monitor", lambda channel: channel.queue_declare("trawl.new", durable=True))

    def test_the_scaler_reads_depths_and_nothing_else(self) -> None:
        # What KEDA asks in the mode QueueLength over http.
        for queue in ("trawl.default", "trawl.default.retry"):
            found = self.management("trawl-scaler", f"queues/trawl/{queue}")
            self.assertLessEqual({"name", "vhost"}, set(found))
        for what in (
            lambda channel: channel.basic_get("trawl.dead"),
            lambda channel: channel.basic_publish("", "trawl.default", b"x", mandatory=True),
            lambda channel: channel.queue_declare("trawl.new", durable=True),
        ):
            self.refused("trawl-scaler", what)

    def test_nobody_else_gets_in(self) -> None:
        for user, password in (("guest", "guest"), ("trawl-worker", "wrong")):
            with self.assertRaises(pika.exceptions.ProbableAuthenticationError):
                self.connect(user, password)

    def test_the_policies_are_in_force(self) -> None:
        # In force a moment after the boot, when the queues' processes have taken them over.
        deadline = time.monotonic() + DEADLINE_SECONDS
        wanted = {"trawl.dead": "trawl-dead", "trawl.default": "trawl", "trawl.default.retry": "trawl"}
        while True:
            queues: List[Dict[str, Any]] = self.management("trawl-monitor", "queues/trawl")
            found = {queue["name"]: queue.get("policy") for queue in queues if queue["name"] in wanted}
            if found == wanted:
                return
            self.assertLess(time.monotonic(), deadline, found)
            time.sleep(0.1)


if __name__ == "__main__":
    unittest.main()
