#!/usr/bin/env python3
"""Makes the golden fixtures of worker/tests/preprocess_golden.rs with Pillow, the reference.

  python3 -m venv venv && venv/bin/pip install pillow==13.0.0 numpy
  venv/bin/python worker/tests/golden/make_golden.py

Writes images/ (small synthetic files of every kind) and expected.json (the sha256 of the model's pixels, by
image and recipe) beside this script. Both are committed, so the tests need no Python; the fixtures change only
when this script or Pillow does. `prepare` below re-states torchvision's PIL transforms in plain Pillow.
"""
import hashlib, io, json, os, struct, sys, zlib
import numpy as np
import PIL
from PIL import Image, ImageOps

HERE = os.path.dirname(os.path.abspath(__file__))
FILTERS = {
    "nearest": Image.NEAREST, "box": Image.BOX, "bilinear": Image.BILINEAR, "hamming": Image.HAMMING,
    "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS,
}

# Every image is prepared with each of these. A crop is [height, width].
RECIPES = [
    {"crop": [24, 24], "resize": 28, "resize_mode": "shortest"},
    {"crop": [33, 20], "resize": 21, "resize_mode": "shortest"},
    {"crop": [64, 64], "resize": 90, "resize_mode": "shortest"},
    {"crop": [40, 40], "resize": None, "resize_mode": "shortest"},
    {"crop": [17, 31], "resize": None, "resize_mode": "squash"},
    {"crop": [16, 16], "resize": 19, "resize_mode": "squash"},
    {"crop": [32, 48], "resize": None, "resize_mode": "letterbox"},
    {"crop": [30, 30], "resize": 37, "resize_mode": "letterbox"},
    # timm: a target that is not square, `border` with the mean's colour. Hugging Face: height and width, its own centre.
    {"crop": [24, 31], "resize": [27, 35], "resize_mode": "shortest"},
    {"crop": [30, 33], "resize": [34, 37], "resize_mode": "letterbox", "fill": [124, 116, 104]},
    {"crop": [24, 20], "resize": [29, 41], "resize_mode": "squash", "centre": "huggingface"},
    {"crop": [33, 20], "resize": 21, "resize_mode": "shortest", "centre": "huggingface"},
]


