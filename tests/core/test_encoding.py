from __future__ import annotations

import dataclasses
import enum
import functools
import subprocess
import sys
import traceback
from collections import namedtuple
from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zddm_flags.encoding import MAX_DEPTH, custom, decode, encode_key, hashed_bytes, ledger_key, tag_and_bytes
from zddm_flags.errors import InvalidKey, ZddmError
from zddm_flags.vectors import load_vectors

SIMPLE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["1", "i1", "1:s", "2:sa2:i1", "0:", "1:t"]),  # text that looks like an encoding
    st.binary(max_size=12),
    st.integers(),
    st.uuids(),
)
KEYS = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8)


def shape(key: object) -> object:
    """`key` with its types spelled out, so that two keys have one shape iff they are one key."""
    return (type(key), tuple(map(shape, key)) if isinstance(key, tuple) else key)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Size:
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Labelled:
    number: int
    label: str = dataclasses.field(compare=False)


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3

    def __str__(self) -> str:
        return "shown otherwise"


class Role(enum.StrEnum):
    ADMIN = "admin"


class Loud(str):
    __slots__ = ()

    def encode(self, *_arguments: object) -> bytes:  # type: ignore[override]  # what must not be called
        return b"LOUD"


class Row(NamedTuple):
    tenant: str
    number: int


@pytest.mark.parametrize(
    ("key", "hashed", "ledger"),
    [
        ("", b"", b"s"),
        ("1", b"1", b"s1"),
        ("é", b"\xc3\xa9", b"s\xc3\xa9"),
        ("\U0001f600", b"\xf0\x9f\x98\x80", b"s\xf0\x9f\x98\x80"),
        (b"\x00\xff", b"\x00\xff", b"b\x00\xff"),
        (1, b"1", b"i1"),
        (-(10**20), b"-100000000000000000000", b"i-100000000000000000000"),
        (UUID(int=10), b"00000000-0000-0000-0000-00000000000a", b"u00000000-0000-0000-0000-00000000000a"),
        ((), b"", b"t"),
        (("a", 1), b"2:sa2:i1", b"t2:sa2:i1"),
        ((("a",), b""), b"5:t2:sa1:b", b"t5:t2:sa1:b"),
        (("é",), b"3:s\xc3\xa9", b"t3:s\xc3\xa9"),
        (Point(1, -2), b"2:i13:i-2", b"d5:Point2:i13:i-2"),
    ],
)
def test_documented_bytes(key, hashed, ledger):
    """The bytes are those that the module's docstring describes."""
    assert encode_key(key) == hashed
    assert ledger_key(key) == ledger
    assert tag_and_bytes(key) == (ledger[: len(ledger) - len(hashed)], hashed)


def untyped(form: dict[str, object]) -> object:
    """The key of a typed form of the vectors."""
    value = form["value"]
    match form["type"]:
        case "str":
            return value
        case "bytes":
            return bytes.fromhex(str(value))
        case "int":
            return int(str(value))
        case "uuid":
            return UUID(str(value))
        case "tuple":
            return tuple(untyped(element) for element in value)  # type: ignore[attr-defined]  # a list
        case _:
            fields = {element["field"]: untyped(element) for element in value}  # type: ignore[attr-defined]
            return dataclasses.make_dataclass(str(form["name"]), list(fields))(**fields)


def test_vectors_of_keys():
    """Every shipped key has the shipped bytes, and no two share a name in the ledger."""
    vectors = load_vectors()["keys"]
    for vector in vectors:
        key = untyped(vector["key"])
        assert encode_key(key).hex() == vector["hashed"]
        assert ledger_key(key).hex() == vector["ledger"]
    assert {vector["key"]["type"] for vector in vectors} == {
        "str",
        "bytes",
        "int",
        "uuid",
        "tuple",
        "dataclass",
    }
    ledger_keys = [vector["ledger"] for vector in vectors]
    assert len(ledger_keys) == len(set(ledger_keys))


@given(one=KEYS, other=KEYS)
@example(one=("a", 1), other=("a", "1"))
@example(one=("a", ("b",)), other=(("a",), "b"))
@example(one=("ab",), other=("a", "b"))
@example(one="2:sa2:i1", other=("a", 1))
def test_ledger_keys_are_injective(one, other):
    """Two keys share a name in the ledger iff they are equal in type and value."""
    assert (ledger_key(one) == ledger_key(other)) == (shape(one) == shape(other))


@given(one=st.lists(SIMPLE, max_size=3).map(tuple), other=st.lists(SIMPLE, max_size=3).map(tuple))
def test_hashed_bytes_of_tuples_are_injective(one, other):
    """Two tuples are hashed alike iff they are equal in types and values."""
    assert (encode_key(one) == encode_key(other)) == (shape(one) == shape(other))


def test_equal_text_hashes_alike_but_has_two_names():
    """`1`, `"1"` and `b"1"` are hashed as the same byte, and are three keys in the ledger."""
    keys = [1, "1", b"1"]
    assert {encode_key(key) for key in keys} == {b"1"}
    assert len({ledger_key(key) for key in keys}) == 3


