# Generated from adapters/zddm_adapters/_async/_sql.py by `make generate`. Do not edit.
"""A table of a SQL database as a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from sqlalchemy import Executable, Row, Table
from sqlalchemy.exc import DataError, IntegrityError

from zddm_adapters._sql_describe import describe_sql
from zddm_adapters._sql_errors import certainly_not_applied, parameter_refused
from zddm_adapters._sql_table import MappedTable, ValueSpec, in_order
from zddm_adapters._sync._world_sql import Engine, check_engine, raise_if_cancelled
from zddm_flags.errors import NotApplied, ValueRefused
from zddm_flags.protocols import Page, StoreInfo

__all__ = ["SqlAlchemyAdapter"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class SqlAlchemyAdapter(Generic[K, V]):
    """A table of SQLite, PostgreSQL, MySQL or MariaDB, with its own short transaction for each call.

    The key is the bare value of one key column, or a tuple of several in their order. A write replaces all
    columns of the value, or inserts a row. Columns outside the value keep what they hold, and get the
    database's defaults in a new row. Thread-safe, as the engine is.

    `NotApplied` is raised from the error where it is certain that a write took no effect: a value of the wrong
    shape, no connection, and what the database refused before COMMIT was sent (constraints, data, deadlocks,
    locks); `ValueRefused`, which is one, where the key or value is to blame. Any other error of a write passes as
    it is, and means "unknown". Nothing is retried.

    Mind these:

    - Compose the engine with `hide_parameters=True`, or SQLAlchemy's error texts show keys and values, and
      with time-outs: `pool_timeout` and the driver's together within the proxy's `max_call_seconds`.
    - A key must be equal in the database just where it is equal in Python. Give string keys a binary collation
      that does not pad: utf8mb4_0900_bin in MySQL, utf8mb4_nopad_bin in MariaDB. Under others "a" and "A" are one
      row, under utf8mb4_bin "a" and "a ", and a write of one replaces the other's value unseen. A read that meets
      a row whose key is not the one that was asked raises ValueError.
    - In MySQL use InnoDB. A table with another unique constraint on written columns is refused there, for its
      upsert would update the row of another key; only constraints that `table` declares can be seen.
    - In SQLite use `connect_args={"timeout": 30}` and `PRAGMA journal_mode=WAL`, or concurrent writes raise
      "database is locked".
    - An engine in AUTOCOMMIT mode has no all-or-nothing batches, and gives no certainty.

    Args:
        engine: made by `create_async_engine`; it stays the caller's to dispose of.
        table: the table. To read its definition from the database:
            `Table("users", MetaData(), autoload_with=blocking_engine)`.
        key: name of the key column, or names of several; None for the primary key. Must be unique and NOT NULL.
        value: what a value is. None: a mapping of all other columns by name, generated ones aside. A sequence
            of names: a mapping of these. A name: that column's bare value, which must be NOT NULL. A dataclass:
            one whose fields are columns by name; key columns may be among them.
        strong_reads: False where the engine may read from a lagging replica, so that nothing is copied from it.

    Raises:
        TypeError: the engine belongs to the other world.
        Unsupported: another database, or MySQL with another unique constraint.
        ValueError: columns that do not exist, or cannot serve as key or value.
    """

    @overload
    def __init__(
        self: SqlAlchemyAdapter[Any, T],
        engine: Engine,
        table: Table,
        *,
        key: str | Sequence[str] | None = None,
        value: type[T],
        strong_reads: bool = True,
    ) -> None: ...
    @overload
    def __init__(
        self: SqlAlchemyAdapter[Any, Any],
        engine: Engine,
        table: Table,
        *,
        key: str | Sequence[str] | None = None,
        value: str,
        strong_reads: bool = True,
    ) -> None: ...
    @overload
    def __init__(
        self: SqlAlchemyAdapter[Any, Mapping[str, Any]],
        engine: Engine,
        table: Table,
        *,
        key: str | Sequence[str] | None = None,
        value: Sequence[str] | None = None,
        strong_reads: bool = True,
    ) -> None: ...
    def __init__(
        self,
        engine: Engine,
        table: Table,
        *,
        key: str | Sequence[str] | None = None,
        value: ValueSpec = None,
        strong_reads: bool = True,
    ) -> None:
        check_engine(engine)
        self._engine = engine
        self._table = MappedTable(engine.dialect, table, key, value)
        self._name = table.fullname
        self._strong_reads = strong_reads
        on_connect = getattr(engine.dialect, "_on_connect_isolation_level", None)
        level = engine.get_execution_options().get("isolation_level", on_connect)
        self._transactional = level != "AUTOCOMMIT"

    def read(self, key: K) -> V | None:
        """The value of `key`, or None where there is no row.

        Raises:
            ValueError: the database takes another key for this one, or the value is NULL.
        """
        table = self._table
        parameters = table.key_parameters(key)
        with self._engine.connect() as connection:
            row = (connection.execute(table.read, parameters)).first()
        if row is None:
            return None
        if table.key_of(row) != key:
            raise _wrong_key()
        value: V = table.value_of(row)
        return value

    def write(self, key: K, value: V) -> None:
        """Insert or replace; committed when it returns. Raises `NotApplied` from the cause where that is sure."""
        row = _before_the_store(lambda: self._table.row_parameters(key, value))
        self._apply(self._table.upsert, [row])

    def delete(self, key: K) -> None:
        """Delete the row; no error where there is none. Committed when it returns."""
        parameters = _before_the_store(lambda: self._table.key_parameters(key))
        self._apply(self._table.delete, [parameters])

    def read_many(self, keys: Sequence[K]) -> dict[K, V]:
        """The values of `keys`; absent keys are left out. Many keys are asked for in several statements.

        Raises:
            ValueError: the database takes another key for one of these, or a value is NULL.
        """
        table = self._table
        rows: list[Row[Any]] = []
        with self._engine.connect() as connection:
            for parameters in table.key_chunks(keys):
                rows += (connection.execute(table.read_many, parameters)).all()
        found = {table.key_of(row): table.value_of(row) for row in rows}
        if not found.keys() <= set(keys):
            raise _wrong_key()
        return found

    def write_many(self, items: Mapping[K, V]) -> None:
        """Insert or replace each, all or nothing, in one transaction and in the order of the keys."""
        table = self._table
        rows = _before_the_store(lambda: [table.row_parameters(key, items[key]) for key in in_order(items)])
        if rows:
            self._apply(*table.upserts(rows))

    def delete_many(self, keys: Sequence[K]) -> None:
        """Delete each, all or nothing, in one transaction; no error where one is absent."""
        chunks = _before_the_store(lambda: list(self._table.key_chunks(keys)))
        self._apply(self._table.delete_many, chunks)

    def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[K, V]:
        """At most `limit` items after `cursor` and up to and with `until`, in the database's order of the keys.

        Raises:
            ValueError: `cursor` or `until` is no cursor of this table, or `limit` is below 1.
            TypeError: a key column has a type that has no form in a cursor.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        table = self._table
        statement, parameters = table.scan(cursor, limit, until)
        try:
            with self._engine.connect() as connection:
                rows = (connection.execute(statement, parameters)).all()
        except Exception as error:
            if len(parameters) > 1 and parameter_refused(error):
                raise ValueError("this is no cursor of this table: its database refuses it") from None
            raise
        items: list[tuple[K, V]] = [(table.key_of(row), table.value_of(row)) for row in rows]
        return Page(items, table.cursor(rows[-1]) if len(rows) == limit else None)

    def partitions(self, count: int) -> list[tuple[str | None, str | None]]:
        """At most `count` ranges of cursors, of about equally many rows as of now, that cover the table once.

        Reads the index of the keys twice from end to end.

        Raises:
            ValueError: `count` is below 1.
            TypeError: a key column has a type that has no form in a cursor.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        bounds: list[str] = []
        with self._engine.connect() as connection:
            rows = (connection.execute(self._table.count)).scalar_one()
            numbers = sorted({rows * part // count for part in range(1, count)} - {0, rows})
            if numbers:
                found = connection.execute(self._table.key_at, {"numbers": numbers})
                bounds = [self._table.cursor(row) for row in found]
        return list(zip([None, *bounds], [*bounds, None], strict=True))

    def count(self) -> int:
        """How many rows the table has now. The database reads an index from end to end for it."""
        with self._engine.connect() as connection:
            rows: int = (connection.execute(self._table.count)).scalar_one()
        return rows

    def describe(self) -> StoreInfo:
        """The database's system, name and table, without I/O."""
        engine = self._engine
        return describe_sql(engine.dialect, engine.url, self._name, strong_reads=self._strong_reads)

    def _apply(self, statement: Executable, batches: Iterable[Any]) -> None:
        """Execute `statement` with each of `batches` in one transaction."""
        connected = committing = False
        try:
            with self._engine.connect() as connection:
                connected = True
                try:
                    for parameters in batches:
                        connection.execute(statement, parameters)
                    committing = True
                    connection.commit()
                except AssertionError as error:
                    # psycopg 3.3 in asyncio, cancelled where it begins a pipeline: it says so in this way, and the
                    # connection stays in the pipeline.
                    connection.invalidate()
                    raise_if_cancelled(error)
                    raise
        except Exception as error:
            if not connected:
                raise NotApplied("there was no connection to the database") from error
            if not committing and self._transactional and certainly_not_applied(error):
                kind = ValueRefused if isinstance(error, (DataError, IntegrityError)) else NotApplied
                raise kind("the database refused the write before it was committed") from error
            raise


def _before_the_store(make: Callable[[], T]) -> T:
    try:
        return make()
    except Exception as error:
        raise ValueRefused("the key or value was refused before the database was asked") from error


def _wrong_key() -> ValueError:
    return ValueError(
        "the database answered with the row of another key, which its collation or type takes for equal: give "
        "the key column a binary collation, and keys of the column's own type"
    )
