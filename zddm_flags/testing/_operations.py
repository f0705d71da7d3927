"""Runs the code of operations by hand, one answer at a time, and remembers what it did.

What an operation does next depends on what it was told so far and on what it can look at when it is told: the
clock, the gate's rates and its proxy's attributes. So it is run once for each such history; a `Node` is what it
did then, and an explorer that comes by again looks it up instead of running it.
"""

from __future__ import annotations

import copy
import random
from asyncio import CancelledError
from collections.abc import Collection, Coroutine, Generator, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from zddm_flags._async.migration import CopyRules
from zddm_flags.comparison import Comparison
from zddm_flags.errors import NotApplied, ZddmError
from zddm_flags.gate import Decision, TrafficGate
from zddm_flags.guard import GuardOpen
from zddm_flags.ledger import (
    AsyncMigrationLedger,
    Checkpoint,
    CopyGrant,
    Grant,
    LedgerSummary,
    Opening,
    StalePage,
)
from zddm_flags.protocols import Page, StoreInfo
from zddm_flags.rollout import Rollout, StaticSource
from zddm_flags.testing.scenario import (
    BackfillPage,
    BackgroundWork,
    Delete,
    MakeProxy,
    MarkUnmarked,
    Operation,
    Read,
    ReadMany,
    RepairPage,
    ResetLedger,
    Scenario,
    VerifyPage,
    Write,
    WriteMany,
)
from zddm_telemetry import Telemetry

__all__ = ["Call", "Circumstances", "Heard", "Node", "Operations", "StoreError"]

START_OF_TIME = 1000.0


class Call(NamedTuple):
    """A call to a store or to the ledger, as it was sent."""

    target: str
    method: str
    items: tuple[Any, ...]
    """The keys that are read, the items that are changed (None: deleted), or what the ledger is asked."""
    token: bytes | None = None

    @property
    def changes(self) -> bool:
        """Whether it has an effect, which may come late."""
        return self.method not in ("read", "read_many", "scan", "dirty", "alone", "stale_keys", "summary")

    def __await__(self) -> Generator[Call, Any, Any]:
        return (yield self)

    def __str__(self) -> str:
        match self.method:
            case "write":
                words = [", ".join(self.items[0])]
            case "write_many":
                words = [f"{key}: {value}" for key, value in self.items]
            case "delete" | "delete_many":
                words = [key for key, _ in self.items]
            case "end":
                words = [f"{name[1:].decode()}: {'ok' if ok else 'not ok'}" for name, ok in self.items]
            case "begin" | "begin_copy" | "withdraw" | "dirty" | "alone":
                words = [name[1:].decode() for name in self.items]
            case "reap" | "scan" | "stale_keys" | "summary":
                words = []
            case _:
                words = [str(item) for item in self.items]
        return f"{self.target}.{self.method}({', '.join(words)})"


class StoreError(Exception):
    """What a store or the ledger of the explorer raises when a call to it fails."""


@runtime_checkable
class Restorable(Protocol):
    """An attribute of a proxy that changes, and that others may hold as well."""

    def snapshot(self) -> Hashable:
        """All that decides what it does next."""
        ...

    def restore(self, snapshot: Any, /) -> None:
        """Be as it was when it gave this snapshot."""
        ...


class Heard(NamedTuple):
    """What an operation is told: the outcome of its call, or an error."""

    outcome: Hashable = None
    error: type[BaseException] | None = None


Circumstances: TypeAlias = int
"""Stands for what the code of a process can look at besides the clock: its rates and its proxy's attributes."""


