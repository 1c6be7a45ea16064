"""worker/models/describe: what timm's and Hugging Face's files mean, held to the same cases as common/src/bundle/, and what a
bundle may say of its heads. Without torch: what needs it is worker/models/parity.py and parity_heads.py.
"""

import json
import sys
import types
import unittest
from pathlib import Path
from typing import Any, Dict, List

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "worker" / "models"))

import compare  # noqa: E402
from describe import hugging_face, spec  # noqa: E402

CASES = json.loads((ROOT / "common" / "fixtures" / "models" / "descriptions.json").read_text())


class Descriptions(unittest.TestCase):
    def test_every_pair_of_files_means_what_it_should(self) -> None:
        for case in CASES:
            with self.subTest(case["name"]):
                if "refused" in case:
                    with self.assertRaisesRegex(spec.ExportFailure, case["refused"]):
                        hugging_face.describe(case["config"], case.get("processor"))
                    continue
                described = hugging_face.describe(case["config"], case.get("processor"))
                self.assertEqual(described, case["expect"])
                spec.check({**described, "name": "m"})

    def test_what_readers_refuse_is_refused_before(self) -> None:
        good = {**next(case["expect"] for case in CASES if "expect" in case), "name": "m"}
        for field, value in (("resize_mode", "stretch"), ("interpolation", "area"), ("centre", "left"), ("fill", [0]), ("pad", 1)):
            with self.assertRaisesRegex(spec.ExportFailure, field):
                spec.check({**good, "input": {**good["input"], field: value}})
        with self.assertRaisesRegex(spec.ExportFailure, "head"):
            spec.check({**good, "head": "segmentation"})


INPUT = next(case["expect"] for case in CASES if "expect" in case)["input"]
# Those in the words of common/src/bundle/head.rs.
HEADS: List[Dict[str, Any]] = [
    {"head": "classification", "labels": ["cat", "dog"]},
    {"head": "classification", "output": ["logits"]},
    {"head": "multi_label", "threshold": 0.4, "labels": ["sun", "sea"]},
    {"head": "embedding", "dtype": "f16", "normalize": True, "output": 1},
    {"head": "detection", "threshold": 0.3, "max_boxes": 50, "labels": ["car"]},
    {"head": "detection", "output": ["b", "s", "l"]},
    {"head": "raw", "labels": []},
]


class Heads(unittest.TestCase):
    def one(self, **head: Any) -> spec.Spec:
        return {"name": "m", "input": INPUT, **head}

    def several(self, *heads: Any) -> spec.Spec:
        return {"name": "m", "input": INPUT, "heads": list(heads)}

    def refused(self, given: spec.Spec, *words: str) -> None:
        with self.assertRaises(spec.ExportFailure) as raised:
            spec.check(given)
        for word in words:
            self.assertIn(word, str(raised.exception))

    def test_every_head_is_taken_alone_and_beside_others(self) -> None:
        for head in HEADS:
            spec.check(self.one(**head))
        named = [{"name": f"h_{i}", **head} for i, head in enumerate(HEADS)]
        given = self.several(*named)
        spec.check(given)
        self.assertEqual((given["version"], spec.heads(given)), (1, named))
        self.assertEqual(spec.outputs(named[0]), [None])
        self.assertEqual(spec.outputs(named[3]), [1])
        self.assertEqual(spec.outputs(named[4]), [("boxes", 0), ("scores", 1), ("labels", 2)])
        self.assertEqual(spec.outputs(named[5]), ["b", "s", "l"])

    def test_what_means_nothing_for_a_head_is_refused(self) -> None:
        for head, field, value in (
            ("classification", "threshold", 0.5),
            ("raw", "normalize", True),
            ("raw", "labels", ["x"]),
            ("embedding", "labels", ["x"]),
            ("embedding", "max_boxes", 3),
            ("multi_label", "dtype", "f16"),
            ("detection", "resize", 3),
        ):
            self.refused(self.one(head=head, **{field: value}), f"`{field}`", head)
            self.refused(self.several({"name": "a", "head": head, field: value}), f"`{field}`", "'a'")

    def test_a_setting_out_of_its_range_is_refused(self) -> None:
        for head, field, value in (
            ("multi_label", "threshold", 1.5),
            ("multi_label", "threshold", True),
            ("detection", "max_boxes", 0),
            ("detection", "max_boxes", 10_001),
            ("embedding", "dtype", "f64"),
            ("embedding", "normalize", 1),
            ("classification", "labels", [1, 2]),
            ("classification", "labels", "ab"),
            ("classification", "output", [0, 1]),
            ("classification", "output", -1),
            ("classification", "output", True),
            ("detection", "output", "boxes"),
        ):
            with self.subTest(f"{field} {value}"):
                self.refused(self.one(head=head, **{field: value}), f"`{field}`")

    def test_several_heads_have_names_of_their_own(self) -> None:
        a = {"name": "a", "head": "raw"}
        self.refused(self.several(), "1 to 16")
        self.refused(self.several(*({"name": f"h{i}", "head": "raw"} for i in range(17))), "1 to 16")
        self.refused(self.several({"head": "raw"}), "needs a `name`")
        self.refused(self.several(a, "b"), "needs a `name`")
        for name in ("A", "1a", "a-b", "", "a" * 33, 5):
            self.refused(self.several({**a, "name": name}), repr(name))
        self.refused(self.several(a, a), "two of the `heads`")
        self.refused({**self.several(a), "head": "raw"}, "`head`")
        self.refused({**self.several(a), "labels": []}, "`labels`")

    def test_a_head_or_a_file_of_the_users_replaces_what_was_known(self) -> None:
        known = self.one(head="classification", labels=["cat", "dog"])
        self.assertEqual(spec.with_head(known, None), known)
        self.assertEqual(spec.with_head(known, "multi_label")["labels"], ["cat", "dog"])
        self.assertNotIn("labels", spec.with_head(known, "embedding"))
        with self.assertRaisesRegex(spec.ExportFailure, "--head"):
            spec.with_head(self.several({"name": "a", "head": "raw"}), "raw")
        tags = spec.overlaid(known, {"head": "multi_label", "threshold": 0.3})
        self.assertEqual((tags["labels"], tags["threshold"]), (["cat", "dog"], 0.3))
        self.assertNotIn("labels", spec.overlaid(known, {"head": "raw"}))
        several = spec.overlaid(known, {"heads": [{"name": "a", "head": "raw"}]})
        spec.check(several)
        self.assertEqual(several["input"], INPUT)


