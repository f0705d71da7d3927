"""The guard in a proxy: a New that fails, hangs or is slow is left alone, and Old never waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.core.test_fork_hooks import in_child
from tests.core.worlds import MANY, Clock, Hook, Migration, World
from zddm_flags import Guard, StoreInfo, Telemetry
from zddm_flags.errors import NotApplied, ValueRefused

KEY = "k"
GUARD = Guard(min_calls=2, open_seconds=1.0, max_open_seconds=8.0, trial_calls=2)
IN_PROCESS = StoreInfo(remote=False)
QUIET = Telemetry(log=False)
BY_HAND = pytest.mark.usefixtures("by_hand")


def start(world: World, **options: Any) -> Migration:
    """A migration with ten keys in both stores, all clean, and New open for them."""
    values = {KEY: "v1", **{f"k{number}": "v1" for number in range(9)}}
    migration = world.migration(**{"old": values, "new": values, "guard": GUARD, **options})
    migration.rows.open_to(1.0)
    return migration


async def fail(migration: Migration) -> None:
    """New fails until the guard is open."""
    migration.new.outage()
    for _ in range(2):
        assert await migration.read(KEY) == migration.old.values.get(KEY)
    assert migration.stats().guard == "open"
    migration.calls()


async def broken(world: World, **options: Any) -> Migration:
    """The same migration, whose guard is open."""
    migration = start(world, **options)
    await fail(migration)
    return migration


async def half_open(world: World, **options: Any) -> Migration:
    """The same migration, whose guard lets New be tried."""
    migration = await broken(world, **options)
    migration.new.recover()
    migration.clock.advance(1)
    await migration.read(KEY)
    await migration.work()
    assert migration.stats().guard == "half_open"
    migration.calls()
    return migration


def paths(migration: Migration, before: dict[Any, int]) -> dict[Any, int]:
    """The keys counted since `before`."""
    now = migration.stats().operations
    return {path: keys - before.get(path, 0) for path, keys in now.items() if keys != before.get(path, 0)}


async def recovered(migration: Migration) -> None:
    """New works again and the guard is closed."""
    migration.new.recover()
    migration.clock.advance(10)
    while migration.stats().guard != "closed":
        await migration.read("k0")
        await migration.work()


# --- open


@BY_HAND
async def test_reads_go_to_old_alone(world: World) -> None:
    """While the guard is open a read asks Old, and neither New nor the ledger; nothing is copied."""
    migration = await broken(world)
    del migration.new.values[KEY]
    before = dict(migration.stats().operations)
    assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["old.read"]
    assert paths(migration, before) == {("read", "guard_open"): 1}
    assert KEY not in migration.new.values


@BY_HAND
@pytest.mark.parametrize("methods", [("read", "write", "delete"), MANY])
async def test_batches_go_to_old_alone(world: World, methods: tuple[str, ...]) -> None:
    """While the guard is open no batch asks New anything, key by key or not; a write leaves its keys stale."""
    migration = await broken(world, new_methods=methods, old_methods=MANY)
    before = dict(migration.stats().operations)
    assert await migration.read_many(["k0", "k1", "absent"]) == {"k0": "v1", "k1": "v1"}
    assert migration.calls() == ["old.read_many"]
    await migration.write_many({"k0": "v2", "k1": "v2"})
    assert migration.calls() == ["ledger.begin", "old.write_many", "ledger.end"]
    assert paths(migration, before) == {("read", "guard_open"): 3, ("write", "guard_open"): 2}
    assert migration.left == (2, 0)
    await recovered(migration)
    assert await migration.read_many(["k0", "k1"]) == {"k0": "v2", "k1": "v2"}
    assert migration.new.values["k0"] == migration.new.values["k1"] == "v2"
    assert migration.left == (0, 0)


@BY_HAND
@pytest.mark.parametrize("operation", ["write", "delete"])
async def test_changes_leave_their_keys_stale(world: World, operation: str) -> None:
    """A change while the guard is open goes to Old alone, and is served right once the guard is closed."""
    migration = await broken(world)
    before = dict(migration.stats().operations)
    arguments = [KEY, "v2"] if operation == "write" else [KEY]
    await getattr(migration, operation)(*arguments)
    assert migration.calls() == ["ledger.begin", f"old.{operation}", "ledger.end"]
    assert paths(migration, before) == {(operation, "guard_open"): 1}
    assert migration.left == (1, 0)
    await recovered(migration)
    value = "v2" if operation == "write" else None
    assert migration.new.values[KEY] == "v1"
    assert await migration.read(KEY) == value
    assert migration.new.values.get(KEY) == value
    assert migration.left == (0, 0)


@BY_HAND
async def test_a_new_that_was_never_opened_stays_so(world: World) -> None:
    """While the guard is open New is not opened wider, so a key that it never held stays clean."""
    migration = world.migration(guard=GUARD)
    await fail(migration)
    await migration.write(KEY, "v1")
    assert migration.calls() == ["ledger.begin", "old.write", "ledger.end"]
    assert migration.summary.opened == 0.0
    assert migration.left == (0, 0)


@BY_HAND
async def test_old_keeps_the_guard_closed(world: World) -> None:
    """An Old that fails says nothing of New."""
    migration = start(world)
    migration.new.values.clear()
    migration.old.outage()
    for _ in range(20):
        with pytest.raises(Exception, match="secret"):
            await migration.read(KEY)
    assert migration.stats().guard == "closed"


@BY_HAND
async def test_each_proxy_has_a_guard_of_its_own(world: World) -> None:
    """A guard that is open in one proxy keeps no other from New."""
    migration = await broken(world)
    other = migration.in_another_process(1.0)
    migration.new.recover()
    assert await other.read(KEY) == "v1"
    assert migration.calls() == ["ledger.dirty", "new.read"]
    assert (migration.stats().guard, other.stats().guard) == ("open", "closed")


@BY_HAND
async def test_without_a_guard(world: World) -> None:
    """`guard=None` calls New however often it fails, and shows no state."""
    migration = start(world, guard=None)
    migration.new.outage()
    for _ in range(100):
        assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["ledger.dirty", "new.read", "old.read"] * 100
    assert migration.stats().operations == {("read", "new_failed"): 100}
    assert migration.stats().guard is None


def test_wrong_guard(world: World) -> None:
    """A guard that is none is refused, so that a number of seconds is not taken for one."""
    with pytest.raises(TypeError, match="guard"):
        world.migration(guard=1.0)


# --- it opens in the middle


def opening(migration: Migration) -> Hook:
    """Let New fail elsewhere, until the guard is open, in the middle of an operation."""

    async def open_it() -> None:
        journal = migration.calls()
        migration.new.outage(methods=["read"])
        while migration.stats().guard != "open":
            await migration.read("k8")
        migration.new.recover()
        migration.calls()
        migration.journal.extend(journal)

    return open_it


@BY_HAND
async def test_it_opens_while_the_ledger_is_asked(world: World) -> None:
    """A guard that opens after the ledger was asked keeps the read from New."""
    migration = start(world)
    migration.ledger.after["dirty"] = opening(migration)
    assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["ledger.dirty", "old.read"]
    assert migration.stats().operations == {("read", "new_failed"): 2, ("read", "guard_open"): 1}


@BY_HAND
@pytest.mark.parametrize("opened", [True, False])
async def test_it_opens_while_old_is_read_for_a_copy(world: World, opened: bool) -> None:
    """A guard that opens before a copy reaches New keeps it from there, and no token is left."""
    migration = start(world) if opened else world.migration(old={KEY: "v1", "k8": "v1"}, guard=GUARD)
    migration.new.values.clear()
    migration.old.before["read"] = opening(migration)
    assert await migration.read(KEY) == "v1"
    assert "new.write" not in migration.calls()
    assert migration.stats().operations["read", "guard_open"] == 1
    assert migration.new.values == {}
    assert migration.summary.pending == 0
    await recovered(migration)
    assert await migration.read(KEY) == "v1"
    assert migration.new.values[KEY] == "v1"
    assert migration.left == (0, 0)


@BY_HAND
async def test_it_opens_while_old_is_written(world: World) -> None:
    """A guard that opens between the two writes keeps the second from New, and the key is stale at once."""
    migration = start(world)
    migration.old.after["write"] = opening(migration)
    await migration.write(KEY, "v2")
    assert migration.calls() == ["ledger.begin", "old.write", "ledger.end"]
    assert migration.left == (1, 0)
    await recovered(migration)
    assert await migration.read(KEY) == "v2"


@BY_HAND
@pytest.mark.parametrize("operation", ["write_many", "read_many", "copy"])
async def test_a_batch_key_by_key_stops(world: World, operation: str) -> None:
    """A guard that opens in the middle of a batch that goes key by key stops it there, and leaves no token."""
    migration = start(world, guard=Guard(min_calls=2, max_slow_share=0.3, open_seconds=1.0))
    keys = [f"k{number}" for number in range(5)]
    values = dict.fromkeys(keys, "v1")
    if operation == "copy":
        migration.new.values.clear()
    call = "read" if operation == "read_many" else "write"

    async def slow() -> None:
        migration.clock.advance(0.6)
        migration.new.before[call] = slow

    migration.new.before[call] = slow
    if operation == "write_many":
        values = dict.fromkeys(keys, "v2")
        await migration.write_many(values)
    else:
        assert await migration.read_many(keys) == values
    made = migration.calls().count(f"new.{call}")
    # Of a copy the reads before count too: 3 of 8 calls are more than the share.
    assert made == (3 if operation == "copy" else 2), "a call to New began after the guard had opened"
    assert migration.stats().guard == "open"
    name = "write" if operation == "write_many" else "read"
    assert migration.stats().operations == {(name, "guard_open"): 5}
    assert migration.summary.pending == 0, "what was refused was certainly not done, so the keys are settled"
    assert migration.clean_differences() == {}
    await recovered(migration)
    assert await migration.read_many(keys) == values
    assert {key: migration.new.values[key] for key in keys} == values


class JumpingClock(Clock):
    """A clock that jumps by a second when it is asked, after as many times as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.jump_in = 0

    def __call__(self) -> float:
        self.jump_in -= 1
        if self.jump_in == 0:
            self.advance(1)
        return super().__call__()


