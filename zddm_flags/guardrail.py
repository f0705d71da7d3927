"""When a migration has to be killed by itself: New raises, is slow, or is found to differ from Old.

Nothing here asks a store or reports anything: calls are counted, and a threshold that they cross is returned.

How long they took is kept in histograms whose buckets are each 10 % wider than the one before, from 1 microsecond
to 107 seconds, so that memory does not grow with traffic: 1.6 kB for each twelfth of the window, store, operation
and outcome. A percentile is given as the upper edge of its bucket, which is at most 10 % above the percentile
itself, and so a ratio of two is wrong by at most 10 % either way. Shorter times count as 1 microsecond, and longer
ones as 107 seconds.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

__all__ = ["Guardrail", "GuardrailCrossed", "GuardrailWatch"]

_SLOTS = 12
"""A window's parts. What happened leaves the window with its slot, at an age between 11/12 of it and all of it."""
_EDGES = tuple(1e-6 * 1.1**exponent for exponent in range(195))
"""The upper edges, in seconds, of the histograms' buckets; one more bucket is above the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """What of New is bad enough that its proxy disables itself, until `enable()`. Give at least one threshold.

    Each proxy judges by its own calls, over the last `window_seconds`: those that reached New, in the background
    too. What its `Guard` refused counts nowhere.

    Args:
        max_error_share: the share of the calls to New that raised, above which the proxy disables itself. Above 0,
            to 1; at exactly 1 it is never crossed, since no share is above it.
        max_latency_ratio: how many times as long as Old New may take for the same operation, at
            `latency_percentile`. Above 0, finite. Known to within 10 %, so leave room for that.
        latency_percentile: which calls are compared, above 0 and below 1: with 0.95, the slowest 5 % may be slow.
        max_differing_keys: how many differing keys shadow comparison may find within the window, from 0. A key
            that is found twice counts twice.
        min_calls: calls in the window before a share or a ratio counts, from 1. For the ratio they have to be of
            one operation, and as many in each of the two stores.
        window_seconds: how far back calls count, from 0.001 (a millisecond), finite.

    Immutable, so safe to share.

    Raises:
        TypeError: an argument is of the wrong type; a bool is no number.
        ValueError: an argument is out of range, NaN or infinite, or there is no threshold.
    """

    max_error_share: float | None = None
    max_latency_ratio: float | None = None
    latency_percentile: float = 0.95
    max_differing_keys: int | None = None
    min_calls: int = 100
    window_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.max_error_share is None and self.max_latency_ratio is None and self.max_differing_keys is None:
            raise ValueError("one of max_error_share, max_latency_ratio and max_differing_keys is needed")
        if self.max_error_share is not None and not 0 < _finite("max_error_share", self.max_error_share) <= 1:
            raise ValueError(f"max_error_share is above 0, and at most 1, not {self.max_error_share!r}")
        if self.max_latency_ratio is not None and not _finite("max_latency_ratio", self.max_latency_ratio) > 0:
            raise ValueError(f"max_latency_ratio is above 0, not {self.max_latency_ratio!r}")
        if not 0 < _finite("latency_percentile", self.latency_percentile) < 1:
            raise ValueError(f"latency_percentile is above 0 and below 1, not {self.latency_percentile!r}")
        if self.max_differing_keys is not None:
            _check_count("max_differing_keys", self.max_differing_keys, least=0)
        _check_count("min_calls", self.min_calls, least=1)
        if _finite("window_seconds", self.window_seconds) < 0.001:
            raise ValueError(f"window_seconds is at least 0.001, not {self.window_seconds!r}")


@dataclass(frozen=True, slots=True)
class GuardrailCrossed:
    """A threshold that was crossed, and by what: ready for a log."""

    threshold: Literal["error_share", "latency_ratio", "differing_keys"]
    limit: float
    """The value from the `Guardrail` that was exceeded."""
    figures: Mapping[str, float | int]
    """What exceeded it, under the threshold's own name, and the numbers that it was made of."""
    operation: str | None = None
    """The operation that New is slow at; None for the other thresholds."""


class _Slot:
    """What happened within one twelfth of a window."""

    __slots__ = ("calls", "differing", "errors", "histograms", "number")

    def __init__(self, number: float) -> None:
        self.number = number  # slots are numbered by the clock; the numbers of those without a call are missing
        self.calls = 0
        self.errors = 0
        self.differing = 0
        self.histograms: dict[tuple[str, str, bool], list[int]] = {}  # by store, operation, and whether it raised


