"""A verify finds what differs, all of it and nothing else, while reads and writes go on."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tests.core.verified
from tests.core.verified import (
    SCANNED,
    Interruptions,
    Killed,
    Ticking,
    Verified,
    backwards,
    broken_at,
    found,
    hashed,
    killed_at,
    natural,
    planted,
    verified,
)
from tests.core.worlds import Trouble, World
from tests.worlds import settle
from zddm_flags import Comparison, Guard, VerifyResult
from zddm_flags.encoding import ledger_key
from zddm_flags.errors import CorruptCheckpoint, Superseded, Unsupported

ints = st.integers(-50, 50)
texts = st.text("abcAB1", max_size=3)
pairs = st.tuples(st.integers(0, 5), st.text("ab", max_size=2))
mixed = st.one_of(ints, texts, pairs, st.tuples(st.one_of(ints, texts)))
values = st.sampled_from(["x", "y"])


@st.composite
def two_stores(draw: st.DrawFn) -> tuple[dict[Any, str], dict[Any, str]]:
    """Mostly equal, as stores are that are to be verified."""
    keys = draw(st.sampled_from([ints, texts, pairs, mixed]))
    both = draw(st.dictionaries(keys, values, max_size=25))
    old, new = (dict(both) | draw(st.dictionaries(keys, values, max_size=12)) for _ in range(2))
    for side in (old, new):
        for key in draw(
            st.sets(st.sampled_from(sorted(side, key=natural)), max_size=8) if side else st.just(set())
        ):
            del side[key]
    return old, new


orders = st.one_of(
    st.sampled_from([natural, ledger_key, backwards, hashed]), st.builds(broken_at, st.one_of(ints, texts, pairs))
)


def keep_per_part(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let checkpoints tell only so many differing keys by name."""
    for verify in ("zddm_flags._sync.verify", "zddm_flags._async.verify"):
        patch.setattr(f"{verify}.KEPT_PER_PART", number)


class TestCounts:
    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        stores=two_stores(),
        old_order=orders,
        new_order=orders,
        tag=st.sampled_from(["", "foreign:"]),
        scans=st.booleans(),
        quirks=st.booleans(),
        mark=st.booleans(),
        page_size=st.integers(1, 8),
        parts=st.integers(1, 4),
        workers=st.integers(1, 2),
        kept=st.sampled_from([1, 200]),
    )
    async def test_what_differs_is_found_whatever_the_stores_order(
        self, world: World, stores, old_order, new_order, tag, scans, quirks, mark, page_size, parts, workers, kept
    ):
        """Each key that differs is counted once, in the right kind, in whatever order the stores are walked."""
        old, new = stores
        methods = ("read", "write", "delete", "read_many") + (("scan", "partitions") if scans else ())
        migration = verified(
            world,
            old,
            new,
            old_order=old_order,
            new_order=new_order,
            new_tag=tag,
            quirks=quirks,
            new_methods=methods,
        )
        with pytest.MonkeyPatch.context() as patch:
            if not quirks:  # which keys were counted is known as far as they are kept
                keep_per_part(patch, kept)
            result = await migration.verify(page_size=page_size, parts=parts, workers=workers, mark=mark)
        expected = planted(old, new)
        if not scans:
            expected["extra"] = 0
        assert found(result) == expected
        assert result.extra_checked is scans
        assert result.finished
        assert (result.unsure, result.failed, result.too_long) == (0, 0, 0)
        assert result.verdict == ("different" if any(expected.values()) else "equal")
        if not quirks:
            assert result.compared == len(old)
            assert result.equal == len(old) - expected["changed"] - expected["missing"]
        names = {(each.name, each.kind) for each in result.differences}
        assert len(names) == len(result.differences)
        assert len(names) == sum(expected.values()) or kept == 1
        marked = expected["changed"] + expected["extra"] if mark else 0
        assert (result.marked, result.stale) == (marked, 0)
        assert migration.left == (marked, 0)


NOTHING: dict[Any, Any] = {}
HOW = {
    "side by side": {},
    "no scan of New": {"new_methods": ("read", "write", "delete", "read_many")},
    "an order that breaks": {"new_order": broken_at(4)},
    "no common order": {"new_order": hashed},
    "foreign cursors": {"new_tag": "foreign:"},
}
MODES = pytest.mark.parametrize("how", HOW.values(), ids=HOW)
FEW_MODES = pytest.mark.parametrize("how", list(HOW.values())[:3], ids=list(HOW)[:3])


