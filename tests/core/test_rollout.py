from __future__ import annotations

import dataclasses
import math
import threading
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zddm_flags.errors import InvalidRollout
from zddm_flags.gate import TrafficGate
from zddm_flags.rollout import CLOSED, Rollout, RolloutSource, StaticSource, change_of, checked_rate

WRONG_RATES = [
    *(math.nan, math.inf, -math.inf, -0.1, 1.1, -5e-324, math.nextafter(1, 2), 2, -1, 50),
    *(10**400, -(10**400), 10**5000, 2**64),
    *(True, False, "0.5", "", None, Decimal("0.5"), Fraction(1, 2), b"0", [0.5], (0.5,), 0.5j, object()),
]


def named(value: object) -> str:
    return f"{type(value).__name__}-{str(value)[:8] if not isinstance(value, int) else value % 1000}"


@pytest.mark.parametrize("rate", WRONG_RATES, ids=named)
def test_wrong_rates_are_refused(rate):
    """A rate that is no finite number from 0 to 1 raises InvalidRollout, a ValueError, by every way in."""
    source = StaticSource(0.25)
    ways = [checked_rate, Rollout.of, Rollout.parse, StaticSource, source.set]
    ways += [lambda rate: Rollout(rate, 1.0), lambda rate: Rollout(0.0, rate)]
    ways += [lambda rate: Rollout.parse({"read": 0, "write": rate})]
    for way in ways:
        with pytest.raises(InvalidRollout, match="a rate is a number from 0 to 1"):
            way(rate)
    assert source.rollout == Rollout(0.25, 0.25)
    assert issubclass(InvalidRollout, ValueError)


def test_a_percentage_is_shown_in_the_refusal():
    """The likeliest mistake, 50 for 50 %, is refused by an error that shows the number."""
    with pytest.raises(InvalidRollout, match=r"not 50$"):
        Rollout.of(50)


@given(rate=st.one_of(st.floats(0, 1), st.integers(0, 1)))
def test_right_rates_become_floats(rate):
    """Any int or float from 0 to 1 is a rate, and is kept as a float."""
    rollout = Rollout.of(rate)
    assert rollout == Rollout(rate, rate) == Rollout.parse(rate) == Rollout.parse({"read": rate, "write": rate})
    assert type(rollout.read) is type(rollout.write) is float
    assert rollout.read == rollout.write == rate


@given(read=st.floats(0, 1), write=st.floats(0, 1))
def test_read_is_never_above_write(read, write):
    """A rollout has a read rate up to its write rate, or is refused."""
    if read <= write:
        assert dataclasses.astuple(Rollout(read, write)) == (read, write, None)
    else:
        with pytest.raises(InvalidRollout, match="above the write rate"):
            Rollout(read, write)


def test_an_object_may_carry_other_settings():
    """Members of a flag's object besides the two rates are ignored."""
    assert Rollout.parse({"read": 0, "write": 0.5, "owner": "search"}) == Rollout(0.0, 0.5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "no read and no write"),
        ({"read": 0.5}, "no write"),
        ({"write": 0.5}, "no read"),
        ({"Read": 0.5, "Write": 0.5}, "no read and no write"),
        ({"read": 0.6, "write": 0.5}, "the read rate 0.6 is above the write rate 0.5"),
        ({"read": "0.1", "write": 0.5}, "not a str"),
        ({"read": None, "write": 0.5}, "not a NoneType"),
    ],
)
def test_wrong_objects_are_refused(value, message):
    """A flag's object that lacks a rate, or has a wrong one, is refused by an error that says which."""
    with pytest.raises(InvalidRollout, match=message):
        Rollout.parse(value)


WRONG_PACES = [
    *(math.nan, math.inf, -math.inf, -0.1, -5e-324, -1, -(10**400), 10**400),
    *(True, False, "10", "", Decimal(10), Fraction(1, 2), b"0", [10], (10,), 0.5j, {}, object()),
]


@pytest.mark.parametrize("pace", WRONG_PACES, ids=named)
def test_wrong_paces_are_refused(pace):
    """A `backfill_per_second` that is no finite number from 0 on raises, by every way in, and changes nothing."""
    source = StaticSource(Rollout(0.25, 0.25, 7))
    value = {"read": 0.1, "write": 0.2, "backfill_per_second": pace}
    for way in (lambda: Rollout(0.1, 0.2, pace), lambda: Rollout.parse(value), lambda: source.set(value)):
        with pytest.raises(InvalidRollout, match="backfill_per_second is "):
            way()
    assert source.rollout == Rollout(0.25, 0.25, 7)


@given(pace=st.one_of(st.floats(0, allow_infinity=False), st.integers(0, 10**300)))
def test_right_paces_become_floats(pace):
    """Any finite number from 0 on is a pace, kept as a float; 0 is one, and not the same as none."""
    rollout = Rollout.parse({"read": 0, "write": 1, "backfill_per_second": pace})
    assert rollout == Rollout(0.0, 1.0, pace)
    assert type(rollout.backfill_per_second) is float
    assert rollout.backfill_per_second == float(pace)


def test_no_pace():
    """A number has no pace, nor has an object without one, or with null: that is left to the backfill."""
    for value in (0.5, {"read": 0.5, "write": 0.5}, {"read": 0.5, "write": 0.5, "backfill_per_second": None}):
        assert Rollout.parse(value) == Rollout.of(0.5)
        assert Rollout.parse(value).backfill_per_second is None
    assert Rollout(0.5, 0.5, 0) != Rollout(0.5, 0.5)


