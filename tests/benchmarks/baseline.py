"""The ratios of an earlier run, kept beside the benchmarks, and what has become slower since."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.benchmarks.figures import RATIO, Figure, Row, Table

__all__ = ["BASELINE", "GROUPS", "regressions", "write"]

BASELINE = Path(__file__).with_name("baseline.json")
ALLOWED = 1.25
GROUPS = ("reads", "writes", "batches", "servers", "telemetry", "jobs")
COLUMNS = ("to hand-written", "difference to bare spans", "to bare loop")
"""Ratios to what no change of the library can make slower."""

Kept = dict[str, dict[str, list[float]]]


def _ratios(tables: Iterable[Table]) -> Kept:
    """Median and quartiles, by table and row."""
    return {
        table.name: {
            row.name: [round(each, 3) for each in (cell.median, cell.low, cell.high)]
            for row in table.rows
            for column in COLUMNS
            if isinstance(cell := row.cells.get(column), Figure)
        }
        for table in tables
        if table.name in GROUPS
    }


def write(tables: Iterable[Table], path: Path = BASELINE) -> None:
    """Keep the ratios of this run. Groups that it did not measure stay as they are."""
    kept: Kept = json.loads(path.read_text(encoding="utf-8"))["ratios"] if path.exists() else {}
    kept |= _ratios(tables)
    lines = []
    for name in sorted(kept, key=GROUPS.index):
        rows = ",\n".join(f"      {json.dumps(row)}: {json.dumps(ratios)}" for row, ratios in kept[name].items())
        lines.append(f"    {json.dumps(name)}: {{\n{rows}\n    }}")
    python = platform.python_version()
    text = f'{{\n  "python": {json.dumps(python)},\n  "ratios": {{\n' + ",\n".join(lines) + "\n  }\n}\n"
    path.write_text(text, encoding="utf-8")


def regressions(tables: Iterable[Table], path: Path = BASELINE) -> Table:
    """Rows whose whole spread is more than a quarter above the whole spread that the baseline has."""
    baseline = json.loads(path.read_text(encoding="utf-8"))
    kept: Kept = baseline["ratios"]
    rows = []
    for name, ratios in _ratios(tables).items():
        for row, (median, low, high) in ratios.items():
            known = kept.get(name, {}).get(row)
            if known is None or low <= ALLOWED * known[2]:
                continue
            before = Figure(known[0], known[1], known[2], RATIO)
            cells: Mapping[str, Figure | str] = {
                "baseline": before,
                "now": Figure(median, low, high, RATIO),
                "slower by": f"{100 * (median / before.median - 1):.0f} %",
            }
            rows.append(Row(f"{name}: {row}", cells))
    notes = [f"The baseline was taken with Python {baseline['python']}; this is {platform.python_version()}."]
    return Table("regressions", "Slower than the baseline", ("baseline", "now", "slower by"), rows, notes, "ratio")
