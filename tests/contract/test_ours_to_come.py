"""The adapters and ledgers of ours that have yet to be merged; skipped until they are there.

Where one is, move its classes to test_ours.py and import it as the others.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from sqlalchemy import create_engine, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from zddm_flags.testing.contract import (
    AsyncLedgerContract,
    AsyncStorageAdapterContract,
    LedgerContract,
    StorageAdapterContract,
)


def ours(module: str, name: str) -> Any:
    """A class of ours, or None."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def needs(kind: Any) -> pytest.MarkDecorator:
    return pytest.mark.skipif(kind is None, reason="is not there yet")


RedisAdapter = ours("zddm_adapters.redis", "RedisAdapter")
AsyncRedisAdapter = ours("zddm_adapters.redis", "AsyncRedisAdapter")
RedisLedger = ours("zddm_adapters.redis", "RedisLedger")
AsyncRedisLedger = ours("zddm_adapters.redis", "AsyncRedisLedger")
SqlAlchemyLedger = ours("zddm_adapters.sqlalchemy", "SqlAlchemyLedger")
AsyncSqlAlchemyLedger = ours("zddm_adapters.sqlalchemy", "AsyncSqlAlchemyLedger")


class Valkey:
    """A prefix of its own for each test."""

    values = (b"", b"\0", b"None", bytes(range(256)))
    refused_values = (None, {})

    def make_value(self, number: int) -> bytes:
        return b"value-%d" % number

    @pytest.fixture(autouse=True)
    def server(self, valkey_server):
        self.path = str(valkey_server._socket)
        self.prefix = uuid.uuid4().hex

    def lose(self) -> Any:
        with redis.Redis(unix_socket_path=self.path) as client:
            client.delete(*client.keys(f"*{self.prefix}*"))


@needs(RedisAdapter)
class TestRedisAdapter(Valkey, StorageAdapterContract):
    def adapter(self) -> Iterator[Any]:
        with redis.Redis(unix_socket_path=self.path) as client:
            yield RedisAdapter(client, prefix=self.prefix)

    def another_adapter(self, adapter: Any) -> Iterator[Any]:
        yield from self.adapter()


@needs(AsyncRedisAdapter)
class TestAsyncRedisAdapter(Valkey, AsyncStorageAdapterContract):
    async def adapter(self) -> AsyncIterator[Any]:
        async with AsyncRedis(unix_socket_path=self.path) as client:
            yield AsyncRedisAdapter(client, prefix=self.prefix)


@needs(RedisLedger)
class TestRedisLedger(Valkey, LedgerContract):
    def ledger(self) -> Iterator[Any]:
        with redis.Redis(unix_socket_path=self.path) as client:
            yield RedisLedger(client, prefix=self.prefix)

    def another_ledger(self, ledger: Any) -> Iterator[Any]:
        yield from self.ledger()


@needs(AsyncRedisLedger)
class TestAsyncRedisLedger(Valkey, AsyncLedgerContract):
    async def ledger(self) -> AsyncIterator[Any]:
        async with AsyncRedis(unix_socket_path=self.path) as client:
            yield AsyncRedisLedger(client, prefix=self.prefix)

    async def another_ledger(self, ledger: Any) -> AsyncIterator[Any]:
        async for another in self.ledger():
            yield another

    async def lose(self) -> None:
        Valkey.lose(self)


class Sql:
    """A database of each kind."""

    @pytest.fixture(autouse=True, params=["sqlite", "postgresql", "mariadb"])
    def database(self, request, tmp_path):
        if request.param == "sqlite":
            path = tmp_path / "ledger.db"
            self.blocking, self.asyncio = f"sqlite:///{path}", f"sqlite+aiosqlite:///{path}"
            self.options: Any = {"connect_args": {"timeout": 30}}
        else:
            server, name = request.getfixturevalue(f"{request.param}_database")
            self.blocking, self.asyncio = server.url(name), server.url(name, asyncio=True)
            self.options = {}

    def drop_tables(self) -> None:
        engine = create_engine(self.blocking, **self.options)
        with engine.begin() as connection:
            for table in inspect(engine).get_table_names():
                connection.exec_driver_sql(f"DROP TABLE {table}")
        engine.dispose()


@needs(SqlAlchemyLedger)
class TestSqlAlchemyLedger(Sql, LedgerContract):
    def ledger(self) -> Iterator[Any]:
        engine = create_engine(self.blocking, **self.options)
        yield SqlAlchemyLedger(engine, tables="zddm", opened=0.0)
        engine.dispose()

    def another_ledger(self, ledger: Any) -> Iterator[Any]:
        yield from self.ledger()

    def lose(self) -> None:
        self.drop_tables()


@needs(AsyncSqlAlchemyLedger)
class TestAsyncSqlAlchemyLedger(Sql, AsyncLedgerContract):
    async def ledger(self) -> AsyncIterator[Any]:
        engine = create_async_engine(self.asyncio, **self.options)
        yield AsyncSqlAlchemyLedger(engine, tables="zddm", opened=0.0)
        await engine.dispose()

    async def another_ledger(self, ledger: Any) -> AsyncIterator[Any]:
        async for another in self.ledger():
            yield another

    async def lose(self) -> None:
        self.drop_tables()
