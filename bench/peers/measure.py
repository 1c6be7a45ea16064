"""Runs one command and measures it from outside: wall clock, the tree's memory and processor time, its last words.

Nothing that it started outlives a run: what is orphaned comes to this process, is counted with the rest, and is ended.
"""

import ctypes
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Optional, Tuple

from tree import TreeSampler, descendants

# After the command itself has ended: for daemons of its own that are just leaving.
LEAVE_SECONDS = 10.0
# After SIGKILL: a core dump or a slow disk may hold a process this long.
KILLED_SECONDS = 30.0
LAST_WORDS_BYTES = 4000
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Measured:
    """What was seen of one run."""

    # As time.time().
    started: float
    wall_s: float
    # As subprocess has it: negative for a signal.
    status: int
    timed_out: bool
    cpu_s: float
    peak_rss_mb: float
    # None if the looks missed the peak, as in a very short run.
    peak_pss_mb: Optional[float]
    processes: int
    load_before: Tuple[float, float, float]
    stdout: str
    last_words: str

    def as_dict(self) -> Dict[str, Any]:
        """For the results file; what it printed only if it failed."""
        left_out = ("stdout",) if self.status else ("stdout", "last_words")
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def measure(command: List[str], environment: Dict[str, str], timeout_s: float) -> Measured:
    """Runs it to its end, or ends it and all of its tree after `timeout_s`."""
    # Orphans become our children instead of init's, so that they stay in the tree.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    load, used_before = os.getloadavg(), _reaped_cpu_seconds()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        sampler = TreeSampler(os.getpid(), itself=False)
        started, begun, patience = time.time(), time.monotonic(), 0.0
        child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        try:
            sampler.start()
            timed_out, largest_bytes = _wait(child, timeout_s)
            wall = time.monotonic() - begun
            patience = 0.0 if timed_out else LEAVE_SECONDS
        finally:
            # Also when somebody interrupts this.
            child.kill()
            _end_tree(patience)
        sampler.stop()
        # Each misses something: the one a process' last moments, the other what a parent let the kernel reap.
        cpu = max(sampler.cpu_seconds(), _reaped_cpu_seconds() - used_before)
        # The kernel's own maximum of one process: exact for a tool of one, however short.
        rss_bytes = max(sampler.peak_rss_bytes, largest_bytes)
        pss_bytes = sampler.peak_pss_bytes(rss_bytes)
        stdout.seek(0)
        stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
        return Measured(
            started=started, wall_s=round(wall, 3), status=child.returncode, timed_out=timed_out, cpu_s=round(cpu, 2),
            peak_rss_mb=round(rss_bytes / 1e6, 1), peak_pss_mb=pss_bytes and round(pss_bytes / 1e6, 1),
            processes=sampler.processes, load_before=load,
            stdout=stdout.read().decode(errors="replace"), last_words=stderr.read().decode(errors="replace").strip(),
        )  # fmt: skip


def _wait(child: "subprocess.Popen[bytes]", timeout_s: float) -> Tuple[bool, int]:
    """Whether it was killed for being late, and the largest RSS that one process of it had, in bytes."""
    # A wait with a limit would poll, and be up to 50 ms late.
    late = threading.Event()
    clock = threading.Timer(timeout_s, lambda: (late.set(), os.kill(child.pid, signal.SIGKILL)))
    clock.daemon = True
    clock.start()
    try:
        # Not reaped yet: while the clock runs, the pid names this process and no other.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    finally:
        clock.cancel()
        clock.join()
    _pid, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return late.is_set(), usage.ru_maxrss << 10


def _reaped_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _end_tree(patience_s: float) -> None:
    """Waits for what the command left behind, then kills it, until nothing is left."""
    deadline = time.monotonic() + patience_s
    while left := [stat.pid for stat in descendants(os.getpid())]:
        if time.monotonic() >= deadline + KILLED_SECONDS:
            raise OSError(f"the processes {left} cannot be killed: end them before the next run")
        if time.monotonic() >= deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            pass
        time.sleep(0.02)
