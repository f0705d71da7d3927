"""What the explorer explores and what it finds: steps, scenarios, violations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from zddm_flags.rollout import Rollout

__all__ = [
    "Advance",
    "BackfillPage",
    "BackgroundWork",
    "Crash",
    "Delete",
    "Disable",
    "Enable",
    "Event",
    "Exploration",
    "Fault",
    "MakeProxy",
    "MarkUnmarked",
    "Operation",
    "Outage",
    "Read",
    "ReadMany",
    "Recovery",
    "RepairPage",
    "ResetLedger",
    "Scenario",
    "SetRate",
    "Step",
    "VerifyPage",
    "Violation",
    "Write",
    "WriteMany",
]

Fault: TypeAlias = Literal["fail", "not_applied", "late", "lose_reply", "cancel"]
"""A call fails before it is applied, the same and says so (`NotApplied`), fails and is applied later or never,
is applied and loses its reply, or its operation is cancelled while it waits for the call."""

_FAULTS: tuple[Fault, ...] = ("fail", "not_applied", "late", "lose_reply", "cancel")


@dataclass(frozen=True, slots=True)
class Operation:
    """What a process asks of its proxy, at any moment after the steps named in `after` are done."""

    process: str
    after: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class Read(Operation):
    """`proxy.read(key)`."""

    key: str


@dataclass(frozen=True, slots=True)
class ReadMany(Operation):
    """`proxy.read_many(keys)`."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Write(Operation):
    """`proxy.write(key, value)`."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class WriteMany(Operation):
    """`proxy.write_many(dict(items))`."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Delete(Operation):
    """`proxy.delete(key)`."""

    key: str


@dataclass(frozen=True, slots=True)
class MarkUnmarked(Operation):
    """`proxy.mark_unmarked()`, which a proxy with `on_ledger_error="available"` does by itself, every second."""


@dataclass(frozen=True, slots=True)
class BackgroundWork(Operation):
    """`proxy.do_background_work()`: a probe of New, copies and comparisons, which a proxy does by itself.

    It must not raise, nor say that a key differs, unless the scenario began with one that does and is not stale.
    """


@dataclass(frozen=True, slots=True)
class BackfillPage(Operation):
    """One attempt of a backfill at a page of these keys, as a proxy of this library's makes it.

    What it says of a key must be so: one that it copied, or that New refused, is then in New, or dirty, or absent
    from Old; one that was present was in New and clean, or in neither store, at some moment during it; one that
    was absent was not in Old at some moment during it; one that is not covered is above a write rate over 0 that
    the process saw, and with `everything` there is none.
    """

    keys: tuple[str, ...]
    everything: bool = False


@dataclass(frozen=True, slots=True)
class RepairPage(Operation):
    """One attempt of a repair at a page of these keys, whatever the ledger says of them. See `BackfillPage`."""

    keys: tuple[str, ...]
    everything: bool = False
    delete_extra: bool = False


@dataclass(frozen=True, slots=True)
class VerifyPage(Operation):
    """One attempt of a verify at these keys, under a token.

    A difference that it tells of must have been there at some moment while it held its token alone. A key that
    differs from the start and is not in `stale` must, with `mark`, not be clean and different at rest.
    """

    keys: tuple[str, ...]
    mark: bool = True


@dataclass(frozen=True, slots=True)
class ResetLedger(Operation):
    """`proxy.reset_ledger()`."""

    new_was_emptied: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens once, at any moment after the steps named in `after` are done."""

    after: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class SetRate(Event):
    """The process sees another rollout."""

    process: str
    rate: float | Rollout


@dataclass(frozen=True, slots=True)
class Disable(Event):
    """`proxy.disable()` in the process."""

    process: str


@dataclass(frozen=True, slots=True)
class Enable(Event):
    """`proxy.enable()` in the process."""

    process: str


@dataclass(frozen=True, slots=True)
class Crash(Event):
    """The process dies: its operations end where they are. Calls that were sent may still be applied."""

    process: str


@dataclass(frozen=True, slots=True)
class Advance(Event):
    """Every clock moves on by so many seconds.

    Calls to a store that were sent `Scenario.max_call_seconds` ago and are not applied never will be: that is the
    protocol's assumption on time. The default is more than the age at which a token of a proxy with default
    settings is reaped.
    """

    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Outage(Event):
    """From now on every call to `old`, `new` or `ledger` fails before it is applied."""

    target: str


@dataclass(frozen=True, slots=True)
class Recovery(Event):
    """The outages of `old`, `new` or `ledger` that began so far are over."""

    target: str


Step: TypeAlias = Operation | Event


MakeProxy: TypeAlias = Callable[..., Any]
"""Makes the proxy of one process: `AsyncProxy`, a subclass, or an algorithm of one's own.

