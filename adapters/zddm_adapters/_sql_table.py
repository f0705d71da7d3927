"""A table seen as a map: its statements, and how keys, values and cursors become parameters. No I/O."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from types import NoneType
from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Delete,
    Executable,
    Integer,
    LargeBinary,
    Row,
    Select,
    Table,
    Text,
    UniqueConstraint,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.types import (
    BIGINT,
    BOOLEAN,
    DOUBLE_PRECISION,
    INTEGER,
    SMALLINT,
    TEXT,
    TIMESTAMP,
    VARCHAR,
    BigInteger,
    Boolean,
    DateTime,
    Double,
    Float,
    SmallInteger,
    String,
    TypeEngine,
)

from zddm_flags.errors import Unsupported

__all__ = ["MappedTable", "ValueSpec"]

ValueSpec = str | Sequence[str] | type[Any] | None
Parameters = dict[str, Any]

DIALECTS = {"sqlite", "postgresql", "mysql", "mariadb"}
PARAMETERS_PER_STATEMENT = 900  # below 999, the lowest limit of any SQLite that is in use
ROWS_PER_ARRAY = 5000


KINDS_OF_KEYS: Mapping[type[TypeEngine[Any]], type[Any]] = {
    **dict.fromkeys((SmallInteger, Integer, BigInteger, SMALLINT, INTEGER, BIGINT), int),
    **dict.fromkeys((String, Text, VARCHAR, TEXT), str),
    **dict.fromkeys((LargeBinary, postgresql.BYTEA), bytes),
}
"""Types of columns of which PostgreSQL takes many values as one array, and compares with its members as with them.

