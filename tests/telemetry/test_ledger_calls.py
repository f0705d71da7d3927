"""What is told of the calls to a ledger: spans where somebody records, and a metric."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint

from tests.core.worlds import MANY, SCANNED, Migration, Trouble, World
from tests.telemetry.snapshots import KEY, LEDGER, VALUE, Traced, ledger, typed
from tests.telemetry.test_metrics import Metered
from zddm_flags import AsyncInMemoryLedger, InMemoryLedger, StoreInfo
from zddm_telemetry import events

METRIC = "zddm.ledger.operation.duration"


def calls(traced: Traced) -> list[Any]:
    """The ledger's spans, as those of a snapshot, in the order in which they began."""
    spans = sorted(traced.spans, key=lambda span: span.start_time or 0)
    chosen = [span for span in spans if span.name.startswith("zddm.ledger.")]
    return [traced.branch(span, spans) for span in chosen]


async def use(migration: Migration) -> None:
    await migration.write(KEY, VALUE)
    assert await migration.read(KEY) == VALUE


async def test_a_ledger_in_memory_has_none(world: World, traced: Traced, metered: Metered) -> None:
    """A ledger in this process takes no time: it has no span and no metric, given or by default."""
    telemetry = traced.telemetry(meter_provider=metered.provider)
    given: Any = InMemoryLedger() if world.blocking else AsyncInMemoryLedger()
    each: dict[str, Any]
    for each in ({"ledger": given}, {"ledger": None}, {"shared": False}):
        await use(traced.migration(world, telemetry=telemetry, **each))
    assert calls(traced) == []
    assert {span.name for span in traced.spans} == {
        *("zddm.write", "zddm.read", "write users", "write users:v2", "read users:v2"),
    }
    assert metered.numbers(METRIC) == {}


async def test_what_the_ledger_says_of_itself(world: World, traced: Traced) -> None:
    """Each call has the database's attributes as the ledger describes itself, and the batch's size from 2 on."""
    migration = traced.migration(world, old_methods=MANY, new_methods=MANY)
    await migration.write_many({"a": 1, "b": 2, "c": 3})
    await migration.read_many(["a"])
    assert typed(calls(traced)) == typed(
        [ledger("begin", 3), ledger("open_to"), ledger("end", 3), ledger("dirty")]
    )
    [begin, *_] = calls(traced)
    assert begin[3] == {
        "db.system.name": LEDGER.system,
        "db.namespace": LEDGER.namespace,
        "db.collection.name": LEDGER.collection,
        "db.operation.name": "begin",
        "db.operation.batch.size": 3,
    }


@pytest.mark.parametrize(
    ("info", "kind", "attributes"),
    [
        (None, "CLIENT", {}),
        (StoreInfo(system="sqlite", remote=False), "INTERNAL", {"db.system.name": "sqlite"}),
    ],
)
async def test_a_ledger_of_the_users_own(
    world: World, traced: Traced, info: StoreInfo | None, kind: str, attributes: dict[str, str]
) -> None:
    """A ledger without `describe`, or with one that says little, has spans with what is known."""
    await traced.migration(world, 0.0, ledger_info=info).write(KEY, VALUE)
    assert calls(traced) == [
        (f"zddm.ledger.{call}", kind, "UNSET", {**attributes, "db.operation.name": call}, [], [])
        for call in ("begin", "end")
    ]


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_ledger_without_what_jobs_need(world: World, traced: Traced, recorded: bool) -> None:
    """A ledger that has only what operations need serves them, recorded or not, and has not what it has not."""
    migration = traced.migration(world)
    watched = migration.ledger

    class Older:
        shared = True

        def migration(self, *arguments: Any) -> Any:
            rows = watched.migration(*arguments)
            for call in ("stale_keys", "checkpoints", "save_checkpoint", "reset"):
                delattr(rows, call)
            return rows

    options = {} if recorded else {"telemetry": None}
    older = migration.in_another_process(1.0, ledger=Older(), **options)
    await use(older)
    assert bool(calls(traced)) is recorded
    assert older.stats().opened == 1.0
    assert not hasattr(older.proxy.ledger, "checkpoints")
    assert hasattr(migration.proxy.ledger, "checkpoints")


async def test_an_error(world: World, traced: Traced) -> None:
    """A call that raises has the class of its error, and none of its text."""
    migration = traced.migration(world)
    migration.ledger.before["dirty"] = Trouble()
    await migration.read(KEY)
    assert typed(calls(traced)) == typed([ledger("dirty", error="tests.core.worlds.Trouble")])
    assert "secret" not in traced.text()


async def test_no_span_without_a_parent_that_records(world: World, traced: Traced) -> None:
    """A call that no operation makes is no trace of its own."""
    migration = traced.migration(world)
    await use(migration)
    traced.exporter.clear()
    await world.call(migration.proxy.ledger_summary)
    assert traced.spans == ()
    with traced.provider.get_tracer("app").start_as_current_span("request"):
        await world.call(migration.proxy.ledger_summary)
    assert [span.name for span in traced.spans] == ["zddm.ledger.summary", "request"]


async def test_the_drivers_span_is_below(world: World, traced: Traced) -> None:
    """A span of the ledger's own driver is a child of the call's, which is a child of the operation's."""
    migration = traced.migration(world)

    async def driver() -> None:
        traced.provider.get_tracer("driver").start_span("SELECT").end()

    migration.ledger.before["dirty"] = driver
    await migration.read(KEY)
    [(_, _, _, _, _, [(name, *_, below), *_])] = traced.tree()
    assert (name, [child[0] for child in below]) == ("zddm.ledger.dirty", ["SELECT"])


async def test_the_metric(world: World, metered: Metered) -> None:
    """Each call is timed, once for a batch, in seconds, by the call and its outcome; without any span."""
    migration = metered.migration(world, old_methods=SCANNED, new_methods=SCANNED)
    await migration.write_many({"a": 1, "b": 2})
    await migration.read("a")
    migration.ledger.before["dirty"] = Trouble()
    await migration.read("a")
    assert metered.numbers(METRIC) == {  # sorted by name: migration, operation, outcome
        ("users", "begin", "ok"): 1,
        ("users", "open_to", "ok"): 1,
        ("users", "end", "ok"): 1,
        ("users", "dirty", "ok"): 1,
        ("users", "dirty", "error"): 1,
    }
    metric = metered.read()[METRIC]
    assert metric.unit == "s"
    assert isinstance(metric.data, Histogram)
    for point in metric.data.data_points:
        assert isinstance(point, HistogramDataPoint)
        assert 0 <= point.sum < 5
    migration.ledger.recover()
    await migration.backfill().run()
    assert metered.numbers(METRIC)["users", "save_checkpoint", "ok"] > 1


async def test_a_histogram_that_raises(world: World, metered: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric of the ledger that raises hurts no operation."""
    monkeypatch.setattr(events, "_known_failures", {Trouble})  # told already
    migration = metered.migration(world)

    class Broken:
        def record(self, *_: object) -> None:
            raise Trouble

    monkeypatch.setattr(migration.proxy._telemetry.instruments, "ledger_duration", Broken())
    await use(migration)
    monkeypatch.undo()
