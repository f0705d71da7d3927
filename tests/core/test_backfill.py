"""Backfill: every key that it covers arrives in New, through crashes, writers, outages and kills."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.worlds import MANY, PLAIN, SCANNED, Migration, Trouble, World, cursor_of
from zddm_flags import AsyncBackfill, Backfill, Guard, Page, Proxy, Rollout, StoreInfo, Telemetry, TrafficGate
from zddm_flags.errors import CorruptCheckpoint, InvalidKey, NotApplied, Superseded, Unsupported
from zddm_flags.jobs import Progress

QUIET = Telemetry(log=False)


class Killed(BaseException):
    """What a process sees of its own end: nothing handles it, and no call comes after it."""


def keys(count: int) -> list[str]:
    return [f"key-{number:05}" for number in range(count)]


def values(count: int) -> dict[Any, Any]:
    return {key: f"value of {key}" for key in keys(count)}


def scannable(world: World, rate: float | Rollout = 1.0, **options: Any) -> Migration:
    """A migration whose Old can be scanned, and whose stores take batches."""
    options = {"old_methods": SCANNED, "new_methods": MANY, "telemetry": QUIET, **options}
    return world.migration(rate, **options)


def written_to_new(migration: Migration) -> Counter[Any]:
    """How often each key was written to New."""
    requests = migration.new.requests
    return Counter(key for method, given in requests if method in {"write", "write_many"} for key in given)


def below(migration: Migration, rate: float, among: Iterable[Any]) -> set[Any]:
    return {key for key in among if migration.gate.locate(key)[0] < rate * 2**64}


def add_up(result: Any) -> int:
    """All keys of which something came."""
    fields = ("copied", "present", "absent", "not_covered", "refused", "pending", "too_long")
    return sum(getattr(result, field) for field in fields)


# --- What it covers


async def test_it_copies_every_key_below_the_write_rate_and_none_above(world: World) -> None:
    """At a write rate of 0.4 exactly the keys whose hash rate is below arrive in New, whatever that of reads."""
    held = values(300)
    migration = scannable(world, Rollout(0.1, 0.4), old=held)
    result = await migration.backfill(page_size=32).run()
    covered = below(migration, 0.4, held)
    assert migration.new.values == {key: held[key] for key in covered}
    assert (result.finished, result.resumed, result.complete, result.covered) == (True, False, True, 0.4)
    assert (result.rows, result.copied, result.not_covered) == (300, len(covered), 300 - len(covered))
    assert add_up(result) == 300
    assert migration.left == (0, 0)
    assert migration.summary.opened == 0.4


async def test_everything_covers_all_and_opens_new_for_all_of_them_first(world: World) -> None:
    """With `everything` all keys arrive, and the ledger has acknowledged 1.0 before New is written."""
    held = values(100)
    migration = scannable(world, 0.25, old=held)
    opened_when_written: list[float] = []

    async def note() -> None:
        opened_when_written.append(migration.summary.opened)

    migration.new.before["write_many"] = note
    result = await migration.backfill(everything=True, page_size=10).run()
    assert migration.new.values == held
    assert (result.covered, result.not_covered, result.copied) == (1.0, 0, 100)
    assert opened_when_written == [1.0]
    # What `everything` costs: a write above the rate skips New, so its key is stale from then on.
    above = next(key for key in held if key not in below(migration, 0.25, held))
    await migration.write(above, "newer")
    assert migration.is_dirty(above)


async def test_what_is_in_new_and_clean_is_not_written_again(world: World) -> None:
    """A further backfill, also at a raised rate, begins anew and writes to New only what is not there."""
    held = values(200)
    migration = scannable(world, 0.3, old=held)
    first = await migration.backfill().run()
    again = await migration.backfill().run()
    assert (again.resumed, again.copied, again.present) == (False, 0, first.copied)
    migration.gate.set_rate(1.0)
    raised = await migration.backfill().run()
    assert (raised.resumed, raised.present, raised.copied, raised.covered) == (
        False,
        first.copied,
        200 - first.copied,
        1.0,
    )
    assert written_to_new(migration) == Counter(list(held))
    assert migration.new.values == held


async def test_a_rate_that_rose_since_a_stopped_run_begins_anew(world: World) -> None:
    """A run that did not finish is not gone on with at a higher rate, for it passed over keys that count now."""
    held = values(100)
    migration = scannable(world, 0.3, old=held)
    job = migration.backfill(page_size=10)
    migration.new.after["write_many"] = _call(job.stop)
    assert not (await job.run()).finished
    migration.gate.set_rate(0.8)
    result = await migration.backfill(page_size=10).run()
    assert (result.finished, result.resumed, result.rows, result.covered) == (True, False, 100, 0.8)
    assert set(migration.new.values) == below(migration, 0.8, held)


async def test_a_rate_that_is_lowered_in_the_middle_lowers_what_was_covered(world: World) -> None:
    """Keys above a rate that was lowered meanwhile are left, and the share that is told is the lower one."""
    held = values(200)
    migration = scannable(world, 0.9, old=held)
    migration.new.after["write_many"] = _call(lambda: migration.gate.set_rate(0.5))
    result = await migration.backfill(page_size=20).run()
    assert result.finished
    assert result.covered == 0.5
    assert below(migration, 0.5, held) <= set(migration.new.values)
    assert add_up(result) == 200
    assert migration.clean_differences() == {}


async def test_a_rate_that_dips_within_a_page_leaves_out_no_key(world: World) -> None:
    """Where the rate fell and rose again while a page was copied, its keys are copied after all."""
    held = values(60)
    migration = scannable(world, 1.0, old=held)
    migration.old.after["read_many"] = _call(lambda: migration.gate.set_rate(0.5))
    migration.ledger.before["withdraw"] = _call(lambda: migration.gate.set_rate(1.0))
    result = await migration.backfill(page_size=20).run()
    assert (result.complete, result.copied, result.covered) == (True, 60, 1.0)
    assert migration.new.values == held


async def test_keys_that_a_dip_of_the_rate_left_out_are_not_told_as_covered(world: World) -> None:
    """Where the rate rose again too late for the keys that it had left out, the share that is told is below."""
    held = values(60)
    migration = scannable(world, 1.0, old=held)
    migration.old.after["read_many"] = _call(lambda: migration.gate.set_rate(0.5))

    async def refuse() -> None:
        migration.ledger.before["begin_copy"] = _call(lambda: migration.gate.set_rate(1.0))
        raise NotApplied from Trouble()

    migration.new.before["write_many"] = refuse
    result = await migration.backfill(page_size=20).run()
    left = set(held) - set(migration.new.values)
    assert (result.finished, result.not_covered) == (True, len(left))
    assert 0.5 <= result.covered <= min(migration.gate.locate(key)[0] for key in left) / 2**64


@pytest.mark.parametrize("moment", ["read_many", "write_many", "scan"])
async def test_a_kill_in_the_middle_leaves_out_no_key(world: World, moment: str) -> None:
    """A rate of 0 in the midst of a page is waited for: every key is copied, and the covered share stays."""
    held = values(60)
    migration = scannable(world, 1.0, old=held)

    async def kill() -> None:
        migration.gate.set_rate(0.0)

    (migration.new if moment == "write_many" else migration.old).after[moment] = kill
    job = migration.backfill(page_size=20)
    job.time.hooks = [None, None, None, _call(lambda: migration.gate.set_rate(1.0))]
    result = await job.run()
    assert (result.complete, result.copied + result.present, result.not_covered) == (True, 60, 0)
    assert result.covered == 1.0
    assert migration.new.values == held


async def test_a_share_that_was_lowered_stays_so_over_a_resume(world: World) -> None:
    """Pages that were done at a lower rate are not forgotten by the run that goes on with them."""
    migration = scannable(world, 0.9, old=values(60))

    async def lower_and_stop() -> None:
        migration.gate.set_rate(0.5)
        job.stop()

    job = migration.backfill(page_size=20)
    migration.new.after["write_many"] = lower_and_stop
    assert not (await job.run()).finished
    migration.gate.set_rate(0.9)
    result = await migration.backfill(page_size=20).run()
    assert (result.finished, result.resumed, result.covered) == (True, True, 0.5)


def _call(function: Any) -> Any:
    async def hook() -> None:
        function()

    return hook


@pytest.mark.parametrize("first", [False, True])
async def test_another_scope_begins_anew(world: World, first: bool) -> None:
    """A run with `everything` does not go on where one without it was stopped, nor the other way round."""
    held = values(60)
    migration = scannable(world, 0.5, old=held)
    job = migration.backfill(page_size=10, everything=first)
    migration.new.after["write_many"] = _call(job.stop)
    await job.run()
    result = await migration.backfill(page_size=10, everything=not first).run()
    assert (result.resumed, result.finished, result.rows) == (False, True, 60)
    assert set(migration.new.values) >= (below(migration, 0.5, held) if first else set(held))


# --- Keys of every state


async def test_a_stale_key_is_copied(world: World) -> None:
    """A key that New has, and that a kill made stale, is copied and clean."""
    migration = scannable(world, old={"a": "1", "b": "2"})
    assert (await migration.backfill().run()).copied == 2
    migration.proxy.disable()
    await migration.write("a", "newer")
    migration.proxy.enable()
    assert migration.left == (1, 0)
    result = await migration.backfill().run()
    assert (result.copied, result.present) == (1, 1)
    assert migration.new.values == {"a": "newer", "b": "2"}
    assert migration.left == (0, 0)


async def test_a_pending_key_is_waited_for_and_then_copied(world: World) -> None:
    """A key that is being written is tried again until its write has ended."""
    migration = scannable(world, old={"a": "1", "b": "2"})
    name = migration.gate.locate("a")[1]
    migration.rows.begin([name], b"another-process")
    job = migration.backfill()
    told: list[str | None] = []

    async def end() -> None:
        told.append(job.progress().waiting)
        assert "a" not in migration.new.values
        migration.rows.end({name: True}, b"another-process")

    job.time.hooks = [None, None, end]
    result = await job.run()
    assert (result.copied, result.pending, result.complete) == (2, 0, True)
    assert migration.new.values == {"a": "1", "b": "2"}
    assert told == ["operations on some keys are in progress, or were left by a crash"]
    assert written_to_new(migration) == {"a": 1, "b": 1}


async def test_a_token_that_a_crash_left_is_waited_for_until_it_is_reaped(world: World) -> None:
    """A key whose token nobody will end is copied as soon as the token is reaped, by the backfill itself."""
    migration = scannable(world, old={"a": "1", "b": "2"})
    migration.rows.begin([migration.gate.locate("a")[1]], b"crashed")
    job = migration.backfill()
    result = await job.run()
    assert (result.copied, result.pending) == (2, 0)
    assert 34 <= result.seconds < 45
    assert migration.left == (0, 0)
    assert migration.new.values == {"a": "1", "b": "2"}


async def test_the_time_of_a_kill_is_not_that_of_a_token(world: World) -> None:
    """A key that is pending when a kill comes is waited for anew after the kill, however long that took."""
    migration = scannable(world, old={"a": "1", "b": "2"})
    migration.rows.begin([migration.gate.locate("a")[1]], b"crashed")
    job = migration.backfill()

    async def kill() -> None:
        migration.gate.set_rate(0.0)

    async def revive() -> None:
        migration.gate.set_rate(1.0)

    job.time.hooks = [kill, *[None] * 1000, revive]
    result = await job.run()
    assert (result.copied, result.pending, result.complete) == (2, 0, True)


async def test_a_key_that_stays_pending_is_left_and_told(world: World) -> None:
    """A key under unbroken writes is left after a token's time, counted, and every other key is copied."""
    migration = scannable(world, old=values(10))
    name = migration.gate.locate("key-00003")[1]
    job = migration.backfill()
    tokens = iter(range(10**6))

    def another_write() -> None:
        migration.rows.begin([name], b"write-%d" % next(tokens))

    another_write()
    job.time.always = another_write
    result = await job.run()
    assert (result.copied, result.pending, result.finished, result.complete) == (9, 1, True, False)
    assert set(migration.new.values) == set(keys(10)) - {"key-00003"}


