"""Image classifiers of Hugging Face's transformers, and the description in config.json and preprocessor_config.json.

`describe` turns these two into trawl.json as the image processor's PIL backend works; it needs no transformers, and
common/src/bundle/hugging_face.rs does the very same for files beside a model. What they leave unsaid, and what trawl cannot
do, is an error that names the field: defaults have changed from release to release.
"""

import importlib
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from describe import timm_models
from describe.spec import ExportFailure, Spec, one_or_two, read, three, with_head
from describe.torchvision_models import drop_classifier

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# PIL.Image.Resampling
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
CONVNEXT_SQUASHES_FROM = 384


class Kind(NamedTuple):
    """What a family of image processors does beyond its file."""

    square: bool  # one number for `size` is both sides, and not the shorter one
    crops: bool  # unless the file says otherwise
    rule: str = ""


KINDS = {
    "ViT": Kind(True, False),
    "DeiT": Kind(True, True),
    "Beit": Kind(True, False),
    "Bit": Kind(False, True),
    "CLIP": Kind(False, True),
    "ConvNext": Kind(False, False, "convnext"),
    "EfficientNet": Kind(True, False, "efficientnet"),
    "Levit": Kind(False, True, "levit"),
    "MobileNetV1": Kind(False, True),
    "MobileNetV2": Kind(False, True),
    "MobileViT": Kind(False, True, "mobilevit"),
    "PoolFormer": Kind(False, True, "poolformer"),
    "Pvt": Kind(True, False),
    "Segformer": Kind(True, False),
    "Siglip": Kind(True, False),
}
PROBLEMS = {"single_label_classification": "classification", "multi_label_classification": "multi_label"}
SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
# Fields that do not change what a photo becomes, or are looked at below; the others must be absent or null.
KNOWN = {
    "image_processor_type", "feature_extractor_type", "size", "crop_size", "resample", "image_mean", "image_std", "do_resize",
    "do_center_crop", "do_rescale", "do_normalize", "rescale_factor", "crop_pct", "rescale_offset", "include_top",
    "do_flip_channel_order", "do_pad", "data_format", "do_convert_rgb", "do_reduce_labels", "default_to_square",
    "return_tensors", "input_data_format", "device", "disable_grouping", "processor_class", "_valid_processor_keys",
    "_processor_class", "transformers_version",
}


def describe(config: Dict[str, Any], processor: Optional[Dict[str, Any]]) -> Spec:
    """The description of a model by its two files."""
    if "pretrained_cfg" in config:
        if processor:
            raise ExportFailure(f"{CONFIG} has timm's `pretrained_cfg` and there is a {PROCESSOR}: remove the one that is not true")
        return timm_models.describe_file(config)
    if processor is None:
        raise ExportFailure(f"there is no {PROCESSOR} beside {CONFIG}: without it nobody knows how images are prepared")
    problem = config.get("problem_type") or "single_label_classification"
    if problem not in PROBLEMS:
        raise ExportFailure(f"`problem_type` is {problem!r}: {' and '.join(PROBLEMS)} are known")
    return {"head": PROBLEMS[problem], "labels": labels(config), "input": _input(processor)}


def labels(config: Dict[str, Any]) -> List[str]:
    """id2label as a list."""
    names = config.get("id2label") or {}
    listed = [names.get(str(i), names.get(i)) for i in range(len(names))]
    if None in listed:
        raise ExportFailure(f"`id2label` has {len(names)} names and none for class {listed.index(None)}")
    said = config.get("num_labels", len(names))
    if names and said != len(names):
        raise ExportFailure(f"`num_labels` is {said} and `id2label` has {len(names)} names")
    return [str(name) for name in listed]


def _kind(processor: Dict[str, Any]) -> Tuple[str, Kind]:
    said = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    if not said:
        raise ExportFailure(f"{PROCESSOR} has no `image_processor_type`: add it, such as \"ViTImageProcessor\"")
    for suffix in SUFFIXES:
        name = said.removesuffix(suffix)
        if name != said and name in KINDS:
            return said, KINDS[name]
    raise ExportFailure(f"`image_processor_type` is {said!r}, which trawl does not know; known: {', '.join(sorted(KINDS))}")


