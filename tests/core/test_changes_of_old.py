"""What a change owes its caller while Old is written."""

from __future__ import annotations

import asyncio

import pytest

from zddm_flags import AsyncProxy, TrafficGate
from zddm_flags.errors import NotApplied


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
