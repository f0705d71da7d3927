"""An Old that fails: its error reaches the caller as it is, at once, and what is left behind is right."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.core.worlds import MANY, Migration, Trouble, World
from zddm_flags import Copies, Guard, Shadow, StoreInfo
from zddm_flags.errors import NotApplied

KEY = "k"
pytestmark = pytest.mark.usefixtures("by_hand")


def start(world: World, **options: Any) -> Migration:
    """A migration in which both stores hold the same five keys, all clean."""
    values = {KEY: "v1", **{f"k{number}": "v1" for number in range(4)}}
    info = StoreInfo(remote=False)
    migration = world.migration(**{"old": values, "new": values, "new_info": info, **options})
    migration.rows.open_to(1.0)
    return migration


async def closed_gate(world: World, **options: Any) -> Migration:
    migration = start(world, **options)
    migration.gate.set_rate(0.0)
    return migration


async def disabled(world: World, **options: Any) -> Migration:
    migration = start(world, **options)
    migration.proxy.disable()
    return migration


async def guard_open(world: World, **options: Any) -> Migration:
    migration = start(world, guard=Guard(min_calls=2), **options)
    migration.new.outage()
    for _ in range(2):
        await migration.read(KEY)
    assert migration.stats().guard == "open"
    migration.clock.advance(100)  # it is time for a probe
    return migration


async def missing(world: World, **options: Any) -> Migration:
    migration = start(world, **options)
    migration.new.values.clear()
    return migration


async def missing_in_background(world: World, **options: Any) -> Migration:
    return await missing(world, copy="background", **options)


async def missing_and_off(world: World, **options: Any) -> Migration:
    return await missing(world, copy="off", **options)


async def missing_and_paced(world: World, **options: Any) -> Migration:
    return await missing(world, copy=Copies(per_second=1), **options)


async def missing_and_lagging(world: World, **options: Any) -> Migration:
    return await missing(world, old_info=StoreInfo(strong_reads=False), **options)


async def stale(world: World, **options: Any) -> Migration:
    migration = start(world, **options)
    migration.proxy.disable()
    await migration.write_many(dict.fromkeys(migration.old.values, "v2"))
    migration.proxy.enable()
    return migration


async def pending(world: World, **options: Any) -> Migration:
    migration = start(world, **options)
    migration.rows.begin([migration.gate.locate(key)[1] for key in migration.old.values], b"another")
    return migration


async def new_fails(world: World, **options: Any) -> Migration:
    migration = start(world, guard=None, **options)
    migration.new.outage()
    return migration


async def ledger_fails(world: World, **options: Any) -> Migration:
    migration = start(world, **options)
    migration.ledger.outage(methods=["dirty", "begin_copy"])
    return migration


async def unmarked(world: World, **options: Any) -> Migration:
    migration = start(world, on_ledger_error="available", **options)
    migration.ledger.outage(methods=["begin"])
    await migration.write_many(dict.fromkeys(migration.old.values, "v2"))
    return migration


Situation = Callable[..., Awaitable[Migration]]
SITUATIONS: list[Situation] = [
    closed_gate,
    disabled,
    guard_open,
    missing,
    missing_in_background,
    missing_and_off,
    missing_and_paced,
    missing_and_lagging,
    stale,
    pending,
    new_fails,
    ledger_fails,
    unmarked,
]


def fails(migration: Migration, methods: tuple[str, ...] = MANY) -> Trouble:
    """Old fails from now on, each time with the same error."""
    error = Trouble()
    migration.old.outage(error, methods)
    return error


def counted(migration: Migration, before: dict[Any, int]) -> dict[Any, int]:
    """The keys that were counted since `before`."""
    now = migration.stats().operations
    return {path: keys - before.get(path, 0) for path, keys in now.items() if keys != before.get(path, 0)}


# --- reads


@pytest.mark.parametrize("situation", SITUATIONS)
async def test_a_read(world: World, situation: Situation) -> None:
    """Old's own error reaches who reads, on every way to Old; nothing else is called, and no token is left."""
    migration = await situation(world)
    left, before = migration.left, dict(migration.stats().operations)
    calls = len(migration.old.requests)
    error = fails(migration)
    migration.calls()
    with pytest.raises(Trouble) as raised:
        await migration.read(KEY)
    assert raised.value is error
    assert (raised.value.__cause__, raised.value.__suppress_context__) == (None, False)
    assert len(migration.old.requests) == calls + 1, "Old was asked again"
    made = migration.calls()
    after_old = made[made.index("old.read") + 1 :]
    assert [call for call in after_old if call != "ledger.withdraw"] == []
    assert counted(migration, before) == {("read", "old_failed"): 1}
    assert migration.left == left
    assert migration.stats().copies_waiting == 0
    migration.old.recover()
    migration.new.recover()
    assert await migration.read(KEY) == migration.old.values[KEY]


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("methods", [("read", "write", "delete"), MANY])
async def test_a_batch_of_reads(world: World, situation: Situation, methods: tuple[str, ...]) -> None:
    """The keys of the chunk whose read of Old failed are counted as that, and no other; no token is left."""
    migration = await situation(world, max_batch=2, old_methods=methods, new_methods=MANY)
    left, before = migration.left, dict(migration.stats().operations)
    keys = sorted(migration.old.values)
    error = Trouble()

    async def second() -> None:
        """The first chunk is read, the second fails: after two reads, where Old reads key by key."""
        if methods is MANY:
            migration.old.before["read_many"] = error
        else:
            migration.old.before["read"] = third

    async def third() -> None:
        migration.old.before["read"] = error

    migration.old.before["read_many" if methods is MANY else "read"] = second
    with pytest.raises(Trouble) as raised:
        await migration.read_many(keys)
    assert raised.value is error
    since = counted(migration, before)
    assert since.pop(("read", "old_failed")) == 2, "the keys of the second chunk"
    assert sum(since.values()) == 2, "the keys of the first chunk, by their own paths; the third was never begun"
    assert migration.summary.pending == left[1]
    migration.old.recover()
    migration.new.recover()
    assert await migration.read_many(keys) == migration.old.values


