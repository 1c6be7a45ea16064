#!/usr/bin/env python3
"""Draws images of every variant that Pillow writes, with what Pillow reads back: the corpus behind docs/formats.md.

    python3 -m venv venv && venv/bin/pip install pillow==13.0.0 numpy
    venv/bin/python tests/python/format_corpus.py /tmp/corpus --seed 7
    TRAWL_GOLDEN=/tmp/corpus cargo test -p trawl-worker --test preprocess_golden every_decode

The folder is like worker/tests/golden: images/ and expected.json. Another seed draws other pictures, sizes and qualities.
"""

import argparse
import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "worker" / "tests" / "golden"))
from make_golden import picture, png_chunk, raw_png, saved  # noqa: E402

TIFF_COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd", "lzma", "webp", "jpeg", "group3", "group4")
TIFF_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")


def jpegs(rng, im):
    for sub in (0, 1, 2, "4:1:1"):
        for progressive in (False, True):
            for quality in (int(rng.integers(5, 40)), int(rng.integers(60, 96))):
                kw = dict(quality=quality, progressive=progressive, optimize=bool(rng.integers(0, 2)))
                yield f"rgb_{sub}_{progressive}_{quality}".replace(":", ""), saved(im, "JPEG", subsampling=sub, **kw)
    for progressive in (False, True):
        yield f"gray_{progressive}", saved(im.convert("L"), "JPEG", quality=85, progressive=progressive)
        yield f"cmyk_{progressive}", saved(im.convert("CMYK"), "JPEG", quality=85, progressive=progressive)
        for name, transform in (("ycck", 2), ("adobe_none", 0), ("adobe_odd", 7)):
            data = bytearray(saved(im.convert("CMYK"), "JPEG", quality=85, progressive=progressive))
            data[data.find(b"Adobe") + 11] = transform
            yield f"{name}_{progressive}", bytes(data)
        # CMYK without Adobe's segment is not inverted.
        data = saved(im.convert("CMYK"), "JPEG", quality=85, progressive=progressive)
        at = data.find(b"\xff\xee")
        yield f"cmyk_plain_{progressive}", data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]
    yield "keep_rgb", saved(im, "JPEG", keep_rgb=True)
    yield "restart_blocks", saved(im, "JPEG", restart_marker_blocks=3)
    yield "restart_rows_progressive", saved(im, "JPEG", restart_marker_rows=1, progressive=True)
    yield "qtables", saved(im, "JPEG", qtables="web_high")
    yield "icc_comment", saved(im, "JPEG", comment=b"hello", icc_profile=b"\0" * 70000)
    yield "lossless_gray", lossless(np.asarray(im.convert("L"))[..., None])
    yield "lossless_rgb", lossless(np.asarray(im))
    if shutil.which("jpegtran"):
        for name, source, flags in (("rgb", im, []), ("gray", im.convert("L"), []), ("progressive", im, ["-progressive"])):
            command = ["jpegtran", "-arithmetic", *flags]
            yield f"arithmetic_{name}", subprocess.run(command, input=saved(source, "JPEG", quality=85), stdout=subprocess.PIPE, check=True).stdout
    if "MPO" in Image.SAVE_ALL:
        yield "mpo", saved(im, "MPO", save_all=True, append_images=[im])


