#!/usr/bin/env python3
"""Runs trawl and its peers in turn over the same images with the same model file, and prints a table.

    run.py --images corpus/small --model models/lite0.pt --limit 600 --rounds 3 --tuned

Each round runs every contestant once, each round beginning with another one. Everything is measured from outside by the
same sampler; see README.md for what the columns mean. The table goes to stdout, progress to stderr, everything that was
seen to the JSON file. Ends with 1 if a run failed, ran out of time or lacks a row.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

import common
import machine
import table
from contestants import PEERS, Contestant, contestants
from measure import measure

HERE = Path(__file__).resolve().parent
# The one whose answers the others' are compared with: Pillow's pixels and torch's own forward pass.
REFERENCE = "torch"

Runs = Dict[str, List[Dict[str, Any]]]


def main() -> int:
    args = _parser().parse_args()
    if not args.images.is_dir() or not args.model.is_file():
        raise SystemExit(f"run: {args.images} is no folder or {args.model} no file: make them with corpus.py and models.py")
    images = common.list_images(str(args.images), args.limit)
    if not images:
        raise SystemExit(f"run: {args.images} has no {' or '.join(common.EXTENSIONS)} files: make them with corpus.py")
    field = contestants(args.peers, args.tuned, args.trawl)
    before = {
        "machine": machine.describe(),
        "versions": machine.versions(args.trawl if "trawl" in args.peers else None),
        "model": {"path": str(args.model), "sha256": hashlib.sha256(args.model.read_bytes()).hexdigest()},
        # Also what brings every file into the page cache, so that nobody is the first to read it.
        "images": {"path": str(args.images), "count": len(images), "bytes": sum(len(Path(p).read_bytes()) for p in images)},
        "arguments": sys.argv[1:],
    }
    runs, answers = _rounds(field, args, len(images))
    # Where torch has no answers, the first who has.
    reference = next((name for name in (REFERENCE, *answers) if answers.get(name)), REFERENCE)
    shares = {name: table.top1_share(found, answers.get(reference, {})) for name, found in answers.items()}
    good = {name: [run for run in done if not run["problem"]] for name, done in runs.items()}
    rows = {name: table.medians(done) for name, done in good.items() if done}
    problems = [f"{name}: {run['problem']}" for name, done in runs.items() for run in done if run["problem"]]
    after = {"runs": runs, "medians": rows, "top1_of": reference, "top1_share": shares, "problems": problems}
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps({**before, **after}, indent=2) + "\n", encoding="utf-8")
    print(f"### {args.model.stem}, {len(images)} images, median of {args.rounds} round(s)\n")
    print(table.markdown(rows) + "\n")
    for name, share in shares.items():
        if name != reference and share is not None:
            print(f"- {name}: the same class as {reference} for {share:.2%} of the images")
    loads = [run["load_before"][0] for done in runs.values() for run in done]
    print(f"- load average before the runs: {min(loads):.1f} to {max(loads):.1f}, median {statistics.median(loads):.1f}")
    print(f"- everything that was measured: {args.results}\n", flush=True)
    for problem in problems:
        print(f"run: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _rounds(field: List[Contestant], args: argparse.Namespace, expected: int) -> tuple:
    """Every run of every contestant, and each one's answers of its last good run."""
    runs: Runs = {contestant.name: [] for contestant in field}
    answers: Dict[str, Dict[str, int]] = {contestant.name: {} for contestant in field}
    # Short: Ray puts sockets below it, whose paths may have 107 bytes.
    scratch = tempfile.mkdtemp(prefix="peers-")
    try:
        for number in range(args.rounds):
            turn = number % len(field)
            for contestant in field[turn:] + field[:turn]:
                run = _one(contestant, args, expected, scratch)
                found = run.pop("answers")
                runs[contestant.name].append({"round": number + 1, **run})
                answers[contestant.name] = found if not run["problem"] else answers[contestant.name]
                said = run["problem"] or f"{run['seconds']:.1f} s, {run['cpu_s']:.1f} CPU s, load before {run['load_before'][0]:.1f}"
                print(f"run: round {number + 1} of {args.rounds}, {contestant.name}: {said}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return runs, answers


def _one(contestant: Contestant, args: argparse.Namespace, expected: int, scratch: str) -> Dict[str, Any]:
    """One run, its answers and what is wrong with it, if anything is."""
    out = Path(scratch) / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = contestant.command(str(args.images), str(args.model), str(out), expected, args.batch)
    environment = {**os.environ, **contestant.environment, "TMPDIR": scratch, "RAY_TMPDIR": scratch}
    measured = measure(command, environment, args.timeout)
    run: Dict[str, Any] = {"command": command, "environment": contestant.environment, "answers": {}, **measured.as_dict()}
    if measured.timed_out:
        return {**run, "problem": f"not done after {args.timeout} s"}
    if measured.status != 0:
        said = measured.last_words.splitlines() or ["it said nothing"]
        return {**run, "problem": f"ended with status {measured.status}: {said[-1]}"}
    try:
        run.update(contestant.report(measured, out))
        run["answers"] = contestant.answers(out)
    except (OSError, ValueError, KeyError) as e:
        return {**run, "problem": f"its output cannot be read: {e!r}"}
    rows = run["images"] = len(run["answers"])
    return {**run, "problem": None if rows == expected else f"{rows} images have an answer, {expected} were expected"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="a folder of corpus.py")
    parser.add_argument("--model", type=Path, required=True, metavar="M.pt", help="a file of models.py")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the first so many images (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--peers", type=lambda text: text.split(","), default=list(PEERS), help=f"default: {','.join(PEERS)}")
    parser.add_argument("--tuned", action="store_true", help="the peers a second time, with glibc's allocator set as trawl sets it")
    parser.add_argument("--batch", type=int, default=32, help="images in a forward pass of the peers; trawl chooses (default: 32)")
    default = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parents[1] / "target") / "release" / "trawl-worker"
    parser.add_argument("--trawl", type=Path, default=default, help="the program (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds a run (default: 900)")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parser.add_argument("--results", type=Path, default=HERE / "out" / f"{stamp}.json", metavar="FILE.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
