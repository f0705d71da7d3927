"""How a contract runs in the blocking world. Its twin in `_async` is hand-written too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
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

Body: TypeAlias = None
COROUTINES = False
OTHERWISE = "a coroutine function: an asyncio adapter is checked with AsyncStorageAdapterContract"
OTHERWISE_LEDGER = "a coroutine function: an asyncio ledger is checked with AsyncLedgerContract"
GENERATOR = "a `def` with a `yield`"
START_SECONDS = 30


def run(body: Callable[[], Body]) -> None:
    """Run one test."""
    __tracebackhide__ = True
    body()


def opened(given: object, name: str) -> AbstractContextManager[Any]:
    """What a hook of the user yields, until the block is left."""
    if not isinstance(given, Generator):
        raise TypeError(f"{name}() must be {GENERATOR}; it gave {type(given).__name__}")
    return contextmanager(lambda: given)()


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The results of these calls, each made in a thread of its own; the first error, when all are over."""
    ready = threading.Barrier(len(calls))

    def made(call: Callable[[], T]) -> T:
        ready.wait(START_SECONDS)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(made, call) for call in calls]
    return [each.result() for each in running]


def pass_time(seconds: float) -> None:
    """Let this time pass."""
    time.sleep(seconds)
