"""Telemetry and flag systems that raise hurt no operation, and leave no span current behind it."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, SpanContext, Status, StatusCode, TraceFlags

from tests.core.worlds import SCANNED, Migration, World
from tests.telemetry.snapshots import Traced
from zddm_adapters import AsyncInMemoryAdapter
from zddm_flags import (
    AsyncBackfill,
    AsyncProxy,
    AsyncRepair,
    AsyncVerify,
    Backfill,
    Repair,
    StaticSource,
    Telemetry,
    TrafficGate,
    Verify,
)
from zddm_telemetry import events

JOBS = {"backfill": (Backfill, AsyncBackfill), "verify": (Verify, AsyncVerify), "repair": (Repair, AsyncRepair)}
VALUES = {f"secret-key-{number}": "v1" for number in range(6)}


@pytest.fixture(autouse=True)
def failures(monkeypatch: pytest.MonkeyPatch) -> set[type[BaseException]]:
    """What telemetry swallowed: here there is such."""
    known: set[type[BaseException]] = set()
    monkeypatch.setattr(events, "_known_failures", known)
    return known


class Failed(Exception):
    """What an exporter may raise."""


class Ended(BaseException):
    """What may end a thread while it is inside of telemetry."""


class Trap:
    """Raises at one kind of call, once it was called so many times."""

    def __init__(self, error: type[BaseException], at: str, after: int) -> None:
        self._error = error
        self._at = at
        self._left = after
        self.raised = 0

    def __call__(self, at: str) -> None:
        if at == self._at:
            self._left -= 1
            if self._left < 0:
                self.raised += 1
                raise self._error("secret-key")


class TrappedSpan(Span):
    def __init__(self, trap: Trap) -> None:
        self._trap = trap

    def end(self, end_time: int | None = None) -> None:
        self._trap("end")

    def get_span_context(self) -> SpanContext:
        self._trap("get_span_context")
        return SpanContext(1, 2, False, TraceFlags(TraceFlags.SAMPLED))

    def set_attributes(self, attributes: Any) -> None:
        self._trap("set_attributes")

    def set_attribute(self, key: str, value: Any) -> None:
        self._trap("set_attribute")

    def add_event(self, *_: Any, **__: Any) -> None:
        self._trap("add_event")

    def update_name(self, name: str) -> None:
        self._trap("update_name")

    def is_recording(self) -> bool:
        self._trap("is_recording")
        return True

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._trap("set_status")

    def record_exception(self, *_: Any, **__: Any) -> None:
        self._trap("record_exception")


class Trapped(trace.TracerProvider, MeterProvider):
    """An SDK for spans and metrics whose every call goes through a trap."""

    def __init__(self, trap: Trap) -> None:
        self._trap = trap

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        return self

    def get_meter(self, *_: Any, **__: Any) -> Any:
        return self

    def start_span(self, *_: Any, **__: Any) -> Span:
        self._trap("start_span")
        return TrappedSpan(self._trap)

    def create_histogram(self, *_: Any, **__: Any) -> Any:
        return self

    def record(self, *_: Any, **__: Any) -> None:
        self._trap("record")

    def create_observable_counter(self, *_: Any, **__: Any) -> Any:
        return self

    create_observable_gauge = create_observable_counter


CALLS = (
    "start_span",
    "is_recording",
    "get_span_context",
    "set_attributes",
    "set_attribute",
    "add_event",
    "set_status",
    "end",
    "record",
)

EVERYWHERE = ("start_span", "is_recording", "set_attributes", "end", "record")
"""Those that every operation and every job makes; the others are for what not each of them meets."""

Doing = Callable[[Migration], Awaitable[Any]]


def job(name: str) -> Doing:
    async def run(migration: Migration) -> None:
        blocking, awaited = JOBS[name]
        made = (blocking if migration.world.blocking else awaited)(migration.proxy, page_size=2)
        await migration.world.call(made.run)

    return run


async def all_operations(migration: Migration) -> None:
    key = next(iter(VALUES))
    assert await migration.read(key) == "v1"
    await migration.write(key, "v2")
    assert await migration.read(key) == "v2"
    await migration.delete(key)
    assert await migration.read(key) is None
    await migration.write_many(VALUES)
    assert await migration.read_many(VALUES) == VALUES
    migration.new.outage()
    assert await migration.read(key) == "v1"
    migration.new.recover()
    migration.ledger.outage()
    assert await migration.read(key) == "v1"


DOING: Sequence[Doing] = (all_operations, job("backfill"), job("verify"), job("repair"))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("doing", DOING, ids=("operations", *JOBS))
async def test_an_sdk_that_raises(
    world: World, call: str, doing: Doing, failures: set[type[BaseException]]
) -> None:
    """Whatever part of an SDK raises, at whichever call, each operation and each job does what it is to do."""
    reached = 0
    for after in range(8):
        trap = Trap(Failed, call, after)
        migration = trapped(world, trap)
        with trace.use_span(trace.INVALID_SPAN):
            await doing(migration)
            assert trace.get_current_span() is trace.INVALID_SPAN
        reached += trap.raised
    assert reached or call not in EVERYWHERE
    assert failures == ({Failed} if reached else set())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("doing", DOING, ids=("operations", *JOBS))
async def test_a_thread_that_ends_inside_of_an_sdk(world: World, call: str, doing: Doing) -> None:
    """What ends a thread, as an interrupt does, may do so inside of an SDK; the caller's span is current again."""
    for after in itertools.count():
        trap = Trap(Ended, call, after)
        migration = trapped(world, trap)
        with trace.use_span(trace.INVALID_SPAN):
            with suppress(Ended):
                await doing(migration)
            assert trace.get_current_span() is trace.INVALID_SPAN
        if not trap.raised or after > 30:
            break