As they are written, for one that is derived from them may do as it likes; and what their values are in Python."""
KINDS_OF_VALUES: Mapping[type[TypeEngine[Any]], type[Any]] = {
    **KINDS_OF_KEYS,
    **dict.fromkeys((Boolean, BOOLEAN), bool),
    **dict.fromkeys((Float, Double, DOUBLE_PRECISION), float),
    **dict.fromkeys((DateTime, TIMESTAMP, postgresql.TIMESTAMP), datetime),
}


class MappedTable:
    """The statements of one table, built once. Immutable, hence thread-safe.

    Raises:
        Unsupported: the dialect has no upsert that is known here, or (MySQL) one that could hit another row.
        ValueError: a column that is not there, or a key that does not identify a row.
    """

    def __init__(self, dialect: Dialect, table: Table, key: str | Sequence[str] | None, value: ValueSpec) -> None:
        if dialect.name not in DIALECTS:
            raise Unsupported(f"no upsert is known for {dialect.name}; known are {', '.join(sorted(DIALECTS))}")
        self._dialect = dialect.name
        self._table = table
        self.keys = self._key_columns(key)
        self._shape = _shape_of(table, self.keys, value)
        self.values = self._shape.columns
        if self._mysql:
            self._check_other_unique()
        by_array = (
            self._dialect == "postgresql" and len(self.keys) == 1 and type(self.keys[0].type) in KINDS_OF_KEYS
        )
        self.rows_per_statement = ROWS_PER_ARRAY if by_array else PARAMETERS_PER_STATEMENT // len(self.keys)

        columns = select(*self.keys, *self.values)
        here = and_(*(column == bind for column, bind in zip(self.keys, self._binds("k"), strict=True)))
        among = self._key_expression().in_(bindparam("keys", expanding=True))
        if by_array:
            # One parameter and one text, whatever the number of keys: a third of the time of a thousand of them.
            among = self.keys[0] == func.any(bindparam("keys", type_=_array(self.keys[0])))
        self.read: Select[Any] = columns.where(here)
        self.read_many: Select[Any] = columns.where(among)
        self.delete: Delete = delete(table).where(here)
        self.delete_many: Delete = delete(table).where(among)
        self.upsert = self._upsert()
        self._written = {f"k{position}": column for position, column in enumerate(self.keys)}
        self._written |= {f"v{position}": column for position, column in enumerate(self.values)}
        self._upsert_of_arrays = self._upsert_many()
        ordered = columns.order_by(*self.keys).limit(bindparam("limit", type_=Integer))
        after, until = self._beyond("a"), ~self._beyond("u")
        self._scans: dict[tuple[bool, bool], Select[Any]] = {
            (False, False): ordered,
            (True, False): ordered.where(after),
            (False, True): ordered.where(until),
            (True, True): ordered.where(after, until),
        }
        self.count: Select[Any] = select(func.count()).select_from(table)
        self.key_at = self._key_at()

    # Keys

    def key_parameters(self, key: Any, prefix: str = "k") -> Parameters:
        """The parameters that stand for `key`. Raises TypeError where its shape is not that of the key columns."""
        if len(self.keys) == 1:
            return {f"{prefix}0": key}
        return {f"{prefix}{position}": part for position, part in enumerate(self._parts(key))}

    def key_chunks(self, keys: Sequence[Any]) -> Iterator[Parameters]:
        """The parameters of as many `read_many` or `delete_many` as are needed, in canonical order."""
        wanted = in_order(dict.fromkeys(keys))
        if len(self.keys) > 1:
            wanted = [self._parts(key) for key in wanted]
        for start in range(0, len(wanted), self.rows_per_statement):
            yield {"keys": wanted[start : start + self.rows_per_statement]}

    def key_of(self, row: Row[Any]) -> Any:
        """The key of a row of `read`, `read_many` or a scan."""
        return row[0] if len(self.keys) == 1 else tuple(row[: len(self.keys)])

    def _parts(self, key: Any) -> tuple[Any, ...]:
        if not isinstance(key, tuple) or len(key) != len(self.keys):
            names = ", ".join(column.key for column in self.keys)
            raise TypeError(f"a key of {self._table.name} is a tuple of ({names})")
        return key

    # Values

    def row_parameters(self, key: Any, value: Any) -> Parameters:
        """The parameters of `upsert`.

        Raises:
            TypeError: the key or the value has the wrong type.
            ValueError: a column is missing or unknown, or the value names another key.
        """
        parameters = self.key_parameters(key)
        for position, part in enumerate(self._shape.dump(tuple(parameters.values()), value)):
            parameters[f"v{position}"] = part
        return parameters

    def upserts(self, rows: Sequence[Parameters]) -> tuple[Executable, list[Any]]:
        """The statement that writes these rows, and the parameters of each of its executions, in their order."""
        if len(rows) > 1 and self._upsert_of_arrays is not None:
            arrays = {name: [row[name] for row in rows] for name in self._written}
            if all(_fit(column, arrays[name]) for name, column in self._written.items()):
                return self._upsert_of_arrays, [
                    {name: array[start : start + ROWS_PER_ARRAY] for name, array in arrays.items()}
                    for start in range(0, len(rows), ROWS_PER_ARRAY)
                ]
        return self.upsert, [rows]

    def value_of(self, row: Row[Any]) -> Any:
        """The value of a row of `read`, `read_many` or a scan; never None."""
        return self._shape.load(row)

    # Cursors

    def scan(self, cursor: str | None, limit: int, until: str | None) -> tuple[Select[Any], Parameters]:
        """The statement and parameters of one page. Raises ValueError for what is no cursor."""
        parameters: Parameters = {"limit": limit}
        for prefix, bound in (("a", cursor), ("u", until)):
            if bound is not None:
                parameters |= self.key_parameters(self._from_cursor(bound), prefix)
        return self._scans[cursor is not None, until is not None], parameters

    def cursor(self, row: Sequence[Any]) -> str:
        """The cursor that stands after `row`. Raises TypeError for a key column of a type that has no form."""
        return _cursor_of(row[: len(self.keys)])

    def _from_cursor(self, cursor: str) -> Any:
        parts = _parts_of(cursor)
        if len(parts) != len(self.keys) or not all(map(_may_be_in, self.keys, parts)):
            # A database that compares with a value of another type, as SQLite and MySQL do, would skip rows.
            raise ValueError("this is a cursor of another table, or of another key")
        return parts[0] if len(parts) == 1 else parts

    # Statements

    @property
    def _mysql(self) -> bool:
        return self._dialect in {"mysql", "mariadb"}

    def _binds(self, prefix: str) -> list[Any]:
        return [bindparam(f"{prefix}{position}", type_=column.type) for position, column in enumerate(self.keys)]

    def _key_expression(self) -> Any:
        return self.keys[0] if len(self.keys) == 1 else tuple_(*self.keys)

    def _beyond(self, prefix: str) -> ColumnElement[bool]:
        """Whether a row's key is after that of the parameters, in the order of the key columns."""
        binds = self._binds(prefix)
        if len(binds) == 1:
            return and_(self.keys[0] > binds[0])
        if not self._mysql:
            return tuple_(*self.keys) > tuple_(*binds)
        # MySQL compares rows without using an index: spelled out, it does.
        pairs = list(zip(self.keys, binds, strict=True))
        return and_(
            self.keys[0] >= binds[0],
            or_(
                *(
                    and_(*(column == bind for column, bind in pairs[:position]), column > bind)
                    for position, (column, bind) in enumerate(pairs)
                )
            ),
        )

    def _upsert(self) -> Any:
        values: dict[Column[Any], Any] = dict(zip(self.keys, self._binds("k"), strict=True))
        values |= {
            column: bindparam(f"v{position}", type_=column.type) for position, column in enumerate(self.values)
        }
        if self._mysql:
            into = mysql.insert(self._table).values(values).inline()
            if not self.values:  # a key that is set to itself; IGNORE would hide other errors
                return into.on_duplicate_key_update({self.keys[0].name: self.keys[0]})
            return into.on_duplicate_key_update({column.name: into.inserted[column.key] for column in self.values})
        insert = postgresql.insert if self._dialect == "postgresql" else sqlite.insert
        row = insert(self._table).values(values).inline()
        if not self.values:
            return row.on_conflict_do_nothing(index_elements=self.keys)
        return row.on_conflict_do_update(
            index_elements=self.keys, set_={column: row.excluded[column.key] for column in self.values}
        )

    def _upsert_many(self) -> Any:
        """The upsert of many rows, with an array for each column; None where a column has no place in an array."""
        columns = list(self._written.values())
        if self._dialect != "postgresql" or not all(type(column.type) in KINDS_OF_VALUES for column in columns):
            return None
        if not self.values or any(column.default is not None for column in self._table.c if column not in columns):
            return None  # a default of Python's own would be made once, for all rows
        arrays = (bindparam(name, type_=_array(column)) for name, column in self._written.items())
        given = func.unnest(*arrays).table_valued(*self._written).render_derived()
        rows = select(*(given.c[name] for name in self._written))
        into = postgresql.insert(self._table).from_select(columns, rows)
        return into.on_conflict_do_update(
            index_elements=self.keys, set_={column: into.excluded[column.key] for column in self.values}
        )

    def _key_at(self) -> Executable:
        number = func.row_number().over(order_by=self.keys).label("zddm_number")
        numbered = select(*self.keys, number).subquery()
        keys = [numbered.c[column.key] for column in self.keys]
        wanted = numbered.c.zddm_number.in_(bindparam("numbers", expanding=True))
        return select(*keys).where(wanted).order_by(numbered.c.zddm_number)

    # Checks

    def _key_columns(self, key: str | Sequence[str] | None) -> list[Column[Any]]:
        table = self._table
        if key is None:
            columns = list(table.primary_key.columns)
            if not columns:
                raise ValueError(f"{table.name} has no primary key: name its key columns with key=")
            return columns
        columns = [_column(table, name) for name in ([key] if isinstance(key, str) else key)]
        if set(columns) not in _unique_sets(table):
            raise ValueError(
                f"key= of {table.name} must be its primary key or have a unique constraint over just these columns"
            )
        if any(column.nullable for column in columns):
            raise ValueError(f"the key columns of {table.name} must be NOT NULL")
        return columns

    def _check_other_unique(self) -> None:
        # ON DUPLICATE KEY UPDATE updates whatever row the new one collides with, one of another key included.
        written = {*self.keys, *self.values}
        for unique in _unique_sets(self._table):
            if unique != set(self.keys) and unique & written:
                names = ", ".join(sorted(column.key for column in unique))
                raise Unsupported(
                    f"MySQL's upsert would overwrite a row of another key that has the same ({names}), which are "
                    f"unique in {self._table.name}: use a FunctionAdapter with statements of your own"
                )


