"""The ledger in tables of a SQL database, for many processes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from types import NoneType
from typing import Any, NamedTuple

from sqlalchemy.exc import DBAPIError

from zddm_adapters._async._world_sql import (
    AsyncConnection,
    AsyncEngine,
    check_ledger_engine,
    driver_connection,
    run_blocking,
    to_its_end,
)
from zddm_adapters._sql_describe import describe_sql
from zddm_adapters._sql_errors import certainly_not_applied
from zddm_adapters._sql_ledger_tables import (
    ADVICE,
    KEYS_PER_STATEMENT,
    SCHEMA_VERSION,
    LedgerRows,
    LedgerTables,
    Statement,
    checked_keys,
    checked_name,
    checkpoints_of,
    chunks,
    deadlocked,
    entry_mark,
    in_transaction,
    is_no_text,
    table_is_missing,
)
from zddm_flags.errors import LedgerMismatch, NotApplied, Unsupported
from zddm_flags.ledger import (
    AsyncMigrationLedger,
    Checkpoint,
    CopyGrant,
    Grant,
    LedgerSummary,
    Opening,
    StalePage,
    check_checkpoint,
    check_limit,
    cursor_after,
    key_before,
)
from zddm_flags.protocols import StoreInfo
from zddm_flags.rollout import checked_rate

__all__ = ["AsyncSqlAlchemyLedger"]

CREATE_ATTEMPTS = 5
ATTEMPTS = 3
REAP_ROUNDS = 20


class AsyncSqlAlchemyLedger:
    """A ledger that many processes share and that outlives them: SQLite, PostgreSQL, MySQL or MariaDB.

    Put it where Old is: then it can be reached whenever Old can. It is three tables: `{tables}_migrations` with a
    row per migration, `{tables}_keys` with a row per key that is being written or stale, and
    `{tables}_checkpoints` with a row per long job. They are created on first use, where they are not there; for a
    user that may not create tables, let another one call `create_tables()` or execute `ddl`. Then SELECT, INSERT,
    UPDATE and DELETE are all that is needed. Thread-safe, as the engine is.

    Give it an engine of its own, each of whose statements is a transaction of its own::

        AsyncSqlAlchemyLedger(create_async_engine(url, isolation_level="AUTOCOMMIT"))

    so that it never waits for a connection that an operation on a store holds. Where something else begins
    transactions on it all the same (a listener that executes BEGIN, MySQL's `completion_type`), calls raise
    Unsupported. With MySQL, `skip_autocommit_rollback=True` (SQLAlchemy 2.0.43) saves a round trip. A write takes
    three statements (`begin` two, `end` one), a read of New one.

    Mind these:

    - The promise is as good as what the database acknowledges. The engine must reach the primary, never a replica
      or something that splits reads from writes, and a commit must be durable: `synchronous_commit=on` in
      PostgreSQL, `innodb_flush_log_at_trx_commit=1` in MySQL, and `PRAGMA synchronous=FULL` in SQLite: in
      WAL mode NORMAL, the default of some builds, loses the latest commits with the host's power.
    - After a failover, or a restore from a backup, that lost what had been acknowledged, keep the gate at 0, empty
      or verify New, and begin with a new ledger (docs/ledgers.md). A process that used the ledger notices that a
      table, or the migration's row in `{tables}_migrations`, is gone or was made anew. Rows of keys that are gone,
      and rows that are older, nobody notices: never delete any from `{tables}_keys` under a live migration.
    - Set the driver's time-outs, and `pool_timeout`, well below the proxy's `max_operation_seconds`, for a call
      waits as long as they let it. `pool_pre_ping=True` spares the first write after a restart of the server an
      error, for one more round trip a call.
    - Ages of tokens are by the clock of the database's host: it may be slewed, and must not jump forward.
    - In PostgreSQL and MySQL, READ COMMITTED is the isolation level that conflicts the least.
    - `reset` is a transaction. It deletes all keys of the migration, which many that are stale make long, while
      whatever would change one waits: in PostgreSQL and SQLite one of any migration. Its statements too are
      subject to the time-outs of the engine. Cancelled in SQLite, it comes to its end first.
    - In MySQL the largest statements have up to 11 MB: mind `max_allowed_packet`, which is 16 MiB or more by
      default from MySQL 8 and in MariaDB.
    - A forked child needs connections of its own: `engine.dispose(close=False)` there, as SQLAlchemy says.
    - SQLite is for the processes of one host. Give it `connect_args={"timeout": 30}`, and set
      `PRAGMA journal_mode=WAL`, so that readers do not wait for writers.

    Args:
        engine: made by `create_async_engine`; it stays the caller's to dispose of.
        tables: what the names of the tables begin with: at most 40 letters, digits and underscores.
        schema: where the tables are; None: where the database looks first.
        opened: the largest rate at which New may have been used before this ledger. 0.0 is for a New that is
            empty. Where New holds anything, verified or not, give 1.0, or the largest rate that there ever was. A
            migration that is in the ledger is raised to it, and never lowered.

    Raises:
        TypeError: the engine belongs to the other world.
        Unsupported: another driver than psycopg, PyMySQL, aiomysql, aiosqlite or Python's own for SQLite, or an
            SQLite database in memory, which nobody shares.
        ValueError: the engine was not made with `isolation_level="AUTOCOMMIT"`, or `tables` or `schema` cannot be
            part of a name.
        InvalidRollout: `opened` is no rate.
    """

    shared = True

    def __init__(
        self, engine: AsyncEngine, *, tables: str = "zddm", schema: str | None = None, opened: float = 0.0
    ) -> None:
        check_ledger_engine(engine)
        self._tables = LedgerTables(engine.dialect, tables, schema)
        if engine.dialect.name == "sqlite" and _in_memory(engine.url.database, engine.url.query):
            raise Unsupported(
                "an SQLite database in memory is shared with no other process: name a file in the engine's URL, "
                "or use InMemoryLedger"
            )
        self._opened = checked_rate(opened)
        if getattr(engine.dialect, "_on_connect_isolation_level", None) != "AUTOCOMMIT":
            # To change the mode of a connection for each call would cost round trips, and in asyncio a call that
            # was cancelled then leaves the connection to the garbage collector.
            raise ValueError(
                'the ledger needs an engine of its own, made with isolation_level="AUTOCOMMIT": each of its '
                "statements is a transaction"
            )
        self._engine = engine

    def migration(self, name: str, identity: str, token_seconds: float = 0.0) -> AsyncMigrationLedger:
        """The rows of the migration `name`, whose gate has this `identity`. No I/O.

        Its first call, and each until one succeeded, makes what is missing and checks what is there: it raises
        LedgerMismatch where the rows were written under another identity or by another version of this library,
        or where the tables are not a ledger's.

        Raises:
            ValueError: the name is empty, longer than 100 characters, ends in a space, or has a NUL.
        """
        return _Migration(self._engine, self._tables, checked_name(name), identity, self._opened, token_seconds)

    def describe(self) -> StoreInfo:
        """The database's system and name, and what the names of the tables begin with, without I/O."""
        return describe_sql(self._engine.dialect, self._engine.url, self._tables.collection)

    @property
    def ddl(self) -> str:
        """What creates the tables, for whoever may do so: statements, with a semicolon after each."""
        return "".join(f"{statement};\n" for statement in self._tables.ddl)

    async def create_tables(self) -> None:
        """Create the tables that are not there. Safe to call in many processes at once.

        Raises:
            LedgerMismatch: a table of that name is not a ledger's.
        """
        await _create_tables(self._engine, self._tables)


class _Done(NamedTuple):
    """What a statement did."""

    rows: Sequence[Any]
    changed: int


class _Migration:
    """One migration's rows. Immutable but for what it saw of the ledger, so it needs no lock."""

    def __init__(
        self,
        engine: AsyncEngine,
        tables: LedgerTables,
        name: str,
        identity: str,
        opened: float,
        token_seconds: float,
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._name = name
        self._identity = identity
        self._opened = opened
        self._token_seconds = token_seconds
        self._incarnation: dict[str, str] = {}  # one entry, from first use on; dict.setdefault is atomic
        self._last = LedgerSummary(0, 0, None, opened, 0)

    async def begin(self, keys: Sequence[bytes], token: bytes) -> Grant:
        mark = entry_mark(token)
        found = await self._make_pending(self._tables.begin, keys, mark)
        # A key whose token is gone was begun so long ago that it was reaped: it is stale.
        alone = {key for key, row in found.keys.items() if mark in row.pending and not row.contended}
        return Grant(frozenset(key for key in keys if key not in alone), found.opened, found.epoch)

    async def begin_copy(self, keys: Sequence[bytes], token: bytes) -> CopyGrant:
        mark = entry_mark(token)
        found = await self._make_pending(self._tables.begin_copy, keys, mark)
        granted = {key: row for key, row in found.keys.items() if mark in row.pending}
        # *stale* may be younger than the grant: then another writer ended meanwhile, and the copy is contended.
        stale = frozenset(key for key, row in granted.items() if row.stale)
        return CopyGrant(frozenset(granted), stale, found.opened, found.epoch)

    async def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        mark = entry_mark(token)
        # Whoever still has the token after `end_clean` is not ok, or contended, and ends stale: a row that was
        # passed over for a second token is contended, which it stays for as long as it has this token. The same
        # holds where the two statements are repeated, or one lands late: without the token they change nothing.
        for chunk in chunks(checked_keys(outcomes.keys())):
            clean = [key for key in chunk if outcomes[key]]
            ended = await self._changed(self._tables.end_clean(self._name, clean, mark)) if clean else 0
            if ended < len(chunk):
                await self._changed(self._tables.end_stale(self._name, chunk, mark))

    async def withdraw(self, keys: Collection[bytes], token: bytes) -> None:
        mark = entry_mark(token)
        for chunk in chunks(checked_keys(keys)):
            if await self._changed(self._tables.withdraw_clean(self._name, chunk, mark)) < len(chunk):
                await self._changed(self._tables.withdraw(self._name, chunk, mark))

    async def dirty(self, keys: Collection[bytes]) -> Collection[bytes]:
        found: list[bytes] = []
        for chunk in chunks(checked_keys(keys)):
            rows = await self._rows(self._tables.select(self._name, chunk))
            found += [key for key, row in rows.keys.items() if row.pending or row.stale]
        return found

    async def alone(self, keys: Collection[bytes], token: bytes) -> Collection[bytes]:
        mark = entry_mark(token)
        found: list[bytes] = []
        for chunk in chunks(checked_keys(keys)):
            rows = await self._rows(self._tables.select(self._name, chunk))
            found += (key for key, row in rows.keys.items() if mark in row.pending and not row.contended)
        return found

    async def open_to(self, rate: float) -> Opening:
        await self._changed(self._tables.open_to(self._name, rate))
        found = await self._rows(self._tables.select(self._name, ()))
        return Opening(found.opened, found.epoch)

    async def reap(self, age_seconds: float, limit: int = 1000) -> int:
        age, reaped = int(age_seconds * 1_000_000), 0
        for _ in range(REAP_ROUNDS):  # each removes one token of a key
            most = min(limit - reaped, KEYS_PER_STATEMENT)
            if most <= 0:
                break
            keys = sorted((await self._rows(self._tables.old(self._name, age, most))).keys)
            changed = await self._changed(self._tables.reap(self._name, keys, age)) if keys else 0
            if not changed:
                break
            reaped += changed
            await self._changed(self._tables.count_reaped(self._name, changed))
        return reaped

    async def summary(self) -> LedgerSummary:
        rows = (await self._repeatable(self._tables.summary(self._name))).rows
        found = self._checked(LedgerRows.of(rows))
        stale, pending, age = rows[0][-3:]
        if not isinstance(age, (int, NoneType)):  # SQLite calculates with whatever it finds
            raise self._corrupt()
        seconds = None if age is None else max(0.0, age / 1_000_000)
        self._last = LedgerSummary(int(stale), int(pending), seconds, found.opened, found.epoch, found.reaped)
        return self._last

    def last_summary(self) -> LedgerSummary:
        return self._last

    async def stale_keys(self, cursor: str | None = None, limit: int = 1000) -> StalePage:
        check_limit(limit)
        found = await self._rows(self._tables.stale(self._name, key_before(cursor), limit))
        keys = sorted(found.keys)
        return StalePage(keys, cursor_after(keys, limit))

    async def checkpoints(self) -> Mapping[str, Checkpoint]:
        return await self._checkpoints()

    async def save_checkpoint(self, name: str, data: str, version: int) -> bool:
        check_checkpoint(name, data)
        if version > 0:
            update = self._tables.update_checkpoint(self._name, name, data, version)
            if (await self._beside_checkpoints(update)).changed == 1:
                return True
        elif version == 0:
            # How many rows it changed says nothing: MySQL's drivers count one that was there, psycopg none at all.
            await self._beside_checkpoints(self._tables.insert_checkpoint(self._name, name, data))
        found = (await self._checkpoints(name)).get(name)
        return found is not None and (found.data, found.version) == (data, version + 1)

    async def reset(self) -> bool:
        # Makes what is missing, and replaces connections that broke in the pool: what follows is done once.
        await self._checkpoints("-")
        try:
            if self._sqlite:
                # SQLAlchemy closes a connection on which a call is cancelled, and SQLite keeps the lock of one
                # that was closed while a cursor was open, which the error's traceback holds.
                return await to_its_end(self._reset)
            return await self._reset()
        except DBAPIError as error:
            mismatch = self._noticed(error)
            if mismatch is not None:
                raise mismatch from error
            raise

    async def _reset(self) -> bool:
        async with self._engine.connect() as connection:
            try:
                for statement in self._tables.lock(self._name):
                    await _execute(connection, statement)
                found = self._checked(LedgerRows.of(await _execute(connection, self._tables.pending(self._name))))
                cleared = not found.keys
                for statement in self._tables.reset(self._name) if cleared else ():
                    await _execute(connection, statement)
                await _execute(connection, ("COMMIT" if cleared else "ROLLBACK", ()))
                _check_committed(connection)
            except BaseException:
                await self._abandon(connection)
                raise
        if cleared:
            self._last = LedgerSummary(0, 0, None, 0.0, found.epoch + 1)
        return cleared

    @property
    def _sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    async def _abandon(self, connection: AsyncConnection) -> None:
        """End a transaction as it may be, and the connection: whoever had it next would be inside of it."""
        try:
            if self._sqlite:  # for the same reason
                with suppress(Exception):
                    await _execute(connection, ("ROLLBACK", ()))
        finally:
            await connection.invalidate()

    async def _make_pending(
        self, change: Callable[..., Statement], keys: Sequence[bytes], mark: str
    ) -> LedgerRows:
        """Issue `change` once, then ask what the ledger holds. What it answers with is not asked for.

        `opened` must not be older than the token (H8). One statement could not see to that: in PostgreSQL it sees
        the tables as they were before it waited for a row's lock. So the question is a statement of its own, which
        begins when the change is committed.

        Where there are more keys than a statement takes, the change is several. What counts is that the token is
        pending on each key before this returns, for each key is judged by itself (H14).
        """
        ordered = checked_keys(keys)
        issued = done = 0
        rows: list[Any] = []
        answered: list[Any] = []
        try:
            await self._first_use()
            async with self._engine.connect() as connection:
                for chunk in chunks(ordered):
                    issued += 1
                    result = await connection.exec_driver_sql(*change(self._name, chunk, mark))
                    if result.returns_rows:
                        answered += result.all()
                    done += 1
                    _check_committed(connection)
                known = {row[0] for row in answered}
                unknown = [key for key in ordered if key not in known]
                for chunk in chunks(unknown) if unknown else [()]:
                    rows += (await connection.exec_driver_sql(*self._tables.select(self._name, chunk))).all()
        except (LedgerMismatch, Unsupported):
            raise
        except Exception as error:
            mismatch = self._noticed(error)
            if mismatch is not None:
                raise mismatch from error
            if issued == 0:
                raise NotApplied("the ledger's database was not reached") from error
            if (issued, done) == (1, 0) and isinstance(error, DBAPIError) and certainly_not_applied(error):
                raise NotApplied("the ledger's database refused the statement") from error
            raise
        return self._checked(LedgerRows.of(rows, answered))

    async def _rows(self, statement: Statement) -> LedgerRows:
        return self._checked(LedgerRows.of((await self._repeatable(statement)).rows))

    async def _changed(self, statement: Statement) -> int:
        """How many rows the statement changed; fewer, where a lost attempt had changed some before."""
        return (await self._repeatable(statement)).changed

    async def _repeatable(self, statement: Statement) -> _Done:
        """Issue a statement that may take effect twice.

        It is repeated where it was a deadlock's victim, and where the connection was broken: after a restart of
        the server, each one that the pool held is.
        """
        attempt = 1
        while True:
            try:
                await self._first_use()
                return await self._issue(statement)
            except DBAPIError as error:
                mismatch = self._noticed(error)
                if mismatch is not None:
                    raise mismatch from error
                if attempt == ATTEMPTS or not (error.connection_invalidated or deadlocked(error)):
                    raise
            attempt += 1

    async def _checkpoints(self, name: str | None = None) -> dict[str, Checkpoint]:
        rows = (await self._beside_checkpoints(self._tables.checkpoints(self._name, name))).rows
        self._checked(LedgerRows.of(rows))
        found = checkpoints_of(rows)
        if found is None:
            raise self._corrupt()
        return found

    async def _beside_checkpoints(self, statement: Statement) -> _Done:
        """Issue a statement about checkpoints. No promise is lost with their table, so it may be made anew."""
        try:
            return await self._repeatable(statement)
        except LedgerMismatch as error:
            if error.__cause__ is None or not table_is_missing(error.__cause__):
                raise
        await self._rows(self._tables.select(self._name, ()))  # the others are as they were, or this raises
        await _create_tables(self._engine, self._tables)
        return await self._repeatable(statement)

    async def _issue(self, statement: Statement) -> _Done:
        async with self._engine.connect() as connection:
            result = await connection.exec_driver_sql(*statement)
            _check_committed(connection)
            return _Done(result.all() if result.returns_rows else (), result.rowcount)

    async def _first_use(self) -> None:
        """Make what is missing, and check what is there. Where several come at once, each does it: no harm."""
        if self._incarnation:
            return
        select = self._tables.select(self._name, ())
        try:
            rows = (await self._issue(select)).rows
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            await _create_tables(self._engine, self._tables)
            rows = (await self._issue(select)).rows
        if not rows:
            incarnation = uuid.uuid4().hex
            await self._issue(
                self._tables.insert_migration(
                    self._name, self._identity, self._opened, incarnation, self._token_seconds
                )
            )
            rows = (await self._issue(select)).rows
        found = self._checked(LedgerRows.of(rows))
        if found.opened < self._opened:
            await self._issue(self._tables.open_to(self._name, self._opened))
        await self._issue(self._tables.keep_tokens_for(self._name, self._token_seconds))
        self._incarnation.setdefault("", found.incarnation)

    def _checked(self, found: LedgerRows | None) -> LedgerRows:
        """What the ledger answered, if it is this migration's and the same that was seen first."""
        if found is None:
            raise self._lost()
        if found.name != self._name:
            raise LedgerMismatch(
                f"asked for migration {self._name!r} the ledger's database answers with {found.name!r}: let no "
                "collation of its tables ignore anything, and no character set of the connection lack a character"
            )
        if found.schema_version != SCHEMA_VERSION:
            raise LedgerMismatch(
                f"the ledger of migration {self._name!r} has schema version {found.schema_version}, and this "
                f"zddm-flags knows {SCHEMA_VERSION}: run the same version in every process of a migration"
            )
        if found.identity != self._identity:
            raise LedgerMismatch(
                f"migration {self._name!r} was begun with hasher {found.identity!r}, this gate has "
                f"{self._identity!r}: use the same hasher and encoding in every gate of a migration, or give this "
                "one its own name"
            )
        if found.incarnation != self._incarnation.get("", found.incarnation):
            raise self._lost()
        if not found.is_whole():
            raise self._corrupt()
        if (found.opened, found.epoch) != (self._last.opened, self._last.epoch):
            self._last = self._last._replace(opened=found.opened, epoch=found.epoch)
        return found

    def _noticed(self, error: BaseException) -> LedgerMismatch | None:
        """What an error of the database says of the ledger; None, where it says nothing."""
        if self._incarnation and table_is_missing(error):
            return self._lost()
        return self._corrupt() if is_no_text(error) else None

    def _corrupt(self) -> LedgerMismatch:
        return LedgerMismatch(
            f"the ledger of migration {self._name!r} has a row that is corrupt, something else wrote to it: "
            f"{ADVICE}"
        )

    def _lost(self) -> LedgerMismatch:
        return LedgerMismatch(
            f"the ledger of migration {self._name!r} was lost, or made anew, since this process first used it: "
            f"{ADVICE}"
        )


async def _execute(connection: AsyncConnection, statement: Statement) -> Sequence[Any]:
    """Issue a statement of a transaction, and take its rows."""
    result = await connection.exec_driver_sql(*statement)
    return result.all() if result.returns_rows else ()


def _check_committed(connection: AsyncConnection) -> None:
    """Raise Unsupported where a statement left a transaction open: its effect would be gone with that."""
    if in_transaction(driver_connection(connection)):
        raise Unsupported(
            "a statement of the ledger left a transaction open, which nobody would commit: nothing that is set "
            "for its engine or its server may begin transactions (execution_options with another "
            "isolation_level, an event listener that executes BEGIN, MySQL's completion_type)"
        )


async def _create_tables(engine: AsyncEngine, tables: LedgerTables) -> None:
    attempt = 1
    while True:
        try:
            async with engine.connect() as connection:
                for statement in await run_blocking(connection, tables.missing):
                    await connection.exec_driver_sql(statement)
            return
        except DBAPIError:
            # Another process may have been quicker, which in PostgreSQL even IF NOT EXISTS does not forgive.
            if attempt == CREATE_ATTEMPTS:
                raise
        attempt += 1


def _in_memory(database: str | None, query: Mapping[str, Any]) -> bool:
    return database is None or database in {"", ":memory:", "file::memory:"} or query.get("mode") == "memory"
