"""What is told of the guard, the guardrail, and the work in the background: events, spans and metrics."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from structlog.testing import capture_logs

from tests.core.worlds import Migration, Trouble, World
from tests.telemetry.snapshots import Traced
from tests.telemetry.test_metrics import Metered
from zddm_flags import Copies, Guard, Guardrail, Shadow, StoreInfo, Telemetry

KEY = "secret-key"
VALUE = "secret-value"
GUARD = Guard(min_calls=2, open_seconds=1.0, max_open_seconds=2.0, trial_calls=1)
pytestmark = pytest.mark.usefixtures("by_hand")


def options(**more: Any) -> dict[str, Any]:
    held = {KEY: VALUE, "a": 1, "b": 2}
    return {"old": held, "new": held, "new_info": StoreInfo(remote=False), **more}


async def open_guard(migration: Migration) -> None:
    migration.new.outage()
    while migration.stats().guard != "open":
        await migration.read(KEY)
    migration.new.recover()


async def probe(migration: Migration) -> None:
    migration.clock.advance(2)
    await migration.read(KEY)
    await migration.work()


# --- events


async def test_events_of_the_guard(world: World) -> None:
    """Each change of the guard is one event, with the reason and the figures; it opens with a warning."""
    migration = world.migration(**options(guard=GUARD))
    with capture_logs() as logs:
        await open_guard(migration)
        migration.new.outage()
        await probe(migration)
        migration.new.recover()
        await probe(migration)
        await migration.read(KEY)
    assert migration.stats().guard == "closed"
    opened = [log.pop("open_seconds", None) for log in logs if log["event"] != "new_failed"]
    assert opened[2:] == [None, None]
    assert 0.8 <= opened[0] <= 1.0
    assert 1.6 <= opened[1] <= 2.0
    figures = {"failures": 0, "slow_calls": 0, "hanging_calls": 0, "migration": "users"}
    assert [log for log in logs if log["event"] != "new_failed"] == [
        {
            **figures,
            "event": "guard_opened",
            "log_level": "warning",
            "reason": "failures",
            "calls": 2,
            "failures": 2,
        },
        {
            **figures,
            "event": "guard_opened",
            "log_level": "warning",
            "reason": "probe_failed",
            "suppressed_new_failed": 2,
            "calls": 0,
        },
        {**figures, "event": "guard_half_open", "log_level": "info", "reason": "probed", "calls": 0},
        {**figures, "event": "guard_closed", "log_level": "info", "reason": "recovered", "calls": 1},
    ]
    failed = [log["operation"] for log in logs if log["event"] == "new_failed"]
    assert failed == ["read"], "of an outage one in ten seconds is logged"


async def test_a_probe_that_fails_is_told(world: World) -> None:
    """A probe that fails is told as a failure of New that no operation had."""
    migration = world.migration(**options(guard=Guard(min_calls=1, max_slow_share=0.1)))

    async def slow() -> None:
        migration.clock.advance(0.6)

    migration.new.after["read"] = slow
    await migration.read(KEY)
    assert migration.stats().guard == "open"
    migration.new.outage()
    with capture_logs() as logs:
        await probe(migration)
    told = [(log["event"], log.get("operation"), log.get("error")) for log in logs]
    assert told == [("new_failed", "probe", "Trouble"), ("guard_opened", None, None)]
    assert "secret" not in repr(logs)


async def test_nothing_secret_in_events(world: World) -> None:
    """No event of the background tells a key, a value or the text of an error."""

    def size_of(value: object) -> int:
        raise Trouble(repr(value))

    def equal(old: object, new: object) -> bool:
        raise Trouble(repr((old, new)))

    migration = world.migration(
        **options(
            copy=Copies(mode="background", max_keys=1, size_of=size_of),
            shadow=Shadow(share=1, equal=equal),
            guardrail=Guardrail(max_error_share=0.5, min_calls=3),
            guard=None,
        )
    )
    other = migration.in_another_process(1.0, shadow=Shadow(share=1), copy=Copies(mode="background"))
    with capture_logs() as logs:
        await migration.read(KEY)  # is compared, in vain
        await migration.work()
        migration.new.values[KEY] = "secret planted"
        await other.read(KEY)
        await other.work()  # differs
        migration.new.values.clear()
        await migration.read_many([KEY, "a", "b"])  # has no size, and no room
        migration.old.outage()
        await migration.work()  # cannot be copied
        migration.old.recover()
        migration.new.outage()
        for _ in range(5):
            await migration.read("b")
    assert {log["event"] for log in logs} == {
        "comparison_failed",
        "keys_differ",
        "size_of_failed",
        "copies_dropped",
        "copy_failed",
        "new_failed",
        "guardrail_crossed",
    }
    assert "secret" not in repr(logs)


# --- spans


@pytest.mark.parametrize("operation", ["read", "write", "delete", "read_many", "write_many"])
async def test_state_on_spans(world: World, traced: Traced, operation: str) -> None:
    """The span of an operation says the guard's state where it is not closed, and only there."""
    migration = traced.migration(world, **options(guard=GUARD))
    arguments: dict[str, list[Any]] = {
        "read": [KEY],
        "write": [KEY, VALUE],
        "delete": [KEY],
        "read_many": [["a", "b"]],
        "write_many": [{"a": 1, "b": 2}],
    }

    async def state() -> tuple[Any, Any]:
        traced.exporter.clear()
        await getattr(migration, operation)(*arguments[operation])
        (span,) = (span for span in traced.spans if span.name == f"zddm.{operation}")
        attributes = dict(span.attributes or {})
        path = [name for name in attributes if name.startswith("zddm.path")]
        return attributes.get("zddm.guard.state"), attributes.get("zddm.path", path)

    await migration.write(KEY, VALUE)
    assert (await state())[0] is None
    await open_guard(migration)
    path = ["zddm.path.guard_open"] if operation.endswith("_many") else "guard_open"
    assert await state() == ("open", path)
    await probe(migration)
    assert migration.stats().guard == "half_open"
    assert (await state())[0] == "half_open"


