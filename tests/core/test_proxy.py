"""Every path of a single read, write and delete: results, calls, counts, and what is left in the ledger."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from tests.core.worlds import LEDGER_CALLS, MANY, Migration, Store, Trouble, World
from zddm_flags import (
    AsyncInMemoryLedger,
    AsyncProxy,
    FNV1a64Hasher,
    InMemoryLedger,
    Proxy,
    Rollout,
    StoreInfo,
    TrafficGate,
)
from zddm_flags.errors import (
    InvalidKey,
    LedgerMismatch,
    LedgerUnavailable,
    NotApplied,
    OperationTimedOut,
    ProxyClosed,
    Unsupported,
)
from zddm_flags.ledger import MAX_KEY_BYTES

REAPED = ["ledger.dirty", "ledger.reap", "ledger.summary"]
ENDED = ["ledger.end", "ledger.reap", "ledger.summary"]  # of a token that was contended
KEY = "k"
WITHOUT_DELETE = ("read", "write")
COPY = ["ledger.dirty", "new.read", "ledger.begin_copy", "old.read", "ledger.open_to", "new.write", "ledger.end"]


class DictAdapter:
    """The least that an adapter can be."""

    def __init__(self, values: dict[str, int]) -> None:
        self.values = values

    def read(self, key: str) -> int | None:
        return self.values.get(key)

    def write(self, key: str, value: int) -> None:
        self.values[key] = value


class AsyncDictAdapter(DictAdapter):
    async def read(self, key: str) -> int | None:  # type: ignore[override]  # the same, of the other world
        return self.values.get(key)

    async def write(self, key: str, value: int) -> None:  # type: ignore[override]  # the same, of the other world
        self.values[key] = value


async def opened(world: World, **options: Any) -> Migration:
    """A migration whose gate was open for the key: v1 in both stores, clean."""
    migration = world.migration(**options)
    await migration.write(KEY, "v1")
    assert migration.left == (0, 0)
    migration.calls()
    return migration


async def stale(world: World, **options: Any) -> Migration:
    """A migration whose key is stale: v1 in New, v2 in Old."""
    migration = await opened(world, **options)
    migration.proxy.disable()
    await migration.write(KEY, "v2")
    migration.proxy.enable()
    assert migration.left == (1, 0)
    migration.calls()
    return migration


# --- Parity with the seed


async def test_disabled_reads_go_to_old_only(world: World) -> None:
    """A disabled proxy reads Old, and asks neither New nor the ledger."""
    migration = world.migration(old={KEY: "old"}, new={KEY: "new"})
    migration.proxy.disable()
    assert await migration.read(KEY) == "old"
    assert migration.calls() == ["old.read"]
    assert migration.stats().operations == {("read", "disabled"): 1}


async def test_disabled_writes_go_to_old_only(world: World) -> None:
    """A disabled proxy writes Old and marks the key, and does not touch New."""
    migration = world.migration()
    migration.proxy.disable()
    await migration.write(KEY, "v")
    assert (migration.old.values, migration.new.values) == ({KEY: "v"}, {})
    assert migration.calls() == ["ledger.begin", "old.write", "ledger.end"]
    assert migration.stats().operations == {("write", "disabled"): 1}


async def test_new_wins_on_read(world: World) -> None:
    """A clean key that New has is read from New, and Old is not asked."""
    migration = world.migration(old={KEY: "old"}, new={KEY: "new"})
    assert await migration.read(KEY) == "new"
    assert migration.calls() == ["ledger.dirty", "new.read"]
    assert migration.stats().operations == {("read", "new_hit"): 1}


async def test_a_miss_copies(world: World) -> None:
    """A key that New lacks is brought there from Old, and the next read finds it there."""
    migration = world.migration(old={KEY: "v"})
    assert await migration.read(KEY) == "v"
    assert migration.calls() == COPY
    assert migration.new.values == {KEY: "v"}
    assert migration.left == (0, 0)
    assert await migration.read(KEY) == "v"
    assert migration.calls() == ["ledger.dirty", "new.read"]
    assert migration.stats().operations == {("read", "copied"): 1, ("read", "new_hit"): 1}
    assert migration.stats().copies == 1


async def test_both_stores_are_written(world: World) -> None:
    """A write of a key that passes goes to Old, then to New, and leaves the key clean."""
    migration = world.migration()
    await migration.write(KEY, "v")
    assert (migration.old.values, migration.new.values) == ({KEY: "v"}, {KEY: "v"})
    assert migration.calls() == ["ledger.begin", "old.write", "ledger.open_to", "new.write", "ledger.end"]
    assert migration.left == (0, 0)
    await migration.write(KEY, "w")
    assert migration.calls() == ["ledger.begin", "old.write", "new.write", "ledger.end"]  # opened is known
    assert migration.stats().operations == {("write", "both"): 2}


async def test_hundred_thousand_keys(world: World) -> None:
    """Each of 100,000 keys that is read once is in New afterwards, equal to Old."""
    items = {f"user:{number}": number for number in range(100_000)}
    adapter = DictAdapter if world.blocking else AsyncDictAdapter
    old, new = adapter(items), adapter({})
    proxy = world.proxy_class(TrafficGate(1.0), old, new)
    if world.blocking:
        served = {key: proxy.read(key) for key in items}
    else:
        served = {key: await proxy.read(key) for key in items}
    assert served == new.values == items
    stats = proxy.stats()
    assert (stats.copies, stats.stale_keys, stats.pending_tokens) == (100_000, 0, 0)


# --- Paths of a read


async def test_read_below_the_gate(world: World) -> None:
    """A key that the gate does not pass is read from Old, and the ledger is not asked."""
    migration = world.migration(0.0, old={KEY: "old"}, new={KEY: "new"})
    assert await migration.read(KEY) == "old"
    assert migration.calls() == ["old.read"]
    assert migration.stats().operations == {("read", "old"): 1}


async def test_read_of_nothing(world: World) -> None:
    """A key that neither store has reads as None, and its absence is not cached (H10)."""
    migration = world.migration()
    assert await migration.read(KEY) is None
    assert migration.calls() == [each for each in COPY if each != "new.write"]
    assert migration.stats().operations == {("read", "miss"): 1}
    assert migration.left == (0, 0)
    migration.old.put({KEY: "v"})  # written by someone who knows nothing of proxies
    assert await migration.read(KEY) == "v"


async def test_read_of_a_stale_key(world: World) -> None:
    """A stale key is not read from New: Old serves it, and it is brought to New again."""
    migration = await stale(world)
    assert await migration.read(KEY) == "v2"
    expected = [*REAPED, "ledger.begin_copy", "old.read", "new.write", "ledger.end"]
    assert migration.calls() == expected
    assert migration.new.values == {KEY: "v2"}
    assert migration.left == (0, 0)
    assert migration.stats().operations["read", "copied"] == 1


async def test_read_of_a_stale_key_that_old_lacks(world: World) -> None:
    """H3: a stale key that Old lacks is deleted from New, without asking New whether it has it."""
    migration = world.migration(new={KEY: "v1"})
    await migration.write("other", "v")  # opens the gate
    migration.proxy.disable()
    await migration.delete(KEY)
    migration.proxy.enable()
    migration.calls()
    assert await migration.read(KEY) is None
    expected = [*REAPED, "ledger.begin_copy", "old.read", "new.delete", "ledger.end"]
    assert migration.calls() == expected
    assert KEY not in migration.new.values
    assert migration.left == (0, 0)
    assert migration.stats().operations["read", "miss"] == 1


async def test_read_of_a_stale_key_from_a_new_that_cannot_delete(world: World) -> None:
    """Where New cannot delete, a stale key that Old lacks stays stale and is served by Old."""
    migration = await stale(world, new_methods=WITHOUT_DELETE)
    await migration.delete(KEY)
    for _ in range(2):
        assert await migration.read(KEY) is None
        assert migration.left == (1, 0)
    assert migration.new.values == {KEY: "v1"}


async def test_read_of_a_pending_key(world: World) -> None:
    """A key with a write in progress is read from Old alone (H9), and is not copied (H17)."""
    migration = world.migration(old={KEY: "v1"}, new={KEY: "v1"})
    seen: list[object] = []

    async def read_meanwhile() -> None:
        migration.calls()
        seen.append(await migration.read(KEY))
        seen.extend(migration.calls())

    migration.old.before["write"] = read_meanwhile
    await migration.write(KEY, "v2")
    assert seen == ["v1", *REAPED, "ledger.begin_copy", "old.read"]
    assert migration.stats().operations == {("read", "dirty"): 1, ("write", "both"): 1}


async def test_read_where_new_fails(world: World) -> None:
    """New's error never reaches a reader: Old serves, and nothing is copied."""
    migration = world.migration(old={KEY: "old"}, new={KEY: "new"})
    migration.new.outage()
    assert await migration.read(KEY) == "old"
    assert migration.calls() == ["ledger.dirty", "new.read", "old.read"]
    assert migration.stats().operations == {("read", "new_failed"): 1}


