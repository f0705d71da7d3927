"""Whether a value of Old and one of New are the same, and which of their fields are not."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from types import NoneType
from typing import Any
from uuid import UUID

from zddm_flags.worlds import is_coroutine_function

__all__ = ["Comparison"]

MAX_DEPTH = 32
"""How deep values are taken apart. What is nested deeper is compared by `==`."""

VALUE = ("value",)
MISSING = object()
# Exact for any two floats, and for a float beside an int of its size: none of them has more digits.
DIGITS = Context(prec=1500, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a value of Old is compared with one of New.

    Mappings whose keys are all str, dataclasses of one type and named tuples of the same names have fields.
    Fields are compared by name: one that only one side has differs, and those of a dataclass that have
    `compare=False` are left out. What a field holds is compared through mappings, dataclasses, lists and tuples,
    down to 32 levels. Anything else, and what lies deeper, is equal where `==` says so, with these exceptions:

    - NaN equals NaN: it was copied as it was.
    - Aware datetimes are compared as moments, whatever their zones. A naive one beside an aware one differs.
    - What is too deep for `==` itself differs.

    So `True` equals 1, as in Python: SQLite has no booleans, and a row that moves to PostgreSQL is still the same.
    `1` equals `1.0` and `Decimal("1.0")`; "1" and b"1" differ, and so do a list and a tuple. What differs on every
    row is better brought to one form with `MappedAdapter`. Thread-safe; no value is changed.

    Attributes:
        equal: called with the value of Old and that of New; whether they are equal. It replaces all rules, so it
            goes with no other argument. For values that `==` cannot compare, as arrays of numbers.
        ignore: names of fields that are not compared, as "seen_at", or within mappings, dataclasses and named
            tuples that are fields themselves, as "meta.seen_at". A path leads into no list.
        float_tolerance: 0 or more, finite. A float equals another float, an int or a Decimal that differs from it
            by at most so much. No bool is meant.
        time_tolerance: seconds, 0 or more, finite. A datetime equals another that is at most so far away.

    Raises:
        TypeError: an argument has the wrong type; a coroutine function is no `equal`, for what it returns is true.
        ValueError: a tolerance is out of range, or `equal` comes with another argument.
    """

    equal: Callable[[Any, Any], bool] | None = None
    ignore: Collection[str] = ()
    float_tolerance: float = 0.0
    time_tolerance: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.ignore, str) or not isinstance(self.ignore, Collection):
            raise TypeError(f"ignore= is a collection of names of fields, not a {type(self.ignore).__name__}")
        for name in self.ignore:
            if not isinstance(name, str):
                raise TypeError(f"ignore= holds names of fields, which are str, not a {type(name).__name__}")
        object.__setattr__(self, "ignore", frozenset(self.ignore))
        _check_tolerance("float_tolerance", self.float_tolerance)
        _check_tolerance("time_tolerance", self.time_tolerance)
        if self.equal is None:
            return
        if not callable(self.equal) or is_coroutine_function(self.equal):
            raise TypeError("equal= is a plain function of two values, or None")
        if self.ignore or self.float_tolerance or self.time_tolerance:
            raise ValueError(
                "equal= replaces ignore=, float_tolerance= and time_tolerance=: give one or the others"
            )

    def differing(self, old: object, new: object) -> tuple[str, ...] | None:
        """Which fields of two values differ.

        The names may be data of the store's, where the keys of a mapping are. Never a value.

        Returns:
            None where the values are equal. Else the names of the fields that differ, sorted, each of the value
            itself: "meta", never "meta.seen_at". ("value",) where the values have no fields, or are of two kinds,
            and always where there is an `equal`.

        Raises:
            Exception: what `equal`, or a value's own `==`, raises.
        """
        if self.equal is not None:
            return None if self.equal(old, new) else VALUE
        if _are_plainly_equal(old, new):  # nearly all are, and this takes a fraction of the time
            return None
        contents = _contents(old, new)
        if contents is None or not _named(contents):
            return None if self._same(old, new, MAX_DEPTH, None) else VALUE
        return tuple(sorted(self._unequal(contents, MAX_DEPTH, ""))) or None

    def _same(self, old: Any, new: Any, depth: int, prefix: str | None) -> bool:
        """Whether two values are equal; `prefix` is what their fields' paths begin with, None for no path."""
        if old is new:
            return True
        if isinstance(old, (int, float, Decimal)) and isinstance(new, (int, float, Decimal)):
            return self._same_number(old, new)
        if isinstance(old, datetime) and isinstance(new, datetime):
            return self._same_moment(old, new)
        if depth > 0:
            contents = _contents(old, new)
            if contents is not None:
                unequal = self._unequal(contents, depth, prefix if _named(contents) else None)
                return next(unequal, MISSING) is MISSING
            if (isinstance(old, list) and isinstance(new, list)) or (
                isinstance(old, tuple) and isinstance(new, tuple)
            ):
                pairs = zip(old, new, strict=False)
                return len(old) == len(new) and all(self._same(*pair, depth - 1, None) for pair in pairs)
        try:
            return bool(old == new)
        except RecursionError:
            return False

    def _unequal(
        self, contents: tuple[dict[Any, Any], dict[Any, Any]], depth: int, prefix: str | None
    ) -> Iterator[Any]:
        """The names under which two contents differ."""
        old, new = contents
        for name in old | new:
            path = None if prefix is None else prefix + name
            if path in self.ignore:
                continue
            below = None if path is None else f"{path}."
            if not self._same(old.get(name, MISSING), new.get(name, MISSING), depth - 1, below):
                yield name

    def _same_number(self, old: float | Decimal, new: float | Decimal) -> bool:
        if _is_nan(old) or _is_nan(new):
            return _is_nan(old) and _is_nan(new)
        if old == new:
            return True
        kinds = (old, new)
        if not any(isinstance(number, float) for number in kinds) or any(isinstance(n, bool) for n in kinds):
            return False
        # Not as floats, which would take 2**53 + 1 for 2**53, nor as fractions: of 1e-999999 they are long.
        apart = DIGITS.subtract(_decimal(old), _decimal(new))
        return apart.copy_abs() <= _decimal(self.float_tolerance)

    def _same_moment(self, old: datetime, new: datetime) -> bool:
        # `==` takes two moments of one zone for one where its clocks are set back, and a moment then for none of
        # another zone.
        offsets = old.utcoffset(), new.utcoffset()
        apart = old.replace(tzinfo=None) - new.replace(tzinfo=None)
        if offsets[0] is not None and offsets[1] is not None:
            apart -= offsets[0] - offsets[1]
        elif offsets != (None, None):
            return False
        return abs(apart.total_seconds()) <= self.time_tolerance


