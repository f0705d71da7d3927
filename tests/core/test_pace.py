from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zddm_flags.pace import Pace

RATES = st.one_of(st.floats(0.01, 1e6), st.integers(1, 1000), st.sampled_from([1 / 3, 0.1, 0.7, 1.0, 2.5, 1e-3]))
STARTS = st.one_of(st.sampled_from([0.0, 1000.0, 1e6]), st.floats(0, 1e7))


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def slack(per_second: float, clock: Clock) -> float:
    """What happens within the few smallest steps that such a clock can tell."""
    return 1e-6 + 4 * per_second * math.ulp(clock.now)


@pytest.mark.parametrize("per_second", [True, False, "1", Decimal(1), b"1", [1], 1j])
def test_what_is_no_number_is_refused(per_second):
    """Anything but an int, a float or None raises a TypeError; a bool is no number."""
    with pytest.raises(TypeError, match="per_second is a number or None, not a"):
        Pace(per_second, Clock())


@pytest.mark.parametrize("per_second", [0, 0.0, -0.0, -1, math.nan, math.inf, -math.inf, 10**400])
def test_wrong_paces_are_refused(per_second):
    """A pace that is not above 0 and finite raises a ValueError."""
    with pytest.raises(ValueError, match="per_second is above 0, and finite"):
        Pace(per_second, Clock())


def test_no_limit():
    """None is no limit: whatever is wanted may happen, now."""
    pace = Pace(None, Clock())
    for _ in range(3):
        assert pace.take(10**9) == 10**9
        assert pace.seconds_to_next() == 0.0
    state = pace.snapshot()
    pace.give_back(1)
    assert pace.snapshot() == state


@pytest.mark.parametrize(("per_second", "burst"), [(0.01, 1), (1, 1), (1.9, 1), (2, 2), (2.5, 2), (100, 100)])
def test_a_burst_is_a_second_and_at_least_one(per_second, burst):
    """At the start, and after any pause, a second's worth may happen at once, or one if that is less."""
    clock = Clock()
    pace = Pace(per_second, clock)
    for pause in (0.0, 1000.0, 1e6):
        clock.now += pause
        assert pace.take(10**6) == burst
        assert pace.take(1) == 0


def test_take_gives_no_more_than_wanted():
    """Only what is taken is used up, and nothing is where nothing is wanted."""
    pace = Pace(10, Clock())
    assert [pace.take(wanted) for wanted in (0, 3, 0, 4, 4, 1, 0)] == [0, 3, 0, 4, 3, 0, 0]


def test_the_bucket_fills_at_the_pace():
    """What was taken comes back one by one."""
    clock = Clock(0.0)
    pace = Pace(4, clock)
    assert pace.take(4) == 4
    taken = []
    for _ in range(8):
        clock.now += 0.125
        taken.append(pace.take(10))
    assert taken == [0, 1] * 4


def test_give_back():
    """What is given back may happen now."""
    pace = Pace(10, Clock())
    assert pace.take(10) == 10
    pace.give_back(0)
    assert pace.take(1) == 0
    pace.give_back(4)
    assert pace.take(10) == 4


@pytest.mark.parametrize("pause", [0.0, 0.3, 1.0, 50.0])
def test_a_bucket_never_overflows(pause):
    """Giving back, even more than was taken, or late, never makes more than a second's worth."""
    clock = Clock()
    pace = Pace(10, clock)
    pace.take(10)
    clock.now += pause
    pace.give_back(1000)
    assert pace.take(1000) == 10


def test_what_a_full_bucket_loses():
    """The part of one that comes on top of a full bucket is lost as well."""
    clock = Clock()
    pace = Pace(10, clock)
    assert pace.take(1) == 1
    clock.now += 0.15
    assert pace.take(100) == 10
    clock.now += 0.06
    assert pace.take(100) == 0


def test_what_overflowed_stays_lost():
    """Giving back does not bring back what a full bucket had no room for."""
    clock = Clock()
    pace = Pace(10, clock)
    assert pace.take(1) == 1
    clock.now += 1.0
    pace.give_back(1)
    clock.now += 0.05
    assert pace.take(100) == 10
    assert pace.take(1) == 0


@given(per_second=RATES, start=STARTS, count=st.integers(1, 100))
def test_seconds_to_next(per_second, start, count):
    """Nothing may happen until the seconds are over that were announced, and then one may."""
    clock = Clock(start)
    pace = Pace(per_second, clock)
    assert pace.seconds_to_next() == 0.0
    assert pace.take(10**9) == int(max(1, per_second))
    for _ in range(count):
        announced = clock.now, pace.seconds_to_next()
        assert 0 <= announced[1] <= 1 / per_second * (1 + 1e-9) + 1e-8
        if announced[1] > 1e-6:  # less is not much more than such a clock can tell
            clock.now = announced[0] + announced[1] * 0.99
            assert pace.take(1) == 0
        clock.now = announced[0] + announced[1]
        assert pace.take(2) == 1


