"""The SQL adapter against real databases, in both worlds from one test body."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pymysql.converters import escape_bytes_prefixed
from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    create_engine,
    text,
)
from sqlalchemy.dialects import mssql, mysql
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.worlds import settle
from zddm_adapters.sqlalchemy import AsyncSqlAlchemyAdapter, SqlAlchemyAdapter
from zddm_flags.errors import NotApplied, Unsupported, ValueRefused
from zddm_flags.protocols import (
    AsyncScannable,
    AsyncStorageAdapter,
    AsyncSupportsCount,
    AsyncSupportsDelete,
    Scannable,
    StorageAdapter,
    SupportsCount,
    SupportsDelete,
)


@dataclass(frozen=True)
class User:
    id: int
    name: str
    age: int | None


@dataclass(frozen=True)
class Name:
    name: str


async def walk(adapter: Any, start: str | None = None, until: str | None = None, limit: int = 7) -> list[Any]:
    """All keys of a scan."""
    keys: list[Any] = []
    cursor = start
    while True:
        page = await settle(adapter.scan(cursor, limit, until))
        assert len(page.items) <= limit
        keys += [key for key, _ in page.items]
        if page.next_cursor is None:
            return keys
        cursor = page.next_cursor


@pytest.fixture
def users(world):
    """A table with a key, a column that must be there and one that need not."""
    return world.table(
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("name", String(20), nullable=False),
        Column("age", Integer, CheckConstraint("age < 200")),
    )


@pytest.fixture
def adapter(world, users):
    return world.adapter(users)


ANN = {"name": "Ann", "age": 30}
BOB = {"name": "Bob", "age": None}


class TestSingle:
    async def test_write_then_read(self, adapter):
        """A written row reads as it was written, NULL included; an absent key reads as None."""
        assert await settle(adapter.read(1)) is None
        await settle(adapter.write(1, ANN))
        await settle(adapter.write(2, BOB))
        assert await settle(adapter.read(1)) == ANN
        assert await settle(adapter.read(2)) == BOB

    async def test_write_replaces(self, adapter, world, users):
        """A second write replaces every column of the one row."""
        await settle(adapter.write(1, ANN))
        await settle(adapter.write(1, BOB))
        assert world.rows(users) == [(1, "Bob", None)]

    async def test_a_write_is_committed(self, adapter, world, users):
        """Another connection sees a write as soon as it returns."""
        await settle(adapter.write(1, ANN))
        assert world.rows(users) == [(1, "Ann", 30)]

    async def test_delete(self, adapter, world, users):
        """Delete removes one row, and does not mind an absent one."""
        await settle(adapter.write(1, ANN))
        await settle(adapter.write(2, BOB))
        await settle(adapter.delete(1))
        await settle(adapter.delete(1))
        assert world.rows(users) == [(2, "Bob", None)]

    async def test_protocols(self, adapter, world):
        """The adapter offers all that an adapter may offer."""
        kinds: tuple[Any, ...] = (StorageAdapter, SupportsDelete, Scannable, SupportsCount)
        if isinstance(adapter, AsyncSqlAlchemyAdapter):
            kinds = (AsyncStorageAdapter, AsyncSupportsDelete, AsyncScannable, AsyncSupportsCount)
            assert inspect.iscoroutinefunction(adapter.read)
        assert all(isinstance(adapter, kind) for kind in kinds)

    async def test_describe(self, adapter, world, users):
        """The adapter says which database and table it is."""
        await settle(adapter.read(1))
        info = adapter.describe()
        assert info.system == world.backend
        assert info.collection == users.name
        assert info.remote is (world.backend != "sqlite")
        assert info.strong_reads
        assert not world.adapter(users, strong_reads=False).describe().strong_reads
        if world.backend != "sqlite":
            assert info.namespace == world.database.blocking.database


class TestBatches:
    async def test_thousands_of_keys(self, adapter, world, users):
        """Batches beyond the limit of parameters of one statement are whole."""
        items = {number: {"name": f"n{number}", "age": number % 100} for number in range(3000)}
        await settle(adapter.write_many(items))
        assert len(world.rows(users)) == 3000
        assert await settle(adapter.read_many(range(-10, 3000))) == items
        await settle(adapter.delete_many(list(range(2999))))
        assert world.rows(users) == [(2999, "n2999", 99)]

    async def test_batches_insert_and_replace(self, adapter, world, users):
        """A batch inserts what is new and replaces the rest; repeated and absent keys are no matter."""
        await settle(adapter.write_many({1: ANN, 2: ANN}))
        await settle(adapter.write_many({3: BOB, 2: BOB}))
        assert await settle(adapter.read_many([3, 1, 3, 99, 2])) == {1: ANN, 2: BOB, 3: BOB}
        await settle(adapter.delete_many([1, 1, 99, 3]))
        assert world.rows(users) == [(2, "Bob", None)]

    async def test_empty_batches(self, adapter, world, users):
        """An empty batch does nothing."""
        await settle(adapter.write_many({}))
        await settle(adapter.delete_many([]))
        assert await settle(adapter.read_many([])) == {}
        assert world.rows(users) == []

    async def test_a_batch_is_all_or_nothing(self, adapter, world, users):
        """Where one row of a batch is refused none is written, and that is certain."""
        items = {number: dict(ANN) for number in range(50)}
        items[25]["name"] = None
        with pytest.raises(ValueRefused) as caught:  # and by a database that is well
            await settle(adapter.write_many(items))
        assert isinstance(caught.value.__cause__, IntegrityError)
        assert world.rows(users) == []


class TestScan:
    @pytest.mark.parametrize("limit", [1, 7, 20, 1000])
    async def test_scan_gives_every_row_once(self, adapter, limit):
        """A scan gives each row once, in the order of the keys, whatever the page size."""
        numbers = random.Random(1).sample(range(-500, 500), 40)
        await settle(adapter.write_many(dict.fromkeys(numbers, ANN)))
        assert await walk(adapter, limit=limit) == sorted(numbers)

    async def test_a_scan_is_restartable(self, adapter):
        """A cursor stays good in a new adapter, though its own row is gone by then."""
        await settle(adapter.write_many(dict.fromkeys(range(20), ANN)))
        page = await settle(adapter.scan(None, 5))
        await settle(adapter.delete(4))
        assert await walk(adapter, page.next_cursor) == list(range(5, 20))

    async def test_an_empty_table(self, adapter):
        """A table without rows scans as empty, and is one range."""
        page = await settle(adapter.scan())
        assert (list(page.items), page.next_cursor) == ([], None)
        assert await settle(adapter.partitions(4)) == [(None, None)]

    async def test_count(self, adapter, world, users):
        """The count is the number of rows that are committed, whoever wrote them."""
        assert await settle(adapter.count()) == 0
        await settle(adapter.write_many(dict.fromkeys(range(50), ANN)))
        await settle(adapter.write(7, BOB))
        await settle(adapter.delete(8))
        with world.beside.connect() as connection:
            connection.execute(users.insert().values(id=99, name="Eve"))
            assert await settle(adapter.count()) == 49
            connection.commit()
        assert await settle(adapter.count()) == 50

    @pytest.mark.parametrize("count", [1, 2, 3, 8, 100])
    async def test_partitions_cover_the_table_once(self, adapter, count):
        """The ranges cover what is there and what comes beyond it, once, and are about equally large."""
        numbers = random.Random(2).sample(range(10_000), 50)
        await settle(adapter.write_many(dict.fromkeys(numbers, ANN)))
        ranges = await settle(adapter.partitions(count))
        assert 1 <= len(ranges) <= count
        sizes = [len(await walk(adapter, *bounds)) for bounds in ranges]
        assert sum(sizes) == 50
        assert max(sizes) - min(sizes) <= 1
        later = [-5, 10_001, *(number for number in range(0, 10_000, 997) if number not in numbers)]
        await settle(adapter.write_many(dict.fromkeys(later, BOB)))
        found = [key for bounds in ranges for key in await walk(adapter, *bounds)]
        assert found == sorted([*numbers, *later])

    async def test_a_scan_under_inserts(self, adapter, world, users):
        """Rows that are there throughout are given once, though others are inserted around the cursor."""
        await settle(adapter.write_many(dict.fromkeys(range(0, 100, 2), ANN)))
        seen: list[int] = []
        cursor = None
        while True:
            page = await settle(adapter.scan(cursor, 6))
            seen += [key for key, _ in page.items]
            await settle(adapter.write_many(dict.fromkeys([seen[-1] - 3, seen[-1] + 1, 1000], BOB)))
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
        assert set(range(0, 100, 2)) <= set(seen)
        assert len(seen) == len(set(seen))

    @pytest.mark.parametrize("cursor", ["", "nonsense", "[]", "{}", '[["i",1],["i",2]]', '[["x",1]]', '["i"]'])
    async def test_what_is_no_cursor_is_refused(self, adapter, cursor):
        """A cursor of something else raises instead of beginning anywhere."""
        with pytest.raises(ValueError, match="cursor"):
            await settle(adapter.scan(cursor))

    async def test_sizes_below_one_are_refused(self, adapter):
        """A page or a number of partitions below one raises."""
        with pytest.raises(ValueError, match="at least 1"):
            await settle(adapter.scan(None, 0))
        with pytest.raises(ValueError, match="at least 1"):
            await settle(adapter.partitions(0))


KEYS: dict[str, tuple[Any, list[Any]]] = {
    "text": (lambda: String(50), ["", "a", "A", "ä", "'; DROP TABLE x; --", "%s %(k0)s :k0", "日本語🙂", "\\"]),
    "uuid": (Uuid, [UUID(int=0), UUID(int=2**128 - 1), UUID("12345678-1234-5678-1234-567812345678")]),
    "bytes": (
        lambda: LargeBinary().with_variant(mysql.VARBINARY(20), "mysql"),
        [b"", b"\x00", b"\xff\x00'", b"abc"],
    ),
    "datetime": (
        lambda: DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql"),
        [datetime(1999, 12, 31, 23, 59, 59), datetime(2026, 1, 1, 0, 0, 0, 123456)],  # noqa: DTZ001 - a column without a zone
    ),
    "decimal": (lambda: Numeric(10, 2), [Decimal("-1.50"), Decimal("0.00"), Decimal("12345.25")]),
    "integer": (Integer, [-(2**31), -1, 0, 2**31 - 1]),
}


class TestKeys:
    @pytest.mark.parametrize("kind", list(KEYS))
    @pytest.mark.filterwarnings("ignore:Dialect sqlite.* does \\*not\\* support Decimal")
    async def test_every_type_of_key(self, world, kind):
        """Keys of each type are found again, one by one, in batches, by scans and by partitions."""
        if kind == "bytes" and world.engine.dialect.driver == "aiomysql" and not callable(escape_bytes_prefixed):
            pytest.skip("this aiomysql cannot send bytes with this PyMySQL")
        make, keys = KEYS[kind]
        table = world.table(
            Column("k", make(), primary_key=True, autoincrement=False), Column("v", Integer, nullable=False)
        )
        adapter = world.adapter(table, value="v")
        for number, key in enumerate(keys):
            await settle(adapter.write(key, number))
        expected = {key: number for number, key in enumerate(keys)}
        assert [await settle(adapter.read(key)) for key in keys] == list(expected.values())
        assert await settle(adapter.read_many(keys)) == expected
        assert len(keys) == len(walked := await walk(adapter, limit=1))
        assert set(walked) == set(keys)
        ranges = await settle(adapter.partitions(2))
        assert [key for bounds in ranges for key in await walk(adapter, *bounds)] == walked
        await settle(adapter.delete_many(keys[1:]))
        assert await walk(adapter) == keys[:1]

    async def test_composite_keys(self, world):
        """A key of several columns is a tuple: everywhere, and in lexicographic order."""
        table = world.table(
            Column("tenant", String(10), primary_key=True),
            Column("number", Integer, primary_key=True, autoincrement=False),
            Column("part", Integer, primary_key=True, autoincrement=False),
            Column("v", Text, nullable=False),
        )
        adapter = world.adapter(table, value="v")
        keys = [(tenant, number, part) for tenant in ("a", "b") for number in range(5) for part in (0, 1, 9)]
        await settle(adapter.write_many({key: repr(key) for key in keys}))
        await settle(adapter.write(("a", 0, 0), "again"))
        assert await settle(adapter.read(("a", 0, 0))) == "again"
        assert await settle(adapter.read(("a", 0, 2))) is None
        assert len(await settle(adapter.read_many([*keys, ("c", 1, 1)]))) == len(keys)
        for limit in (1, 4, 100):
            assert await walk(adapter, limit=limit) == keys
        ranges = await settle(adapter.partitions(4))
        assert [len(await walk(adapter, *bounds)) for bounds in ranges] == [7, 8, 7, 8]
        await settle(adapter.delete(("a", 0, 0)))
        await settle(adapter.delete_many(keys[2:]))
        assert await walk(adapter) == [("a", 0, 1)]
        for wrong in ("a", ("a", 1), ["a", 1, 2]):
            with pytest.raises(NotApplied) as caught:
                await settle(adapter.write(wrong, "v"))
            assert "(tenant, number, part)" in str(caught.value.__cause__)

    async def test_a_table_of_keys_only(self, world):
        """Where every column is a key a write is an insert that may find its row there."""
        table = world.table(
            Column("a", Integer, primary_key=True, autoincrement=False),
            Column("b", Integer, primary_key=True, autoincrement=False),
        )
        adapter = world.adapter(table)
        await settle(adapter.write((1, 2), {}))
        await settle(adapter.write((1, 2), {}))
        assert await settle(adapter.read((1, 2))) == {}
        assert await settle(adapter.read((2, 1))) is None
        assert world.rows(table) == [(1, 2)]

    async def test_a_unique_column_as_the_key(self, world):
        """A unique column that is not the primary key can be the key; the others get their defaults."""
        table = world.table(
            Column("id", Integer, primary_key=True),
            Column("email", String(50), nullable=False, unique=True),
            Column("name", String(50), nullable=False),
            Column("note", String(50), server_default="none"),
        )
        adapter = world.adapter(table, key="email", value=["name"])
        await settle(adapter.write("a@example.org", {"name": "Ann"}))
        await settle(adapter.write("a@example.org", {"name": "Anna"}))
        assert await settle(adapter.read("a@example.org")) == {"name": "Anna"}
        assert world.rows(table) == [(1, "a@example.org", "Anna", "none")]

    async def test_weird_identifiers(self, world):
        """Names that need quoting, or look like parameters, are quoted."""
        # SQLAlchemy escapes a percent sign twice in MySQL's ON DUPLICATE KEY UPDATE.
        odd = "100 (a.b):c" if world.backend == "mariadb" else "100% (a.b):c"
        table = world.table(
            Column("user id", Integer, primary_key=True, autoincrement=False),
            Column("select", String(20), nullable=False),
            Column("näme", String(20)),
            Column(odd, String(20)),
            name='select "from" `x`',
        )
        adapter = world.adapter(table)
        value = {"select": "a", "näme": "b", odd: "c"}
        await settle(adapter.write(1, {**value, "select": "first"}))
        await settle(adapter.write_many({1: value, 2: value}))
        assert await settle(adapter.read(1)) == value
        assert await settle(adapter.read_many([1, 2])) == {1: value, 2: value}
        assert await walk(adapter, limit=1) == [1, 2]
        assert len(await settle(adapter.partitions(2))) == 2
        await settle(adapter.delete(1))
        await settle(adapter.delete_many([2]))
        assert world.rows(table) == []

    async def test_a_key_that_the_database_takes_for_another(self, world):
        """A row that is found under another key raises; its value is not given out, nor is it called absent."""
        collation = {"mariadb": "utf8mb4_general_ci", "sqlite": "NOCASE"}.get(world.backend)
        if collation is None:
            pytest.skip("PostgreSQL has no such collation by default")
        table = world.table(
            Column("k", String(20, collation=collation), primary_key=True),
            Column("v", Integer, nullable=False),
        )
        adapter = world.adapter(table, value="v")
        await settle(adapter.write("Secret", 1))
        for read in (lambda: adapter.read("secret"), lambda: adapter.read_many(["secret", "x"])):
            with pytest.raises(ValueError, match="collation") as caught:
                await settle(read())
            assert "ecret" not in str(caught.value)
        assert await settle(adapter.read_many(["Secret"])) == {"Secret": 1}

    async def test_a_key_longer_than_its_column_is_absent(self, world):
        """A key that its column has no room for is another key than the one that its beginning is."""
        table = world.table(Column("id", String(3), primary_key=True), Column("value", Integer, nullable=False))
        adapter = world.adapter(table, value="value")
        await settle(adapter.write("abc", 1))
        await settle(adapter.delete_many(["abcd", "abce"]))
        assert await settle(adapter.read_many(["abcd", "abc", "abce"])) == {"abc": 1}
        assert await settle(adapter.read_many(["abcd", "abce"])) == {}


class TestValues:
    async def test_dataclass(self, world, users):
        """A dataclass is a value; its fields are columns, key columns among them."""
        adapter = world.adapter(users, value=User)
        await settle(adapter.write(1, User(1, "Ann", None)))
        await settle(adapter.write_many({2: User(2, "Bob", 40)}))
        assert await settle(adapter.read(1)) == User(1, "Ann", None)
        assert dict((await settle(adapter.scan())).items) == {1: User(1, "Ann", None), 2: User(2, "Bob", 40)}
        with pytest.raises(NotApplied) as caught:
            await settle(adapter.write(3, User(1, "Ann", None)))
        assert isinstance(caught.value.__cause__, ValueError)
        with pytest.raises(NotApplied):
            await settle(adapter.write(1, ANN))
        assert len(world.rows(users)) == 2

    async def test_columns_outside_the_value_are_kept(self, world, users, adapter):
        """A write leaves the columns alone that are not in the value."""
        await settle(adapter.write(1, ANN))
        await settle(world.adapter(users, value=Name).write(1, Name("Bob")))
        await settle(world.adapter(users, value=["name"]).write(2, {"name": "Cy"}))
        assert world.rows(users) == [(1, "Bob", 30), (2, "Cy", None)]

    @pytest.mark.parametrize(
        "value", [{"name": "Ann"}, {**ANN, "shoe": 42}, {}, "Ann", None, ["name", "age"]], ids=repr
    )
    async def test_a_value_of_another_shape_is_refused(self, world, users, adapter, value):
        """A missing or unknown column, or no mapping at all, is refused before the database is asked."""
        await settle(adapter.write(1, ANN))
        for write in (lambda: adapter.write(1, value), lambda: adapter.write_many({0: ANN, 1: value})):
            with pytest.raises(NotApplied) as caught:
                await settle(write())
            assert isinstance(caught.value.__cause__, (TypeError, ValueError))
        assert world.rows(users) == [(1, "Ann", 30)]

    async def test_generated_columns_are_left_out(self, world):
        """A column that the database computes is no part of the value."""
        table = world.table(
            Column("id", Integer, primary_key=True, autoincrement=False),
            Column("n", Integer, nullable=False),
            Column("twice", Integer, Computed("n * 2", persisted=True)),
        )
        adapter = world.adapter(table)
        await settle(adapter.write(1, {"n": 4}))
        assert await settle(adapter.read(1)) == {"n": 4}
        assert world.rows(table) == [(1, 4, 8)]

    async def test_null_never_reads_as_absent(self, world):
        """A NULL in a column that was declared NOT NULL raises, and None cannot be written."""
        real = world.table(
            Column("id", Integer, primary_key=True, autoincrement=False), Column("v", Integer, nullable=True)
        )
        declared = Table(
            real.name, MetaData(), Column("id", Integer, primary_key=True), Column("v", Integer, nullable=False)
        )
        adapter = world.adapter(declared, value="v")
        with world.beside.begin() as connection:
            connection.execute(real.insert().values(id=1, v=None))
        for read in (lambda: adapter.read(1), lambda: adapter.read_many([1]), adapter.scan):
            with pytest.raises(ValueError, match="NULL"):
                await settle(read())
        with pytest.raises(NotApplied):
            await settle(adapter.write(1, None))

    async def test_datetime_with_zone(self, world):
        """A time with its zone is the same moment when it is read."""
        if world.backend != "postgresql":
            pytest.skip("only PostgreSQL keeps zones")
        table = world.table(
            Column("k", DateTime(timezone=True), primary_key=True),
            Column("v", DateTime(timezone=True), nullable=False),
        )
        adapter = world.adapter(table, value="v")
        moment = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
        await settle(adapter.write(moment, moment))
        assert await settle(adapter.read(moment)) == moment
        assert (await settle(adapter.scan())).items == [(moment, moment)]

    async def test_a_batch_takes_what_a_write_takes(self, world):
        """Values of several types in one column are written by a batch as they are one by one."""
        columns = (Column("score", Double), Column("at", DateTime(timezone=True)), Column("done", Boolean))
        table = world.table(Column("id", Integer, primary_key=True, autoincrement=False), *columns)
        adapter = world.adapter(table)
        naive = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - beside one with a zone
        aware = naive.replace(tzinfo=timezone(timedelta(hours=5)))
        whole = {"score": 1.5, "at": naive, "done": True}
        for other in ({"score": 2}, {"score": None}, {"at": aware}, {"at": None}, {"done": None}):
            items = {1: whole, 2: whole | other, 3: whole}
            for key, value in items.items():
                await settle(adapter.write(key, value))
            single = await settle(adapter.read_many([1, 2, 3]))
            await settle(adapter.delete_many([1, 2, 3]))
            await settle(adapter.write_many(items))
            assert await settle(adapter.read_many([1, 2, 3])) == single

    async def test_a_batch_makes_a_default_for_each_row(self, world):
        """A default of a column outside the value is made for each row of a batch."""
        numbers = itertools.count(1)
        table = world.table(
            Column("id", Integer, primary_key=True, autoincrement=False),
            Column("name", String(20), nullable=False),
            Column("number", Integer, nullable=False, default=lambda: next(numbers)),
        )
        adapter = world.adapter(table, value="name")
        await settle(adapter.write_many({1: "a", 2: "b", 3: "c"}))
        assert len({number for _, _, number in world.rows(table)}) == 3

    async def test_a_batch_cuts_nothing(self, world, users):
        """A value that its column has no room for is refused, where the database keeps to that."""
        if world.backend == "sqlite":
            pytest.skip("SQLite has no lengths")
        adapter = world.adapter(users)
        with pytest.raises(NotApplied):
            await settle(adapter.write_many({1: ANN, 2: {"name": "x" * 21, "age": 1}}))
        assert world.rows(users) == []


class TestErrors:
    @pytest.mark.parametrize("value", [{"name": None, "age": 1}, {"name": "Ann", "age": 200}])
    async def test_a_violated_constraint_is_certain(self, adapter, world, users, value):
        """NOT NULL and CHECK are refused by the database: certainly not applied."""
        await settle(adapter.write(1, ANN))
        if world.backend == "mariadb" and value["age"] == 200:
            pytest.skip("MariaDB reports a CHECK as an OperationalError: unknown, which is safe")
        with pytest.raises(NotApplied) as caught:
            await settle(adapter.write(1, value))
        assert isinstance(caught.value.__cause__, DBAPIError)
        assert world.rows(users) == [(1, "Ann", 30)]

    async def test_a_value_too_long_is_certain(self, adapter, world, users):
        """A string that does not fit its column is refused: certainly not applied."""
        if world.backend == "sqlite":
            pytest.skip("SQLite has no lengths")
        with pytest.raises(NotApplied) as caught:
            await settle(adapter.write(1, {"name": "x" * 21, "age": 1}))
        assert isinstance(caught.value.__cause__, DBAPIError)
        assert world.rows(users) == []

    async def test_a_missing_table_is_certain(self, world):
        """A statement that the database does not understand certainly did nothing."""
        if world.backend == "sqlite":
            pytest.skip("SQLite reports a missing table as an OperationalError: unknown, which is safe")
        table = Table("missing", MetaData(), Column("id", Integer, primary_key=True), Column("v", Integer))
        with pytest.raises(NotApplied):
            await settle(world.adapter(table).write(1, {"v": 1}))
        with pytest.raises(DBAPIError):
            await settle(world.adapter(table).read(1))

    async def test_no_connection_is_certain(self, world, users):
        """Where nobody answers, or the pool is exhausted, the write was certainly not applied."""
        engine = world.new_engine(pool_size=1, max_overflow=0, pool_timeout=0.05)
        adapter = world.adapter(users, engine=engine)
        taken = await settle(engine.connect())
        try:
            for call in (
                lambda: adapter.write(1, ANN),
                lambda: adapter.write_many({1: ANN}),
                lambda: adapter.delete(1),
                lambda: adapter.delete_many([1]),
            ):
                with pytest.raises(NotApplied) as caught:
                    await settle(call())
                assert caught.value.__cause__ is not None
        finally:
            await settle(taken.close())
            await settle(engine.dispose())
        assert world.rows(users) == []

    async def test_a_lost_connection_is_unknown(self, world, users):
        """A connection that is cut while a write waits leaves the outcome unknown; the next write works."""
        if world.backend == "sqlite":
            pytest.skip("SQLite has no connection to cut")
        adapter = world.adapter(users)
        await settle(adapter.write(1, ANN))
        with world.beside.begin() as blocker:
            blocker.execute(users.update().values(age=1))  # the adapter's write waits for this row
            waiting = asyncio.create_task(in_task(world, lambda: adapter.write(1, BOB)))
            await cut_the_waiting_connection(world)
            with pytest.raises(Exception) as caught:  # what the driver raises
                await asyncio.wait_for(waiting, 30)
        assert not isinstance(caught.value, NotApplied)
        await settle(adapter.write(1, BOB))
        assert world.rows(users) == [(1, "Bob", None)]

    async def test_a_statement_timeout_is_certain(self, world, users):
        """A statement that the server gave up on its own certainly did nothing."""
        settings = {
            "sqlite": {"connect_args": {"timeout": 0.05}},
            "postgresql": {"connect_args": {"options": "-c lock_timeout=50"}},
            "mariadb": {"connect_args": {"init_command": "SET innodb_lock_wait_timeout=1"}},
        }[world.backend]
        engine = world.new_engine(**settings)
        adapter = world.adapter(users, engine=engine)
        await settle(adapter.write(1, ANN))
        with world.beside.connect() as blocker:
            blocker.execute(users.update().values(age=1))
            with pytest.raises(NotApplied):
                await settle(adapter.write(1, BOB))
            blocker.rollback()
        await settle(engine.dispose())
        assert world.rows(users) == [(1, "Ann", 30)]

    async def test_an_error_of_commit_is_unknown(self, world):
        """What is raised by COMMIT itself passes as it is, whatever it is."""
        if world.backend != "postgresql":
            pytest.skip("only PostgreSQL defers constraints to COMMIT")
        table = world.table(
            Column("id", Integer, primary_key=True, autoincrement=False),
            Column("v", Integer, nullable=False),
            UniqueConstraint("v", deferrable=True, initially="DEFERRED"),
        )
        adapter = world.adapter(table, value="v")
        await settle(adapter.write(1, 5))
        with pytest.raises(IntegrityError):
            await settle(adapter.write(2, 5))

    async def test_autocommit_gives_no_certainty(self, world, users):
        """With an engine in AUTOCOMMIT mode the database's refusal passes as it is."""
        engine = world.new_engine(isolation_level="AUTOCOMMIT")
        for used in (engine, world.engine.execution_options(isolation_level="AUTOCOMMIT")):
            with pytest.raises(IntegrityError):
                await settle(world.adapter(users, engine=used).write(1, {"name": None, "age": 1}))
        await settle(engine.dispose())

    async def test_the_text_of_not_applied_has_no_key_or_value(self, adapter):
        """What this library says of a refused write names no key and no value."""
        with pytest.raises(NotApplied) as caught:
            await settle(adapter.write(777, {"name": None, "age": 555}))
        assert "777" not in str(caught.value)
        assert "555" not in str(caught.value)


