"""`make bench`: what the proxy costs, as ratios that were each taken in one run.

A ratio is the proxy's time divided by that of the same thing done without it, turn by turn: above 1 the proxy is
slower. It is shown as median [quartiles].

To try:
  python -m tests.benchmarks                        everything, about four minutes
  python -m tests.benchmarks --only reads kills     some of it; --list names them
  python -m tests.benchmarks --quick                that it works; the figures mean nothing
  python -m tests.benchmarks --check                compare with the baseline

exit status: 0, or 1 where --check found what has become slower.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pyperf

from tests.benchmarks import baseline, document
from tests.benchmarks.budgets import budgets_table
from tests.benchmarks.figures import Row, Table, markdown, to_json
from tests.benchmarks.groups import GROUPS, Group, measured
from tests.benchmarks.settings import LONG, NORMAL, QUICK, Settings
from tests.torture.servers import running

EXIT_SLOWER = 1
VALKEY_DATABASES = 16


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's arguments."""
    names = [group.name for group in GROUPS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="measure these alone")
    parser.add_argument("--list", action="store_true", help="name what there is, and end")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="as little as shows that everything works")
    size.add_argument("--long", action="store_true", help="more of everything: 10^7 operations, 10^8 hashes")
    parser.add_argument("--kills", type=int, help=f"how many kills, from 1 (default: {NORMAL.kills})")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--pyperf", type=Path, help="a file for the timings, as `python -m pyperf` reads them")
    parser.add_argument("--document", action="store_true", help="put the tables into docs/performance.md")
    against = parser.add_mutually_exclusive_group()
    against.add_argument("--check", action="store_true", help="compare the ratios with the baseline")
    against.add_argument("--baseline", action="store_true", help="write the baseline")
    parser.add_argument("--against", type=Path, default=baseline.BASELINE, help="another file for the baseline")
    options = parser.parse_args(arguments)
    if options.kills is not None and options.kills < 1:
        parser.error("--kills is at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print; returns the exit status."""
    options = parsed(arguments)
    if options.list:
        for group in GROUPS:
            _say(f"{group.name:12} {group.title}")
        return 0
    size = QUICK if options.quick else LONG if options.long else NORMAL
    if options.kills is not None:
        size = replace(size, kills=options.kills)
    names = options.only or [group.name for group in GROUPS]
    if options.check or options.baseline:
        names = [name for name in names if name in baseline.GROUPS]
    load = _load()
    tables = _tables(names, size)
    tables.append(_machine(load))
    _show(tables[-1])
    if options.json is not None:
        found = {"tables": [to_json(table) for table in tables]}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.pyperf is not None:
        _dump(tables, options.pyperf)
    if options.document:
        document.put(tables)
    if options.baseline:
        baseline.write(tables, options.against)
    return _checked(tables, size, options.against) if options.check else 0


def _tables(names: Sequence[str], settings: Settings) -> list[Table]:
    """Measure and show each, and the budgets that they tell of."""
    tables: dict[str, Table] = {}
    groups = [group for group in GROUPS if group.name in names]
    with ExitStack() as stack:
        places = _places(groups, settings, stack)
        pool = stack.enter_context(ThreadPoolExecutor(settings.at_once))
        for group, (table, seconds) in zip(groups, pool.map(_timed, groups, places), strict=True):
            tables[group.name] = table
            _show(table, seconds)
    budgets = budgets_table("budgets", "Budgets", tables)
    if budgets.rows:
        tables["budgets"] = budgets
        _show(budgets)
    return list(tables.values())


def _timed(group: Group, settings: Settings) -> tuple[Table, float]:
    began = time.perf_counter()
    return measured(group, settings), time.perf_counter() - began


def _places(groups: Sequence[Group], settings: Settings, stack: ExitStack) -> list[Settings]:
    """The settings of each, with databases of its own where it needs servers."""
    if not any(group.servers for group in groups):
        return [settings] * len(groups)
    servers = stack.enter_context(running())
    places = []
    for number, group in enumerate(groups):
        url = ""
        if group.servers:
            made = servers.postgresql.url(servers.postgresql.create_database())
            by_tcp = made.set(host=servers.postgresql.host, query={})
            url = by_tcp.render_as_string(hide_password=False)
        places.append(
            replace(
                settings, postgresql=url, valkey=servers.valkey.port, valkey_database=number % VALKEY_DATABASES
            )
        )
    return places


def _show(table: Table, seconds: float | None = None) -> None:
    took = "" if seconds is None else f" ({seconds:.0f} s)"
    notes = "".join(f"\n{note}" for note in table.notes)
    _say(f"## {table.title}: {table.name}{took}\n\n{markdown(table)}\n{notes}\n")


def _checked(tables: Sequence[Table], settings: Settings, against: Path) -> int:
    """Whether a row is slower, and still is when it is measured once more: a busy machine is seldom so twice."""
    slower = baseline.regressions(tables, against)
    if slower.rows:
        names = list(dict.fromkeys(row.name.split(":")[0] for row in slower.rows))
        _say(f"slower, so once more: {', '.join(row.name for row in slower.rows)}\n")
        again = baseline.regressions(_tables(names, settings), against)
        before = {row.name for row in slower.rows}
        slower = replace(again, rows=[row for row in again.rows if row.name in before])
    if not slower.rows:
        _say("nothing is more than 25 % slower than the baseline, beyond its spread")
        return 0
    _show(slower)
    return EXIT_SLOWER


def _machine(load: str) -> Table:
    """What the figures depend on; no name of the machine or of its folders."""
    metadata = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    found = {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "processor": str(metadata.get("cpu_model_name", platform.machine())),
        "processors": str(os.cpu_count()),
        "system": platform.system(),
        "load before (1, 5, 15 minutes)": load,
        "load after": _load(),
    }
    return Table("machine", "Machine", ("",), [Row(name, {"": value}) for name, value in found.items()])


def _load() -> str:
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


def _dump(tables: Sequence[Table], path: Path) -> None:
    """Each side of each row as a benchmark of pyperf's, in which a turn is a value."""
    benchmarks = [
        pyperf.Benchmark([pyperf.Run(values, metadata={"name": f"{table.name}: {name}"}, collect_metadata=False)])
        for table in tables
        for name, values in table.samples.items()
    ]
    if not benchmarks:
        raise SystemExit("--pyperf: nothing was timed that pyperf could read; measure `reads`, for one")
    pyperf.BenchmarkSuite(benchmarks).dump(str(path), replace=True)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