class TestCalls:
    async def test_equal_stores_are_only_scanned(self, world: World):
        """Stores in one order cost a scan of each for a page, and no more calls than for the checkpoints."""
        values = {number: f"v{number}" for number in range(100)}
        migration = verified(world, values, values)
        result = await migration.verify(page_size=10, parts=1)
        assert (result.verdict, result.compared, result.equal) == ("equal", 100, 100)
        calls = Counter(migration.calls())
        assert calls.keys() == {
            "old.scan",
            "new.scan",
            "ledger.checkpoints",
            "ledger.save_checkpoint",
            "ledger.summary",
        }
        assert calls["old.scan"] == 10
        assert calls["new.scan"] <= 12  # one to see whether New can be, and one for its end
        assert calls["ledger.save_checkpoint"] <= 15

    async def test_it_writes_to_no_store(self, world: World):
        """Whatever it finds, no store is changed."""
        migration = verified(world, {1: "a", 2: "b", 3: "c"}, {1: "x", 3: "c", 4: "d"})
        assert found(await migration.verify()) == {"changed": 1, "missing": 1, "extra": 1}
        assert not {"write", "write_many", "delete", "delete_many"} & {call for call, _ in migration.new.requests}
        assert migration.old.values == {1: "a", 2: "b", 3: "c"}
        assert migration.new.values == {1: "x", 3: "c", 4: "d"}

    @pytest.mark.parametrize("old", [NOTHING, {50: "v"}])
    async def test_any_number_of_keys_that_only_new_has(self, world: World, old):
        """More of them than a page, before the first key of Old, between two and after the last, are all found."""
        migration = verified(world, old, dict.fromkeys(range(100), "v"))
        result = await migration.verify(page_size=7)
        assert found(result) == planted(old, migration.new.values)
        assert max(len(keys) for call, keys in migration.ledger.requests if call == "begin_copy") <= 7

    async def test_empty_stores_are_equal(self, world: World):
        """Two stores without a key are equal."""
        result = await verified(world, {}, {}).verify()
        assert (result.verdict, result.compared, result.finished) == ("equal", 0, True)

    async def test_a_store_without_ranges(self, world: World):
        """An empty store may say that it has no range at all."""
        migration = verified(world, {}, {1: "a"})

        async def none(count: int) -> list[Any]:
            return []

        migration.old.partitions = none
        migration.new.partitions = none
        migration = migration.remade()
        assert found(await migration.verify(parts=3)) == {"changed": 0, "missing": 0, "extra": 1}
        assert not (await migration.verify(parts=3)).resumed
        assert (await migration.status()).verify is not None


