"""How many things may happen in a second: a token bucket that never waits."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

__all__ = ["Pace"]


class Pace:
    """At most `per_second` things a second; what is not used is saved up, to a second's worth and at least one.

    Within any t seconds at most `max(1, per_second) + per_second * t` things happen, and all but one of these if
    each is taken as soon as it may be. A bucket that is full loses what comes on top. It starts full.

    Args:
        per_second: above 0, finite; None: no limit.
        clock: monotonic seconds (H15). Called with a lock held.

    Thread-safe, and no method waits. It paces one process; several have a pace each.

    Raises:
        TypeError: `per_second` is of the wrong type; a bool is no number.
        ValueError: `per_second` is out of range, NaN or infinite.
    """

    def __init__(self, per_second: float | None, clock: Callable[[], float]) -> None:
        if isinstance(per_second, bool) or not isinstance(per_second, (int, float, type(None))):
            raise TypeError(f"per_second is a number or None, not a {type(per_second).__name__}")
        if per_second is not None and not 0 < per_second <= sys.float_info.max:  # NaN is in no range
            raise ValueError("per_second is above 0, and finite")
        self._limited = per_second is not None
        self._per_second = 1.0 if per_second is None else float(per_second)
        self._burst = max(1.0, self._per_second)
        self._clock = clock
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: start anew, and wait for no thread of the parent."""
        self._lock = threading.Lock()
        # What is left is always worked out from when the bucket was last full and the whole number taken since:
        # tokens added bit by bit would add up their rounding errors.
        self._full_at = self._clock()
        self._taken = 0

    def snapshot(self) -> tuple[float, int]:
        """All that decides what it grants next, for the explorer."""
        return self._full_at, self._taken

    def restore(self, snapshot: tuple[float, int]) -> None:
        """Be as it was when it gave this snapshot."""
        self._full_at, self._taken = snapshot

    def take(self, wanted: int) -> int:
        """How many of `wanted`, from 0, may happen now. They count as done, unless they are given back."""
        if not self._limited:
            return wanted
        with self._lock:
            granted = min(wanted, self._left(self._clock()))
            self._taken += granted
            return granted

    def give_back(self, unused: int) -> None:
        """Return `unused`, from 0, of those that were taken: they did not happen."""
        with self._lock:
            self._taken = max(0, self._taken - unused)  # `_left` sees to what a full bucket loses

    def seconds_to_next(self) -> float:
        """Seconds until `take(1)` gives 1, if no other call takes it before; 0.0 if it does now."""
        with self._lock:
            return max(0.0, self._next_at() - self._clock())

    def _left(self, now: float) -> int:
        """How many may happen now."""
        saved_up = self._per_second * (now - self._full_at)
        if saved_up >= self._taken:
            self._full_at, self._taken = now, 0
            return int(self._burst)
        # Rounding must not deny at `_next_at` what was announced for it: who waits until then would wait in vain.
        return max(int(self._burst + saved_up) - self._taken, int(now >= self._next_at()))

    def _next_at(self) -> float:
        """When the next one may happen: a moment of the past where one may now."""
        return self._full_at + (self._taken + 1 - self._burst) / self._per_second
