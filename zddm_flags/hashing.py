"""Key -> 64-bit hash, and hash -> in or out. The same on every platform, in every process and language."""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

import xxhash

__all__ = [
    "DeterministicHasher",
    "FNV1a64Hasher",
    "XXH3Hasher",
    "XXH64Hasher",
    "hash_rate",
    "passes",
    "threshold",
]

_HASHES: Final = 2**64


@runtime_checkable
class DeterministicHasher(Protocol):
    """Bytes -> an int from 0 to 2**64 - 1, always the same for the same bytes. Must be thread-safe."""

    @property
    def name(self) -> str:
        """Identifies the hash in a ledger, so that two processes never disagree unnoticed."""
        ...

    def hash(self, data: bytes, /) -> int:
        """The hash of `data`."""
        ...


class XXH3Hasher:
    """XXH3, 64 bits, seed 0: the default. Uniform for short and sequential keys, and the fastest here."""

    name = "xxh3_64"
    hash = staticmethod(xxhash.xxh3_64_intdigest)


class XXH64Hasher:
    """XXH64, seed 0, for services whose language has no XXH3."""

    name = "xxh64"
    hash = staticmethod(xxhash.xxh64_intdigest)


class FNV1a64Hasher:
    """64-bit FNV-1a, for agreeing with a service that uses it (Go's `hash/fnv`).

    Not the default, because its high bits hardly move for short keys that differ at their end: of the
    decimal numbers below 1,000 a gate at rate 0.03 passes none and one at 0.5 passes 790; below 10**6 the
    passed fraction is off by 7% of itself at 0.01 (tests/core/test_gate.py measures it). It is also pure
    Python: about 100 ns a byte.

    Source: RFC 9923, 64-bit FNV-1a (offset basis 14695981039346656037, prime 1099511628211); `New64a` in Go.
    """

    name = "fnv1a_64"

    @staticmethod
    def hash(data: bytes, /) -> int:
        """The FNV-1a hash of `data`."""
        value = 0xCBF29CE484222325
        for byte in data:
            value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        return value


def hash_rate(value: int) -> float:
    """The place of a hash on the scale of rates: `float64(hash) / 2**64`, from 0.0 to 1.0."""
    return value / _HASHES


def passes(value: int, rate: float) -> bool:
    """The normative decision: pass iff `float64(hash) / 2**64 < rate`; 0 never passes, 1 always does."""
    return rate >= 1 or hash_rate(value) < rate


def threshold(rate: float) -> int:
    """The int T for which `hash < T` is the same as `passes(hash, rate)`, for every 64-bit hash.

    Converting a hash to a float rounds it to 53 bits, so T is searched for rather than computed from `rate`.
    """
    if rate >= 1:
        return _HASHES
    low, high = 0, _HASHES
    while low < high:
        middle = (low + high) // 2
        if passes(middle, rate):
            low = middle + 1
        else:
            high = middle
    return low
