"""What a benchmark gives: tables of figures with their spread, as JSON and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["RATIO", "Figure", "Row", "Table", "from_json", "markdown", "ratio", "spread", "to_json"]

RATIO = "x"
"""The unit of a time divided by another of the same run: above 1 the proxy is slower."""


class Figure(NamedTuple):
    """A figure and its spread: the quartiles of what was measured."""

    median: float
    low: float
    high: float
    unit: str
    """`x` is a ratio; `us`, `ms`, `s`, `/s` or nothing."""

    def __str__(self) -> str:
        if self.unit == RATIO:
            return f"{_short(self.median)} [{_short(self.low)}, {_short(self.high)}]"
        return f"{_short(self.median)} {self.unit}".strip()


Cell = Figure | str


class Row(NamedTuple):
    """A row of a table."""

    name: str
    cells: Mapping[str, Cell]
    """By column. A column that is not there does not apply."""


@dataclass(frozen=True, slots=True)
class Table:
    """What one benchmark found."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    first: str = ""
    """What stands above the rows' names."""
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Seconds of one operation in each turn, by row and side, for who wants to look closer."""


def spread(values: Sequence[float], unit: str) -> Figure:
    """Median and quartiles."""
    if len(values) < 2:
        return Figure(values[0], values[0], values[0], unit)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Figure(statistics.median(values), low, high, unit)


def ratio(of: Sequence[float], to: Sequence[float]) -> Figure:
    """`of` to `to`, turn by turn, so that what slowed both of a turn is in neither."""
    return spread([one / other for one, other in zip(of, to, strict=True)], RATIO)


def to_json(table: Table) -> dict[str, Any]:
    """Plain data, that `from_json` understands."""
    rows = [
        {
            "name": row.name,
            "cells": {
                column: cell if isinstance(cell, str) else cell._asdict() for column, cell in row.cells.items()
            },
        }
        for row in table.rows
    ]
    return {
        "name": table.name,
        "title": table.title,
        "columns": list(table.columns),
        "rows": rows,
        "notes": list(table.notes),
        "first": table.first,
        "samples": dict(table.samples),
    }


def from_json(data: Mapping[str, Any]) -> Table:
    """What `to_json` made."""
    rows = [
        Row(
            row["name"],
            {column: cell if isinstance(cell, str) else Figure(**cell) for column, cell in row["cells"].items()},
        )
        for row in data["rows"]
    ]
    return Table(
        data["name"],
        data["title"],
        data["columns"],
        rows,
        tuple(data["notes"]),
        data["first"],
        data.get("samples", {}),
    )


def markdown(table: Table) -> str:
    """The table, without its title and notes, aligned so that it can be read as it is."""
    lines = [[table.first, *table.columns]]
    lines += [[row.name, *(str(row.cells.get(column, "")) for column in table.columns)] for row in table.rows]
    widths = [max(len(line[number]) for line in lines) for number in range(len(lines[0]))]
    rule = "|".join(
        "-" * (width + 2) if not number else "-" * (width + 1) + ":" for number, width in enumerate(widths)
    )
    shown = [
        "| "
        + " | ".join(
            text.ljust(width) if not number else text.rjust(width)
            for number, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    return "\n".join([shown[0], f"|{rule}|", *shown[1:]])


def _short(value: float) -> str:
    """Three digits, which is more than is known."""
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