def trapped(world: World, trap: Trap) -> Migration:
    provider = Trapped(trap)
    telemetry = Telemetry(tracer_provider=provider, meter_provider=provider, log=False, page_span_seconds=1e9)
    gate: Any = Flag(1.0)
    return world.migration(gate, old=VALUES, old_methods=SCANNED, new_methods=SCANNED, telemetry=telemetry)


class Flag(StaticSource):
    """A source of rollouts as an application may have."""

    flag_key = "users-migration-rate"
    evaluation: Any = None


class RaisingFlag(Flag):
    @property
    def evaluation(self) -> Any:
        raise Failed("secret-key")


@pytest.mark.parametrize("telling", ["raises", "is of another type"])
async def test_a_source_that_says_it_wrongly(world: World, telling: str) -> None:
    """A source whose `evaluation` raises, or is none, keeps no operation from its work."""
    traced = Traced()
    source: Any = RaisingFlag(1.0) if telling == "raises" else Flag(1.0)
    if telling != "raises":
        source.evaluation = {"reason": "split"}
    migration = traced.migration(world, source, old=VALUES)
    assert await migration.read("secret-key-1") == "v1"
    source.set(0.5)
    await migration.write("secret-key-1", "v2")
    source.set(0.75)
    assert await migration.read_many(["secret-key-1", "secret-key-2"]) == {
        "secret-key-1": "v2",
        "secret-key-2": "v1",
    }
    assert len(traced.spans) > 3
    traced.provider.shutdown()


class Waiting(AsyncInMemoryAdapter[str, str]):
    """Waits in each read until somebody goes on with it by hand."""

    async def read(self, key: str) -> str | None:
        await asyncio.sleep(0)
        return await super().read(key)


def test_coroutines_that_are_thrown_away(caplog: pytest.LogCaptureFixture) -> None:
    """An operation that is closed in another context than its own ends its spans, and logs nothing."""
    traced = Traced()
    stores = Waiting({"secret-key": "v1"}), Waiting()
    proxy = AsyncProxy(TrafficGate(1.0), *stores, telemetry=traced.telemetry(log=False))
    for its_own in (True, False):
        reading, context = proxy.read("secret-key"), contextvars.copy_context()
        context.run(reading.send, None)
        assert context.run(trace.get_current_span).is_recording()
        closed_in = context if its_own else contextvars.copy_context()
        closed_in.run(reading.close)
        assert closed_in.run(trace.get_current_span) is trace.INVALID_SPAN
    assert caplog.records == []
    assert [span.name for span in traced.spans] == ["read", "zddm.read"] * 2
    assert all((span.attributes or {})["error.type"] == "GeneratorExit" for span in traced.spans)
    traced.provider.shutdown()


async def test_a_sampler_that_heeds_no_parent(world: World) -> None:
    """Pages without a span have none below them, whatever the sampler: `always_on` keeps each span it is given."""
    traced = Traced(sampler=ALWAYS_ON)
    values = {f"secret-key-{number:03}": "v1" for number in range(60)}
    migration = traced.migration(world, 1.0, old=values, old_methods=SCANNED, new_methods=SCANNED)
    await job("backfill")(migration)
    names = [span.name for span in traced.spans]
    assert names.count("zddm.backfill.page") == 10
    assert names.count("zddm.backfill_many") == 10
    traced.provider.shutdown()