class GuardrailWatch:
    """Counts what one proxy's stores do, and says once when it crosses the guardrail.

    Args:
        guardrail: the thresholds.
        clock: monotonic seconds (H15). Called with a lock held.

    Thread-safe. A call is counted in constant time, and nothing is counted between a crossing and `restart()`.
    """

    def __init__(self, guardrail: Guardrail, clock: Callable[[], float]) -> None:
        self._guardrail = guardrail
        self._clock = clock
        self._slot_seconds = guardrail.window_seconds / _SLOTS
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: forget everything, and wait for no thread of the parent."""
        self._lock = threading.Lock()
        self.restart()

    def restart(self) -> None:
        """Forget everything. From now on a threshold can be crossed again."""
        with self._lock:
            self._slots = deque([_Slot(-math.inf)])
            self._calls = self._errors = self._differing = 0  # New's, in all slots
            self._compare_at = 0  # each new slot sets it
            self._crossed = False

    def called(
        self, store: Literal["old", "new"], operation: str, seconds: float, *, failed: bool
    ) -> GuardrailCrossed | None:
        """Count a call that a store ended, and return the threshold that is crossed by now, if that is news.

        Args:
            store: which of the two was called.
            operation: what it was asked for: one of a few names, as each takes memory. New's calls of a name are
                compared with Old's, so a batch needs another name than a single key.
            seconds: how long it took.
            failed: whether it raised. A failure of Old never counts against New. The time of a failure counts
                only if it is longer than the percentile of the store's successful calls, if it has any: a refused
                connection must not make a store look fast, and callers do wait for one that times out.
        """
        if self._crossed:
            return None
        limits = self._guardrail
        with self._lock:
            if self._crossed:
                return None
            slot = self._slot_now()
            if limits.max_latency_ratio is not None:
                kind = (store, operation, failed)
                histogram = slot.histograms.get(kind)
                if histogram is None:
                    histogram = slot.histograms[kind] = [0] * (len(_EDGES) + 1)
                histogram[bisect_left(_EDGES, seconds)] += 1
            if store == "new":
                slot.calls += 1
                self._calls += 1
                if failed:
                    slot.errors += 1
                    self._errors += 1
            crossed = None
            if self._calls >= limits.min_calls:
                if limits.max_error_share is not None and self._errors / self._calls > limits.max_error_share:
                    crossed = self._too_many_errors(limits.max_error_share)
                elif limits.max_latency_ratio is not None and self._calls >= self._compare_at:
                    # Comparing costs as much as a few hundred calls. A slot's first call does it, as one slot
                    # hardly moves a percentile of twelve, and a call that doubles the calls in the window: a New
                    # that is slow from the start is found at min_calls, not a slot later.
                    self._compare_at = 2 * self._calls
                    crossed = self._too_slow(limits.max_latency_ratio)
            self._crossed = crossed is not None
            return crossed

    def differed(self, keys: int) -> GuardrailCrossed | None:
        """Count `keys`, from 0, in which New differs from Old; return the threshold crossed, if that is news."""
        limit = self._guardrail.max_differing_keys
        with self._lock:
            if self._crossed or limit is None:
                return None
            self._slot_now().differing += keys
            self._differing += keys
            if self._differing <= limit:
                return None
            self._crossed = True
            return GuardrailCrossed("differing_keys", limit, {"differing_keys": self._differing})

    def _slot_now(self) -> _Slot:
        """The slot that it is now, in a window without the slots that are too old for it."""
        slots = self._slots
        number = self._clock() // self._slot_seconds
        if number > slots[-1].number:
            slots.append(_Slot(number))
            while slots[0].number <= number - _SLOTS:
                left = slots.popleft()
                self._calls -= left.calls
                self._errors -= left.errors
                self._differing -= left.differing
            self._compare_at = self._guardrail.min_calls
        return slots[-1]

    def _too_many_errors(self, limit: float) -> GuardrailCrossed:
        figures = {"error_share": self._errors / self._calls, "calls": self._calls, "errors": self._errors}
        return GuardrailCrossed("error_share", limit, figures)

    def _too_slow(self, limit: float) -> GuardrailCrossed | None:
        """The first operation, by name, that New is too slow at."""
        for operation in sorted({operation for slot in self._slots for _, operation, _ in slot.histograms}):
            old_successes, _, old_seconds = self._latency("old", operation)
            _, new_calls, new_seconds = self._latency("new", operation)
            # Old's failures do not count here, lest they make a percentile of too few calls count against New.
            enough = min(old_successes, new_calls) >= self._guardrail.min_calls
            if enough and new_seconds / old_seconds > limit:
                figures = {
                    "latency_ratio": new_seconds / old_seconds,
                    "latency_percentile": self._guardrail.latency_percentile,
                    "old_seconds": old_seconds,
                    "old_calls": old_successes,
                    "new_seconds": new_seconds,
                    "new_calls": new_calls,
                }
                return GuardrailCrossed("latency_ratio", limit, figures, operation)
        return None

    def _latency(self, store: str, operation: str) -> tuple[int, int, float]:
        """How many calls succeeded, how many count, and the seconds at the percentile of those that count."""
        counts = self._merged(store, operation, failed=False)
        successes = sum(counts)
        longer = self._bucket(counts) + 1
        counts[longer:] = map(int.__add__, counts[longer:], self._merged(store, operation, failed=True)[longer:])
        return successes, sum(counts), _EDGES[min(self._bucket(counts), len(_EDGES) - 1)]

    def _merged(self, store: str, operation: str, *, failed: bool) -> list[int]:
        """One histogram of all slots."""
        kind = (store, operation, failed)
        histograms = [slot.histograms[kind] for slot in self._slots if kind in slot.histograms]
        return list(map(sum, zip(*histograms, strict=True))) or [0] * (len(_EDGES) + 1)

    def _bucket(self, counts: list[int]) -> int:
        """The percentile's bucket: the first that holds, with those below it, so large a share of the calls."""
        return bisect_left(list(accumulate(counts)), self._guardrail.latency_percentile * sum(counts))


def _finite(name: str, value: float) -> float:
    """Return `value` as a finite float. Raises TypeError and ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number, not a {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is a finite number, not {number!r}")
    return number


def _check_count(name: str, value: int, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is an int, not a {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} is at least {least}")
