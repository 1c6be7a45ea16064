"""Fetches the wheels that `wheels.txt` pins into a cache, through pip and its configured index alone.

A file is given out only after its SHA-256 was compared with the pin: in the cache, after the download, always.
What is in the cache is whole, because a download is renamed into it; what was cut off is fetched again.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List

PINS = Path(__file__).resolve().with_name("wheels.txt")
# pip retries single requests; this is for downloads that break off in the middle.
ATTEMPTS = 3
# glibc versions whose wheels run wherever this project does, as pip wants them: one by one.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]


class WheelFailure(Exception):
    """A wheel that cannot be had, with what to do."""


@dataclass(frozen=True)
class Wheel:
    """One line of `wheels.txt`."""

    use: str
    package: str
    version: str
    megabytes: int
    sha256: str
    file: str


def pinned(use: str) -> List[Wheel]:
    """The wheels for `use`, in the file's order."""
    lines = [line.split() for line in PINS.read_text(encoding="ascii").splitlines() if line and line[0] != "#"]
    return [Wheel(f[0], f[1], f[2], int(f[3]), f[4], f[5]) for f in lines if f[0] == use]


def cache() -> Path:
    """The folder for downloads: the user's cache, or the checkout's own where there is no usable home."""
    home = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("HOME") and os.path.join(os.environ["HOME"], ".cache"))
    for candidate in ([Path(home) / "trawl"] if home else []) + [PINS.parent.parent / ".cache"]:
        try:
            (candidate / "wheels").mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(candidate / "wheels", os.W_OK):
            return candidate
    raise WheelFailure("there is no folder for downloads: set XDG_CACHE_HOME to one that can be written to")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Keeps two checkouts from fetching or unpacking the same thing at once."""
    with open(cache() / f"{name}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch(wheel: Wheel) -> Path:
    """The verified wheel's path. Downloads it when the cache has none or a wrong one."""
    target = cache() / "wheels" / wheel.file
    with locked(wheel.package):
        if target.exists() and digest(target) == wheel.sha256:
            return target
        _download(wheel, target)
    return target


def digest(path: Path) -> str:
    """The file's SHA-256 in hex."""
    total = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def _download(wheel: Wheel, target: Path) -> None:
    say(f"downloading {wheel.package} {wheel.version} ({wheel.megabytes} MB) to {target.parent}")
    reason, prefix = "", f".partial-{wheel.package}-"
    # A run that was killed leaves these; the lock says that nobody writes to them.
    for left in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    for _ in range(ATTEMPTS):
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as partial:
            reason = _pip_download(wheel, partial)
            found = Path(partial) / wheel.file
            if not reason and not found.exists():
                reason = f"the index gave {os.listdir(partial)} in place of {wheel.file}"
            if reason:
                if "No matching distribution" in reason:
                    break
                continue
            got = digest(found)
            if got != wheel.sha256:
                raise WheelFailure(
                    f"{wheel.file} from the index has SHA-256 {got}, pinned is {wheel.sha256}: do not use it; "
                    "look at the pip configuration (`pip config list`)"
                )
            os.replace(found, target)
            return
    raise WheelFailure(
        f"cannot download {wheel.package} {wheel.version} ({wheel.megabytes} MB): {reason}\n"
        f"Check the network and `pip config list`, or put {wheel.file} into {target.parent} by hand."
    )


def _pip_download(wheel: Wheel, folder: str) -> str:
    """Empty when pip succeeded, else its last error line."""
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--only-binary=:all:"]
    argv += [arg for platform in PLATFORMS for arg in ("--platform", platform)]
    # Whatever Python runs this: one wheel, one checksum.
    argv += ["--python-version", "311", "--implementation", "cp", "--abi", "cp311", "--dest", folder]
    if not sys.stderr.isatty():
        argv.append("--quiet")
    done = subprocess.run(
        [*argv, f"{wheel.package}=={wheel.version}"], stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode == 0:
        return ""
    # An index's address can hold a password.
    text = re.sub(r"://[^/@\s]*@", "://", done.stderr)
    errors = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()
    return errors[-1] if errors else f"pip ended with status {done.returncode}"


def say(text: str) -> None:
    """A line of progress."""
    print(f"setup: {text}", file=sys.stderr, flush=True)
