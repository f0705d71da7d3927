"""Backfill: every key that it covers arrives in New, through crashes, writers, outages and kills."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.worlds import MANY, PLAIN, SCANNED, Migration, Trouble, World
from zddm_flags import Page, Rollout, StoreInfo, Telemetry
from zddm_flags.errors import InvalidKey, NotApplied, Unsupported

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
    """At a write rate of 0.4 exactly the keys whose hash rate is below 0.4 arrive in New, whatever the read rate."""
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
    """With `everything` all keys arrive, and the ledger has acknowledged 1.0 before New is written above the rate."""
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


async def test_another_scope_begins_anew(world: World) -> None:
    """A run with `everything` does not go on where one without it was stopped."""
    held = values(60)
    migration = scannable(world, 0.5, old=held)
    job = migration.backfill(page_size=10)
    migration.new.after["write_many"] = _call(job.stop)
    await job.run()
    result = await migration.backfill(page_size=10, everything=True).run()
    assert (result.resumed, result.finished, result.rows) == (False, True, 60)
    assert migration.new.values == held


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
    """H4: a run that dies before or after any of its calls is gone on with, and a page per worker is done twice."""
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
