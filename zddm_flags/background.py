"""What a proxy does beside its operations: how much of it, and the keys that wait for it.

Bounded in every direction, so that nothing piles up (H16): work of this kind may be dropped, a write never.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from zddm_flags.worlds import is_coroutine_function

__all__ = ["Copies", "CopyMode", "KeyQueue", "Shadow", "approximate_bytes"]

T = TypeVar("T")

CopyMode = Literal["inline", "background", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """How a read brings a key into New that New lacks, or holds a stale value of.

    Args:
        mode: `"inline"`: before the read returns. `"background"`: the read returns at once, and the key is copied
            a moment later, together with others, by one worker (a thread, or a task of the event loop); Old is
            then read twice for it. `"off"`: not at all; New then gets only what is written, and a stale key stays
            so until its next write.
        per_second: keys copied in a second at most, in this process; above 0. What an inline read may not copy it
            leaves; what waits in the background waits longer. None: no limit.
        max_keys: keys that may wait in the background, from 1. Beyond them a key is dropped, and counted; its next
            read asks again.
        max_bytes: the same for the size of their values as they were when they were read, estimated; from 1. The
            values themselves are not kept: they are read again.
        size_of: value -> bytes, where the estimate is not good enough: the length of a text or of bytes, else
            `sys.getsizeof` of the value and of what it holds, one level deep.
        on_close: what `close()` does with the keys that wait: `"finish"` copies them, as far as `per_second` and
            `close_seconds` allow (asyncio: in the event loop of the operations); `"drop"` drops them.
        close_seconds: how long `close()` may take over them; from 0.

    All but `mode` and `per_second` are for the background alone.

    Raises:
        ValueError: an argument is out of range.
    """

    mode: CopyMode = "inline"
    per_second: float | None = None
    max_keys: int = 10_000
    max_bytes: int = 64 * 2**20
    size_of: Callable[[Any], int] | None = None
    on_close: Literal["finish", "drop"] = "finish"
    close_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.mode not in ("inline", "background", "off"):
            raise ValueError(f'copy is "inline", "background", "off" or Copies(...), not {self.mode!r}')
        if self.on_close not in ("finish", "drop"):
            raise ValueError('on_close must be "finish" or "drop"')
        _check_rate("per_second", self.per_second)
        if self.max_keys < 1 or self.max_bytes < 1:
            raise ValueError("max_keys and max_bytes must be at least 1")
        if not 0 <= self.close_seconds < math.inf:
            raise ValueError("close_seconds must be from 0, and finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """Compare, in the background, a share of what New served with what Old holds.

    A difference is reported only where it is certain: no proxy wrote the key while both stores were read. While a
    key is compared it is dirty, as if it were copied: readers get it from Old, and a write that overlaps leaves it
    stale. Differing keys are counted, logged by their hashes (`keys_differ`), and marked stale, so that they are
    read from Old, and made right by the next copy or write. A key that New lacks is no difference.

    Args:
        share: how many of the keys that New serves are compared: above 0, to 1.
        equal: (Old's value, New's value) -> whether they are equal. What it raises is counted and logged, and
            reaches nobody.
        per_second: keys compared in a second at most, in this process; above 0. None: no limit.
        max_keys: keys that may wait to be compared, from 1. Beyond them reads are not compared.

    Raises:
        TypeError: `equal` is a coroutine function.
        ValueError: an argument is out of range.
    """

    share: float
    equal: Callable[[Any, Any], object] = operator.eq
    per_second: float | None = 100.0
    max_keys: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError("share must be above 0, up to 1")
        if is_coroutine_function(self.equal):
            raise TypeError("equal= is a coroutine function, and what it returns would always count as equal")
        _check_rate("per_second", self.per_second)
        if self.max_keys < 1:
            raise ValueError("max_keys must be at least 1")


def _check_rate(name: str, per_second: float | None) -> None:
    if per_second is not None and not 0 < per_second < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, or None")


class _Waiting(NamedTuple, Generic[T]):
    item: T
    size: int


class KeyQueue(Generic[T]):
    """Keys that wait, each once and in order, at most `max_keys` of at most `max_bytes` together. Thread-safe."""

    def __init__(self, max_keys: int, max_bytes: float = math.inf) -> None:
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._waiting: OrderedDict[bytes, _Waiting[T]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, name: bytes, item: T, size: int = 0) -> bool:
        """Let a key wait; one that waits already is left as it is. Returns False where it has no room."""
        with self._lock:
            if name in self._waiting:
                return True
            if len(self._waiting) >= self._max_keys or self._bytes + size > self._max_bytes:
                return False
            self._waiting[name] = _Waiting(item, size)
            self._bytes += size
            return True

    def take(self, limit: int) -> list[T]:
        """Remove and return those that have waited longest, at most `limit` of them."""
        taken: list[T] = []
        with self._lock:
            while self._waiting and len(taken) < limit:
                _, (item, size) = self._waiting.popitem(last=False)
                self._bytes -= size
                taken.append(item)
        return taken

    def clear(self) -> int:
        """Remove all; returns how many there were."""
        return len(self.take(len(self._waiting)))

    def after_fork(self) -> None:
        """In a forked child: what waits is the parent's to do."""
        self._lock = threading.Lock()
        self._waiting.clear()
        self._bytes = 0  # a thread of the parent may have been in the middle of something

    def snapshot(self) -> tuple[tuple[bytes, _Waiting[T]], ...]:
        """What waits, for the explorer."""
        return tuple(self._waiting.items())

    def restore(self, snapshot: tuple[tuple[bytes, _Waiting[T]], ...]) -> None:
        """Hold what a snapshot says."""
        self._waiting = OrderedDict(snapshot)
        self._bytes = sum(waiting.size for _, waiting in snapshot)


def approximate_bytes(value: object) -> int:
    """About how much memory a value takes: itself and, one level deep, what it holds."""
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if isinstance(value, Mapping):
        held: list[object] = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        held = list(value)
    elif dataclasses.is_dataclass(value):
        held = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    else:
        held = []
    return sum(sys.getsizeof(each, 0) for each in [value, *held])
