"""A private Redis with a password, an append-only file, and nothing but the loopback address."""

import os
import shutil
import socket
from pathlib import Path
from typing import Any, Dict, List, Tuple

from .failure import StackFailure
from .ports import HOST
from .processes import environment

NAME = "redis"
PORTS = ("redis", "rediss")
GRACE_SECONDS = 10.0
PROGRAMS = ("redis-server", "valkey-server")
CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir .
appendonly yes
appendfsync everysec
save ""
daemonize no
set-proc-title no
loglevel notice
"""

# Clients must show a certificate of the same CA.
TLS_CONFIGURATION = """\
tls-port {port}
tls-ca-cert-file "{tls}/ca.pem"
tls-cert-file "{tls}/server.pem"
tls-key-file "{tls}/server.key"
tls-auth-clients yes
"""


def find_programs() -> Dict[str, str]:
    path = os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin"
    for program in PROGRAMS:
        found = shutil.which(program, path=path)
        if found:
            return {"server": found}
    raise StackFailure("redis-server is not installed: run `make setup`", 2)


def prepare(folder: Path, here: Path, record: Dict[str, Any]) -> List[Tuple[List[str], Dict[str, str]]]:
    programs = find_programs()
    here.mkdir(parents=True, exist_ok=True)
    conf = here / "redis.conf"
    conf.touch(mode=0o600)
    # `dir .`: the server is started in its folder, whose path may hold what the file's syntax cannot.
    # No process title: Redis writes it over its environment, by which the stack knows its processes.
    text = CONFIGURATION.format(port=record["ports"]["redis"], password=record["password"])
    if record.get("tls"):
        text += TLS_CONFIGURATION.format(port=record["ports"]["rediss"], tls=record["tls"])
    conf.write_text(text, encoding="ascii")
    return [([programs["server"], "redis.conf"], environment(folder, NAME, here / "home"))]


def ready(record: Dict[str, Any], _here: Path) -> str:
    """Empty when PING is answered: while the append-only file is read, Redis says LOADING."""
    try:
        with socket.create_connection((HOST, record["ports"]["redis"]), timeout=2) as connection:
            connection.sendall(f"AUTH {record['password']}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                chunk = connection.recv(1024)
                if not chunk:
                    break
                answer += chunk
    except OSError as e:
        return f"the port does not answer ({e})"
    return "" if answer == b"+OK\r\n+PONG\r\n" else f"PING gave {answer!r}"


def server_pid(_here: Path, spawned: int) -> int:
    return spawned


def clean(_record: Dict[str, Any]) -> None:
    """Nothing of it is outside its folder."""


def log_files(_here: Path, output: Path) -> List[Path]:
    return [output]


def credentials(token) -> Dict[str, str]:
    return {"password": token(24)}


def exports(record: Dict[str, Any]) -> List[Tuple[str, str]]:
    login = f":{record['password']}@{HOST}"
    found = [("TRAWL_REDIS_URL", f"redis://{login}:{record['ports']['redis']}/0")]
    if record.get("tls"):
        found.append(("STACK_REDISS_URL", f"rediss://{login}:{record['ports']['rediss']}/0"))
    return found
