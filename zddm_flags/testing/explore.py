"""Explore every interleaving of the shipped coroutines over two stores, a ledger, a clock and faults.

An adapter's or ledger's call is two steps: it is *applied* at the store, and *acknowledged* to its caller. Between
the steps of one operation any step of another may come, the rates may change, time may pass, a process may crash,
and, as far as the scenario allows faults, a call may fail before it is applied, fail and be applied later, or
lose its reply, and an operation may be cancelled. `explore` visits every state that can be reached, by running
the operations' own code by hand (no event loop, no thread, no sleep), and checks that

- each read returned a value that Old held at some moment during it,
- at rest, every clean key that New has holds what Old holds,
- Old held the value at some moment during each write that returned, and at none during a write that said
  (`LedgerUnavailable`, `OperationTimedOut`) that it changed nothing,
- what a page of a backfill, a repair or a verify says of its keys is so: see `BackfillPage` and `VerifyPage`,
- no operation returns after it was cancelled, raises what no store raised, or waits for what never comes.

It reports a shortest schedule that breaks one of them::

    scenario = Scenario(
        old={"k": "v1"},
        processes={"A": 1.0, "B": 1.0},
        steps={"copy": Read("A", "k"), "write": Write("B", "k", "v2")},
    )
    explore(scenario).check()

Give the values of a scenario's writes names of their own, or the checks cannot tell them apart. Tokens, hashes and
the clock are the scenario's, so an exploration is deterministic. A partial batch is explored where the scenario
says that a store is `without` the batch's method; a batch that is one call is applied as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import copy
from array import array
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from zddm_flags._async.proxy import AsyncProxy
from zddm_flags.errors import LedgerUnavailable, NotApplied, OperationTimedOut
from zddm_flags.ledger import LedgerTable
from zddm_flags.rollout import Rollout
from zddm_flags.testing._operations import START_OF_TIME, Call, Circumstances, Heard, Node, Operations, StoreError
from zddm_flags.testing.scenario import (
    Advance,
    BackfillPage,
    BackgroundWork,
    Crash,
    Delete,
    Disable,
    Enable,
    Exploration,
    Fault,
    MakeProxy,
    MarkUnmarked,
    Operation,
    Outage,
    Read,
    ReadMany,
    Recovery,
    RepairPage,
    ResetLedger,
    Scenario,
    SetRate,
    Step,
    VerifyPage,
    Violation,
    Write,
    WriteMany,
)

__all__ = ["explore"]

_ABSENT, _SETTLED = "absent", "settled"

Held: TypeAlias = tuple[tuple[str, str], ...]
"""What a store holds: its items, sorted."""


def explore(
    scenario: Scenario,
    make_proxy: MakeProxy | None = None,
    *,
    ledger_table: Callable[[], LedgerTable] = LedgerTable,
    limit: int = 1_000_000,
    reduce: bool = True,
) -> Exploration:
    """Visit every state of `scenario`, at most `limit` of them.

    Args:
        scenario: what may happen.
        make_proxy: what is explored; None is `AsyncProxy`.
        ledger_table: makes the ledger's state machine; a subclass explores a ledger of other behaviour.
        limit: distinct states after which it gives up, with `complete` False.
        reduce: take a step that concerns only its own operation before all others, which saves most of the
            states and hides no violation. False checks that claim.

    Returns:
        What was found; call its `check()` in a test. The same arguments give the same result.
    """
    with contextlib.closing(Operations(scenario, make_proxy or AsyncProxy)) as operations:
        return _breadth_first(_World(scenario, operations, ledger_table, reduce=reduce), limit)


class _Going(NamedTuple):
    """An operation that waits for a call."""

    node: Node
    applied: bool
    outcome: Hashable
    seen: tuple[frozenset[object], ...]
    """Per key: for a read, what Old held since it began; for a change, what it wants, once Old holds it.

    For a page of a backfill or a repair: _ABSENT, once Old lacks the key; _SETTLED, once it is clean, and in New
    or absent from Old. For one of a verify: how the key differed while the page held its token alone.
    """


class _State(NamedTuple):
    """All that determines what can happen from here on."""

    old: Held
    new: Held
    ledger: int
    now: float
    faults_left: int
    over: frozenset[str]
    """The steps that have happened or ended."""
    late: tuple[tuple[Call, float], ...]
    """Calls that nobody waits for any more and that may yet be applied, each with the time when it was sent."""
    out: frozenset[str]
    """Those of the stores and the ledger that cannot be reached."""
    processes: tuple[Circumstances, ...]
    tasks: tuple[_Going | None, ...]
    """The operations in the scenario's order; None: not started, or over."""


