"""Work that is done beside the operations, for as long as there is some."""

from __future__ import annotations

import threading
from collections.abc import Callable

from zddm_flags._async._world import Calls, Repeating, in_background

__all__ = ["AsyncErrand"]


class AsyncErrand:
    """Does `work` again and again while there is `more` to do, in a thread or task that begins and ends with it.

    It also ends where the work raises, with its event loop, or by a fork; `start` begins it anew. Thread-safe.
    """

    def __init__(self, work: Calls[object], more: Callable[[], bool], pause_seconds: float) -> None:
        self._work = work
        self._more = more
        self._pause_seconds = pause_seconds
        self._lock = threading.Lock()
        self._going: Repeating | None = None

    def start(self) -> None:
        """See to it that it goes on. Call this after there is more to do, not before."""
        with self._lock:
            if self._going is None or not self._going.alive:
                self._going = in_background(self._step, self._pause_seconds)

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        going = self._going
        return going is not None and going.alive

    async def wait(self, seconds: float) -> None:
        """Wait until it has ended, for so long at most."""
        going = self._going
        if going is not None:
            await going.wait(seconds)

    async def _step(self) -> bool:
        await self._work()
        with self._lock:  # who adds something later finds it ended, and begins it anew
            more = self._more()
            if not more:
                self._going = None
        return more

    def after_fork(self) -> None:
        """In a forked child, where the threads of the parent are gone."""
        self._lock = threading.Lock()
        self._going = None
