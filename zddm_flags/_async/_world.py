"""What the asyncio side does otherwise than the blocking one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context

from zddm_flags.ledger import AsyncInMemoryLedger as DefaultLedger
from zddm_flags.worlds import check_methods

__all__ = ["DefaultLedger", "check_adapter", "in_background"]


def check_adapter(role: str, adapter: object) -> None:
    """Refuse an adapter that is not of this world; see `check_methods`."""
    check_methods(
        role,
        adapter,
        coroutines=True,
        otherwise="a blocking function: wrap the adapter in zddm_adapters.ThreadedAdapter(adapter), or use Proxy",
    )


def in_background(work: Callable[[], Awaitable[bool]], pause_seconds: float) -> Callable[[], bool] | None:
    """Await `work` again and again, with pauses before each, in a task of its own, while it returns True.

    Returns what tells whether that still goes on: it also ends where the task is cancelled, or with its event
    loop. None: it did not begin, because no event loop runs.
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
    _tasks.add(task)  # the loop itself holds tasks by weak references only
    task.add_done_callback(_tasks.discard)
    return lambda: not (task.done() or loop.is_closed())


_tasks: set[asyncio.Task[None]] = set()