Called with the gate and the two adapters, and by name with `name`, `ledger`, `clock`, `new_token`, `telemetry`,
`guard=None` and what the scenario's `options` say. Its operations must do the same after hearing the same. They
await nothing but the adapters and the ledger. What they keep between them they keep in the proxy's attributes:
values, lists, dicts and sets of them, and objects with `snapshot()`, which returns all of their state as a
hashable value, and `restore(snapshot)`.
"""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is explored.

    Attributes:
        processes: name -> the rate that it sees at first, or a `Rollout`.
        steps: label -> operation or event.
        old: what Old holds at first.
        new: what New holds at first. Keys of it that differ from Old should be in `stale`.
        stale: keys that are stale at first.
        opened: the ledger's `opened` at first.
        hash_rates: key -> the hash rate that the gates see, 0.0 where a key is not named.
        faults: how many faults a run may have.
        kinds: which faults may happen.
        targets: where they may happen: some of `old`, `new`, `ledger`.
        without: optional methods that a store lacks, such as `new.delete`; `new.read_many`, `new.write_many` and
            `new.delete_many` make batches go key by key.
        options: further arguments of the proxies, such as `guard=Guard(...)`; without it they have none.
        max_call_seconds: how long after it was sent a call to a store may still be applied. The default is that
            of a proxy with default settings.

    Raises:
        ValueError: a step names a step or a process that is not there.
    """

    processes: Mapping[str, float | Rollout]
    steps: Mapping[str, Step]
    old: Mapping[str, str] = field(default_factory=dict)
    new: Mapping[str, str] = field(default_factory=dict)
    stale: Collection[str] = ()
    opened: float = 0.0
    hash_rates: Mapping[str, float] = field(default_factory=dict)
    faults: int = 0
    kinds: Collection[Fault] = _FAULTS
    targets: Collection[str] = ("old", "new", "ledger")
    without: Collection[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    max_call_seconds: float = 10.0

    def __post_init__(self) -> None:
        labels = set(self.steps)
        for label, step in self.steps.items():
            unknown = set(step.after) - labels
            if unknown:
                raise ValueError(f"step {label!r} comes after {sorted(unknown)}, which are no steps")
            process = getattr(step, "process", None)
            if process is not None and process not in self.processes:
                raise ValueError(f"step {label!r} names a process that is not there")


@dataclass(frozen=True, slots=True)
class Violation:
    """A schedule that breaks the promise."""

    what: str
    schedule: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{number:3}. {line}" for number, line in enumerate(self.schedule, 1)]
        return "\n".join([self.what, *lines])


@dataclass(frozen=True, slots=True)
class Exploration:
    """What an exploration found.

    Attributes:
        states: distinct states visited.
        steps: steps taken from one state to another.
        schedules: different orders of steps that these states stand for, each from the start until nothing more
            can happen. None where it stopped before the end.
        complete: every reachable state was visited.
        violation: the shortest one, or None.
    """

    states: int
    steps: int
    schedules: int | None
    complete: bool
    violation: Violation | None

    def __str__(self) -> str:
        found = f"{self.states} states, {self.steps} steps"
        if self.schedules is not None:
            found += (
                f", {self.schedules:.3g} schedules" if self.schedules > 1e9 else f", {self.schedules} schedules"
            )
        return f"{found}: {self.violation or ('no violation' if self.complete else 'stopped at the limit')}"

    def check(self) -> Exploration:
        """Return this exploration if it is complete and found no violation.

        Raises:
            AssertionError: with the shortest schedule that breaks the promise.
        """
        if self.violation is not None:
            raise AssertionError(str(self.violation))
        if not self.complete:
            raise AssertionError(f"stopped at the limit of {self.states} states: nothing is proved")
        return self
