"""An application in a process of its own, which writes, deletes and inserts through a proxy of the migration.

It goes on until its standard input ends, and prints then what was acknowledged. A line on its standard input
lets it keep to keys that no other process writes, so that no write leaves its key stale.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from typing import Any

from tests.finish.stores import UserProxy, here, opened, proxy_of, row_of

__all__ = ["HOT", "PLANTED", "WRITERS"]

WRITERS = 2
PLANTED = 10
"""Keys that are a multiple of it are written by nobody: differences are planted there."""
HOT = 50
"""Below this key all processes write all keys, until they are told to keep apart."""


class Writer:
    """What one process does.

    Args:
        proxy: its own.
        number: which of the processes it is, from 0.
        rows: keys that Old was filled with.
        seed: of all choices.
        per_second: operations a second, at most.
    """

    def __init__(self, proxy: UserProxy, number: int, rows: int, seed: int, per_second: float) -> None:
        self._proxy = proxy
        self._number = number
        self._rows = rows
        self._seed = seed
        self._per_second = per_second
        self._chance = random.Random(f"{seed}/{number}")
        self._versions = 0
        self._inserted = 0
        self._apart = threading.Event()
        self._ended = threading.Event()
        self.acknowledged: dict[int, int | None] = {}
        self.operations = 0
        self.errors: list[str] = []

    def listen(self) -> None:
        """Do what standard input says."""
        for _ in sys.stdin:
            self._apart.set()
        self._ended.set()

    def run(self) -> None:
        """Write until told to end."""
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / self._per_second, time.monotonic() - 1)  # what was missed is not made up for
            try:
                self._operate()
            except Exception as error:
                self.errors.append(type(error).__name__)
            self.operations += 1

    def _operate(self) -> None:
        kind = self._chance.random()
        if kind < 0.1 and not self._apart.is_set():
            key = self._chance.randrange(1, HOT)
            self._proxy.write(key, row_of(key, self._seed, self._chance.randrange(1_000_000)))
            return
        if kind < 0.25:
            self._inserted += 1
            key = self._rows + self._number + 1 + WRITERS * self._inserted
        else:
            key = self._own_key()
        if kind > 0.9:
            self._proxy.delete(key)
            self.acknowledged[key] = None
        else:
            self._versions += 1
            self._proxy.write(key, row_of(key, self._seed, self._versions))
            self.acknowledged[key] = self._versions

    def _own_key(self) -> int:
        """A key that nobody else writes."""
        while True:
            key = self._chance.randrange(HOT, self._rows + 1)
            if key % WRITERS == self._number and key % PLANTED:
                return key


def main(options: dict[str, Any]) -> None:
    """Write, and tell of it."""
    places = here()
    with opened(places) as stores, proxy_of(stores, places.name) as proxy:
        writer = Writer(proxy, **options)
        threading.Thread(target=writer.listen, daemon=True).start()
        writer.run()
    facts = {"acknowledged": list(writer.acknowledged.items()), "operations": writer.operations}
    sys.stdout.write(json.dumps({**facts, "errors": writer.errors}) + "\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