async def test_copy_that_new_refuses(world: World) -> None:
    """A copy that certainly took no effect leaves the key stale at once, and the read succeeds."""
    migration = world.migration(old={KEY: "v"})
    migration.new.before["write"] = NotApplied()
    assert await migration.read(KEY) == "v"
    assert migration.left == (1, 0)
    assert migration.stats().operations == {("read", "new_failed"): 1}
    assert migration.stats().copies == 0
    migration.new.recover()
    assert await migration.read(KEY) == "v"
    assert migration.left == (0, 0)
    assert migration.new.values == {KEY: "v"}


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_copy_that_fails(world: World, moment: str) -> None:
    """A copy whose outcome is unknown leaves its token, and the key on Old until the token is reaped (H5)."""
    migration = world.migration(old={KEY: "v"})
    getattr(migration.new, moment)["write"] = Trouble()
    assert await migration.read(KEY) == "v"
    assert migration.left == (0, 1)
    migration.new.recover()
    assert await migration.read(KEY) == "v"
    assert migration.stats().operations == {("read", "new_failed"): 1, ("read", "dirty"): 1}
    assert migration.left == (0, 1)


async def test_kill_while_the_ledger_is_asked(world: World) -> None:
    """A kill that arrives before New is asked keeps the read from New."""
    migration = world.migration(old={KEY: "old"}, new={KEY: "new"})

    async def kill() -> None:
        migration.gate.set_rate(0.0)

    migration.ledger.after["dirty"] = kill
    assert await migration.read(KEY) == "old"
    assert migration.calls() == ["ledger.dirty", "old.read"]
    assert migration.stats().operations == {("read", "old"): 1}


async def test_kill_in_the_middle_of_a_copy(world: World) -> None:
    """A kill that arrives while Old is read keeps the copy from New and leaves no trace in the ledger."""
    migration = world.migration(old={KEY: "v"})

    async def kill() -> None:
        migration.proxy.disable()

    migration.old.after["read"] = kill
    assert await migration.read(KEY) == "v"
    assert migration.calls() == ["ledger.dirty", "new.read", "ledger.begin_copy", "old.read", "ledger.withdraw"]
    assert migration.new.values == {}
    assert migration.left == (0, 0)


async def test_kill_in_the_middle_of_a_repair(world: World) -> None:
    """A repair that a kill interrupts leaves the key as stale as it was."""
    migration = await stale(world)

    async def kill() -> None:
        migration.gate.set_rate(0.0)

    migration.old.after["read"] = kill
    assert await migration.read(KEY) == "v2"
    assert migration.new.values == {KEY: "v1"}
    assert migration.left == (1, 0)


# --- Paths of a write and of a delete


async def test_write_of_a_key_that_new_was_never_opened_for(world: World) -> None:
    """A write of a key at or above `opened` costs no mark: New cannot hold it."""
    migration = world.migration(0.0)
    await migration.write(KEY, "v")
    assert migration.calls() == ["ledger.begin", "old.write", "ledger.end"]
    assert migration.left == (0, 0)
    assert migration.stats().operations == {("write", "old"): 1}