@pytest.mark.parametrize(
    ("key", "same"),
    [
        (Level.HIGH, 3),
        (Role.ADMIN, "admin"),
        (Loud("quiet"), "quiet"),
        (Row("a", 1), ("a", 1)),
        (namedtuple("Pair", "a b")(1, 2), (1, 2)),  # noqa: PYI024 - the untyped kind is meant
        (type("Octets", (bytes,), {})(b"ab"), b"ab"),
        (type("Id", (UUID,), {})(int=5), UUID(int=5)),
    ],
    ids=lambda key: type(key).__name__,
)
def test_a_subclass_counts_as_its_base(key, same):
    """A key of a subclass equals, and encodes as, the key of the base class."""
    assert key == same
    assert tag_and_bytes(key) == tag_and_bytes(same)


@pytest.mark.parametrize(
    "key",
    [
        *(True, False, 1.5, 1j, None, ["secret"], {"secret": 1}, {"secret"}, bytearray(b"secret")),
        *(object(), Colour.RED, Point, ("secret", True), ("secret", ("secret", None))),
        Labelled(number=[], label="secret"),  # type: ignore[arg-type]  # what must fail
    ],
    ids=lambda key: type(key).__name__,
)
def test_other_types_are_refused(key):
    """A key of any other type, however deep, is refused by a TypeError that names `encode=` and no key."""
    with pytest.raises(InvalidKey, match="encode=") as raised:
        encode_key(key)
    assert isinstance(raised.value, TypeError)
    assert isinstance(raised.value, ZddmError)
    assert "secret" not in str(raised.value)


def test_the_refusal_names_the_type():
    """The error of a wrong element names the element's type."""
    with pytest.raises(InvalidKey, match="type float"):
        ledger_key(("a", 0.5))


def test_lone_surrogates_are_refused_without_quoting_the_key():
    """A str that has no UTF-8 form is refused, and the error shown has nothing of the key."""
    program = "from zddm_flags.encoding import encode_key; encode_key('secret\\udc80')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "InvalidKey: a str key with lone surrogates" in run.stderr
    assert "can't encode" not in run.stderr
    with pytest.raises(InvalidKey, match="encode="):
        ledger_key("\ud800")


def test_ints_beyond_pythons_limit_of_digits():
    """An int that Python refuses to write in decimal is refused as a key, not by a bare ValueError."""
    assert encode_key(10**4299) == b"1" + b"0" * 4299
    with pytest.raises(InvalidKey, match="encode="):
        encode_key(10**4300)


def test_dataclasses_of_two_names_are_two_keys():
    """Two dataclasses with equal fields are hashed alike and have two names in the ledger."""
    assert encode_key(Point(1, 2)) == encode_key(Size(1, 2)) == encode_key((1, 2))
    assert len({ledger_key(key) for key in (Point(1, 2), Size(1, 2), (1, 2))}) == 3


def test_dataclasses_that_are_equal_have_equal_bytes():
    """A field that `==` leaves out is left out of the bytes as well."""
    one, other = Labelled(1, "a"), Labelled(1, "b")
    assert one == other
    assert ledger_key(one) == ledger_key(other) != ledger_key(Labelled(2, "a"))


def test_custom_encoding():
    """A caller's `encode` gives the bytes, under a tag of its own, for keys of any type."""
    tagged = custom(lambda key: str(key).upper().encode())
    assert tagged(1.5) == (b"x", b"1.5")
    assert tagged("a") == (b"x", b"A")


@pytest.mark.parametrize("wrong", ["secret", None, 1, bytearray(b"secret"), memoryview(b"secret")])
def test_custom_encoding_must_return_bytes(wrong):
    """An `encode` that returns anything but bytes is refused, without quoting what it returned."""
    with pytest.raises(InvalidKey, match=f"returned {type(wrong).__name__}, not bytes") as raised:
        custom(lambda _: wrong)("secret")
    assert "secret" not in str(raised.value)


def test_an_error_of_a_custom_encoding_is_the_callers():
    """What a caller's `encode` raises reaches the caller unchanged."""

    def encode(_key: object) -> bytes:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        custom(encode)(1)


# --- From names back to keys

DEEP = st.builds(
    lambda key, depth: functools.reduce(lambda inner, _: (inner,), range(depth), key),
    SIMPLE,
    st.integers(0, MAX_DEPTH),
)
# Bytes that nearly are a name: what `int`, `UUID` and a careless reader of lengths would take.
PIECES = [
    b"s",
    b"b",
    b"i",
    b"u",
    b"t",
    b"d",
    b"x",
    b"0",
    b"1",
    b"2:",
    b"10:",
    b"01:",
    b":",
    b"-",
    b"+",
    b"_",
    b" ",
]
PIECES += [b"\xff", b"\xd9\xa1", b"{", b"urn:uuid:", b"00000000-0000-0000-0000-00000000000a", b"A"]
NOISE = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=8).map(b"".join)


