from __future__ import annotations

import dataclasses
import math
import random
import uuid
from bisect import bisect_left
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zddm_flags import encoding
from zddm_flags.errors import GateIsLive, InvalidKey, InvalidRollout
from zddm_flags.gate import TrafficGate
from zddm_flags.hashing import FNV1a64Hasher, XXH3Hasher, XXH64Hasher, passes, threshold
from zddm_flags.rollout import Rollout, RolloutSource, StaticSource

if TYPE_CHECKING:
    from collections.abc import Callable

RATES = (0.001, 0.01, 0.1, 0.5, 0.9)
MILLION = 10**6
KEYS = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.binary(), st.integers(), st.uuids())


class HandmadeSource:
    """A source of a user's own, by duck typing only; `announce` decides whether it makes the first call."""

    def __init__(self, rate: float, *, announce: bool = True) -> None:
        self.rollout = Rollout.of(rate)
        self.announce = announce
        self.listeners: list[Callable[[Rollout], None]] = []

    def subscribe(self, listener: Callable[[Rollout], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        if self.announce:
            listener(self.rollout)
        return lambda: self.listeners.remove(listener) if listener in self.listeners else None

    def publish(self, rate: float) -> None:
        self.rollout = Rollout.of(rate)
        for listener in list(self.listeners):
            listener(self.rollout)


class FixedHasher:
    """Every key has the same hash."""

    name = "fixed"

    def __init__(self, value: object) -> None:
        self.value = value

    def hash(self, _data: bytes, /) -> int:
        return self.value  # type: ignore[return-value]  # wrong values are what some tests are about


# --- The decision


@given(key=KEYS, rate=st.floats(0, 1))
def test_the_gate_applies_the_rule_to_the_canonical_bytes(key, rate):
    """A key passes iff the XXH3 hash of its canonical bytes passes at the rate."""
    gate = TrafficGate(rate)
    value = XXH3Hasher.hash(encoding.encode_key(key))
    assert gate.should_pass(key) == gate.should_pass_write(key) == passes(value, rate)
    assert gate.locate(key) == (value, encoding.ledger_key(key))


@given(key=KEYS, first=st.floats(0, 1), second=st.floats(0, 1))
def test_ramping_up_only_adds_keys(key, first, second):
    """A key that passes keeps passing while the rate rises, and one that is out stays out while it falls."""
    gate = TrafficGate(first)
    before = gate.should_pass(key)
    gate.set_rate(second)
    after = gate.should_pass(key)
    assert after >= before if second >= first else after <= before


@pytest.mark.parametrize("rate", [0, 0.0, -0.0])
def test_rate_0_passes_nothing(rate):
    """At rate 0 not even the smallest hash passes."""
    gate = TrafficGate(rate, hasher=FixedHasher(0))
    assert not gate.should_pass("a")
    assert not gate.should_pass_write("a")


@pytest.mark.parametrize("rate", [1, 1.0, Rollout.of(1)])
def test_rate_1_passes_everything(rate):
    """At rate 1 even the largest hash passes, whose hash rate rounds to 1.0."""
    gate = TrafficGate(rate, hasher=FixedHasher(2**64 - 1))
    assert gate.should_pass("a")
    assert gate.should_pass_write("a")


def test_a_key_at_the_rate_is_out():
    """A hash rate equal to the rate does not pass; the next rate up passes it."""
    gate = TrafficGate(0.5, hasher=FixedHasher(2**63))
    assert not gate.should_pass("a")
    gate.set_rate(math.nextafter(0.5, 1))
    assert gate.should_pass("a")


def test_reads_and_writes_have_rates_of_their_own():
    """A key between the two rates is written to New and not read from it."""
    gate = TrafficGate(Rollout(0.25, 0.75), hasher=FixedHasher(2**63))
    assert (gate.rate, gate.write_rate) == (0.25, 0.75)
    assert not gate.should_pass("a")
    assert gate.should_pass_write("a")


@pytest.mark.parametrize("key", [None, 1.5, True, ["a"]])
def test_keys_without_an_encoding_are_refused(key):
    """A key of another type raises InvalidKey, also where the gate is closed or open for all."""
    for rate in (0, 1):
        with pytest.raises(InvalidKey, match="encode="):
            TrafficGate(rate).should_pass(key)
        with pytest.raises(InvalidKey, match="encode="):
            TrafficGate(rate).should_pass_write(key)


def test_a_str_without_utf_8_is_refused():
    """The short way that a gate takes for plain str keys refuses lone surrogates as the long one does."""
    with pytest.raises(InvalidKey, match="encode="):
        TrafficGate(1).should_pass("a\udc80")


def test_a_custom_encoding_replaces_the_canonical_one():
    """With `encode` the hash and the name in the ledger come from its bytes, for str keys as well."""
    gate = TrafficGate(0.5, encode=lambda key: f"<{key}>".encode())
    assert gate.locate("a") == (XXH3Hasher.hash(b"<a>"), b"x<a>")
    assert gate.locate(1.5) == (XXH3Hasher.hash(b"<1.5>"), b"x<1.5>")


def test_identity_tells_hashers_and_encodings_apart():
    """What a ledger remembers of a gate differs by the hasher and by whether the encoding is the caller's."""
    gates = [TrafficGate(), TrafficGate(hasher=XXH64Hasher()), TrafficGate(hasher=FNV1a64Hasher())]
    gates += [TrafficGate(encode=lambda key: key)]
    assert [gate.identity for gate in gates] == ["xxh3_64", "xxh64", "fnv1a_64", "xxh3_64+encode"]


@pytest.mark.parametrize("value", [-1, 2**64, None, 0.5, "1", b"12345678"])
def test_a_hasher_outside_64_bits_is_refused(value):
    """A hasher that does not return an unsigned 64-bit int is refused when the gate is made."""
    with pytest.raises(TypeError, match=r"FixedHasher.hash must return an int from 0 to 2\*\*64 - 1"):
        TrafficGate(hasher=FixedHasher(value))


@pytest.mark.parametrize("hasher", [hash, "xxh3_64", object(), XXH3Hasher.hash])
def test_what_is_no_hasher_is_refused(hasher):
    """A function or a name in place of a hasher is refused by a TypeError that says what is wanted."""
    with pytest.raises(TypeError, match="`name` and `hash`"):
        TrafficGate(hasher=hasher)


# --- From names back


ANY = st.recursive(KEYS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
HASHERS = st.sampled_from([XXH3Hasher(), XXH64Hasher(), FNV1a64Hasher()])


@dataclasses.dataclass(frozen=True)
class Order:
    tenant: object
    number: object


@given(key=ANY | st.builds(Order, ANY, ANY), hasher=HASHERS)
def test_a_name_has_the_hash_of_its_key(key, hasher):
    """From a name in the ledger alone a gate finds the key's hash, a dataclass's too."""
    gate = TrafficGate(hasher=hasher)
    value, name = gate.locate(key)
    assert gate.hash_of(name) == value


@given(data=st.binary(), hasher=HASHERS)
def test_a_name_of_a_custom_encoding_has_the_hash_of_its_key(data, hasher):
    """The same where the bytes are the caller's, whatever they look like."""
    gate = TrafficGate(hasher=hasher, encode=lambda key: key)
    value, name = gate.locate(data)
    assert gate.hash_of(name) == value
    with pytest.raises(InvalidKey, match="encode="):
        gate.key_of(name)


@given(key=ANY)
def test_a_name_has_a_key(key):
    """A gate gives the key of a name, and the name of that key again."""
    gate = TrafficGate()
    name = gate.locate(key)[1]
    assert gate.key_of(name) == key
    assert gate.locate(gate.key_of(name))[1] == name


def test_names_without_a_key():
    """A name of a dataclass leads back to no key, and what is no name has neither key nor hash."""
    gate = TrafficGate()
    with pytest.raises(InvalidKey, match="dataclass"):
        gate.key_of(gate.locate(Order("a", 1))[1])
    for call in (gate.key_of, gate.hash_of):
        with pytest.raises(InvalidKey, match="no key"):
            call(b"nonsense")


# --- The rate


@pytest.mark.parametrize("rate", [math.nan, math.inf, -0.1, 1.1, True, "0.5", None, 10**400, object()])
def test_a_wrong_rate_is_refused_and_the_last_stays(rate):
    """A wrong rate raises InvalidRollout when a gate is made or set, and a set gate keeps its rate."""
    with pytest.raises(InvalidRollout):
        TrafficGate(rate)
    gate = TrafficGate(Rollout(0.25, 0.5))
    with pytest.raises(InvalidRollout):
        gate.set_rate(rate)
    assert (gate.rate, gate.write_rate) == (0.25, 0.5)


def test_set_rate():
    """A gate made with a fixed rate takes a number or a Rollout, at once."""
    gate = TrafficGate()
    assert (gate.rate, gate.write_rate, gate.flag_key) == (0.0, 0.0, None)
    gate.set_rate(0.5)
    assert (gate.rate, gate.write_rate) == (0.5, 0.5)
    gate.set_rate(Rollout(0, 1))
    assert (gate.rate, gate.write_rate) == (0.0, 1.0)


@pytest.mark.parametrize("flag_key", [None, "users-rate"])
def test_set_rate_on_a_live_source_is_refused(flag_key):
    """Code cannot override a live rate: the error names the source, and its flag where it has one."""
    source = HandmadeSource(0.25)
    if flag_key is not None:
        source.flag_key = flag_key  # type: ignore[attr-defined]  # optional in the protocol
    gate = TrafficGate(source)
    with pytest.raises(GateIsLive, match="HandmadeSource.*users-rate" if flag_key else "HandmadeSource"):
        gate.set_rate(1)
    assert gate.rate == 0.25
    assert gate.flag_key == flag_key


def test_a_source_by_duck_typing():
    """Any object with `rollout` and `subscribe` drives a gate."""
    source = HandmadeSource(0.0)
    assert isinstance(source, RolloutSource)
    gate = TrafficGate(source, hasher=FixedHasher(2**62))
    decisions = []
    for rate in (0.5, 0.0, 1.0, 0.25):
        source.publish(rate)
        decisions.append((gate.rate, gate.should_pass("a")))
    assert decisions == [(0.5, True), (0.0, False), (1.0, True), (0.25, False)]


def test_a_source_that_forgets_the_first_call():
    """A gate on a source that does not announce its current rollout has that rollout anyway."""
    source = HandmadeSource(0.5, announce=False)
    gate = TrafficGate(source)
    assert gate.rate == 0.5
    source.publish(0.75)
    assert gate.rate == 0.75


def test_many_gates_follow_one_source():
    """Every gate on a source follows it, until it is closed; closing twice is allowed."""
    source = StaticSource(0.1)
    gates = [TrafficGate(source, hasher=hasher) for hasher in (XXH3Hasher(), XXH64Hasher(), FNV1a64Hasher())]
    source.set(0.2)
    gates[0].close()
    gates[0].close()
    source.set(0.3)
    gates[1].set_rate(0.4)
    assert [gate.rate for gate in gates] == [0.2, 0.4, 0.4]


def test_the_alarm_runs_before_each_decision():
    """A source's alarm is called once per decision, until the source publishes without one."""
    calls = []
    source = HandmadeSource(1.0)
    source.alarm = lambda: calls.append("alarm")  # type: ignore[attr-defined]  # optional in the protocol
    gate = TrafficGate(source)
    assert gate.should_pass("a")
    assert gate.should_pass_write("a")
    assert calls == ["alarm", "alarm"]
    source.alarm = None  # type: ignore[attr-defined]
    source.publish(1.0)
    assert gate.should_pass("a")
    assert calls == ["alarm", "alarm"]


def test_what_the_alarm_publishes_counts_at_once():
    """An alarm that closes the gate closes it for the very key that raised it."""
    source = HandmadeSource(1.0)
    source.alarm = lambda: source.publish(0.0)  # type: ignore[attr-defined]  # optional in the protocol
    assert not TrafficGate(source).should_pass("a")


def test_a_decision_is_swapped_whole():
    """Who holds a decision keeps it while the gate moves on: no operation sees half of a change."""
    gate = TrafficGate(Rollout(0.25, 0.5))
    held = gate.decision
    gate.set_rate(Rollout(0.75, 1.0))
    assert (held.rollout, held.read_below) == (Rollout(0.25, 0.5), threshold(0.25))
    assert (gate.decision.rollout, gate.decision.write_below) == (Rollout(0.75, 1.0), 2**64)


# --- The fraction of keys that passes, measured


def numbers() -> list[str]:
    return [str(number) for number in range(MILLION)]


def uuids() -> list[str]:
    generator = random.Random(20)
    return [str(uuid.UUID(int=generator.getrandbits(128), version=4)) for _ in range(MILLION)]


def addresses() -> list[str]:
    names = ("anna", "ben", "chloe", "david")
    return [f"{names[number % 4]}.{number // 4}@example.com" for number in range(MILLION)]


@pytest.mark.parametrize("keys", [numbers, uuids, addresses])
def test_the_passed_fraction_is_the_rate(keys):
    """Of a million keys as people have them, the fraction that passes is the rate, within 4 deviations."""
    locate = TrafficGate().locate
    hashes = sorted([locate(key)[0] for key in keys()])
    for rate in RATES:
        passed = bisect_left(hashes, threshold(rate))
        assert abs(passed - MILLION * rate) <= 4 * math.sqrt(MILLION * rate * (1 - rate)), (rate, passed)


def test_the_passed_fraction_through_the_gate():
    """A million calls of `should_pass` with sequential ints pass one in a hundred, within 4 deviations."""
    should_pass = TrafficGate(0.01).should_pass
    passed = sum(map(should_pass, range(MILLION)))
    assert abs(passed - 10_000) <= 4 * math.sqrt(MILLION * 0.01 * 0.99)


def test_fnv1a_is_uneven_for_short_numbers():
    """What the docstring of FNV1a64Hasher says of decimal numbers is so, and XXH3 has none of it."""

    def passed(hasher: FNV1a64Hasher | XXH3Hasher, rate: float, count: int) -> int:
        return sum(map(TrafficGate(rate, hasher=hasher).should_pass, range(count)))

    assert passed(FNV1a64Hasher(), 0.03, 1000) == 0  # 30 are due, with a deviation of 5.4
    assert passed(FNV1a64Hasher(), 0.5, 1000) == 790  # 500 are due, with a deviation of 15.8
    assert passed(FNV1a64Hasher(), 0.01, MILLION) == 9270  # 10,000 are due, with a deviation of 99.5
    for rate, count in ((0.03, 1000), (0.5, 1000)):
        assert abs(passed(XXH3Hasher(), rate, count) - rate * count) <= 4 * math.sqrt(count * rate * (1 - rate))
