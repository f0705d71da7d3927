"""The explorer's deep mode: `make explore SECONDS=600`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from itertools import islice
from random import Random

import click

from tests.explorer import scenarios
from tests.explorer.any_scenario import any_outage_of_the_ledger, any_scenario
from tests.explorer.mistakes import Available
from tests.explorer.plain import PlainProxy
from zddm_flags import AsyncProxy
from zddm_flags.testing import Exploration, MakeProxy, Scenario, explore

ALGORITHMS: dict[str, MakeProxy] = {"shipped": AsyncProxy, "plain": PlainProxy}
LIMIT = 400_000
PROGRESS_SECONDS = 10.0


def to_explore(seed: int, proxy: MakeProxy) -> Iterator[tuple[str, Scenario, MakeProxy]]:
    """The named scenarios with two faults and random ones, larger and larger, in turn, and for ever.

    In each eighth of the random ones the shipped algorithm goes on without the ledger.
    """
    named = iter([each for each in vars(scenarios).items() if isinstance(each[1], Scenario)])
    number = 0
    while True:
        for name, scenario in islice(named, 1):
            if "WITHOUT_THE_LEDGER" not in name:
                yield name.lower(), dataclasses.replace(scenario, faults=2), proxy
        number += 1
        operations, faults = (2, 1) if number < 200 else (2, 2) if number < 600 else (3, 2)
        name, chance = f"random scenario {number}", Random(f"{seed} {number}")
        if proxy is AsyncProxy and number % 8 == 0:
            yield name, any_outage_of_the_ledger(chance), Available
        else:
            yield name, any_scenario(chance, operations=operations, faults=faults), proxy


class Tally:
    """What was explored so far."""

    def __init__(self) -> None:
        self.scenarios = self.states = self.schedules = self.unfinished = 0

    def add(self, found: Exploration) -> None:
        """Count one scenario."""
        self.scenarios += 1
        self.states += found.states
        self.schedules += found.schedules or 0
        self.unfinished += found.schedules is None

    def __str__(self) -> str:
        text = f"{self.scenarios} scenarios, {self.states:,} states, {self.schedules:.3g} schedules"
        return text + (f" ({self.unfinished} scenarios left at {LIMIT:,} states)" if self.unfinished else "")


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long to explore.")
@click.option("--seed", default=None, type=int, help="Draws the random scenarios; chosen and printed if left out.")
@click.option("--algorithm", type=click.Choice(sorted(ALGORITHMS)), default="shipped", help="What is explored.")
def main(seconds: float, seed: int | None, algorithm: str) -> None:
    """Explore every interleaving of more and larger scenarios, until the time is over.

    Exit code 0: no violation. 1: a violation was found and printed as a schedule. Ctrl-C ends it early, and says
    how far it came.
    """
    seed = seed if seed is not None else int(time.time())
    print(f"exploring the {algorithm} algorithm for {seconds:g} seconds, seed {seed}", flush=True)  # noqa: T201
    ends = time.monotonic() + seconds
    progress = time.monotonic() + PROGRESS_SECONDS
    tally = Tally()
    try:
        for name, scenario, made in to_explore(seed, ALGORITHMS[algorithm]):
            found = explore(scenario, made, limit=LIMIT)
            if found.violation is not None:
                print(f"{name}: {scenario}\n{found.violation}")  # noqa: T201
                print(f"again with: python -m tests.explorer --seed {seed} --algorithm {algorithm}")  # noqa: T201
                sys.exit(1)
            tally.add(found)
            now = time.monotonic()
            if now >= ends:
                break
            if now >= progress:
                progress = now + PROGRESS_SECONDS
                print(f"{ends - now:5.0f} s left: {tally}", flush=True)  # noqa: T201
    except KeyboardInterrupt:
        print(f"stopped: {tally}: no violation")  # noqa: T201
        sys.exit(130)
    print(f"{tally}: no violation")  # noqa: T201


if __name__ == "__main__":
    main()
