"""Whether what was read of one key can be explained: linearizability of a register, decided exactly.

Pure: no I/O, no clock. A key's history is explained if its operations can be put in one order in which every read
returns what the write before it wrote, and in which no operation stands before one that had ended when it began.
Operations of a batch count one by one, each with the batch's interval: a batch is no transaction.

The search moves along the history in time and keeps every state that the key may be in: the value it holds, and
which of the operations in progress have happened already. An operation is made to happen as late as possible, just
before something ends that could not end otherwise, so the states stay few: their number grows with how many writes
of the key are in progress at one moment, not with the length of the history. (Lowe, "Testing for
linearizability", 2017, calls this just-in-time linearization.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Operation", "TooConcurrent", "Violation", "check"]

STATES_MAX = 100_000
PRUNED_ABOVE = 16


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one key.

    Attributes:
        kind: a delete is a write of None.
        value: what was read or written; None is absent. No two writes write the same value, None aside.
        begin: a moment before the operation could have an effect, by a clock that all operations share.
        end: a moment after which it cannot: its return, or for a possible write the last moment allowed to it.
        outcome: `certain`: it happened. `possible`: a write that happened once or never. `refused`: a write whose
            caller was told that neither store was touched, so it never happened.
        label: who did it; not looked at.
    """

    kind: Literal["read", "write"]
    value: str | None
    begin: int
    end: int
    outcome: Literal["certain", "possible", "refused"] = "certain"
    label: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """A read that no order explains.

    Attributes:
        read: the read at whose end the history could be explained no longer.
        reason: why, in words.
        possible: what the key could have held between the last thing that ended before and the end of the read.
    """

    read: Operation
    reason: str
    possible: tuple[str | None, ...]


class TooConcurrent(Exception):
    """There are more states than the search may keep: nothing is known of this history."""


class _State(NamedTuple):
    """What the key may hold, and the operations in progress (one bit each) that have happened by then."""

    value: str | None
    happened: int


def check(initial: str | None, operations: Iterable[Operation]) -> Violation | None:
    """The first read that cannot be explained, in order of ends; None if all can.

    Args:
        initial: what the key held before all operations.
        operations: all that were ever begun on the key, in any order.

    Raises:
        TooConcurrent: the key had too many writes in progress at once.
        ValueError: two writes wrote one value, which is not None.
    """
    operations = list(operations)
    _check_unique(initial, operations)
    search = _Search(initial)
    for ends, operation in _events(_relevant(operations)):
        if not ends:
            search.begin(operation)
        elif not search.end(operation):
            return Violation(operation, _reason(initial, operations, operation), search.possible())
    return None


def _check_unique(initial: str | None, operations: Sequence[Operation]) -> None:
    written = {initial}
    for each in operations:
        if each.kind == "write" and each.value is not None:
            if each.value in written:
                raise ValueError(f"{each.value!r} was written twice: with values like that nothing can be told")
            written.add(each.value)


def _relevant(operations: Sequence[Operation]) -> Iterator[Operation]:
    """Without what cannot matter: a possible write that nobody read may as well never have happened."""
    seen = {each.value for each in operations if each.kind == "read"}
    for each in operations:
        if each.outcome == "certain" or (each.outcome == "possible" and each.value in seen):
            yield each


def _events(operations: Iterable[Operation]) -> Iterator[tuple[bool, Operation]]:
    """Whether it is an end, and of what, in order of time.

    At one moment begins come first, since such operations overlap, and possible writes come last.
    """
    events: list[tuple[int, int, int, Operation]] = []
    for number, each in enumerate(operations):
        events.append((each.begin, 0, number, each))
        events.append((each.end, 1 if each.outcome == "certain" else 2, number, each))
    for _, rank, _, operation in sorted(events, key=lambda event: event[:3]):
        yield rank > 0, operation


