"""What stores and ledgers say of themselves is in the words of OpenTelemetry's stable database conventions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
import redis.asyncio
from opentelemetry.semconv._incubating.attributes.db_attributes import DbSystemNameValues
from sqlalchemy import Column, Integer, MetaData, Table, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from tests.adapters.conftest import World
from tests.worlds import settle
from zddm_adapters.redis import AsyncRedisAdapter, AsyncRedisLedger, RedisAdapter, RedisLedger
from zddm_adapters.sqlalchemy import (
    AsyncSqlAlchemyAdapter,
    AsyncSqlAlchemyLedger,
    SqlAlchemyAdapter,
    SqlAlchemyLedger,
)
from zddm_flags import StoreInfo

WORLDS = ("blocking", "asyncio")
URLS = {
    "postgresql": ("postgresql+psycopg://host/shop", "postgresql+psycopg://host/shop"),
    "mysql": ("mysql+pymysql://host/shop", "mysql+aiomysql://host/shop"),
    "mariadb": ("mariadb+pymysql://host/shop", "mariadb+aiomysql://host/shop"),
    "sqlite": ("sqlite:////nowhere/shop.db", "sqlite+aiosqlite:////nowhere/shop.db"),
}
NAMESPACES = {"sqlite": None}  # a path is no name of a database
USERS = Table("users", MetaData(), Column("id", Integer, primary_key=True), Column("age", Integer))


class Sql:
    """The adapter and the ledger of one world over an engine that never connects."""

    def __init__(self, world: str, system: str) -> None:
        self.asyncio = world == "asyncio"
        url = URLS[system][self.asyncio]
        options = {"isolation_level": "AUTOCOMMIT"}
        self.engine: Any = create_async_engine(url, **options) if self.asyncio else create_engine(url, **options)

    def adapter(self, table: Table) -> Any:
        kind: Any = AsyncSqlAlchemyAdapter if self.asyncio else SqlAlchemyAdapter
        return kind(self.engine, table)

    def ledger(self, **options: Any) -> Any:
        kind: Any = AsyncSqlAlchemyLedger if self.asyncio else SqlAlchemyLedger
        return kind(self.engine, **options)


@pytest.fixture(params=URLS)
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WORLDS)
async def sql(request: pytest.FixtureRequest, system: str) -> AsyncIterator[Sql]:
    """Both worlds of each database."""
    found = Sql(request.param, system)
    yield found
    await settle(found.engine.dispose())


def test_a_table_says_its_database(sql: Sql, system: str) -> None:
    """A table's system, database and name are there before anything is connected."""
    expected = StoreInfo(
        system=system, collection="users", namespace=NAMESPACES.get(system, "shop"), remote=system != "sqlite"
    )
    assert sql.adapter(USERS).describe() == expected


def test_a_ledger_of_tables_says_its_database(sql: Sql, system: str) -> None:
    """A ledger says the same of its database, and what the names of its tables begin with."""
    expected = StoreInfo(
        system=system, collection="moves", namespace=NAMESPACES.get(system, "shop"), remote=system != "sqlite"
    )
    assert sql.ledger(tables="moves").describe() == expected
    assert sql.ledger().describe().collection == "zddm"


def test_a_schema_qualifies_the_collection(sql: Sql) -> None:
    """Where a schema is named, it stands before the table, and before what the ledger's tables begin with."""
    assert sql.adapter(USERS.to_metadata(MetaData(), schema="sales")).describe().collection == "sales.users"
    assert sql.ledger(schema="sales", tables="moves").describe().collection == "sales.moves"


def test_systems_are_those_of_the_conventions(sql: Sql, system: str) -> None:
    """`db.system.name` is a value that the conventions list."""
    known = {value.value for value in DbSystemNameValues}
    assert {system, sql.adapter(USERS).describe().system, sql.ledger().describe().system} <= known
    assert DbSystemNameValues.REDIS.value == "redis"


@pytest.fixture(params=WORLDS)
def kinds(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """The client, the adapter and the ledger on Redis of both worlds. A client connects when it is used."""
    if request.param == "asyncio":
        return redis.asyncio.Redis, AsyncRedisAdapter, AsyncRedisLedger
    return redis.Redis, RedisAdapter, RedisLedger


@pytest.mark.parametrize(("options", "namespace"), [({}, "0"), ({"db": 3}, "3"), ({"db": None}, "0")])
def test_keys_of_redis_say_their_database(kinds: Any, options: dict[str, Any], namespace: str) -> None:
    """The number of the database, as text, and the prefix are known without a connection."""
    client, adapter, ledger = kinds
    one = client(**options)
    expected = StoreInfo(system="redis", collection="users:", namespace=namespace)
    assert adapter(one, prefix="users:").describe() == expected
    assert ledger(one, prefix="moves").describe() == StoreInfo(
        system="redis", collection="moves", namespace=namespace
    )
    assert ledger(one).describe().collection == "zddm"
    assert adapter(one).describe().collection is None


@pytest.mark.parametrize(("url", "namespace"), [("redis://host/5", "5"), ("redis://host", "0")])
def test_a_url_names_the_database_too(kinds: Any, url: str, namespace: str) -> None:
    """A database that only the client's URL names is known as well."""
    client, adapter, ledger = kinds
    one = client.from_url(url)
    assert (adapter(one).describe().namespace, ledger(one).describe().namespace) == (namespace, namespace)


async def test_a_connection_tells_mariadb_from_mysql(world: World) -> None:
    """Over a real server the ledger says what the adapter says: MariaDB too, under a URL of MySQL."""
    table = world.table(Column("id", Integer, primary_key=True), Column("age", Integer))
    engine = world.new_engine(isolation_level="AUTOCOMMIT")
    try:
        adapter = world.adapter(table, engine=engine)
        assert await settle(adapter.read(1)) is None
        kind: Any = AsyncSqlAlchemyLedger if isinstance(adapter, AsyncSqlAlchemyAdapter) else SqlAlchemyLedger
        namespace = None if world.backend == "sqlite" else world.database.blocking.database
        assert kind(engine).describe() == StoreInfo(
            system=world.backend, collection="zddm", namespace=namespace, remote=world.backend != "sqlite"
        )
        assert adapter.describe().system == world.backend
    finally:
        await settle(engine.dispose())
