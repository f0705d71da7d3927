# Generated from zddm_flags/_async/work.py by `make generate`. Do not edit.
"""What all jobs have in common: they are paced, patient with stores that fail, and stopped cleanly."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Literal, NamedTuple, TypeVar

from zddm_flags._sync._world import Calls, Stopper
from zddm_flags._sync.bulk import Bulk, Located
from zddm_flags._sync.migration import CopyRules
from zddm_flags.errors import CorruptCheckpoint, InvalidKey, LedgerMismatch, Superseded, Unsupported
from zddm_flags.guard import GuardOpen
from zddm_flags.hashing import hash_rate
from zddm_flags.pace import Pace
from zddm_telemetry import JobTelemetry

__all__ = ["LOOK_SECONDS", "Patience", "Stopped", "Work"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

LOOK_SECONDS = 0.2
"""How often a job that waits looks whether it may go on."""


class Stopped(Exception):
    """The job is to end; the page that it is at is not done."""


class Copying(NamedTuple):
    """What came of copying keys."""

    counts: Counter[str]
    below: float
    """No key whose hash rate is below was left for being above the write rate; 1.0 where none was."""


class Work(Generic[K, V]):
    """The part of a job that waits. Its arguments are those of `Job`."""

    _sharing: int | None = None  # how many parts share what the flag allows in a second; None: this is no part

    def __init__(
        self,
        proxy: Bulk[K, V],
        told: JobTelemetry,
        *,
        page_size: int = 1000,
        per_second: float | None = None,
        patience_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if page_size < 1:
            raise ValueError(f"page_size must be at least 1, not {page_size}")
        self._proxy = proxy
        self._page_size = page_size
        self._per_second = per_second
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._stopper = Stopper()
        self._pace = Pace(per_second, clock)
        self._paced_at = per_second
        self._waiting: str | None = None
        self._known_key: tuple[K] | None = None
        self._told = told
        self._began = clock()

    def stop(self) -> None:
        """End it soon: pages in progress are finished or dropped, and a later run goes on. Thread-safe."""
        self._stopper.stop()

    # -- waiting ----------------------------------------------------------------------------------------------

    def _wait(self, seconds: float, why: str) -> None:
        """Wait, and say why. Raises Stopped."""
        self._waiting = why
        self._told.waits(why)
        if not self._stopper.stopped:
            self._stopper.wait(seconds)
        if self._stopper.stopped:
            raise Stopped

    def _allowance(self) -> int:
        """How many keys of Old may be read now, from 1: waits until there are some. Raises Stopped."""
        while True:
            if self._stopper.stopped:
                raise Stopped
            live = self._proxy.gate.decision.rollout.backfill_per_second
            if live is not None:
                live /= self._sharing or 1
            if live == 0:
                self._wait(LOOK_SECONDS, "the flag's backfill_per_second is 0")
                continue
            per_second = min((rate for rate in (live, self._per_second) if rate is not None), default=None)
            if per_second != self._paced_at:
                self._pace, self._paced_at = Pace(per_second, self._clock), per_second
                if self._sharing is not None and per_second is not None:
                    self._pace.take(int(per_second) or 1)  # the part before may have used up this second
            if per_second is None:
                return self._page_size
            # A page is what comes in a quarter of a second, so that a low rate is not a rare burst.
            wanted = max(1, min(self._page_size, int(per_second / 4)))
            pace = self._pace
            granted = pace.take(wanted)
            if granted == wanted:
                return wanted
            pace.give_back(granted)
            self._wait(min(LOOK_SECONDS, (wanted - granted) / per_second), "the limit of rows a second")

    def _may_use_new(self, key: K, *, writing: bool) -> bool:
        """Wait until New may be called; returns whether that took a while. Raises Stopped."""
        waited = False
        self._known_key = (key,)
        while True:
            if writing and not self._proxy.new_takes_writes:
                why = "the write rate is 0, or the proxy is disabled, so that nothing is written to New"
            elif self._proxy.guard_refuses(key):
                why = "New fails, and the guard keeps calls from it"
            else:
                return waited
            waited = True
            self._wait(LOOK_SECONDS, why)

    def _persistently(self, call: Calls[T]) -> T:
        """What the call returns, tried again where it fails. Raises Stopped, or its error once patience is over.

        An error that another attempt cannot change is raised at once.
        """
        give_up_at: float | None = None
        pause = 0.1
        while True:
            try:
                return call()
            except _POINTLESS:
                raise
            except Exception as error:
                if isinstance(error, GuardOpen) and self._have_new_tried():
                    self._wait(LOOK_SECONDS, "New fails, and the guard keeps calls from it")
                    continue
                now = self._clock()
                give_up_at = now + self._patience_seconds if give_up_at is None else give_up_at
                if now >= give_up_at:
                    raise
                self._wait(pause, f"a store or the ledger fails: {type(error).__name__}")
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _have_new_tried(self) -> bool:
        """Let the guard try New again, where it is time: there may be no traffic in this process that does.

        Takes a key to read. False where none is known, and Old gives none.
        """
        try:
            cursor: str | None = None
            while self._known_key is None:
                page = self._proxy.scan_old(cursor, 1, None)
                if page.items:
                    self._known_key = (page.items[0][0],)
                elif (cursor := page.next_cursor) is None:
                    return False
        except Exception:  # what Old raises is told where Old is needed
            return False
        self._proxy.guard_refuses(*self._known_key)
        return True

    # -- copying ----------------------------------------------------------------------------------------------

    def _copy(
        self, job: Literal["backfill", "repair"], located: Sequence[Located[K]], rules: CopyRules
    ) -> Copying:
        """Copy keys, each until something came of it. Raises Stopped.

        Of keys that New refused together each half is tried alone, and so on, so that one that it cannot take
        keeps no other from being copied. Keys with an operation in progress, or whose token was left, are tried
        again for as long as a token may be left, and a margin.
        """
        counts: Counter[str] = Counter()
        below = 1.0
        batches = [list(located)] if located else []
        patience = Patience(self._clock, self._proxy.token_seconds + MARGIN_SECONDS)
        while batches:
            batch = batches.pop()
            if self._may_use_new(batch[0].key, writing=True):
                patience.renew()
            outcomes = self._persistently(partial(self._proxy.copy_keys, job, batch, rules))
            refused: list[Located[K]] = []
            again: list[Located[K]] = []
            for each in batch:
                outcome = outcomes[each.name]
                if outcome in _AGAIN:
                    again.append(each)
                elif outcome == "refused" and len(batch) > 1:
                    refused.append(each)
                else:
                    counts[outcome] += 1
                    if outcome == "not_covered":
                        below = min(below, hash_rate(each.hash))
            batches += _halves(refused)
            if len(again) < len(batch):
                patience.renew()
            if again:
                if patience.is_over(len(again)):
                    counts["pending"] += len(again)
                else:
                    # A New that cannot take so many in the time of one operation may take half of them.
                    failed = any(outcomes[each.name] == "failed" for each in again)
                    batches += _halves(again) if failed else [again]
                    self._wait(
                        patience.pause(), "operations on some keys are in progress, or were left by a crash"
                    )
                    self._proxy.reap_if_due()
        return Copying(counts, below)


def _halves(keys: list[T]) -> list[list[T]]:
    """The keys in two parts, and no empty one."""
    half = len(keys) // 2
    return [part for part in (keys[:half], keys[half:]) if part]


class Patience:
    """How long keys are tried again of which nothing comes."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._left: int | None = None
        self.renew()

    def renew(self) -> None:
        """Something came of some."""
        self._until = self._clock() + self._seconds
        self._pause = _FIRST_PAUSE

    def is_over(self, left: int) -> bool:
        """Whether nothing came of these for too long."""
        if self._left is None or left < self._left:
            self.renew()
            self._left = left
        return self._clock() >= self._until

    def pause(self) -> float:
        """Seconds until the next attempt: longer from one to the next."""
        pause, self._pause = self._pause, min(self._pause * 2, 1.0)
        return pause


MARGIN_SECONDS = 10.0
_AGAIN = ("pending", "failed", "guard_open", "disabled", "ledger_failed")
_POINTLESS = (CorruptCheckpoint, InvalidKey, LedgerMismatch, Superseded, Unsupported, TypeError, ValueError)
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 5.0
