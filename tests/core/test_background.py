"""What waits for the background is bounded: the queue of keys, the estimate of sizes, and the settings."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zddm_flags import Copies, Shadow
from zddm_flags.background import KeyQueue, approximate_bytes

# --- the queue

NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
ADD = st.tuples(st.just("add"), NAMES, st.integers(0, 12))
STEPS = st.lists(
    st.one_of(
        *[ADD] * 6,  # often, so that there is something to take
        st.tuples(st.just("take"), st.integers(0, 4)),
        st.tuples(st.just("take"), st.integers(0, 4)),
        st.tuples(st.just("clear")),
        st.tuples(st.just("after_fork")),
        st.tuples(st.just("copy")),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=400)
@given(steps=STEPS, max_keys=st.integers(1, 4), max_bytes=st.one_of(st.integers(1, 30), st.just(math.inf)))
def test_queue_is_its_model(steps: list[tuple[Any, ...]], max_keys: int, max_bytes: float) -> None:
    """The queue is a list of distinct keys, the oldest first, that takes no more than it has room for."""
    queue: KeyQueue[int] = KeyQueue(max_keys, max_bytes)
    model: list[tuple[bytes, int, int]] = []
    for number, (step, *arguments) in enumerate(steps):
        match step:
            case "add":
                name, size = arguments
                waits = name in [each[0] for each in model]
                room = len(model) < max_keys and sum(each[2] for each in model) + size <= max_bytes
                assert queue.add(name, number, size) is (waits or room)
                if room and not waits:
                    model.append((name, number, size))
            case "take":
                limit = arguments[0]
                assert queue.take(limit) == [item for _, item, _ in model[:limit]]
                model = model[limit:]
            case "clear":
                assert queue.clear() == len(model)
                model = []
            case "after_fork":
                queue.after_fork()
                model = []
            case _:
                copy: KeyQueue[int] = KeyQueue(max_keys, max_bytes)
                copy.restore(queue.snapshot())
                assert copy.snapshot() == queue.snapshot()
                queue = copy
        assert len(queue) == len(model)
        assert bool(queue) is bool(model)
        assert len(queue) <= max_keys
        assert sum(each[2] for each in model) <= max_bytes


def test_queue_is_in_order() -> None:
    """Those that have waited longest are taken first, and there is room for exactly so many."""
    queue: KeyQueue[str] = KeyQueue(3)
    assert [queue.add(name.encode(), name) for name in "abacd"] == [True, True, True, True, False]
    assert queue.take(2) == ["a", "b"]
    assert queue.add(b"a", "again")
    assert queue.take(9) == ["c", "again"]


def test_queue_of_many_threads() -> None:
    """No key is lost or taken twice where threads add and take at once."""
    queue: KeyQueue[int] = KeyQueue(100, 1000)
    added: list[int] = []
    taken: list[int] = []
    start = threading.Barrier(4)
    over = threading.Event()

    def add(first: int) -> None:
        start.wait(30)
        mine = [number for number in range(first, first + 5000) if queue.add(b"%d" % number, number, 10)]
        added.extend(mine)

    def take() -> None:
        start.wait(30)
        mine: list[int] = []
        while not over.is_set():
            assert len(queue) <= 100
            mine += queue.take(7)
        taken.extend(mine)

    adding = [threading.Thread(target=add, args=(first,)) for first in (0, 5000)]
    taking = [threading.Thread(target=take) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in adding + taking:
            thread.start()
        for thread in adding:
            thread.join(30)
        over.set()
        for thread in taking:
            thread.join(30)
    finally:
        sys.setswitchinterval(interval)
    taken += queue.take(100)
    assert sorted(taken) == sorted(added)
    assert queue.snapshot() == ()
    assert queue.add(b"large", 1, 1000), "what was taken takes no room any more"


def test_queue_after_a_fork() -> None:
    """A child does not wait for a thread of its parent that held the lock, and nothing waits in it."""
    queue: KeyQueue[int] = KeyQueue(1, 10)
    queue.add(b"a", 1, 10)
    queue._lock.acquire()
    queue.after_fork()
    assert queue.add(b"b", 2, 10)
    assert queue.take(2) == [2]


# --- sizes


@dataclass
class Person:
    name: str
    picture: bytes


class Odd:
    """Something without a size."""

    def __sizeof__(self) -> int:
        raise TypeError


@pytest.mark.parametrize(
    "make",
    [
        lambda text: text,
        lambda text: text.encode(),
        lambda text: bytearray(text.encode()),
        lambda text: [text],
        lambda text: (text, 1),
        lambda text: {text},
        lambda text: frozenset([text]),
        lambda text: {"name": text},
        lambda text: {text: None},
        lambda text: Person(text, b""),
        lambda text: Person("", text.encode()),
    ],
)
def test_size_of_what_a_value_holds(make: Callable[[str], Any]) -> None:
    """The estimate grows with what a value holds, one level deep: by a byte or so for each."""
    small, large = (approximate_bytes(make("x" * length)) for length in (1000, 101_000))
    assert 1000 <= small < 3000
    assert 99_900 <= large - small <= 100_100


@pytest.mark.parametrize("value", [None, 1, 1.5, object(), Person, [], {}, (), "", b"", [Odd()]])
def test_size_of_anything(value: Any) -> None:
    """Any value has an estimate, from 0; a class or an object without a size is no error."""
    size = approximate_bytes(value)
    assert isinstance(size, int)
    assert 0 <= size < 5000


def test_size_of_a_circle() -> None:
    """A value that holds itself is no endless work."""
    circle: list[Any] = []
    circle.append(circle)
    assert approximate_bytes(circle) < 1000


# --- settings


def test_defaults() -> None:
    """Copies are inline and unlimited, and a background that is asked for is bounded."""
    copies = Copies()
    assert (copies.mode, copies.per_second, copies.on_close, copies.size_of) == ("inline", None, "finish", None)
    assert (copies.max_keys, copies.max_bytes, copies.close_seconds) == (10_000, 2**26, 5.0)
    shadow = Shadow(share=0.5)
    assert (shadow.per_second, shadow.max_keys) == (100.0, 1000)
    assert shadow.equal(1, 1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "sometimes"},
        {"mode": ""},
        {"mode": None},
        {"mode": True},
        {"on_close": "forget"},
        {"per_second": 0},
        {"per_second": -1},
        {"per_second": math.inf},
        {"per_second": math.nan},
        {"max_keys": 0},
        {"max_bytes": 0},
        {"close_seconds": -0.1},
        {"close_seconds": math.inf},
        {"close_seconds": math.nan},
    ],
)
def test_wrong_copies(options: dict[str, Any]) -> None:
    """A setting of copies that is out of range is refused when it is made."""
    with pytest.raises(ValueError, match=next(iter(options)) if "mode" not in options else "copy"):
        Copies(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"share": 0},
        {"share": -0.1},
        {"share": 1.01},
        {"share": math.nan},
        {"share": 1, "per_second": 0},
        {"share": 1, "per_second": math.nan},
        {"share": 1, "per_second": math.inf},
        {"share": 1, "max_keys": 0},
    ],
)
def test_wrong_shadow(options: dict[str, Any]) -> None:
    """A setting of the comparison that is out of range is refused when it is made."""
    with pytest.raises(ValueError, match=list(options)[-1]):
        Shadow(**options)


def test_bounds_are_allowed() -> None:
    """The smallest and the largest of each range are in it."""
    Copies(mode="background", per_second=1e-9, max_keys=1, max_bytes=1, close_seconds=0)
    Shadow(share=1, per_second=1e-9, max_keys=1)
    Shadow(share=1e-9)


def test_settings_do_not_change() -> None:
    """Settings are safe to share: they cannot be changed."""
    with pytest.raises(FrozenInstanceError):
        Copies().mode = "off"  # type: ignore[misc]  # that it fails is the point
    with pytest.raises(FrozenInstanceError):
        Shadow(share=1).share = 0.5  # type: ignore[misc]  # that it fails is the point
