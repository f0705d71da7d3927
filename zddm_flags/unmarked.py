"""Keys that a proxy changed in Old without a token, because it could not reach the ledger.

Until the ledger knows of such a key, its proxy must not read it from New, and must not forget that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple, Self

from zddm_flags.errors import LedgerUnavailable

__all__ = ["Unmarked", "UnmarkedKeys"]


class Unmarked(NamedTuple):
    """What is known of one such key."""

    changing: int
    """Changes of Old that are in progress: until they end it is too soon to mark the key."""
    unsure: bool
    """A change of Old raised, so that it may yet land: a mark alone would come too soon."""
    last: bytes
    """Names the last change, and never another, so that a mark is not taken for one of a later change."""


class UnmarkedKeys(dict[bytes, Unmarked]):
    """At most `limit` keys, by their names in the ledger. Thread-safe; `in` and `bool` need no lock.

    A dict, so that what it holds can be seen and copied as part of its proxy's state.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self.lock = threading.Lock()

    def __copy__(self) -> Self:
        copied = type(self)(self._limit)
        copied.update(self)
        return copied

    def add(self, names: Iterable[bytes], change: bytes) -> None:
        """Remember the keys, before Old is changed. No two changes have the same name `change`.

        Raises:
            LedgerUnavailable: there would be too many; none was added.
        """
        names = tuple(names)
        with self.lock:
            if len(self) + sum(name not in self for name in names) > self._limit:
                raise LedgerUnavailable(
                    f"the ledger could not be reached, and {len(self)} keys wait to be marked in it already: "
                    "neither store was changed"
                )
            for name in names:
                changing, unsure, _ = self.get(name, _NEW)
                self[name] = Unmarked(changing + 1, unsure, change)

    def changed(self, names: Iterable[bytes], *, certain: bool) -> None:
        """Take note that a change of Old ended; `certain` if nothing of it can land any more."""
        with self.lock:
            for name in names:
                changing, unsure, last = self[name]
                self[name] = Unmarked(changing - 1, unsure or not certain, last)

    def to_mark(self, limit: int) -> dict[bytes, Unmarked]:
        """At most `limit` keys that can be marked now."""
        with self.lock:
            found = sorted(name for name, known in self.items() if not known.changing)
            return {name: self[name] for name in found[:limit]}

    def forget(self, marked: dict[bytes, Unmarked]) -> None:
        """Forget the keys, but for those that were changed again since `to_mark`."""
        with self.lock:
            for name, known in marked.items():
                if self.get(name) == known:
                    del self[name]

    def after_fork(self) -> None:
        """In a forked child: the changes in progress are the parent's, and how they end is not seen here."""
        self.lock = threading.Lock()
        for name, (changing, unsure, last) in self.items():
            self[name] = Unmarked(0, unsure or changing > 0, last)


_NEW = Unmarked(0, unsure=False, last=b"")