def _array(column: Column[Any]) -> TypeEngine[Any]:
    """The type of an array of a column's values."""
    # Without a length, which a cast to an array would cut a longer value to, unsaid.
    return postgresql.ARRAY(Text() if isinstance(column.type, String) else column.type)


def _fit(column: Column[Any], values: Sequence[Any]) -> bool:
    """Whether the driver makes an array of these: all have to be of one type, or None."""
    kind = KINDS_OF_VALUES[type(column.type)]
    if not set(map(type, values)) <= {kind, NoneType}:
        return False
    return kind is not datetime or len({value.tzinfo is None for value in values if value is not None}) < 2


def in_order(keys: Any) -> list[Any]:
    """`keys` in an order that is the same for every caller, so that two batches cannot deadlock."""
    try:
        return sorted(keys)
    except TypeError:  # of several types, or of one without an order
        return sorted(keys, key=repr)


def _unique_sets(table: Table) -> list[set[Column[Any]]]:
    sets = [set(table.primary_key.columns)]
    sets += [set(part.columns) for part in table.constraints if isinstance(part, UniqueConstraint)]
    sets += [set(index.columns) for index in table.indexes if index.unique]
    return [columns for columns in sets if columns]


def _column(table: Table, name: str) -> Column[Any]:
    try:
        return table.c[name]
    except KeyError:
        raise ValueError(f"{table.name} has no column {name!r}") from None


# The shapes that a value may have. Each knows its columns, and where they stand behind the key's in a row.


