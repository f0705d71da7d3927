"""A job that slept through a reset of the ledger never passes for one of the migration that began anew."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.worlds import SCANNED, Migration, World
from zddm_flags.errors import Superseded


class Killed(BaseException):
    """What a process sees of its own end."""


def begun(world: World) -> Migration:
    held: dict[Any, Any] = {f"k{number:02}": "v" for number in range(20)}
    return world.migration(1.0, old=held, old_methods=SCANNED, new_methods=SCANNED)


async def anew(migration: Migration) -> None:
    """What an operator does: New is emptied and the ledger reset."""
    migration.gate.set_rate(0.0)
    migration.new.values.clear()
    await migration.world.call(migration.proxy.reset_ledger)
    migration.gate.set_rate(1.0)


def at_scan(migration: Migration, number: int, come: Any) -> None:
    """Let `come` come before this scan of Old, counted from now, from 1."""

    async def next_one() -> None:
        if number > 1:
            at_scan(migration, number - 1, come)
        else:
            await come()

    migration.old.before["scan"] = next_one


async def test_a_backfill_that_sleeps_through_a_reset_never_counts_as_finished(world: World) -> None:
    """Versions of checkpoints begin anew with a reset, so that its pages can pass for those of its successor."""
    migration = begun(world)
    successor = migration.in_another_process(1.0)

    async def sleep() -> None:
        await anew(migration)
        at_scan(migration, 3, end)
        with pytest.raises(Killed):
            await successor.backfill(page_size=1, parts=1).run()
        migration.ledger.recover()

    async def end() -> None:
        migration.ledger.outage(methods=["save_checkpoint"])  # as of a process that was killed
        raise Killed

    at_scan(migration, 3, sleep)
    with pytest.raises(Superseded):
        await migration.backfill(page_size=5, parts=1).run()
    assert len(migration.new.values) < len(migration.old.values)
    status = await world.call(migration.proxy.migration_status)
    assert status.backfill.state == "running"
    assert (await successor.backfill().run()).complete
    assert migration.new.values == migration.old.values


async def test_what_was_saved_before_a_reset_counts_for_nothing_after_it(world: World) -> None:
    """A plan that a sleeping process saves late is no run of the migration that began anew."""
    migration = begun(world)
    assert (await migration.backfill().run()).complete
    late = migration.rows.checkpoints()["backfill"].data
    await anew(migration)
    assert migration.rows.save_checkpoint("backfill", late, 0)
    status = await world.call(migration.proxy.migration_status)
    assert status.backfill is None
    assert "no backfill was run" in status.reasons[1]
