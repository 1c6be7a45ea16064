"""Turns a `torch.save` file of the time before PyTorch 1.6 into safetensors. Standard library only, no torch.

The file, little-endian throughout: pickles of a magic number, the format's version, the writer's machine, the state
dict, and the list of storage keys; then each storage in the order of that list, an i64 element count and the raw
elements. Unpickling runs whatever a file names, so four names are known here and every other one is refused.
"""

import array
import io
import json
import math
import pickle
import struct
import sys
from collections import OrderedDict
from typing import Any, Dict, List, Sequence, Tuple

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
# Storage class: safetensors' name, bytes an element, an array type of that width (bits are moved, never read).
KINDS = {"FloatStorage": ("F32", 4, "I"), "LongStorage": ("I64", 8, "Q")}
# Counts the batches of the training; nothing that runs a model reads it.
UNUSED_SUFFIX = "num_batches_tracked"


class BadCheckpoint(Exception):
    """Not the format above, or a file that names what it should not."""


class _Tensor:
    """What the file says of a tensor; its elements come later."""

    def __init__(self, storage: Tuple[str, str, int], offset: int, shape: Sequence[int], stride: Sequence[int], *_: Any):
        self.kind, self.key, self.numel = storage
        self.offset, self.shape, self.stride = offset, tuple(shape), tuple(stride)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in KINDS:
            return name  # Appears in persistent ids alone, never called.
        raise BadCheckpoint(f"the checkpoint names {module}.{name}, which is refused")

    def persistent_load(self, pid: Any) -> Tuple[str, str, int]:
        tag, kind, key, _device, numel, view = pid
        if tag != "storage" or kind not in KINDS or view is not None:
            raise BadCheckpoint(f"the checkpoint holds a storage of an unknown sort: {pid!r}")
        return kind, key, numel


def to_safetensors(checkpoint: bytes) -> bytes:
    """The state dict's tensors as a safetensors file, row-major, in the order of their names."""
    if sys.byteorder != "little":
        raise BadCheckpoint("this machine is big-endian, the file is not")
    source = io.BytesIO(checkpoint)
    try:
        tensors, storages = _read(source)
    except (pickle.UnpicklingError, EOFError, struct.error, KeyError, TypeError, ValueError) as e:
        raise BadCheckpoint(f"not a torch.save file of the old format: {e}") from e
    header: Dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs: List[bytes] = []
    at = 0
    for name, tensor in sorted(tensors.items()):
        if name.endswith(UNUSED_SUFFIX):
            continue
        blob = _row_major(name, tensor, storages[tensor.key]).tobytes()
        header[name] = {"dtype": KINDS[tensor.kind][0], "shape": tensor.shape, "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(blobs)


def _read(source: io.BytesIO) -> Tuple[Dict[str, _Tensor], Dict[str, array.array]]:
    def load() -> Any:
        # On a BytesIO it stops right behind the pickle.
        return _Unpickler(source).load()

    if load() != MAGIC or load() != VERSION:
        raise BadCheckpoint("not a torch.save file of the old format: its magic number is another")
    if load()["little_endian"] is not True:
        raise BadCheckpoint("the checkpoint was written on a big-endian machine")
    tensors, keys = load(), load()
    if not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
        raise BadCheckpoint("the checkpoint holds something that is no tensor")
    declared = {tensor.key: (tensor.kind, tensor.numel) for tensor in tensors.values()}
    storages = {}
    for key in keys:
        kind, numel = declared[key]
        _, width, code = KINDS[kind]
        (count,) = struct.unpack("<q", source.read(8))
        raw = source.read(max(count, 0) * width)
        if count != numel or len(raw) != count * width or array.array(code).itemsize != width:
            raise BadCheckpoint(f"storage {key} has {count} elements and {len(raw)} bytes, {numel} were declared")
        storages[key] = array.array(code, raw)
    if source.read(1):
        raise BadCheckpoint("there are bytes behind the last storage")
    return tensors, storages


def _row_major(name: str, tensor: _Tensor, storage: array.array) -> array.array:
    """The elements in row-major order. Weights that came from TensorFlow are stored in another one."""
    # A dimension of 1 has any stride.
    dimensions = [(n, step) for n, step in zip(tensor.shape, tensor.stride) if n != 1]
    out = array.array(storage.typecode)
    count = math.prod(tensor.shape)
    if count == 0:
        return out
    last = tensor.offset + sum((n - 1) * step for n, step in dimensions)
    if tensor.offset < 0 or any(step < 0 for _, step in dimensions) or last >= len(storage):
        raise BadCheckpoint(f"{name} reaches beyond its storage of {len(storage)} elements")

    def walk(at: int, dimensions: List[Tuple[int, int]]) -> None:
        if not dimensions:
            out.append(storage[at])
        elif len(dimensions) == 1:
            ((n, step),) = dimensions
            # A step of 0 repeats one element (an expanded tensor); a slice cannot say that.
            out.extend(storage[at : at + (n - 1) * step + 1 : step] if step else [storage[at]] * n)
        else:
            (n, step), *rest = dimensions
            for i in range(n):
                walk(at + i * step, rest)

    walk(tensor.offset, dimensions)
    return out
