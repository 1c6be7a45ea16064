"""docs/guarantees.md names tests; each of them is there."""

import re
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# `file::test`, `::test` (same file as before), not `module::` alone.
NAMED = re.compile(r"`[a-z_0-9]*::(?:[a-z_0-9]+::)*([a-z_0-9]+)`")
ROW = re.compile(r"^\| (\d+(?:-\d+)?(?:, \d+)*) \|", re.MULTILINE)


class Guarantees(unittest.TestCase):
    def setUp(self):
        self.text = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")

    def test_every_named_test_exists(self):
        sources = [p for d in ("common", "producer", "worker", "tests") for p in (ROOT / d).rglob("*.rs")]
        functions = set()
        modules = {p.stem for p in sources} | {p.parent.name for p in sources}
        for path in sources:
            functions.update(re.findall(r"\bfn ([a-z_0-9]+)", path.read_text(encoding="utf-8")))
        missing = [name for name in NAMED.findall(self.text) if name not in functions and name not in modules]
        self.assertEqual(missing, [])
        self.assertGreater(len(NAMED.findall(self.text)), 30)

    def test_every_row_of_the_matrix_is_there(self):
        rows = set()
        for label in ROW.findall(self.text):
            for piece in label.split(", "):
                first, _, last = piece.partition("-")
                rows.update(range(int(first), int(last or first) + 1))
        self.assertEqual(rows, set(range(1, 49)))


if __name__ == "__main__":
    unittest.main()
