#!/usr/bin/env python3
"""Makes a model bundle: one file that carries a model, how images are prepared and what its output means.

    export.py torchvision:resnet50 --out resnet50.pt
    export.py torchvision:vit_b_16 --weights IMAGENET1K_SWAG_LINEAR_V1 --out vit.pt
    export.py timm:convnext_tiny.fb_in22k --out convnext.pt
    export.py timm:resnet50 --embedding --out embeddings.pt
    export.py mypackage.models:build --weights state.pt --spec spec.json --out mine.pt
    export.py mypackage.models:build --spec spec.json --out mine.pt2

Categories, sizes, interpolation, mean and standard deviation come from the weights' own description; for your own
module they come from --spec, a JSON file as trawl.json in the bundle. The model is traced and frozen (.pt, TorchScript:
faster, and for CUDA) or exported (.pt2, torch.export: what PyTorch goes on with; CPU only), saved, loaded again and
compared with the original at several batch sizes before the file gets its name.

Needs torch (2.11, as trawl itself), and torchvision or timm for those sources: pip install torch torchvision timm
"""

import argparse
import copy
import importlib
import json
import math
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

SPEC_VERSION = 1
# Not 1, which hides what depends on the batch's size.
TRACE_BATCH = 2
CHECK_BATCHES = (1, 3)
# Far beyond any micro-batch; the graph holds a limit.
MAX_EXPORTED_BATCH = 65_536
# Relative to the largest output: logits reach from 1 to 100, and freezing folds batch norm in single precision.
TOLERANCE = 1e-4
INTERPOLATIONS = {"nearest", "bilinear", "bicubic", "lanczos"}

Spec = Dict[str, Any]


class ExportFailure(Exception):
    """Something to correct, with the next step."""


def main() -> int:
    args = _parser().parse_args()
    try:
        _export(args)
    except ExportFailure as e:
        print(f"export: {e}", file=sys.stderr)
        return 1
    return 0


def _export(args: argparse.Namespace) -> None:
    torch = _need("torch")
    source, _, name = args.source.partition(":")
    if not name:
        raise ExportFailure(f"`{args.source}` is no source: use torchvision:NAME, timm:NAME or module:function")
    if source == "torchvision":
        model, spec = _torchvision(torch, name, args)
    elif source == "timm":
        model, spec = _timm(name, args)
    else:
        model, spec = _own(torch, source, name, args)
    if args.spec and source in ("torchvision", "timm"):
        spec.update(_read_spec(args.spec))
    spec["name"] = args.name or spec.get("name") or name
    _check_spec(spec)
    size, shape = _write(torch, model.eval(), spec, args)
    head = f"{spec['head']}, {len(spec['labels'])} labels" if spec["labels"] else spec["head"]
    print(
        f"{args.out}: {spec['name']} ({head}), input {spec['input']['crop'][0]} x {spec['input']['crop'][1]}, "
        f"output {shape}, {size / 1e6:.1f} MB; check it with `trawl-worker check-model {args.out}`",
        file=sys.stderr,
    )


# ---- sources


def _torchvision(torch: Any, name: str, args: argparse.Namespace) -> Tuple[Any, Spec]:
    models = _need("torchvision").models
    try:
        available = models.get_model_weights(name)
    except ValueError as e:
        raise ExportFailure(f"torchvision has no model `{name}`: see torchvision.models.list_models()") from e
    # `DEFAULT` is an alias and not in the list.
    known = [weights.name for weights in available]
    if args.weights not in (None, "DEFAULT", *known):
        raise ExportFailure(f"torchvision's {name} has no weights `{args.weights}`: there are {', '.join(known)}")
    if not known:
        raise ExportFailure(f"torchvision has no weights for {name}: export it as module:function with --spec")
    weights = available[args.weights or "DEFAULT"]
    preset = weights.transforms()
    missing = [field for field in ("crop_size", "resize_size", "interpolation", "mean", "std") if not hasattr(preset, field)]
    if missing:
        raise ExportFailure(f"{weights} is no image classifier (its transforms have no {', '.join(missing)})")
    crop, resize = _both(preset.crop_size), list(preset.resize_size)
    if len(resize) == 2 and resize[0] != resize[1]:
        raise ExportFailure(f"{weights} resizes to {resize}, trawl resizes to one number: give --spec")
    model = _download(lambda: models.get_model(name, weights=weights), f"the weights {weights}")
    spec = {
        "head": "classification",
        "labels": list(weights.meta.get("categories", [])),
        "input": {
            "crop": crop,
            "resize": int(resize[0]),
            "resize_mode": "shortest" if len(resize) == 1 else "squash",
            "interpolation": str(preset.interpolation.value),
            "mean": list(preset.mean),
            "std": list(preset.std),
        },
    }
    if args.embedding:
        _drop_classifier(torch, model, name)
        spec.update(head="embedding", labels=[])
    return model, spec