async def in_task(world: Any, call: Any) -> Any:
    """Run a call of either world without blocking this event loop."""
    if isinstance(world.engine, type(world.beside)):
        return await asyncio.to_thread(call)
    return await call()


async def cut_the_waiting_connection(world: Any) -> None:
    """Kill, in the server, the connection that waits for a lock."""
    find, kill = {
        "postgresql": (
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
            "SELECT pg_terminate_backend({})",
        ),
        "mariadb": (
            "SELECT id FROM information_schema.processlist WHERE db = database() AND info LIKE 'INSERT%'",
            "KILL {}",
        ),
    }[world.backend]
    async with asyncio.timeout(20):
        while True:
            with world.beside.connect() as connection:
                found = connection.execute(text(find)).scalars().all()
                if found:
                    connection.execute(text(kill.format(found[0])))
                    return
            await asyncio.sleep(0.01)


class TestConcurrency:
    async def test_eight_writers(self, world, users):
        """Eight threads or tasks that write and read at once lose nothing."""
        adapter = world.adapter(users)

        def thread(number: int) -> None:
            for step in range(10):
                adapter.write(number * 100 + step, {"name": f"{number}", "age": step})
                adapter.write(1_000_000, {"name": "shared", "age": step})
                assert adapter.read(number * 100 + step) == {"name": f"{number}", "age": step}

        async def task(number: int) -> None:
            for step in range(10):
                await adapter.write(number * 100 + step, {"name": f"{number}", "age": step})
                await adapter.write(1_000_000, {"name": "shared", "age": step})
                assert await adapter.read(number * 100 + step) == {"name": f"{number}", "age": step}

        if isinstance(adapter, SqlAlchemyAdapter):
            await asyncio.gather(*(asyncio.to_thread(thread, number) for number in range(8)))
        else:
            await asyncio.gather(*(task(number) for number in range(8)))
        assert len(world.rows(users)) == 81

    async def test_batches_in_opposite_orders_do_not_deadlock(self, world, users):
        """Two batches over the same keys, given in opposite orders, both go through."""
        adapter = world.adapter(users)
        keys = list(range(100))
        await settle(adapter.write_many(dict.fromkeys(keys, ANN)))

        async def write(order: list[int]) -> None:
            for _ in range(5):
                await in_task(world, lambda: adapter.write_many(dict.fromkeys(order, BOB)))

        await asyncio.gather(write(keys), write(keys[::-1]))
        assert len(world.rows(users)) == 100

    async def test_a_cancelled_call_leaves_the_pool_healthy(self, world, users):
        """A cancelled asyncio write raises CancelledError, and its connection is not lost to the pool."""
        if world.engine is world.beside or not hasattr(world.engine, "sync_engine"):
            pytest.skip("blocking calls are not cancelled")
        if world.backend == "sqlite":
            pytest.skip("a waiting SQLite call holds its thread until its time-out")
        engine = world.new_engine(pool_size=1, max_overflow=0, pool_timeout=10)
        adapter = world.adapter(users, engine=engine)
        await adapter.write(1, ANN)
        for _ in range(3):
            with world.beside.connect() as blocker:
                blocker.execute(users.update().values(age=1))
                waiting = asyncio.create_task(adapter.write(1, BOB))
                await asyncio.sleep(0.05)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                blocker.rollback()
            assert await adapter.read(1) == ANN
        assert engine.pool.checkedout() == 0
        await engine.dispose()


