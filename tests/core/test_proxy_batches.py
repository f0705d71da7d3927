"""read_many and write_many: the rules of a single key, with one call per step."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.worlds import MANY, Migration, Trouble, World
from zddm_flags import StoreInfo
from zddm_flags.errors import LedgerUnavailable, NotApplied, OperationTimedOut

ALL: Any = {"old_methods": MANY, "new_methods": MANY}


def counts(migration: Migration) -> dict[tuple[str, str], int]:
    return dict(migration.stats().operations)


async def test_paths_are_mixed(world: World) -> None:
    """Hits, copies, misses, stale keys and closed ones are told apart in one batch, with one call per step."""
    migration = world.migration(0.5, **ALL)
    keys = [str(number) for number in range(99)]
    closed = next(key for key in keys if not migration.gate.should_pass(key))
    hit, cold, nowhere, stale, *_ = (key for key in keys if migration.gate.should_pass(key))
    await migration.write(stale, "v1")
    migration.proxy.disable()
    await migration.write(stale, "v2")
    migration.proxy.enable()
    migration.old.put({closed: 1, hit: 2, cold: 3})
    migration.new.put({hit: 2})
    before = counts(migration)
    migration.calls()
    found = await migration.read_many([nowhere, stale, closed, cold, hit])
    assert found == {stale: "v2", closed: 1, cold: 3, hit: 2}
    assert migration.calls() == [
        "ledger.dirty",
        "new.read_many",
        "ledger.reap",
        "ledger.summary",
        "ledger.begin_copy",
        "old.read_many",
        "new.write_many",
        "ledger.end",
    ]
    assert migration.new.values == {stale: "v2", hit: 2, cold: 3}
    assert migration.left == (0, 0)
    assert counts(migration) == before | {
        ("read", "new_hit"): 1,
        ("read", "copied"): 2,
        ("read", "miss"): 1,
        ("read", "old"): 1,
    }


async def test_one_call_per_step(world: World) -> None:
    """A batch that misses is dirty, New, begin, Old, New, end: one call each, and for a write as well."""
    migration = world.migration(old={"a": 1, "b": 2}, **ALL)
    assert await migration.read_many(["a", "b"]) == {"a": 1, "b": 2}
    assert migration.calls() == [
        "ledger.dirty",
        "new.read_many",
        "ledger.begin_copy",
        "old.read_many",
        "ledger.open_to",
        "new.write_many",
        "ledger.end",
    ]
    await migration.write_many({"a": 3, "b": 4})
    assert migration.calls() == ["ledger.begin", "old.write_many", "new.write_many", "ledger.end"]
    assert migration.old.values == migration.new.values == {"a": 3, "b": 4}
    assert await migration.read_many(["a", "b"]) == {"a": 3, "b": 4}
    assert migration.calls() == ["ledger.dirty", "new.read_many"]
    assert migration.left == (0, 0)


async def test_empty_batches(world: World) -> None:
    """A batch of nothing calls nobody."""
    migration = world.migration(**ALL)
    assert await migration.read_many([]) == {}
    await migration.write_many({})
    assert migration.calls() == []
    assert counts(migration) == {}


async def test_duplicates_and_iterators(world: World) -> None:
    """A key that is asked for twice is read once; any iterable of keys will do."""
    migration = world.migration(old={"a": 1, "b": 2}, **ALL)
    assert await migration.read_many(iter(["a", "b", "a", "a"])) == {"a": 1, "b": 2}
    assert migration.old.requests == [("read_many", ("a", "b"))]
    assert counts(migration) == {("read", "copied"): 2}


async def test_absent_keys_are_left_out(world: World) -> None:
    """A key that neither store has is no item of the result, wherever it was looked for."""
    for rate in (0.0, 1.0):
        migration = world.migration(rate, old={"a": 1}, **ALL)
        assert await migration.read_many(["a", "b"]) == {"a": 1}
    migration.proxy.disable()
    assert await migration.read_many(["b"]) == {}


async def test_chunks_in_canonical_order(world: World) -> None:
    """A batch goes in chunks of `max_batch` keys, sorted by their names, so that no two wait in a circle."""
    migration = world.migration(max_batch=3, **ALL)
    keys = [f"k{number}" for number in (5, 1, 7, 3, 0, 6, 2, 4)]
    await migration.write_many({key: key.upper() for key in keys})
    assert [request for request in migration.old.requests if request[0] != "read"] == [
        ("write_many", ("k0", "k1", "k2")),
        ("write_many", ("k3", "k4", "k5")),
        ("write_many", ("k6", "k7")),
    ]
    one_chunk = ["ledger.begin", "old.write_many", "new.write_many", "ledger.end"]
    assert [call for call in migration.calls() if call != "ledger.open_to"] == one_chunk * 3
    assert await migration.read_many(keys) == {key: key.upper() for key in keys}
    assert migration.calls() == ["ledger.dirty", "new.read_many"] * 3


async def test_batch_of_one(world: World) -> None:
    """A batch of one key uses the call for one key."""
    migration = world.migration(old={"a": 1}, **ALL)
    assert await migration.read_many(["a"]) == {"a": 1}
    assert {"old.read", "new.write"} <= set(migration.calls())


async def test_adapters_without_batches(world: World) -> None:
    """Adapters without batch calls are called key by key, between the same two calls of the ledger."""
    migration = world.migration(old={"a": 1, "b": 2})
    assert await migration.read_many(["a", "b", "c"]) == {"a": 1, "b": 2}
    expected = ["ledger.dirty", *["new.read"] * 3, "ledger.begin_copy", *["old.read"] * 3, "ledger.open_to"]
    assert migration.calls() == [*expected, *["new.write"] * 2, "ledger.end"]
    await migration.write_many({"a": 3, "b": 4})
    assert migration.calls() == ["ledger.begin", *["old.write"] * 2, *["new.write"] * 2, "ledger.end"]
    assert migration.stats().calls["old", "write"] == 2
    assert migration.left == (0, 0)


async def test_stale_keys_that_old_lacks(world: World) -> None:
    """H3: a batch read deletes stale keys that Old lacks from New, and repairs the others, in one call each."""
    migration = world.migration(**ALL)
    await migration.write_many(dict.fromkeys("abcd", "v1"))
    migration.proxy.disable()
    for key in "ab":
        await migration.delete(key)
    await migration.write_many({"c": "v2", "d": "v2"})
    migration.proxy.enable()
    migration.calls()
    assert await migration.read_many("abcd") == {"c": "v2", "d": "v2"}
    calls = migration.calls()
    assert (calls.count("new.write_many"), calls.count("new.delete_many")) == (1, 1)
    assert migration.new.values == {"c": "v2", "d": "v2"}
    assert migration.left == (0, 0)


async def test_new_fails_in_the_middle(world: World) -> None:
    """H14: a batch that New took in part is served by Old until it is reaped, then made right."""
    migration = world.migration()
    await migration.write_many({"a": 1, "b": 2, "c": 3})

    async def fail_the_next() -> None:
        migration.new.before["write"] = Trouble()

    migration.new.after["write"] = fail_the_next
    await migration.write_many({"a": 4, "b": 5, "c": 6})
    assert migration.new.values == {"a": 4, "b": 2, "c": 3}
    migration.new.recover()
    assert await migration.read_many("abc") == {"a": 4, "b": 5, "c": 6}
    assert counts(migration)["read", "dirty"] == counts(migration)["write", "new_failed"] == 3
    migration.clock.advance(60)
    assert await migration.read_many("abc") == {"a": 4, "b": 5, "c": 6}
    assert migration.new.values == migration.old.values
    assert migration.left == (0, 0)


async def test_new_refuses_in_the_middle(world: World) -> None:
    """A NotApplied in the middle of a batch settles every key of it at once: none can land late."""
    migration = world.migration()
    await migration.write_many({"a": 1, "b": 2})

    async def refuse_the_next() -> None:
        migration.new.before["write"] = NotApplied()

    migration.new.after["write"] = refuse_the_next
    await migration.write_many({"a": 4, "b": 5})
    assert migration.left == (2, 0)
    migration.new.recover()
    assert await migration.read_many("ab") == {"a": 4, "b": 5}
    assert migration.new.values == {"a": 4, "b": 5}


async def test_old_fails_in_the_middle(world: World) -> None:
    """H14: Old's error reaches the caller; what was written of the batch is served, the rest is as it was."""
    migration = world.migration()
    await migration.write_many({"a": 1, "b": 2, "c": 3})
    trouble = Trouble()

    async def fail_the_next() -> None:
        migration.old.before["write"] = trouble

    migration.old.after["write"] = fail_the_next
    with pytest.raises(Trouble) as caught:
        await migration.write_many({"a": 4, "b": 5, "c": 6})
    assert caught.value is trouble
    migration.old.recover()
    for _ in range(2):
        assert await migration.read_many("abc") == {"a": 4, "b": 2, "c": 3}
        migration.clock.advance(60)
    assert await migration.read_many("abc") == {"a": 4, "b": 2, "c": 3}
    assert migration.new.values == migration.old.values
    assert migration.left == (0, 0)


