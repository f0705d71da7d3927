"""Keys of every type that has an encoding, built together with what they have to be encoded as."""

from __future__ import annotations

import enum
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import create_engine

from tests.fuzz.effort import examples
from tests.servers import ValkeyServer
from zddm_adapters import InMemoryAdapter
from zddm_adapters.redis import RedisLedger
from zddm_adapters.sqlalchemy import SqlAlchemyLedger
from zddm_flags import Proxy, TrafficGate
from zddm_flags.encoding import MAX_DEPTH, encode_key, ledger_key
from zddm_flags.errors import InvalidKey
from zddm_flags.ledger import MAX_KEY_BYTES, Ledger

T = TypeVar("T")
LONGEST_ERROR = 250
GATE = TrafficGate(0.5)


# Types that are something else to whoever asks them.


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "otherwise"

    def encode(self, *_: object) -> bytes:  # type: ignore[override]  # what must not be asked
        return b"otherwise"

    def isascii(self) -> bool:
        return True


class Octets(bytes):
    def __bytes__(self) -> bytes:
        return b"otherwise"


class Whole(int):
    def __str__(self) -> str:
        return "otherwise"

    __repr__ = __str__

    def __format__(self, _: str) -> str:
        return "otherwise"

    def __int__(self) -> int:
        return 7

    __index__ = __int__


class Id(UUID):
    def __str__(self) -> str:
        return "redacted"


class Row(NamedTuple):
    tenant: Any
    number: Any


class Redacted(tuple[Any, ...]):
    __slots__ = ()

    def __iter__(self) -> Any:
        return iter(("redacted",))

    def __len__(self) -> int:
        return 1


class Level(enum.IntEnum):
    HIGH = 3


class Role(enum.StrEnum):
    ADMIN = "admin"


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class One(Generic[T]):
    a: T


@dataclass(frozen=True, slots=True)
class Slotted:
    a: Any
    b: Any


@dataclass(frozen=True)
class Base:
    a: Any


@dataclass(frozen=True)
class Derived(Base):
    b: Any
    note: object = field(default_factory=object, compare=False)


class Same(Base):
    """A dataclass by its base, and another class to `==`."""


# Pairs of a key and its form: the tag, the bytes or the elements' forms, and the name of a dataclass.

Form = tuple[Any, ...]
Pair = tuple[Any, Form | None]

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
lookalikes = st.sampled_from(["1", "i1", "2:sa", "2:sa2:i1", "t", "d4:Base2:i1", "", "0:", "\0", "é"])
whole = st.integers() | st.integers(-2, 2)
leaves: st.SearchStrategy[Pair] = st.one_of(
    (text | lookalikes).map(lambda key: (key, ("s", key))),
    (text | lookalikes).map(lambda key: (Text(key), ("s", key))),
    st.just((Role.ADMIN, ("s", "admin"))),
    st.binary(max_size=9).map(lambda key: (key, ("b", key))),
    st.binary(max_size=9).map(lambda key: (Octets(key), ("b", key))),
    whole.map(lambda key: (key, ("i", key))),
    whole.map(lambda key: (Whole(key), ("i", key))),
    st.just((Level.HIGH, ("i", 3))),
    st.uuids().map(lambda key: (key, ("u", key.int))),
    st.uuids().map(lambda key: (Id(int=key.int), ("u", key.int))),
)
wrong: st.SearchStrategy[Pair] = st.sampled_from(
    [True, 0.5, None, Colour.RED, [1], {"a": 1}, frozenset("a"), object(), Base, "\ud800", "a\udcff", 1j, ...]
).map(lambda key: (key, None)) | st.integers(4300, 6000).map(lambda digits: (10**digits, None))


def built(kind: Any, tag: tuple[str, ...], elements: list[Pair]) -> Pair:
    forms = tuple(form for _, form in elements)
    return kind(*(key for key, _ in elements)), None if None in forms else (*tag, forms)


