"""Which keys take part: a deterministic decision per key, at a rate that changes live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zddm_flags import encoding
from zddm_flags.errors import GateIsLive, InvalidKey
from zddm_flags.hashing import DeterministicHasher, XXH3Hasher, threshold
from zddm_flags.rollout import Evaluation, Rollout, RolloutSource, StaticSource, change_of
from zddm_telemetry import report

__all__ = ["Decision", "TrafficGate"]


class Decision:
    """One rollout, made ready for comparing hashes: pass iff `hash < read_below` (or `write_below`).

    Immutable; a gate swaps the whole object, so that an operation never sees half of a change.
    """

    __slots__ = ("alarm", "read_below", "rollout", "write_below")

    def __init__(self, rollout: Rollout, alarm: Callable[[], None] | None = None) -> None:
        self.rollout = rollout
        self.read_below = threshold(rollout.read)
        self.write_below = threshold(rollout.write)
        self.alarm = alarm


class TrafficGate:
    """Passes a key iff its hash rate (hash / 2**64) is below the rollout rate.

    Args:
        rate: a number from 0 (nothing passes) to 1 (everything does), a `Rollout`, or a `RolloutSource` that
            changes it live.
        hasher: bytes -> 64-bit hash. Every process of a migration needs the same one.
        encode: key -> bytes, for keys of your own type; bytes must differ for keys that differ. None: the
            canonical encoding of `zddm_flags.encoding`.

    A key that passes at one rate passes at every higher one, so ramping up only adds keys. The gate knows
    what is wanted now, and nothing of what the stores hold. Thread-safe; one gate may serve many proxies.

    Raises:
        InvalidRollout: a wrong rate.
        TypeError: the hasher lacks `name` or `hash`, or does not return an int from 0 to 2**64 - 1.
    """

    def __init__(
        self,
        rate: float | Rollout | RolloutSource = 0.0,
        *,
        hasher: DeterministicHasher | None = None,
        encode: Callable[[Any], bytes] | None = None,
    ) -> None:
        hasher = hasher if hasher is not None else XXH3Hasher()
        if not isinstance(hasher, DeterministicHasher):
            raise TypeError(f"hasher= is an object with `name` and `hash`, not a {type(hasher).__name__}")
        probe: object = hasher.hash(b"probe")
        if not isinstance(probe, int) or not 0 <= probe < 2**64:
            raise TypeError(f"{type(hasher).__name__}.hash must return an int from 0 to 2**64 - 1")
        self.identity = hasher.name if encode is None else f"{hasher.name}+encode"
        self.source: RolloutSource = rate if isinstance(rate, RolloutSource) else StaticSource(rate)
        self._hash = hasher.hash
        self._tag_and_bytes = encoding.tag_and_bytes if encode is None else encoding.custom(encode)
        self._follow(self.source.rollout)  # the gate is whole even where a source forgets the first call
        self._unsubscribe = self.source.subscribe(self._follow)

    def _follow(self, rollout: Rollout) -> None:
        self.decision = Decision(rollout, getattr(self.source, "alarm", None))

    def locate(self, key: object) -> tuple[int, bytes]:
        """Return the key's hash and its name in a ledger. Raises `InvalidKey`."""
        if type(key) is str and self._tag_and_bytes is encoding.tag_and_bytes and key.isascii():
            data = key.encode()
            return self._hash(data), b"s" + data
        tag, data = self._tag_and_bytes(key)
        return self._hash(data), tag + data

    def hash_of(self, name: bytes) -> int:
        """The hash of the key that has this name in a ledger: what `locate` gave with it.

        Raises:
            InvalidKey: no key has such a name.
        """
        return self._hash(encoding.hashed_bytes(name))

    def key_of(self, name: bytes) -> object:
        """The key that has this name in a ledger.

        Raises:
            InvalidKey: the gate has an `encode`, which cannot be undone; the key is, or holds, a dataclass; or no
                key has such a name.
        """
        if self._tag_and_bytes is not encoding.tag_and_bytes:
            raise InvalidKey("this gate's encode= makes names of keys, and nothing makes keys of names")
        return encoding.decode(name)

    def should_pass(self, key: object) -> bool:
        """Whether `key` is read from New at the rate wanted now. Raises `InvalidKey`."""
        return self.locate(key)[0] < self._decision_in_use().read_below

    def should_pass_write(self, key: object) -> bool:
        """Whether `key` is written to New at the rate wanted now. Raises `InvalidKey`."""
        return self.locate(key)[0] < self._decision_in_use().write_below

    def _decision_in_use(self) -> Decision:
        alarm = self.decision.alarm
        if alarm is not None:
            alarm()
        return self.decision  # read after the alarm, which may have closed the gate

    @property
    def rate(self) -> float:
        """The read rate wanted now, from 0 to 1."""
        return self.decision.rollout.read

    @property
    def write_rate(self) -> float:
        """The write rate wanted now, from 0 to 1; never below `rate`."""
        return self.decision.rollout.write

    @property
    def flag_key(self) -> str | None:
        """The key of the flag that the rate comes from, or None."""
        return getattr(self.source, "flag_key", None)

    @property
    def evaluation(self) -> Evaluation | None:
        """How the rates wanted now came about, or None where the source does not say. No I/O.

        None too for a moment while the rates change, and after `close`, once the source has gone on.
        """
        evaluation: Evaluation | None = getattr(self.source, "evaluation", None)
        return evaluation if evaluation is not None and evaluation.rollout == self.decision.rollout else None

    def set_rate(self, rate: float | Rollout) -> None:
        """Change the rate of a gate that was made with a fixed one, and of all other gates on its source.

        Raises:
            GateIsLive: the rate comes from a live source.
            InvalidRollout: the rate is wrong; the last one stays.
        """
        if not isinstance(self.source, StaticSource):
            raise GateIsLive(
                f"this gate's rate comes live from {type(self.source).__name__}: change it there"
                + (f" (flag {self.flag_key!r})" if self.flag_key else "")
            )
        before = self.decision.rollout
        self.source.set(rate)
        after = self.decision.rollout
        if after != before:
            report("info", "rate_changed", **change_of(before, after), reason="set_rate")

    def close(self) -> None:
        """Stop following the source; the last rate stays. Idempotent."""
        self._unsubscribe()