async def test_keys_without_batches_are_copied_too(world: World) -> None:
    """Stores that take one key at a time, and have no partitions and no count, are copied as well."""
    held = values(25)
    migration = scannable(world, old=held, old_methods=(*PLAIN, "scan"), new_methods=("read", "write"))
    result = await migration.backfill(page_size=7, workers=3, parts=9).run()
    assert (result.copied, migration.new.values) == (25, held)


async def test_keys_of_several_types(world: World) -> None:
    """Keys of all types that have an encoding are copied, `1` and `"1"` as two."""

    @dataclass(frozen=True)
    class Place:
        x: int
        y: int

    held: dict[Any, Any] = {1: "int", "1": "str", b"1": "bytes", ("a", 1): "tuple", Place(1, 2): "place", "ü": 0}
    migration = scannable(world, old=held)
    result = await migration.backfill(page_size=2).run()
    assert (result.copied, migration.new.values) == (6, held)


async def test_keys_that_are_too_long_are_counted_and_left(world: World) -> None:
    """A key that no ledger takes stays in Old, is counted, and keeps the backfill from being complete."""
    long = "x" * 2000
    migration = scannable(world, old={long: "1", "a": "2"})
    result = await migration.backfill().run()
    assert (result.too_long, result.copied, result.finished, result.complete) == (1, 1, True, False)
    assert migration.new.values == {"a": "2"}


async def test_a_key_without_encoding_is_told_clearly(world: World) -> None:
    """A key of a type that has no encoding ends it at once with InvalidKey, which names the type and no key."""
    migration = scannable(world, old={"a": "1", 1.5: "2"})
    job = migration.backfill()
    with pytest.raises(InvalidKey, match="float") as caught:
        await job.run()
    assert "1.5" not in str(caught.value)
    assert job.time.waits == []


