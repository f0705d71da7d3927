"""Counts of what a migration did, cheap to add to and read by metrics and by `stats()` alike."""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["Counts"]


class Counts:
    """How many keys took which path, and how many keys each store was asked for. Thread-safe.

    A locked dict behind an observable counter costs about a twentieth of the SDK's own counter.
    """

    __slots__ = ("_lock", "calls", "copies", "operations")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.operations: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.copies = 0

    def add_operation(self, operation: str, path: str, keys: int = 1) -> None:
        """Count `keys` keys of `operation` that took `path`."""
        with self._lock:
            self.operations[operation, path] += keys

    def add_call(self, store: str, operation: str, keys: int) -> None:
        """Count a call of `operation` to `store` for `keys` keys."""
        with self._lock:
            self.calls[store, operation] += keys

    def add_copies(self, keys: int) -> None:
        """Count keys whose value a read copied from Old into New."""
        with self._lock:
            self.copies += keys

    def snapshot(self) -> Counts:
        """A copy that no longer changes."""
        copy = Counts()
        with self._lock:
            copy.operations.update(self.operations)
            copy.calls.update(self.calls)
            copy.copies = self.copies
        return copy

    def merge(self, other: Counts) -> None:
        """Add all of `other`'s counts."""
        with self._lock:
            self.operations.update(other.operations)
            self.calls.update(other.calls)
            self.copies += other.copies

    def after_fork(self) -> None:
        """Replace the lock, which another thread of the parent may have held at the moment of the fork."""
        self._lock = threading.Lock()