async def test_a_batch_with_hits(world: World) -> None:
    """What New served of a chunk whose other keys failed is not counted as served: the caller got none of it."""
    migration = start(world, shadow=Shadow(share=1), old_methods=MANY, new_methods=MANY)
    del migration.new.values["k1"]
    fails(migration)
    with pytest.raises(Trouble):
        await migration.read_many(["k0", "k1", "k2"])
    assert migration.stats().operations == {("read", "old_failed"): 3}
    assert migration.left == (0, 0)


# --- writes


CHANGES = ["write", "delete", "write_many"]


async def change(migration: Migration, operation: str) -> None:
    match operation:
        case "write":
            await migration.write(KEY, "v9")
        case "delete":
            await migration.delete(KEY)
        case _:
            await migration.write_many({KEY: "v9", "k0": "v9"})


@pytest.mark.parametrize("situation", [closed_gate, disabled, guard_open, missing, stale, pending, new_fails])
@pytest.mark.parametrize("operation", CHANGES)
@pytest.mark.parametrize("effect", ["none", "done", "late"])
async def test_a_change(world: World, operation: str, situation: Situation, effect: str) -> None:
    """H4: Old's own error reaches who writes; New is not touched, and the token stays, as the call may land."""
    migration = await situation(world, old_methods=MANY)
    stale_keys, tokens = migration.left
    before = dict(migration.stats().operations)
    error = Trouble()
    place = migration.old.after if effect == "done" else migration.old.before
    place.update(dict.fromkeys(MANY, error))
    migration.calls()
    with pytest.raises(Trouble) as raised:
        await change(migration, operation)
    assert raised.value is error
    method = "delete" if operation == "delete" else operation
    assert migration.calls() == ["ledger.begin", f"old.{method}"]
    keys = 2 if operation == "write_many" else 1
    name = "delete" if operation == "delete" else "write"
    assert counted(migration, before) == {(name, "old_failed"): keys}
    assert migration.left == (stale_keys, tokens + 1)
    assert migration.is_dirty(KEY)
    migration.old.recover()
    migration.new.recover()
    if effect == "late":
        migration.old.put({KEY: None if operation == "delete" else "v9"})
    migration.gate.set_rate(1.0)
    migration.proxy.enable()
    assert await migration.read(KEY) == migration.old.values.get(KEY)
    migration.clock.advance(60)
    for _ in range(10):
        await migration.read(KEY)
        await migration.read("k0")
        await migration.work()
    assert await migration.read(KEY) == migration.old.values.get(KEY)
    assert migration.new.values.get(KEY) == migration.old.values.get(KEY)
    assert migration.summary.pending == 0
    assert migration.clean_differences() == {}


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("operation", CHANGES)
async def test_a_change_that_is_refused(world: World, operation: str, opened: bool) -> None:
    """A change that Old certainly did not make is settled at once, and the caller gets the store's own error."""
    migration = start(world, old_methods=MANY)
    if not opened:
        migration = world.migration(old={KEY: "v1"}, old_methods=MANY)
    cause = Trouble()
    refused = NotApplied()
    refused.__cause__ = cause
    migration.old.outage(refused)
    with pytest.raises(Trouble) as raised:
        await change(migration, operation)
    assert raised.value is cause
    assert raised.value.__cause__ is None
    assert [call for call in migration.calls() if call.startswith("new.")] == []
    keys = 2 if operation == "write_many" else 1
    name = "delete" if operation == "delete" else "write"
    assert migration.stats().operations == {(name, "old_failed"): keys}
    assert migration.left == (keys if opened else 0, 0)
    migration.old.recover()
    assert await migration.read(KEY) == "v1"
    assert migration.new.values[KEY] == "v1"


