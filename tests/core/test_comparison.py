"""What is the same value in two stores, and what is told of values that are not."""

from __future__ import annotations

import collections
import copy
import dataclasses
import math
import sys
from collections import OrderedDict, defaultdict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, FloatOperation, localcontext
from fractions import Fraction
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from zddm_flags import Comparison

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
PLAIN = Comparison()
VALUE = ("value",)


@dataclasses.dataclass(frozen=True)
class Place:
    city: Any
    street: Any


@dataclasses.dataclass
class Same:
    city: Any
    street: Any


@dataclasses.dataclass
class Cached:
    name: str
    loads: int = dataclasses.field(default=0, compare=False)


class Pair(NamedTuple):
    left: Any
    right: Any


class OtherPair(NamedTuple):
    left: Any
    right: Any


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
STORED = st.recursive(
    st.one_of(
        *(LEAVES, st.binary(max_size=3), st.decimals(allow_nan=True), st.uuids(), st.dates()),
        st.datetimes() | st.datetimes(timezones=st.timezones(), allow_imaginary=True),
        st.sampled_from([0, 0.0, -0.0, Decimal(0), 1, True, 1.0, b"", "", (), [], {}]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3) | st.integers(0, 3), inner, max_size=3),
        st.builds(Place, inner, inner),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=8,
)
NAMES = st.text(max_size=3)
ROWS = st.dictionaries(NAMES, STORED, min_size=1, max_size=4)
TOLERANCES = st.floats(0, 1e300)


def copied(value: Any) -> Any:
    """An equal value that shares no float with the first, for Python takes one object as equal to itself."""
    match value:
        case dict():
            return {key: copied(inner) for key, inner in value.items()}
        case list():
            return [copied(inner) for inner in value]
        case Pair():
            return Pair(*(copied(inner) for inner in value))
        case tuple():
            return tuple(copied(inner) for inner in value)
        case Place():
            return Place(copied(value.city), copied(value.street))
        case float():
            return float(repr(value))
        case Decimal():
            return Decimal(str(value))
        case _:
            return copy.deepcopy(value)


# --- Laws


@given(value=JSON | STORED, tolerance=TOLERANCES)
@example(value={"a": [math.nan, {"b": math.nan}]}, tolerance=0.0)
@example(value=Decimal("sNaN"), tolerance=0.0)
def test_a_copy_is_equal(value, tolerance):
    """A value equals its copy, NaN included, whatever the tolerances."""
    for comparison in (PLAIN, Comparison(float_tolerance=tolerance, time_tolerance=tolerance)):
        assert comparison.differing(value, copied(value)) is None
        assert comparison.differing(value, value) is None


@given(one=STORED, other=STORED, tolerance=TOLERANCES)
@example(one=Pair(1, 2), other=Place(1, 2), tolerance=0.0)
@example(one=Place(1, 2), other=Same(1, 2), tolerance=0.0)
@example(one={1: 2}, other={"1": 2}, tolerance=0.0)
@example(one=10**400, other=1.5, tolerance=1.0)
def test_it_is_the_same_both_ways(one, other, tolerance):
    """Which of two values is Old's makes no difference."""
    comparison = Comparison(float_tolerance=tolerance, time_tolerance=tolerance)
    assert comparison.differing(one, other) == comparison.differing(other, one)


@given(row=ROWS, name=NAMES, other=STORED)
def test_a_change_of_one_field_names_it(row, name, other):
    """A field that was changed, added or removed is named, and no other; ignored, the values are equal."""
    assume(name not in row or PLAIN.differing(row[name], other) is not None)
    changed = copied(row) | {name: other}
    for one, two in ((row, changed), (changed, row)):
        assert PLAIN.differing(one, two) == (name,)
        assert Comparison(ignore=[name]).differing(one, two) is None


@given(row=ROWS, outer=NAMES, name=NAMES, other=STORED)
def test_a_change_below_names_the_field_that_holds_it(row, outer, name, other):
    """A change inside a field is told by that field's name, and can be ignored by its path."""
    held = {"kept": 1} | ({} if name == "kept" else {name: "before"})
    assume(other != held.get(name))
    one, two = row | {outer: held}, row | {outer: held | {name: other}}
    assert PLAIN.differing(one, two) == (outer,)
    assert Comparison(ignore=[f"{outer}.{name}"]).differing(one, two) is None