def centre(image, crop, rule):
    """One axis of a centre crop: start in the image, start in the crop, length."""
    if rule == "huggingface":   # transformers.image_transforms.center_crop
        return (0, -(-(crop - image) // 2), image) if image < crop else ((image - crop) // 2, 0, crop)
    if image < crop:            # torchvision.transforms.functional.center_crop
        return 0, (crop - image) // 2, image
    return int(round((image - crop) / 2.0)), 0, crop


def keep_ratio(w, h, side, of):
    """timm.data.transforms.ResizeKeepRatio; a size of 0 is an error there and 1 here."""
    ratio = of(h / side[0], w / side[1])
    return max(1, round(w / ratio)), max(1, round(h / ratio))


def resized(w, h, recipe):
    side, mode = recipe["resize"], recipe["resize_mode"]
    if mode == "shortest" and side is None:
        return w, h
    if mode == "shortest" and isinstance(side, int):   # torchvision's Resize(int)
        long = int(side * max(w, h) / min(w, h))
        return (side, long) if w <= h else (long, side)
    side = recipe["crop"] if side is None else [side, side] if isinstance(side, int) else side
    if mode == "squash":
        return side[1], side[0]
    return keep_ratio(w, h, side, max if mode == "letterbox" else min)


def prepare(data, recipe, interpolation, orient=False):
    im = Image.open(io.BytesIO(data))
    if orient:
        im = ImageOps.exif_transpose(im)
    im = im.convert("RGB")
    (ch, cw), rule = recipe["crop"], recipe.get("centre")
    size = resized(*im.size, recipe)
    im = im.resize(size, FILTERS[interpolation])
    (x, to_x, kept_w), (y, to_y, kept_h) = centre(size[0], cw, rule), centre(size[1], ch, rule)
    fill = recipe.get("fill") or ([114] * 3 if recipe["resize_mode"] == "letterbox" else [0] * 3)
    out = Image.new("RGB", (cw, ch), tuple(fill))
    out.paste(im.crop((x, y, x + kept_w, y + kept_h)), (to_x, to_y))
    return out


def picture(w, h, seed=0):
    """Smooth colour, hard edges and noise: every part of a decoder has something to do."""
    rng = np.random.default_rng([seed, w, h])
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    waves = [np.sin(x / (3.0 + c) + seed) * 80 + np.cos(y / (5.0 - c)) * 70 + 120 for c in range(3)]
    a = np.stack(waves, -1) + rng.normal(0, 12, (h, w, 3))
    a[(x + 2 * y) % 23 < 4] = rng.integers(0, 256, 3)
    return Image.fromarray(a.clip(0, 255).astype(np.uint8))


def saved(im, fmt, **kw):
    b = io.BytesIO()
    im.save(b, fmt, **kw)
    return b.getvalue()


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def raw_png(w, h, bits, color, samples, interlace=False, extra=b"", palette=None):
    """A PNG of any kind, since Pillow writes only some: samples is (h, w, channels) of uint16."""
    def rows(s):
        out = b""
        for row in s.reshape(s.shape[0], -1):
            if bits == 16:
                out += b"\0" + row.astype(">u2").tobytes()
            elif bits == 8:
                out += b"\0" + row.astype(np.uint8).tobytes()
            else:
                packed = "".join(format(int(v), f"0{bits}b") for v in row)
                packed += "0" * (-len(packed) % 8)
                out += b"\0" + bytes(int(packed[i : i + 8], 2) for i in range(0, len(packed), 8))
        return out
    parts = [samples[y0::dy, x0::dx] for x0, y0, dx, dy in ADAM7] if interlace else [samples]
    data = b"".join(rows(p) for p in parts if p.size)
    out = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, color, 0, 0, interlace)) + extra
    if palette is not None:
        out += png_chunk(b"PLTE", palette)
    half = zlib.compress(data)
    cut = len(half) // 2   # two pixel chunks
    return out + png_chunk(b"IDAT", half[:cut]) + png_chunk(b"IDAT", half[cut:]) + png_chunk(b"IEND", b"")


def pngs():
    rng = np.random.default_rng(5)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    kinds = [(b, 0) for b in (1, 2, 4, 8, 16)] + [(b, 3) for b in (1, 2, 4, 8)] + [(b, c) for c in (2, 4, 6) for b in (8, 16)]
    for bits, color in kinds:
        for interlace in (False, True):
            w, h = (37, 29) if not interlace else (30, 35)
            top = 1 << bits
            samples = rng.integers(0, top, (h, w, channels[color]))
            if bits == 16 and color == 0:   # around the clip at 255
                samples = np.where(rng.random(samples.shape) < .7, samples % 300, samples)
            palette = rng.integers(0, 256, 3 * min(top, 200), dtype=np.uint8).tobytes() if color == 3 else None
            name = f"png_{ {0: 'gray', 2: 'rgb', 3: 'palette', 4: 'graya', 6: 'rgba'}[color] }{bits}{'_interlaced' if interlace else ''}"
            yield name + ".png", raw_png(w, h, bits, color, samples, interlace, palette=palette)
    s = rng.integers(0, 256, (20, 24, 3))
    yield "png_rgb8_trns.png", raw_png(24, 20, 8, 2, s, extra=png_chunk(b"tRNS", struct.pack(">HHH", *map(int, s[3, 3]))))
    s = rng.integers(0, 256, (20, 24, 1))
    yield "png_gray8_trns.png", raw_png(24, 20, 8, 0, s, extra=png_chunk(b"tRNS", struct.pack(">H", int(s[3, 3, 0]))))
    p = picture(40, 30).quantize(16)
    yield "png_palette_trns.png", saved(p, "PNG", transparency=3)
    yield "png_palette_cycle.png", saved(picture(41, 31).quantize(256), "PNG")
    yield "png_filters.png", saved(picture(50, 40), "PNG", optimize=True)
    yield "png_1x1.png", saved(Image.new("RGB", (1, 1), (200, 100, 50)), "PNG")
    ex = Image.Exif(); ex[0x0112] = 6
    yield "png_exif6.png", saved(picture(33, 21), "PNG", exif=ex)
    frames = [picture(30, 26, i) for i in range(2)]
    yield "png_apng.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:])


