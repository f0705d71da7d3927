"""What a worker notes of itself, beside its history."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.torture.history import Recorder

__all__ = ["BEAT_SECONDS", "Facts"]

BEAT_SECONDS = 0.05
NOTE_SECONDS = 0.25
CHANGES = ("write", "write_many", "delete", "delete_many")


class Facts:
    """Counts and durations of one process, noted a few times a second. Thread-safe enough for maxima."""

    def __init__(self, recorder: Recorder) -> None:
        self.proxy: Any = None
        self.switched_off = 0
        self._recorder = recorder
        self._longest_stall = 0.0
        self._longest_change = 0.0
        self._noted = 0.0

    def beat(self, begun: float) -> None:
        """Note that the process sleeps no more, `BEAT_SECONDS` after `begun` if nothing stalled it."""
        now = time.monotonic()
        self._longest_stall = max(self._longest_stall, now - begun - BEAT_SECONDS)
        if now - self._noted >= NOTE_SECONDS:
            self._noted = now
            self.note()

    def note(self) -> None:
        """Write all of it down."""
        stats = self.proxy.stats()
        paths = {} if stats is None else {" ".join(path): count for path, count in stats.operations.items()}
        self._recorder.note(
            {
                "switched_off": self.switched_off,
                "longest_stall": self._longest_stall,
                "longest_change": self._longest_change,
                "paths": paths,
            }
        )

    def time_changes(self, store: object) -> None:
        """Time each call that changes `store`: how long after it was begun could it still take effect?"""
        for name in CHANGES:
            change = getattr(store, name)
            timed = self._timed_async if asyncio.iscoroutinefunction(change) else self._timed
            setattr(store, name, timed(change))

    def _timed(self, change: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(change)
        def call(*arguments: Any) -> None:
            begun = time.monotonic()
            try:
                change(*arguments)
            finally:
                self._changed(begun)

        return call

    def _timed_async(self, change: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(change)
        async def call(*arguments: Any) -> None:
            begun = time.monotonic()
            try:
                await change(*arguments)
            finally:
                self._changed(begun)

        return call

    def _changed(self, begun: float) -> None:
        self._longest_change = max(self._longest_change, time.monotonic() - begun)
