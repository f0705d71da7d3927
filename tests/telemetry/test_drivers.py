"""With the drivers' own instrumentation: each span of SQLAlchemy and redis-py is below the call that it is of.

PostgreSQL is Old, Valkey is New, and the ledger is on either of the two. All goes through the OTLP exporter.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio
import sqlalchemy
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from sqlalchemy import URL, Column, Engine, MetaData, Table, Text, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.core.worlds import World
from tests.otlp import OtlpReceiver, Tree
from tests.servers import PostgreSqlServer, ValkeyServer
from tests.telemetry.exported import Exported, exporting
from tests.worlds import settle
from zddm_adapters.redis import AsyncRedisAdapter, AsyncRedisLedger, JsonCodec, RedisAdapter, RedisLedger
from zddm_adapters.sqlalchemy import (
    AsyncSqlAlchemyAdapter,
    AsyncSqlAlchemyLedger,
    SqlAlchemyAdapter,
    SqlAlchemyLedger,
)
from zddm_flags import AsyncBackfill, Backfill, Guard, TrafficGate

USERS = Table("users", MetaData(), Column("id", Text, primary_key=True), Column("name", Text, nullable=False))
names = (f"users_{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as found:
        yield found


@pytest.fixture
def exported(receiver: OtlpReceiver) -> Iterator[Exported]:
    with exporting(receiver) as found:
        yield found


@pytest.fixture(scope="module")
def database(postgresql_server: PostgreSqlServer) -> Iterator[tuple[URL, URL, Engine]]:
    """A database with a table of users: its URLs for both worlds, and an engine for what a test does beside."""
    name = postgresql_server.create_database()
    beside = create_engine(postgresql_server.url(name))
    USERS.create(beside)
    yield postgresql_server.url(name), postgresql_server.url(name, asyncio=True), beside
    beside.dispose()
    postgresql_server.drop_database(name)


class Stores:
    """PostgreSQL and Valkey in one world, and a migration from the one to the other."""

    def __init__(self, world: World, urls: Sequence[URL], valkey: ValkeyServer, exported: Exported) -> None:
        self.world = world
        self.exported = exported
        self.name = next(names)
        make: Any = create_engine if world.blocking else create_async_engine
        url = urls[not world.blocking]
        self.old: Any = make(url, pool_size=8)
        self.beside_old: Any = make(url, pool_size=8, isolation_level="AUTOCOMMIT")  # the ledger's
        client: Any = redis.Redis if world.blocking else redis.asyncio.Redis
        self.client = client(unix_socket_path=str(valkey._socket))
        self.proxy: Any = None

    @property
    def engines(self) -> list[Engine]:
        """What SQLAlchemy's instrumentation takes."""
        engines = (self.old, self.beside_old)
        return [engine.sync_engine if isinstance(engine, AsyncEngine) else engine for engine in engines]

    def ledger(self, where: str) -> Any:
        ledgers: dict[str, Any] = {"postgresql": AsyncSqlAlchemyLedger, "valkey": AsyncRedisLedger}
        if self.world.blocking:
            ledgers = {"postgresql": SqlAlchemyLedger, "valkey": RedisLedger}
        return ledgers[where](self.beside_old if where == "postgresql" else self.client)

    async def migrate(self, ledger: str = "postgresql", **options: Any) -> None:
        """A migration that has been used at its rate before, of empty stores. Its traces so far are forgotten."""
        adapters: tuple[Any, Any] = (AsyncSqlAlchemyAdapter, AsyncRedisAdapter)
        if self.world.blocking:
            adapters = (SqlAlchemyAdapter, RedisAdapter)
        self.proxy = self.world.proxy_class(
            TrafficGate(1.0),
            adapters[0](self.old, USERS, value="name"),
            adapters[1](self.client, prefix=f"{self.name}:", codec=JsonCodec()),
            name=self.name,
            ledger=self.ledger(ledger),
            telemetry=self.exported.telemetry(),
            **options,
        )
        await self.write("first", "value")
        await self.read("first")  # a server learns each script of a ledger when it is first used
        await self.delete("first")
        self.exported.forget()

    async def read(self, key: str) -> Any:
        return await settle(self.proxy.read(key))

    async def write(self, key: str, value: str) -> None:
        await settle(self.proxy.write(key, value))

    async def delete(self, key: str) -> None:
        await settle(self.proxy.delete(key))

    async def lose(self, key: str) -> None:
        """Let New lose a key, and forget the trace of that."""
        await settle(self.client.delete(f"{self.name}:{key}"))
        self.exported.forget()

    async def close(self) -> None:
        if self.proxy is not None:
            await settle(self.proxy.close())
        for engine in (self.old, self.beside_old):
            await settle(engine.dispose())
        await settle(self.client.close() if self.world.blocking else self.client.aclose())


