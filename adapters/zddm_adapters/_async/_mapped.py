"""One store's shape of keys and values, seen as another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zddm_adapters._async._world import check_function
from zddm_adapters._optional import attach_optional_methods
from zddm_flags.errors import Unsupported, ValueRefused
from zddm_flags.protocols import AsyncStorageAdapter, Page, StoreInfo

__all__ = ["AsyncMappedAdapter"]

AMBIGUOUS = "key= gave one stored key for two keys, which would lose one of their values"

K = TypeVar("K")
V = TypeVar("V")


class AsyncMappedAdapter(Generic[K, V]):
    """An adapter whose keys and values have another shape in the store than in the application.

    Old and New may hold different shapes of one thing: map each to the application's. The functions must be
    pure, and `load` must undo `dump` (and `unkey` undo `key`), or else the stores never compare equal. The
    adapter has the optional methods that `adapter` has, and no others. (A type checker sees them all.) It is
    as thread-safe as `adapter` and the functions are.

    Args:
        adapter: the store.
        load: stored value -> the application's value; never None.
        dump: the application's value -> stored value.
        key: the application's key -> stored key. Different keys must give different stored keys.
        unkey: stored key -> the application's key; needed to scan where `key` is given.

    Raises:
        TypeError: `adapter` belongs to the other world.
    """

    if TYPE_CHECKING:  # at run time each is there only if the wrapped adapter has it

        async def delete(self, key: K) -> None:
            """Remove `key`; no error where it is absent."""

        async def read_many(self, keys: Sequence[K]) -> dict[K, V]:
            """The values of `keys`; absent keys are left out."""
            ...

        async def write_many(self, items: Mapping[K, V]) -> None:
            """Insert or replace each."""

        async def delete_many(self, keys: Sequence[K]) -> None:
            """Remove each; no error where one is absent."""

        async def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[K, V]:
            """At most `limit` items after `cursor` and up to and with `until`."""
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
        adapter: AsyncStorageAdapter[Any, Any],
        *,
        load: Callable[[Any], V] | None = None,
        dump: Callable[[V], Any] | None = None,
        key: Callable[[K], Any] | None = None,
        unkey: Callable[[Any], K] | None = None,
    ) -> None:
        for role in ("read", "write"):
            check_function(type(self).__name__, f"the adapter's {role}", getattr(adapter, role))
        self._adapter: Any = adapter
        self._load_value: Callable[[Any], Any] = load or _same
        self._dump_value: Callable[[V], Any] = dump or _same
        self._key: Callable[[K], Any] = key or _same
        self._unkey: Callable[[Any], Any] | None = unkey or (_same if key is None else None)
        attach_optional_methods(self, adapter, lambda name: getattr(self, f"_{name}"))

    async def read(self, key: K) -> V | None:
        """The value of `key`, or None where the store has none.

        Raises:
            TypeError: `load` returned None for a value that is there.
        """
        stored = await self._adapter.read(self._key(key))
        return None if stored is None else self._load(stored)

    async def write(self, key: K, value: V) -> None:
        """Insert or replace.

        Raises:
            ValueRefused: `key` or `dump` raised, so that the store was not called.
        """
        await self._adapter.write(self._stored_key(key), self._stored_value(value))

    async def _delete(self, key: K) -> None:
        await self._adapter.delete(self._stored_key(key))

    async def _read_many(self, keys: Sequence[K]) -> dict[K, V]:
        asked = {self._key(key): key for key in keys}
        if len(asked) != len(set(keys)):
            raise ValueError(AMBIGUOUS)  # one of them would read as absent
        found = await self._adapter.read_many(list(asked))
        return {
            asked[stored_key]: self._load(stored) for stored_key, stored in found.items() if stored_key in asked
        }

    async def _write_many(self, items: Mapping[K, V]) -> None:
        stored = {self._stored_key(key): self._stored_value(value) for key, value in items.items()}
        _check_distinct(stored, items)
        await self._adapter.write_many(stored)

    async def _delete_many(self, keys: Sequence[K]) -> None:
        await self._adapter.delete_many([self._stored_key(key) for key in keys])

    async def _scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[K, V]:
        unkey = self._unkey
        if unkey is None:
            raise Unsupported("a scan needs to map stored keys back: give MappedAdapter unkey= beside key=")
        bound = {} if until is None else {"until": until}  # a wrapped adapter may know nothing of it
        page = await self._adapter.scan(cursor, limit, **bound)
        return Page([(unkey(key), self._load(stored)) for key, stored in page.items], page.next_cursor)

    async def _partitions(self, count: int) -> Sequence[tuple[str | None, str | None]]:
        partitions: Sequence[tuple[str | None, str | None]] = await self._adapter.partitions(count)
        return partitions

    async def _count(self) -> int:
        count: int = await self._adapter.count()
        return count

    def _load(self, stored: object) -> V:
        value: V = self._load_value(stored)
        if value is None:
            # A present key that read as absent would be copied over, or deleted, as if it were not there.
            raise TypeError("load= returned None for a value that is there; a value must not be None")
        return value

    def _stored_key(self, key: K) -> Any:
        try:
            return self._key(key)
        except Exception as error:
            raise ValueRefused("key= failed before the store was called") from error

    def _stored_value(self, value: V) -> Any:
        try:
            return self._dump_value(value)
        except Exception as error:
            raise ValueRefused("dump= failed before the store was called") from error


def _check_distinct(stored: Mapping[Any, Any], items: Mapping[Any, Any]) -> None:
    if len(stored) != len(items):
        raise ValueRefused("key= is ambiguous") from ValueError(AMBIGUOUS)


def _same(thing: Any) -> Any:
    return thing
