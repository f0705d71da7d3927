"""The benchmark of a stalled New, as a table."""

from __future__ import annotations

from tests.benchmarks import stalled_new
from tests.benchmarks.figures import Figure, Row, Table, spread
from tests.benchmarks.settings import Settings

__all__ = ["stalled_table"]


def stalled_table(name: str, title: str, settings: Settings) -> Table:
    """What the proxy makes of it, to Old called directly."""
    found = stalled_new.run(settings.stalled_turns, settings.stalled_seconds)
    rows = []
    for run in found:
        for operation in stalled_new.OPERATIONS:
            cells: dict[str, Figure | str] = {
                "per second": spread([turn[operation].per_second for turn in run.proxied], "/s"),
                "Old alone": spread([turn[operation].per_second for turn in run.direct], "/s"),
                "to Old alone": _ratio(run.ratio(operation, "per_second")),
                "p99, to Old alone": _ratio(run.ratio(operation, "p99")),
                "opened after": spread([run.seconds_to_open], "s"),
                "slow operations": str(run.slow_operations),
            }
            rows.append(Row(f"{run.world} {operation}", cells))
    columns = ("per second", "Old alone", "to Old alone", "p99, to Old alone", "opened after", "slow operations")
    slow = f"longer than a quarter of the guard's budget of {stalled_new.GUARD.budget_seconds:g} s"
    notes = [f"{stalled_new.WORKERS} workers; slow: {slow}; spread: least and most."]
    return Table(name, title, columns, rows, notes, "operation")


def _ratio(figures: tuple[float, float, float]) -> Figure:
    least, median, most = figures
    return Figure(median, least, most, "x")