class _MappingShape:
    def __init__(self, columns: list[Column[Any]], offset: int) -> None:
        self.columns = columns
        self._offset = offset
        self._names = [column.key for column in columns]
        self._known = frozenset(self._names)

    def dump(self, key: tuple[Any, ...], value: Any) -> list[Any]:
        del key
        if not isinstance(value, Mapping):
            raise TypeError(f"a value is a mapping of columns, not {type(value).__name__}")
        if value.keys() != self._known:
            self._refuse(value)
        return [value[name] for name in self._names]

    def load(self, row: Row[Any]) -> dict[str, Any]:
        return dict(zip(self._names, row[self._offset :], strict=True))

    def _refuse(self, value: Mapping[str, Any]) -> NoReturn:
        missing = [name for name in self._names if name not in value]
        if missing:
            raise ValueError(f"a value has no column {missing[0]!r}: a write replaces all columns of the value")
        raise ValueError("a value has a column that is not one of the value's; see value=")


class _ColumnShape:
    def __init__(self, column: Column[Any], offset: int) -> None:
        if column.nullable:
            raise ValueError(
                f"value= {column.key!r} may be NULL, which would read as an absent key: declare the column "
                "nullable=False, or use a mapping"
            )
        self.columns = [column]
        self._offset = offset

    def dump(self, key: tuple[Any, ...], value: Any) -> list[Any]:
        del key
        if value is None:
            raise TypeError("a value must not be None: delete the key")
        return [value]

    def load(self, row: Row[Any]) -> Any:
        value = row[self._offset]
        if value is None:
            raise ValueError(f"column {self.columns[0].key!r} of a row is NULL, which is no value")
        return value


class _DataclassShape:
    def __init__(self, table: Table, keys: list[Column[Any]], kind: type[Any]) -> None:
        names = [field.name for field in dataclasses.fields(kind) if field.init]
        fields = [_column(table, name) for name in names]
        self.columns = [column for column in fields if column not in keys]
        self._kind = kind
        row = [*keys, *self.columns]
        self._places = [(column.key, row.index(column)) for column in fields]
        self._key_fields = [(column.key, keys.index(column)) for column in fields if column in keys]

    def dump(self, key: tuple[Any, ...], value: Any) -> list[Any]:
        if not isinstance(value, self._kind):
            raise TypeError(f"a value is a {self._kind.__name__}, not {type(value).__name__}")
        for name, place in self._key_fields:
            if getattr(value, name) != key[place]:
                raise ValueError(f"field {name!r} of the value is not the key that it is written under")
        return [getattr(value, column.key) for column in self.columns]

    def load(self, row: Row[Any]) -> Any:
        return self._kind(**{name: row[place] for name, place in self._places})


def _shape_of(
    table: Table, keys: list[Column[Any]], value: ValueSpec
) -> _MappingShape | _ColumnShape | _DataclassShape:
    if isinstance(value, type):
        if not dataclasses.is_dataclass(value):
            raise ValueError(f"value= takes a dataclass, and {value.__name__} is none")
        return _DataclassShape(table, keys, value)
    if isinstance(value, str):
        names = [value]
    elif value is not None:
        names = list(value)
    else:
        # A generated column cannot be written.
        names = [column.key for column in table.c if column not in keys and column.computed is None]
    columns = [_column(table, name) for name in names]
    if any(column in keys for column in columns):
        raise ValueError("value= names a key column")
    if isinstance(value, str):
        return _ColumnShape(columns[0], len(keys))
    return _MappingShape(columns, len(keys))


# A cursor is the key columns as JSON, each with its type.


def _cursor_of(parts: Sequence[Any]) -> str:
    return json.dumps([_to_json(part) for part in parts], separators=(",", ":"))


def _parts_of(cursor: str) -> tuple[Any, ...]:
    with suppress(Exception):  # whatever a reader raises; its text may quote the key
        parts = tuple(READERS[tag](text) for tag, text in json.loads(cursor))
        if _cursor_of(parts) == cursor:
            return parts
    raise ValueError("this is no cursor of a SQLAlchemy adapter")


def _may_be_in(column: Column[Any], part: Any) -> bool:
    """Whether `part` has the type of the column's values, as far as that is known."""
    if not type(column.type).__module__.startswith("sqlalchemy."):
        return True  # a type of the application's own gives what it likes
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return True
    return kind not in KINDS or type(part) is kind


def _to_json(part: Any) -> tuple[str, Any]:
    match part:
        case bool():
            raise TypeError("a key of type bool has no form in a cursor")
        case int():
            return "i", int(part)
        case str():
            return "s", str(part)
        case bytes():
            return "b", part.hex()
        case UUID():
            return "u", str(part)
        case Decimal():
            return "n", str(part)
        case datetime():
            return "t", part.isoformat()
        case date():
            return "d", part.isoformat()
        case _:
            raise TypeError(f"a key of type {type(part).__name__} has no form in a cursor")


KINDS = (int, str, bytes, UUID, Decimal, datetime, date)
READERS: dict[str, Callable[[Any], Any]] = {
    "i": int,
    "s": str,
    "b": bytes.fromhex,
    "u": UUID,
    "n": Decimal,
    "t": datetime.fromisoformat,
    "d": date.fromisoformat,
}
