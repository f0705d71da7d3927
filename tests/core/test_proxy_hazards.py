"""The seed's algorithm beside ours, on schedules that no sleep decides: a hook comes in the middle of a call."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.worlds import Migration, Trouble, World
from zddm_flags import TrafficGate

KEY = "k"


class SeedProxy:
    """The seed's algorithm: read New, on a miss read Old and copy; write Old, then New."""

    def __init__(self, migration: Migration, rate: float | None = None) -> None:
        self.old, self.new = migration.old, migration.new
        self.gate = migration.gate if rate is None else TrafficGate(rate)
        self.enabled = True

    def _passes(self, key: Any) -> bool:
        return self.enabled and self.gate.should_pass(key)

    async def read(self, key: Any) -> Any:
        if not self._passes(key):
            return await self.old.read(key)
        value = await self.new.read(key)
        if value is None:
            value = await self.old.read(key)
            if value is not None:
                await self.new.write(key, value)
        return value

    async def write(self, key: Any, value: Any) -> None:
        await self.old.write(key, value)
        if self._passes(key):
            await self.new.write(key, value)

    async def delete(self, key: Any) -> None:
        await self.old.delete(key)
        if self._passes(key):
            await self.new.delete(key)


class Side:
    """One of the two algorithms, and what it is expected to serve."""

    def __init__(self, name: str) -> None:
        self.is_seed = name == "seed"

    def proxy(self, migration: Migration) -> Any:
        return SeedProxy(migration) if self.is_seed else migration

    def elsewhere(self, migration: Migration, rate: float) -> Any:
        return SeedProxy(migration, rate) if self.is_seed else migration.in_another_process(rate)

    def check(self, served: object, *, seed: object, ours: object) -> None:
        assert served == (seed if self.is_seed else ours)


@pytest.fixture(params=["seed", "ours"])
def side(request: pytest.FixtureRequest) -> Side:
    return Side(request.param)


def enable(proxy: Any, migration: Migration, on: bool) -> None:
    if isinstance(proxy, SeedProxy):
        proxy.enabled = on
    elif on:
        migration.proxy.enable()
    else:
        migration.proxy.disable()


async def test_resume_after_kill(world: World, side: Side) -> None:
    """H6: kill, write, resume: New does not serve what it missed."""
    migration = world.migration()
    proxy = side.proxy(migration)
    await proxy.write(KEY, "v1")
    enable(proxy, migration, False)
    await proxy.write(KEY, "v2")
    enable(proxy, migration, True)
    side.check(await proxy.read(KEY), seed="v1", ours="v2")


async def test_delete_while_killed(world: World, side: Side) -> None:
    """H6: what was deleted while New was switched off does not come back."""
    migration = world.migration()
    proxy = side.proxy(migration)
    await proxy.write(KEY, "v1")
    enable(proxy, migration, False)
    await proxy.delete(KEY)
    enable(proxy, migration, True)
    side.check(await proxy.read(KEY), seed="v1", ours=None)
    side.check(migration.new.values, seed={KEY: "v1"}, ours={})


async def test_ramp_down_and_up(world: World, side: Side) -> None:
    """H7: ramp down, write, ramp up: New does not serve what it missed."""
    migration = world.migration()
    proxy = side.proxy(migration)
    await proxy.write(KEY, "v1")
    migration.gate.set_rate(0.0)
    await proxy.write(KEY, "v2")
    migration.gate.set_rate(1.0)
    side.check(await proxy.read(KEY), seed="v1", ours="v2")


async def test_processes_that_see_the_flag_at_different_times(world: World, side: Side) -> None:
    """H8: a write of a process that has not seen the ramp yet is served by one that has."""
    migration = world.migration()
    ahead, behind = side.proxy(migration), side.elsewhere(migration, 0.0)
    await ahead.write(KEY, "v1")
    await behind.write(KEY, "v2")
    side.check(await ahead.read(KEY), seed="v1", ours="v2")


async def test_stale_copy(world: World, side: Side) -> None:
    """H1: a copy of v1 does not land on a write of v2."""
    migration = world.migration(old={KEY: "v1"})
    proxy = side.proxy(migration)

    async def write_meanwhile() -> None:
        await proxy.write(KEY, "v2")

    migration.old.after["read"] = write_meanwhile  # the copy has v1 in its hands
    assert await proxy.read(KEY) == "v1"
    side.check(await proxy.read(KEY), seed="v1", ours="v2")


async def test_two_writers(world: World, side: Side) -> None:
    """H2: two writers who reach Old and New in different orders leave nothing wrong to be read."""
    migration = world.migration()
    proxy = side.proxy(migration)

    async def overtake() -> None:
        await proxy.write(KEY, "v2")

    migration.old.after["write"] = overtake  # v1 is in Old and not in New yet
    await proxy.write(KEY, "v1")
    assert migration.old.values == {KEY: "v2"}
    side.check(await proxy.read(KEY), seed="v1", ours="v2")


async def test_resurrected_delete(world: World, side: Side) -> None:
    """H3: a copy does not bring back what was deleted meanwhile."""
    migration = world.migration(old={KEY: "v1"})
    proxy = side.proxy(migration)

    async def delete_meanwhile() -> None:
        await proxy.delete(KEY)

    migration.old.after["read"] = delete_meanwhile
    assert await proxy.read(KEY) == "v1"
    side.check(await proxy.read(KEY), seed="v1", ours=None)


async def test_crash_between_the_two_writes(world: World, side: Side) -> None:
    """H4: a process that dies after Old was written leaves nothing wrong to be read."""

    class Death(BaseException):
        """Nothing of the operation runs after it."""

    migration = world.migration()
    proxy = side.proxy(migration)
    await proxy.write(KEY, "v1")
    migration.old.after["write"] = Death()
    with pytest.raises(Death):
        await proxy.write(KEY, "v2")
    migration.old.recover()
    side.check(await proxy.read(KEY), seed="v1", ours="v2")
    migration.clock.advance(60)
    side.check(await proxy.read(KEY), seed="v1", ours="v2")
    side.check(await proxy.read(KEY), seed="v1", ours="v2")


async def test_write_of_new_that_fails_and_lands_late(world: World, side: Side) -> None:
    """H5: a write of New that failed, and takes effect after the next one did, is never served."""
    migration = world.migration()
    proxy = side.proxy(migration)
    migration.new.before["write"] = Trouble()
    try:
        await proxy.write(KEY, "v1")
    except Trouble:
        assert side.is_seed
    migration.new.recover()
    await proxy.write(KEY, "v2")
    migration.new.put({KEY: "v1"})  # the first call lands
    side.check(await proxy.read(KEY), seed="v1", ours="v2")
    migration.clock.advance(60)
    side.check(await proxy.read(KEY), seed="v1", ours="v2")
    side.check(migration.new.values, seed={KEY: "v1"}, ours={KEY: "v2"})


async def test_reads_never_go_back(world: World, side: Side) -> None:
    """H9: after a read saw v2 in Old, no read sees New's v1."""
    migration = world.migration(old={KEY: "v1"}, new={KEY: "v1"})
    proxy = side.proxy(migration)
    behind = side.elsewhere(migration, 0.0)
    seen: list[object] = []

    async def read_twice() -> None:
        seen.append(await behind.read(KEY))
        seen.append(await proxy.read(KEY))

    migration.old.after["write"] = read_twice
    await proxy.write(KEY, "v2")
    side.check(seen, seed=["v2", "v1"], ours=["v2", "v2"])
