"""What an application of the torture does: random operations on few keys, with no value twice."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from tests.torture.history import Kind

__all__ = ["KEYS", "Request", "Workload", "initial_items"]

KEYS = [f"key-{number:02}" for number in range(40)]
FRESH_SECONDS = 0.5
FRESH_KEYS = 3
FRESH_SHARE = 0.15
BATCH_MAX = 6
KINDS: dict[Kind, int] = {"read": 48, "write": 20, "delete": 7, "read_many": 15, "write_many": 10}
PAUSE_SECONDS = 0.004


def initial_items() -> dict[str, str]:
    """What Old holds at the start: most of the keys."""
    return {key: f"initial-{key}" for key in KEYS[::4] + KEYS[1::4] + KEYS[2::4]}


@dataclass(frozen=True, slots=True)
class Request:
    """One operation to do: key -> what to write, or None."""

    kind: Kind
    items: dict[str, str | None]

    @property
    def key(self) -> str:
        """The key, or the first of them."""
        return next(iter(self.items))

    @property
    def written(self) -> dict[str, bytes]:
        """What to write, as the stores take it."""
        return {key: value.encode() for key, value in self.items.items() if value is not None}


class Workload:
    """Requests of one thread or task.

    Args:
        name: in its values, so that nobody else writes them.
        rng: where the choices come from.
    """

    def __init__(self, name: str, rng: random.Random) -> None:
        self._name = name
        self._rng = rng
        self._written = 0

    def request(self) -> Request:
        """The next thing to do."""
        rng = self._rng
        (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
        count = rng.randint(1, BATCH_MAX) if kind.endswith("_many") else 1
        keys = {self._key() for _ in range(count)}
        return Request(kind, {key: self._value() if kind.startswith("write") else None for key in sorted(keys)})

    def pause_seconds(self) -> float:
        """How long to think before it."""
        return self._rng.expovariate(1 / PAUSE_SECONDS)

    def _key(self) -> str:
        if self._rng.random() < FRESH_SHARE:
            # Keys that nobody has used before, and that all processes use together for a moment.
            moment = int(time.monotonic() / FRESH_SECONDS)
            return f"fresh-{moment}-{self._rng.randrange(FRESH_KEYS)}"
        return KEYS[int(len(KEYS) * self._rng.random() ** 1.7)]  # some are hot

    def _value(self) -> str:
        self._written += 1
        return f"{self._name}-{self._written}"