class Outputs(unittest.TestCase):
    """Which tensor a head is made of, and of which shape; the numbers are parity_heads.py's."""

    def pick(self, answer: Any, output: Any) -> Any:
        # A text stands for a tensor.
        return compare.pick(types.SimpleNamespace(Tensor=str), answer, output)

    def test_outputs_are_found_by_place_or_key(self) -> None:
        self.assertEqual(self.pick("t", None), "t")
        self.assertEqual(self.pick("t", 0), "t")
        self.assertEqual(self.pick(("a", "b"), 1), "b")
        self.assertEqual(self.pick({"x": "a"}, None), "a")
        boxes = ("scores", 1)
        self.assertEqual(self.pick({"boxes": "a", "scores": "b"}, boxes), "b")
        self.assertEqual(self.pick(["a", "b"], boxes), "b")

    def test_one_that_is_not_there_is_an_error_that_lists_the_others(self) -> None:
        for answer, output, words in (
            (("a", "b"), None, "2 outputs (0, 1): say with `output`"),
            ({"x": "a"}, "y", "'x'.*asks for 'y'"),
            ({"x": "a"}, 0, "asks for 0"),
            (("a",), 1, "asks for 1"),
            ("a", "x", "asks for 'x'"),
            ({"x": None}, "x", "NoneType"),
            ((), None, "nothing"),
        ):
            with self.assertRaisesRegex(spec.ExportFailure, words.replace("(", r"\(").replace(")", r"\)")):
                self.pick(answer, output)

    def test_shapes_are_those_of_the_head(self) -> None:
        labelled = {"name": "a", "head": "multi_label", "labels": ["x", "y"]}
        compare.check_shapes(labelled, [[2]])
        compare.check_shapes({"name": "a", "head": "raw"}, [[2, 3, 4]])
        compare.check_shapes({"name": "a", "head": "detection"}, [[7, 4], [7], [7]])
        compare.check_shapes({"name": "a", "head": "detection"}, [[0, 4], [0], [0]])
        for head, shapes, words in (
            (labelled, [[3]], "2 labels of the head 'a' for 3 classes"),
            (labelled, [[2, 1]], "one number a class"),
            ({"name": "a", "head": "raw"}, [[]], "there must be numbers"),
            ({"name": "a", "head": "embedding"}, [[0]], "there must be numbers"),
            ({"name": "a", "head": "detection"}, [[7, 4], [6], [7]], "of the head 'a' is boxes"),
            ({"name": "a", "head": "detection"}, [[4], [7], [7]], "is boxes"),
        ):
            with self.assertRaisesRegex(spec.ExportFailure, words):
                compare.check_shapes(head, shapes)


if __name__ == "__main__":
    unittest.main()
