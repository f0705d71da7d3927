"""Every adapter and ledger of ours keeps the contract that it is held to, against real servers.

A new one is added by a class of its own at the end of its part.
"""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, Text, create_engine, inspect
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from zddm_adapters import (
    AsyncFunctionAdapter,
    AsyncInMemoryAdapter,
    AsyncMappedAdapter,
    FunctionAdapter,
    InMemoryAdapter,
    MappedAdapter,
    ThreadedAdapter,
)
from zddm_adapters.sqlalchemy import (
    AsyncSqlAlchemyAdapter,
    AsyncSqlAlchemyLedger,
    SqlAlchemyAdapter,
    SqlAlchemyLedger,
)
from zddm_flags import AsyncInMemoryLedger, InMemoryLedger
from zddm_flags.protocols import StoreInfo
from zddm_flags.testing.contract import (
    AsyncLedgerContract,
    AsyncStorageAdapterContract,
    LedgerContract,
    StorageAdapterContract,
)

# -- in memory ---------------------------------------------------------------------------------------------------


class TestInMemoryAdapter(StorageAdapterContract):
    refused_values = (None,)

    def adapter(self) -> Iterator[Any]:
        yield InMemoryAdapter()


class TestInMemoryAdapterOfObjects(StorageAdapterContract):
    keeps_copies = False  # documented: values are stored by reference
    values = ({}, {"n": 0}, {"n": [1, 2]})

    def make_key(self, number: int) -> int:
        return number

    def make_value(self, number: int) -> Any:
        return {"n": number}

    def adapter(self) -> Iterator[Any]:
        yield InMemoryAdapter()


class TestAsyncInMemoryAdapter(AsyncStorageAdapterContract):
    refused_values = (None,)

    async def adapter(self) -> AsyncIterator[Any]:
        yield AsyncInMemoryAdapter()


METHODS = ("read", "write", "delete", "read_many", "write_many", "delete_many")


class TestFunctionAdapter(StorageAdapterContract):
    def adapter(self) -> Iterator[Any]:
        store = InMemoryAdapter[Any, Any]()
        yield FunctionAdapter(**{name: getattr(store, name) for name in METHODS}, info=StoreInfo())

    def another_adapter(self, adapter: Any) -> Iterator[Any]:
        yield FunctionAdapter(read=adapter.read, write=adapter.write, delete=adapter.delete)


class TestAsyncFunctionAdapter(AsyncStorageAdapterContract):
    async def adapter(self) -> AsyncIterator[Any]:
        store = AsyncInMemoryAdapter[Any, Any]()
        yield AsyncFunctionAdapter(**{name: getattr(store, name) for name in METHODS}, info=StoreInfo())


class TestFunctionAdapterOfTwo(StorageAdapterContract):
    """An adapter without any optional method."""

    def adapter(self) -> Iterator[Any]:
        store = InMemoryAdapter[Any, Any]()
        yield FunctionAdapter(read=store.read, write=store.write)


def unkey(stored: str) -> str:
    return stored.removeprefix("user:")


class TestMappedAdapter(StorageAdapterContract):
    values = ({}, {"n": 0}, {"name": "Ada"})
    refused_values = ({1, 2},)  # JSON has no sets

    def make_value(self, number: int) -> Any:
        return {"n": number}

    def adapter(self) -> Iterator[Any]:
        yield self.mapped(InMemoryAdapter())

    def another_adapter(self, adapter: Any) -> Iterator[Any]:
        yield self.mapped(adapter._adapter)

    def mapped(self, store: Any) -> Any:
        return MappedAdapter(store, load=json.loads, dump=json.dumps, key="user:{}".format, unkey=unkey)


class TestAsyncMappedAdapter(AsyncStorageAdapterContract):
    values = ({}, {"n": 0}, {"name": "Ada"})
    refused_values = ({1, 2},)

    def make_value(self, number: int) -> Any:
        return {"n": number}

    async def adapter(self) -> AsyncIterator[Any]:
        store = AsyncInMemoryAdapter[str, str]()
        yield AsyncMappedAdapter(store, load=json.loads, dump=json.dumps, key="user:{}".format, unkey=unkey)


class TestThreadedAdapter(AsyncStorageAdapterContract):
    async def adapter(self) -> AsyncIterator[Any]:
        threaded = ThreadedAdapter(InMemoryAdapter[Any, Any]())
        yield threaded
        threaded.close()


class TestInMemoryLedger(LedgerContract):
    def ledger(self) -> Iterator[Any]:
        yield InMemoryLedger()


