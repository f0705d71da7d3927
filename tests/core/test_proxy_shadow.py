"""Shadow comparison: what New serves is compared with Old in the background; only certain differences are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.core.worlds import LEDGER_CALLS, MANY, Hook, Migration, Trouble, World
from zddm_flags import Guard, Shadow, StoreInfo

KEY = "secret-key"
VALUE = "secret-value"
ALL = Shadow(share=1.0, per_second=None)
BY_HAND = pytest.mark.usefixtures("by_hand")


def start(world: World, values: Mapping[str, Any] | None = None, **options: Any) -> Migration:
    """A migration in which both stores hold `values`, all clean, and all that New serves is compared."""
    held = {KEY: VALUE} if values is None else values
    migration = world.migration(**{"old": held, "new": held, "shadow": ALL, **options})
    migration.rows.open_to(1.0)
    return migration


async def served(world: World, **options: Any) -> Migration:
    """The same migration, in which the key was served by New and waits to be compared."""
    migration = start(world, **options)
    await migration.read(KEY)
    assert migration.calls() == ["ledger.dirty", "new.read"]
    return migration


def verdicts(migration: Migration) -> dict[str, int]:
    return {path: keys for (name, path), keys in migration.stats().operations.items() if name == "compare"}


# --- verdicts


@BY_HAND
async def test_equal_values(world: World) -> None:
    """Equal values are counted, and leave the key as it was: clean, and served by New."""
    migration = await served(world)
    with capture_logs() as logs:
        assert await migration.work() == 0
    assert migration.calls() == ["ledger.begin_copy", "old.read", "new.read", "ledger.withdraw"]
    assert verdicts(migration) == {"equal": 1}
    assert migration.left == (0, 0)
    assert logs == []
    assert await migration.work() == 0
    assert migration.calls() == [], "once for each time that it was served"


@BY_HAND
@pytest.mark.parametrize("difference", ["another value", "a key that Old lacks"])
async def test_a_difference(world: World, difference: str) -> None:
    """H13: a difference is counted, told without key and value, and made right by the next read."""
    migration = start(world)
    if difference == "another value":
        migration.new.values[KEY] = "secret planted"
    else:
        del migration.old.values[KEY]
    assert await migration.read(KEY) == migration.new.values[KEY]
    migration.calls()
    with capture_logs() as logs:
        assert await migration.work() == 1
    assert verdicts(migration) == {"different": 1}
    assert migration.left == (1, 0)
    hashes = [f"{migration.gate.locate(KEY)[0]:016x}"]
    assert logs == [
        {
            "event": "keys_differ",
            "log_level": "warning",
            "migration": "users",
            "keys": 1,
            "hashes": hashes,
            "suppressed": 0,
        }
    ]
    assert await migration.read(KEY) == migration.old.values.get(KEY)
    assert migration.new.values == migration.old.values
    assert migration.left == (0, 0)
    await migration.read(KEY)
    await migration.work()
    assert verdicts(migration).get("different") == 1


@BY_HAND
async def test_a_batch(world: World) -> None:
    """Keys are compared together, each for itself, with one call to each store."""
    old = {f"k{number}": number for number in range(20)}
    migration = start(world, old, old_methods=MANY, new_methods=MANY)
    assert await migration.read_many(old) == old
    migration.new.values.update(k3="planted", k7="planted")
    del migration.new.values["k9"]
    migration.calls()
    with capture_logs() as logs:
        assert await migration.work() == 2
    assert migration.calls() == [
        "ledger.begin_copy",
        "old.read_many",
        "new.read_many",
        "ledger.alone",
        "ledger.withdraw",
        "ledger.end",
    ]
    assert verdicts(migration) == {"different": 2, "equal": 18}
    assert [key for key in old if migration.is_dirty(key)] == ["k3", "k7"]
    assert {*logs[0]["hashes"]} == {f"{migration.gate.locate(key)[0]:016x}" for key in ("k3", "k7")}
    assert await migration.read_many(old) == old
    assert migration.new.values == old


@BY_HAND
async def test_many_differences(world: World) -> None:
    """At most ten hashes are told, and the number of all."""
    old = dict.fromkeys([f"k{number}" for number in range(30)], "right")
    migration = start(world, old)
    await migration.read_many(old)
    migration.new.values.update(dict.fromkeys(old, "wrong"))
    with capture_logs() as logs:
        assert await migration.work() == 30
    assert (len(logs), logs[0]["keys"], len(logs[0]["hashes"])) == (1, 30, 10)
    assert migration.left == (30, 0)


@BY_HAND
async def test_a_key_that_new_lacks(world: World) -> None:
    """A key that New lost is no difference: nothing wrong is served."""
    migration = await served(world)
    migration.new.values.clear()
    assert await migration.work() == 0
    assert verdicts(migration) == {"equal": 1}
    assert migration.left == (0, 0)


@BY_HAND
async def test_equal_of_ones_own(world: World) -> None:
    """`equal` gets Old's value and New's, in this order, and says whether they are equal."""
    asked: list[tuple[Any, Any]] = []

    def equal(old: Any, new: Any) -> object:
        asked.append((old, new))
        return [] if new == "other" else "yes"  # as falsy and truthy as anything

    migration = start(world, {"a": "v", "b": "v"}, shadow=Shadow(share=1, per_second=None, equal=equal))
    migration.new.values.update(a="V", b="other")
    await migration.read_many(["a", "b"])
    assert await migration.work() == 1
    assert sorted(asked) == [("v", "V"), ("v", "other")]
    assert verdicts(migration) == {"equal": 1, "different": 1}
    assert migration.is_dirty("b")
    assert not migration.is_dirty("a")


@BY_HAND
async def test_equal_that_raises(world: World) -> None:
    """An `equal` that raises is counted and logged; the other keys are compared, and no key is distrusted."""

    def equal(old: Any, new: Any) -> bool:
        if old == VALUE:
            raise Trouble
        return bool(old == new)

    values = {KEY: VALUE, "b": "v", "c": "v"}
    migration = start(world, values, shadow=Shadow(share=1, per_second=None, equal=equal))
    await migration.read_many(values)
    migration.new.values["c"] = "planted"
    with capture_logs() as logs:
        assert await migration.work() == 1
    assert verdicts(migration) == {"failed": 1, "equal": 1, "different": 1}
    assert [(log["event"], log.get("error")) for log in logs] == [
        ("comparison_failed", "Trouble"),
        ("keys_differ", None),
    ]
    assert "secret" not in repr(logs)
    assert migration.left == (1, 0)
    assert await migration.read(KEY) == VALUE


# --- writes that overlap


def hooks(migration: Migration) -> dict[str, tuple[dict[str, Any], str]]:
    """Every moment of a comparison, and where a hook comes at it."""
    return {
        "before its token": (migration.ledger.before, "begin_copy"),
        "after its token": (migration.ledger.after, "begin_copy"),
        "after Old was read": (migration.old.after, "read"),
        "before New is read": (migration.new.before, "read"),
        "after New was read": (migration.new.after, "read"),
    }


MOMENTS = ["before its token", "after its token", "after Old was read", "before New is read", "after New was read"]


@BY_HAND
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("change", ["write", "delete", "disabled", "another process"])
async def test_a_change_that_overlaps(world: World, change: str, moment: str) -> None:
    """A change at any moment of a comparison is never told as a difference, and leaves nothing wrong."""
    migration = await served(world, new_info=StoreInfo(remote=False))
    other = migration.in_another_process(0.0)

    async def changed() -> None:
        match change:
            case "write":
                await migration.write(KEY, "v2")
            case "delete":
                await migration.delete(KEY)
            case "disabled":
                migration.proxy.disable()
                await migration.write(KEY, "v2")
                migration.proxy.enable()
            case _:
                await other.write(KEY, "v2")

    place, method = hooks(migration)[moment]
    place[method] = changed
    with capture_logs() as logs:
        assert await migration.work() == 0
    assert "keys_differ" not in [log["event"] for log in logs]
    assert set(verdicts(migration)) <= {"equal", "unsure"}
    if moment == "after Old was read" and change == "write":
        assert verdicts(migration) == {"unsure": 1}, "Old's v1 and New's v2 differed, and the write explains it"
    assert migration.clean_differences() == {}
    assert migration.summary.pending == 0
    value = migration.old.values.get(KEY)
    assert value == (None if change == "delete" else "v2")
    assert await migration.read(KEY) == value
    assert migration.new.values == migration.old.values
    assert migration.left == (0, 0)


@BY_HAND
@pytest.mark.parametrize("moment", [("before", "end"), ("after", "end"), ("before", "dirty"), ("after", "dirty")])
async def test_a_write_as_a_difference_is_settled(world: World, moment: tuple[str, str]) -> None:
    """A write after the values were found to differ has the last word, whether the difference is told or not."""
    migration = start(world, new_info=StoreInfo(remote=False))
    migration.new.values[KEY] = "planted"
    await migration.read(KEY)

    async def write() -> None:
        await migration.write(KEY, "v2")

    getattr(migration.ledger, moment[0])[moment[1]] = write
    await migration.work()
    assert verdicts(migration) in ({"different": 1}, {"unsure": 1})
    assert migration.clean_differences() == {}
    assert migration.summary.pending == 0
    assert await migration.read(KEY) == "v2"
    assert migration.new.values == {KEY: "v2"}
    assert migration.left == (0, 0)


@BY_HAND
async def test_a_pending_key(world: World) -> None:
    """A key with a write in progress is not compared."""
    migration = await served(world)
    migration.new.values[KEY] = "planted"
    migration.rows.begin([migration.gate.locate(KEY)[1]], b"another")
    assert await migration.work() == 0
    assert migration.calls() == ["ledger.begin_copy"]
    assert verdicts(migration) == {"unsure": 1}
    assert migration.left == (0, 1)


@BY_HAND
async def test_a_stale_key(world: World) -> None:
    """A key that is known to be stale is not reported, and stays stale."""
    migration = await served(world)
    migration.proxy.disable()
    await migration.write(KEY, "v2")
    migration.proxy.enable()
    migration.calls()
    with capture_logs() as logs:
        assert await migration.work() == 0
    assert logs == []
    assert migration.calls() == ["ledger.begin_copy", "ledger.withdraw"]
    assert verdicts(migration) == {"unsure": 1}
    assert migration.left == (1, 0)
    assert await migration.read(KEY) == "v2"


@BY_HAND
async def test_readers_do_not_wait(world: World) -> None:
    """While a key is compared its readers are served by Old, and no read of it is copied or compared again."""
    migration = await served(world, new_info=StoreInfo(remote=False))
    values: list[Any] = []

    async def read() -> None:
        values.append(await migration.read(KEY))

    migration.old.after["read"] = read
    await migration.work()
    assert values == [VALUE]
    assert migration.stats().operations["read", "dirty"] == 1
    assert "new.write" not in migration.calls()
    assert verdicts(migration) == {"equal": 1}
    assert migration.left == (0, 0)


# --- how much


@BY_HAND
async def test_only_what_new_served(world: World) -> None:
    """Keys that Old served are not compared, nor is a write."""
    migration = start(world, {"a": 1, "b": 2}, copy="off")
    migration.new.values.clear()
    await migration.read("a")
    await migration.read_many(["a", "b"])
    await migration.write("b", 3)
    migration.gate.set_rate(0.0)
    await migration.read("b")
    await migration.work()
    assert verdicts(migration) == {}


@BY_HAND
@pytest.mark.parametrize("batch", [True, False])
async def test_share(world: World, batch: bool) -> None:
    """Of the reads that New serves the share is compared."""
    old = dict.fromkeys([f"k{number}" for number in range(3000)], "v")
    shadow = Shadow(share=0.1, per_second=None)
    migration = start(world, old, shadow=shadow, old_methods=MANY, new_methods=MANY)
    if batch:
        await migration.read_many(old)
    else:
        for key in old:
            await migration.read(key)
    await migration.work()
    assert 180 < verdicts(migration)["equal"] < 420  # seven deviations


@BY_HAND
async def test_keys_that_wait_are_bounded(world: World) -> None:
    """At most `max_keys` wait to be compared, each once; reads beyond are not compared."""
    old = {f"k{number}": number for number in range(9)}
    migration = start(world, old, shadow=Shadow(share=1, per_second=None, max_keys=3))
    for _ in range(2):
        assert await migration.read_many(old) == old
    await migration.work()
    await migration.work()
    assert verdicts(migration) == {"equal": 3}


@BY_HAND
async def test_a_pace(world: World) -> None:
    """At most `per_second` keys are compared in a second; the others wait."""
    old = {f"k{number}": number for number in range(5)}
    migration = start(world, old, shadow=Shadow(share=1, per_second=2))
    await migration.read_many(old)
    compared = []
    for _ in range(3):
        await migration.work()
        await migration.work()
        compared.append(verdicts(migration)["equal"])
        migration.clock.advance(1)
    assert compared == [2, 4, 5]


async def test_it_happens_by_itself(world: World) -> None:
    """Comparisons are made without anybody asking."""
    migration = start(world)
    migration.new.values[KEY] = "planted"
    await migration.read(KEY)
    await world.until(lambda: verdicts(migration) == {"different": 1})
    await world.until(lambda: not migration.proxy._chores.alive)
    assert migration.left == (1, 0)


@BY_HAND
async def test_none_without_a_shadow(world: World) -> None:
    """Nothing is compared unless it is asked for."""
    migration = await served(world, shadow=None)
    await migration.work()
    assert migration.calls() == []


@BY_HAND
async def test_close(world: World) -> None:
    """A closed proxy compares nothing any more."""
    migration = await served(world)
    await world.call(migration.proxy.close)
    await migration.work()
    assert migration.calls() == []
    assert verdicts(migration) == {}


@pytest.mark.parametrize("shadow", [0.5, True, "all"])
def test_wrong_shadow(world: World, shadow: Any) -> None:
    """A share alone is not taken for a `Shadow`."""
    with pytest.raises(TypeError, match="shadow"):
        world.migration(shadow=shadow)


# --- New is not to be used


@BY_HAND
@pytest.mark.parametrize("how", ["flag", "switch"])
async def test_no_comparison_after_a_kill(world: World, how: str) -> None:
    """After a kill nothing is compared, not even what waits."""
    migration = await served(world)
    if how == "flag":
        migration.gate.set_rate(0.0)
    else:
        migration.proxy.disable()
    await migration.work()
    assert migration.calls() == []
    assert verdicts(migration) == {}


def killing(migration: Migration, how: str) -> Hook:
    async def kill() -> None:
        if how == "kill":
            migration.proxy.disable()
            return
        migration.new.outage(methods=["read"])
        while migration.stats().guard != "open":
            await migration.read("other")
        migration.new.recover()
        migration.calls()

    return kill


@BY_HAND
@pytest.mark.parametrize("how", ["kill", "guard"])
async def test_new_is_left_alone_in_the_middle(world: World, how: str) -> None:
    """A kill, or a guard that opens, while Old is read for a comparison keeps it from New, and tells nothing."""
    values = {KEY: VALUE, "other": 1}
    migration = start(world, values, guard=Guard(min_calls=2), new_info=StoreInfo(remote=False))
    await migration.read(KEY)
    migration.new.values[KEY] = "planted"
    migration.calls()
    migration.old.after["read"] = killing(migration, how)
    with capture_logs() as logs:
        assert await migration.work() == 0
    assert "new.read" not in migration.calls()
    assert verdicts(migration) == {"unsure": 1}
    assert {log["event"] for log in logs} <= {"proxy_disabled", "guard_opened", "new_failed"}
    assert migration.left == (0, 0)


@BY_HAND
async def test_no_comparison_while_the_guard_is_open(world: World) -> None:
    """While the guard is open nothing is compared."""
    migration = start(world, {KEY: VALUE, "other": 1}, guard=Guard(min_calls=2), new_info=StoreInfo(remote=False))
    await migration.read(KEY)
    await killing(migration, "guard")()
    await migration.work()
    assert migration.calls() == []
    assert verdicts(migration) == {}


# --- failures


@BY_HAND
@pytest.mark.parametrize("store", ["old", "new"])
async def test_a_store_that_fails(world: World, store: str) -> None:
    """A store that fails in a comparison hurts nobody, is told, and leaves the key as it was."""
    migration = await served(world)
    migration.new.values[KEY] = "planted"
    getattr(migration, store).outage()
    with capture_logs() as logs:
        assert await migration.work() == 0
    told, verdict = {"old": ("comparison_failed", "old_failed"), "new": ("new_failed", "unsure")}[store]
    assert [(log["event"], log["error"]) for log in logs] == [(told, "Trouble")]
    assert "secret" not in repr(logs)
    assert verdicts(migration) == {verdict: 1}
    assert migration.left == (0, 0)
    getattr(migration, store).recover()
    await migration.read(KEY)
    assert await migration.work() == 1


@BY_HAND
async def test_an_old_that_lags(world: World) -> None:
    """H18: an Old whose reads may lag is not compared with."""
    migration = await served(world, old_info=StoreInfo(strong_reads=False))
    migration.new.values[KEY] = "planted"
    assert await migration.work() == 0
    assert migration.calls() == []
    assert verdicts(migration) == {"unsure": 1}


@BY_HAND
@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("planted", [True, False])
@pytest.mark.parametrize("call", LEDGER_CALLS)
async def test_a_ledger_that_fails(world: World, call: str, planted: bool, lost: str) -> None:
    """A ledger that fails at any step of a comparison hurts nobody, and is followed by no wrong value."""
    migration = await served(world)
    if planted:
        migration.new.values[KEY] = "planted"
    place = migration.ledger.before if lost == "request" else migration.ledger.after
    place[call] = Trouble()
    with capture_logs() as logs:
        found = await migration.work()
    assert "secret" not in repr(logs)
    assert found == verdicts(migration).get("different", 0)
    if not planted:
        assert found == 0
        assert migration.clean_differences() == {}
    migration.ledger.recover()
    if found and call not in {"begin", "end"}:
        assert migration.is_dirty(KEY)
    migration.clock.advance(60)
    for _ in range(3):
        await migration.read(KEY)
        await migration.work()
    assert await migration.read(KEY) == VALUE
    assert migration.new.values == {KEY: VALUE}
    assert migration.left == (0, 0)
