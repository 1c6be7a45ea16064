"""bench/peers/table.py: medians, rates and ratios. The peers themselves need gigabytes and are not run here."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "peers"))

import table  # noqa: E402


def run(**changed) -> dict:
    usual = {"images": 100, "seconds": 10.0, "ready_s": 2.0, "cpu_s": 5.0, "peak_rss_mb": 300, "peak_pss_mb": 200}
    return {**usual, **changed}


class TableTest(unittest.TestCase):
    def test_figures_follow_from_what_was_measured(self) -> None:
        self.assertEqual(table.figures(run()), {
            "seconds": 10.0,
            "images_per_s": 10.0,
            "steady_images_per_s": 12.5,
            "cpu_s": 5.0,
            "images_per_cpu_s": 20.0,
            "peak_rss_mb": 300,
            "peak_pss_mb": 200,
        })  # fmt: skip
        self.assertEqual(set(table.figures(run())), {column.key for column in table.COLUMNS})

    def test_nothing_is_divided_by_nothing(self) -> None:
        self.assertIsNone(table.figures(run(ready_s=10.0))["steady_images_per_s"])
        self.assertIsNone(table.figures(run(cpu_s=0.0))["images_per_cpu_s"])
        # One run without a figure: no median of the others in its place.
        self.assertIsNone(table.medians([run(), run(), run(cpu_s=0.0)])["images_per_cpu_s"])

    def test_each_median_is_taken_by_itself(self) -> None:
        rows = table.medians([run(seconds=9.0, cpu_s=7.0), run(seconds=30.0, cpu_s=6.0), run(seconds=10.0, cpu_s=1.0)])
        self.assertEqual((rows["seconds"], rows["cpu_s"]), (10.0, 6.0))
        # The median of the rates, not the rate of a mean.
        self.assertEqual(rows["images_per_s"], 10.0)
        self.assertEqual(table.medians([run(seconds=10.0), run(seconds=20.0)])["seconds"], 15.0)

    def test_ratios_are_multiples_of_the_baseline(self) -> None:
        baseline, peer = table.figures(run()), table.figures(run(seconds=20.0, ready_s=4.0, cpu_s=15.0, peak_pss_mb=100))
        got = table.ratios(peer, baseline)
        self.assertEqual((got["seconds"], got["images_per_s"], got["steady_images_per_s"]), (2.0, 0.5, 0.5))
        self.assertEqual((got["cpu_s"], got["peak_rss_mb"], got["peak_pss_mb"]), (3.0, 1.0, 0.5))
        unknown = {**baseline, "cpu_s": None}
        self.assertIsNone(table.ratios(peer, unknown)["cpu_s"])
        self.assertIsNone(table.ratios(unknown, baseline)["cpu_s"])

    def test_the_table_has_ratios_beside_all_but_trawl(self) -> None:
        rows = {"trawl": table.figures(run()), "ray": table.figures(run(seconds=25.0, ready_s=25.0))}
        lines = table.markdown(rows).splitlines()
        self.assertEqual([line.count("|") for line in lines], [len(table.COLUMNS) + 2] * 4)
        self.assertEqual(lines[2], "| trawl | 10.0 | 10.0 | 12.5 | 5.0 | 20.0 | 300 | 200 |")
        self.assertEqual(
            lines[3],
            "| ray | 25.0 (2.50x) | 4.0 (0.40x) | - | 5.0 (1.00x) | 20.0 (1.00x) | 300 (1.00x) | 200 (1.00x) |",
        )
        self.assertNotIn("x)", table.markdown({"ray": rows["ray"]}))

    def test_the_same_class_is_asked_of_images_that_both_have(self) -> None:
        reference = {"a": 1, "b": 2, "c": 3}
        self.assertEqual(table.top1_share({"a": 1, "b": 9, "d": 4}, reference), 0.5)
        self.assertIsNone(table.top1_share({}, reference))


if __name__ == "__main__":
    unittest.main()
