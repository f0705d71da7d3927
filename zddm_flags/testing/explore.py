"""Explore every interleaving of the shipped coroutines over two stores, a ledger, a clock and faults.

An adapter's or ledger's call is two steps: it is *applied* at the store, and *acknowledged* to its caller. Between
the steps of one operation any step of another may come, the rates may change, time may pass, a process may crash,
and, as far as the scenario allows faults, a call may fail before it is applied, fail and be applied later, or
lose its reply, and an operation may be cancelled. `explore` visits every state that can be reached, by running
the operations' own code by hand (no event loop, no thread, no sleep), and checks that

- each read returned a value that Old held at some moment during it, and
- at rest, every clean key that New has holds what Old holds.

It reports the shortest schedule that breaks one of them::

    scenario = Scenario(
        old={"k": "v1"},
        processes={"A": 1.0, "B": 1.0},
        steps={"copy": Read("A", "k"), "write": Write("B", "k", "v2")},
    )
    explore(scenario).check()

A state is remembered by what the stores and the ledger hold and by all that each operation was told so far, which
determines what it does next. Tokens, hashes and the clock are the scenario's own, so a run is deterministic.
"""

from __future__ import annotations

import contextlib
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from zddm_flags._async.proxy import AsyncProxy
from zddm_flags.errors import NotApplied, ZddmError
from zddm_flags.gate import TrafficGate
from zddm_flags.ledger import AsyncLedger, CopyGrant, Grant, LedgerSummary, LedgerTable, Opening
from zddm_flags.protocols import AsyncStorageAdapter
from zddm_flags.rollout import Rollout
from zddm_telemetry import Telemetry

__all__ = [
    "Advance",
    "Crash",
    "Delete",
    "Disable",
    "Enable",
    "Exploration",
    "Fault",
    "Read",
    "ReadMany",
    "Scenario",
    "SetRate",
    "Violation",
    "Write",
    "WriteMany",
    "explore",
]

Fault: TypeAlias = Literal["fail", "not_applied", "late", "lose_reply", "cancel"]
"""A call fails before it is applied, the same and says so (`NotApplied`), fails and is applied later or never,
is applied and loses its reply, or its operation is cancelled while it waits for the call."""

Values: TypeAlias = frozenset[object]
_FAULTS: tuple[Fault, ...] = ("fail", "not_applied", "late", "lose_reply", "cancel")
_ABSENT = None


@dataclass(frozen=True, slots=True)
class _Operation:
    """What a process asks of its proxy, once the steps named in `after` are done."""

    process: str
    after: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class Read(_Operation):
    """`proxy.read(key)`."""

    key: str