async def test_events_on_spans(world: World, traced: Traced) -> None:
    """The opening of the guard is an event on the span of the call to New that led to it."""
    migration = traced.migration(world, **options(guard=GUARD, new_info=StoreInfo(collection="users:v2")))
    await open_guard(migration)
    told = [(span.name, event.name) for span in traced.spans for event in span.events]
    assert told == [
        ("zddm.read", "new_failed"),
        ("read users:v2", "guard_opened"),
        ("zddm.read", "new_failed"),
    ]


async def test_guardrail_on_spans(world: World, traced: Traced) -> None:
    """The kill by the guardrail is an event on the span of the operation whose call crossed it."""
    migration = traced.migration(world, **options(guardrail=Guardrail(max_error_share=0.5, min_calls=2)))
    migration.new.outage()
    await migration.read(KEY)
    await migration.read(KEY)
    told = [(span.name, event.name) for span in traced.spans for event in span.events]
    assert told == [("zddm.read", "new_failed"), ("zddm.read", "guardrail_crossed"), ("zddm.read", "new_failed")]


async def test_old_failed_on_spans(world: World, traced: Traced) -> None:
    """A batch tells how many keys failed with Old, in place of the paths that they would have taken."""
    migration = traced.migration(world, **options(max_batch=2))
    del migration.new.values["b"]
    migration.old.outage()
    with pytest.raises(Trouble):
        await migration.read_many([KEY, "a", "b"])
    (span,) = (span for span in traced.spans if span.name == "zddm.read_many")
    paths = {name: keys for name, keys in (span.attributes or {}).items() if name.startswith("zddm.path")}
    # The first chunk, a and b, failed; that with the other key was never begun.
    assert paths == {"zddm.path.old_failed": 2}
    assert span.status.status_code.name == "ERROR"


async def test_spans_of_the_background(world: World, traced: Traced) -> None:
    """A round of copies, or of comparisons, is one span of its own, with the paths and the calls to the stores."""
    migration = traced.migration(world, **options(copy="background", shadow=Shadow(share=1)))
    del migration.new.values["b"]
    migration.new.values["a"] = "planted"
    await migration.read_many(["a", "b"])
    traced.exporter.clear()
    await migration.work()
    trees = {name: (attributes, children) for name, _, _, attributes, _, children in traced.tree()}
    assert set(trees) == {"zddm.copy_many", "zddm.compare_many"}
    attributes, children = trees["zddm.copy_many"]
    assert attributes == {
        "zddm.migration": "users",
        "zddm.gate.rate": 1.0,
        "zddm.batch.size": 1,
        "zddm.path.copied": 1,
    }
    assert [child[0] for child in children] == [
        *("zddm.ledger.begin_copy", "read users", "zddm.ledger.open_to", "write", "zddm.ledger.end")
    ]
    attributes, children = trees["zddm.compare_many"]
    assert attributes["zddm.path.different"] == 1
    assert [child[0] for child in children] == [
        *("zddm.ledger.begin_copy", "read users", "read", "zddm.ledger.alone", "zddm.ledger.end")
    ]
    assert "secret" not in traced.text()


