"""The explorer itself: what it reports, that it is deterministic, and that its reduction hides nothing."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Generator
from typing import Any

import pytest

from tests.explorer import scenarios
from tests.explorer.mistakes import SEEDS, Seed
from tests.explorer.plain import PlainProxy
from zddm_flags import AsyncProxy, Shadow
from zddm_flags.errors import LedgerUnavailable
from zddm_flags.ledger import LedgerTable
from zddm_flags.testing import Advance, Crash, Outage, Read, Recovery, Scenario, Write, explore

ONE_WRITE = Scenario(old=scenarios.V1, processes={"A": 1.0}, steps={"write": Write("A", "k", "v2")})


class Lock:
    """Something to wait for that no step of a scenario gives."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield self

    def __repr__(self) -> str:
        return "a lock"


class WaitsForALock(AsyncProxy[str, str]):
    async def _admitted(self, *arguments: Any, **named: Any) -> Any:
        await Lock()
        return await super()._admitted(*arguments, **named)


def test_blocked_run_is_reported() -> None:
    """An operation that waits for what never comes is a violation with its schedule, not a pass."""
    violation = explore(ONE_WRITE, WaitsForALock).violation
    assert violation is not None
    assert violation.what == "write awaits a lock, which is no call to a store or to the ledger: it is blocked"
    assert violation.schedule[-1] == "write: old.write(k, v2) is acknowledged"


class Trips(AsyncProxy[str, str]):
    async def _admitted(self, *arguments: Any, **named: Any) -> Any:
        raise KeyError("no such thing")


def test_mistake_of_the_code_is_reported() -> None:
    """An exception that no store raised is a violation with its schedule."""
    violation = explore(ONE_WRITE, Trips).violation
    assert violation is not None
    assert violation.what == "write raised KeyError: 'no such thing'"
    assert "old.write(k, v2) is acknowledged" in str(violation)


class Caches(AsyncProxy[str, str]):
    """Keeps what it read in a dict."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cache: dict[str, str | None] = {}

    async def read(self, key: str) -> str | None:
        if key not in self._cache:
            self._cache[key] = await super().read(key)
        return self._cache[key]


def test_state_of_a_proxy_is_remembered() -> None:
    """What a proxy keeps between its operations is part of the state, and of no other run."""
    scenario = Scenario(
        old=scenarios.V1,
        processes={"A": 0.0, "B": 0.0},
        steps={
            "read": Read("A", "k"),
            "write": Write("B", "k", "v2"),
            "again": Read("A", "k", after=("read", "write")),
        },
    )
    violation = explore(scenario, Caches).violation
    assert violation is not None
    assert violation.what == "again returned 'v1' for k; Old held 'v2' during it"
    without_write = dataclasses.replace(scenario, steps={"read": scenario.steps["read"]})
    explore(without_write, Caches).check()


def test_deterministic() -> None:
    """The same exploration finds the same states, in the same order."""
    scenario = dataclasses.replace(scenarios.COPY_AND_WRITE, faults=1)
    assert explore(scenario) == explore(scenario)
    assert explore(scenario, PlainProxy) == explore(scenario, PlainProxy)


def test_chance_comes_out_the_same_each_time() -> None:
    """What a proxy leaves to chance is explored deterministically; the caller's chance is left alone."""
    scenario = dataclasses.replace(scenarios.COMPARED_AND_WRITTEN, options={"shadow": Shadow(share=0.9)})
    random.seed(1)
    before = random.getstate()
    found = explore(scenario).check()
    assert random.getstate() == before
    random.seed(2)
    assert explore(scenario) == found


def test_limit_is_reported() -> None:
    """An exploration that stops at the limit proves nothing, and says so."""
    found = explore(scenarios.COPY_AND_WRITE, limit=100)
    assert (found.states, found.complete, found.violation) == (100, False, None)
    with pytest.raises(AssertionError, match="limit of 100 states"):
        found.check()


def test_violation_is_raised_with_its_schedule() -> None:
    """check() raises what is wrong and the numbered steps that lead there."""
    with pytest.raises(
        AssertionError, match=r"New holds 'v1' and Old 'v2'\n  1\. copy: A starts\n  2\. copy: new"
    ):
        explore(scenarios.COPY_AND_WRITE, PlainProxy).check()


