"""A private RabbitMQ: one node, its own epmd, management and prometheus plugins, on the loopback address only.

The server script is called directly. The one in /usr/sbin changes to the user `rabbitmq` and uses the system's
folders.
"""

import base64
import glob
import os
import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Tuple

from .failure import StackFailure
from .ports import HOST
from .processes import environment

NAME = "rabbitmq"
PORTS = ("amqp", "management", "prometheus", "distribution", "epmd", "amqps")
# A node that must write its queues' state down; SIGKILL afterwards loses nothing that was confirmed.
GRACE_SECONDS = 20.0
SCRIPTS = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server",
    "/opt/rabbitmq/sbin/rabbitmq-server",
)
CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {prometheus}
default_user = {user}
default_pass = {password}
loopback_users = none
log.console = false
log.file.level = info
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
collect_statistics_interval = 1000
"""
# Clients must show a certificate of the same CA.
TLS_CONFIGURATION = """\
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {tls}/ca.pem
ssl_options.certfile = {tls}/server.pem
ssl_options.keyfile = {tls}/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""
# No busy waiting: a test machine has few cores and several nodes.
ERLANG = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"


def find_programs() -> Dict[str, str]:
    # The version is in the folder's name; the last one in order is the newest.
    scripts = [path for pattern in SCRIPTS for path in sorted(glob.glob(pattern))]
    if not scripts:
        raise StackFailure(f"RabbitMQ is not installed (looked for {SCRIPTS[0]}): run `make setup`", 2)
    epmds = [shutil.which("epmd"), "/usr/lib/erlang/bin/epmd", "/usr/local/lib/erlang/bin/epmd"]
    epmd = next((path for path in epmds if path and os.access(path, os.X_OK)), None)
    if epmd is None:
        raise StackFailure("Erlang's epmd is not installed: run `make setup`", 2)
    return {"server": scripts[-1], "epmd": epmd}


def prepare(folder: Path, here: Path, record: Dict[str, Any]) -> List[Tuple[List[str], Dict[str, str]]]:
    """Writes the node's files; returns what to start, epmd first."""
    programs = find_programs()
    ports = record["ports"]
    for name in ("mnesia", "log", "home"):
        (here / name).mkdir(parents=True, exist_ok=True)
    conf = here / "rabbitmq.conf"
    conf.touch(mode=0o600)
    text = CONFIGURATION.format(user=record["user"], password=record["password"], **ports)
    if record.get("tls"):
        text += TLS_CONFIGURATION.format(port=ports["amqps"], tls=record["tls"])
    conf.write_text(text, encoding="ascii")
    (here / "enabled_plugins").write_text("[rabbitmq_management,rabbitmq_prometheus].\n", encoding="ascii")
    cookie = here / "home" / ".erlang.cookie"
    if not cookie.exists():
        cookie.touch(mode=0o600)
        cookie.write_text(record["cookie"], encoding="ascii")
        cookie.chmod(0o400)
    # A pid file of the last run would be taken for this run's.
    (here / "pid").unlink(missing_ok=True)
    env = environment(folder, NAME, here / "home")
    env.update(
        # The name is part of the data's path, and each node has an epmd of its own: it need not be unique.
        RABBITMQ_NODENAME="trawl@localhost",
        RABBITMQ_MNESIA_BASE=str(here / "mnesia"),
        RABBITMQ_LOG_BASE=str(here / "log"),
        RABBITMQ_CONFIG_FILE=str(conf),
        RABBITMQ_ENABLED_PLUGINS_FILE=str(here / "enabled_plugins"),
        RABBITMQ_CONF_ENV_FILE="/dev/null",
        RABBITMQ_PID_FILE=str(here / "pid"),
        RABBITMQ_NODE_PORT=str(ports["amqp"]),
        RABBITMQ_DIST_PORT=str(ports["distribution"]),
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=ERLANG,
        ERL_EPMD_PORT=str(ports["epmd"]),
        ERL_EPMD_ADDRESS=HOST,
    )
    # Left to itself the node starts an epmd that detaches; this one is ours from the start.
    epmd = [programs["epmd"], "-port", str(ports["epmd"]), "-address", HOST]
    return [(epmd, env), ([programs["server"]], env)]


def control(folder: Path, here: Path, record: Dict[str, Any], arguments: List[str]) -> Tuple[List[str], Dict[str, str]]:
    """`rabbitmqctl` for this node: what to run, and its environment."""
    program = Path(find_programs()["server"]).with_name("rabbitmqctl")
    env = environment(folder, NAME, here / "home")
    env.update(
        RABBITMQ_NODENAME="trawl@localhost",
        RABBITMQ_CONF_ENV_FILE="/dev/null",
        ERL_EPMD_PORT=str(record["ports"]["epmd"]),
    )
    return [str(program), *arguments], env


def ready(record: Dict[str, Any], _here: Path) -> str:
    """Empty when the node takes AMQP connections and its API answers; else what is missing."""
    try:
        with socket.create_connection((HOST, record["ports"]["amqp"]), timeout=2) as connection:
            connection.sendall(PROTOCOL_HEADER)
            answer = connection.recv(11)
    except OSError as e:
        return f"the AMQP port does not answer ({e})"
    # A method frame on channel 0 whose method is connection.start (10, 10).
    if len(answer) < 11 or answer[0] != 1 or answer[7:11] != b"\x00\x0a\x00\x0a":
        return f"the AMQP port gave {answer!r} in place of connection.start"
    token = base64.b64encode(f"{record['user']}:{record['password']}".encode()).decode()
    request = urllib.request.Request(
        f"http://{HOST}:{record['ports']['management']}/api/overview", headers={"Authorization": f"Basic {token}"}
    )
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5):
            return ""
    except (OSError, urllib.error.HTTPError) as e:
        return f"the management API does not answer ({e})"


def server_pid(here: Path, spawned: int) -> int:
    """The Erlang machine's pid, which a test may kill; the spawned one is the shell script around it."""
    try:
        return int((here / "pid").read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return spawned


def clean(_record: Dict[str, Any]) -> None:
    """Nothing of it is outside its folder."""


def log_files(here: Path, output: Path) -> List[Path]:
    return [output, *sorted((here / "log").glob("trawl@localhost*.log"))]


def credentials(token) -> Dict[str, str]:
    return {"user": "trawl", "password": token(24), "cookie": token(24)}


def exports(record: Dict[str, Any]) -> List[Tuple[str, str]]:
    login = f"{record['user']}:{record['password']}@{HOST}"
    found = [
        ("TRAWL_AMQP_URL", f"amqp://{login}:{record['ports']['amqp']}/%2f"),
        ("RABBITMQ_MANAGEMENT_URL", f"http://{login}:{record['ports']['management']}"),
    ]
    if record.get("tls"):
        found.append(("STACK_AMQPS_URL", f"amqps://{login}:{record['ports']['amqps']}/%2f"))
    return found
