"""worker/models/describe: what timm's and Hugging Face's files mean, held to the same cases as common/src/bundle/."""

import json
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "worker" / "models"))

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


if __name__ == "__main__":
    unittest.main()
