"""A private Azure Blob Storage: Azurite, with an account of its own, checked signatures, and a container."""

import base64
import datetime
import hashlib
import hmac
import http.client
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Tuple

from .failure import StackFailure
from .ports import HOST
from .processes import environment

NAME = "azure"
PORTS = ("blob",)
GRACE_SECONDS = 10.0
ACCOUNT = "trawltest"
CONTAINER = "trawl"
API_VERSION = "2021-08-06"


def find_programs() -> Dict[str, str]:
    """`TRAWL_AZURITE`, then what `make setup` installed in this checkout, then the search path."""
    named = os.environ.get("TRAWL_AZURITE")
    installed = Path(__file__).resolve().parents[2] / ".azurite" / "node_modules" / ".bin" / "azurite-blob"
    for candidate in (named, str(installed), shutil.which("azurite-blob")):
        if candidate and os.access(candidate, os.X_OK):
            return {"server": os.path.abspath(candidate)}
        if candidate and candidate == named:
            raise StackFailure(f"TRAWL_AZURITE is {named}, which cannot be run: correct it or unset it", 2)
    raise StackFailure("`azurite-blob` is not installed: run `make setup`, or set TRAWL_AZURITE", 2)


def prepare(folder: Path, here: Path, record: Dict[str, Any]) -> List[Tuple[List[str], Dict[str, str]]]:
    (here / "data").mkdir(parents=True, exist_ok=True)
    env = environment(folder, NAME, here / "home")
    env["AZURITE_ACCOUNTS"] = f"{ACCOUNT}:{record['key']}"
    argv = [
        find_programs()["server"], "--blobHost", HOST, "--blobPort", str(record["ports"]["blob"]),
        "--location", "data", "--silent", "--skipApiVersionCheck", "--disableTelemetry",
    ]  # fmt: skip
    return [(argv, env)]


def ready(record: Dict[str, Any], _here: Path) -> str:
    """Empty when the container is there."""
    try:
        status, answer = make_container(record)
    except (OSError, http.client.HTTPException) as e:
        return f"the port does not answer ({e})"
    return "" if status in (201, 409) else f"making the container gave {status}: {answer[:200]!r}"


def make_container(record: Dict[str, Any]) -> Tuple[int, bytes]:
    """One request with a shared key's signature."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": now, "x-ms-version": API_VERSION}
    # The path begins with the account, as emulators have it, and the resource with the account again.
    path = f"/{ACCOUNT}/{CONTAINER}"
    canonical = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = "PUT" + "\n" * 12 + canonical + f"/{ACCOUNT}{path}\nrestype:container"
    digest = hmac.new(base64.b64decode(record["key"]), text.encode(), hashlib.sha256).digest()
    headers["authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    connection = http.client.HTTPConnection(HOST, record["ports"]["blob"], timeout=5)
    try:
        connection.request("PUT", f"{path}?restype=container", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def server_pid(_here: Path, spawned: int) -> int:
    return spawned


def clean(_record: Dict[str, Any]) -> None:
    """Nothing outside its folder."""


def log_files(_here: Path, output: Path) -> List[Path]:
    return [output]


def credentials(token) -> Dict[str, str]:
    return {"key": base64.b64encode(token(32).encode()).decode()}


def exports(record: Dict[str, Any]) -> List[Tuple[str, str]]:
    return [
        ("AZURITE_BLOB_STORAGE_URL", f"http://{HOST}:{record['ports']['blob']}"),
        ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
        ("AZURE_STORAGE_ACCOUNT_KEY", record["key"]),
    ]