class TestLive:
    """Traffic during a verify."""

    @FEW_MODES
    @pytest.mark.parametrize(
        ("rate", "change"),
        [
            *((1.0, change) for change in ("write", "delete", "write without effect", "write late")),
            *((0.0, change) for change in ("write", "delete")),
        ],
    )
    async def test_a_write_at_any_moment_is_no_difference(self, world: World, how, rate, change):
        """A write or delete between any two calls, by any process, is never reported; what was planted is."""
        old = dict.fromkeys(range(8), "v")
        new = old | {2: "x", 9: "extra"}
        del new[5]
        choose = random.Random(3)
        moment = 0
        while True:
            moment += 1
            migration = verified(world, old, new, **how)
            writer = migration.another(rate)

            moments = {moment, moment + choose.randrange(1, 12)}  # what is looked at again is changed again

            async def come_between(number: int, moments: set[int] = moments, writer: Verified = writer) -> None:
                if number in moments:
                    await self.change(writer, change, number)

            interruptions = Interruptions(migration, come_between)
            result = await migration.verify(page_size=3, clock=Ticking(30))
            interruptions.end()
            expected = {
                (migration.name_of(key), kind)
                for key, kind in ((2, "changed"), (5, "missing"), (9, "extra"))
                if kind != "extra" or result.extra_checked
            }
            told = {(each.name, each.kind) for each in result.differences if not each.stale}
            assert expected == told, moment
            known = {each.name for each in result.differences if each.stale}
            assert known <= {migration.name_of(key) for key in (4, 6, 8)}
            if change in {"write", "delete"} and rate == 1:
                assert not known
                assert result.unsure == 0
            if interruptions.moments < moment:
                break
        assert moment > 20

    @staticmethod
    async def change(writer: Verified, change: str, number: int) -> None:
        if change == "delete":
            await writer.delete(4)
            await writer.delete(6)
        elif change == "write":
            for key in (4, 6, 8):
                await writer.write(key, f"new {number}")
        elif change == "write without effect":
            writer.new.before["write"] = Trouble()  # without effect
            await writer.write(6, f"new {number}")
            del writer.new.before["write"]
        else:
            writer.new.after["write"] = Trouble()  # with effect
            await writer.write(6, f"new {number}")
            del writer.new.after["write"]

    async def test_a_verify_in_the_middle_of_a_write(self, world: World):
        """Whatever a write has done so far, a whole verify in its middle reports no difference."""
        moment = 0
        while True:
            moment += 1
            migration = verified(world, {1: "a", 2: "b"}, {1: "a", 2: "b"})
            writer = migration.another(1.0)
            told: list[VerifyResult] = []

            async def verify(
                number: int, moment: int = moment, migration: Verified = migration, told: list[Any] = told
            ) -> None:
                if number == moment:
                    told.append(await migration.verify(clock=Ticking(30)))

            interruptions = Interruptions(migration, verify)
            await writer.write(1, "new")
            interruptions.end()
            if not told:
                break
            assert told[0].different == 0
            assert told[0].unsure <= 1
            assert told[0].verdict == ("unfinished" if told[0].unsure else "equal")
        assert moment > 8

    async def test_a_key_without_rest_is_unsure(self, world: World):
        """A key that is written between any two looks at it is neither equal nor different."""
        migration = verified(world, {1: "a", 2: "b"}, {1: "x", 2: "b"})
        writer = migration.another(1.0)
        written = itertools.count()

        async def write(number: int) -> None:
            await writer.write(1, f"v{next(written)}")

        interruptions = Interruptions(migration, write)
        migration.new.values[1] = "differs at first"
        result = await migration.verify(clock=Ticking(30))
        interruptions.end()
        assert (result.different, result.unsure) == (0, 1)
        assert result.verdict == "unfinished"
        assert result.finished

    async def test_what_a_crash_left_is_waited_for(self, world: World):
        """A key whose token a process left is compared once that is reaped."""
        migration = verified(world, {1: "a", 2: "b"}, {1: "x", 2: "b"})
        migration.leave_token(1)
        migration.clock.advance(100)
        result = await migration.verify()
        assert found(result) == {"changed": 1, "missing": 0, "extra": 0}
        assert (result.stale, result.marked) == (1, 0)

    @pytest.mark.parametrize("new_order", [natural, hashed])
    async def test_writers_beside_it(self, world: World, new_order):
        """Writers that never rest cause no false alarm, and hide nothing."""
        old = {number: f"v{number}" for number in range(400)}
        new = dict(old)
        for key in range(0, 400, 40):
            new[key] = "x"
            del new[key + 1]
            new[1000 + key] = "extra"
        expected = planted(old, new)
        migration = verified(world, old, new, new_order=new_order)
        if not world.blocking:
            for watched in (migration.old, migration.new, migration.ledger):
                watched.pause = world.pause
        writers = [migration.another(1.0), migration.another(1.0)]
        over = False

        async def keep_writing(writer: Verified, seed: int) -> int:
            choose = random.Random(seed)
            written = 0
            while not over:
                key = choose.randrange(400)
                if key % 40 > 1:
                    await (
                        writer.delete(key) if choose.random() < 0.2 else writer.write(key, f"w{seed}.{written}")
                    )
                    written += 1
            return written

        with ThreadPoolExecutor(3) as pool:
            try:
                tasks = [world.spawn(keep_writing(writer, seed), pool) for seed, writer in enumerate(writers)]
                result = await world.spawn(migration.verify(page_size=20, parts=4), pool)
            finally:
                over = True
            written = await asyncio.gather(*tasks)
        assert min(written) > 0
        told = Counter(each.kind for each in result.differences if not each.stale)
        assert told == expected
        keys = {migration.name_of(key) for key in range(0, 400, 40)}
        assert keys <= {each.name for each in result.differences}