async def test_old_fails_in_a_later_chunk(world: World) -> None:
    """Chunks before the one that fails are whole: in both stores, and clean."""
    migration = world.migration(max_batch=2, **ALL)

    async def fail_the_next() -> None:
        migration.old.before["write_many"] = Trouble()

    migration.old.after["write_many"] = fail_the_next
    with pytest.raises(Trouble):
        await migration.write_many({"a": 1, "b": 2, "c": 3, "d": 4})
    assert migration.new.values == migration.old.values == {"a": 1, "b": 2}
    assert [migration.is_dirty(key) for key in "abcd"] == [False, False, True, True]


async def test_old_fails_in_a_read(world: World) -> None:
    """Old's error reaches the reader of a batch, and no token is left."""
    migration = world.migration(**ALL)
    migration.old.outage()
    with pytest.raises(Trouble):
        await migration.read_many("ab")
    assert migration.left == (0, 0)


async def test_new_fails_in_a_read(world: World) -> None:
    """New's error never reaches the reader of a batch: Old serves all of it, and nothing is copied."""
    migration = world.migration(old={"a": 1, "b": 2}, new={"a": 1}, **ALL)
    migration.new.outage()
    assert await migration.read_many("ab") == {"a": 1, "b": 2}
    assert migration.calls() == ["ledger.dirty", "new.read_many", "old.read_many"]
    assert counts(migration) == {("read", "new_failed"): 2}