class _Action(NamedTuple):
    kind: str
    label: str
    """The step's name; for `land` the number of the late call."""


class _LedgerStates:
    """The ledger's states, numbered; each step of the state machine is done once and then remembered."""

    def __init__(self, make_table: Callable[[], LedgerTable], scenario: Scenario) -> None:
        table = make_table()
        table.open_to(scenario.opened)
        for key in scenario.stale:
            dirty = b"s" + key.encode()
            table.begin([dirty], b"before", 0.0)
            table.end({dirty: False}, b"before")
        self._tables: list[LedgerTable] = []
        self._numbers: dict[object, int] = {}
        self._known: dict[object, tuple[int, Hashable]] = {}
        self.first = self._number(table)

    def _number(self, table: LedgerTable) -> int:
        mark = table.fingerprint()
        number = self._numbers.get(mark)
        if number is None:
            number = self._numbers[mark] = len(self._tables)
            self._tables.append(table)
        return number

    def apply(self, state: int, call: Call, now: float) -> tuple[int, Hashable]:
        """The state after `call`, and the call's outcome."""
        key = state, call, now
        known = self._known.get(key)
        if known is None:
            table = copy.deepcopy(self._tables[state])
            outcome = _apply_to_table(table, call, now)
            known = self._known[key] = self._number(table), outcome
        return known

    def clean(self, state: int, key: str) -> bool:
        """Whether the ledger calls the key clean."""
        return not self._tables[state].dirty([b"s" + key.encode()])

    def alone(self, state: int, key: str, label: str) -> bool:
        """Whether the first token of an operation is pending on the key, and was alone since it began."""
        return bool(self._tables[state].alone([b"s" + key.encode()], f"{label}-1".encode()))


def _apply_to_table(table: LedgerTable, call: Call, now: float) -> Hashable:
    token = call.token or b""
    match call.method:
        case "begin":
            return table.begin(call.items, token, now)
        case "begin_copy":
            return table.begin_copy(call.items, token, now)
        case "end":
            table.end(dict(call.items), token)
            return None
        case "withdraw":
            table.withdraw(call.items, token)
            return None
        case "dirty":
            return tuple(table.dirty(call.items))
        case "alone":
            return tuple(table.alone(call.items, token))
        case "open_to":
            return table.open_to(*call.items)
        case "reap":
            age, limit = call.items
            return table.reap(now - age, limit)
        case "stale_keys":
            return tuple(table.stale_keys(None, *call.items))
        case "summary":
            return table.summary(now).pending
        case "reset":
            return table.reset()
        case _:
            raise TypeError(f"{call} is no call to a ledger")