async def test_old_must_be_one_that_can_be_scanned(world: World) -> None:
    """An Old without scan, or whose reads lag (H18), is refused before anything is done."""
    blind = world.migration(old=values(3), telemetry=QUIET)
    with pytest.raises(Unsupported, match="scan"):
        await blind.backfill().run()
    lagging = scannable(world, old=values(3), old_info=StoreInfo(strong_reads=False))
    with pytest.raises(Unsupported, match="H18"):
        await lagging.backfill().run()
    assert blind.calls() == lagging.calls() == []


# --- Beside writers


@pytest.mark.parametrize("moment", ["scan", "read_many"])
async def test_it_never_overwrites_a_newer_write(world: World, moment: str) -> None:
    """H1: a write after the scan, or after the copy's own read of Old, is in New or its key is dirty."""
    migration = scannable(world, old={"a": "old", "b": "old"})
    migration.old.after[moment] = lambda: migration.write("a", "newer")
    result = await migration.backfill().run()
    assert result.complete
    assert migration.old.values["a"] == "newer"
    assert migration.clean_differences() == {}
    assert await migration.read("a") == "newer"
    await migration.repair().run()
    assert migration.new.values == {"a": "newer", "b": "old"}
    assert migration.left == (0, 0)


@pytest.mark.parametrize("moment", ["scan", "read_many"])
async def test_a_deleted_key_is_not_resurrected(world: World, moment: str) -> None:
    """H3: a key that is deleted after the scan, or after the copy's own read of Old, does not come back."""
    migration = scannable(world, old={"a": "old", "b": "old"})
    migration.old.after[moment] = lambda: migration.delete("a")
    result = await migration.backfill().run()
    assert result.finished
    assert await migration.read("a") is None
    assert migration.clean_differences() == {}
    if moment == "scan":
        assert (result.absent, result.copied) == (1, 1)
        assert migration.new.values == {"b": "old"}
    await migration.repair(delete_extra=True).run()
    assert migration.new.values == {"b": "old"}


async def test_old_changes_while_it_is_scanned(world: World) -> None:
    """Keys that come and go during the scan leave every clean key right, and all that stayed are in New."""
    held = values(40)
    migration = scannable(world, old=held)
    number = 0

    async def change() -> None:
        nonlocal number
        number += 1
        await migration.delete(keys(40)[number])
        await migration.write(f"key-{number:05}-more", "new")
        if number < 10:
            migration.old.after["scan"] = change

    migration.old.after["scan"] = change
    result = await migration.backfill(page_size=4).run()
    assert result.finished
    assert migration.clean_differences() == {}
    assert migration.new.values == migration.old.values


async def test_pages_as_redis_gives_them(world: World) -> None:
    """Pages that are empty though more follow, too large, or give a key twice, lose nothing."""
    held = values(6)
    a, b, c, d, e, f = held.items()
    pages: dict[str | None, Page[Any, Any]] = {
        None: Page([], "1"),
        "1": Page([a, a, b, c, d], "2"),
        "2": Page([], "3"),
        "3": Page([a, e], "4"),
        "4": Page([f], "5"),
        "5": Page([], None),
    }
    migration = scannable(world, old=held)
    migration.old._page = lambda cursor, limit, until: pages[cursor]
    result = await migration.backfill(page_size=2).run()
    assert (result.finished, result.copied, result.present, migration.new.values) == (True, 6, 1, held)
    assert written_to_new(migration) == Counter(list(held))


# --- Killed at any call


def scene(world: World) -> Migration:
    """Keys of every state: to be copied, present, stale, deleted while it was stale, above the rate."""
    held = values(14)
    clean, stale, gone = keys(14)[0], keys(14)[1], keys(14)[4]
    migration = scannable(world, Rollout(0.0, 0.9), old=held, new={clean: held[clean], stale: "old", gone: "old"})
    del migration.old.values[gone]
    migration.rows.open_to(0.9)
    for key in (stale, gone):
        name = migration.gate.locate(key)[1]
        migration.rows.begin([name], b"before")
        migration.rows.end({name: False}, b"before")
    assert {clean, stale} <= below(migration, 0.9, held)
    return migration


def die_at(migration: Migration, call: int) -> None:
    """From this moment on no call of the process takes effect, nor returns: two moments a call."""
    moments = 0

    async def count() -> None:
        nonlocal moments
        moments += 1
        if moments > call:
            raise Killed

    for watched in (migration.old, migration.new, migration.ledger):
        watched.pause = count


def live_again(migration: Migration) -> Migration:
    for watched in (migration.old, migration.new, migration.ledger):
        watched.pause = None
    return migration.in_another_process(migration.gate.decision.rollout)


async def check_whole(migration: Migration, run_result: Any) -> None:
    """Every key that is covered is in New and right, and the counts add up."""
    held = migration.old.values
    assert run_result.finished
    assert run_result.complete
    assert add_up(run_result) == run_result.rows == len(held)
    assert migration.clean_differences() == {}
    for key in below(migration, 0.9, held):
        assert migration.new.values[key] == held[key]
        assert not migration.is_dirty(key)
    assert set(migration.new.values) - set(held) <= {keys(14)[4]}
    assert migration.summary.pending == 0


async def moments_of(world: World, workers: int) -> int:
    """How many moments a whole run has."""
    migration = scene(world)
    moments = 0

    async def count() -> None:
        nonlocal moments
        moments += 1

    for watched in (migration.old, migration.new, migration.ledger):
        watched.pause = count
    await check_whole(migration, await migration.backfill(page_size=3, workers=workers).run())
    return moments


@pytest.mark.parametrize("workers", [1, 2])
async def test_killed_at_any_call(world: World, workers: int) -> None:
    """H4: a run that dies before or after any of its calls is gone on with, and does a page per worker twice."""
    total = await moments_of(world, workers)
    assert total > 80
    for call in range(total + 1):
        migration = scene(world)
        die_at(migration, call)
        died = migration.backfill(page_size=3, workers=workers)
        try:
            await died.run()
        except Killed:
            pass
        else:
            assert workers == 2 or call >= total
        later = live_again(migration)
        result = await later.backfill(page_size=3, workers=workers).run()
        await check_whole(later, result)
        twice = [key for key, times in written_to_new(migration).items() if times > 1]
        assert len(twice) <= 3 * workers
        assert max(written_to_new(migration).values()) <= 2


@given(deaths=st.lists(st.integers(0, 100), max_size=6), page_size=st.integers(1, 5), workers=st.integers(1, 3))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_killed_again_and_again(deaths: list[int], page_size: int, workers: int) -> None:
    """However many runs die wherever, one that lives finishes, right, and nothing is written oftener than that."""

    async def body() -> None:
        migration = scene(World("blocking"))
        for call in deaths:
            die_at(migration, call)
            with suppress(Killed):
                await migration.backfill(page_size=page_size, workers=workers).run()
            migration = live_again(migration)
        await check_whole(migration, await migration.backfill(page_size=page_size, workers=workers).run())
        again = sum(times - 1 for times in written_to_new(migration).values())
        assert again <= len(deaths) * page_size * workers

    asyncio.run(body())


