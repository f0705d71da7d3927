"""Repair: what is stale, or was found to differ, is right and clean afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.core.worlds import MANY, SCANNED, Migration, Trouble, World
from zddm_flags import AsyncVerify, Guard, Rollout, StoreInfo, Telemetry, TrafficGate, Verify
from zddm_flags.errors import CorruptCheckpoint, NotApplied, Unsupported

QUIET = Telemetry(log=False)
COUNTS = ("keys", "copied", "deleted", "absent", "extra", "not_covered", "refused", "pending", "not_found")


def plain(world: World, rate: float | Rollout = 1.0, **options: Any) -> Migration:
    """A migration whose stores take batches, and cannot be scanned."""
    options = {"old_methods": MANY, "new_methods": MANY, "telemetry": QUIET, **options}
    return world.migration(rate, **options)


def scannable(world: World, rate: float | Rollout = 1.0, **options: Any) -> Migration:
    return plain(world, rate, **{"old_methods": SCANNED, "new_methods": SCANNED, **options})


def make_stale(migration: Migration, keys: Iterable[Any]) -> None:
    """As a write does that New missed, at a time when it was open for all keys."""
    migration.rows.open_to(1.0)
    for key in keys:
        name = migration.gate.locate(key)[1]
        migration.rows.begin([name], b"before")
        migration.rows.end({name: False}, b"before")


def counts(result: Any) -> dict[str, int]:
    """What came of the keys, without what came of none."""
    return {name: getattr(result, name) for name in COUNTS if getattr(result, name)}


def state(migration: Migration) -> Any:
    """All that a job may change."""
    rows = migration.rows
    kept = {name: (each.data, each.version) for name, each in rows.checkpoints().items()}
    stale = rows.stale_keys(None, 10**6).keys
    return dict(migration.old.values), dict(migration.new.values), sorted(stale), rows.summary(), kept


STATES = {
    "changed": ("right", "wrong"),
    "missing": ("right", None),
    "same": ("right", "right"),
    "extra": (None, "wrong"),
    "nowhere": (None, None),
}


def every_state(world: World, rate: float = 1.0, **options: Any) -> Migration:
    """Stale keys in every state that they can be in, three of each, and a clean one."""
    keys = [(f"{name}-{number}", pair) for name, pair in STATES.items() for number in range(3)]
    old = {key: held for key, (held, _) in keys if held is not None}
    new = {key: found for key, (_, found) in keys if found is not None}
    make = options.pop("make", plain)
    migration = make(world, rate, old={**old, "clean": "right"}, new={**new, "clean": "right"}, **options)
    make_stale(migration, [key for key, _ in keys])
    return migration


async def test_stale_keys_become_right_and_clean(world: World) -> None:
    """Stale keys that Old has are copied and clean; one in neither store is clean; a clean one is not touched."""
    migration = every_state(world)
    result = await migration.repair().run()
    assert counts(result) == {"keys": 15, "copied": 9, "absent": 3, "extra": 3}
    assert (result.finished, result.dry_run, result.complete) == (True, False, False)
    assert migration.new.values == {
        **{f"{name}-{number}": "right" for name in ("changed", "missing", "same") for number in range(3)},
        **{f"extra-{number}": "wrong" for number in range(3)},
        "clean": "right",
    }
    assert migration.left == (3, 0)
    assert all(migration.is_dirty(f"extra-{number}") for number in range(3))
    assert not any("clean" in given for method, given in migration.new.requests if "write" in method)


async def test_extra_keys_are_deleted_where_that_is_asked_for(world: World) -> None:
    """With `delete_extra` a stale key that Old lacks is deleted from New and clean (H3), and all is right."""
    migration = every_state(world)
    result = await migration.repair(delete_extra=True).run()
    assert counts(result) == {"keys": 15, "copied": 9, "deleted": 3, "absent": 3}
    assert result.complete
    assert migration.new.values == migration.old.values
    assert migration.left == (0, 0)


@pytest.mark.parametrize("delete_extra", [False, True])
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("rate", [0.5, 1.0])
@pytest.mark.parametrize("page_size", [2, 1000])
async def test_a_dry_run_changes_nothing_and_tells_what_a_real_one_does(
    world: World, rate: float, page_size: int, everything: bool, delete_extra: bool
) -> None:
    """A dry run leaves stores and ledger as they are, and its counts are those of the real one."""
    migration = every_state(world, rate)
    before = state(migration)
    options: dict[str, Any] = {"everything": everything, "delete_extra": delete_extra, "page_size": page_size}
    dry = await migration.repair(dry_run=True, **options).run()
    assert (dry.dry_run, dry.finished) == (True, True)
    assert state(migration) == before
    assert not {method for method, _ in migration.new.requests} - {"read", "read_many"}
    assert not {method for method, _ in migration.ledger.requests} - {"stale_keys", "summary", "checkpoints"}
    assert counts(dry) == counts(await migration.repair(**options).run())


async def test_keys_above_the_rate(world: World) -> None:
    """Above the write rate keys are left, stale and counted; with `everything` they are repaired too."""
    migration = every_state(world, 0.5)
    result = await migration.repair(delete_extra=True).run()
    above = [key for key in migration.old.values if migration.gate.locate(key)[0] >= 2**63 and key != "clean"]
    assert above
    assert result.not_covered >= len(above)
    assert not result.complete
    assert all(migration.is_dirty(key) for key in above)
    assert migration.clean_differences() == {}
    assert (await migration.repair(delete_extra=True, everything=True).run()).complete
    assert migration.new.values == migration.old.values
    assert migration.left == (0, 0)


async def test_it_is_idempotent(world: World) -> None:
    """A second one finds nothing, and calls neither store."""
    migration = every_state(world)
    await migration.repair(delete_extra=True).run()
    migration.calls()
    result = await migration.repair(delete_extra=True).run()
    assert counts(result) == {}
    assert result.complete
    assert not [call for call in migration.calls() if not call.startswith("ledger.")]


async def test_page_by_page(world: World) -> None:
    """Many stale keys are repaired in pages, though the list shrinks behind them."""
    held = {f"key-{number:03}": number for number in range(250)}
    migration = plain(world, old=held)
    make_stale(migration, held)
    job = migration.repair(page_size=7)
    result = await job.run()
    assert (counts(result), migration.new.values) == ({"keys": 250, "copied": 250}, held)
    assert max(len(given) for method, given in migration.new.requests) == 7
    progress = job.progress()
    assert (progress.rows, progress.expected, progress.parts, progress.waiting) == (250, 250, 1, None)


# --- Beside writers


async def test_it_never_overwrites_a_newer_write(world: World) -> None:
    """H1: a write between the repair's look at Old and its copy, or between the copy's two steps, is not lost."""
    for calls in (1, 2):
        migration = plain(world, old={"a": "old", "b": "old"}, new={"a": "older"})
        make_stale(migration, ["a", "b"])
        left = calls

        async def write_at_last(migration: Migration = migration) -> None:
            nonlocal left
            left -= 1
            if left:
                migration.old.after["read_many"] = write_at_last
            else:
                await migration.write("a", "newer")

        migration.old.after["read_many"] = write_at_last
        await migration.repair().run()
        assert left == 0
        assert migration.clean_differences() == {}
        assert await migration.read("a") == "newer"
        await migration.repair().run()
        assert migration.new.values == {"a": "newer", "b": "old"}


async def test_a_key_that_is_deleted_meanwhile_is_no_extra(world: World) -> None:
    """H3: what an application deletes while it is repaired is gone from New as well, without `delete_extra`."""
    migration = plain(world, old={"a": "old", "b": "old"}, new={"a": "older"})
    make_stale(migration, ["a", "b"])
    migration.old.after["read_many"] = lambda: migration.delete("a")
    result = await migration.repair().run()
    assert migration.new.values == {"b": "old"}
    assert result.extra == 0
    assert migration.clean_differences() == {}


async def test_an_extra_key_that_is_written_meanwhile_stays(world: World) -> None:
    """A key that Old gets after it was seen to lack it is copied, not deleted."""
    migration = plain(world, new={"a": "wrong"})
    make_stale(migration, ["a"])
    migration.old.after["read"] = lambda: migration.write("a", "newer")
    await migration.repair(delete_extra=True).run()
    assert migration.new.values == migration.old.values == {"a": "newer"}
    assert migration.clean_differences() == {}


async def test_a_key_that_is_pending_is_waited_for(world: World) -> None:
    """A stale key with a token that a crash left is repaired once that is reaped."""
    migration = plain(world, old={"a": "right"}, new={"a": "wrong"})
    make_stale(migration, ["a"])
    migration.rows.begin([migration.gate.locate("a")[1]], b"crashed")
    result = await migration.repair().run()
    assert (counts(result), result.complete) == ({"keys": 1, "copied": 1}, True)
    assert 34 <= result.seconds < 45
    assert migration.left == (0, 0)


# --- Found by a verify


async def verify(migration: Migration, **options: Any) -> Any:
    make: Any = Verify if migration.world.blocking else AsyncVerify
    return await migration.world.call(make(migration.proxy, **options).run)


@pytest.mark.parametrize("page_size", [2, 1000])
async def test_it_repairs_exactly_what_a_verify_found(world: World, page_size: int) -> None:
    """Keys that a verify noted become right, though the ledger calls them clean; other stale keys are left."""
    old = {f"key-{number}": "right" for number in range(8)}
    new = {**old, "key-1": "wrong", "key-2": "wrong", "extra": "wrong"}
    del new["key-3"]
    migration = scannable(world, old=old, new=new)
    migration.rows.open_to(1.0)
    found = await verify(migration, mark=False)
    assert (found.changed, found.missing, found.extra) == (2, 1, 1)
    make_stale(migration, ["key-5"])
    migration.new.requests.clear()
    options: dict[str, Any] = {"found_by_verify": True, "delete_extra": True, "page_size": page_size}
    before = state(migration)
    dry = await migration.repair(dry_run=True, **options).run()
    assert state(migration) == before
    job = migration.repair(**options)
    result = await job.run()
    assert counts(result) == counts(dry) == {"keys": 4, "copied": 3, "deleted": 1}
    assert migration.new.values == old
    touched = {key for method, given in migration.new.requests if method.startswith("write") for key in given}
    assert touched == {"key-1", "key-2", "key-3"}
    assert migration.is_dirty("key-5")
    assert job.progress().expected == 4
    again = await migration.repair(**options).run()
    assert (again.finished, migration.new.values) == (True, old)


async def test_without_a_verify_nothing_was_found(world: World) -> None:
    """Where no verify ran there is nothing to repair."""
    migration = scannable(world, old={"a": "right"}, new={"a": "wrong"})
    assert counts(await migration.repair(found_by_verify=True).run()) == {}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("verify", "no JSON"),
        ("verify/0", "no JSON"),
        ("verify/0", None),
    ],
)
async def test_what_a_verify_left_may_be_corrupt(world: World, name: str, data: str | None) -> None:
    """What cannot be understood of a verify is told with how to begin that anew, and nothing is repaired."""
    migration = scannable(world, old={"a": "right"}, new={"a": "wrong"})
    await verify(migration)
    kept = migration.rows.checkpoints()[name]
    if data is None:
        data = kept.data.replace('"found":[[', '"found":[[5,')
        assert data != kept.data
    migration.rows.save_checkpoint(name, data, kept.version)
    with pytest.raises(CorruptCheckpoint, match=rf"'{name}'.*verify anew with restart=True"):
        await migration.repair(found_by_verify=True).run()
    assert migration.new.values == {"a": "wrong"}


# --- Keys that only a scan finds


@dataclass(frozen=True)
class Place:
    x: int
    y: int


async def test_keys_that_cannot_be_made_again_are_found_by_a_scan(world: World) -> None:
    """Stale keys of a dataclass are looked for in Old, then in New; the others need no scan."""
    old: dict[Any, Any] = {Place(number, number): "right" for number in range(50)}
    old["plain"] = "right"
    new: dict[Any, Any] = {Place(3, 3): "wrong", Place(99, 99): "extra"}
    migration = scannable(world, old=old, new=new)
    make_stale(migration, [Place(3, 3), Place(40, 40), Place(99, 99), Place(100, 100), "plain"])
    before = state(migration)
    dry = await migration.repair(page_size=6, delete_extra=True, dry_run=True).run()
    assert state(migration) == before
    result = await migration.repair(page_size=6, delete_extra=True).run()
    assert counts(result) == counts(dry) == {"keys": 5, "copied": 3, "deleted": 1, "not_found": 1}
    assert migration.new.values == {Place(3, 3): "right", Place(40, 40): "right", "plain": "right"}
    assert migration.left == (1, 0)
    assert not result.complete


async def test_keys_of_an_encode_of_your_own_are_found_by_a_scan(world: World) -> None:
    """The same for a gate with `encode`."""
    migration = scannable(world, old={1.5: "right", 2.5: "right"}, new={1.5: "wrong"})
    gate = TrafficGate(1.0, encode=lambda key: str(key).encode())
    other = Migration(world, gate, migration.old, migration.new, migration.ledger)
    other.clock = migration.clock
    migration.ledger.migration = _named("floats", migration.ledger.migration)
    other.made_by(migration._make)
    rows = migration.ledger.rows_of.migration("floats", gate.identity)
    name = gate.locate(1.5)[1]
    rows.begin([name], b"before")
    rows.end({name: False}, b"before")
    result = await other.repair().run()
    assert counts(result) == {"keys": 1, "copied": 1}
    assert migration.new.values == {1.5: "right"}
    assert rows.summary().stale == 0


def _named(name: str, migration: Any) -> Any:
    return lambda _, identity, token_seconds=0.0: migration(name, identity, token_seconds)


async def test_they_need_an_old_that_can_be_scanned(world: World) -> None:
    """Where Old cannot be scanned, or lags, that is told; what needs no scan is repaired all the same."""
    migration = plain(world, old={Place(1, 1): "right", "plain": "right"})
    make_stale(migration, [Place(1, 1), "plain"])
    with pytest.raises(Unsupported, match="scan"):
        await migration.repair().run()
    assert migration.new.values == {"plain": "right"}
    assert migration.left == (1, 0)


async def test_an_old_whose_reads_lag_is_refused(world: World) -> None:
    """H18: nothing is repaired from an Old that may not see its own writes."""
    migration = plain(world, old={"a": "right"}, new={"a": "wrong"}, old_info=StoreInfo(strong_reads=False))
    make_stale(migration, ["a"])
    with pytest.raises(Unsupported, match="H18"):
        await migration.repair().run()
    assert migration.new.values == {"a": "wrong"}


# --- Stopping, waiting, failing


@pytest.mark.parametrize("found_by_verify", [False, True])
@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_stop_ends_it_after_the_page(world: World, dry_run: bool, found_by_verify: bool) -> None:
    """A stop is heard between two pages; the next run does the rest."""
    held = {f"key-{number}": "right" for number in range(30)}
    migration = scannable(world, old=held, new=dict.fromkeys(held, "wrong"))
    migration.rows.open_to(1.0)
    await verify(migration)
    job = migration.repair(page_size=10, dry_run=dry_run, found_by_verify=found_by_verify)

    async def stop() -> None:
        job.stop()

    migration.old.after["read_many"] = stop
    result = await job.run()
    assert (result.finished, result.keys, result.complete) == (False, 10, False)
    rest = await migration.repair(page_size=10, found_by_verify=found_by_verify).run()
    assert rest.finished
    assert migration.new.values == held
    assert migration.left == (0, 0)


async def test_a_stop_ends_a_search(world: World) -> None:
    """A stop is heard while keys are looked for by a scan."""
    migration = scannable(world, old={Place(number, 1): "right" for number in range(30)})
    make_stale(migration, [Place(29, 1)])
    job = migration.repair(page_size=10)

    async def stop() -> None:
        job.stop()

    migration.old.after["scan"] = stop
    assert not (await job.run()).finished
    assert (await migration.repair(page_size=10).run()).complete


async def test_stopped_before_it_runs(world: World) -> None:
    """A repair that was stopped before `run` does nothing and says that it did not finish."""
    migration = every_state(world)
    before = state(migration)
    job = migration.repair()
    job.stop()
    result = await job.run()
    assert (result.finished, counts(result), state(migration)) == (False, {}, before)


@pytest.mark.parametrize("how", ["rate", "disabled"])
async def test_it_waits_while_the_migration_is_killed(world: World, how: str) -> None:
    """At a write rate of 0, or disabled, New is left alone, and the repair goes on afterwards."""
    migration = every_state(world)
    kill = {"rate": lambda: migration.gate.set_rate(0.0), "disabled": migration.proxy.disable}[how]
    revive = {"rate": lambda: migration.gate.set_rate(1.0), "disabled": migration.proxy.enable}[how]
    kill()
    before = dict(migration.new.values)
    job = migration.repair(delete_extra=True)
    told: set[str | None] = set()

    async def end() -> None:
        assert migration.new.values == before
        revive()

    job.time.always = lambda: told.add(job.progress().waiting)
    job.time.hooks = [None, None, end]
    result = await job.run()
    assert told == {"the write rate is 0, or the proxy is disabled, so that nothing is written to New"}
    assert counts(result) == {"keys": 15, "copied": 9, "deleted": 3, "absent": 3}


async def test_a_kill_in_the_middle_leaves_out_no_key(world: World) -> None:
    """A kill between the copy's two steps is waited for like any other."""
    migration = every_state(world)

    async def first() -> None:
        migration.old.after["read_many"] = second

    async def second() -> None:
        migration.gate.set_rate(0.0)

    async def revive() -> None:
        migration.gate.set_rate(1.0)

    migration.old.after["read_many"] = first
    job = migration.repair(delete_extra=True)
    job.time.hooks = [None, None, revive]
    result = await job.run()
    assert counts(result) == {"keys": 15, "copied": 9, "deleted": 3, "absent": 3}
    assert migration.new.values == migration.old.values


