"""What differs between the two worlds, for blocking code. Its twin in `_async` is hand-written too."""

from __future__ import annotations

from collections.abc import Callable

from zddm_flags.worlds import is_coroutine_function

__all__ = ["check_function"]


def check_function(owner: str, role: str, function: Callable[..., object]) -> None:
    """Refuse a `function` whose result would be a coroutine that nobody awaits.

    Raises:
        TypeError: it is a coroutine function; the text says what to use.
    """
    if is_coroutine_function(function):
        raise TypeError(f"{owner} needs blocking functions, and {role} is a coroutine function: use Async{owner}")