# --- What the ledger keeps


def saved(migration: Migration, name: str) -> dict[str, Any]:
    return json.loads(migration.rows.checkpoints()[name].data)


def save(migration: Migration, name: str, data: str) -> None:
    kept = migration.rows.checkpoints().get(name)
    assert migration.rows.save_checkpoint(name, data, 0 if kept is None else kept.version)


async def stopped_in_the_middle(migration: Migration, **options: Any) -> Any:
    """The result of a backfill that is stopped when its second page is written."""
    job = migration.backfill(page_size=10, **options)

    async def first() -> None:
        migration.new.before["write_many"] = _call(job.stop)

    migration.new.after["write_many"] = first
    return await job.run()


async def test_a_stopped_run_is_gone_on_with(world: World) -> None:
    """The page in progress at a stop is finished; counts and cursor are kept, and add up over the two runs."""
    held = values(50)
    migration = scannable(world, old=held)
    first = await stopped_in_the_middle(migration)
    assert (first.finished, first.complete, first.rows, first.copied) == (False, False, 20, 20)
    plan, part = saved(migration, "backfill"), saved(migration, "backfill/0")
    assert (plan["state"], plan["expected"], plan["ranges"]) == ("stopped", 50, [[None, None, "old"]])
    assert part["run"] == plan["run"]
    assert (part["cursor"], part["done"]) == (cursor_of("key-00019"), False)
    assert part["counts"] == {"rows": 20, "copied": 20}
    migration.new.requests.clear()
    second = migration.backfill(page_size=10)
    result = await second.run()
    assert (result.finished, result.resumed, result.rows, result.copied) == (True, True, 50, 50)
    assert set(written_to_new(migration)) == set(keys(50)[20:])
    assert second.progress().rows_now == 30
    assert saved(migration, "backfill")["run"] == plan["run"]
    assert saved(migration, "backfill")["state"] == "finished"
    assert saved(migration, "backfill")["result"] == {"counts": {"rows": 50, "copied": 50}, "covered": 1.0}


async def test_a_finished_run_is_not_gone_on_with(world: World) -> None:
    """After a run that finished, the next one begins anew with a run of its own, and passes over what is there."""
    migration = scannable(world, old=values(5))
    await migration.backfill().run()
    run = saved(migration, "backfill")["run"]
    result = await migration.backfill().run()
    assert (result.resumed, result.present, result.rows) == (False, 5, 5)
    assert saved(migration, "backfill")["run"] != run


async def test_restart_begins_anew(world: World) -> None:
    """With `restart` nothing is gone on with: all keys are looked at again, and none is written twice."""
    migration = scannable(world, old=values(50))
    await stopped_in_the_middle(migration)
    result = await migration.backfill(page_size=10, restart=True).run()
    assert (result.finished, result.resumed, result.rows) == (True, False, 50)
    assert (result.present, result.copied) == (20, 30)


async def test_seconds_add_up_over_the_runs(world: World) -> None:
    """The time of a run is that of all who worked on it, and not what went by in between."""
    migration = scannable(world, old=values(30))
    migration.old.after["scan"] = _call(lambda: migration.clock.advance(3))
    await stopped_in_the_middle(migration)
    migration.clock.advance(1000)
    migration.old.after["scan"] = _call(lambda: migration.clock.advance(4))
    assert (await migration.backfill(page_size=10).run()).seconds == 7


WRONG_PLANS: dict[str, Any] = {
    "nothing": "",
    "text": "no JSON",
    "a list": "[]",
    "null": "null",
    "cut off": '{"format": 1, "run": "ab',
    "deep": "[" * 100_000,
    "format": {"format": 2},
    "format of another type": {"format": "1"},
    "run": {"run": 5},
    "no ranges": {"ranges": []},
    "ranges of another type": {"ranges": 5},
    "a cursor of another type": {"ranges": [[5, None, "old"]]},
    "a side that there is not": {"ranges": [[None, None, "older"]]},
    "half a range": {"ranges": [[None]]},
    "asked": {"asked": 5},
    "covers of another type": {"asked": {"everything": False, "covers": "all"}},
    "covers null": {"asked": {"everything": False, "covers": None}},
    "expected": {"expected": "many"},
    "expected as text": {"expected": "5"},
    "state": {"state": "odd"},
    "state of another type": {"state": ["running"]},
    "seconds": {"seconds": "long"},
    "seconds as text": {"seconds": "1.5"},
    "owner": {"owner": None},
    "result": {"result": 5},
}

WRONG_PARTS: dict[str, Any] = {
    "nothing": "",
    "format": {"format": 2},
    "run": {"run": None},
    "a cursor of another type": {"cursor": 5},
    "done of another type": {"done": 1},
    "a negative count": {"counts": {"rows": -1}},
    "a count of another type": {"counts": {"rows": "many"}},
    "a count as text": {"counts": {"rows": "5"}},
    "a broken count": {"counts": {"rows": 1.5}},
    "counts of another type": {"counts": [1]},
    "more of another type": {"more": 5},
    "covers of another type": {"more": {"covers": "all"}},
    "owner": {"owner": 5},
}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(pytest.param("backfill", wrong, id=f"plan-{what}") for what, wrong in WRONG_PLANS.items()),
        *(pytest.param("backfill/0", wrong, id=f"part-{what}") for what, wrong in WRONG_PARTS.items()),
    ],
)
async def test_a_corrupt_checkpoint(world: World, name: str, wrong: Any) -> None:
    """A checkpoint that cannot be understood ends it with how to begin anew, which works."""
    migration = scannable(world, old=values(30))
    await stopped_in_the_middle(migration)
    data = wrong if isinstance(wrong, str) else json.dumps(saved(migration, name) | wrong)
    save(migration, name, data)
    migration.calls()
    with pytest.raises(CorruptCheckpoint, match=rf"'{name}'.*restart=True.*--restart") as caught:
        await migration.backfill().run()
    assert "key-" not in str(caught.value)
    assert "new.write_many" not in migration.calls()
    result = await migration.backfill(restart=True).run()
    assert (result.complete, result.resumed, result.rows, result.present) == (True, False, 30, 20)
    assert migration.new.values == migration.old.values


async def test_a_corrupt_part_of_a_finished_run(world: World) -> None:
    """What a finished run left is not needed by the next one, except that it must be understood or replaced."""
    migration = scannable(world, old=values(30))
    await migration.backfill(parts=3, page_size=4).run()
    save(migration, "backfill/1", "no JSON")
    assert (await migration.backfill(parts=3, page_size=4, restart=True, workers=3).run()).present == 30