async def test_write_after_ramping_down(world: World) -> None:
    """H7: a write that skips New leaves the key stale where New may hold it."""
    migration = world.migration(1.0)
    await migration.write(KEY, "v1")
    migration.gate.set_rate(0.0)
    await migration.write(KEY, "v2")
    assert migration.left == (1, 0)
    assert migration.stats().operations == {("write", "both"): 1, ("write", "old"): 1}


async def test_write_warms_new_before_it_is_read(world: World) -> None:
    """Between the read rate and the write rate a key is written to both stores and read from Old."""
    migration = world.migration(Rollout(0.0, 1.0))
    await migration.write(KEY, "v")
    assert migration.new.values == {KEY: "v"}
    migration.calls()
    assert await migration.read(KEY) == "v"
    assert migration.calls() == ["old.read"]


async def test_write_reads_the_gate_again(world: World) -> None:
    """A kill that arrives while Old is written keeps the write from New, and leaves the key stale."""
    migration = world.migration(old={KEY: "v1"}, new={KEY: "v1"})
    await migration.write(KEY, "v1")

    async def kill() -> None:
        migration.gate.set_rate(0.0)

    migration.old.after["write"] = kill
    await migration.write(KEY, "v2")
    assert migration.new.values == {KEY: "v1"}
    assert migration.left == (1, 0)


async def test_wider_opening_is_acknowledged_before_new_is_written(world: World) -> None:
    """`opened` rises before the first write of New at a higher rate, once for each rate."""
    migration = world.migration(0.5)
    keys = [f"k{number}" for number in range(40)]
    for key in keys:
        await migration.write(key, "v")
    calls = migration.calls()
    assert calls.count("ledger.open_to") == 1
    assert calls.index("ledger.open_to") < calls.index("new.write")
    assert migration.summary.opened == 0.5
    migration.gate.set_rate(0.75)
    for key in keys:
        await migration.write(key, "v")
    assert migration.calls().count("ledger.open_to") == 1
    assert migration.summary.opened == migration.stats().opened == 0.75
    migration.gate.set_rate(0.25)
    for key in keys:
        await migration.write(key, "v")
    assert "ledger.open_to" not in migration.calls()
    assert migration.summary.opened == 0.75


async def test_opened_is_the_one_that_begin_returned(world: World) -> None:
    """A process that never saw the gate open marks what another one may have brought into New."""
    behind = world.migration(0.0)
    ahead = behind.in_another_process(1.0)
    await behind.write(KEY, "v1")
    await ahead.read(KEY)
    await behind.write(KEY, "v2")
    assert behind.left == (1, 0)
    assert await ahead.read(KEY) == "v2"


async def test_opened_is_forgotten_with_its_epoch(world: World) -> None:
    """What a process knows of `opened` holds in its epoch alone: after a reset the ledger is told again."""
    migration = await opened(world)
    table = cast("Any", migration.rows)._table
    table.epoch, table.opened = 1, 0.0
    await migration.write(KEY, "v2")
    assert migration.calls() == ["ledger.begin", "old.write", "ledger.open_to", "new.write", "ledger.end"]
    assert migration.summary.opened == 1.0


@pytest.mark.parametrize("operation", ["write", "delete"])
async def test_change_where_new_fails(world: World, operation: str) -> None:
    """New's error never reaches a writer; the token stays, for the call may land late (H5)."""
    migration = world.migration(old={KEY: "v0"}, new={KEY: "v0"})
    migration.new.outage()
    await (migration.write(KEY, "v") if operation == "write" else migration.delete(KEY))
    expected = ["ledger.begin", f"old.{operation}", "ledger.open_to", f"new.{operation}"]
    assert migration.calls() == expected
    assert migration.left == (0, 1)
    assert migration.stats().operations == {(operation, "new_failed"): 1}


@pytest.mark.parametrize("operation", ["write", "delete"])
async def test_change_that_new_refuses(world: World, operation: str) -> None:
    """A change that New certainly did not apply leaves the key stale at once."""
    migration = await opened(world)
    migration.new.outage(NotApplied())
    await (migration.write(KEY, "v") if operation == "write" else migration.delete(KEY))
    assert migration.left == (1, 0)
    assert migration.stats().operations[operation, "new_failed"] == 1
    migration.new.recover()
    assert await migration.read(KEY) == ("v" if operation == "write" else None)
    assert migration.new.values == migration.old.values
    assert migration.left == (0, 0)


@pytest.mark.parametrize("operation", ["read", "write", "delete"])
@pytest.mark.parametrize("rate", [0.0, 1.0])
async def test_old_raising_reaches_the_caller(world: World, operation: str, rate: float) -> None:
    """What Old raises is what the caller gets, the very object, and New is not touched by it."""
    migration = world.migration(rate)
    trouble = Trouble()
    migration.old.outage(trouble)
    with pytest.raises(Trouble) as caught:
        await getattr(migration, operation)(*([KEY, "v"] if operation == "write" else [KEY]))
    assert caught.value is trouble
    assert trouble.__cause__ is None
    assert migration.new.values == {}
    assert f"new.{operation}" not in migration.calls() or operation == "read"
    # A read has no effect that could come late; a write has.
    assert migration.left == ((0, 0) if operation == "read" else (0, 1))


@pytest.mark.parametrize("operation", ["write", "delete"])
async def test_change_that_old_refuses(world: World, operation: str) -> None:
    """The caller gets the cause of Old's NotApplied, and the key settles at once."""
    migration = await stale(world)
    await migration.read(KEY)  # repaired: clean, and in both stores
    cause = Trouble()
    refusal = NotApplied()
    refusal.__cause__ = cause
    migration.old.outage(refusal, methods=["write", "delete"])
    with pytest.raises(Trouble) as caught:
        await (migration.write(KEY, "v3") if operation == "write" else migration.delete(KEY))
    assert caught.value is cause
    assert migration.left == (1, 0)  # not ok: New was not written
    migration.old.recover()
    assert await migration.read(KEY) == "v2"
    assert migration.left == (0, 0)


