#!/usr/bin/env python3
"""Compares two outputs over the same images: how often the first class is the same, and how far probabilities are apart.

    .venv/bin/python bench/agreement.py OUT_EXACT OUT_FAST [--at-least 0.99]

For `--decode fast` against `exact`, a GPU against a CPU, one precision against another. Prints one JSON line. Ends
with 1 if the outputs have other images, or agree on less than --at-least.
"""

import argparse
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, nargs=2)
    parser.add_argument("--at-least", type=float, default=0.0, help="share of equal first classes")
    args = parser.parse_args()
    one, other = (rows(out) for out in args.outputs)
    if one.keys() != other.keys():
        print(f"agreement: {len(one.keys() ^ other.keys())} images are in one output only", file=sys.stderr)
        return 1
    result = compare(one, other)
    print(json.dumps(result))
    return 0 if result["same_top1"] >= args.at_least else 1


def rows(out: Path) -> dict:
    """The classes of each image that has any, by key, the most probable first."""
    found = {}
    for part in sorted(out.glob("part-*.parquet")):
        for row in pq.read_table(part, columns=["key", "status", "topk"]).to_pylist():
            if row["topk"]:
                found[row["key"]] = {one["idx"]: one["prob"] for one in row["topk"]}
    return found


def compare(one: dict, other: dict) -> dict:
    same, apart = 0, 0.0
    for key, mine in one.items():
        theirs = other[key]
        same += next(iter(mine)) == next(iter(theirs))
        # Only classes that both kept can be compared; the rest are less probable than all of these.
        apart = max([apart] + [abs(mine[i] - theirs[i]) for i in mine.keys() & theirs.keys()])
    images = len(one)
    return {"images": images, "same_top1": same / images if images else 1.0, "max_abs_dp": apart}


if __name__ == "__main__":
    sys.exit(main())