class TestMarks:
    async def test_what_new_has_wrong_is_served_by_old(self, world: World):
        """From then on Old serves the keys of which New holds what Old does not; the others are as they were."""
        migration = verified(world, {1: "a", 2: "b", 3: "c"}, {1: "x", 3: "c", 4: "extra"})
        assert await migration.read(1) == "x"  # what the verify is for
        result = await migration.verify()
        assert (result.marked, result.stale) == (2, 0)
        assert [migration.is_dirty(key) for key in (1, 2, 3, 4)] == [True, False, False, True]
        assert await migration.read(1) == "a"
        assert await migration.read(4) is None

    async def test_a_key_in_another_order(self, world: World, monkeypatch):
        """A key that New has where Old has another counts once: when its own turn comes."""
        keep_per_part(monkeypatch, 0)
        migration = verified(world, {26: "y", 27: "x"}, {0: "x", 26: "x"}, old_order=broken_at(0))
        result = await migration.verify(page_size=1, parts=1)
        assert (result.changed, result.missing, result.extra) == (1, 1, 1)
        assert (result.marked, result.stale) == (2, 0)

    async def test_without_marks_the_ledger_is_as_it_was(self, world: World):
        """mark=False leaves no key stale."""
        migration = verified(world, {1: "a", 2: "b"}, {1: "x", 4: "extra"})
        result = await migration.verify(mark=False)
        assert (result.different, result.marked) == (3, 0)
        assert migration.left == (0, 0)
        assert await migration.read(1) == "x"

    async def test_keys_known_to_be_stale(self, world: World):
        """A stale key that differs counts as such; one that is equal stays stale and is no difference."""
        migration = verified(world, {1: "a", 2: "b", 3: "c"}, {1: "x", 2: "b", 4: "d"})
        migration.distrust(1, 2, 3, 4)
        result = await migration.verify()
        assert found(result) == {"changed": 1, "missing": 1, "extra": 1}
        assert (result.stale, result.marked) == (3, 0)
        assert all(each.stale for each in result.differences)
        assert migration.left == (4, 0)

    async def test_keys_that_new_was_never_opened_for(self, world: World):
        """Of the keys that New lacks, those above all rates that ever were are told apart."""
        old = dict.fromkeys(range(100), "v")
        migration = verified(world, old, {}, opened=0.25)
        result = await migration.verify()
        above = sum(migration.gate.locate(key)[0] / 2**64 >= 0.25 for key in old)
        assert (result.missing, result.not_opened) == (100, above)
        assert 0 < above < 100


class TestComparing:
    async def test_fields(self, world: World):
        """What differs is told by field, and what is to be ignored is."""
        old = {key: {"name": "a", "city": "b", "seen": 1} for key in range(5)}
        new = {
            0: old[0],
            1: {"name": "x", "city": "b", "seen": 1},
            2: {"name": "x", "city": "x", "seen": 2},
            3: {"name": "a", "city": "b", "seen": 2},
            4: {"name": "a", "city": "b"},
        }
        migration = verified(world, old, new)
        result = await migration.verify(comparison=Comparison(ignore=["seen"]))
        assert (result.changed, result.equal) == (2, 3)
        assert result.fields == {"name": 2, "city": 1}
        assert {each.name: tuple(each.fields) for each in result.differences} == {
            migration.name_of(1): ("name",),
            migration.name_of(2): ("city", "name"),
        }
        assert result.whole

    async def test_any_number_of_fields(self, world: World):
        """Names of fields that are data, as many and as long as they like, do not break the checkpoint."""
        old = {key: {f"{key}-{n}-{'é' * 300}": 1 for n in range(60)} for key in range(300)}
        new = {key: {f"{key}-{n}-{'é' * 300}": 2 for n in range(60)} for key in range(300)}
        migration = verified(world, old, new)
        result = await migration.verify(parts=1)
        assert result.changed == 300
        assert result.fields
        assert len(result.differences) > 10

    @MODES
    async def test_a_comparison_that_raises(self, world: World, how):
        """A comparison that raises for a key leaves it unsure of that key, and of no other."""

        def equal(old: str, new: str) -> bool:
            if old == "bad":
                raise Trouble
            return old == new

        migration = verified(world, {1: "a", 2: "bad", 3: "c"}, {1: "a", 2: "bad", 3: "x"}, **how)
        result = await migration.verify(comparison=Comparison(equal=equal))
        assert (result.failed, result.changed, result.equal) == (1, 1, 1)
        migration.new.values[3] = "c"
        result = await migration.verify(comparison=Comparison(equal=equal))
        assert (result.failed, result.different, result.verdict) == (1, 0, "unfinished")
        assert migration.left[1] == 0

    @MODES
    async def test_keys_only(self, world: World, how):
        """keys_only looks at which keys there are, and says that it did not look at everything."""
        migration = verified(world, {1: "a", 2: "b"}, {1: "x"}, **how)
        result = await migration.verify(keys_only=True)
        assert (result.changed, result.missing, result.equal) == (0, 1, 1)
        assert not result.whole

    @MODES
    async def test_keys_that_are_too_long(self, world: World, how):
        """A key that no ledger takes is one difference where New lacks it, or has it alone, and fails nothing."""
        long = "k" * 2000
        migration = verified(world, {"a": "1", long: "2"}, {"a": "1", f"{long}x": "3"}, **how)
        result = await migration.verify()
        assert result.too_long == 1 + result.extra_checked
        assert (result.changed, result.missing, result.extra, result.verdict) == (0, 0, 0, "different")

    async def test_a_key_that_is_too_long_and_equal(self, world: World):
        """Where both are scanned side by side, such a key that was brought over by hand is equal."""
        long = "k" * 2000
        result = await verified(world, {"a": "1", long: "2"}, {"a": "1", long: "2"}).verify()
        assert (result.verdict, result.equal, result.too_long) == ("equal", 2, 0)

    async def test_a_key_that_is_too_long_counts_once(self, world: World):
        """Where the stores are walked one after the other, such a key counts once."""
        long = "k" * 2000
        result = await verified(world, {long: "2"}, {long: "2"}, new_tag="f:").verify(parts=1, sample=0.99999)
        assert result.too_long == 1