async def test_refusal_without_a_cause(world: World) -> None:
    """A NotApplied without a cause reaches the caller itself; a key never opened for New stays clean."""
    migration = world.migration(0.0)
    refusal = NotApplied()
    migration.old.outage(refusal)
    with pytest.raises(NotApplied) as caught:
        await migration.write(KEY, "v")
    assert caught.value is refusal
    assert migration.left == (0, 0)


async def test_delete(world: World) -> None:
    """A delete removes from Old, then from New, and leaves the key clean."""
    migration = world.migration(old={KEY: "v"}, new={KEY: "v"})
    await migration.delete(KEY)
    assert (migration.old.values, migration.new.values) == ({}, {})
    assert migration.calls() == ["ledger.begin", "old.delete", "ledger.open_to", "new.delete", "ledger.end"]
    assert migration.left == (0, 0)
    assert migration.stats().operations == {("delete", "both"): 1}
    await migration.delete(KEY)  # absent: no error
    assert await migration.read(KEY) is None


async def test_delete_that_old_cannot_do(world: World) -> None:
    """`delete` on an Old without delete() raises before anything is touched."""
    migration = world.migration(old={KEY: "v"}, old_methods=WITHOUT_DELETE)
    with pytest.raises(Unsupported, match=r"old: its adapter has no delete\(\)"):
        await migration.delete(KEY)
    assert migration.calls() == []


async def test_delete_that_new_cannot_do(world: World) -> None:
    """A New without delete() keeps its value; the key is stale and served by Old."""
    migration = await opened(world, new_methods=WITHOUT_DELETE)
    await migration.delete(KEY)
    assert migration.left == (1, 0)
    assert await migration.read(KEY) is None
    assert migration.left == (1, 0)
    await migration.write(KEY, "w")  # a write makes it right
    assert migration.left == (0, 0)
    assert await migration.read(KEY) == "w"


async def test_contended_writes_leave_the_key_stale(world: World) -> None:
    """H2: of two overlapping writes neither clears the key; the next read makes it right."""
    migration = world.migration()

    async def overlap() -> None:
        await migration.write(KEY, "v2")

    migration.old.before["write"] = overlap
    await migration.write(KEY, "v1")
    assert migration.left == (1, 0)
    assert await migration.read(KEY) == "v1"
    assert migration.left == (0, 0)


# --- What is refused


@pytest.mark.parametrize("call", [lambda m: m.write(KEY, None), lambda m: m.write_many({"a": 1, "b": None})])
async def test_none_is_no_value(world: World, call: Callable[[Migration], Any]) -> None:
    """A value None is refused before anything is touched."""
    migration = world.migration()
    with pytest.raises(TypeError, match="delete"):
        await call(migration)
    assert migration.calls() == []


@pytest.mark.parametrize("key", [None, True, 1.5, object(), ["k"], ("k", 2.0), "\ud800"])
async def test_keys_without_an_encoding(world: World, key: object) -> None:
    """A key without a canonical encoding is refused by every operation before anything is touched."""
    migration = world.migration()
    for call in (
        migration.read(key),
        migration.write(key, "v"),
        migration.delete(key),
        migration.read_many([KEY, key]),
    ):
        with pytest.raises(InvalidKey):
            await call
    assert migration.calls() == []
    assert sum(migration.stats().operations.values()) == 0


async def test_keys_of_several_types_are_several_keys(world: World) -> None:
    """1 and "1" are two keys, each with its own mark."""
    migration = world.migration()
    await migration.write(1, "int")
    await migration.write("1", "str")
    migration.proxy.disable()
    await migration.write(1, "changed")
    assert (migration.is_dirty(1), migration.is_dirty("1")) == (True, False)


def test_blocking_proxy_refuses_coroutines() -> None:
    """Proxy says what to use instead of an asyncio adapter."""
    blocking, asynchronous = World("blocking"), World("asyncio")
    store = Store("old", [], {})
    for old, new, role in (
        (asynchronous.adapter(store), blocking.adapter(store), "old"),
        (blocking.adapter(store), asynchronous.adapter(store), "new"),
    ):
        with pytest.raises(Unsupported, match=rf"{role}: .*AsyncProxy"):
            Proxy(TrafficGate(), old, new)


def test_asyncio_proxy_refuses_blocking_adapters() -> None:
    """AsyncProxy says how to use a blocking adapter."""
    blocking, asynchronous = World("blocking"), World("asyncio")
    store = Store("old", [], {})
    for old, new, role in (
        (blocking.adapter(store), asynchronous.adapter(store), "old"),
        (asynchronous.adapter(store), blocking.adapter(store), "new"),
    ):
        with pytest.raises(Unsupported, match=rf"{role}: .*ThreadedAdapter"):
            AsyncProxy(TrafficGate(), old, new)


class _Awaited:
    """A function of the asyncio world that is no `async def`: an object with an async `__call__`."""

    async def __call__(self, *_: object) -> None:
        raise AssertionError("nobody calls it")


def test_objects_with_an_async_call_are_coroutine_functions() -> None:
    """Both proxies see what calling an object gives: a blocking one would lose the writes of such an adapter."""
    blocking, asynchronous = World("blocking"), World("asyncio")
    store = Store("old", [], {})
    awaited = blocking.adapter(store)
    awaited.write = _Awaited()
    with pytest.raises(Unsupported, match=r"old: .*write\(\).*AsyncProxy"):
        Proxy(TrafficGate(), awaited, blocking.adapter(store))
    adapter = asynchronous.adapter(store)
    adapter.write = _Awaited()
    AsyncProxy(TrafficGate(), adapter, asynchronous.adapter(store))


