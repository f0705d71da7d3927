"""One operation on each path that matters, through the proxy and without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from ldclient.migrations import Stage

from tests.benchmarks.figures import Row, Table, ratio, spread
from tests.benchmarks.hand_written import AsyncHandWritten, HandWritten
from tests.benchmarks.interleaved import WORLDS, Side, in_turns
from tests.benchmarks.migrators import Migrators
from tests.benchmarks.settings import Settings
from tests.benchmarks.stores import ABSENT, KEYS, LEDGERS, VALUE, LedgerKind, Stores, in_memory, on_servers

__all__ = [
    "BATCHES",
    "READS",
    "WRITES",
    "Case",
    "Ready",
    "batches_table",
    "prepared",
    "reads_table",
    "servers_table",
    "writes_table",
]

BATCH_SIZE = 100
RESET_KEYS = 100
"""Keys that are used up, and put back, where an operation changes what the next one finds."""
UNREAPED_SECONDS = 86_400.0

Reset = Literal["none", "empty_new", "restore"]


@dataclass(frozen=True, slots=True)
class Case:
    """An operation, and what is so arranged that it takes a path."""

    operation: str
    path: str
    rate: float = 1.0
    reset: Reset = "none"
    absent: bool = False
    pending: bool = False
    """Another's token is pending on every key."""
    unguarded: bool = False
    stages: tuple[Stage, Stage] | None = None
    """The Migrator's stages for the same: the one that does the least, and the one that its default is for."""

    @property
    def name(self) -> str:
        many = f" of {BATCH_SIZE}" if self.operation.endswith("_many") else ""
        return f"{self.operation}{many}, {self.path}{', guard=None' if self.unguarded else ''}"


READS = (
    Case("read", "old", rate=0.0, stages=(Stage.OFF, Stage.OFF)),
    Case("read", "new_hit", stages=(Stage.RAMPDOWN, Stage.LIVE)),
    Case("read", "new_hit", unguarded=True),
    Case("read", "copied", reset="empty_new"),
    Case("read", "miss", absent=True),
    Case("read", "dirty", pending=True),
)
WRITES = (
    Case("write", "old", rate=0.0, stages=(Stage.OFF, Stage.OFF)),
    Case("write", "both", stages=(Stage.RAMPDOWN, Stage.LIVE)),
    Case("delete", "old", rate=0.0, reset="restore"),
    Case("delete", "both", reset="restore"),
)
BATCHES = (
    Case("read_many", "old", rate=0.0),
    Case("read_many", "new_hit"),
    Case("read_many", "copied", reset="empty_new"),
    Case("write_many", "old", rate=0.0),
    Case("write_many", "both"),
)

PROXY = "proxy"
ADAPTER = "adapter"
HAND_WRITTEN = "hand-written"
LEAST = "Migrator at its least"
DEFAULT = "Migrator by default"


class Ready(NamedTuple):
    """A case with everything made: what to call, on what, and the proxy that is called."""

    proxy: Any
    items: Sequence[Any]
    value: object
    reset: Any

    def side(self, target: Any, operation: str) -> Side:
        """The operation of `target`, which may be a proxy, an adapter or hand-written."""
        return Side(getattr(target, operation), self.items, self.value, self.reset)


@contextmanager
def prepared(case: Case, stores: Stores, name: str, **options: Any) -> Iterator[Ready]:
    """A proxy that takes the case's path, and what it is called with. Checks at the end that it took no other."""
    keys = ABSENT if case.absent else KEYS if case.reset == "none" else KEYS[:RESET_KEYS]
    restore: Any = partial(
        _restore if stores.runner is None else _restore_async, stores, dict.fromkeys(keys, VALUE)
    )
    ledger = stores.ledger()
    if case.pending:
        options = {"max_operation_seconds": UNREAPED_SECONDS, **options}
    if case.unguarded:
        options = {"guard": None, **options}
    proxy = stores.proxy(case.rate, name, ledger, **options)
    if case.pending:
        names = [proxy._gate.locate(key)[1] for key in keys]
        stores.call(proxy._ledger.begin(names, b"another"))
    many = case.operation.endswith("_many")
    items: Sequence[Any] = keys
    if many:
        items = [keys[start : start + BATCH_SIZE] for start in range(0, len(keys), BATCH_SIZE)]
    if case.operation == "write_many":
        items = [dict.fromkeys(each, VALUE) for each in items]
    value = VALUE if case.operation == "write" else None
    resets = {"none": None, "empty_new": partial(stores.new.delete_many, keys), "restore": restore}
    try:
        yield Ready(proxy, items, value, resets[case.reset])
        taken = set(proxy.stats().operations) - {(case.operation.removesuffix("_many"), case.path)}
        if taken:
            raise RuntimeError(f"{name}: {case.name} also took {sorted(taken)}")
    finally:
        if case.reset != "none":
            stores.call(restore())
        stores.call(proxy.close())


