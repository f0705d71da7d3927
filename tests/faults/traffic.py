"""What an application does with a proxy from several threads or tasks, remembered so that it can be judged."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from tests.faults.stores import World
from tests.torture.checker import Operation, Violation, check
from tests.worlds import settle

__all__ = ["KEYS", "Traffic"]

KEYS = [f"key {number}" for number in range(40)]
"""Enough of them for some to stay clean for a while when every write leaves a stale one."""
WORKERS = 3
PAUSE_SECONDS = 0.005
BATCH = 3


class Traffic:
    """Threads (blocking) or tasks (asyncio) that read, write and delete until `stop`.

    Every value that is written is unlike all others.

    Attributes:
        slowest: seconds that the longest operation took.
    """

    def __init__(self, world: World, proxy: Any, initial: Mapping[str, bytes]) -> None:
        self._proxy = proxy
        self._initial = initial
        self._stop = threading.Event()
        self._operations: dict[str, list[Operation]] = defaultdict(list)
        self.slowest = 0.0
        self._workers = [
            asyncio.create_task(
                self._work(number) if world == "asyncio" else asyncio.to_thread(asyncio.run, self._work(number))
            )
            for number in range(WORKERS)
        ]

    async def stop(self) -> None:
        """Begin no more operations, and wait for the last; raises what one of them raised."""
        self._stop.set()
        for outcome in await asyncio.gather(*self._workers, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def violations(self) -> dict[str, Violation]:
        """The reads that no order of the operations on their key explains."""
        found = {key: check(_text(self._initial.get(key)), self._operations[key]) for key in KEYS}
        return {key: violation for key, violation in found.items() if violation is not None}

    async def _work(self, number: int) -> None:
        rng = random.Random(number)
        written = 0
        while not self._stop.is_set():
            keys = rng.sample(KEYS, BATCH)
            items = {key: f"{number}.{written + place}".encode() for place, key in enumerate(keys)}
            written += BATCH
            await self._operate(rng.choices(_OPERATIONS, _WEIGHTS)[0], items)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _operate(self, operation: Callable[[Any, dict[str, bytes]], Any], items: dict[str, bytes]) -> None:
        begun = time.monotonic_ns()
        kind, values = await operation(self._proxy, items)
        ended = time.monotonic_ns()
        self.slowest = max(self.slowest, (ended - begun) / 1e9)
        for key, value in values.items():
            self._operations[key].append(Operation(kind, _text(value), begun, ended))


async def _read(proxy: Any, items: dict[str, bytes]) -> Any:
    key = next(iter(items))
    return "read", {key: await settle(proxy.read(key))}


async def _read_many(proxy: Any, items: dict[str, bytes]) -> Any:
    return "read", dict.fromkeys(items) | await settle(proxy.read_many(items))


async def _write(proxy: Any, items: dict[str, bytes]) -> Any:
    key, value = next(iter(items.items()))
    await settle(proxy.write(key, value))
    return "write", {key: value}


async def _write_many(proxy: Any, items: dict[str, bytes]) -> Any:
    await settle(proxy.write_many(items))
    return "write", items


async def _delete(proxy: Any, items: dict[str, bytes]) -> Any:
    key = next(iter(items))
    await settle(proxy.delete(key))
    return "write", {key: None}


_OPERATIONS = (_read, _read_many, _write, _write_many, _delete)
_WEIGHTS = (60, 15, 12, 6, 7)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