def _drop_classifier(torch: Any, model: Any, name: str) -> None:
    """Replaces the last linear layer by nothing: torchvision has three names for it."""
    for attribute in ("fc", "head", "heads", "classifier"):
        head = getattr(model, attribute, None)
        if isinstance(head, torch.nn.Linear):
            setattr(model, attribute, torch.nn.Identity())
            return
        if isinstance(head, torch.nn.Sequential) and isinstance(head[-1], torch.nn.Linear):
            head[-1] = torch.nn.Identity()
            return
    raise ExportFailure(f"the classifier of {name} was not found: export it as module:function, or use timm:{name}")


def _timm(name: str, args: argparse.Namespace) -> Tuple[Any, Spec]:
    timm = _need("timm")
    if name.partition(".")[0] not in timm.list_models():
        raise ExportFailure(f"timm has no model `{name}`: see timm.list_models()")
    if args.weights and os.path.exists(args.weights):
        more: Dict[str, Any] = {"checkpoint_path": args.weights}
    elif args.weights in (None, "DEFAULT"):
        more = {"pretrained": True}
    else:
        raise ExportFailure(f"--weights {args.weights} is no file; for timm the weights are part of the name: timm:NAME.TAG")
    if args.embedding:
        more["num_classes"] = 0
    model = _download(lambda: timm.create_model(name, **more), f"the weights of timm's {name}")
    config = timm.data.resolve_data_config({}, model=model)
    _channels, height, width = config["input_size"]
    # As timm's own evaluation does: the shorter side is scaled by the crop's share, then the centre is cut out.
    if height != width and config.get("crop_mode") != "squash":
        raise ExportFailure(f"timm's {name} takes {height} x {width}, which trawl cannot crop as timm does: give --spec")
    modes = {"center": "shortest", "squash": "squash", "border": "letterbox"}
    mode = config.get("crop_mode") or "center"
    if modes.get(mode) not in ("shortest", "squash"):
        raise ExportFailure(f"timm's {name} crops by `{mode}`, which trawl cannot do as timm does")
    spec = {
        "head": "embedding" if args.embedding else "classification",
        "labels": [] if args.embedding else _timm_labels(timm, model),
        "input": {
            "crop": [height, width],
            "resize": math.floor(min(height, width) / config["crop_pct"]),
            "resize_mode": modes[mode],
            "interpolation": config["interpolation"],
            "mean": list(config["mean"]),
            "std": list(config["std"]),
        },
    }
    return model, spec


def _timm_labels(timm: Any, model: Any) -> List[str]:
    """The names of an ImageNet variant, or of the checkpoint itself; empty when timm does not know them."""
    config = model.pretrained_cfg
    if config.get("label_names"):
        return list(config["label_names"])
    subset = timm.data.infer_imagenet_subset(model)
    if not subset:
        return []
    names = timm.data.ImageNetInfo(subset)
    return [names.index_to_description(i) for i in range(names.num_classes())]


