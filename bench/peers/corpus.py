#!/usr/bin/env python3
"""Makes JPEGs to measure with, out of the 20 ImageNet photos that `make demo` downloads too.

    corpus.py --out corpus/small --n 2000                 500x375, about 45 kB each
    corpus.py --out corpus/12mp --n 20 --size 12mp        4000x3000, 3 to 5 MB each, as a camera writes them

Each image is a crop of a photo, perhaps mirrored, a little brighter or darker, at quality 86 to 94. Image number i
depends on the seed, on i, on the size and on the versions of Pillow and NumPy, and on nothing else: a longer corpus
begins with the shorter one. A folder that is there already and was made the same way is left as it is.
"""

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Dict, List

import numpy
import PIL
from PIL import Image, ImageEnhance, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import wheels  # noqa: E402

SIZES = {"small": (500, 375), "12mp": (4000, 3000)}
SOURCE_PHOTOS = 20
# Images a task of the pool: enough that handing out costs nothing, few enough that the end is shared.
CHUNK = 8
MANIFEST = "manifest.json"


def main() -> int:
    args = _parser().parse_args()
    made = {"n": args.n, "size": args.size, "seed": args.seed, "pillow": PIL.__version__, "numpy": numpy.__version__}
    try:
        if _manifest(args.out) == made:
            print(f"corpus: {args.out} is there already", file=sys.stderr)
            return 0
        total = _make(args.out, made)
    except (wheels.WheelFailure, OSError, zipfile.BadZipFile) as e:
        print(f"corpus: {e}", file=sys.stderr)
        return 1
    print(f"corpus: {args.out}, {args.n} images, {total / 1e6:.1f} MB", file=sys.stderr)
    return 0


def _manifest(out: Path) -> Any:
    try:
        return json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _make(out: Path, made: Dict[str, Any]) -> int:
    """Writes the folder and gives it its name when it is whole; returns the images' bytes."""
    if out.exists() and _manifest(out) is None:
        raise OSError(f"{out} exists and was not made by this program: choose another --out")
    wheel = next(pin for pin in wheels.pinned("demo") if pin.package == "foolbox")
    photos = _photos(str(wheels.fetch(wheel)))
    if len(photos) != SOURCE_PHOTOS:
        raise wheels.WheelFailure(f"{wheel.file} holds {len(photos)} photos, {SOURCE_PHOTOS} were expected")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".corpus-") as work:
        folder = Path(work) / out.name
        folder.mkdir()
        draw = partial(_draw, folder, wheel, SIZES[made["size"]], made["seed"])
        with ProcessPoolExecutor() as pool:
            total = sum(pool.map(draw, range(made["n"]), chunksize=CHUNK))
        (folder / MANIFEST).write_text(json.dumps(made), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        os.rename(folder, out)
    return total


@lru_cache(maxsize=1)
def _photos(wheel: str) -> List[Image.Image]:
    """The labelled photos, in the order of their names; decoded once a process."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith("foolbox/data/imagenet_") and n.endswith(".jpg"))
        return [ImageOps.exif_transpose(Image.open(io.BytesIO(archive.read(n)))).convert("RGB") for n in names]


def _draw(folder: Path, wheel: wheels.Wheel, size: tuple, seed: int, number: int) -> int:
    """Image `number`, as a file; returns its bytes."""
    chance = numpy.random.default_rng([seed, number])
    photos = _photos(str(wheels.cache() / "wheels" / wheel.file))
    photo = photos[int(chance.integers(len(photos)))]
    width, height = size
    across = min(photo.width, photo.height * width / height) * chance.uniform(0.6, 1.0)
    down = across * height / width
    left, top = chance.uniform(0, photo.width - across), chance.uniform(0, photo.height - down)
    image = photo.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + across, top + down))
    if chance.random() < 0.5:
        image = ImageOps.mirror(image)
    image = ImageEnhance.Brightness(image).enhance(chance.uniform(0.85, 1.15))
    image = ImageEnhance.Color(image).enhance(chance.uniform(0.8, 1.2))
    if width > photo.width * 2:
        # Grain of a sensor: an enlarged photo alone would be far easier to decode than a camera's file.
        grain = chance.integers(-9, 10, (height, width, 1), numpy.int16)
        image = Image.fromarray((numpy.asarray(image, numpy.int16) + grain).clip(0, 255).astype(numpy.uint8))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=int(chance.integers(86, 95)))
    (folder / f"{number:07d}.jpg").write_bytes(encoded.getvalue())
    return len(encoded.getvalue())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--n", type=int, required=True, help="images")
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="500x375 or 12 megapixels (default: small)")
    parser.add_argument("--seed", type=int, default=7, help="another corpus of the same kind (default: 7)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
