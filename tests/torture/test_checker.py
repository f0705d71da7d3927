"""The torture's checker finds what is wrong, and nothing else."""

import itertools
import random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.torture import checker
from tests.torture.checker import Operation, TooConcurrent, check

Outcome = Literal["certain", "possible", "refused"]


def read(begin, end, value):
    return Operation("read", value, begin, end)


def write(begin, end, value, outcome: Outcome = "certain"):
    return Operation("write", value, begin, end, outcome)


def delete(begin, end, outcome: Outcome = "certain"):
    return Operation("write", None, begin, end, outcome)


RIGHT = {
    "nothing at all": [],
    "the initial value": [read(0, 1, "a")],
    "a write, then its value": [write(0, 1, "b"), read(2, 3, "b")],
    "a read during a write, before it": [write(0, 9, "b"), read(2, 3, "a")],
    "a read during a write, after it": [write(0, 9, "b"), read(2, 3, "b")],
    "two writes at once, in the one order": [write(0, 9, "b"), write(1, 8, "c"), read(10, 11, "b")],
    "two writes at once, in the other order": [write(0, 9, "b"), write(1, 8, "c"), read(10, 11, "c")],
    "overlapping reads see a write at different times": [write(0, 9, "b"), read(1, 8, "b"), read(2, 7, "a")],
    "a possible write happens": [write(0, 5, "b", "possible"), read(2, 3, "b"), read(8, 9, "b")],
    "a possible write happens late": [write(0, 5, "b", "possible"), read(2, 3, "a"), read(4, 5, "b")],
    "a possible write happens, and is seen afterwards": [write(0, 5, "b", "possible"), read(6, 7, "b")],
    "a possible write never happens": [write(0, 5, "b", "possible"), read(2, 3, "a"), read(8, 9, "a")],
    "a possible write overwrites a later one": [
        write(0, 9, "b", "possible"),
        write(1, 2, "c"),
        read(3, 4, "c"),
        read(5, 6, "b"),
    ],
    "a refused write is not seen": [write(0, 1, "b", "refused"), read(2, 3, "a")],
    "a delete, then absence": [delete(0, 1), read(2, 3, None)],
    "a possible delete happens": [delete(0, 5, "possible"), read(1, 2, "a"), read(3, 4, None), read(8, 9, None)],
    "a possible delete never happens": [delete(0, 5, "possible"), read(8, 9, "a")],
    "a delete and a write at once": [delete(0, 9), write(0, 9, "b"), read(1, 2, None), read(3, 4, "b")],
    "deletes on both sides of a write": [delete(0, 1), write(2, 3, "b"), delete(4, 5), read(6, 7, None)],
    "touching intervals overlap": [write(0, 2, "b"), read(2, 3, "a")],
}

WRONG = {
    "a stale read": ([write(0, 1, "b"), read(2, 3, "a")], "since"),
    "a value that nobody wrote": ([read(0, 1, "z")], "nobody"),
    "backwards": ([write(0, 9, "b"), read(1, 2, "b"), read(3, 4, "a")], "since"),
    "backwards, past two values": (
        [write(0, 1, "b"), write(2, 9, "c"), read(3, 4, "c"), read(5, 6, "b")],
        "overwritten",
    ),
    "a lost acknowledged write": ([write(0, 1, "b"), write(2, 3, "c"), read(4, 5, "b")], "overwritten"),
    "a deleted key comes back": ([delete(0, 1), read(2, 3, "a")], "since"),
    "a delete is undone after it was seen": (
        [write(0, 1, "b"), delete(2, 9), read(3, 4, None), read(5, 6, "b")],
        "overwritten",
    ),
    "absent without a delete": ([write(0, 1, "b"), read(2, 3, None)], "since"),
    "absent after one delete and a write": ([delete(0, 1), write(2, 3, "b"), read(4, 5, None)], "since"),
    "one possible delete explains one absence, not two": (
        [delete(0, 9, "possible"), read(1, 2, None), write(3, 4, "b"), read(5, 6, None)],
        "since",
    ),
    "read before its write began": ([read(0, 1, "b"), write(2, 3, "b")], "before its write began"),
    "a refused write took effect": ([write(0, 1, "b", "refused"), read(2, 3, "b")], "refused"),
    "a refused delete took effect": ([delete(0, 1, "refused"), read(2, 3, None)], "since"),
    "a possible write took effect too late": (
        [write(0, 5, "b", "possible"), write(6, 7, "c"), read(8, 9, "c"), read(10, 11, "b")],
        "later than it was allowed",
    ),
    "a possible write that happened, undone": (
        [write(0, 5, "b", "possible"), read(1, 2, "b"), read(3, 4, "a")],
        "since",
    ),
    "two readers see two writes in opposite orders": (
        [write(0, 3, "b"), write(0, 3, "c"), read(4, 5, "b"), read(6, 7, "c")],
        "overwritten",
    ),
}


@pytest.mark.parametrize("history", RIGHT.values(), ids=RIGHT)
def test_right(history):
    """A history that some order explains is accepted, however it is listed."""
    assert check("a", history) is None
    assert check("a", reversed(history)) is None


