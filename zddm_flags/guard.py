"""Whether New may be called: a circuit breaker, so that a New that fails, hangs or is slow never hurts Old.

Decisions only: nothing here calls a store, waits, or knows of asyncio or telemetry.
"""

from __future__ import annotations

import math
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from zddm_flags.errors import ValueRefused

__all__ = ["CircuitBreaker", "Guard", "GuardChange", "GuardOpen", "GuardState", "Refusal", "is_failure"]

GuardState: TypeAlias = Literal["closed", "open", "half_open"]
"""`closed`: New is called. `open`: it is not. `half_open`: one call at a time tries whether it may be."""

Refusal: TypeAlias = Literal["open", "half_open", "full"]
"""Why New was not called. `half_open`: another call tries it. `full`: too many calls are in flight."""

Reason: TypeAlias = Literal[
    "failures", "slow_calls", "hanging_calls", "probe_failed", "trial_failed", "probed", "recovered"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """When to stop calling New, and when to try it again. Immutable, so safe to share.

    Each proxy judges by its own calls to New. A batch is one call where the adapter has `read_many`, `write_many`
    and `delete_many`, else each of its keys is. docs/operations.md says how to choose the numbers.

    Each share is above 0, to 1; each number of seconds is finite and above 0; each number of calls is from 1.

    Raises:
        TypeError: a value is not a number of the right kind; a bool is none.
        ValueError: a value is out of its range, or `open_seconds` is above `max_open_seconds`.
    """

    max_failure_share: float = 0.5
    """New is not called any more when this share of the window's calls, or more, raised."""
    max_slow_share: float = 0.8
    """New is not called any more when this share of the window's calls, or more, were slow."""
    slow_call_seconds: float = 0.5
    """A call that takes this long or longer is slow; so is each one that goes over its budget or hangs. Let it be
    less than callers wait for an operation: what they cancel sooner says nothing of New."""
    budget_seconds: float = 1.0
    """The time for one call to New; the proxy's `max_call_seconds` where that is less. Asyncio, where New is in
    another process (`StoreInfo.remote`): after it the call is cancelled, and its caller goes on with Old. A call
    so cancelled counts as one that raised, even if the driver finishes it after all. Blocking: a call cannot be
    stopped, so its caller waits until the driver's own time-outs end it. A call hangs when it is in flight for
    longer than this; in asyncio, than twice this. It then counts as one that raised and was slow, however it ends.
    """
    min_calls: int = 20
    """Neither share counts while there are fewer calls in the window."""
    window_seconds: float = 10.0
    """How long a call counts after it ended: for 0.9 to 1.0 of this."""
    open_seconds: float = 1.0
    """How long New is not called the first time; twice as long each further time, until the guard was closed for
    `window_seconds`. Up to a fifth less, at random, so that processes do not come back all at once. Then the next
    operation that would call New has it read once, in the background: the probe."""
    max_open_seconds: float = 60.0
    """What the doubling of `open_seconds` ends at; not below it."""
    trial_calls: int = 3
    """After a probe that succeeded so many calls, one at a time, must neither raise nor be slow; all others skip
    New meanwhile. Then New is called as before."""
    max_concurrent_calls: int = 64
    """So many calls may be in flight, those that hang among them; any more skip New, and do not wait. In a
    blocking program give less than the number of threads: then the others never wait for New."""
    max_hanging_calls: int = 4
    """While so many calls hang, New is not called. Nor when so many calls in a row were slow and raised, as with a
    driver's time-outs; one that succeeds begins the count anew. So a program of one thread is protected too. At
    most `max_concurrent_calls`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value: object = getattr(self, field.name)
            whole, share = isinstance(field.default, int), field.name.endswith("_share")
            kind = "an int" if whole else "a number"
            if isinstance(value, bool) or not isinstance(value, (int,) if whole else (int, float)):
                raise TypeError(f"{field.name} is {kind}, not a {type(value).__name__}")
            if not 0 < value <= (1 if share else sys.float_info.max):  # NaN is in no range
                wanted = "from 1" if whole else "above 0, to 1" if share else "above 0 and finite"
                raise ValueError(f"{field.name} is {kind} {wanted}, not {value!r}")
        if self.open_seconds > self.max_open_seconds:
            raise ValueError(f"open_seconds {self.open_seconds} is above max_open_seconds {self.max_open_seconds}")


class GuardOpen(Exception):
    """The call was refused, so it was certainly not made. Internal: no caller of a proxy sees it."""

    def __init__(self, why: Refusal) -> None:
        super().__init__(f"New is not called: {why}")
        self.why: Refusal = why


@dataclass(frozen=True, slots=True)
class GuardChange:
    """One change of state, or an opening of what was open already, and what led to it."""

    state: GuardState
    before: GuardState
    reason: Reason
    calls: int
    """The calls that were looked at: those in the window, or those that tried New in half open."""
    failures: int
    """How many of them raised, or hung."""
    slow_calls: int
    """How many of them were slow, or hung."""
    hanging_calls: int
    """How many calls hang now, whenever they began."""
    open_seconds: float
    """How long it stays open from now on, at least; 0.0 unless it opens."""


def is_failure(error: BaseException) -> bool | None:
    """Whether a call that raised tells that New is unwell. None: what ended it was not New."""
    if isinstance(error, Exception):
        return not isinstance(error, ValueRefused)
    return None


class CircuitBreaker:
    """Counts the calls to New, and says whether the next one may be made. Thread-safe; never waits.

    Args:
        guard: what it goes by, but for `guard.budget_seconds`.
        hangs_after_seconds: a call in flight for longer than this hangs. Where calls are cut off at their budget,
            give a longer time, lest those that are cut off together count as hanging.
        clock: the process's monotonic seconds (H15).
        report: is told of each change of state, in the thread that caused it, while no lock is held. Changes by
            two threads may be told in either order. It must not raise.
        random: a number from 0 to 1 for the jitter of each opening.

    While `max_hanging_calls` calls hang, the state is open. A call counts only for the state that it began in.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        hangs_after_seconds: float,
        clock: Callable[[], float],
        report: Callable[[GuardChange], None],
        random: Callable[[], float] = random.random,
    ) -> None:
        self._guard = guard
        self._most_calls = guard.max_concurrent_calls
        self._slow_call_seconds = guard.slow_call_seconds
        self._hangs_after_seconds = hangs_after_seconds
        self._clock = clock
        self._report = report
        self._random = random
        self._lock = threading.Lock()
        self._state: GuardState = "closed"
        self._window = _Window(guard.window_seconds)
        self._running: dict[int, float] = {}  # when each call began, the oldest first
        self._look_at = math.inf  # no call hangs before that
        self._hanging: set[int] = set()
        self._stalled = 0  # calls in a row that were slow and raised
        self._good_began = -math.inf  # the latest beginning of a call that succeeded
        self._last_call = 0
        self._first_call = 1  # the calls numbered from here on began in this state
        self._closed_at = clock()
        self._open_until = 0.0
        self._next_open_seconds = guard.open_seconds
        self._probing = False

    @property
    def state(self) -> GuardState:
        """The state, as of the last call that was begun, ended or asked for."""
        return self._state

    def why_refused(self) -> Refusal | None:
        """What `begin` would raise now, or None. Takes nothing, so `begin` may still raise."""
        with self._lock:
            change = self._notice_hanging(self._clock())
            why = self._refusal()
        self._tell(change)
        return why

    def begin(self) -> int:
        """Count a call to New, which the caller makes now; returns its number for `end`.

        Raises:
            GuardOpen: the call must not be made.
        """
        with self._lock:
            now = self._clock()
            change = self._notice_hanging(now) if now > self._look_at else None
            running = self._running
            why: Refusal | None = None
            if self._state != "closed" or len(running) + len(self._hanging) >= self._most_calls:
                why = self._refusal()
            if why is None:
                if not running:
                    self._look_at = now + self._hangs_after_seconds
                self._last_call += 1
                running[self._last_call] = now
            call = self._last_call
        if change is not None:
            self._report(change)
        if why is not None:
            raise GuardOpen(why)
        return call

    def end(self, call: int, failed: bool | None) -> None:
        """The call is over. Ignored where its number is not that of a call in flight.

        Args:
            call: what `begin` returned.
            failed: New raised. None for a call that its own caller cancelled: nobody knows how it would have
                ended, so it counts only if it was slow by then.
        """
        with self._lock:
            now = self._clock()
            change = self._notice_hanging(now) if now > self._look_at else None
            began = self._running.pop(call, None)
            if began is None:
                self._hanging.discard(call)
            elif call >= self._first_call:  # hence nothing above has changed the state
                window = self._window
                slow = now - began >= self._slow_call_seconds
                if slow or failed is not None:
                    window.add(now, bool(failed), slow)
                    if failed is False:
                        self._stalled = 0
                        if began > self._good_began:  # noqa: PLR1730 - max() takes as long as all of this
                            self._good_began = began
                    elif slow and began >= self._good_began:
                        self._stalled += 1
                    if window.failures or window.slow_calls or self._state == "half_open":
                        change = self._decide(now) or change
        if change is not None:
            self._report(change)

    def probe_due(self) -> bool:
        """Whether New is to be probed now: True for one caller each time that it opens.

        The caller has New read in the background and then calls `probed`, come what may: it stays open until then.
        """
        if self._state == "open" and (self._probing or self._clock() < self._open_until):
            return False  # without the lock, for every operation asks
        with self._lock:
            now = self._clock()
            change = self._notice_hanging(now)
            due = self._state == "open" and not self._probing and now >= self._open_until
            due = due and len(self._hanging) < self._guard.max_hanging_calls
            self._probing = self._probing or due
        self._tell(change)
        return due

    def probed(self, *, succeeded: bool | None) -> None:
        """The probe is over: let calls try New, or leave it alone for longer. Ignored where no probe is on.

        None: it was not made, or not to its end, so the next caller who asks is told to.
        """
        with self._lock:
            now = self._clock()
            change = self._notice_hanging(now)
            if self._probing:
                if succeeded is None:
                    self._probing = False
                elif not succeeded:
                    change = self._enter("open", "probe_failed", now)
                elif len(self._hanging) >= self._guard.max_hanging_calls:
                    change = self._enter("open", "hanging_calls", now)
                else:
                    change = self._enter("half_open", "probed", now)
        self._tell(change)

    def after_fork(self) -> None:
        """In the child of a fork: what is in flight is the parent's, and its threads are gone in mid-count."""
        self._lock = threading.Lock()
        self._running = {}
        self._hanging = set()
        self._probing = False
        self._count_anew()

    def snapshot(self) -> Hashable:
        """All that decides what it does next, for the explorer."""
        with self._lock:
            return (
                self._state,
                tuple(map(tuple, self._window.buckets)),
                tuple(self._running.items()),
                frozenset(self._hanging),
                self._stalled,
                self._good_began,
                self._last_call,
                self._first_call,
                self._closed_at,
                self._open_until,
                self._next_open_seconds,
                self._probing,
            )

    def restore(self, snapshot: Any) -> None:
        """Be as it was when it gave this snapshot."""
        with self._lock:
            self._state, buckets, running, hanging, *rest = snapshot
            (
                self._stalled,
                self._good_began,
                self._last_call,
                self._first_call,
                self._closed_at,
                self._open_until,
                self._next_open_seconds,
                self._probing,
            ) = rest
            self._window = _Window(self._guard.window_seconds if self._state == "closed" else math.inf, buckets)
            self._running = dict(running)
            self._look_at = -math.inf
            self._hanging = set(hanging)

    # -- with the lock held -----------------------------------------------------------------------------------

    def _refusal(self) -> Refusal | None:
        if self._state == "open":
            return "open"
        if self._state == "half_open" and self._last_call >= self._first_call and self._last_call in self._running:
            return "half_open"
        if len(self._running) + len(self._hanging) >= self._guard.max_concurrent_calls:
            return "full"
        return None

    def _notice_hanging(self, now: float) -> GuardChange | None:
        """Count each call that hangs, once; returns the change of state that this makes."""
        overdue: list[int] = []
        self._look_at = math.inf  # until the next call begins
        for call, began in self._running.items():
            if now <= began + self._hangs_after_seconds:
                self._look_at = began + self._hangs_after_seconds
                break
            overdue.append(call)
        for call in overdue:
            began = self._running.pop(call)
            self._hanging.add(call)
            if call >= self._first_call:
                self._window.add(now, True, True)
                self._stalled += began >= self._good_began
        return self._decide(now) if overdue else None

    def _decide(self, now: float) -> GuardChange | None:
        guard, window = self._guard, self._window
        window.forget(now)
        if self._state == "open":
            return None
        if max(len(self._hanging), self._stalled) >= guard.max_hanging_calls:
            return self._enter("open", "hanging_calls", now)
        if self._state == "half_open":
            if window.failures or window.slow_calls:
                return self._enter("open", "trial_failed", now)
            if window.calls >= guard.trial_calls:
                return self._enter("closed", "recovered", now)
        elif window.calls >= guard.min_calls:  # divided: 0.07 * 100 is more than 7
            if window.failures / window.calls >= guard.max_failure_share:
                return self._enter("open", "failures", now)
            if window.slow_calls / window.calls >= guard.max_slow_share:
                return self._enter("open", "slow_calls", now)
        return None

    def _enter(self, state: GuardState, reason: Reason, now: float) -> GuardChange:
        before, window, open_seconds = self._state, self._window, 0.0
        if state == "open":
            if before == "closed" and now - self._closed_at >= self._guard.window_seconds:
                self._next_open_seconds = self._guard.open_seconds
            open_seconds = self._next_open_seconds * (0.8 + 0.2 * self._random())
            self._open_until = now + open_seconds
            self._next_open_seconds = min(2 * self._next_open_seconds, self._guard.max_open_seconds)
        elif state == "closed":
            self._closed_at = now
        self._probing = False
        self._state = state
        self._count_anew()
        return GuardChange(
            state,
            before,
            reason,
            window.calls,
            window.failures,
            window.slow_calls,
            len(self._hanging),
            open_seconds,
        )

    def _count_anew(self) -> None:
        self._window = _Window(self._guard.window_seconds if self._state == "closed" else math.inf)
        self._stalled = 0
        self._good_began = -math.inf
        self._first_call = self._last_call + 1

    def _tell(self, change: GuardChange | None) -> None:
        if change is not None:
            self._report(change)


