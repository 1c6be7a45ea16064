"""Reads an output by every reader of Parquet that is installed, and compares what they see.

    read_output.py OUT [READER...]

pyarrow is what the others are held to, and a failed image must have no answer in any of them. A reader that was named
and is not installed is an error; without names those that are missing are left out. Prints a JSON document: the columns
with their types, and the rows that each reader saw.
"""

import glob
import json
import math
import sys
from typing import Any, Callable, Dict, List

Rows = List[Dict[str, Any]]
# A double that was read as text, or a half that went through a float, may differ in its last digits.
TOLERANCE = 1e-6
OF_EVERY_PART = ("key", "etag", "size", "width", "height", "status", "error_code", "error_message")


def by_pyarrow(out: str) -> Rows:
    import pyarrow.dataset as dataset

    return dataset.dataset(sorted(glob.glob(f"{out}/*.parquet"))).to_table().to_pylist()


def by_duckdb(out: str) -> Rows:
    import duckdb

    answer = duckdb.sql(f"select * from '{out}/*.parquet'")
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row)) for row in answer.fetchall()]


def by_pandas(out: str) -> Rows:
    import pandas

    parts = [pandas.read_parquet(path, dtype_backend="pyarrow") for path in sorted(glob.glob(f"{out}/*.parquet"))]
    return pandas.concat(parts).to_dict("records")


def by_polars(out: str) -> Rows:
    import polars

    return polars.scan_parquet(f"{out}/*.parquet").collect().to_dicts()


def by_datasets(out: str) -> Rows:
    import datasets

    files = sorted(glob.glob(f"{out}/*.parquet"))
    return list(datasets.Dataset.from_parquet(files, cache_dir=f"{out}/_readers"))


def by_lancedb(out: str) -> Rows:
    import lancedb
    import pyarrow.dataset as dataset

    table = dataset.dataset(sorted(glob.glob(f"{out}/*.parquet"))).to_table()
    database = lancedb.connect(f"{out}/_readers/lance")
    return database.create_table("rows", table, mode="overwrite", on_bad_vectors="null").to_arrow().to_pylist()


READERS: Dict[str, Callable[[str], Rows]] = {
    "pyarrow": by_pyarrow,
    "duckdb": by_duckdb,
    "pandas": by_pandas,
    "polars": by_polars,
    "datasets": by_datasets,
    "lancedb": by_lancedb,
}


def plain(value: Any) -> Any:
    """The value as Python's own types, whatever the reader calls them."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(inner) for inner in value]
        # The vector of a failed image: NaN in each place, which LanceDB takes for null when told to.
        return None if items and all(item is None for item in items) else items
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= TOLERANCE * max(1.0, abs(a))
    return type(a) is type(b) and a == b


def main() -> int:
    out, wanted = sys.argv[1].rstrip("/"), sys.argv[2:]
    import pyarrow.parquet as parquet

    schema = parquet.read_schema(sorted(glob.glob(f"{out}/*.parquet"))[0])
    seen: Dict[str, int] = {}
    expected: Rows = []
    for name in wanted or READERS:
        try:
            rows = [plain(row) for row in READERS[name](out)]
        except ModuleNotFoundError:
            if wanted:
                raise
            continue
        rows.sort(key=lambda row: row["key"])
        expected = expected or rows
        for mine, theirs in zip(expected, rows):
            assert same(mine, theirs), f"{name} reads {theirs}, pyarrow reads {mine}"
        assert len(rows) == len(expected), f"{name} reads {len(rows)} rows, pyarrow {len(expected)}"
        for row in (row for row in rows if row["status"] == "error"):
            answered = [column for column in row if column not in OF_EVERY_PART and row[column] is not None]
            assert not answered, f"{name} reads an answer in {answered} of {row}"
        seen[name] = len(rows)
    columns = {field.name: str(field.type) for field in schema}
    print(json.dumps({"columns": columns, "rows": seen}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
