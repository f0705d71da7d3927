"""A verify of real stores, of one kind beside another, while a writer never rests."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from sqlalchemy import URL, Column, Integer, MetaData, String, Table, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.core.verified import found, planted
from tests.core.worlds import World
from tests.servers import DatabaseServer, ValkeyServer
from tests.worlds import settle
from zddm_adapters.redis import AsyncRedisAdapter, JsonCodec, RedisAdapter
from zddm_adapters.sqlalchemy import (
    AsyncSqlAlchemyAdapter,
    AsyncSqlAlchemyLedger,
    SqlAlchemyAdapter,
    SqlAlchemyLedger,
)
from zddm_flags import AsyncInMemoryLedger, AsyncVerify, InMemoryLedger, TrafficGate, Verify, VerifyResult

ROWS = 2000
BINARY: Mapping[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_nopad_bin"}


class Stores:
    """Makes stores of one world, which go away after the test."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self._folder = folder
        self._open: list[Any] = []

    def engine(self, url: URL, **options: Any) -> Any:
        made: Any = (create_engine if self.world.blocking else create_async_engine)(url, **options)
        self._open.append(made.dispose)
        return made

    def _sqlite(self, name: str) -> URL:
        return URL.create(
            "sqlite" if self.world.blocking else "sqlite+aiosqlite", database=str(self._folder / f"{name}.db")
        )

    async def sqlite(self, key: Any) -> Any:
        """A table in a file of its own."""
        engine = self.engine(self._sqlite("store"), connect_args={"timeout": 30})
        plain = create_engine(URL.create("sqlite", database=str(self._folder / "store.db")))
        with plain.connect() as connection:
            connection.execute(text("PRAGMA journal_mode=WAL"))
        table = self._table(plain, key)
        plain.dispose()
        return self._adapter(engine, table)

    async def sql(self, database: tuple[DatabaseServer, str], key: Any) -> Any:
        """A table on a server."""
        server, name = database
        plain = create_engine(server.url(name))
        table = self._table(plain, key)
        plain.dispose()
        return self._adapter(self.engine(server.url(name, asyncio=not self.world.blocking)), table)

    def ledger(self, database: tuple[DatabaseServer, str]) -> Any:
        """A ledger on a server, of a New that was opened for all keys."""
        server, name = database
        url = server.url(name, asyncio=not self.world.blocking)
        engine = self.engine(url, isolation_level="AUTOCOMMIT")
        return (SqlAlchemyLedger if self.world.blocking else AsyncSqlAlchemyLedger)(engine, opened=1.0)

    def in_memory(self) -> Any:
        """A ledger in memory, of a New that was opened for all keys."""
        ledger = InMemoryLedger(opened=1.0)
        return ledger if self.world.blocking else AsyncInMemoryLedger(ledger)

    def valkey(self, server: ValkeyServer) -> Any:
        """A prefix of a database of its own."""
        with server.client() as plain:
            plain.select(7)
            plain.flushdb()
        options: Mapping[str, Any] = {"host": server.host, "port": server.port, "db": 7}
        if self.world.blocking:
            client: Any = redis.Redis(**options)
            self._open.append(client.close)
            return RedisAdapter(client, prefix="users:", codec=JsonCodec())
        client = redis.asyncio.Redis(**options)
        self._open.append(client.aclose)
        return AsyncRedisAdapter(client, prefix="users:", codec=JsonCodec())

    async def close(self) -> None:
        for close in self._open:
            await settle(close())

    @staticmethod
    def _table(engine: Any, key: Any) -> Table:
        primary = Column("id", key, primary_key=True, autoincrement=False)
        table = Table("users", MetaData(), primary, Column("name", String(40), nullable=False), **BINARY)
        table.create(engine)
        return table

    def _adapter(self, engine: Any, table: Table) -> Any:
        kind: Any = SqlAlchemyAdapter if self.world.blocking else AsyncSqlAlchemyAdapter
        return kind(engine, table, value=["name"])


@pytest.fixture
async def stores(world: World, tmp_path: Path) -> AsyncIterator[Stores]:
    """Stores of either world."""
    made = Stores(world, tmp_path)
    yield made
    await made.close()