@BY_HAND
@pytest.mark.parametrize("operation", ["read", "read_many", "write", "write_many", "copy"])
@pytest.mark.parametrize("asked", range(1, 12))
async def test_it_opens_at_any_moment(world: World, operation: str, asked: int) -> None:
    """Whenever a hanging call is noticed, New is not called from then on, and nothing is left pending."""
    clock = JumpingClock()
    guard = Guard(budget_seconds=0.5, max_hanging_calls=1)
    migration = start(
        world, new_info=IN_PROCESS, guard=guard, clock=clock, old_methods=MANY, new_methods=MANY, telemetry=QUIET
    )
    if operation == "copy":
        del migration.new.values["k1"]
    reached, release = world.event(), world.event()

    async def hold() -> None:
        reached.set()
        await release.wait()

    migration.new.before["read"] = hold
    with ThreadPoolExecutor(1) as pool:
        hanging = world.spawn(migration.read(KEY), pool)
        await world.until(lambda: reached.is_set)
        before = dict(migration.stats().operations)
        migration.calls()
        clock.jump_in = asked
        match operation:
            case "read" | "copy":
                assert await migration.read("k1") == "v1"
            case "read_many":
                assert await migration.read_many(["k1", "k2"]) == {"k1": "v1", "k2": "v1"}
            case "write":
                await migration.write("k1", "v2")
            case _:
                await migration.write_many({"k1": "v2", "k2": "v2"})
        clock.jump_in = 0
        method = {"copy": "write"}.get(operation, operation)
        called = f"new.{method}" in migration.calls()
        (path,) = (path for _, path in paths(migration, before))
        assert path == (_PATHS[operation] if called else "guard_open")
        assert migration.summary.pending == 0
        release.set()
        await hanging
    assert migration.clean_differences() == {}


