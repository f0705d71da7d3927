"""Operations that go on, in both worlds, while a test does something to LaunchDarkly."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.worlds import settle
from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_flags import AsyncProxy, Proxy, TrafficGate

DEADLINE = 10.0
"""Seconds within which operations have to go on, on a machine that has other things to do."""

BLOCKED = 3.0
"""Seconds from which an operation was waiting for something: in memory it takes microseconds."""

PAUSE = 0.002
"""Seconds between two rounds of operations, so that they leave the machine to others."""

KEYS = [f"key-{number}" for number in range(40)]


@dataclass
class _Migration:
    """One proxy of either world, its Old, and what was written last."""

    proxy: Any
    old: Any
    expected: dict[str, str] = field(default_factory=dict)

    def calls_to_new(self) -> int:
        return sum(count for (store, _), count in self.proxy.stats().calls.items() if store == "new")


class _World:
    """The migrations of one world, used all the time by one thread."""

    def __init__(self, name: str, migrations: Sequence[_Migration], changed: threading.Condition) -> None:
        self.migrations = migrations
        self.rounds = 0
        self.longest = 0.0
        self.wrong: list[str] = []
        self._changed = changed
        self._stop = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._go()), name=name, daemon=True)

    def stop(self) -> None:
        self._stop.set()
        self.thread.join(DEADLINE)

    async def _go(self) -> None:
        # The blocking proxies block this loop, which is nobody else's.
        while not self._stop.is_set():
            for migration in self.migrations:
                await self._round(migration)
            with self._changed:
                self.rounds += 1
                self._changed.notify_all()
            await asyncio.sleep(PAUSE)
        for migration in self.migrations:
            await settle(migration.proxy.close())

    async def _round(self, migration: _Migration) -> None:
        proxy, expected = migration.proxy, migration.expected
        first = self.rounds * 7 % len(KEYS)
        mine = (KEYS + KEYS)[first : first + 7]
        for key in mine[:5]:
            value = f"{key} in round {self.rounds}"
            if await self._call("write", proxy.write, key, value) is None:
                expected[key] = value
        if await self._call("delete", proxy.delete, mine[5]) is None:
            expected.pop(mine[5], None)
        for key in mine:
            self._check(f"read of {key}", await self._call("read", proxy.read, key), expected.get(key))
        self._check("read of all", await self._call("read_many", proxy.read_many, KEYS), expected)

    async def _call(self, name: str, operation: Callable[..., Any], *arguments: Any) -> Any:
        """What the operation returned, or the exception that it raised."""
        began = time.monotonic()
        try:
            return await settle(operation(*arguments))
        except Exception as error:
            self.wrong.append(f"{name} raised {error!r}")
            return error
        finally:
            self.longest = max(self.longest, time.monotonic() - began)

    def _check(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.wrong.append(f"{what} gave {found!r}, not {expected!r}")


class Traffic:
    """Operations through a `Proxy` and an `AsyncProxy` on each gate, without end, each checked.

    A read has to return what was written last. At the end of the `with`, operations that raised, returned
    anything else or were held up fail the test, and so does an Old that lacks a write.
    """

    def __init__(self, *gates: TrafficGate) -> None:
        self._changed = threading.Condition()
        blocking: list[_Migration] = []
        asyncio_: list[_Migration] = []
        for gate in gates:
            old = InMemoryAdapter[str, str]()
            blocking.append(_Migration(Proxy(gate, old, InMemoryAdapter[str, str]()), old))
            async_old = AsyncInMemoryAdapter[str, str]()
            async_proxy = AsyncProxy(gate, async_old, AsyncInMemoryAdapter[str, str]())
            asyncio_.append(_Migration(async_proxy, async_old))
        self._migrations = [*blocking, *asyncio_]
        self._worlds = [
            _World("blocking", blocking, self._changed),
            _World("asyncio", asyncio_, self._changed),
        ]

    @property
    def proxies(self) -> list[Any]:
        """All proxies, of both worlds."""
        return [migration.proxy for migration in self._migrations]

    def go_on(self, rounds: int = 2) -> None:
        """Return when both worlds have gone on for so many rounds: from 2 on, a whole one since this call."""
        with self._changed:
            goals = [world.rounds + rounds for world in self._worlds]
            reached = self._changed.wait_for(
                lambda: all(world.rounds >= goal for world, goal in zip(self._worlds, goals, strict=True)),
                DEADLINE,
            )
        assert reached, "operations stopped"

    def reaches_new(self) -> bool:
        """Whether operations that begin after this call use New. It is the same for every proxy."""
        self.go_on(1)
        before = [migration.calls_to_new() for migration in self._migrations]
        self.go_on()
        after = [migration.calls_to_new() for migration in self._migrations]
        (answer,) = {now > then for now, then in zip(after, before, strict=True)}
        return answer

    def __enter__(self) -> Self:
        for world in self._worlds:
            world.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        for world in self._worlds:
            world.stop()
        if kind is not None:
            return
        for world in self._worlds:
            assert not world.thread.is_alive(), "an operation does not end"
            assert not world.wrong, f"{len(world.wrong)} operations went wrong: {world.wrong[:5]}"
            assert world.rounds > 0, "there were no operations"
            assert world.longest < BLOCKED, f"an operation took {world.longest} s"
        for migration in self._migrations:
            in_old = asyncio.run(_all(migration.old))
            assert in_old == migration.expected, "Old lacks a write"


async def _all(store: Any) -> dict[str, str]:
    return await settle(store.read_many(KEYS))