async def test_a_cursor_that_old_refuses(world: World) -> None:
    """A cursor of another table is told with Old's own error and the way out, at once, and `restart` is that."""
    migration = scannable(world, old=values(30))
    await stopped_in_the_middle(migration)
    save(migration, "backfill/0", json.dumps(saved(migration, "backfill/0") | {"cursor": "of another table"}))
    job = migration.backfill()
    with pytest.raises(ValueError, match="fromhex") as caught:
        await job.run()
    assert any("'backfill/0'" in note and "restart=True" in note for note in caught.value.__notes__)
    assert job.time.waits == []
    assert saved(migration, "backfill")["state"] == "stopped"
    assert (await migration.backfill(restart=True).run()).complete


async def test_two_runs_at_once(world: World) -> None:
    """The later of two wins and finishes; the earlier one ends with Superseded; every key is right."""
    held = values(60)
    migration = scannable(world, old=held)
    other = migration.in_another_process(1.0)
    results: list[Any] = []

    async def begin() -> None:
        results.append(await other.backfill(page_size=10).run())

    async def after_a_page() -> None:
        migration.old.after["scan"] = begin

    migration.old.after["scan"] = after_a_page
    with pytest.raises(Superseded, match="another process"):
        await migration.backfill(page_size=10).run()
    (result,) = results
    assert (result.complete, result.resumed, result.rows, result.copied) == (True, True, 60, 60)
    assert migration.new.values == held
    assert migration.left == (0, 0)
    assert saved(migration, "backfill")["state"] == "finished"


async def test_one_that_is_overtaken_before_its_last_save_is_superseded(world: World) -> None:
    """Who has done all pages, and then finds the plan taken over, says so and overwrites nothing."""
    migration = scannable(world, old=values(10))
    other = migration.in_another_process(1.0)
    saves = 0

    async def count() -> None:
        nonlocal saves
        saves += 1
        if saves == 4:  # the plan, the part, its page, and then the plan as finished
            await other.backfill().run()
        else:
            migration.ledger.before["save_checkpoint"] = count

    migration.ledger.before["save_checkpoint"] = count
    with pytest.raises(Superseded):
        await migration.backfill().run()
    assert saved(migration, "backfill")["state"] == "finished"
    assert migration.new.values == migration.old.values


async def test_one_that_is_overtaken_between_two_parts_begins_no_other(world: World) -> None:
    """Who finds, between two parts, that the run is another's ends there, and leaves the rest to the other."""
    held = values(20)
    migration = scannable(world, old=held)
    other = migration.in_another_process(1.0).backfill()

    async def overtake() -> None:
        other.stop()
        assert not (await other.run()).finished

    migration.ledger.after["save_checkpoint"] = _after(3, overtake, migration)  # plan, part, and its page
    with pytest.raises(Superseded):
        await migration.backfill(parts=2).run()
    assert set(migration.new.values) == set(keys(20)[:11])
    assert (await migration.backfill().run()).resumed
    assert migration.new.values == held


# --- Stopping


async def test_stopped_while_it_waits(world: World) -> None:
    """A stop ends a wait; nothing was written, and the next run goes on."""
    migration = scannable(world, old=values(30))
    await stopped_in_the_middle(migration)
    migration.proxy.disable()
    job = migration.backfill(page_size=10)
    job.time.hooks = [None, _call(job.stop)]
    migration.new.requests.clear()
    result = await job.run()
    assert result.finished is False
    assert len(job.time.waits) == 2
    assert migration.new.requests == []
    migration.proxy.enable()
    result = await migration.backfill(page_size=10).run()
    assert (result.complete, result.resumed, result.copied) == (True, True, 30)


async def test_stopped_in_the_middle_of_a_kill(world: World) -> None:
    """A page that waits for the end of a kill is dropped by a stop, and done by the next run."""
    migration = scannable(world, old=values(30))
    job = migration.backfill(page_size=10)
    migration.old.after["scan"] = _call(lambda: migration.gate.set_rate(0.0))
    job.time.hooks = [_call(job.stop)]
    result = await job.run()
    assert (result.finished, result.rows, result.covered) == (False, 0, 1.0)
    assert migration.new.requests == []
    migration.gate.set_rate(1.0)
    assert (await migration.backfill(page_size=10).run()).resumed


@pytest.mark.timeout(20)
async def test_a_stop_ends_a_real_wait_at_once(world: World) -> None:
    """A stop from another thread ends a job that really waits, in threads as in tasks, and `run` returns."""
    migration = scannable(world, Rollout(1.0, 1.0, 0), old=values(30))
    make: Any = Backfill if world.blocking else AsyncBackfill
    job = make(migration.proxy, workers=2, parts=2)
    with ThreadPoolExecutor(2) as pool:
        running = world.spawn(_awaited(world, job.run), pool)
        await world.until(lambda: job.progress().waiting is not None)
        pool.submit(job.stop).result()
        result = await running
    assert (result.finished, result.rows) == (False, 0)
    assert job.progress().waiting is None


async def _awaited(world: World, function: Any) -> Any:
    return await world.call(function)


@pytest.mark.parametrize("rate", [0.0, 1.0])
async def test_stopped_before_it_runs(world: World, rate: float) -> None:
    """A job that was stopped before `run` does nothing and says that it did not finish."""
    migration = scannable(world, rate, old=values(30))
    job = migration.backfill()
    job.stop()
    job.stop()
    result = await job.run()
    assert (result.finished, result.resumed, result.rows, result.complete) == (False, False, 0, False)
    assert job.time.waits == []
    assert migration.new.requests == []
    migration.gate.set_rate(1.0)
    assert (await migration.backfill().run()).complete


@pytest.mark.parametrize("call", ["checkpoints", "save_checkpoint"])
async def test_stopped_while_the_ledger_fails(world: World, call: str) -> None:
    """A stop is heard where the ledger fails before anything is planned."""
    migration = scannable(world, old=values(30))
    migration.ledger.before[call] = Trouble()
    job = migration.backfill()
    job.time.hooks = [_call(job.stop)]
    assert not (await job.run()).finished
    migration.ledger.recover()
    assert (await migration.backfill().run()).complete


@pytest.mark.parametrize("saves", [2, 3])
async def test_stopped_when_the_ledger_fails_later(world: World, saves: int) -> None:
    """A stop while a page or the end cannot be saved leaves a run that another one finishes, and says so."""
    migration = scannable(world, old=values(5))
    job = migration.backfill()

    async def fail() -> None:
        migration.ledger.before["save_checkpoint"] = Trouble()
        job.time.hooks = [_call(job.stop)]

    migration.ledger.after["save_checkpoint"] = _after(saves, fail, migration)  # plan, part, and its page
    result = await job.run()
    assert (result.finished, result.rows) == (False, 5 if saves == 3 else 0)
    migration.ledger.recover()
    result = await migration.backfill().run()
    assert (result.finished, result.resumed, result.rows) == (True, True, 5)


# --- Waiting


