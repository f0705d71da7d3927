"""What a flag may say: anything that JSON or Python can, and the specification read by another reader."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections import ChainMap, OrderedDict, UserDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st
from ldclient import Context

from tests.fuzz.effort import examples
from zddm_flags import LaunchDarklySource, Rollout, StaticSource, TrafficGate
from zddm_flags.errors import InvalidRollout
from zddm_flags.testing import FlagServer

LONGEST_ERROR = 200
DEADLINE = 10.0


class _Liar:
    """Compares, converts and shows itself as whatever would be accepted."""

    def __eq__(self, other: object) -> bool:
        return True

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__  # type: ignore[assignment]  # all say yes
    __hash__ = None  # type: ignore[assignment]  # nothing here is hashed

    def __bool__(self) -> bool:
        return True

    def __float__(self) -> float:
        return 0.5

    def __int__(self) -> int:
        return 1

    __index__ = __int__

    def __repr__(self) -> str:
        return "secret" * 10_000

    __str__ = __repr__


class LyingFloat(_Liar, float):
    """A float that is another one to whoever asks it."""


class LyingInt(_Liar, int):
    """An int that is another one to whoever asks it."""


class Fine(float):
    """As numpy's float64 is: a float in all that it does."""


class Number(_Liar):
    """As numpy's float32 is: no float, but it becomes one."""


def rate(value: object) -> Fraction | None:
    """The rate that a value is, exactly; None where it is none."""
    if type(value) is bool:
        return None
    if isinstance(value, int):
        exact = Fraction(int.__add__(value, 0))
    elif isinstance(value, float):
        plain = float.__add__(value, 0.0)
        if not math.isfinite(plain):
            return None
        exact = Fraction(*plain.as_integer_ratio())
    else:
        return None
    return exact if 0 <= exact <= 1 else None


def rollout(value: object) -> tuple[Fraction, Fraction] | None:
    """The rates for reads and writes that a flag's value means; None where it means none."""
    if isinstance(value, Mapping):
        members = dict(value.items())
        read, write = rate(members.get("read")), rate(members.get("write"))
        return (read, write) if read is not None and write is not None and read <= write else None
    both = rate(value)
    return None if both is None else (both, both)


def rates(found: Rollout) -> tuple[Fraction, Fraction]:
    """The rates that were understood."""
    assert type(found.read) is type(found.write) is float
    return Fraction(found.read), Fraction(found.write)


floats = st.one_of(
    st.floats(),
    st.floats(0, 1),
    st.sampled_from(
        [-0.0, 5e-324, -5e-324, sys.float_info.min, math.nextafter(1, 0), math.nextafter(1, 2), 1e308]
    ),
)
integers = st.one_of(
    st.integers(),
    st.integers(-1, 2),
    st.sampled_from([2**63, 2**64, 10**19]),
    st.integers(300, 6000).map(lambda digits: 10**digits),
    st.integers(300, 6000).map(lambda digits: -(10**digits)),
)
numbers = st.one_of(
    floats,
    integers,
    st.booleans(),
    floats.map(LyingFloat),
    integers.map(LyingInt),
    st.floats(0, 1).map(Fine),
    st.just(Number()),
    st.floats(0, 1).map(Decimal),
    st.fractions(0, 1),
    st.complex_numbers(),
)
leaves = st.one_of(
    numbers,
    st.none(),
    st.text(max_size=5),
    st.sampled_from(["0", "0.5", "1e-3", "nan", "\N{ARABIC-INDIC DIGIT ZERO}"]),
    st.binary(max_size=3),
)
members = st.dictionaries(
    st.sampled_from(["read", "write"]) | st.text(max_size=5) | st.integers(), leaves, max_size=4
)
pairs = st.fixed_dictionaries({"read": numbers, "write": numbers}, optional={"comment": leaves, "Read": leaves})
kinds: Any = st.sampled_from(
    [
        dict,
        OrderedDict,
        UserDict,
        MappingProxyType,
        ChainMap,
        lambda found: defaultdict(lambda: 0.5, found),
        list,
        lambda found: tuple(found.items()),
    ]
)
objects = st.tuples(kinds, pairs | members).map(lambda found: found[0](found[1]))
values = st.one_of(
    numbers, objects, leaves, st.lists(numbers, max_size=2), objects.map(lambda found: {"read": found})
)


