"""Which benchmarks there are, and the processes that measure them."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from tests.benchmarks.figures import Figure, Row, Table, from_json, ratio, spread, to_json
from tests.benchmarks.settings import Settings
from tests.torture.servers import ROOT, environment

__all__ = ["GROUPS", "Group", "measured", "merged"]


@dataclass(frozen=True, slots=True)
class Group:
    """Benchmarks that are measured together, in a process of their own."""

    name: str
    title: str
    function: str
    """The module and the function that measures; it is imported where it is needed."""
    servers: bool = False
    repeated: bool = False
    """In `Settings.processes` processes; its rows have samples."""


GROUPS = (
    Group("reads", "Reads over stores in memory", "operations:reads_table", repeated=True),
    Group("writes", "Writes and deletes over stores in memory", "operations:writes_table", repeated=True),
    Group("batches", "Batches over stores in memory", "operations:batches_table", repeated=True),
    Group("servers", "Over PostgreSQL (Old) and Valkey (New)", "operations:servers_table", servers=True),
    Group("telemetry", "OpenTelemetry", "telemetry:telemetry_table"),
    Group("threads", "Threads", "concurrency:threads_table"),
    Group("tasks", "Tasks of one event loop", "concurrency:tasks_table"),
    Group("waiting", "Concurrent calls wait for nobody", "concurrency:waiting_table"),
    Group("processes", "Processes", "concurrency:processes_table", servers=True),
    Group("round-trips", "Round trips of one operation", "round_trips:round_trips_table", servers=True),
    Group("jobs", "Backfill and verify", "jobs:jobs_table", servers=True),
    Group("kills", "From a kill to the last call that begins on New", "kills:kills_table"),
    Group("stalled-new", "A New that is stalled", "stalled:stalled_table"),
    Group("memory", "Memory", "scale:memory_table"),
    Group("fairness", "Fairness of the gate", "scale:fairness_table"),
    Group("facts", "Facts", "facts:facts_table"),
)


def measured(group: Group, settings: Settings) -> Table:
    """Measure in processes of its own, one after the other."""
    times = settings.processes if group.repeated else 1
    return merged([_in_process(group, settings) for _ in range(times)])


def _in_process(group: Group, settings: Settings) -> Table:
    command = [sys.executable, "-m", "tests.benchmarks.groups", group.name, json.dumps(asdict(settings))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(), check=True)
    return from_json(json.loads(done.stdout))


def merged(tables: Sequence[Table]) -> Table:
    """One table of several runs of one benchmark, of whose samples the spread is taken anew."""
    first = tables[0]
    if len(tables) == 1:
        return first
    samples = {name: [each for table in tables for each in table.samples[name]] for name in first.samples}
    rows = [Row(row.name, {column: _anew(row, column, samples) for column in row.cells}) for row in first.rows]
    return Table(first.name, first.title, first.columns, rows, first.notes, first.first, samples)


def _anew(row: Row, column: str, samples: Mapping[str, Sequence[float]]) -> Figure:
    proxy = samples[f"{row.name}/proxy"]
    if column == "proxy":
        return spread([each * 1e6 for each in proxy], "us")
    return ratio(proxy, samples[f"{row.name}/{column.removeprefix('to ')}"])


def main(name: str, settings: str) -> None:
    """What a process of its own does: measure, and write the table to standard output."""
    (group,) = (each for each in GROUPS if each.name == name)
    with Path(os.devnull).open("w") as nowhere:  # what proxies log, as by default, goes nowhere
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(nowhere))
        table = _function(group)(group.name, group.title, Settings(**json.loads(settings)))
    sys.stdout.write(json.dumps(to_json(table)))


def _function(group: Group) -> Callable[[str, str, Settings], Table]:
    module, function = group.function.split(":")
    found: Callable[[str, str, Settings], Table] = getattr(
        importlib.import_module(f"tests.benchmarks.{module}"), function
    )
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
