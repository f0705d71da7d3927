"""Old, New and the ledger of a benchmark, in both worlds: in memory, and on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Column, LargeBinary, MetaData, String, Table, create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from tests.benchmarks.interleaved import World
from tests.benchmarks.settings import Settings
from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_adapters.redis import AsyncRedisAdapter, AsyncRedisLedger, RedisAdapter, RedisLedger
from zddm_adapters.sqlalchemy import (
    AsyncSqlAlchemyAdapter,
    AsyncSqlAlchemyLedger,
    SqlAlchemyAdapter,
    SqlAlchemyLedger,
)
from zddm_flags import AsyncInMemoryLedger, AsyncProxy, InMemoryLedger, Proxy, TrafficGate

__all__ = ["ABSENT", "KEYS", "LEDGERS", "VALUE", "LedgerKind", "Stores", "in_memory", "on_servers"]

LedgerKind = Literal["memory", "postgresql", "valkey"]
LEDGERS: tuple[LedgerKind, ...] = ("memory", "postgresql", "valkey")

KEYS = [f"user-{number:06}" for number in range(1000)]
ABSENT = [f"gone-{number:06}" for number in range(1000)]
VALUE = bytes(100)

TABLE = Table(
    "things", MetaData(), Column("id", String, primary_key=True), Column("value", LargeBinary, nullable=False)
)


class Stores(NamedTuple):
    """Stores of one world, both of which hold every key of KEYS; `ledger` makes ledgers over the same rows."""

    world: World
    old: Any
    new: Any
    ledger: Callable[[], Any]
    runner: asyncio.Runner | None

    def call(self, made: Any) -> Any:
        """What a call returns, which is a coroutine in asyncio."""
        return made if self.runner is None else self.runner.run(made)

    def proxy(self, rate: float, name: str, ledger: Any = None, **options: Any) -> Any:
        """A proxy with all that is on by default."""
        kind: Any = Proxy if self.world == "blocking" else AsyncProxy
        return kind(TrafficGate(rate), self.old, self.new, name=name, ledger=ledger or self.ledger(), **options)


@contextmanager
def in_memory(world: World) -> Iterator[Stores]:
    """Dicts, which are the cheapest stores that there are: what is left is the proxy's."""
    held = dict.fromkeys(KEYS, VALUE)
    if world == "blocking":
        yield Stores(world, InMemoryAdapter(held), InMemoryAdapter(held), InMemoryLedger, None)
        return
    with asyncio.Runner() as runner:
        yield Stores(world, AsyncInMemoryAdapter(held), AsyncInMemoryAdapter(held), AsyncInMemoryLedger, runner)


@contextmanager
def on_servers(
    world: World, settings: Settings, ledger: LedgerKind, *, ports: tuple[int, int, int] | None = None
) -> Iterator[Stores]:
    """Old on PostgreSQL, New on Valkey, the ledger on either or in memory; one connection each, by TCP.

    `ports`: other ways to Old, New and the ledger.
    """
    url = make_url(settings.postgresql)
    old_port, new_port, ledger_port = ports or (
        url.port or 0,
        settings.valkey,
        settings.valkey if ledger == "valkey" else url.port or 0,
    )
    blocking = create_engine(url)
    TABLE.metadata.create_all(blocking)
    blocking.dispose()
    database = settings.valkey_database
    old_url, ledger_url = url.set(port=old_port), url.set(port=ledger_port)
    if world == "blocking":
        engine, ledger_engine = create_engine(old_url), create_engine(ledger_url, isolation_level="AUTOCOMMIT")
        client = redis.Redis(port=new_port, db=database, retry=Retry(NoBackoff(), 0))
        ledger_client = redis.Redis(port=ledger_port, db=database, retry=Retry(NoBackoff(), 0))
        makers: dict[str, Callable[[], Any]] = {
            "memory": InMemoryLedger,
            "postgresql": lambda: SqlAlchemyLedger(ledger_engine),
            "valkey": lambda: RedisLedger(ledger_client),
        }
        old: Any = SqlAlchemyAdapter(engine, TABLE, value="value")
        new: Any = RedisAdapter(client, prefix="things:", max_wait_seconds=1.0)
        try:
            _fill(stores := Stores(world, old, new, makers[ledger], None))
            yield stores
        finally:
            engine.dispose()
            ledger_engine.dispose()
            client.close()
            ledger_client.close()
        return
    with asyncio.Runner() as runner:
        async_engine = create_async_engine(old_url)
        async_ledger_engine = create_async_engine(ledger_url, isolation_level="AUTOCOMMIT")
        async_client = redis.asyncio.Redis(port=new_port, db=database, retry=AsyncRetry(NoBackoff(), 0))
        async_ledger_client = redis.asyncio.Redis(port=ledger_port, db=database, retry=AsyncRetry(NoBackoff(), 0))
        makers = {
            "memory": AsyncInMemoryLedger,
            "postgresql": lambda: AsyncSqlAlchemyLedger(async_ledger_engine),
            "valkey": lambda: AsyncRedisLedger(async_ledger_client),
        }
        old = AsyncSqlAlchemyAdapter(async_engine, TABLE, value="value")
        new = AsyncRedisAdapter(async_client, prefix="things:", max_wait_seconds=1.0)
        try:
            _fill(stores := Stores(world, old, new, makers[ledger], runner))
            yield stores
        finally:
            for close in (
                async_engine.dispose,
                async_ledger_engine.dispose,
                async_client.aclose,
                async_ledger_client.aclose,
            ):
                runner.run(close())


def _fill(stores: Stores) -> None:
    held = dict.fromkeys(KEYS, VALUE)
    stores.call(stores.old.write_many(held))
    stores.call(stores.new.write_many(held))