class TestSome:
    """Some of the keys only."""

    async def test_a_sample(self, world: World):
        """A sample is about as large as asked for, always the same, and another one than the gate's keys."""
        old = dict.fromkeys(range(2000), "v")
        migration = verified(world, old, dict.fromkeys(old, "x"), 0.1)
        first, second = [await migration.verify(sample=0.1, mark=False) for _ in range(2)]
        assert first.compared == second.compared == first.changed
        assert 140 < first.compared < 260
        assert {each.name for each in first.differences} == {each.name for each in second.differences}
        assert not first.whole
        passing = sum(migration.gate.should_pass(key) for key in old)
        keys = [key for key in old if migration.name_of(key) in {each.name for each in first.differences}]
        both = sum(migration.gate.should_pass(key) for key in keys)
        assert 0 < both < passing / 2

    async def test_a_sample_of_both_sides(self, world: World):
        """A sample has the same share of the keys that only New has."""
        new = dict.fromkeys(range(2000), "v")
        result = await verified(world, {}, new).verify(sample=0.1)
        assert 140 < result.extra < 260
        assert result.compared == 0
        assert result.extra_checked

    @pytest.mark.parametrize("limit", [1, 10, 25, 1000])
    async def test_a_limit(self, world: World, limit):
        """It ends after so many keys of Old, and does not look for more in New."""
        old = dict.fromkeys(range(100), "v")
        migration = verified(world, old, old | {1000: "extra"})
        result = await migration.verify(limit=limit, page_size=10, parts=5)
        assert (result.compared, result.extra) == (min(limit, 100), 0)
        assert (result.extra_checked, result.whole, result.finished) == (False, False, True)

    @pytest.mark.parametrize(
        "options", [{"sample": 0}, {"sample": 1.1}, {"sample": float("nan")}, {"limit": 0}, {"page_size": 0}]
    )
    async def test_arguments_out_of_range(self, world: World, options):
        """Arguments that make no sense are refused before anything is called."""
        migration = verified(world, {}, {})
        with pytest.raises(ValueError):
            migration.job(migration.proxy, **options)

    async def test_a_new_whose_scan_refuses(self, world: World):
        """A New that has a scan() but cannot be scanned is verified without one."""
        migration = verified(world, {1: "a", 2: "b"}, {1: "a"})
        migration.new.before["scan"] = Unsupported("a cluster")
        result = await migration.verify(parts=2)
        assert (result.missing, result.equal, result.finished) == (1, 1, True)
        assert not result.extra_checked


