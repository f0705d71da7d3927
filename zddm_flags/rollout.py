"""What fraction of the keys takes part, and where that wish comes from."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from zddm_flags._fork import after_fork_in_child
from zddm_flags.errors import InvalidRollout

__all__ = ["CLOSED", "Evaluation", "Rollout", "RolloutSource", "StaticSource", "change_of", "checked_rate"]


def checked_rate(value: object) -> float:
    """Return `value` as a rate: a float from 0.0 to 1.0.

    Raises:
        InvalidRollout: it is not an int or float (a bool is neither), is NaN or infinite, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRollout(f"a rate is a number from 0 to 1, not a {type(value).__name__}")
    # A subclass may compare, show and convert itself as it likes: what it is as a number counts.
    number = float.__float__(value) if isinstance(value, float) else int.__int__(value)
    if not 0 <= number <= 1:  # NaN is in no range
        huge = isinstance(number, int) and abs(number) >= 2**64  # repr() refuses several thousand digits
        raise InvalidRollout(f"a rate is a number from 0 to 1, not {'a huge int' if huge else repr(number)}")
    return float(number)


@dataclass(frozen=True, slots=True)
class Rollout:
    """The desired rates, each from 0 (no key) to 1 (every key); `read` is never above `write`.

    A key whose hash rate is below `write` is written to both stores; one below `read` is also read from New.
    A `write` above `read` warms New before anything is read from it. Immutable, so safe to share.

    `backfill_per_second`, at least 0 and finite, is how many rows of Old a backfill reads in a second, in all of
    its workers together: 0 pauses it, None leaves it to the backfill.

    Raises:
        InvalidRollout: a rate is not a finite number from 0 to 1, `read > write`, or `backfill_per_second` is no
            such number.
    """

    read: float
    write: float
    backfill_per_second: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "read", checked_rate(self.read))
        object.__setattr__(self, "write", checked_rate(self.write))
        if self.read > self.write:
            raise InvalidRollout(f"the read rate {self.read} is above the write rate {self.write}")
        if self.backfill_per_second is not None:
            object.__setattr__(self, "backfill_per_second", _checked_pace(self.backfill_per_second))

    @classmethod
    def of(cls, rate: float) -> Rollout:
        """The rollout that reads and writes at the same `rate`."""
        return cls(rate, rate)

    @property
    def text(self) -> str:
        """As a flag has it: a number, or a JSON object where the two rates differ or there is a pace."""
        if self.read == self.write and self.backfill_per_second is None:
            return repr(self.read)
        members: dict[str, float] = {"read": self.read, "write": self.write}
        if self.backfill_per_second is not None:
            members["backfill_per_second"] = self.backfill_per_second
        return json.dumps(members)

    @classmethod
    def parse(cls, value: object) -> Rollout:
        """Read a flag's value: a number, or an object with the numbers `read` and `write`.

        The object may have `backfill_per_second`, a number or null. Further members are ignored, so that a flag
        can carry other settings beside the rates.

        Raises:
            InvalidRollout: the value is neither, or a rate is missing or wrong.
        """
        if not isinstance(value, Mapping):
            return cls.of(checked_rate(value))
        missing = [name for name in ("read", "write") if name not in value]
        if missing:
            raise InvalidRollout(f"the flag's object has no {' and no '.join(missing)}")
        return cls(value["read"], value["write"], value.get("backfill_per_second"))