_PATHS = {"read": "new_hit", "read_many": "new_hit", "write": "both", "write_many": "both", "copy": "copied"}


# --- the probe, and half open


@BY_HAND
async def test_a_probe_is_nobodys_to_wait_for(world: World) -> None:
    """When it is time to try New again operations go on without it, and one probe is made aside."""
    migration = await broken(world)
    migration.new.recover()
    await migration.work()
    assert migration.calls() == [], "it is too soon"
    migration.clock.advance(1)
    for _ in range(3):
        assert await migration.read(KEY) == "v1"
    await migration.write(KEY, "v2")
    assert migration.calls() == ["old.read"] * 3 + ["ledger.begin", "old.write", "ledger.end"]
    await migration.work()
    await migration.work()
    assert migration.calls() == ["new.read"]
    assert migration.stats().guard == "half_open"
    assert ("read", "new_hit") not in migration.stats().operations, "a probe is no operation"


async def test_a_probe_that_hangs(world: World) -> None:
    """The probe is made in the background by itself; while it hangs operations go on, and no other is made."""
    migration = await broken(world, new_info=IN_PROCESS)
    migration.new.recover()
    reached, release = world.event(), world.event()

    async def hang() -> None:
        reached.set()
        await release.wait()

    migration.new.before["read"] = hang
    migration.clock.advance(1)
    assert await migration.read(KEY) == "v1"
    await world.until(lambda: reached.is_set)
    migration.clock.advance(100)
    assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["old.read", "new.read", "old.read"]
    assert migration.stats().guard == "open"
    release.set()
    await world.until(lambda: migration.stats().guard == "half_open")