def _contents(old: Any, new: Any) -> tuple[dict[Any, Any], dict[Any, Any]] | None:
    """What two values hold by name or key, copied, for a mapping may add what it is asked for; None for others."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return dict(old), dict(new)
    names = _names(old)
    alike = type(old) is type(new) or (isinstance(old, tuple) and isinstance(new, tuple))
    if names is None or not alike or names != _names(new):
        return None
    return _by_name(old, names), _by_name(new, names)


def _by_name(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(value, name, MISSING) for name in names}


def _names(value: Any) -> tuple[str, ...] | None:
    """The names of the fields of a dataclass or named tuple; None for other values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(field.name for field in dataclasses.fields(value) if field.compare)
    return getattr(type(value), "_fields", None) if isinstance(value, tuple) else None


def _are_plainly_equal(old: object, new: object) -> bool:
    """Whether two values without anything in them that `==` takes for equal and `_same` does not, are equal."""
    if type(old) is dict and type(new) is dict:
        try:
            same = old == new
        except Exception:  # a signalling NaN, or too deep: looked at in parts, and told then
            return False
        return same and all(map(_is_plain, old.values())) and all(map(_is_plain, new.values()))
    return _is_plain(old) and _is_plain(new) and bool(old == new)


def _is_plain(value: object) -> bool:
    # Of datetimes in one zone `==` ignores the fold: in the hour that clocks repeat, they may be two moments.
    return type(value) in _PLAIN or (type(value) is datetime and not value.fold)


_PLAIN = frozenset({str, int, float, bool, bytes, NoneType, date, UUID})


def _named(contents: tuple[dict[Any, Any], dict[Any, Any]]) -> bool:
    return all(isinstance(name, str) for each in contents for name in each)


def _is_nan(number: float | Decimal) -> bool:
    # A signalling NaN raises where it is compared.
    return number.is_nan() if isinstance(number, Decimal) else isinstance(number, float) and math.isnan(number)


def _decimal(number: float | Decimal) -> Decimal:
    if isinstance(number, Decimal):
        return number
    return Decimal.from_float(number)  # noqa: FURB164 - Decimal() raises where the application traps FloatOperation


def _check_tolerance(name: str, tolerance: float) -> None:
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise TypeError(f"{name}= is a number, not a {type(tolerance).__name__}")
    if not 0 <= tolerance <= sys.float_info.max:  # NaN is in no range
        raise ValueError(f"{name}= is 0 or more, and finite")