@dataclass(frozen=True, slots=True)
class ReadMany(_Operation):
    """`proxy.read_many(keys)`."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Write(_Operation):
    """`proxy.write(key, value)`."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class WriteMany(_Operation):
    """`proxy.write_many(dict(items))`."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Delete(_Operation):
    """`proxy.delete(key)`."""

    key: str


@dataclass(frozen=True, slots=True)
class _Event:
    """Something that happens once, at any moment after the steps named in `after` are done."""

    after: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class SetRate(_Event):
    """The process sees another rollout."""

    process: str
    rate: float | Rollout


@dataclass(frozen=True, slots=True)
class Disable(_Event):
    """`proxy.disable()` in the process."""

    process: str


@dataclass(frozen=True, slots=True)
class Enable(_Event):
    """`proxy.enable()` in the process."""

    process: str


@dataclass(frozen=True, slots=True)
class Crash(_Event):
    """The process dies: its operations end where they are. Calls that were sent may still be applied."""

    process: str


@dataclass(frozen=True, slots=True)
class Advance(_Event):
    """Every clock moves on by so many seconds. Calls to a store that were not applied by then never are.

    That is the protocol's assumption on time: a call takes effect within the time allowed or not at all. The
    default is more than the age at which a token of a proxy with default settings is reaped.
    """

    seconds: float = 60.0


Step: TypeAlias = _Operation | _Event


class MakeProxy(Protocol):
    """Makes the proxy of one process: `AsyncProxy`, a subclass, or an algorithm of one's own."""

    def __call__(
        self,
        gate: TrafficGate,
        old: AsyncStorageAdapter[str, str],
        new: AsyncStorageAdapter[str, str],
        *,
        name: str,
        ledger: AsyncLedger,
        clock: Callable[[], float],
        new_token: Callable[[], bytes],
        telemetry: Telemetry,
    ) -> Any:
        """Return the proxy."""
        ...


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

    def __post_init__(self) -> None:
        labels = set(self.steps)
        for label, step in self.steps.items():
            unknown = set(step.after) - labels
            if unknown:
                raise ValueError(f"step {label!r} comes after {sorted(unknown)}, which are no steps")
            if not isinstance(step, Advance) and step.process not in self.processes:  # type: ignore[union-attr]
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
        schedules: runs that ended at rest, or in a violation or in a state that was known already.
        complete: every reachable state was visited.
        violation: the shortest one, or None.
    """

    states: int
    schedules: int
    complete: bool
    violation: Violation | None

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


class BlockedError(AssertionError):
    """An operation waits for something that no step of the scenario will ever give it."""


class _Call:
    """A call to a store or to the ledger, on its way."""

    __slots__ = ("applied", "description", "effect", "lost", "outcome", "target")

    def __init__(self, target: str, description: str, effect: Callable[[], object]) -> None:
        self.target = target
        self.description = f"{target}.{description}"
        self.effect = effect
        self.applied = False
        self.lost = False  # too late to be applied: it can only fail
        self.outcome: object = None

    def __await__(self) -> Generator[_Call, Any, Any]:
        return (yield self)

    def apply(self) -> None:
        self.outcome = self.effect()
        self.applied = True


class StoreError(Exception):
    """What a store of the explorer raises when a call to it fails."""


class _Task:
    """An operation in progress, with all that it was told so far."""

    __slots__ = ("call", "coroutine", "dealt_with", "done", "history", "label", "process", "seen", "step")

    def __init__(self, label: str, step: _Operation, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.label = label
        self.step = step
        self.process = step.process
        self.coroutine = coroutine
        self.call: _Call | None = None
        self.dealt_with = False  # one of its calls was applied or failed
        self.done = False
        self.history = 0  # stands for all that it was told so far
        self.seen: dict[str, Values] = {}


class _FixedHasher:
    """Gives each key the hash rate that the scenario names."""

    name = "explorer"

    def __init__(self, rates: Mapping[str, float]) -> None:
        self._hashes = {key.encode(): int(rate * 2**64) for key, rate in rates.items()}

    def hash(self, data: bytes, /) -> int:
        return self._hashes.get(data, 0)


class _StoreAdapter:
    """A store of the explorer as an adapter."""

    def __init__(self, name: str, run: _Run) -> None:
        self._name = name
        self._run = run

    def _values(self) -> dict[str, str]:
        return self._run.stores[self._name]

    async def read(self, key: str) -> str | None:
        value: str | None = await _Call(self._name, f"read({key})", lambda: self._values().get(key))
        return value

    async def read_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        def effect() -> object:
            values = self._values()
            return {key: values[key] for key in keys if key in values}

        found: Mapping[str, str] = await _Call(self._name, f"read_many({', '.join(keys)})", effect)
        return found

    async def write(self, key: str, value: str) -> None:
        await _Call(self._name, f"write({key}, {value})", lambda: self._run.set(self._name, {key: value}))

    async def write_many(self, items: Mapping[str, str]) -> None:
        await _Call(self._name, f"write_many({dict(items)})", lambda: self._run.set(self._name, items))

    async def delete(self, key: str) -> None:
        await _Call(self._name, f"delete({key})", lambda: self._run.set(self._name, {key: _ABSENT}))

    async def delete_many(self, keys: Sequence[str]) -> None:
        gone = dict.fromkeys(keys)
        await _Call(self._name, f"delete_many({', '.join(keys)})", lambda: self._run.set(self._name, gone))


class _LedgerAdapter:
    """The explorer's ledger: the shipped state machine, each call of it two steps."""

    shared = True

    def __init__(self, run: _Run) -> None:
        self._run = run

    def migration(self, name: str, identity: str) -> _LedgerAdapter:
        del name, identity
        return self

    @property
    def _table(self) -> LedgerTable:
        return self._run.ledger

    async def begin(self, keys: Sequence[bytes], token: bytes) -> Grant:
        grant: Grant = await _Call(
            "ledger", f"begin({_names(keys)})", lambda: self._table.begin(keys, token, self._run.now)
        )
        return grant

    async def begin_copy(self, keys: Sequence[bytes], token: bytes) -> CopyGrant:
        grant: CopyGrant = await _Call(
            "ledger", f"begin_copy({_names(keys)})", lambda: self._table.begin_copy(keys, token, self._run.now)
        )
        return grant

    async def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        words = ", ".join(f"{key[1:].decode()}: {'ok' if ok else 'not ok'}" for key, ok in outcomes.items())
        await _Call("ledger", f"end({words})", lambda: self._table.end(outcomes, token))

    async def withdraw(self, keys: Collection[bytes], token: bytes) -> None:
        await _Call("ledger", f"withdraw({_names(keys)})", lambda: self._table.withdraw(keys, token))

    async def dirty(self, keys: Collection[bytes]) -> Collection[bytes]:
        found: Collection[bytes] = await _Call(
            "ledger", f"dirty({_names(keys)})", lambda: tuple(self._table.dirty(keys))
        )
        return found

    async def open_to(self, rate: float) -> Opening:
        opening: Opening = await _Call("ledger", f"open_to({rate})", lambda: self._table.open_to(rate))
        return opening

    async def reap(self, age_seconds: float, limit: int = 1000) -> int:
        reaped: int = await _Call("ledger", "reap()", lambda: self._table.reap(self._run.now - age_seconds, limit))
        return reaped

    async def summary(self) -> LedgerSummary:
        return self.last_summary()

    def last_summary(self) -> LedgerSummary:
        return self._table.summary(self._run.now)


