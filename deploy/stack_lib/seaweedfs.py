"""A private S3 server: SeaweedFS in one process, with a bucket, checked signatures and conditional writes."""

import contextlib
import datetime
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

from .failure import StackFailure
from .ports import HOST
from .processes import environment

NAME = "s3"
PORTS = ("s3", "s3_grpc", "master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "admin", "admin_grpc")
GRACE_SECONDS = 10.0
BUCKET = "trawl"
REGION = "us-east-1"
PROBE_KEY = ".stack-probe"
# Not in every build, and a build without one refuses to start when it is given. The catalogue servers have
# fixed ports unless switched off, which would keep two stacks from running on one machine.
WHEN_KNOWN = {
    "-s3.port.iceberg": "0",
    "-s3.port.lance": "0",
    "-admin.ui": "false",
    "-webdav": "false",
    "-master.telemetry": "false",
    "-volume.preStopSeconds": "0",
    # Relative to the server's folder: a socket's path may have 107 bytes.
    "-filer.localSocket": "filer.sock",
    "-s3.localSocket": "s3.sock",
}


def find_programs() -> Dict[str, str]:
    """`TRAWL_WEED`, then what `make setup` installed in this checkout, then the search path."""
    named = os.environ.get("TRAWL_WEED")
    installed = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "weed"
    for candidate in (named, str(installed), shutil.which("weed")):
        if candidate and os.access(candidate, os.X_OK):
            return {"server": os.path.abspath(candidate)}
        if candidate and candidate == named:
            raise StackFailure(f"TRAWL_WEED is {named}, which cannot be run: correct it or unset it", 2)
    raise StackFailure("SeaweedFS's `weed` is not installed: run `make setup`, or set TRAWL_WEED", 2)


def prepare(folder: Path, here: Path, record: Dict[str, Any]) -> List[Tuple[List[str], Dict[str, str]]]:
    weed = find_programs()["server"]
    (here / "data").mkdir(parents=True, exist_ok=True)
    identity = {
        "name": "trawl",
        "credentials": [{"accessKey": record["access_key"], "secretKey": record["secret_key"]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    conf = here / "s3.json"
    conf.touch(mode=0o600)
    conf.write_text(json.dumps({"identities": [identity]}), encoding="ascii")
    env = environment(folder, NAME, here / "home")
    argv = [weed, "-v", "0", "mini", "-dir=data", f"-ip={HOST}", f"-ip.bind={HOST}"]
    known = _known_flags(weed, env)
    for name in PORTS:
        flag = "-" + name.replace("_grpc", "").replace("_", ".") + ".port" + (".grpc" if name.endswith("_grpc") else "")
        if flag in known:
            argv.append(f"{flag}={record['ports'][name]}")
    argv += [f"{flag}={value}" for flag, value in WHEN_KNOWN.items() if flag in known]
    argv += ["-s3.config=s3.json", f"-bucket={BUCKET}"]
    return [(argv, env)]


def _known_flags(weed: str, env: Dict[str, str]) -> Set[str]:
    try:
        answer = subprocess.run([weed, "help", "mini"], env=env, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise StackFailure(f"{weed} cannot be run ({e}): run `make setup`", 2)
    known = set(re.findall(r"^\s+(-[\w.]+)", answer.stdout + answer.stderr, flags=re.MULTILINE))
    if "-s3.port" not in known:
        raise StackFailure(f"{weed} has no `mini` command: it is too old, run `make setup` for the pinned one", 2)
    return known


def ready(record: Dict[str, Any], _here: Path) -> str:
    """Empty when an object can be written to and removed from the bucket: listening comes well before that."""
    try:
        for method, body, expected in (("PUT", b"ready", (200,)), ("DELETE", b"", (200, 204))):
            status, answer = signed(record, method, f"/{BUCKET}/{PROBE_KEY}", body)
            if status not in expected:
                return f"{method} {BUCKET}/{PROBE_KEY} gave {status}: {answer[:200]!r}"
    except (OSError, http.client.HTTPException) as e:
        return f"the port does not answer ({e})"
    return ""


def signed(record: Dict[str, Any], method: str, path: str, body: bytes) -> Tuple[int, bytes]:
    """One request with an AWS signature, version 4."""
    host = f"{HOST}:{record['ports']['s3']}"
    now = datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    names = ";".join(headers)
    canonical = "\n".join([method, path, "", *(f"{k}:{v}" for k, v in headers.items()), "", names, digest])
    scope = f"{day}/{REGION}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + record["secret_key"].encode()
    for part in (day, REGION, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={record['access_key']}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    connection = http.client.HTTPConnection(HOST, record["ports"]["s3"], timeout=5)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def server_pid(_here: Path, spawned: int) -> int:
    return spawned


def clean(record: Dict[str, Any]) -> None:
    """Removes the sockets for which the server has fixed paths; it leaves them behind when it is killed."""
    for role in ("master", "volume", "filer", "s3", "admin"):
        with contextlib.suppress(OSError):
            os.unlink(f"/tmp/seaweedfs-{role}-grpc-{record['ports'][role + '_grpc']}.sock")


def log_files(_here: Path, output: Path) -> List[Path]:
    return [output]


def credentials(token) -> Dict[str, str]:
    return {"access_key": "TRAWL" + token(10).upper(), "secret_key": token(30)}


def exports(record: Dict[str, Any]) -> List[Tuple[str, str]]:
    return [
        ("AWS_ENDPOINT_URL", f"http://{HOST}:{record['ports']['s3']}"),
        ("AWS_ACCESS_KEY_ID", record["access_key"]),
        ("AWS_SECRET_ACCESS_KEY", record["secret_key"]),
        ("AWS_REGION", REGION),
    ]