def jpegs():
    for sub, name in ((0, "444"), (1, "422"), (2, "420")):
        for w, h in ((64, 48), (37, 53)):
            yield f"jpeg_{name}_{w}x{h}.jpg", saved(picture(w, h), "JPEG", quality=85, subsampling=sub)
    yield "jpeg_progressive.jpg", saved(picture(61, 47), "JPEG", quality=80, progressive=True)
    yield "jpeg_restart.jpg", saved(picture(61, 47), "JPEG", quality=80, restart_marker_rows=1)
    yield "jpeg_low_quality.jpg", saved(picture(70, 50), "JPEG", quality=12)
    yield "jpeg_gray.jpg", saved(picture(50, 39).convert("L"), "JPEG", quality=88)
    yield "jpeg_gray_progressive.jpg", saved(picture(50, 39).convert("L"), "JPEG", progressive=True)
    yield "jpeg_cmyk.jpg", saved(picture(45, 38).convert("CMYK"), "JPEG", quality=90)
    yield "jpeg_rgb.jpg", saved(picture(45, 38), "JPEG", quality=90, keep_rgb=True)
    ycck = bytearray(saved(picture(45, 38, 3).convert("CMYK"), "JPEG", quality=90, progressive=True))
    at = ycck.find(b"Adobe")
    ycck[at + 11] = 2   # the transform code: the same data read as YCCK
    yield "jpeg_ycck.jpg", bytes(ycck)
    for o in range(1, 9):
        ex = Image.Exif(); ex[0x0112] = o
        yield f"jpeg_exif{o}.jpg", saved(picture(40, 27, o), "JPEG", quality=75, exif=ex)
    for w, h in ((1, 1), (3, 2), (400, 7), (5, 300), (16, 16), (24, 24), (28, 28)):
        yield f"jpeg_{w}x{h}.jpg", saved(picture(w, h), "JPEG", quality=80)
    whole = saved(picture(48, 40), "JPEG", quality=80)
    yield "jpeg_junk_after.jpg", whole + b"junk" * 20
    yield "jpeg_comment_dpi.jpg", saved(picture(20, 20), "JPEG", comment=b"hello", dpi=(72, 72))


