"""Checks every read of the demo against what Old held during it, without help from the library it checks."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zddm_flags.cli.demo.airports import Airport
from zddm_flags.protocols import Page, StoreInfo

__all__ = ["CheckedOld", "TimedNew"]

_REMEMBERED = 64
_LOCKS = 512


@dataclass(slots=True)
class _Held:
    """A revision that Old held, at the widest: from the begin of its write to the end of the next one."""

    revision: int | None
    since: float
    until: float = float("inf")


class CheckedOld:
    """Old, with a history of what it held. Writes of one key wait for each other, so that their order is known."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._history: defaultdict[str, list[_Held]] = defaultdict(lambda: [_Held(0, float("-inf"))])
        self.describe: Callable[[], StoreInfo] = adapter.describe
        self.read: Callable[[str], Airport | None] = adapter.read
        self.read_many: Callable[[Sequence[str]], Mapping[str, Airport]] = adapter.read_many
        self.scan: Callable[..., Page[str, Airport]] = adapter.scan
        self.count: Callable[[], int] = adapter.count

    def write(self, key: str, value: Airport) -> None:
        """Write, and remember from when to when."""
        self._note(key, value.revision, lambda: self._adapter.write(key, value))

    def delete(self, key: str) -> None:
        """Delete, and remember from when to when."""
        self._note(key, None, lambda: self._adapter.delete(key))

    def _note(self, key: str, revision: int | None, change: Callable[[], None]) -> None:
        with self._locks[hash(key) % _LOCKS]:
            history = self._history[key]
            closed = sum(each.until < float("inf") for each in history)
            del history[: max(0, closed - _REMEMBERED)]
            history.append(_Held(revision, time.perf_counter()))
            change()  # where it raises both may be held from now on: the ones before stay open
            now = time.perf_counter()
            for before in history[:-1]:
                before.until = min(before.until, now)

    def held(self, key: str, value: Airport | None, begin: float, end: float) -> bool:
        """Whether Old may have held `value` at some moment between `begin` and `end`."""
        revision = None if value is None else value.revision
        with self._locks[hash(key) % _LOCKS]:
            return any(
                each.revision == revision and each.since <= end and each.until >= begin
                for each in self._history[key]
            )


class TimedNew:
    """New, which remembers when it was last called: how soon a kill works."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self.last_call = float("-inf")
        self.describe: Callable[[], StoreInfo] = adapter.describe
        self.scan: Callable[..., Page[str, Airport]] = adapter.scan

    def read(self, key: str) -> Airport | None:
        """Read."""
        self.last_call = time.perf_counter()
        airport: Airport | None = self._adapter.read(key)
        return airport

    def read_many(self, keys: Sequence[str]) -> Mapping[str, Airport]:
        """Read many."""
        self.last_call = time.perf_counter()
        airports: Mapping[str, Airport] = self._adapter.read_many(keys)
        return airports

    def write(self, key: str, value: Airport) -> None:
        """Write."""
        self.last_call = time.perf_counter()
        self._adapter.write(key, value)

    def write_many(self, items: Mapping[str, Airport]) -> None:
        """Write many."""
        self.last_call = time.perf_counter()
        self._adapter.write_many(items)

    def delete(self, key: str) -> None:
        """Delete."""
        self.last_call = time.perf_counter()
        self._adapter.delete(key)
