"""A kill holds at once: in the middle of an operation, and in the middle of a batch."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.core.worlds import Migration, World
from zddm_flags import Rollout, TrafficGate
from zddm_flags.rollout import CLOSED


def kill(migration: Migration, how: str) -> None:
    if how == "flag":
        migration.gate.set_rate(0.0)
    else:
        migration.proxy.disable()


def resume(migration: Migration) -> None:
    migration.gate.set_rate(1.0)
    migration.proxy.enable()


@pytest.mark.parametrize("how", ["flag", "switch"])
@pytest.mark.parametrize("operation", ["write_many", "read_many", "copy"])
async def test_a_batch_key_by_key_stops_at_a_kill(world: World, operation: str, how: str) -> None:
    """Where New takes a batch key by key, no call to it begins after a kill, and nothing is stale."""
    values = {f"k{number}": "v1" for number in range(5)}
    new = values if operation == "read_many" else {}
    migration = world.migration(old=values, new=new)
    call = "read" if operation == "read_many" else "write"

    async def killer() -> None:
        kill(migration, how)

    migration.new.before[call] = killer
    if operation == "write_many":
        values = dict.fromkeys(values, "v2")
        await migration.write_many(values)
    else:
        assert await migration.read_many(values) == values
    calls = migration.calls()
    if operation == "copy":
        assert calls.count("new.read") == 5
    assert calls.count(f"new.{call}") == 1, "a call to New began after the kill"
    assert migration.old.values == values
    assert migration.summary.pending == 0, "what was not written could have been stale at once"
    assert migration.clean_differences() == {}
    resume(migration)
    assert {key: await migration.read(key) for key in values} == values


async def test_a_batch_of_reads_stops_when_reads_are_killed(world: World) -> None:
    """Where New reads a batch key by key, a read rate of 0 stops it, though New is still written to."""
    values = {f"k{number}": "v1" for number in range(5)}
    migration = world.migration(old=values, new=values)

    async def killer() -> None:
        migration.gate.set_rate(Rollout(0.0, 1.0))

    migration.new.before["read"] = killer
    assert await migration.read_many(values) == values
    assert migration.calls().count("new.read") == 1, "a read of New began after the kill"
    assert migration.stats().operations == {("read", "old"): 5}


@pytest.mark.parametrize("after", [0.0, 1e-9])
async def test_a_ramp_down_while_the_ledger_is_opened(world: World, after: float) -> None:
    """The gate is read again after `open_to`: a key that it no longer passes is not written to New."""
    migration = world.migration(old={"k": "v1"})

    async def ramp_down() -> None:
        migration.gate.set_rate(after)

    migration.ledger.after["open_to"] = ramp_down
    await migration.write("k", "v2")
    assert migration.new.values == {}
    assert migration.stats().operations == {("write", "old"): 1}
    assert migration.left == (0, 0), "New was never opened before, so it cannot hold the key"


@pytest.mark.parametrize("how", ["flag", "switch"])
async def test_a_kill_while_old_is_written(world: World, how: str) -> None:
    """A kill between Old's write and New's keeps New untouched and leaves the key stale."""
    migration = world.migration(old={"k": "v1"}, new={"k": "v1"})
    await migration.write("k", "v1")

    async def killer() -> None:
        kill(migration, how)

    migration.old.after["write"] = killer
    migration.calls()
    await migration.write("k", "v2")
    assert migration.calls() == ["ledger.begin", "old.write", "ledger.end"]
    assert migration.left == (1, 0)
    resume(migration)
    assert await migration.read("k") == "v2"


async def test_a_slow_old_behind_a_closed_gate(world: World) -> None:
    """A write that took its whole time, and that the gate keeps from New, leaves nothing in the ledger."""
    migration = world.migration(0.0)

    async def take_long() -> None:
        migration.clock.advance(25.0)

    migration.old.after["write"] = take_long
    await migration.write("k", "v")
    assert migration.stats().operations == {("write", "old"): 1}
    assert migration.left == (0, 0)


async def test_a_ramp_by_code_is_logged(world: World) -> None:
    """set_rate logs the rates before and after, once for each change."""
    migration = world.migration(0.1)
    with capture_logs() as logs:
        migration.gate.set_rate(Rollout(0.1, 0.5))
        migration.gate.set_rate(Rollout(0.1, 0.5))
    assert logs == [
        {
            "event": "rate_changed",
            "log_level": "info",
            "read": 0.1,
            "write": 0.5,
            "old_read": 0.1,
            "old_write": 0.1,
            "reason": "set_rate",
        }
    ]


class Alarming:
    """A source that is closed, and has something to say when it is used."""

    rollout = CLOSED

    def __init__(self) -> None:
        self.alarms = 0

    def alarm(self) -> None:
        self.alarms += 1

    def subscribe(self, listener: Any) -> Any:
        listener(CLOSED)
        return lambda: None


@pytest.mark.parametrize("operation", ["read", "write", "delete"])
async def test_every_operation_sounds_the_alarm_of_a_closed_source(world: World, operation: str) -> None:
    """A source that is closed for a reason hears of reads, writes and deletes, so that it can say so."""
    source = Alarming()
    migration = world.migration(old={"k": "v1"})
    stores = world.adapter(migration.old), world.adapter(migration.new)
    proxy = world.proxy_class(TrafficGate(source), *stores)
    await world.call(getattr(proxy, operation), "k", *(["v2"] if operation == "write" else []))
    assert source.alarms == 1
