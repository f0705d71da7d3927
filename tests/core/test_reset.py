"""A reset begins a migration anew, and only from a New that is empty."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.core.verified import SCANNED, Verified, verified
from tests.core.worlds import Trouble, World
from zddm_flags import Page, Rollout
from zddm_flags.encoding import ledger_key
from zddm_flags.errors import ResetRefused, Unsupported

VALUES = {1: "a", 2: "b", 3: "c"}


def used(world: World, **options: object) -> Verified:
    """A migration that was at work: the rate is 0 now, and New was emptied."""
    migration = verified(world, VALUES, {}, 0.0, **options)  # pyright: ignore[reportArgumentType] - passed on as it is
    migration.distrust(1, 2)
    migration.plan("backfill")
    migration.part("backfill", 0)
    migration.plan("verify")
    return migration


def untouched(migration: Verified) -> bool:
    """Whether the ledger holds what it did."""
    summary = migration.summary
    checkpoints = migration.rows.checkpoints()
    return (summary.stale, summary.opened, summary.epoch, len(checkpoints)) == (2, 1.0, 0, 3)


class TestReset:
    async def test_it_forgets_everything(self, world: World):
        """Stale keys, `opened` and checkpoints are gone, and a new epoch begins."""
        migration = used(world)
        summary = await migration.reset()
        assert summary == migration.summary
        assert (summary.stale, summary.pending, summary.opened, summary.epoch, summary.reaped) == (0, 0, 0.0, 1, 0)
        assert migration.rows.checkpoints() == {}
        status = await migration.status()
        assert (status.backfill, status.verify, status.epoch) == (None, None, 1)

    async def test_twice(self, world: World):
        """It may be repeated."""
        migration = used(world)
        await migration.reset()
        assert (await migration.reset()).epoch == 2

    @pytest.mark.parametrize("rollout", [1e-9, 1.0, Rollout(read=0.0, write=0.5)])
    async def test_a_rate_above_0(self, world: World, rollout):
        """It is refused while anything may be written to New, before a store or the ledger is called."""
        migration = used(world).another(rollout)
        migration.calls()
        with pytest.raises(ResetRefused, match="set the flag to 0"):
            await migration.reset(new_was_emptied=True)
        assert migration.calls() == []
        assert untouched(migration)

    async def test_a_pending_token(self, world: World):
        """It is refused while an operation is in progress, or was left."""
        migration = used(world)
        migration.leave_token(3)
        with pytest.raises(ResetRefused, match="reaped after 34 s"):
            await migration.reset()
        assert untouched(migration)
        migration.clock.advance(100)
        assert (await migration.another(0.0).reset()).stale == 0

    async def test_what_a_crash_left_is_reaped(self, world: World):
        """A token that is old enough keeps nobody from it: it is reaped first."""
        migration = used(world)
        migration.leave_token(3)
        migration.clock.advance(100)
        assert (await migration.reset()).pending == 0

    async def test_new_holds_something(self, world: World):
        """It is refused while New holds anything: that would be trusted from then on."""
        migration = used(world)
        migration.new.values[7] = "x"
        with pytest.raises(ResetRefused, match="empty it first"):
            await migration.reset()
        assert untouched(migration)
        await migration.reset(new_was_emptied=True)  # so one says
        assert migration.summary.epoch == 1

    async def test_new_holds_something_after_empty_pages(self, world: World):
        """An empty page does not make New empty."""
        migration = used(world)
        scan = migration.new.scan
        pages = iter([True, False])

        async def empty_first(
            cursor: str | None = None, limit: int = 1000, until: str | None = None
        ) -> Page[Any, Any]:
            page = await scan(cursor, limit, until)
            return replace(page, items=[], next_cursor=ledger_key(0).hex()) if next(pages) else page

        migration.new.scan = empty_first
        migration.new.values[7] = "x"
        with pytest.raises(ResetRefused, match="empty it first"):
            await migration.remade().reset()

    async def test_new_cannot_be_scanned(self, world: World):
        """Where New cannot be scanned one has to say that it is empty."""
        migration = used(world, new_methods=("read", "write", "delete"))
        with pytest.raises(Unsupported, match="scan"):
            await migration.reset()
        assert untouched(migration)
        assert (await migration.reset(new_was_emptied=True)).epoch == 1

    async def test_new_fails(self, world: World):
        """Where New cannot be asked nothing is changed."""
        migration = used(world)
        migration.new.before["scan"] = Trouble()
        with pytest.raises(Trouble):
            await migration.reset()
        assert untouched(migration)

    async def test_the_ledger_fails(self, world: World):
        """What the ledger raises passes through."""
        migration = used(world)
        migration.ledger.before["reset"] = Trouble()
        with pytest.raises(Trouble):
            await migration.reset()
        assert untouched(migration)


class TestOthers:
    """Other processes, which may see the flag later."""

    async def test_new_is_opened_anew(self, world: World):
        """Who wrote to New before tells the ledger again before it does so after a reset."""
        migration = verified(world, {}, {}, 0.0, opened=0.0)
        other = migration.another(1.0)
        await other.write(1, "a")
        assert migration.summary.opened == 1.0
        migration.new.values.clear()
        await migration.reset()
        migration.calls()
        await other.write(2, "b")
        calls = migration.calls()
        assert calls.index("ledger.open_to") < calls.index("new.write")
        assert (migration.summary.opened, migration.summary.epoch) == (1.0, 1)
        await migration.write(2, "c")  # skips New
        assert migration.is_dirty(2)
        assert await other.read(2) == "c"

    async def test_a_copy_opens_anew(self, world: World):
        """So does a read that copies."""
        migration = verified(world, VALUES, {}, 0.0, opened=0.0)
        other = migration.another(1.0)
        assert await other.read(1) == "a"
        migration.new.values.clear()
        await migration.reset()
        migration.calls()
        assert await other.read(1) == "a"
        calls = migration.calls()
        assert calls.index("ledger.open_to") < calls.index("new.write")
        await migration.write(1, "b")
        assert await other.read(1) == "b"

    @pytest.mark.parametrize("call", ["reset", "new.scan"])
    async def test_new_is_written_meanwhile(self, world: World, call):
        """A write to New between the look and the reset is seen after it, and New counts as opened."""
        migration = used(world)
        other = migration.another(1.0)

        async def write() -> None:
            await other.write(3, "new")

        if call == "reset":
            migration.ledger.before["reset"] = write
        else:
            migration.new.after["scan"] = write
        with pytest.raises(ResetRefused, match="by a process that has not seen the flag at 0"):
            await migration.reset()
        assert migration.summary.opened == 1.0
        await migration.write(3, "newer")
        assert await other.read(3) == "newer"

    async def test_new_fails_after_the_reset(self, world: World):
        """Where New cannot be asked again, nobody knows that it is empty: it counts as opened."""
        migration = used(world)

        async def fail() -> None:
            migration.new.outage(methods=SCANNED)

        migration.ledger.after["reset"] = fail
        with pytest.raises(Trouble):
            await migration.reset()
        assert migration.summary.opened == 1.0
        migration.new.recover()
        assert (await migration.reset()).opened == 0.0

    async def test_an_operation_in_progress(self, world: World):
        """An operation that has begun keeps the ledger from being reset, at whatever step it is."""
        for call in ("old.write", "new.write", "ledger.end"):
            store, method = call.split(".")
            migration = used(world)
            other = migration.another(1.0)
            refused: list[bool] = []

            async def reset(migration: Verified = migration, refused: list[bool] = refused) -> None:
                migration.new.values.clear()
                with pytest.raises(ResetRefused):
                    await migration.reset()
                refused.append(migration.summary.epoch == 0)

            getattr(migration, store).before[method] = reset
            await other.write(3, "new")
            assert refused == [True], call

    async def test_a_job_that_goes_on(self, world: World):
        """A verify that goes on over a reset ends, for its run is gone."""
        migration = verified(world, VALUES, {}, 0.0)

        async def reset() -> None:
            await migration.reset()

        migration.old.after["scan"] = reset
        result = None
        with pytest.raises(Exception, match="taken over"):
            result = await migration.verify(page_size=1, parts=1)
        assert result is None
        assert migration.summary.epoch == 1
