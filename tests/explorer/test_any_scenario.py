"""Small scenarios that nobody thought of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.explorer.mistakes import AsksNoLedger, WithdrawsAfterOldWasWritten, WritesWithoutAToken
from tests.explorer.plain import PlainProxy
from zddm_flags import Rollout
from zddm_flags.testing import (
    Advance,
    Crash,
    Delete,
    Disable,
    Enable,
    Read,
    ReadMany,
    Scenario,
    SetRate,
    Step,
    Write,
    WriteMany,
    explore,
)

RATES = st.sampled_from([0.0, 0.3, 1.0, Rollout(read=0.0, write=1.0), Rollout(read=0.3, write=0.8)])
HASH_RATES = {"k": 0.5, "l": 0.2}
NOTHING: tuple[str, ...] = ()
NO_BATCHES = ("old.read_many", "old.write_many", "new.read_many", "new.write_many", "new.delete_many")
LACKING = st.sampled_from([NOTHING, ("new.delete", "new.delete_many"), NO_BATCHES])


@st.composite
def steps(draw: st.DrawFn, *, batches: bool) -> dict[str, Step]:
    """Two operations and at most two events, some of which come after another step."""
    found: dict[str, Step] = {}
    kinds = ["read", "write", "delete", "read_many", "write_many"] if batches else ["read", "write", "delete"]
    for label in ("one", "two"):
        process, key = draw(st.sampled_from("AB")), draw(st.sampled_from("kkl"))
        after = tuple(found) if draw(st.integers(0, 2)) == 0 else ()
        made: dict[str, Step] = {
            "read": Read(process, key, after=after),
            "write": Write(process, key, f"{key} {label}", after=after),
            "delete": Delete(process, key, after=after),
            "read_many": ReadMany(process, ("k", "l"), after=after),
            "write_many": WriteMany(process, (("k", f"k {label}"), ("l", f"l {label}")), after=after),
        }
        found[label] = made[draw(st.sampled_from(kinds))]
    for label in draw(st.sampled_from([(), ("event",), ("event", "other event")])):
        process = draw(st.sampled_from("AB"))
        after = (draw(st.sampled_from(sorted(found))),) if draw(st.booleans()) else ()
        events: list[Step] = [
            SetRate(process, draw(RATES), after=after),
            Disable(process, after=after),
            Enable(process, after=after),
            Crash(process, after=after),
            Advance(draw(st.sampled_from([9.0, 15.0, 20.0, 60.0])), after=after),
        ]
        found[label] = draw(st.sampled_from(events))
    return found


@st.composite
def any_scenario(draw: st.DrawFn, *, batches: bool = True, faults: int = 1) -> Scenario:
    """Two keys, two processes at any rates, and a New that holds what it may hold."""
    opened = draw(st.sampled_from([0.0, 0.3, 1.0]))
    old = {key: f"{key} old" for key in "kl" if draw(st.booleans())}
    new: dict[str, str] = {}
    stale: list[str] = []
    for key, rate in HASH_RATES.items():
        state = draw(st.sampled_from(["absent", "equal", "stale"])) if rate < opened else "absent"
        if state == "equal" and key in old:
            new[key] = old[key]
        elif state == "stale":
            new[key] = f"{key} stale"
            stale.append(key)
    return Scenario(
        old=old,
        new=new,
        stale=stale,
        opened=opened,
        hash_rates=HASH_RATES,
        processes={"A": draw(RATES), "B": draw(RATES)},
        steps=draw(steps(batches=batches)),
        faults=draw(st.integers(0, faults)),
        without=draw(LACKING) if batches else (),
    )


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(scenario=any_scenario())
def test_promise_is_kept_in_any_small_scenario(scenario: Scenario) -> None:
    """The shipped proxy keeps its promise whatever the rates, the stores, the faults and the events are."""
    explore(scenario).check()


@pytest.mark.parametrize("proxy", [PlainProxy, AsksNoLedger, WithdrawsAfterOldWasWritten, WritesWithoutAToken])
def test_reduction_hides_nothing_in_any_small_scenario(proxy: Any) -> None:
    """With and without the reduction a wrong algorithm is caught in the same scenarios, and not in all or none."""
    verdicts: set[bool] = set()

    @settings(max_examples=40, derandomize=True, deadline=None, database=None)
    @given(scenario=any_scenario(batches=False, faults=int(proxy is PlainProxy)))
    def compare(scenario: Scenario) -> None:
        reduced, whole = (explore(scenario, proxy, reduce=reduce).violation for reduce in (True, False))
        assert (reduced is None) == (whole is None)
        verdicts.add(whole is None)

    compare()
    assert verdicts == {True, False}
