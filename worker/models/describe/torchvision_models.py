"""Models of torchvision, and the description in their weights: transforms and categories."""

import os
from typing import Any, List, Tuple

from describe.spec import ExportFailure, Spec, one_or_two, with_head


def build(torch: Any, models: Any, name: str, args: Any) -> Tuple[Any, Spec]:
    """The model and its description."""
    try:
        available = models.get_model_weights(name)
    except ValueError as e:
        raise ExportFailure(f"torchvision has no model `{name}`: see torchvision.models.list_models()") from e
    # `DEFAULT` is an alias and not in the list.
    known = [weights.name for weights in available]
    file = args.weights if args.weights and os.path.exists(args.weights) else None
    if not file and args.weights not in (None, "none", "DEFAULT", *known):
        raise ExportFailure(
            f"torchvision's {name} has no weights `{args.weights}`: there are {', '.join(known)}, `none` (random) and files"
        )
    if not known:
        raise ExportFailure(f"torchvision has no weights for {name} to describe it: export it as module:function with --spec")
    named = args.weights if args.weights in ("DEFAULT", *known) else "DEFAULT"
    weights = available[named]
    spec = {"head": "classification", "labels": list(weights.meta.get("categories", [])), "input": _describe(weights)}
    try:
        model = models.get_model(name, weights=None if file or args.weights == "none" else weights)
        if file:
            model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError) as e:
        raise ExportFailure(f"the weights {file or weights} cannot be loaded: {e}") from e
    if args.head == "embedding":
        drop_classifier(torch, model, name)
    return model, with_head(spec, args.head)


def _describe(weights: Any) -> Any:
    preset = weights.transforms()
    missing = [field for field in ("crop_size", "resize_size", "interpolation", "mean", "std") if not hasattr(preset, field)]
    if missing:
        raise ExportFailure(f"{weights} is no image classifier (its transforms have no {', '.join(missing)})")
    resize = list(preset.resize_size)
    return {
        "crop": _both(preset.crop_size),
        "resize": int(resize[0]) if len(resize) == 1 else one_or_two(resize),
        "resize_mode": "shortest" if len(resize) == 1 else "squash",
        "interpolation": str(preset.interpolation.value),
        "mean": list(preset.mean),
        "std": list(preset.std),
    }


def drop_classifier(torch: Any, model: Any, name: str) -> None:
    """Replaces the last linear layer by nothing: it has one of a few names."""
    for attribute in ("fc", "head", "heads", "classifier"):
        head = getattr(model, attribute, None)
        if isinstance(head, torch.nn.Linear):
            setattr(model, attribute, torch.nn.Identity())
            return
        if isinstance(head, torch.nn.Sequential) and len(head) and isinstance(head[-1], torch.nn.Linear):
            head[-1] = torch.nn.Identity()
            return
    raise ExportFailure(f"the classifier of {name} was not found: export it as module:function, or use timm:{name}")


def _both(size: Any) -> List[int]:
    """torchvision gives a list of one or two."""
    sizes = [int(n) for n in (size if isinstance(size, (list, tuple)) else [size])]
    return sizes if len(sizes) == 2 else sizes * 2
