"""Both stores and the ledger of one direction, with the time-outs that keep the harness within the assumptions.

The proxies under test take it that a call that changes a store takes effect within `MAX_CALL_SECONDS` or never. If
the harness broke that, it would report violations that are not the library's. So, at the longest:

| PostgreSQL | seconds |
|---|---|
| waiting for a connection: there is one for each thread or task | 0 |
| connecting: 3 round trips, each slowed twice; a link that is held up or half-open lets nobody connect | 0.3 |
| the transaction's first statement on its way, held up | 0.6 |
| from there to the end of COMMIT: `transaction_timeout` of the server, locks and round trips included | 0.5 |

| Valkey | seconds |
|---|---|
| waiting and connecting: `max_wait_seconds` of the adapter, after which nothing is sent | 0.8 |
| the one command on its way, held up, and delivered though its client gave up after `socket_timeout` | 0.6 |

Both sums are 1.4. The rest of `MAX_CALL_SECONDS`, and the 1.3 s that a proxy's reaper waits besides, are for
a busy machine. A process that was stalled for longer, or a call that took longer, is named in the report.

What a server acknowledged survives all that is done to it. PostgreSQL is stopped by SIGINT or by SIGQUIT, which
is as a crash of its processes; with `synchronous_commit` on, a commit is in the operating system's hands before it
is acknowledged or seen, which only a crash of the machine could take back. Valkey, stopped by SIGTERM or SIGKILL,
writes its append-only file before it answers. The PostgreSQL adapter and Valkey read what is committed, from one
server, so their reads are strong. Drivers repeat nothing.

The ledger has a link of its own, and may be as slow as it likes: no call to it is bounded by an assumption.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import URL, Column, LargeBinary, MetaData, String, Table, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from zddm_adapters.redis import AsyncRedisAdapter, AsyncRedisLedger, RedisAdapter, RedisLedger
from zddm_adapters.sqlalchemy import (
    AsyncSqlAlchemyAdapter,
    AsyncSqlAlchemyLedger,
    SqlAlchemyAdapter,
    SqlAlchemyLedger,
)

__all__ = [
    "DIRECTIONS",
    "HALF_OPEN_MAX",
    "HELD_UP_MAX",
    "ITEMS",
    "MAX_CALL_SECONDS",
    "MAX_OPERATION_SECONDS",
    "SLOW_MAX",
    "AsyncStores",
    "BlockingStores",
    "Direction",
    "Places",
]

Direction = Literal["postgresql-to-valkey", "valkey-to-postgresql"]
DIRECTIONS: tuple[Direction, ...] = ("postgresql-to-valkey", "valkey-to-postgresql")

MAX_OPERATION_SECONDS = 3.0
MAX_CALL_SECONDS = 1.5
SLOW_MAX = 0.05
"""Seconds by which a link to a store may delay all data."""
HELD_UP_MAX = 0.6
"""Seconds by which it may delay data on connections that are set up, while it allows no others."""
HALF_OPEN_MAX = 0.4
"""Seconds for which it may swallow data."""

CONNECT_SECONDS = 2  # psycopg takes nothing shorter
SETTINGS = {"statement_timeout": "500", "transaction_timeout": "500", "synchronous_commit": "on"}
SOCKET_SECONDS = 0.2
LEDGER_SOCKET_SECONDS = 2.5
MAX_WAIT_SECONDS = 0.8

ITEMS = Table(
    "items",
    MetaData(),
    Column("key", String(80), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the servers are for one process: ports on 127.0.0.1, and the PostgreSQL database.

    `ledger` is the same server as Old, by another way.
    """

    postgresql: int
    valkey: int
    ledger: int
    database: str


def _postgresql(port: int, database: str, connections: int) -> dict[str, Any]:
    """Arguments of `create_engine`, for blocking and asyncio alike."""
    return {
        "url": URL.create(
            "postgresql+psycopg",
            username="postgres",
            host="127.0.0.1",
            port=port,
            database=database,
        ),
        "pool_size": connections,
        "max_overflow": 0,
        "pool_timeout": 0.2,
        "hide_parameters": True,
        "connect_args": {
            "connect_timeout": CONNECT_SECONDS,
            "options": " ".join(f"-c {name}={value}" for name, value in SETTINGS.items()),
            "sslmode": "disable",
            "gssencmode": "disable",
        },
    }


def _valkey(port: int, socket_seconds: float) -> dict[str, Any]:
    """Arguments of `Redis`, for blocking and asyncio alike."""
    return {
        "host": "127.0.0.1",
        "port": port,
        "socket_timeout": socket_seconds,
        "socket_connect_timeout": socket_seconds,
    }


class BlockingStores:
    """Old, New and the ledger, for threads.

    Args:
        direction: which is Old.
        places: where the servers are.
        connections: how many threads use them at once.
    """

    def __init__(self, direction: Direction, places: Places, connections: int) -> None:
        self.engine = create_engine(**_postgresql(places.postgresql, places.database, connections))
        self._client = redis.Redis(**_valkey(places.valkey, SOCKET_SECONDS), retry=Retry(NoBackoff(), 0))
        self._ledger_engine = create_engine(
            **_postgresql(places.ledger, places.database, connections), isolation_level="AUTOCOMMIT"
        )
        self._ledger_client = redis.Redis(
            **_valkey(places.ledger, LEDGER_SOCKET_SECONDS), retry=Retry(NoBackoff(), 0)
        )
        table: Any = SqlAlchemyAdapter(self.engine, ITEMS, value="value")
        keys: Any = RedisAdapter(self._client, prefix="items:", max_wait_seconds=MAX_WAIT_SECONDS)
        self.ledger: Any
        if direction == "postgresql-to-valkey":
            self.old, self.new, self.ledger = table, keys, SqlAlchemyLedger(self._ledger_engine)
        else:
            self.old, self.new, self.ledger = keys, table, RedisLedger(self._ledger_client)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self._ledger_engine.dispose()
        self._client.close()
        self._ledger_client.close()


class AsyncStores:
    """The asyncio twin of `BlockingStores`."""

    def __init__(self, direction: Direction, places: Places, connections: int) -> None:
        self.engine = create_async_engine(**_postgresql(places.postgresql, places.database, connections))
        self._client = redis.asyncio.Redis(
            **_valkey(places.valkey, SOCKET_SECONDS), retry=AsyncRetry(NoBackoff(), 0)
        )
        self._ledger_engine = create_async_engine(
            **_postgresql(places.ledger, places.database, connections), isolation_level="AUTOCOMMIT"
        )
        self._ledger_client = redis.asyncio.Redis(
            **_valkey(places.ledger, LEDGER_SOCKET_SECONDS), retry=AsyncRetry(NoBackoff(), 0)
        )
        table: Any = AsyncSqlAlchemyAdapter(self.engine, ITEMS, value="value")
        keys: Any = AsyncRedisAdapter(self._client, prefix="items:", max_wait_seconds=MAX_WAIT_SECONDS)
        self.ledger: Any
        if direction == "postgresql-to-valkey":
            self.old, self.new, self.ledger = table, keys, AsyncSqlAlchemyLedger(self._ledger_engine)
        else:
            self.old, self.new, self.ledger = keys, table, AsyncRedisLedger(self._ledger_client)

    async def close(self) -> None:
        """Close all connections."""
        closes: tuple[Callable[[], Awaitable[None]], ...] = (
            self.engine.dispose,
            self._ledger_engine.dispose,
            self._client.aclose,
            self._ledger_client.aclose,
        )
        for close in closes:
            await close()