@pytest.mark.parametrize("found_by_verify", [False, True])
async def test_it_keeps_to_the_pace(world: World, found_by_verify: bool) -> None:
    """`per_second`, and the flag's `backfill_per_second`, bound it whichever keys it repairs; 0 pauses it."""
    held = {f"key-{number:03}": "right" for number in range(100)}
    migration = scannable(world, old=held, new=dict.fromkeys(held, "wrong"))
    migration.rows.open_to(1.0)
    await verify(migration)
    job = migration.repair(per_second=20, dry_run=True, found_by_verify=found_by_verify)
    result = await job.run()
    assert result.keys == 100
    assert 3.9 <= result.seconds < 6
    migration.gate.set_rate(Rollout(1.0, 1.0, 0))
    job = migration.repair(found_by_verify=found_by_verify)
    told: set[str | None] = set()

    async def go_on() -> None:
        assert set(migration.new.values.values()) == {"wrong"}
        migration.gate.set_rate(Rollout(1.0, 1.0, 10))
        job.time.always = lambda: None

    job.time.always = lambda: told.add(job.progress().waiting)
    job.time.hooks = [None, None, go_on]
    result = await job.run()
    assert told == {"the flag's backfill_per_second is 0"}
    assert result.complete
    assert 8.9 <= result.seconds < 12


