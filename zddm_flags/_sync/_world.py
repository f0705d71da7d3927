"""What the blocking side does otherwise than the asyncio one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import Context, copy_context
from typing import Any, TypeAlias, TypeVar

from zddm_flags.guard import is_failure
from zddm_flags.ledger import InMemoryLedger as DefaultLedger
from zddm_flags.worlds import check_methods

__all__ = [
    "HANGS_AFTER_BUDGETS",
    "Calls",
    "DefaultLedger",
    "Repeating",
    "Stopper",
    "bounded",
    "check_adapter",
    "in_background",
    "together",
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
        ended(is_failure(error))
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

    # Not a part of whatever span is current here: threads may inherit that, by instrumentation, or in Python 3.14.
    thread = threading.Thread(target=Context().run, args=(repeat,), name="zddm-background", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter is going down
        return None
    return Repeating(thread)


class Stopper:
    """Ends a job early. Thread-safe; a signal's handler calls `stop` in a thread of its own."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether the job is to end."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End the job; what waits, waits no longer. Idempotent."""
        self._stopped.set()

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until the job is to end."""
        self._stopped.wait(seconds)


def together(works: Sequence[Calls[None]], stopper: Stopper) -> None:
    """Call all of them at once, in threads. Where one raises, or the caller is interrupted, the others stop.

    Raises what the first one did, when all have ended: the others may raise because they were told to stop.
    """
    if len(works) == 1:
        works[0]()
        return
    errors: list[BaseException] = []

    def done(work: Calls[None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            stopper.stop()

    with ThreadPoolExecutor(len(works), thread_name_prefix="zddm-worker") as pool:
        try:
            # Each with a copy of the context, so that what is traced belongs to the caller's trace.
            calls = [pool.submit(copy_context().run, done, work) for work in works]
            wait(calls)
        except BaseException:
            stopper.stop()  # or leaving the pool would wait for work that goes on
            raise
    if errors:
        raise errors[0]
