"""A guard stops calls to a New that fails, hangs or is slow, and lets them come back one at a time."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from tests.core.worlds import Clock
from zddm_flags.guard import CircuitBreaker, Guard, GuardChange, GuardOpen, GuardState, Refusal

GUARD = Guard(min_calls=4, window_seconds=10.0, slow_call_seconds=0.5, max_concurrent_calls=8, max_hanging_calls=3)
BUDGET = 1.0


def copy(breaker: CircuitBreaker) -> CircuitBreaker:
    """Another one in the same state."""
    copied = CircuitBreaker(
        breaker._guard,
        hangs_after_seconds=breaker._hangs_after_seconds,
        clock=breaker._clock,
        report=breaker._report,
        random=breaker._random,
    )
    copied.restore(breaker.snapshot())
    return copied


def begin(breaker: CircuitBreaker) -> int | Refusal:
    """The number of a call, or why there is none."""
    try:
        return breaker.begin()
    except GuardOpen as refused:
        return refused.why


class Guarded:
    """A breaker whose clock and jitter a test moves by hand."""

    def __init__(self, guard: Guard = GUARD, *, budget_seconds: float = BUDGET) -> None:
        self.clock = Clock()
        self.jitter = 1.0
        self.changes: list[GuardChange] = []
        self.breaker = CircuitBreaker(
            guard,
            hangs_after_seconds=budget_seconds,
            clock=self.clock,
            report=self.changes.append,
            random=lambda: self.jitter,
        )

    @property
    def reasons(self) -> list[str]:
        return [change.reason for change in self.changes]

    def call(self, *, failed: bool = False, seconds: float = 0.0, times: int = 1) -> None:
        """Calls one after another."""
        for _ in range(times):
            call = self.breaker.begin()
            self.clock.advance(seconds)
            self.breaker.end(call, failed=failed)

    def refused(self) -> Refusal | None:
        """Why a call is refused, as both ways of asking say."""
        why = self.breaker.why_refused()
        began = begin(copy(self.breaker))
        assert began == why if why else isinstance(began, int)
        return why

    def hang(self, times: int) -> list[int]:
        """Calls that are over their budget now."""
        calls = [self.breaker.begin() for _ in range(times)]
        self.clock.advance(BUDGET + 0.25)
        return calls

    def open(self) -> None:
        """Open it by failures."""
        self.call(failed=True, times=GUARD.min_calls)
        assert self.breaker.state == "open"

    def half_open(self) -> None:
        """Let a probe succeed."""
        self.clock.advance(self.changes[-1].open_seconds)
        assert self.breaker.probe_due()
        self.breaker.probed(succeeded=True)
        assert self.breaker.state == "half_open"


# -- closed ---------------------------------------------------------------------------------------------------


def test_failures_open_it() -> None:
    """It opens with the failure that makes their share of the window too large, and says what it counted."""
    guarded = Guarded()
    guarded.call(times=2)
    guarded.call(failed=True)
    assert guarded.refused() is None
    guarded.call(failed=True)
    assert guarded.refused() == "open"
    assert guarded.changes == [GuardChange("open", "closed", "failures", 4, 2, 0, 0, 1.0)]


def test_too_few_calls() -> None:
    """Below min_calls no share counts."""
    guarded = Guarded()
    guarded.call(failed=True, seconds=0.25, times=3)
    assert guarded.refused() is None


def test_share_as_written() -> None:
    """A share means what its decimal says: 7 of 100 are 0.07, though 0.07 * 100 is more than 7."""
    assert 0.07 * 100 > 7
    guarded = Guarded(Guard(max_failure_share=0.07, min_calls=100))
    guarded.call(failed=True, times=7)
    guarded.call(times=92)
    assert guarded.breaker.state == "closed"
    guarded.call()
    assert guarded.breaker.state == "open"


def test_slow_calls_open_it() -> None:
    """Calls of slow_call_seconds or longer open it, though none raised."""
    guarded = Guarded()
    guarded.call()
    guarded.call(seconds=0.4375, times=10)
    assert guarded.refused() is None
    guarded = Guarded()
    guarded.call(seconds=0.4375)
    guarded.call(seconds=0.5, times=4)
    assert guarded.changes == [GuardChange("open", "closed", "slow_calls", 5, 0, 4, 0, 1.0)]


@pytest.mark.parametrize("ended", [0.0, 0.5, 0.9375, 1.0, 1.75, 2.5])
@pytest.mark.parametrize(("ago", "counts"), [(9.0, True), (10.0, False)])
def test_window(ended: float, ago: float, counts: bool) -> None:
    """A call counts for nine tenths of the window at least, and never after it, whatever went before it."""
    guarded = Guarded(Guard(max_failure_share=0.75, min_calls=3))
    guarded.call()
    guarded.clock.advance(ended)
    guarded.call(failed=True, times=2)
    guarded.clock.advance(ago)
    guarded.call(failed=True)
    assert (guarded.breaker.state == "open") is counts


def test_window_forgets_bit_by_bit() -> None:
    """Under steady calls the window holds those of its last ten tenths, and no more."""
    guarded = Guarded()
    for _ in range(1000):
        guarded.call()
        guarded.clock.advance(0.125)
    while guarded.breaker.state == "closed":
        guarded.call(failed=True)
        guarded.clock.advance(0.125)
    (change,) = guarded.changes
    assert 9.0 / 0.125 < change.calls <= 10.0 / 0.125
    assert change.failures == math.ceil(change.calls / 2)


def test_hanging_calls_open_it_at_once() -> None:
    """Calls that hang open it before any share counts; each counts as one that raised and was slow."""
    guarded = Guarded()
    guarded.hang(3)
    assert guarded.refused() == "open"
    assert guarded.changes == [GuardChange("open", "closed", "hanging_calls", 3, 3, 3, 3, 1.0)]


@pytest.mark.parametrize(
    "meet",
    [
        begin,
        CircuitBreaker.why_refused,
        CircuitBreaker.probe_due,
        lambda breaker: breaker.end(0, failed=False),
        lambda breaker: breaker.probed(succeeded=True),
    ],
)
def test_hanging_calls_are_noticed(meet: Callable[[CircuitBreaker], object]) -> None:
    """Whatever is done next notices calls that hang, and tells of it, once."""
    guarded = Guarded()
    guarded.hang(3)
    meet(guarded.breaker)
    assert guarded.reasons == ["hanging_calls"]
    assert guarded.breaker.state == "open"
    meet(guarded.breaker)
    assert guarded.reasons == ["hanging_calls"]


def test_budget_is_not_passed_yet() -> None:
    """A call in flight for exactly its budget does not hang."""
    guarded = Guarded()
    for _ in range(3):
        guarded.breaker.begin()
    guarded.clock.advance(BUDGET)
    assert guarded.refused() is None
    guarded.clock.advance(0.0001)
    assert guarded.refused() == "open"


@pytest.mark.parametrize("notice", [True, False])
def test_hanging_call_counts_once(notice: bool) -> None:
    """A call that went over its budget counts once, as one that raised, whether that was seen before it ended."""
    guarded = Guarded()
    guarded.call(times=2)
    (call,) = guarded.hang(1)
    if notice:
        guarded.refused()
    guarded.breaker.end(call, failed=False)
    guarded.breaker.end(call, failed=True)
    assert guarded.refused() is None
    guarded.call()
    assert guarded.refused() is None
    (call,) = guarded.hang(1)
    guarded.breaker.end(call, failed=False)
    guarded.call(failed=True)
    assert guarded.changes == [GuardChange("open", "closed", "failures", 6, 3, 2, 0, 1.0)]


def test_hanging_calls_that_ended() -> None:
    """Calls that hung and came back do not add up where calls in between succeeded."""
    guarded = Guarded(Guard(max_hanging_calls=2))
    for _ in range(3):
        (call,) = guarded.hang(1)
        guarded.breaker.end(call, failed=True)
        guarded.call()
    assert guarded.refused() is None


@pytest.mark.parametrize("seconds", [0.5, BUDGET + 0.25])
@pytest.mark.parametrize("failed", [True, None])
def test_a_program_of_one_thread(seconds: float, failed: bool | None) -> None:
    """Calls that time out one after another open it, though they are few and never two at a time."""
    guarded = Guarded(Guard(max_hanging_calls=3))
    guarded.call(times=10)
    for _ in range(3):
        assert guarded.refused() is None
        call = guarded.breaker.begin()
        guarded.clock.advance(seconds)
        guarded.breaker.end(call, failed=failed)
        guarded.clock.advance(6.0)
    assert guarded.refused() == "open"
    assert guarded.reasons == ["hanging_calls"]


def test_time_outs_beside_calls_that_succeed() -> None:
    """Calls that time out together do not open it where one that began after them has succeeded."""
    guarded = Guarded(Guard(max_hanging_calls=2))
    calls = [guarded.breaker.begin() for _ in range(3)]
    guarded.clock.advance(0.25)
    guarded.call()
    guarded.clock.advance(0.5)
    for call in calls:
        guarded.breaker.end(call, failed=True)
    assert guarded.refused() is None


def test_quick_errors_are_no_time_outs() -> None:
    """Errors that come at once, such as refused connections, are not taken for calls that hang."""
    guarded = Guarded(Guard(max_hanging_calls=2))
    guarded.call(failed=True, times=5)
    assert guarded.refused() is None


def test_full() -> None:
    """No more calls than max_concurrent_calls are in flight, those that hang among them; nothing opens."""
    guarded = Guarded()
    hanging = guarded.hang(2)
    running = [guarded.breaker.begin() for _ in range(6)]
    assert guarded.refused() == "full"
    guarded.breaker.end(hanging[0], failed=False)
    assert guarded.refused() is None
    running.append(guarded.breaker.begin())
    assert guarded.refused() == "full"
    guarded.breaker.end(running[0], failed=False)
    assert guarded.refused() is None
    assert guarded.changes == []


def test_asking_takes_nothing() -> None:
    """Asking whether a call would be refused takes no place and changes nothing."""
    guarded = Guarded(Guard(max_concurrent_calls=1))
    before = guarded.breaker.snapshot()
    assert [guarded.breaker.why_refused() for _ in range(3)] == [None, None, None]
    assert not guarded.breaker.probe_due()
    guarded.breaker.probed(succeeded=True)
    guarded.breaker.probed(succeeded=False)
    guarded.breaker.end(7, failed=True)
    assert guarded.breaker.snapshot() == before


# -- open -----------------------------------------------------------------------------------------------------


def test_one_probe_each_time() -> None:
    """Once its time is over one caller, and no other, is told to probe; calls are refused all the while."""
    guarded = Guarded()
    guarded.open()
    guarded.clock.advance(0.875)
    assert not guarded.breaker.probe_due()
    guarded.clock.advance(0.125)
    assert guarded.breaker.probe_due()
    guarded.clock.advance(100.0)
    assert not guarded.breaker.probe_due()
    assert guarded.refused() == "open"
    guarded.breaker.probed(succeeded=False)
    assert guarded.changes[1:] == [GuardChange("open", "open", "probe_failed", 0, 0, 0, 0, 2.0)]
    assert not guarded.breaker.probe_due()
    guarded.clock.advance(2.0)
    assert guarded.breaker.probe_due()


def test_open_for_longer_each_time() -> None:
    """It stays open for twice as long each time, up to the limit, less the jitter; no number grows too large."""
    guarded = Guarded(Guard(min_calls=1, max_open_seconds=5.0))
    guarded.call(failed=True)
    for guarded.jitter in [1.0, 0.0, 0.5, 1.0] + [0.0] * 2000:
        guarded.clock.advance(guarded.changes[-1].open_seconds)
        assert guarded.breaker.probe_due()
        guarded.breaker.probed(succeeded=False)
    seconds = [change.open_seconds for change in guarded.changes]
    assert seconds[:6] == [1.0, 2.0, 0.8 * 4.0, 0.9 * 5.0, 5.0, 0.8 * 5.0]
    assert set(seconds[6:]) == {0.8 * 5.0}


@pytest.mark.parametrize(("closed_seconds", "open_seconds"), [(9.75, 2.0), (10.0, 1.0)])
def test_open_time_starts_anew(closed_seconds: float, open_seconds: float) -> None:
    """After it was closed for a whole window it opens for the first time again; before that, for longer."""
    guarded = Guarded()
    guarded.open()
    guarded.half_open()
    guarded.call(times=3)
    guarded.clock.advance(closed_seconds)
    guarded.open()
    assert guarded.changes[-1].open_seconds == open_seconds


def test_open_while_calls_hang() -> None:
    """While too many calls hang nobody probes, whatever the time; when one of them ends, one caller does."""
    guarded = Guarded()
    calls = guarded.hang(3)
    assert guarded.refused() == "open"
    guarded.clock.advance(1000.0)
    assert not guarded.breaker.probe_due()
    guarded.breaker.end(calls[1], failed=True)
    assert guarded.breaker.probe_due()
    assert not guarded.breaker.probe_due()


def test_calls_hang_during_the_probe() -> None:
    """A probe that succeeded does not bring calls back while too many of the earlier ones hang."""
    guarded = Guarded()
    for _ in range(3):
        guarded.breaker.begin()
    guarded.open()
    guarded.clock.advance(1.0)
    assert guarded.breaker.probe_due()
    guarded.clock.advance(0.25)
    guarded.breaker.probed(succeeded=True)
    assert guarded.changes[1:] == [GuardChange("open", "open", "hanging_calls", 0, 0, 0, 3, 2.0)]


# -- half open ------------------------------------------------------------------------------------------------


def test_recovery() -> None:
    """After the probe, calls try New one at a time; enough of them close it, and what was before is forgotten."""
    guarded = Guarded()
    guarded.open()
    guarded.half_open()
    for _ in range(3):
        assert guarded.refused() is None
        call = guarded.breaker.begin()
        assert guarded.refused() == "half_open"
        guarded.breaker.end(call, failed=False)
        guarded.clock.advance(11.0)  # a trial may take longer than a window
    assert guarded.refused() is None
    assert guarded.changes[1:] == [
        GuardChange("half_open", "open", "probed", 0, 0, 0, 0, 0.0),
        GuardChange("closed", "half_open", "recovered", 3, 0, 0, 0, 0.0),
    ]
    guarded.call(failed=True, times=3)
    assert guarded.refused() is None


@pytest.mark.parametrize(
    ("failed", "seconds", "counts"), [(True, 0.0, (2, 1, 0)), (False, 0.5, (2, 0, 1)), (False, 1.25, (2, 1, 1))]
)
def test_failed_trial(failed: bool, seconds: float, counts: tuple[int, int, int]) -> None:
    """One call that raises, is slow or goes over its budget opens it again, for longer, after any success."""
    guarded = Guarded()
    guarded.open()
    guarded.half_open()
    guarded.call()
    guarded.call(failed=failed, seconds=seconds)
    assert guarded.changes[2:] == [
        GuardChange("open", "half_open", "trial_failed", *counts, int(seconds > 1), 2.0)
    ]
    guarded.half_open()
    guarded.call(times=2)
    assert guarded.breaker.state == "half_open"


def test_hanging_trial() -> None:
    """A trial that hangs opens it again while it hangs, once."""
    guarded = Guarded()
    guarded.open()
    guarded.half_open()
    (call,) = guarded.hang(1)
    assert guarded.refused() == "open"
    guarded.breaker.end(call, failed=False)
    assert guarded.changes[2:] == [GuardChange("open", "half_open", "trial_failed", 1, 1, 1, 1, 2.0)]


def test_calls_hang_in_half_open() -> None:
    """Earlier calls that hang open a guard that is half open, if they are too many."""
    guarded = Guarded()
    for _ in range(3):
        guarded.breaker.begin()
    guarded.open()
    guarded.half_open()
    guarded.clock.advance(0.25)
    assert guarded.refused() == "open"
    assert guarded.changes[2:] == [GuardChange("open", "half_open", "hanging_calls", 0, 0, 0, 3, 2.0)]


def test_half_open_and_full() -> None:
    """Earlier calls still in flight do not stand in the way of a trial unless they take every place."""
    guarded = Guarded(Guard(min_calls=1, max_concurrent_calls=2, max_hanging_calls=3))
    calls = [guarded.breaker.begin() for _ in range(2)]
    guarded.breaker.end(calls.pop(0), failed=True)
    guarded.half_open()
    assert guarded.refused() is None
    guarded.breaker.end(calls.pop(), failed=True)
    guarded.breaker.begin()
    assert guarded.refused() == "half_open"


# -- calls that outlive a state -------------------------------------------------------------------------------


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("until", ["half_open", "closed"])
def test_call_of_an_earlier_state(failed: bool, until: GuardState) -> None:
    """A call that began before the last change of state does not count, and gives back its place."""
    guarded = Guarded(Guard(min_calls=4, trial_calls=1, max_concurrent_calls=5), budget_seconds=math.inf)
    earlier = [guarded.breaker.begin() for _ in range(4)]
    guarded.open()
    guarded.half_open()
    if until == "closed":
        guarded.call()
    before = len(guarded.changes)
    for call in earlier:
        guarded.breaker.end(call, failed=failed)
    assert guarded.breaker.state == until
    assert len(guarded.changes) == before
    if until == "half_open":
        guarded.call()
    for _ in range(5):
        guarded.breaker.begin()
    assert guarded.refused() == "full"


def test_trial_of_an_earlier_half_open() -> None:
    """A trial that is still in flight when it is half open again is none of the new trials."""
    guarded = Guarded(Guard(min_calls=4, max_hanging_calls=1), budget_seconds=2.0)
    earlier = guarded.breaker.begin()
    guarded.open()
    guarded.half_open()
    guarded.clock.advance(0.75)
    trial = guarded.breaker.begin()
    guarded.clock.advance(0.5)
    assert guarded.refused() == "open"  # the earlier call hangs
    guarded.breaker.end(earlier, failed=False)
    guarded.breaker.end(trial, failed=True)
    assert guarded.reasons == ["failures", "probed", "hanging_calls"]
    guarded.half_open()
    assert guarded.refused() is None


# -- around it ------------------------------------------------------------------------------------------------


def test_report_holds_no_lock() -> None:
    """What is told of a change may ask the breaker itself, and another thread may go on meanwhile."""
    told: list[tuple[str, Refusal | None]] = []

    def report(change: GuardChange) -> None:
        other = threading.Thread(target=lambda: told.append((change.reason, breaker.why_refused())))
        other.start()
        other.join(10)
        told.append((change.reason, breaker.why_refused()))

    breaker = CircuitBreaker(Guard(min_calls=1), hangs_after_seconds=1.0, clock=Clock(), report=report)
    breaker.end(breaker.begin(), failed=True)
    assert told == [("failures", "open")] * 2


def test_jitter_by_default() -> None:
    """Without a random of the test's own, breakers stay open for different times within the limits."""
    seconds: list[float] = []
    for _ in range(20):
        breaker = CircuitBreaker(
            Guard(min_calls=1),
            hangs_after_seconds=1.0,
            clock=Clock(),
            report=lambda change: seconds.append(change.open_seconds),
        )
        breaker.end(breaker.begin(), failed=True)
    assert len(set(seconds)) > 1
    assert all(0.8 <= each <= 1.0 for each in seconds)


