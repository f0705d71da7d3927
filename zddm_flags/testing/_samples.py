"""What both worlds of the contracts share: samples of keys and values, and how a broken rule is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

__all__ = ["IDENTITY", "KEYS", "NAME", "NAMES", "VALUES", "require", "samples_like"]

NAME, IDENTITY = "users", "xxh3-64 canonical-1"  # of the migration of a ledger's tests

# Keys that some stores take for one: by case, by accents, by trailing spaces, as patterns, or as numbers.
KEYS: dict[type, list[Any]] = {
    str: [
        "a",
        "A",
        "a ",
        "é",
        "e\u0301",
        "e",
        "a%",
        "a_",
        "a*",
        "a:b",
        "a/b",
        "a'b",
        'a"b',
        "a\\b",
        "1",
        "01",
        "ключ",
    ],
    bytes: [b"a", b"A", b"a ", b"a\0", b"\0", b"\xff", b"\xff\xfe", b"a%", b"a'b", b"a\\b"],
    int: [0, 1, 2, 10, 100, 2**31 - 1],
    UUID: [UUID(int=0), UUID(int=1), UUID(int=2**128 - 1)],
}
# Values that some adapters lose: falsy ones above all, and those that need quoting or encoding.
VALUES: dict[type, list[Any]] = {
    str: ["", " ", "0", "None", "null", " a ", "é", "🦉", "'", '"', "\\", "%s", "\n\r\t", "a" * 1000],
    bytes: [b"", b"\0", b"\xff", b"None", bytes(range(256))],
    int: [0, 1, -1, 2**31 - 1, -(2**31)],
    float: [0.0, -1.5, 0.1, 1e100],
    bool: [False, True],
}
# Keys of a ledger are bytes: trailing NULs and spaces, case, and what is no UTF-8, all of them telling keys apart.
NAMES = [
    *(b"s", b"s ", b"s\0", b"sa", b"sA", b"sa ", b"sa\0", b"s\0a", b"sa:b", b"s1", b"i1"),
    *(b"b\xff", b"b\xff\xfe", b"b\xc3", b"s\xc3\xa9", b"se\xcc\x81", b"b" + bytes(range(256))),
    *(b"s'", b's"', b"s\\", b"s%", b"s_", b"s*", b"s{a}", b"s\r\n"),
]


def samples_like(example: Any, samples: dict[type, list[Any]], make: Callable[[int], Any]) -> Sequence[Any]:
    """Samples of the type of `example`, where there are any for it; else five that `make` makes."""
    return samples.get(type(example)) or [make(number) for number in range(5)]


def require(kept: object, rule: str) -> None:
    """Raise an AssertionError that is this sentence, unless the rule is kept."""
    __tracebackhide__ = True
    if not kept:
        raise AssertionError(rule)
