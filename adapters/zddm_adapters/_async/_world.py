"""What differs between the two worlds, for asyncio. Its twin in `_sync` is hand-written too."""

from __future__ import annotations

from collections.abc import Callable

from zddm_flags.worlds import is_coroutine_function

__all__ = ["check_function"]


def check_function(owner: str, role: str, function: Callable[..., object]) -> None:
    """Refuse a `function` that would block the event loop.

    Raises:
        TypeError: it is not a coroutine function; the text says what to use.
    """
    if not is_coroutine_function(function):
        raise TypeError(
            f"{owner} needs coroutine functions, and {role} is none: write it with `async def`, or wrap "
            f"the blocking one: ThreadedAdapter({owner.removeprefix('Async')}(...))"
        )
