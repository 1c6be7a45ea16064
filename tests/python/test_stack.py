"""deploy/stack: the commands, and that nothing is left over. RabbitMQ is left to the Rust tests: it takes long to start."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

STACK = Path(__file__).resolve().parents[2] / "deploy" / "stack"
DEADLINE_SECONDS = 60.0


class StackTest(unittest.TestCase):
    def setUp(self) -> None:
        self.root = tempfile.TemporaryDirectory()
        self.addCleanup(self.root.cleanup)
        # A space, since a checkout may lie in such a folder.
        self.dir = Path(self.root.name) / "a stack"
        self.addCleanup(lambda: self.stack("down", check=False))

    def stack(self, *args: str, check: bool = True, **more) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, str(STACK), *args, "--dir", str(self.dir)], capture_output=True, text=True, **more
        )
        if check:
            self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def up(self, *more: str) -> None:
        self.stack("up", "--only", "redis,s3", *more)

    def services(self) -> dict:
        return json.loads((self.dir / "state.json").read_text())["services"]

    def env(self) -> dict:
        lines = (self.dir / "env").read_text().splitlines()
        return dict(line[len("export ") :].split("=", 1) for line in lines)

    def redis(self, command: str) -> str:
        """The answer to one command: a status, or the value of a GET."""
        entry = self.services()["redis"]
        with socket.create_connection(("127.0.0.1", entry["ports"]["redis"]), timeout=5) as connection:
            connection.sendall(f"AUTH {entry['password']}\r\n{command}\r\n".encode())
            answer = connection.makefile(encoding="ascii", newline="\r\n")
            self.assertEqual(answer.readline(), "+OK\r\n")
            first = answer.readline().strip()
            return answer.readline().strip() if first.startswith("$") and first != "$-1" else first

    def ours(self) -> list:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                environ = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if f"TRAWL_STACK={self.dir}".encode() in environ.split(b"\0"):
                found.append(int(pid))
        return found

    def test_up_status_down(self) -> None:
        self.up()
        self.assertEqual(sorted(self.env()), sorted([
            "TRAWL_REDIS_URL", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION",
        ]))  # fmt: skip
        for name in ("env", "state.json"):
            self.assertEqual((self.dir / name).stat().st_mode & 0o777, 0o600, name)
        self.assertEqual(self.stack("status").returncode, 0)
        before = self.services()
        self.assertIn("already up", self.stack("up", "--only", "redis,s3").stderr)
        self.assertEqual(before, self.services())
        self.stack("down")
        self.assertFalse(self.dir.exists())
        self.assertEqual(self.ours(), [])
        sockets = [f"/tmp/seaweedfs-{r}-grpc-{before['s3']['ports'][r + '_grpc']}.sock" for r in ("master", "s3")]
        self.assertEqual([path for path in sockets if os.path.exists(path)], [])
        self.assertIn("nothing to stop", self.stack("down").stderr)
        self.assertEqual(self.stack("status", check=False).returncode, 4)

    def test_an_outage_keeps_ports_and_data(self) -> None:
        self.up()
        before = self.services()["redis"]
        self.redis("SET k v")
        self.stack("stop", "redis")
        self.assertEqual(self.stack("status", check=False).returncode, 1)
        self.stack("start", "redis")
        self.assertEqual(self.redis("GET k"), "v")
        self.stack("restart", "redis", "--kill9")
        after = self.services()["redis"]
        self.assertEqual((before["ports"], before["password"]), (after["ports"], after["password"]))
        self.assertNotEqual(before["pid"], after["pid"])

    def test_data_survives_down_keep_and_a_port_that_was_taken_meanwhile(self) -> None:
        self.stack("up", "--only", "redis")
        self.redis("SET k v")
        self.stack("down", "--keep")
        self.assertEqual(self.ours(), [])
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", self.services()["redis"]["ports"]["redis"]))
            taken.listen()
            self.stack("up", "--only", "redis")
            self.assertNotEqual(self.services()["redis"]["ports"]["redis"], taken.getsockname()[1])
        self.assertEqual(self.redis("GET k"), "v")

    def test_the_stack_goes_with_its_parent(self) -> None:
        parent = subprocess.Popen(["sleep", "600"])
        self.addCleanup(parent.wait)
        self.addCleanup(parent.kill)
        self.up("--parent-pid", str(parent.pid))
        self.assertNotEqual(self.ours(), [])
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.dir.exists() or self.ours():
            self.assertLess(time.monotonic(), deadline, f"left: {self.ours()}")
            time.sleep(0.05)

    def test_a_missing_program_is_named_with_the_fix(self) -> None:
        done = self.stack("up", "--only", "s3", check=False, env={**os.environ, "TRAWL_WEED": "/nowhere/weed"})
        self.assertEqual(done.returncode, 2)
        self.assertIn("TRAWL_WEED is /nowhere/weed", done.stderr)
        self.assertEqual(self.ours(), [])

    def test_a_server_that_does_not_start_says_why_and_leaves_nothing(self) -> None:
        wrong = Path(self.root.name) / "weed"
        # Knows the command's flags and then fails.
        wrong.write_text("#!/bin/sh\n[ \"$1\" = help ] && { echo '  -s3.port int'; exit; }\necho 'disk on fire'; exit 3\n")
        wrong.chmod(0o755)
        done = self.stack("up", "--only", "redis,s3", check=False, env={**os.environ, "TRAWL_WEED": str(wrong)})
        self.assertEqual(done.returncode, 1)
        self.assertIn("s3 did not start: it ended with status 3", done.stderr)
        self.assertIn("disk on fire", done.stderr)
        self.assertEqual(self.ours(), [])

    def test_a_process_with_a_recycled_pid_is_left_alone(self) -> None:
        self.stack("up", "--only", "redis")
        self.stack("stop", "redis")
        other = subprocess.Popen(["sleep", "600"])
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        state = json.loads((self.dir / "state.json").read_text())
        state["services"]["redis"]["pid"] = other.pid
        (self.dir / "state.json").write_text(json.dumps(state))
        self.stack("down")
        self.assertIsNone(other.poll())


if __name__ == "__main__":
    unittest.main()
