"""What a proxy does beside its operations keeps what the operations promise, and goes on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from tests.core.worlds import MANY, Trouble, World
from zddm_flags import AsyncProxy, Copies, Guard, Proxy, Shadow, TrafficGate


async def test_no_probe_after_a_kill(world: World) -> None:
    """A probe that was asked for before a kill is not made after it, and is made once New may be used again."""
    migration = world.migration(1.0, old={"key": 1}, guard=Guard(min_calls=1))
    migration.new.outage()
    await migration.read("key")
    migration.clock.advance(1.0)
    await migration.read("key")
    migration.new.recover()
    migration.proxy.disable()
    migration.calls()
    await migration.work()
    assert migration.calls() == []
    migration.proxy.enable()
    await migration.read("key")
    await migration.work()
    assert migration.stats().guard == "half_open"


async def test_no_comparison_after_a_kill(world: World) -> None:
    """A kill that comes while Old is read for a comparison keeps that from New."""
    values = {"a": 1, "b": 2}
    migration = world.migration(
        1.0, old=values, new=values, old_methods=MANY, new_methods=MANY, shadow=Shadow(share=1.0)
    )
    await migration.read_many(values)

    async def kill() -> None:
        migration.proxy.disable()

    migration.old.after["read_many"] = kill
    migration.calls()
    await migration.work()
    assert "old.read_many" in (calls := migration.calls())
    assert "new.read_many" not in calls


class Values:
    """A blocking store whose reads can fail and whose write of one key waits."""

    def __init__(self, **values: int) -> None:
        self.values = values
        self.broken = False
        self.stalled: str | None = None
        self.waits = threading.Event()
        self.go_on = threading.Event()

    def read(self, key: str) -> int | None:
        if self.broken:
            raise Trouble
        return self.values.get(key)

    def write(self, key: str, value: int) -> None:
        if key == self.stalled:
            self.waits.set()
            self.go_on.wait(60)
        self.values[key] = value


async def test_a_stalled_copy_holds_no_probe() -> None:
    """A copy in the background that New never answers does not keep New from being tried again."""
    world = World("blocking")
    new = Values()
    new.stalled = "stalled"
    guard = Guard(min_calls=2, open_seconds=0.01, max_open_seconds=0.01, trial_calls=1)
    old = Values(stalled=1, other=2)
    with Proxy(TrafficGate(1.0), old, new, guard=guard, copy=Copies(mode="background", on_close="drop")) as proxy:
        proxy.read("stalled")
        await world.until(new.waits.is_set)
        new.broken = True
        while proxy.stats().guard == "closed":
            proxy.read("other")
        new.broken = False

        def recovered() -> bool:
            proxy.read("other")
            return proxy.stats().guard == "closed"

        try:
            await world.until(recovered)
        finally:
            new.go_on.set()


class Replies:
    """An asyncio store whose every read waits for what it is given, or fails."""

    def __init__(self) -> None:
        self.broken = False
        self.wait_seconds = 0.0

    async def read(self, _: str) -> int | None:
        if self.broken:
            raise Trouble
        await asyncio.sleep(self.wait_seconds)
        return 1

    async def write(self, _: str, value: int) -> None: ...


def test_a_probe_outlives_its_event_loop() -> None:
    """A probe whose event loop was closed under it is made again in the next one."""
    new = Replies()
    guard = Guard(min_calls=1, open_seconds=0.01, max_open_seconds=0.01, trial_calls=1)
    proxy: AsyncProxy[str, int] = AsyncProxy(TrafficGate(1.0), Replies(), new, guard=guard)

    async def until(condition: Any) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await proxy.read("key")
                await asyncio.sleep(0.001)

    def probes() -> int:
        return proxy.stats().calls.get(("new", "read"), 0)

    async def leave_a_probe() -> None:
        new.broken = True
        await proxy.read("key")
        new.broken = False
        new.wait_seconds = 60
        await until(lambda: proxy._probe_with is not None)
        await asyncio.sleep(0.1)  # it is on its way by now, or is not: either will do

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_a_probe())
    loop.close()
    new.wait_seconds = 0.0
    asyncio.run(until(lambda: proxy.stats().guard == "closed"))
    assert probes() >= 2
