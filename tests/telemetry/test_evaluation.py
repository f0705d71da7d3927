"""The event `feature_flag.evaluation`: how the rate came about, once on a span for each change of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ldclient import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from tests.core.worlds import Migration, World
from tests.telemetry.snapshots import KEY, Traced
from zddm_flags import LaunchDarklySource, Rollout, TrafficGate
from zddm_flags.rollout import Evaluation
from zddm_flags.testing import FlagServer

FLAG = "users-migration-rate"
UNSAMPLED = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0)))


class Flag:
    """A source that says which flag it follows, and no more."""

    flag_key = FLAG

    def __init__(self, rate: float) -> None:
        self.rollout = Rollout.of(rate)
        self._listeners: list[Callable[[Rollout], None]] = []

    def subscribe(self, listener: Callable[[Rollout], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        listener(self.rollout)
        return lambda: self._listeners.remove(listener)

    def change(self, rate: float) -> None:
        self.rollout = Rollout.of(rate)
        for listener in self._listeners:
            listener(self.rollout)


class Evaluated(Flag):
    """A source that also says how the rate came about, of a rollout that it makes anew each time it is asked."""

    of: Rollout | None = None

    @property
    def evaluation(self) -> Evaluation:
        rollout = self.of or self.rollout
        return Evaluation(Rollout(rollout.read, rollout.write), FLAG, "acme", "2", "split", None, "service:users")


class Bare(Flag):
    """A source that follows no flag."""

    flag_key = None  # type: ignore[assignment] # as a file or a table of the user's own


def follow(world: World, traced: Traced, source: Any) -> Migration:
    migration = traced.migration(world)
    migration.gate = TrafficGate(source)
    migration.proxy = migration._make(migration.gate)
    return migration


def told(traced: Traced) -> list[tuple[str, dict[str, Any]]]:
    """Each evaluation that a span tells of, with the span's name, in order; forgets the spans."""
    spans = sorted(traced.spans, key=lambda span: span.start_time or 0)
    traced.exporter.clear()
    return [
        (span.name, dict(event.attributes or {}))
        for span in spans
        for event in span.events
        if event.name == "feature_flag.evaluation"
    ]


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.provider.shutdown()


OPERATIONS: dict[str, list[Any]] = {
    "read": [KEY],
    "write": [KEY, 1],
    "delete": [KEY],
    "read_many": [["a", "b"]],
    "write_many": [{"a": 1, "b": 2}],
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_once_after_each_change(world: World, traced: Traced, operation: str) -> None:
    """The first operation after a change tells of it, whichever it is; none after it does."""
    source = Flag(0.5)
    migration = follow(world, traced, source)
    for rate, text in ((0.5, "0.5"), (1.0, "1.0"), (0.5, "0.5")):
        source.change(rate)
        for _ in range(3):
            await getattr(migration, operation)(*OPERATIONS[operation])
        attributes = {"feature_flag.key": FLAG, "feature_flag.result.value": text}
        assert told(traced) == [(f"zddm.{operation}", attributes)]


async def test_each_proxy_tells(world: World, traced: Traced) -> None:
    """Of two proxies on one source each tells of its first operation."""
    source = Flag(1.0)
    one, other = follow(world, traced, source), follow(world, traced, source)
    for migration in (one, other, one, other):
        await migration.read(KEY)
    assert len(told(traced)) == 2


async def test_all_that_the_source_knows(world: World, traced: Traced) -> None:
    """What a source says of its evaluation is told, by the names of OpenTelemetry's conventions."""
    migration = follow(world, traced, Evaluated(1.0))
    await migration.read(KEY)
    [(_, attributes)] = told(traced)
    assert attributes == {
        "feature_flag.key": FLAG,
        "feature_flag.provider.name": "acme",
        "feature_flag.result.value": "1.0",
        "feature_flag.result.variant": "2",
        "feature_flag.result.reason": "split",
        "feature_flag.context.id": "service:users",
    }


async def test_an_evaluation_of_another_rate(world: World, traced: Traced) -> None:
    """What a source that is a change ahead says is of another rate, and not told of this one."""
    source = Evaluated(1.0)
    source.of = Rollout.of(0.25)
    migration = follow(world, traced, source)
    await migration.read(KEY)
    [(_, attributes)] = told(traced)
    assert attributes == {"feature_flag.key": FLAG, "feature_flag.result.value": "1.0"}


async def test_no_flag(world: World, traced: Traced) -> None:
    """Where the rate comes from no flag nothing is told, of the first rate or of a later one."""
    fixed = traced.migration(world, 0.5)
    await fixed.read(KEY)
    fixed.gate.set_rate(1.0)
    await fixed.read(KEY)
    await follow(world, traced, Bare(1.0)).read(KEY)
    assert len(traced.spans) > 3
    assert told(traced) == []


async def test_an_unsampled_operation_leaves_it(world: World, traced: Traced) -> None:
    """An operation that is not sampled tells nothing, and the next one that is does."""
    migration = follow(world, traced, Flag(1.0))
    with use_span(UNSAMPLED):
        await migration.read(KEY)
        await migration.write_many({"a": 1})
    assert told(traced) == []
    await migration.read(KEY)
    assert [name for name, _ in told(traced)] == ["zddm.read"]


async def test_launchdarkly(world: World, traced: Traced) -> None:
    """With the real SDK a change and a kill are told with variation, LaunchDarkly's reason and context."""
    with (
        FlagServer({FLAG: 0.5}) as flags,
        flags.client() as client,
        LaunchDarklySource(client, FLAG, Context.create("users-service", "service")) as source,
    ):
        migration = follow(world, traced, source)
        await world.until(lambda: migration.gate.rate == 0.5)
        await migration.read(KEY)
        await migration.read(KEY)
        [(_, ramped)] = told(traced)
        flags.turn_off(FLAG)
        deadline = time.monotonic() + 10
        while migration.gate.rate != 0 and time.monotonic() < deadline:
            await world.pause()
        await migration.write(KEY, 1)
        await migration.read(KEY)
        [(name, killed)] = told(traced)
    always = {
        "feature_flag.key": FLAG,
        "feature_flag.provider.name": "launchdarkly",
        "feature_flag.context.id": "service:users-service",
    }
    assert {name: ramped[name] for name in always} == {name: killed[name] for name in always} == always
    assert ramped["feature_flag.result.value"] == "0.5"
    assert ramped["feature_flag.result.reason"] == "fallthrough"
    assert ramped["feature_flag.result.variant"].isdigit()
    assert name == "zddm.write"
    assert (killed["feature_flag.result.value"], killed["feature_flag.result.reason"]) == ("0.0", "disabled")