def test_after_fork() -> None:
    """In a child nothing of the parent is in flight or counts, and no thread that is gone holds the lock."""
    guarded = Guarded()
    guarded.call(failed=True, times=3)
    fork(guarded.breaker)
    guarded.call(failed=True, times=3)
    assert guarded.breaker.state == "closed"
    guarded.hang(3)
    assert guarded.refused() == "open"
    guarded.clock.advance(1.0)
    assert not guarded.breaker.probe_due()
    fork(guarded.breaker)
    assert guarded.breaker.probe_due()
    fork(guarded.breaker)
    assert guarded.breaker.probe_due()
    guarded.breaker.probed(succeeded=True)
    theirs = guarded.breaker.begin()
    fork(guarded.breaker)
    mine = guarded.breaker.begin()
    guarded.breaker.end(theirs, failed=True)
    assert guarded.refused() == "half_open"
    guarded.breaker.end(mine, failed=False)
    assert guarded.refused() is None


def fork(breaker: CircuitBreaker) -> None:
    """What the child of a fork sees while a thread of its parent holds the lock."""
    breaker._lock.acquire()
    breaker.after_fork()


def test_restored() -> None:
    """A restored one goes on from where the breaker was, and neither sees what the other does from then on."""
    guarded = Guarded(Guard(min_calls=4, open_seconds=0.25))
    guarded.call(failed=True, times=3)
    hanging = guarded.breaker.begin()
    guarded.clock.advance(0.5)
    running = guarded.breaker.begin()
    guarded.clock.advance(0.75)
    assert guarded.refused() == "open"
    guarded.clock.advance(0.25)
    before = guarded.breaker.snapshot()
    copied = copy(guarded.breaker)
    assert copied.snapshot() == before
    with guarded.breaker._lock:
        copied.end(hanging, failed=True)
        assert copied.probe_due()
        copied.probed(succeeded=True)
        copied.end(running, failed=True)
        copied.end(copied.begin(), failed=False)
    assert guarded.breaker.snapshot() == before
    assert guarded.breaker.state == "open"
    assert copied.state == "half_open"
    assert guarded.reasons == ["failures", "probed"]


