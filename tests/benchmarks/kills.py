"""Kill latency: from the change on the flag server to the last call that begins on New.

The flag server is a process of its own and the real SDK is connected to it over HTTP. While 8 threads or 10 tasks
read and write, the flag is set to 0.0, again and again; New notes when each call begins. The clock starts before
the server is told, so that its own work, the network's and the SDK's are in it.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil
from ldclient.client import LDClient
from ldclient.config import Config
from ldclient.context import Context

from tests.benchmarks.figures import Figure, Row, Table
from tests.benchmarks.flags import FLAG
from tests.benchmarks.interleaved import WORLDS, World
from tests.benchmarks.settings import Settings
from tests.benchmarks.stores import KEYS, VALUE
from tests.torture.servers import ROOT, environment
from zddm_flags import AsyncProxy, LaunchDarklySource, Proxy, TrafficGate

__all__ = ["kills_table"]

THREADS = 8
TASKS = 10
IO_SECONDS = 0.002
SETTLE_SECONDS = 0.015
"""How long after a kill New is watched; many times what a kill takes."""
DEADLINE = 10.0


class _Store:
    """Holds every key, takes its time, and notes when each call began."""

    def __init__(self, seconds: float, began: deque[float] | None = None) -> None:
        self._seconds = seconds
        self._began = began

    def _call(self) -> None:
        if self._began is not None:
            self._began.append(time.perf_counter())
        if self._seconds:
            time.sleep(self._seconds)

    def read(self, key: str) -> bytes:
        self._call()
        return VALUE

    def write(self, key: str, value: bytes) -> None:
        self._call()


class _AsyncStore:
    def __init__(self, seconds: float, began: deque[float] | None = None) -> None:
        self._seconds = seconds
        self._began = began

    async def _call(self) -> None:
        if self._began is not None:
            self._began.append(time.perf_counter())
        await asyncio.sleep(self._seconds)  # 0: lets the others run

    async def read(self, key: str) -> bytes:
        await self._call()
        return VALUE

    async def write(self, key: str, value: bytes) -> None:
        await self._call()


class _Found(NamedTuple):
    last_calls: list[float]
    """Seconds from each kill to the last call of New; 0.0 where none began after it."""
    arrivals: list[float]
    """Seconds until the gate had closed."""
    processor: float
    """Per cent of one processor that this process used."""


@contextmanager
def _flag_server() -> Iterator[tuple[str, Callable[[float], float]]]:
    """Its address, and what sets the flag and returns when."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.flags"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def set_flag(rate: float) -> float:
            stdin.write(f"{rate}\n")
            stdin.flush()
            return float(stdout.readline())

        try:
            yield stdout.readline().strip(), set_flag
        finally:
            stdin.close()


@contextmanager
def _blocking_load(gate: TrafficGate, seconds: float, began: deque[float]) -> Iterator[None]:
    stop = threading.Event()
    proxy = Proxy(gate, _Store(seconds), _Store(seconds, began))

    def work(turn: int) -> None:
        while not stop.is_set():
            turn += 1
            key = KEYS[turn % len(KEYS)]
            if turn % 4:
                proxy.read(key)
            else:
                proxy.write(key, VALUE)

    threads = [threading.Thread(target=work, args=(number * 100,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        proxy.close()


@contextmanager
def _asyncio_load(gate: TrafficGate, seconds: float, began: deque[float]) -> Iterator[None]:
    stop = threading.Event()

    async def work(proxy: AsyncProxy[str, bytes], turn: int) -> None:
        while not stop.is_set():
            turn += 1
            key = KEYS[turn % len(KEYS)]
            if turn % 4:
                await proxy.read(key)
            else:
                await proxy.write(key, VALUE)

    async def load() -> None:
        async with AsyncProxy(gate, _AsyncStore(seconds), _AsyncStore(seconds, began)) as proxy:
            await asyncio.gather(*(work(proxy, number * 100) for number in range(TASKS)))

    thread = threading.Thread(target=asyncio.run, args=(load(),))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _killed(world: World, seconds: float, kills: int) -> _Found:
    chance = random.Random(7)
    began: deque[float] = deque(maxlen=100_000)
    last_calls, arrivals = [], []
    with _flag_server() as (url, set_flag):
        client = LDClient(
            Config("sdk-local", stream_uri=url, base_uri=url, events_uri=url, send_events=False),
            start_wait=DEADLINE,
        )
        source = LaunchDarklySource(client, FLAG, Context.builder("bench").kind("service").build())
        gate = TrafficGate(source)
        closed = threading.Event()
        closed_at = 0.0

        def follow(rollout: Any) -> None:
            nonlocal closed_at
            if rollout.read == 0:
                closed_at = time.perf_counter()
                closed.set()

        source.subscribe(follow)
        load = _blocking_load if world == "blocking" else _asyncio_load
        process = psutil.Process()
        try:
            with load(gate, seconds, began):
                used, since = process.cpu_times(), time.perf_counter()
                for _ in range(kills):
                    closed.clear()
                    began.clear()
                    set_flag(1.0)
                    _until(lambda: bool(began))
                    time.sleep(chance.uniform(0.005, 0.015))  # so that kills meet the load anywhere
                    killed_at = set_flag(0.0)
                    if not closed.wait(DEADLINE):
                        raise TimeoutError("the kill did not arrive")
                    time.sleep(SETTLE_SECONDS)
                    last_calls.append(max(0.0, max(began) - killed_at))
                    arrivals.append(closed_at - killed_at)
                now, took = process.cpu_times(), time.perf_counter() - since
        finally:
            gate.close()
            source.close()
            client.close()
    busy = now.user + now.system - used.user - used.system
    return _Found(last_calls, arrivals, 100 * busy / took)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + DEADLINE
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError("New was not called again")
        time.sleep(0.0005)


def kills_table(name: str, title: str, settings: Settings) -> Table:
    """Under load that waits for its stores, and under load that only computes."""
    rows = []
    for load, seconds, kills in (("I/O", IO_SECONDS, settings.kills), ("CPU", 0.0, settings.cpu_kills)):
        for world in WORLDS:
            found = _killed(world, seconds, kills)
            last, arrivals = sorted(found.last_calls), sorted(found.arrivals)
            cells = {
                "p50": _ms(statistics.median(last)),
                "p99": _ms(_percentile(last, 0.99)),
                "max": _ms(last[-1]),
                "gate closed, p50": _ms(statistics.median(arrivals)),
                "gate closed, p99": _ms(_percentile(arrivals, 0.99)),
                "kills": f"{len(last)}",
                "CPU": f"{found.processor:.0f} %",
            }
            rows.append(Row(f"{world}, {load}-bound load", cells))
    columns = ("p50", "p99", "max", "gate closed, p50", "gate closed, p99", "kills", "CPU")
    waits = f"{THREADS} threads or {TASKS} tasks, calls of {IO_SECONDS * 1e3:g} ms, three reads to a write"
    notes = [f"I/O-bound: {waits}. CPU-bound: the same without waiting."]
    return Table(name, title, columns, rows, notes, "load")


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _ms(seconds: float) -> Figure:
    return Figure(seconds * 1e3, seconds * 1e3, seconds * 1e3, "ms")
