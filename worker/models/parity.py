#!/usr/bin/env python3
"""Holds trawl's answers to Python's: torchvision, timm, Hugging Face and the demo's model on 200 drawn images.

    make parity                                        (installs torch, torchvision, timm and transformers, about 2 GB)
    python worker/models/parity.py --programs target/debug --work /tmp/parity

Each model gets random weights, is exported, and is run by `trawl-worker run`. The reference is the library's own model and its own
transforms on Pillow's images, in single precision. Prints a line a model: the images whose first class is the same, and the
largest difference of any probability of any class. Exit code 1 if a first class differs or a difference is above 1e-3.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "golden"))
from make_golden import picture  # noqa: E402

ALLOWED = 1e-3
SEED = 7
# Photos that a last layer is centred on, and the deviation that its logits get.
SAMPLE = 16
SPREAD = 2.0


class Case(NamedTuple):
    name: str
    export: List[str]  # arguments of export.py; empty for a bundle that is there
    bundle: Path
    prepare: Callable[[Image.Image], Any]  # a PIL image to [3, H, W]
    model: Callable[[Any], Any]  # [N, 3, H, W] to logits


def main() -> int:
    args = _parser().parse_args()
    warnings.filterwarnings("ignore")
    work = Path(args.work)
    photos = work / "photos"
    draw(photos, args.images)
    worst = 0
    for case in _cases(work, args):
        if case.export:
            subprocess.run([sys.executable, "-B", str(HERE / "export.py"), *case.export, "--out", str(case.bundle)], check=True, stderr=subprocess.DEVNULL)
        ours = _ours(args, case, photos, work / f"out-{case.name}")
        worst |= _compare(case, photos, ours)
    return worst


def draw(folder: Path, count: int) -> None:
    """Photos by the look of their sizes and formats, with every kind of picture that the golden tests know."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    for i in range(count):
        size = int(rng.integers(60, 700)), int(rng.integers(60, 700))
        im = picture(*size, i).rotate(int(rng.integers(0, 4)) * 90)
        base = Image.new("RGB", im.size, tuple(int(v) for v in rng.integers(0, 256, 3)))
        im = Image.blend(im, base, float(rng.uniform(0, 0.8)))
        kind = ("jpg", "jpg", "png", "webp")[i % 4]
        path = folder / f"{i:04}.{kind}"
        if not path.exists():
            im.save(path, quality=int(rng.integers(60, 96))) if kind != "png" else im.save(path)


def _cases(work: Path, args: argparse.Namespace) -> Iterator[Case]:
    import timm
    import torch
    import torchvision
    import transformers

    transformers.logging.set_verbosity_error()

    sample = [Image.open(path).convert("RGB") for path in sorted((work / "photos").iterdir())[:SAMPLE]]

    def spread(model: Any, prepare: Callable[[Image.Image], Any], answer: Callable[[Any], Any]) -> Any:
        """Random weights give one answer to everything: a last layer that is centred and scaled on some of the photos tells
        images, and mistakes, apart."""
        last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
        with torch.no_grad():
            for centre in (True, False):
                given = torch.stack([answer(prepare(im)[None])[0] for im in sample])
                if centre:
                    last.bias -= given.mean(0)
                else:
                    last.weight *= SPREAD / given.std()
                    last.bias *= SPREAD / given.std()
        return model

    def logits(model: Any) -> Callable[[Any], Any]:
        return lambda x: model(x).logits

    for name in args.torchvision:
        torch.manual_seed(SEED)
        preset, file = torchvision.models.get_model_weights(name)["DEFAULT"].transforms(), work / f"{name}.pth"
        model = torchvision.models.get_model(name, weights=None).eval()
        torch.save(spread(model, preset, model).state_dict(), file)
        yield Case(f"torchvision-{name}", [f"torchvision:{name}", "--weights", str(file)], work / f"{name}.pt", preset, model)
    for name in args.timm:
        torch.manual_seed(SEED)
        model, file = timm.create_model(name, pretrained=False).eval(), work / f"{name}.pth"
        transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model), is_training=False)
        torch.save(spread(model, transform, model).state_dict(), file)
        yield Case(f"timm-{name}", [f"timm:{name}", "--weights", str(file)], work / f"timm-{name}.pt", transform, model)
    for kind in args.huggingface:
        torch.manual_seed(SEED)
        config = transformers.AutoConfig.for_model(kind, num_labels=50)
        model, folder = transformers.AutoModelForImageClassification.from_config(config).eval(), work / f"hf-{kind}"
        listed = transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES[kind]
        processor = getattr(transformers, listed["pil"] if isinstance(listed, dict) else listed[0])()
        processor.save_pretrained(folder)
        prepare = lambda im, p=processor: p(im, return_tensors="pt")["pixel_values"][0]
        spread(model, prepare, logits(model)).save_pretrained(folder)
        yield Case(f"huggingface-{kind}", [f"hf:{folder}"], work / f"hf-{kind}.pt", prepare, logits(model))
    lite0 = Path(args.lite0)
    if lite0.exists():
        extra = {"trawl.json": ""}
        model = torch.jit.load(str(lite0), _extra_files=extra)
        given = json.loads(extra["trawl.json"])["input"]
        transform = torchvision.transforms.Compose([
            torchvision.transforms.Resize(given["resize"], torchvision.transforms.InterpolationMode(given["interpolation"])),
            torchvision.transforms.CenterCrop(given["crop"]),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize(given["mean"], given["std"]),
        ])
        yield Case("efficientnet-lite0", [], lite0, transform, model)


def _ours(args: argparse.Namespace, case: Case, photos: Path, out: Path) -> Dict[str, Dict[int, float]]:
    """Every probability by name of the photo and class, from trawl."""
    programs = Path(args.programs)
    run = [str(programs / "trawl-worker"), "run", str(photos), "--model", str(case.bundle), "--out", str(out), "--topk", "1000", "--output", "json"]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    printed = subprocess.run([str(programs / "trawl"), "results", str(out), "--output", "json"], check=True, stdout=subprocess.PIPE)
    rows = [json.loads(line) for line in io.BytesIO(printed.stdout)]
    return {os.path.basename(row["key"]): {c["idx"]: c["prob"] for c in row["topk"]} for row in rows}


def _compare(case: Case, photos: Path, ours: Dict[str, Dict[int, float]]) -> int:
    import torch

    same, worst, first = 0, 0.0, set()
    names = sorted(path.name for path in photos.iterdir())
    with torch.no_grad():
        for name in names:
            x = case.prepare(Image.open(photos / name).convert("RGB"))
            theirs = torch.softmax(case.model(x[None]), 1)[0].double().numpy()
            got = np.zeros_like(theirs)
            for index, probability in ours[name].items():
                got[index] = probability
            same += int(got.argmax() == theirs.argmax())
            first.add(int(theirs.argmax()))
            worst = max(worst, float(np.abs(got - theirs).max()))
    print(f"{case.name:32} {same} of {len(names)} with the same first class ({len(first)} different ones), max |dp| {worst:.1e}", flush=True)
    return int(same != len(names) or worst > ALLOWED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default="target/debug", help="the folder of trawl and trawl-worker")
    parser.add_argument("--work", default=".parity/work", help="a folder for models, photos and outputs")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--lite0", default=".demo/efficientnet-lite0.pt", help="the demo's model; left out if it is not there")
    parser.add_argument("--torchvision", nargs="*", default=["resnet18"])
    parser.add_argument("--timm", nargs="*", default=["convnext_atto", "mobilenetv3_small_050"])
    parser.add_argument("--huggingface", nargs="*", default=["vit"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