class _World:
    """What can happen in a state, and what then is."""

    def __init__(
        self,
        scenario: Scenario,
        operations: Operations,
        make_table: Callable[[], LedgerTable],
        *,
        reduce: bool,
    ) -> None:
        self._scenario = scenario
        self._code = operations
        self._ledger = _LedgerStates(make_table, scenario)
        self._reduce = reduce
        self._process_index = {name: index for index, name in enumerate(scenario.processes)}
        self._operations = {label: step for label, step in scenario.steps.items() if isinstance(step, Operation)}
        self._index = {label: index for index, label in enumerate(self._operations)}
        self._keys = {label: tuple(_wanted(step)) for label, step in self._operations.items()}
        self._differed_at_first = any(
            scenario.old.get(key) != value and key not in scenario.stale for key, value in scenario.new.items()
        )
        self._pages = {
            label: step
            for label, step in self._operations.items()
            if isinstance(step, (BackfillPage, RepairPage, VerifyPage))
        }
        self._is_reset = any(isinstance(step, ResetLedger) for step in scenario.steps.values())
        self._disturbing = {
            label: self._those_that_disturb(label, step) for label, step in self._operations.items()
        }

    @property
    def first(self) -> _State:
        """The state in which the scenario starts."""
        scenario = self._scenario
        return _State(
            old=tuple(sorted(scenario.old.items())),
            new=tuple(sorted(scenario.new.items())),
            ledger=self._ledger.first,
            now=START_OF_TIME,
            faults_left=scenario.faults,
            over=frozenset(),
            late=(),
            out=frozenset(),
            processes=tuple(self._code.at_first[name] for name in scenario.processes),
            tasks=(None,) * len(self._operations),
        )

    # -- what can happen next ---------------------------------------------------------------------------------

    def actions(self, state: _State) -> Iterator[_Action]:
        """Everything that can happen now."""
        going = [
            (label, task) for label, task in zip(self._operations, state.tasks, strict=True) if task is not None
        ]
        if self._reduce:
            for label, task in going:
                if self._concerns_nobody_else(state, label, task):
                    yield from self._call_actions(state, label, task)
                    return
        started = {label for label, _ in going}
        for label, step in self._scenario.steps.items():
            if label not in state.over and label not in started and self._ready(state, step):
                yield _Action("start" if isinstance(step, Operation) else "event", label)
        for label, task in going:
            yield from self._call_actions(state, label, task)
        for number in range(len(state.late)):
            yield _Action("land", str(number))

    def _concerns_nobody_else(self, state: _State, label: str, task: _Going) -> bool:
        """Whether the operation's next step can be taken before everybody else's without losing a violation.

        Hearing an answer changes nothing but the operation and its proxy. Taken at once it leads wherever
        it leads when it is taken later, as long as nothing else can look at that proxy or change what the
        operation can look at meanwhile; and it closes a read's window sooner, which only makes the check stricter.
        For the same reasons an operation starts just before its first call is dealt with.
        """
        return (task.applied or task.node.parent is None) and self._disturbing[label] <= state.over

    def _those_that_disturb(self, label: str, operation: Operation) -> frozenset[str]:
        """Steps that can come while `operation` is in progress and that share its process, or move the clock."""
        later = {label}  # steps that come after it, directly or not
        while True:
            more = {name for name, step in self._scenario.steps.items() if not later.isdisjoint(step.after)}
            if more <= later:
                break
            later |= more
        return frozenset(
            name
            for name, step in self._scenario.steps.items()
            if name not in later and getattr(step, "process", operation.process) == operation.process
        )

    def _ready(self, state: _State, step: Step) -> bool:
        if isinstance(step, Operation) and self._crashed(state, step.process):
            return False
        return state.over.issuperset(step.after)

    def _crashed(self, state: _State, process: str) -> bool:
        return any(
            isinstance(step, Crash) and step.process == process and label in state.over
            for label, step in self._scenario.steps.items()
        )

    def _call_actions(self, state: _State, label: str, task: _Going) -> Iterator[_Action]:
        call = _call(task)
        if not task.applied and self._too_late(call, task.node.now, state.now):
            yield _Action("expire", label)
            return
        if not task.applied and call.target in state.out:
            yield _Action("unreachable", label)
            return
        yield _Action("acknowledge" if task.applied else "apply", label)
        if not state.faults_left or call.target not in self._scenario.targets:
            return
        kinds = self._scenario.kinds
        # A call without effect can only fail: late, lost and refused say the same of it.
        possible: tuple[Fault, ...]
        if task.applied:
            possible = ("lose_reply", "cancel") if call.changes else ("cancel",)
        elif not call.changes:
            possible = ("fail", "cancel")
        elif call.target == "ledger":
            possible = ("fail", "late", "cancel")
        else:
            possible = ("fail", "not_applied", "late", "cancel")
        yield from (_Action(kind, label) for kind in possible if kind in kinds)

    def _too_late(self, call: Call, sent: float, now: float) -> bool:
        """Whether the call can no longer be applied. A ledger may take any time, and so may what has no effect."""
        return call.target != "ledger" and call.changes and now - sent >= self._scenario.max_call_seconds

    # -- doing it ---------------------------------------------------------------------------------------------

    def do(self, state: _State, action: _Action) -> tuple[_State, str | None]:
        """The state after `action`, and what is wrong then."""
        kind, label = action
        wrong: str | None = None
        if kind == "land":
            late = list(state.late)
            call, _ = late.pop(int(label))
            state, _ = self._applied(state._replace(late=tuple(late)), call)
        elif kind == "event":
            step = self._scenario.steps[label]
            state, wrong = self._happened(state._replace(over=state.over | {label}), step)
        elif kind == "start":
            state, wrong = self._started(state, label)
        else:
            state, wrong = self._dealt_with(state, kind, label)
        if wrong is None and self._at_rest(state):
            wrong = self._wrong_at_rest(state)
        return state, wrong

    def _happened(self, state: _State, event: Step) -> tuple[_State, str | None]:
        match event:
            case SetRate(process=process, rate=rate):
                return self._with_process(
                    state, process, self._code.set_rate(process, self._at(state, process), rate)
                )
            case Disable(process=process):
                return self._with_process(
                    state, process, self._code.switch(process, self._at(state, process), on=False)
                )
            case Enable(process=process):
                return self._with_process(
                    state, process, self._code.switch(process, self._at(state, process), on=True)
                )
            case Advance(seconds=seconds):
                now = state.now + seconds
                late = tuple(each for each in state.late if not self._too_late(*each, now))
                return state._replace(now=now, late=late), None
            case Crash(process=process):
                return self._with_crash(state, process)
            case Outage(target=target):
                return state._replace(out=state.out | {target}), None
            case Recovery(target=target):
                return state._replace(out=state.out - {target}), None
            case _:
                raise TypeError(f"{event} is no event")

    def _at(self, state: _State, process: str) -> Circumstances:
        return state.processes[self._process_index[process]]

    def _with_process(
        self, state: _State, process: str, circumstances: Circumstances
    ) -> tuple[_State, str | None]:
        processes = list(state.processes)
        processes[self._process_index[process]] = circumstances
        return state._replace(processes=tuple(processes)), None

    def _with_crash(self, state: _State, process: str) -> tuple[_State, str | None]:
        wrong: str | None = None
        for label, step in self._operations.items():
            task = state.tasks[self._index[label]]
            if task is not None and step.process == process:
                problem = self._code.wrong_at_closing(task.node)
                wrong = wrong or (problem and f"{label} {problem}")
                state = self._with_late(state, task)
                state = self._with_task(state, label, None)._replace(over=state.over | {label})
        return state, wrong

    def _started(self, state: _State, label: str) -> tuple[_State, str | None]:
        step = self._operations[label]
        held = dict(state.old)
        if label in self._pages:
            seen = tuple(self._seen_now(state, label, key) for key, _ in self._keys[label])
        else:
            reads = isinstance(step, (Read, ReadMany))
            seen = tuple(frozenset({held.get(key)} if reads else ()) for key, _ in self._keys[label])
        node = self._code.start(label, state.now, self._at(state, step.process))
        return self._resumed(state, label, node, seen)

    def _dealt_with(self, state: _State, kind: str, label: str) -> tuple[_State, str | None]:
        task = self._going(state, label)
        if kind == "apply":
            state, outcome = self._applied(state, _call(task))
            task = self._going(state, label)._replace(applied=True, outcome=outcome)
            return self._with_task(state, label, task), None
        if kind not in ("acknowledge", "expire", "unreachable"):
            state = state._replace(faults_left=state.faults_left - 1)
        if kind in ("late", "cancel"):
            state = self._with_late(state, task)
        return self._resumed(state, label, self._node_after(state, kind, task), task.seen)

    def _node_after(self, state: _State, kind: str, task: _Going) -> Node:
        heard = Heard(task.outcome if kind == "acknowledge" else None, _ERRORS.get(kind))
        process = self._operations[task.node.label].process
        return self._code.tell(task.node, heard, state.now, self._at(state, process))

    def _going(self, state: _State, label: str) -> _Going:
        task = state.tasks[self._index[label]]
        if task is None:
            raise ValueError(f"{label} is not in progress")
        return task

    def _resumed(
        self, state: _State, label: str, node: Node, seen: tuple[frozenset[object], ...]
    ) -> tuple[_State, str | None]:
        """The operation has run on to `node`."""
        state, _ = self._with_process(state, self._operations[label].process, node.after)
        if node.call is not None:
            return self._with_task(state, label, _Going(node, applied=False, outcome=None, seen=seen)), None
        state = self._with_task(state, label, None)._replace(over=state.over | {label})
        return state, self._wrong_with_ending(state, label, node, seen)

    def _with_task(self, state: _State, label: str, task: _Going | None) -> _State:
        tasks = list(state.tasks)
        tasks[self._index[label]] = task
        return state._replace(tasks=tuple(tasks))

    def _with_late(self, state: _State, task: _Going) -> _State:
        """A call that was sent and not answered takes effect at any later moment, or never."""
        call, sent = _call(task), task.node.now
        if task.applied or not call.changes or self._too_late(call, sent, state.now):
            return state
        if call.target == "ledger":
            sent = 0.0  # it may take any time
        return state._replace(late=tuple(sorted((*state.late, (call, sent)), key=repr)))

    def _applied(self, state: _State, call: Call) -> tuple[_State, Hashable]:
        """The call has its effect; returns its outcome as well."""
        after, outcome = self._with_effect(state, call)
        for label in self._pages:
            task = after.tasks[self._index[label]]
            if task is not None and call.changes:
                seen = tuple(
                    before | self._seen_now(after, label, key)
                    for (key, _), before in zip(self._keys[label], task.seen, strict=True)
                )
                after = self._with_task(after, label, task._replace(seen=seen))
        return after, outcome

    def _with_effect(self, state: _State, call: Call) -> tuple[_State, Hashable]:
        if call.target == "ledger":
            ledger, outcome = self._ledger.apply(state.ledger, call, state.now)
            return state._replace(ledger=ledger), outcome
        held = dict(state.old if call.target == "old" else state.new)
        if call.method == "read":
            return state, held.get(call.items[0])
        if call.method == "read_many":
            return state, tuple((key, held[key]) for key in call.items if key in held)
        if call.method == "scan":
            cursor, limit = call.items
            items = [item for item in sorted(held.items()) if cursor is None or item[0] > cursor]
            return state, tuple(items[:limit])
        for key, value in call.items:
            if value is None:
                held.pop(key, None)
            else:
                held[key] = value
        now_held = tuple(sorted(held.items()))
        if call.target == "new":
            return state._replace(new=now_held), None
        tasks = tuple(
            task and task._replace(seen=self._seen(label, task.seen, dict(call.items)))
            for label, task in zip(self._operations, state.tasks, strict=True)
        )
        return state._replace(old=now_held, tasks=tasks), None

    def _seen(
        self, label: str, seen: tuple[frozenset[object], ...], changed: Mapping[str, str | None]
    ) -> tuple[frozenset[object], ...]:
        """`seen` of an operation, after Old was changed during it."""
        reads = isinstance(self._operations[label], (Read, ReadMany))
        return tuple(
            values | {changed[key]} if key in changed and (reads or changed[key] == wanted) else values
            for (key, wanted), values in zip(self._keys[label], seen, strict=True)
        )

    def _seen_now(self, state: _State, label: str, key: str) -> frozenset[object]:
        """What a page sees of a key at this moment."""
        held, found = dict(state.old).get(key), dict(state.new).get(key)
        if isinstance(self._pages[label], VerifyPage):
            return frozenset({_difference(held, found)} if self._ledger.alone(state.ledger, key, label) else ())
        settled = self._ledger.clean(state.ledger, key) and (found is not None or held is None)
        return frozenset({_ABSENT} if held is None else ()) | frozenset({_SETTLED} if settled else ())

    # -- what is wrong ----------------------------------------------------------------------------------------

    def _wrong_with_ending(
        self, state: _State, label: str, node: Node, seen: tuple[frozenset[object], ...]
    ) -> str | None:
        """What is wrong with how an operation ended."""
        if node.wrong is not None:
            return f"{label} {node.wrong}"
        step = self._operations[label]
        keys = self._keys[label]
        if node.error is not None:
            if (
                isinstance(step, Write)
                and seen[0]
                and isinstance(node.error, (LedgerUnavailable, OperationTimedOut))
            ):
                return f"{label} raised {type(node.error).__name__}, but Old held its value during it"
            if isinstance(step, BackgroundWork) and isinstance(node.error, Exception):  # no CancelledError
                return f"{label} raised {type(node.error).__name__}, to nobody"
            return None
        if isinstance(step, (Read, ReadMany)):
            answers = {step.key: node.returned} if isinstance(step, Read) else node.returned
            if not isinstance(answers, Mapping):
                return f"{label} returned {answers!r}, which is no mapping"
            for (key, _), values in zip(keys, seen, strict=True):
                if answers.get(key) not in values:
                    held = " or ".join(sorted(repr(each) for each in values))
                    return f"{label} returned {answers.get(key)!r} for {key}; Old held {held} during it"
            return None
        if label in self._pages:
            said = node.returned if isinstance(node.returned, Mapping) else {}
            for (key, _), values in zip(keys, seen, strict=True):
                if not self._is_so(state, label, key, said.get(key), values):
                    return f"{label} says of {key}: {said.get(key)}, which is not so"
            return None
        if isinstance(step, BackgroundWork) and node.returned and not self._differed_at_first:
            return f"{label} found that {node.returned} keys differ, which nothing can have brought about"
        for (key, value), values in zip(keys, seen, strict=True):
            if not values:
                return f"{label} returned, but Old held {value!r} for {key} at no moment during it"
        return None

    def _is_so(self, state: _State, label: str, key: str, said: object, seen: frozenset[object]) -> bool:
        """Whether what a page said of a key is so, as far as that can be told."""
        held, found = dict(state.old).get(key), dict(state.new).get(key)
        # After a reset, in which New was emptied, nothing is sure any more.
        there = self._is_reset or held is None or found is not None or not self._ledger.clean(state.ledger, key)
        match said:
            case "copied" | "refused":
                return there
            case "absent":
                return there and _ABSENT in seen
            case "present":
                return _SETTLED in seen
            case "extra" if not isinstance(self._pages[label], VerifyPage):
                return _ABSENT in seen
            case "changed" | "missing" | "extra":
                return said in seen
            case "not_covered":
                return self._may_be_above_the_rate(label, key)
            case _:
                return said is not None

    def _may_be_above_the_rate(self, label: str, key: str) -> bool:
        """Whether the process saw a write rate above 0 that the key is not below."""
        page = self._pages[label]
        seen = [self._scenario.processes[page.process]]
        steps = self._scenario.steps.values()
        seen += [step.rate for step in steps if isinstance(step, SetRate) and step.process == page.process]
        rates = [each.write if isinstance(each, Rollout) else each for each in seen]
        above = any(0 < rate <= self._scenario.hash_rates.get(key, 0.0) for rate in rates)
        return above and isinstance(page, (BackfillPage, RepairPage)) and not page.everything

    def _at_rest(self, state: _State) -> bool:
        """Whether no operation is in progress and nothing can start."""
        return not any(state.tasks) and not any(
            label not in state.over and self._ready(state, step) for label, step in self._scenario.steps.items()
        )

    def _wrong_at_rest(self, state: _State) -> str | None:
        old = dict(state.old)
        for key, value in state.new:
            if old.get(key) != value and self._ledger.clean(state.ledger, key):
                return f"at rest {key} is clean, New holds {value!r} and Old {old.get(key)!r}"
        return None

    # -- in words ---------------------------------------------------------------------------------------------

    def tell(self, state: _State, action: _Action) -> str:
        """What happens when `action` is taken in `state`, as a line of a schedule."""
        kind, label = action
        if kind == "land":
            return f"{state.late[int(label)][0]} lands late"
        step = self._scenario.steps[label]
        if kind == "event":
            return f"{label}: {_event_in_words(step)}"
        task = state.tasks[self._index[label]]
        if task is None:
            process = self._operations[label].process
            node = self._code.start(label, state.now, self._at(state, process))
            return f"{label}: {process} starts{node.ending}"
        line = f"{label}: {_call(task)} {_WORDS[kind]}"
        return line if kind == "apply" else line + self._node_after(state, kind, task).ending


