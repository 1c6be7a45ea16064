"""bench/peers/measure.py: what it says of a run, and that nothing outlives one."""

import json
import subprocess
import sys
import unittest
from pathlib import Path

PEERS = Path(__file__).resolve().parents[2] / "bench" / "peers"
MEGABYTES = 200
# Each measured program has a parent of its own: a run ends whatever its process has started.
MEASURE = "import sys, json, os, measure; print(json.dumps(measure.measure(sys.argv[2:], dict(os.environ), float(sys.argv[1])).__dict__))"
# Prints the pid of a process that it leaves behind, and perhaps stays itself.
LEAVES = """
import subprocess, sys, time
print(subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


def measured(timeout_s: float, program: str, *args: str) -> dict:
    command = [sys.executable, "-B", "-c", MEASURE, str(timeout_s), sys.executable, "-c", program, *args]
    done = subprocess.run(command, cwd=PEERS, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


class MeasureTest(unittest.TestCase):
    def assert_gone(self, pid: str) -> None:
        self.assertFalse(Path(f"/proc/{int(pid)}").exists(), pid)

    def test_memory_and_time_of_a_short_run(self) -> None:
        # Shorter than the sampler's pause may be.
        run = measured(60, f"x = b'x' * {MEGABYTES * 10**6}; print('done')")
        self.assertEqual((run["status"], run["timed_out"], run["stdout"]), (0, False, "done\n"))
        self.assertGreaterEqual(run["peak_rss_mb"], MEGABYTES)
        self.assertLess(run["peak_rss_mb"], 2 * MEGABYTES)
        self.assertGreater(run["cpu_s"], 0)

    def test_the_whole_tree_is_counted(self) -> None:
        child = f"import time; x = b'x' * {MEGABYTES * 10**6}; time.sleep(1.5)"
        run = measured(60, "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])", child)
        self.assertEqual(run["processes"], 2)
        self.assertGreaterEqual(run["peak_pss_mb"], MEGABYTES)

    def test_what_is_late_is_ended_with_all_that_it_started(self) -> None:
        run = measured(1, LEAVES, "600")
        self.assertTrue(run["timed_out"])
        self.assertEqual(run["status"], -9)
        self.assert_gone(run["stdout"])

    def test_a_failure_keeps_its_last_words(self) -> None:
        run = measured(60, "import sys; print('no such model', file=sys.stderr); sys.exit(3)")
        self.assertEqual((run["status"], run["last_words"]), (3, "no such model"))


if __name__ == "__main__":
    unittest.main()