def test_what_a_log_says_of_a_change():
    """A change of the pace is told where there was one, also that it ended."""
    rates = {"read": 0.5, "write": 0.5, "old_read": 0.0, "old_write": 0.0}
    assert change_of(CLOSED, Rollout.of(0.5)) == rates
    paced = Rollout(0.5, 0.5, 10)
    assert change_of(CLOSED, paced) == {**rates, "backfill_per_second": 10.0}
    same = {"read": 0.5, "write": 0.5, "old_read": 0.5, "old_write": 0.5}
    assert change_of(paced, Rollout.of(0.5)) == {**same, "backfill_per_second": None}


def test_a_change_of_the_pace_alone_reaches_every_gate():
    """A gate follows the pace as it follows the rates."""
    source, heard = StaticSource(0.5), []
    source.subscribe(heard.append)
    gate = TrafficGate(source)
    source.set({"read": 0.5, "write": 0.5, "backfill_per_second": 3})
    assert gate.decision.rollout == heard[-1] == Rollout(0.5, 0.5, 3)


def test_a_rollout_is_immutable():
    """A rollout cannot be changed, and a copy with other rates is checked as well."""
    rollout = Rollout(0.25, 0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rollout.read = 0.9  # type: ignore[misc]  # what must fail
    with pytest.raises(InvalidRollout):
        dataclasses.replace(rollout, read=0.75)
    assert rollout == Rollout(0.25, 0.5)
    assert hash(rollout) == hash(Rollout(0.25, 0.5))


def test_closed_passes_nothing():
    """CLOSED is the rollout at rate 0 for reads and writes."""
    assert Rollout.of(0) == CLOSED


def test_a_static_source_is_a_source():
    """StaticSource fits the protocol and takes whatever Rollout.parse takes."""
    assert isinstance(StaticSource(), RolloutSource)
    assert StaticSource().rollout == CLOSED
    assert StaticSource(Rollout(0.1, 0.2)).rollout == StaticSource({"read": 0.1, "write": 0.2}).rollout


def test_listeners_get_the_current_rollout_and_then_each_later_one():
    """A listener is called at once and at every change, in order, until its subscription ends."""
    source, early, late = StaticSource(0.1), [], []
    end_early = source.subscribe(early.append)
    source.set(0.2)
    end_late = source.subscribe(late.append)
    source.set(Rollout(0.2, 0.3))
    end_early()
    end_early()
    source.set(0.4)
    end_late()
    source.set(0.5)
    assert early == [Rollout.of(0.1), Rollout.of(0.2), Rollout(0.2, 0.3)]
    assert late == [Rollout.of(0.2), Rollout(0.2, 0.3), Rollout.of(0.4)]
    assert source.rollout == Rollout.of(0.5)


def test_listeners_are_called_in_the_order_of_their_subscriptions():
    """Those who subscribed first hear of a change first, before `set` returns."""
    source, heard = StaticSource(), []
    for name in "abc":
        source.subscribe(lambda rollout, name=name: heard.append((name, rollout.read)))
    heard.clear()
    source.set(1)
    assert heard == [("a", 1.0), ("b", 1.0), ("c", 1.0)]


def test_one_listener_subscribed_twice():
    """Ending one of two equal subscriptions, however often, leaves the other."""
    source, heard = StaticSource(), []
    end = source.subscribe(heard.append)
    source.subscribe(heard.append)
    end()
    end()
    heard.clear()
    source.set(0.5)
    assert heard == [Rollout.of(0.5)]


@pytest.mark.timeout(10)
def test_a_listener_may_end_its_own_subscription():
    """A listener that unsubscribes while it is called does not deadlock, and the next one still hears."""
    source, heard = StaticSource(), []
    endings = []

    def once(rollout: Rollout) -> None:
        heard.append(rollout.read)
        for end in endings:
            end()

    endings.append(source.subscribe(once))
    source.subscribe(lambda rollout: heard.append(-rollout.read))
    heard.clear()
    source.set(0.5)
    source.set(0.75)
    assert heard == [0.5, -0.5, -0.75]


@pytest.mark.timeout(10)
def test_a_listener_that_sets_a_newer_rate_wins_everywhere():
    """Every listener ends at the newest rollout, also where another listener set it: a kill is never lost."""
    source, heard = StaticSource(0.1), []

    def kill_above_one_half(rollout: Rollout) -> None:
        if rollout.read > 0.5:
            source.set(0)

    source.subscribe(kill_above_one_half)
    source.subscribe(heard.append)
    source.set(0.75)
    assert source.rollout == heard[-1] == CLOSED


def test_threads_see_the_changes_in_one_order():
    """While many threads set rates, all listeners hear the same sequence, which ends at the rollout kept."""
    source, one, other = StaticSource(), [], []
    source.subscribe(one.append)
    source.subscribe(other.append)
    barrier = threading.Barrier(4)

    def change(offset: int) -> None:
        barrier.wait()
        for step in range(200):
            source.set((offset * 200 + step) / 1000)
            source.subscribe(lambda _: None)()

    threads = [threading.Thread(target=change, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one == other
    assert len(one) == 801
    assert one[-1] == source.rollout