def _input(processor: Dict[str, Any]) -> Dict[str, Any]:
    said, kind = _kind(processor)
    given = {field: value for field, value in processor.items() if value is not None}
    unknown = sorted(set(given) - KNOWN)
    if unknown:
        raise ExportFailure(f"`{unknown[0]}` is {given[unknown[0]]!r} in {PROCESSOR}, which trawl does not know of {said}")
    for field in ("do_pad", "do_reduce_labels"):
        if given.get(field):
            raise ExportFailure(f"`{field}` is true, which trawl does not do")
    if given.get("data_format", "channels_first") != "channels_first":
        raise ExportFailure(f"`data_format` is {given['data_format']!r}: channels_first is what models get")
    if given.get("do_flip_channel_order", kind.rule == "mobilevit"):
        raise ExportFailure("`do_flip_channel_order` is true: trawl's models get RGB; flip the first layer's weights instead")
    described = _geometry(given, kind)
    described["mean"], described["std"] = _normalise(given, kind)
    return described


def _geometry(given: Dict[str, Any], kind: Kind) -> Dict[str, Any]:
    crops = given.get("do_center_crop", kind.crops)
    cropped = _sides(_needed(given, "crop_size"), True, "crop_size") if crops else None
    if isinstance(cropped, int):
        raise ExportFailure(f"`crop_size` is {given['crop_size']!r}: height and width were expected")
    if not _needed(given, "do_resize"):
        if cropped is None:
            raise ExportFailure("`do_resize` is false and nothing is cropped: the input would have each image's own size")
        return {"crop": cropped, "resize_mode": "shortest", "interpolation": "nearest", "centre": "huggingface"}
    resample = _needed(given, "resample")
    if resample not in RESAMPLE:
        raise ExportFailure(f"`resample` is {resample!r}: Pillow has 0 to 5")
    size: Any = _sides(_needed(given, "size"), kind.square, "size")
    if kind.rule == "convnext":
        if crops or not isinstance(size, int):
            raise ExportFailure(f"`size` is {given['size']!r} with do_center_crop {crops}: ConvNext has a shortest_edge and crops by crop_pct")
        if size < CONVNEXT_SQUASHES_FROM:
            cropped, size = [size, size], int(size / given.get("crop_pct", 224 / 256))
        else:
            size = [size, size]
    elif kind.rule == "levit" and isinstance(size, int):
        size = int((256 / 224) * size)
    elif kind.rule == "poolformer" and given.get("crop_pct"):
        share = given["crop_pct"]
        size = [int(side / share) for side in size] if not isinstance(size, int) else int(size / share)
        # Only a target that is not square loses the shape.
        size = size[0] if not isinstance(size, int) and size[0] == size[1] else size
    interpolation = RESAMPLE[resample]
    if isinstance(size, int):
        if cropped is None:
            raise ExportFailure(f"`size` is {given['size']!r} and nothing is cropped: the input would follow each image's shape")
        return {"crop": cropped, "resize": size, "resize_mode": "shortest", "interpolation": interpolation, "centre": "huggingface"}
    squashed: Dict[str, Any] = {"crop": cropped or size, "resize_mode": "squash", "interpolation": interpolation}
    if cropped not in (None, size):
        squashed.update(resize=one_or_two(size), centre="huggingface")
    return squashed


def _sides(size: Any, square: bool, field: str) -> Any:
    """The shorter side as a number, or height and width as a list."""
    if isinstance(size, int) and not isinstance(size, bool):
        return [size, size] if square else size
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return list(size)
    if isinstance(size, dict):
        size = {name: side for name, side in size.items() if side is not None}
        if set(size) == {"height", "width"}:
            return [int(size["height"]), int(size["width"])]
        if set(size) == {"shortest_edge"}:
            return int(size["shortest_edge"])
    raise ExportFailure(f"`{field}` is {size!r}: a number, height and width, or shortest_edge alone are known")