def test_restored_window() -> None:
    """The window of a restored one is its own."""
    guarded = Guarded()
    guarded.call(failed=True)
    copied = copy(guarded.breaker)
    before = copied.snapshot()
    guarded.call(failed=True, times=2)
    assert copied.snapshot() == before
    for _ in range(2):
        copied.end(copied.begin(), failed=True)
    assert copied.state == guarded.breaker.state == "closed"


EXPLORED = Guard(
    min_calls=2,
    window_seconds=2.5,
    trial_calls=2,
    slow_call_seconds=1.0,
    max_concurrent_calls=2,
    max_hanging_calls=2,
)


def fail(breaker: CircuitBreaker) -> None:
    call = begin(breaker)
    if isinstance(call, int):
        breaker.end(call, failed=True)


def recover(guarded: Guarded) -> None:
    if guarded.breaker.probe_due():
        guarded.breaker.probed(succeeded=True)
        if guarded.breaker.why_refused() is None:
            guarded.call(times=EXPLORED.trial_calls)


def in_flight(guarded: Guarded) -> set[int]:
    return {*guarded.breaker._running, *guarded.breaker._hanging}


STEPS: dict[str, Callable[[Guarded], object]] = {
    "ask": lambda guarded: guarded.breaker.why_refused(),
    "begin": lambda guarded: isinstance(begin(guarded.breaker), int),
    "end the first": lambda guarded: guarded.breaker.end(min(in_flight(guarded), default=0), failed=False),
    "end the last": lambda guarded: guarded.breaker.end(max(in_flight(guarded), default=0), failed=True),
    "probe": lambda guarded: guarded.breaker.probe_due(),
    "probed": lambda guarded: guarded.breaker.probed(succeeded=True),
    "probe failed": lambda guarded: guarded.breaker.probed(succeeded=False),
    "calls fail": lambda guarded: [fail(guarded.breaker) for _ in range(EXPLORED.min_calls)],
    "recover": recover,
    "wait": lambda guarded: guarded.clock.advance(0.75),
    "wait long": lambda guarded: guarded.clock.advance(2.5),
}


