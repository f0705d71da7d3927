"""The demo's traffic: threads that read, write and delete airports, some much more often than others."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from zddm_flags import Proxy
from zddm_flags.cli.demo.airports import Airport
from zddm_flags.cli.demo.checker import CheckedOld

__all__ = ["Traffic"]

_THREADS = 4
_WRITES = 0.08
_DELETES = 0.02
_DRAWN_AT_ONCE = 512


class Traffic:
    """Threads that work through `proxy` until `stop`. The n-th most popular airport is asked for 1/n as often.

    Attributes:
        wrong: reads that returned what Old did not hold during them.
        failed: operations that raised.
    """

    def __init__(
        self, proxy: Proxy[str, Airport], old: CheckedOld, airports: Mapping[str, Airport], seed: int
    ) -> None:
        self._proxy = proxy
        self._old = old
        self._airports = airports
        self._codes = sorted(airports)
        random.Random(seed).shuffle(self._codes)
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, len(self._codes) + 1)))
        self._revisions = itertools.count(1)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self.wrong = 0
        self.failed = 0
        self.last_error: str | None = None
        self._threads = [
            threading.Thread(
                target=self._work, args=(random.Random(f"{seed}-{number}"),), name=f"traffic-{number}"
            )
            for number in range(_THREADS)
        ]

    @property
    def most_popular(self) -> str:
        """The airport that is asked for most."""
        return self._codes[0]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each thread finish its operation, and wait for it. Idempotent."""
        self._stopped.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self, chance: random.Random) -> None:
        for code in self._popular(chance):
            if self._stopped.is_set():
                return
            try:
                self._operate(code, chance.random())
            except Exception as error:
                with self._lock:
                    self.failed += 1
                    self.last_error = f"{type(error).__name__}: {error}"

    def _popular(self, chance: random.Random) -> Iterator[str]:
        while True:
            yield from chance.choices(self._codes, cum_weights=self._weights, k=_DRAWN_AT_ONCE)

    def _operate(self, code: str, draw: float) -> None:
        if draw < _DELETES:
            self._proxy.delete(code)
        elif draw < _DELETES + _WRITES:
            self._proxy.write(code, replace(self._airports[code], revision=next(self._revisions)))
        else:
            self.read(code)

    def read(self, code: str) -> None:
        """Read an airport and check what came."""
        begin = time.perf_counter()
        airport = self._proxy.read(code)
        self.check(code, airport, begin)

    def check(self, code: str, airport: Airport | None, begin: float) -> None:
        """Count the answer as wrong if Old did not hold it between `begin` and now."""
        if not self._old.held(code, airport, begin, time.perf_counter()):
            with self._lock:
                self.wrong += 1
