"""What jobs keep in the ledger, and tell: plain data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zddm_flags import BackfillResult, RepairResult
from zddm_flags.errors import CorruptCheckpoint
from zddm_flags.jobs import Part, Plan, Progress, Range, names_found, new_run, part_name, saved_plan
from zddm_flags.ledger import Checkpoint

texts = st.text(st.characters(codec="utf-8"), max_size=10)
cursors = st.none() | texts
numbers = st.integers(0, 10**12)
members = st.dictionaries(texts.filter(lambda name: name != "covers"), st.none() | st.booleans() | numbers | texts)

plans = st.builds(
    Plan,
    run=texts,
    ranges=st.lists(
        st.builds(Range, cursors, cursors, st.sampled_from(["old", "new", "both"])), min_size=1, max_size=5
    ).map(tuple),
    asked=members,
    expected=st.none() | numbers,
    state=st.sampled_from(["running", "stopped", "finished"]),
    seconds=st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000),
    owner=texts,
    after=st.none() | texts,
    result=members,
)
parts = st.builds(
    Part,
    run=texts,
    cursor=cursors,
    done=st.booleans(),
    counts=st.dictionaries(texts, numbers),
    more=members,
    owner=texts,
)


@given(plan=plans)
def test_a_plan_is_loaded_as_it_was_dumped(plan: Plan) -> None:
    """Every plan comes back from its text as it was, and that text is one that every ledger keeps."""
    data = plan.dump()
    assert Plan.load("backfill", data) == plan
    assert "\0" not in data
    assert data.isascii()


@given(part=parts)
def test_a_part_is_loaded_as_it_was_dumped(part: Part) -> None:
    """Every part comes back from its text as it was."""
    data = part.dump()
    assert Part.load("backfill/0", data) == part
    assert "\0" not in data


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(["old", "running"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(plan=plans, part=parts, data=st.data(), value=json_values)
def test_any_other_content_is_loaded_well_or_refused(
    plan: Plan, part: Part, data: st.DataObject, value: Any
) -> None:
    """With any of its members replaced or missing, a text loads to what it says, or is a CorruptCheckpoint."""
    whole: Plan | Part
    for whole in (plan, part):
        load: Callable[[str, str], Plan | Part] = Plan.load if isinstance(whole, Plan) else Part.load
        found = json.loads(whole.dump())
        name = data.draw(st.sampled_from(sorted(found)))
        without = {key: each for key, each in found.items() if key != name}
        for content in (json.dumps(without), json.dumps({**found, name: value})):
            refusal: CorruptCheckpoint | None = None
            try:
                loaded = load("backfill", content)
            except CorruptCheckpoint as error:
                refusal = error
            else:
                assert json.loads(loaded.dump()).keys() == found.keys()
            if refusal is not None:
                assert "'backfill'" in str(refusal)
                assert "restart=True" in str(refusal)
                assert refusal.__cause__ is not None


@pytest.mark.parametrize(
    "content", ["", "x", "null", "5", "[]", "{}", '{"format":1}', '"format"', "NaN", "[" * 10**5, "1" * 10**5]
)
def test_what_is_no_checkpoint(content: str) -> None:
    """A text that is none of ours is refused by plans and parts alike, and not repeated in the error."""
    for load in (Plan.load, Part.load):
        with pytest.raises(CorruptCheckpoint, match=r"begin the verify anew with restart=True") as caught:
            load("verify/7", content)
        assert len(str(caught.value)) < 300


def test_a_part_after_a_page() -> None:
    """A page adds to the counts and moves the cursor; the last one leaves it where it was."""
    part = Part("run", owner="who").after_page("c1", {"rows": 3, "copied": 2}, covers=0.5)
    assert part == Part(
        "run", "c1", done=False, counts={"rows": 3, "copied": 2}, more={"covers": 0.5}, owner="who"
    )
    last = part.after_page(None, {"rows": 1, "absent": 1})
    assert (last.cursor, last.done, last.counts) == ("c1", True, {"rows": 4, "copied": 2, "absent": 1})
    assert last.more == {"covers": 0.5}
    assert last.with_more(side="new").more == {"covers": 0.5, "side": "new"}
    assert part.counts == {"rows": 3, "copied": 2}


def test_a_saved_plan() -> None:
    """The plan of a job is the checkpoint of its name, and no other's."""
    plan = Plan("run", (Range(None, None),), {})
    kept = {"backfill": Checkpoint(plan.dump(), 1, 0.0), "verify/0": Checkpoint("x", 1, 0.0)}
    assert saved_plan("backfill", kept) == plan
    assert saved_plan("verify", kept) is None
    with pytest.raises(CorruptCheckpoint, match="'verify'"):
        saved_plan("verify", {"verify": Checkpoint("x", 1, 0.0)})
    assert part_name("verify", 12) == "verify/12"


