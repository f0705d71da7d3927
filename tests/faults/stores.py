"""New on each kind of server, with the time-outs by which a call to it ends whatever the network does.

The longest that one call takes where nothing is carried, on a connection that is there or on a new one:

| driver | bounded by | seconds |
|---|---|---|
| redis-py, both worlds | `socket_connect_timeout`, and `socket_timeout` for each answer | 0.3 |
| PyMySQL | `connect_timeout`, and `read_timeout` for each answer; both may be fractions | 0.3 |
| aiomysql | `connect_timeout` for the TCP connection, and **nothing** from there on | for ever |
| psycopg, both worlds | `connect_timeout`, which is 2 or more; **nothing** from there on, but see below | 2 |

psycopg waits for an answer until the connection ends. What the server does by `statement_timeout` is not heard
over a link that carries nothing, and `tcp_user_timeout` and keepalives notice a host that is gone, not a server
that is silent on a host that lives. `_answered` bounds it, in both worlds.

A call that is cancelled in asyncio ends at once, but for psycopg: that asks the server to cancel the statement,
waits up to 5 s for this, and up to 5 s more for the statement's end. `cancel_safe` of `_BoundedAsyncConnection`
closes the connection instead, and leaves the statement to the server's `statement_timeout`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import psycopg
import redis
import redis.asyncio
from psycopg.abc import PQGen
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import URL, Column, LargeBinary, MetaData, String, Table, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from tests.servers import DatabaseServer, MariaDbServer, PostgreSqlServer, Server, ValkeyServer
from zddm_adapters.redis import AsyncRedisAdapter, RedisAdapter
from zddm_adapters.sqlalchemy import AsyncSqlAlchemyAdapter, SqlAlchemyAdapter

__all__ = ["PLACES", "WORLDS", "Place", "Store", "World"]

World: TypeAlias = Literal["blocking", "asyncio"]
WORLDS: tuple[World, ...] = ("blocking", "asyncio")
T = TypeVar("T")

CONNECTIONS = 10
"""More than there are threads, so that nobody waits for one."""
ANSWER_SECONDS = 0.3
POSTGRESQL_CONNECT_SECONDS = 2
"""psycopg takes nothing shorter."""
VALKEY_DATABASE = 5
"""Of these tests, so that they may empty it."""

ITEMS = Table(
    "items",
    MetaData(),
    Column("key", String(80), primary_key=True),
    Column("value", LargeBinary, nullable=False),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_nopad_bin",
)


@dataclass(frozen=True, slots=True)
class Store:
    """An adapter, and what closes its connections, blocking or awaited."""

    adapter: Any
    close: Callable[[], Awaitable[None] | None]


class Place(ABC):
    """An empty store on a server."""

    @property
    @abstractmethod
    def server(self) -> Server:
        """The server."""

    @abstractmethod
    def open(self, world: World, port: int) -> Store:
        """The store, by a port that leads to its server."""

    @abstractmethod
    def clear(self) -> None:
        """Leave nothing behind on the server."""

    @abstractmethod
    def call_seconds(self, world: World) -> float | None:
        """How long one call takes at most by the driver's time-outs; None: without end."""


class _Sql(Place):
    def __init__(self, server: DatabaseServer) -> None:
        self._server = server
        self.database = server.create_database()
        engine = create_engine(server.url(self.database))
        ITEMS.create(engine)
        engine.dispose()

    @property
    def server(self) -> Server:
        return self._server

    def clear(self) -> None:
        self._server.drop_database(self.database)

    def open(self, world: World, port: int) -> Store:
        options = {
            "url": self._url(world, port),
            "connect_args": self._connect_args(world),
            "pool_size": CONNECTIONS,
            "max_overflow": 0,
            "pool_timeout": ANSWER_SECONDS,
            "hide_parameters": True,
        }
        if world == "asyncio":
            asynchronous = create_async_engine(**options)
            return Store(AsyncSqlAlchemyAdapter(asynchronous, ITEMS, value="value"), asynchronous.dispose)
        engine = create_engine(**options)
        self._prepare(engine)
        return Store(SqlAlchemyAdapter(engine, ITEMS, value="value"), engine.dispose)

    @abstractmethod
    def _url(self, world: World, port: int) -> URL:
        """Where the database is."""

    @abstractmethod
    def _connect_args(self, world: World) -> dict[str, Any]:
        """The driver's time-outs."""

    def _prepare(self, engine: Any) -> None:
        """Change how a blocking engine connects."""