class TestConstruction:
    def table(self, *columns: Any) -> Table:
        return Table("t", MetaData(), *columns)

    def test_wrong_world(self):
        """An engine of the other world is refused, and the text says what to use."""
        table = self.table(Column("id", Integer, primary_key=True))
        with pytest.raises(TypeError, match="AsyncSqlAlchemyAdapter"):
            SqlAlchemyAdapter(create_async_engine("sqlite+aiosqlite://"), table)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"ThreadedAdapter\(SqlAlchemyAdapter"):
            AsyncSqlAlchemyAdapter(create_engine("sqlite://"), table)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("columns", "options", "message"),
        [
            ([Column("a", Integer)], {}, "no primary key"),
            ([Column("a", Integer, primary_key=True)], {"key": "b"}, "no column 'b'"),
            ([Column("a", Integer, primary_key=True), Column("b", Integer)], {"key": "b"}, "unique"),
            (
                [Column("a", Integer, primary_key=True), Column("b", Integer, unique=True)],
                {"key": "b"},
                "NOT NULL",
            ),
            ([Column("a", Integer, primary_key=True), Column("b", Integer)], {"value": "b"}, "NULL"),
            ([Column("a", Integer, primary_key=True)], {"value": "a"}, "key column"),
            ([Column("a", Integer, primary_key=True)], {"value": Name}, "no column 'name'"),
            ([Column("a", Integer, primary_key=True)], {"value": int}, "dataclass"),
        ],
    )
    def test_what_cannot_work_is_refused(self, columns, options, message):
        """Columns that do not exist, or cannot serve, are refused when the adapter is made."""
        with pytest.raises(ValueError, match=message):
            SqlAlchemyAdapter(create_engine("sqlite://"), self.table(*columns), **options)

    def test_other_databases_are_refused(self, monkeypatch):
        """A database without a known upsert is refused when the adapter is made."""
        engine = create_engine("sqlite://")
        engine.dialect = mssql.dialect()
        with pytest.raises(Unsupported, match="mssql"):
            SqlAlchemyAdapter(engine, self.table(Column("id", Integer, primary_key=True)))

    def test_mysql_with_another_unique_column_is_refused(self):
        """MySQL's upsert may update the row of another key, so such a table is refused there, and only there."""

        def columns() -> list[Column[Any]]:
            unique = Column("email", String(9), unique=True)
            return [Column("id", Integer, primary_key=True), unique, Column("v", Integer, nullable=False)]

        engine = create_engine("mysql+pymysql://localhost/x")
        with pytest.raises(Unsupported, match="email"):
            SqlAlchemyAdapter(engine, self.table(*columns()))
        SqlAlchemyAdapter(engine, self.table(*columns()), value="v")
        SqlAlchemyAdapter(create_engine("sqlite://"), self.table(*columns()))