async def test_begin_fails(world: World) -> None:
    """A batch that cannot take its token raises before a store is touched."""
    migration = world.migration(**ALL)
    migration.ledger.before["begin"] = Trouble()
    with pytest.raises(LedgerUnavailable):
        await migration.write_many({"a": 1, "b": 2})
    assert migration.calls() == ["ledger.begin"] * 3
    assert counts(migration) == {("write", "ledger_failed"): 2}


@pytest.mark.parametrize("call", ["dirty", "begin_copy"])
async def test_ledger_fails_in_a_read(world: World, call: str) -> None:
    """A batch read that cannot ask the ledger is served by Old, and New is not written."""
    migration = world.migration(old={"a": 1, "b": 2}, **ALL)
    migration.ledger.before[call] = Trouble()
    assert await migration.read_many("ab") == {"a": 1, "b": 2}
    assert migration.new.values == {}
    assert counts(migration) == {("read", "ledger_failed"): 2}


async def test_time_runs_out_in_the_middle(world: World) -> None:
    """No key of a batch is written after the deadline: what was written is served, and nothing is lost."""
    migration = world.migration(old={"a": 0, "b": 0}, new={"a": 0, "b": 0})

    async def slow() -> None:
        migration.clock.advance(25)

    migration.old.after["write"] = slow
    with pytest.raises(OperationTimedOut):
        await migration.write_many({"a": 1, "b": 2})
    assert migration.old.values == {"a": 1, "b": 0}
    assert migration.left == (0, 1)
    migration.clock.advance(60)
    assert await migration.read_many("ab") == {"a": 1, "b": 0}
    assert migration.new.values == migration.old.values


