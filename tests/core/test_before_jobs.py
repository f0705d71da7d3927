"""What keeps a job from beginning is told at once, and what need not, does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.worlds import MANY, SCANNED, World
from zddm_flags.errors import ProxyClosed, Unsupported
from zddm_flags.ledger import MAX_CHECKPOINT_CHARACTERS


@pytest.mark.parametrize("name", ["backfill", "repair"])
async def test_a_closed_proxy(world: World, name: str) -> None:
    """No job works with the stores of a proxy that was closed."""
    migration = world.migration(1.0, old={"a": "v"}, old_methods=SCANNED, new_methods=MANY)
    await world.call(migration.proxy.close)
    with pytest.raises(ProxyClosed):
        await getattr(migration, name)().run()
    assert migration.new.values == {}


@pytest.mark.parametrize("method", ["checkpoints", "save_checkpoint", "stale_keys"])
async def test_a_ledger_without_what_jobs_need(world: World, method: str) -> None:
    """A ledger of the user's own that was written before there were jobs is named, and what it lacks."""
    migration = world.migration(1.0, old={"a": "v"}, old_methods=SCANNED, new_methods=MANY)
    watched = migration.ledger

    class Older:
        shared = True

        def migration(self, *arguments: Any) -> Any:
            rows = watched.migration(*arguments)
            delattr(rows, method)
            return rows

    migration = migration.in_another_process(1.0, ledger=Older())
    with pytest.raises(Unsupported, match=rf"the ledger has no {method}\(\)"):
        await migration.backfill().run()


async def test_a_plan_whose_cursors_are_too_long_for_a_checkpoint(world: World) -> None:
    """A store of long keys is split into fewer parts, so that the plan can be kept."""
    held: dict[Any, Any] = {f"{number:04}{'x' * 900}": "v" for number in range(600)}
    migration = world.migration(1.0, old=held, old_methods=SCANNED, new_methods=MANY)
    result = await migration.backfill(parts=600, page_size=100).run()
    assert result.complete
    assert migration.new.values == held
    kept = migration.rows.checkpoints()
    assert 2 < len(kept) < 600
    assert all(len(each.data) < MAX_CHECKPOINT_CHARACTERS for each in kept.values())