@BY_HAND
async def test_half_open_lets_one_call_through(world: World) -> None:
    """In half open one call at a time tries New; others go to Old and do not wait for it."""
    migration = await half_open(world)
    reached, release = world.event(), world.event()

    async def hold() -> None:
        reached.set()
        await release.wait()

    migration.new.before["read"] = hold
    with ThreadPoolExecutor(1) as pool:
        trial = world.spawn(migration.read(KEY), pool)
        await world.until(lambda: reached.is_set)
        migration.calls()
        assert await migration.read("k0") == "v1"
        assert await migration.read_many(["k0", "k1"]) == {"k0": "v1", "k1": "v1"}
        await migration.write("k0", "v2")
        assert not [call for call in migration.calls() if call.startswith("new.")]
        release.set()
        assert await trial == "v1"
    assert migration.stats().guard == "half_open"
    assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["ledger.dirty", "new.read"]
    assert migration.stats().guard == "closed"
    assert await migration.read("k0") == "v2"
    assert migration.new.values["k0"] == "v2"


@BY_HAND
async def test_a_trial_that_fails(world: World) -> None:
    """In half open one failure opens the guard again; the operation is served by Old."""
    migration = await half_open(world)
    migration.new.outage()
    assert await migration.read(KEY) == "v1"
    assert migration.stats().guard == "open"
    migration.calls()
    assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["old.read"]


@BY_HAND
async def test_a_probe_that_fails(world: World) -> None:
    """A probe that fails keeps New alone for longer, at most twice as long."""
    migration = await broken(world)
    migration.clock.advance(1)
    await migration.read(KEY)
    await migration.work()
    assert migration.calls() == ["old.read", "new.read"]
    assert migration.stats().guard == "open"
    migration.clock.advance(1.5)
    await migration.read(KEY)
    await migration.work()
    assert migration.calls() == ["old.read"], "the second time is from 1.6 to 2 seconds"
    migration.clock.advance(0.5)
    await migration.read(KEY)
    await migration.work()
    assert migration.calls() == ["old.read", "new.read"]


@BY_HAND
async def test_a_kill_while_it_is_open(world: World) -> None:
    """A proxy that is disabled probes nothing, and says that it is disabled."""
    migration = await broken(world)
    migration.proxy.disable()
    migration.clock.advance(100)
    assert await migration.read(KEY) == "v1"
    await migration.work()
    assert migration.calls() == ["old.read"]
    assert migration.stats().operations["read", "disabled"] == 1


