"""Old, New and the ledger of a run, and the rows that it moves. Each process makes its own from `Places`."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Engine,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    text,
)

from zddm_adapters.redis import JsonCodec, RedisAdapter
from zddm_adapters.sqlalchemy import SqlAlchemyAdapter, SqlAlchemyLedger
from zddm_flags import Proxy, TrafficGate

__all__ = [
    "MAX_OPERATION_SECONDS",
    "PAIRS",
    "PLACES",
    "USERS",
    "Pair",
    "Places",
    "Stores",
    "UserProxy",
    "fill",
    "here",
    "opened",
    "proxy_of",
    "row_of",
    "rows",
]

Pair = Literal["sqlite-postgres", "postgres-valkey"]
PAIRS: tuple[Pair, ...] = ("sqlite-postgres", "postgres-valkey")

PLACES = "ZDDM_FINISH_PLACES"
"""The environment variable that tells a process where the stores are."""

MAX_OPERATION_SECONDS = 6.0
"""In place of the 30 that are the default, so that what a killed process left is reaped after 7.6 s, not 34."""
MAX_CALL_SECONDS = 4.0
STATEMENT_MILLISECONDS = 3500
"""Within `MAX_CALL_SECONDS`, and enough for Old to count and split a few million rows."""

USERS = Table(
    "users",
    MetaData(),
    # Without autoincrement, for which PostgreSQL would make a sequence that nobody uses.
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(80), nullable=False),
    Column("email", String(120), nullable=False),
    Column("balance", Double, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("updated_at", DateTime, nullable=False),
    Column("note", Text, nullable=True),
)
FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC).replace(tzinfo=None)
WORDS = ("called", "prefers", "letters", "moved", "to", "Zürich", "in", "spring", "asks", "for", "an", "invoice")


def row_of(key: int, seed: int, version: int = 0) -> dict[str, Any]:
    """The value that a key has in a version: the same in every process."""
    chance = random.Random(f"{seed}/{key}/{version}")
    words = " ".join(chance.choices(WORDS, k=chance.randrange(24)))
    return {
        "name": f"{chance.choice(WORDS).title()} {key}",
        "email": f"user{key}@{chance.choice(WORDS).lower()}.example",
        "balance": round(chance.uniform(-1000, 10_000), 2),
        "active": chance.random() < 0.8,
        "updated_at": FIRST_DAY + timedelta(microseconds=chance.randrange(10**15)),
        "note": f"{version}: {words}" if words else None,
    }


def rows(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """The rows that Old is filled with: keys from 1 to `number`."""
    return ({"id": key, **row_of(key, seed)} for key in range(1, number + 1))


def fill(places: Places, number: int, seed: int) -> None:
    """Make the tables, and fill Old."""
    with opened(places) as stores:
        USERS.create(stores.old_engine)
        if places.pair == "sqlite-postgres":
            new = _postgresql(places.postgresql)
            USERS.create(new)
            new.dispose()
        given = rows(number, seed)
        with stores.old_engine.begin() as connection:
            while some := list(islice(given, 10_000)):
                connection.execute(USERS.insert(), some)


class _UserCodec:
    """Users as JSON, which has no form for a moment."""

    def __init__(self) -> None:
        self._json = JsonCodec()

    def dumps(self, value: Mapping[str, Any], /) -> bytes:
        return self._json.dumps({**value, "updated_at": value["updated_at"].isoformat()})

    def loads(self, data: bytes, /) -> Mapping[str, Any]:
        value = self._json.loads(data)
        value["updated_at"] = datetime.fromisoformat(value["updated_at"])
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the stores of a run are, and the name of the migration."""

    pair: Pair
    folder: str
    """Where SQLite's files are."""
    postgresql: str
    """The URL of a database."""
    valkey: str
    """The path of a Unix socket."""
    name: str = "users"

    def environment(self) -> dict[str, str]:
        """What tells a child process."""
        return {PLACES: json.dumps(asdict(self))}


@dataclass(frozen=True, slots=True)
class Stores:
    """What a proxy is made of, and how New is emptied."""

    old: Any
    new: Any
    ledger: SqlAlchemyLedger
    old_engine: Engine
    empty_new: Callable[[], None]


def _sqlite(path: Path, **options: Any) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30}, hide_parameters=True, **options)

    @event.listens_for(engine, "connect")
    def _set(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # the ledger's condition, and a fair one for Old

    return engine


def _postgresql(url: str, **options: Any) -> Engine:
    # A killed client's transaction ends with its connection, which the server notices at once.
    names = ("statement_timeout", "idle_in_transaction_session_timeout")
    settings = " ".join(f"-c {name}={STATEMENT_MILLISECONDS}" for name in names)
    return create_engine(
        url, connect_args={"options": settings, "connect_timeout": 2}, hide_parameters=True, **options
    )


@contextmanager
def opened(places: Places) -> Iterator[Stores]:
    """The stores, whose connections are closed at the end."""
    with ExitStack() as stack:

        def own(engine: Engine) -> Engine:
            stack.callback(engine.dispose)
            return engine

        postgresql = own(_postgresql(places.postgresql))
        users: Any = SqlAlchemyAdapter(postgresql, USERS)
        if places.pair == "sqlite-postgres":
            engine = own(_sqlite(Path(places.folder) / "old.sqlite"))
            ledger = own(_sqlite(Path(places.folder) / "ledger.sqlite", isolation_level="AUTOCOMMIT"))

            def empty_table() -> None:
                with postgresql.begin() as connection:
                    connection.execute(text("TRUNCATE users"))

            yield Stores(SqlAlchemyAdapter(engine, USERS), users, SqlAlchemyLedger(ledger), engine, empty_table)
            return
        ledger = own(_postgresql(places.postgresql, isolation_level="AUTOCOMMIT"))
        client = redis.Redis(unix_socket_path=places.valkey, socket_timeout=1, retry=Retry(NoBackoff(), 0))
        stack.callback(client.close)
        keys = RedisAdapter(
            client,
            prefix="users:",
            codec=_UserCodec(),
            encode_key=lambda key: str(key).encode(),
            decode_key=int,
            max_wait_seconds=0.5,
        )

        def empty_keys() -> None:
            client.flushdb(asynchronous=True)

        yield Stores(users, keys, SqlAlchemyLedger(ledger), postgresql, empty_keys)


def here() -> Places:
    """Those that the environment names. For a process of a run, whose standard output is for its figures alone."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    return Places(**json.loads(os.environ[PLACES]))


UserProxy: TypeAlias = Proxy[int, Mapping[str, Any]]


def proxy_of(stores: Stores, name: str) -> UserProxy:
    """A proxy at a rate of 1."""
    return Proxy(
        TrafficGate(1.0),
        stores.old,
        stores.new,
        name=name,
        ledger=stores.ledger,
        max_operation_seconds=MAX_OPERATION_SECONDS,
        max_call_seconds=MAX_CALL_SECONDS,
    )