class TestContinued:
    """A verify that was killed or stopped."""

    @pytest.mark.parametrize(
        ("how", "mark"),
        [*((how, False) for how in HOW.values()), (HOW["side by side"], True)],
        ids=[*HOW, "side by side, with marks"],
    )
    async def test_killed_at_any_moment(self, world: World, how, mark, monkeypatch):
        """Whatever the moment at which its process dies, the next one ends with the same counts."""
        keep_per_part(monkeypatch, 2)
        old = dict.fromkeys(range(10), "v")
        new = old | {2: "x", 7: "x"} | dict.fromkeys((-3, -2, -1, 20, 21, 22, 23), "extra")
        for key in (4, 9):
            del new[key]
        undisturbed = await verified(world, old, new, **how).verify(page_size=3, parts=2, mark=mark)
        assert found(undisturbed) == planted(old, new) | ({} if undisturbed.extra_checked else {"extra": 0})
        moment = 0
        while True:
            moment += 1
            migration = verified(world, old, new, **how)
            interruptions = killed_at(migration, moment)
            try:
                await migration.verify(page_size=3, parts=2, mark=mark)
            except Killed:
                pass
            else:
                break
            finally:
                interruptions.end()
            migration.clock.advance(100)  # what it left is reaped
            result = await migration.another(1.0).verify(page_size=3, parts=2, mark=mark)
            assert result.finished
            assert counts(result) == counts(undisturbed), moment
            assert migration.left[1] == 0
            if mark:
                wrong = (2, 7, *((-3, -2, -1, 20, 21, 22, 23) if result.extra_checked else ()))
                assert all(migration.is_dirty(key) for key in wrong), moment
        assert moment > 40

    @MODES
    async def test_killed_again_and_again(self, world: World, how, monkeypatch):
        """It comes to its end, with the right counts, though no process lives for long."""
        keep_per_part(monkeypatch, 2)
        old = dict.fromkeys(range(40), "v")
        new = old | dict.fromkeys((-3, -2, -1, *range(100, 140, 3)), "extra") | {2: "x", 33: "x"}
        undisturbed = await verified(world, old, new, **how).verify(page_size=4, mark=False)
        for life in (64, 81):
            migration = verified(world, old, new, **how)
            for _ in range(200):
                interruptions = killed_at(migration, life)
                with suppress(Killed):
                    result = await migration.another(1.0).verify(page_size=4, mark=False)
                    assert counts(result) == counts(undisturbed)
                    break
                interruptions.end()
                migration.clock.advance(100)
            else:
                pytest.fail("it does not come forward")

    @MODES
    async def test_stopped_and_gone_on_with(self, world: World, how):
        """stop() ends it within a page, and says so; a further one does the rest."""
        old = dict.fromkeys(range(30), "v")
        migration = verified(world, old, old | {3: "x", 40: "extra"}, **how)
        job = migration.job(migration.proxy, page_size=5)

        async def stop() -> None:
            job.stop()

        migration.old.after["scan"] = stop
        first = await settle(job.run())
        assert not first.finished
        assert first.verdict != "equal"
        assert await migration.state() == "stopped"
        second = await migration.another(1.0).verify(page_size=5)
        assert second.resumed
        assert second.finished
        assert counts(second) == counts(await migration.verify(page_size=5, restart=True))

    async def test_stopped_among_keys_that_only_new_has(self, world: World):
        """stop() is heard among any number of keys that only New has."""
        migration = verified(world, {100_000: "v"}, dict.fromkeys(range(100), "v"))
        job = migration.job(migration.proxy, page_size=5)

        async def stop() -> None:
            job.stop()

        migration.ledger.before["alone"] = stop
        assert not (await settle(job.run())).finished
        assert len(migration.new.requests) < 10

    async def test_stopped_before_it_began(self, world: World):
        """A verify that is stopped while it waits for a store to answer at all tells what it did: nothing."""
        migration = verified(world, {1: "a"}, {1: "a"})
        migration.ledger.before["checkpoints"] = Trouble()
        job = migration.job(migration.proxy)
        async with going_on(world, job) as running:
            await world.until(lambda: job.progress().waiting is not None)
            job.stop()
            result = await running
        assert (result.finished, result.compared, result.verdict) == (False, 0, "unfinished")

    async def test_stopped_while_the_ledger_fails(self, world: World):
        """A verify that is stopped while its ledger fails ends all the same."""
        migration = verified(world, {1: "a"}, {1: "a"})
        job = migration.job(migration.proxy)

        async def fail() -> None:
            migration.ledger.before["save_checkpoint"] = Trouble()
            migration.ledger.before["checkpoints"] = Trouble()
            job.stop()

        migration.old.after["scan"] = fail
        result = await settle(job.run())
        assert not result.finished

    async def test_other_options_begin_anew(self, world: World):
        """What was counted by other rules is not gone on with; the pace and the workers are no rule."""
        old = {number: {"a": 1} for number in range(9)}
        migration = verified(world, old, old)
        job = migration.job(migration.proxy, page_size=2, comparison=Comparison(ignore=["b", "c"]))

        async def stop() -> None:
            job.stop()

        migration.old.after["scan"] = stop
        await settle(job.run())
        same = migration.job(migration.proxy, page_size=5, workers=2, comparison=Comparison(ignore=["c", "b"]))
        same.stop()
        assert (await settle(same.run())).resumed
        for options in (
            {"keys_only": True},
            {"mark": False},
            {"sample": 0.5},
            {"limit": 3},
            {"comparison": Comparison(float_tolerance=0.1)},
            {"comparison": Comparison(equal=lambda old, new: True)},
            {},
        ):
            assert not (await migration.verify(**options)).resumed

    async def test_a_finished_one_is_not_gone_on_with(self, world: World):
        """A verify after one that finished begins anew."""
        migration = verified(world, {1: "a"}, {})
        assert (await migration.verify()).missing == 1
        migration.new.values[1] = "a"
        again = await migration.verify()
        assert (again.resumed, again.missing, again.verdict, list(again.differences)) == (False, 0, "equal", [])

    async def test_restart(self, world: World):
        """restart=True begins anew, whatever was left."""
        migration = verified(world, {1: "a"}, {})
        job = migration.job(migration.proxy)
        job.stop()
        await settle(job.run())
        assert not (await migration.verify(restart=True)).resumed

    @pytest.mark.parametrize("name", ["verify", "verify/0"])
    @pytest.mark.parametrize("data", ["", "{}", "null", '{"format":2}', "[1]"])
    async def test_a_corrupt_checkpoint(self, world: World, name, data):
        """A checkpoint that cannot be understood is an error that says how to begin anew; so it can."""
        migration = verified(world, {1: "a"}, {})
        job = migration.job(migration.proxy)
        migration.old.before["scan"] = Trouble()
        with pytest.raises(Trouble):
            await settle(migration.job(migration.proxy, patience_seconds=0, clock=Ticking()).run())
        migration.old.recover()
        migration.keep(name, data)
        with pytest.raises(CorruptCheckpoint, match="restart=True"):
            await settle(job.run())
        with pytest.raises(CorruptCheckpoint, match="restart=True"):
            await migration.status()
        assert (await migration.verify(restart=True)).missing == 1
        assert await migration.state() == "finished"

    async def test_a_corrupt_backfill_does_not_keep_it_from_beginning(self, world: World):
        """A verify needs nothing of what a backfill left."""
        migration = verified(world, {1: "a"}, {1: "a"})
        migration.keep("backfill", "{}")
        assert (await migration.verify()).verdict == "equal"

    async def test_some_keys_are_told_by_name(self, world: World, monkeypatch):
        """All differing keys are counted, and so many told by name as one may keep."""
        keep_per_part(monkeypatch, 3)
        migration = verified(world, dict.fromkeys(range(10), "v"), {})
        result = await migration.verify(parts=1, page_size=2)
        assert (result.missing, len(result.differences)) == (10, 3)
        for each in result.differences:
            key = migration.gate.key_of(each.name)
            assert each.hash == f"{migration.gate.locate(key)[0]:016x}"
        assert "name" not in repr(result.differences[0])

    async def test_progress(self, world: World):
        """Its progress counts the keys of Old, and the parts."""
        old = dict.fromkeys(range(10), "v")
        migration = verified(world, old, old)
        job = migration.job(migration.proxy, parts=2, page_size=2)
        assert (job.progress().rows, job.progress().expected) == (0, None)
        await settle(job.run())
        progress = job.progress()
        assert (progress.rows, progress.expected, progress.parts, progress.parts_done) == (10, 10, 2, 2)

    async def test_two_at_once(self, world: World):
        """Who takes a verify over goes on alone: the other one ends, and says why."""
        old = dict.fromkeys(range(10), "v")
        migration = verified(world, old, old | {3: "x"})
        taken: list[VerifyResult] = []

        async def take_over() -> None:
            taken.append(await migration.another(1.0).verify(page_size=2))

        migration.new.before["scan"] = take_over
        with pytest.raises(Superseded):
            await migration.verify(page_size=2)
        assert taken[0].changed == 1
        assert await migration.state() == "finished"