@pytest.fixture
async def stores(
    world: World, database: tuple[URL, URL, Engine], valkey_server: ValkeyServer, exported: Exported
) -> AsyncIterator[Stores]:
    """Empty stores, whose drivers are instrumented until the test ends."""
    *urls, beside = database
    with beside.begin() as connection:
        connection.execute(USERS.delete())
    found = Stores(world, urls, valkey_server, exported)
    before = _wrapped()
    provider = exported.provider
    SQLAlchemyInstrumentor().instrument(engines=found.engines, tracer_provider=provider, skip_dep_check=True)
    RedisInstrumentor().instrument(tracer_provider=provider)
    yield found
    await found.close()
    RedisInstrumentor().uninstrument()
    SQLAlchemyInstrumentor().uninstrument()
    assert _wrapped() == before, "the next test would be instrumented too"


def _wrapped() -> tuple[object, ...]:
    """What an instrumentation of the two drivers replaces."""
    clients = (redis.Redis, redis.asyncio.Redis)
    return (*(client.execute_command for client in clients), sqlalchemy.create_engine, Engine.connect)


def calls(tree: Tree, name: str) -> list[Any]:
    """The names of the spans below one, each with its own; a driver's by the first word."""
    return [
        (child.span.name.removesuffix(f" {name}:"), calls(child, name))
        if child.span.scope == "zddm"
        else child.span.name.split()[0]
        for child in tree.children
    ]


def operations(stores: Stores) -> list[Any]:
    """Each trace: the operation's name, and the calls below it. No span of a driver is outside of ours."""
    traces = stores.exported.traces()
    assert {tree.span.scope for tree in traces} == {"zddm"}, "a driver's span has no parent"
    return [(tree.span.name, calls(tree, stores.name)) for tree in traces]


# What SQLAlchemy's instrumentation tells of a statement, and of the two that `begin` and `begin_copy` send. What
# is to be sent only once goes past redis-py's client, which would send it again, and so past its instrumentation.
DIRTY = ("zddm.ledger.dirty", ["connect", "SELECT"])
BEGIN = ("zddm.ledger.begin", ["connect", "INSERT", "SELECT"])
BEGIN_COPY = ("zddm.ledger.begin_copy", ["connect", "INSERT", "SELECT"])
END = ("zddm.ledger.end", ["connect", "DELETE"])
READ_OLD = ("read users", ["connect", "SELECT"])
READ_NEW = ("read", ["GET"])


async def test_operations_on_one_key(stores: Stores) -> None:
    """The statements and commands of reads, writes and deletes are below the calls that send them."""
    await stores.migrate()
    await stores.write("ann", "Ann")
    assert await stores.read("ann") == "Ann"
    await stores.delete("ann")
    assert operations(stores) == [
        ("zddm.write", [BEGIN, ("write users", ["connect", "INSERT"]), ("write", []), END]),
        ("zddm.read", [DIRTY, READ_NEW]),
        ("zddm.delete", [BEGIN, ("delete users", ["connect", "DELETE"]), ("delete", []), END]),
    ]


async def test_a_copy(stores: Stores) -> None:
    """All that a copying read sends, to both stores and to the ledger, is below the calls that send it."""
    await stores.migrate()
    await stores.write("ann", "Ann")
    await stores.lose("ann")
    assert await stores.read("ann") == "Ann"
    assert operations(stores) == [("zddm.read", [DIRTY, READ_NEW, BEGIN_COPY, READ_OLD, ("write", []), END])]


async def test_a_stale_key(stores: Stores) -> None:
    """A write that New may not get, and the read that repairs it."""
    await stores.migrate()
    stores.proxy.disable()
    await stores.write("ann", "Ann")
    stores.proxy.enable()
    assert await stores.read("ann") == "Ann"
    marks = ("zddm.ledger.end", ["connect", "UPDATE"])
    reaped = [("zddm.ledger.reap", ["connect", "SELECT"]), ("zddm.ledger.summary", ["connect", "SELECT"])]
    assert operations(stores) == [
        ("zddm.write", [BEGIN, ("write users", ["connect", "INSERT"]), marks]),
        ("zddm.read", [DIRTY, *reaped, BEGIN_COPY, READ_OLD, ("write", []), END]),
    ]


async def test_batches(stores: Stores) -> None:
    """A batch is one statement, or one command, below each call."""
    await stores.migrate()
    await settle(stores.proxy.write_many({"ann": "Ann", "bob": "Bob"}))
    await stores.lose("bob")
    assert await settle(stores.proxy.read_many(["ann", "bob"])) == {"ann": "Ann", "bob": "Bob"}
    await settle(stores.proxy.write_many({"ann": "Ann", "bob": "Bob"}))
    written = [BEGIN, ("write users", ["connect", "INSERT"]), ("write", []), END]
    asked = ("read", ["MGET", "EXISTS"])
    assert operations(stores) == [
        ("zddm.read_many", [DIRTY, asked, BEGIN_COPY, READ_OLD, ("write", []), END]),
        ("zddm.write_many", written),
    ]


