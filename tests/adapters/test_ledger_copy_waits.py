"""What PostgreSQL tells a copy that waited for another's change of a key is what holds after that change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from tests.servers import PostgreSqlServer
from zddm_adapters._sql_ledger_tables import LedgerTables, entry_mark
from zddm_adapters.sqlalchemy import SqlAlchemyLedger
from zddm_flags.ledger import CopyGrant

KEY, OTHER = b"skey", b"sother"


@pytest.fixture
def engine(postgresql_server: PostgreSqlServer) -> Iterator[Engine]:
    """A database of its own."""
    name = postgresql_server.create_database()
    engine = create_engine(postgresql_server.url(name), isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()
    postgresql_server.drop_database(name)


def waiting_copy(engine: Engine, change: str) -> CopyGrant:
    """What `begin_copy` answers that came while `change` of the key had its row's lock."""
    rows: Any = SqlAlchemyLedger(engine).migration("users", "xxh3")
    rows.begin([KEY], b"first")
    tables = LedgerTables(engine.dialect, "zddm", None)
    changes = {
        "end stale": [tables.end_stale("users", [KEY], entry_mark(b"first")), tables.open_to("users", 0.75)],
        "end clean": [tables.end_clean("users", [KEY], entry_mark(b"first"))],
        "begin": [
            tables.end_stale("users", [KEY], entry_mark(b"first")),
            tables.begin("users", [KEY], entry_mark(b"second")),
        ],
    }[change]
    with ThreadPoolExecutor(1) as pool, engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        for statement in changes:
            connection.exec_driver_sql(*statement)
        copy = pool.submit(rows.begin_copy, [KEY, OTHER], b"copy")
        with engine.connect() as watching:
            give_up_at = time.monotonic() + 20
            while not watching.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
                assert time.monotonic() < give_up_at
                time.sleep(0.01)
        connection.exec_driver_sql("COMMIT")
        return copy.result(timeout=20)


@pytest.mark.parametrize(
    ("change", "granted", "stale", "opened"),
    [
        ("end stale", {KEY, OTHER}, {KEY}, 0.75),
        ("end clean", {KEY, OTHER}, set(), 0.0),
        ("begin", {OTHER}, set(), 0.0),
    ],
)
def test_a_copy_that_waited(engine: Engine, change: str, granted: set[bytes], stale: set[bytes], opened: float):
    """It is granted what has no token by then, knows what is stale by then, and how far New is open by then."""
    assert waiting_copy(engine, change) == CopyGrant(frozenset(granted), frozenset(stale), opened, 0)