class TestNewFails:
    @MODES
    async def test_the_guard_is_waited_for(self, world: World, how):
        """While the guard keeps calls from New it waits, sees to it that New is tried, and then goes on."""
        old = dict.fromkeys(range(20), "v")
        migration = verified(world, old, old | {3: "x"}, guard=QUICK, **how)
        job = migration.job(migration.proxy, page_size=5)

        async def fail() -> None:
            migration.new.outage(methods=SCANNED)

        migration.old.after["scan"] = fail
        async with going_on(world, job) as running:
            await world.until(lambda: migration.stats().guard == "open" and job.progress().waiting is not None)
            migration.new.recover()
            result = await running
        assert (result.changed, result.finished) == (1, True)

    async def test_an_open_guard_before_anything_is_known(self, world: World):
        """The guard is waited for too where no key of a store was seen yet."""
        migration = verified(world, {1: "a"}, {1: "a"}, guard=QUICK)
        migration.new.outage(methods=SCANNED)
        for _ in range(3):
            assert await migration.read(1) == "a"
        assert migration.stats().guard == "open"
        job = migration.job(migration.proxy)
        async with going_on(world, job) as running:
            await world.until(lambda: job.progress().waiting is not None)
            migration.new.recover()
            assert (await running).verdict == "equal"

    async def test_a_store_that_fails_for_a_while(self, world: World):
        """A store that fails, but not for long, costs nothing but time."""
        old = dict.fromkeys(range(10), "v")
        migration = verified(world, old, old | {3: "x"}, guard=None)

        async def fail() -> None:
            migration.old.before["scan"] = Trouble()

        async def recover() -> None:
            migration.old.recover()

        migration.new.after["scan"] = fail
        job = migration.job(migration.proxy, page_size=3)
        async with going_on(world, job) as running:
            await world.until(lambda: "fails: Trouble" in (job.progress().waiting or ""))
            migration.old.recover()
            result = await running
        assert (result.changed, result.compared, result.verdict) == (1, 10, "different")

    async def test_a_store_that_fails_for_good(self, world: World):
        """Its error is raised when patience is over, and a later verify goes on."""
        old = dict.fromkeys(range(10), "v")
        migration = verified(world, old, old, guard=None)

        async def fail() -> None:
            migration.old.before["scan"] = Trouble()

        migration.old.after["scan"] = fail
        with pytest.raises(Trouble):
            await migration.verify(page_size=3, patience_seconds=1, clock=Ticking())
        assert await migration.state() == "stopped"
        migration.old.recover()
        result = await migration.verify(page_size=3)
        assert (result.resumed, result.verdict, result.compared) == (True, "equal", 10)


