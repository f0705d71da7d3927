"""A blocking store in an asyncio program."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zddm_adapters._optional import attach_optional_methods
from zddm_flags.errors import NotApplied
from zddm_flags.protocols import Page, StorageAdapter, StoreInfo
from zddm_flags.worlds import is_coroutine_function

__all__ = ["ThreadedAdapter"]

CHANGES = {"write", "delete", "write_many", "delete_many"}

K = TypeVar("K")
V = TypeVar("V")


class ThreadedAdapter(Generic[K, V]):
    """An asyncio adapter that runs a blocking adapter's calls in threads.

    Context variables are carried into the thread, so that a span of the driver has the right parent. The
    adapter has the optional methods that `adapter` has, and no others. (A type checker sees them all.)
    `adapter` must be thread-safe; it is called by at most as many threads as the executor has, and further
    calls wait for a free one, for `max_wait_seconds` at the longest.

    A call that is cancelled while it waits for a thread never starts. One that is cancelled while it runs
    goes on in its thread and may land late: the caller sees `CancelledError`, which a proxy takes as
    "unknown". Give the driver time-outs of its own that end a call within the proxy's `max_call_seconds`, less
    `max_wait_seconds`.

    Args:
        adapter: the blocking store.
        max_workers: the number of threads; None for `ThreadPoolExecutor`'s default (CPUs + 4, at most 32).
        executor: use this one instead; it is the caller's to shut down. Its workers must be threads.
        max_wait_seconds: above 0. A call that finds no free thread for so long never reaches the store: a read
            raises `TimeoutError`, a change `NotApplied` from one.

    Raises:
        TypeError: `adapter` is an asyncio one, which needs no threads.
        ValueError: both `max_workers` and `executor` are given, or `max_wait_seconds` is not above 0.
    """

    if TYPE_CHECKING:  # at run time each is there only if the wrapped adapter has it

        async def delete(self, key: K) -> None:
            """Remove `key`; no error where it is absent."""

        async def read_many(self, keys: Sequence[K]) -> Mapping[K, V]:
            """The values of `keys`; absent keys are left out."""
            ...

        async def write_many(self, items: Mapping[K, V]) -> None:
            """Insert or replace each."""

        async def delete_many(self, keys: Sequence[K]) -> None:
            """Remove each; no error where one is absent."""

        async def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[K, V]:
            """At most `limit` items after `cursor` and, where the adapter knows it, up to and with `until`."""
            ...

        async def partitions(self, count: int) -> Sequence[tuple[str | None, str | None]]:
            """At most `count` ranges that cover the store once."""
            ...

        async def count(self) -> int:
            """About how many keys the store holds now."""
            ...

        def describe(self) -> StoreInfo:
            """What the wrapped adapter says."""
            ...

    def __init__(
        self,
        adapter: StorageAdapter[K, V],
        *,
        max_workers: int | None = None,
        executor: Executor | None = None,
        max_wait_seconds: float = 5.0,
    ) -> None:
        if max_workers is not None and executor is not None:
            raise ValueError("give max_workers or executor, not both")
        if not max_wait_seconds > 0:
            raise ValueError("max_wait_seconds must be above 0")
        if is_coroutine_function(adapter.read) or is_coroutine_function(adapter.write):
            raise TypeError(f"{type(adapter).__name__} is an asyncio adapter: use it as it is, without threads")
        self._adapter = adapter
        self._max_wait_seconds = max_wait_seconds
        self._owned = executor is None
        self._executor = executor or ThreadPoolExecutor(max_workers, thread_name_prefix="zddm-adapter")
        attach_optional_methods(self, adapter, self._threaded)

    async def read(self, key: K) -> V | None:
        """The value of `key`, or None where the store has none."""
        value: V | None = await self._run("read", key)
        return value

    async def write(self, key: K, value: V) -> None:
        """Insert or replace; committed when it returns."""
        await self._run("write", key, value)

    def close(self) -> None:
        """Start no more calls; those in flight go on. Does not wait, nor close the adapter. Idempotent."""
        if self._owned:
            self._executor.shutdown(wait=False)

    def _threaded(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*arguments: Any, **named: Any) -> Any:
            return await self._run(name, *arguments, **named)

        return call

    async def _run(self, name: str, *arguments: Any, **named: Any) -> Any:
        context = contextvars.copy_context()
        call = partial(context.run, self._call, name, time.monotonic(), *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def _call(self, name: str, asked_at: float, *arguments: Any, **named: Any) -> Any:
        # A change that waited for longer could land when its token is reaped, over a later one (H5).
        if time.monotonic() - asked_at > self._max_wait_seconds:
            late = TimeoutError("no thread was free within max_wait_seconds")
            if name in CHANGES:
                raise NotApplied("the store was not called") from late
            raise late
        return getattr(self._adapter, name)(*arguments, **named)