def _names(keys: Collection[bytes]) -> str:
    return ", ".join(key[1:].decode() for key in keys)


Action: TypeAlias = tuple[str, str]


class _Run:
    """One run of a scenario from its start: does the actions that it is given."""

    def __init__(self, scenario: Scenario, make_proxy: MakeProxy) -> None:
        self._scenario = scenario
        hasher = _FixedHasher(scenario.hash_rates)
        self._gates = {name: TrafficGate(0.0, hasher=hasher) for name in scenario.processes}
        self.stores: dict[str, dict[str, str]] = {}
        self.ledger = LedgerTable()
        self.now = 0.0
        self._events = sum(isinstance(step, _Event) for step in scenario.steps.values())
        self._proxies = {
            name: make_proxy(
                gate,
                _StoreAdapter("old", self),
                _StoreAdapter("new", self),
                name="explored",
                ledger=_LedgerAdapter(self),
                clock=lambda: self.now,
                new_token=self._new_token,
                telemetry=Telemetry(log=False),
            )
            for name, gate in self._gates.items()
        }
        self._pristine = {name: dict(vars(proxy)) for name, proxy in self._proxies.items()}
        self._attributes = {
            name: tuple(key for key, value in attributes.items() if isinstance(value, _PLAIN))
            for name, attributes in self._pristine.items()
        }
        self._histories: dict[object, int] = {}
        self._tasks: dict[str, _Task] = {}
        self.telling = False

    def restart(self) -> None:
        """Go back to the start. Proxies are kept and given back the attributes that they were made with."""
        self.abandon()
        scenario = self._scenario
        for name, proxy in self._proxies.items():
            attributes = vars(proxy)
            attributes.clear()
            attributes.update(self._pristine[name])
            self._gates[name].set_rate(scenario.processes[name])
        self.stores = {"old": dict(scenario.old), "new": dict(scenario.new)}
        self.ledger = LedgerTable()
        self.ledger.open_to(scenario.opened)
        for key in scenario.stale:
            dirty = b"s" + key.encode()
            self.ledger.begin([dirty], b"before", 0.0)
            self.ledger.end({dirty: False}, b"before")
        self.now = 1000.0
        self._running = ""
        self._serial: dict[str, int] = {}
        self._events_done: frozenset[str] = frozenset()
        self._crashed: frozenset[str] = frozenset()
        self._late: list[_Call] = []
        self._faults_left = scenario.faults
        self.violation: str | None = None
        self.narration: list[str] = []

    def abandon(self) -> None:
        """End the operations that are in progress, as a dying process does."""
        for task in self._tasks.values():
            task.coroutine.close()
        self._tasks = {}

    def _new_token(self) -> bytes:
        serial = self._serial.get(self._running, 0)
        self._serial[self._running] = serial + 1
        return f"{self._running}-{serial}".encode()

    def set(self, store: str, items: Mapping[str, str | None]) -> None:
        """Change a store; what Old held during a read is noted."""
        values = self.stores[store]
        for key, value in items.items():
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
            if store == "old":
                for task in self._tasks.values():
                    if not task.done and key in task.seen:
                        task.seen[key] |= {value}

    # -- what can happen next ---------------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        """Everything that can happen now."""
        if self.violation is not None:
            return []
        first = self._first()
        if first is not None and first.call is not None:
            return list(self._call_actions(first.label, first.call))
        found: list[Action] = []
        for label, step in self._scenario.steps.items():
            task = self._tasks.get(label)
            if task is None:
                if label not in self._events_done and self._ready(step):
                    found.append(("start" if isinstance(step, _Operation) else "event", label))
            elif not task.done and task.call is not None:
                found.extend(self._call_actions(label, task.call))
        found.extend(("land", str(index)) for index in range(len(self._late)))
        return found

    def _first(self) -> _Task | None:
        """An operation whose next step can be taken before everybody else's, without losing a violation.

        Hearing an answer concerns nobody else once every event has happened and the operation is alone in its
        process: taking it at once leads wherever taking it later does, and closes a read's window sooner. For
        the same reason an operation starts just before its first call is dealt with.
        """
        if len(self._events_done) < self._events:
            return None
        alone: dict[str, list[_Task]] = {}
        for task in self._tasks.values():
            if not task.done:
                alone.setdefault(task.process, []).append(task)
        for tasks in alone.values():
            task = tasks[0]
            if len(tasks) == 1 and task.call is not None and (task.call.applied or not task.dealt_with):
                return task
        return None

    def _ready(self, step: Step) -> bool:
        if isinstance(step, _Operation) and step.process in self._crashed:
            return False
        return all(label in self._events_done or self._over(label) for label in step.after)

    def _over(self, label: str) -> bool:
        task = self._tasks.get(label)
        return task is not None and task.done

    def _call_actions(self, label: str, call: _Call) -> Iterator[Action]:
        if call.lost:
            yield "fail", label
            return
        yield ("acknowledge" if call.applied else "apply"), label
        if not self._faults_left or call.target not in self._scenario.targets:
            return
        kinds = self._scenario.kinds
        if not call.applied:
            yield from ((kind, label) for kind in ("fail", "late") if kind in kinds)
            if "not_applied" in kinds and call.target != "ledger":
                yield "not_applied", label
        elif "lose_reply" in kinds:
            yield "lose_reply", label
        if "cancel" in kinds:
            yield "cancel", label

    # -- doing it ---------------------------------------------------------------------------------------------

    def do(self, action: Action) -> None:
        """Let one thing happen."""
        kind, label = action
        if kind == "land":
            call = self._late.pop(int(label))
            self._say(lambda: f"{call.description} lands late")
            call.apply()
        elif kind == "event":
            self._event(label, self._scenario.steps[label])
        elif kind == "start":
            self._start(label)
        else:
            self._call_step(kind, self._tasks[label])
        if self.violation is None and self.at_rest:
            self._check_at_rest()

    def _event(self, label: str, event: Step) -> None:
        self._say(lambda: f"{label}: {event}")
        self._events_done |= {label}
        match event:
            case SetRate(process=process, rate=rate):
                self._gates[process].set_rate(rate)
            case Disable(process=process):
                self._proxies[process].disable()
            case Enable(process=process):
                self._proxies[process].enable()
            case Advance(seconds=seconds):
                self.now += seconds
                self._late = [call for call in self._late if call.target == "ledger"]
                for task in self._tasks.values():
                    if task.call is not None and not task.call.applied and task.call.target != "ledger":
                        task.call.lost = True
            case Crash(process=process):
                self._crashed |= {process}
                for task in self._tasks.values():
                    if task.process == process and not task.done:
                        self._may_land(task.call)
                        task.coroutine.close()
                        task.done, task.call = True, None
            case _:
                raise TypeError(f"{event} is no event")

    def _start(self, label: str) -> None:
        step = self._scenario.steps[label]
        if not isinstance(step, _Operation):
            raise TypeError(f"{step} is no operation")
        proxy = self._proxies[step.process]
        keys: Sequence[str] = ()
        match step:
            case Read(key=key):
                coroutine, keys = proxy.read(key), (key,)
            case ReadMany(keys=keys):
                coroutine = proxy.read_many(keys)
            case Write(key=key, value=value):
                coroutine = proxy.write(key, value)
            case WriteMany(items=items):
                coroutine = proxy.write_many(dict(items))
            case Delete(key=key):
                coroutine = proxy.delete(key)
            case _:
                raise TypeError(f"{step} is no operation")
        task = self._tasks[label] = _Task(label, step, coroutine)
        task.seen = {key: frozenset({self.stores["old"].get(key)}) for key in keys}
        self._say(lambda: f"{label}: {step.process} starts")
        self._resume(task, lambda: coroutine.send(None), "start")

    def _call_step(self, kind: str, task: _Task) -> None:
        call = task.call
        task.dealt_with = True
        if call is None:
            raise BlockedError(f"{task.label} waits for no call")
        self._say(lambda: f"{task.label}: {call.description} {_WORDS[kind]}")
        if kind == "apply":
            call.apply()
            return
        if kind == "acknowledge":
            self._resume(task, lambda: task.coroutine.send(call.outcome), repr(call.outcome))
            return
        if not call.lost:
            self._faults_left -= 1
        error: BaseException = StoreError("the call failed")
        if kind == "not_applied":
            error = NotApplied("the call was refused")
        elif kind == "cancel":
            error = CancelledError()
        if kind in ("late", "cancel"):
            self._may_land(call)
        self._resume(task, lambda: task.coroutine.throw(error), kind)

    def _may_land(self, call: _Call | None) -> None:
        """A call that was sent and not answered takes effect at any later moment, or never."""
        if call is not None and not call.applied and not call.lost and ".read" not in call.description:
            self._late.append(call)

    def _resume(self, task: _Task, step: Callable[[], object], told: object) -> None:
        """Run the operation's own code up to its next call."""
        self._running = task.label
        told = (task.label, task.history, told, self._circumstances(task.process))
        task.history = self._histories.setdefault(told, len(self._histories) + 1)
        try:
            call = step()
        except StopIteration as stop:
            self._finish(task, stop.value)
        except (StoreError, ZddmError, CancelledError) as error:
            ending = type(error).__name__
            self._say(lambda: f"{task.label}: ends with {ending}")
            task.done, task.call = True, None
        else:
            if not isinstance(call, _Call):
                raise BlockedError(f"{task.label} awaits {call!r}, which is no call to a store or to the ledger")
            task.call = call

    def _circumstances(self, process: str) -> object:
        """All but the answers to calls that an operation's code can look at."""
        attributes = vars(self._proxies[process])
        state = tuple(attributes[name] for name in self._attributes[process])
        return self._gates[process].decision.rollout, self.now, state

    def _finish(self, task: _Task, value: object) -> None:
        task.done, task.call = True, None
        self._say(lambda: f"{task.label}: returns {value!r}")
        answers: Mapping[str, object] = {}
        match task.step:
            case Read(key=key):
                answers = {key: value}
            case ReadMany(keys=keys) if isinstance(value, Mapping):
                answers = {key: value.get(key) for key in keys}
            case _:
                return
        for key, answer in answers.items():
            if answer not in task.seen[key]:
                held = " or ".join(sorted(repr(each) for each in task.seen[key]))
                self.violation = f"{task.label} returned {answer!r} for {key}; Old held {held} during it"

    @property
    def at_rest(self) -> bool:
        """Whether no operation is in progress and none can start."""
        return all(task.done for task in self._tasks.values()) and all(
            label in self._tasks or label in self._events_done or not self._ready(step)
            for label, step in self._scenario.steps.items()
        )

    def _check_at_rest(self) -> None:
        old, new = self.stores["old"], self.stores["new"]
        for key, value in new.items():
            if not self.ledger.dirty([b"s" + key.encode()]) and old.get(key) != value:
                self.violation = f"at rest {key} is clean, New holds {value!r} and Old {old.get(key)!r}"

    def fingerprint(self) -> object:
        """The state: equal fingerprints have equal futures."""
        return (
            tuple(sorted(self.stores["old"].items())),
            tuple(sorted(self.stores["new"].items())),
            self.ledger.fingerprint(),
            self.now,
            self._faults_left,
            self._events_done,
            self._crashed,
            tuple(sorted(call.description for call in self._late)),
            tuple((name, self._circumstances(name)) for name in self._proxies),
            tuple(
                (
                    label,
                    task.done,
                    0 if task.done else task.history,
                    () if task.done else tuple(task.seen.items()),
                    None if task.call is None else (task.call.applied, task.call.lost, repr(task.call.outcome)),
                )
                for label, task in sorted(self._tasks.items())
            ),
        )

    def _say(self, line: Callable[[], str]) -> None:
        if self.telling:
            self.narration.append(line())