def lossless(samples):
    """A lossless JPEG, which Pillow reads and does not write: each sample by its difference from the one on its left."""
    h, w, channels = samples.shape
    samples = samples.astype(int)
    bits = []
    for y in range(h):
        for x in range(w):
            for c in range(channels):
                before = samples[y, x - 1, c] if x else samples[y - 1, 0, c] if y else 128
                off = int(samples[y, x, c] - before)
                size = abs(off).bit_length()
                bits.append(f"{size:04b}")
                if size:
                    bits.append(f"{off if off > 0 else off + (1 << size) - 1:0{size}b}")
    coded = "".join(bits)
    coded += "1" * (-len(coded) % 8)
    # One table: ten lengths of differences, four bits for each.
    table = bytes([0, 0, 0, 0, 10] + [0] * 12 + list(range(10)))
    frame = struct.pack(">BHHB", 8, h, w, channels) + b"".join(bytes([c + 1, 0x11, 0]) for c in range(channels))
    scan = bytes([channels]) + b"".join(bytes([c + 1, 0]) for c in range(channels)) + bytes([1, 0, 0])
    segment = lambda marker, body: bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
    data = int(coded, 2).to_bytes(len(coded) // 8, "big").replace(b"\xff", b"\xff\0")
    return b"\xff\xd8" + segment(0xC4, table) + segment(0xC3, frame) + segment(0xDA, scan) + data + b"\xff\xd9"


def pngs(rng, im):
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        source = Image.fromarray(np.asarray(im.convert("L"), np.uint16) * 200) if mode == "I;16" else im.quantize(40) if mode == "P" else im.convert(mode)
        for level in (0, 9):
            yield f"{mode}_{level}".replace(";", ""), saved(source, "PNG", compress_level=level)
    for bits in (1, 2, 4):
        yield f"palette{bits}", saved(im.quantize(1 << bits), "PNG", bits=bits)
    yield "palette_alpha", saved(im.quantize(30), "PNG", transparency=bytes(range(0, 240, 8)))
    yield "gray_trns", saved(im.convert("L"), "PNG", transparency=77)
    yield "rgb_trns", saved(im, "PNG", transparency=(1, 2, 3))
    w, h = im.size
    for bits, color, channels in ((1, 0, 1), (16, 0, 1), (8, 2, 3), (16, 2, 3), (4, 3, 1), (8, 4, 2), (16, 4, 2), (8, 6, 4), (16, 6, 4)):
        for interlace in (False, True):
            samples = rng.integers(0, 1 << bits, (h, w, channels))
            palette = rng.integers(0, 256, 48, dtype=np.uint8).tobytes() if color == 3 else None
            yield f"raw_{bits}_{color}_{interlace}", raw_png(w, h, bits, color, samples, interlace, palette=palette)
    gamma = png_chunk(b"gAMA", struct.pack(">I", 100000)) + png_chunk(b"sRGB", b"\0")
    yield "gamma", raw_png(w, h, 8, 2, rng.integers(0, 256, (h, w, 3)), extra=gamma)
    short = rng.integers(0, 256, 9, dtype=np.uint8).tobytes()
    yield "short_palette", raw_png(w, h, 8, 3, rng.integers(0, 3, (h, w, 1)), palette=short)
    yield "beyond_palette", raw_png(w, h, 8, 3, rng.integers(0, 9, (h, w, 1)), palette=short)
    for default in (False, True):
        yield f"apng_{default}", saved(im, "PNG", save_all=True, default_image=default, append_images=[im.rotate(9), im.rotate(99)])


def webps(rng, im):
    rgba = im.convert("RGBA")
    rgba.putalpha(picture(*im.size, 9).convert("L"))
    for method in (0, 6):
        yield f"lossy_{method}", saved(im, "WEBP", quality=int(rng.integers(1, 100)), method=method)
        yield f"lossless_{method}", saved(im, "WEBP", lossless=True, method=method)
        for exact in (False, True):
            yield f"alpha_{method}_{exact}", saved(rgba, "WEBP", quality=70, method=method, exact=exact)
            yield f"alpha_lossless_{method}_{exact}", saved(rgba, "WEBP", lossless=True, method=method, exact=exact)
    for lossless in (False, True):
        kw = dict(save_all=True, lossless=lossless, minimize_size=lossless, duration=50)
        yield f"animated_{lossless}", saved(im, "WEBP", append_images=[im.rotate(5), im.rotate(9)], **kw)
        yield f"animated_alpha_{lossless}", saved(rgba, "WEBP", append_images=[rgba.rotate(5)], background=(9, 99, 199, 255), **kw)
    yield "animated_mixed", saved(im, "WEBP", save_all=True, allow_mixed=True, append_images=[im.rotate(5)])
    yield "metadata", saved(im, "WEBP", icc_profile=b"\0" * 300, xmp=b"<x/>")


def gifs(rng, im):
    for colors in (2, 3, 16, 129, 256):
        for interlace in (0, 1):
            yield f"{colors}_{interlace}", saved(im.quantize(colors), "GIF", interlace=interlace)
    yield "gray", saved(im.convert("L"), "GIF")
    yield "one", saved(im.convert("1"), "GIF")
    yield "rgba", saved(im.convert("RGBA"), "GIF")
    yield "transparent", saved(im.quantize(16), "GIF", transparency=int(rng.integers(0, 16)))
    for disposal in (0, 1, 2, 3):
        yield f"animated_{disposal}", saved(im, "GIF", save_all=True, append_images=[im.rotate(9), im.rotate(20)], disposal=disposal)
    yield "background", saved(im.quantize(16), "GIF", background=3, transparency=2)
    old = bytearray(saved(im.quantize(16), "GIF"))
    old[3:6] = b"87a"
    yield "87a", bytes(old)


def bmps(rng, im):
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        source = im.quantize(50) if mode == "P" else im.convert(mode)
        yield mode, saved(source, "BMP")
        # Upside down: rows from the top.
        data = bytearray(saved(source, "BMP"))
        height = struct.unpack_from("<i", data, 22)[0]
        struct.pack_into("<i", data, 22, -height)
        yield f"{mode}_top", bytes(data)
    for colors in (2, 9, 16):
        yield f"P{colors}", saved(im.quantize(colors), "BMP")
    w, h = im.size
    gray = np.asarray(im.convert("L"))
    yield "rgb555", bmp(w, h, 16, 0, rng.integers(0, 1 << 15, (h, w)).astype("<u2"))
    yield "rgb565", bmp(w, h, 16, 3, rng.integers(0, 1 << 16, (h, w)).astype("<u2"), struct.pack("<III", 0xF800, 0x7E0, 0x1F))
    yield "rgb555_fields", bmp(w, h, 16, 3, rng.integers(0, 1 << 15, (h, w)).astype("<u2"), struct.pack("<III", 0x7C00, 0x3E0, 0x1F))
    yield "rgb32", bmp(w, h, 32, 0, rng.integers(0, 256, (h, w * 4)).astype(np.uint8))
    for name, masks in (("bgrx", (0xFF0000, 0xFF00, 0xFF)), ("rgbx", (0xFF, 0xFF00, 0xFF0000)), ("xbgr", (0xFF000000, 0xFF0000, 0xFF00))):
        yield f"rgb32_{name}", bmp(w, h, 32, 3, rng.integers(0, 256, (h, w * 4)).astype(np.uint8), struct.pack("<III", *masks))
    palette = bytes(v for i in range(256) for v in (i, 255 - i, i // 2, 0))
    yield "rle8", bmp(w, h, 8, 1, rle8(gray), palette)
    yield "rle4", bmp(w, h, 4, 2, rle4(gray >> 4), palette[:64])
    yield "os2", os2(w, h, gray, bytes(v for i in range(256) for v in (i, i, i)))


def bmp(w, h, bits, compression, rows, between=b""):
    data = b"".join(row.tobytes() + b"\0" * (-len(row.tobytes()) % 4) for row in rows) if isinstance(rows, np.ndarray) else rows
    offset = 54 + len(between)
    colors = len(between) // 4 if bits <= 8 else 0
    head = struct.pack("<IiiHHIIiiII", 40, w, h, 1, bits, compression, len(data), 2835, 2835, colors, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + head + between + data


def os2(w, h, gray, palette):
    data = b"".join(row.tobytes() + b"\0" * (-w % 4) for row in gray[::-1])
    offset = 26 + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + struct.pack("<IHHHH", 12, w, h, 1, 8) + palette + data


def rle8(gray):
    out = b""
    for row in gray[::-1]:
        for start in range(0, len(row), 200):
            part = row[start : start + 200]
            if len(part) >= 3 and start % 400 == 0:
                out += bytes([0, len(part)]) + part.tobytes() + b"\0" * (len(part) % 2)
            else:
                out += b"".join(bytes([1, v]) for v in part)
        out += b"\0\0"
    return out + b"\0\1"


def rle4(gray):
    out = b""
    for row in gray[::-1]:
        out += b"".join(bytes([1, int(v) << 4]) for v in row) + b"\0\0"
    return out + b"\0\1"


def tiffs(rng, im):
    rgba = im.convert("RGBA")
    rgba.putalpha(picture(*im.size, 9).convert("L"))
    for mode in TIFF_MODES:
        if mode == "I;16":
            source = Image.fromarray(np.asarray(im.convert("L"), np.uint16) * int(rng.integers(1, 250)))
        elif mode in ("P", "PA"):
            source = im.quantize(90) if mode == "P" else im.quantize(90).convert("PA")
        elif mode == "LAB":
            source = Image.merge("LAB", im.split())
        else:
            source = rgba if mode == "RGBA" else im.convert(mode)
        for compression in TIFF_COMPRESSIONS:
            yield f"{mode}_{compression}".replace(";", ""), lambda s=source, c=compression: saved(s, "TIFF", compression=c)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate"):
        for mode in ("L", "RGB", "RGBA"):
            source = rgba if mode == "RGBA" else im.convert(mode)
            yield f"predictor_{mode}_{compression}", lambda s=source, c=compression: saved(s, "TIFF", compression=c, tiffinfo={317: 2})
            yield f"strips_{mode}_{compression}", lambda s=source, c=compression: saved(s, "TIFF", compression=c, strip_size=200)
    for orientation in range(1, 9):
        yield f"turned{orientation}", saved(im, "TIFF", tiffinfo={274: orientation})
    yield "big", lambda: saved(im, "TIFF", big_tiff=True)
    yield "pages", saved(im, "TIFF", save_all=True, append_images=[im.rotate(9)])
    w, h = im.size
    for byte_order in ("<", ">"):
        for name, shape, bits, photometric, extra in (
            ("gray8", (h, w), 8, 1, ()), ("white_is_zero", (h, w), 8, 0, ()), ("gray16", (h, w), 16, 1, ()), ("rgb16", (h, w, 3), 16, 2, ()),
            ("rgba16", (h, w, 4), 16, 2, (2,)), ("rgba_premultiplied", (h, w, 4), 8, 2, (1,)), ("rgbx", (h, w, 4), 8, 2, (0,)), ("la", (h, w, 2), 8, 1, (2,)),
        ):
            samples = rng.integers(0, 1 << bits, shape).astype(f"{byte_order}u{bits // 8}")
            yield f"raw_{name}_{'le' if byte_order == '<' else 'be'}", raw_tiff(samples, bits, photometric, extra, byte_order)


def raw_tiff(samples, bits, photometric, extra, order):
    """An uncompressed TIFF of any kind, since Pillow writes only some."""
    h, w = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    data = samples.tobytes()
    values = {256: [w], 257: [h], 258: [bits] * channels, 259: [1], 262: [photometric], 273: [8], 277: [channels], 278: [h], 279: [len(data)]}
    if extra:
        values[338] = list(extra)
    tail, entries, at = b"", b"", 8 + len(data) + len(data) % 2
    after = at + 2 + 12 * len(values) + 4
    for tag, listed in sorted(values.items()):
        kind, code, size = (4, "I", 4) if tag in (273, 279) else (3, "H", 2)
        packed = struct.pack(f"{order}{len(listed)}{code}", *listed)
        if len(packed) > 4:
            entries += struct.pack(f"{order}HHII", tag, kind, len(listed), after + len(tail))
            tail += packed
        else:
            entries += struct.pack(f"{order}HHI", tag, kind, len(listed)) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, at)
    return head + data + b"\0" * (len(data) % 2) + struct.pack(f"{order}H", len(values)) + entries + b"\0" * 4 + tail


FORMATS = {"jpg": jpegs, "png": pngs, "webp": webps, "gif": gifs, "bmp": bmps, "tif": tiffs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    (args.folder / "images").mkdir(parents=True, exist_ok=True)
    cases, skipped = {}, []
    for ending, draw in FORMATS.items():
        im = picture(int(rng.integers(9, 90)), int(rng.integers(9, 90)), args.seed)
        for name, data in draw(rng, im):
            name = f"{ending}_{name}.{ending}"
            try:
                data = data() if callable(data) else data
                with Image.open(io.BytesIO(data)) as opened:
                    size = list(opened.size)
                    pixels = opened.convert("RGB").tobytes()
            except Exception as e:  # Pillow raises many kinds
                skipped.append(f"{name}: {type(e).__name__}: {e}")
                continue
            (args.folder / "images" / name).write_bytes(data)
            cases[name] = {"size": size, "decoded": hashlib.sha256(pixels).hexdigest()[:8], "pixels": {}}
    out = {"pillow": PIL.__version__, "recipes": [], "images": cases}
    (args.folder / "expected.json").write_text(json.dumps(out, indent=0))
    print(f"{len(cases)} images, Pillow {PIL.__version__}, libjpeg-turbo {features.version('jpg')}; not written or read by Pillow itself:", file=sys.stderr)
    print("\n".join(f"  {line}" for line in skipped), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
