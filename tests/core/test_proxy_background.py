"""Copies in the background, or none at all: bounded, paced, nobody's to wait for, and under the protocol."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.core.test_fork_hooks import in_child
from tests.core.worlds import MANY, Migration, Trouble, World
from zddm_flags import Copies, Guard, StoreInfo

KEY = "k"
IN_PROCESS = StoreInfo(remote=False)
BY_HAND = pytest.mark.usefixtures("by_hand")
ROUND = ["ledger.begin_copy", "old.read", "new.write", "ledger.end"]


made: list[Migration] = []


@pytest.fixture(autouse=True)
async def closed(world: World) -> AsyncIterator[None]:
    """Nothing goes on in the background when a test is over."""
    yield
    for migration in made:
        migration.new.recover()
        migration.proxy._to_copy.clear()
        await world.call(migration.proxy.close)
    made.clear()


def start(world: World, old: Mapping[str, Any] | None = None, **options: Any) -> Migration:
    """A migration in which Old has `old` and New is open and empty, and copies are made in the background."""
    held = {KEY: "v1"} if old is None else old
    migration = world.migration(**{"old": held, "copy": "background", **options})
    migration.rows.open_to(1.0)
    made.append(migration)
    return migration


async def stale(world: World, value: Any, **options: Any) -> Migration:
    """A migration in which New holds v1 of the key, Old holds `value`, and the key is stale."""
    migration = start(world, new={KEY: "v1"}, **options)
    migration.proxy.disable()
    await (migration.delete(KEY) if value is None else migration.write(KEY, value))
    migration.proxy.enable()
    assert migration.left == (1, 0)
    migration.calls()
    return migration


# --- after the read


@BY_HAND
async def test_a_read_does_not_wait_for_its_copy(world: World) -> None:
    """A miss returns what Old has with no further call; the copy follows, with a token, and reads Old anew."""
    migration = start(world)
    assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["ledger.dirty", "new.read", "old.read"]
    assert migration.stats().operations == {("read", "miss"): 1}
    assert (migration.stats().copies, migration.stats().copies_waiting) == (0, 1)
    await migration.work()
    assert migration.calls() == ROUND
    assert migration.new.values == {KEY: "v1"}
    assert migration.left == (0, 0)
    stats = migration.stats()
    assert stats.operations == {("read", "miss"): 1, ("copy", "copied"): 1}
    assert (stats.copies, stats.copies_waiting, stats.copies_dropped) == (1, 0, 0)
    assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["ledger.dirty", "new.read"]


async def test_it_happens_by_itself(world: World) -> None:
    """Copies are made without anybody asking, and again after the work was all done once."""
    migration = start(world, {"a": 1, "b": 2})
    for key in ("a", "b"):
        await migration.read(key)
        await world.until(lambda key=key: key in migration.new.values)
        await world.until(lambda: not migration.proxy._chores.alive)
    assert migration.stats().copies == 2


@BY_HAND
async def test_many_are_copied_together(world: World) -> None:
    """Keys of single and batch reads wait each once, and are copied `max_batch` at a time, the oldest first."""
    old = {f"k{number}": number for number in range(7)}
    migration = start(world, old, old_methods=MANY, new_methods=MANY, max_batch=5)
    await migration.read("k6")
    await migration.read("k6")
    assert await migration.read_many([*old, "absent"]) == old
    assert migration.stats().operations == {("read", "miss"): 10}
    assert migration.stats().copies_waiting == 7
    migration.old.requests.clear()
    await migration.work()
    assert set(migration.new.values) == {"k6", "k0", "k1", "k2", "k3"}
    await migration.work()
    assert migration.new.values == old
    assert [method for method, _ in migration.old.requests] == ["read_many", "read_many"]
    assert migration.stats().copies == 7
    assert migration.left == (0, 0)


@BY_HAND
async def test_absence_does_not_wait(world: World) -> None:
    """H10: a key that neither store has is not to be copied."""
    migration = start(world, {})
    assert await migration.read(KEY) is None
    assert migration.stats().copies_waiting == 0
    assert await migration.work() == 0
    assert migration.calls() == ["ledger.dirty", "new.read", "old.read"]


@BY_HAND
async def test_a_stale_key_is_made_right(world: World) -> None:
    """A stale key is read from Old, and the background brings what Old has into New."""
    migration = await stale(world, "v2")
    assert await migration.read(KEY) == "v2"
    assert migration.calls() == ["ledger.dirty", "ledger.reap", "ledger.summary", "old.read"]
    assert migration.stats().operations["read", "dirty"] == 1
    await migration.work()
    assert migration.new.values == {KEY: "v2"}
    assert migration.left == (0, 0)


@BY_HAND
async def test_a_stale_key_that_old_lacks(world: World) -> None:
    """H3: a stale key that Old lacks is deleted from New in the background."""
    migration = await stale(world, None)
    assert await migration.read(KEY) is None
    assert migration.stats().copies_waiting == 1
    migration.calls()
    await migration.work()
    calls = migration.calls()
    assert "new.delete" in calls
    assert "new.write" not in calls
    assert migration.new.values == {}
    assert migration.left == (0, 0)


@BY_HAND
@pytest.mark.parametrize("change", ["write", "delete"])
@pytest.mark.parametrize(
    "moment", ["before the copy", "after its token", "after Old was read", "while New is written"]
)
async def test_a_change_between_read_and_copy_wins(world: World, change: str, moment: str) -> None:
    """H1, H3: what changes a key after the read that asked for its copy is what New has, or the key is stale."""
    migration = start(world, new_info=IN_PROCESS)

    async def changed() -> None:
        await (migration.write(KEY, "v2") if change == "write" else migration.delete(KEY))

    assert await migration.read(KEY) == "v1"
    match moment:
        case "before the copy":
            await changed()
        case "after its token":
            migration.ledger.after["begin_copy"] = changed
        case "after Old was read":
            migration.old.after["read"] = changed
        case _:
            migration.new.before["write"] = changed
    await migration.work()
    value = migration.old.values.get(KEY)
    assert value == ("v2" if change == "write" else None)
    assert migration.clean_differences() == {}
    assert migration.summary.pending == 0
    assert await migration.read(KEY) == value
    await migration.work()
    assert await migration.read(KEY) == value
    assert migration.new.values.get(KEY) == value
    assert migration.left == (0, 0)


@BY_HAND
async def test_a_pending_key_is_not_copied(world: World) -> None:
    """H17: a key that is being changed when its copy begins is not copied."""
    migration = start(world)
    await migration.read(KEY)
    name = migration.gate.locate(KEY)[1]
    migration.rows.begin([name], b"another")
    migration.calls()
    await migration.work()
    assert migration.calls() == ["ledger.begin_copy", "old.read"]
    assert migration.stats().operations["copy", "dirty"] == 1
    assert migration.new.values == {}


@BY_HAND
async def test_an_old_that_lags(world: World) -> None:
    """H18: nothing waits to be copied from an Old whose reads may lag."""
    migration = start(world, old_info=StoreInfo(strong_reads=False))
    await migration.read(KEY)
    assert migration.stats().copies_waiting == 0
    assert migration.stats().copies_dropped == 0


@BY_HAND
@pytest.mark.parametrize("key", ["missing", "stale"])
async def test_off(world: World, key: str) -> None:
    """`"off"` never copies: New gets only what is written."""
    migration = start(world, copy="off") if key == "missing" else await stale(world, "v2", copy="off")
    held = dict(migration.new.values)
    value = migration.old.values[KEY]
    assert await migration.read(KEY) == value
    assert await migration.read_many([KEY]) == {KEY: value}
    await migration.work()
    assert "ledger.begin_copy" not in migration.calls()
    assert migration.new.values == held
    path = "miss" if key == "missing" else "dirty"
    assert migration.stats().operations["read", path] == 2
    assert (migration.stats().copies_waiting, migration.stats().copies_dropped) == (0, 0)
    await migration.write(KEY, "v3")
    assert await migration.read(KEY) == "v3"
    assert migration.new.values == {KEY: "v3"}


# --- bounds


@BY_HAND
async def test_keys_that_wait_are_bounded(world: World) -> None:
    """H16: at most `max_keys` wait; what is above is dropped and counted, and its next read asks again."""
    migration = start(world, {"a": 1, "b": 2, "c": 3}, copy=Copies(mode="background", max_keys=2))
    with capture_logs() as logs:
        for key in "abc":
            await migration.read(key)
    assert (migration.stats().copies_waiting, migration.stats().copies_dropped) == (2, 1)
    told = [log for log in logs if log["event"] == "copies_dropped"]
    assert told == [
        {"event": "copies_dropped", "log_level": "warning", "migration": "users", "keys": 1, "suppressed": 0}
    ]
    await migration.work()
    assert migration.new.values == {"a": 1, "b": 2}
    await migration.read("c")
    await migration.work()
    assert migration.new.values == migration.old.values


@BY_HAND
async def test_bytes_that_wait_are_bounded(world: World) -> None:
    """H16: the values of the keys that wait are at most `max_bytes` together, as they are estimated."""
    values = {"a": "x" * 600, "b": "x" * 600, "c": "x" * 300}
    migration = start(world, values, copy=Copies(mode="background", max_bytes=1000))
    assert await migration.read_many(values) == values
    assert (migration.stats().copies_waiting, migration.stats().copies_dropped) == (2, 1)
    await migration.work()
    assert migration.stats().copies_waiting == 0
    await migration.read("b")
    assert migration.stats().copies_waiting == 1, "what was copied takes no room any more"


@BY_HAND
async def test_sizes_of_ones_own(world: World) -> None:
    """`size_of` is asked for the size of a value, in place of the estimate."""
    copies = Copies(mode="background", max_bytes=10, size_of={"v1": 6, "v2": 5, "v3": 4}.__getitem__)
    migration = start(world, {"a": "v1", "b": "v2", "c": "v3"}, copy=copies)
    for key in "abc":
        await migration.read(key)
    await migration.work()
    assert migration.new.values == {"a": "v1", "c": "v3"}


def _raise(_: Any) -> Any:
    raise Trouble


@BY_HAND
@pytest.mark.parametrize(
    "size_of", [_raise, lambda _: None, lambda _: "many", lambda _: float("nan"), lambda _: -(10**9)]
)
async def test_a_size_of_that_is_wrong(world: World, size_of: Callable[[Any], Any]) -> None:
    """A `size_of` that raises, or gives no size, hurts no read and no copy, and lifts no bound."""
    old = {"a": 1, "b": 2, "c": 3}
    copies = Copies(mode="background", max_keys=2, max_bytes=10, size_of=size_of)
    migration = start(world, old, copy=copies)
    for key, value in old.items():
        assert await migration.read(key) == value
    assert migration.stats().operations == {("read", "miss"): 3}
    assert migration.stats().copies_waiting == 2
    await migration.work()
    assert len(migration.new.values) == 2
    assert migration.proxy._to_copy._bytes == 0


@BY_HAND
async def test_a_broken_size_of_is_told(world: World) -> None:
    """A `size_of` that raises is logged, without the text of what it raised."""
    migration = start(world, copy=Copies(mode="background", size_of=_raise))
    with capture_logs() as logs:
        await migration.read(KEY)
    assert logs == [
        {
            "event": "size_of_failed",
            "log_level": "warning",
            "migration": "users",
            "error": "Trouble",
            "suppressed": 0,
        }
    ]


@BY_HAND
async def test_a_pace(world: World) -> None:
    """At most `per_second` keys are copied in a second; the others wait longer."""
    old = {f"k{number}": number for number in range(10)}
    migration = start(world, old, copy=Copies(mode="background", per_second=3))
    await migration.read_many(old)
    copied = []
    for _ in range(4):
        await migration.work()
        await migration.work()
        copied.append(len(migration.new.values))
        migration.clock.advance(1)
    assert copied == [3, 6, 9, 10]
    assert migration.stats().copies_dropped == 0


@BY_HAND
async def test_a_pace_of_inline_copies(world: World) -> None:
    """An inline read copies what the pace allows and leaves the rest, without waiting."""
    old = {f"k{number}": number for number in range(5)}
    migration = start(world, old, copy=Copies(per_second=2))
    assert await migration.read_many(old) == old
    assert migration.stats().operations == {("read", "copied"): 2, ("read", "miss"): 3}
    assert await migration.read("k4") == 4
    assert len(migration.new.values) == 2
    assert migration.stats().copies_waiting == 0
    migration.clock.advance(1)
    await migration.read("k4")
    assert migration.new.values["k4"] == 4


# --- kills


@BY_HAND
@pytest.mark.parametrize("how", ["flag", "switch"])
async def test_a_kill_drops_what_waits(world: World, how: str) -> None:
    """After a kill nothing that waits is copied: it is dropped, and a resumed proxy asks for it anew."""
    migration = start(world, {"a": 1, "b": 2})
    await migration.read_many(["a", "b"])
    if how == "flag":
        migration.gate.set_rate(0.0)
    else:
        migration.proxy.disable()
    migration.calls()
    await migration.work()
    assert migration.calls() == []
    assert (migration.stats().copies_waiting, migration.stats().copies_dropped) == (0, 2)
    migration.gate.set_rate(1.0)
    migration.proxy.enable()
    await migration.read_many(["a", "b"])
    await migration.work()
    assert migration.new.values == {"a": 1, "b": 2}


@BY_HAND
async def test_an_open_guard_drops_what_waits(world: World) -> None:
    """While the guard is open nothing that waits is copied: it is dropped."""
    migration = start(world, {KEY: "v1", "a": 1}, guard=Guard(min_calls=2))
    await migration.read(KEY)
    migration.new.outage(methods=["read"])
    while migration.stats().guard != "open":
        await migration.read("a")
    migration.calls()
    await migration.work()
    assert migration.calls() == []
    assert (migration.stats().copies_waiting, migration.stats().copies_dropped) == (0, 1)


@BY_HAND
async def test_a_kill_in_the_middle_of_a_round(world: World) -> None:
    """A kill while Old is read for the copies keeps them from New, and leaves no token."""
    migration = start(world, {"a": 1, "b": 2}, old_methods=MANY)
    await migration.read_many(["a", "b"])

    async def kill() -> None:
        migration.proxy.disable()

    migration.old.after["read_many"] = kill
    migration.calls()
    await migration.work()
    assert migration.calls() == ["ledger.begin_copy", "old.read_many", "ledger.withdraw"]
    assert migration.new.values == {}
    assert migration.left == (0, 0)


# --- failures


@BY_HAND
@pytest.mark.parametrize("store", ["old", "new", "ledger"])
async def test_failures_hurt_nobody(world: World, store: str) -> None:
    """Whatever raises in the background reaches nobody, and leaves the protocol whole; the next round is made."""
    migration = start(world, {"a": 1, "b": 2})
    await migration.read("a")
    failing = getattr(migration, store)
    failing.outage(methods=["begin_copy"] if store == "ledger" else ["read", "write"])
    with capture_logs() as logs:
        assert await migration.work() == 0
    assert "secret" not in repr(logs)
    assert logs
    failing.recover()
    assert migration.clean_differences() == {}
    assert migration.summary.pending == (1 if store == "new" else 0)
    assert migration.stats().copies_dropped == (1 if store == "old" else 0)
    await migration.read("b")
    await migration.work()
    assert migration.new.values["b"] == 2
    migration.clock.advance(60)
    await migration.read("a")
    await migration.work()
    assert migration.new.values == {"a": 1, "b": 2}
    assert migration.left == (0, 0)


async def test_the_work_goes_on_after_a_failure(world: World) -> None:
    """A failure in the background does not end it: the next key is copied by itself."""
    migration = start(world, {"a": 1, "b": 2})
    await migration.read("a")
    migration.old.outage(methods=["read"])
    await world.until(lambda: migration.stats().copies_dropped == 1)
    migration.old.recover()
    await migration.read("b")
    await world.until(lambda: "b" in migration.new.values)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_the_work_begins_anew_after_its_end(world: World) -> None:
    """Where the background ends, by SystemExit or a cancellation, the next miss begins it anew."""
    migration = start(world, {"a": 1, "b": 2})
    await migration.read("a")
    migration.old.before["read"] = SystemExit() if world.blocking else asyncio.CancelledError()
    await world.until(lambda: not migration.proxy._chores.alive)
    migration.old.recover()
    assert migration.left == (0, 0), "Old was read and New was not written, so the token was taken back"
    assert await migration.read("b") == 2
    await world.until(lambda: "b" in migration.new.values)


async def test_a_task_that_is_cancelled(world: World) -> None:
    """A task of the background that somebody cancels, in the middle of a copy, is begun anew by the next miss."""
    if world.blocking:
        pytest.skip("a thread is not cancelled")
    migration = start(world, {"a": 1, "b": 2})
    reached, release = world.event(), world.event()

    async def hold() -> None:
        reached.set()
        await release.wait()

    await migration.read("a")
    migration.new.before["write"] = hold
    await reached.wait()
    (task,) = asyncio.all_tasks() - {asyncio.current_task()} - _in_calls()
    task.cancel()
    await world.until(lambda: not migration.proxy._chores.alive)
    assert migration.left == (0, 1), "the write was cancelled in flight, and may yet land"
    assert await migration.read("b") == 2
    await world.until(lambda: "b" in migration.new.values)


def _in_calls() -> set[Any]:
    """The tasks of single calls to New."""
    return {task for task in asyncio.all_tasks() if "bounded" in getattr(task.get_coro(), "__qualname__", "")}


async def test_a_new_that_hangs_in_the_background(world: World) -> None:
    """While a copy hangs, reads and writes of other keys go on."""
    migration = start(world, {"a": 1, "b": 2}, new_info=IN_PROCESS)
    reached, release = world.event(), world.event()

    async def hold() -> None:
        reached.set()
        await release.wait()

    await migration.read("a")
    migration.new.before["write"] = hold
    await world.until(lambda: reached.is_set)
    try:
        assert await migration.read("b") == 2
        assert await migration.read("a") == 1
        await migration.write("b", 3)
        assert await migration.read("b") == 3
    finally:
        release.set()
    await world.until(lambda: migration.stats().copies == 1)


# --- the end


@BY_HAND
async def test_close_drops(world: World) -> None:
    """`on_close="drop"` drops what waits, at once, and counts it."""
    migration = start(world, copy=Copies(mode="background", on_close="drop"))
    await migration.read(KEY)
    migration.calls()
    await world.call(migration.proxy.close)
    await world.call(migration.proxy.close)
    assert migration.calls() == []
    assert (migration.stats().copies_waiting, migration.stats().copies_dropped) == (0, 1)


async def test_close_that_drops_waits_for_nothing(world: World) -> None:
    """`on_close="drop"` does not wait for a New that hangs in the background."""
    copies = Copies(mode="background", on_close="drop", close_seconds=60)
    migration = start(world, {"a": 1, "b": 2}, copy=copies, new_info=IN_PROCESS)
    reached, release = world.event(), world.event()

    async def hang() -> None:
        reached.set()
        await release.wait()

    migration.new.before["write"] = hang
    await migration.read("a")
    await world.until(lambda: reached.is_set)
    await migration.read("b")
    try:
        began = time.monotonic()
        await world.call(migration.proxy.close)
        assert time.monotonic() - began < 10
        assert migration.stats().copies_dropped == 1
    finally:
        release.set()
    await world.until(lambda: not migration.proxy._chores.alive)
    assert migration.new.values == {"a": 1}


async def test_close_finishes(world: World) -> None:
    """`on_close="finish"` copies what waits before `close()` returns."""
    old = {f"k{number}": number for number in range(25)}
    migration = start(world, old, max_batch=10, clock=time.monotonic)
    await migration.read_many(old)
    await world.call(migration.proxy.close)
    assert migration.new.values == old
    assert (migration.stats().copies_waiting, migration.stats().copies_dropped) == (0, 0)


async def test_close_keeps_the_pace(world: World) -> None:
    """`close()` copies no faster than `per_second`, and drops what that leaves after `close_seconds`."""
    old = {f"k{number}": number for number in range(20)}
    copies = Copies(mode="background", per_second=5, close_seconds=0.3)
    migration = start(world, old, copy=copies, clock=time.monotonic)
    await migration.read_many(old)
    began = time.monotonic()
    await world.call(migration.proxy.close)
    assert 0.25 < time.monotonic() - began < 10
    stats = migration.stats()
    assert 5 <= len(migration.new.values) < 20
    assert stats.copies_waiting == 0
    assert stats.copies + stats.copies_dropped == 20


@pytest.mark.parametrize("guard", [None, Guard()])
@pytest.mark.parametrize("copying", ["before close", "in close"])
async def test_close_with_a_new_that_hangs(world: World, copying: str, guard: Guard | None) -> None:
    """`close()` takes `close_seconds` at most over copies, whatever New does."""
    copies = Copies(mode="background", close_seconds=0.2)
    migration = start(world, {"a": 1}, copy=copies, guard=guard, new_info=IN_PROCESS, clock=time.monotonic)
    reached, release = world.event(), world.event()

    async def hang() -> None:
        reached.set()
        await release.wait()

    migration.new.before["write"] = hang
    await migration.read("a")
    if copying == "before close":
        await world.until(lambda: reached.is_set)
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        closing = world.spawn(world.call(migration.proxy.close), pool)
        try:
            await asyncio.wait((closing,), timeout=10)
            assert closing.done(), "close() waits for New"
            assert time.monotonic() - began < 5
        finally:
            release.set()
            await closing
    await world.until(lambda: not migration.proxy._chores.alive)


async def test_close_while_killed(world: World) -> None:
    """`close()` of a disabled proxy copies nothing, and does not wait."""
    migration = start(world, copy=Copies(mode="background", close_seconds=60))
    await migration.read(KEY)
    migration.proxy.disable()
    began = time.monotonic()
    await world.call(migration.proxy.close)
    assert time.monotonic() - began < 10
    assert migration.new.values == {}
    assert migration.stats().copies_dropped == 1


# --- a fork


@BY_HAND
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
async def test_a_fork(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that waits in the parent waits in its child, whose own misses are copied by a thread of its own."""
    if not world.blocking:
        pytest.skip("the child would need an event loop of its own inside its parent's")
    migration = start(world, {"a": 1, "b": 2})
    migration.proxy.read("a")

    def copies() -> bool:
        if migration.stats().copies_waiting:
            return False
        monkeypatch.undo()  # from here on by itself
        migration.proxy.read("b")
        deadline = time.monotonic() + 5
        while migration.stats().copies < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        return migration.new.values == {"b": 2}

    with migration.proxy._to_copy._lock, migration.proxy._chores._lock:  # as other threads may
        assert in_child(copies)
    assert migration.stats().copies_waiting == 1
    await migration.work()
    assert migration.new.values == {"a": 1}
