"""The ledger in a SQL database: equal to the reference state machine, and to itself under concurrency."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import NullPool, create_engine, event, inspect, text
from sqlalchemy.dialects import mssql
from sqlalchemy.dialects.mysql import mysqlconnector
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.servers import PostgreSqlServer
from tests.worlds import settle
from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_adapters._sql_ledger_tables import KEYS_PER_STATEMENT, LedgerTables
from zddm_adapters.sqlalchemy import AsyncSqlAlchemyLedger, SqlAlchemyLedger
from zddm_flags import AsyncProxy, Proxy, TrafficGate
from zddm_flags.errors import InvalidKey, InvalidRollout, LedgerMismatch, NotApplied, Unsupported
from zddm_flags.ledger import (
    AsyncLedger,
    AsyncMigrationLedger,
    CopyGrant,
    Grant,
    Ledger,
    LedgerTable,
    MigrationLedger,
    Opening,
)
from zddm_flags.testing._async._world_cancellation import cancellations
from zddm_flags.tokens import new_token

K, L, M = b"sk", b"sl", b"sm"
KEYS = (K, L, M)
HOUR = 3600.0
JOB = "backfill/1"
IDENTITY = "xxh3-64"
TABLES = ("keys", "checkpoints", "migrations")
ENTRY = re.compile(r"\|([A-Za-z0-9-]+)\.*@([0-9]{16})")
prefixes = (f"ledger_{number}" for number in itertools.count())
migrations = (f"migration {number}" for number in itertools.count())


class Rows:
    """The tables of one ledger, and the ledgers of one world over them."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.backend: str = world.backend
        self.asyncio = isinstance(world.engine, AsyncEngine)
        self.tables = next(prefixes)
        self._engines: list[Any] = []
        self.engine = self.new_engine()
        self.ledger = self.new_ledger(engine=self.engine)

    def new_engine(self, **options: Any) -> Any:
        """An engine as the ledger's docstring recommends it, disposed of after the test."""
        self._engines.append(self.world.new_engine(isolation_level="AUTOCOMMIT", **options))
        return self._engines[-1]

    def engine_with(self, statement: str) -> Any:
        """An engine each of whose connections begins with a statement, after all that SQLAlchemy sets."""

        def connected(connection: Any, _: object) -> None:
            connection.cursor().execute(statement)

        engine = self.new_engine()
        event.listen(_blocking(engine), "connect", connected)
        return engine

    def new_ledger(self, *, engine: Any = None, **options: Any) -> Any:
        """One more ledger over the same tables, as another process has it."""
        kind: Any = AsyncSqlAlchemyLedger if self.asyncio else SqlAlchemyLedger
        return kind(engine or self.new_engine(), **{"tables": self.tables} | options)

    def migration(self, name: str = "users", **options: Any) -> Any:
        """A migration of one more ledger."""
        return self.new_ledger(**options).migration(name, IDENTITY)

    def execute(self, statement: str, **parameters: Any) -> Sequence[Any]:
        """Something beside the ledger. `{keys}`, `{checkpoints}` and `{migrations}` stand for the tables."""
        statement = statement.format(**{table: f"{self.tables}_{table}" for table in TABLES})
        with self.world.beside.begin() as connection:
            result = connection.execute(text(statement), parameters)
            return result.all() if result.returns_rows else ()

    def state(self, name: str) -> dict[bytes, tuple[frozenset[bytes], bool, bool]]:
        """Each dirty key's tokens, *stale* and *contended*, as they are in the table."""
        key = "`key`" if self.backend == "mariadb" else '"key"'
        found = self.execute(
            f"SELECT {key}, pending, stale, contended, oldest FROM {{keys}} WHERE migration = :name", name=name
        )
        state: dict[bytes, tuple[frozenset[bytes], bool, bool]] = {}
        for where, pending, stale, contended, oldest in found:
            entries = ENTRY.findall(pending)
            assert "".join(f"|{token:.<48}@{begun}" for token, begun in entries) == pending
            assert (oldest is None) == (not entries)
            if oldest is not None:  # PostgreSQL and MySQL have one time per statement, SQLite one per step
                assert oldest == int(entries[0][1])
            if entries or stale:
                tokens = frozenset(token.encode() for token, _ in entries)
                state[bytes(where)] = tokens, bool(stale), bool(contended)
        return state

    def indexes(self) -> list[Any]:
        """The names of the indexes of the table of keys, but that of its primary key."""
        self.execute("SELECT 1 FROM {keys}")  # without this SQLite inspects what it remembers
        return [index["name"] for index in inspect(self.world.beside).get_indexes(f"{self.tables}_keys")]

    def grow_older(self, name: str, seconds: float) -> None:
        """Let all tokens of a migration have begun this much earlier."""
        key = "`key`" if self.backend == "mariadb" else '"key"'
        where = f"WHERE migration = :name AND {key} = :key"
        less = int(seconds * 1_000_000)
        for found, pending in self.execute(
            f"SELECT {key}, pending FROM {{keys}} WHERE migration = :name AND pending <> ''", name=name
        ):
            older = re.sub("[0-9]{16}", lambda time: f"{int(time[0]) - less:016}", pending)
            self.execute(
                f"UPDATE {{keys}} SET pending = :older, oldest = oldest - :less {where}",
                older=older, less=less, name=name, key=found,
            )  # fmt: skip

    async def together(self, *bodies: Callable[[], Awaitable[Any]]) -> list[Any]:
        """Run them at once: as tasks, or each in a thread of its own."""
        if self.asyncio:
            return await asyncio.gather(*(body() for body in bodies))
        return await asyncio.gather(*(asyncio.to_thread(_run, body) for body in bodies))

    def start(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Begin a call of the ledger, and go on."""
        return asyncio.ensure_future(call() if self.asyncio else asyncio.to_thread(call))

    async def close_engines(self) -> None:
        """Close all connections of the ledgers."""
        for engine in self._engines:
            await settle(engine.dispose())

    async def close(self) -> None:
        """Leave nothing behind."""
        await self.close_engines()
        self.drop(self.tables)

    def drop(self, tables: str) -> None:
        """Remove a ledger's tables, so far as they are there."""
        for table in TABLES:
            self.execute(f"DROP TABLE IF EXISTS {tables}_{table}")


def _blocking(engine: Any) -> Any:
    """What listeners are set up for."""
    return getattr(engine, "sync_engine", engine)


def _run(body: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await body()

    return asyncio.run(main())


@pytest.fixture
async def rows(world: Any) -> AsyncIterator[Rows]:
    """A ledger in each database and each world."""
    if world.backend == "sqlite":
        with world.beside.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    found = Rows(world)
    yield found
    await found.close()


@pytest.fixture
def on_server(rows: Rows) -> Rows:
    """Of these, the databases that have locks of rows."""
    if rows.backend == "sqlite":
        pytest.skip("SQLite locks the whole file")
    return rows


@pytest.fixture
def migration(rows: Rows) -> Any:
    return rows.ledger.migration("users", IDENTITY)


class Reference:
    """`LedgerTable`, told the time."""

    def __init__(self) -> None:
        self.table = LedgerTable()
        self.now = 0.0

    def state(self) -> dict[bytes, tuple[frozenset[bytes], bool, bool]]:
        return {
            key: (frozenset(entry.pending), entry.stale, entry.contended)
            for key, entry in self.table._entries.items()
        }

    def pairs(self, begun_before: float = float("inf")) -> int:
        """How many keys the tokens are pending on, each token counted for each of its keys."""
        return sum(len(keys) for begun, keys in self.table._tokens.values() if begun < begun_before)


# --- the reference


some_keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True)
which = st.integers(0, 8)  # of the tokens that are pending; the largest means one that is not
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["begin", "begin_copy", "dirty"]), some_keys),
        st.tuples(st.just("begin"), some_keys),
        st.tuples(st.just("end"), which, st.dictionaries(st.sampled_from(KEYS), st.booleans())),
        st.tuples(st.just("end"), which, st.just(dict.fromkeys(KEYS, True))),
        st.tuples(st.just("withdraw"), which, some_keys),
        st.tuples(st.just("open_to"), st.floats(0, 1)),
        st.tuples(st.sampled_from(["grow_older", "reap"])),
    ),
    min_size=5,
    max_size=30,
)


@given(steps)
@example([("begin", [K])] * 2 + [("end", 0, {K: True})] * 2 + [("begin", [K]), ("end", 0, {K: True})])
@example([("begin", [K])] * 3 + [("withdraw", 1, [K])] * 2 + [("end", 0, {K: True}), ("begin_copy", [K])])
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_it_is_equal_to_the_reference(rows: Rows, steps: list[Any]) -> None:
    """After any sequence of calls, replies and state are those of `LedgerTable`."""
    name = next(migrations)
    ledger, reference = rows.ledger.migration(name, IDENTITY), Reference()
    for step, *arguments in steps:
        await _step(rows, name, ledger, reference, step, arguments)
        assert rows.state(name) == reference.state()
    summary = await settle(ledger.summary())
    wanted = reference.table.summary(reference.now)
    assert (summary.stale, summary.pending) == (wanted.stale, reference.pairs())
    assert (summary.opened, summary.epoch) == (wanted.opened, wanted.epoch)
    assert (summary.oldest_pending_seconds is None) == (wanted.oldest_pending_seconds is None)
    assert ledger.last_summary() == summary