@pytest.mark.parametrize("methods", [("read",), ("write",), ()])
def test_adapters_that_lack_a_method(world: World, methods: tuple[str, ...]) -> None:
    """An adapter without read() or write() is refused, and the message names what is missing."""
    whole, part = world.adapter(Store("s", [], {})), world.adapter(Store("s", [], {}), methods)
    missing = next(name for name in ("read", "write") if name not in methods)
    with pytest.raises(Unsupported, match=rf"old: .* has no {missing}\(\)"):
        world.proxy_class(TrafficGate(), part, whole)
    with pytest.raises(Unsupported, match=rf"new: .* has no {missing}\(\)"):
        world.proxy_class(TrafficGate(), whole, part)


def test_new_whose_reads_lag_is_refused(world: World) -> None:
    """A New without strong reads is refused: a clean key of it could read stale."""
    with pytest.raises(Unsupported, match="new"):
        world.migration(new_info=StoreInfo(strong_reads=False))


async def test_old_whose_reads_lag_is_never_copied(world: World) -> None:
    """H18: nothing is copied from an Old that may lag; writes bring keys into New."""
    migration = world.migration(old={KEY: "v"}, old_info=StoreInfo(strong_reads=False))
    assert await migration.read(KEY) == "v"
    assert migration.calls() == ["ledger.dirty", "new.read", "old.read"]
    assert migration.stats().operations == {("read", "miss"): 1}
    await migration.write(KEY, "w")
    migration.calls()
    assert await migration.read(KEY) == "w"
    assert migration.calls() == ["ledger.dirty", "new.read"]


@pytest.mark.parametrize("operation", ["read", "write", "delete", "read_many", "write_many"])
async def test_closed_proxy(world: World, operation: str) -> None:
    """A closed proxy takes no operation, and closing it again does nothing."""
    migration = world.migration()
    await world.call(migration.proxy.close)
    await world.call(migration.proxy.close)
    arguments = {"write": [KEY, "v"], "read_many": [[KEY]], "write_many": [{KEY: "v"}]}.get(operation, [KEY])
    with pytest.raises(ProxyClosed, match="users"):
        await getattr(migration, operation)(*arguments)
    assert migration.calls() == []


async def test_context_manager_closes(world: World) -> None:
    """Leaving the `with` block closes the proxy, an error passes through, and stats() still answers."""
    migration = world.migration(old={KEY: "v"})

    async def use() -> None:
        if world.blocking:
            with migration.proxy as entered:
                assert entered is migration.proxy
                assert await migration.read(KEY) == "v"
                raise Trouble
        async with migration.proxy as entered:
            assert entered is migration.proxy
            assert await migration.read(KEY) == "v"
            raise Trouble

    with pytest.raises(Trouble):
        await use()
    with pytest.raises(ProxyClosed):
        await migration.read(KEY)
    assert migration.stats().copies == 1


@pytest.mark.parametrize(
    "options",
    [
        {"name": None},
        {"on_ledger_error": None},
        {"max_unmarked_keys": 0},
        {"max_operation_seconds": 0},
        {"max_operation_seconds": -1.0},
        {"max_operation_seconds": float("nan")},
        {"max_operation_seconds": float("inf")},
        {"max_call_seconds": 0.0},
        {"max_call_seconds": 30.0},
        {"max_call_seconds": float("nan")},
        {"max_batch": 0},
    ],
    ids=str,
)
def test_arguments_out_of_range(world: World, options: dict[str, Any]) -> None:
    """A wrong argument raises ValueError, and the message names it."""
    argument = next(iter(options))
    with pytest.raises(ValueError, match="name=" if argument == "name" else argument):
        world.migration(**options)


def test_another_hasher_under_one_name(world: World) -> None:
    """Two gates that hash differently cannot share a migration's rows."""
    ledger = InMemoryLedger()
    shared = ledger if world.blocking else AsyncInMemoryLedger(ledger)
    adapter = world.adapter(Store("s", [], {}))
    world.proxy_class(TrafficGate(), adapter, adapter, name="users", ledger=shared)
    other = TrafficGate(hasher=FNV1a64Hasher())
    with pytest.raises(LedgerMismatch, match="users"):
        world.proxy_class(other, adapter, adapter, name="users", ledger=shared)
    world.proxy_class(other, adapter, adapter, name="orders", ledger=shared)


async def test_ledger_mismatch_at_the_first_call(world: World) -> None:
    """A ledger on a server may find the mismatch at the first call: a write gets it as it is."""
    migration = world.migration()
    mismatch = LedgerMismatch("another hasher")
    migration.ledger.outage(mismatch, LEDGER_CALLS)
    with pytest.raises(LedgerMismatch) as caught:
        await migration.write(KEY, "v")
    assert caught.value is mismatch
    assert migration.calls() == ["ledger.begin"]


# --- A ledger that fails


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("operation", ["write", "delete"])
async def test_begin_fails(world: World, operation: str, moment: str) -> None:
    """A change that cannot take a token raises LedgerUnavailable with its cause, before a store is touched."""
    migration = world.migration(old={KEY: "v0"})
    trouble = Trouble()
    getattr(migration.ledger, moment)["begin"] = trouble
    with pytest.raises(LedgerUnavailable, match="neither store was changed") as caught:
        await (migration.write(KEY, "v") if operation == "write" else migration.delete(KEY))
    assert caught.value.__cause__ is trouble
    assert migration.calls() == ["ledger.begin"] * 3
    assert migration.old.values == {KEY: "v0"}
    assert migration.stats().operations == {(operation, "ledger_failed"): 1}
    # A token that was not acknowledged is never ended: the reaper takes it.
    assert migration.left == ((0, 0) if moment == "before" else (0, 3))


