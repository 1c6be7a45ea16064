#!/usr/bin/env python3
"""Makes a model bundle: one file that carries a model, how images are prepared and what its output means.

    export.py torchvision:resnet50 --out resnet50.pt
    export.py torchvision:vit_b_16 --weights IMAGENET1K_SWAG_LINEAR_V1 --out vit.pt
    export.py timm:convnext_tiny.fb_in22k --out convnext.pt
    export.py timm:resnet50 --head embedding --out embeddings.pt
    export.py hf:models/vit-base-patch16-224 --out vit.pt
    export.py hf:models/vit/config.json --out random.pt
    export.py mypackage.models:build --weights state.pt --spec spec.json --out mine.pt
    export.py mypackage.models:build --spec spec.json --out mine.pt2

Categories, sizes, interpolation, mean and standard deviation come from the weights' own description: torchvision's transforms,
timm's pretrained_cfg, or the config.json and preprocessor_config.json of a folder of Hugging Face's (nothing is downloaded for
it; a config.json alone gives random weights). For your own module they come from --spec, a JSON file as trawl.json in the
bundle. What trawl cannot do is an error that names the field. The model is traced and frozen (.pt, TorchScript: faster, and
for CUDA) or exported (.pt2, torch.export: what PyTorch goes on with; CPU only), saved, loaded again and compared with the
original at several batch sizes before the file gets its name.

A model returns a tensor, or a tuple or dict of them; the spec's `head`, or each of its `heads`, says what they mean (`output`):
classification, multi_label, embedding, detection or raw, as docs/results.md has them.

Needs torch (2.11, as trawl itself), and torchvision, timm or transformers for those sources.
"""

import argparse
import copy
import importlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from compare import compare
from describe import hugging_face, timm_models, torchvision_models
from describe.spec import HEADS, ExportFailure, Spec, heads, outputs, overlaid, with_head
from describe.spec import check as check_spec
from describe.spec import read as read_spec

# Not 1, which hides what depends on the batch's size.
TRACE_BATCH = 2
# Far beyond any micro-batch; the graph holds a limit.
MAX_EXPORTED_BATCH = 65_536


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
        raise ExportFailure(f"`{args.source}` is no source: use torchvision:NAME, timm:NAME, hf:FOLDER or module:function")
    known = True
    if source == "torchvision":
        model, spec = torchvision_models.build(torch, _need("torchvision").models, name, args)
    elif source == "timm":
        model, spec = timm_models.build(_need("timm"), name, args)
    elif source == "hf":
        model, spec = hugging_face.build(torch, _need("transformers"), name, args)
    else:
        known = False
        model, spec = _own(torch, source, name, args)
    if args.spec and known:
        spec = overlaid(spec, read_spec(args.spec))
    spec["name"] = args.name or spec.get("name") or name
    check_spec(spec)
    size, shapes = _write(torch, model.eval(), spec, args)
    told = " + ".join(head["head"] + (f", {len(head['labels'])} labels" if head.get("labels") else "") for head in heads(spec))
    print(
        f"{args.out}: {spec['name']} ({told}), input {spec['input']['crop'][0]} x {spec['input']['crop'][1]}, "
        f"output {', '.join(map(str, shapes))}, {size / 1e6:.1f} MB; check it with `trawl-worker check-model {args.out}`",
        file=sys.stderr,
    )


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
    return model, with_head(read_spec(args.spec), args.head)


# ---- the file


def _write(torch: Any, model: Any, spec: Spec, args: argparse.Namespace) -> Tuple[int, List[List[int]]]:
    """Exports, saves and checks; returns the file's size and the outputs' shapes for one image."""
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
            model = _plain(torch, model, example, spec)
            loaded = save(torch, model, example, made, {"trawl.json": json.dumps(spec)}, args)
            shapes = compare(torch, original, lambda images: _run(loaded, images), [height, width], spec)
            size = made.stat().st_size
            os.replace(made, out)
    return size, shapes


def _plain(torch: Any, model: Any, example: Any, spec: Spec) -> Any:
    """The model with outputs that a file can carry: libtorch knows dicts and tuples and none of their kinds, such as
    OrderedDict, and TorchScript's dicts hold values of one type. What no head asks for is left out of a dict."""
    if isinstance(model(example), torch.Tensor):
        return model
    wanted = {name for head in heads(spec) for output in outputs(head) for name in (output if isinstance(output, tuple) else (output,))}

    class Plain(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Any) -> Any:
            answer = self.inner(images)
            if isinstance(answer, dict):
                return {key: value for key, value in answer.items() if None in wanted or key in wanted}
            return tuple(answer) if isinstance(answer, (tuple, list)) else answer

    return Plain(model).eval()


def _format(args: argparse.Namespace) -> str:
    return str(args.format or ("pt2" if args.out.endswith(".pt2") else "pt"))


def _save_script(torch: Any, model: Any, example: Any, made: Path, extra: Dict[str, str], args: argparse.Namespace) -> Any:
    """Saves the traced model and gives back what the file holds."""
    try:
        # Strict, it takes a tensor or a tuple: a dict of outputs has to be meant, and here it is.
        module = torch.jit.trace(model, example, check_trace=False, strict=False)
        if args.freeze:
            module = torch.jit.freeze(module)
    except (RuntimeError, torch.jit.TracingCheckError) as e:
        raise ExportFailure(f"the model cannot be traced: {_last_line(e)}") from e
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


def _run(loaded: Any, images: Any) -> Any:
    try:
        return loaded(images)
    except RuntimeError as e:
        raise ExportFailure(
            f"the traced model fails at a batch of {len(images)}, it was traced at {TRACE_BATCH}: {_last_line(e)}"
        ) from e


def _last_line(error: Exception) -> str:
    """What happened: torch says where, and shows tensors, before it."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


# ---- the rest


def _need(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise ExportFailure(f"Python cannot import {package} ({e}): pip install {package}") from e


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="torchvision:NAME, timm:NAME[.TAG], hf:FOLDER, hf:FOLDER/config.json, or module:function, which returns a torch.nn.Module")
    parser.add_argument("--out", required=True, metavar="X.pt", help="the bundle to write")
    parser.add_argument(
        "--format", choices=("pt", "pt2"), help="TorchScript or torch.export (default: by the name, pt2 for X.pt2)"
    )
    parser.add_argument(
        "--weights", help="torchvision: the name of the weights; else a file with a state dict; none: random, described as the default"
    )
    parser.add_argument("--spec", metavar="FILE.json", help="keys of trawl.json; where there is a description they replace its own")
    parser.add_argument("--name", help="the model's name, for people")
    parser.add_argument(
        "--head", choices=tuple(HEADS), help="what the output means (default: classification); embedding leaves the classifier off"
    )
    parser.add_argument("--embedding", dest="head", action="store_const", const="embedding", help="the same as --head embedding")
    parser.add_argument("--test-size", action="store_true", help="timm: the size and crop of its tests, where they differ")
    parser.add_argument(
        "--freeze", action=argparse.BooleanOptionalAction, default=True,
        help="pt: make weights constants and fold batch norm; faster (default: on)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