def _checked_pace(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRollout(f"backfill_per_second is a number or null, not a {type(value).__name__}")
    number = float.__float__(value) if isinstance(value, float) else int.__int__(value)
    if not 0 <= number <= sys.float_info.max:  # NaN is in no range
        raise InvalidRollout("backfill_per_second is at least 0, and finite")
    return float(number)


def change_of(before: Rollout, after: Rollout) -> dict[str, Any]:
    """What a log event says of a change."""
    change: dict[str, Any] = {
        "read": after.read,
        "write": after.write,
        "old_read": before.read,
        "old_write": before.write,
    }
    if after.backfill_per_second != before.backfill_per_second:
        change["backfill_per_second"] = after.backfill_per_second
    return change


CLOSED = Rollout(0.0, 0.0)
"""The rollout that passes no key."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a rollout that is served came about: which flag said it, and why.

    Immutable, so safe to share. The words are those of OpenTelemetry's semantic conventions for feature flags:
    https://opentelemetry.io/docs/specs/semconv/feature-flags/feature-flags-events/

    `rollout` is what is served.

    `flag_key` is the flag's key, and `provider` the flag system, such as "launchdarkly".

    `variant` names the variation that the rollout is the value of: in LaunchDarkly its index, as text. None where
    the rollout is of no variation: a default, or closed.

    `reason` is a word of `feature_flag.result.reason` where one fits:

    - "default": the flag has not been evaluated yet;
    - "targeting_match": a rule of the flag or one of its targets;
    - "split": an experiment;
    - "disabled": the flag is off;
    - "error": the flag could not be evaluated, or its value was refused and the last good rollout stays;
    - "stale": closed, for no connection to the flag system for too long.

    Otherwise it is LaunchDarkly's kind of reason in lower case, as "fallthrough" and "prerequisite_failed", or why
    the source is closed: "closed" or "forked". A source that does not know says "unknown".

    `error` is what went wrong, else None: LaunchDarkly's kind of error in lower case, as "flag_not_found", or
    "flag_value_refused" for a value that is no rollout.

    `context_id` is what the flag was evaluated for: in LaunchDarkly the context's fully qualified key, as
    "service:users-service".
    """

    rollout: Rollout
    flag_key: str
    provider: str
    variant: str | None = None
    reason: str = "unknown"
    error: str | None = None
    context_id: str | None = None


@runtime_checkable
class RolloutSource(Protocol):
    """Where a `TrafficGate` gets its `Rollout` from, live.

    Implement it to drive the gate from another flag system. Both members must be safe to call from any
    thread. A source may also have the attributes `flag_key` (a string that spans show as `feature_flag.key`),
    `evaluation` (an `Evaluation`, or None: how `rollout` came about, for spans; no I/O, never raises, and replaced
    before the listeners get the rollout) and `alarm` (None, or a quick function that never raises, called where
    the gate keeps a key from New: for a source that closed by itself and has to say so). A gate looks `alarm` up
    when it gets a rollout, so publish one to change it.
    """

    @property
    def rollout(self) -> Rollout:
        """The rollout wanted now. No I/O."""
        ...

    def subscribe(self, listener: Callable[[Rollout], None]) -> Callable[[], None]:
        """Call `listener` with the current rollout at once, and with each later one in order.

        Returns a function that ends the subscription. The listener is quick and never raises.
        """
        ...


class StaticSource:
    """A rollout that changes only when `set` is called: for fixed rates, tests and flag systems that push.

    Args:
        rate: a number from 0 to 1, a `Rollout`, or an object as `Rollout.parse` takes it.

    Thread-safe. Raises `InvalidRollout` for a wrong rate.
    """

    flag_key: str | None = None

    def __init__(self, rate: object = 0.0) -> None:
        self._renew_lock()
        after_fork_in_child(self._renew_lock)
        self._listeners: dict[object, Callable[[Rollout], None]] = {}
        self._rollout = rate if isinstance(rate, Rollout) else Rollout.parse(rate)

    def _renew_lock(self) -> None:
        """In the child of a fork too: a kill there must not wait for a thread of the parent."""
        self._lock = threading.RLock()  # a listener may end its own subscription, or set a further rate

    @property
    def rollout(self) -> Rollout:
        """The rollout set last."""
        return self._rollout

    def set(self, rate: object) -> None:
        """Change the rollout; every gate on this source follows before this returns.

        Raises:
            InvalidRollout: the rate is wrong; the last one stays.
        """
        rollout = rate if isinstance(rate, Rollout) else Rollout.parse(rate)
        with self._lock:
            self._rollout = rollout
            for listener in list(self._listeners.values()):
                listener(self._rollout)  # not `rollout`: a listener may have set a newer one, and it must win

    def subscribe(self, listener: Callable[[Rollout], None]) -> Callable[[], None]:
        """See `RolloutSource.subscribe`."""
        subscription = object()  # one listener may be subscribed twice
        with self._lock:
            self._listeners[subscription] = listener
            listener(self._rollout)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners.pop(subscription, None)

        return unsubscribe
