"""A process that takes the stack down when another process ends, however it ends.

A test that is killed cannot clean up; this does it. It holds no lock while it waits and costs no CPU where the
kernel has pidfd (5.3 and later).
"""

import os
import select
import sys
import time
from pathlib import Path

from . import processes
from .failure import StackFailure

NAME = "watchdog"
POLL_SECONDS = 0.5
# The stack may be taken down by hand while the parent lives: the folder is looked at this often.
FOLDER_SECONDS = 2.0


def start(script: Path, folder: Path, parent: int) -> None:
    """Starts the watchdog; `script` is this program, whose `watch` command runs it."""
    started = processes.start_time(parent)
    if started is None:
        raise StackFailure(f"there is no process {parent} to watch (--parent-pid)", 2)
    env = processes.environment(folder, NAME, folder / NAME)
    argv = [sys.executable, str(script), "watch", "--dir", str(folder), "--parent-pid", str(parent)]
    watcher = processes.spawn([*argv, "--parent-started", str(started)], env, folder, folder / "logs" / "watchdog.log")
    # Never waited for: it lives on when this process ends.
    watcher.returncode = 0


def wait_for_end(folder: Path, parent: int, started: int) -> bool:
    """True when the parent has ended; False when the stack is gone before that."""
    state = folder / "state.json"
    while processes.alive(parent, started):
        if not _ended_within(parent, FOLDER_SECONDS) and not state.exists():
            return False
    return True


def _ended_within(pid: int, seconds: float) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):
        time.sleep(min(seconds, POLL_SECONDS))
        return False
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def stop(folder: Path) -> None:
    processes.end(folder, NAME, {}, grace_seconds=0)