class PostgreSqlPlace(_Sql):
    """A table in PostgreSQL."""

    def call_seconds(self, world: World) -> float | None:
        return POSTGRESQL_CONNECT_SECONDS

    def _url(self, world: World, port: int) -> URL:
        return URL.create(
            "postgresql+psycopg", username="postgres", host="127.0.0.1", port=port, database=self.database
        )

    def _connect_args(self, world: World) -> dict[str, Any]:
        arguments = {
            "connect_timeout": POSTGRESQL_CONNECT_SECONDS,
            "options": f"-c statement_timeout={ANSWER_SECONDS * 1000:.0f}",
            "sslmode": "disable",
            "gssencmode": "disable",
        }
        return arguments | ({"async_creator_fn": _BoundedAsyncConnection.connect} if world == "asyncio" else {})

    def _prepare(self, engine: Any) -> None:
        @event.listens_for(engine, "do_connect")
        def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
            return _BoundedConnection.connect(*arguments, **options)


class MariaDbPlace(_Sql):
    """A table in MariaDB."""

    def call_seconds(self, world: World) -> float | None:
        return None if world == "asyncio" else 2 * ANSWER_SECONDS

    def _url(self, world: World, port: int) -> URL:
        driver = "mysql+aiomysql" if world == "asyncio" else "mysql+pymysql"
        query = {"charset": "utf8mb4"}
        return URL.create(
            driver, username="root", host="127.0.0.1", port=port, database=self.database, query=query
        )

    def _connect_args(self, world: World) -> dict[str, Any]:
        connect = {"connect_timeout": ANSWER_SECONDS}
        answer = {"read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
        return connect if world == "asyncio" else connect | answer


class ValkeyPlace(Place):
    """A database of Valkey."""

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self.clear()

    @property
    def server(self) -> Server:
        return self._server

    def clear(self) -> None:
        with self._server.client() as client:
            client.select(VALKEY_DATABASE)
            client.flushdb()

    def call_seconds(self, world: World) -> float | None:
        return 2 * ANSWER_SECONDS

    def open(self, world: World, port: int) -> Store:
        options: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "db": VALKEY_DATABASE,
            "socket_connect_timeout": ANSWER_SECONDS,
            "socket_timeout": ANSWER_SECONDS,
        }
        if world == "asyncio":
            asynchronous = redis.asyncio.Redis(**options, retry=AsyncRetry(NoBackoff(), 0))
            return Store(AsyncRedisAdapter(asynchronous, max_wait_seconds=ANSWER_SECONDS), asynchronous.aclose)
        client = redis.Redis(**options, retry=Retry(NoBackoff(), 0))
        return Store(RedisAdapter(client, max_wait_seconds=ANSWER_SECONDS), client.close)


PLACES: dict[str, tuple[Callable[[Any], Place], type[Server]]] = {
    "postgresql": (PostgreSqlPlace, PostgreSqlServer),
    "mariadb": (MariaDbPlace, MariaDbServer),
    "valkey": (ValkeyPlace, ValkeyServer),
}
"""By the name of the adapter: what makes a place on a server, and what makes a server."""


def _answered(waiting: PQGen[T], connection: Any) -> PQGen[T]:
    """What `waiting` waits for, within ANSWER_SECONDS; psycopg looks in here every tenth of a second."""
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        wanted = next(waiting)
        while True:
            ready = yield wanted
            if time.monotonic() > deadline:
                connection.pgconn.finish()  # whatever comes would be taken for the next statement's answer
                raise psycopg.OperationalError("the server did not answer in time")
            wanted = waiting.send(ready)
    except StopIteration as end:
        return end.value


class _BoundedConnection(psycopg.Connection[Any]):
    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        return super().wait(_answered(gen, self), interval, timeout)


class _BoundedAsyncConnection(psycopg.AsyncConnection[Any]):
    async def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        return await super().wait(_answered(gen, self), interval, timeout)

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """What psycopg calls where a call is cancelled."""
        self.pgconn.finish()