async def _step(rows: Rows, name: str, ledger: Any, reference: Reference, step: str, arguments: list[Any]) -> None:
    """One call of the ledger, compared with the reference's."""
    table = reference.table
    reference.now += 1
    if step in {"begin", "begin_copy"}:
        token = new_token()
        wanted = getattr(table, step)(*arguments, token, reference.now)
        assert await settle(getattr(ledger, step)(*arguments, token)) == wanted
    elif step in {"end", "withdraw"}:
        which, keys = arguments
        pending = list(table._tokens)
        token = pending[which % len(pending)] if pending and which < 8 else new_token()
        assert set(await settle(ledger.alone(KEYS, token))) == set(table.alone(KEYS, token))
        getattr(table, step)(keys, token)
        await settle(getattr(ledger, step)(keys, token))
    elif step == "dirty":
        assert set(await settle(ledger.dirty(*arguments))) == set(table.dirty(*arguments))
    elif step == "open_to":
        assert await settle(ledger.open_to(*arguments)) == table.open_to(*arguments)
    elif step == "grow_older":
        rows.grow_older(name, HOUR)
        reference.now += HOUR
    else:
        old = reference.pairs(reference.now - HOUR / 2)
        table.reap(reference.now - HOUR / 2, 1000)
        assert await settle(ledger.reap(HOUR / 2)) == old


async def test_migrations_share_nothing_but_the_tables(rows: Rows) -> None:
    """What one migration does is seen by its other processes, and by no other migration."""
    users, orders = rows.migration("users"), rows.migration("orders")
    token = new_token()
    await settle(users.begin([K], token))
    await settle(users.open_to(0.5))
    assert list(await settle(rows.migration("users").dirty([K]))) == [K]
    assert list(await settle(orders.dirty([K]))) == []
    assert await settle(orders.begin([K], token)) == Grant(frozenset(), 0.0, 0)
    await settle(users.end({K: True}, token))
    assert list(await settle(orders.dirty([K]))) == [K]


async def test_keys_are_told_apart_byte_by_byte(migration: Any) -> None:
    """No collation, padding or truncation makes two keys one; a key of the largest size is like any other."""
    keys = [b"k", b"K", b"k ", b"k\0", b"", b" ", b"\0", b"\xff\xfe", "é".encode(), b"e\xcc\x81", b"k'\\%s:k0"]
    keys += [bytes(1024), bytes(1023), b"x" * 1023 + b"y", b"x" * 1024]
    for key in keys:
        assert await settle(migration.begin([key], new_token())) == Grant(frozenset(), 0.0, 0)
    assert set(await settle(migration.dirty(keys))) == set(keys)
    assert (await settle(migration.begin(keys, new_token()))).contended == set(keys)


async def test_names_are_told_apart(rows: Rows) -> None:
    """Names that differ in case or accents are two migrations; one that a database would change is refused."""
    for name in ("users", "Users", "üsers", "users%s", "users'", "u" * 100, "\N{CAT FACE}" * 100):
        assert list(await settle(rows.ledger.migration(name, IDENTITY).dirty([K]))) == []
        await settle(rows.ledger.migration(name, IDENTITY).begin([K], new_token()))
    for name in ("", "users ", "a\0b", "u" * 101):
        with pytest.raises(ValueError, match="1 to 100 characters"):
            rows.ledger.migration(name, IDENTITY)


BACKSLASHES = [b"sit's", b"s\\", b"s\\\\", b's\\"', b"s\\0", b"s\0"]
NO_TEXT = [b"b\xff", b"b\xfe", b"b\xbf\\", b"b\xbf'", b"s\xc3\xa9"]


@pytest.mark.parametrize(
    "setting",
    [
        "SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'",
        "SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT'",
        "SESSION sql_mode = 'EMPTY_STRING_IS_NULL'",  # and not strict, so that NULL becomes 0 with a warning
        "character_set_connection = latin1",
        "character_set_connection = sjis",
    ],
)
async def test_settings_of_the_server_change_no_key(rows: Rows, setting: str) -> None:
    """Whatever the server makes of literals in a statement, keys are pending, stale and clean as ever."""
    if rows.backend != "mariadb":
        pytest.skip("the other drivers send parameters beside the statement")
    ledger, keys = rows.migration(engine=rows.engine_with(f"SET {setting}")), [*BACKSLASHES, *NO_TEXT]
    for ok in (False, True, True):
        token = new_token()
        assert (await settle(ledger.begin(keys, token))).contended == frozenset()
        assert set(rows.state("users")) == set(keys) == set(await settle(ledger.dirty(keys)))
        await settle(ledger.end(dict.fromkeys(keys, ok), token))
        assert set(await settle(ledger.dirty(keys))) == (set() if ok else set(keys))
    token = new_token()
    assert (await settle(ledger.begin_copy(keys, token))).granted == set(keys)
    assert (await settle(ledger.begin_copy(keys, new_token()))).granted == set()
    await settle(ledger.withdraw(keys, token))
    assert rows.state("users") == {}