@BY_HAND
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
async def test_a_fork_before_the_probe(world: World) -> None:
    """A probe that is due in the parent is not made in its child, which is due one of its own."""
    if not world.blocking:
        pytest.skip("the child would need an event loop of its own inside its parent's")
    migration = await broken(world)
    migration.new.recover()
    migration.clock.advance(1)
    await migration.read(KEY)
    migration.calls()

    def probes() -> bool:
        migration.proxy.do_background_work()
        if migration.calls() or migration.stats().guard != "open":
            return False
        migration.proxy.read(KEY)
        migration.proxy.do_background_work()
        return migration.calls() == ["old.read", "new.read"] and migration.stats().guard == "half_open"

    with migration.proxy._breaker._lock:  # as another thread may
        assert in_child(probes)
    await migration.work()
    assert migration.calls() == ["new.read"]
    assert migration.stats().guard == "half_open"


async def test_the_whole_way(world: World) -> None:
    """The guard opens, a probe in the background finds New well, calls try it, and the guard closes."""
    migration = start(world)
    with capture_logs() as logs:
        await fail(migration)
        migration.new.recover()
        migration.clock.advance(1)
        await migration.read(KEY)
        await world.until(lambda: migration.stats().guard == "half_open")
        await migration.read(KEY)
        await migration.read(KEY)
    assert migration.stats().guard == "closed"
    told = [log["event"] for log in logs if log["event"].startswith("guard_")]
    assert told == ["guard_opened", "guard_half_open", "guard_closed"]


# --- what counts


@BY_HAND
async def test_not_applied_is_a_failure(world: World) -> None:
    """A New that refuses writes for certain fails as well: the guard opens."""
    migration = start(world)
    migration.new.before["write"] = NotApplied()
    await migration.write(KEY, "v2")
    await migration.write(KEY, "v3")
    assert migration.stats().guard == "open"
    assert migration.left == (1, 0)


async def test_a_cancellation_is_none() -> None:
    """Callers who give up say nothing of New, however many they are."""
    world = World("asyncio")
    migration = start(world)
    never = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await never.wait()

    for _ in range(10):
        reached = asyncio.Event()
        migration.new.before["read"] = hang
        reading = asyncio.ensure_future(migration.read(KEY))
        await reached.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert migration.stats().guard == "closed"
    assert await migration.read(KEY) == "v1"
    assert migration.calls()[-1] == "new.read"


# --- a New that hangs


@BY_HAND
async def test_calls_that_hang_open_it(world: World) -> None:
    """Calls that hang in others' operations open the guard, and the next operation does not call New."""
    migration = start(world, new_info=IN_PROCESS, guard=Guard(budget_seconds=0.5, max_hanging_calls=3))
    release = world.event()

    async def hang() -> None:
        await release.wait()

    with ThreadPoolExecutor(3) as pool:
        hanging = []
        for number in range(3):
            migration.new.before["read"] = hang
            hanging.append(world.spawn(migration.read(f"k{number}"), pool))
            await world.until(lambda: "read" not in migration.new.before)
        migration.calls()
        migration.clock.advance(1.1)
        assert await migration.read(KEY) == "v1"
        await migration.write(KEY, "v2")
        assert [call for call in migration.calls() if call.startswith("new.")] == []
        assert migration.stats().guard == "open"
        release.set()
        assert await asyncio.gather(*hanging) == ["v1"] * 3


@BY_HAND
@pytest.mark.parametrize("operation", ["read", "read_many", "write", "write_many", "copy"])
async def test_a_call_too_many(world: World, operation: str) -> None:
    """A call to New above the limit is not made and does not wait: Old serves, and the guard stays closed."""
    guard = Guard(max_concurrent_calls=1)
    migration = start(world, new_info=IN_PROCESS, guard=guard, old_methods=MANY, new_methods=MANY)
    if operation == "copy":
        del migration.new.values["k1"]
    reached, release = world.event(), world.event()

    async def hold() -> None:
        reached.set()
        await release.wait()

    migration.new.before["read"] = hold
    with ThreadPoolExecutor(1) as pool:
        first = world.spawn(migration.read(KEY), pool)
        await world.until(lambda: reached.is_set)
        before = dict(migration.stats().operations)
        migration.calls()
        match operation:
            case "read" | "copy":
                assert await migration.read("k1") == "v1"
            case "read_many":
                assert await migration.read_many(["k1", "k2"]) == {"k1": "v1", "k2": "v1"}
            case "write":
                await migration.write("k1", "v2")
            case _:
                await migration.write_many({"k1": "v2", "k2": "v2"})
        assert not [call for call in migration.calls() if call.startswith("new.")]
        keys = 2 if operation.endswith("_many") else 1
        name = "write" if operation.startswith("write") else "read"
        assert paths(migration, before) == {(name, "guard_open"): keys}
        release.set()
        assert await first == "v1"
    assert migration.stats().guard == "closed"
    assert migration.summary.pending == 0
    assert await migration.read("k1") == migration.old.values["k1"]
    assert migration.new.values["k1"] == migration.old.values["k1"]