def explored(guarded: Guarded, step: str) -> tuple[CircuitBreaker, float, object]:
    """Take the step with a copy: the copy, the time then, and all that can be seen of it."""
    here, now = guarded.breaker, guarded.clock.now
    guarded.breaker = there = copy(here)
    guarded.changes.clear()
    seen = STEPS[step](guarded)
    then = guarded.clock.now
    guarded.breaker, guarded.clock.now = here, now
    return there, then, (seen, tuple(guarded.changes), there.state, there.snapshot())


def test_snapshot_is_all() -> None:
    """Of all breakers that a few steps lead to, two with one snapshot do the same whatever comes next."""
    guarded = Guarded(EXPLORED)
    starts = [copy(guarded.breaker)]
    guarded.call(failed=True, times=2)
    starts.append(copy(guarded.breaker))
    guarded.half_open()
    starts.append(copy(guarded.breaker))
    guarded.call(times=2)
    starts.append(copy(guarded.breaker))
    known: dict[object, CircuitBreaker] = {}
    met_again = 0
    frontier = [(start, guarded.clock.now) for start in starts]
    for _ in range(6):
        reached: list[tuple[CircuitBreaker, float]] = []
        for breaker, now in frontier:
            twin = known.setdefault((now, breaker.snapshot()), breaker)
            met_again += twin is not breaker
            for step in STEPS:
                guarded.breaker, guarded.clock.now = breaker, now
                there, then, seen = explored(guarded, step)
                if twin is breaker:
                    reached.append((there, then))
                else:
                    guarded.breaker = twin
                    assert explored(guarded, step)[2] == seen
        frontier = reached
    assert met_again > len(known) > 1000


