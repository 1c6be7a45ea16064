"""Models of timm, and the description in their `pretrained_cfg`.

`describe` turns that into trawl.json as timm.data.create_transform would into transforms; it needs no timm, and
common/src/bundle/timm.rs does the very same for a config.json beside a model.
"""

import math
import os
from typing import Any, Dict, List, Tuple

from describe.spec import INTERPOLATIONS, ExportFailure, Spec, one_or_two, three, with_head

# timm.data.constants
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
DEFAULT_CROP_PCT = 0.875


def describe(config: Dict[str, Any]) -> Dict[str, Any]:
    """The `input` of a pretrained_cfg."""
    size = config.get("input_size") or [3, 224, 224]
    if len(size) != 3 or size[0] != 3:
        raise ExportFailure(f"`pretrained_cfg.input_size` is {list(size)}: trawl's images have three channels, height and width")
    crop = [int(side) for side in size[1:]]
    interpolation = config.get("interpolation") or "bicubic"
    if interpolation not in INTERPOLATIONS:
        raise ExportFailure(
            f"`pretrained_cfg.interpolation` is {interpolation!r}, which says how it was trained and not how it is used: "
            "give the filter to use, as timm itself would want"
        )
    share = config.get("crop_pct") or DEFAULT_CROP_PCT
    scaled = [math.floor(side / share) for side in crop]
    mean = three(config.get("mean") or IMAGENET_MEAN, "pretrained_cfg.mean")
    mode = config.get("crop_mode") or "center"
    described: Dict[str, Any] = {
        "crop": crop,
        "resize": one_or_two(scaled),
        "interpolation": interpolation,
        "mean": mean,
        "std": three(config.get("std") or IMAGENET_STD, "pretrained_cfg.std"),
    }
    if mode == "center":
        described["resize_mode"] = "shortest"
    elif mode == "squash":
        described["resize_mode"] = "squash"
    elif mode == "border":
        described.update(resize_mode="letterbox", fill=[round(255 * v) for v in mean])
    else:
        raise ExportFailure(f"`pretrained_cfg.crop_mode` is {mode!r}: center, squash and border are known")
    return described


def describe_file(config: Dict[str, Any]) -> Spec:
    """The description in a config.json of timm's on the Hub."""
    inner = config["pretrained_cfg"]
    classes = config.get("num_classes", inner.get("num_classes"))
    names = config.get("label_names") or inner.get("label_names") or []
    if isinstance(names, dict):
        raise ExportFailure("`label_names` is an object: a list in the order of the classes was expected")
    if names and classes is not None and classes != len(names):
        raise ExportFailure(f"`num_classes` is {classes} and `label_names` has {len(names)} names")
    longer = config.get("label_descriptions") or inner.get("label_descriptions") or {}
    labels = [str(longer.get(name, name)) for name in names]
    return {"head": "embedding" if classes == 0 else "classification", "labels": labels, "input": describe(inner)}


def build(timm: Any, name: str, args: Any) -> Tuple[Any, Spec]:
    """The model and its description."""
    if name.partition(".")[0] not in timm.list_models():
        raise ExportFailure(f"timm has no model `{name}`: see timm.list_models()")
    more: Dict[str, Any] = {"num_classes": 0} if args.head == "embedding" else {}
    if args.weights == "none":
        pass
    elif args.weights and os.path.exists(args.weights):
        more["checkpoint_path"] = args.weights
    elif args.weights in (None, "DEFAULT"):
        more["pretrained"] = True
    else:
        raise ExportFailure(f"--weights {args.weights} is no file; for timm the weights are part of the name: timm:NAME.TAG")
    try:
        model = timm.create_model(name, **more)
    except (OSError, RuntimeError) as e:
        raise ExportFailure(f"the weights of timm's {name} cannot be loaded: {e}") from e
    config = dict(model.pretrained_cfg)
    if args.test_size:
        for field in ("input_size", "crop_pct"):
            config[field] = config.get(f"test_{field}") or config.get(field)
    spec = {"head": "classification", "labels": _labels(timm, model), "input": describe(config)}
    return model, with_head(spec, args.head)


def _labels(timm: Any, model: Any) -> List[str]:
    """The names of the checkpoint itself, or of an ImageNet variant; empty when timm does not know them."""
    config = model.pretrained_cfg
    if config.get("label_names"):
        return list(config["label_names"])
    subset = timm.data.infer_imagenet_subset(model)
    if not subset:
        return []
    names = timm.data.ImageNetInfo(subset)
    return [names.index_to_description(i) for i in range(names.num_classes())]