# --- the budget, in asyncio

BUDGET = Guard(budget_seconds=0.05, slow_call_seconds=0.04)


def stubborn(release: asyncio.Event, reached: asyncio.Event | None = None) -> Callable[[], Any]:
    """A driver that takes its time over a cancellation, and then does what it was asked for after all."""

    async def wait() -> None:
        if reached is not None:
            reached.set()
        give_up_at = time.monotonic() + 10  # so that a test which fails also ends
        while not release.is_set() and time.monotonic() < give_up_at:
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(release.wait(), 10)

    return wait


async def timed(operation: Any) -> tuple[Any, float]:
    began = time.monotonic()
    result = await operation
    return result, time.monotonic() - began


@pytest.mark.parametrize("guarded", ["by the guard", "by max_call_seconds"])
@pytest.mark.parametrize("method", ["read", "read_many"])
async def test_a_read_within_the_budget(method: str, guarded: str) -> None:
    """A New that does not answer costs a read its budget, or what a call may take if that is less; Old serves."""
    options: dict[str, Any] = {"guard": BUDGET}
    if guarded == "by max_call_seconds":
        options = {"guard": Guard(budget_seconds=60), "max_call_seconds": 0.05}
    migration = start(World("asyncio"), new_methods=MANY, **options)
    release = asyncio.Event()
    migration.new.before[method] = stubborn(release)
    if method == "read":
        value, seconds = await timed(migration.read(KEY))
        assert value == "v1"
    else:
        values, seconds = await timed(migration.read_many(["k0", "k1"]))
        assert values == {"k0": "v1", "k1": "v1"}
    assert 0.04 < seconds < 5
    assert set(migration.stats().operations) == {("read", "new_failed")}
    release.set()
    await asyncio.sleep(0)


async def test_a_write_that_lands_late() -> None:
    """H5: a write to New over its budget ends its operation, not its token; landing late it is not served."""
    world = World("asyncio")
    migration = start(world, guard=BUDGET)
    release = asyncio.Event()
    migration.new.before["write"] = stubborn(release)
    _, seconds = await timed(migration.write(KEY, "v2"))
    assert 0.04 < seconds < 5
    assert migration.stats().operations == {("write", "new_failed"): 1}
    assert migration.left == (0, 1), "the call may yet take effect, so the key stays dirty"
    await migration.write(KEY, "v3")
    assert migration.new.values[KEY] == "v3"
    release.set()
    await world.until(lambda: migration.new.values[KEY] == "v2")
    assert await migration.read(KEY) == "v3"
    assert migration.clean_differences() == {}
    migration.clock.advance(60)
    assert await migration.read(KEY) == "v3"  # reaps, and repairs
    assert await migration.read(KEY) == "v3"
    assert migration.new.values[KEY] == "v3"
    assert migration.left == (0, 0)


async def test_a_copy_that_lands_late() -> None:
    """H5: a copy that is over its budget leaves its token, so that a write after it wins."""
    world = World("asyncio")
    migration = start(world, guard=BUDGET)
    migration.new.values.clear()
    release = asyncio.Event()
    migration.new.before["write"] = stubborn(release)
    value, seconds = await timed(migration.read(KEY))
    assert value == "v1"
    assert seconds < 5
    assert migration.left == (0, 1)
    await migration.write(KEY, "v2")
    release.set()
    await world.until(lambda: migration.new.values.get(KEY) == "v1")
    assert await migration.read(KEY) == "v2"
    assert migration.clean_differences() == {}