@given(key=KEYS | DEEP)
@example(key=10**4299)
@example(key=-1)
@example(key=((), ("",), (b"",)))
def test_a_name_leads_back_to_its_key(key):
    """Decoding a name gives the key of that name, in type and value, and its hashed bytes are the key's."""
    assert shape(decode(ledger_key(key))) == shape(key)
    assert hashed_bytes(ledger_key(key)) == encode_key(key)


@given(name=NOISE | st.binary(max_size=40))
@example(name=b"")
@example(name=b"i-0")
@example(name=b"i01")
@example(name=b"i1_0")
@example(name=b"i 1")
@example(name="i\u0661".encode())
@example(name=b"u" + b"0" * 32)
@example(name=b"u00000000-0000-0000-0000-00000000000A")
@example(name=b"s\xed\xa0\x80")  # a lone surrogate
@example(name=b"t02:sa")
@example(name=b"t3:sa")
@example(name=b"t0:")
@example(name=b"t2:sa1")
def test_what_is_no_name_is_refused(name):
    """Bytes are decoded only to a key that has them for its name; else InvalidKey is raised."""
    try:
        key = decode(name)
    except InvalidKey:
        return
    assert ledger_key(key) == name


@given(key=KEYS, cut=st.integers(0, 200), noise=NOISE, keep=st.integers(0, 200))
def test_a_name_that_was_damaged_is_another_or_none(key, cut, noise, keep):
    """A name that was cut, or patched, decodes to the key that it now names, or to none."""
    name = ledger_key(key)
    damaged = name[:cut] + noise + name[cut + keep :]
    try:
        found = decode(damaged)
    except InvalidKey:
        return
    assert ledger_key(found) == damaged


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (ledger_key(Point(1, 2)), "dataclass"),
        (ledger_key(("a", Point(1, 2))), "dataclass"),
        (b"d", "dataclass"),
        (b"xsecret", "encode="),
        (b"qsecret", "no key"),
        (b"ssecret\xff", "no key"),
        (b"isecret", "no key"),
        (b"usecret", "no key"),
        (b"t9:secret", "no key"),
    ],
)
def test_the_refusal_names_the_tag_and_not_the_key(name, text):
    """The error says what stands in the way, and shows nothing of the name."""
    with pytest.raises(InvalidKey, match=text) as raised:
        decode(name)
    shown = traceback.TracebackException.from_exception(raised.value)
    while shown is not None:
        assert "secret" not in str(shown)
        assert "Point" not in str(shown)
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)


def test_a_name_nested_too_deep():
    """A name nested deeper than a key may be is that of no key, however deep."""

    def name(depth: int) -> bytes:
        found = b"t"
        for _ in range(depth - 1):
            found = b"t%d:%s" % (len(found), found)
        return found

    assert ledger_key(decode(name(MAX_DEPTH))) == name(MAX_DEPTH)
    for depth in (MAX_DEPTH + 1, 3000):
        with pytest.raises(InvalidKey, match="no key"):
            decode(name(depth))


@pytest.mark.timeout(20)
def test_no_bytes_take_long_to_decode():
    """A megabyte, however it is made up, is decoded or refused in a time that grows with its length only."""
    size = 10**6
    many = b"t" + b"1:s" * (size // 3)
    assert ledger_key(decode(many)) == many
    nest = b"1:s" * (size // 3)
    for _ in range(MAX_DEPTH - 1):
        nest = b"%d:t%s" % (len(nest) + 1, nest)
    assert ledger_key(decode(b"t" + nest)) == b"t" + nest
    for name in (b"i" + b"1" * size, b"i" + b" " * size, b"t" + b"1" * size, b"t" + b"1:t" * (size // 3) + b"1"):
        with pytest.raises(InvalidKey):
            decode(name)


@pytest.mark.parametrize("key", [Point(1, 2), Labelled(1, "a"), type("", (Point,), {})(1, 2)])
def test_the_hashed_bytes_of_a_dataclass(key):
    """A dataclass's name in a tag is no part of what is hashed."""
    assert hashed_bytes(ledger_key(key)) == encode_key(key)


def test_the_hashed_bytes_of_a_custom_encoding():
    """With `encode` what it gave is hashed."""
    assert hashed_bytes(b"xd3:a") == b"d3:a"


@pytest.mark.parametrize(
    "name", [b"", b"q", b"d", b"d5", b"d5:Poin", b"d05:Point", b"d-1:", b"d:", b"d" + b"9" * 9999]
)
def test_what_has_no_hashed_bytes(name):
    """A name without a tag, or with one that was cut, is refused."""
    with pytest.raises(InvalidKey, match="no key"):
        hashed_bytes(name)


@given(name=NOISE | st.binary())
def test_hashed_bytes_of_anything(name):
    """Any bytes have hashed bytes that they end with, or are refused."""
    try:
        assert name.endswith(hashed_bytes(name))
    except InvalidKey:
        assert name[:1] not in {b"s", b"b", b"i", b"u", b"t", b"x"}
