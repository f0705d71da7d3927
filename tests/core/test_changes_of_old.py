"""What a change owes its caller while Old is written."""

from __future__ import annotations

import asyncio

import pytest

from zddm_flags import AsyncProxy, Proxy, TrafficGate
from zddm_flags.errors import NotApplied, Unsupported


class Store:
    """A store in memory."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def read(self, key: str) -> str | None:
        return self.values.get(key)

    async def write(self, key: str, value: str) -> None:
        self.values[key] = value


class SlowStore(Store):
    """Waits before each write until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def write(self, key: str, value: str) -> None:
        self.asked.set()
        await self.go_on.wait()
        await super().write(key, value)


async def test_batch_is_what_it_was_when_it_was_given() -> None:
    """A mapping that its caller changes during write_many does not reach New, or Old, changed."""
    old, new = SlowStore(), Store()
    proxy = AsyncProxy(TrafficGate(1.0), old, new)
    items = {"k": "v1"}
    writing = asyncio.create_task(proxy.write_many(items))
    await old.asked.wait()
    items["k"] = "v2"
    old.go_on.set()
    await writing
    assert (old.values, new.values) == ({"k": "v1"}, {"k": "v1"})


class DeletesInTheOtherWorld:
    """Reads and writes blocking, but its delete is a coroutine, which a blocking caller would never run."""

    def read(self, key: str) -> str | None:
        return None

    def write(self, key: str, value: str) -> None:
        pass

    async def delete(self, key: str) -> None:
        pass


class DeletesBlocking(Store):
    """Is awaited, but for its delete."""

    def delete(self, key: str) -> None:
        pass


def test_optional_method_of_the_other_world_is_refused() -> None:
    """A proxy refuses an adapter whose delete it could not run, instead of losing deletes."""
    with pytest.raises(Unsupported, match=r"old: .*delete\(\) is a coroutine function"):
        Proxy(TrafficGate(1.0), DeletesInTheOtherWorld(), DeletesInTheOtherWorld())
    with pytest.raises(Unsupported, match=r"new: .*delete\(\) is a blocking function"):
        AsyncProxy(TrafficGate(1.0), Store(), DeletesBlocking())


class Refusing(Store):
    """Refuses each write, as an adapter does that knows it took no effect."""

    async def write(self, key: str, value: str) -> None:
        try:
            try:
                raise OSError("no route")
            except OSError as error:
                raise ConnectionError("not connected") from error
        except ConnectionError as error:
            raise NotApplied from error


async def test_refused_write_raises_the_stores_own_error() -> None:
    """The caller gets the error of the store as it is, with the cause that it had."""
    proxy = AsyncProxy(TrafficGate(1.0), Refusing(), Store())
    with pytest.raises(ConnectionError, match="not connected") as caught:
        await proxy.write("k", "v")
    assert isinstance(caught.value.__cause__, OSError)
