#!/usr/bin/env python3
"""Puts a CPU libtorch into a folder: the part of the pinned PyTorch wheel that trawl links, about 0.5 GB.

usage: libtorch.py FOLDER STAMP

The wheel holds a CUDA build of 1 GB. libtorch_cpu.so is the same in it as elsewhere but needs two small CUDA
libraries (runtime and profiler), which work without a GPU and without a driver. GPU hosts bring their own full
PyTorch of the same version. STAMP is written into the folder and says what it was made from.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.dont_write_bytecode = True

import wheels  # noqa: E402

LIBRARIES = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
STAMP_FILE = ".trawl-stamp"
COPY_BYTES = 1 << 20
# Unpacked files, and the wheel itself.
NEEDED_BYTES = 1_200_000_000


def main() -> int:
    target, stamp = Path(os.path.abspath(sys.argv[1])), sys.argv[2]
    pins = wheels.pinned("libtorch")
    unpacked = wheels.cache() / f"libtorch-{pins[0].version}-{stamp[:16]}"
    with wheels.locked("libtorch"):
        if _stamp_of(unpacked) != stamp:
            free = shutil.disk_usage(wheels.cache()).free
            if free < NEEDED_BYTES:
                raise wheels.WheelFailure(
                    f"{wheels.cache()} has {free / 1e9:.1f} GB free, libtorch needs {NEEDED_BYTES / 1e9:.1f}: "
                    "make room or set XDG_CACHE_HOME"
                )
            _unpack([wheels.fetch(pin) for pin in pins], pins[0].version, unpacked, stamp)
        _install(unpacked, target)
    return 0


def _stamp_of(folder: Path) -> str:
    try:
        return (folder / STAMP_FILE).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _unpack(files, version: str, unpacked: Path, stamp: str) -> None:
    # Left by a run that was killed.
    for left in unpacked.parent.glob(".libtorch-*"):
        shutil.rmtree(left, ignore_errors=True)
    wheels.say(f"unpacking libtorch {version} (0.5 GB) to {unpacked}")
    with tempfile.TemporaryDirectory(dir=unpacked.parent, prefix=".libtorch-") as work:
        made = Path(work) / "libtorch"
        for file in files:
            with zipfile.ZipFile(file) as wheel:
                for member in wheel.infolist():
                    path = _place(member.filename)
                    if path and not member.is_dir():
                        (made / path).parent.mkdir(parents=True, exist_ok=True)
                        with wheel.open(member) as source, open(made / path, "wb") as sink:
                            shutil.copyfileobj(source, sink, COPY_BYTES)
        have = {path.name for path in (made / "lib").iterdir()}
        if have != LIBRARIES:
            raise wheels.WheelFailure(f"the wheels lack {sorted(LIBRARIES - have)}: wheels.txt pins what does not fit")
        # The linker is told -ltorch. The wheel's own libtorch.so pulls in the CUDA half; this one is empty.
        empty = made / "lib" / "libtorch.so"
        argv = ["cc", "-shared", "-x", "c", "/dev/null", "-Wl,-soname,libtorch.so", "-o", str(empty)]
        subprocess.run(argv, check=True)
        # torch-sys compares it with the version that it was written for.
        (made / "build-version").write_text(f"{version}+cu130\n", encoding="ascii")
        (made / STAMP_FILE).write_text(stamp, encoding="ascii")
        shutil.rmtree(unpacked, ignore_errors=True)
        os.rename(made, unpacked)


def _place(member: str) -> str:
    """Where a wheel's member goes, empty when it is not needed."""
    name = member.rsplit("/", 1)[-1]
    if member.startswith("torch/include/"):
        return member[len("torch/") :]
    if member.startswith(("torch/lib/", "nvidia/cu13/lib/")) and name in LIBRARIES:
        return f"lib/{name}"
    return ""


def _install(unpacked: Path, target: Path) -> None:
    """Hard links where the cache is on the same file system, copies elsewhere; in one rename."""
    for left in target.parent.glob(f"{target.name}.new-*"):
        shutil.rmtree(left, ignore_errors=True)
    new = target.with_name(f"{target.name}.new-{os.getpid()}")
    try:
        shutil.copytree(unpacked, new, copy_function=os.link)
    except (shutil.Error, OSError):
        shutil.rmtree(new, ignore_errors=True)
        wheels.say(f"copying libtorch (0.5 GB) from {unpacked}: the cache is on another file system")
        shutil.copytree(unpacked, new)
    # A linked folder may belong to another checkout: only the link goes.
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    os.rename(new, target)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (wheels.WheelFailure, OSError, zipfile.BadZipFile, subprocess.CalledProcessError) as e:
        print(f"setup: {e}", file=sys.stderr)
        sys.exit(1)