@given(
    old=st.floats(allow_nan=False, allow_infinity=False)
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False),
    new=st.floats(allow_nan=False, allow_infinity=False),
    tolerance=TOLERANCES.filter(bool),
)
@example(old=2**53 + 1, new=2.0**53, tolerance=0.5)
@example(old=2**53 + 1, new=2.0**53, tolerance=1.0)
@example(old=5e-324, new=-5e-324, tolerance=1e-323)
@example(old=5e-324, new=-5e-324, tolerance=5e-324)
@example(old=sys.float_info.max, new=-sys.float_info.max, tolerance=sys.float_info.max)
@example(old=10**308 + 1, new=1e308, tolerance=1.0)
def test_numbers_are_equal_up_to_the_tolerance_exactly(old, new, tolerance):
    """Two numbers, one of them a float, are equal iff they differ by at most the tolerance, without rounding."""
    wanted = abs(Fraction(old) - Fraction(new)) <= Fraction(tolerance)
    assert (Comparison(float_tolerance=tolerance).differing(old, new) is None) == wanted


@given(
    moment=st.datetimes(*(NOON.replace(year=year, tzinfo=None) for year in (2, 9998))),
    apart=st.integers(0, 10**9),
    aware=st.booleans(),
    hours=st.integers(-23, 23),
)
def test_moments_are_equal_up_to_the_tolerance(moment, apart, aware, hours):
    """Two moments are equal at a tolerance of what they are apart, and differ one microsecond below."""
    other = moment + timedelta(microseconds=apart)
    if aware:
        moment = moment.replace(tzinfo=UTC)
        other = other.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=hours)))
    assert Comparison(time_tolerance=apart / 10**6).differing(moment, other) is None
    if apart:
        assert Comparison(time_tolerance=(apart - 1) / 10**6).differing(moment, other) == VALUE


# --- What is equal


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (1, True),  # SQLite has no booleans
        ({"active": 0}, {"active": False}),
        (1, 1.0),
        (Decimal("1.0"), Decimal("1.00")),
        (Decimal("0.5"), 0.5),
        (math.nan, Decimal("NaN")),
        (math.inf, Decimal("Infinity")),
        ((1, math.nan), Pair(1, float("nan"))),
        (Pair(1, 2), OtherPair(1, 2)),
        ({"a": 1, "b": 2}, OrderedDict(b=2, a=1)),
        ({"a": {"b": [1]}}, MappingProxyType({"a": MappingProxyType({"b": [1]})})),
        ({1: math.nan}, {1: float("nan")}),
        (Cached("a", 1), Cached("a", 2)),
        (bytearray(b"a"), b"a"),
        (NOON, NOON.astimezone(BERLIN)),
        (datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
        (datetime.max.replace(tzinfo=BERLIN), datetime.max.replace(tzinfo=BERLIN)),
        ({}, {}),
        (None, None),
    ],
)
def test_equal(old, new):
    """These are the same value."""
    assert PLAIN.differing(old, new) is None
    assert PLAIN.differing(new, old) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, {}),
        (1, "1"),
        (b"a", "a"),
        (math.nan, 0.0),
        (math.nan, None),
        (2**53 + 1, 2.0**53),
        ([1, 2], (1, 2)),
        ([1, 2], [1]),
        ([1, 2], [2, 1]),
        (Place(1, 2), Same(1, 2)),
        (Place(1, 2), Pair(1, 2)),
        (Place(1, 2), {"city": 1, "street": 2}),
        (Place, Same),
        ({1: "a"}, {"1": "a"}),
        (NOON, NOON.replace(tzinfo=None)),
        (NOON, NOON.date()),
        (date(2026, 1, 1), datetime.fromisoformat("2026-01-01")),
        (NOON, NOON + timedelta(microseconds=1)),
        (datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN), datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN)),
        (UUID(int=1), str(UUID(int=1))),
        (object(), object()),
    ],
)
def test_different(old, new):
    """These are not the same value, and have no fields to name."""
    assert PLAIN.differing(old, new) == VALUE
    assert PLAIN.differing(new, old) == VALUE


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ({"b": 1, "a": 1, "c": 1}, {"b": 2, "a": 2, "c": 1}, ("a", "b")),
        ({"a": 1}, {}, ("a",)),
        ({"a": None}, {}, ("a",)),
        (Place({"x": 1}, "a"), Place({"x": 2}, "a"), ("city",)),
        (Pair(1, [1, {"a": 1}]), OtherPair(1, [1, {"a": 2}]), ("right",)),
        ({"a": Place(1, Pair(1, 2))}, {"a": Place(1, Pair(1, 3))}, ("a",)),
        ({"a": {1: 2}}, {"a": {1: 3}}, ("a",)),
        ({"a": {1: 2}}, {"a": {}}, ("a",)),
    ],
)
def test_the_fields_that_differ_are_named(old, new, names):
    """The names of the value's own fields are told, sorted."""
    assert PLAIN.differing(old, new) == names