async def test_the_background_is_no_part_of_an_operation(
    world: World, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes on in the background by itself is in no caller's trace, though a caller's read began it."""
    monkeypatch.undo()  # of all that keeps it from going on by itself
    migration = traced.migration(world, **options(copy="background"))
    del migration.new.values["b"]
    with traced.provider.get_tracer("test").start_as_current_span("request"):
        await migration.read("b")
    await world.until(lambda: "zddm.copy_many" in [span.name for span in traced.spans])
    parents = {span.name: span.parent for span in traced.spans}
    assert parents["zddm.read"] is not None
    assert parents["zddm.copy_many"] is None


async def test_a_probe_has_a_span_of_its_own(world: World, traced: Traced) -> None:
    """A probe is no operation's: it has a span of its own, a root, which tells of its call and of the guard."""
    migration = traced.migration(world, **options(guard=GUARD))
    await open_guard(migration)
    migration.clock.advance(2)
    await migration.read(KEY)
    traced.exporter.clear()
    await migration.work()
    assert migration.stats().guard == "half_open"
    [(name, kind, status, attributes, happened, [child])] = traced.tree()
    assert (name, kind, status, attributes) == ("zddm.probe", "INTERNAL", "UNSET", {"zddm.migration": "users"})
    assert [event for event, _ in happened] == ["guard_half_open"]
    assert (child[0], child[3]["zddm.store"]) == ("read", "new")


async def test_a_probe_that_fails_has_its_error(world: World, traced: Traced) -> None:
    """The span of a probe that New failed says so, by the class of the error, and that the guard stays open."""
    migration = traced.migration(world, **options(guard=GUARD))
    await open_guard(migration)
    migration.new.outage()
    traced.exporter.clear()
    await probe(migration)
    [span] = (span for span in traced.spans if span.name == "zddm.probe")
    assert span.status.status_code.name == "ERROR"
    assert (span.attributes or {})["error.type"] == "tests.core.worlds.Trouble"
    assert [event.name for event in span.events] == ["new_failed", "guard_opened"]
    assert "secret" not in traced.text()


# --- links


def requested(traced: Traced, number: int) -> Any:
    """A caller's request, whose reads are linked to."""
    return traced.provider.get_tracer("app").start_as_current_span(f"request-{number}")


def linked(traced: Traced, name: str) -> list[int]:
    """The spans that the one span of this name has links to."""
    [span] = (span for span in traced.spans if span.name == name)
    return [link.context.span_id for link in span.links]


def ids(traced: Traced, name: str) -> list[int]:
    return [span.context.span_id for span in traced.spans if span.name == name and span.context is not None]


async def test_links_of_a_copy(world: World, traced: Traced) -> None:
    """A copy in the background has a link to each read that it is made for, once for all keys of a batch."""
    migration = traced.migration(world, **options(copy="background"))
    migration.new.values.clear()
    with requested(traced, 1):
        await migration.read(KEY)
    await migration.read_many(["a", "b"])
    await migration.read(KEY)  # which waits already: what it waits for is the first read
    await migration.work()
    assert linked(traced, "zddm.copy_many") == [ids(traced, "zddm.read")[0], *ids(traced, "zddm.read_many")]
    [span] = (span for span in traced.spans if span.name == "zddm.copy_many")
    assert span.parent is None


async def test_links_of_a_comparison(world: World, traced: Traced) -> None:
    """A shadow comparison has links to the reads whose values it compares."""
    migration = traced.migration(world, **options(shadow=Shadow(share=1)))
    await migration.read(KEY)
    await migration.read_many(["a", "b"])
    await migration.work()
    reads = [*ids(traced, "zddm.read"), *ids(traced, "zddm.read_many")]
    assert sorted(linked(traced, "zddm.compare_many")) == sorted(reads)


async def test_links_of_a_probe(world: World, traced: Traced) -> None:
    """A probe has a link to the operation that found it due."""
    migration = traced.migration(world, **options(guard=GUARD))
    await open_guard(migration)
    traced.exporter.clear()
    await probe(migration)
    assert linked(traced, "zddm.probe") == ids(traced, "zddm.read")


async def test_at_most_so_many_links(world: World, traced: Traced) -> None:
    """A span has 32 links and no more, however many reads it is made for."""
    old = {f"k{number}": number for number in range(40)}
    migration = traced.migration(world, **options(old=old, new={}, copy="background"))
    for key in old:
        await migration.read(key)
    await migration.work()
    links = linked(traced, "zddm.copy_many")
    assert len(links) == len(set(links)) == 32
    assert set(links) <= set(ids(traced, "zddm.read"))


async def test_no_links_to_reads_that_nobody_sampled(world: World, traced: Traced) -> None:
    """A read whose caller is not sampled is not linked to, by a copy or by a probe."""
    migration = traced.migration(world, **options(copy="background", guard=GUARD))
    await migration.read("absent")
    migration.new.values.clear()
    unsampled = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0))
    with use_span(NonRecordingSpan(unsampled)):
        await migration.read(KEY)
    await migration.work()
    assert linked(traced, "zddm.copy_many") == []
    await open_guard(migration)
    migration.clock.advance(2)
    with use_span(NonRecordingSpan(unsampled)):
        await migration.read(KEY)
    await migration.work()
    assert linked(traced, "zddm.probe") == []


