"""Who runs, with which command and environment, and how each one's report and answers are read."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List

from measure import Measured

HERE = Path(__file__).resolve().parent
SCRIPTS = {"torch": "torch_dataloader.py", "ray": "ray_data.py", "daft": "daft_udf.py"}
PEERS = ("trawl", *SCRIPTS)
# What worker/src/allocator.rs sets for trawl, in the words that glibc takes from outside. One arena, because others are
# capped at 64 MiB; no mapping below 1 GiB, nothing given back, 64 MiB at a time: else every activation tensor of a
# forward pass is mapped, faulted in and unmapped again.
TUNABLES = {
    "GLIBC_TUNABLES": ":".join((
        "glibc.malloc.arena_max=1",
        f"glibc.malloc.mmap_threshold={1 << 30}",
        f"glibc.malloc.trim_threshold={(1 << 31) - 1}",
        f"glibc.malloc.top_pad={64 << 20}",
    ))
}


@dataclass(frozen=True)
class Contestant:
    """One row of the table."""

    name: str
    # Images, model, out, limit and batch to the command.
    command: Callable[[str, str, str, int, int], List[str]]
    # What it says of itself: at least `seconds` and `ready_s`.
    report: Callable[[Measured, Path], Dict[str, Any]]
    # File name to class, of each image with an answer.
    answers: Callable[[Path], Dict[str, int]]
    environment: Dict[str, str] = field(default_factory=dict)


def contestants(names: List[str], tuned: bool, trawl: Path) -> List[Contestant]:
    """Those named, in the order of the table; the peers twice if `tuned`."""
    for name in names:
        if name not in PEERS:
            raise SystemExit(f"run: there is no peer `{name}`: choose from {', '.join(PEERS)}")
    if "trawl" in names and not trawl.is_file():
        raise SystemExit(f"run: {trawl} is missing: `cargo build --release -p trawl-worker`, or name another with --trawl")
    chosen = [_trawl(trawl)] if "trawl" in names else []
    chosen += [_peer(name, name, {}) for name in SCRIPTS if name in names]
    if tuned:
        chosen += [_peer(f"{name}, tuned", name, TUNABLES) for name in SCRIPTS if name in names]
    return chosen


def _trawl(program: Path) -> Contestant:
    def command(images: str, model: str, out: str, limit: int, _batch: int) -> List[str]:
        run = [str(program), "run", images, "--model", model, "--out", out, "--limit", str(limit)]
        # Pillow's pixels, as the peers', on the processor, as the peers.
        return [*run, "--decode", "exact", "--device", "cpu", "--output", "json"]

    return Contestant("trawl", command, _trawl_report, lambda out: _answers(out, "key", "predicted_class_idx"))


def _trawl_report(measured: Measured, out: Path) -> Dict[str, Any]:
    report = json.loads(measured.stdout)
    # It writes nothing before its model has loaded.
    first = min(path.stat().st_mtime for path in out.rglob("*") if path.is_file())
    return {
        "seconds": measured.wall_s,
        "ready_s": round(first - measured.started, 3),
        "own": {key: report[key] for key in ("seconds", "images_per_second", "threads", "stages")},
    }


def _peer(name: str, peer: str, environment: Dict[str, str]) -> Contestant:
    def command(images: str, model: str, out: str, limit: int, batch: int) -> List[str]:
        run = [sys.executable, "-B", "-W", "ignore", str(HERE / SCRIPTS[peer]), "--images", images, "--model", model]
        return [*run, "--out", out, "--limit", str(limit), "--batch", str(batch), "--unsampled"]

    def report(measured: Measured, _out: Path) -> Dict[str, Any]:
        line = json.loads(measured.stdout.splitlines()[-1])
        return {"seconds": line["seconds"], "ready_s": line["ready_s"], "own": line}

    return Contestant(name, command, report, lambda out: _answers(out, "path", "class_index"), environment)


def _answers(out: Path, key: str, index: str) -> Dict[str, int]:
    import pyarrow.dataset

    # Not the plan files below _trawl.
    parts = [str(part) for part in sorted(out.glob("*.parquet"))]
    rows = pyarrow.dataset.dataset(parts, format="parquet").to_table(columns=[key, index]).to_pylist()
    answers = {row[key].rsplit("/", 1)[-1]: row[index] for row in rows if row[index] is not None}
    if len(rows) != len({row[key] for row in rows}):
        raise ValueError(f"{len(rows)} rows for {len({row[key] for row in rows})} images")
    return answers