async def test_a_value_that_new_refuses_stays_stale(world: World) -> None:
    """Of many keys New refuses one: it stays stale and is counted, and the others are clean."""
    held = {f"key-{number}": number for number in range(50)}
    migration = plain(world, old=held)
    make_stale(migration, held)
    put = migration.new.put

    def refusing(items: Any) -> None:
        if "key-7" in items:
            raise NotApplied from Trouble()
        put(items)

    migration.new.put = refusing
    result = await migration.repair().run()
    assert counts(result) == {"keys": 50, "copied": 49, "refused": 1}
    assert not result.complete
    assert (migration.left, migration.is_dirty("key-7")) == ((1, 0), True)


@pytest.mark.parametrize("store", ["old", "new", "ledger"])
async def test_what_fails_for_a_while_is_tried_again(world: World, store: str) -> None:
    """Calls that raise for less than the patience cost time only."""
    migration = every_state(world, guard=None)
    failing = {"old": migration.old, "new": migration.new, "ledger": migration.ledger}[store]
    methods = ("stale_keys", "begin_copy", "end", "summary") if store == "ledger" else MANY
    failing.outage(methods=methods)
    job = migration.repair(delete_extra=True, patience_seconds=60)

    def recover_later() -> None:
        if migration.clock() > 1040:
            failing.recover()

    job.time.always = recover_later
    result = await job.run()
    assert counts(result) == {"keys": 15, "copied": 9, "deleted": 3, "absent": 3}
    assert (migration.new.values, migration.left) == (migration.old.values, (0, 0))


