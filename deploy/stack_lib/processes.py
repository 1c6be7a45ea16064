"""Starts servers that outlive this script, finds them again, ends them, and never ends anybody else's.

Every server gets `TRAWL_STACK=<folder>` and `TRAWL_STACK_SERVICE=<name>` in its environment, which its
children inherit: epmd, which detaches itself, is found by that too. A recorded pid counts only while its
start time is the recorded one, so a recycled pid is never signalled.
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Optional, Sequence

MARK = "TRAWL_STACK"
MARK_SERVICE = "TRAWL_STACK_SERVICE"
POLL_SECONDS = 0.05
# After SIGKILL only the kernel's own work is left.
KILL_SECONDS = 10.0


def spawn(argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> subprocess.Popen:
    """Starts `argv` in its own session with its output appended to `log`; it survives this process."""
    with open(log, "ab") as out:
        return subprocess.Popen(
            list(argv), env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def environment(folder: Path, service: str, home: Path) -> Dict[str, str]:
    """A server's environment: nothing of the caller's but where programs are, so that nothing leaks in."""
    home.mkdir(parents=True, exist_ok=True)
    # Erlang, Debian's wrappers and pip put programs in these, and cron or a container may not name them.
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path.lstrip(":"), "HOME": str(home), "LANG": "C.UTF-8", MARK: str(folder), MARK_SERVICE: service}


def start_time(pid: int) -> Optional[int]:
    """When `pid` started, in clock ticks since boot; None when there is no such process or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is the program's name in brackets and may hold anything, brackets too.
    fields = stat[stat.rfind(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(pid: int, started: Optional[int]) -> bool:
    """Whether `pid` is still the process that started at `started`."""
    return started is not None and start_time(pid) == started


def of_stack(folder: Path, service: Optional[str] = None) -> List[int]:
    """The running processes of the stack in `folder`, or of one of its services."""
    wanted = {f"{MARK}={folder}".encode()}
    if service is not None:
        wanted.add(f"{MARK_SERVICE}={service}".encode())
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # Another user's, or just gone.
        if wanted.issubset(variables) and start_time(int(entry)) is not None:
            found.append(int(entry))
    return found


def send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def end(folder: Path, service: Optional[str], recorded: Mapping[int, int], grace_seconds: float) -> None:
    """Ends what `of_stack` finds and the `recorded` pids (pid: start time) that still are the same process.

    SIGTERM to the recorded ones and up to `grace_seconds` for them; then SIGKILL to all, until none is left.
    """
    ours = lambda: {pid for pid, started in recorded.items() if alive(pid, started)}  # noqa: E731
    if grace_seconds > 0:
        send(ours(), signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while ours() and time.monotonic() < deadline:
            _reap()
            time.sleep(POLL_SECONDS)
    deadline = time.monotonic() + KILL_SECONDS
    while True:
        left = ours() | set(of_stack(folder, service))
        if not left:
            return
        if time.monotonic() > deadline:
            raise OSError(f"processes {sorted(left)} of {folder} do not end after SIGKILL")
        send(left, signal.SIGKILL)
        _reap()
        time.sleep(POLL_SECONDS)


def _reap() -> None:
    """Collects ended children of this process, so that they do not stay as zombies while it runs."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