async def wait_until_on(migration: Migration, off: Any, on: Any, why: str, rows: int = 40) -> Any:
    """Turn it off after a page and on after ten looks; returns what came of it."""
    job = migration.backfill(page_size=10)
    told: set[str | None] = set()
    written: list[int] = []

    def look() -> None:
        told.add(job.progress().waiting)
        written.append(sum(written_to_new(migration).values()))

    async def start_looking() -> None:
        job.time.always = look
        await migration.world.call(off)

    migration.ledger.after["save_checkpoint"] = _after(3, start_looking, migration)  # plan, part, a page
    job.time.hooks = [*[None] * 10, lambda: migration.world.call(on)]
    result = await job.run()
    assert told == {why}
    assert set(written[:11]) == {10}
    assert job.progress().waiting is None
    assert (result.complete, result.copied, result.covered) == (True, rows, 1.0)
    assert migration.new.values == migration.old.values
    return result


def _after(times: int, hook: Any, migration: Migration) -> Any:
    """A hook of `save_checkpoint` that calls another at the n-th time."""

    async def count() -> None:
        nonlocal times
        times -= 1
        if times == 0:
            await hook()
        else:
            migration.ledger.after["save_checkpoint"] = count

    return count


async def test_it_waits_at_a_write_rate_of_0(world: World) -> None:
    """A kill from the flag stops all writes to New; afterwards it goes on, and leaves out nothing."""
    migration = scannable(world, old=values(40))
    why = "the write rate is 0, or the proxy is disabled, so that nothing is written to New"
    gate = migration.gate
    await wait_until_on(migration, lambda: gate.set_rate(0.0), lambda: gate.set_rate(1.0), why)


async def test_it_waits_while_the_proxy_is_disabled(world: World) -> None:
    """The local kill switch does the same."""
    migration = scannable(world, old=values(40))
    why = "the write rate is 0, or the proxy is disabled, so that nothing is written to New"
    await wait_until_on(migration, migration.proxy.disable, migration.proxy.enable, why)


async def test_it_waits_while_the_flag_says_no_rows(world: World) -> None:
    """`backfill_per_second` of 0 pauses it, before Old is read, and any other value lets it go on."""
    migration = scannable(world, old=values(40))
    gate = migration.gate
    off, on = Rollout(1.0, 1.0, 0), Rollout(1.0, 1.0)
    why = "the flag's backfill_per_second is 0"
    await wait_until_on(migration, lambda: gate.set_rate(off), lambda: gate.set_rate(on), why)
    gate.set_rate(off)
    job = migration.backfill()
    job.time.hooks = [None, _call(job.stop)]
    migration.old.requests.clear()
    assert (await job.run()).rows == 0
    assert [method for method, _ in migration.old.requests if method == "scan"] == []


async def test_it_waits_before_it_begins(world: World) -> None:
    """At a write rate of 0 nothing is planned: what it covers is the rate at which it can begin."""
    migration = scannable(world, 0.0, old=values(40))
    job = migration.backfill()
    told: list[str | None] = []
    job.time.always = lambda: told.append(job.progress().waiting)
    job.time.hooks = [None, None, _call(lambda: migration.gate.set_rate(0.5))]
    result = await job.run()
    assert set(told) == {"the write rate is 0, or the proxy is disabled: nothing may be copied"}
    assert (result.finished, result.covered) == (True, 0.5)


@pytest.mark.usefixtures("by_hand")
async def test_it_waits_while_the_guard_is_open(world: World) -> None:
    """Where New fails until the guard opens, New is left alone, and the rest is copied when it answers again."""
    guard = Guard(min_calls=2, open_seconds=5.0)
    migration = scannable(world, old=values(40), guard=guard)
    job = migration.backfill(page_size=10)
    told: set[str | None] = set()
    job.time.always = lambda: told.add(job.progress().waiting)
    migration.ledger.after["save_checkpoint"] = _after(3, _outage(migration), migration)

    async def recover() -> None:
        migration.new.recover()

    async def probe() -> None:
        await migration.work()
        job.time.hooks.append(probe)

    job.time.hooks = [*[None] * 30, recover, probe]
    result = await job.run()
    assert "New fails, and the guard keeps calls from it" in told
    assert (result.complete, migration.new.values) == (True, migration.old.values)
    failed = sum(method in {"read_many", "write_many"} for method, _ in migration.new.requests) - 2 * 4
    assert failed < 10


def _outage(migration: Migration) -> Any:
    async def fail() -> None:
        migration.new.outage()

    return fail


# --- Several workers


@pytest.mark.parametrize("workers", [2, 4])
async def test_parts_are_shared_out(world: World, workers: int) -> None:
    """Several workers do each part once, and all of them."""
    held = values(200)
    migration = scannable(world, old=held)
    job = migration.backfill(workers=workers, parts=10, page_size=7)
    result = await job.run()
    assert (result.complete, result.rows, result.copied) == (True, 200, 200)
    assert written_to_new(migration) == Counter(list(held))
    assert (job.progress().parts, job.progress().parts_done) == (10, 10)
    scanned = Counter(given[:1] for method, given in migration.old.requests if method == "scan")
    assert max(scanned.values()) == 1


async def test_the_error_of_one_worker_ends_all_and_is_raised(world: World) -> None:
    """What one worker raises is raised, whichever it is, and not that the others were stopped by it."""
    migration = scannable(world, old=values(20))
    healthy = migration.old._page
    waited = 0

    def page(cursor: str | None, limit: int, until: str | None) -> Page[Any, Any]:
        nonlocal waited
        if cursor is None:
            waited += 1
            raise Trouble
        if waited < 3:
            raise Trouble
        raise Unsupported("broken")

    migration.old._page = page
    job = migration.backfill(workers=2, parts=2, patience_seconds=1e9)
    with pytest.raises(Unsupported, match="broken"):
        await job.run()
    assert saved(migration, "backfill")["state"] == "stopped"
    migration.old._page = healthy
    assert (await migration.backfill(workers=2).run()).complete


# --- Stores and a ledger that fail


async def test_a_value_that_new_refuses(world: World) -> None:
    """Of 1000 values New refuses one for good: that key is left, stale and counted; all others are copied."""
    held = values(1000)
    bad = "key-00321"
    migration = scannable(world, old=held)
    put = migration.new.put

    def refusing(items: Mapping[Any, Any]) -> None:
        if bad in items:
            raise NotApplied from Trouble()
        put(items)

    migration.new.put = refusing
    result = await migration.backfill().run()
    assert (result.copied, result.refused, result.finished, result.complete) == (999, 1, True, False)
    assert migration.new.values == {key: value for key, value in held.items() if key != bad}
    assert migration.left == (1, 0)
    assert migration.is_dirty(bad)
    assert sum(written_to_new(migration).values()) < 1000 + 2 * 1000
    assert len([1 for method, _ in migration.new.requests if method.startswith("write")]) < 25
    migration.new.put = put
    again = await migration.backfill().run()
    assert (again.copied, again.present, again.complete) == (1, 999, True)