def composed(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    one, two = st.lists(inner, min_size=1, max_size=1), st.lists(inner, min_size=2, max_size=2)
    any_number = st.lists(inner, max_size=4)
    return st.one_of(
        any_number.map(lambda found: built(lambda *keys: keys, ("t",), found)),
        any_number.map(lambda found: built(lambda *keys: Redacted(keys), ("t",), found)),
        two.map(lambda found: built(Row, ("t",), found)),
        one.map(lambda found: built(One[int], ("d", "One"), found)),
        one.map(lambda found: built(Base, ("d", "Base"), found)),
        one.map(lambda found: built(Same, ("d", "Same"), found)),
        two.map(lambda found: built(Slotted, ("d", "Slotted"), found)),
        two.map(lambda found: built(Derived, ("d", "Derived"), found)),
    )


keys = st.recursive(leaves, composed, max_leaves=8)
suspects = st.recursive(leaves | wrong, composed, max_leaves=8)


def encoded(form: Form) -> tuple[bytes, bytes]:
    """The tag and the bytes of a form, written from the documentation alone."""
    tag, *name, content = form
    if tag in {"t", "d"}:
        tagged = [b"".join(encoded(element)) for element in content]
        chain = b"".join(str(len(element)).encode() + b":" + element for element in tagged)
        return (f"d{len(name[0])}:{name[0]}" if name else "t").encode(), chain
    if tag == "b":
        return b"b", content
    return tag.encode(), (str(UUID(int=content)) if tag == "u" else str(content)).encode()


@given(pair=suspects)
@example(pair=(Id(int=5), ("u", 5)))
@example(pair=(Octets(b"a"), ("b", b"a")))
@example(pair=(Redacted((1, 2)), ("t", (("i", 1), ("i", 2)))))
@examples(500)
def test_a_key_is_encoded_as_documented_or_refused(pair: Pair) -> None:
    """A key of the types above has the documented bytes, hash and name; any other is refused in short words."""
    key, form = pair
    if form is None:
        for encode in (encode_key, ledger_key, GATE.locate, GATE.should_pass, GATE.should_pass_write):
            with pytest.raises(InvalidKey, match="encode=") as caught:
                encode(key)
            assert len(str(caught.value)) < LONGEST_ERROR
            assert caught.value.__cause__ is None or "digits" in str(caught.value)
        return
    tag, data = encoded(form)
    assert (encode_key(key), ledger_key(key)) == (data, tag + data)
    assert GATE.locate(key) == (xxhash.xxh3_64_intdigest(data), tag + data)


@given(one=keys, other=keys)
@examples(300)
def test_two_keys_have_two_names(one: Pair, other: Pair) -> None:
    """Two keys share a name iff they are one key, whatever their types show of themselves."""
    assert (ledger_key(one[0]) == ledger_key(other[0])) == (one[1] == other[1])


@given(depth=st.integers(MAX_DEPTH - 2, MAX_DEPTH + 2) | st.sampled_from([300, 1000, 100_000]), kind=st.booleans())
@examples(20)
def test_nesting_ends_at_a_depth_that_is_documented(depth: int, kind: bool) -> None:
    """A key is nested as deep as is said, wherever on the stack, or refused; never a RecursionError."""
    key: Any = "a"
    for _ in range(depth):
        key = One(key) if kind else (key,)
    if depth <= MAX_DEPTH:
        assert ledger_key(key)
    else:
        for encode in (encode_key, ledger_key, GATE.locate):
            with pytest.raises(InvalidKey, match=f"more than {MAX_DEPTH} deep"):
                encode(key)
    while not isinstance(key, str):  # level by level: it is too deep for the interpreter to take apart at once
        key = key.a if kind else key[0]


def test_a_key_that_holds_itself_is_refused() -> None:
    """A dataclass that is its own field has no encoding."""
    key: One[Any] = One(None)
    object.__setattr__(key, "a", key)
    with pytest.raises(InvalidKey, match="deep"):
        GATE.locate(key)


@given(
    pair=keys,
    data=st.binary(max_size=20) | st.sampled_from([None, "a", 1, bytearray(b"a"), memoryview(b"a"), [97]]),
)
@examples(100)
def test_a_function_of_ones_own_gives_bytes_or_is_refused(pair: Pair, data: Any) -> None:
    """Whatever `encode=` returns is taken as it is, if it is bytes, and else refused without a word of it."""
    gate = TrafficGate(0.5, encode=lambda _: data)
    if isinstance(data, bytes):
        assert gate.locate(pair[0]) == (xxhash.xxh3_64_intdigest(data), b"x" + data)
    else:
        with pytest.raises(InvalidKey, match=rf"^encode= returned {type(data).__name__}, not bytes$"):
            gate.locate(pair[0])


# Long keys


@pytest.fixture(scope="module", params=["sqlite", "valkey"])
def ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A shared ledger of each kind."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("keys") / "ledger.db"
        engine = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
        yield SqlAlchemyLedger(engine)
        engine.dispose()
    else:
        server: ValkeyServer = request.getfixturevalue("valkey_server")
        with server.client() as client:
            yield RedisLedger(client, prefix="fuzz-keys")


@given(
    characters=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
    length=st.integers(MAX_KEY_BYTES - 5, MAX_KEY_BYTES + 5) | st.integers(0, 5000),
    rate=st.sampled_from([0.0, 1.0]),
)
@example(characters="é", length=MAX_KEY_BYTES, rate=1.0)
@examples(60)
def test_a_long_key_is_refused_before_old_is_touched(
    ledger: Ledger, characters: str, length: int, rate: float
) -> None:
    """A key is no longer in the ledger than is said, type and all, or InvalidKey is raised and Old untouched."""
    key = (characters * length).encode()[:length].decode(errors="ignore")
    key += "x" * (length - len(key.encode()))
    old, new = (InMemoryAdapter[str, int]() for _ in range(2))
    with Proxy(TrafficGate(rate), old, new, name="long", ledger=ledger) as proxy:
        if length < MAX_KEY_BYTES:  # one more is the type
            proxy.write(key, 1)
            assert proxy.read(key) == old.read(key) == 1
            return
        for change in (lambda: proxy.write(key, 1), lambda: proxy.write_many({"a": 1, key: 1})):
            with pytest.raises(InvalidKey) as caught:
                change()
            assert len(str(caught.value)) < LONGEST_ERROR
        with pytest.raises(InvalidKey):
            proxy.delete(key)
        assert (old.read(key), old.read("a"), new.read(key)) == (None, None, None)


# Other processes

PROGRAM = """
import json, random, sys
from dataclasses import make_dataclass
from uuid import UUID
from zddm_flags import TrafficGate
from zddm_flags.hashing import FNV1a64Hasher, XXH64Hasher

chance = random.Random(7)
Point = make_dataclass("Point", ["x", "y"], frozen=True)

def key(depth):
    kind = chance.randrange(7 if depth else 5)
    text = "".join(chance.choices("a1:é€😀\\0 ", k=chance.randrange(9)))
    bits = chance.getrandbits(128)
    if kind < 5:
        return (text, text.encode(), bits >> chance.randrange(128), -5, UUID(int=bits))[kind]
    if kind == 5:
        return tuple(key(depth - 1) for _ in range(chance.randrange(4)))
    return Point(key(depth - 1), key(depth - 1))

gates = [TrafficGate(0.5), TrafficGate(0.5, hasher=XXH64Hasher()), TrafficGate(0.5, hasher=FNV1a64Hasher())]
found = []
for _ in range(300):
    one = key(3)
    hashes = [gate.locate(one)[0] for gate in gates]
    found.append([hashes, gates[0].locate(one)[1].hex(), [gate.should_pass(one) for gate in gates]])
"""


def test_another_process_decides_alike() -> None:
    """Names, hashes and decisions are the same in a process with other hashes of Python's own."""
    here: dict[str, Any] = {}
    exec(PROGRAM, here)  # noqa: S102 - the program above
    hashes = set()
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM + "print(json.dumps([hash('a'), found]))"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        of_python, there = json.loads(run.stdout)
        assert there == here["found"]
        hashes.add(of_python)
    assert len(hashes) == 2
    assert len({name for _, name, _ in here["found"]}) > 200
