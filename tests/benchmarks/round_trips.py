"""How often an operation waits for a server: round trips, counted on the wire, and the ledger's calls by name."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from sqlalchemy import make_url

from tests.benchmarks.figures import Row, Table
from tests.benchmarks.interleaved import WORLDS
from tests.benchmarks.operations import BATCHES, READS, WRITES, Case, Ready, prepared
from tests.benchmarks.relay import Relay
from tests.benchmarks.settings import Settings
from tests.benchmarks.stores import LedgerKind, Stores, on_servers

__all__ = ["round_trips_table"]

CASES = tuple(case for case in (*READS, *WRITES, *BATCHES) if not case.unguarded)
SAMPLES = 5
SHARED: tuple[LedgerKind, ...] = ("postgresql", "valkey")
LEDGER_CALLS = ("begin", "begin_copy", "dirty", "end", "withdraw", "open_to", "alone")


def round_trips_table(name: str, title: str, settings: Settings) -> Table:
    """For one operation, once all that is made on first use has been made."""
    postgresql = make_url(settings.postgresql).port or 0
    trips: dict[str, dict[str, str]] = {}
    for world in WORLDS:
        for ledger in SHARED:
            with (
                Relay(postgresql) as old,
                Relay(settings.valkey) as new,
                Relay(postgresql if ledger == "postgresql" else settings.valkey) as rows,
                on_servers(world, settings, ledger, ports=(old.port, new.port, rows.port)) as stores,
            ):
                for case in CASES:
                    counted = _counted(case, stores, f"trips-{world}-{ledger}-{case.name}", (old, new, rows))
                    cells = trips.setdefault(f"{world} {case.name}", {})
                    cells["calls of the ledger"] = counted[3] or "none"
                    cells["Old"], cells["New"] = counted[0], counted[1]
                    cells[f"ledger in {'PostgreSQL' if ledger == 'postgresql' else 'Valkey'}"] = counted[2]
    columns = ("calls of the ledger", "Old", "New", "ledger in PostgreSQL", "ledger in Valkey")
    notes = ["BEGIN, the statement, and COMMIT or ROLLBACK of Old, through psycopg, are a round trip each."]
    return Table(name, title, columns, [Row(row, cells) for row, cells in trips.items()], notes, "operation, path")


def _counted(
    case: Case, stores: Stores, name: str, relays: tuple[Relay, Relay, Relay]
) -> tuple[str, str, str, str]:
    """Round trips to Old, New and the ledger, and the names of the ledger's calls."""
    with ExitStack() as stack:
        ready = stack.enter_context(prepared(case, stores, name))
        once = _once(case, ready, stores)
        called = _Called(ready.proxy)
        found: list[tuple[int, ...]] = []
        for turn in range(SAMPLES + 2):
            if ready.reset is not None:
                stores.call(ready.reset())
            before = tuple(relay.round_trips for relay in relays)
            called.names.clear()
            once(turn)
            if turn >= 2:  # by then all that is made on first use has been made
                found.append(tuple(relay.round_trips - was for relay, was in zip(relays, before, strict=True)))
        names = ", ".join(f"{each}" if times == 1 else f"{times} {each}" for each, times in called.names.items())
    old, new, ledger = (_whole(statistics.median(column)) for column in zip(*found, strict=True))
    return old, new, ledger, names


def _whole(number: float) -> str:
    return f"{number:g}"


def _once(case: Case, ready: Ready, stores: Stores) -> Callable[[int], None]:
    call = getattr(ready.proxy, case.operation)
    items, value = ready.items, ready.value

    def once(turn: int) -> None:
        item = items[turn % len(items)]
        stores.call(call(item) if value is None else call(item, value))

    return once


class _Called:
    """Counts the calls of a proxy's ledger by name."""

    def __init__(self, proxy: Any) -> None:
        self.names: Counter[str] = Counter()
        self._rows = proxy._ledger
        proxy._ledger = self

    def __getattr__(self, name: str) -> Any:
        if name in LEDGER_CALLS:
            self.names[name] += 1
        return getattr(self._rows, name)