async def test_a_unique_collision_hits_no_other_row(world):
    """Where another column is unique too, a colliding write is refused and the other row stays as it is."""
    if world.backend == "mariadb":
        pytest.skip("refused when the adapter is made")
    table = world.table(
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("email", String(20), nullable=False, unique=True),
    )
    adapter = world.adapter(table, value="email")
    await settle(adapter.write(1, "a"))
    with pytest.raises(NotApplied):
        await settle(adapter.write(2, "a"))
    assert world.rows(table) == [(1, "a")]


def test_without_sqlalchemy_the_error_names_the_extra():
    """Where SQLAlchemy is missing, importing the adapter says what to install."""
    program = """
import sys
sys.modules["sqlalchemy"] = None
try:
    import zddm_adapters.sqlalchemy
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "zddm-flags[sqlalchemy]"' in result.stdout


async def test_a_cancellation_that_the_driver_hides(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AssertionError that psycopg makes of a cancellation is one, and its connection is not used again."""
    if (world.backend, type(world.engine)) != ("postgresql", AsyncEngine):
        pytest.skip("only psycopg in asyncio has pipelines that can be cancelled")
    table = world.table(Column("id", String(40), primary_key=True), Column("price", Numeric, nullable=False))
    adapter = world.adapter(table, value="price")
    await adapter.write_many({"a": 1, "b": 2})
    enter = psycopg.AsyncPipeline.__aenter__

    async def cancelled(pipeline: Any) -> Any:
        await enter(pipeline)
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(psycopg.AsyncPipeline, "__aenter__", cancelled)
        with pytest.raises(asyncio.CancelledError):
            await adapter.write_many({"a": 3, "b": 4})
    assert world.rows(table) == [("a", 1), ("b", 2)]
    await adapter.write_many({"a": 5, "b": 6})
    assert await adapter.read_many(["a", "b"]) == {"a": 5, "b": 6}
