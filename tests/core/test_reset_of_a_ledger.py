"""The way back to the beginning of a migration: when it is refused, and what a crash may not keep it from."""

from __future__ import annotations

from functools import partial

import pytest

from tests.core.worlds import Migration, World
from zddm_flags.errors import ResetRefused

K = b"sk"


@pytest.fixture
def migration(world: World) -> Migration:
    """A migration at a rate of 0 over an empty New, which was used before."""
    made = world.migration(0.0, old={"k": 1})
    made.rows.open_to(1.0)
    return made


async def reset(migration: Migration) -> None:
    await migration.world.call(partial(migration.proxy.reset_ledger, new_was_emptied=True))


async def test_reset_waits_for_operations(migration: Migration) -> None:
    """A reset is refused while an operation is in progress, and changes nothing."""
    migration.rows.begin([K], b"token")
    with pytest.raises(ResetRefused, match="in progress"):
        await reset(migration)
    assert (migration.summary.opened, migration.summary.epoch) == (1.0, 0)
    migration.rows.end({K: True}, b"token")
    await reset(migration)
    assert (migration.summary.opened, migration.summary.epoch) == (0.0, 1)


async def test_operations_are_asked_for_before_new_is_looked_at(migration: Migration) -> None:
    """What is still being written to New when the reset begins is not overlooked, whenever it ends."""
    migration.rows.begin([K], b"token")
    with pytest.raises(ResetRefused):
        await reset(migration)
    calls = migration.calls()
    assert "ledger.summary" in calls
    assert "ledger.reset" not in calls


async def test_reset_reaps_what_a_crash_left(migration: Migration) -> None:
    """A token that a crashed process left keeps nobody from a reset once it is old enough."""
    migration.rows.begin([K], b"left")
    migration.clock.advance(60)
    await reset(migration)
    assert migration.left == (0, 0)
