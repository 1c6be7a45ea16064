"""The stack's folder: its lock, what is recorded of the servers, and the file that shells source."""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from .failure import StackFailure

STATE_VERSION = 1


class Folder:
    """`path` is absolute. All writing is done under `locked()`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.env_file = self.path / "env"
        self.logs = self.path / "logs"
        self._state = self.path / "state.json"
        self._lock = self.path / "lock"

    def service(self, name: str) -> Path:
        return self.path / name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Waits for other commands on this folder; makes the folder when it is missing."""
        while True:
            try:
                self.logs.mkdir(parents=True, exist_ok=True)
                handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                continue  # A `down` removed the folder between the two calls.
            except OSError as e:
                raise StackFailure(f"cannot write to {self.path} ({e.strerror}): give another folder with --dir", 2)
            fcntl.flock(handle, fcntl.LOCK_EX)
            # A `down` that was ahead may have removed the file this lock is on: it would guard nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(handle).st_ino == os.stat(self._lock).st_ino:
                    break
            os.close(handle)
        try:
            yield
        finally:
            os.close(handle)

    def exists(self) -> bool:
        return self._state.exists()

    def known(self) -> bool:
        """Whether a stack was ever started here, even if nothing came of it."""
        return self.exists() or self._lock.exists()

    def read(self) -> Dict[str, Any]:
        """The recorded state; `{"version", "services": {name: {...}}}` also when nothing is recorded."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"version": STATE_VERSION, "services": {}}
        except ValueError as e:
            raise StackFailure(f"{self._state} is not readable ({e}): remove {self.path} and start again")
        if state.get("version") != STATE_VERSION:
            raise StackFailure(f"{self._state} has version {state.get('version')}, this stack reads {STATE_VERSION}")
        return state

    def write(self, state: Dict[str, Any]) -> None:
        _replace(self._state, json.dumps(state, indent=2, sort_keys=True) + "\n")

    def write_env(self, exports: List[Tuple[str, str]]) -> None:
        _replace(self.env_file, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in exports))

    def remove(self, services: List[str]) -> None:
        """Removes what the stack made and, if nothing else is in it, the folder. Call it with the lock held."""
        for name in services:
            shutil.rmtree(self.service(name), ignore_errors=True)
        shutil.rmtree(self.logs, ignore_errors=True)
        # The lock goes last: until then nobody else can work here.
        for file in (self.env_file, self._state, self._lock):
            with contextlib.suppress(FileNotFoundError):
                file.unlink()
        with contextlib.suppress(OSError):
            self.path.rmdir()


def _replace(path: Path, text: str) -> None:
    """Writes `path` in one step and for its owner alone: both files hold passwords."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(temporary, path)