@pytest.mark.parametrize("store", ["old", "ledger"])
async def test_what_fails_for_long_is_raised(world: World, store: str) -> None:
    """The error of Old or of the ledger is raised after the patience, as it is."""
    migration = every_state(world)
    failing, method = {"old": (migration.old, "read_many"), "ledger": (migration.ledger, "begin_copy")}[store]
    error = Trouble()
    failing.before[method] = error
    job = migration.repair(patience_seconds=20)
    with pytest.raises(Trouble) as caught:
        await job.run()
    assert caught.value is error
    assert 1020 <= migration.clock() < 1030
    failing.recover()
    assert (await migration.repair(delete_extra=True).run()).complete


@pytest.mark.usefixtures("by_hand")
async def test_it_waits_while_the_guard_is_open(world: World) -> None:
    """Where New fails until the guard opens, it is left alone until it answers again."""
    migration = every_state(world, guard=Guard(min_calls=1, open_seconds=5.0))
    migration.new.outage()
    job = migration.repair(delete_extra=True, page_size=3)
    told: set[str | None] = set()
    job.time.always = lambda: told.add(job.progress().waiting)

    async def probe() -> None:
        await migration.work()
        job.time.hooks.append(probe)

    async def recover() -> None:
        migration.new.recover()
        job.time.hooks.append(probe)

    job.time.hooks = [*[None] * 30, recover]
    result = await job.run()
    assert "New fails, and the guard keeps calls from it" in told
    assert (result.complete, migration.new.values) == (True, migration.old.values)