def test_runs_have_identities_of_their_own() -> None:
    """No two runs are taken for one."""
    assert len({new_run() for _ in range(1000)}) == 1000


def test_names_that_a_verify_found() -> None:
    """What a part of a verify noted is read back as names; what it did not note is refused."""
    part = Part("run", more={"found": [["736b31", "00", "changed", [], False], ["00ff", "00", "extra", [], True]]})
    assert names_found("verify/0", part) == [b"sk1", b"\x00\xff"]
    assert names_found("verify/0", Part("run")) == []
    for wrong in (5, [5], ["x"], [[]], [["zz"]], [[None]]):
        with pytest.raises(CorruptCheckpoint, match="'verify/0'"):
            names_found("verify/0", Part("run", more={"found": wrong}))


def progress(**changes: Any) -> Progress:
    start = Progress(rows=0, expected=None, counts={}, parts_done=0, parts=1, rows_now=0, seconds=0.0)
    return replace(start, **changes)


@pytest.mark.parametrize(
    ("changes", "per_second", "seconds_left"),
    [
        ({}, 0.0, None),
        ({"expected": 100}, 0.0, None),
        ({"expected": 100, "seconds": 10.0}, 0.0, None),
        ({"rows": 50, "rows_now": 20, "seconds": 10.0}, 2.0, None),
        ({"rows": 50, "rows_now": 20, "seconds": 10.0, "expected": 100}, 2.0, 25.0),
        ({"rows": 100, "rows_now": 20, "seconds": 10.0, "expected": 100}, 2.0, 0.0),
        ({"rows": 150, "rows_now": 20, "seconds": 10.0, "expected": 100}, 2.0, 0.0),
    ],
)
def test_pace_and_time_left(changes: dict[str, Any], per_second: float, seconds_left: float | None) -> None:
    """The pace is that of this process, and the time left what is missing at that pace, where anybody knows."""
    assert (progress(**changes).per_second, progress(**changes).seconds_left) == (per_second, seconds_left)


BACKFILL = BackfillResult(
    finished=True,
    resumed=False,
    rows=9,
    copied=3,
    present=3,
    absent=1,
    not_covered=2,
    refused=0,
    pending=0,
    too_long=0,
    covered=0.5,
    seconds=1.0,
)


@pytest.mark.parametrize(
    ("changes", "complete"),
    [
        ({}, True),
        ({"finished": False}, False),
        ({"refused": 1}, False),
        ({"pending": 1}, False),
        ({"too_long": 1}, False),
    ],
)
def test_a_complete_backfill(changes: dict[str, Any], complete: bool) -> None:
    """A backfill is complete where it came to the end and left no key that it covers."""
    assert replace(BACKFILL, **changes).complete is complete


REPAIR = RepairResult(
    finished=True,
    dry_run=False,
    keys=5,
    copied=3,
    deleted=2,
    absent=0,
    extra=0,
    not_covered=0,
    refused=0,
    pending=0,
    not_found=0,
    seconds=1.0,
)


@pytest.mark.parametrize("left", ["extra", "not_covered", "refused", "pending", "not_found"])
def test_a_complete_repair(left: str) -> None:
    """A repair is complete where it came to the end and left no key."""
    assert REPAIR.complete
    assert not replace(REPAIR, **{left: 1}).complete
    assert not replace(REPAIR, finished=False).complete
