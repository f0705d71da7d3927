from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zddm_flags.hashing import (
    DeterministicHasher,
    FNV1a64Hasher,
    XXH3Hasher,
    XXH64Hasher,
    hash_rate,
    passes,
    threshold,
)
from zddm_flags.vectors import load_vectors

ROOT = Path(__file__).resolve().parent.parent.parent
TOP = 2**64
MASK = TOP - 1
HASHERS: list[DeterministicHasher] = [XXH3Hasher(), XXH64Hasher(), FNV1a64Hasher()]
VECTORS = load_vectors()

# --- Implementations that share no code with the library. XXH64 and XXH3 follow the xxHash specification
# (Collet, doc/xxhash_spec.md), for seed 0 and the default secret; they are checked below by published values.

P64 = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)
P32 = (2654435761, 2246822519, 3266489917)
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def rotate(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & MASK


def xxh64_avalanche(value: int) -> int:
    value = (value ^ value >> 33) * P64[1] & MASK
    value = (value ^ value >> 29) * P64[2] & MASK
    return value ^ value >> 32


def reference_xxh64(data: bytes) -> int:
    def step(lane: int, word: int) -> int:
        return rotate((lane + word * P64[1]) & MASK, 31) * P64[0] & MASK

    at = 0
    if len(data) >= 32:
        lanes = [(P64[0] + P64[1]) & MASK, P64[1], 0, -P64[0] & MASK]
        while at + 32 <= len(data):
            lanes = [step(lane, u64(data, at + 8 * index)) for index, lane in enumerate(lanes)]
            at += 32
        value = sum(rotate(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
        for lane in lanes:
            value = ((value ^ step(0, lane)) * P64[0] + P64[3]) & MASK
    else:
        value = P64[4]
    value = (value + len(data)) & MASK
    while at + 8 <= len(data):
        value = (rotate(value ^ step(0, u64(data, at)), 27) * P64[0] + P64[3]) & MASK
        at += 8
    if at + 4 <= len(data):
        value = (rotate(value ^ u32(data, at) * P64[0] & MASK, 23) * P64[1] + P64[2]) & MASK
        at += 4
    for byte in data[at:]:
        value = rotate(value ^ byte * P64[4] & MASK, 11) * P64[0] & MASK
    return xxh64_avalanche(value)


def folded(left: int, right: int) -> int:
    product = left * right
    return product & MASK ^ product >> 64


def xxh3_avalanche(value: int) -> int:
    value = (value ^ value >> 37) * 0x165667919E3779F9 & MASK
    return value ^ value >> 32


def mixed(data: bytes, at: int, secret_at: int) -> int:
    return folded(u64(data, at) ^ u64(SECRET, secret_at), u64(data, at + 8) ^ u64(SECRET, secret_at + 8))


def reference_xxh3(data: bytes) -> int:
    size = len(data)
    if size == 0:
        return xxh64_avalanche(u64(SECRET, 56) ^ u64(SECRET, 64))
    if size <= 3:
        combined = data[0] << 16 | data[size // 2] << 24 | data[-1] | size << 8
        return xxh64_avalanche(combined ^ u32(SECRET, 0) ^ u32(SECRET, 4))
    if size <= 8:
        value = (u32(data, size - 4) + (u32(data, 0) << 32)) ^ u64(SECRET, 8) ^ u64(SECRET, 16)
        value ^= rotate(value, 49) ^ rotate(value, 24)
        value = value * 0x9FB21C651E98DF25 & MASK
        value = (value ^ (value >> 35) + size) * 0x9FB21C651E98DF25 & MASK
        return value ^ value >> 28
    if size <= 16:
        low = u64(data, 0) ^ u64(SECRET, 24) ^ u64(SECRET, 32)
        high = u64(data, size - 8) ^ u64(SECRET, 40) ^ u64(SECRET, 48)
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return xxh3_avalanche((size + swapped + high + folded(low, high)) & MASK)
    if size <= 128:
        value = size * P64[0]
        for pair in range((size - 1) // 32 + 1):
            value += mixed(data, 16 * pair, 32 * pair) + mixed(data, size - 16 * (pair + 1), 32 * pair + 16)
        return xxh3_avalanche(value & MASK)
    if size <= 240:
        value = size * P64[0] + sum(mixed(data, 16 * index, 16 * index) for index in range(8))
        value = xxh3_avalanche(value & MASK)
        value += sum(mixed(data, 16 * index, 16 * (index - 8) + 3) for index in range(8, size // 16))
        return xxh3_avalanche((value + mixed(data, size - 16, 136 - 17)) & MASK)
    return long_xxh3(data)


def long_xxh3(data: bytes) -> int:
    lanes = [P32[2], *P64[:4], P32[1], P64[4], P32[0]]

    def accumulate(at: int, secret_at: int) -> None:
        for index in range(8):
            word = u64(data, at + 8 * index)
            keyed = word ^ u64(SECRET, secret_at + 8 * index)
            lanes[index ^ 1] = (lanes[index ^ 1] + word) & MASK
            lanes[index] = (lanes[index] + (keyed & 0xFFFFFFFF) * (keyed >> 32)) & MASK

    for stripe in range((len(data) - 1) // 64):
        accumulate(64 * stripe, 8 * (stripe % 16))
        if stripe % 16 == 15:
            for index, lane in enumerate(lanes):
                lanes[index] = (lane ^ lane >> 47 ^ u64(SECRET, 128 + 8 * index)) * P32[0] & MASK
    accumulate(len(data) - 64, 192 - 64 - 7)
    value = len(data) * P64[0]
    for pair in range(4):
        keys = u64(SECRET, 11 + 16 * pair), u64(SECRET, 19 + 16 * pair)
        value += folded(lanes[2 * pair] ^ keys[0], lanes[2 * pair + 1] ^ keys[1])
    return xxh3_avalanche(value & MASK)


def reference_fnv1a(data: bytes) -> int:
    """The definition by arithmetic alone; the prime is 2**40 + 2**8 + 0xb3."""
    state = 14695981039346656037
    for byte in data:
        state += (state % 256 ^ byte) - state % 256
        state = ((state << 40) + (state << 8) + state * 0xB3) % TOP
    return state


REFERENCES = {"xxh3_64": reference_xxh3, "xxh64": reference_xxh64, "fnv1a_64": reference_fnv1a}


@pytest.mark.parametrize(
    ("name", "data", "value"),
    [
        ("xxh3_64", b"", 0x2D06800538D394C2),
        ("xxh3_64", b"abc", 0x78AF5F94892F3950),
        ("xxh64", b"", 0xEF46DB3751D8E999),
        ("xxh64", b"abc", 0x44BC2CF5AD770999),
        ("fnv1a_64", b"", 0xCBF29CE484222325),
        ("fnv1a_64", b"a", 0xAF63DC4C8601EC8C),
        ("fnv1a_64", b"foobar", 0x85944171F73967E8),
    ],
)
def test_published_values(name, data, value):
    """The hashes, and the references of this file, have the values that their authors publish."""
    hasher = next(hasher for hasher in HASHERS if hasher.name == name)
    assert hasher.hash(data) == value
    assert REFERENCES[name](data) == value


@pytest.mark.parametrize("hasher", HASHERS, ids=lambda hasher: hasher.name)
def test_agrees_with_the_specification_at_every_short_length(hasher):
    """Every length up to 600 bytes, and some longer, hashes as the specification written anew here says."""
    data = bytes((index * 151 + index // 7) % 256 for index in range(5000))
    for length in (*range(601), 1023, 1024, 1025, 1088, 1089, 2048, 2049, 5000):
        assert hasher.hash(data[:length]) == REFERENCES[hasher.name](data[:length]), length


@pytest.mark.parametrize("hasher", HASHERS, ids=lambda hasher: hasher.name)
@given(data=st.binary(max_size=400))
def test_agrees_with_the_specification_on_any_bytes(hasher, data):
    """No content, whatever its bits, makes a hash differ from the specification's."""
    assert hasher.hash(data) == REFERENCES[hasher.name](data)


@pytest.mark.skipif(shutil.which("xxhsum") is None, reason="the xxhsum program is not on the PATH")
@pytest.mark.parametrize(("option", "name"), [("-H3", "xxh3_64"), ("-H1", "xxh64")])
def test_agrees_with_the_authors_own_program(tmp_path, option, name):
    """The `xxhsum` program computes the hashes of the vectors."""
    paths = []
    for index, vector in enumerate(VECTORS["keys"]):
        path = tmp_path / f"{index:04}"
        path.write_bytes(bytes.fromhex(vector["hashed"]))
        paths.append(path)
    run = subprocess.run(["xxhsum", option, *paths], capture_output=True, text=True, check=True)
    # XXH64 is printed as `<hash>  <file>`, XXH3 as `XXH3 (<file>) = <hash>` or `XXH3_<hash>  <file>`.
    found = [int(match, 16) for match in re.findall(r"\b(?:XXH3_)?([0-9a-f]{16})\b", run.stdout)]
    assert found == [int(vector[name]) for vector in VECTORS["keys"]]


def test_vectors_agree_with_the_specification():
    """The shipped hashes are those of the specification, not only those of this library."""
    for vector in VECTORS["keys"]:
        data = bytes.fromhex(vector["hashed"])
        for name, reference in REFERENCES.items():
            assert vector[name] == str(reference(data))


def test_vectors_are_up_to_date():
    """The checked-in vectors are what the generator writes, byte for byte."""
    script = ROOT / ".ci" / "generate_vectors.py"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_vectors_fit_the_package():
    """The vectors are one file of less than 300 kB that says what it is, for parsers of any language."""
    path = ROOT / "zddm_flags" / "vectors" / "vectors.json"
    assert path.stat().st_size < 300_000
    assert json.loads(path.read_bytes().decode("ascii")) == VECTORS
    assert "float64(hash) / 2**64 < rate" in " ".join(VECTORS["about"])


def test_vectors_of_decisions():
    """Every shipped decision is the one of the exact rule, and of this library."""
    seen = set()
    for vector in VECTORS["decisions"]:
        value, rate = int(vector["hash"]), float(vector["rate"])
        assert rate == float.fromhex(vector["rate_hex"])
        assert vector["passes"] == exact_passes(value, rate) == passes(value, rate)
        seen.add((rate, vector["passes"]))
    rates = {rate for rate, _ in seen}
    assert {rate for rate, passed in seen if not passed} == rates - {1.0}
    assert {rate for rate, passed in seen if passed} == rates - {0.0}


# --- The decision


def rounded_to_double(value: int) -> Fraction:
    """`value` rounded to 53 bits, ties to even, in integers only."""
    excess = max(value.bit_length() - 53, 0)
    kept, rest = value >> excess, value & ((1 << excess) - 1)
    half = (1 << excess) >> 1
    if excess and (rest > half or (rest == half and kept & 1)):
        kept += 1
    return Fraction(kept << excess)


def exact_rate(rate: float) -> Fraction:
    """A double from 0 to 1 taken apart by its bits."""
    bits = struct.unpack("<Q", struct.pack("<d", rate))[0]
    exponent, fraction = bits >> 52 & 0x7FF, bits & (1 << 52) - 1
    return Fraction(fraction + (1 << 52 if exponent else 0)) * Fraction(2) ** (max(exponent, 1) - 1075)


def exact_passes(value: int, rate: float) -> bool:
    return rate >= 1 or rounded_to_double(value) / TOP < exact_rate(rate)


RATES = st.one_of(
    st.floats(0, 1, allow_subnormal=True),
    st.sampled_from([0.0, -0.0, 5e-324, 2.0**-64, 2.0**-53, 0.5, 1 - 2.0**-53, 1.0]),
    st.integers(0, MASK).map(hash_rate),  # a rate that equals the hash rate of some key
)
HASHES = st.one_of(
    st.integers(0, MASK),
    st.integers(0, MASK).map(lambda value: value & ~0x7FF),
    st.builds(
        lambda power, offset: min(max(2**power + offset, 0), MASK),
        st.integers(0, 64),
        st.integers(-2100, 2100),
    ),
)


@given(value=HASHES, rate=RATES)
@example(value=0, rate=5e-324)
@example(value=TOP - 1024, rate=1 - 2.0**-53)
@example(value=TOP - 1025, rate=1 - 2.0**-53)
@example(value=MASK, rate=1.0)
@example(value=0, rate=0.0)
def test_passes_is_the_exact_rule(value, rate):
    """The decision is the rule worked out in exact arithmetic."""
    assert passes(value, rate) == exact_passes(value, rate)


@given(rate=RATES, value=HASHES, offset=st.integers(-3000, 3000))
@example(rate=0.5, value=2**63, offset=0)
def test_threshold_decides_as_passes(rate, value, offset):
    """`hash < threshold(rate)` is `passes(hash, rate)`, at random hashes and around the threshold."""
    edge = threshold(rate)
    assert 0 <= edge <= TOP
    near = min(max(edge + offset, 0), MASK)
    for candidate in (value, near, min(edge, MASK), max(edge - 1, 0)):
        assert (candidate < edge) == passes(candidate, rate)


@given(value=HASHES, rates=st.tuples(RATES, RATES))
def test_ramping_up_only_adds_keys(value, rates):
    """A key that passes at a rate passes at every higher one, and the thresholds are in the rates' order."""
    lower, higher = sorted(rates)
    assert threshold(lower) <= threshold(higher)
    assert passes(value, higher) or not passes(value, lower)


@given(value=HASHES)
def test_the_ends_of_the_scale(value):
    """Rate 0 passes no key and rate 1 every key, also those whose hash rate rounds to 1.0."""
    assert not passes(value, 0.0)
    assert passes(value, 1.0)
    assert (threshold(0.0), threshold(1.0)) == (0, TOP)


@given(value=HASHES)
def test_hash_rate_is_the_hash_as_a_double_over_two_to_the_64(value):
    """`hash_rate` is float64(hash) / 2**64, from 0.0 to 1.0."""
    assert hash_rate(value) == float(value) / 2.0**64
    assert 0.0 <= hash_rate(value) <= 1.0


def test_ties():
    """A key whose hash rate equals the rate is out; hashes that round to one double share its decision."""
    assert hash_rate(2**63) == 0.5
    assert not passes(2**63, 0.5)
    assert not passes(2**63 - 512, 0.5)  # halfway to the double below: rounds to the even one, 2**63
    assert passes(2**63 - 513, 0.5)
    assert threshold(0.5) == 2**63 - 512


@pytest.mark.parametrize("hasher", HASHERS, ids=lambda hasher: hasher.name)
def test_hashers_fit_the_protocol(hasher):
    """Each hasher has a name of its own, and hashes to an unsigned 64-bit int."""
    assert isinstance(hasher, DeterministicHasher)
    assert [other.name for other in HASHERS].count(hasher.name) == 1
    assert 0 <= hasher.hash(b"x" * 100) < TOP


def test_hashes_do_not_depend_on_the_process():
    """Another process, with another seed for Python's own `hash`, computes the same hashes."""
    program = (
        "from zddm_flags.hashing import *; "
        "print(*(h().hash('k\\u00e9y'.encode()) for h in (XXH3Hasher, XXH64Hasher, FNV1a64Hasher)))"
    )
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        )
        assert run.stdout.split() == [str(hasher.hash("k\u00e9y".encode())) for hasher in HASHERS]
