"""What must stay flat or fair however much there is: the memory of a proxy, and the choice of the gate."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import time
from typing import Any

import psutil

from tests.benchmarks.figures import Figure, Row, Table
from tests.benchmarks.interleaved import WORLDS, World
from tests.benchmarks.settings import Settings
from tests.benchmarks.stores import VALUE
from zddm_flags import AsyncProxy, Proxy, TrafficGate

__all__ = ["fairness_table", "memory_table"]

RATES = (1e-6, 1e-4, 1e-2)


class _Hollow:
    """A store that holds nothing: every third key is not there, and what is written is forgotten."""

    def __init__(self, *, holds_all: bool) -> None:
        self._holds_all = holds_all

    def read(self, key: int) -> bytes | None:
        return VALUE if self._holds_all or key % 3 else None

    def write(self, key: int, value: bytes) -> None:
        pass


class _AsyncHollow:
    def __init__(self, *, holds_all: bool) -> None:
        self._holds_all = holds_all

    async def read(self, key: int) -> bytes | None:
        return VALUE if self._holds_all or key % 3 else None

    async def write(self, key: int, value: bytes) -> None:
        pass


def memory_table(name: str, title: str, settings: Settings) -> Table:
    """At a constant rate of 0.5, on keys that never come again: reads that hit, copy and go to Old, and writes."""
    return Table(
        name,
        title,
        ("after a tenth", "after all", "growth", "objects", "operations"),
        [_memory(world, settings.operations // len(WORLDS)) for world in WORLDS],
        first="world",
    )


def _memory(world: World, operations: int) -> Row:
    seen: list[tuple[int, int]] = []

    def look(number: int) -> None:
        if number in (operations // 10, operations - 1):
            gc.collect()
            seen.append((psutil.Process().memory_info().rss, sys.getallocatedblocks()))

    gate = TrafficGate(0.5)
    if world == "blocking":
        with Proxy(gate, _Hollow(holds_all=True), _Hollow(holds_all=False)) as proxy:
            for number in range(operations):
                if number % 2:
                    proxy.read(number)
                else:
                    proxy.write(number, VALUE)
                look(number)
            paths = proxy.stats().operations
    else:
        paths = asyncio.run(_memory_in_asyncio(gate, operations, look))
    (rss, blocks), (rss_later, blocks_later) = seen
    cells = {
        "after a tenth": _exactly(rss / 2**20, "MiB"),
        "after all": _exactly(rss_later / 2**20, "MiB"),
        "growth": _exactly((rss_later - rss) / (0.9 * operations), "bytes an operation"),
        "objects": _exactly(blocks_later - blocks, "more"),
        "operations": f"{sum(paths.values()):,}",
    }
    return Row(world, cells)


async def _memory_in_asyncio(gate: TrafficGate, operations: int, look: Any) -> Any:
    async with AsyncProxy(gate, _AsyncHollow(holds_all=True), _AsyncHollow(holds_all=False)) as proxy:
        for number in range(operations):
            if number % 2:
                await proxy.read(number)
            else:
                await proxy.write(number, VALUE)
            look(number)
        return proxy.stats().operations


def fairness_table(name: str, title: str, settings: Settings) -> Table:
    """How many keys pass, and how many standard deviations that is from what chance would give."""
    gates = [TrafficGate(rate) for rate in RATES]
    belows = [gate.decision.read_below for gate in gates]
    lowest, passed = max(belows), [0] * len(gates)
    locate = gates[0].locate
    began = time.perf_counter()
    for number in range(settings.hashes):
        key_hash, _ = locate(f"user-{number}")
        if key_hash < lowest:
            for place, below in enumerate(belows):
                passed[place] += key_hash < below
    seconds = time.perf_counter() - began
    rows = []
    for rate, found in zip(RATES, passed, strict=True):
        expected = settings.hashes * rate
        deviation = math.sqrt(expected * (1 - rate))
        cells = {
            "expected": _exactly(expected, ""),
            "passed": _exactly(found, ""),
            "standard deviations off": _exactly((found - expected) / deviation, ""),
        }
        rows.append(Row(f"rate {rate:g}", cells))
    notes = [f"{settings.hashes:,} keys that differ at their end, in {seconds:.0f} s."]
    return Table(name, title, ("expected", "passed", "standard deviations off"), rows, notes, "gate")


def _exactly(value: float, unit: str) -> Figure:
    return Figure(value, value, value, unit)
