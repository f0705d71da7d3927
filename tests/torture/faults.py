"""What goes wrong in a run: each kind of fault in a thread of its own, at random moments."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Act", "Fault", "Faults"]

Act = Callable[[random.Random, threading.Event], bool]
"""Does one fault, to its end, given random numbers and an event that cuts it short.

Returns whether it hit anything: a cut where there is no connection does not count.
"""
AGAIN_SECONDS = 0.2
"""Until the next try after a fault that hit nothing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault.

    Attributes:
        name: in the report.
        every: mean seconds from the end of one to the begin of the next; the first comes sooner.
        act: does one.
    """

    name: str
    every: float
    act: Act


class Faults:
    """Runs faults until `stop`. Counts them."""

    def __init__(self, seed: str, faults: list[Fault]) -> None:
        self.counts: Counter[str] = Counter({fault.name: 0 for fault in faults})
        self.failed = threading.Event()
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(fault, random.Random(f"{seed} {fault.name}")), daemon=True)
            for fault in faults
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no more, and wait until all are over."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def check(self) -> None:
        """Raise what a fault raised."""
        if self._error is not None:
            raise self._error

    def _run(self, fault: Fault, rng: random.Random) -> None:
        try:
            wait = rng.uniform(0.2, 1.0) * fault.every
            while not self._stop.wait(wait):
                done = fault.act(rng, self._stop)
                self.counts[fault.name] += done
                wait = rng.uniform(0.4, 1.6) * fault.every if done else AGAIN_SECONDS
        except BaseException as error:
            self._error = self._error or error
            self.failed.set()
