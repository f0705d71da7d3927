"""The repository functions that people already have, as an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from zddm_adapters._async._world import check_function
from zddm_flags.protocols import StoreInfo

__all__ = ["AsyncFunctionAdapter"]

K = TypeVar("K")
V = TypeVar("V")
First_contra = TypeVar("First_contra", contravariant=True)
Second_contra = TypeVar("Second_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class AsyncUnary(Protocol[First_contra, Result_co]):
    """A function of one argument, whatever the argument's name."""

    async def __call__(self, first: First_contra, /) -> Result_co:
        """Call it."""
        ...


class AsyncBinary(Protocol[First_contra, Second_contra, Result_co]):
    """A function of two arguments, whatever their names."""

    async def __call__(self, first: First_contra, second: Second_contra, /) -> Result_co:
        """Call it."""
        ...


class AsyncFunctionAdapter(Generic[K, V]):
    """An adapter made of functions; as thread-safe as they are. No call is added around them.

    The adapter has exactly the methods that it was given: without `delete=` it has no attribute `delete`, so
    that a proxy refuses to delete before it touches anything. (A type checker sees them all.)

    Args:
        read: key -> value, or None where the store has none.
        write: (key, value) -> None; inserts or replaces, and is committed when it returns.
        delete: key -> None; no error where the key is absent.
        read_many: sequence of keys -> mapping without the absent keys.
        write_many: mapping -> None; inserts or replaces each.
        delete_many: sequence of keys -> None.
        info: what spans say of the store, and whether its reads are strong.

    Raises:
        TypeError: a function belongs to the other world; the text says what to use.
    """

    if TYPE_CHECKING:  # at run time each of these is the given function, on the instance

        async def read(self, key: K) -> V | None:
            """The value of `key`, or None where there is none."""

        async def write(self, key: K, value: V) -> None:
            """Insert or replace."""

        async def delete(self, key: K) -> None:
            """Remove `key`. There only if it was given."""

        async def read_many(self, keys: Sequence[K]) -> Mapping[K, V]:
            """The values of `keys`. There only if it was given."""
            ...

        async def write_many(self, items: Mapping[K, V]) -> None:
            """Insert or replace each. There only if it was given."""

        async def delete_many(self, keys: Sequence[K]) -> None:
            """Remove each. There only if it was given."""

        def describe(self) -> StoreInfo:
            """What `info` said. There only if it was given."""
            ...

    def __init__(
        self,
        *,
        read: AsyncUnary[K, V | None],
        write: AsyncBinary[K, V, None],
        delete: AsyncUnary[K, None] | None = None,
        read_many: AsyncUnary[Sequence[K], Mapping[K, V]] | None = None,
        write_many: AsyncUnary[Mapping[K, V], None] | None = None,
        delete_many: AsyncUnary[Sequence[K], None] | None = None,
        info: StoreInfo | None = None,
    ) -> None:
        methods: dict[str, Any] = {
            "read": read,
            "write": write,
            "delete": delete,
            "read_many": read_many,
            "write_many": write_many,
            "delete_many": delete_many,
        }
        given = {role: function for role, function in methods.items() if function is not None}
        for role, function in given.items():
            check_function(type(self).__name__, f"{role}=", function)
        if info is not None:
            given["describe"] = lambda: info
        vars(self).update(given)
