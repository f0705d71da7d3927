"""What the asyncio side does otherwise than the blocking one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, TypeAlias, TypeVar

from zddm_flags.guard import is_failure
from zddm_flags.ledger import AsyncInMemoryLedger as DefaultLedger
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

Calls: TypeAlias = Callable[..., Awaitable[T]]
"""A function of this world that gives a T."""

HANGS_AFTER_BUDGETS = 2.0
"""A call is cancelled when its budget is over; if it goes on for as long again, its driver hangs."""


def check_adapter(role: str, adapter: object) -> None:
    """Refuse an adapter that is not of this world; see `check_methods`."""
    check_methods(
        role,
        adapter,
        coroutines=True,
        otherwise="a blocking function: wrap the adapter in zddm_adapters.ThreadedAdapter(adapter), or use Proxy",
    )


async def bounded(
    seconds: float | None, ended: Callable[[bool | None], object], call: Calls[T], *arguments: Any
) -> T:
    """Await `call(*arguments)` for at most so long; None: without a limit.

    A call that takes longer is cancelled and left to itself, for a driver may take its time over a cancellation.
    It may still take effect. `ended` is told when it really ends, and whether it raised or was too late; None:
    it did not succeed once its caller was cancelled, which says nothing of the store.

    Raises:
        TimeoutError: the time is over.
        ConnectionAbortedError: the call was cancelled, and not by its caller; only where it is bounded.

    And what the call raises.
    """
    if seconds is None:
        try:
            result = await call(*arguments)
        except BaseException as error:
            ended(is_failure(error))
            raise
        ended(False)
        return result

    async def made() -> T:
        return await call(*arguments)

    too_late = caller_cancelled = False

    def over(task: asyncio.Future[T]) -> None:
        # Some drivers cancel what waits for a connection that was lost; some answer a cancellation with an error.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        failed = error is not None and is_failure(error) is not False
        ended(None if failed and caller_cancelled else failed or too_late)

    task = asyncio.ensure_future(made())
    task.add_done_callback(over)
    give_up_at = asyncio.get_running_loop().time() + seconds
    try:
        await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        caller_cancelled = True
        _leave(task)
        # What the driver cleans up, it cleans up before its caller goes on, as it would without a task of its own.
        await asyncio.wait((task,), timeout=max(0.0, give_up_at - asyncio.get_running_loop().time()))
        raise
    if not task.done():
        too_late = True
        _leave(task)
        raise TimeoutError("the call to the store took longer than the guard allows, and may still take effect")
    if task.cancelled():
        raise ConnectionAbortedError("the call to the store was cancelled, and not by its caller")
    return task.result()


def _leave(task: asyncio.Future[Any]) -> None:
    """Cancel what nobody awaits any more."""
    task.cancel()
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


class Repeating:
    """Work that goes on in a task of its own."""

    def __init__(self, task: asyncio.Task[None], loop: asyncio.AbstractEventLoop) -> None:
        self._task = task
        self._loop = loop

    @property
    def alive(self) -> bool:
        """Whether it goes on: it also ends where the task is cancelled, or with its event loop."""
        return not (self._task.done() or self._loop.is_closed())

    async def wait(self, seconds: float) -> None:
        """Wait until it has ended, for so long at most; not at all from another event loop."""
        if asyncio.get_running_loop() is self._loop and self._task is not asyncio.current_task():
            await asyncio.wait((self._task,), timeout=seconds)


def in_background(work: Calls[bool], pause_seconds: float) -> Repeating | None:
    """Await `work` again and again, with pauses before each, in a task of its own, while it returns True.

    None: it did not begin, because no event loop runs.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None

    async def repeat() -> None:
        while True:
            await asyncio.sleep(pause_seconds)
            if not await work():
                return

    task = loop.create_task(repeat(), context=Context())  # not a part of whatever span is current here
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return Repeating(task, loop)


class Stopper:
    """Ends a job early. Thread-safe; a signal's handler calls `stop` in a thread of its own."""

    def __init__(self) -> None:
        self._stopped = False
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @property
    def stopped(self) -> bool:
        """Whether the job is to end."""
        return self._stopped

    def stop(self) -> None:
        """End the job; what waits, waits no longer. Idempotent."""
        self._stopped = True
        for waiting, loop in list(self._waiting.items()):
            loop.call_soon_threadsafe(waiting.set)

    async def wait(self, seconds: float) -> None:
        """Wait for so long, or until the job is to end."""
        waiting = asyncio.Event()
        self._waiting[waiting] = asyncio.get_running_loop()
        try:
            if not self._stopped:  # asked after `stop` can see who waits
                await asyncio.wait_for(waiting.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            del self._waiting[waiting]


async def together(works: Sequence[Calls[None]], stopper: Stopper) -> None:
    """Await all of them at once. Where one raises, or the caller is cancelled, the others are told to stop.

    Raises what the first one did, when all have ended: the others may raise because they were told to stop.
    """
    errors: list[BaseException] = []

    async def done(work: Calls[None]) -> None:
        try:
            await work()
        except BaseException as error:
            errors.append(error)
            stopper.stop()

    tasks = [asyncio.ensure_future(done(work)) for work in works]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
    if errors:
        raise errors[0]


_tasks: set[asyncio.Future[Any]] = set()  # event loops hold tasks by weak references only
