#!/usr/bin/env python3
"""Holds trawl's answers to PyTorch's for the heads that are no classifier's, and for models of several outputs.

    make parity                                        (after worker/models/parity.py, with the same Python)
    python worker/models/parity_heads.py --programs target/debug --work /tmp/parity

Networks of torchvision's with random weights, wrapped as docs/models.md says: labels, a tuple, a dict, boxes, a map. Each is
exported by export.py in both formats and run by `trawl-worker run` on drawn images; what the rows hold is compared with the
network itself on Pillow's and torchvision's pixels. Prints a line a bundle; exit code 1 if an image differs by more than 1e-3,
of a probability, of the largest number of a tensor, or of an image's longer side.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import torch
import torchvision
from parity import ALLOWED, draw
from PIL import Image
from torch import nn
from torchvision.models.detection.image_list import ImageList

HERE = Path(__file__).resolve().parent
SEED = 7
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# One of a kind that shares so much of the smaller box with a better one is the same thing: from here on it is doubted, and
# another such step on it is gone. A hard limit would make two answers out of a last bit.
OVERLAP, STEP = 0.45, 0.2
# So many that the last is far below the threshold: which of two equal ones is the last, is a matter of a last bit too.
KEEP = 200
# What SSD's own coder holds sizes to: a box of 62 anchors.
LARGEST_LOG = 4.135


class Tags(nn.Module):
    """Labels that do not exclude each other."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torchvision.models.resnet18(weights=None, num_classes=12)

    def forward(self, images: Any) -> Any:
        return self.network(images) * 4


class Pair(nn.Module):
    """Classes and the features behind them, as a tuple or as a dict."""

    def __init__(self, keys: bool) -> None:
        super().__init__()
        self.features = torchvision.models.mobilenet_v3_small(weights=None).features
        self.classifier = nn.Linear(576, 10)
        self.keys = keys

    def forward(self, images: Any) -> Any:
        features = self.features(images).mean((2, 3)) * 1e3
        logits = self.classifier(features)
        return {"features": features, "logits": logits} if self.keys else (features, logits)


class Detector(nn.Module):
    """SSDlite with the boxes of every image in one tensor: `keep` of them, and a score of 0 for what is found twice.

    torchvision's own end of it makes a list an image by operators that libtorch does not have."""

    def __init__(self, side: int, keep: int = KEEP) -> None:
        super().__init__()
        whole = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=8).eval()
        self.backbone, self.head, self.side, self.keep = whole.backbone, whole.head, side, keep
        blank = torch.zeros(1, 3, side, side)
        with torch.no_grad():
            anchors = whole.anchor_generator(ImageList(blank, [(side, side)]), list(self.backbone(blank).values()))[0]
        low, high = anchors.split(2, 1)
        self.register_buffer("centres", (low + high) / 2)
        self.register_buffer("sizes", high - low)
        # Random weights find the same everywhere: centred and scaled on pictures of noise, they tell images apart.
        noise = torch.randn(8, 3, side, side) * torch.linspace(0.2, 2, 8).view(8, 1, 1, 1)
        with torch.no_grad():
            for name, given in self.head(list(self.backbone(noise).values())).items():
                self.register_buffer(f"{name}_mean", given.mean(0))
                self.register_buffer(f"{name}_deviation", given.std(0).mean())

    def forward(self, images: Any) -> Dict[str, Any]:
        out = self.head(list(self.backbone(images).values()))
        spread = lambda name: (out[name] - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_deviation")
        moves, logs = (spread("bbox_regression") / 4).split(2, 2)
        centres, sizes = self.centres + moves * self.sizes, self.sizes * logs.clamp(max=LARGEST_LOG).exp()
        boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], 2).clamp(0, self.side)
        # Class 0 is nothing.
        scores, labels = (2 * spread("cls_logits")).softmax(2)[..., 1:].max(2)
        scores, best = scores.topk(self.keep, 1)
        boxes, labels = boxes.gather(1, best[..., None].expand(-1, -1, 4)), labels.gather(1, best) + 1
        return {"boxes": boxes, "scores": scores * self.trust(boxes, labels), "labels": labels}

    @staticmethod
    def trust(boxes: Any, labels: Any) -> Any:
        """1 where no better box of the same class lies over it, down to 0."""
        low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
        high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
        shared, areas = (high - low).clamp(min=0).prod(3), (boxes[..., 2:] - boxes[..., :2]).prod(2)
        smaller = torch.minimum(areas[:, :, None], areas[:, None]).clamp(min=1e-6)
        same = labels[:, :, None] == labels[:, None]
        return 1 - (((shared / smaller - OVERLAP) / STEP).clamp(0, 1) * same).tril(-1).amax(2)