@pytest.mark.parametrize("change", ["character set", "collation"])
async def test_a_database_that_changes_names_is_refused(rows: Rows, change: str) -> None:
    """Where two names would be one to the database, whoever comes second does not get the rows of the first."""
    if rows.backend != "mariadb":
        pytest.skip("the others have no such settings")
    await settle(rows.migration("us\u00e9rs?").dirty([K]))
    if change == "collation":
        for table in ("migrations", "keys"):
            rows.execute(f"ALTER TABLE {{{table}}} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
        second = rows.migration("Us\u00c9rs?")
    else:
        engine = rows.engine_with("SET character_set_connection = latin1")
        second = rows.migration("us\u00e9rs\u0416", engine=engine)
    for call in (lambda: second.begin([K], new_token()), lambda: second.dirty([K])):
        with pytest.raises(LedgerMismatch, match=r"answers with 'us\u00e9rs\?'.*collation.*character set"):
            await settle(call())


async def test_what_cannot_be_kept_is_refused(migration: Any) -> None:
    """A key that is too long raises InvalidKey without the key, a token of other characters ValueError."""
    key = b"secret" * 171
    for call in (migration.begin, migration.begin_copy, migration.withdraw):
        with pytest.raises(InvalidKey) as refused:
            await settle(call([key], new_token()))
        assert "secret" not in str(refused.value)
    with pytest.raises(InvalidKey):
        await settle(migration.dirty([key]))
    for token in (b"", b"x" * 49, b"a|b", b"a@b", b"a.b", b"\xff"):
        with pytest.raises(ValueError, match="token"):
            await settle(migration.begin([K], token))
        with pytest.raises(ValueError, match="token"):
            await settle(migration.end({K: True}, token))
    longest = b"x" * 48
    await settle(migration.begin([K], longest))
    await settle(migration.end({K: True}, longest))
    assert list(await settle(migration.dirty([K]))) == []


async def test_a_token_is_not_the_beginning_of_another(migration: Any, rows: Rows) -> None:
    """`end` takes the token that it was given, not one that begins, ends or goes on like it."""
    for token in (b"ab", b"abc", b"bc", b"b"):
        await settle(migration.begin([K], token))
    await settle(migration.end({K: True}, b"b"))
    assert rows.state("users")[K][0] == {b"ab", b"abc", b"bc"}
    await settle(migration.end({K: True}, b"a"))
    assert rows.state("users")[K][0] == {b"ab", b"abc", b"bc"}


async def test_no_keys_are_no_keys(migration: Any) -> None:
    """Calls with no keys change nothing and answer what there is to answer."""
    await settle(migration.open_to(0.5))
    assert await settle(migration.begin([], new_token())) == Grant(frozenset(), 0.5, 0)
    assert await settle(migration.begin_copy([], new_token())) == CopyGrant(frozenset(), frozenset(), 0.5, 0)
    await settle(migration.end({}, new_token()))
    await settle(migration.withdraw([], new_token()))
    assert list(await settle(migration.dirty([]))) == []


async def test_more_keys_than_a_statement_takes(migration: Any) -> None:
    """A batch larger than one statement's is kept whole."""
    keys = [b"%d" % number for number in range(KEYS_PER_STATEMENT + 7)]
    token, other = new_token(), new_token()
    await settle(migration.begin(keys, token))
    assert set(await settle(migration.dirty(keys))) == set(keys)
    assert (await settle(migration.begin_copy(keys, other))).granted == set()
    await settle(migration.withdraw(keys[:3], token))
    assert (await settle(migration.summary())).pending == len(keys) - 3
    await settle(migration.end(dict.fromkeys(keys, True), token))
    assert list(await settle(migration.dirty(keys))) == []


async def test_a_rate_comes_back_as_it_was(rows: Rows) -> None:
    """Every double is kept exactly, so that `opened` is never a little below the rate that was asked."""
    chance = random.Random(7)
    rates = sorted(
        {chance.random() for _ in range(40)} | {chance.random() ** 20 for _ in range(40)} | {5e-324, 1.0}
    )
    migration = rows.ledger.migration("users", IDENTITY)
    for rate in rates:
        assert await settle(migration.open_to(rate)) == Opening(rate, 0)
    assert await settle(migration.open_to(0.1)) == Opening(1.0, 0)
    for rate in rates[::8]:
        found = rows.migration(next(migrations), engine=rows.engine, opened=rate)
        assert (await settle(found.begin([K], new_token()))).opened == rate


async def test_reap_takes_the_old_and_leaves_the_young(rows: Rows, migration: Any) -> None:
    """Tokens of any key are reaped by their age, at most `limit`; a key with a younger one stays contended."""
    old, older, young = new_token(), new_token(), new_token()
    await settle(migration.begin([K, L], older))
    await settle(migration.begin([K], old))
    rows.grow_older("users", HOUR)
    await settle(migration.begin([K, M], young))
    summary = await settle(migration.summary())
    assert HOUR <= summary.oldest_pending_seconds < HOUR + 60
    assert await settle(migration.reap(2 * HOUR)) == 0
    assert await settle(migration.reap(HOUR / 2, 0)) == 0
    assert await settle(migration.reap(HOUR / 2, 1)) == 1
    assert await settle(migration.reap(HOUR / 2)) == 2
    assert rows.state("users") == {
        K: (frozenset({young}), True, True),
        L: (frozenset(), True, False),
        M: (frozenset({young}), False, False),
    }
    await settle(migration.end({K: True, L: True}, older))  # it was reaped: nothing changes
    assert rows.state("users")[L] == (frozenset(), True, False)


async def test_times_are_exact_in_any_time_zone(rows: Rows) -> None:
    """A token's time is that of its begin, to the millisecond, whatever the time zone of the connection."""
    zone = {"postgresql": "SET TIME ZONE '+05:30'", "mariadb": "SET time_zone = '+05:30'"}
    migration = rows.migration(engine=rows.engine_with(zone.get(rows.backend, "SELECT 1")))
    await settle(migration.dirty([K]))
    for key in KEYS:
        earliest = time.time()
        await settle(migration.begin([key], new_token()))
        latest = time.time()
        begun = max(row[0] for row in rows.execute("SELECT oldest FROM {keys}")) / 1_000_000
        assert earliest - 0.002 <= begun <= latest + 0.002  # SQLite counts in milliseconds


async def test_an_age_is_exact(rows: Rows, migration: Any) -> None:
    """A token is not reaped a fraction of a second early."""
    before = time.monotonic()
    await settle(migration.begin([K], new_token()))
    rows.grow_older("users", HOUR)
    reaped = await settle(migration.reap(HOUR + 0.9))
    assert reaped == 0 or time.monotonic() - before > 0.9
    assert reaped + await settle(migration.reap(HOUR)) == 1


async def test_reap_looks_again_under_the_lock(rows: Rows, migration: Any) -> None:
    """A key that was old when the reaper looked, and is not when it comes to it, is left alone."""
    token = new_token()
    await settle(migration.begin([K], token))
    rows.grow_older("users", HOUR)
    wire = Wire(rows.engine)
    wire.before = lambda number: rows.grow_older("users", -HOUR) if number == 2 else None
    assert await settle(migration.reap(HOUR / 2)) == 0
    assert rows.state("users") == {K: (frozenset({token}), False, False)}


# --- what it costs


class Wire:
    """Sees the statements of an engine, and can lose a reply or refuse a statement."""

    def __init__(self, engine: Any) -> None:
        self.statements: list[str] = []
        self.before: Callable[[int], None] = lambda number: None
        self.after: Callable[[int], None] = lambda number: None
        self.lost = False
        engine = getattr(engine, "sync_engine", engine)
        self._errors: Any = engine.dialect.dbapi
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        event.listen(engine, "handle_error", self._handle)

    def _before(self, *arguments: Any) -> None:
        self.statements.append(arguments[2])
        self.before(len(self.statements))

    def _after(self, *arguments: Any) -> None:
        self.after(len(self.statements))

    def _handle(self, context: Any) -> None:
        if self.lost:
            context.is_disconnect = True
            self.lost = False

    def lose(self, number: int) -> Callable[[int], None]:
        """Break the connection at the statement of this number."""

        def at(statement: int) -> None:
            if statement == number:
                self.lost = True
                raise self._errors.OperationalError("the connection was lost")

        return at

    def interrupt(self, number: int) -> Callable[[int], None]:
        """Stop the process, as it were, before the statement of this number."""

        def at(statement: int) -> None:
            if statement == number:
                raise Interrupted

        return at

    def deadlock(self, *numbers: int) -> Callable[[int], None]:
        """What MySQL says to a deadlock's victim, at the statements of these numbers."""

        def at(statement: int) -> None:
            if statement in numbers:
                raise self._errors.OperationalError(1213, "Deadlock found")

        return at

    def reset(self) -> None:
        self.statements.clear()
        self.before = self.after = lambda number: None


async def test_a_call_is_at_most_two_statements(rows: Rows, migration: Any) -> None:
    """Beginning costs two statements, ending and asking one, and ending what is contended two."""
    await settle(migration.dirty([K]))
    wire = Wire(rows.engine)
    first, second, third = new_token(), new_token(), new_token()
    costs: list[int] = []
    for call in (
        lambda: migration.begin(KEYS, first),
        lambda: migration.end(dict.fromkeys(KEYS, True), first),
        lambda: migration.begin([K, L], first),
        lambda: migration.begin([K, L], second),
        lambda: migration.end({K: True, L: False}, first),
        lambda: migration.end({K: True, L: True}, second),
        lambda: migration.begin_copy([M], third),
        lambda: migration.withdraw([M], third),
        lambda: migration.dirty(KEYS),
        lambda: migration.open_to(0.5),
        lambda: migration.reap(HOUR),
        migration.summary,
        migration.stale_keys,
        migration.checkpoints,
        lambda: migration.save_checkpoint(JOB, "one", 0),
        lambda: migration.save_checkpoint(JOB, "two", 1),
        lambda: migration.save_checkpoint(JOB, "other", 1),
    ):
        wire.reset()
        await settle(call())
        costs.append(len(wire.statements))
    assert costs == [2, 1, 2, 2, 2, 2, 2, 1, 1, 2, 1, 1, 1, 1, 2, 1, 2]


# --- errors


class Interrupted(BaseException):
    """Like KeyboardInterrupt or a task's cancellation."""


async def test_a_lost_reply_of_what_may_be_repeated_is_made_up_for(rows: Rows) -> None:
    """Where a connection breaks before or after any statement took effect, the call comes to the same end."""
    wire = Wire(rows.engine)
    for when, number in itertools.product(("before", "after"), (1, 2)):
        wire.reset()
        name = next(migrations)
        ledger, reference = rows.ledger.migration(name, IDENTITY), Reference()
        tokens = [new_token() for _ in range(4)]
        for keys, token in zip(([K, L], [L, M], [M], [L]), tokens, strict=True):
            await settle(ledger.begin(keys, token))
            reference.table.begin(keys, token, 0)
        for call in ("withdraw", "end", "open_to", "dirty", "reap", "summary"):
            wire.reset()
            setattr(wire, when, wire.lose(number))
            if call == "withdraw":
                reference.table.withdraw([M, L], tokens[1])
                await settle(ledger.withdraw([M, L], tokens[1]))
            elif call == "end":
                reference.table.end({K: True, L: True}, tokens[0])
                await settle(ledger.end({K: True, L: True}, tokens[0]))
            elif call == "open_to":
                assert await settle(ledger.open_to(0.5)) == reference.table.open_to(0.5)
            elif call == "dirty":
                assert set(await settle(ledger.dirty(KEYS))) == set(reference.table.dirty(KEYS))
            elif call == "reap":
                rows.grow_older(name, HOUR)
                reference.table.reap(HOUR, 100)
                await settle(ledger.reap(1.0))
            else:
                assert (await settle(ledger.summary())).stale == reference.table.summary(0).stale
            assert rows.state(name) == reference.state()


async def test_a_deadlock_of_what_may_be_repeated_is_repeated_twice(rows: Rows, migration: Any) -> None:
    """`end` is issued again when it was a deadlock's victim, and after the third time the error passes."""
    token = new_token()
    await settle(migration.begin([K], token))
    wire = Wire(rows.engine)
    wire.before = wire.deadlock(1, 2, 3)
    with pytest.raises(DBAPIError, match="Deadlock"):
        await settle(migration.end({K: True}, token))
    wire.reset()
    wire.before = wire.deadlock(1, 2)
    await settle(migration.end({K: True}, token))
    assert rows.state("users") == {}


@pytest.mark.parametrize("call", ["begin", "begin_copy"])
async def test_begin_says_when_it_certainly_took_no_effect(rows: Rows, migration: Any, call: str) -> None:
    """NotApplied is raised from what the server said of the first statement, which is not issued again."""
    await settle(migration.dirty([K]))
    wire = Wire(rows.engine)
    wire.before = wire.deadlock(1)
    with pytest.raises(NotApplied) as refused:
        await settle(getattr(migration, call)([K], new_token()))
    assert isinstance(refused.value.__cause__, OperationalError)
    assert len(wire.statements) == 1
    assert rows.state("users") == {}


@pytest.mark.parametrize("call", ["begin", "begin_copy"])
@pytest.mark.parametrize(("when", "number"), [("before", 1), ("after", 1), ("before", 2), ("after", 2)])
async def test_begin_leaves_open_what_is_unknown(
    rows: Rows, migration: Any, call: str, when: str, number: int
) -> None:
    """A connection that breaks at any moment of `begin` is no NotApplied, and nothing is issued again."""
    await settle(migration.dirty([K]))
    wire, token = Wire(rows.engine), new_token()
    setattr(wire, when, wire.lose(number))
    with pytest.raises(OperationalError, match="lost"):
        await settle(getattr(migration, call)([K], token))
    assert len(wire.statements) == number
    assert rows.state("users") == (
        {} if (when, number) == ("before", 1) else {K: (frozenset({token}), False, False)}
    )


async def test_a_refusal_after_the_token_was_taken_is_unknown(rows: Rows, migration: Any) -> None:
    """What the server refuses after it made the token pending is no NotApplied."""
    await settle(migration.dirty([K]))
    wire = Wire(rows.engine)
    wire.before = wire.deadlock(2)
    with pytest.raises(OperationalError):
        await settle(migration.begin([K], new_token()))
    assert set(rows.state("users")) == {K}


async def test_no_connection_is_no_effect(rows: Rows) -> None:
    """A pool that has no connection to give, on first use or later, raises NotApplied from its error."""
    engine = rows.new_engine(pool_size=1, max_overflow=0, pool_timeout=0.01)
    migration = rows.migration(engine=engine)
    for _ in range(2):
        connection = engine.connect() if not rows.asyncio else await engine.connect()
        with pytest.raises(NotApplied) as refused:
            await settle(migration.begin([K], new_token()))
        assert isinstance(refused.value.__cause__, PoolTimeoutError)
        await settle(connection.close())
        await settle(migration.dirty([K]))
    assert rows.state("users") == {}


async def test_an_interruption_leaves_no_key_half_done(rows: Rows) -> None:
    """Interrupted before or after any statement, each key is as before the call or as after it."""
    wire = Wire(rows.engine)
    done = 0
    for call, when, number in itertools.product(("begin", "end", "withdraw"), ("before", "after"), (1, 2)):
        name = next(migrations)
        ledger, reference = rows.ledger.migration(name, IDENTITY), Reference()
        mine, other = new_token(), new_token()
        for keys, token in ((KEYS, mine), ([L], other)) if call != "begin" else (([L], other),):
            await settle(ledger.begin(keys, token))
            reference.table.begin(keys, token, 0)
        before = reference.state()
        await settle(ledger.dirty(KEYS))

        def interrupt(statement: int, number: int = number) -> None:
            if statement == number:
                raise Interrupted

        wire.reset()
        setattr(wire, when, interrupt)
        with pytest.raises(Interrupted):
            if call == "begin":
                reference.table.begin(KEYS, mine, 1)
                await settle(ledger.begin(KEYS, mine))
            elif call == "end":
                reference.table.end({K: True, L: True, M: False}, mine)
                await settle(ledger.end({K: True, L: True, M: False}, mine))
            else:
                reference.table.withdraw(KEYS, mine)
                await settle(ledger.withdraw(KEYS, mine))
        wire.reset()
        found, after = rows.state(name), reference.state()
        for key in KEYS:
            assert found.get(key) in {before.get(key), after.get(key)}
            done += found.get(key) != before.get(key)
    assert done > 10


async def test_a_cancelled_begin_leaves_the_ledger_in_order(on_server: Rows, migration: Any) -> None:
    """A task that is cancelled while it waits for a row leaves a token or none, and a pool that works."""
    if not on_server.asyncio:
        pytest.skip("threads are not cancelled")
    first, second = new_token(), new_token()
    await settle(migration.begin([K], first))
    with LockedRow(on_server, K):
        waiting = on_server.start(lambda: migration.begin([K], second))
        await _until_waiting(on_server)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await settle(migration.end({K: True}, first))
    assert on_server.state("users") in (
        {},
        {K: (frozenset({second}), False, False)},
        {K: (frozenset({second}), True, True)},
    )


# --- first use, and what is found there


async def test_tables_are_made_on_first_use(rows: Rows) -> None:
    """`migration` does no I/O, its first call makes the tables and the row, and later ones issue no DDL."""
    wire = Wire(rows.engine)
    migration = rows.ledger.migration("users", IDENTITY)
    assert wire.statements == []
    await settle(migration.dirty([K]))
    assert sum(statement.startswith("CREATE TABLE") for statement in wire.statements) == 3
    assert rows.indexes() == [f"{rows.tables}_keys_oldest"]
    wire.reset()
    await settle(migration.dirty([K]))
    await settle(rows.ledger.migration("orders", IDENTITY).dirty([K]))
    await settle(rows.ledger.create_tables())
    assert not any(statement.startswith("CREATE") for statement in wire.statements)


async def test_tables_can_be_made_beforehand(rows: Rows) -> None:
    """`ddl` is what makes the tables, and then they are used as they are."""
    for statement in rows.ledger.ddl.split(";\n")[:-1]:
        rows.execute(statement)
    wire = Wire(rows.engine)
    await settle(rows.ledger.migration("users", IDENTITY).begin([K], new_token()))
    assert not any(statement.startswith("CREATE") for statement in wire.statements)


async def test_tables_half_made_are_completed(rows: Rows, migration: Any) -> None:
    """A process that died while it made the tables leaves what another one completes."""
    rows.execute(rows.ledger.ddl.split(";\n")[0])
    await settle(migration.begin([K], new_token()))
    assert rows.indexes() == [f"{rows.tables}_keys_oldest"]


async def test_tables_made_in_part_are_completed(rows: Rows) -> None:
    """A process that dies before any statement of its first use leaves what another one completes."""
    wire, interrupted, number = Wire(rows.engine), True, 0
    while interrupted:
        number += 1
        tables = next(prefixes)
        wire.reset()
        wire.before = wire.interrupt(number)
        with suppress(Interrupted):
            await settle(rows.migration(engine=rows.engine, tables=tables).dirty([K]))
        interrupted = len(wire.statements) == number
        wire.reset()
        await settle(rows.migration(engine=rows.engine, tables=tables).begin([K], new_token()))
        rows.drop(tables)
    assert number > 6


async def test_tables_made_meanwhile_are_used(rows: Rows) -> None:
    """Whenever another process makes the tables during the first use, they are found, and are not called lost."""
    wire = Wire(rows.engine)
    for number in range(1, 13):
        tables = next(prefixes)
        statements = rows.new_ledger(tables=tables).ddl.split(";\n")[:-1]

        def make(statement: int, number: int = number, statements: Sequence[str] = statements) -> None:
            if statement == number:
                for each in statements:
                    with suppress(DBAPIError):  # it is there already
                        rows.execute(each)

        wire.reset()
        wire.before = make
        await settle(rows.migration(engine=rows.engine, tables=tables).begin([K], new_token()))
        rows.drop(tables)


async def test_a_first_use_that_failed_is_tried_again(rows: Rows, migration: Any) -> None:
    """An object whose first call failed works as soon as the database does."""
    wire = Wire(rows.engine)
    wire.before = wire.deadlock(*range(1, 100))
    with pytest.raises(OperationalError):
        await settle(migration.dirty([K]))
    wire.reset()
    await settle(migration.begin([K], new_token()))
    assert set(rows.state("users")) == {K}


async def test_a_schema_may_be_named(rows: Rows) -> None:
    """The tables are made and used in the schema that is named, and not where the database looks first."""
    schema = {"sqlite": "main", "postgresql": "Zddm schema", "mariadb": rows.world.beside.url.database}[
        rows.backend
    ]
    if rows.backend == "postgresql":
        rows.execute(f'CREATE SCHEMA "{schema}"')
    try:
        token = new_token()
        migration = rows.migration(schema=schema, engine=rows.engine)
        await settle(migration.begin([K, L], token))
        await settle(migration.end({K: True, L: False}, token))
        assert list(await settle(migration.dirty([K, L]))) == [L]
        assert inspect(rows.world.beside).has_table(f"{rows.tables}_keys", schema=schema)
        assert inspect(rows.world.beside).has_table(f"{rows.tables}_keys") == (rows.backend != "postgresql")
    finally:
        if rows.backend == "postgresql":
            rows.execute(f'DROP SCHEMA "{schema}" CASCADE')


async def test_opened_is_raised_to_what_the_ledger_is_told(rows: Rows) -> None:
    """`opened=` holds for migrations that are new and for those that are there, and never lowers them."""
    assert (await settle(rows.migration(opened=0.25).begin([K], new_token()))).opened == 0.25
    assert (await settle(rows.migration(opened=1.0).begin([K], new_token()))).opened == 1.0
    last = rows.migration(opened=0.5)
    assert last.last_summary().opened == 0.5
    assert (await settle(last.begin([K], new_token()))).opened == 1.0
    assert last.last_summary().opened == 1.0


async def test_another_hasher_is_refused(rows: Rows, migration: Any) -> None:
    """Rows that were written under one hasher are no use under another."""
    await settle(migration.begin([K], new_token()))
    other = rows.ledger.migration("users", "fnv1a-64")
    for call in (
        lambda: other.dirty([K]),
        lambda: other.begin([K], new_token()),
        lambda: other.end({K: True}, b"t"),
    ):
        with pytest.raises(LedgerMismatch, match=r"begun with hasher 'xxh3-64', this gate has 'fnv1a-64'"):
            await settle(call())
    assert len(rows.state("users")[K][0]) == 1


async def test_another_schema_version_is_refused(rows: Rows, migration: Any) -> None:
    """Rows of another version of this library are left alone, from its first call on or from the next."""
    await settle(migration.dirty([K]))
    rows.execute("UPDATE {migrations} SET schema_version = 2")
    for found in (migration, rows.migration()):
        with pytest.raises(LedgerMismatch, match=r"schema version 2.*same version in every process"):
            await settle(found.dirty([K]))


@pytest.mark.parametrize("table", TABLES)
async def test_a_foreign_table_is_refused(rows: Rows, migration: Any, table: str) -> None:
    """A table of the same name with other columns is named, and not touched."""
    rows.execute(f"CREATE TABLE {{{table}}} (id INTEGER PRIMARY KEY)")
    for call in (
        lambda: migration.begin([K], new_token()),
        lambda: migration.dirty([K]),
        rows.ledger.create_tables,
    ):
        with pytest.raises(LedgerMismatch, match=rf"'{rows.tables}_{table}'.*tables="):
            await settle(call())
    there = [each for each in TABLES if inspect(rows.world.beside).has_table(f"{rows.tables}_{each}")]
    assert there == [table]


@pytest.mark.parametrize("loss", ["row", "table", "row made anew", "tables made anew"])
async def test_a_lost_ledger_is_noticed(rows: Rows, loss: str) -> None:
    """Rows that are gone, or were made anew since, raise LedgerMismatch for as long as the object lives."""
    migration = rows.ledger.migration("users", IDENTITY)
    await settle(migration.dirty([K]))
    if loss.startswith("row"):
        rows.execute("DELETE FROM {migrations}")
    else:
        rows.drop(rows.tables)
    if loss.endswith("anew"):
        await settle(rows.migration().dirty([K]))
    for call in (
        lambda: migration.dirty([K]),
        lambda: migration.begin([K], new_token()),
        lambda: migration.begin_copy([K], new_token()),
        lambda: migration.open_to(0.5),
        migration.summary,
        migration.stale_keys,
        migration.checkpoints,
        migration.reset,
    ):
        with pytest.raises(LedgerMismatch, match=r"lost, or made anew.*keep the gate at 0.*empty or verify New"):
            await settle(call())


async def test_a_lost_table_of_keys_is_not_made_anew(rows: Rows, migration: Any) -> None:
    """Who comes after the table of keys was lost does not make one that the others would take for theirs."""
    token = new_token()
    await settle(migration.begin([K], token))
    await settle(migration.end({K: False}, token))
    rows.execute("DROP TABLE {keys}")
    newcomer = rows.new_ledger()
    for call in (newcomer.create_tables, lambda: newcomer.migration("users", IDENTITY).begin([K], new_token())):
        with pytest.raises(LedgerMismatch, match=rf"'{rows.tables}_keys' was lost.*empty or verify New.*drop"):
            await settle(call())
    with pytest.raises(LedgerMismatch, match="was lost"):
        await settle(migration.dirty([K]))


@pytest.mark.parametrize("how", ["options", "listener", "later", "completion_type"])
async def test_what_would_not_be_committed_is_refused(rows: Rows, migration: Any, how: str) -> None:
    """An engine, or a server, that begins transactions raises Unsupported, and nothing counts as acknowledged."""
    await settle(migration.dirty([K]))  # which finds the tables made by another
    if how == "completion_type" and rows.backend != "mariadb":
        pytest.skip("a setting of MySQL")
    if how == "options":
        engine = rows.new_engine(execution_options={"isolation_level": "SERIALIZABLE"})
    elif how in {"listener", "later"}:
        engine = rows.new_engine()
    else:
        engine = rows.engine_with("SET completion_type = 1")
    misled = rows.migration(engine=engine)
    if how == "later":
        await settle(misled.dirty([K]))
    if how in {"listener", "later"}:
        event.listen(_blocking(engine), "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    for call in (lambda: misled.begin([K], new_token()), lambda: misled.open_to(0.5)):
        with pytest.raises(Unsupported, match=r"left a transaction open.*isolation_level"):
            await settle(call())
    assert rows.state("users") == {}
    assert (await settle(migration.summary())).opened == 0


async def test_tokens_that_are_none_are_noticed(rows: Rows, migration: Any) -> None:
    """A row that something else wrote to raises LedgerMismatch."""
    token = new_token()
    await settle(migration.begin([K], token))
    for pending in ("x", "|" + "a" * 48 + "@" + "1" * 15, "|" + "a" * 47 + "|@" + "1" * 16):
        rows.execute("UPDATE {keys} SET pending = :pending", pending=pending)
        with pytest.raises(LedgerMismatch, match="corrupt"):
            await settle(migration.begin_copy([K], new_token()))
        with pytest.raises(LedgerMismatch, match="corrupt"):
            await settle(migration.dirty([K]))


@pytest.mark.parametrize(
    "change",
    [
        "{migrations} SET opened = 1.5",
        "{migrations} SET opened = -1",
        "{migrations} SET epoch = -1",
        "{migrations} SET token_seconds = -1",
        "{migrations} SET reaped = -1",
        "{migrations} SET incarnation = 'none'",
        "{keys} SET pending = ''",
        "{keys} SET oldest = NULL",
        "{keys} SET oldest = oldest - 1",
        "{keys} SET contended = false",
    ],
)
async def test_what_no_ledger_wrote_is_not_trusted(rows: Rows, change: str) -> None:
    """Rows that break a rule of the ledger are refused by every call that would believe them."""
    first = rows.migration()
    for _ in range(2):
        await settle(first.begin([K], new_token()))
    rows.execute(f"UPDATE {change}")
    newcomer = rows.migration()
    calls: list[Callable[[Any], Any]] = [
        lambda ledger: ledger.begin_copy([K], new_token()),
        lambda ledger: ledger.dirty([K]),
        lambda ledger: ledger.begin([K], new_token()),
        lambda ledger: ledger.dirty([K]),
    ]
    if "migrations" in change:
        calls += [
            lambda ledger: ledger.open_to(0.5),
            lambda ledger: ledger.reap(0.0),
            lambda ledger: ledger.summary(),
            lambda ledger: ledger.stale_keys(),
            lambda ledger: ledger.checkpoints(),
            lambda ledger: ledger.save_checkpoint(JOB, "data", 0),
            lambda ledger: ledger.reset(),
        ]
    for call in calls:
        if "contended" in change and call is calls[2]:
            continue  # begin makes the key contended, which is what it has to be
        with pytest.raises(LedgerMismatch, match=r"corrupt|was lost"):
            await settle(call(newcomer))


async def test_the_first_of_two_who_ends_makes_the_other_end_stale(rows: Rows, migration: Any) -> None:
    """Two tokens that overlapped leave the key stale, though something else forgot that they did."""
    one, other = new_token(), new_token()
    await settle(migration.begin([K], one))
    await settle(migration.begin([K], other))
    rows.execute("UPDATE {keys} SET contended = false")
    await settle(migration.end({K: True}, one))
    await settle(migration.end({K: True}, other))
    assert list(await settle(migration.dirty([K]))) == [K]


CREATE_AT_ONCE = """
import sys
from sqlalchemy import create_engine
from zddm_adapters.sqlalchemy import SqlAlchemyLedger
engine = create_engine(sys.argv[1], isolation_level="AUTOCOMMIT", **eval(sys.argv[3]))
engine.connect().close()
print("ready", flush=True)
sys.stdin.readline()
for number in range(6):
    ledger = SqlAlchemyLedger(engine, tables=f"{sys.argv[2]}_{number}")
    ledger.migration("users", "xxh3-64").begin([b"k"], sys.argv[4].encode())
engine.dispose()
"""


def _run_at_once(commands: Sequence[Sequence[str]]) -> None:
    """Run programs that say when they are ready, and let them go on together."""
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for command in commands]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert {process.wait(60) for process in processes} == {0}
    finally:
        for process in processes:
            process.kill()
            process.communicate()


async def test_processes_may_make_the_tables_at_once(rows: Rows) -> None:
    """Of processes that come first at the same moment none fails, and all find one another."""
    if rows.asyncio:
        pytest.skip("a process of one world is enough")
    url = rows.world.database.blocking.render_as_string(hide_password=False)
    command = [sys.executable, "-c", CREATE_AT_ONCE, url, rows.tables, repr(rows.world.database.options)]
    await asyncio.to_thread(_run_at_once, [[*command, f"process-{number}"] for number in range(2)])
    for number in range(6):
        migration = rows.migration(tables=f"{rows.tables}_{number}", engine=rows.engine)
        assert (await settle(migration.summary())).pending == 2
        rows.drop(f"{rows.tables}_{number}")


async def test_a_database_in_memory_is_refused() -> None:
    """An SQLite database that nobody else sees is no shared ledger."""
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///file:shared?mode=memory&cache=shared&uri=true"):
        engine = create_engine(url, poolclass=NullPool)
        with pytest.raises(Unsupported, match="InMemoryLedger"):
            SqlAlchemyLedger(engine)
        engine.dispose()


async def test_what_makes_no_ledger_is_refused() -> None:
    """The other world's engine, other databases and names that are none are refused at once."""
    blocking, asyncio_ = create_engine("sqlite:///x"), create_async_engine("sqlite+aiosqlite:///x")
    with pytest.raises(ValueError, match="AUTOCOMMIT"):
        SqlAlchemyLedger(blocking)
    with pytest.raises(TypeError, match="AsyncSqlAlchemyLedger and AsyncProxy"):
        SqlAlchemyLedger(asyncio_)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - on purpose
    with pytest.raises(TypeError, match="create_async_engine"):
        AsyncSqlAlchemyLedger(blocking)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - on purpose
    for dialect in (mssql.dialect(), asyncpg.dialect(), mysqlconnector.dialect()):
        with pytest.raises(Unsupported, match=dialect.driver):
            LedgerTables(dialect, "zddm", None)
    for prefix in ("", "a b", "a;b", "1a", "a%s", "a" * 41):
        with pytest.raises(ValueError, match="tables="):
            SqlAlchemyLedger(blocking, tables=prefix)
    for schema in ("", "%s"):
        with pytest.raises(ValueError, match="schema="):
            SqlAlchemyLedger(blocking, schema=schema)
    with pytest.raises(InvalidRollout):
        SqlAlchemyLedger(blocking, opened=1.5)


def test_it_is_a_ledger() -> None:
    """Both twins fit the protocols, for type checkers and at run time."""
    blocking = create_engine("sqlite:///x", isolation_level="AUTOCOMMIT")
    asyncio_ = create_async_engine("sqlite+aiosqlite:///x", isolation_level="AUTOCOMMIT")
    ledger: Ledger = SqlAlchemyLedger(blocking)
    twin: AsyncLedger = AsyncSqlAlchemyLedger(asyncio_)
    rows: MigrationLedger = ledger.migration("users", IDENTITY)
    twin_rows: AsyncMigrationLedger = twin.migration("users", IDENTITY)
    assert ledger.shared
    assert twin.shared
    assert rows.last_summary() == twin_rows.last_summary() == (0, 0, None, 0.0, 0, 0)


# --- concurrency


@dataclass
class Held:
    """One token on one key, by the moments at which a worker knows something of it."""

    key: bytes
    copy: bool
    told_contended: bool
    begun: float  # acknowledged
    how: str
    ending: float  # about to be issued
    asked: float  # about to be begun


def surely_overlap(one: Held, other: Held) -> bool:
    """Whether both were pending at one moment, whatever the network did."""
    return max(one.begun, other.begun) < min(one.ending, other.ending)


async def storm(rows: Rows, workers: int, rounds: int, keys: Sequence[bytes], most: int) -> tuple[list[Held], int]:
    """Workers that begin, copy, end and withdraw as they like; what they held, and how often they were refused."""
    held: list[Held] = []
    begins: list[bytes] = []
    refused: list[NotApplied] = []

    def worker(number: int) -> Callable[[], Awaitable[None]]:
        chance = random.Random(number)
        migration = rows.migration(engine=rows.engine)

        async def body() -> None:
            for _ in range(rounds):
                mine = chance.sample(keys, chance.randint(1, most))
                copy, how = chance.random() < 0.4, chance.choice(["ok", "ok", "ok", "failed", "withdrawn"])
                token, asked = new_token(), time.monotonic()
                try:
                    grant = await settle((migration.begin_copy if copy else migration.begin)(mine, token))
                except NotApplied as error:
                    refused.append(error)
                    continue
                begun = time.monotonic()
                begins.append(token)
                got = sorted(grant.granted) if copy else mine
                if chance.random() < 0.4:  # linger until someone else has begun, so that much overlaps
                    seen = len(begins)
                    for _ in range(20):
                        if len(begins) != seen:
                            break
                        await asyncio.sleep(0.001)
                ending = time.monotonic()
                if how == "withdrawn":
                    await settle(migration.withdraw(got, token))
                else:
                    await settle(migration.end(dict.fromkeys(got, how == "ok"), token))
                held.extend(
                    Held(key, copy, not copy and key in grant.contended, begun, how, ending, asked) for key in got
                )

        return body

    await rows.together(*(worker(number) for number in range(workers)))
    return held, len(refused)


@pytest.mark.parametrize(("keys", "most"), [(1, 1), (6, 4)], ids=["one key", "batches"])
async def test_a_storm_of_calls_keeps_the_rules(rows: Rows, keys: int, most: int) -> None:
    """No copies at once, contention is told and ends stale, and no error escapes but NotApplied."""
    names = [b"key-%d" % number for number in range(keys)]
    rows.engine = rows.new_engine() if rows.backend == "sqlite" else rows.new_engine(pool_size=8)
    await settle(rows.migration(engine=rows.engine).dirty([K]))
    held, refused = await storm(rows, 6, 25, names, most)
    state = rows.state("users")
    overlaps = 0
    for key in names:
        here = sorted((each for each in held if each.key == key), key=lambda each: each.begun)
        for one, other in itertools.combinations(here, 2):
            if not surely_overlap(one, other):
                continue
            overlaps += 1
            assert not (one.copy and other.copy)
            # A copy is only granted alone, so where one and a write are at once the write came later.
            assert one.told_contended or other.told_contended
            if "withdrawn" in {one.how, other.how}:
                continue
            both_ending = max(one.ending, other.ending)
            if not any(each.begun > both_ending and each.how == "ok" for each in here):
                assert key in state
                assert state[key][1]
        assert not state.get(key, ((), False, False))[0]
    assert overlaps > 0
    if rows.backend != "mariadb":  # InnoDB's locks of gaps may make victims; the others' are taken in order
        assert refused == 0


async def test_of_many_at_once_one_may_copy(rows: Rows) -> None:
    """Of copies that begin at the same moment one is granted each key (H17)."""
    migration = rows.migration(engine=rows.engine)
    for _ in range(8):
        key = new_token()
        await settle(migration.dirty([key]))
        tokens = [new_token() for _ in range(5)]

        def copy(token: bytes, key: bytes = key) -> Callable[[], Awaitable[CopyGrant]]:
            async def body() -> CopyGrant:
                return await settle(migration.begin_copy([key], token))

            return body

        grants = await rows.together(*map(copy, tokens))
        assert sum(key in grant.granted for grant in grants) == 1


async def test_all_that_are_at_once_end_stale(rows: Rows) -> None:
    """Of writes that hold a key at once all but one are told, and it is stale though all ended well (H2)."""
    migration = rows.migration(engine=rows.engine)
    await settle(migration.dirty([K]))
    tokens = [new_token() for _ in range(5)]

    def of(call: Callable[[bytes], Any]) -> list[Callable[[], Awaitable[Any]]]:
        def body(token: bytes) -> Callable[[], Awaitable[Any]]:
            async def run() -> Any:
                return await settle(call(token))

            return run

        return [body(token) for token in tokens]

    for _ in range(4):
        grants = await rows.together(*of(lambda token: migration.begin([K, L], token)))
        assert sum(K in grant.contended for grant in grants) >= len(tokens) - 1
        await rows.together(*of(lambda token: migration.end({K: True, L: True}, token)))
        assert rows.state("users") == dict.fromkeys([K, L], (frozenset(), True, False))
        await settle(migration.begin([K, L], tokens[0]))
        await settle(migration.end({K: True, L: True}, tokens[0]))
        assert rows.state("users") == {}


class LockedRow:
    """Holds the lock of a key's row from another transaction."""

    def __init__(self, rows: Rows, *keys: bytes) -> None:
        self.rows, self.keys = rows, keys
        self.connection = rows.world.beside.connect()

    def lock(self, key: bytes, how: str = "") -> None:
        name = "`key`" if self.rows.backend == "mariadb" else '"key"'
        statement = (
            f"SELECT 1 FROM {self.rows.tables}_keys WHERE migration = 'users' AND {name} = :key FOR UPDATE{how}"
        )
        assert self.connection.execute(text(statement), {"key": key}).all()

    def __enter__(self) -> Self:
        for key in self.keys:
            self.lock(key)
        return self

    def __exit__(self, *exception: object) -> None:
        self.connection.rollback()
        self.connection.close()


WAITING = {
    "postgresql": "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
    "mariadb": "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}


async def _until_waiting(rows: Rows) -> None:
    """Wait until a statement waits for a lock."""
    deadline = time.monotonic() + 20
    while True:
        # MariaDB looks again only after 0.1 s in which nobody asked, and else answers what it saw before.
        await asyncio.sleep(0.11 if rows.backend == "mariadb" else 0.005)
        if rows.execute(WAITING[rows.backend]):
            return
        assert time.monotonic() < deadline


@pytest.mark.parametrize("call", ["begin", "end", "end of some", "withdraw"])
async def test_locks_are_taken_in_the_order_of_the_keys(on_server: Rows, call: str) -> None:
    """What waits for a key holds none that comes after it, wherever the rows are in the table."""
    rows, token = on_server, new_token()
    options: dict[str, Any] = {}
    if rows.backend == "postgresql":  # so that its plans go through the table in the order of its file
        options = {"connect_args": {"options": "-c enable_indexscan=off"}}
    migration = rows.migration(engine=rows.new_engine(**options))
    for key in (M, L, K):
        await settle(migration.begin([key], new_token()))
    await settle(migration.begin([M, L, K], token))
    calls: dict[str, Callable[[], Any]] = {
        "begin": lambda: migration.begin([M, L, K], new_token()),
        "end": lambda: migration.end({M: True, L: True, K: True}, token),
        "end of some": lambda: migration.end({M: False, L: False, K: False}, token),
        "withdraw": lambda: migration.withdraw([M, L, K], token),
    }
    with LockedRow(rows, L):
        waiting = rows.start(calls[call])
        await _until_waiting(rows)
        with LockedRow(rows) as beside:
            beside.lock(M, " NOWAIT")
            with pytest.raises(OperationalError):
                beside.lock(K, " NOWAIT")
    await waiting


@pytest.mark.parametrize("call", ["begin", "begin_copy"])
async def test_opened_is_read_when_the_token_is_pending(on_server: Rows, call: str) -> None:
    """A begin that waits for a row while a rival opens wider returns the wider `opened` (H8)."""
    rows, token = on_server, new_token()
    migration, rival = rows.migration(), rows.migration()
    await settle(migration.begin([K], token))
    await settle(migration.end({K: False}, token))  # leaves a row to wait for
    await settle(rival.open_to(0.25))
    with LockedRow(rows, K):
        waiting = rows.start(lambda: getattr(migration, call)([K], new_token()))
        await _until_waiting(rows)
        await settle(rival.open_to(1.0))
    assert (await waiting).opened == 1.0


async def test_the_victim_of_a_deadlock_is_told(on_server: Rows) -> None:
    """A begin that the server gives up for another transaction raises NotApplied, and holds no key."""
    rows = on_server
    if rows.backend == "mariadb":
        pytest.skip("InnoDB may choose the other one")
    engine = rows.new_engine(connect_args={"options": "-c deadlock_timeout=700ms"})
    migration, first, second = rows.migration(engine=engine), new_token(), new_token()
    await settle(migration.begin([K, L], first))
    with LockedRow(rows, L) as beside:
        beside.connection.execute(text("SET LOCAL deadlock_timeout = '20s'"))  # the other one will notice
        waiting = rows.start(lambda: migration.begin([K, L], second))
        await _until_waiting(rows)
        thread = threading.Thread(target=beside.lock, args=(K,))
        thread.start()
        with pytest.raises(NotApplied) as refused:
            await waiting
        await asyncio.to_thread(thread.join)
    assert getattr(refused.value.__cause__.orig, "sqlstate", None) == "40P01"  # type: ignore[union-attr] - DBAPIError
    assert rows.state("users") == dict.fromkeys([K, L], (frozenset({first}), False, False))


# --- what long jobs keep and ask


@pytest.mark.parametrize(
    "setting",
    [
        "SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'",
        "SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT'",
        "SESSION sql_mode = 'EMPTY_STRING_IS_NULL'",
        "NAMES latin1",
        "character_set_connection = sjis",
        "character_set_results = latin1",
    ],
)
async def test_settings_of_the_server_change_no_checkpoint(rows: Rows, setting: str) -> None:
    """Whatever the server makes of literals in a statement, a checkpoint comes back as it was."""
    if rows.backend != "mariadb":
        pytest.skip("the other drivers send parameters beside the statement")
    ledger = rows.migration(engine=rows.engine_with(f"SET {setting}"))
    for version, data in enumerate(("", "it's", "\\", '{"a": "\\"b\\""}', "\u00e9\u0416\N{CAT FACE}", "%s", "")):
        assert await settle(ledger.save_checkpoint(JOB, data, version))
        found = (await settle(ledger.checkpoints()))[JOB]
        assert (found.data, found.version) == (data, version + 1)


async def test_the_age_of_a_checkpoint_is_the_databases(rows: Rows, migration: Any) -> None:
    """A checkpoint's age counts from its latest version, by the database's time."""
    assert await settle(migration.save_checkpoint(JOB, "one", 0))
    rows.execute("UPDATE {checkpoints} SET saved = saved - 60000000")
    assert 60 <= (await settle(migration.checkpoints()))[JOB].age_seconds < 120
    rows.execute("UPDATE {checkpoints} SET saved = saved + 120000000")  # somebody stepped the clock
    assert (await settle(migration.checkpoints()))[JOB].age_seconds == 0
    assert await settle(migration.save_checkpoint(JOB, "two", 1))
    assert (await settle(migration.checkpoints()))[JOB].age_seconds < 30


@pytest.mark.parametrize(("when", "number"), [("before", 1), ("after", 1), ("before", 2), ("after", 2)])
async def test_a_checkpoint_whose_reply_was_lost_is_saved(
    rows: Rows, migration: Any, when: str, number: int
) -> None:
    """Where a connection breaks before or after any statement took effect, the checkpoint counts as replaced."""
    await settle(migration.dirty([K]))
    wire = Wire(rows.engine)
    for version in range(3):
        wire.reset()
        setattr(wire, when, wire.lose(number))
        assert await settle(migration.save_checkpoint(JOB, f"data {version}", version))
        wire.reset()
        found = (await settle(migration.checkpoints()))[JOB]
        assert (found.data, found.version) == (f"data {version}", version + 1)


async def test_lost_checkpoints_are_no_lost_ledger(rows: Rows, migration: Any) -> None:
    """The table of checkpoints is made anew where only it was lost: no promise depends on it."""
    await settle(migration.begin([K], new_token()))
    for call, wanted in (
        (migration.checkpoints, {}),
        (lambda: migration.save_checkpoint(JOB, "data", 1), False),
        (lambda: migration.save_checkpoint(JOB, "data", 0), True),
        (migration.reset, False),
        (rows.new_ledger(engine=rows.engine).create_tables, None),
    ):
        rows.execute("DROP TABLE {checkpoints}")
        assert await settle(call()) == wanted
        assert inspect(rows.world.beside).has_table(f"{rows.tables}_checkpoints")
    assert list(await settle(migration.dirty(KEYS))) == [K]


@pytest.mark.parametrize(
    "change", ["version = 0", "version = -1", "version = 'x'", "version = 1.5", "data = x'ff'", "saved = 'x'"]
)
async def test_checkpoints_that_are_none_are_noticed(rows: Rows, migration: Any, change: str) -> None:
    """A checkpoint that something else wrote to is not given to a job."""
    if rows.backend != "sqlite" and not change.startswith(("version = 0", "version = -1")):
        pytest.skip("its columns hold values of their own type only")
    await settle(migration.save_checkpoint(JOB, "data", 0))
    rows.execute(f"UPDATE {{checkpoints}} SET {change}")
    if change == "saved = 'x'":
        assert (await settle(migration.checkpoints()))[JOB].data == "data"  # it looks old
        return
    for call in (migration.checkpoints, lambda: migration.save_checkpoint(JOB, "other", 0)):
        with pytest.raises(LedgerMismatch, match="corrupt"):
            await settle(call())


async def test_reaping_counts_what_it_removed(rows: Rows, migration: Any) -> None:
    """Each token of a key that is reaped is counted once, with one more statement for each round."""
    for keys in ([K, L], [K]):
        await settle(migration.begin(keys, new_token()))
    rows.grow_older("users", HOUR)
    wire = Wire(rows.engine)
    assert await settle(migration.reap(HOUR / 2)) == 3
    assert sum("reaped = reaped +" in statement for statement in wire.statements) == 2
    assert (await settle(migration.summary())).reaped == migration.last_summary().reaped == 3
    assert (await settle(rows.migration().summary())).reaped == 3
    wire.reset()
    assert await settle(migration.reap(HOUR / 2)) == 0
    assert len(wire.statements) == 1


async def test_a_page_goes_on_behind_its_cursor(rows: Rows, migration: Any) -> None:
    """A page of stale keys begins where the one before it ended, and does not read what that read."""
    keys = [b"%04d" % number for number in range(3000)]
    await settle(migration.begin(keys, b"token"))
    await settle(migration.end(dict.fromkeys(keys, False), b"token"))
    first = await settle(migration.stale_keys(None, 5))
    assert (first.keys, first.next_cursor) == (keys[:5], keys[4].hex())
    assert (await settle(migration.stale_keys(keys[2989].hex(), 5))).keys == keys[2990:2995]
    assert await settle(migration.stale_keys(keys[2994].hex(), 6)) == (keys[2995:], None)
    assert await settle(migration.stale_keys(keys[-1].hex())) == ([], None)
    if rows.backend == "sqlite":
        statement, values = migration._tables.stale("users", keys[9], 5)
        with rows.world.beside.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
        assert any("(migration=? AND key>?)" in step[-1] for step in plan)
        assert not any("TEMP B-TREE" in step[-1] for step in plan)


@pytest.mark.parametrize("cursor", ["x", "0", "0g", "AB", " 00", "0x00", "00\n"])
async def test_what_is_no_cursor_is_refused(migration: Any, cursor: str) -> None:
    """A cursor that no page gave raises ValueError, rather than skip keys."""
    with pytest.raises(ValueError, match="no cursor"):
        await settle(migration.stale_keys(cursor))


# --- reset


async def _full(rows: Rows, migration: Any) -> None:
    """Give the migration something of all that `reset` forgets."""
    await settle(migration.begin([K, L], b"full"))
    await settle(migration.end({K: False, L: False}, b"full"))
    await settle(migration.open_to(0.5))
    if not await settle(migration.checkpoints()):
        await settle(migration.save_checkpoint(JOB, "data", 0))


async def _whole(rows: Rows, migration: Any) -> int:
    """Check that a reset was done or not done, and nothing between. Returns the epoch."""
    summary = await settle(migration.summary())
    names = list(await settle(migration.checkpoints()))
    assert (summary.stale, summary.opened, names) in ((2, 0.5, [JOB]), (0, 0.0, []))
    return int(summary.epoch)


def _waits_for_a_lock(rows: Rows) -> None:
    deadline = time.monotonic() + 20
    while not rows.execute(WAITING[rows.backend]):
        assert time.monotonic() < deadline
        time.sleep(0.11 if rows.backend == "mariadb" else 0.005)


@pytest.mark.parametrize("call", ["begin", "begin_copy"])
async def test_a_begin_that_waits_for_a_reset_is_of_the_new_epoch(rows: Rows, migration: Any, call: str) -> None:
    """A begin of a key that is in the ledger, or is not, waits for a reset and gets its `opened` and epoch."""
    await settle(migration.dirty([K]))
    database = rows.world.database
    engine = create_engine(database.blocking, isolation_level="AUTOCOMMIT", **database.options)
    rival = SqlAlchemyLedger(engine, tables=rows.tables).migration("users", IDENTITY)
    wire = Wire(rows.engine)
    for epoch, key in enumerate((K, b"before all", b"sk and behind", b"t behind all", b"\xff"), start=1):
        await _full(rows, migration)
        rival.dirty([K])
        grants: list[Any] = []
        begin = threading.Thread(
            target=lambda key=key, grants=grants: grants.append(getattr(rival, call)([key], b"t"))
        )

        def come_between(number: int, begin: threading.Thread = begin, grants: list[Any] = grants) -> None:
            if wire.statements[-1].startswith("DELETE") and begin.ident is None:
                begin.start()
                if rows.backend == "sqlite":
                    begin.join(0.1)  # it asks the file again and again, and nobody can see that
                else:
                    _waits_for_a_lock(rows)
                assert not grants

        wire.reset()
        wire.before = come_between
        assert await settle(migration.reset())
        wire.reset()
        await asyncio.to_thread(begin.join)
        assert (grants[0].opened, grants[0].epoch) == (0.0, epoch)
        assert rows.state("users") == {key: (frozenset({b"t"}), False, False)}
        assert migration.last_summary()[:6] == (0, 0, None, 0.0, epoch, 0)
        assert not await settle(migration.reset())
        await settle(migration.withdraw([key], b"t"))
    engine.dispose()


async def test_a_reset_waits_for_a_begin_in_flight(on_server: Rows, migration: Any) -> None:
    """A reset that comes while a begin is not yet committed waits for it, and then is False."""
    rows = on_server
    await settle(migration.begin([K], b"token"))
    ((pending, oldest),) = rows.execute("SELECT pending, oldest FROM {keys}")
    rows.execute("UPDATE {keys} SET pending = '', oldest = NULL, stale = true")
    with rows.world.beside.connect() as connection:
        connection.execute(
            text(f"UPDATE {rows.tables}_keys SET pending = :pending, oldest = :oldest"),
            {"pending": pending, "oldest": oldest},
        )
        reset = rows.start(migration.reset)
        await _until_waiting(rows)
        connection.commit()
    assert await reset is False
    assert rows.state("users") == {K: (frozenset({b"token"}), True, False)}


@pytest.mark.parametrize("how", ["interrupt", "lose", "deadlock"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_reset_that_fails_is_done_or_not(rows: Rows, how: str, when: str) -> None:
    """Stopped before or after any statement, a reset leaves all or nothing, no lock, and a pool that works."""
    if (rows.backend, how) == ("sqlite", "lose"):
        pytest.skip("a file is no connection to lose")
    engine = rows.new_engine(pool_size=1, max_overflow=0, pool_timeout=1)
    migration, beside = rows.migration(engine=engine), rows.migration()
    wire, number, epochs = Wire(engine), 0, set()
    failed = True
    while failed:
        number += 1
        await _full(rows, beside)
        wire.reset()
        await settle(migration.dirty([K]))
        epoch = await _whole(rows, beside)
        wire.reset()
        setattr(wire, when, getattr(wire, how)(number))
        try:
            cleared = await settle(migration.reset())
        except (DBAPIError, Interrupted):
            cleared = None
        gc.collect()  # SQLAlchemy closed SQLite's file, where interrupted, and the traceback holds it by a cursor
        failed = len(wire.statements) >= number
        wire.reset()
        after = await _whole(rows, beside)
        assert after - epoch in ({0, 1} if cleared is None else {int(cleared)})
        epochs.add((cleared, after - epoch))
        await settle(beside.begin([M], b"token"))
        await settle(beside.withdraw([M], b"token"))
        assert (await settle(migration.summary())).epoch == after
    assert number > 7
    assert {(None, 0), (True, 1)} <= epochs


async def test_a_reset_that_is_cancelled_is_done_or_not(rows: Rows) -> None:
    """Cancelled at any moment, a reset leaves all or nothing, no lock, and a pool that works."""
    if not rows.asyncio:
        pytest.skip("threads are not cancelled")
    engine = rows.new_engine(pool_size=1, max_overflow=0, pool_timeout=5)
    migration, beside = rows.migration(engine=engine), rows.migration()
    await _full(rows, beside)
    await migration.dirty([K])
    async for _ in cancellations(migration.reset):
        await _whole(rows, beside)
        await _full(rows, beside)
        assert set(await migration.dirty(KEYS)) == {K, L}
        await migration.begin([M], b"token")
        await beside.withdraw([M], b"token")


async def test_a_reset_that_is_cancelled_in_the_queue_leaves_it(on_server: Rows, migration: Any) -> None:
    """A reset that is cancelled while it waits for a lock is not done later, and holds up nobody."""
    if not on_server.asyncio:
        pytest.skip("threads are not cancelled")
    rows = on_server
    await _full(rows, migration)
    with rows.world.beside.connect() as connection:
        connection.execute(text(f"UPDATE {rows.tables}_keys SET contended = contended"))
        connection.execute(text(f"DELETE FROM {rows.tables}_keys WHERE pending = 'none'"))
        if rows.backend == "mariadb":  # which locks no row that a statement leaves as it was
            connection.execute(text(f"SELECT 1 FROM {rows.tables}_keys FOR UPDATE"))
        reset = rows.start(migration.reset)
        await _until_waiting(rows)
        reset.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reset
    assert await _whole(rows, migration) == 0
    await settle(migration.begin([M], b"token"))
    assert await settle(migration.reset()) is False


# --- the server goes away


@pytest.fixture(scope="module")
def mortal_server() -> Iterator[PostgreSqlServer]:
    """A PostgreSQL server that tests may stop, for no one else uses it."""
    server = PostgreSqlServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("world_name", ["blocking", "asyncio"])
async def test_a_restart_of_the_server_costs_one_begin(mortal_server: PostgreSqlServer, world_name: str) -> None:
    """A begin in flight is unknown, the next idempotent call works at once, and nothing was forgotten."""
    url = mortal_server.url("postgres", asyncio=True)
    engine: Any
    if world_name == "asyncio":
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        ledger: Any = AsyncSqlAlchemyLedger(engine, tables=world_name)
    else:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        ledger = SqlAlchemyLedger(engine, tables=world_name)
    beside = create_engine(url)
    migration, token, other = ledger.migration("users", IDENTITY), new_token(), new_token()
    try:
        await settle(migration.begin([K, L], token))
        lock = beside.connect()
        lock.execute(text(f"SELECT 1 FROM {world_name}_keys WHERE key = :key FOR UPDATE"), {"key": L})
        call: Any = migration.begin([L], other) if world_name == "asyncio" else None
        waiting = asyncio.ensure_future(call or asyncio.to_thread(migration.begin, [L], other))
        with beside.connect() as look:
            deadline = time.monotonic() + 20
            cut = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            while not look.execute(cut).all():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)
        with pytest.raises(OperationalError):
            await waiting
        await asyncio.to_thread(mortal_server.halt)
        with pytest.raises(NotApplied):
            await settle(migration.begin([M], other))  # nobody listens
        await asyncio.to_thread(mortal_server.launch)
        lock.invalidate()
        lock.close()
        assert set(await settle(migration.dirty(KEYS))) == {K, L}
        await asyncio.to_thread(mortal_server.halt)
        await asyncio.to_thread(mortal_server.launch)
        await settle(migration.end({K: True}, token))  # over a connection of the server that was
        assert list(await settle(migration.dirty(KEYS))) == [L]
        assert await settle(migration.begin([K], new_token())) == Grant(frozenset(), 0.0, 0)
    finally:
        await settle(engine.dispose())
        beside.dispose()


# --- with the proxy


class Process:
    """What one process of an application has of its own: engine, ledger, gate and proxy."""

    def __init__(self, rows: Rows, old: Any, new: Any, rate: float) -> None:
        self.gate = TrafficGate(rate)
        kind: Any = AsyncProxy if rows.asyncio else Proxy
        self.proxy = kind(self.gate, old, new, name="users", ledger=rows.new_ledger())


async def test_two_processes_kill_and_resume(rows: Rows) -> None:
    """What one process writes while it is killed is not served stale by the other, nor after a restart."""
    old: Any = AsyncInMemoryAdapter() if rows.asyncio else InMemoryAdapter()
    new: Any = AsyncInMemoryAdapter() if rows.asyncio else InMemoryAdapter()
    one, two = Process(rows, old, new, 1.0), Process(rows, old, new, 1.0)
    await settle(one.proxy.write("k", "v1"))
    assert await settle(two.proxy.read("k")) == "v1"
    assert await settle(new.read("k")) == "v1"

    two.gate.set_rate(0.0)  # the kill has reached one of them (H8)
    await settle(two.proxy.write("k", "v2"))
    assert await settle(new.read("k")) == "v1"
    assert await settle(one.proxy.read("k")) == "v2"
    assert await settle(new.read("k")) == "v2"  # it was copied
    two.gate.set_rate(1.0)
    assert await settle(two.proxy.read("k")) == "v2"

    one.gate.set_rate(0.0)
    two.gate.set_rate(0.0)
    await settle(one.proxy.write("k", "v3"))
    assert await settle(new.read("k")) == "v2"
    await rows.close_engines()  # both processes end, and are started anew
    one, two = Process(rows, old, new, 1.0), Process(rows, old, new, 0.0)
    assert await settle(two.proxy.read("k")) == "v3"
    assert await settle(one.proxy.read("k")) == "v3"
    assert await settle(new.read("k")) == "v3"
    await settle(two.proxy.write("k", "v4"))
    assert await settle(one.proxy.read("k")) == "v4"
