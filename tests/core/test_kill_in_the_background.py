"""A kill also holds for what a proxy does in the background."""

from __future__ import annotations

from structlog.testing import capture_logs

from zddm_adapters import AsyncInMemoryAdapter
from zddm_flags import AsyncProxy, Guard, Shadow, TrafficGate


class Counted(AsyncInMemoryAdapter[str, int]):
    """A store that counts its reads, and can be down."""

    def __init__(self, initial: dict[str, int] | None = None) -> None:
        super().__init__(initial)
        self.reads = 0
        self.down = False

    async def read(self, key: str) -> int | None:
        self.reads += 1
        if self.down:
            raise ConnectionError
        return await super().read(key)


async def test_no_probe_after_a_kill():
    """A probe that is due is not made once the proxy is disabled, and is due again once it is enabled."""
    now = 0.0
    new = Counted()
    with capture_logs() as events:
        proxy = AsyncProxy(
            TrafficGate(1.0), Counted({"k": 1}), new, guard=Guard(min_calls=1), clock=lambda: now, copy="off"
        )
        new.down = True
        await proxy.read("k")
        assert proxy.stats().guard == "open"
        now, reads = 2.0, new.reads
        await proxy.read("k")  # now it is due, a moment later
        proxy.disable()
        new.down = False
        await proxy.do_background_work()
        assert new.reads == reads
        proxy.enable()
        await proxy.read("k")
        await proxy.do_background_work()
        assert (new.reads, proxy.stats().guard) == (reads + 1, "half_open")
    assert [event["event"] for event in events].count("guard_opened") == 1


class Killing(Counted):
    """An Old that brings the kill while it is read for many keys."""

    proxy: AsyncProxy[str, int]

    async def read_many(self, keys):
        self.proxy.disable()
        return await super().read_many(keys)


class Watched(AsyncInMemoryAdapter[str, int]):
    """A New that counts its batches."""

    batches = 0

    async def read_many(self, keys):
        self.batches += 1
        return await super().read_many(keys)


async def test_no_comparison_after_a_kill():
    """A kill that comes while Old is read for a comparison of many keys is in time for New."""
    items = {"a": 1, "b": 2}
    old, new = Killing(items), Watched(items)
    with capture_logs():
        proxy = old.proxy = AsyncProxy(TrafficGate(1.0), old, new, shadow=Shadow(share=1.0))
        assert [await proxy.read(key) for key in items] == [1, 2]
        await proxy.do_background_work()
    assert (proxy.enabled, new.batches) == (False, 0)