class TestInMemoryLedgerWithAClock(LedgerContract):
    tick_seconds = 10.0

    def ledger(self) -> Iterator[Any]:
        self.now = 0.0
        yield InMemoryLedger(clock=lambda: self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds


class TestAsyncInMemoryLedger(AsyncLedgerContract):
    async def ledger(self) -> AsyncIterator[Any]:
        self.backing = InMemoryLedger()
        yield AsyncInMemoryLedger(self.backing)

    async def another_ledger(self, ledger: Any) -> AsyncIterator[Any]:
        yield AsyncInMemoryLedger(self.backing)


# -- SQL ---------------------------------------------------------------------------------------------------------

# Under utf8mb4_bin, which pads, "a" and "a " are one key. MySQL's collation that does not is utf8mb4_0900_bin.
BINARY: Any = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_nopad_bin"}


class Sql:
    """A database of each kind, and a table whose values are mappings of two columns."""

    values = tuple({"name": name, "age": age} for name in ("", "0", " a ", "é🦉", "'\"\\%s") for age in (0, None))
    refused_values = ({"name": None, "age": 1}, {"name": "a"}, "no mapping", {"name": "a", "age": 1, "size": 1})

    def make_value(self, number: int) -> Any:
        return {"name": f"name {number}", "age": number}

    @pytest.fixture(autouse=True, params=["sqlite", "postgresql", "mariadb"])
    def database(self, request, tmp_path):
        if request.param == "sqlite":
            path = tmp_path / "store.db"
            self.options: Any = {"connect_args": {"timeout": 30}}
            self.blocking, self.asyncio = f"sqlite:///{path}", f"sqlite+aiosqlite:///{path}"
        else:
            server, name = request.getfixturevalue(f"{request.param}_database")
            self.options = {}
            self.blocking, self.asyncio = server.url(name), server.url(name, asyncio=True)
        columns = (
            Column("id", String(100), primary_key=True),
            Column("name", Text, nullable=False),
            Column("age", Integer),
        )
        self.table = Table("users", MetaData(), *columns, **BINARY)
        engine = create_engine(self.blocking)
        if request.param == "sqlite":
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        self.table.create(engine)
        yield
        engine.dispose()

    def rename(self, before: str, after: str) -> None:
        """Take the table away, or bring it back."""
        engine = create_engine(self.blocking)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")
        engine.dispose()


async def dispose_of(engine: AsyncEngine) -> None:
    """Close what a test used, and what its driver left."""
    await engine.dispose()
    if engine.dialect.name == "mysql":
        # aiomysql leaves a connection to the garbage collector where a call is cancelled while it connects.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


class TestSqlAlchemyAdapter(Sql, StorageAdapterContract):
    def adapter(self) -> Iterator[Any]:
        engine = create_engine(self.blocking, **self.options)
        yield SqlAlchemyAdapter(engine, self.table)
        engine.dispose()

    def another_adapter(self, adapter: Any) -> Iterator[Any]:
        yield from self.adapter()

    def outage(self) -> Iterator[None]:
        self.rename("users", "away")
        yield
        self.rename("away", "users")


class TestAsyncSqlAlchemyAdapter(Sql, AsyncStorageAdapterContract):
    async def adapter(self) -> AsyncIterator[Any]:
        engine = create_async_engine(self.asyncio, **self.options)
        yield AsyncSqlAlchemyAdapter(engine, self.table)
        await dispose_of(engine)

    async def another_adapter(self, adapter: Any) -> AsyncIterator[Any]:
        async for another in self.adapter():
            yield another

    async def outage(self) -> AsyncIterator[None]:
        self.rename("users", "away")
        yield
        self.rename("away", "users")


class SqlLedger(Sql):
    """A database of each kind, for a ledger."""

    def drop_tables(self) -> None:
        engine = create_engine(self.blocking, **self.options)
        with engine.begin() as connection:
            for table in inspect(engine).get_table_names():
                connection.exec_driver_sql(f"DROP TABLE {table}")
        engine.dispose()


class TestSqlAlchemyLedger(SqlLedger, LedgerContract):
    def ledger(self) -> Iterator[Any]:
        engine = create_engine(self.blocking, isolation_level="AUTOCOMMIT", **self.options)
        yield SqlAlchemyLedger(engine)
        engine.dispose()

    def another_ledger(self, ledger: Any) -> Iterator[Any]:
        yield from self.ledger()

    def lose(self) -> None:
        self.drop_tables()


class TestAsyncSqlAlchemyLedger(SqlLedger, AsyncLedgerContract):
    async def ledger(self) -> AsyncIterator[Any]:
        engine = create_async_engine(self.asyncio, isolation_level="AUTOCOMMIT", **self.options)
        yield AsyncSqlAlchemyLedger(engine)
        await dispose_of(engine)

    async def another_ledger(self, ledger: Any) -> AsyncIterator[Any]:
        async for another in self.ledger():
            yield another

    async def lose(self) -> None:
        self.drop_tables()
