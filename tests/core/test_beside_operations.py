"""What a proxy does beside its operations keeps what the operations promise, and goes on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.core.worlds import MANY, Migration, Trouble, World
from zddm_flags import AsyncProxy, Copies, Guard, Guardrail, Proxy, Shadow, TrafficGate


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


async def test_no_probe_after_close(world: World) -> None:
    """A probe that was asked for before close() is not made after it: New may be closed by then."""
    migration = world.migration(1.0, old={"key": 1}, guard=Guard(min_calls=1))
    migration.new.outage()
    await migration.read("key")
    migration.clock.advance(1.0)
    await migration.read("key")
    await world.call(migration.proxy.close)
    migration.calls()
    await world.until(lambda: not migration.proxy._probing.alive)
    assert migration.calls() == []


async def test_a_close_that_is_cancelled() -> None:
    """A close() whose caller does not wait for it leaves no key to be copied later."""
    proxy = AsyncProxy(TrafficGate(1.0), Replies(), Nothing(), copy=Copies(mode="background", per_second=1))
    for key in "abc":
        await proxy.read(key)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(proxy.close(), 0.1)
    assert proxy.stats().copies_waiting == 0
    await proxy.close()


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


class Nothing(Replies):
    """The same, which has nothing."""

    async def read(self, _: str) -> int | None:
        return None


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


async def test_a_true_difference_is_found(world: World) -> None:
    """What New serves wrongly is found, and the guardrail acts on it."""
    migration = compared(world)
    migration.new.values["key"] = 2
    await migration.read("key")
    assert await migration.work() == 1
    assert not migration.proxy.enabled


@pytest.mark.parametrize(("store", "verdict"), [("old", "old_failed"), ("new", "unsure")])
async def test_a_comparison_that_fails_is_counted(world: World, store: str, verdict: str) -> None:
    """Each key that was to be compared has a verdict, whichever store failed; none of them stays dirty."""
    migration = compared(world)
    await migration.read("key")
    getattr(migration, store).outage()
    assert await migration.work() == 0
    counts = {path: keys for (name, path), keys in migration.stats().operations.items() if name == "compare"}
    assert counts == {verdict: 1}
    assert migration.left == (0, 0)


async def test_a_copy_that_old_fails_is_counted(world: World) -> None:
    """A key whose copy in the background failed has a path."""
    migration = world.migration(1.0, old={"key": 1}, copy="background")
    await migration.read("key")
    migration.old.outage()
    await migration.work()
    assert migration.stats().operations["copy", "old_failed"] == 1
    assert migration.left == (0, 0)


@pytest.mark.parametrize("size", [None, "many", float("nan"), -(10**9)])
async def test_a_size_that_is_none_fails_no_read(world: World, size: Any) -> None:
    """Whatever `size_of` returns, the read that asked for it returns."""
    copies = Copies(mode="background", size_of=lambda _: size)
    migration = world.migration(1.0, old={"key": 1}, copy=copies)
    assert await migration.read("key") == 1
    await migration.work()
    assert migration.new.values == {"key": 1}


def compared(world: World, **options: Any) -> Migration:
    """A migration of one key that compares every key that New served, and that one difference kills."""
    guardrail = Guardrail(max_differing_keys=0)
    shadow = Shadow(share=1.0)
    return world.migration(1.0, old={"key": 1}, new={"key": 1}, shadow=shadow, guardrail=guardrail, **options)


async def test_cancelled_calls_do_not_close_the_guard() -> None:
    """Calls that their callers cancelled, in time, are no trials that New has passed."""
    new = Replies()
    guard = Guard(min_calls=1, open_seconds=0.01, max_open_seconds=0.01, trial_calls=2)
    proxy: AsyncProxy[str, int] = AsyncProxy(TrafficGate(1.0), Replies(), new, guard=guard)
    new.broken = True
    await proxy.read("key")
    new.broken = False
    async with asyncio.timeout(30):
        while proxy.stats().guard == "open":
            await proxy.read("key")
            await asyncio.sleep(0.001)
    assert proxy.stats().guard == "half_open"
    new.wait_seconds = 60
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await proxy.read("key")
    assert proxy.stats().guard == "half_open"
    new.wait_seconds = 0.0
    for _ in range(2):
        assert await proxy.read("key") == 1
    assert proxy.stats().guard == "closed"


async def test_a_driver_that_cancels_its_own_call_cancels_no_read() -> None:
    """A driver that cancels what waits for a lost connection has failed: Old serves the read."""

    class Cancelling(Replies):
        async def read(self, _: str) -> int | None:
            lost: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(lost.cancel)
            return await lost

    proxy: AsyncProxy[str, int] = AsyncProxy(TrafficGate(1.0), Replies(), Cancelling(), guard=Guard(min_calls=2))
    for _ in range(2):
        assert await proxy.read("key") == 1
    assert proxy.stats().operations == {("read", "new_failed"): 2}
    assert proxy.stats().guard == "open"


def test_a_guardrail_that_is_crossed_as_it_starts_anew() -> None:
    """A call that ends while the proxy is enabled again, and crosses a threshold, disables it again."""
    new = Values(key=1)
    new.broken = True
    guardrail = Guardrail(max_error_share=0.5, min_calls=1)
    proxy: Proxy[str, int] = Proxy(TrafficGate(1.0), Values(key=1), new, guard=None, guardrail=guardrail)
    proxy.read("key")
    assert not proxy.enabled
    watch = proxy._guardrail
    assert watch is not None
    restart = watch.restart

    def restart_as_a_call_ends() -> None:
        restart()
        proxy._call_ended("new", "read", 0.1, failed=True)

    watch.restart = restart_as_a_call_ends  # type: ignore[method-assign] # another thread comes in right after it
    proxy.enable()
    proxy.read("key")
    assert not proxy.enabled
    assert proxy.stats().disabled_by is not None


@pytest.mark.parametrize("held", [{}, {"key": 1}])
async def test_nothing_is_left_behind_by_close(world: World, held: dict[str, int]) -> None:
    """A read in progress at `close()` leaves nothing to be done in the background after it."""
    migration = world.migration(1.0, old={"key": 1}, new=held, copy="background", shadow=Shadow(share=1.0))

    async def close() -> None:
        await world.call(migration.proxy.close)

    migration.new.after["read"] = close
    assert await migration.read("key") == 1
    migration.calls()
    await migration.work()
    assert migration.calls() == []
    assert not migration.proxy._chores.alive


async def test_a_copy_that_is_refused_leaves_its_key_as_it_was(world: World) -> None:
    """A copy that the guard refuses makes no row in the ledger: New lacks the key, as before."""
    guard = Guard(min_calls=1, max_failure_share=0.1)
    migration = world.migration(1.0, old={"key": 1, "other": 2}, guard=guard)
    await migration.read("other")  # opened, so that nothing but the guard is in the way

    async def fail_new() -> None:
        migration.new.outage()
        await migration.read("other")
        migration.new.recover()

    migration.old.after["read"] = fail_new
    assert await migration.read("key") == 1
    assert migration.stats().operations["read", "guard_open"] == 1
    assert migration.left == (0, 0)