# -- threads --------------------------------------------------------------------------------------------------


class Yielding:
    """A guard that lets another thread have its turn whenever it is asked, which is where a decision is made."""

    def __init__(self, **named: Any) -> None:
        self._guard = Guard(**named)

    def __getattr__(self, name: str) -> Any:
        time.sleep(0)
        return getattr(self._guard, name)


def yielding(**named: Any) -> Guard:
    """A guard for threads to race with."""
    guard: Any = Yielding(**named)
    return guard


def in_threads(work: Callable[[int], None], count: int = 4) -> None:
    """Run `work` in so many threads at once, and raise what one of them raised."""
    raised: list[BaseException] = []

    start = threading.Barrier(count)

    def run(index: int) -> None:
        try:
            start.wait(30)
            work(index)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if raised:
        raise raised[0]


def test_threads_fill_it() -> None:
    """Threads never have more calls in flight than max_concurrent_calls, and leave none behind."""
    guarded = Guarded(yielding(max_concurrent_calls=2, min_calls=10**9))
    counting = threading.Lock()
    in_flight: set[int] = set()
    begun: list[int] = []
    peaks: set[int] = set()
    refusals: set[Refusal] = set()

    def work(_: int) -> None:
        for _ in range(500):
            call = begin(guarded.breaker)
            if isinstance(call, str):
                refusals.add(call)
                continue
            with counting:
                begun.append(call)
                in_flight.add(call)
                peaks.add(len(in_flight))
            time.sleep(0)  # let another thread have its turn
            with counting:
                in_flight.remove(call)
            guarded.breaker.end(call, failed=True)

    in_threads(work)
    assert peaks == {1, 2}
    assert refusals == {"full"}
    assert len(set(begun)) == len(begun)
    assert guarded.breaker._window.calls == guarded.breaker._window.failures == len(begun)
    assert [guarded.breaker.begin() for _ in range(2)]
    assert guarded.refused() == "full"