def test_a_field_that_was_never_set():
    """A dataclass's field without a value differs from one with, and equals another without."""
    one, other = object.__new__(Same), object.__new__(Same)
    one.city = other.city = 1
    assert PLAIN.differing(one, other) is None
    other.street = None
    assert PLAIN.differing(one, other) == ("street",)


# --- What is ignored


def test_paths_that_are_ignored():
    """A path leads through mappings, dataclasses and named tuples to what is not compared, and into no list."""
    old = {"meta": {"at": Place(1, Pair(1, 2))}, "rows": [{"n": 1}], "by": {1: {"n": 1}}}
    new = {"meta": {"at": Place(1, Pair(1, 3))}, "rows": [{"n": 2}], "by": {1: {"n": 2}}}
    assert PLAIN.differing(old, new) == ("by", "meta", "rows")
    below = Comparison(ignore=("meta.at.street.right", "rows.n", "by.1.n", "n", ".n"))
    assert below.differing(old, new) == ("by", "rows")
    assert Comparison(ignore={"meta", "rows", "by"}).differing(old, new) is None
    assert Comparison(ignore=["meta.at"]).differing({"meta": {"at": 1}}, {"meta": {}}) is None
    assert Comparison(ignore=["meta.at"]).differing({"meta": {"at": 1}}, {}) == ("meta",)


def test_ignoring_value_ignores_no_value():
    """The word for values without fields is the name of none."""
    assert Comparison(ignore=["value"]).differing(1, 2) == VALUE
    assert Comparison(ignore=["value"]).differing({"value": 1}, {"value": 2}) is None


def test_what_is_ignored_is_kept_apart_from_the_callers_list():
    """Who changes the list later does not change the comparison."""
    names = ["a"]
    comparison = Comparison(ignore=names)
    names.clear()
    assert comparison.differing({"a": 1}, {"a": 2}) is None


# --- Tolerances


def test_tolerances_reach_into_fields():
    """Floats and moments inside lists, mappings and dataclasses are compared with the tolerances."""
    comparison = Comparison(float_tolerance=0.01, time_tolerance=1)
    later = NOON + timedelta(seconds=1)
    old = {"a": [Place(1.0, (2.0, {3: 4.0}))], "at": {"seen": NOON}}
    new = {"a": [Place(1.005, (2, {3: Decimal("4.01")}))], "at": {"seen": later.astimezone(BERLIN)}}
    assert comparison.differing(old, new) is None
    assert PLAIN.differing(old, new) == ("a", "at")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (1, 2),
        (Decimal(1), Decimal(2)),
        (1, Decimal(2)),
        (True, 1.5),
        (0.5, False),
        (math.inf, 1e308),
        (math.inf, -math.inf),
        (math.nan, 1.0),
        ("1.0", 1.5),
        (10**400, 1.5),
        (Decimal("1e999999"), 1.5),
    ],
)
def test_a_float_tolerance_is_for_floats(old, new):
    """Numbers without a float beside them are compared exactly, and so are booleans, infinities and NaN."""
    comparison = Comparison(float_tolerance=10)
    assert comparison.differing(old, new) == comparison.differing(new, old) == VALUE


@pytest.mark.timeout(10)
def test_numbers_of_extreme_size_take_no_time():
    """A Decimal with a huge exponent is not written out."""
    for exponent in (999_999_999_999_999_999, -999_999_999_999_999_999):
        number = Decimal((0, (1,), exponent))
        assert (Comparison(float_tolerance=1).differing(number, 1.0) is None) == (exponent < 0)


def test_an_application_that_traps_mixed_arithmetic():
    """A Decimal beside a float is compared, though the application forbids itself to mix the two."""
    with localcontext() as context:
        context.traps[FloatOperation] = True
        context.prec = 2
        assert Comparison(float_tolerance=0.125).differing(Decimal("1.125"), 1.0) is None
        assert Comparison(float_tolerance=0.125).differing(Decimal("1.126"), 1.0) == VALUE


# --- A function of one's own


def test_equal_replaces_the_rules():
    """A function of one's own gets Old's value first, and its result is taken by truth."""
    seen: list[Any] = []

    def equal(old: Any, new: Any) -> Any:
        seen.append((old, new))
        return [] if old == new else ["differs", "from", "it"]

    comparison = Comparison(equal=equal)
    assert comparison.differing({"a": 1}, {"a": 2}) is None
    assert comparison.differing({"a": 1}, {"a": 1}) == VALUE
    assert seen[0] == ({"a": 1}, {"a": 2})


