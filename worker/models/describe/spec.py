"""The description in a bundle (trawl.json): reading it, checking it, and the error that says what to correct.

Every source ends here before a bundle is written. The rules are those of common/src/bundle.rs; nothing here imports torch.
"""

import json
import re
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

SPEC_VERSION = 1


class Kind(NamedTuple):
    """What a head may say of itself, and what it is made of."""

    labels: bool  # its answers are classes, which have names
    settings: FrozenSet[str] = frozenset()
    tensors: int = 1


HEADS = {
    "classification": Kind(True),
    "multi_label": Kind(True, frozenset({"threshold"})),
    "embedding": Kind(False, frozenset({"dtype", "normalize"})),
    "detection": Kind(True, frozenset({"threshold", "max_boxes"}), tensors=3),
    "raw": Kind(False),
}
# Where a detection's tensors are, if it does not say so: by key in a dict, by place in a tuple.
BOXES: Tuple[Tuple[str, int], ...] = (("boxes", 0), ("scores", 1), ("labels", 2))
MOST_BOXES, MOST_HEADS = 10_000, 16
HEAD_NAME = re.compile("[a-z][a-z0-9_]{0,31}")
DTYPES = ("f32", "f16")
MODES = ("shortest", "squash", "letterbox")
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CENTRES = ("torchvision", "huggingface")

Spec = Dict[str, Any]
# One of a model's outputs: a key, a place, a key in a dict or a place in a tuple, or the only one.
Output = Union[str, int, Tuple[str, int], None]


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


def with_head(spec: Spec, head: Optional[str]) -> Spec:
    """The description with another head, if one is given; classes' names stay where they still mean something."""
    if head is None:
        return spec
    if "heads" in spec:
        raise ExportFailure("--head is for models of one head, and the spec has `heads`")
    return _without_idle_labels({**spec, "head": head})


def overlaid(spec: Spec, own: Spec) -> Spec:
    """The description with the keys of the user's own in place of its own."""
    if "heads" in own:
        spec = {key: value for key, value in spec.items() if key in ("version", "name", "input")}
    merged = {**spec, **own}
    return merged if "labels" in own else _without_idle_labels(merged)


def _without_idle_labels(spec: Spec) -> Spec:
    kind = HEADS.get(spec.get("head", ""))
    return spec if kind is None or kind.labels else {key: value for key, value in spec.items() if key != "labels"}


def heads(spec: Spec) -> List[Spec]:
    """The heads of a model; of one with a single head that says so beside its name, the description itself."""
    return list(spec["heads"]) if "heads" in spec else [spec]


def outputs(head: Spec) -> List[Output]:
    """Where the tensors are that a head is made of, in the order that it wants them in."""
    given = head.get("output")
    if given is None:
        return list(BOXES) if head["head"] == "detection" else [None]
    return list(given) if isinstance(given, list) else [given]


def check(spec: Spec) -> None:
    """What every reader of the bundle would refuse, said here with the names that the writer knows."""
    spec["version"] = SPEC_VERSION
    common = {"version", "name", "input"}
    if "heads" in spec:
        beside = set(spec) - common - {"heads"}
        if beside:
            raise ExportFailure(f"{_listed(beside)} cannot stand beside `heads`: it belongs into one of them")
        _check_heads(spec["heads"])
    else:
        _check_head({key: value for key, value in spec.items() if key not in common}, "the spec")
    _check_input(spec)


def _check_heads(given: Any) -> None:
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_HEADS:
        raise ExportFailure(f"`heads` must be a list of 1 to {MOST_HEADS} heads, it is {given!r}")
    names = set()
    for head in given:
        name = head.get("name") if isinstance(head, dict) else None
        if not isinstance(name, str) or not HEAD_NAME.fullmatch(name):
            raise ExportFailure(
                f"every one of the `heads` needs a `name`, which its columns begin with: up to 32 of a-z, 0-9 and _, "
                f"beginning with a letter; there is {name!r}"
            )
        if name in names:
            raise ExportFailure(f"two of the `heads` have the name {name!r}")
        names.add(name)
        _check_head({key: value for key, value in head.items() if key != "name"}, f"the head {name!r}")


def _check_head(head: Spec, whose: str) -> None:
    word = head.get("head")
    kind = HEADS.get(word) if isinstance(word, str) else None
    if kind is None:
        raise ExportFailure(f"head is {word!r}: use {', '.join(HEADS)}")
    labels = head.get("labels") or []
    idle = set(head) - {"head", "labels", "output"} - kind.settings | ({"labels"} if labels and not kind.labels else set())
    if idle:
        raise ExportFailure(f"{whose} has {_listed(idle)}, which means nothing for the head {word}")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ExportFailure(f"`labels` of {whose} must be a list of texts")
    for field, holds, wanted in (
        ("threshold", lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
        ("max_boxes", lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_BOXES, f"1 to {MOST_BOXES}"),
        ("dtype", lambda value: value in DTYPES, " or ".join(DTYPES)),
        ("normalize", lambda value: isinstance(value, bool), "true or false"),
    ):
        if field in head and not holds(head[field]):
            raise ExportFailure(f"`{field}` of {whose} is {head[field]!r}: {wanted} was expected")
    if head.get("output") is not None and not (len(outputs(head)) == kind.tensors and all(map(_is_place, outputs(head)))):
        raise ExportFailure(
            f"`output` of {whose} is {head.get('output')!r}: the head {word} is made of {kind.tensors} of the model's "
            "outputs, each a key of a dict or a place in a tuple"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_place(value: Any) -> bool:
    return isinstance(value, str) or isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _listed(fields: Iterable[str]) -> str:
    return ", ".join(f"`{field}`" for field in sorted(fields))


def _check_input(spec: Spec) -> None:
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