@pytest.mark.parametrize(("history", "reason"), WRONG.values(), ids=WRONG)
def test_wrong(history, reason):
    """A history that no order explains is refused, at a read, with the reason in words."""
    violation = check("a", history)
    assert violation is not None
    assert violation.read in history
    assert reason in violation.reason


def test_says_what_was_possible():
    """A violation names what the key could have held."""
    history = [write(0, 1, "b"), write(2, 9, "c"), delete(2, 9), read(3, 4, "a")]
    violation = check("a", history)
    assert violation is not None
    assert violation.possible == (None, "b", "c")


def test_refuses_values_that_tell_nothing():
    """Two writes of one value are refused: which of them a read saw could not be told."""
    with pytest.raises(ValueError, match="twice"):
        check(None, [write(0, 1, "b"), write(2, 3, "b")])


def test_gives_up_loudly(monkeypatch):
    """A history beyond the search's bounds is an error, not a pass."""
    monkeypatch.setattr(checker, "STATES_MAX", 100)
    many = [write(0, 99, str(number)) for number in range(12)]
    with pytest.raises(TooConcurrent):
        check(None, [*many, *(read(1, 98, str(number)) for number in range(12))])


def explained_by_brute_force(initial, operations):
    """Try every choice of the possible writes, in every order."""
    happened = [each for each in operations if each.outcome == "certain"]
    possible = [each for each in operations if each.outcome == "possible"]
    return any(
        _allowed(order) and _runs(initial, order)
        for count in range(len(possible) + 1)
        for chosen in itertools.combinations(possible, count)
        for order in itertools.permutations([*happened, *chosen])
    )


def _allowed(order):
    return all(not later.end < earlier.begin for earlier, later in itertools.combinations(order, 2))


def _runs(value, order):
    for each in order:
        if each.kind == "write":
            value = each.value
        elif each.value != value:
            return False
    return True


@st.composite
def tiny_histories(draw):
    """At most six operations with any intervals and outcomes, whose reads return anything."""
    count = draw(st.integers(1, 6))
    operations = []
    for number in range(count):
        begin = draw(st.integers(0, 10))
        end = begin + draw(st.integers(0, 8))
        if draw(st.booleans()):
            value = draw(st.sampled_from([None, str(number)]))
            outcomes: list[Outcome] = ["certain", "certain", "possible", "refused"]
            outcome = draw(st.sampled_from(outcomes))
            operations.append(Operation("write", value, begin, end, outcome))
        else:
            value = draw(st.sampled_from([None, "a", *(str(each) for each in range(count))]))
            operations.append(Operation("read", value, begin, end))
    return operations


@settings(max_examples=600, deadline=None)
@given(tiny_histories(), st.sampled_from([0, checker.PRUNED_ABOVE]))
def test_agrees_with_brute_force(history, pruned_above):
    """On tiny histories it decides as trying every order does, with its pruning and without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checker, "PRUNED_ABOVE", pruned_above)
        assert (check("a", history) is None) == explained_by_brute_force("a", history)


def happened_in_a_register(seed, count=200, spread=12):
    """What a real register did: operations at known moments, each with an interval around its own moment."""
    rng = random.Random(seed)
    value: str | None = "a"
    operations = []
    for moment in range(count):
        now = 10 * moment
        begin, end = now - rng.randint(0, 10 * spread), now + rng.randint(0, 10 * spread)
        kind = rng.choice(["read", "read", "read", "write", "delete", "never", "refused"])
        if kind == "read":
            operations.append(Operation("read", value, begin, end))
        elif kind in {"write", "delete"}:
            value = None if kind == "delete" else str(moment)
            operations.append(write(begin, end, value, "possible" if rng.random() < 0.25 else "certain"))
        else:
            unseen = rng.choice([None, f"unseen-{moment}"])
            operations.append(write(begin, end, unseen, "possible" if kind == "never" else "refused"))
    return operations


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_accepts_a_register(seed):
    """Whatever a register does is accepted, with overlap, writes that raised and writes that were refused."""
    assert check("a", happened_in_a_register(seed, spread=3)) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_finds_a_stale_read_in_a_long_history(seed, rng):
    """One read that returns an earlier value, which was overwritten before the read began, is found."""
    history = happened_in_a_register(seed, spread=2)
    points = [each for each in history if each.kind == "write" and each.outcome == "certain" and each.value]
    stale = [
        (old, new) for old, new in itertools.pairwise(points) if old.end < new.begin and history.index(new) < 150
    ]
    if not stale:
        return
    old, new = rng.choice(stale)
    begin = new.end + 1
    late = [*history, Operation("read", old.value, begin, begin + rng.randint(0, 50))]
    violation = check("a", late)
    assert violation is not None


def test_long_histories_take_time_in_proportion():
    """A key with 20,000 operations is checked within the time of a test."""
    assert check("a", happened_in_a_register(7, count=20_000, spread=3)) is None
