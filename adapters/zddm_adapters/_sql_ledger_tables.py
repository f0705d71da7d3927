# ruff: noqa: S608 - the statements are composed of checked and quoted names; all values are parameters
"""A ledger's tables in a SQL database: their statements, and what their rows mean. No I/O.

All that is known of a key is in one row, so that one statement changes it atomically, under the row's lock.
`pending` holds its tokens, one entry of `ENTRY` characters after the other: `|`, the token filled up with dots,
`@`, and the time of its begin in microseconds. All times are the database's (H15), of the moment when a statement
reached it. That is never before the operation began, so no token looks older than its operation is; but of two
begins the one that waited longer for the row's lock stands behind the other with the older time, and is reaped
after it: late, never early.

Five rules that every statement keeps:

- `contended` is set while more than one token is pending, and stays until none is.
- `oldest` is the time of the first token, and NULL where there is none.
- A row without tokens that is not stale is as good as no row.
- No empty text is written or compared with: MariaDB can be set to read it as NULL (EMPTY_STRING_IS_NULL). The
  empty text of a checkpoint is NULL in every database.
- MySQL assigns from left to right, and an assignment sees those before it: `pending` comes last, for the others
  read what it was. Its row locks are taken in the order of the primary key, which FORCE INDEX makes the order of
  any plan; PostgreSQL's are taken in order by a SELECT ... FOR UPDATE. So no two batches wait for each other in a
  circle.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, inspect
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

from zddm_flags.errors import InvalidKey, LedgerMismatch, Unsupported
from zddm_flags.ledger import MAX_KEY_BYTES, MAX_TOKEN_BYTES, Checkpoint

__all__ = [
    "ADVICE",
    "KEYS_PER_STATEMENT",
    "SCHEMA_VERSION",
    "KeyRow",
    "LedgerRows",
    "LedgerTables",
    "Statement",
    "checked_keys",
    "checked_name",
    "checkpoints_of",
    "chunks",
    "deadlocked",
    "entry_mark",
    "in_transaction",
    "is_no_text",
    "table_is_missing",
]

SCHEMA_VERSION = 1
MAX_NAME_CHARACTERS = 100
MAX_CHECKPOINT_NAME = 64
KEYS_PER_STATEMENT = 5000  # within the 32766 parameters of SQLite, and within 16 MiB of text for MySQL

TIME_DIGITS = 16
ENTRY = 1 + MAX_TOKEN_BYTES + 1 + TIME_DIGITS
TOKEN = re.compile(rb"[A-Za-z0-9-]{1,%d}" % MAX_TOKEN_BYTES)
PENDING = re.compile(rf"(\|[A-Za-z0-9.-]{{{MAX_TOKEN_BYTES}}}@[0-9]{{{TIME_DIGITS}}})*")
INCARNATION = re.compile(r"[0-9a-f]{32}")

MIGRATION_COLUMNS = (
    "name", "schema_version", "identity", "opened", "epoch", "incarnation", "token_seconds", "reaped"
)  # fmt: skip
KEY_COLUMNS = ("migration", "key", "pending", "stale", "contended", "oldest")
CHECKPOINT_COLUMNS = ("migration", "name", "data", "version", "saved")

ADVICE = (
    "keep the gate at 0, so that New is not used; empty or verify New, which may hold what is not true any more; "
    "then begin with a new name= or a new ledger"
)

Statement = tuple[str, tuple[Any, ...]]
"""A statement for the driver, and its parameters in their order."""

MYSQL_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS of the protocol
PSYCOPG_IDLE = 0  # psycopg.pq.TransactionStatus.IDLE

DRIVERS = ("pysqlite", "aiosqlite", "psycopg", "pymysql", "aiomysql")  # what they say of errors is known

BIND = "\0"  # around a parameter's name, in a statement that is being composed


def checked_name(name: str) -> str:
    """The name of a migration, if it means the same to every database. Raises ValueError."""
    # Comparisons of MySQL ignore spaces at the end; PostgreSQL has no NUL.
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or name.endswith(" ") or "\0" in name:
        raise ValueError(
            f"{name!r}: in a SQL ledger a migration's name has 1 to {MAX_NAME_CHARACTERS} characters, no NUL and "
            "no space at its end"
        )
    return name


def checked_keys(keys: Collection[bytes]) -> list[bytes]:
    """The keys in the order in which every statement locks them. Raises InvalidKey."""
    if any(len(key) > MAX_KEY_BYTES for key in keys):
        raise InvalidKey(f"a key's encoding is longer than the {MAX_KEY_BYTES} bytes that a ledger takes")
    return sorted(keys)


def chunks(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The keys, as many at a time as one statement takes."""
    for start in range(0, len(keys), KEYS_PER_STATEMENT):
        yield keys[start : start + KEYS_PER_STATEMENT]