class TestKilled:
    @pytest.mark.parametrize("how", ["rate", "disabled"])
    async def test_after_a_kill(self, world: World, how):
        """After a kill, by the flag or in this process, it compares as ever, and New is only read."""
        migration = verified(world, {1: "a", 2: "b"}, {1: "x", 3: "c"}, 0.0 if how == "rate" else 1.0)
        if how == "disabled":
            migration.proxy.disable()
        result = await migration.verify()
        assert found(result) == {"changed": 1, "missing": 1, "extra": 1}
        assert {call for call, _ in migration.new.requests} <= {"read", "read_many", "scan"}
        assert "ledger.open_to" not in migration.calls()


class TestElsewhere:
    async def test_parts_done_by_an_executor(self, world: World):
        """Parts that are done elsewhere come to the same result, by the same rules."""
        old = {number: {"a": number, "b": 1} for number in range(60)}
        new = {number: {"a": number if number % 10 else -1, "b": 2} for number in range(3, 63)}
        migration = verified(world, old, new)
        target = f"elsewhere_{world.name}"
        setattr(tests.core.verified, target, migration.proxy)
        options = {"comparison": Comparison(ignore=["b"]), "page_size": 7, "parts": 4}
        with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as runner:
            job = migration.job(
                migration.proxy, executor=pool, workers=2, target=f"tests.core.verified:{target}", **options
            )
            result = await world.spawn(settle_in(world, job.run), runner)
        assert counts(result) == counts(await migration.verify(**options))
        assert (result.changed, result.missing, result.extra) == (5, 3, 3)
        assert result.fields == {"a": 5}


QUICK = Guard(min_calls=2, open_seconds=0.05, max_open_seconds=0.05, trial_calls=1)


def counts(result: VerifyResult) -> dict[str, object]:
    """What a run and its continuation agree in; which keys are stale depends on what the kill left."""
    names = ("compared", "equal", "changed", "missing", "extra", "not_opened", "unsure", "failed", "too_long")
    return {
        **{name: getattr(result, name) for name in names},
        "verdict": result.verdict,
        "finished": result.finished,
        "extra_checked": result.extra_checked,
    }


@asynccontextmanager
async def going_on(world: World, job: Any) -> AsyncIterator[asyncio.Future[Any]]:
    """The run of a job, beside the test; it is stopped where the test ends sooner."""
    with ThreadPoolExecutor(1) as pool:
        running = world.spawn(settle_in(world, job.run), pool)
        try:
            yield running
        finally:
            job.stop()
            await asyncio.wait([running])


async def settle_in(world: World, function: Callable[[], Any]) -> Any:
    """The result of a function of either world, as a coroutine that `World.spawn` can run."""
    return await world.call(function)