def test_what_equal_raises_passes():
    """What a function of one's own raises is the caller's, a RecursionError included."""
    for error in (LookupError("mine"), RecursionError("mine")):

        def equal(old: Any, new: Any, error: Exception = error) -> bool:
            raise error

        with pytest.raises(type(error), match="mine"):
            Comparison(equal=equal).differing(1, 1)


# --- Deep values


def nested(kind: str, depth: int, leaf: Any) -> Any:
    value = leaf
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value} if kind == "dict" else Place(value, None)
    return value


@pytest.mark.parametrize("kind", ["list", "dict", "dataclass"])
@pytest.mark.parametrize("depth", [31, 32, 33, 40])
def test_the_depth_of_the_rules(kind, depth):
    """NaN and tolerances count 32 deep; what lies deeper is compared by `==`."""
    comparison = Comparison(float_tolerance=0.5)
    for old, new in ((math.nan, float("nan")), (1.0, 1.5)):
        one, other = nested(kind, depth, old), nested(kind, depth, new)
        assert (comparison.differing(one, other) is None) == (depth <= 32)
    assert comparison.differing(nested(kind, depth, 1), nested(kind, depth, True)) is None
    assert comparison.differing(nested(kind, depth, 1), nested(kind, depth, 2)) is not None


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_a_value_too_deep_for_python_differs(kind):
    """A value that `==` cannot compare is told as differing, and raises no RecursionError."""
    one, other = nested(kind, 100_000, 1), nested(kind, 100_000, 1)
    assert bool(PLAIN.differing(one, other))
    assert PLAIN.differing(one, one) is None


def test_a_value_that_holds_itself_differs_from_another():
    """A cycle ends the comparison, and not the process."""
    one: list[Any] = []
    other: list[Any] = []
    one.append(one)
    other.append(other)
    assert PLAIN.differing(one, other) == VALUE


# --- Values and arguments


def test_no_value_is_changed():
    """A mapping that adds what it is asked for is not asked for what it lacks."""
    old: Any = {"a": defaultdict(list, x=[1]), "b": collections.Counter()}
    new: Any = {"a": defaultdict(list, y=[1]), "b": collections.Counter("a")}
    before = copy.deepcopy((old, new))
    assert PLAIN.differing(old, new) == ("a", "b")
    assert PLAIN.differing(old["a"], new["a"]) == ("x", "y")
    assert (old, new) == before


def test_what_a_value_raises_passes():
    """A value whose `==` gives no truth value is the caller's to compare."""

    class Array:
        def __eq__(self, other: object) -> Any:
            raise ValueError("ambiguous")

        __hash__ = None  # type: ignore[assignment]  # as arrays have none

    with pytest.raises(ValueError, match="ambiguous"):
        PLAIN.differing({"a": Array()}, {"a": Array()})


async def waits(_old: Any, _new: Any) -> bool:
    """Give a coroutine, which is true."""
    return False


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"ignore": "seen_at"}, TypeError, "ignore= is a collection of names"),
        ({"ignore": None}, TypeError, "ignore= is a collection of names"),
        ({"ignore": iter(["a"])}, TypeError, "ignore= is a collection of names"),
        ({"ignore": ["a", 1]}, TypeError, "ignore= holds names"),
        ({"float_tolerance": True}, TypeError, "float_tolerance= is a number"),
        ({"float_tolerance": "0.1"}, TypeError, "float_tolerance= is a number"),
        ({"float_tolerance": -0.1}, ValueError, "float_tolerance= is 0 or more"),
        ({"float_tolerance": math.inf}, ValueError, "float_tolerance= is 0 or more"),
        ({"float_tolerance": math.nan}, ValueError, "float_tolerance= is 0 or more"),
        ({"time_tolerance": timedelta(1)}, TypeError, "time_tolerance= is a number"),
        ({"time_tolerance": 10**400}, ValueError, "time_tolerance= is 0 or more"),
        ({"equal": "=="}, TypeError, "equal= is a plain function"),
        ({"equal": waits}, TypeError, "equal= is a plain function"),
        ({"equal": max, "ignore": ["a"]}, ValueError, "equal= replaces"),
        ({"equal": max, "time_tolerance": 1}, ValueError, "equal= replaces"),
    ],
)
def test_wrong_arguments(arguments, error, text):
    """A wrong argument is refused when the comparison is made, in words that say what is wanted."""
    with pytest.raises(error, match=text):
        Comparison(**arguments)
