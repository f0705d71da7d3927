"""What a write and a delete do to a store, for one key or for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from zddm_flags._async.store import AsyncStore
from zddm_flags.deadline import Deadline

__all__ = ["Change", "Delete", "Located", "WriteMany", "WriteOne"]

K = TypeVar("K")
V = TypeVar("V")


class Located(NamedTuple, Generic[K]):
    """A key with its place: the hash that the gate compares, and its name in the ledger."""

    hash: int
    name: bytes
    key: K


class Change(Protocol[K, V]):
    """What a write or a delete does to a store, for one key or for many."""

    operation: str

    def possible(self, store: AsyncStore[K, V], /) -> bool:
        """Whether the store can do it at all."""
        ...

    async def apply(self, store: AsyncStore[K, V], located: Sequence[Located[K]], deadline: Deadline, /) -> None:
        """Do it. Raises what the store raises, or DeadlinePassed."""
        ...


class WriteOne(Generic[K, V]):
    """Insert or replace one key."""

    operation = "write"

    def __init__(self, value: V) -> None:
        self._value = value

    def possible(self, _: AsyncStore[K, V]) -> bool:
        return True

    async def apply(self, store: AsyncStore[K, V], located: Sequence[Located[K]], _: Deadline) -> None:
        await store.write(located[0].key, self._value)


class WriteMany(Generic[K, V]):
    """Insert or replace keys, each with its value in `values`, which holds them all and maybe more."""

    operation = "write"

    def __init__(self, values: Mapping[K, V]) -> None:
        self._values = values

    def possible(self, _: AsyncStore[K, V]) -> bool:
        return True

    async def apply(self, store: AsyncStore[K, V], located: Sequence[Located[K]], deadline: Deadline) -> None:
        if len(located) == 1:
            await store.write(located[0].key, self._values[located[0].key])
        else:
            await store.write_many({each.key: self._values[each.key] for each in located}, deadline)


class Delete(Generic[K, V]):
    """Remove keys."""

    operation = "delete"

    def possible(self, store: AsyncStore[K, V]) -> bool:
        return store.can_delete

    async def apply(self, store: AsyncStore[K, V], located: Sequence[Located[K]], deadline: Deadline) -> None:
        await store.delete_many([each.key for each in located], deadline)
