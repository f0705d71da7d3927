"""The databases and the two worlds that the tests of the SQL adapter run in."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import URL, Engine, Table, create_engine
from sqlalchemy import MetaData as Definitions
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.worlds import settle
from zddm_adapters.sqlalchemy import AsyncSqlAlchemyAdapter, SqlAlchemyAdapter

BACKENDS = ("sqlite", "postgresql", "mariadb")
WORLDS = ("blocking", "asyncio")
BINARY_COLLATION: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_nopad_bin"}
IMPATIENT: dict[str, dict[str, Any]] = {
    "postgresql": {"connect_args": {"options": "-c lock_timeout=10000"}},
    "mariadb": {"connect_args": {"init_command": "SET lock_wait_timeout=10"}},
}
names = itertools.count()


class Database:
    """One database, and a blocking engine for what a test does beside the adapter."""

    def __init__(self, backend: str, blocking: URL, asyncio: URL) -> None:
        self.backend = backend
        self.blocking = blocking
        self.asyncio = asyncio
        self.options: dict[str, Any] = {"connect_args": {"timeout": 30}} if backend == "sqlite" else {}
        impatient = IMPATIENT.get(backend, self.options)  # so that a failing test cannot hang the next one
        self.engine: Engine = create_engine(blocking, **impatient)


class World:
    """Makes tables, and adapters of one world, in one database."""

    def __init__(self, database: Database, engine: Engine | AsyncEngine) -> None:
        self.database = database
        self.backend = database.backend
        self.engine = engine
        self.definitions = Definitions()

    @property
    def beside(self) -> Engine:
        """A blocking engine on the same database, in either world."""
        return self.database.engine

    def table(self, *columns: Any, name: str | None = None) -> Table:
        """Create a table; it goes away after the test."""
        table = Table(name or f"table_{next(names)}", self.definitions, *columns, **BINARY_COLLATION)
        table.create(self.beside)
        return table

    def adapter(self, table: Table, *, engine: Any = None, **options: Any) -> Any:
        """The adapter of this world over `table`."""
        kind: Any = AsyncSqlAlchemyAdapter if isinstance(self.engine, AsyncEngine) else SqlAlchemyAdapter
        return kind(engine or self.engine, table, **options)

    def new_engine(self, **options: Any) -> Any:
        """One more engine of this world; the test disposes of it."""
        if isinstance(self.engine, AsyncEngine):
            return create_async_engine(self.database.asyncio, **self.database.options | options)
        return create_engine(self.database.blocking, **self.database.options | options)

    def rows(self, table: Table) -> list[Any]:
        """All rows of a table, read beside the adapter, in order."""
        with self.beside.connect() as connection:
            return sorted(tuple(row) for row in connection.execute(table.select()))


@pytest.fixture(scope="session", params=BACKENDS)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database of each kind, for the session."""
    backend = request.param
    if backend == "sqlite":
        path = str(tmp_path_factory.mktemp("sqlite") / "store.db")
        found = Database(
            backend, URL.create("sqlite", database=path), URL.create("sqlite+aiosqlite", database=path)
        )
    else:
        server = request.getfixturevalue(f"{backend}_server")
        name = server.create_database()
        found = Database(backend, server.url(name), server.url(name, asyncio=True))
    yield found
    found.engine.dispose()


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[World]:
    """Both worlds in each database."""
    engine: Engine | AsyncEngine
    if request.param == "asyncio":
        engine = create_async_engine(database.asyncio, **database.options)
    else:
        engine = create_engine(database.blocking, **database.options)
    found = World(database, engine)
    yield found
    await settle(engine.dispose())
    found.definitions.drop_all(database.engine)