async def test_reaping_spares_slower_proxies(world: World) -> None:
    """A token is not reaped as long as any proxy of the migration may still write under it."""
    migration = world.migration(old={KEY: "v0"}, max_operation_seconds=10.0)
    slower = world.adapter(migration.old), world.adapter(migration.new)
    world.proxy_class(TrafficGate(1.0), *slower, name="users", ledger=migration.ledger, max_operation_seconds=60.0)
    migration.rows.begin([migration.gate.locate(KEY)[1]], b"of-the-slower")
    migration.clock.advance(60.0)
    assert await migration.read(KEY) == "v0"
    assert migration.left == (0, 1)
    migration.clock.advance(10.0)
    assert await migration.read(KEY) == "v0"
    assert migration.left == (0, 0)
    assert migration.new.values == {KEY: "v0"}


async def test_ledger_summary(world: World) -> None:
    """The summary is the ledger's of this moment, and its error reaches the caller."""
    migration = await stale(world)
    summary = await world.call(migration.proxy.ledger_summary)
    assert (summary.stale, summary.pending, summary.opened) == (1, 0, 1.0)
    migration.ledger.before["summary"] = Trouble()
    with pytest.raises(Trouble):
        await world.call(migration.proxy.ledger_summary)


async def test_begin_fails_once(world: World) -> None:
    """A begin that failed at once is made again with a token of its own; its first one is left to the reaper."""
    migration = world.migration(old={KEY: "v0"}, new={KEY: "v0"})

    async def lose_the_reply() -> None:
        raise Trouble

    migration.ledger.after["begin"] = lose_the_reply
    await migration.write(KEY, "v1")
    assert migration.calls() == [
        "ledger.begin",
        "ledger.begin",
        "old.write",
        "ledger.open_to",
        "new.write",
        *ENDED,
    ]
    first, second = (request[1][1] for request in migration.ledger.requests if request[0] == "begin")
    assert first != second
    assert migration.left == (1, 1)  # contended with the phantom
    assert await migration.read(KEY) == "v1"


async def test_begin_that_took_long_is_not_made_again(world: World) -> None:
    """A begin that failed only after a tenth of the operation's time is not made again."""
    migration = world.migration(old={KEY: "v0"})

    async def time_out() -> None:
        migration.clock.advance(3.0)
        raise Trouble

    migration.ledger.before["begin"] = time_out
    with pytest.raises(LedgerUnavailable):
        await migration.write(KEY, "v1")
    assert migration.calls() == ["ledger.begin"]


@pytest.mark.parametrize("error", [LedgerMismatch("made anew"), InvalidKey("too long"), Unsupported("it evicts")])
async def test_ledger_that_must_not_be_used(world: World, error: Exception) -> None:
    """What the ledger says of itself or of a key reaches the writer as it is, at once; a read goes to Old."""
    migration = world.migration(old={KEY: "v0"}, new={KEY: "v0"}, on_ledger_error="available")
    migration.ledger.before.update(begin=error, dirty=error)
    with pytest.raises(type(error)) as caught:
        await migration.write(KEY, "v1")
    assert caught.value is error
    assert migration.calls() == ["ledger.begin"]
    assert migration.stats().operations == {("write", "ledger_failed"): 1}
    assert await migration.read(KEY) == "v0"
    assert migration.calls() == ["ledger.dirty", "old.read"]


async def test_reaping_goes_on_where_there_is_more(world: World) -> None:
    """A reader reaps at most 1,000 tokens at a time, and the next reader goes on at once."""
    migration = world.migration(old={KEY: "v0"})
    for number in range(1500):
        migration.rows.begin([b"sk%d" % number], b"dead-%d" % number)
    migration.rows.begin([migration.gate.locate(KEY)[1]], b"last")
    migration.clock.advance(60.0)
    assert await migration.read(KEY) == "v0"
    assert migration.left == (1000, 501)
    assert await migration.read(KEY) == "v0"
    assert migration.left == (1500, 0)


async def test_dirty_fails(world: World) -> None:
    """A read that cannot ask the ledger is served by Old, and does not touch New."""
    migration = world.migration(old={KEY: "old"}, new={KEY: "new"})
    migration.ledger.before["dirty"] = Trouble()
    assert await migration.read(KEY) == "old"
    assert migration.calls() == ["ledger.dirty", "old.read"]
    assert migration.stats().operations == {("read", "ledger_failed"): 1}


async def test_begin_copy_fails(world: World) -> None:
    """A read that cannot take the right to copy is served by Old; begin_copy is not retried."""
    migration = world.migration(old={KEY: "v"})
    migration.ledger.after["begin_copy"] = Trouble()
    assert await migration.read(KEY) == "v"
    assert migration.calls() == ["ledger.dirty", "new.read", "ledger.begin_copy", "old.read"]
    assert migration.stats().operations == {("read", "ledger_failed"): 1}
    assert migration.left == (0, 1)  # a phantom, for the reaper


@pytest.mark.parametrize("operation", ["write", "delete", "read"])
async def test_end_fails(world: World, operation: str) -> None:
    """Where the token cannot be ended the operation succeeds, and the key is served by Old until it is reaped."""
    migration = world.migration(old={KEY: "v0"})
    migration.ledger.before["end"] = Trouble()
    await getattr(migration, operation)(*([KEY, "v"] if operation == "write" else [KEY]))
    assert migration.left == (0, 1)
    assert migration.new.values == migration.old.values
    assert await migration.read(KEY) == migration.old.values.get(KEY)
    assert migration.stats().operations["read", "dirty"] == 1


async def test_withdraw_fails(world: World) -> None:
    """Where the token cannot be withdrawn Old's own error still reaches the caller."""
    migration = world.migration()
    trouble = Trouble()
    migration.old.before["read"] = trouble
    migration.ledger.before["withdraw"] = Trouble()
    with pytest.raises(Trouble) as caught:
        await migration.read(KEY)
    assert caught.value is trouble
    assert migration.left == (0, 1)


@pytest.mark.parametrize("operation", ["write", "delete", "read"])
async def test_open_to_fails(world: World, operation: str) -> None:
    """New is not written at a rate that the ledger has not acknowledged; the operation succeeds."""
    migration = world.migration(old={KEY: "v0"})
    migration.ledger.before["open_to"] = Trouble()
    await getattr(migration, operation)(*([KEY, "v"] if operation == "write" else [KEY]))
    assert not {"new.write", "new.delete"} & set(migration.calls())
    assert migration.left == (0, 0)  # New was never opened for the key, so it cannot hold it
    assert migration.stats().operations == {(operation, "ledger_failed"): 1}