class _Window:
    """Counts the calls of the last `seconds`, in buckets of a tenth, each forgotten as a whole: O(1) per call."""

    __slots__ = ("_bucket_seconds", "buckets", "calls", "failures", "seconds", "slow_calls")

    def __init__(self, seconds: float, buckets: Iterable[Iterable[float]] = ()) -> None:
        self.seconds = seconds
        self._bucket_seconds = seconds / 10
        self.buckets = deque(list(bucket) for bucket in buckets)  # when each began, and its counts
        self.calls = int(sum(bucket[1] for bucket in self.buckets))
        self.failures = int(sum(bucket[2] for bucket in self.buckets))
        self.slow_calls = int(sum(bucket[3] for bucket in self.buckets))

    def add(self, now: float, failed: bool, slow: bool) -> None:
        """Count a call that ended now."""
        buckets = self.buckets
        if not buckets or now - buckets[-1][0] >= self._bucket_seconds:
            self.forget(now)
            buckets.append([now, 0, 0, 0])
        bucket = buckets[-1]
        bucket[1] += 1
        self.calls += 1
        if failed:
            bucket[2] += 1
            self.failures += 1
        if slow:
            bucket[3] += 1
            self.slow_calls += 1

    def forget(self, now: float) -> None:
        """Forget the calls that ended too long ago."""
        buckets = self.buckets
        while buckets and now - buckets[0][0] >= self.seconds:
            _, calls, failures, slow_calls = buckets.popleft()
            self.calls -= int(calls)
            self.failures -= int(failures)
            self.slow_calls -= int(slow_calls)
