"""Holds what an exported model answers to what the original did, tensor by tensor, before the bundle gets its name.

Between saving and renaming in export.py. Outputs are found as worker/shim/outputs.cpp finds them, and must have the shapes that
worker/src/model/network.rs asks for. Never looks at what no head is made of: a model may return more than that.
"""

from typing import Any, Callable, Dict, List, Tuple, Union

from describe.spec import HEADS, ExportFailure, Output, Spec, heads, outputs

# Not the size that a model is traced at, which would hide what depends on it.
BATCHES = (1, 3)
# Relative to the largest output: logits reach from 1 to 100, and freezing folds batch norm in single precision.
TOLERANCE = 1e-4


def compare(torch: Any, original: Callable[[Any], Any], exported: Callable[[Any], Any], side: List[int], spec: Spec) -> List[List[int]]:
    """The shapes of one image's outputs, head by head, after all of them were held to the original's."""
    shapes: List[List[List[int]]] = []
    for batch in BATCHES:
        images = torch.randn(batch, 3, *side)
        expected, got = original(images), exported(images)
        shapes = []
        for head in heads(spec):
            pairs = [(pick(torch, expected, output), pick(torch, got, output)) for output in outputs(head)]
            for wanted, there in pairs:
                _check_rows(wanted, there, batch)
            shapes.append([list(there.shape[1:]) for _, there in pairs])
            check_shapes(head, shapes[-1])
            if head["head"] == "detection":
                _check_boxes([wanted for wanted, _ in pairs], [there for _, there in pairs], batch)
            else:
                _check_numbers(*pairs[0], batch)
    return [shape for of_head in shapes for shape in of_head]


def pick(torch: Any, answer: Any, output: Output) -> Any:
    """The tensor that a head is made of, in what a model returns."""
    there: Dict[Union[str, int], Any]
    if isinstance(answer, dict):
        there = dict(answer)
    else:
        there = dict(enumerate(answer if isinstance(answer, (tuple, list)) else [answer]))
    names: Tuple[Union[str, int, None], ...] = output if isinstance(output, tuple) else (output,)
    if output is None:
        if len(there) != 1:
            raise ExportFailure(f"the model returns {_names(there)}: say with `output` which of them the head is made of")
        names = tuple(there)
    found = [there[name] for name in names if name is not None and name in there]
    if not found:
        raise ExportFailure(f"the model returns {_names(there)}, and `output` asks for {' or '.join(map(repr, names))}")
    if not isinstance(found[0], torch.Tensor):
        raise ExportFailure(
            f"the model's output {names[0]!r} is {type(found[0]).__name__}, a tensor was expected: wrap the model in one that "
            "returns tensors, or a tuple or dict of them"
        )
    return found[0]


def _names(there: Dict[Union[str, int], Any]) -> str:
    return f"{len(there)} outputs ({', '.join(map(repr, there))})" if there else "nothing"


def check_shapes(head: Spec, shapes: List[List[int]]) -> None:
    """Whether one image's tensors are what the head is made of."""
    whose = f" of the head {head['name']!r}" if "heads" not in head and "input" not in head else ""
    shape, labels = shapes[0], head.get("labels") or []
    if head["head"] == "detection":
        if len(shape) != 2 or shape[1] != 4 or shapes[1:] != [shape[:1]] * 2:
            raise ExportFailure(
                f"a detection{whose} is boxes [N, K, 4], scores [N, K] and classes [N, K]; for one image the model gives {shapes}"
            )
    elif not shape or 0 in shape:
        raise ExportFailure(f"the output{whose} has the shape {shape} for one image: there must be numbers")
    elif HEADS[head["head"]].labels:
        if len(shape) != 1:
            raise ExportFailure(f"a classifier gives one number a class, this model{whose} gives {shape} an image")
        if labels and len(labels) != shape[0]:
            raise ExportFailure(f"there are {len(labels)} labels{whose} for {shape[0]} classes")


def _check_rows(expected: Any, got: Any, batch: int) -> None:
    if expected.shape != got.shape or got.dim() == 0 or got.shape[0] != batch:
        raise ExportFailure(
            f"for a batch of {batch} the traced model gives {list(got.shape)}, the original {list(expected.shape)}: a "
            "batch size is written into its forward pass (use flatten(1) in place of view(batch, ...))"
        )


def _check_numbers(expected: Any, got: Any, batch: int) -> None:
    difference = (expected.double() - got.double()).abs().max().item()
    allowed = TOLERANCE * max(1.0, expected.double().abs().max().item())
    if not difference <= allowed:
        raise ExportFailure(f"the traced model differs from the original by {difference:.3g} at batch {batch}, {allowed:.3g} is allowed")


def _check_boxes(expected: List[Any], got: List[Any], batch: int) -> None:
    """Every box of the original's must be among the other's. Not in the same place: detectors sort by scores, and what freezing
    does to the last bit swaps two that are as good as equal, or the last of the list with the first that is left out."""
    (boxes, scores, _), count = expected, expected[1].shape[1]
    if count == 0:
        return
    corner = TOLERANCE * max(1.0, boxes.double().abs().max().item())
    score = TOLERANCE * max(1.0, scores.double().abs().max().item())
    for image in range(batch):
        # [K, K]: the original's by the other's.
        apart = (boxes[image][:, None].double() - got[0][image][None].double()).abs().amax(2)
        off = (scores[image][:, None].double() - got[1][image][None].double()).abs()
        same = (apart <= corner) & (off <= score) & (expected[2][image][:, None] == got[2][image][None])
        last = scores[image] <= scores[image].min() + score
        missing = (~(same.any(1) | last)).sum().item()
        worst = off.diagonal().max().item()
        if missing or not (scores[image].sort().values - got[1][image].sort().values).abs().max().item() <= score:
            raise ExportFailure(
                f"{missing} of the original's {count} boxes are not among the traced model's at batch {batch}, whose scores differ "
                f"by up to {worst:.3g} at the same place"
            )