async def test_reap_fails(world: World) -> None:
    """A failing reaper does not fail the read that called it."""
    migration = await stale(world)
    migration.ledger.before["reap"] = Trouble()
    assert await migration.read(KEY) == "v2"
    assert migration.left == (0, 0)


# --- Time


@pytest.mark.parametrize("operation", ["write", "delete"])
async def test_time_runs_out_before_old_is_written(world: World, operation: str) -> None:
    """Too late for Old: OperationTimedOut, neither store is touched, and the token is withdrawn."""
    migration = world.migration(old={KEY: "v0"}, max_operation_seconds=30.0, max_call_seconds=10.0)

    async def slow() -> None:
        migration.clock.advance(20.0)

    migration.ledger.after["begin"] = slow
    with pytest.raises(OperationTimedOut, match="neither store was changed"):
        await (migration.write(KEY, "v") if operation == "write" else migration.delete(KEY))
    assert migration.calls() == ["ledger.begin", "ledger.withdraw"]
    assert migration.left == (0, 0)


async def test_time_that_just_suffices(world: World) -> None:
    """A change whose deadline has not passed by a moment goes on."""
    migration = world.migration(max_operation_seconds=30.0, max_call_seconds=10.0)

    async def slow() -> None:
        migration.clock.advance(19.99)

    migration.ledger.after["begin"] = slow
    await migration.write(KEY, "v")
    assert migration.new.values == {KEY: "v"}


@pytest.mark.parametrize("operation", ["write", "delete"])
async def test_time_runs_out_after_old_is_written(world: World, operation: str) -> None:
    """Too late for New: the caller's change is done, and the token is reaped; then a read makes it right."""
    migration = world.migration(old={KEY: "v0"}, new={KEY: "v0"}, max_operation_seconds=30.0)

    async def slow() -> None:
        migration.clock.advance(20.0)

    migration.old.after[operation] = slow
    await (migration.write(KEY, "v") if operation == "write" else migration.delete(KEY))
    assert f"new.{operation}" not in migration.calls()
    assert migration.left == (0, 1)
    assert migration.stats().operations == {(operation, "new_failed"): 1}
    expected = "v" if operation == "write" else None
    assert await migration.read(KEY) == expected
    assert migration.left == (0, 1)  # too young to be reaped
    migration.clock.advance(35.0)
    assert await migration.read(KEY) == expected
    assert migration.left == (0, 0)
    assert migration.new.values == migration.old.values


async def test_time_runs_out_in_a_copy(world: World) -> None:
    """A copy that is too late does not touch New and leaves nothing in the ledger."""
    migration = world.migration(old={KEY: "v"})

    async def slow() -> None:
        migration.clock.advance(25.0)

    migration.old.after["read"] = slow
    assert await migration.read(KEY) == "v"
    assert "new.write" not in migration.calls()
    assert migration.left == (0, 0)
    assert migration.stats().operations == {("read", "new_failed"): 1}


async def test_reaper_waits_for_the_whole_operation(world: World) -> None:
    """A token is reaped only after `max_operation_seconds` and a margin, and by reads of dirty keys alone."""
    migration = world.migration(max_operation_seconds=30.0)
    migration.new.outage()
    await migration.write(KEY, "v")
    migration.new.recover()
    migration.clock.advance(30.0)
    assert await migration.read(KEY) == "v"
    assert migration.left == (0, 1)
    migration.clock.advance(10.0)
    assert await migration.read("clean") is None
    assert migration.left == (0, 1)
    with capture_logs() as logs:
        assert await migration.read(KEY) == "v"
    assert migration.left == (0, 0)
    assert [(log["event"], log["tokens"]) for log in logs] == [("tokens_reaped", 1)]


async def test_reaper_is_not_asked_at_every_read(world: World) -> None:
    """Reads of dirty keys ask for a reaping once in a quarter of `max_operation_seconds`."""
    migration = world.migration(max_operation_seconds=40.0)
    migration.new.outage()
    await migration.write(KEY, "v")
    for _ in range(5):
        await migration.read(KEY)
    assert migration.calls().count("ledger.reap") == 1
    migration.clock.advance(10.0)
    await migration.read(KEY)
    assert migration.calls().count("ledger.reap") == 1


# --- Cancellation, which asyncio alone has


async def cancelled_at(migration: Migration, part: str, call: str, operation: Any) -> None:
    """Start `operation`, cancel it while it waits for `call`, and see that the cancellation arrives."""
    reached = asyncio.Event()

    async def hold() -> None:
        reached.set()
        await asyncio.Event().wait()

    getattr(migration, part).before[call] = hold
    task = asyncio.ensure_future(operation)
    await asyncio.wait_for(reached.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("part", "call", "left"),
    [
        ("ledger", "begin", (0, 0)),  # here the call had no effect; had it, its token would be reaped
        ("old", "write", (0, 1)),  # may land late
        ("ledger", "open_to", (1, 0)),  # Old is written, New is not
        ("new", "write", (0, 1)),  # may land late
        ("ledger", "end", (0, 1)),  # unknown, and safe
    ],
)
async def test_cancelled_write(part: str, call: str, left: tuple[int, int]) -> None:
    """Cancelling a write leaves in the ledger exactly what its calls may still do (H4)."""
    migration = World("asyncio").migration(old={KEY: "v0"}, new={KEY: "v0"})
    await cancelled_at(migration, part, call, migration.write(KEY, "v"))
    assert migration.left == left
    migration.clock.advance(60)
    assert await migration.read(KEY) == migration.old.values[KEY]
    assert migration.clean_differences() == {}
    assert migration.left == (0, 0)


