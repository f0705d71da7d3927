"""Small scenarios that nobody thought of, drawn at random."""

from __future__ import annotations

import dataclasses
from random import Random
from typing import Any

from tests.explorer.scenarios import GUARD, SHADOW
from zddm_flags import Rollout
from zddm_flags.testing import (
    Advance,
    BackfillPage,
    BackgroundWork,
    Crash,
    Delete,
    Disable,
    Enable,
    MarkUnmarked,
    Outage,
    Read,
    ReadMany,
    Recovery,
    RepairPage,
    Scenario,
    SetRate,
    Step,
    VerifyPage,
    Write,
    WriteMany,
)
from zddm_flags.testing.scenario import Operation

__all__ = ["any_outage_of_the_ledger", "any_scenario"]

RATES = (0.0, 0.3, 1.0, Rollout(read=0.0, write=1.0), Rollout(read=0.3, write=0.8))
HASH_RATES = {"k": 0.5, "l": 0.2}
NO_BATCHES = ("old.read_many", "old.write_many", "new.read_many", "new.write_many", "new.delete_many")
LACKING: tuple[tuple[str, ...], ...] = ((), ("new.delete", "new.delete_many"), NO_BATCHES)
TARGETS = ("old", "new", "ledger")
SECONDS = (9.0, 15.0, 20.0, 60.0)


def any_scenario(
    chance: Random, *, operations: int = 2, events: int = 2, batches: bool = True, faults: int = 1
) -> Scenario:
    """Two keys, two processes at any rates, a New that holds what it may hold, and at most so many faults.

    The proxies may have a guard, copy in any way and compare; then up to two steps do their background work.
    """
    opened = chance.choice([0.0, 0.3, 1.0])
    old = {key: f"{key} old" for key in "kl" if chance.random() < 0.5}
    new: dict[str, str] = {}
    stale: list[str] = []
    for key, rate in HASH_RATES.items():
        state = chance.choice(["absent", "equal", "stale"]) if rate < opened else "absent"
        if state == "equal" and key in old:
            new[key] = old[key]
        elif state == "stale":
            new[key] = f"{key} stale"
            stale.append(key)
    drawn: dict[str, Operation] = {}
    for number in range(1, operations + 1):
        drawn[f"operation {number}"] = _any_operation(chance, number, tuple(drawn), batches=batches)
    steps: dict[str, Step] = dict(drawn)
    options = _any_options(chance)
    for number in range(1, chance.randint(0, 2 * bool(options)) + 1):
        label, operation = chance.choice(sorted(drawn.items()))
        steps[f"work {number}"] = BackgroundWork(operation.process, after=(label,))
    for number in range(1, chance.randint(0, events) + 1):
        after = (chance.choice(sorted(steps)),) if chance.random() < 0.5 else ()
        steps[f"event {number}"] = _any_event(chance, after)
    return Scenario(
        old=old,
        new=new,
        stale=stale,
        opened=opened,
        hash_rates=HASH_RATES,
        processes={"A": chance.choice(RATES), "B": chance.choice(RATES)},
        steps=steps,
        faults=chance.randint(0, faults),
        without=chance.choice(LACKING) if batches else (),
        options=options,
    )


def any_outage_of_the_ledger(chance: Random) -> Scenario:
    """One process that goes on without the ledger, and marks in the end: for it the promise is not suspended."""
    drawn = any_scenario(chance, events=1, batches=False)
    steps: dict[str, Step] = {"out": Outage("ledger")}
    for label, step in drawn.steps.items():
        after = tuple(each for each in step.after if each in steps)
        if not isinstance(step, Crash):
            moved = {"process": "A"} if hasattr(step, "process") else {}
            steps[label] = dataclasses.replace(step, after=after, **moved)
    steps["mark"] = MarkUnmarked("A")
    for target in TARGETS:
        steps[f"{target} is back"] = Recovery(target, after=tuple(steps))
    everything = tuple(steps)
    steps["read"] = Read("A", "k", after=(chance.choice(everything),))
    steps["mark again"] = MarkUnmarked("A", after=everything)
    steps["mark once more"] = MarkUnmarked("A", after=("mark again",))  # a fault may hit one of them
    return dataclasses.replace(drawn, steps=steps, processes={"A": drawn.processes["A"]})


def _any_options(chance: Random) -> dict[str, Any]:
    """None at all in half of the scenarios."""
    if chance.random() < 0.5:
        return {}
    return {
        **chance.choice([{"guard": None}, GUARD]),
        **chance.choice([{}, {"shadow": SHADOW["shadow"]}]),
        "copy": chance.choice(["inline", "background", "background", "off"]),
    }


def _any_operation(chance: Random, number: int, before: tuple[str, ...], *, batches: bool) -> Operation:
    process, key = chance.choice("AB"), chance.choice("kkl")
    after = before if chance.random() < 0.35 else ()
    kinds: list[Operation] = [
        Read(process, key, after=after),
        Write(process, key, f"{key} {number}", after=after),
        Delete(process, key, after=after),
    ]
    if chance.random() < 0.3:  # or what a job does
        keys = ("k", "l") if batches and chance.random() < 0.3 else (key,)
        kinds = [
            BackfillPage(process, keys, everything=chance.random() < 0.5, after=after),
            RepairPage(
                process,
                keys,
                everything=chance.random() < 0.5,
                delete_extra=chance.random() < 0.5,
                after=after,
            ),
            VerifyPage(process, keys, mark=chance.random() < 0.7, after=after),
        ]
        return chance.choice(kinds)
    if batches:
        kinds.append(ReadMany(process, ("k", "l"), after=after))
        kinds.append(WriteMany(process, (("k", f"k {number}"), ("l", f"l {number}")), after=after))
    return chance.choice(kinds)


def _any_event(chance: Random, after: tuple[str, ...]) -> Step:
    process = chance.choice("AB")
    kinds: list[Step] = [
        SetRate(process, chance.choice(RATES), after=after),
        Disable(process, after=after),
        Enable(process, after=after),
        Crash(process, after=after),
        Advance(chance.choice(SECONDS), after=after),
        Outage(chance.choice(TARGETS), after=after),
        Recovery(chance.choice(TARGETS), after=after),
    ]
    return chance.choice(kinds)
