"""The proof by size: does a migration of a million rows end, and is New right then?

Two real stores, live writes, and a backfill that is SIGKILLed and gone on with; then repair, verify, 100 planted
differences that verify has to find and repair to make right, and the verdict that it is time to cut over. Beside
it the bare loop that copies the same rows without the library, and what the backfill's time is spent on.

To try:
  python -m tests.finish                                   both pairs, a million rows each
  python -m tests.finish --rows 100000 --pair postgres-valkey --kills 5 --seed 7

Tokens live for 6 s in it, in place of the 30 s that are the default, so that what a killed process left is
reaped within 8 s.

exit status: 0 all holds, 1 a violation, 2 the run itself failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from tests.finish import report
from tests.finish.run import Settings, run
from tests.finish.stores import PAIRS, Pair, Places
from tests.torture.servers import Servers, running

EXIT_VIOLATION = 1
EXIT_FAILED = 2
EXIT_INTERRUPTED = 130
ROWS_MIN = 10_000
"""Enough for the keys in which differences are planted."""


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.finish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help=f"keys in Old, from {ROWS_MIN:,}")
    parser.add_argument("--pair", choices=(*PAIRS, "both"), default="both", help="Old and New")
    parser.add_argument("--seed", type=int, help="of all random choices; random if it is not given")
    parser.add_argument("--kills", type=int, default=3, help="how often the backfill is killed, from 0")
    parser.add_argument("--writes", type=float, default=300.0, help="live writes a second, at most; above 0")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args(arguments)
    if options.rows < ROWS_MIN or options.kills < 0 or not options.writes > 0:
        parser.error(f"--rows is at least {ROWS_MIN:,}, --kills 0, and --writes above 0")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    options = parsed(arguments)
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    _say(f"seed {seed}")
    settings = Settings(options.rows, seed, options.kills, options.writes, _say)
    found: list[dict[str, Any]] = []
    try:
        with running() as servers:
            for pair in PAIRS if options.pair == "both" else [options.pair]:
                found.append(_figures(pair, settings, servers))
                _say(report.table(found[-1]))
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except Exception:  # not the library's fault: an exit status of its own
        traceback.print_exc()
        return EXIT_FAILED
    if options.json:
        options.json.write_text(json.dumps({"seed": seed, "runs": found}, indent=2) + "\n")
    return _status(found)


def _status(found: Sequence[dict[str, Any]]) -> int:
    violations = sum(len(each["violations"]) for each in found)
    _say(f"{violations} violations" if violations else "no violation")
    return EXIT_VIOLATION if violations else 0


def _figures(pair: Pair, settings: Settings, servers: Servers) -> dict[str, Any]:
    """One pair of stores, in a folder and a database of its own."""
    folder = tempfile.mkdtemp(prefix="zddm-finish-")
    database = servers.postgresql.create_database()
    places = Places(
        pair=pair,
        folder=folder,
        postgresql=servers.postgresql.url(database).render_as_string(hide_password=False),
        valkey=str(servers.valkey._socket),
    )
    try:
        with (Path(folder) / "log").open("a") as log:
            structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
            return report.facts(run(places, settings))
    finally:
        structlog.reset_defaults()
        servers.postgresql.drop_database(database)
        shutil.rmtree(folder, ignore_errors=True)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
