"""Every event of the library can be rendered by any application, on one line, and holds no key and no value."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import structlog
from ldclient import Context

from tests.core.worlds import Migration, Trouble, World
from tests.docs.test_ledgers_page import logged_events
from zddm_adapters.redis import RedisLedger
from zddm_flags import Copies, Guard, Guardrail, LaunchDarklySource, Shadow, StoreInfo, TrafficGate
from zddm_flags.testing import FlagServer

KEY, VALUE = "secret-key", "secret-value"
HELD = {KEY: VALUE, "a": "secret a", "b": "secret b"}
DEADLINE = 20.0


@pytest.fixture
def seen() -> Iterator[list[dict[str, Any]]]:
    """What the library handed to structlog, before any processor."""
    events: list[dict[str, Any]] = []

    def keep(_: object, __: str, event: Mapping[str, Any]) -> Any:
        events.append(copy.deepcopy(dict(event)))
        raise structlog.DropEvent

    before, was_configured = structlog.get_config(), structlog.is_configured()
    structlog.reset_defaults()
    structlog.configure(processors=[keep])
    yield events
    structlog.reset_defaults()
    if was_configured:
        structlog.configure(**before)


def raises(*_: object) -> Any:
    raise Trouble


async def failures(world: World) -> None:
    """New fails and its guard follows; writes are late; a crashed process leaves its token."""
    guard = Guard(min_calls=2, open_seconds=1.0, max_open_seconds=2.0, trial_calls=1)
    migration = world.migration(old=HELD, new=HELD, new_info=StoreInfo(remote=False), guard=guard, shared=False)
    await migration.write(KEY, VALUE)
    migration.new.outage()
    while migration.stats().guard != "open":
        await migration.read(KEY)
    migration.new.recover()
    migration.clock.advance(2)
    await migration.read(KEY)
    await migration.work()
    await migration.read(KEY)

    async def slow() -> None:
        migration.clock.advance(25)

    migration.old.after["write"] = slow
    await migration.write(KEY, VALUE)
    migration.clock.advance(60)
    await migration.read(KEY)
    migration.proxy.disable()
    migration.proxy.enable()
    migration.proxy._after_fork()  # what the hook calls
    await migration.read(KEY)


async def background(world: World) -> None:
    """Copies and comparisons that fail, and a guardrail that is crossed."""
    migration = world.migration(
        old=HELD,
        new=HELD,
        new_info=StoreInfo(remote=False),
        copy=Copies(mode="background", max_keys=1, size_of=raises),
        shadow=Shadow(share=1, equal=raises),
        guardrail=Guardrail(max_error_share=0.5, min_calls=3),
        guard=None,
    )
    other = migration.in_another_process(1.0, shadow=Shadow(share=1), copy=Copies(mode="background"))
    await migration.read(KEY)
    await migration.work()
    migration.new.values[KEY] = "secret planted"
    await other.read(KEY)
    await other.work()
    migration.new.values.clear()
    await migration.read_many(HELD)
    migration.old.outage()
    await migration.work()
    migration.old.recover()
    migration.new.outage()
    for _ in range(5):
        await migration.read("b")


async def without_the_ledger(world: World) -> None:
    """Writes that go on without the ledger: they are marked later, or left unmarked by a close()."""
    migration = world.migration(old=HELD, new=HELD, on_ledger_error="available")
    await left_unmarked(migration)
    migration.ledger.recover()
    await world.call(migration.proxy.mark_unmarked)
    await left_unmarked(migration)
    await world.call(migration.proxy.close)


async def left_unmarked(migration: Migration) -> None:
    migration.ledger.outage(methods=["begin"])
    await migration.write(KEY, VALUE)


async def rates(world: World) -> None:
    """A rate that is set by hand, and a ledger that is reset."""
    migration = world.migration(1.0)
    migration.gate.set_rate(0.0)
    await world.call(lambda: migration.proxy.reset_ledger(new_was_emptied=True))


async def full(world: World) -> None:
    """A read that meets a New which is busy with as many calls as it may have."""
    migration = world.migration(old=HELD, new=HELD, guard=Guard(max_concurrent_calls=1))
    migration.rows.open_to(1.0)

    async def another_read() -> None:
        await migration.read("a")

    migration.new.before["read"] = another_read
    await migration.read(KEY)


def launchdarkly(seen: list[dict[str, Any]]) -> None:
    """A flag that changes, is wrong, is out of reach and stale; and a process that is forked."""
    context = Context.builder("users-service").kind("service").build()
    with FlagServer({"rate": 0.5}) as server:
        source = LaunchDarklySource(server.client(), "rate", context, max_staleness=0.05, refresh_seconds=3600)
        source.subscribe(lambda rollout: raises() if rollout.read == 0.25 else None)
        server.set("rate", 0.25)
        server.set("rate", "no\nrate")
        until(seen, {"rate_changed", "flag_value_refused", "launchdarkly_source_failed"})
        server.refuse(503)
        until(seen, {"launchdarkly_connection_changed", "rollout_stale_closed"})
        gate = TrafficGate(source)
        source._close_in_forked_child()  # what the hook calls
        gate.should_pass(KEY)
        source.close()


def until(seen: list[dict[str, Any]], events: set[str]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not events <= {event["event"] for event in seen}:
        assert time.monotonic() < deadline, events
        time.sleep(0.002)


def not_durable(server: Any) -> None:
    """A ledger in a server that keeps nothing in a file."""
    with server.client() as client:
        client.config_set("appendonly", "no")
        RedisLedger(client).migration("every-event", "xxh3").summary()


@pytest.mark.usefixtures("by_hand")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # the SDK's, where it was refused
def test_every_event_renders(seen: list[dict[str, Any]], valkey_server: Any) -> None:
    """Each event is one line of JSON, with no help for odd types or numbers, and one line in a terminal."""
    for name in ("blocking", "asyncio"):
        for scenario in (failures, background, without_the_ledger, rates, full):
            asyncio.run(scenario(World(name)))
    launchdarkly(seen)
    not_durable(valkey_server)
    assert sorted({event["event"] for event in seen}) == sorted(logged_events())
    text = structlog.processors.JSONRenderer(serializer=strict_json)
    terminal = structlog.dev.ConsoleRenderer(colors=False)
    for event in seen:
        line = text(None, "info", dict(event))
        assert json.loads(line) == event, "no tuple, no key that is no text"
        shown = terminal(None, "info", dict(event))
        assert isinstance(line, str)
        assert isinstance(shown, str)
        for each in (line, shown):
            assert len(each.splitlines()) == 1, each
            assert "secret" not in each


def strict_json(event: Mapping[str, Any], **_: object) -> str:
    return json.dumps(event, allow_nan=False, ensure_ascii=False)