@pytest.mark.parametrize(
    ("part", "call", "left"),
    [
        ("ledger", "dirty", (0, 0)),
        ("new", "read", (0, 0)),
        ("ledger", "begin_copy", (0, 0)),
        ("old", "read", (0, 0)),  # withdrawn: a read has no effect
        ("ledger", "open_to", (0, 0)),  # withdrawn: New was not touched
        ("new", "write", (0, 1)),
        ("ledger", "end", (0, 1)),
    ],
)
async def test_cancelled_read(part: str, call: str, left: tuple[int, int]) -> None:
    """Cancelling a read leaves a token only where a copy may still land."""
    migration = World("asyncio").migration(old={KEY: "v"})
    await cancelled_at(migration, part, call, migration.read(KEY))
    assert migration.left == left
    migration.clock.advance(60)
    assert await migration.read(KEY) == "v"
    assert migration.left == (0, 0)


async def test_cancelled_repair() -> None:
    """Cancelling a repair leaves the key as stale as it was."""
    migration = await stale(World("asyncio"))
    await cancelled_at(migration, "old", "read", migration.read(KEY))
    assert migration.left == (1, 0)


async def test_coroutine_closed_in_the_middle() -> None:
    """A coroutine that is closed can await nothing more: its token is left to the reaper, and nothing is lost."""
    migration = World("asyncio").migration(old={KEY: "v"}, new_info=StoreInfo(remote=False))

    async def hold() -> None:
        await asyncio.Event().wait()

    migration.old.before["read"] = hold
    coroutine = migration.proxy.read(KEY)
    coroutine.send(None)
    coroutine.close()
    assert migration.left == (0, 1)


# --- Control


async def test_enable_and_disable(world: World) -> None:
    """A proxy is enabled at first; the switch does no I/O and is logged when it changes something."""
    migration = world.migration()
    assert migration.proxy.enabled is True
    with capture_logs() as logs:
        migration.proxy.enable()
        migration.proxy.disable()
        assert migration.proxy.enabled is False
        migration.proxy.disable()
        migration.proxy.enable()
        assert migration.proxy.enabled is True
    assert [(log["event"], log["log_level"]) for log in logs] == [
        ("proxy_disabled", "warning"),
        ("proxy_enabled", "info"),
    ]
    assert migration.calls() == []


async def test_stats_are_a_frozen_snapshot(world: World) -> None:
    """`stats()` is plain data that no longer changes, and costs no call to a store or a ledger."""
    migration = await stale(world)
    before = migration.stats()
    assert migration.calls() == []
    assert before.operations == {("write", "both"): 1, ("write", "disabled"): 1}
    assert before.calls == {("old", "write"): 2, ("new", "write"): 1}
    assert (before.copies, before.enabled, before.opened) == (0, True, 1.0)
    assert (before.stale_keys, before.pending_tokens) == (1, 0)
    assert before.rollout == Rollout(1.0, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.copies = 7  # type: ignore[misc]  # that it fails is the point
    await migration.read(KEY)
    assert before.operations == {("write", "both"): 1, ("write", "disabled"): 1}
    after = migration.stats()
    assert after.operations["read", "copied"] == after.copies == 1
    assert after.calls["old", "read"] == 1
    assert after.stale_keys == 0


async def test_blocking_and_asyncio_proxies_share_one_ledger() -> None:
    """One gate and one in-memory ledger serve a blocking and an asyncio proxy of the same stores."""
    blocking, asynchronous = World("blocking"), World("asyncio")
    journal: list[str] = []
    old, new = Store("old", journal, {}), Store("new", journal, {})
    gate, ledger = TrafficGate(1.0), InMemoryLedger()
    one: Any = Proxy(gate, blocking.adapter(old), blocking.adapter(new), name="users", ledger=ledger)
    other: Any = AsyncProxy(
        gate,
        asynchronous.adapter(old),
        asynchronous.adapter(new),
        name="users",
        ledger=AsyncInMemoryLedger(ledger),
    )
    one.write(KEY, "v1")
    assert await other.read(KEY) == "v1"
    one.disable()
    one.write(KEY, "v2")
    assert new.values == {KEY: "v1"}
    assert other.stats().stale_keys == 1
    assert await other.read(KEY) == "v2"
    assert new.values == {KEY: "v2"}
    gate.set_rate(0.0)
    await other.write(KEY, "v3")
    one.enable()
    gate.set_rate(1.0)
    assert one.read(KEY) == "v3"


async def test_default_ledger_says_what_it_means(world: World) -> None:
    """A proxy with the in-memory ledger logs once how far its promise goes; one with a shared ledger does not."""
    adapter = world.adapter(Store("s", [], {}))
    with capture_logs() as logs:
        proxy = world.proxy_class(TrafficGate(1.0), adapter, adapter)
        for _ in range(3):
            await world.call(proxy.write, KEY, "v")
    told = [log for log in logs if log["event"] == "ledger_in_memory"]
    assert [(log["log_level"], log["migration"]) for log in told] == [("info", "default")]
    assert told[0]["promise"].startswith("holds in this process only, and only if New was empty at its start")
    with capture_logs() as logs:
        world.migration()
    assert logs == []


# --- Keys that no ledger takes


async def test_keys_that_are_too_long(world: World) -> None:
    """A key that is too long for a ledger is refused by writes, with nothing touched, and read from Old."""
    longest, too_long = "x" * (MAX_KEY_BYTES - 1), "y" * MAX_KEY_BYTES  # their names are longer by one
    migration = world.migration(old={longest: "v", too_long: "w"}, old_methods=MANY, new_methods=MANY)
    with pytest.raises(InvalidKey):
        await migration.write(too_long, "v2")
    assert migration.calls() == ["ledger.begin"]
    assert await migration.read(too_long) == "w"
    assert migration.calls() == ["old.read"]
    assert await migration.read_many([longest, too_long]) == {longest: "v", too_long: "w"}
    assert migration.stats().operations["read", "old"] == 2
    assert migration.stats().operations["read", "copied"] == 1
    assert migration.left == (0, 0)
