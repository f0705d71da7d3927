"""One side of a migration: an adapter as the protocol sees it, each call counted, timed, traced and guarded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from zddm_flags._async._world import Calls, bounded, check_adapter
from zddm_flags.deadline import Deadline
from zddm_flags.errors import Unsupported
from zddm_flags.guard import CircuitBreaker
from zddm_flags.protocols import (
    AsyncScannable,
    AsyncStorageAdapter,
    AsyncSupportsDelete,
    AsyncSupportsDeleteMany,
    AsyncSupportsReadMany,
    AsyncSupportsWriteMany,
    Page,
    StoreInfo,
    SupportsDescribe,
)
from zddm_telemetry import MigrationTelemetry, StoreTelemetry

__all__ = ["AsyncStore"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

Operation = Literal["read", "write", "delete", "scan"]

Ended = Callable[[bool | None], object]
"""Is told whether the call raised; None: what ended it was not the store."""

CallEnded = Callable[[str, float, bool], None]
"""Is told of each call that ended: the operation, with `_many` for several keys; seconds; whether it raised."""


class AsyncStore(Generic[K, V]):
    """An adapter with its optional methods filled in. Raises what the adapter raises.

    A batch that the adapter cannot do in one call is done key by key; each such call is a call to the store of
    its own, and none is issued after the deadline.

    A call that the breaker refuses raises `GuardOpen` and is not made. In asyncio one that takes longer than
    `budget_seconds` raises TimeoutError, may yet take effect, and counts as going on until it really ends.
    """

    def __init__(
        self,
        role: Literal["old", "new"],
        adapter: AsyncStorageAdapter[K, V],
        telemetry: MigrationTelemetry,
        ended: CallEnded | None = None,
        breaker: CircuitBreaker | None = None,
        budget_seconds: float | None = None,
    ) -> None:
        check_adapter(role, adapter)
        self._role = role
        self.info = adapter.describe() if isinstance(adapter, SupportsDescribe) else StoreInfo()
        self.telemetry = StoreTelemetry(
            telemetry,
            role,
            system=self.info.system,
            collection=self.info.collection,
            namespace=self.info.namespace,
            remote=self.info.remote,
        )
        self._ended = ended
        self._breaker = breaker
        # What runs in this process is not waited for, so a task of its own for each call would be wasted.
        self._budget = budget_seconds if self.info.remote else None
        # Optional methods are looked up once; None means that the adapter has no such method.
        self._adapter = adapter
        self._delete: AsyncSupportsDelete[K] | None = _having(adapter, "delete")
        self._read_many: AsyncSupportsReadMany[K, V] | None = _having(adapter, "read_many")
        self._write_many: AsyncSupportsWriteMany[K, V] | None = _having(adapter, "write_many")
        self._delete_many: AsyncSupportsDeleteMany[K] | None = _having(adapter, "delete_many")
        self._scannable: AsyncScannable[K, V] | None = _having(adapter, "scan")
        self._partitions: AsyncScannable[K, V] | None = _having(adapter, "partitions")
        self._count: Any = _having(adapter, "count")

    @property
    def can_delete(self) -> bool:
        """Whether a key can be removed from this store."""
        return self._delete is not None

    async def read(self, key: K) -> V | None:
        """The value of `key`, or None."""
        return await self._call("read", 1, self._adapter.read, key)

    async def write(self, key: K, value: V) -> None:
        """Insert or replace."""
        await self._call("write", 1, self._adapter.write, key, value)

    async def delete(self, key: K) -> None:
        """Remove `key`; the caller has seen that `can_delete` is true."""
        if self._delete is None:
            raise NotImplementedError
        await self._call("delete", 1, self._delete.delete, key)

    async def read_many(self, keys: Sequence[K], deadline: Deadline | None = None) -> Mapping[K, V]:
        """The values of `keys`; absent ones are left out. Raises DeadlinePassed where one is given and passes."""
        if len(keys) > 1 and self._read_many is not None:
            if deadline is not None:
                deadline.check()
            return await self._call("read", len(keys), self._read_many.read_many, keys)
        found: dict[K, V] = {}
        for key in keys:
            if deadline is not None:
                deadline.check()
            value = await self.read(key)
            if value is not None:
                found[key] = value
        return found

    async def write_many(self, items: Mapping[K, V], deadline: Deadline) -> None:
        """Insert or replace each. Raises DeadlinePassed, where some may be written and others not."""
        if len(items) > 1 and self._write_many is not None:
            deadline.check()
            await self._call("write", len(items), self._write_many.write_many, items)
            return
        for key, value in items.items():
            deadline.check()
            await self.write(key, value)

    async def delete_many(self, keys: Sequence[K], deadline: Deadline) -> None:
        """Remove each. Raises DeadlinePassed, where some may be removed and others not."""
        if len(keys) > 1 and self._delete_many is not None:
            deadline.check()
            await self._call("delete", len(keys), self._delete_many.delete_many, keys)
            return
        for key in keys:
            deadline.check()
            await self.delete(key)

    @property
    def can_scan(self) -> bool:
        """Whether the store can be walked from end to end."""
        return self._scannable is not None

    async def scan(self, cursor: str | None, limit: int, until: str | None) -> Page[K, V]:
        """One page. Raises Unsupported where the adapter has no `scan`."""
        if self._scannable is None:
            raise Unsupported(f"{self._role}: its adapter has no scan()")
        # An adapter without ranges may know nothing of `until`.
        arguments = (cursor, limit) if until is None else (cursor, limit, until)
        return await self._call("scan", limit, self._scannable.scan, *arguments)

    async def partitions(self, count: int) -> Sequence[tuple[str | None, str | None]]:
        """At most `count` ranges of cursors that cover the store once; the whole, where it knows no others."""
        if self._partitions is None or count == 1:
            return [(None, None)]
        return await self._partitions.partitions(count) or [(None, None)]  # of an empty store it may know none

    async def count(self) -> int | None:
        """About how many keys there are; None where the adapter does not say."""
        return None if self._count is None else int(await self._count.count())

    async def probe(self, key: K) -> None:
        """Read `key`, whatever the breaker says. Raises what that raises."""
        self.telemetry.count("read", 1)
        await self._told("read", 1, _nobody, self._adapter.read, key)

    async def _call(self, operation: Operation, keys: int, call: Calls[T], *arguments: Any) -> T:
        """The one way in which the operations call the adapter."""
        ended: Ended | None = None
        if self._breaker is not None:  # before anything is told: a call that is refused is none
            ended = partial(self._breaker.end, self._breaker.begin())
        telemetry = self.telemetry
        telemetry.count(operation, keys)
        if self._ended is not None or telemetry.migration.recorded:
            return await self._told(operation, keys, ended, call, *arguments)
        return await self._made(ended, call, *arguments)

    async def _told(
        self, operation: Operation, keys: int, ended: Ended | None, call: Calls[T], *arguments: Any
    ) -> T:
        """A call that spans, metrics and the guardrail are told of."""
        started = time.perf_counter()
        try:
            with self.telemetry.call(operation, keys):
                result: T = await self._made(ended, call, *arguments)
        except Exception:
            self._tell(operation, keys, started, failed=True)
            raise
        self._tell(operation, keys, started, failed=False)
        return result

    async def _made(self, ended: Ended | None, call: Calls[T], *arguments: Any) -> T:
        """A call that is made, whoever allowed it. `ended` is told how it ended; None: it has no limit either."""
        if ended is None:
            return await call(*arguments)
        return await bounded(self._budget, ended, call, *arguments)

    def _tell(self, operation: str, keys: int, started: float, *, failed: bool) -> None:
        if self._ended is not None:
            name = operation if keys == 1 else f"{operation}_many"
            self._ended(name, time.perf_counter() - started, failed)


def _nobody(_: bool | None) -> None:
    """Whom it does not concern that a call has ended."""


def _having(adapter: object, method: str) -> Any:
    return adapter if callable(getattr(adapter, method, None)) else None