def entry_mark(token: bytes) -> str:
    """A token's entry in `pending`, up to its time. Raises ValueError."""
    if TOKEN.fullmatch(token) is None:
        raise ValueError(f"a token is 1 to {MAX_TOKEN_BYTES} ASCII letters, digits and hyphens")
    return f"|{token.decode('ascii'):.<{MAX_TOKEN_BYTES}}@"


def deadlocked(error: DBAPIError) -> bool:
    """Whether the statement lost to another transaction, and may succeed when it is issued again."""
    state, code = getattr(error.orig, "sqlstate", None), _code(error)
    return state in {"40001", "40P01"} or code == 1213


def in_transaction(driver_connection: Any) -> bool:
    """Whether a transaction is open on a connection, as its driver knows without asking the database."""
    if hasattr(driver_connection, "in_transaction"):  # SQLite
        return bool(driver_connection.in_transaction)
    if hasattr(driver_connection, "server_status"):  # MySQL
        return bool(driver_connection.server_status & MYSQL_IN_TRANSACTION)
    return bool(driver_connection.info.transaction_status != PSYCOPG_IDLE)


def table_is_missing(error: BaseException) -> bool:
    """Whether the database says that there is no such table."""
    if not isinstance(error, DBAPIError):
        return False
    return (
        getattr(error.orig, "sqlstate", None) == "42P01"
        or _code(error) == 1146
        or str(error.orig).startswith("no such table")
    )


def is_no_text(error: BaseException) -> bool:
    """Whether a column of SQLite holds a text that is no UTF-8."""
    return isinstance(error, DBAPIError) and str(error.orig).startswith("Could not decode to UTF-8")


def _code(error: DBAPIError) -> Any:
    return error.orig.args[0] if error.orig is not None and error.orig.args else None


class KeyRow(NamedTuple):
    """What a ledger says of a key that has a row."""

    pending: str
    stale: bool
    contended: bool
    oldest: int | None

    def is_whole(self) -> bool:
        """Whether this library can have written it. SQLite holds values of any type in any column."""
        pending: object = self.pending
        if not isinstance(pending, str) or PENDING.fullmatch(pending) is None:
            return False
        if self.stale not in {0, 1} or self.contended not in {0, 1}:
            return False
        if len(pending) > ENTRY and not self.contended:
            return False
        return self.oldest == (int(pending[ENTRY - TIME_DIGITS : ENTRY]) if pending else None)


class LedgerRows(NamedTuple):
    """A migration's row, and the rows of the keys that were asked for."""

    name: str
    schema_version: int
    identity: str
    incarnation: str
    opened: float
    epoch: int
    token_seconds: float
    reaped: int
    keys: dict[bytes, KeyRow]

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]], answered: Iterable[Sequence[Any]] = ()) -> LedgerRows | None:
        """From the rows of `LedgerTables.select`; None where the migration has no row.

        `answered` are further rows of keys, which a change answered with.
        """
        found: LedgerRows | None = None
        for *own, key, pending, stale, contended, oldest in rows:
            if found is None:
                found = cls._make([*own, {}])
            if key is not None:
                found.keys[key] = KeyRow(pending, stale, contended, oldest)
        if found is not None:
            found.keys.update((key, KeyRow(*row)) for key, *row in answered)
        return found

    def is_whole(self) -> bool:
        """Whether this library can have written it."""
        return (
            isinstance(self.incarnation, str)
            and INCARNATION.fullmatch(self.incarnation) is not None
            and _is_number(self.opened)
            and 0 <= self.opened <= 1
            and isinstance(self.epoch, int)
            and self.epoch >= 0
            and _is_number(self.token_seconds)
            and 0 <= self.token_seconds < math.inf
            and isinstance(self.reaped, int)
            and self.reaped >= 0
            and all(isinstance(key, bytes) and row.is_whole() for key, row in self.keys.items())
        )


