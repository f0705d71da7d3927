"""Structured log events: their names, levels and fields."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from tests.core.worlds import Migration, Trouble, World
from zddm_flags import Telemetry
from zddm_flags.errors import LedgerUnavailable
from zddm_telemetry import events
from zddm_telemetry import migration as telemetry

KEY = "secret-key"
VALUE = "secret-value"


class Seconds:
    """The clock of the limit on repeated warnings."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now


async def broken(migration: Migration) -> None:
    """One of each failure that is reported."""
    migration.new.outage()
    await migration.write(KEY, VALUE)
    migration.new.recover()
    migration.ledger.outage(methods=["begin"])
    with pytest.raises(LedgerUnavailable):
        await migration.write(KEY, VALUE)
    migration.ledger.recover()
    migration.proxy.disable()
    migration.proxy.enable()
    migration.clock.advance(60)
    await migration.read(KEY)


EVENTS = [
    {"event": "opened_wider", "log_level": "info", "migration": "users", "opened": 1.0, "before": 0.0},
    {
        "event": "new_failed",
        "log_level": "warning",
        "migration": "users",
        "operation": "write",
        "error": "Trouble",
        "suppressed": 0,
    },
    {
        "event": "ledger_failed",
        "log_level": "warning",
        "migration": "users",
        "call": "begin",
        "error": "Trouble",
        "suppressed": 0,
    },
    {
        "event": "proxy_disabled",
        "log_level": "warning",
        "migration": "users",
        "suppressed_ledger_failed": 2,  # the write tried again, twice
    },
    {"event": "proxy_enabled", "log_level": "info", "migration": "users"},
    {"event": "tokens_reaped", "log_level": "warning", "migration": "users", "tokens": 1},
]


async def test_events(world: World) -> None:
    """Each event has exactly these fields, and is logged once."""
    with capture_logs() as logs:
        await broken(world.migration())
    assert logs == EVENTS


async def test_operation_out_of_time(world: World) -> None:
    """A write that is too late for New says so."""
    migration = world.migration()

    async def slow() -> None:
        migration.clock.advance(25)

    migration.old.after["write"] = slow
    with capture_logs() as logs:
        await migration.write(KEY, VALUE)
    assert [(log["event"], log["operation"]) for log in logs[-1:]] == [("operation_out_of_time", "write")]
    assert "secret" not in repr(logs)


async def test_no_log_where_none_is_wanted(world: World) -> None:
    """`log=False` logs nothing at all."""
    with capture_logs() as logs:
        await broken(world.migration(telemetry=Telemetry(log=False)))
    assert logs == []


async def test_an_outage_is_logged_once_in_ten_seconds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an outage one warning in ten seconds is logged, and it counts those that were not."""
    seconds = Seconds()
    monkeypatch.setattr(telemetry, "time", seconds)
    migration = world.migration(new={KEY: VALUE}, guard=None)
    migration.new.outage()
    with capture_logs() as logs:
        for _ in range(100):
            await migration.read(KEY)
        seconds.now += 9.9
        await migration.read(KEY)
        seconds.now += 0.2
        for _ in range(10):
            await migration.read(KEY)
    assert [(log["event"], log["suppressed"]) for log in logs] == [("new_failed", 0), ("new_failed", 100)]
    assert migration.stats().operations == {("read", "new_failed"): 111}


async def test_limits_are_per_event(world: World) -> None:
    """An outage of New does not hide one of the ledger."""
    migration = world.migration(new={KEY: VALUE})
    migration.new.outage()
    with capture_logs() as logs:
        await migration.read(KEY)
        await migration.read(KEY)
        migration.ledger.outage(methods=["dirty"])
        await migration.read(KEY)
    assert [log["event"] for log in logs] == ["new_failed", "ledger_failed"]


async def test_broken_log_processor(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A structlog processor that raises hurts no operation."""
    monkeypatch.setattr(events, "_known_failures", set())

    def raise_trouble(*_: Any) -> Any:
        raise Trouble

    before = structlog.get_config()
    structlog.configure(processors=[raise_trouble], cache_logger_on_first_use=False)
    try:
        await broken(world.migration())
    finally:
        structlog.configure(**before)
    told = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    expected = "telemetry failed, and goes on without: Trouble"
    assert told == [("zddm_telemetry", logging.WARNING, expected)]


async def test_broken_logging(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a broken handler of the standard library's logging hurts an operation."""
    monkeypatch.setattr(events, "_known_failures", set())

    class Handler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise Trouble

    def raise_trouble(*_: Any) -> Any:
        raise Trouble

    handler = Handler()
    logging.getLogger("zddm_telemetry").addHandler(handler)
    before = structlog.get_config()
    structlog.configure(processors=[raise_trouble], cache_logger_on_first_use=False)
    try:
        await broken(world.migration())
    finally:
        structlog.configure(**before)
        logging.getLogger("zddm_telemetry").removeHandler(handler)
