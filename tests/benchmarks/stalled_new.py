"""What a New that is stalled costs the callers: reads and writes of Old through the proxy, and without it.

Old is PostgreSQL, on this machine. New is Valkey at the far end of a link that carries nothing any more: its
connections stay, and nobody answers. The ledger is in memory. What is compared is taken in turns, in one run, by
the same workers on the same keys: the adapter of Old called directly, and the proxy around it.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import URL, Column, LargeBinary, MetaData, String, Table, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from tests.network import Link, Network
from tests.servers import PostgreSqlServer, ValkeyServer
from zddm_adapters.redis import AsyncRedisAdapter, RedisAdapter
from zddm_adapters.sqlalchemy import AsyncSqlAlchemyAdapter, SqlAlchemyAdapter
from zddm_flags import AsyncProxy, Guard, Proxy, Telemetry, TrafficGate

__all__ = ["Figures", "Run", "measure", "run", "table"]

World: TypeAlias = Literal["blocking", "asyncio"]

WORKERS = 8
KEYS = [f"key-{number}" for number in range(200)]
VALUE = bytes(100)
SOCKET_SECONDS = 1.0
"""The driver's own time-out, which is all that bounds a blocking call to a New that is stalled."""
GUARD = Guard()
OPERATIONS = ("read", "write")

TABLE = Table(
    "things", MetaData(), Column("id", String, primary_key=True), Column("value", LargeBinary, nullable=False)
)


class Figures(NamedTuple):
    """One operation over one span of time."""

    per_second: float
    p50: float
    p99: float
    longest: float


@dataclass(slots=True)
class Run:
    """What was measured in one world."""

    world: World
    seconds_to_open: float = 0.0
    slow_operations: int = 0
    """Operations that took longer than a quarter of the guard's budget, from the stall until the guard opened."""
    longest_until_open: float = 0.0
    direct: list[dict[str, Figures]] = field(default_factory=list)
    proxied: list[dict[str, Figures]] = field(default_factory=list)
    calls_of_new: int = 0
    """Probes, all in the background, that were made while the guard was open."""

    def ratio(self, operation: str, figure: Literal["per_second", "p50", "p99"]) -> tuple[float, float, float]:
        """Proxy to direct, turn by turn: the least, the median and the most. Throughput: direct to proxy."""
        ratios = [
            getattr(proxied[operation], figure) / getattr(direct[operation], figure)
            for direct, proxied in zip(self.direct, self.proxied, strict=True)
        ]
        if figure == "per_second":
            ratios = [1 / ratio for ratio in ratios]
        return min(ratios), statistics.median(ratios), max(ratios)