def _is_number(found: object) -> bool:
    return isinstance(found, (int, float))


def checkpoints_of(rows: Iterable[Sequence[Any]]) -> dict[str, Checkpoint] | None:
    """From the rows of `LedgerTables.checkpoints`; None where one of them is none that this library wrote."""
    found: dict[str, Checkpoint] = {}
    for *_, name, data, version, age in rows:
        if name is None:  # the migration has no checkpoint
            continue
        text = _text_of(data)
        if not (isinstance(name, str) and text is not None and isinstance(version, int) and isinstance(age, int)):
            return None
        if version < 1:
            return None
        found[name] = Checkpoint(text, version, max(0.0, age / 1_000_000))
    return found


def _text_of(data: object) -> str | None:
    """The text that a column holds, which in MySQL comes as bytes; None where it is no text."""
    if isinstance(data, bytes):
        try:
            return data.decode()
        except UnicodeDecodeError:
            return None
    if data is None:
        return ""
    return data if isinstance(data, str) else None


class LedgerTables:
    """The statements of one ledger, in the words of its database. Immutable, hence thread-safe.

    Args:
        dialect: the engine's.
        prefix: what the names of the tables begin with.
        schema: where the tables are; None: where the database looks first.

    Raises:
        Unsupported: the driver is not known.
        ValueError: `prefix` or `schema` cannot be part of a name.
    """

    def __init__(self, dialect: Dialect, prefix: str, schema: str | None) -> None:
        if dialect.driver not in DRIVERS:
            raise Unsupported(f"a SQL ledger knows the drivers {', '.join(DRIVERS)}, not {dialect.driver}")
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,39}", prefix) is None:
            raise ValueError("tables= begins the tables' names: at most 40 letters, digits and underscores")
        if schema is not None and ("%" in schema or not schema):
            raise ValueError("schema= must be the name of a schema, without a percent sign")
        self._postgresql, self._sqlite = dialect.name == "postgresql", dialect.name == "sqlite"
        self._mysql = not (self._postgresql or self._sqlite)
        self.schema = schema
        self.collection = prefix if schema is None else f"{schema}.{prefix}"
        self.migrations_name, self.keys_name = f"{prefix}_migrations", f"{prefix}_keys"
        self.checkpoints_name = f"{prefix}_checkpoints"
        self._index_name = f"{self.keys_name}_oldest"
        quote = dialect.identifier_preparer.quote
        self._schema = f"{dialect.identifier_preparer.quote_schema(schema)}." if schema is not None else ""
        self._migrations = f"{self._schema}{quote(self.migrations_name)}"
        self._keys = f"{self._schema}{quote(self.keys_name)}"
        self._checkpoints = f"{self._schema}{quote(self.checkpoints_name)}"
        self._held = quote(self.keys_name)  # names the row that is there already, beside the one to be inserted
        self._key = quote("key")
        if self._postgresql:
            self._now = "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS bigint)"
            time = f"lpad(CAST({self._now} AS text), {TIME_DIGITS}, '0')"
            position, self._integer = "strpos", "bigint"
        elif self._sqlite:
            self._now = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
            time = f"printf('%0{TIME_DIGITS}d', {self._now})"
            position, self._integer = "instr", "INTEGER"
        else:
            # In UTC, for local times jump, twice a year.
            self._now = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
            time = f"LPAD({self._now}, {TIME_DIGITS}, '0')"
            position, self._integer = "instr", "SIGNED"
        self._position = f"{position}(pending, {self._bind('mark')})"
        self._entry = self._concatenation(self._bind("mark"), time)
        self._sole = f"(length(pending) = {ENTRY} AND {self._position} = 1)"

    # Changes of keys, which are in order. None waits for a lock while it holds one of a later key.

    def begin(self, migration: str, keys: Sequence[bytes], mark: str) -> Statement:
        """Make the token pending on each key, and each key that has another contended."""
        pending, oldest = f"{self._held}.pending", f"{self._held}.oldest"
        changes = [
            f"contended = ({oldest} IS NOT NULL)",
            f"oldest = coalesce({oldest}, {self._now})",
            f"pending = {self._concatenation(pending, self._entry)}",
        ]
        return self._add(migration, keys, mark, changes)

    def begin_copy(self, migration: str, keys: Sequence[bytes], mark: str) -> Statement:
        """Make the token pending on each key that has none. Where it can, it answers with the rows of these."""
        # By both columns, so that nobody is given a key whose tokens something else removed from one of them.
        empty = f"length({self._held}.pending) = 0"
        free = f"{empty} AND {self._held}.oldest IS NULL"
        if not self._mysql:
            # Not SQLite: there such a statement ends, and lets go of the lock, when the last row is fetched, which
            # a cancellation can keep from happening.
            answer = f" RETURNING {self._key}, pending, stale, contended, oldest" if self._postgresql else ""
            changes = [f"oldest = {self._now}", f"pending = {self._entry}"]
            return self._add(migration, keys, mark, changes, f" WHERE {free}{answer}")
        changes = [
            f"oldest = CASE WHEN {free} THEN {self._now} ELSE oldest END",
            f"pending = CASE WHEN {empty} AND oldest = {self._now} THEN {self._entry} ELSE pending END",
        ]
        return self._add(migration, keys, mark, changes)

    def end_clean(self, migration: str, keys: Sequence[bytes], mark: str) -> Statement:
        """Drop each key on which the token was alone from begin until now."""
        return self._drop(migration, keys, mark, f"{self._sole} AND contended = false")

    def end_stale(self, migration: str, keys: Sequence[bytes], mark: str) -> Statement:
        """Remove the token, and make each key stale that had it."""
        return self._take(migration, keys, mark, "stale = true, ")

    def withdraw_clean(self, migration: str, keys: Sequence[bytes], mark: str) -> Statement:
        """Drop each key of which nothing is left without the token."""
        return self._drop(migration, keys, mark, f"{self._sole} AND stale = false")

    def withdraw(self, migration: str, keys: Sequence[bytes], mark: str) -> Statement:
        """Remove the token, and leave *stale* as it was."""
        return self._take(migration, keys, mark, "")

    def reap(self, migration: str, keys: Sequence[bytes], age: int) -> Statement:
        """Remove each key's first token, if it is older than `age` microseconds and than all tokens are kept.

        The key becomes stale.
        """
        changes = (
            f"stale = true, contended = (length(pending) > {ENTRY}), "
            f"oldest = {self._second()}, pending = substr(pending, {ENTRY + 1})"
        )
        return self._change(migration, keys, self._old, changes, age=age)

    # Questions. Each answers with the migration's own row as well, so that one that was lost is seen at once.

    def select(self, migration: str, keys: Sequence[bytes]) -> Statement:
        """The migration's row and those of `keys`, for `LedgerRows.of`."""
        these = f"k.{self._key} {self._among(keys)}" if keys else "false"
        sql = self._question(self._keys, f" AND {these}")
        return self._statement(sql, {"migration": migration} | self._given(keys))

    def old(self, migration: str, age: int, limit: int) -> Statement:
        """The migration's row and at most `limit` keys that have a token for `reap` to remove."""
        old = (
            f"(SELECT * FROM {self._keys} WHERE migration = {self._bind('migration')} "
            f"AND {self._old} ORDER BY oldest LIMIT {self._bind('limit')})"
        )
        return self._statement(self._question(old), {"migration": migration, "age": age, "limit": limit})

    def stale(self, migration: str, after: bytes | None, limit: int) -> Statement:
        """The migration's row and the first `limit` keys behind `after` that are stale, in any order."""
        # The primary key leads to `after` and gives the order, so that no page reads what those before it read.
        keys = f"{self._keys} FORCE INDEX (PRIMARY)" if self._mysql else self._keys
        values: dict[str, Any] = {"migration": migration, "limit": limit}
        behind = ""
        if after is not None:
            bind = f"UNHEX({self._bind('after')})" if self._mysql else self._bind("after")
            behind, values["after"] = f"AND {self._key} > {bind} ", after.hex() if self._mysql else after
        page = (
            f"(SELECT * FROM {keys} WHERE migration = {self._bind('migration')} {behind}"
            f"AND stale <> false ORDER BY {self._key} LIMIT {self._bind('limit')})"
        )
        return self._statement(self._question(page), values)

    def pending(self, migration: str) -> Statement:
        """The migration's row and a key on which a token is pending, if there is any."""
        some = (
            f"(SELECT * FROM {self._keys} WHERE migration = {self._bind('migration')} "
            "AND (oldest IS NOT NULL OR length(pending) > 0) LIMIT 1)"
        )
        return self._statement(self._question(some), {"migration": migration})

    def checkpoints(self, migration: str, name: str | None = None) -> Statement:
        """The migration's row and its checkpoints, or the one of this name, for `checkpoints_of`.

        NULL stands where `LedgerRows.of` expects a key.
        """
        # In MySQL as bytes, for the character set in which the connection gets its results may lack some.
        data = "CAST(c.data AS BINARY)" if self._mysql else "c.data"
        which = "" if name is None else f" AND c.name = {self._bind('name')}"
        sql = (
            f"SELECT {self._own}, NULL, c.name, {data}, c.version, {self._now} - c.saved "
            f"FROM {self._migrations} AS m LEFT JOIN {self._checkpoints} AS c ON c.migration = m.name{which} "
            f"WHERE m.name = {self._bind('migration')}"
        )
        return self._statement(sql, {"migration": migration, "name": name})

    def summary(self, migration: str) -> Statement:
        """The migration's row, how many keys are stale, how many tokens there are, and the age of the oldest.

        The last three stand where `LedgerRows.of` expects a key's columns; the age is in microseconds, or None.
        """
        sql = (
            f"SELECT {self._own}, NULL, NULL, k.stale, k.pending, {self._now} - k.oldest "
            f"FROM {self._migrations} AS m CROSS JOIN (SELECT count(CASE WHEN stale THEN 1 END) AS stale, "
            f"coalesce(sum(length(pending)), 0) / {ENTRY} AS pending, min(oldest) AS oldest "
            f"FROM {self._keys} WHERE migration = {self._bind('migration')}) AS k "
            f"WHERE m.name = {self._bind('migration')}"
        )
        return self._statement(sql, {"migration": migration})

    # The migration's own row

    def insert_migration(
        self, migration: str, identity: str, opened: float, incarnation: str, token_seconds: float
    ) -> Statement:
        """Make the migration's row, if there is none."""
        values = (migration, SCHEMA_VERSION, identity, opened, 0, incarnation, token_seconds, 0)
        # Not INSERT IGNORE, which answers with a warning.
        absent = "ON DUPLICATE KEY UPDATE name = name" if self._mysql else "ON CONFLICT (name) DO NOTHING"
        binds = ", ".join(map(self._bind, MIGRATION_COLUMNS))
        sql = f"INSERT INTO {self._migrations} ({', '.join(MIGRATION_COLUMNS)}) VALUES ({binds}) {absent}"
        return self._statement(sql, dict(zip(MIGRATION_COLUMNS, values, strict=True)))

    def open_to(self, migration: str, rate: float) -> Statement:
        """Raise `opened` to `rate`, if it is below."""
        return self._raise("opened", migration, rate)

    def keep_tokens_for(self, migration: str, seconds: float) -> Statement:
        """Let nobody reap tokens that are younger than this."""
        return self._raise("token_seconds", migration, seconds)

    def _raise(self, column: str, migration: str, value: float) -> Statement:
        least = self._bind("least")
        sql = (
            f"UPDATE {self._migrations} SET {column} = {least} "
            f"WHERE name = {self._bind('migration')} AND {column} >= 0 AND {column} < {least}"
        )
        return self._statement(sql, {"migration": migration, "least": value})

    def count_reaped(self, migration: str, tokens: int) -> Statement:
        """Add to how many tokens were ever reaped."""
        sql = (
            f"UPDATE {self._migrations} SET reaped = reaped + {self._bind('tokens')} "
            f"WHERE name = {self._bind('migration')} AND reaped >= 0"
        )
        return self._statement(sql, {"migration": migration, "tokens": tokens})

    # Checkpoints

    def insert_checkpoint(self, migration: str, name: str, data: str) -> Statement:
        """Make the first version of a checkpoint, if there is none."""
        absent = (
            "ON DUPLICATE KEY UPDATE name = name" if self._mysql else "ON CONFLICT (migration, name) DO NOTHING"
        )
        sql = (
            f"INSERT INTO {self._checkpoints} ({', '.join(CHECKPOINT_COLUMNS)}) "
            f"VALUES ({self._bind('migration')}, {self._bind('name')}, {self._text_bind('data')}, 1, {self._now}) "
            f"{absent}"
        )
        return self._statement(sql, {"migration": migration, "name": name, "data": self._text_given(data)})

    def update_checkpoint(self, migration: str, name: str, data: str, version: int) -> Statement:
        """Replace this version of a checkpoint by the next."""
        sql = (
            f"UPDATE {self._checkpoints} SET data = {self._text_bind('data')}, version = version + 1, "
            f"saved = {self._now} WHERE migration = {self._bind('migration')} AND name = {self._bind('name')} "
            f"AND version = {self._bind('version')}"
        )
        values = {"migration": migration, "name": name, "data": self._text_given(data), "version": version}
        return self._statement(sql, values)

    # Reset: statements of one transaction, during which no other can change a key of the migration.

    def lock(self, migration: str) -> list[Statement]:
        """Begin it, and keep everything that changes the migration's keys out of them until it ends."""
        values = {"migration": migration}
        if self._sqlite:
            return [self._statement("BEGIN IMMEDIATE", {})]
        if self._postgresql:
            # At READ COMMITTED each statement sees what was committed before it, and so before the lock was had.
            begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
            lock = f"LOCK TABLE {self._keys} IN SHARE ROW EXCLUSIVE MODE"
            return [self._statement(begin, {}), self._statement(lock, {})]
        # At REPEATABLE READ InnoDB locks the gaps between the rows as well, into which `begin` inserts. Both
        # locks come before any question, so that the transaction sees what was committed before it had them.
        own = f"SELECT count(*) FROM {self._migrations} WHERE name = {self._bind('migration')} FOR UPDATE"
        keys = (
            f"SELECT count(*) FROM {self._keys} FORCE INDEX (PRIMARY) "
            f"WHERE migration = {self._bind('migration')} FOR UPDATE"
        )
        return [
            self._statement("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", {}),
            self._statement("START TRANSACTION", {}),
            self._statement(own, values),
            self._statement(keys, values),
        ]

    def reset(self, migration: str) -> list[Statement]:
        """Forget the migration's keys and checkpoints, and begin another epoch."""
        bind = self._bind("migration")
        forgotten = (f"DELETE FROM {table} WHERE migration = {bind}" for table in (self._keys, self._checkpoints))
        anew = f"UPDATE {self._migrations} SET opened = 0, epoch = epoch + 1, reaped = 0 WHERE name = {bind}"
        return [self._statement(sql, {"migration": migration}) for sql in (*forgotten, anew)]

    # Tables

    def missing(self, connection: Connection) -> list[str]:
        """What creates the tables that are not there, in order; empty where all are.

        Raises:
            LedgerMismatch: a table of that name is another's, or the table of keys was lost.
        """
        found = inspect(connection)
        # The table of migrations is made last, and is looked for first: where it is, the others were whole.
        there = {
            name
            for name, columns in (
                (self.migrations_name, MIGRATION_COLUMNS),
                (self.keys_name, KEY_COLUMNS),
                (self.checkpoints_name, CHECKPOINT_COLUMNS),
            )
            if self._is_there(found, name, columns)
        }
        if self.migrations_name in there and self.keys_name not in there:
            # Made anew, it would pass for whole with the processes that knew it before.
            raise LedgerMismatch(
                f"the ledger's table {self.keys_name!r} was lost, and with it which keys are stale: {ADVICE}, for "
                "which drop what is left of this one or choose other names with tables="
            )
        if self.migrations_name in there:
            there.add(self._index_name)
        return [create for name, create in self._created if name not in there]

    def _is_there(self, found: Any, name: str, columns: Collection[str]) -> bool:
        if not found.has_table(name, schema=self.schema):
            return False
        if not set(columns) <= {column["name"] for column in found.get_columns(name, schema=self.schema)}:
            raise LedgerMismatch(
                f"the database has a table {name!r} that is no ledger's: choose other names with tables="
            )
        return True

    @property
    def ddl(self) -> list[str]:
        """The statements that create the tables."""
        return [create for _, create in self._created]

    @property
    def _created(self) -> list[tuple[str, str]]:
        """What is created, in order, and its name."""
        created = (
            (self.keys_name, self._create_keys()),
            (self._index_name, self._create_index()),
            (self.checkpoints_name, self._create_checkpoints()),
            (self.migrations_name, self._create_migrations()),
        )
        return [(name, create) for name, create in created if create]

    def _create_keys(self) -> str:
        key, index = "bytea" if self._postgresql else "BLOB", ""
        if self._mysql:
            key, index = f"VARBINARY({MAX_KEY_BYTES})", f", INDEX {self._index_name} (migration, oldest)"
        return (
            f"CREATE TABLE {self._keys} (migration {self._text(MAX_NAME_CHARACTERS)} NOT NULL, "
            f"{self._key} {key} NOT NULL, pending {self._long_ascii} NOT NULL, stale BOOLEAN NOT NULL, "
            f"contended BOOLEAN NOT NULL, oldest BIGINT, PRIMARY KEY (migration, {self._key}){index})"
            f"{self._table_options}"
        )

    def _create_migrations(self) -> str:
        return (
            f"CREATE TABLE {self._migrations} (name {self._text(MAX_NAME_CHARACTERS)} NOT NULL PRIMARY KEY, "
            f"schema_version INTEGER NOT NULL, identity {self._text(1000)} NOT NULL, "
            f"opened DOUBLE PRECISION NOT NULL, epoch INTEGER NOT NULL, incarnation {self._text(32)} NOT NULL, "
            f"token_seconds DOUBLE PRECISION NOT NULL, reaped BIGINT NOT NULL)"
            f"{self._table_options}"
        )

    def _create_checkpoints(self) -> str:
        data = "MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if self._mysql else "TEXT"
        return (
            f"CREATE TABLE {self._checkpoints} (migration {self._text(MAX_NAME_CHARACTERS)} NOT NULL, "
            f"name {self._text(MAX_CHECKPOINT_NAME)} NOT NULL, data {data}, version INTEGER NOT NULL, "
            f"saved BIGINT NOT NULL, PRIMARY KEY (migration, name)){self._table_options}"
        )

    def _create_index(self) -> str | None:
        """For the reaper: of the rows that have a token, which are few."""
        if self._mysql:
            return None
        index, table = self._index_name, self._keys
        if self._sqlite:  # where an index says which schema it is in, and its table must not
            index, table = f"{self._schema}{index}", self._held
        return f"CREATE INDEX IF NOT EXISTS {index} ON {table} (migration, oldest) WHERE oldest IS NOT NULL"

    def _text(self, characters: int) -> str:
        return f"VARCHAR({characters})" + (" CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if self._mysql else "")

    @property
    def _long_ascii(self) -> str:
        return "MEDIUMTEXT CHARACTER SET ascii COLLATE ascii_bin" if self._mysql else "TEXT"

    @property
    def _table_options(self) -> str:
        return " ENGINE=InnoDB ROW_FORMAT=DYNAMIC" if self._mysql else ""

    # Parts of statements

    def _add(
        self, migration: str, keys: Sequence[bytes], mark: str, changes: Sequence[str], where: str = ""
    ) -> Statement:
        """Insert each key with the token, or make the changes, in their order, to the row that there is."""
        columns = ", ".join(self._key if column == "key" else column for column in KEY_COLUMNS)
        row = "{migration}, {key}, {entry}, false, false, {now}".format
        rest = {"migration": self._bind("migration"), "entry": self._entry, "now": self._now}
        if self._postgresql:
            rows = f"SELECT {row(key='given', **rest)} FROM unnest({self._bind('keys')}) AS given"
        else:
            rows = f"VALUES {', '.join(f'({row(key=key, **rest)})' for key in self._key_binds(keys))}"
        conflict = f"ON CONFLICT (migration, {self._key}) DO UPDATE SET"
        if self._mysql:
            conflict = "ON DUPLICATE KEY UPDATE"
        sql = f"INSERT INTO {self._keys} ({columns}) {rows} {conflict} {', '.join(changes)}{where}"
        return self._statement(sql, {"migration": migration, "mark": mark} | self._given(keys))

    def _take(self, migration: str, keys: Sequence[bytes], mark: str, change: str) -> Statement:
        """Remove the token where it is pending, and make one more change there."""
        position = self._position
        pending = self._concatenation(
            f"substr(pending, 1, {position} - 1)", f"substr(pending, {position} + {ENTRY})"
        )
        changes = (
            f"{change}contended = (length(pending) > {ENTRY}), "
            f"oldest = CASE WHEN {position} > 1 THEN oldest ELSE {self._second()} END, "
            f"pending = {pending}"
        )
        return self._change(migration, keys, f"{position} > 0", changes, mark=mark)

    def _second(self) -> str:
        """The time of the second token, or NULL."""
        time = f"substr(pending, {2 * ENTRY - TIME_DIGITS + 1}, {TIME_DIGITS})"
        return f"CASE WHEN length(pending) > {ENTRY} THEN CAST({time} AS {self._integer}) ELSE NULL END"

    def _drop(self, migration: str, keys: Sequence[bytes], mark: str, condition: str) -> Statement:
        return self._change(migration, keys, condition, None, mark=mark)

    def _change(
        self, migration: str, keys: Sequence[bytes], condition: str, changes: str | None, **parameters: Any
    ) -> Statement:
        """Update, or delete where `changes` is None, those rows of `keys` that meet the condition."""
        among = f"migration = {self._bind('migration')} AND {self._key} {self._among(keys)}"
        if self._postgresql and len(keys) > 1:
            locked = f"SELECT {self._key} FROM {self._keys} WHERE {among} ORDER BY {self._key} FOR UPDATE"
            among = f"migration = {self._bind('migration')} AND {self._key} = ANY(ARRAY({locked}))"
        delete, table = "DELETE FROM", self._keys
        if self._mysql:
            delete, table = "DELETE k FROM", f"{self._keys} AS k FORCE INDEX (PRIMARY)"
        change = f"{delete} {table}" if changes is None else f"UPDATE {table} SET {changes}"
        values = {"migration": migration} | self._given(keys) | parameters
        return self._statement(f"{change} WHERE {among} AND {condition}", values)

    def _question(self, keys: str, condition: str = "") -> str:
        """What asks for the migration's row, and for those rows of `keys` that meet the condition."""
        return (
            f"SELECT {self._own}, k.{self._key}, k.pending, k.stale, k.contended, k.oldest "
            f"FROM {self._migrations} AS m LEFT JOIN {keys} AS k ON k.migration = m.name{condition} "
            f"WHERE m.name = {self._bind('migration')}"
        )

    @property
    def _old(self) -> str:
        """Whether a key's first token is old enough for everybody."""
        kept = f"SELECT token_seconds * 1000000 FROM {self._migrations} WHERE name = {self._bind('migration')}"
        return f"oldest < {self._now} - {self._bind('age')} AND oldest < {self._now} - ({kept})"

    @property
    def _own(self) -> str:
        return "m.name, m.schema_version, m.identity, m.incarnation, m.opened, m.epoch, m.token_seconds, m.reaped"

    def _among(self, keys: Sequence[bytes]) -> str:
        if self._postgresql:
            return f"= ANY({self._bind('keys')})"
        return f"IN ({', '.join(self._key_binds(keys))})"

    def _key_binds(self, keys: Sequence[bytes]) -> Iterable[str]:
        """Where each key stands in a statement, but in PostgreSQL."""
        binds = map(self._bind, self._given(keys))
        return (f"UNHEX({bind})" for bind in binds) if self._mysql else binds

    def _given(self, keys: Sequence[bytes]) -> dict[str, Any]:
        """The parameters that hold the keys: in PostgreSQL an array, so that there is one text for any number.

        In MySQL they are hexadecimal. Its drivers put parameters into the text of the statement, where the
        character set of the connection, and how aiomysql escapes under NO_BACKSLASH_ESCAPES, would change bytes.
        """
        if self._postgresql:
            return {"keys": list(keys)}
        if self._mysql:
            return {f"k{place}": key.hex() for place, key in enumerate(keys)}
        return {f"k{place}": key for place, key in enumerate(keys)}

    def _text_bind(self, name: str) -> str:
        """Where the text of a checkpoint stands. In MySQL it is hexadecimal, for the reasons that keys are."""
        return f"CONVERT(UNHEX({self._bind(name)}) USING utf8mb4)" if self._mysql else self._bind(name)

    def _text_given(self, text: str) -> str | None:
        """The parameter that holds it; None is the empty text."""
        return (text.encode().hex() if self._mysql else text) or None

    def _bind(self, name: str) -> str:
        return f"{BIND}{name}{BIND}"

    def _statement(self, sql: str, values: Mapping[str, Any]) -> Statement:
        """The statement with each parameter where `_bind` put its name."""
        parts = sql.split(BIND)
        names = parts[1::2]
        parts[1::2] = ["?" if self._sqlite else "%s"] * len(names)
        return "".join(parts), tuple(values[name] for name in names)

    def _concatenation(self, first: str, second: str) -> str:
        return f"CONCAT({first}, {second})" if self._mysql else f"{first} || {second}"
