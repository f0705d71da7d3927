"""Which of the two worlds, blocking or asyncio, a function belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from zddm_flags.errors import Unsupported

__all__ = ["check_methods", "is_coroutine_function"]

NEEDED = ("read", "write")
OPTIONAL = ("delete", "read_many", "write_many", "delete_many", "scan", "partitions", "count")


def is_coroutine_function(function: Callable[..., object]) -> bool:
    """Whether calling `function`, an object with an async `__call__` included, gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def check_methods(role: str, adapter: object, *, coroutines: bool, otherwise: str) -> None:
    """Refuse an adapter that lacks a needed method, or has a method of the other world.

    Without this a blocking proxy would lose the writes of an adapter whose coroutines nobody awaits.

    Args:
        role: `old` or `new`, for the message.
        adapter: what the proxy was given.
        coroutines: whether its methods must be coroutine functions, or must not.
        otherwise: what a method of the other world is and what to do about it, for the message.

    Raises:
        Unsupported: the adapter is refused.
    """
    kind = type(adapter).__name__
    for name in (*NEEDED, *OPTIONAL):
        method = getattr(adapter, name, None)
        if callable(method):
            if is_coroutine_function(method) is not coroutines:
                raise Unsupported(f"{role}: {kind}.{name}() is {otherwise}")
        elif name in NEEDED:
            raise Unsupported(f"{role}: {kind} is no storage adapter: it has no {name}()")