class Case(NamedTuple):
    build: Callable[[], Any]
    side: int
    spec: Dict[str, Any]


def tags() -> Any:
    return seeded(Tags)


def pair() -> Any:
    return seeded(lambda: Pair(False))


def named_pair() -> Any:
    return seeded(lambda: Pair(True))


def detector() -> Any:
    return seeded(lambda: Detector(320))


def segmenter() -> Any:
    return seeded(lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5))


def seeded(build: Callable[[], Any]) -> Any:
    torch.manual_seed(SEED)
    return build().eval()


def cases() -> Dict[str, Case]:
    names = lambda count: [f"thing {i}" for i in range(count)]
    both = lambda features, logits: {
        "heads": [
            {"name": "species", "head": "classification", "output": logits, "labels": names(10)},
            {"name": "tags", "head": "multi_label", "output": logits, "threshold": 0.6},
            {"name": "look", "head": "embedding", "output": features, "normalize": True},
        ]
    }
    return {
        "tags": Case(tags, 128, {"head": "multi_label", "labels": names(12), "threshold": 0.4}),
        "pair": Case(pair, 96, both(0, 1)),
        "named_pair": Case(named_pair, 96, both("features", "logits")),
        "detector": Case(detector, 320, {"head": "detection", "labels": names(8), "threshold": 0.3, "max_boxes": KEEP}),
        "segmenter": Case(segmenter, 64, {"head": "raw", "output": "out"}),
    }


def main() -> int:
    args = _parser().parse_args()
    warnings.filterwarnings("ignore")
    work = Path(args.work).resolve()
    draw(work / "photos", args.images)
    wrong = 0
    for name, case in cases().items():
        if name not in args.cases:
            continue
        given = {"crop": [case.side] * 2, "resize_mode": "squash", "interpolation": "bilinear", "mean": MEAN, "std": STD}
        spec, file = {**case.spec, "input": given}, work / f"{name}.json"
        file.write_text(json.dumps(spec))
        for ending in args.formats:
            bundle = work / f"{name}.{ending}"
            export = [sys.executable, "-B", "export.py", f"parity_heads:{name}", "--spec", str(file), "--out", str(bundle)]
            subprocess.run(export, check=True, cwd=HERE, stderr=subprocess.DEVNULL)
            wrong |= _compare(bundle.name, case, spec, work / "photos", rows(Path(args.programs), work, bundle))
    return wrong


def rows(programs: Path, work: Path, bundle: Path) -> Dict[str, Any]:
    """Rows by the name of their photo."""
    out = work / f"out-{bundle.name}"
    # Of an earlier run, whose bundle may have been another.
    shutil.rmtree(out, ignore_errors=True)
    run = [str(programs / "trawl-worker"), "run", str(work / "photos"), "--model", str(bundle), "--out", str(out), "--topk", "1000"]
    subprocess.run([*run, "--output", "json"], check=True, stdout=subprocess.DEVNULL)
    printed = subprocess.run([str(programs / "trawl"), "export", str(out), "--to", "jsonl"], check=True, stdout=subprocess.PIPE)
    listed = [json.loads(line) for line in io.BytesIO(printed.stdout)]
    return {os.path.basename(row["key"]): row for row in listed}