async def test_a_ledger_on_valkey(stores: Stores) -> None:
    """The scripts of a ledger on Valkey are below its calls, but for those that are sent once."""
    await stores.migrate(ledger="valkey")
    await stores.write("ann", "Ann")
    assert await stores.read("ann") == "Ann"
    begin, dirty, end = (
        ("zddm.ledger.begin", []),
        ("zddm.ledger.dirty", ["EVALSHA"]),
        ("zddm.ledger.end", ["EVALSHA"]),
    )
    assert operations(stores) == [
        ("zddm.write", [begin, ("write users", ["connect", "INSERT"]), ("write", []), end]),
        ("zddm.read", [dirty, READ_NEW]),
    ]


async def test_what_ledgers_say_of_their_database(stores: Stores) -> None:
    """A call to the ledger names the database that it goes to, in the words that the store's calls have."""
    database = stores.engines[0].url.database
    for where, system, namespace in (("postgresql", "postgresql", database), ("valkey", "redis", "0")):
        await stores.migrate(ledger=where)
        await stores.read("ann")
        [tree] = stores.exported.traces()
        [dirty] = tree.find("zddm.ledger.dirty")
        assert dirty.span.kind == "CLIENT"
        assert dirty.span.attributes == {
            "db.system.name": system,
            "db.namespace": namespace,
            "db.collection.name": "zddm",
            "db.operation.name": "dirty",
        }
        stores.exported.forget()


async def test_operations_at_the_same_time(stores: Stores) -> None:
    """Of operations in many threads or tasks each has its own drivers' spans, below the span of its request."""
    await stores.migrate()
    tracer = stores.exported.provider.get_tracer("shop")

    async def request(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}"):
            await stores.write(f"k{number}", "value")
            assert await stores.read(f"k{number}") == "value"

    with ThreadPoolExecutor(8) as pool:
        await asyncio.gather(*(stores.world.spawn(request(number), pool) for number in range(16)))
    written = [BEGIN, ("write users", ["connect", "INSERT"]), ("write", []), END]
    traces = stores.exported.traces()
    assert sorted(tree.span.name for tree in traces) == sorted(f"request {number}" for number in range(16))
    for tree in traces:
        assert calls(tree, stores.name) == [("zddm.write", written), ("zddm.read", [DIRTY, READ_NEW])]


async def test_a_backfill(stores: Stores, database: tuple[URL, URL, Engine]) -> None:
    """All statements of a backfill are in its one trace, below calls; those of untraced pages are in none."""
    await stores.migrate()
    with database[-1].begin() as connection:
        connection.execute(USERS.insert(), [{"id": f"k{number:02}", "name": "value"} for number in range(14)])
    stores.exported.forget()
    make: Any = Backfill if stores.world.blocking else AsyncBackfill
    result = await settle(make(stores.proxy, page_size=1, parts=1).run())
    assert result.copied == 14
    [tree] = stores.exported.traces()
    assert tree.span.name == "zddm.backfill"
    pages = tree.find("zddm.backfill.page")
    assert len(pages) == 10 == tree.span.attributes["zddm.job.pages_traced"]
    assert 14 <= tree.span.attributes["zddm.job.pages"] <= 15
    copied = [("read", ["GET"]), BEGIN_COPY, READ_OLD, ("write", []), END]
    scanned = [("scan users", ["connect", "SELECT"]), ("zddm.backfill_many", copied)]
    assert calls(pages[1], stores.name)[: len(scanned)] == scanned
    parents = {span.span_id: span for span in tree}
    owners = [parents[str(span.parent_id)] for span in tree if span.scope != "zddm"]
    assert {span.name for span in owners if span.kind != "CLIENT"} == {"zddm.backfill"}, "in no call of ours"
    counted = [child.span.name.split()[0] for child in tree.children if child.span.scope != "zddm"]
    assert counted == ["connect", "SELECT"], "the rows of Old were counted, which is no call that is traced"


@pytest.mark.parametrize(
    "world", ["asyncio"], indirect=True
)  # a blocking call takes as long as its driver lets it
async def test_a_call_that_takes_too_long(exported: Exported, stores: Stores, valkey_server: ValkeyServer) -> None:
    """In asyncio the command of a call that the guard gives up on ends in error, below the call that gave up."""
    await stores.migrate(guard=Guard(budget_seconds=0.3, slow_call_seconds=0.3))
    await stores.write("ann", "Ann")
    exported.forget()
    with valkey_server.client() as beside:
        beside.client_pause(1000)  # milliseconds, in which it answers nobody
        assert await stores.read("ann") == "Ann"
        beside.ping()
    await stores.world.until(lambda: any(span.name == "GET" for span in exported.spans))
    [tree] = [each for each in exported.traces() if each.span.name == "zddm.read"]
    assert calls(tree, stores.name) == [DIRTY, READ_NEW, READ_OLD]
    assert tree.span.attributes["zddm.path"] == "new_failed"
    [failed] = [each for each in tree.children if each.span.attributes.get("zddm.store") == "new"]
    assert (failed.span.status, failed.span.attributes["error.type"]) == ("ERROR", "TimeoutError")
