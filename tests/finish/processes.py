"""The processes of a run: jobs, which may be killed, and writers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.finish.bare import PAGE_SIZE
from tests.finish.stores import Places
from tests.finish.worker import LEFT_BY_A_CRASH
from tests.finish.writer import WRITERS
from tests.torture.servers import ROOT, environment

__all__ = ["Life", "Writers", "job", "writing"]

PATIENCE_SECONDS = 60


@dataclass(slots=True)
class Life:
    """One process that did a job, or a part of it."""

    killed: bool = False
    seconds: float = 0.0
    """From the job's begin to its end, or until it was killed."""
    stalled_seconds: float = 0.0
    """Those of them in which it waited for what a killed process had left."""
    cpu_seconds: float = 0.0
    rows: int = 0
    """How far the job was, those that worked on it before included."""
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Rows done by this process, and bytes of memory in use then."""
    result: Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    """Seconds by method of the stores and the ledger."""


def job(
    places: Places, name: str, options: Mapping[str, Any] | None = None, *, kill_at: int | None = None
) -> Life:
    """Do a job in a process of its own, to its end; or until somewhat after so many rows, where it is killed.

    Raises RuntimeError where it fails.
    """
    with _started(places, "tests.finish.worker", [name, json.dumps(dict(options or {}))]) as process:
        life = Life()
        began = since = time.monotonic()
        assert process.stdout is not None
        for line in process.stdout:
            now = time.monotonic()
            said = json.loads(line)
            if "begun" in said:
                began = since = now
            elif "result" in said:
                life.result, life.shares = said["result"], said["shares"]
                life.seconds, life.cpu_seconds = said["seconds"], said["cpu"]
            else:
                life.rows = said["rows"]
                life.memory.append((said["rows_now"], said["memory"]))
                if (said["waiting"] or "").startswith(LEFT_BY_A_CRASH):
                    life.stalled_seconds += now - since
                since = now
                if kill_at is not None and life.rows >= kill_at and said["rows_now"]:
                    page_seconds = (now - began - life.stalled_seconds) / said["rows_now"] * PAGE_SIZE
                    delay = random.Random(kill_at).uniform(0, page_seconds)  # any moment of a page
                    time.sleep(delay)
                    process.kill()
                    life.killed = True
                    life.seconds = time.monotonic() - began
                    break
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if life.killed:
            life.cpu_seconds = usage.ru_utime + usage.ru_stime
        elif process.returncode or not life.result:
            raise RuntimeError(f"{name} failed: {_log(places, process)}")
    return life


class Writers:
    """The applications that write meanwhile."""

    def __init__(self, places: Places, processes: list[subprocess.Popen[str]]) -> None:
        self._places = places
        self._processes = processes
        self._began = time.monotonic()
        self.acknowledged: dict[int, int | None] = {}
        """The version of each key that only one process wrote, as last acknowledged; None: it was deleted."""
        self.operations = 0
        self.per_second = 0.0
        self.errors: list[str] = []

    def keep_apart(self) -> None:
        """From soon on no two write one key."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("apart\n")
            process.stdin.flush()

    def end(self) -> None:
        """End them, and take what they have to tell. Raises RuntimeError where one failed."""
        for process in self._processes:
            said, _ = process.communicate(timeout=PATIENCE_SECONDS)
            if process.returncode:
                raise RuntimeError(f"a writer failed: {_log(self._places, process)}")
            facts = json.loads(said)
            self.acknowledged.update(map(tuple, facts["acknowledged"]))
            self.operations += facts["operations"]
            self.errors += facts["errors"]
        self.per_second = self.operations / (time.monotonic() - self._began)


@contextmanager
def writing(places: Places, rows: int, seed: int, per_second: float) -> Iterator[Writers]:
    """Let applications write, together so many operations a second, until the end, or until `Writers.end`."""
    with ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        for number in range(WRITERS):
            options = {"number": number, "rows": rows, "seed": seed, "per_second": per_second / WRITERS}
            started = _started(places, "tests.finish.writer", [json.dumps(options)])
            processes.append(stack.enter_context(started))
        yield Writers(places, processes)


@contextmanager
def _started(places: Places, module: str, arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    log = Path(places.folder) / "log"
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", module, *arguments],
            cwd=ROOT,
            env=environment() | places.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _log(places: Places, process: subprocess.Popen[str]) -> str:
    text = (Path(places.folder) / "log").read_text()[-4000:]
    return f"exit status {process.returncode}\n{text}"