def _compare(name: str, case: Case, spec: Dict[str, Any], photos: Path, ours: Dict[str, Any]) -> int:
    prepare = torchvision.transforms.Compose([
        torchvision.transforms.Resize([case.side] * 2, torchvision.transforms.InterpolationMode.BILINEAR),
        torchvision.transforms.ToTensor(),
        torchvision.transforms.Normalize(MEAN, STD),
    ])
    model, same, worst, answers = case.build(), 0, 0.0, set()
    listed = sorted(photos.iterdir())
    with torch.no_grad():
        for path in listed:
            image = Image.open(path).convert("RGB")
            answer = model(prepare(image)[None])
            off = 0.0
            for head in spec.get("heads", [spec]):
                apart, seen = head_apart(head, answer, ours[path.name], image.size, case.side)
                off = max(off, apart)
                answers.add((head.get("name"), seen))
            same += int(off <= ALLOWED)
            worst = max(worst, off)
    print(f"{name:32} {same} of {len(listed)} agree ({len(answers)} different answers), largest difference {worst:.1e}", flush=True)
    return int(same != len(listed))


def head_apart(head: Dict[str, Any], answer: Any, row: Dict[str, Any], size: Tuple[int, int], side: int) -> Tuple[float, Any]:
    """How far a row's head is from the network's answer for one image, and something that tells answers apart."""
    prefix = f"{head['name']}_" if "name" in head else ""
    if head["head"] == "detection":
        return boxes_apart(head, answer, row[prefix + "boxes"], size, side)
    tensor = (answer if "output" not in head else answer[head["output"]])[0].double()
    if head["head"] == "classification":
        given = {c["idx"]: c["prob"] for c in row[prefix + "topk"]}
        wanted = tensor.softmax(0)
        return max(abs(given[i] - p) for i, p in enumerate(wanted.tolist())), int(wanted.argmax())
    if head["head"] == "multi_label":
        given = {c["idx"]: c["prob"] for c in row[prefix + "labels"]}
        wanted = dict(enumerate(tensor.sigmoid().tolist()))
        # A label that is there on one side only was that far from the threshold.
        missing = [abs(p - head["threshold"]) for i, p in wanted.items() if (p >= head["threshold"]) != (i in given)]
        return max([*missing, *(abs(p - wanted[i]) for i, p in given.items()), 0.0]), tuple(sorted(given))
    wanted = tensor.flatten()
    wanted = wanted / wanted.norm() if head.get("normalize") else wanted
    got = torch.tensor(row[prefix + "embedding"], dtype=torch.double)
    if head["head"] == "raw" and row[prefix + "shape"] != list(tensor.shape):
        return float("inf"), None
    return ((got - wanted).abs().max() / wanted.abs().max()).item(), round(wanted.sum().item(), 3)


def boxes_apart(head: Dict[str, Any], answer: Any, given: List[Any], size: Tuple[int, int], side: int) -> Tuple[float, Any]:
    """By the nearest box of the same class, in both directions: scores that are as good as equal have no order."""
    scale = torch.tensor([size[0] / side, size[1] / side] * 2)
    boxes = answer["boxes"][0] * scale
    wanted = [
        (label, score, corners)
        for label, score, corners in zip(answer["labels"][0].tolist(), answer["scores"][0].tolist(), boxes.tolist())
        if score >= head["threshold"] and corners[2] > corners[0] and corners[3] > corners[1]
    ]
    got = [(box["idx"], box["score"], [box["x0"], box["y0"], box["x1"], box["y1"]]) for box in given]

    def far(one: Any, other: Any) -> float:
        corners = max(abs(a - b) for a, b in zip(one[2], other[2])) / max(size)
        return float("inf") if one[0] != other[0] else max(abs(one[1] - other[1]), corners)

    def nearest(one: Any, others: List[Any]) -> float:
        # One that is there on one side only was that far from the threshold.
        return min([far(one, other) for other in others] + [one[1] - head["threshold"]])

    apart = [nearest(one, got) for one in wanted] + [nearest(one, wanted) for one in got]
    return max([*apart, 0.0]), tuple((one[0], *map(round, one[2])) for one in wanted)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default="target/debug", help="the folder of trawl and trawl-worker")
    parser.add_argument("--work", default=".parity/work", help="a folder for models, photos and outputs")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--cases", nargs="*", default=list(cases()), choices=list(cases()))
    parser.add_argument("--formats", nargs="*", default=["pt", "pt2"], choices=("pt", "pt2"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
