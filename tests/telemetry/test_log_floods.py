"""No outage floods the log, and what was not logged is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.core.worlds import Trouble, World
from zddm_adapters import InMemoryAdapter
from zddm_flags import Guard, Proxy, TrafficGate
from zddm_telemetry import migration as telemetry

HOUR = 3600
THREADS = 8


class Seconds:
    """The clock of the proxy and of the limit on repeated warnings."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    monotonic = perf_counter = __call__


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    seconds = Seconds()
    monkeypatch.setattr(telemetry, "time", seconds)
    return seconds


class Down(InMemoryAdapter[str, int]):
    """A New that raises."""

    def read(self, key: str) -> int | None:
        raise Trouble

    def write(self, key: str, value: int) -> None:
        raise Trouble

    def delete(self, key: str) -> None:
        raise Trouble


def occurrences(logs: Sequence[Any], event: str) -> int:
    """How often something happened, as the log tells it: the lines, and those that each says were left out."""
    lines = [log for log in logs if log["event"] == event]
    return (
        len(lines)
        + sum(log["suppressed"] for log in lines)
        + sum(log.get(f"suppressed_{event}", 0) for log in logs)
    )


@pytest.mark.parametrize("guard", [None, Guard(open_seconds=60)], ids=["no guard", "guard"])
def test_an_outage_of_new_under_threads(guard: Guard | None) -> None:
    """8 threads that go on while New raises write a handful of lines, and each failure is counted in one."""
    with capture_logs() as logs:
        proxy = Proxy(TrafficGate(1.0), InMemoryAdapter[str, int](), Down(), guard=guard)

        def go_on(thread: int) -> None:
            for number in range(500):
                proxy.write(f"{thread} {number}", number)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(go_on, range(THREADS)))
        proxy.disable()
        failed = proxy.stats().operations["write", "new_failed"]
        proxy.close()
    assert len(logs) <= 10
    assert occurrences(logs, "new_failed") == failed
    assert failed == THREADS * 500 if guard is None else failed >= 10


async def test_an_outage_of_new_under_tasks() -> None:
    """1,000 tasks at once that meet a New that raises write a handful of lines, opening New included."""
    world = World("asyncio")
    with capture_logs() as logs:
        migration = world.migration(guard=None)
        migration.ledger.pause = world.pause
        migration.new.outage()
        await asyncio.gather(*(migration.write(str(number), number) for number in range(1000)))
        migration.proxy.disable()
    assert Counter(log["event"] for log in logs) == {"opened_wider": 1, "new_failed": 1, "proxy_disabled": 1}
    assert occurrences(logs, "new_failed") == 1000


CALLS_OF_THE_LEDGER = ["begin", "dirty", "begin_copy", "open_to", "reap", "summary", "end"]


@pytest.mark.parametrize("outage", ["new", "new, and no guard", "ledger", "old"])
async def test_an_hour_of_outage(world: World, clock: Seconds, outage: str) -> None:
    """An hour of outage, at 2 operations a second, is at most one line of each event in ten seconds."""
    options: dict[str, Any] = {"guard": None} if "no guard" in outage else {}
    with capture_logs() as logs:
        migration = world.migration(clock=clock, on_ledger_error="available", **options)
        if outage == "ledger":
            migration.ledger.outage(methods=CALLS_OF_THE_LEDGER)
        else:
            (migration.old if outage == "old" else migration.new).outage()
        began = clock.now
        for number in range(2 * HOUR):
            clock.now = began + number / 2
            try:
                if number % 3:
                    await migration.write(str(number % 100), number)
                else:
                    await migration.read(str(number % 100))
            except Trouble:
                assert outage == "old"
            if number % 20 == 0:
                await migration.work()
        await world.call(migration.proxy.close)
    lines = Counter(log["event"] for log in logs)
    assert max(lines.values(), default=0) <= HOUR / 10 + 1, lines
    assert sum(lines.values()) <= HOUR / 3, lines


async def test_a_ledger_that_fails_now_and_then(world: World, clock: Seconds) -> None:
    """A ledger that fails every second, for an hour, is at most one line of each event in ten seconds."""
    with capture_logs() as logs:
        migration = world.migration(clock=clock, on_ledger_error="available")
        began = clock.now
        for number in range(HOUR):
            clock.now = began + number
            migration.ledger.outage(methods=["begin"])
            await migration.write(str(number), number)
            migration.ledger.recover()
            assert await world.call(migration.proxy.mark_unmarked) == 0
        await world.call(migration.proxy.close)
    lines = Counter(log["event"] for log in logs)
    assert set(lines) >= {"ledger_failed", "keys_marked"}
    assert max(lines.values()) <= HOUR / 10 + 1, lines


def test_what_the_parent_left_out_is_the_parents_to_tell() -> None:
    """The child of a fork does not tell of its parent's failures a second time."""
    with capture_logs() as logs:
        proxy = failed_twice()
        proxy._after_fork()  # what the hook calls
        proxy.disable()
    assert occurrences(logs, "new_failed") == 1


def test_a_kill_in_a_signal_handler() -> None:
    """A handler that disables the proxy may come while its own thread is counting what is left out."""
    with capture_logs() as logs:
        proxy = failed_twice()
        with proxy._telemetry._limit_lock:  # as it is in the middle of `report_limited`
            proxy.disable()
    assert occurrences(logs, "new_failed") == 2


def failed_twice() -> Proxy[str, int]:
    """A proxy that has logged one failure of New, and left one out."""
    proxy = Proxy(TrafficGate(1.0), InMemoryAdapter[str, int](), Down(), guard=None)
    proxy.write("a", 1)
    proxy.write("b", 1)
    return proxy
