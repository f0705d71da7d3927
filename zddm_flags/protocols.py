"""What a store must offer to take part, and what it may offer besides.

`StorageAdapter` is all that must be written. The other protocols are optional: what is found is used. Reads and
writes never call `Scannable` and `SupportsCount`; a backfill and a verify do, for they walk all keys. Every
protocol has an asyncio twin with the prefix `Async`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, runtime_checkable

__all__ = [
    "AsyncScannable",
    "AsyncStorageAdapter",
    "AsyncSupportsCount",
    "AsyncSupportsDelete",
    "AsyncSupportsDeleteMany",
    "AsyncSupportsReadMany",
    "AsyncSupportsWriteMany",
    "Page",
    "Scannable",
    "StorageAdapter",
    "StoreInfo",
    "SupportsCount",
    "SupportsDelete",
    "SupportsDeleteMany",
    "SupportsDescribe",
    "SupportsReadMany",
    "SupportsWriteMany",
]

K = TypeVar("K")
V = TypeVar("V")
K_contra = TypeVar("K_contra", contravariant=True)
V_co = TypeVar("V_co", covariant=True)
V_contra = TypeVar("V_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What an adapter says of its store: for spans, and for what the protocol may rely on.

    Attributes:
        system: `db.system.name` of the OpenTelemetry conventions, such as `postgresql`; None if unknown.
        collection: table, prefix or bucket (`db.collection.name`); None if there is none.
        namespace: database or keyspace (`db.namespace`); None if there is none.
        remote: the store runs in another process, so that a call to it is a CLIENT span.
        strong_reads: a read sees every write that was acknowledged before it began. An Old without it is
            never copied from; a New without it is refused.
        expires: values disappear by themselves after a time.
    """

    system: str | None = None
    collection: str | None = None
    namespace: str | None = None
    remote: bool = True
    strong_reads: bool = True
    expires: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[K, V]):
    """Some items of a scan, and the cursor at which to go on: None when there are no more."""

    items: Sequence[tuple[K, V]] = field(repr=False)
    next_cursor: str | None


@runtime_checkable
class StorageAdapter(Protocol[K_contra, V]):
    """A store, seen as a map. Thread-safe, if the proxy is used from several threads.

    Name the arguments as you like. A value is never None. An error is raised, never returned as an absent key.
    Where a write certainly took no effect the adapter raises `NotApplied` from the store's error; any other error
    means "unknown". The driver's own retries of writes should be off.
    """

    def read(self, key: K_contra, /) -> V | None:
        """The value of `key`, or None where the store has none."""
        ...

    def write(self, key: K_contra, value: V, /) -> None:
        """Insert or replace; committed and visible to every reader when it returns."""
        ...


@runtime_checkable
class AsyncStorageAdapter(Protocol[K_contra, V]):
    """The asyncio twin of `StorageAdapter`."""

    async def read(self, key: K_contra, /) -> V | None:
        """The value of `key`, or None where the store has none."""
        ...

    async def write(self, key: K_contra, value: V, /) -> None:
        """Insert or replace; committed and visible to every reader when it returns."""
        ...


@runtime_checkable
class SupportsDelete(Protocol[K_contra]):
    """A store that can delete."""

    def delete(self, key: K_contra, /) -> None:
        """Remove `key`; no error where it is absent. Committed when it returns."""
        ...


@runtime_checkable
class AsyncSupportsDelete(Protocol[K_contra]):
    """The asyncio twin of `SupportsDelete`."""

    async def delete(self, key: K_contra, /) -> None:
        """Remove `key`; no error where it is absent. Committed when it returns."""
        ...


@runtime_checkable
class SupportsReadMany(Protocol[K, V_co]):
    """A store that reads many keys in one call."""

    def read_many(self, keys: Sequence[K], /) -> Mapping[K, V_co]:
        """The values of `keys`; absent keys are left out. The mapping's keys equal those asked for."""
        ...


@runtime_checkable
class AsyncSupportsReadMany(Protocol[K, V_co]):
    """The asyncio twin of `SupportsReadMany`."""

    async def read_many(self, keys: Sequence[K], /) -> Mapping[K, V_co]:
        """The values of `keys`; absent keys are left out. The mapping's keys equal those asked for."""
        ...


@runtime_checkable
class SupportsWriteMany(Protocol[K, V_contra]):
    """A store that writes many keys in one call."""

    def write_many(self, items: Mapping[K, V_contra], /) -> None:
        """Insert or replace each. Where it raises anything but `NotApplied`, some may have been written."""
        ...


@runtime_checkable
class AsyncSupportsWriteMany(Protocol[K, V_contra]):
    """The asyncio twin of `SupportsWriteMany`."""

    async def write_many(self, items: Mapping[K, V_contra], /) -> None:
        """Insert or replace each. Where it raises anything but `NotApplied`, some may have been written."""
        ...


@runtime_checkable
class SupportsDeleteMany(Protocol[K_contra]):
    """A store that deletes many keys in one call."""

    def delete_many(self, keys: Sequence[K_contra], /) -> None:
        """Remove each; no error where one is absent."""
        ...


@runtime_checkable
class AsyncSupportsDeleteMany(Protocol[K_contra]):
    """The asyncio twin of `SupportsDeleteMany`."""

    async def delete_many(self, keys: Sequence[K_contra], /) -> None:
        """Remove each; no error where one is absent."""
        ...


@runtime_checkable
class Scannable(Protocol[K, V]):
    """A store that can be walked from end to end, to copy or compare every key.

    A cursor is an opaque string, safe to keep in a checkpoint: another process goes on from it. One that is not of
    this store raises ValueError. A key that is there from the first page to the last is on one of them. A page may
    be empty though more follow.

    The order of the keys is the store's. A backfill needs none. A verify walks Old and New side by side where both
    give their keys in Python's order and New takes Old's cursors; else it asks each for the other's keys. A store
    that has no order, such as Redis, gives one range as its only partition, may give a key twice, and may refuse
    `until`.
    """

    def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[K, V]:
        """At most `limit` items after `cursor` (from the start) up to and with `until` (to the end)."""
        ...

    def partitions(self, count: int) -> Sequence[tuple[str | None, str | None]]:
        """At most `count` ranges, after one cursor up to and with another, that cover the store once."""
        ...


@runtime_checkable
class AsyncScannable(Protocol[K, V]):
    """The asyncio twin of `Scannable`."""

    async def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[K, V]:
        """At most `limit` items after `cursor` (from the start) up to and with `until` (to the end)."""
        ...

    async def partitions(self, count: int) -> Sequence[tuple[str | None, str | None]]:
        """At most `count` ranges, after one cursor up to and with another, that cover the store once."""
        ...


@runtime_checkable
class SupportsCount(Protocol):
    """A store that can say how large it is."""

    def count(self) -> int:
        """About how many keys the store holds now; cheap if it can be. For progress, never for decisions."""
        ...


@runtime_checkable
class AsyncSupportsCount(Protocol):
    """The asyncio twin of `SupportsCount`."""

    async def count(self) -> int:
        """About how many keys the store holds now; cheap if it can be. For progress, never for decisions."""
        ...


@runtime_checkable
class SupportsDescribe(Protocol):
    """A store that says what it is. The same protocol for blocking and asyncio adapters."""

    def describe(self) -> StoreInfo:
        """What is known of the store, without I/O."""
        ...