def _event_in_words(event: Step) -> str:
    match event:
        case SetRate(process=process, rate=rate):
            return f"{process} sees the rate {rate}"
        case Disable(process=process):
            return f"{process} disables its proxy"
        case Enable(process=process):
            return f"{process} enables its proxy"
        case Crash(process=process):
            return f"{process} crashes"
        case Advance(seconds=seconds):
            return f"{seconds} seconds pass"
        case Outage(target=target):
            return f"{target} is out of reach"
        case Recovery(target=target):
            return f"{target} can be reached again"
        case _:
            return str(event)


def _wanted(step: Operation) -> Iterable[tuple[str, str | None]]:
    """The keys of an operation, with what a change wants Old to hold."""
    match step:
        case Read(key=key) | Delete(key=key):
            return [(key, None)]
        case ReadMany(keys=keys) | BackfillPage(keys=keys) | RepairPage(keys=keys) | VerifyPage(keys=keys):
            return [(key, None) for key in keys]
        case Write(key=key, value=value):
            return [(key, value)]
        case WriteMany(items=items):
            return items
        case MarkUnmarked() | BackgroundWork() | ResetLedger():
            return []
        case _:
            raise TypeError(f"{step} is no operation")


def _difference(held: str | None, found: str | None) -> str | None:
    """How New differs from Old."""
    if held == found:
        return None
    if found is None:
        return "missing"
    return "extra" if held is None else "changed"


