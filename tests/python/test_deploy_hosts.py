"""deploy/systemd, deploy/slurm and the shell scripts: what runs trawl on hosts without containers.

Units are read by systemd's own checkers; scripts are linted, and run with stand-ins for trawl and Slurm.
"""

import os
import re
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path
from typing import Tuple

from deployed import DEPLOY, run

COMPOSE = DEPLOY / "compose"
DEADLINE_SECONDS = 60.0


class UnitsTest(unittest.TestCase):
    """systemd's own checks; the programs are not installed, so /bin/true stands for them."""

    UNITS = {"trawl-worker@.service": "trawl-worker@default.service", "trawl-monitor.service": "trawl-monitor.service"}

    def check(self, folder: str, name: str, change: Tuple[str, str] = ("", "")) -> Tuple[int, str]:
        text = (DEPLOY / "systemd" / name).read_text().replace(*change)
        text, count = re.subn(r"(?m)^ExecStart=/usr/local/bin/\S+", "ExecStart=/bin/true", text)
        self.assertEqual(count, 1)
        path = Path(folder) / self.UNITS[name]
        path.write_text(text)
        verified = run("systemd-analyze", "verify", "--man=no", path)
        # 10 would be a unit without any hardening.
        secure = run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", path)
        if verified.returncode == 0 and not verified.stdout and secure.returncode != 0:
            return secure.returncode, secure.stdout
        return verified.returncode, verified.stdout

    def test_units_verify_and_are_confined(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in self.UNITS:
                self.assertEqual(self.check(folder, name), (0, ""), name)

    def test_a_wrong_unit_is_found(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for change in (
                ("KillMode=mixed", "KillMod=mixed"),
                ("RestartSec=5", "RestartSec=soon"),
                ("CapabilityBoundingSet=\n", ""),
            ):
                found = self.check(folder, "trawl-worker@.service", (change[0], change[1]))
                self.assertNotEqual(found, (0, ""), change)

    def test_a_drain_has_the_time_it_takes(self) -> None:
        text = (DEPLOY / "systemd" / "trawl-worker@.service").read_text()
        grace, stop = (
            int(re.search(pattern, text).group(1)) for pattern in (r"TRAWL_GRACE=(\d+)", r"TimeoutStopSec=(\d+)")
        )
        self.assertGreaterEqual(stop, grace + 30)


class ScriptsTest(unittest.TestCase):
    SLURM = DEPLOY / "slurm" / "workers.sbatch"
    # Drains for a moment on the first SIGTERM, ends at once on the second; says what it heard.
    WORKER = """#!/bin/bash
echo "$*" >"$SAID/arguments"; touch "$SAID/up"; heard=0
trap 'heard=$((heard + 1)); echo "$heard" >"$SAID/heard"' TERM
while [ "$heard" -lt "${UNTIL:-1}" ]; do read -r -t 0.05 _ <>"$SAID/pipe"; [ ! -e "$SAID/die" ] || exit "$(cat "$SAID/die")"; done
exit 0
"""

    def test_scripts_are_sound(self) -> None:
        scripts = [self.SLURM, COMPOSE / "up", DEPLOY / "docker" / "healthy"]
        done = run("shellcheck", "--severity=warning", *scripts)
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        for script in scripts:
            self.assertEqual(run("bash", "-n", script).returncode, 0, script)
        with tempfile.TemporaryDirectory() as folder:
            broken = Path(folder) / "broken"
            broken.write_text(self.SLURM.read_text().replace('wait "$worker"', "wait $wroker"))
            self.assertNotEqual(run("shellcheck", "--severity=warning", broken).returncode, 0)

    def slurm(self, **environment: str) -> Tuple[subprocess.Popen, Path]:
        """The script with programs of ours in place of Slurm's and trawl's, once its worker runs."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        said = Path(folder.name)
        os.mkfifo(said / "pipe")
        (said / "bin").mkdir()
        for name, text in (
            ("trawl-worker", self.WORKER),
            ("scontrol", '#!/bin/bash\necho "$*" >"$SAID/scontrol"\n'),
            (
                "trawl",
                '#!/bin/bash\necho "$*" >"$SAID/watched"\nwhile [ ! -e "$SAID/complete" ]; do read -r -t 0.05 _ <>"$SAID/pipe"; done\nexit 0\n',
            ),
        ):
            (said / "bin" / name).write_text(text)
            (said / "bin" / name).chmod(0o755)
        env = {
            "PATH": f"{said}/bin:{os.environ['PATH']}",
            "HOME": str(said),
            "SAID": str(said),
            "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_CPUS_PER_TASK": "16",
        }
        process = subprocess.Popen(
            ["bash", str(self.SLURM)],
            env={**env, **environment},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(lambda: process.poll() is None and os.killpg(process.pid, signal.SIGKILL))
        self.until(lambda: (said / "up").exists(), process)
        return process, said

    def until(self, condition, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            self.assertIsNone(process.poll(), "it ended early")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_before_the_time_limit_a_worker_drains_and_goes_back_into_the_queue(self) -> None:
        process, said = self.slurm()
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(process.wait(DEADLINE_SECONDS), 0)
        self.assertEqual((said / "scontrol").read_text(), "requeue 7_3\n")
        self.assertIn("--queue gpu --device cuda:0 --grace 120 --threads 16", (said / "arguments").read_text())

    def test_a_cancelled_worker_hurries_and_stays_away(self) -> None:
        process, said = self.slurm(UNTIL="2", TRAWL_HURRY_SECONDS="1")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(DEADLINE_SECONDS), 0)
        self.assertEqual((said / "heard").read_text(), "2\n")
        self.assertFalse((said / "scontrol").exists())

    def test_the_end_of_the_job_ends_the_worker(self) -> None:
        process, said = self.slurm(TRAWL_JOB="job-1")
        self.until(lambda: (said / "watched").exists(), process)
        (said / "complete").touch()
        self.assertEqual(process.wait(DEADLINE_SECONDS), 0)
        self.assertEqual((said / "watched").read_text(), "watch job-1\n")
        self.assertFalse((said / "scontrol").exists())

    def test_a_worker_that_fails_goes_elsewhere_and_a_wrong_call_does_not(self) -> None:
        for code, restarts, expected, back in (
            ("5", "0", 0, True),
            ("137", "0", 0, True),
            ("2", "0", 2, False),
            ("5", "50", 1, False),
        ):
            process, said = self.slurm(SLURM_RESTART_COUNT=restarts)
            (said / "code").write_text(code)
            (said / "code").rename(said / "die")
            self.assertEqual((process.wait(DEADLINE_SECONDS), (said / "scontrol").exists()), (expected, back), code)


if __name__ == "__main__":
    unittest.main()
