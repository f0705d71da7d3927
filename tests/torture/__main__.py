"""The torture: is a read ever stale, whatever fails?

Real processes, each an application with a proxy and a real LaunchDarkly client, move keys between a real
PostgreSQL and a real Valkey server, with the ledger beside Old. Meanwhile processes are SIGKILLed, servers crash
and restart, connections are cut, are slow, deliver late or swallow everything, tasks are cancelled, and the flag
goes up and down. Each operation is recorded with its begin and end. Afterwards every read of every key must be
explained by some order of the writes (linearizability), and where the ledger trusts New, New must equal Old.

To try:
  python -m tests.torture                                  both directions, 30 s each
  python -m tests.torture --seconds 600 --seed 7           for long; the same choices each time
  python -m tests.torture --algorithm plain                a read-through, write-through cache: it is caught

exit status: 0 no violation, 1 a violation, 2 the torture itself failed or proved too little, 130 interrupted.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from tests.torture import report
from tests.torture.director import Plan, run
from tests.torture.servers import running
from tests.torture.stores import DIRECTIONS

EXIT_VIOLATION = 1
EXIT_FAILED = 2
EXIT_INTERRUPTED = 130
SECONDS_MIN = 10.0
FILES_SHOWN = 3


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help=f"how long faults last, for each direction; from {SECONDS_MIN:g}",
    )
    parser.add_argument("--seed", type=int, help="of all random choices; random if it is not given")
    parser.add_argument("--direction", choices=(*DIRECTIONS, "both"), default="both", help="from Old to New")
    parser.add_argument("--algorithm", choices=("zddm", "plain"), default="zddm", help="what the workers use")
    parser.add_argument("--workers", type=int, default=4, help="processes at a time; every other one is asyncio")
    parser.add_argument("--concurrency", type=int, default=4, help="threads, or tasks, of each process")
    parser.add_argument(
        "--output",
        type=Path,
        help="a folder for all histories and logs; else they are kept only if something fails",
    )
    parsed = parser.parse_args(arguments)
    if parsed.seconds < SECONDS_MIN:
        parser.error(f"--seconds is at least {SECONDS_MIN:g}, or some faults would not happen")
    if parsed.workers < 1 or parsed.concurrency < 1:
        parser.error("--workers and --concurrency are at least 1")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Run the torture; returns the exit status."""
    options = parsed(arguments)
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    _say(f"seed {seed}")
    folder = options.output or Path(tempfile.mkdtemp(prefix="zddm-torture-"))
    status = EXIT_FAILED
    try:
        status = _run(options, seed, folder)
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
        _say("interrupted")
    except Exception:  # not the algorithm's fault: an exit status of its own
        traceback.print_exc()
    finally:
        if status in {EXIT_VIOLATION, EXIT_FAILED} or options.output:
            _say(f"seed {seed}; histories and logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return status


def _run(options: argparse.Namespace, seed: int, folder: Path) -> int:
    status = 0
    with running() as servers:
        for direction in DIRECTIONS if options.direction == "both" else [options.direction]:
            _say(f"{direction}: {options.seconds:g} s")
            place = folder / direction
            place.mkdir(parents=True)
            plan = Plan(
                direction,
                options.seconds,
                seed,
                options.algorithm,
                options.workers,
                options.concurrency,
                place,
                _say,
            )
            result = run(plan, servers)
            _say(report.summary(result))
            if report.found(result):
                paths = report.save(result, place)
                _say("".join(f"  {path}\n" for path in paths[:FILES_SHOWN]) + f"  {len(paths)} keys in all")
                status = EXIT_VIOLATION
            elif why := report.empty(result):
                _say(f"  the run proves too little: {'; '.join(why)}")
                status = status or EXIT_FAILED
    return status


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _interrupt(number: int, _: object) -> None:
    """Interrupt once: what follows is the clean end, which nothing is to interrupt."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _interrupt)
    sys.exit(main())
