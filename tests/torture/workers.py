"""The application processes of a run: started, killed, started anew, stopped."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.torture.servers import ROOT, environment
from tests.torture.worker import WorkerSettings

__all__ = ["Workers", "WorkersFailed"]

BEGIN_SECONDS = 60.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.05
LOG_TAIL_BYTES = 4000


class WorkersFailed(Exception):
    """A worker did what a worker should not; the text has the end of its log."""


class _Worker:
    """One process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.history = Path(settings.history)
        self._log = self.history.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.torture.worker", settings.dump()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment(),
                start_new_session=True,  # Ctrl-C is for the director
            )

    @property
    def has_begun(self) -> bool:
        """Whether it has done anything yet."""
        return self.history.exists() and self.history.stat().st_size > 0

    def check(self) -> None:
        """Raise if it has ended."""
        if self._process.poll() is not None:
            raise WorkersFailed(self._told("ended by itself"))

    def kill(self) -> None:
        """SIGKILL it."""
        self._process.kill()
        self._process.communicate()

    def ask_to_stop(self) -> None:
        """End its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> None:
        """Wait until it has stopped; raises if it failed."""
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise WorkersFailed(self._told("did not stop")) from None
        if status != 0:
            raise WorkersFailed(self._told(f"ended with the status {status}"))

    def _told(self, what: str) -> str:
        text = self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        return f"{self.history.stem} {what}; the end of its log:\n{text}"


class Workers:
    """A fixed number of slots, each with one process at a time.

    Args:
        count: of slots.
        settings: of the process number `generation` of a slot.
    """

    def __init__(self, count: int, settings: Callable[[int, int], WorkerSettings]) -> None:
        self._settings = settings
        self._generations = [0] * count
        self._workers = [_Worker(settings(slot, 0)) for slot in range(count)]

    def wait_until_begun(self) -> None:
        """Wait until each has done something. Raises WorkersFailed."""
        for worker in self._workers:
            self._wait_until_begun(worker, threading.Event())

    def kill_one(self, rng: random.Random, stop: threading.Event) -> bool:
        """SIGKILL one that is at work, and start another in its place; False if told to stop before."""
        slot = rng.randrange(len(self._workers))
        worker = self._workers[slot]
        if not self._wait_until_begun(worker, stop) or stop.wait(rng.uniform(0, 0.5)):
            return False
        worker.check()
        worker.kill()
        self._generations[slot] += 1
        self._workers[slot] = _Worker(self._settings(slot, self._generations[slot]))
        return True

    def check(self) -> None:
        """Raise WorkersFailed if one has ended by itself. Not while another thread kills."""
        for worker in self._workers:
            worker.check()

    def stop(self) -> None:
        """Let each finish what it does, and end. Raises WorkersFailed if one did not, or failed."""
        for worker in self._workers:
            worker.ask_to_stop()
        for worker in self._workers:
            worker.wait()

    def kill(self) -> None:
        """End all of them, at once."""
        for worker in self._workers:
            worker.kill()

    def _wait_until_begun(self, worker: _Worker, stop: threading.Event) -> bool:
        deadline = time.monotonic() + BEGIN_SECONDS
        while not worker.has_begun:
            worker.check()
            if time.monotonic() > deadline:
                raise WorkersFailed(f"{worker.history.stem} did nothing for {BEGIN_SECONDS:g} s")
            if stop.wait(LOOK_SECONDS):
                return False
        return True