class Node:
    """An operation after all that it was told so far: it waits for a call, or it is over."""

    __slots__ = (
        "after",
        "before",
        "call",
        "cancelled",
        "children",
        "closing",
        "ending",
        "error",
        "heard",
        "label",
        "live",
        "now",
        "parent",
        "returned",
        "wrong",
    )

    def __init__(self, label: str, parent: Node | None, heard: Heard, now: float, before: Circumstances) -> None:
        self.label = label
        self.parent = parent
        self.heard = heard
        self.now = now
        self.before = before
        self.after = before
        self.call: Call | None = None  # None: it is over
        self.ending = ""  # how it ended, in words
        self.returned: object = None
        self.error: BaseException | None = None
        self.wrong: str | None = None  # what no operation may do
        self.cancelled: bool = heard.error is CancelledError or (parent is not None and parent.cancelled)
        self.children: dict[object, Node] = {}
        self.live: _Live | None = None
        self.closing: str | None = None


class _Live:
    """A coroutine that stands somewhere, and the tokens that it has made."""

    __slots__ = ("coroutine", "label", "tokens")

    def __init__(self, label: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.label = label
        self.coroutine = coroutine
        self.tokens = 0


class _FixedHasher:
    """Gives each key the hash rate that the scenario names."""

    name = "explorer"

    def __init__(self, rates: Mapping[str, float]) -> None:
        self._hashes = {key.encode(): int(rate * 2**64) for key, rate in rates.items()}

    def hash(self, data: bytes, /) -> int:
        return self._hashes.get(data, 0)


class _StoreAdapter:
    """A store as an adapter. The methods that the scenario takes away are None."""

    def __init__(self, name: str, without: Collection[str]) -> None:
        self._name = name
        for method in ("read_many", "write_many", "delete", "delete_many", "scan"):
            if f"{name}.{method}" in without:
                setattr(self, method, None)

    def describe(self) -> StoreInfo:
        return StoreInfo(remote=False)  # whose calls need no event loop that limits their time

    async def read(self, key: str) -> str | None:
        value: str | None = await Call(self._name, "read", (key,))
        return value

    async def read_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        return dict(await Call(self._name, "read_many", tuple(keys)))

    async def write(self, key: str, value: str) -> None:
        await Call(self._name, "write", ((key, value),))

    async def write_many(self, items: Mapping[str, str]) -> None:
        await Call(self._name, "write_many", tuple(items.items()))

    async def delete(self, key: str) -> None:
        await Call(self._name, "delete", ((key, None),))

    async def delete_many(self, keys: Sequence[str]) -> None:
        await Call(self._name, "delete_many", tuple((key, None) for key in keys))

    async def scan(self, cursor: str | None, limit: int) -> Page[str, str]:
        items: tuple[tuple[str, str], ...] = await Call(self._name, "scan", (cursor, limit + 1))
        return Page(items[:limit], items[limit - 1][0] if len(items) > limit else None)


class _LedgerAdapter:
    """The ledger, whose every call goes to the explorer."""

    shared = True

    def __init__(self, *, asked_how_much: bool) -> None:
        self._asked_how_much = asked_how_much

    def migration(self, name: str, identity: str, token_seconds: float = 0.0) -> AsyncMigrationLedger:
        del name, identity, token_seconds
        return self

    async def begin(self, keys: Sequence[bytes], token: bytes) -> Grant:
        grant: Grant = await Call("ledger", "begin", tuple(keys), token)
        return grant

    async def begin_copy(self, keys: Sequence[bytes], token: bytes) -> CopyGrant:
        grant: CopyGrant = await Call("ledger", "begin_copy", tuple(keys), token)
        return grant

    async def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        await Call("ledger", "end", tuple(outcomes.items()), token)

    async def withdraw(self, keys: Collection[bytes], token: bytes) -> None:
        await Call("ledger", "withdraw", tuple(keys), token)

    async def dirty(self, keys: Collection[bytes]) -> Collection[bytes]:
        found: Collection[bytes] = await Call("ledger", "dirty", tuple(keys))
        return found

    async def alone(self, keys: Collection[bytes], token: bytes) -> Collection[bytes]:
        found: Collection[bytes] = await Call("ledger", "alone", tuple(keys), token)
        return found

    async def open_to(self, rate: float) -> Opening:
        opening: Opening = await Call("ledger", "open_to", (rate,))
        return opening

    async def reap(self, age_seconds: float, limit: int = 1000) -> int:
        reaped: int = await Call("ledger", "reap", (age_seconds, limit))
        return reaped

    async def summary(self) -> LedgerSummary:
        if not self._asked_how_much:  # a reaper shows it in metrics only: as a call it would double the states
            return self.last_summary()
        pending: int = await Call("ledger", "summary", ())
        return self.last_summary()._replace(pending=pending)

    def last_summary(self) -> LedgerSummary:
        return LedgerSummary(0, 0, None, 0.0, 0)

    async def stale_keys(self, cursor: str | None = None, limit: int = 1000) -> StalePage:
        if cursor is not None:
            raise NotImplementedError
        found: tuple[bytes, ...] = await Call("ledger", "stale_keys", (limit,))
        return StalePage(found, None)

    async def reset(self) -> bool:
        was_reset: bool = await Call("ledger", "reset", ())
        return was_reset

    # What only long jobs ask, of which a scenario has single pages.

    async def checkpoints(self) -> Mapping[str, Checkpoint]:
        raise NotImplementedError

    async def save_checkpoint(self, name: str, data: str, version: int) -> bool:
        raise NotImplementedError


async def _copied(proxy: Any, step: BackfillPage | RepairPage) -> dict[str, str | None]:
    """What came of each key of a page that a job copies."""
    located, _ = proxy.locate(step.keys)
    if isinstance(step, BackfillPage):
        outcomes = await proxy.copy_keys("backfill", located, CopyRules(everything=step.everything))
    else:
        rules = CopyRules(everything=step.everything, delete=step.delete_extra, distrust=True)
        outcomes = await proxy.copy_keys("repair", located, rules)
    return {each.key: outcomes.get(each.name) for each in located}


async def _verified(proxy: Any, step: VerifyPage) -> dict[str, str]:
    """What a verify says of each key of a page: how it differs, or `equal`, `failed`, `unsure`."""
    located, _ = proxy.locate(step.keys)
    try:
        confirmed = await proxy.confirm(located, Comparison(), mark=step.mark)
    except GuardOpen:  # which a verify waits for
        return dict.fromkeys(step.keys, "unsure")
    said = {each.name: each.kind for each in confirmed.different}
    for verdict in ("equal", "failed", "unsure"):
        said.update(dict.fromkeys(getattr(confirmed, verdict), verdict))
    return {each.key: said[each.name] for each in located if each.name in said}


class Operations:
    """The processes of a scenario, with one proxy each, and the code of its operations."""

    def __init__(self, scenario: Scenario, make_proxy: MakeProxy) -> None:
        self._steps = scenario.steps
        self._now = START_OF_TIME
        self._running: _Live | None = None
        self._starts: dict[object, Node] = {}
        self._kept: dict[_Live, Node] = {}
        self._decisions: dict[Rollout, Decision] = {}
        hasher = _FixedHasher(scenario.hash_rates)
        ledger = _LedgerAdapter(
            asked_how_much=any(isinstance(step, ResetLedger) for step in scenario.steps.values())
        )
        self._gates = {name: TrafficGate(rate, hasher=hasher) for name, rate in scenario.processes.items()}
        self._proxies = {
            name: make_proxy(
                gate,
                _StoreAdapter("old", scenario.without),
                _StoreAdapter("new", scenario.without),
                name="explored",
                ledger=ledger,
                clock=lambda: self._now,
                new_token=self._new_token,
                telemetry=Telemetry(log=False),
                **{"guard": None, **scenario.options},
            )
            for name, gate in self._gates.items()
        }
        self._numbers: dict[Hashable, Circumstances] = {}
        self._snapshots: list[tuple[Decision, _Copied]] = []
        self.at_first = {name: self._look(name) for name in scenario.processes}

    def close(self) -> None:
        """Close the coroutines that were left where they stand."""
        for live, node in self._kept.items():
            self._close(live, node)

    def _new_token(self) -> bytes:
        live = self._running
        if live is None:
            raise RuntimeError("a token was asked for outside of any operation")
        live.tokens += 1
        return f"{live.label}-{live.tokens}".encode()

    # -- circumstances ----------------------------------------------------------------------------------------

    def _look(self, process: str) -> Circumstances:
        """The circumstances as they are now in the process."""
        decision = self._gates[process].decision
        decision = self._decisions.setdefault(decision.rollout, decision)
        attributes = vars(self._proxies[process])
        key = process, decision.rollout, tuple((name, _frozen(value)) for name, value in attributes.items())
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._snapshots)
            self._snapshots.append((decision, _Copied.of(attributes)))
        return number

    def _enter(self, process: str, circumstances: Circumstances, now: float) -> None:
        """Make the process's circumstances these."""
        decision, attributes = self._snapshots[circumstances]
        self._gates[process].decision = decision
        attributes.restore(vars(self._proxies[process]))
        self._now = now

    def set_rate(self, process: str, circumstances: Circumstances, rate: float | Rollout) -> Circumstances:
        """The circumstances after the process has seen this rate."""
        self._enter(process, circumstances, self._now)
        source = self._gates[process].source
        if isinstance(source, StaticSource):  # which it is: past the gate, so that nothing is logged
            source.set(rate)
        return self._look(process)

    def switch(self, process: str, circumstances: Circumstances, *, on: bool) -> Circumstances:
        """The circumstances after `enable()` or `disable()`."""
        self._enter(process, circumstances, self._now)
        proxy = self._proxies[process]
        if on:
            proxy.enable()
        else:
            proxy.disable()
        return self._look(process)

    # -- running ----------------------------------------------------------------------------------------------

    def start(self, label: str, now: float, circumstances: Circumstances) -> Node:
        """The operation after it was started: at its first call, or over."""
        key = label, now, circumstances
        node = self._starts.get(key)
        if node is None:
            node = self._starts[key] = Node(label, None, Heard(), now, circumstances)
            self._run(node, self._new_coroutine(label))
        return node

    def tell(self, parent: Node, heard: Heard, now: float, circumstances: Circumstances) -> Node:
        """The operation after it, waiting for a call at `parent`, has heard this: at its next call, or over."""
        key = heard, now, circumstances
        node = parent.children.get(key)
        if node is None:
            live = self._standing_at(parent)
            node = parent.children[key] = Node(parent.label, parent, heard, now, circumstances)
            self._run(node, live)
        return node

    def wrong_at_closing(self, node: Node) -> str | None:
        """Close the operation, as an event loop does that ends; returns what it does wrong then."""
        if node.closing is None:
            node.closing = self._close(self._standing_at(node), node)
        return node.closing or None

    def _close(self, live: _Live, node: Node) -> str:
        """Close a coroutine that waits at `node`, in the circumstances that it knows; see `_close`."""
        step = self._steps[node.label]
        if isinstance(step, Operation):  # which it is
            self._enter(step.process, node.after, node.now)
        return _close(live)

    def _new_coroutine(self, label: str) -> _Live:
        step = self._steps[label]
        if not isinstance(step, Operation):
            raise TypeError(f"{step} is no operation")
        proxy = self._proxies[step.process]
        match step:
            case Read(key=key):
                coroutine = proxy.read(key)
            case ReadMany(keys=keys):
                coroutine = proxy.read_many(keys)
            case Write(key=key, value=value):
                coroutine = proxy.write(key, value)
            case WriteMany(items=items):
                coroutine = proxy.write_many(dict(items))
            case Delete(key=key):
                coroutine = proxy.delete(key)
            case MarkUnmarked():
                coroutine = proxy.mark_unmarked()
            case BackgroundWork():
                coroutine = proxy.do_background_work()
            case BackfillPage() | RepairPage():
                coroutine = _copied(proxy, step)
            case VerifyPage():
                coroutine = _verified(proxy, step)
            case ResetLedger(new_was_emptied=new_was_emptied):
                coroutine = proxy.reset_ledger(new_was_emptied=new_was_emptied)
            case _:
                raise TypeError(f"{step} is no operation")
        return _Live(label, coroutine)

    def _standing_at(self, node: Node) -> _Live:
        """A coroutine that waits at `node`: the one that was left there, or one that is told it all again."""
        live, node.live = node.live, None
        if live is not None:
            del self._kept[live]
            return live
        history: list[Node] = []
        at: Node | None = node
        while at is not None:
            history.append(at)
            at = at.parent
        live = self._new_coroutine(node.label)
        for each in reversed(history):
            again = Node(each.label, each.parent, each.heard, each.now, each.before)
            self._run(again, live)
            if again.call != each.call:
                raise RuntimeError(f"{node.label} does different things after hearing the same")
            again.live = None
            del self._kept[live]
        return live

    def _run(self, node: Node, live: _Live) -> None:
        """Run the operation's own code up to its next call, and note at `node` what it did."""
        step = self._steps[node.label]
        if not isinstance(step, Operation):
            raise TypeError(f"{step} is no operation")
        self._enter(step.process, node.before, node.now)
        self._running = live
        error = node.heard.error
        chance = random.getstate()
        random.seed(0)  # what a proxy leaves to chance comes out the same each time
        try:
            if error is None:
                call = live.coroutine.send(None if node.parent is None else node.heard.outcome)
            else:
                call = live.coroutine.throw(error("the call failed"))
        except StopIteration as stop:
            node.returned = stop.value
            node.ending = f"; it returns {stop.value!r}"
            if node.cancelled:
                node.wrong = "was cancelled, but returned"
        except (StoreError, NotApplied, ZddmError, CancelledError) as raised:
            node.error = raised
            node.ending = f"; it raises {type(raised).__name__}"
            if isinstance(raised, CancelledError) and not node.cancelled:
                node.wrong = "raised CancelledError, but was not cancelled"
        except Exception as raised:  # a mistake in the code that is explored: part of what is found
            node.error = raised
            node.ending = f"; it raises {type(raised).__name__}"
            node.wrong = f"raised {type(raised).__name__}: {raised}"
        else:
            if isinstance(call, Call):
                node.call = call
                node.live = live
                self._kept[live] = node
            else:
                node.wrong = f"awaits {call!r}, which is no call to a store or to the ledger: it is blocked"
                _close(live)
        finally:
            self._running = None
            random.setstate(chance)
        node.after = self._look(step.process)