@pytest.mark.parametrize("old_seconds", [0, 15])
async def test_time_runs_out_in_the_middle_of_new(world: World, old_seconds: int) -> None:
    """A batch that is too late for the rest of New leaves its token; its time is not that of New alone."""
    migration = world.migration()
    await migration.write_many({"a": 0, "b": 0})

    async def slow_old() -> None:
        migration.clock.advance(old_seconds)

    async def slow_new() -> None:
        migration.clock.advance(25 - old_seconds)

    migration.old.after["write"] = slow_old
    migration.new.after["write"] = slow_new
    await migration.write_many({"a": 1, "b": 2})
    assert migration.new.values == {"a": 1, "b": 0}
    assert migration.left == (0, 1)
    assert await migration.read_many("ab") == {"a": 1, "b": 2}


async def test_each_chunk_has_its_own_time(world: World) -> None:
    """A long batch does not run out of time as a whole: each chunk has its own deadline."""
    migration = world.migration(max_batch=1)

    async def slow() -> None:
        migration.clock.advance(15)

    items = {f"k{number}": number for number in range(4)}
    for _ in items:
        migration.old.after["write"] = slow
        await migration.write_many(items)
    assert migration.new.values == items


async def test_kill_in_the_middle(world: World) -> None:
    """A kill that arrives between New and Old of a batch read keeps the copies from New."""
    migration = world.migration(old={"a": 1, "b": 2}, **ALL)

    async def kill() -> None:
        migration.proxy.disable()

    migration.old.after["read_many"] = kill
    assert await migration.read_many("ab") == {"a": 1, "b": 2}
    assert migration.new.values == {}
    assert migration.left == (0, 0)
    assert counts(migration) == {("read", "disabled"): 2}


async def test_write_across_the_gate(world: World) -> None:
    """Keys of one write on both sides of the gate: those that pass are in both stores, the others in Old."""
    migration = world.migration(0.5, **ALL)
    items = {f"k{number}": number for number in range(40)}
    await migration.write_many(items)
    passing = {key: value for key, value in items.items() if migration.gate.should_pass(key)}
    assert 0 < len(passing) < 40
    assert migration.new.values == passing
    assert migration.old.values == items
    assert counts(migration) == {("write", "both"): len(passing), ("write", "old"): 40 - len(passing)}
    assert migration.left == (0, 0)
    migration.gate.set_rate(0.1)
    await migration.write_many(dict.fromkeys(items, -1))
    few = {key for key in items if migration.gate.should_pass(key)}
    assert migration.left == (len(passing) - len(few), 0)
    migration.gate.set_rate(0.5)
    assert await migration.read_many(items) == dict.fromkeys(items, -1)
    assert migration.left == (0, 0)


async def test_pending_keys_of_a_batch(world: World) -> None:
    """Keys with a write in progress are read from Old; the others of the batch from New."""
    migration = world.migration(**ALL)
    await migration.write_many({"a": 1, "b": 2})
    seen: list[Any] = []

    async def read_meanwhile() -> None:
        seen.append(await migration.read_many("ab"))

    migration.old.after["write"] = read_meanwhile
    await migration.write("a", 3)
    assert seen == [{"a": 3, "b": 2}]
    assert counts(migration) == {
        ("write", "both"): 3,
        ("read", "dirty"): 1,
        ("read", "new_hit"): 1,
    }


async def test_old_whose_reads_lag(world: World) -> None:
    """H18: a batch read copies nothing from an Old that may lag."""
    migration = world.migration(old={"a": 1}, old_info=StoreInfo(strong_reads=False), **ALL)
    assert await migration.read_many("ab") == {"a": 1}
    assert migration.new.values == {}
    assert "ledger.begin_copy" not in migration.calls()