def _normalise(given: Dict[str, Any], kind: Kind) -> Tuple[List[float], List[float]]:
    """Mean and standard deviation of pixels of 0 to 1 that do what rescaling and normalising do one after the other."""
    factor = float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 1.0
    if factor <= 0:
        raise ExportFailure(f"`rescale_factor` is {factor}: a number above 0 was expected")
    offset = 1.0 if given.get("rescale_offset", False) and given.get("do_rescale", True) else 0.0
    mean, std = [0.0] * 3, [1.0] * 3
    if _needed(given, "do_normalize"):
        mean, std = three(_needed(given, "image_mean"), "image_mean"), three(_needed(given, "image_std"), "image_std")
    total = list(std)
    if kind.rule == "efficientnet" and given.get("include_top", True):
        # It divides once more, by the file's deviation, whether it normalised before or not.
        total = [a * b for a, b in zip(std, three(_needed(given, "image_std"), "image_std"))]
    scale = factor * 255
    # The usual factor is meant to be 1/255.
    scale = 1.0 if abs(scale - 1) < 1e-9 else scale
    return [(m + offset) / scale for m in mean], [s / scale for s in total]


def _needed(given: Dict[str, Any], field: str) -> Any:
    if field not in given:
        raise ExportFailure(f"{PROCESSOR} has no `{field}`: add it, since what it is by default has changed from release to release")
    return given[field]


def build(torch: Any, transformers: Any, path: str, args: Any) -> Tuple[Any, Spec]:
    """The model of a folder, or of a config file with random weights, and its description. Nothing is downloaded."""
    place = Path(path)
    file = place if place.suffix == ".json" else place / CONFIG
    random = place == file or args.weights == "none"
    if not file.is_file():
        raise ExportFailure(f"{file} is not there: give the folder of a model that is on this machine, or its {CONFIG}")
    config, beside = read(str(file)), file.parent / PROCESSOR
    processor = read(str(beside)) if beside.is_file() else None
    auto = transformers.AutoModelForImageClassification
    try:
        made = transformers.AutoConfig.from_pretrained(file if place == file else place, local_files_only=True)
        if processor is None and random and "pretrained_cfg" not in config:
            processor = _usual(transformers, config)
        spec = {**describe(config, processor), "name": file.parent.resolve().name}
        torch.manual_seed(0)
        model = auto.from_config(made) if random else auto.from_pretrained(place, local_files_only=True)
    except (OSError, RuntimeError, ValueError, KeyError) as e:
        raise ExportFailure(f"transformers cannot make the model of {path}: {e}") from e
    if args.head == "embedding":
        drop_classifier(torch, model, path)
    return _logits(torch, model), with_head(spec, args.head)


def _usual(transformers: Any, config: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """What the installed transformers does for such a model unless told otherwise, at the size of the model's images."""
    names = importlib.import_module("transformers.models.auto.image_processing_auto").IMAGE_PROCESSOR_MAPPING_NAMES
    known = names.get(config.get("model_type"))
    listed = list(known.values()) if isinstance(known, dict) else list(known or [])
    kind = next((getattr(transformers, name, None) for name in listed if name), None)
    if kind is None:
        return None
    usual = {field: value for field, value in kind().to_dict().items() if field in KNOWN}
    usual["resample"] = int(usual.get("resample") or 0)
    side = config.get("image_size")
    if isinstance(side, int) and set(usual.get("size") or {}) == {"height", "width"} and not usual.get("do_center_crop"):
        usual["size"] = {"height": side, "width": side}
    said = {field: usual.get(field) for field in ("size", "resample", "image_mean", "image_std")}
    print(f"export: no {PROCESSOR}: {kind.__name__} as transformers {transformers.__version__} has it, {said}", file=sys.stderr)
    return usual


def _logits(torch: Any, model: Any) -> Any:
    class Logits(torch.nn.Module):  # type: ignore[name-defined, misc]
        """One tensor out, where transformers gives an object of many."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixels: Any) -> Any:
            return self.inner(pixel_values=pixels).logits

    return Logits(model)
