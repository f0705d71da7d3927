"""Counts of what a migration did, cheap to add to and read by metrics and by `stats()` alike."""

from __future__ import annotations

import threading
from collections import defaultdict

__all__ = ["Counts"]


class Counts:
    """How many keys took which path, and how many keys each store was asked for. Thread-safe.

    A locked dict behind an observable counter costs about a twentieth of the SDK's own counter, and a
    defaultdict two thirds of a Counter.
    """

    __slots__ = ("_lock", "calls", "copies", "dropped", "operations")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.operations: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.calls: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.copies = 0
        self.dropped = 0

    def add_operation(self, operation_and_path: tuple[str, str], keys: int = 1) -> None:
        """Count `keys` keys of an operation that took a path."""
        with self._lock:
            self.operations[operation_and_path] += keys

    def add_call(self, store_and_operation: tuple[str, str], keys: int) -> None:
        """Count a call of an operation to a store for `keys` keys."""
        with self._lock:
            self.calls[store_and_operation] += keys

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
            copy.operations.update(self.operations)
            copy.calls.update(self.calls)
            copy.copies = self.copies
            copy.dropped = self.dropped
        return copy

    def merge(self, other: Counts) -> None:
        """Add all of `other`'s counts; `other` is a snapshot, or changes no more."""
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
