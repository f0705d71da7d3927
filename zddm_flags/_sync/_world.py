"""What the blocking side does otherwise than the asyncio one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from zddm_flags.ledger import InMemoryLedger as DefaultLedger
from zddm_flags.worlds import check_methods

__all__ = ["DefaultLedger", "check_adapter", "in_background"]


def check_adapter(role: str, adapter: object) -> None:
    """Refuse an adapter that is not of this world; see `check_methods`."""
    check_methods(
        role,
        adapter,
        coroutines=False,
        otherwise="a coroutine function: use AsyncProxy, or the blocking adapter of the store",
    )


def in_background(work: Callable[[], bool], pause_seconds: float) -> Callable[[], bool] | None:
    """Call `work` again and again, with pauses before each, in a thread of its own, while it returns True.

    Returns what tells whether that still goes on: it also ends where `work` raises. None: it did not begin. The
    thread does not keep the process from ending.
    """

    def repeat() -> None:
        while True:
            time.sleep(pause_seconds)
            if not work():
                return

    thread = threading.Thread(target=repeat, name="zddm-marks", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter is going down
        return None
    return thread.is_alive