def _call(task: _Going) -> Call:
    if task.node.call is None:
        raise ValueError(f"{task.node.label} is over")
    return task.node.call


_ERRORS: Mapping[str, type[BaseException]] = {
    "fail": StoreError,
    "expire": StoreError,
    "unreachable": StoreError,
    "late": StoreError,
    "lose_reply": StoreError,
    "not_applied": NotApplied,
    "cancel": CancelledError,
}
_WORDS = {
    "apply": "is applied",
    "acknowledge": "is acknowledged",
    "expire": "was not applied in time and fails",
    "unreachable": "cannot be reached and fails",
    "fail": "fails and never takes effect",
    "not_applied": "fails with NotApplied",
    "late": "fails, and may take effect later",
    "lose_reply": "was applied, but its reply is lost",
    "cancel": "is cancelled",
}


def _breadth_first(world: _World, limit: int) -> Exploration:
    """Visit the states in the order of their distance, so that the first violation found is a shortest one."""
    came_from: dict[_State, tuple[_State, _Action] | None] = {world.first: None}
    numbers = {world.first: 0}
    queue = deque(came_from)
    graph = _Graph()
    while queue:
        state = queue.popleft()
        number = numbers[state]
        for action in world.actions(state):
            after, wrong = world.do(state, action)
            graph.add(number, numbers.setdefault(after, len(numbers)))
            if wrong is not None:
                violation = Violation(wrong, _schedule(world, came_from, state, action))
                return Exploration(len(came_from), graph.steps, None, complete=False, violation=violation)
            if after not in came_from:
                if len(came_from) >= limit:
                    return Exploration(len(came_from), graph.steps, None, complete=False, violation=None)
                came_from[after] = state, action
                queue.append(after)
    return Exploration(len(came_from), graph.steps, graph.paths(), complete=True, violation=None)