def _own(torch: Any, module: str, function: str, args: argparse.Namespace) -> Tuple[Any, Spec]:
    if not args.spec:
        raise ExportFailure(f"{module}:{function} does not say how its images are prepared: give --spec FILE.json")
    # As `python -m` does: a module of the working directory.
    sys.path.insert(0, os.getcwd())
    try:
        build: Callable[[], Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise ExportFailure(f"`{module}:{function}` cannot be imported: {e}") from e
    model = build()
    if not isinstance(model, torch.nn.Module):
        raise ExportFailure(f"`{module}:{function}` returned {type(model).__name__}, a torch.nn.Module was expected")
    if args.weights:
        try:
            model.load_state_dict(torch.load(args.weights, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, ValueError) as e:
            raise ExportFailure(f"the weights {args.weights} do not fit: {e}") from e
    if args.embedding:
        raise ExportFailure('--embedding is for torchvision and timm; here say "head": "embedding" in the spec')
    return model, _read_spec(args.spec)


# ---- the description


def _read_spec(path: str) -> Spec:
    try:
        spec = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ExportFailure(f"the spec {path} cannot be read: {e}") from e
    if not isinstance(spec, dict):
        raise ExportFailure(f"the spec {path} is no JSON object")
    return spec


def _check_spec(spec: Spec) -> None:
    """What every reader of the bundle would refuse, said here with the names that the writer knows."""
    spec["version"] = SPEC_VERSION
    spec.setdefault("labels", [])
    unknown = set(spec) - {"version", "name", "head", "labels", "input"}
    if unknown:
        raise ExportFailure(f"the spec has unknown keys: {', '.join(sorted(unknown))}")
    if spec.get("head") not in ("classification", "embedding", "raw"):
        raise ExportFailure(f"head is {spec.get('head')!r}: use classification, embedding or raw")
    given = spec.get("input")
    if not isinstance(given, dict):
        raise ExportFailure("the spec has no `input`")
    required = {"crop", "resize_mode", "interpolation", "mean", "std"}
    if required - set(given) or set(given) - required - {"resize"}:
        raise ExportFailure(f"`input` needs {', '.join(sorted(required))} and may have resize; it has {', '.join(sorted(given))}")
    if given["interpolation"] not in INTERPOLATIONS:
        raise ExportFailure(f"interpolation is {given['interpolation']!r}: use one of {', '.join(sorted(INTERPOLATIONS))}")
    if given["resize_mode"] not in ("shortest", "squash", "letterbox"):
        raise ExportFailure(f"resize_mode is {given['resize_mode']!r}: use shortest, squash or letterbox")
    for field, length in (("crop", 2), ("mean", 3), ("std", 3)):
        if not isinstance(given[field], list) or len(given[field]) != length:
            raise ExportFailure(f"`input.{field}` must be a list of {length} numbers, it is {given[field]!r}")


# ---- the file


def _write(torch: Any, model: Any, spec: Spec, args: argparse.Namespace) -> Tuple[int, List[int]]:
    """Exports, saves and checks; returns the file's size and the output's shape for one image."""
    out = Path(args.out)
    if not out.parent.is_dir():
        raise ExportFailure(f"the folder {out.parent} does not exist: make it, or choose another --out")
    height, width = spec["input"]["crop"]
    torch.manual_seed(0)
    # The original stays as it is: tracing and freezing must be compared with something.
    original = copy.deepcopy(model)
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated in Python's torch; libtorch still runs it, and it is what trawl reads.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # What it warns of, a branch or a size that was fixed, is what the comparison below looks for.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        example = torch.randn(TRACE_BATCH, 3, height, width)
        # In a folder beside it under the same name: the name becomes the root inside the archive.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as work:
            made = Path(work) / out.name
            save = _save_exported if _format(args) == "pt2" else _save_script
            loaded = save(torch, model, example, made, {"trawl.json": json.dumps(spec)}, args)
            shape = _compare(torch, original, loaded, (height, width), spec)
            size = made.stat().st_size
            os.replace(made, out)
    return size, shape


def _format(args: argparse.Namespace) -> str:
    return str(args.format or ("pt2" if args.out.endswith(".pt2") else "pt"))


def _save_script(torch: Any, model: Any, example: Any, made: Path, extra: Dict[str, str], args: argparse.Namespace) -> Any:
    """Saves the traced model and gives back what the file holds."""
    try:
        module = torch.jit.trace(model, example, check_trace=False)
        if args.freeze:
            module = torch.jit.freeze(module)
    except (RuntimeError, torch.jit.TracingCheckError) as e:
        raise ExportFailure(f"the model cannot be traced: {e}") from e
    torch.jit.save(module, str(made), _extra_files=extra)
    return torch.jit.load(str(made), map_location="cpu")


def _save_exported(torch: Any, model: Any, example: Any, made: Path, extra: Dict[str, str], args: argparse.Namespace) -> Any:
    """Saves the exported model and gives back what the file holds."""
    batch = torch.export.Dim("batch", min=1, max=MAX_EXPORTED_BATCH)
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    except Exception as e:  # torch.export raises many kinds
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ExportFailure(f"torch.export cannot export the model: {first}; use --format pt") from e
    # torch.export wants this suffix and warns of another.
    torch.export.save(program, str(made), extra_files=extra)
    return torch.export.load(str(made)).module()


def _compare(torch: Any, original: Any, loaded: Any, side: Tuple[int, int], spec: Spec) -> List[int]:
    shape: List[int] = []
    for batch in CHECK_BATCHES:
        images = torch.randn(batch, 3, *side)
        expected, got = original(images), _run(loaded, images, batch)
        if not isinstance(expected, torch.Tensor):
            raise ExportFailure(f"the model returns {type(expected).__name__}, one tensor was expected: wrap it in a function")
        if expected.shape != got.shape or got.shape[0] != batch:
            raise ExportFailure(
                f"for a batch of {batch} the traced model gives {list(got.shape)}, the original {list(expected.shape)}: a "
                "batch size is written into its forward pass (use flatten(1) in place of view(batch, ...))"
            )
        difference = (expected - got).abs().max().item()
        allowed = TOLERANCE * max(1.0, expected.abs().max().item())
        if not difference <= allowed:
            raise ExportFailure(f"the traced model differs from the original by {difference:.3g} at batch {batch}, {allowed:.3g} is allowed")
        shape = list(got.shape[1:])
    if spec["head"] == "classification":
        if len(shape) != 1:
            raise ExportFailure(f"a classifier gives one number a class, this model gives {shape} an image")
        if spec["labels"] and len(spec["labels"]) != shape[0]:
            raise ExportFailure(f"there are {len(spec['labels'])} labels for {shape[0]} classes")
    return shape


def _run(loaded: Any, images: Any, batch: int) -> Any:
    try:
        return loaded(images)
    except RuntimeError as e:
        last = str(e).strip().splitlines()[-1]
        raise ExportFailure(f"the traced model fails at a batch of {batch}, it was traced at {TRACE_BATCH}: {last}") from e


# ---- the rest


def _both(size: Any) -> List[int]:
    """torchvision gives a list of one or two."""
    sizes = [int(n) for n in (size if isinstance(size, (list, tuple)) else [size])]
    return sizes if len(sizes) == 2 else sizes * 2


def _download(get: Callable[[], Any], what: str) -> Any:
    try:
        return get()
    except (OSError, RuntimeError) as e:
        raise ExportFailure(f"{what} cannot be loaded: {e}") from e


def _need(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise ExportFailure(f"Python cannot import {package} ({e}): pip install {package}") from e


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="torchvision:NAME, timm:NAME[.TAG], or module:function, which returns a torch.nn.Module")
    parser.add_argument("--out", required=True, metavar="X.pt", help="the bundle to write")
    parser.add_argument(
        "--format", choices=("pt", "pt2"), help="TorchScript or torch.export (default: by the name, pt2 for X.pt2)"
    )
    parser.add_argument("--weights", help="torchvision: the name of the weights; else a file with a state dict")
    parser.add_argument("--spec", metavar="FILE.json", help="keys of trawl.json; for torchvision and timm they replace the weights' own")
    parser.add_argument("--name", help="the model's name, for people")
    parser.add_argument("--embedding", action="store_true", help="leave the classifier off: one vector an image")
    parser.add_argument(
        "--freeze", action=argparse.BooleanOptionalAction, default=True,
        help="pt: make weights constants and fold batch norm; faster (default: on)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