@given(value=values)
@example(value=LyingFloat(7.0))
@example(value=LyingFloat(math.nan))
@example(value=LyingInt(-1))
@example(value=LyingInt(10**5000))
@example(value=Rollout(0.5, 0.5))
@examples(600)
def test_a_value_is_a_rollout_iff_it_is_specified(value: object) -> None:
    """Any object is understood as the specification says, or refused by a short error and the last one stays."""
    wanted = rollout(value)
    source = StaticSource(0.25)
    gate = TrafficGate(source)
    if wanted is not None:
        assert rates(Rollout.parse(value)) == wanted
        source.set(value)
        assert rates(source.rollout) == (Fraction(gate.rate), Fraction(gate.write_rate)) == wanted
        return
    with pytest.raises(InvalidRollout) as caught:
        Rollout.parse(value)
    assert len(str(caught.value)) < LONGEST_ERROR
    assert "secret" not in str(caught.value)
    if not isinstance(value, Rollout):
        with pytest.raises(InvalidRollout):
            source.set(value)
        assert source.rollout == Rollout(gate.rate, gate.write_rate) == Rollout.of(0.25)


# Through the real SDK. The texts are such as no JSON library would write.

literals = st.one_of(
    st.sampled_from(
        ["-0", "-0.0", "1e0", "1E-400", "1e400", "-1e400", "0.1e1", "10e-1", "5e-324", "NaN", "-Infinity"]
    ),
    st.sampled_from(["0." + "3" * 2000, "1." + "0" * 2000, "1." + "0" * 2000 + "1", "1" * 4000, "0." + "9" * 40]),
    st.sampled_from(
        ["true", "null", '"0.5"', "[]", "[0.5]", "{}", '{"read":0.5}', '"\\ud800"', '"' + "x" * 9999 + '"']
    ),
    st.floats(0, 1).map(repr),
    st.integers(-1, 2).map(str),
)
texts = literals | st.lists(
    st.tuples(st.sampled_from(["read", "write", "\\u0072ead", "Read", ""]), literals), max_size=5
).map(lambda found: "{" + ",".join(f'"{name}":{value}' for name, value in found) + "}")


class Flag:
    """A flag whose values are texts of JSON as they go over the wire."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(FlagServer({"rate": 0.25}))
        client = self.server.client()
        self.context = Context.builder("users-service").kind("service").build()
        self.source = stack.enter_context(LaunchDarklySource(client, "rate", self.context, refresh_seconds=3600.0))
        self._told = threading.Event()
        client.flag_tracker.add_listener(lambda _: self._told.set())  # after the source, hence called after it
        self._version = 1000

    def become(self, text: str) -> None:
        """Change the value; return when the source was told."""
        self._version += 1
        flag = json.dumps(
            {"key": "rate", "version": self._version, "on": True, "variations": ["VALUE"], "salt": "s"}
            | {"fallthrough": {"variation": 0}, "offVariation": 0, "targets": [], "rules": [], "prerequisites": []}
        ).replace('"VALUE"', text)
        self._told.clear()
        self.server.send_raw(f'event: patch\ndata: {{"path":"/flags/rate","data":{flag}}}\n\n')
        assert self._told.wait(DEADLINE)


@pytest.fixture
def flag() -> Iterator[Flag]:
    """A flag, and the source that follows it."""
    with ExitStack() as stack:
        yield Flag(stack)


@given(text=texts)
@example(text='{"read":0.9,"write":0.5,"read":0.5}')
@example(text="1" * 4000)
@examples(150)
def test_a_text_is_followed_iff_it_is_specified(flag: Flag, text: str) -> None:
    """Any JSON text of a flag is followed as the specification says, or changes nothing and is logged in short."""
    before = rates(flag.source.rollout)
    wanted = rollout(json.loads(text))
    with structlog.testing.capture_logs() as events:
        flag.become(text)
    assert rates(flag.source.rollout) == (before if wanted is None else wanted)
    assert all(len(str(event)) < 1000 for event in events)
