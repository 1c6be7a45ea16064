#!/usr/bin/env python3
"""Gathers what `cargo bench` and `trawl-worker bench` measured: one JSON document, and a table for people.

    stages.py TARGET_DIR --out results.json [--pillow PYTHON] [--model m.pt --images DIR]...

Criterion leaves its estimates in TARGET_DIR/criterion; with models given, `trawl-worker bench` is run for each of them; with a
Python that has Pillow, its resizes are timed beside ours.
Standard library only. Ends with 1 if a measurement is missing.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

# A whole run of a slow model over some thousand images on two cores.
RUN_SECONDS = 1800


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", action="append", default=[], help="a bundle to bench; may be repeated")
    parser.add_argument("--images", help="images for the whole runs; without them the runs are only predicted")
    parser.add_argument("--pillow", metavar="PYTHON", help="a Python with Pillow, whose resizes are timed too")
    args = parser.parse_args()
    results = {"machine": machine(), "stages": stages(args.target / "criterion"), "runs": []}
    if not results["stages"]:
        print(f"stages: no estimates below {args.target}/criterion; run `cargo bench` first", file=sys.stderr)
        return 1
    if args.pillow:
        timed = subprocess.run([args.pillow, "-B", str(Path(__file__).with_name("pillow_resize.py"))], stdout=subprocess.PIPE, check=True)
        results["pillow"] = json.loads(timed.stdout)
    for model in args.model:
        results["runs"].append(run(args.target, model, args.images))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    print(f"\nresults: {args.out}")
    return 0


def machine() -> dict:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
    }


def stages(criterion: Path) -> list:
    found = []
    for estimates in sorted(criterion.glob("*/*/new/estimates.json")):
        group, name = estimates.parts[-4:-2]
        if group == "report":
            continue
        median = json.loads(estimates.read_text())["median"]
        bench = json.loads((estimates.parent / "benchmark.json").read_text())
        elements = (bench.get("throughput") or {}).get("Elements", 1)
        found.append(
            {
                "group": group,
                "name": name,
                "ns_an_element": median["point_estimate"] / elements,
                "low": median["confidence_interval"]["lower_bound"] / elements,
                "high": median["confidence_interval"]["upper_bound"] / elements,
            }
        )
    return found


def run(target: Path, model: str, images: str) -> dict:
    command = [str(target / "release/trawl-worker"), "bench", "--output", "json", "--model", model]
    if images:
        command += ["--images", images]
    ended = subprocess.run(command, stdout=subprocess.PIPE, timeout=RUN_SECONDS, check=True)
    return {"command": command[1:], **json.loads(ended.stdout)}


def table(results: dict) -> str:
    here = results["machine"]
    lines = [
        f"{here['cpu']}, {here['cores']} cores, load {here['load']:.1f} at the end",
        "",
        "| what | one core, us | a second |",
        "| --- | ---: | ---: |",
    ]
    for stage in results["stages"]:
        us = stage["ns_an_element"] / 1e3
        lines.append(f"| {stage['group']} {stage['name']} | {us:.1f} | {1e6 / us:,.0f} |")
    if "pillow" in results:
        ours = {stage["name"]: stage["ns_an_element"] / 1e3 for stage in results["stages"] if stage["group"] == "resize"}
        lines += ["", f"| resize, one core | us | Pillow {results['pillow']['pillow']} us | |", "| --- | ---: | ---: | ---: |"]
        lines += [f"| {name} | {ours[name]:.0f} | {us:.0f} | {us / ours[name]:.1f}x |" for name, us in results["pillow"]["us"].items() if name in ours]
    if results["runs"]:
        lines += ["", "| model | decode/s | forward/s | predicted/s | run/s | of predicted |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for one in results["runs"]:
        predicted = one["predicted"]
        alone = {name: stage["images_per_second"] for name, stage in predicted["stages"].items()}
        ran = one.get("run") or {}
        shown = [f"{alone['decode']:.0f}", f"{alone['forward']:.1f}", f"{predicted['images_per_second']:.1f}"]
        shown += [f"{ran['images_per_second']:.1f}", f"{ran['of_predicted']:.0%}"] if ran else ["", ""]
        lines.append(f"| {one['model']} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