def others():
    im = picture(43, 37)
    yield "webp_lossy.webp", saved(im, "WEBP", quality=80)
    yield "webp_lossless.webp", saved(im, "WEBP", lossless=True)
    rgba = im.convert("RGBA"); rgba.putalpha(picture(43, 37, 9).convert("L"))
    yield "webp_alpha.webp", saved(rgba, "WEBP", quality=80)
    yield "webp_alpha_lossless.webp", saved(rgba, "WEBP", lossless=True, exact=True)
    ex = Image.Exif(); ex[0x0112] = 8
    yield "webp_exif8.webp", saved(im, "WEBP", quality=70, exif=ex)
    frames = [picture(32, 28, i) for i in range(3)]
    yield "webp_animated.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=70)
    clear = Image.new("RGBA", (40, 36)); clear.paste(picture(17, 15), (12, 10))
    yield "webp_animated_alpha.webp", saved(clear, "WEBP", save_all=True, append_images=[rgba.resize((40, 36))], quality=70)
    yield "gif_plain.gif", saved(im.quantize(64), "GIF")
    yield "gif_interlaced.gif", saved(im.quantize(32), "GIF", interlace=1)
    yield "gif_transparent.gif", saved(im.quantize(32), "GIF", transparency=5)
    yield "gif_gray.gif", saved(im.convert("L"), "GIF")
    yield "gif_animated.gif", saved(frames[0].quantize(32), "GIF", save_all=True, append_images=[f.quantize(32) for f in frames[1:]])
    # A frame that covers part of the canvas, without and with a transparent colour: patched into plain files.
    for name, kw in (("gif_part.gif", {}), ("gif_part_transparent.gif", {"transparency": 7})):
        g = bytearray(saved(im.quantize(16), "GIF", **kw))
        g[6:10] = struct.pack("<HH", 60, 50)
        at = g.index(b"\x2c" + struct.pack("<HHHH", 0, 0, 43, 37))
        g[at + 1 : at + 5] = struct.pack("<HH", 9, 8)
        yield name, bytes(g)
    g = bytearray(saved(im.quantize(16), "GIF")); g[6:10] = struct.pack("<HH", 20, 20)
    yield "gif_beyond.gif", bytes(g)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        source = rgba if mode == "RGBA" else im
        yield f"bmp_{mode}.bmp", saved(source.quantize(60) if mode == "P" else source.convert(mode), "BMP")
        if mode in ("L", "RGB", "RGBA"):
            yield f"tiff_{mode}.tif", saved(source.convert(mode), "TIFF")
            yield f"tiff_{mode}_lzw.tif", saved(source.convert(mode), "TIFF", compression="tiff_lzw")
            yield f"tiff_{mode}_deflate.tif", saved(source.convert(mode), "TIFF", compression="tiff_adobe_deflate")
    rng = np.random.default_rng(11)
    for name, top, masks in (("rgb555", 15, b""), ("rgb565", 16, struct.pack("<III", 0xF800, 0x7E0, 0x1F))):
        rows = b"".join(row.tobytes() + b"\0" * (-len(row.tobytes()) % 4) for row in rng.integers(0, 1 << top, (15, 17)).astype("<u2"))
        head = struct.pack("<IiiHHIIiiII", 40, 17, 15, 1, 16, 3 if masks else 0, len(rows), 0, 0, 0, 0)
        yield f"bmp_{name}.bmp", b"BM" + struct.pack("<IHHI", 54 + len(masks) + len(rows), 0, 0, 54 + len(masks)) + head + masks + rows
    gray16 = np.asarray(im.convert("L"), np.uint16) * 2
    yield "tiff_I16.tif", saved(Image.fromarray(gray16), "TIFF")
    yield "tiff_orientation6.tif", saved(im, "TIFF", tiffinfo={274: 6})


def main():
    images = os.path.join(HERE, "images")
    os.makedirs(images, exist_ok=True)
    for old in os.listdir(images):
        os.remove(os.path.join(images, old))
    cases, total = {}, 0
    for name, data in [*jpegs(), *pngs(), *others()]:
        with open(os.path.join(images, name), "wb") as f:
            f.write(data)
        total += len(data)
        digests = {}
        for orient in (False, True) if "exif" in name or "orientation" in name else (False,):
            for interpolation in FILTERS:
                digests[("exif/" if orient else "none/") + interpolation] = [
                    hashlib.sha256(prepare(data, recipe, interpolation, orient).tobytes()).hexdigest()[:8] for recipe in RECIPES
                ]
        with Image.open(io.BytesIO(data)) as im:
            # As stored in the file; Pillow gives a TIFF's size as turned.
            size = list(im.size)[:: -1 if name == "tiff_orientation6.tif" else 1]
        # The pixels as decoded, so that a failure says whether decode or resize is to blame.
        decoded = Image.open(io.BytesIO(data)).convert("RGB").tobytes()
        cases[name] = {"size": size, "decoded": hashlib.sha256(decoded).hexdigest()[:8], "pixels": digests}
    out = {"pillow": PIL.__version__, "recipes": RECIPES, "images": cases}
    with open(os.path.join(HERE, "expected.json"), "w") as f:
        json.dump(out, f, indent=0, separators=(",", ":"))
        f.write("\n")
    print(f"{len(cases)} images, {total} bytes, Pillow {PIL.__version__}", file=sys.stderr)


if __name__ == "__main__":
    main()