# --- metrics


async def test_metric_of_the_guard(world: World, metered: Metered) -> None:
    """`zddm.guard.open` is 0 while the guard is closed, 1 while it is not, for any proxy of the migration."""
    migration = metered.migration(world, **options(guard=GUARD))
    other = migration.in_another_process(1.0)
    assert metered.numbers("zddm.guard.open") == {("users",): 0}
    await open_guard(migration)
    assert other.stats().guard == "closed"
    assert metered.numbers("zddm.guard.open") == {("users",): 1}
    await probe(migration)
    assert metered.numbers("zddm.guard.open") == {("users",): 1}
    await migration.read(KEY)
    assert metered.numbers("zddm.guard.open") == {("users",): 0}


async def test_no_metric_without_a_guard(world: World, metered: Metered) -> None:
    """A proxy without a guard shows no `zddm.guard.open`."""
    migration = metered.migration(world, **options(guard=None))
    await migration.read(KEY)
    assert metered.numbers("zddm.guard.open") == {}


async def test_metrics_of_copies(world: World, metered: Metered) -> None:
    """Copies and dropped copies of the background are counted, by path and in all, as in `stats()`."""
    old = {f"k{number}": number for number in range(5)}
    migration = metered.migration(world, old=old, copy=Copies(mode="background", max_keys=3))
    await migration.read_many(old)
    assert metered.numbers("zddm.copies.dropped") == {("users",): 2}
    await migration.work()
    assert metered.numbers("zddm.copies") == {("users",): 3} == {("users",): migration.stats().copies}
    await migration.read_many(old)
    migration.proxy.disable()
    await migration.work()
    assert (
        metered.numbers("zddm.copies.dropped") == {("users",): 4} == {("users",): migration.stats().copies_dropped}
    )
    operations = metered.numbers("zddm.operations")
    assert operations["users", "copy", "copied"] == 3
    assert operations["users", "read", "miss"] == 7


async def test_metrics_of_comparisons(world: World, metered: Metered) -> None:
    """Verdicts are counted as the paths of `compare`."""
    migration = metered.migration(world, **options(shadow=Shadow(share=1)))
    migration.new.values["a"] = "planted"
    await migration.read_many([KEY, "a", "b"])
    await migration.work()
    operations = metered.numbers("zddm.operations")
    assert operations["users", "compare", "equal"] == 2
    assert operations["users", "compare", "different"] == 1


async def test_metric_of_old_failing(world: World, metered: Metered) -> None:
    """Operations that Old failed are counted by a path of their own."""
    migration = metered.migration(world, **options())
    migration.new.values.clear()
    migration.old.outage()
    for operation in (migration.read(KEY), migration.write(KEY, VALUE), migration.delete(KEY)):
        with pytest.raises(Trouble):
            await operation
    assert metered.numbers("zddm.operations") == {
        ("users", "read", "old_failed"): 1,
        ("users", "write", "old_failed"): 1,
        ("users", "delete", "old_failed"): 1,
    }


async def test_no_log_where_none_is_wanted(world: World) -> None:
    """`log=False` logs nothing of the guard, the guardrail and the background."""
    migration = world.migration(
        **options(
            guard=GUARD, guardrail=Guardrail(max_error_share=0.5, min_calls=2), telemetry=Telemetry(log=False)
        )
    )
    with capture_logs() as logs:
        await open_guard(migration)
    assert not migration.proxy.enabled
    assert logs == []
