"""What the three peers share: arguments, the recipe for pixels, the clock and the JSON line at the end.

Nothing here decodes, batches or runs a model; each peer does that as its own documentation shows it.
"""

import argparse
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List

from tree import TreeSampler, read_stat

EXTENSIONS = (".jpg", ".jpeg")
COLUMNS = ("path", "class_index", "label", "score")


def arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of JPEGs")
    parser.add_argument("--model", required=True, metavar="M.pt", help="a file of models.py")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the Parquet goes; must not exist")
    parser.add_argument("--limit", type=int, default=0, help="take the first so many images (default: all)")
    parser.add_argument("--batch", type=int, default=32, help="images in one forward pass (default: 32)")
    parser.add_argument("--unsampled", action="store_true", help="somebody else measures memory and processor time")
    args = parser.parse_args()
    args.images, args.model, args.out = (os.path.abspath(path) for path in (args.images, args.model, args.out))
    if os.path.exists(args.out):
        parser.error(f"{args.out} exists: remove it, or choose another --out")
    return args


def list_images(folder: str, limit: int) -> List[str]:
    """Full paths in the byte order of their names, as trawl lists a folder."""
    names = sorted((n for n in os.listdir(folder) if n.lower().endswith(EXTENSIONS)), key=os.fsencode)
    return [os.path.join(folder, name) for name in (names[:limit] if limit else names)]


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


# ---- the model's own description


def labels(model: str) -> List[str]:
    return _extra(model, "labels.json")


def transform(model: str) -> Callable[[Any], Any]:
    """torchvision's transforms for this model: an RGB picture in, a tensor out."""
    from torchvision import transforms

    spec = _extra(model, "preprocess.json")
    return transforms.Compose([
        transforms.Resize(spec["resize"], transforms.InterpolationMode(spec["interpolation"]), antialias=spec["antialias"]),
        transforms.CenterCrop(spec["crop"]),
        transforms.ToTensor(),
        transforms.Normalize(spec["mean"], spec["std"]),
    ])


def _extra(model: str, name: str) -> Any:
    with zipfile.ZipFile(model) as archive:
        for member in archive.namelist():
            if member.endswith(f"/extra/{name}"):
                return json.loads(archive.read(member))
    raise SystemExit(f"{model} has no {name} inside: make it with models.py")


# ---- the clock


def since_start() -> float:
    """Seconds since the kernel started this process: what was imported before counts."""
    own = read_stat("self")
    assert own is not None, "this process is there"
    return time.clock_gettime(time.CLOCK_BOOTTIME) - own.started_s


def mark_ready(out: str) -> None:
    """Called where the model was just loaded, in whichever process that is."""
    with open(f"{out}.ready", "a", encoding="ascii") as f:
        f.write(f"{time.clock_gettime(time.CLOCK_BOOTTIME)}\n")


class Run:
    """One run of a peer: from before its heavy imports to its line."""

    def __init__(self, peer: str, args: argparse.Namespace) -> None:
        self._peer, self._out = peer, args.out
        Path(f"{self._out}.ready").unlink(missing_ok=True)
        self._sampler = None if args.unsampled else TreeSampler(os.getpid(), itself=True)
        if self._sampler:
            self._sampler.start()

    def finish(self) -> None:
        """Call right after the Parquet was written; prints the line. Reading it back is not counted."""
        now, seconds = time.clock_gettime(time.CLOCK_BOOTTIME), since_start()
        line: Dict[str, Any] = {"peer": self._peer, "seconds": round(seconds, 3)}
        marks = Path(f"{self._out}.ready").read_text(encoding="ascii").split()
        Path(f"{self._out}.ready").unlink()
        line["ready_s"] = round(seconds - (now - max(map(float, marks))), 3)
        if self._sampler:
            self._sampler.stop()
            line["cpu_s"] = round(self._sampler.cpu_seconds(), 2)
            line["peak_rss_mb"] = round(self._sampler.peak_rss_bytes / 1e6)
            pss_bytes = self._sampler.peak_pss_bytes(self._sampler.peak_rss_bytes)
            line["peak_pss_mb"] = pss_bytes and round(pss_bytes / 1e6)
            line["processes"] = self._sampler.processes
        line["images"] = _rows(self._out)
        line["images_per_s"] = round(line["images"] / seconds, 2)
        print(json.dumps(line), flush=True)


def _rows(out: str) -> int:
    """Rows with an answer."""
    import pyarrow.dataset

    answers = pyarrow.dataset.dataset(out, format="parquet").to_table(columns=["class_index"])["class_index"]
    return len(answers) - answers.null_count
