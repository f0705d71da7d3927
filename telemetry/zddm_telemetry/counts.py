"""Counts of what a migration did, cheap to add to and read by metrics and by `stats()` alike."""

from __future__ import annotations

import threading
from collections import defaultdict, deque

__all__ = ["Counts"]

_ADDED_UP_AT = 256


class Counts:
    """How many keys took which path, and how many keys each store was asked for. Thread-safe.

    What is counted is noted without a lock, and added up now and then: threads that saturate a processor would
    queue for a lock that each of them takes twice in an operation, which cost them a tenth of their throughput.
    """

    __slots__ = ("_lock", "_noted", "calls", "copies", "dropped", "operations")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: deque[tuple[defaultdict[tuple[str, str], int], tuple[str, str], int]] = deque()
        self.operations: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.calls: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.copies = 0
        self.dropped = 0

    def add_operation(self, operation_and_path: tuple[str, str], keys: int = 1) -> None:
        """Count `keys` keys of an operation that took a path."""
        self._noted.append(
            (self.operations, operation_and_path, keys)
        )  # one atomic step, as is taking it out again
        if len(self._noted) >= _ADDED_UP_AT:
            self._add_up_if_nobody_does()

    def add_call(self, store_and_operation: tuple[str, str], keys: int) -> None:
        """Count a call of an operation to a store for `keys` keys."""
        self._noted.append((self.calls, store_and_operation, keys))
        if len(self._noted) >= _ADDED_UP_AT:
            self._add_up_if_nobody_does()

    def add_copies(self, keys: int) -> None:
        """Count keys whose value a read copied from Old into New."""
        with self._lock:
            self.copies += keys

    def add_dropped(self, keys: int) -> None:
        """Count keys that were to be copied in the background and were not."""
        with self._lock:
            self.dropped += keys

    def snapshot(self) -> Counts:
        """A copy that no longer changes."""
        copy = Counts()
        with self._lock:
            self._add_up()
            copy.operations.update(self.operations)
            copy.calls.update(self.calls)
            copy.copies = self.copies
            copy.dropped = self.dropped
        return copy

    def merge(self, other: Counts) -> None:
        """Add all of `other`'s counts as they are now."""
        other = other.snapshot()
        with self._lock:
            for path, keys in other.operations.items():
                self.operations[path] += keys
            for call, keys in other.calls.items():
                self.calls[call] += keys
            self.copies += other.copies
            self.dropped += other.dropped

    def after_fork(self) -> None:
        """Replace the lock, which another thread of the parent may have held at the moment of the fork."""
        self._lock = threading.Lock()

    def _add_up_if_nobody_does(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._add_up()
            finally:
                self._lock.release()

    def _add_up(self) -> None:
        """Empty the notes, those that come meanwhile left aside. Called with the lock held."""
        for _ in range(len(self._noted)):
            counter, key, keys = self._noted.popleft()
            counter[key] += keys