@given(
    per_second=RATES,
    start=STARTS,
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 50), st.integers(0, 10)), max_size=60),
)
def test_the_bound_of_any_interval(per_second, start, steps):
    """From any moment to any later one no more happens than a burst and the pace times the seconds."""
    clock = Clock(start)
    pace = Pace(per_second, clock)
    taken = []
    for pause, wanted, unused in steps:
        clock.now += pause
        granted = pace.take(wanted)
        assert 0 <= granted <= wanted
        given_back = min(granted, unused)
        pace.give_back(given_back)
        taken.append((clock.now, granted - given_back))
    for first in range(len(taken)):
        total = 0
        for now, happened in taken[first:]:
            total += happened
            bound = max(1, per_second) + per_second * (now - taken[first][0])
            assert total <= bound + slack(per_second, clock)


@given(
    per_second=st.floats(1.01, 1e6), start=STARTS, pauses=st.lists(st.floats(0, 0.999), min_size=1, max_size=100)
)
def test_steady_demand_gets_all_of_it(per_second, start, pauses):
    """Where demand is back before the bucket is full, all but one of what may happen does."""
    clock = Clock(start)
    pace = Pace(per_second, clock)
    total = pace.take(10**9)
    for pause in pauses:
        clock.now += pause * (per_second - 1) / per_second  # less than one was left
        total += pace.take(10**9)
    due = per_second + per_second * (clock.now - start)
    assert due - 1 <= total + slack(per_second, clock)
    assert total <= due + slack(per_second, clock)


def test_no_drift():
    """After 200,000 takes, one at a time and each when it was announced, not one is missing or too many."""
    per_second = 7.7
    clock = Clock(0.0)
    pace = Pace(per_second, clock)
    assert pace.take(100) == 7
    taken = 0
    for _ in range(200_000):
        clock.now += pace.seconds_to_next()
        taken += pace.take(1)
    assert taken == 200_000
    assert clock.now == pytest.approx((7 + 200_000 - per_second) / per_second, rel=1e-12)


@pytest.mark.parametrize("per_second", [7.7, 49.9, 1e5 / 3])
def test_no_drift_under_demand(per_second):
    """Over a hundred thousand takes of all that there is, the total is always what is due, rounded down."""
    clock = Clock(0.0)
    pace = Pace(per_second, clock)
    total = 0
    for number in range(10**5):
        clock.now = number / 50
        total += pace.take(10**9)
        if number % 1000 == 0:
            assert total == int(per_second + per_second * clock.now)


@pytest.mark.parametrize("per_second", [1e300, sys.float_info.max, 1e-300, 5e-324])
def test_the_ends_of_the_range(per_second):
    """The largest and smallest paces work as others do."""
    clock = Clock()
    pace = Pace(per_second, clock)
    for _ in range(3):
        assert pace.take(1) == (1 if per_second > 1 or clock.now == 1000.0 else 0)
        assert pace.seconds_to_next() == 0.0 or per_second < 1
        clock.now += 1e9
    pace.give_back(1)
    assert pace.take(1) == 1


def test_a_snapshot_is_restored():
    """A pace that is restored grants what it would have granted when the snapshot was taken."""
    clock = Clock()
    pace = Pace(10, clock)
    pace.take(4)
    clock.now += 0.1
    before = pace.snapshot()
    assert pace.take(100) == 7
    assert pace.snapshot() != before
    pace.restore(before)
    assert pace.snapshot() == before
    assert pace.take(100) == 7


def test_a_fork():
    """In the child of a fork a pace starts anew, though a thread of the parent held its lock."""
    clock = Clock()
    pace = Pace(10, clock)
    pace.take(10)
    clock.now += 0.1
    pace._lock.acquire()
    pace.after_fork()
    assert pace.take(100) == 10


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Threads that take turns as often as the interpreter lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("busy_threads")
def test_many_threads():
    """Threads that take and give back at once get together what one would have."""

    class Wanted(int):
        def __gt__(self, other: int) -> bool:
            time.sleep(0)  # lets the others go where the lock does not hold them: between looking and taking
            return int(self) > other

    pace = Pace(1000, Clock())
    start, taken = threading.Barrier(4), []

    def run() -> None:
        start.wait(30)
        for number in range(500):
            granted = pace.take(Wanted(3))
            unused = min(granted, number % 2)
            pace.give_back(unused)
            taken.append(granted - unused)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(taken) == 2000
    assert sum(taken) == 1000
    assert pace.take(1) == 0
