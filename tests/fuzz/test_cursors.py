"""Cursors of scans, which operators keep in files and hand back: any text is refused or gives the right page."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    Engine,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Uuid,
    create_engine,
    event,
)

from tests.fuzz.effort import examples
from tests.servers import PostgreSqlServer, ValkeyServer
from zddm_adapters import InMemoryAdapter
from zddm_adapters.redis import RedisAdapter
from zddm_adapters.sqlalchemy import SqlAlchemyAdapter

START = datetime(2026, 1, 1)  # noqa: DTZ001 - the column has no time zone
KEYS: dict[str, tuple[Any, list[Any]]] = {
    "i": (BigInteger, list(range(-10, 10))),
    "s": (String(50), sorted(["", " ", "a", "b'", 'c"', "d\\", "é", "€", "😀", "[", "ss"], key=str.encode)),
    "b": (LargeBinary, [b"", b"\0", b"a", b"\xff"]),
    "u": (Uuid, [UUID(int=number) for number in range(5)]),
    "n": (Numeric(30, 10), [Decimal(number) / 4 for number in range(-6, 7)]),
    "t": (DateTime, [START + timedelta(seconds=number) for number in range(5)]),
    "d": (Date, [date(2026, 1, 1) + timedelta(number) for number in range(5)]),
}


class Tables:
    """A table for each type of key, and one with a key of two columns."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        definitions = MetaData()
        self.keys = {tag: list(keys) for tag, (_, keys) in KEYS.items()}
        if engine.dialect.name == "sqlite":
            del self.keys["n"]  # it has no decimal numbers
        self.keys["is"] = list(itertools.product(range(3), "abc"))
        self.adapters: dict[str, Any] = {}
        for tag in self.keys:
            columns: list[Any] = [Column(f"key_{part}", self._type(part), primary_key=True) for part in tag]
            table = Table(f"table_{tag}", definitions, *columns, Column("value", String(10), nullable=False))
            self.adapters[tag] = SqlAlchemyAdapter(engine, table, value="value")
        definitions.create_all(engine)
        for tag, adapter in self.adapters.items():
            adapter.write_many(dict.fromkeys(self.keys[tag], "value"))
        self.statements: set[str] = set()
        event.listen(engine, "before_cursor_execute", self._remember)

    def _type(self, tag: str) -> Any:
        kind = KEYS[tag][0]
        if tag == "s" and self.engine.dialect.name == "postgresql":
            return String(50, collation="C")
        return kind

    def _remember(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.statements.add(statement)

    def scan(self, tag: str, cursor: str, limit: int, until: str | None) -> Any:
        """A page, or None where the cursor was refused, without a word of it, or there is no such table."""
        if tag not in self.keys:
            return None
        try:
            return self.adapters[tag].scan(cursor, limit, until)
        except ValueError as error:
            cause, text = error.__cause__, str(error)
        assert cause is None
        assert len(text) < 100
        return None


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def tables(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tables]:
    """The tables, in both databases."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("cursors") / "store.db"
        engine = create_engine(f"sqlite:///{path}")
    else:
        server: PostgreSqlServer = request.getfixturevalue("postgresql_server")
        engine = create_engine(server.url(server.create_database()))
    yield Tables(engine)
    engine.dispose()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
texts = st.one_of(
    st.text(max_size=10),
    st.sampled_from(["NaN", "sNaN", "Infinity", "1e99999", "1E-9999999", "-0", "00", "1_0", "٣", "0x1"]),
    st.sampled_from(["2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00+00:00", "0001-01-01", "20260101"]),
    st.sampled_from(["00000000-0000-0000-0000-000000000001", "00000000000000000000000000000001", "ff", "FF", "f"]),
    st.sampled_from(["\0", "\ud800", "a\0b", "'; DROP TABLE table_s; --", "%s", ":k0", "?"]),
    st.integers().map(str),
)
parts = st.tuples(st.sampled_from([*KEYS, "x", ""]), texts | st.integers(-(2**65), 2**65) | json_values)
cursors = st.one_of(
    st.text(max_size=30),
    json_values.map(json.dumps),
    st.lists(parts, max_size=3).map(lambda found: json.dumps(found, separators=(",", ":"))),
    parts.map(lambda found: json.dumps([found], separators=(",", ":"))),
    st.lists(parts, max_size=2).map(json.dumps),
)


@given(tag=st.sampled_from([*KEYS, "is"]), cursor=cursors, limit=st.integers(1, 30))
@example(tag="n", cursor='[["n","abc"]]', limit=1)
@example(tag="n", cursor='[["n","sNaN"]]', limit=1)
@example(tag="n", cursor='[["n","NaN"]]', limit=1)
@example(tag="u", cursor='[["u",5]]', limit=1)
@example(tag="i", cursor=f'[["i",{2**63}]]', limit=1)
@example(tag="i", cursor='[["i",Infinity]]', limit=1)
@example(tag="i", cursor='[["s","a"]]', limit=1)
@example(tag="d", cursor='[["t","2026-01-01T00:00:00"]]', limit=1)
@example(tag="s", cursor='["sa"]', limit=1)
@example(tag="s", cursor='{"sa":1}', limit=1)
@example(tag="s", cursor=r'[["s","\ud800"]]', limit=1)
@example(tag="s", cursor=r'[["s","\u0000"]]', limit=1)
@example(tag="s", cursor="[" * 100_000, limit=1)
@example(tag="t", cursor='[["t","2026-01-01T00:00:00+00:00"]]', limit=1)
@examples(300)
def test_any_text_is_refused_or_gives_the_right_page(tables: Tables, tag: str, cursor: str, limit: int) -> None:
    """A text is a cursor only if it is one of that key in full, and then the keys after it are given."""
    page = tables.scan(tag, cursor, limit, None)
    if page is None:
        return
    after = _key(cursor)
    assert [key for key, _ in page.items] == [key for key in tables.keys[tag] if _after(key, after)][:limit]


def _key(cursor: str) -> Any:
    """What a right cursor stands for, read in the other direction than the adapter does."""
    kinds = {"i": int, "s": str, "b": bytes.fromhex, "u": UUID, "n": Decimal}
    kinds |= {"t": datetime.fromisoformat, "d": date.fromisoformat}
    found = [kinds[tag](text) for tag, text in json.loads(cursor)]
    assert all(type(text) is (int if tag == "i" else str) for tag, text in json.loads(cursor))
    return found[0] if len(found) == 1 else tuple(found)


def _after(key: Any, cursor: Any) -> bool:
    if isinstance(key, str):
        return key.encode() > cursor.encode()
    if isinstance(cursor, Decimal) and cursor.is_nan():
        return False  # PostgreSQL orders it last
    if isinstance(cursor, datetime):
        return bool(key > cursor.replace(tzinfo=None))
    return bool(key > cursor)


@given(tag=st.sampled_from([*KEYS, "is"]), limit=st.integers(1, 7), data=st.data())
@examples(60)
def test_a_cursor_that_was_changed_is_refused_or_right(
    tables: Tables, tag: str, limit: int, data: st.DataObject
) -> None:
    """A real cursor of which a character was changed, dropped or added is no cursor, or another right one."""
    assume(tag in tables.keys)
    page = tables.adapters[tag].scan(None, limit)
    assume(page.next_cursor is not None)
    cursor = page.next_cursor
    place = data.draw(st.integers(0, len(cursor)))
    changed = cursor[:place] + data.draw(st.text(max_size=1)) + cursor[place + data.draw(st.integers(0, 1)) :]
    found = tables.scan(tag, changed, 30, None)
    if found is not None:
        after = _key(changed)
        assert [key for key, _ in found.items] == [key for key in tables.keys[tag] if _after(key, after)]


@given(tag=st.sampled_from([*KEYS, "is"]), cursor=cursors, until=cursors)
@examples(40)
def test_until_is_no_less_suspicious(tables: Tables, tag: str, cursor: str, until: str) -> None:
    """The end of a range is refused, or bounds the page, as its beginning does."""
    page = tables.scan(tag, cursor, 30, until)
    if page is not None:
        assert not any(_after(key, _key(until)) for key, _ in page.items)


def test_no_text_of_a_cursor_becomes_sql(tables: Tables) -> None:
    """Whatever cursors there were, each table was asked by one text of a statement a way."""
    tables.statements.clear()
    for tag, keys in tables.keys.items():
        for page_after in keys:
            for limit in (1, 5):
                cursor = tables.adapters[tag]._table.cursor(page_after if tag == "is" else [page_after])
                assert tables.scan(tag, cursor, limit, None) is not None
        tables.scan(tag, "'; DROP TABLE table_s; --", 1, None)
        tables.scan(tag, json.dumps([["s", "'; DROP TABLE table_s; --"]], separators=(",", ":")), 1, None)
    assert len(tables.statements) <= len(tables.keys)


# Redis


@pytest.fixture(scope="module")
def client(valkey_server: ValkeyServer) -> Iterator[Any]:
    """A client whose keys with the prefix below are this module's."""
    found = valkey_server.client()
    found.mset({f"fuzz-cursor:{number}": b"" for number in range(30)})
    yield found
    found.close()


@given(
    run=st.sampled_from(["own", "0" * 40, "", "a:b", "é"]) | st.text(max_size=5),
    rest=st.one_of(
        st.text(max_size=20),
        st.integers(0, 2**66).map(lambda position: f":{position}"),
        st.tuples(st.integers(0, 2**66), st.integers(0, 2**66), st.binary(max_size=9)).map(
            lambda found: f":{found[0]}:{found[1]}:{found[2].hex()}"
        ),
    ),
    limit=st.integers(1, 40),
)
@example(run="own", rest=f":{2**64}", limit=1)
@example(run="own", rest=f":{2**64 - 1}", limit=1)
@example(run="own", rest=":0:0:\n", limit=1)
@example(run="own", rest=":" + "9" * 5000, limit=1)
@examples(200)
def test_any_cursor_of_redis(client: Any, run: str, rest: str, limit: int) -> None:
    """A text is refused, or the scan goes on from somewhere and ends; of another life, from the beginning."""
    adapter = RedisAdapter(client, prefix="fuzz-cursor:")
    own = client.info("server")["run_id"]
    cursor: str | None = (own if run == "own" else run) + rest
    found: set[str] = set()
    try:
        page = adapter.scan(cursor, limit)
    except ValueError:
        return
    for _ in range(1000):
        found |= {key for key, _ in page.items}
        if page.next_cursor is None:
            break
        page = adapter.scan(page.next_cursor, limit)
    assert page.next_cursor is None
    everything = {str(number) for number in range(30)}
    assert found <= everything
    assert run == "own" or found == everything


# In memory


@given(cursor=st.text(max_size=10) | st.binary(max_size=9).map(bytes.hex), limit=st.integers(1, 10))
@examples(100)
def test_any_cursor_in_memory(cursor: str, limit: int) -> None:
    """A text is refused, or the keys after it are given."""
    names = [b"", b"a", b"\x00", b"\xff"]
    adapter = InMemoryAdapter(dict.fromkeys(names, 1))
    try:
        page = adapter.scan(cursor, limit)
    except ValueError:
        return
    after = bytes.fromhex(cursor)
    assert [key for key, _ in page.items] == sorted(key for key in names if b"b" + key > after)[:limit]