@pytest.mark.parametrize("page_size", [0, -1])
def test_a_page_size_out_of_range(world: World, page_size: int) -> None:
    """A page of fewer than one key raises at once."""
    with pytest.raises(ValueError, match="page_size must be at least 1"):
        plain(world).repair(page_size=page_size)


async def test_killed_at_any_call(world: World) -> None:
    """H4: whatever call a repair dies at, the next one makes every key right, and no key is wrong in between."""

    class Killed(BaseException):
        pass

    total = 0
    for call in range(1000):
        migration = every_state(world)
        moments = 0

        async def count(call: int = call) -> None:
            nonlocal moments
            moments += 1
            if moments > call:
                raise Killed

        watched = (migration.old, migration.new, migration.ledger)
        for each in watched:
            each.pause = count
        try:
            await migration.repair(delete_extra=True, page_size=4).run()
        except Killed:
            total += 1
        for each in watched:
            each.pause = None
        assert migration.clean_differences() == {}
        later = migration.in_another_process(1.0)
        again = await later.repair(delete_extra=True, page_size=4).run()
        assert again.finished
        if later.summary.pending:  # of keys that were clean already
            later.clock.advance(100)
            later.rows.reap(34)
            assert (await later.repair(delete_extra=True).run()).complete
        assert (later.new.values, later.left) == (later.old.values, (0, 0))
        if moments <= call:
            break
    assert total > 50