def _close(live: _Live) -> str:
    """Close a coroutine; returns what is wrong with how it takes that, or an empty string."""
    try:
        live.coroutine.close()
    except RuntimeError:
        return "awaits when it is closed"
    except Exception as raised:
        return f"raises {type(raised).__name__} when it is closed"
    return ""


def _frozen(value: Any) -> Hashable:
    """`value` as something hashable that is equal as long as the value's contents are."""
    match value:
        case list() | tuple():
            return type(value).__name__, tuple(_frozen(each) for each in value)
        case dict():
            return "dict", frozenset((name, _frozen(each)) for name, each in value.items())
        case set():
            return "set", frozenset(value)
        case Restorable():
            return type(value).__name__, value.snapshot()
        case _:
            return value if isinstance(value, Hashable) else ("object", id(value))


class _Copied(NamedTuple):
    """The attributes of a proxy at some moment: values, and snapshots of those that others may hold as well."""

    values: Mapping[str, Any]
    snapshots: Mapping[str, Hashable]

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Self:
        return cls(
            {name: _copy(value) for name, value in attributes.items()},
            {name: value.snapshot() for name, value in attributes.items() if isinstance(value, Restorable)},
        )

    def restore(self, attributes: dict[str, Any]) -> None:
        attributes.clear()
        attributes.update({name: _copy(value) for name, value in self.values.items()})
        for name, snapshot in self.snapshots.items():
            attributes[name].restore(snapshot)


def _copy(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, (list, dict, set)) else value