@pytest.mark.parametrize("state", ["open", "half_open"])
def test_threads_race_for_one_place(state: GuardState) -> None:
    """Of threads that come at the same moment exactly one probes, and exactly one tries New in half open."""
    rounds = [Guarded(yielding(min_calls=4)) for _ in range(100)]
    won: list[list[int]] = [[] for _ in rounds]
    start = threading.Barrier(4)
    for guarded in rounds:
        guarded.open()
        guarded.clock.advance(1.0)
        if state == "half_open":
            assert guarded.breaker.probe_due()
            guarded.breaker.probed(succeeded=True)

    def work(index: int) -> None:
        for guarded, winners in zip(rounds, won, strict=True):
            start.wait(30)
            if guarded.breaker.probe_due() if state == "open" else begin(guarded.breaker) != "half_open":
                winners.append(index)

    in_threads(work)
    assert [len(winners) for winners in won] == [1] * len(rounds)


def test_threads_through_all_states() -> None:
    """However threads come and go, one probe is on at a time, and each change is told once."""
    changes: list[GuardChange] = []
    ticks = itertools.count()
    guard = yielding(
        max_failure_share=0.25,
        min_calls=2,
        window_seconds=0.01,
        open_seconds=0.001,
        max_open_seconds=0.001,
        trial_calls=2,
        max_concurrent_calls=3,
    )
    breaker = CircuitBreaker(
        guard, hangs_after_seconds=60.0, clock=lambda: next(ticks) / 10_000, report=changes.append
    )
    counting = threading.Lock()
    on: Counter[str] = Counter()
    peaks: Counter[str] = Counter()
    deadline = time.monotonic() + 50

    def reasons() -> Counter[str]:
        return Counter(change.reason for change in tuple(changes))

    def count(what: str, step: int) -> None:
        with counting:
            on[what] += step
            peaks[what] = max(peaks[what], on[what])

    def work(index: int) -> None:
        chance = random.Random(index)
        while reasons()["recovered"] < 30 and time.monotonic() < deadline:
            if breaker.probe_due():
                count("probes", 1)
                count("told", 1)
                time.sleep(0)  # let another thread have its turn
                count("probes", -1)
                breaker.probed(succeeded=chance.random() < 0.7)
            call = begin(breaker)
            if isinstance(call, str):
                continue
            count("calls", 1)
            time.sleep(0)
            count("calls", -1)
            breaker.end(call, failed=chance.random() < 0.2)

    in_threads(work)
    assert reasons()["recovered"] >= 30
    assert peaks["calls"] <= 3
    assert peaks["probes"] == 1
    assert on["told"] == reasons()["probed"] + reasons()["probe_failed"]
    for state in ("closed", "open", "half_open"):
        entered = sum(change.state == state for change in changes) + (state == "closed")
        left = sum(change.before == state for change in changes)
        assert entered - left == (breaker.state == state)


# -- against a naive model ------------------------------------------------------------------------------------


class Call:
    """A call of the model."""

    def __init__(self, began: float, state: State) -> None:
        self.began = began
        self.state = state
        self.hangs = False


class State:
    """A state that the model is or was in, and all that was counted in it."""

    def __init__(self, name: GuardState, since: float, open_seconds: float = 0.0) -> None:
        self.name: GuardState = name
        self.since = since
        self.open_seconds = open_seconds
        self.counted: list[tuple[float, bool, bool, float]] = []  # when, failed, slow, began
        self.probe: str = "not due"


