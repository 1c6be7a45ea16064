#!/usr/bin/env python3
"""Prints RabbitMQ's definitions with the hashes of passwords that stand in files, for the node's start or its API.

usage: definitions.py --passwords DIR [--lane NAME]...

DIR holds one file a user, named like the user (`trawl-worker`, ...), with the password in it. A user without a
file gets no password and cannot log in. `--lane` adds the two queues of a lane beside those of `default`:
then KEDA can look at it before a worker ran, and a producer may be denied the right to declare queues.
"""

import argparse
import base64
import copy
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Dict

sys.dont_write_bytecode = True
DEFINITIONS = Path(__file__).resolve().with_name("definitions.json")
SALT_BYTES = 4
LANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--passwords", type=Path, required=True, metavar="DIR", help="one file a user")
    parser.add_argument(
        "--lane", action="append", default=[], metavar="NAME", help="a lane beside `default`; repeatable"
    )
    args = parser.parse_args()
    definitions = json.loads(DEFINITIONS.read_text(encoding="utf-8"))
    try:
        for lane in args.lane:
            add_lane(definitions, lane)
        for user in definitions["users"]:
            user["password_hash"] = password_hash(args.passwords / user["name"])
    except (OSError, ValueError) as e:
        print(f"definitions: {e}", file=sys.stderr)
        return 2
    if not any(user["password_hash"] for user in definitions["users"]):
        names = ", ".join(user["name"] for user in definitions["users"])
        print(f"definitions: {args.passwords} has no file named {names}: nobody could log in", file=sys.stderr)
        return 2
    json.dump(definitions, sys.stdout, indent=2)
    print()
    return 0


def password_hash(path: Path) -> str:
    """RabbitMQ's salted SHA-256 of the file's first line, or nothing where there is no such file."""
    if not path.exists():
        return ""
    password = path.read_text(encoding="utf-8").rstrip("\r\n")
    if not password or "\n" in password:
        raise ValueError(f"{path} holds no password: one line is wanted")
    salt = os.urandom(SALT_BYTES)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode("ascii")


def add_lane(definitions: Dict[str, Any], lane: str) -> None:
    """The queues of `default` once more, under another name."""
    if not LANE.fullmatch(lane) or lane == "dead" or lane.endswith(".retry"):
        raise ValueError(f"`{lane}` is no lane: letters, digits, `_`, `-` and `.`, not `dead` and not `*.retry`")
    work = f"trawl.{lane}"
    known = {queue["name"] for queue in definitions["queues"]}
    for queue in [
        queue for queue in definitions["queues"] if queue["name"] in ("trawl.default", "trawl.default.retry")
    ]:
        made = copy.deepcopy(queue)
        made["name"] = work + (".retry" if queue["name"].endswith(".retry") else "")
        if "x-dead-letter-routing-key" in made["arguments"]:
            made["arguments"]["x-dead-letter-routing-key"] = work
        if made["name"] not in known:
            definitions["queues"].append(made)


if __name__ == "__main__":
    sys.exit(main())