async def test_new_that_refuses_everything(world: World) -> None:
    """Where New refuses every value, all keys are counted as refused, and the backfill comes to its end."""
    migration = scannable(world, old=values(64), guard=None)
    migration.new.outage(NotApplied(), methods=("write", "write_many"))
    result = await migration.backfill(page_size=16).run()
    assert (result.finished, result.refused, result.copied) == (True, 64, 0)
    assert migration.left == (64, 0)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("method", ["read_many", "write_many"])
async def test_new_that_fails_for_a_while(world: World, method: str, moment: str) -> None:
    """Calls to New that raise, with or without effect, are made again until every key is right."""
    held = values(40)
    migration = scannable(world, old=held, guard=None)
    job = migration.backfill(page_size=10)
    getattr(migration.new, moment)[method] = Trouble()

    def recover_later() -> None:
        if len(job.time.waits) == 5:
            migration.new.before.clear()
            migration.new.after.clear()

    job.time.always = recover_later
    result = await job.run()
    assert (result.complete, result.copied, migration.new.values) == (True, 40, held)
    assert migration.left == (0, 0)


@pytest.mark.parametrize("methods", [PLAIN, MANY])
async def test_new_for_which_a_page_is_too_much(world: World, methods: tuple[str, ...]) -> None:
    """Where a page takes New longer than an operation may, smaller ones are tried, until they fit."""
    held = values(40)
    migration = scannable(world, old=held, new_methods=methods, guard=None)
    step = migration.new.step

    async def slow(method: str, keys: Iterable[Any], effect: Callable[[], Any]) -> Any:
        keys = list(keys)
        seconds = 1.5 * len(keys)
        if seconds > 10:
            migration.clock.advance(10)
            raise Trouble  # as the driver's time-out
        migration.clock.advance(seconds)
        return await step(method, keys, effect)

    migration.new.step = slow
    result = await migration.backfill(page_size=40).run()
    assert (result.complete, result.rows, migration.new.values) == (True, 40, held)
    assert migration.left == (0, 0)


@pytest.mark.parametrize("method", ["scan", "count", "partitions", "read_many"])
async def test_old_that_fails_for_less_than_the_patience(world: World, method: str) -> None:
    """Calls to Old that raise are made again, with longer and longer pauses, and nothing is lost."""
    held = values(40)
    migration = scannable(world, old=held)
    migration.old.before[method] = Trouble()
    job = migration.backfill(page_size=10, parts=2, patience_seconds=60)
    told: list[str | None] = []
    began = migration.clock()

    def recover_later() -> None:
        told.append(job.progress().waiting)
        if migration.clock() > began + 55:
            migration.old.recover()

    job.time.always = recover_later
    result = await job.run()
    assert (result.complete, migration.new.values) == (True, held)
    assert set(told) == {"a store or the ledger fails: Trouble"}
    assert 10 < len(told) < 30


@pytest.mark.parametrize("method", ["scan", "count", "partitions", "read_many"])
async def test_old_that_fails_for_longer(world: World, method: str) -> None:
    """Old's own error is raised once it has failed for as long as the patience; the next run goes on."""
    held = values(40)
    migration = scannable(world, old=held)
    error = Trouble()
    migration.old.before[method] = error
    began = migration.clock()
    with pytest.raises(Trouble) as caught:
        await migration.backfill(page_size=10, parts=2, patience_seconds=60).run()
    assert caught.value is error
    assert 60 <= migration.clock() - began < 70
    planned = method in {"scan", "read_many"}
    assert ("backfill" in migration.rows.checkpoints()) == planned
    if planned:
        assert saved(migration, "backfill")["state"] == "stopped"
    assert migration.left == (0, 0)
    migration.old.recover()
    result = await migration.backfill(page_size=10, parts=2).run()
    assert (result.complete, result.resumed, result.rows) == (True, planned, 40)


LEDGER = ("begin_copy", "end", "withdraw", "dirty", "open_to", "reap", "summary", "checkpoints", "save_checkpoint")


@pytest.mark.parametrize("calls", [LEDGER, *((call,) for call in LEDGER)], ids="-".join)
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("seconds", [5, 55])
async def test_a_ledger_that_fails_for_less_than_the_patience(
    world: World, calls: tuple[str, ...], moment: str, seconds: int
) -> None:
    """Calls to the ledger that raise, with or without effect, cost time and no key."""
    held = values(40)
    migration = scannable(world, old=held, new={"key-00001": held["key-00001"]})
    hooks: Any = getattr(migration.ledger, moment)
    job = migration.backfill(page_size=10, patience_seconds=60)
    began = 0.0

    async def fail() -> None:
        nonlocal began
        began = migration.clock()
        hooks.update(dict.fromkeys(calls, Trouble()))
        job.time.always = recover_later

    def recover_later() -> None:
        if migration.clock() > began + seconds:
            hooks.clear()

    migration.old.before["scan"] = fail
    result = await job.run()
    hooks.clear()
    assert (result.finished, result.pending, migration.new.values) == (True, 0, held)
    assert result.complete
    assert migration.clean_differences() == {}


async def test_a_ledger_that_fails_for_longer(world: World) -> None:
    """The ledger's own error is raised after the patience, and not ten times later; the next run goes on."""
    held = values(40)
    migration = scannable(world, old=held)
    job = migration.backfill(page_size=10)
    error = Trouble()
    began = 0.0

    async def fail() -> None:
        nonlocal began
        began = migration.clock()
        migration.ledger.outage(error, methods=LEDGER)

    migration.ledger.after["save_checkpoint"] = _after(3, fail, migration)
    with pytest.raises(Trouble) as caught:
        await job.run()
    assert caught.value is error
    assert 60 <= migration.clock() - began < 70
    migration.ledger.recover()
    result = await migration.backfill(page_size=10).run()
    assert (result.complete, result.resumed, result.rows, migration.new.values) == (True, True, 40, held)


async def test_the_patience_is_for_one_stretch(world: World) -> None:
    """An Old that fails again and again, each time for less than the patience, never ends the backfill."""
    migration = scannable(world, old=values(100))
    job = migration.backfill(page_size=10, patience_seconds=60)
    began = 0.0

    async def fail() -> None:
        nonlocal began
        began = migration.clock()
        migration.old.before["read_many"] = Trouble()

    def recover_later() -> None:
        if migration.clock() > began + 50:
            migration.old.recover()
            migration.old.after["scan"] = fail

    migration.old.after["scan"] = fail
    job.time.always = recover_later
    result = await job.run()
    assert result.complete
    assert result.seconds > 400


# --- Pace


def rows_by_time(migration: Migration) -> list[tuple[float, int]]:
    """When each page of Old was asked for, and how many rows it had: filled while a backfill runs."""
    seen: list[tuple[float, int]] = []
    page = migration.old._page

    def noted(cursor: str | None, limit: int, until: str | None) -> Page[Any, Any]:
        made = page(cursor, limit, until)
        seen.append((migration.clock(), len(made.items)))
        return made

    migration.old._page = noted
    return seen


