"""The design's budgets, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.benchmarks.facts import EVALUATIONS, IMPORTED
from tests.benchmarks.figures import Figure, Row, Table, spread

__all__ = ["BUDGETS", "budgets_table"]


class Budget(NamedTuple):
    """One limit."""

    what: str
    limit: float
    unit: str
    at_least: bool = False


HIT = Budget("read that New serves, to the hand-written code", 3.0, "x")
CLOSED = Budget("read with the gate closed, to the hand-written code", 2.5, "x")
OVERHEAD = Budget(
    "overhead of the Migrator at its least, to the overhead of a read that New serves", 30.0, "x", True
)
EVALUATED = Budget(EVALUATIONS, 0, "")
SPANS = Budget("what spans add, always on, to the same number of bare spans", 1.3, "x")
UNSAMPLED = Budget("what an unsampled parent adds", 2.0, "us")
KILL = Budget("kill, I/O-bound load, p99", 5.0, "ms")
BACKFILL = Budget("backfill, of the bare loop's rows a second", 70.0, "%", True)
LOADED = Budget(IMPORTED, 0, "")
BUDGETS = (HIT, CLOSED, OVERHEAD, EVALUATED, SPANS, UNSAMPLED, KILL, BACKFILL, LOADED)


def budgets_table(name: str, title: str, tables: Mapping[str, Table]) -> Table:
    """Those that the tables tell of: the worse of both worlds, where there are two."""
    rows = [_row(budget, found) for budget in BUDGETS if (found := _found(budget, tables)) is not None]
    return Table(name, title, ("budget", "measured", "verdict"), rows, first="what")


def _row(budget: Budget, found: Figure) -> Row:
    wanted = Figure(budget.limit, budget.limit, budget.limit, budget.unit)
    measured = found.median
    met = measured >= budget.limit if budget.at_least else measured <= budget.limit
    verdict = "met"
    if not met:
        by = budget.limit / measured if budget.at_least else measured / (budget.limit or 1)
        verdict = f"missed {by:.1f} times" if budget.limit else "missed"
    cells = {
        "budget": f"{'>=' if budget.at_least else '<='} {_plain(wanted)}",
        "measured": str(found) if found.unit else f"{found.median:.0f}",
        "verdict": verdict,
    }
    return Row(budget.what, cells)


def _plain(figure: Figure) -> str:
    return f"{figure.median:g}{'' if figure.unit == 'x' else ' '}{figure.unit}".strip()


def _found(budget: Budget, tables: Mapping[str, Table]) -> Figure | None:
    if budget is OVERHEAD:
        return _overhead(tables)
    if budget in (EVALUATED, LOADED):
        text = _cells("facts", budget.what, "found", tables)
        return None if not text else _number(str(text[0]))
    places = {
        HIT: ("reads", ", new_hit", "to hand-written"),
        CLOSED: ("reads", ", old", "to hand-written"),
        SPANS: ("telemetry", "always on", "difference to bare spans"),
        UNSAMPLED: ("telemetry", "unsampled parent", "difference"),
        KILL: ("kills", "I/O-bound load", "p99"),
        BACKFILL: ("jobs", "backfill", "share"),
    }
    figures = [each for each in _cells(*places[budget], tables) if isinstance(each, Figure)]
    if not figures:
        return None
    return (min if budget.at_least else max)(figures, key=lambda each: each.median)


def _cells(table: str, ending: str, column: str, tables: Mapping[str, Table]) -> Sequence[Figure | str]:
    """A column of the rows whose name ends so."""
    rows = tables[table].rows if table in tables else ()
    return [row.cells[column] for row in rows if row.name.endswith(ending) and column in row.cells]


def _number(text: str) -> Figure:
    many = int(text) if text.isdigit() else 0 if text == "none" else len(text.split(","))
    return Figure(many, many, many, "")


def _overhead(tables: Mapping[str, Table]) -> Figure | None:
    """(Migrator - adapter) / (proxy - adapter), turn by turn."""
    samples = tables["reads"].samples if "reads" in tables else {}
    sides = [samples.get(f"blocking read, new_hit/{side}", ()) for side in SIDES]
    if not all(sides):
        return None
    return spread(
        [(least - adapter) / (proxy - adapter) for proxy, adapter, least in zip(*sides, strict=True)], "x"
    )


SIDES = ("proxy", "adapter", "Migrator at its least")