class _Samples:
    """How long each operation took. One for each worker, so that nothing is shared."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {operation: [] for operation in OPERATIONS}

    def add(self, operation: str, seconds: float) -> None:
        self.seconds[operation].append(seconds)


def _figures(samples: list[_Samples], seconds: float) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for operation in OPERATIONS:
        taken = sorted(each for sample in samples for each in sample.seconds[operation])
        found[operation] = Figures(
            len(taken) / seconds, taken[len(taken) // 2], taken[int(len(taken) * 0.99)], taken[-1]
        )
    return found


def _by_tcp(server: PostgreSqlServer, database: str) -> URL:
    """Old, reached as New is."""
    return server.url(database).set(host=server.host, query={})


class _Blocking:
    """Workers that are threads."""

    world: World = "blocking"

    def __init__(self, postgresql: PostgreSqlServer, database: str, link: Link) -> None:
        self._engine = create_engine(_by_tcp(postgresql, database), pool_size=WORKERS, hide_parameters=True)
        TABLE.metadata.create_all(self._engine)
        self._client = redis.Redis(
            port=link.port,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=SOCKET_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self.direct: Any = SqlAlchemyAdapter(self._engine, TABLE, value="value")
        new = RedisAdapter(self._client, prefix="things:", max_wait_seconds=SOCKET_SECONDS)
        self.proxy: Any = Proxy(TrafficGate(1.0), self.direct, new, guard=GUARD, telemetry=Telemetry(log=False))

    def run(self, store: Any, seconds: float, until: Callable[[], bool] = lambda: False) -> list[_Samples]:
        """Let the workers read and write for so long."""
        stop_at = time.perf_counter() + seconds
        together = threading.Barrier(WORKERS)

        def work(number: int) -> _Samples:
            samples = _Samples()
            together.wait()
            turn = number
            while (began := time.perf_counter()) < stop_at and not until():
                turn += WORKERS
                key = KEYS[turn % len(KEYS)]
                if turn // WORKERS % 2:
                    store.read(key)
                    samples.add("read", time.perf_counter() - began)
                else:
                    store.write(key, VALUE)
                    samples.add("write", time.perf_counter() - began)
            return samples

        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(work, range(WORKERS)))

    def close(self) -> None:
        self.proxy.close()
        self._engine.dispose()
        self._client.close()


class _Asyncio:
    """Workers that are tasks of one event loop."""

    world: World = "asyncio"

    def __init__(self, postgresql: PostgreSqlServer, database: str, link: Link) -> None:
        self._runner = asyncio.Runner()
        blocking = create_engine(postgresql.url(database))
        TABLE.metadata.create_all(blocking)
        blocking.dispose()
        self._runner.run(self._open(postgresql, database, link))

    async def _open(self, postgresql: PostgreSqlServer, database: str, link: Link) -> None:
        self._engine = create_async_engine(_by_tcp(postgresql, database), pool_size=WORKERS, hide_parameters=True)
        self._client = redis.asyncio.Redis(
            port=link.port,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=SOCKET_SECONDS,
            retry=AsyncRetry(NoBackoff(), 0),
        )
        self.direct: Any = AsyncSqlAlchemyAdapter(self._engine, TABLE, value="value")
        new = AsyncRedisAdapter(self._client, prefix="things:", max_wait_seconds=SOCKET_SECONDS)
        self.proxy: Any = AsyncProxy(
            TrafficGate(1.0), self.direct, new, guard=GUARD, telemetry=Telemetry(log=False)
        )

    def run(self, store: Any, seconds: float, until: Callable[[], bool] = lambda: False) -> list[_Samples]:
        """Let the workers read and write for so long."""

        async def work(number: int, stop_at: float) -> _Samples:
            samples = _Samples()
            turn = number
            while (began := time.perf_counter()) < stop_at and not until():
                turn += WORKERS
                key = KEYS[turn % len(KEYS)]
                if turn // WORKERS % 2:
                    await store.read(key)
                    samples.add("read", time.perf_counter() - began)
                else:
                    await store.write(key, VALUE)
                    samples.add("write", time.perf_counter() - began)
            return samples

        async def workers() -> list[_Samples]:
            stop_at = time.perf_counter() + seconds
            return await asyncio.gather(*(work(number, stop_at) for number in range(WORKERS)))

        return self._runner.run(workers())

    def close(self) -> None:
        async def close() -> None:
            await self.proxy.close()
            await self._engine.dispose()
            await self._client.aclose()

        self._runner.run(close())
        self._runner.close()


@contextmanager
def _servers() -> Iterator[tuple[PostgreSqlServer, ValkeyServer]]:
    postgresql, valkey = PostgreSqlServer(), ValkeyServer()
    try:
        postgresql.start()
        valkey.start()
        yield postgresql, valkey
    finally:
        valkey.stop()
        postgresql.stop()


def measure(postgresql: PostgreSqlServer, valkey: ValkeyServer, world: World, turns: int, seconds: float) -> Run:
    """Stall New under load, wait until the guard opens, and compare, `turns` times for `seconds` each way."""
    run = Run(world)
    database = postgresql.create_database()
    with Network() as network:
        link = network.link(valkey.host, valkey.port)
        side = (_Blocking if world == "blocking" else _Asyncio)(postgresql, database, link)
        try:
            side.run(side.proxy, 1.0)  # all that is made on first use
            side.run(side.direct, 0.5)
            link.swallow()
            began = time.perf_counter()
            samples = side.run(side.proxy, 60.0, until=lambda: side.proxy.stats().guard == "open")
            run.seconds_to_open = time.perf_counter() - began
            taken = [each for sample in samples for seconds in sample.seconds.values() for each in seconds]
            run.longest_until_open = max(taken)
            run.slow_operations = sum(each > GUARD.budget_seconds / 4 for each in taken)
            before = sum(number for (store, _), number in side.proxy.stats().calls.items() if store == "new")
            sides = [(side.direct, run.direct), (side.proxy, run.proxied)]
            for _ in range(turns):
                for store, figures in sides:
                    figures.append(_figures(side.run(store, seconds), seconds))
                sides.reverse()  # so that a machine that gets slower or faster favours neither
            after = sum(number for (store, _), number in side.proxy.stats().calls.items() if store == "new")
            run.calls_of_new = after - before
        finally:
            link.heal()
            side.close()
            postgresql.drop_database(database)
    return run


def table(runs: list[Run]) -> str:
    """The figures, as text: medians of the turns, and ratios as least, median and most."""
    turns = len(runs[0].direct)
    lines = [
        f"New is stalled. {WORKERS} workers, {turns} turns each way. Ratios: the proxy's time to Old's alone, as",
        "median [least, most] of the turns; below 1 the proxy was faster.",
        "",
        f"{'':18}{'Old alone':>26}{'through the proxy':>26}{'ratio':>46}",
        f"{'':18}{'per second':>14}{'p99 ms':>12}{'per second':>14}{'p99 ms':>12}{'throughput':>23}{'p99':>23}",
    ]
    for run in runs:
        for operation in OPERATIONS:
            line = f"{run.world + ' ' + operation:18}"
            for side in (run.direct, run.proxied):
                rate = statistics.median(turn[operation].per_second for turn in side)
                p99 = statistics.median(turn[operation].p99 for turn in side)
                line += f"{rate:14.0f}{p99 * 1000:12.2f}"
            for least, median, most in (run.ratio(operation, "per_second"), run.ratio(operation, "p99")):
                line += f"{f'{median:.2f} [{least:.2f}, {most:.2f}]':>23}"
            lines.append(line)
    lines.append("")
    lines += [
        f"{run.world}: {run.seconds_to_open:.2f} s from the stall until the guard opened; until then "
        f"{run.slow_operations} slow operations, the longest {run.longest_until_open:.2f} s; "
        f"{run.calls_of_new} probes of New afterwards, in the background"
        for run in runs
    ]
    return "\n".join(lines)


def run(turns: int = 7, seconds: float = 2.0) -> list[Run]:
    """Measure both worlds."""
    with _servers() as (postgresql, valkey):
        return [measure(postgresql, valkey, world, turns, seconds) for world in ("blocking", "asyncio")]
