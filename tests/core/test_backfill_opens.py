"""A backfill opens New before it looks at a key, so that whatever skips New from then on is stale."""

from __future__ import annotations

from tests.core.worlds import MANY, SCANNED, World
from zddm_flags.hashing import hash_rate


async def test_a_backfill_opens_new_though_there_is_nothing_to_copy(world: World) -> None:
    """Once a backfill of an empty Old covered all keys, a write that skips New leaves its key stale."""
    migration = world.migration(1.0, old_methods=SCANNED, new_methods=MANY)
    assert (await migration.backfill().run()).complete
    await migration.in_another_process(0.0).write("a", 1)
    assert migration.new.values == {}
    assert migration.summary.stale == 1


async def test_a_key_that_comes_behind_the_cursor_is_in_new_or_stale(world: World) -> None:
    """A process that sees a lower rate writes a key where the backfill was, which has copied nothing above it."""
    migration = world.migration(1.0, old_methods=SCANNED, new_methods=MANY)
    behind = migration.in_another_process(0.5)

    def passes(key: str) -> bool:
        return hash_rate(migration.gate.locate(key)[0]) < 0.5

    new_key = next(key for key in map("a{}".format, range(100)) if not passes(key))
    for key in [key for key in map("m{:03}".format, range(100)) if passes(key)][:20]:
        await behind.write(key, "v")
    assert migration.summary.opened == 0.5

    async def come() -> None:
        await behind.write(new_key, "v")

    migration.old.after["scan"] = come
    assert (await migration.backfill(page_size=5, parts=1).run()).covered == 1.0
    assert migration.old.values[new_key] == "v"
    assert new_key in migration.new.values or migration.summary.stale == 1