class _Search:
    """Every state that the key may be in at the moment that the search has come to."""

    def __init__(self, initial: str | None) -> None:
        self._states = {_State(initial, 0)}
        self._bits: dict[int, int] = {}  # id of an operation in progress -> its bit
        self._writes: dict[int, str | None] = {}  # bit of a write in progress -> its value
        self._reads: dict[str | None, int] = {}  # value -> bits of the reads in progress that returned it
        self._possible = 0  # bits of the possible writes in progress
        self._all_reads = 0

    def begin(self, operation: Operation) -> None:
        """An operation begins."""
        in_use = 0
        for bit in self._bits.values():
            in_use |= bit
        bit = ~in_use & (in_use + 1)  # the lowest one that is free
        self._bits[id(operation)] = bit
        if operation.kind == "write":
            self._writes[bit] = operation.value
            if operation.outcome == "possible":
                self._possible |= bit
            return
        self._reads[operation.value] = self._reads.get(operation.value, 0) | bit
        self._all_reads |= bit
        # A read changes nothing, so it happens as soon as it can.
        self._states = {
            _State(state.value, state.happened | bit) if state.value == operation.value else state
            for state in self._states
        }

    def end(self, operation: Operation) -> bool:
        """An operation ends; False if a read cannot, in any state. Then the search is over."""
        bit = self._bits[id(operation)]
        states = {reached for state in self._states for reached in self._reach(state, bit)}
        if operation.outcome == "possible":
            states |= self._states  # it may never happen
        if not states:
            return False
        del self._bits[id(operation)]
        if operation.kind == "write":
            del self._writes[bit]
            self._possible &= ~bit
        else:
            self._all_reads &= ~bit
            self._reads[operation.value] &= ~bit
            if not self._reads[operation.value]:
                del self._reads[operation.value]
        self._states = self._pruned({_State(state.value, state.happened & ~bit) for state in states})
        return True

    def possible(self) -> tuple[str | None, ...]:
        """The values that the key may hold now."""
        values = {state.value for state in self._states}
        values.update(
            value for state in self._states for bit, value in self._writes.items() if not state.happened & bit
        )
        return tuple(sorted(values, key=lambda value: (value is not None, value or "")))

    def _reach(self, start: _State, goal: int) -> Iterator[_State]:
        """The states in which the operation `goal` has happened, after no more writes than it takes."""
        if start.happened & goal:
            yield start
            return
        seen = {start}
        waiting = [start]
        while waiting:
            state = waiting.pop()
            for bit, value in self._writes.items():
                if state.happened & bit:
                    continue
                reached = _State(value, state.happened | bit | self._reads.get(value, 0))
                if reached in seen:
                    continue
                seen.add(reached)
                if len(seen) > STATES_MAX:
                    raise TooConcurrent(f"{len(self._writes)} writes were in progress at once")
                if reached.happened & goal:
                    yield reached
                else:
                    waiting.append(reached)

    def _pruned(self, states: set[_State]) -> set[_State]:
        """Without the states that can explain nothing that another one cannot."""
        if len(states) > STATES_MAX:
            raise TooConcurrent(f"{len(states)} states")
        if len(states) <= PRUNED_ABOVE:
            return states
        alike: dict[tuple[str | None, int], list[int]] = {}
        for value, happened in states:
            alike.setdefault((value, happened & ~self._possible & ~self._all_reads), []).append(happened)
        kept: set[_State] = set()
        for (value, _), masks in alike.items():
            # Better: more reads have happened, and fewer of the writes that need not happen at all.
            merits = [mask ^ self._possible for mask in masks]
            kept.update(
                _State(value, merit ^ self._possible)
                for merit in merits
                if not any(other != merit and other & merit == merit for other in merits)
            )
        return kept


def _reason(initial: str | None, operations: Sequence[Operation], read: Operation) -> str:
    """Why `read` could not be explained."""
    if read.value is None or read.value == initial:
        return "something else had been written, or read, since, and nothing brought this back"
    writer = next((each for each in operations if each.kind == "write" and each.value == read.value), None)
    if writer is None:
        return "nobody ever wrote this value"
    if writer.outcome == "refused":
        return "the write of this value was refused with the word that neither store was touched"
    if writer.begin > read.end:
        return "it was read before its write began"
    if writer.outcome == "possible" and writer.end < read.begin:
        return "its write, which raised or was killed, was seen only later than it was allowed to take effect"
    return "this value had been overwritten: a later one was acknowledged or read before this read began"