async def test_a_call_that_is_left_still_counts() -> None:
    """A call that is over its budget counts as in flight until it really ends, so that no more pile up in New."""
    guard = Guard(budget_seconds=0.05, slow_call_seconds=0.04, max_concurrent_calls=1, min_calls=1000)
    world = World("asyncio")
    migration = start(world, guard=guard)
    release = asyncio.Event()
    migration.new.before["read"] = stubborn(release)
    assert await migration.read(KEY) == "v1"
    migration.calls()
    assert await migration.read(KEY) == "v1"
    assert "new.read" not in migration.calls()
    release.set()
    await world.until(lambda: not migration.proxy._breaker._running)
    assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["ledger.dirty", "new.read"]


async def test_calls_over_their_budget_open_it() -> None:
    """Calls that are cut off at the budget count as failures: enough of them and New is left alone."""
    guard = Guard(budget_seconds=0.02, slow_call_seconds=0.02, min_calls=3, max_slow_share=1.0)
    migration = start(World("asyncio"), guard=guard, clock=time.monotonic)
    never = asyncio.Event()

    async def hang() -> None:
        migration.new.before["read"] = hang
        await never.wait()

    migration.new.before["read"] = hang
    for _ in range(3):
        assert await migration.read(KEY) == "v1"
    await asyncio.sleep(0)  # the last of them is cancelled by now, but has not ended
    await asyncio.sleep(0)
    assert migration.stats().guard == "open"
    migration.calls()
    assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["old.read"]


async def test_a_budget_below_what_is_slow() -> None:
    """Calls that are cut off are slow, also where a call's time is less than `slow_call_seconds`: few open it."""
    guard = Guard(slow_call_seconds=60.0, max_hanging_calls=3)
    migration = start(World("asyncio"), guard=guard, max_call_seconds=0.02, clock=time.monotonic)
    never = asyncio.Event()

    async def hang() -> None:
        migration.new.before["read"] = hang
        await never.wait()

    migration.new.before["read"] = hang
    for _ in range(3):
        assert await migration.read(KEY) == "v1"
    await asyncio.sleep(0)  # the last of them is cancelled by now, but has not ended
    await asyncio.sleep(0)
    assert migration.stats().guard == "open"


async def test_answers_that_come_too_late() -> None:
    """A driver that ignores its cancellation, and answers when nobody waits any more, is no success of New."""
    world = World("asyncio")
    guard = Guard(budget_seconds=0.02, slow_call_seconds=0.02, max_hanging_calls=3)
    migration = start(world, guard=guard)
    for _ in range(3):  # by a clock that stands still none of them hangs; each is slow when it ends
        release = asyncio.Event()
        migration.new.before["read"] = stubborn(release)
        assert await migration.read(KEY) == "v1"
        migration.clock.advance(0.03)
        release.set()
        await world.until(lambda: not migration.proxy._breaker._running)
    assert migration.stats().guard == "open"


async def test_no_budget_in_this_process() -> None:
    """A New that runs in this process is called without a task of its own."""
    tasks: list[Any] = []

    async def look() -> None:
        tasks.append(asyncio.current_task())

    for info, same in ((IN_PROCESS, True), (StoreInfo(), False)):
        migration = start(World("asyncio"), new_info=info)
        migration.new.before["read"] = look
        await migration.read(KEY)
        assert (tasks.pop() is asyncio.current_task()) is same


@pytest.mark.parametrize("info", [IN_PROCESS, StoreInfo()])
async def test_values_that_new_refuses_do_not_open_it(world: World, info: StoreInfo) -> None:
    """A New that takes no such value is well: the guard counts no ValueRefused, however many there are."""
    migration = start(world, new_info=info)
    migration.new.outage(ValueRefused("too long"), methods=("write",))
    for number in range(20):
        await migration.write(f"k{number % 9}", "v2")
    assert migration.stats().guard == "closed"
    assert migration.stats().operations["write", "new_failed"] == 20
    migration.new.outage(NotApplied("no connection"), methods=("write",))
    for number in range(20):
        await migration.write(f"k{number % 9}", "v3")
    assert migration.stats().guard == "open"
