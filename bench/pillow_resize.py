#!/usr/bin/env python3
"""What Pillow takes for the resizes of `cargo bench`'s group `resize`, on one core: JSON on stdout.

    pillow_resize.py

The shorter side becomes 256 and the centre of 224 by 224 is cut out, as torchvision does it. Needs Pillow
(worker/models/parity.txt pins it); the pixels are noise, which takes as long as any.
"""

import json
import random
import sys
import time

from PIL import Image, __version__

SIZES = ((500, 375), (4000, 3000))
FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
# So that the clock's grain and one interruption do not show; the median is given.
SECONDS, LEAST = 2.0, 11


def main() -> int:
    found = {}
    for width, height in SIZES:
        image = Image.frombytes("RGB", (width, height), random.Random(7).randbytes(width * height * 3))
        for name, kind in FILTERS.items():
            found[f"{name}_{width}x{height}"] = median_us(image, kind)
    print(json.dumps({"pillow": __version__, "us": found}))
    return 0


def median_us(image: Image.Image, kind: int) -> float:
    short = min(image.size)
    size = tuple(int(256 * side / short) for side in image.size)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    times = []
    until = time.perf_counter() + SECONDS
    while len(times) < LEAST or time.perf_counter() < until:
        began = time.perf_counter()
        image.resize(size, kind).crop((left, top, left + 224, top + 224)).load()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] * 1e6


if __name__ == "__main__":
    sys.exit(main())
