"""worker/models/lite0/legacy_checkpoint.py: reads what torch.save wrote, refuses what it would not have."""

import array
import io
import json
import os
import pickle
import struct
import sys
import unittest
from collections import OrderedDict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "worker" / "models" / "lite0"))

import legacy_checkpoint  # noqa: E402


class _Storage:
    def __init__(self, key: str, values: list) -> None:
        self.key, self.values = key, array.array("f", values)


class _Rebuilt:
    """Pickles as a call of torch._utils._rebuild_tensor_v2."""

    def __init__(self, storage: _Storage, offset: int, shape: tuple, stride: tuple) -> None:
        self.args = (storage, offset, shape, stride, False, OrderedDict())


class _Pickler(pickle._Pickler):
    """torch need not be there: its names are written by hand."""

    def persistent_id(self, thing):
        if isinstance(thing, _Storage):
            return ("storage", _Named("torch", "FloatStorage"), thing.key, "cpu", len(thing.values), None)
        return None

    def save(self, thing, save_persistent_id=True):
        if isinstance(thing, _Named):
            self.write(pickle.GLOBAL + f"{thing.module}\n{thing.name}\n".encode())
        elif isinstance(thing, _Rebuilt):
            self.save(_Named("torch._utils", "_rebuild_tensor_v2"))
            self.save(thing.args)
            self.write(pickle.REDUCE)
        else:
            super().save(thing, save_persistent_id)


class _Named:
    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


def checkpoint(state: dict, storages: list) -> bytes:
    out = io.BytesIO()
    for thing in (legacy_checkpoint.MAGIC, 1001, {"little_endian": True}):
        pickle.dump(thing, out, protocol=2)
    _Pickler(out, protocol=2).dump(OrderedDict(state))
    pickle.dump([storage.key for storage in storages], out, protocol=2)
    for storage in storages:
        out.write(struct.pack("<q", len(storage.values)) + storage.values.tobytes())
    return out.getvalue()


def read(safetensors: bytes) -> dict:
    (length,) = struct.unpack("<Q", safetensors[:8])
    header, body = json.loads(safetensors[8 : 8 + length]), safetensors[8 + length :]
    return {
        name: (entry["shape"], list(array.array("f", body[slice(*entry["data_offsets"])])))
        for name, entry in header.items()
        if name != "__metadata__"
    }


class CheckpointTest(unittest.TestCase):
    def test_strides_offsets_and_shared_storages_are_honoured(self) -> None:
        a, b = _Storage("7", [0, 1, 2, 3, 4, 5]), _Storage("3", [9])
        state = {
            "plain": _Rebuilt(a, 0, (2, 3), (3, 1)),
            "transposed": _Rebuilt(a, 0, (3, 2), (1, 3)),
            "tail": _Rebuilt(a, 4, (2,), (1,)),
            "scalar": _Rebuilt(b, 0, (), ()),
            "expanded": _Rebuilt(b, 0, (2, 2), (0, 0)),
            "bn.num_batches_tracked": _Rebuilt(b, 0, (), ()),
        }
        # The order of the storages in the file is the key list's, not the state dict's.
        got = read(legacy_checkpoint.to_safetensors(checkpoint(state, [b, a])))
        self.assertEqual(got, {
            "plain": ([2, 3], [0, 1, 2, 3, 4, 5]),
            "transposed": ([3, 2], [0, 3, 1, 4, 2, 5]),
            "tail": ([2], [4, 5]),
            "scalar": ([], [9]),
            "expanded": ([2, 2], [9, 9, 9, 9]),
        })  # fmt: skip

    def test_a_pickle_that_runs_something_is_refused(self) -> None:
        class Hostile:
            def __reduce__(self):
                return (os.system, ("touch /tmp/never",))

        out = io.BytesIO()
        for thing in (legacy_checkpoint.MAGIC, 1001, {"little_endian": True}, Hostile()):
            pickle.dump(thing, out, protocol=2)
        with self.assertRaisesRegex(legacy_checkpoint.BadCheckpoint, "system, which is refused"):
            legacy_checkpoint.to_safetensors(out.getvalue())

    def test_damage_is_named(self) -> None:
        a = _Storage("0", [1, 2, 3])
        whole = checkpoint({"w": _Rebuilt(a, 0, (3,), (1,))}, [a])
        cases = {
            "cut": (whole[:-1], "storage 0 has 3 elements and 11 bytes"),
            "more": (whole + b"x", "bytes behind the last storage"),
            "other": (b"PK\x03\x04", "not a torch.save file"),
            "empty": (b"", "not a torch.save file"),
            "beyond": (checkpoint({"w": _Rebuilt(a, 1, (3,), (1,))}, [a]), "w reaches beyond its storage"),
        }
        for name, (content, message) in cases.items():
            with self.subTest(name), self.assertRaisesRegex(legacy_checkpoint.BadCheckpoint, message):
                legacy_checkpoint.to_safetensors(content)


if __name__ == "__main__":
    unittest.main()