_PLAIN = (bool, int, float, str, tuple)
_WORDS = {
    "apply": "is applied",
    "acknowledge": "is acknowledged",
    "fail": "fails and never takes effect",
    "not_applied": "fails with NotApplied",
    "late": "fails, and may take effect later",
    "lose_reply": "was applied, but its reply is lost",
    "cancel": "is cancelled",
}


def explore(scenario: Scenario, make_proxy: MakeProxy | None = None, *, limit: int = 1_000_000) -> Exploration:
    """Visit every state of `scenario`, at most `limit` of them.

    Args:
        scenario: what may happen.
        make_proxy: what is explored; None is `AsyncProxy`.
        limit: distinct states after which it gives up, with `complete` False.

    Returns:
        What was found; call its `check()` in a test.

    Raises:
        BlockedError: an operation waits for something other than a call, so that a run can never end.
    """
    run = _Run(scenario, make_proxy if make_proxy is not None else AsyncProxy)
    with contextlib.closing(_Abandoning(run)):
        return _depth_first(run, limit)


class _Abandoning:
    def __init__(self, run: _Run) -> None:
        self.close = run.abandon


def _depth_first(run: _Run, limit: int) -> Exploration:
    """Follow each run to its end, going back to the latest choice that is left; replays what led there."""
    seen: set[object] = set()
    schedules = 0
    stack: list[tuple[Action, ...]] = [()]
    while stack:
        path = stack.pop()
        _replay(run, path)
        while True:
            mark = run.fingerprint()
            if run.violation is not None or mark in seen:
                break
            seen.add(mark)
            actions = run.actions()
            if not actions:
                break
            stack.extend((*path, action) for action in reversed(actions[1:]))
            path = (*path, actions[0])
            run.do(actions[0])
        schedules += 1
        if run.violation is not None:
            return Exploration(len(seen), schedules, complete=False, violation=_shortest(run, path))
        if len(seen) > limit:
            return Exploration(len(seen), schedules, complete=False, violation=None)
    return Exploration(len(seen), schedules, complete=True, violation=None)


def _replay(run: _Run, path: Sequence[Action]) -> None:
    run.restart()
    for action in path:
        run.do(action)


def _shortest(run: _Run, known: Sequence[Action]) -> Violation:
    """Breadth first, so that the first violation found is a shortest one; `known` is one."""
    seen: set[object] = set()
    queue: deque[tuple[Action, ...]] = deque([()])
    while queue:
        path = queue.popleft()
        if len(path) + 1 >= len(known):
            break
        _replay(run, path)
        for action in run.actions():
            _replay(run, (*path, action))
            if run.violation is not None:
                return _told(run, (*path, action))
            mark = run.fingerprint()
            if mark not in seen:
                seen.add(mark)
                queue.append((*path, action))
    return _told(run, known)


def _told(run: _Run, path: Sequence[Action]) -> Violation:
    run.telling = True
    _replay(run, path)
    return Violation(run.violation or "", tuple(run.narration))
