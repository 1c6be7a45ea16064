"""Starts and stops the services of one folder.

A service's module names its ports, writes its files, says what to run and when it is ready. What is common is
here: the record in `state.json` comes before the process it describes, so that nothing started is ever unknown.
"""

import concurrent.futures
import secrets
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from . import azurite, processes, rabbitmq, redis, seaweedfs
from .failure import StackFailure
from .folder import Folder
from .ports import HeldPorts, all_free

SERVICES = {module.NAME: module for module in (rabbitmq, redis, seaweedfs, azurite)}
# What trawl needs; the others are for tests, and are started when they are named.
USUAL = (rabbitmq.NAME, redis.NAME, seaweedfs.NAME)
DEFAULT_TIMEOUT_SECONDS = 120.0
READY_POLL_SECONDS = 0.1
LOG_TAIL_LINES = 25
IN_USE = ("eaddrinuse", "address already in use", "address in use", "port allocation failed", "duplicate_name")


def start(
    folder: Folder, names: Sequence[str], timeout: float, say: Callable[[str], None], tls: Optional[Path] = None
) -> bool:
    """Starts the `names` that do not run, all at once, and waits until they are ready.

    `tls` is a folder with ca.pem, server.pem and server.key, for TLS ports beside the plain ones.

    Data, passwords and, while they are free, ports are those of the last run. False when all of them ran.
    Call it with the folder's lock held. On a failure the ones started here are stopped again.
    """
    state = folder.read()
    records = state["services"]
    # Before anything is started: a missing program is the reader's next step, not a server's log.
    missing = [name for name in names if not running(folder, name, records.get(name))]
    for name in missing:
        SERVICES[name].find_programs()
    if not missing:
        return False
    recording = threading.Lock()

    def record(name: str, entry: Dict[str, Any]) -> None:
        with recording:
            records[name] = entry
            folder.write(state)

    failures = []
    with concurrent.futures.ThreadPoolExecutor(len(missing)) as pool:
        starts = [pool.submit(_start_one, folder, name, records.get(name), timeout, record, say, tls) for name in missing]
        try:
            for one in starts:
                try:
                    one.result()
                except (StackFailure, OSError) as e:
                    failures.append(e)
        except KeyboardInterrupt:
            # The threads wait for servers; without them they end too.
            for name in missing:
                stop(folder, name, grace=False)
            raise
    if failures:
        for name in missing:
            stop(folder, name, grace=False)
        raise StackFailure("\n".join(str(e) for e in failures))
    folder.write_env([pair for name in SERVICES if name in records for pair in SERVICES[name].exports(records[name])])
    return True


def _start_one(
    folder: Folder, name: str, known: Optional[Dict[str, Any]], timeout: float, record, say, tls: Optional[Path]
) -> None:
    began = time.monotonic()
    module = SERVICES[name]
    entry = known or module.credentials(secrets.token_hex)
    if tls is not None:
        entry["tls"] = str(tls)
    if not set(module.PORTS) <= set(entry.get("ports", {})):
        # Made by a stack that knew fewer ports.
        entry.pop("ports", None)
    # Remains of a run whose server died: its helpers keep ports.
    processes.end(folder.path, name, {}, grace_seconds=0)
    for attempt in (1, 2):
        held = None
        if attempt == 2 or "ports" not in entry or not all_free(list(entry["ports"].values())):
            held = HeldPorts(module.PORTS)
            entry["ports"] = held.by_name
        log = folder.logs / f"{name}.log"
        log_from = log.stat().st_size if log.exists() else 0
        commands = module.prepare(folder.path, folder.service(name), entry)
        if held is not None:
            held.release()
        spawned = [processes.spawn(argv, env, folder.service(name), log) for argv, env in commands]
        server = spawned[-1]
        entry.update(pid=server.pid, start_time=processes.start_time(server.pid))
        record(name, entry)
        problem = _wait_ready(module, folder.service(name), entry, server, timeout)
        if not problem:
            pid = module.server_pid(folder.service(name), server.pid)
            entry.update(pid=pid, start_time=processes.start_time(pid))
            record(name, entry)
            say(f"{name}: ready on port {entry['ports'][module.PORTS[0]]} after {time.monotonic() - began:.1f} s")
            return
        tail = _tail(module.log_files(folder.service(name), log), log, log_from)
        processes.end(folder.path, name, {}, grace_seconds=0)
        if attempt == 1 and server.returncode is not None and any(word in tail.lower() for word in IN_USE):
            say(f"{name}: somebody took one of its ports; trying others")
            continue
        raise StackFailure(f"{name} did not start: {problem}. The end of its log ({log}):\n{tail}")


def _wait_ready(module, here: Path, entry: Dict[str, Any], server: subprocess.Popen, timeout: float) -> str:
    """Empty when ready; else why not."""
    deadline = time.monotonic() + timeout
    while True:
        if server.poll() is not None:
            return f"it ended with status {server.returncode}"
        problem = module.ready(entry, here)
        if not problem:
            return ""
        if time.monotonic() > deadline:
            return f"after {timeout:.0f} s {problem}"
        time.sleep(READY_POLL_SECONDS)


def stop(folder: Folder, name: str, grace: bool) -> None:
    """Ends the service and all that belongs to it; with `grace` by SIGTERM first. Its data and ports stay."""
    entry = folder.read()["services"].get(name, {})
    recorded = {entry["pid"]: entry["start_time"]} if entry.get("start_time") is not None else {}
    processes.end(folder.path, name, recorded, SERVICES[name].GRACE_SECONDS if grace else 0)
    if "ports" in entry:
        SERVICES[name].clean(entry)


def running(folder: Folder, name: str, entry: Optional[Dict[str, Any]]) -> bool:
    """Whether the recorded server process is there; it says nothing of whether it answers."""
    return bool(entry and entry.get("pid") and processes.alive(entry["pid"], entry.get("start_time")))


def answers(folder: Folder, name: str, entry: Dict[str, Any]) -> str:
    """Empty when the service is ready for work; else what is missing."""
    if not running(folder, name, entry):
        return "it does not run"
    return SERVICES[name].ready(entry, folder.service(name))


def _tail(files: List[Path], main: Path, main_from: int) -> str:
    lines: List[str] = []
    for file in files:
        try:
            with open(file, "rb") as f:
                # The output of earlier runs is in the same file and would mislead.
                f.seek(main_from if file == main else 0)
                text = f.read().decode("utf-8", "replace")
        except OSError:
            continue
        lines += [f"  {line}" for line in text.splitlines()[-LOG_TAIL_LINES:]]
    return "\n".join(lines) or "  (empty)"
