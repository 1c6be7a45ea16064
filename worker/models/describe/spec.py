"""The description in a bundle (trawl.json): reading it, checking it, and the error that says what to correct.

Every source ends here before a bundle is written. The rules are those of common/src/bundle.rs; nothing here imports torch.
"""

import json
from pathlib import Path
from typing import Any, Dict, List, Sequence

SPEC_VERSION = 1
HEADS = ("classification", "embedding", "raw")
MODES = ("shortest", "squash", "letterbox")
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CENTRES = ("torchvision", "huggingface")

Spec = Dict[str, Any]


class ExportFailure(Exception):
    """Something to correct, with the next step."""


def read(path: str) -> Spec:
    """The JSON object in a file."""
    try:
        spec = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ExportFailure(f"{path} cannot be read: {e}") from e
    if not isinstance(spec, dict):
        raise ExportFailure(f"{path} is no JSON object")
    return spec


def check(spec: Spec) -> None:
    """What every reader of the bundle would refuse, said here with the names that the writer knows."""
    spec["version"] = SPEC_VERSION
    spec.setdefault("labels", [])
    unknown = set(spec) - {"version", "name", "head", "labels", "input"}
    if unknown:
        raise ExportFailure(f"the spec has unknown keys: {', '.join(sorted(unknown))}")
    if spec.get("head") not in HEADS:
        raise ExportFailure(f"head is {spec.get('head')!r}: use {', '.join(HEADS)}")
    given = spec.get("input")
    if not isinstance(given, dict):
        raise ExportFailure("the spec has no `input`")
    required = {"crop", "resize_mode", "interpolation", "mean", "std"}
    if required - set(given) or set(given) - required - {"resize", "fill", "centre"}:
        raise ExportFailure(
            f"`input` needs {', '.join(sorted(required))} and may have resize, fill, centre; it has {', '.join(sorted(given))}"
        )
    for field, known in (("interpolation", INTERPOLATIONS), ("resize_mode", MODES), ("centre", CENTRES)):
        if given.get(field, known[0]) not in known:
            raise ExportFailure(f"`input.{field}` is {given[field]!r}: use one of {', '.join(known)}")
    for field, length in (("crop", 2), ("mean", 3), ("std", 3), ("fill", 3)):
        if field in given and (not isinstance(given[field], list) or len(given[field]) != length):
            raise ExportFailure(f"`input.{field}` must be a list of {length} numbers, it is {given[field]!r}")


def one_or_two(sides: Sequence[int]) -> Any:
    """A resize as trawl.json has it: one number where height and width are the same."""
    height, width = (int(side) for side in sides)
    return height if height == width else [height, width]


def three(values: Any, field: str) -> List[float]:
    """A number for each of three channels; one number stands for all."""
    listed = list(values) if isinstance(values, (list, tuple)) else [values] * 3
    if len(listed) == 1:
        listed *= 3
    if len(listed) != 3 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in listed):
        raise ExportFailure(f"`{field}` is {values!r}: three numbers were expected, one for each of red, green and blue")
    return [float(v) for v in listed]
