"""A dict as a store."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from zddm_flags.encoding import ledger_key
from zddm_flags.errors import ValueRefused
from zddm_flags.protocols import Page, StoreInfo

__all__ = ["AsyncInMemoryAdapter"]

K = TypeVar("K")
V = TypeVar("V")


class AsyncInMemoryAdapter(Generic[K, V]):
    """A store in this process's memory: for tests, examples and small caches.

    Values are stored by reference: who changes a value after a write, or one that a read gave, changes the
    store behind the proxy's back. Hand over values that nobody changes. Thread-safe; each method is a few
    operations of a dict, each of them atomic, so a batch is not atomic as a whole.

    Args:
        initial: what the store holds at first; copied, not its values.
        name: what spans call it (`db.collection.name`).
    """

    def __init__(self, initial: Mapping[K, V] | None = None, *, name: str | None = None) -> None:
        self._values: dict[K, V] = dict(initial) if initial is not None else {}
        self._name = name
        self._order: tuple[list[K], list[bytes], list[K]] = ([], [], [])

    async def read(self, key: K) -> V | None:
        """The value of `key`, or None where there is none."""
        return self._values.get(key)

    async def write(self, key: K, value: V) -> None:
        """Insert or replace.

        Raises:
            ValueRefused: the value is None, which would read as an absent key.
        """
        if value is None:
            raise ValueRefused("None is no value") from TypeError("a value must not be None: delete the key")
        self._values[key] = value

    async def delete(self, key: K) -> None:
        """Remove `key`; no error where it is absent."""
        self._values.pop(key, None)

    async def read_many(self, keys: Sequence[K]) -> dict[K, V]:
        """The values of `keys`; absent keys are left out."""
        values = self._values
        found = ((key, values.get(key)) for key in keys)
        return {key: value for key, value in found if value is not None}

    async def write_many(self, items: Mapping[K, V]) -> None:
        """Insert or replace each.

        Raises:
            ValueRefused: a value is None; nothing was written.
        """
        if any(value is None for value in items.values()):
            raise ValueRefused("None is no value") from TypeError("a value must not be None: delete the key")
        self._values.update(items)

    async def delete_many(self, keys: Sequence[K]) -> None:
        """Remove each; no error where one is absent."""
        for key in keys:
            self._values.pop(key, None)

    async def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[K, V]:
        """At most `limit` items after `cursor`, up to and with `until`, ordered by the keys' canonical encodings.

        The order does not depend on that of the insertions, and a cursor stays good whatever is written or
        deleted meanwhile.

        Raises:
            InvalidKey: a key has no canonical encoding.
            ValueError: `limit` is below 1.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        encodings, keys = self._sorted()
        start = 0 if cursor is None else bisect_right(encodings, bytes.fromhex(cursor))
        last = len(keys) if until is None else bisect_right(encodings, bytes.fromhex(until))
        end = max(start, min(start + limit, last))
        found = ((key, self._values.get(key)) for key in keys[start:end])
        items = [(key, value) for key, value in found if value is not None]
        return Page(items, encodings[end - 1].hex() if end < last else None)

    async def partitions(self, count: int) -> list[tuple[str | None, str | None]]:
        """At most `count` ranges of cursors, of about equally many keys, that cover the store once.

        Raises:
            InvalidKey: a key has no canonical encoding.
            ValueError: `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        encodings, _ = self._sorted()
        count = max(1, min(count, len(encodings)))
        bounds = [encodings[len(encodings) * part // count - 1].hex() for part in range(1, count)]
        return list(zip([None, *bounds], [*bounds, None], strict=True))

    async def count(self) -> int:
        """How many keys the store holds now."""
        return len(self._values)

    def describe(self) -> StoreInfo:
        """No database system, in this process."""
        return StoreInfo(collection=self._name, remote=False)

    def _sorted(self) -> tuple[list[bytes], list[K]]:
        # Sorting anew for each page would make a scan quadratic. Comparing the keys in the order of insertion
        # is cheap, for equal keys are mostly identical, and it costs a write nothing.
        inserted = list(self._values)
        known, encodings, keys = self._order
        if inserted != known:
            ordered = sorted(((ledger_key(key), key) for key in inserted), key=lambda pair: pair[0])
            encodings, keys = [encoding for encoding, _ in ordered], [key for _, key in ordered]
            self._order = (inserted, encodings, keys)
        return encodings, keys
