"""What a tree of processes takes, memory and processor time, looked at from the side in /proc.

Used by `run.py` for trawl and for every peer alike, and by a peer that is run alone for itself. It looks as often as a
fixed small share of one core allows, so a large tree is looked at less often and nobody is slowed more than another.

RSS counts a page once for each process that maps it, so tools of many processes look larger than they are; PSS shares
such a page out and adds up to what the machine really gives. Both are kept.
"""

import os
import threading
import time
from typing import Dict, List, NamedTuple, Optional

# Of one core, for each of the two ways to look.
SHARE = 0.02
SHORTEST_SECONDS, LONGEST_SECONDS = 0.05, 0.25
# The kernel walks every page for it; a tree of many processes takes tens of milliseconds.
LONGEST_PSS_SECONDS = 1.0
# If the looks at PSS saw a smaller share of the peak of RSS than this, they missed the peak, and none is given.
PEAK_SEEN = 0.9
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    """A process, as /proc/PID/stat has it."""

    pid: int
    parent: int
    cpu_s: float
    # Since the machine's start, as CLOCK_BOOTTIME.
    started_s: float
    rss_bytes: int


def read_stat(pid: object) -> Optional[Stat]:
    """None if there is no such process any more."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            text = f.read()
    except OSError:
        return None
    # The second field is the name in brackets, which may hold spaces and brackets; the rest is numbers.
    rest = text.rpartition(")")[2].split()
    parent, user, system, started, pages = (int(rest[i]) for i in (1, 11, 12, 19, 21))
    return Stat(int(text.split(" ", 1)[0]), parent, (user + system) / TICKS_A_SECOND, started / TICKS_A_SECOND, pages * PAGE_BYTES)


def descendants(root: int) -> List[Stat]:
    """Children of `root`, theirs, and so on."""
    children: Dict[int, List[Stat]] = {}
    for stat in map(read_stat, filter(str.isdigit, os.listdir("/proc"))):
        if stat:
            children.setdefault(stat.parent, []).append(stat)
    found, parents = [], [root]
    while parents:
        below = children.pop(parents.pop(), [])
        found += below
        parents += [stat.pid for stat in below]
    return found


class TreeSampler(threading.Thread):
    """Samples from its start to `stop()`. `itself` says whether `root` belongs to what is measured."""

    def __init__(self, root: int, itself: bool) -> None:
        super().__init__(daemon=True, name="sampler")
        self.peak_rss_bytes = 0
        self.processes = 0
        self._peak_pss_bytes = self._rss_bytes_beside = 0
        self._root, self._itself = root, itself
        self._cpu: Dict[tuple, float] = {}
        self._done = threading.Event()

    def stop(self) -> None:
        """Takes the last sample and ends the thread."""
        self._done.set()
        self.join()

    def cpu_seconds(self) -> float:
        """User and system time over every process ever seen, each as it was last seen."""
        return sum(self._cpu.values())

    def peak_pss_bytes(self, peak_rss_bytes: int) -> Optional[int]:
        """None if the looks missed the moment of the peak, as in a run of less than a second."""
        return self._peak_pss_bytes if self._rss_bytes_beside >= PEAK_SEEN * peak_rss_bytes else None

    def run(self) -> None:
        pss_due, pause = 0.0, 0.0
        while True:
            last = self._done.wait(pause)
            before = time.thread_time()
            tree = self._look()
            looked = time.thread_time()
            pause = min(max((looked - before) / SHARE, SHORTEST_SECONDS), LONGEST_SECONDS)
            if time.monotonic() >= pss_due:
                self._look_at_pss(tree)
                pss_due = time.monotonic() + min((time.thread_time() - looked) / SHARE, LONGEST_PSS_SECONDS)
            if last:
                return

    def _look(self) -> List[Stat]:
        own = read_stat(self._root) if self._itself else None
        tree = ([own] if own else []) + descendants(self._root)
        for stat in tree:
            # A pid may be used again; with its start it names one process.
            self._cpu[stat.pid, stat.started_s] = stat.cpu_s
        self.processes = max(self.processes, len(tree))
        self.peak_rss_bytes = max(self.peak_rss_bytes, sum(stat.rss_bytes for stat in tree))
        return tree

    def _look_at_pss(self, tree: List[Stat]) -> None:
        self._peak_pss_bytes = max(self._peak_pss_bytes, sum(_pss_bytes(stat.pid) for stat in tree))
        self._rss_bytes_beside = max(self._rss_bytes_beside, sum(stat.rss_bytes for stat in tree))


def _pss_bytes(pid: int) -> int:
    """0 if it is gone, or somebody else's."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
            return next((int(line.split()[1]) << 10 for line in f if line.startswith("Pss:")), 0)
    except OSError:
        return 0
