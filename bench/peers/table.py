"""From measured runs to a table: medians over the rounds, and each figure as a multiple of trawl's.

Plain arithmetic and text, without a peer or a process, so that it can be tested anywhere.
"""

from dataclasses import dataclass
from statistics import median
from typing import Any, Dict, List, Optional, Sequence

# What the ratios are of.
BASELINE = "trawl"
Figures = Dict[str, Optional[float]]
# What was measured of one run; only the PSS may be unknown.
Run = Dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One figure of the table."""

    key: str
    title: str
    digits: int


COLUMNS = (
    Column("seconds", "seconds", 1),
    Column("images_per_s", "images/s", 1),
    Column("steady_images_per_s", "images/s without start-up", 1),
    Column("cpu_s", "CPU seconds", 1),
    Column("images_per_cpu_s", "images per CPU second", 1),
    Column("peak_rss_mb", "peak RSS MB", 0),
    Column("peak_pss_mb", "peak PSS MB", 0),
)


def figures(run: Run) -> Figures:
    """A run's figures: what was measured, and what follows from it. None where a divisor is nothing."""
    images, seconds, cpu = run["images"], run["seconds"], run["cpu_s"]
    return {
        "seconds": seconds,
        "images_per_s": _per(images, seconds),
        "steady_images_per_s": _per(images, seconds - run["ready_s"]),
        "cpu_s": cpu,
        "images_per_cpu_s": _per(images, cpu),
        "peak_rss_mb": run["peak_rss_mb"],
        "peak_pss_mb": run["peak_pss_mb"],
    }


def medians(runs: Sequence[Run]) -> Figures:
    """The median of each figure by itself, so a row need not be one run's; None where a run has none."""
    each = [figures(run) for run in runs]
    return {key: _median([one[key] for one in each]) for key in each[0]}


def ratios(row: Figures, baseline: Figures) -> Figures:
    """Each figure divided by the baseline's; above 1 is more, whether more is good or bad."""
    return {
        key: None if value is None or baseline[key] is None else _per(value, baseline[key])
        for key, value in row.items()
    }


def markdown(rows: Dict[str, Figures]) -> str:
    """The rows in their order; beside each figure of another than trawl, in brackets, its multiple of trawl's."""
    lines = ["| | " + " | ".join(column.title for column in COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    baseline = rows.get(BASELINE)
    for name, row in rows.items():
        multiple = ratios(row, baseline) if baseline and name != BASELINE else {}
        cells = [_cell(row[column.key], multiple.get(column.key), column.digits) for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def top1_share(answers: Dict[str, int], reference: Dict[str, int]) -> Optional[float]:
    """Of the images that both have answered, the share with the same class. None if there is no such image."""
    both = answers.keys() & reference.keys()
    return _per(sum(answers[image] == reference[image] for image in both), len(both))


def _cell(value: Optional[float], multiple: Optional[float], digits: int) -> str:
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text if multiple is None else f"{text} ({multiple:.2f}x)"


def _per(above: float, below: float) -> Optional[float]:
    return above / below if below > 0 else None


def _median(values: List[Optional[float]]) -> Optional[float]:
    known = [value for value in values if value is not None]
    return median(known) if len(known) == len(values) else None
