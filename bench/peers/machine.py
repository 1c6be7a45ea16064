"""What the figures were made on and with: they mean nothing without it."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Dict, Optional

import common

PACKAGES = ("torch", "torchvision", "ray", "daft", "pyarrow", "pillow", "numpy")


def describe() -> Dict[str, Any]:
    """Processor, cores, memory, kernel, C library."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": common.cores(),
        "memory_mb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
    }


def versions(trawl: Optional[Path]) -> Dict[str, str]:
    """Of Python, of the packages that are there, and of trawl if it runs."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if trawl:
        said = subprocess.run([str(trawl), "--version"], capture_output=True, text=True, timeout=60, check=True)
        found["trawl"] = said.stdout.strip()
    return found


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"