class _Graph:
    """The steps between numbered states, the first is 0. Each uses something up: there is no circle."""

    def __init__(self) -> None:
        self._from = array("L")
        self._to = array("L")

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self._from)

    def add(self, before: int, after: int) -> None:
        """Add a step."""
        self._from.append(before)
        self._to.append(after)

    def paths(self) -> int:
        """In how many ways one comes from the first state to one that no step leaves."""
        states = max(self._to, default=0) + 1
        leaving: list[list[int]] = [[] for _ in range(states)]
        arriving = [0] * states
        for before, after in zip(self._from, self._to, strict=True):
            leaving[before].append(after)
            arriving[after] += 1
        ways = [0] * states
        ways[0] = 1
        ready = [0]
        whole = 0
        while ready:
            state = ready.pop()
            whole += ways[state] * (not leaving[state])
            for after in leaving[state]:
                ways[after] += ways[state]
                arriving[after] -= 1
                if not arriving[after]:
                    ready.append(after)
        return whole


def _schedule(
    world: _World, came_from: Mapping[_State, tuple[_State, _Action] | None], state: _State, action: _Action
) -> tuple[str, ...]:
    lines: list[str] = []
    here: tuple[_State, _Action] | None = state, action
    while here is not None:
        lines.append(world.tell(*here))
        here = came_from[here[0]]
    return tuple(reversed(lines))
