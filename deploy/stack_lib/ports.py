"""Free ports on the loopback address, held until the server that gets them starts.

Ports come from below the kernel's ephemeral range. Inside it, a client that keeps connecting to a
stopped server can be given the server's own port as its source port and connect to itself: the
port is then taken and the server cannot come back, which is just what outage tests do.
"""

import random
import socket
from typing import Dict, List, Sequence

HOST = "127.0.0.1"
LOWEST = 10_000
# Below this many candidates the range is not worth searching; the kernel chooses instead.
FEWEST_CANDIDATES = 1_000
ATTEMPTS = 200


class HeldPorts:
    """Named ports, bound but not listening, so that nobody else gets them; `release` just before use."""

    def __init__(self, names: Sequence[str]) -> None:
        self._sockets: List[socket.socket] = []
        self.by_name: Dict[str, int] = {}
        for name in names:
            held = _bind_free()
            self._sockets.append(held)
            self.by_name[name] = held.getsockname()[1]

    def release(self) -> None:
        for held in self._sockets:
            held.close()
        self._sockets.clear()


def all_free(ports: Sequence[int]) -> bool:
    """Whether a server could listen on every one of `ports` now."""
    for port in ports:
        with socket.socket() as probe:
            # What servers do too: a port whose last connections are in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                return False
    return True


def _bind_free() -> socket.socket:
    highest = _ephemeral_low() - 1
    if highest - LOWEST >= FEWEST_CANDIDATES:
        for _ in range(ATTEMPTS):
            held = _try_bind(random.randint(LOWEST, highest))
            if held is not None:
                return held
    held = _try_bind(0)
    if held is None:
        raise OSError("no free port on 127.0.0.1")
    return held


def _try_bind(port: int):
    held = socket.socket()
    try:
        held.bind((HOST, port))
    except OSError:
        held.close()
        return None
    return held


def _ephemeral_low() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
            return int(f.read().split()[0])
    except (OSError, ValueError, IndexError):
        return LOWEST
