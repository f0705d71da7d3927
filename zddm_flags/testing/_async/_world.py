"""How a contract runs in the asyncio world. Its twin in `_sync` is hand-written too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias, TypeVar

__all__ = [
    "COROUTINES",
    "GENERATOR",
    "OTHERWISE",
    "OTHERWISE_LEDGER",
    "Body",
    "opened",
    "pass_time",
    "run",
    "together",
]

T = TypeVar("T")

Body: TypeAlias = Coroutine[Any, Any, None]
COROUTINES = True
OTHERWISE = "no coroutine function: a blocking adapter is checked with StorageAdapterContract"
OTHERWISE_LEDGER = "no coroutine function: a blocking ledger is checked with LedgerContract"
GENERATOR = "an `async def` with a `yield`, so that it runs in the event loop of the test"


def run(body: Callable[[], Body]) -> None:
    """Run one test in an event loop of its own, leaving alone the loop that the thread may have."""
    __tracebackhide__ = True
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(body())


def opened(given: object, name: str) -> AbstractAsyncContextManager[Any]:
    """What a hook of the user yields, until the block is left."""
    if not isinstance(given, AsyncGenerator):
        raise TypeError(f"{name}() must be {GENERATOR}; it gave {type(given).__name__}")
    return asynccontextmanager(lambda: given)()


async def together(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """The results of these calls, each made in a task of its own; the first error, when all are over."""

    async def made(call: Callable[[], Awaitable[T]]) -> T:
        return await call()

    tasks = [asyncio.ensure_future(made(call)) for call in calls]
    await asyncio.wait(tasks)
    return [task.result() for task in tasks]


async def pass_time(seconds: float) -> None:
    """Let this time pass."""
    await asyncio.sleep(seconds)
