"""What the blocking side does otherwise than the asyncio one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from zddm_flags.ledger import InMemoryLedger as DefaultLedger
from zddm_flags.worlds import check_methods

__all__ = [
    "HANGS_AFTER_BUDGETS",
    "Calls",
    "DefaultLedger",
    "Repeating",
    "bounded",
    "check_adapter",
    "in_background",
]

T = TypeVar("T")

Calls: TypeAlias = Callable[..., T]
"""A function of this world that gives a T."""

HANGS_AFTER_BUDGETS = 1.0
"""A call cannot be cancelled: it hangs as soon as its budget is over."""


def check_adapter(role: str, adapter: object) -> None:
    """Refuse an adapter that is not of this world; see `check_methods`."""
    check_methods(
        role,
        adapter,
        coroutines=False,
        otherwise="a coroutine function: use AsyncProxy, or the blocking adapter of the store",
    )


def bounded(seconds: float | None, ended: Callable[[bool | None], object], call: Calls[T], *arguments: Any) -> T:
    """Call `call(*arguments)`, and tell `ended` whether it raised; None: what ended it was not the store.

    A thread that waits for a driver cannot be freed: only the driver's own time-outs bound the call. `seconds` is
    what the asyncio side bounds it by.
    """
    del seconds
    try:
        result = call(*arguments)
    except BaseException as error:
        ended(isinstance(error, Exception) or None)
        raise
    ended(False)
    return result


class Repeating:
    """Work that goes on in a thread of its own, which does not keep the process from ending."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    @property
    def alive(self) -> bool:
        """Whether it goes on: it also ends where the work raises."""
        return self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, for so long at most."""
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)


def in_background(work: Calls[bool], pause_seconds: float) -> Repeating | None:
    """Call `work` again and again, with pauses before each, in a thread of its own, while it returns True.

    None: it did not begin.
    """

    def repeat() -> None:
        while True:
            time.sleep(pause_seconds)
            if not work():
                return

    thread = threading.Thread(target=repeat, name="zddm-background", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter is going down
        return None
    return Repeating(thread)