class Model:
    """The rules as they are written: it keeps everything that ever happened, and looks through all of it."""

    def __init__(self, guard: Guard, now: float) -> None:
        self.guard = guard
        self.now = now
        self.jitter = 1.0
        self.states = [State("closed", now)]
        self.calls: dict[int, Call] = {}  # in flight
        self.changes: list[GuardChange] = []

    @property
    def state(self) -> State:
        return self.states[-1]

    @property
    def hanging(self) -> int:
        return sum(call.hangs for call in self.calls.values())

    @property
    def stalled(self) -> int:
        """How many calls in a row were slow and raised, with none that began after them and succeeded."""
        run, good_began = 0, -math.inf
        for _, failed, slow, began in self.state.counted:
            if not failed:
                run, good_began = 0, max(good_began, began)
            elif slow and began >= good_began:
                run += 1
        return run

    def in_window(self) -> list[tuple[float, bool, bool, float]]:
        """What counts now: all of it, or where it is closed what lies in a tenth that began within the window."""
        if self.state.name != "closed":
            return self.state.counted
        found: list[tuple[float, bool, bool, float]] = []
        tenth = -math.inf
        for counted in self.state.counted:
            tenth = counted[0] if counted[0] - tenth >= self.guard.window_seconds / 10 else tenth
            if self.now - tenth < self.guard.window_seconds:
                found.append(counted)
        return found

    def next_open_seconds(self) -> float:
        times = 0
        for before, state in zip(self.states, [*self.states[1:], State("open", self.now)], strict=True):
            if before.name == "closed" and state.since - before.since >= self.guard.window_seconds:
                times = 0
            times += state.name == "open"
        return min(self.guard.max_open_seconds, self.guard.open_seconds * 2 ** (times - 1))

    def change(self, name: GuardState, reason: Any) -> None:
        counted = self.in_window()
        open_seconds = self.next_open_seconds() * (0.8 + 0.2 * self.jitter) if name == "open" else 0.0
        failures, slow = sum(each[1] for each in counted), sum(each[2] for each in counted)
        self.changes.append(
            GuardChange(name, self.state.name, reason, len(counted), failures, slow, self.hanging, open_seconds)
        )
        self.states.append(State(name, self.now, open_seconds))

    def decide(self) -> None:
        guard, counted = self.guard, self.in_window()
        calls, failures, slow = len(counted), sum(each[1] for each in counted), sum(each[2] for each in counted)
        if self.state.name != "open" and max(self.hanging, self.stalled) >= guard.max_hanging_calls:
            self.change("open", "hanging_calls")
        elif self.state.name == "half_open" and failures + slow:
            self.change("open", "trial_failed")
        elif self.state.name == "half_open" and calls == guard.trial_calls:
            self.change("closed", "recovered")
        elif self.state.name == "closed" and calls >= guard.min_calls:
            if failures / calls >= guard.max_failure_share:
                self.change("open", "failures")
            elif slow / calls >= guard.max_slow_share:
                self.change("open", "slow_calls")

    def notice(self) -> None:
        late = [call for call in self.calls.values() if self.now > call.began + BUDGET and not call.hangs]
        for call in late:
            call.hangs = True
            call.state.counted.append((self.now, True, True, call.began))
        if late:
            self.decide()

    def why_refused(self) -> Refusal | None:
        self.notice()
        if self.state.name == "open":
            return "open"
        if self.state.name == "half_open" and any(call.state is self.state for call in self.calls.values()):
            return "half_open"
        return "full" if len(self.calls) >= self.guard.max_concurrent_calls else None

    def end(self, number: int, failed: bool) -> None:
        self.notice()
        call = self.calls.pop(number, None)
        if call is not None and not call.hangs:
            slow = self.now - call.began >= self.guard.slow_call_seconds
            call.state.counted.append((self.now, failed, slow, call.began))
            if call.state is self.state:
                self.decide()

    def probe_due(self) -> bool:
        self.notice()
        state = self.state
        if state.name != "open" or state.probe == "on" or self.now < state.since + state.open_seconds:
            return False
        if self.hanging >= self.guard.max_hanging_calls:
            return False
        state.probe = "on"
        return True

    def probed(self, succeeded: bool) -> None:
        self.notice()
        if self.state.probe == "on":
            if not succeeded:
                self.change("open", "probe_failed")
            elif self.hanging >= self.guard.max_hanging_calls:
                self.change("open", "hanging_calls")
            else:
                self.change("half_open", "probed")

    def after_fork(self) -> None:
        self.calls.clear()
        self.state.counted.clear()
        self.state.probe = "not due"


