"""Throughput under threads, tasks and processes, and whether concurrent calls wait for each other."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import structlog

from tests.benchmarks.figures import Figure, Row, Table, ratio, spread
from tests.benchmarks.hand_written import AsyncHandWritten, HandWritten
from tests.benchmarks.settings import Settings
from tests.benchmarks.stores import KEYS, VALUE, on_servers
from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_flags import AsyncProxy, Proxy, TrafficGate

__all__ = ["processes_table", "tasks_table", "threads_table", "waiting_table"]

CALL_SECONDS = 0.001
THREADS = (1, 2, 8)
TASKS = (1, 10, 100, 1000)
PROCESSES = (1, 2, 4)
TOGETHER = 50
"""Calls at once, of `LONG_CALL_SECONDS` each, that must not wait for each other."""
LONG_CALL_SECONDS = 0.010


class SlowAdapter:
    """A store that takes its time, and holds every key."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def read(self, key: str) -> bytes:
        time.sleep(self._seconds)
        return VALUE

    def write(self, key: str, value: bytes) -> None:
        time.sleep(self._seconds)


class AsyncSlowAdapter:
    """The same for asyncio."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def read(self, key: str) -> bytes:
        await asyncio.sleep(self._seconds)
        return VALUE

    async def write(self, key: str, value: bytes) -> None:
        await asyncio.sleep(self._seconds)


def _threads(read: Callable[[str], Any], workers: int, seconds: float) -> float:
    """Reads a second of so many threads."""
    together = threading.Barrier(workers)
    stop_at = 0.0

    def work(number: int) -> int:
        nonlocal stop_at
        if together.wait() == 0:
            stop_at = time.perf_counter() + seconds
        together.wait()
        done = number
        while True:
            read(KEYS[done % len(KEYS)])
            done += 1
            if time.perf_counter() >= stop_at:
                return done - number

    with ThreadPoolExecutor(workers) as pool:
        done = sum(pool.map(work, range(workers)))
        return done / (time.perf_counter() - stop_at + seconds)


async def _tasks(read: Callable[[str], Any], workers: int, seconds: float) -> float:
    """Reads a second of so many tasks."""
    stop_at = time.perf_counter() + seconds

    async def work(number: int) -> int:
        done = number
        while True:
            await read(KEYS[done % len(KEYS)])
            done += 1
            if time.perf_counter() >= stop_at:
                return done - number
            if not done % 64:
                await asyncio.sleep(0)  # calls that never wait would let no other task run

    done = await asyncio.gather(*(work(number) for number in range(workers)))
    return sum(done) / (time.perf_counter() - stop_at + seconds)


def _cells(rates: dict[str, list[float]], proxy: Any) -> dict[str, Figure | str]:
    took = {name: [1 / each for each in values] for name, values in rates.items()}
    operations = proxy.stats().operations
    share = 100 * operations.get(("read", "new_hit"), 0) / sum(operations.values())
    return {
        "proxy": spread(rates["proxy"], "/s"),
        "adapter": spread(rates["adapter"], "/s"),
        "to adapter": ratio(took["proxy"], took["adapter"]),
        "to hand-written": ratio(took["proxy"], took["hand-written"]),
        "served by New": f"{share:.3g} %",
    }


COLUMNS = ("proxy", "adapter", "to adapter", "to hand-written", "served by New")


def _in_turns(
    sides: dict[str, Callable[[str], Any]], turns: int, rate: Callable[[Any], float]
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(turns):
        for name in order:
            rates[name].append(rate(sides[name]))
        order.reverse()
    return rates


def threads_table(name: str, title: str, settings: Settings) -> Table:
    """Reads that New serves."""
    rows = []
    for kind, make in (("in memory", lambda: InMemoryAdapter(dict.fromkeys(KEYS, VALUE))), ("1 ms", _slow)):
        for workers in THREADS:
            old, new = make(), make()
            with Proxy(TrafficGate(1.0), old, new) as proxy:
                sides = {
                    "proxy": proxy.read,
                    "adapter": new.read,
                    "hand-written": HandWritten(old, new, 1.0).read,
                }
                rates = _in_turns(
                    sides,
                    settings.window_turns,
                    lambda read, workers=workers: _threads(read, workers, settings.window_seconds),
                )
                rows.append(Row(f"{_so_many(workers, 'thread')}, stores {kind}", _cells(rates, proxy)))
    return Table(name, title, COLUMNS, rows, first="threads, a store's call")


def _so_many(number: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{number} {what}{'' if number == 1 else plural}"


def _slow() -> Any:
    return SlowAdapter(CALL_SECONDS)


def tasks_table(name: str, title: str, settings: Settings) -> Table:
    """Reads that New serves, as far as its guard lets so many at a time."""
    rows = []
    makers: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("in memory", lambda: AsyncInMemoryAdapter(dict.fromkeys(KEYS, VALUE))),
        ("1 ms", lambda: AsyncSlowAdapter(CALL_SECONDS)),
    )
    for kind, make in makers:
        for workers in TASKS:
            with asyncio.Runner() as runner:
                old, new = make(), make()
                proxy = AsyncProxy(TrafficGate(1.0), old, new)
                sides = {
                    "proxy": proxy.read,
                    "adapter": new.read,
                    "hand-written": AsyncHandWritten(old, new, 1.0).read,
                }
                rates = _in_turns(
                    sides,
                    settings.window_turns,
                    lambda read, workers=workers, runner=runner: runner.run(
                        _tasks(read, workers, settings.window_seconds)
                    ),
                )
                rows.append(Row(f"{_so_many(workers, 'task')}, stores {kind}", _cells(rates, proxy)))
                runner.run(proxy.close())
    return Table(name, title, COLUMNS, rows, first="tasks, a store's call")


def waiting_table(name: str, title: str, settings: Settings) -> Table:
    """How long 50 operations take that begin together and whose calls take 10 ms each."""
    rows = []
    for operation, calls in (("read", 1), ("write", 2)):
        old, new = SlowAdapter(LONG_CALL_SECONDS), SlowAdapter(LONG_CALL_SECONDS)
        with Proxy(TrafficGate(1.0), old, new) as proxy, ThreadPoolExecutor(TOGETHER) as pool:
            call: Any = proxy.read if operation == "read" else lambda key, proxy=proxy: proxy.write(key, VALUE)
            taken = [_together_in_threads(call, pool) for _ in range(settings.window_turns + 1)][1:]
        rows.append(_waited(f"blocking {operation}", calls, taken))
        with asyncio.Runner() as runner:
            async_old, async_new = AsyncSlowAdapter(LONG_CALL_SECONDS), AsyncSlowAdapter(LONG_CALL_SECONDS)
            async_proxy = AsyncProxy(TrafficGate(1.0), async_old, async_new)
            start: Any = async_proxy.read
            if operation == "write":
                start = lambda key, proxy=async_proxy: proxy.write(key, VALUE)  # noqa: E731 - beside its twin above
            taken = [runner.run(_together_in_tasks(start)) for _ in range(settings.window_turns + 1)][1:]
            runner.run(async_proxy.close())
        rows.append(_waited(f"asyncio {operation}", calls, taken))
    return Table(name, title, ("the calls alone", "took", "to the calls alone"), rows, first=f"{TOGETHER} at once")


def _waited(row: str, calls: int, taken: Sequence[float]) -> Row:
    alone = calls * LONG_CALL_SECONDS
    cells = {
        "the calls alone": Figure(alone * 1e3, alone * 1e3, alone * 1e3, "ms"),
        "took": spread([each * 1e3 for each in taken], "ms"),
        "to the calls alone": spread([each / alone for each in taken], "x"),
    }
    return Row(row, cells)


def _together_in_threads(call: Callable[[str], Any], pool: ThreadPoolExecutor) -> float:
    together = threading.Barrier(TOGETHER + 1)

    def work(key: str) -> None:
        together.wait()
        call(key)

    futures = [pool.submit(work, key) for key in KEYS[:TOGETHER]]
    together.wait()
    began = time.perf_counter()
    for future in futures:
        future.result()
    return time.perf_counter() - began


async def _together_in_tasks(call: Callable[[str], Any]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(call(key) for key in KEYS[:TOGETHER]))
    return time.perf_counter() - began


def processes_table(name: str, title: str, settings: Settings) -> Table:
    """Reads and writes of several processes with one ledger, in PostgreSQL, beside the hand-written code."""
    rows = []
    with ProcessPoolExecutor(max(PROCESSES), get_context("spawn"), _begin_process, (settings,)) as pool:
        _processes(pool, "proxy", max(PROCESSES), settings)  # starts and connects them
        for workers in PROCESSES:
            rates: dict[str, list[float]] = {"proxy": [], "hand-written": []}
            for _ in range(settings.window_turns):
                for side, values in rates.items():
                    values.append(_processes(pool, side, workers, settings))
            took = {side: [1 / each for each in values] for side, values in rates.items()}
            cells = {
                "proxy": spread(rates["proxy"], "/s"),
                "hand-written": spread(rates["hand-written"], "/s"),
                "to hand-written": ratio(took["proxy"], took["hand-written"]),
            }
            rows.append(Row(_so_many(workers, "process"), cells))
    notes = ["Nine reads to a write. PostgreSQL (Old, ledger) and Valkey (New) share the processors with them."]
    return Table(name, title, ("proxy", "hand-written", "to hand-written"), rows, notes, "processes")


def _processes(pool: ProcessPoolExecutor, side: str, workers: int, settings: Settings) -> float:
    """Operations a second of so many processes."""
    start_at = time.time() + 0.05
    jobs = [pool.submit(_turn, side, start_at, settings.window_seconds * 2) for _ in range(workers)]
    return sum(job.result() for job in jobs)


_process: dict[str, Any] = {}


def _begin_process(settings: Settings) -> None:
    stack = ExitStack()
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - open until the process ends
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(nowhere))
    stores = stack.enter_context(on_servers("blocking", settings, "postgresql"))
    _process["proxy"] = stores.proxy(1.0, "processes")
    _process["hand-written"] = HandWritten(stores.old, stores.new, 1.0)
    _process["stack"] = stack  # as long


def _turn(side: str, start_at: float, seconds: float) -> float:
    """Operations a second of this process, from a moment on that all of them know."""
    store = _process[side]
    time.sleep(max(0.0, start_at - time.time()))
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < seconds:
        key = KEYS[done * 7 % len(KEYS)]
        if done % 10:
            store.read(key)
        else:
            store.write(key, VALUE)
        done += 1
    return done / (time.perf_counter() - began)