@pytest.mark.parametrize("proxy", [AsyncProxy, PlainProxy])
@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.COPY_AND_WRITE,
        scenarios.TWO_WRITERS,
        scenarios.COPY_AND_DELETE,
        scenarios.CRASH_BETWEEN_THE_WRITES,
        scenarios.CANCELLED_BETWEEN_THE_WRITES,
        scenarios.NEW_FAILS_AFTER_OLD,
        scenarios.KILL_WRITE_RESUME,
        scenarios.RAMP_DOWN_WRITE_RAMP_UP,
        scenarios.PROCESSES_AT_DIFFERENT_RATES,
        scenarios.READS_GO_BACKWARDS,
        scenarios.WARMED_BEFORE_IT_IS_READ,
        scenarios.ABOVE_OPENED,
        scenarios.BACKFILLED_AND_WRITTEN,
        scenarios.ALL_BACKFILLED_AND_WRITTEN,
        scenarios.EXTRA_KEY_REPAIRED_AND_WRITTEN,
        scenarios.VERIFIED_AND_WRITTEN,
    ],
)
def test_reduction_hides_nothing(scenario: Scenario, proxy: Any) -> None:
    """Every order of every step, with one more fault, gives the verdict that the reduced exploration gives."""
    scenario = dataclasses.replace(scenario, faults=max(1, scenario.faults))
    reduced, whole = (explore(scenario, proxy, reduce=reduce) for reduce in (True, False))
    assert (reduced.violation is None) == (whole.violation is None)
    assert reduced.complete == whole.complete
    assert reduced.states <= whole.states


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.mistake.__name__)
def test_reduction_hides_no_mistake(seed: Seed) -> None:
    """Every order of every step catches the mistake, as the reduced exploration does."""
    scenario = dataclasses.replace(seed.scenario, faults=seed.faults, kinds=seed.kinds)
    found = explore(scenario, seed.proxy, ledger_table=seed.table, reduce=False)
    assert found.violation is not None


def test_age_of_a_token_is_part_of_the_state() -> None:
    """Two ledgers that differ only in when a token was begun are two states: one reaps it, the other does not."""
    young, old = LedgerTable(), LedgerTable()
    young.begin([b"k"], b"token", 60.0)
    old.begin([b"k"], b"token", 0.0)
    assert young.fingerprint() != old.fingerprint()


@pytest.mark.parametrize("seconds", [9.0, 10.0])
def test_call_is_applied_in_time_or_never(seconds: float) -> None:
    """A call to a store may be applied until max_call_seconds after it was sent, and not then."""
    scenario = Scenario(
        old=scenarios.V1,
        processes={"A": 0.0, "B": 0.0},
        steps={
            "write": Write("A", "k", "v2"),
            "crash": Crash("A"),
            "pause": Advance(seconds, after=("crash",)),
            "read": Read("B", "k", after=("pause",)),
        },
    )
    violation = explore(scenario, SeesOldChange).violation
    assert (violation is not None) == (seconds < 10)


class SeesOldChange(PlainProxy):
    """Returns a wrong value where Old is written between its two reads, which takes a write in that time."""

    async def read(self, key: str) -> str | None:
        before = await self._old.read(key)
        after = await self._old.read(key)
        return before if before == after else "wrong"


@pytest.mark.parametrize(
    "step", [Read("A", "k", after=("nothing",)), Read("Z", "k")], ids=["unknown step", "unknown process"]
)
def test_scenario_names_what_is_there(step: Read) -> None:
    """A scenario that names a step or a process that is not there is refused."""
    with pytest.raises(ValueError, match="step 'read'"):
        Scenario(processes={"A": 1.0}, steps={"read": step})


def test_schedules_are_counted() -> None:
    """Two reads of Old in two processes, of three steps each, can be interleaved in 20 ways."""
    scenario = Scenario(
        old=scenarios.V1, processes={"A": 0.0, "B": 0.0}, steps={"one": Read("A", "k"), "two": Read("B", "k")}
    )
    found = explore(scenario, reduce=False).check()
    assert found.schedules == 20
    assert str(found) == f"{found.states} states, {found.steps} steps, 20 schedules: no violation"
    reduced = explore(scenario).check()
    assert reduced.schedules is not None
    assert 0 < reduced.schedules < 20


class SaysThatAFailureIsNoEffect(PlainProxy):
    """Takes each write that raised for one that never took effect."""

    async def write(self, key: str, value: str) -> None:
        try:
            await super().write(key, value)
        except Exception as error:
            raise LedgerUnavailable("nothing was written") from error


def test_outage_fails_what_is_not_applied() -> None:
    """A call that was applied before the outage is acknowledged in it; one that was not has no effect."""
    scenario = Scenario(
        old=scenarios.V1, processes={"A": 0.0}, steps={"write": Write("A", "k", "v2"), "out": Outage("old")}
    )
    explore(scenario, SaysThatAFailureIsNoEffect).check()
    violation = explore(
        dataclasses.replace(scenario, faults=1, kinds=["lose_reply"]), SaysThatAFailureIsNoEffect
    ).violation
    assert violation is not None


class ReadsWrong(PlainProxy):
    """Returns what no store held, whenever it can."""

    async def read(self, key: str) -> str | None:
        await self._old.read(key)
        return "wrong"


@pytest.mark.parametrize(("recovers", "reached"), [("ledger", False), ("old", True)])
def test_recovery_of_one_target(recovers: str, reached: bool) -> None:
    """A recovery ends the outage of its own target, and of no other."""
    scenario = Scenario(
        old=scenarios.V1,
        processes={"A": 0.0},
        steps={
            "old is out": Outage("old"),
            "ledger is out": Outage("ledger"),
            "back": Recovery(recovers, after=("old is out", "ledger is out")),
            "read": Read("A", "k", after=("back",)),
        },
    )
    assert (explore(scenario, ReadsWrong).violation is not None) == reached