class GuardMachine(RuleBasedStateMachine):
    """Does the same to a breaker and to the model."""

    calls: Bundle[int] = Bundle("calls")

    @initialize(
        guard=st.builds(
            Guard,
            max_failure_share=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
            max_slow_share=st.sampled_from([0.5, 1.0]),
            slow_call_seconds=st.sampled_from([0.5, 2.0]),
            min_calls=st.integers(1, 8),
            window_seconds=st.sampled_from([2.5, 10.0]),
            max_open_seconds=st.sampled_from([1.0, 3.0, 8.0]),
            trial_calls=st.integers(1, 3),
            max_concurrent_calls=st.integers(1, 6),
            max_hanging_calls=st.integers(1, 4),
        )
    )
    def start(self, guard: Guard) -> None:
        self.guarded = Guarded(guard)
        self.breaker = self.guarded.breaker
        self.model = Model(guard, self.guarded.clock.now)

    def advance(self, seconds: float) -> None:
        self.guarded.clock.advance(seconds)
        self.model.now = self.guarded.clock.now

    def begin(self) -> int | None:
        why = self.model.why_refused()
        began = begin(self.breaker)
        if isinstance(began, str):
            assert began == why
            return None
        assert why is None
        assert began not in self.model.calls
        self.model.calls[began] = Call(self.model.now, self.model.state)
        return began

    def finish(self, call: int, failed: bool) -> None:
        self.model.end(call, failed)
        self.breaker.end(call, failed=failed)

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 1.25, 2.25, 7.5, 9.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.advance(seconds)

    @rule(jitter=st.sampled_from([0.0, 0.5, 1.0]))
    def jitter_changes(self, jitter: float) -> None:
        self.guarded.jitter = self.model.jitter = jitter

    @rule(target=calls)
    def a_call_begins(self) -> int:
        return self.begin() or 0  # 0 is no call's number

    @rule(call=consumes(calls), failed=st.booleans())
    def a_call_ends(self, call: int, failed: bool) -> None:
        self.finish(call, failed)

    @rule(call=calls, failed=st.booleans())
    def a_call_ends_twice(self, call: int, failed: bool) -> None:
        self.finish(call, failed)

    @rule(
        calls=st.lists(st.booleans(), min_size=1, max_size=6),
        seconds=st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.25]),
        pause=st.sampled_from([0.0, 0.25, 0.75, 1.5]),
    )
    def calls_one_after_another(self, calls: list[bool], seconds: float, pause: float) -> None:
        for failed in calls:
            call = self.begin()
            if call is not None:
                self.advance(seconds)
                self.finish(call, failed)
            self.advance(pause)

    @rule()
    def somebody_asks(self) -> None:
        assert self.breaker.why_refused() == self.model.why_refused()

    @rule()
    def somebody_may_probe(self) -> None:
        assert self.breaker.probe_due() == self.model.probe_due()

    @rule(succeeded=st.booleans())
    def somebody_probed(self, succeeded: bool) -> None:
        self.model.probed(succeeded)
        self.breaker.probed(succeeded=succeeded)

    @precondition(lambda self: self.model.state.name == "open")
    @rule(succeeded=st.sampled_from([True, True, False]))
    def its_time_is_over_and_it_is_probed(self, succeeded: bool) -> None:
        self.advance(self.model.state.open_seconds)
        self.somebody_may_probe()
        self.somebody_probed(succeeded)

    @rule()
    def a_copy_takes_its_place(self) -> None:
        left_behind, self.breaker = self.breaker, copy(self.breaker)
        left_behind.after_fork()
        before = len(self.guarded.changes)
        for _ in range(4):
            call = begin(left_behind)
            if isinstance(call, str):
                left_behind.probe_due()
            else:
                left_behind.end(call, failed=True)
        del self.guarded.changes[before:]

    @rule()
    def it_is_forked(self) -> None:
        self.model.after_fork()
        self.breaker.after_fork()

    @invariant()
    def they_agree(self) -> None:
        assert self.breaker.state == self.model.state.name
        assert self.guarded.changes == self.model.changes
        assert len(self.model.calls) <= self.model.guard.max_concurrent_calls
        assert self.model.state.name == "open" or self.model.hanging < self.model.guard.max_hanging_calls
        assert copy(self.breaker).snapshot() == self.breaker.snapshot()


GuardMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class TestAgainstTheModel(GuardMachine.TestCase):
    """Whatever happens in whatever order, a breaker does what the rules say."""


# -- configuration --------------------------------------------------------------------------------------------


class Wrong(NamedTuple):
    value: object
    error: type[Exception]


NO_NUMBER = [Wrong(True, TypeError), Wrong("1", TypeError), Wrong(None, TypeError), Wrong(1j, TypeError)]
OUT_OF_RANGE = [Wrong(value, ValueError) for value in (0, -1, -(10**30))]
NOT_FINITE = [Wrong(value, ValueError) for value in (0.0, -0.1, math.nan, math.inf, -math.inf, 10**400)]
FIELDS = {field.name: type(field.default) for field in fields(Guard)}
WRONG = {
    name: NO_NUMBER
    + OUT_OF_RANGE
    + ([Wrong(1.0, TypeError), Wrong(math.nan, TypeError)] if kind is int else NOT_FINITE)
    + ([Wrong(1.0001, ValueError), Wrong(2, ValueError)] if name.endswith("_share") else [])
    for name, kind in FIELDS.items()
}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [pytest.param(name, wrong, id=f"{name}-{wrong.value!r:.12}") for name in WRONG for wrong in WRONG[name]],
)
def test_wrong_configuration(name: str, wrong: Wrong) -> None:
    """A value of the wrong type or out of its range is refused by the name of its field."""
    with pytest.raises(wrong.error, match=f"^{name} is an? (int|number)"):
        Guard(**{name: wrong.value})  # pyright: ignore[reportArgumentType] - that is the point


def test_right_configuration() -> None:
    """The ends of each range are in it, and an int is a number of seconds."""
    for name, kind in FIELDS.items():
        values = [1, 10**30] if kind is int else [1, 1e-300, 1.0 if name.endswith("_share") else 1e300]
        for value in values:
            given: dict[str, Any] = {"open_seconds": 1e-300, "max_open_seconds": 1e300, name: value}
            assert getattr(Guard(**given), name) == value
    assert Guard(open_seconds=60.0).open_seconds == 60.0


def test_contradiction() -> None:
    """It cannot stay open for longer the first time than the longest time."""
    with pytest.raises(ValueError, match=r"^open_seconds 61\.0 is above max_open_seconds 60\.0$"):
        Guard(open_seconds=61.0)


def test_configuration_stays() -> None:
    """What is configured cannot be changed under a breaker that goes by it."""
    with pytest.raises(FrozenInstanceError):
        Guard().min_calls = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue] - that is the point


def test_defaults() -> None:
    """A guard as it comes opens by itself when New fails, and closes by itself when New is well again."""
    guarded = Guarded(Guard())
    guarded.call(times=10)
    guarded.call(failed=True, times=10)
    guarded.half_open()
    guarded.call(times=3)
    assert guarded.reasons == ["failures", "probed", "recovered"]