def rows(key_of: Callable[[int], Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """What Old holds, and New, with some planted differences."""
    old = {key_of(number): {"name": f"user {number}"} for number in range(ROWS)}
    new = dict(old)
    for number in range(0, ROWS, 100):
        new[key_of(number)] = {"name": "another"}
        del new[key_of(number + 1)]
        if number % 200 == 0:
            new[key_of(ROWS + number)] = {"name": "extra"}
    return old, new


@asynccontextmanager
async def writing(world: World, proxy: Any, keys: list[Any]) -> AsyncIterator[Counter[str]]:
    """A writer that never rests, beside what is done meanwhile; it counts what it did."""
    done: Counter[str] = Counter()
    over = threading.Event()
    choose = random.Random(1)

    def next_change() -> tuple[Any, ...]:
        done["writes"] += 1
        key = choose.choice(keys)
        if choose.random() < 0.2:
            return proxy.delete, key
        return proxy.write, key, {"name": f"written {done['writes']}"}

    def in_thread() -> None:
        while not over.is_set():
            change, *arguments = next_change()
            change(*arguments)

    async def in_task() -> None:
        while not over.is_set():
            change, *arguments = next_change()
            await change(*arguments)

    writer = asyncio.ensure_future(asyncio.to_thread(in_thread) if world.blocking else in_task())
    try:
        yield done
    finally:
        over.set()
        await writer


async def verify(world: World, proxy: Any, **options: Any) -> VerifyResult:
    """The result of a verify, which does not block the event loop."""
    if world.blocking:
        return await asyncio.to_thread(Verify(proxy, **options).run)
    return await AsyncVerify(proxy, **options).run()


async def check(world: World, old: Any, new: Any, ledger: Any, key_of: Callable[[int], Any]) -> None:
    """What was planted is found, and nothing else, while a writer works on the other keys."""
    values, copies = rows(key_of)
    await settle(old.write_many(values))
    await settle(new.write_many(copies))
    proxy: Any = world.proxy_class(TrafficGate(1.0), old, new, name="users", ledger=ledger, guard=None)
    live = [key_of(number) for number in range(ROWS) if number % 100 > 1]
    async with writing(world, proxy, live) as done:
        await world.until(lambda: done["writes"] > 2)
        result = await verify(world, proxy, page_size=200, parts=4, workers=2)
        assert done["writes"] > 3
    assert found(result) == planted(values, copies)
    assert (result.finished, result.unsure, result.failed, result.not_opened) == (True, 0, 0, 0)
    assert result.marked == result.changed + result.extra
    expected = {key for key in {**values, **copies} if values.get(key) != copies.get(key)}
    assert {proxy.gate.key_of(each.name) for each in result.differences} == expected
    assert await settle(proxy.read(key_of(0))) == values[key_of(0)]
    await settle(proxy.close())


class TestPairs:
    async def test_sqlite_to_postgresql(self, world: World, stores: Stores, postgresql_database):
        """From SQLite to PostgreSQL, with a shared ledger."""
        old, new = await stores.sqlite(Integer), await stores.sql(postgresql_database, Integer)
        await check(world, old, new, stores.ledger(postgresql_database), int)

    async def test_postgresql_to_valkey(self, world: World, stores: Stores, postgresql_database, valkey_server):
        """From PostgreSQL to Valkey, which knows no order."""
        old, new = await stores.sql(postgresql_database, String(40)), stores.valkey(valkey_server)
        await check(world, old, new, stores.in_memory(), lambda number: f"user-{number}")

    async def test_mariadb_to_sqlite(self, world: World, stores: Stores, mariadb_database):
        """From MariaDB to SQLite."""
        old, new = await stores.sql(mariadb_database, Integer), await stores.sqlite(Integer)
        await check(world, old, new, stores.in_memory(), int)


class TestCollations:
    @pytest.mark.parametrize(
        ("server", "collation", "parts"),
        [
            ("postgresql", "C", 4),
            ("mariadb", "utf8mb4_uca1400_nopad_as_cs", 1),
            ("mariadb", "utf8mb4_uca1400_nopad_as_cs", 4),
        ],
    )
    async def test_text(self, request, world: World, stores: Stores, server, collation, parts):
        """Text that a database orders otherwise than SQLite is compared all the same, and each key counts once."""
        choose = random.Random(2)
        words = sorted({"".join(choose.choices("abcABC-1\u00e9", k=5)) for _ in range(900)})
        old_values = {word: {"name": word} for word in words[::2]}
        new_values = {word: {"name": word} for word in words[:-20] if choose.random() < 0.9}
        for word in list(old_values)[::50]:
            new_values[word] = {"name": "another"}
        old = await stores.sqlite(String(20))
        new = await stores.sql(request.getfixturevalue(f"{server}_database"), String(20, collation=collation))
        await settle(old.write_many(old_values))
        await settle(new.write_many(new_values))
        proxy: Any = world.proxy_class(TrafficGate(1.0), old, new, name="users", ledger=stores.in_memory())
        result = await verify(world, proxy, page_size=50, parts=parts, mark=False)
        assert found(result) == planted(old_values, new_values)
        assert (result.compared, result.finished) == (len(old_values), True)
        assert result.equal == result.compared - result.changed - result.missing
        reads, different = proxy.stats().calls["new", "read"], sum(found(result).values())
        assert reads == different if server == "postgresql" else reads > different + 100
        await settle(proxy.close())