def check_pace(seen: Sequence[tuple[float, int]], per_second: float, in_flight: float = 0) -> None:
    """Within any t seconds at most a second's worth, and per_second * t, and what others were given before."""
    for first, (began, _) in enumerate(seen):
        rows = 0
        for moment, count in seen[first:]:
            rows += count
            assert rows <= max(1, per_second) + per_second * (moment - began) + in_flight + 1e-6


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("per_second", [0.7, 10, 40])
async def test_no_more_rows_a_second_than_it_was_told(world: World, per_second: float, workers: int) -> None:
    """`per_second` bounds the rows of Old that all workers read, and most of what it allows is used."""
    migration = scannable(world, old=values(120))
    seen = rows_by_time(migration)
    job = migration.backfill(per_second=per_second, workers=workers, page_size=50)
    result = await job.run()
    assert result.complete
    check_pace(seen, per_second, in_flight=(workers - 1) * max(1, per_second / 4))
    if workers == 1:
        assert result.seconds <= 120 / per_second * 1.1 + 2


async def test_the_flag_lowers_the_pace_live(world: World) -> None:
    """`backfill_per_second` of the flag holds at once, is no more than `per_second`, and null ends it."""
    migration = scannable(world, Rollout(1.0, 1.0, 1000), old=values(200))
    seen = rows_by_time(migration)
    job = migration.backfill(per_second=20)

    def lower() -> None:
        if migration.clock() > 1002 and len(seen) > 0:
            migration.gate.set_rate(Rollout(1.0, 1.0, 4))
            job.time.always = lift
            lowered.append((migration.clock(), len(seen)))

    def lift() -> None:
        if migration.clock() > 1010:
            migration.gate.set_rate(Rollout(1.0, 1.0))
            job.time.always = lambda: None
            lifted.append((migration.clock(), len(seen)))

    lowered: list[tuple[float, int]] = []
    lifted: list[tuple[float, int]] = []
    job.time.always = lower
    result = await job.run()
    assert result.complete
    check_pace(seen[: lowered[0][1]], 20)
    check_pace(seen[lowered[0][1] : lifted[0][1]], 4)
    check_pace(seen[lifted[0][1] :], 20)
    assert 100 / 20 - 1 < migration.clock() - lifted[0][0] < 100 / 20 + 1


async def test_a_live_pace_alone(world: World) -> None:
    """The flag's number is enough: a backfill that was told no pace follows it."""
    migration = scannable(world, Rollout(1.0, 1.0, 10), old=values(60))
    seen = rows_by_time(migration)
    result = await migration.backfill().run()
    check_pace(seen, 10)
    assert 4.5 < result.seconds < 6


# --- What it tells meanwhile, and its arguments


async def test_progress(world: World) -> None:
    """Progress counts what was done of what there is, by this process and in all, and how long is left."""
    migration = scannable(world, old=values(40))
    first = migration.backfill(page_size=10)
    empty = first.progress()
    assert (empty.rows, empty.expected, empty.parts, empty.per_second, empty.seconds_left) == (
        0,
        None,
        0,
        0.0,
        None,
    )
    await stopped_in_the_middle(migration)
    job = migration.backfill(page_size=10)
    seen: list[Progress] = []

    async def look() -> None:
        migration.clock.advance(2)
        seen.append(job.progress())
        migration.old.before["scan"] = look

    migration.old.before["scan"] = look
    await job.run()
    assert [(each.rows, each.rows_now, each.seconds) for each in seen] == [(20, 0, 2.0), (30, 10, 4.0)]
    assert (seen[1].per_second, seen[1].seconds_left) == (2.5, 4.0)
    assert (seen[0].seconds_left, seen[1].expected, seen[1].parts, seen[1].parts_done) == (None, 40, 1, 0)
    last = job.progress()
    assert (last.rows, last.counts, last.parts_done, last.waiting) == (40, {"rows": 40, "copied": 40}, 1, None)


async def test_an_old_that_is_empty(world: World) -> None:
    """Of nothing, everything is copied: that is finished and complete."""
    migration = scannable(world)
    result = await migration.backfill(workers=3).run()
    assert (result.finished, result.complete, result.rows, result.covered) == (True, True, 0, 1.0)


@pytest.mark.parametrize("options", [{"workers": 0}, {"page_size": 0}, {"parts": 0}, {"page_size": -1}])
def test_arguments_out_of_range(world: World, options: dict[str, int]) -> None:
    """A number of workers, keys or parts below 1 raises at once."""
    with pytest.raises(ValueError, match="must be at least 1"):
        scannable(world).backfill(**options)


@pytest.mark.parametrize("per_second", [0, -1, float("nan"), float("inf")])
def test_a_pace_out_of_range(world: World, per_second: float) -> None:
    """A pace that is none raises at once: pausing is the flag's business."""
    with pytest.raises(ValueError, match="above 0, and finite"):
        scannable(world).backfill(per_second=per_second)
    with pytest.raises(ValueError, match="above 0, and finite"):
        scannable(world).repair(per_second=per_second)


async def test_how_many_parts(world: World) -> None:
    """As many parts as were asked for, or as many as the keys fill, never fewer than workers."""
    for options, parts in [({}, 1), ({"workers": 3}, 3), ({"parts": 7}, 7), ({"workers": 2, "parts": 1}, 1)]:
        migration = scannable(world, old=values(100))
        job = migration.backfill(**options)
        assert (await job.run()).complete
        assert job.progress().parts == parts


class ManyRows:
    """An Old of any number of rows that holds none of them, and a New that forgets them."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.written = 0

    def read(self, key: int) -> str | None:
        return None

    def read_many(self, keys: Sequence[int]) -> dict[int, str]:
        return {key: f"{key:0200}" for key in keys}

    def write(self, key: int, value: str) -> None:
        raise NotImplementedError

    def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[int, str]:
        start = int(cursor or 0)
        end = min(start + limit, self.rows)
        return Page([(key, f"{key:0200}") for key in range(start, end)], str(end) if end < self.rows else None)


class Forgetting:
    """A New that holds nothing."""

    def __init__(self) -> None:
        self.written = 0

    def read(self, key: int) -> str | None:
        return None

    def read_many(self, keys: Sequence[int]) -> dict[int, str]:
        return {}

    def write(self, key: int, value: str) -> None:
        raise NotImplementedError

    def write_many(self, items: Mapping[int, str]) -> None:
        self.written += len(items)


def peak_of(rows: int) -> int:
    """The most memory in bytes that a backfill of so many rows takes at a time."""
    new = Forgetting()
    with Proxy(TrafficGate(1.0), ManyRows(rows), new, telemetry=QUIET) as proxy:
        job = Backfill(proxy, page_size=250)
        tracemalloc.start()
        try:
            result = job.run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (result.copied, new.written) == (rows, rows)
    return peak


def test_memory_is_flat() -> None:
    """Ten times the rows take no more memory: pages are not kept."""
    peak_of(1000)  # what is made once
    few = peak_of(3000)
    assert peak_of(30_000) < few * 1.2 + 50_000