def _restore(stores: Stores, held: Mapping[str, bytes]) -> None:
    stores.old.write_many(held)
    stores.new.write_many(held)


async def _restore_async(stores: Stores, held: Mapping[str, bytes]) -> None:
    await stores.old.write_many(held)
    await stores.new.write_many(held)


def _measured(
    case: Case, stores: Stores, name: str, settings: Settings, *, migrators: bool
) -> dict[str, list[float]]:
    """The proxy and what it is compared with, in turns."""
    served_by_new = case.path == "new_hit"
    hand_written: Any = HandWritten if stores.world == "blocking" else AsyncHandWritten
    with ExitStack() as stack:
        ready = stack.enter_context(prepared(case, stores, name))
        sides = {
            PROXY: ready.side(ready.proxy, case.operation),
            ADAPTER: ready.side(stores.new if served_by_new else stores.old, case.operation),
            HAND_WRITTEN: ready.side(hand_written(stores.old, stores.new, case.rate), case.operation),
        }
        if migrators and case.stages is not None and stores.world == "blocking":
            made = stack.enter_context(Migrators(*case.stages, stores.old, stores.new))
            sides[LEAST] = ready.side(made.least, case.operation)
            sides[DEFAULT] = ready.side(made.default, case.operation)
        return in_turns(sides, settings, stores.runner)


def _table(name: str, title: str, samples: dict[str, dict[str, list[float]]]) -> Table:
    """One row for each case: the proxy's time, and what it is a multiple of."""
    sides = list(dict.fromkeys(side for row in samples.values() for side in row if side != PROXY))
    rows = []
    for case, taken in samples.items():
        cells = {PROXY: spread([each * 1e6 for each in taken[PROXY]], "us")}
        cells |= {f"to {side}": ratio(taken[PROXY], taken[side]) for side in sides if side in taken}
        rows.append(Row(case, cells))
    kept = {f"{case}/{side}": values for case, taken in samples.items() for side, values in taken.items()}
    return Table(
        name, title, [PROXY, *(f"to {side}" for side in sides)], rows, first="operation, path", samples=kept
    )


def _over_memory(name: str, title: str, cases: Sequence[Case], settings: Settings) -> Table:
    samples: dict[str, dict[str, list[float]]] = {}
    for world in WORLDS:
        for case in cases:
            with in_memory(world) as stores:
                samples[f"{world} {case.name}"] = _measured(case, stores, "bench", settings, migrators=True)
    return _table(name, title, samples)


def reads_table(name: str, title: str, settings: Settings) -> Table:
    """Reads over dicts, with the ledger in memory."""
    return _over_memory(name, title, READS, settings)


def writes_table(name: str, title: str, settings: Settings) -> Table:
    """Writes and deletes over dicts."""
    return _over_memory(name, title, WRITES, settings)


def batches_table(name: str, title: str, settings: Settings) -> Table:
    """Batches over dicts."""
    return _over_memory(name, title, BATCHES, settings)


SERVED = (*READS, *WRITES, BATCHES[1], BATCHES[2], BATCHES[4])


def servers_table(name: str, title: str, settings: Settings) -> Table:
    """Old on PostgreSQL and New on Valkey, over TCP on this machine."""
    settings = replace(settings, turn_seconds=settings.servers_turn_seconds)
    samples: dict[str, dict[str, list[float]]] = {}
    for world in WORLDS:
        for ledger in LEDGERS:
            with on_servers(world, settings, ledger) as stores:
                for case in SERVED:
                    row = f"{world} {case.name}, ledger {_where(ledger)}"
                    label = f"{world} {case.name}"
                    few = ledger == "memory"
                    samples[row] = _measured(case, stores, label, settings, migrators=few)
    return _table(name, title, samples)


def _where(ledger: LedgerKind) -> str:
    return {"memory": "in memory", "postgresql": "in PostgreSQL", "valkey": "in Valkey"}[ledger]