async def test_a_refusal_without_a_cause(world: World) -> None:
    """Where the adapter gives no cause the caller gets what it raised."""
    migration = start(world)
    refused = NotApplied()
    migration.old.outage(refused)
    with pytest.raises(NotApplied) as raised:
        await migration.write(KEY, "v2")
    assert raised.value is refused


async def test_a_batch_of_writes(world: World) -> None:
    """The keys of the chunk whose write of Old failed are counted as that; those before were written."""
    migration = start(world, max_batch=2, old_methods=MANY, new_methods=MANY)
    keys = sorted(migration.old.values)
    error = Trouble()

    async def second() -> None:
        migration.old.before["write_many"] = error

    migration.old.before["write_many"] = second
    with pytest.raises(Trouble) as raised:
        await migration.write_many(dict.fromkeys(keys, "v2"))
    assert raised.value is error
    assert migration.stats().operations == {("write", "both"): 2, ("write", "old_failed"): 2}
    assert migration.left == (0, 1)
    assert [key for key in keys if migration.is_dirty(key)] == keys[2:4]
    assert [migration.new.values[key] for key in keys] == ["v2", "v2", "v1", "v1", "v1"]


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize("operation", CHANGES)
async def test_a_change_without_the_ledger(world: World, operation: str, refused: bool) -> None:
    """Where the ledger cannot be reached either, Old's error reaches the caller, and is what is counted."""
    migration = start(world, on_ledger_error="available", old_methods=MANY)
    migration.ledger.outage(methods=["begin"])
    error = Trouble()
    failure: BaseException = error
    if refused:
        failure = NotApplied()
        failure.__cause__ = error
    migration.old.outage(failure)
    with pytest.raises(Trouble) as raised:
        await change(migration, operation)
    assert raised.value is error
    keys = 2 if operation == "write_many" else 1
    name = "delete" if operation == "delete" else "write"
    assert migration.stats().operations == {(name, "old_failed"): keys}
    assert migration.stats().unmarked_keys == keys
    migration.old.recover()
    assert await migration.read(KEY) == "v1"


# --- beside it


async def test_a_probe_that_hangs_holds_nobody_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While New hangs in the background, an Old that fails tells its caller at once."""
    migration = await guard_open(world)
    migration.new.recover()
    reached, release = world.event(), world.event()

    async def hang() -> None:
        reached.set()
        await release.wait()

    migration.new.before["read"] = hang
    monkeypatch.undo()  # in the background by itself
    await migration.read(KEY)
    await world.until(lambda: reached.is_set)
    error = fails(migration)
    for operation in (migration.read(KEY), migration.write(KEY, "v2"), migration.delete(KEY)):
        with pytest.raises(Trouble) as raised:
            await operation
        assert raised.value is error
    release.set()
    await world.until(lambda: not migration.proxy._probing.alive)
    assert migration.stats().guard == "half_open", "that Old fails says nothing of New"
