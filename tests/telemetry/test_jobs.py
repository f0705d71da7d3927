"""What is told of the jobs that finish a migration: the spans of their pages, their metric, and events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import Sum
from structlog.testing import capture_logs

from tests.core.worlds import SCANNED, Job, Migration, World
from tests.telemetry.snapshots import Traced, store, typed, warning
from tests.telemetry.test_metrics import Metered
from zddm_flags import AsyncVerify, Verify
from zddm_telemetry import events

KEYS = [f"secret-key-{number}" for number in range(4)]
VALUE = "secret-value"
OTHER = "secret-other-value"
METHODS: dict[str, Any] = {"old_methods": SCANNED, "new_methods": SCANNED}


@pytest.fixture(autouse=True)
def failures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Telemetry swallows nothing."""
    known: set[type[BaseException]] = set()
    monkeypatch.setattr(events, "_known_failures", known)
    yield
    assert known == set()


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.provider.shutdown()


@pytest.fixture
def metered(caplog: pytest.LogCaptureFixture) -> Iterator[Metered]:
    metered = Metered()
    yield metered
    assert caplog.records == []
    metered.provider.shutdown()


def page(job: str, children: Sequence[Any], happened: Sequence[Any] = (), **counts: int) -> Any:
    """A span of one page of a job, as it must be."""
    attributes: dict[str, Any] = {
        "zddm.migration": "users",
        "zddm.gate.rate": 1.0,
        "zddm.batch.size": sum(counts.values()),
        **{f"zddm.path.{outcome}": keys for outcome, keys in counts.items()},
    }
    return (f"zddm.{job}_many", "INTERNAL", "UNSET", attributes, list(happened), list(children))


def verify(migration: Migration, page_size: int = 2) -> Job:
    """A verify, which waits for nothing in real time."""
    make: Any = Verify if migration.world.blocking else AsyncVerify
    return Job(migration, make(migration.proxy, page_size=page_size, clock=migration.clock))


def names(tree: Sequence[Any]) -> list[Any]:
    """The names of spans, each with its children's."""
    return [(name, names(children)) for name, *_, children in tree]


async def left_stale(migration: Migration) -> None:
    """Change one key and delete another, while New is not to be touched."""
    migration.rows.open_to(1.0)
    migration.proxy.disable()
    await migration.write(KEYS[0], OTHER)
    await migration.delete(KEYS[1])
    migration.proxy.enable()


async def test_spans_of_a_backfill(world: World, traced: Traced) -> None:
    """Each page of a backfill is one span with counts by outcome; the calls that copy it are its children."""
    migration = traced.migration(world, old=dict.fromkeys(KEYS[:3], VALUE), new={KEYS[0]: VALUE}, **METHODS)
    await migration.backfill(page_size=2).run()
    assert typed(traced.tree()) == typed(
        [
            page(
                "backfill",
                [store("new", "read", size=2), store("old", "read"), store("new", "write")],
                copied=1,
                present=1,
            ),
            page("backfill", [store("new", "read"), store("old", "read"), store("new", "write")], copied=1),
        ]
    )


async def test_spans_of_a_verify(world: World, traced: Traced) -> None:
    """The keys that look different are compared under one span a page, with counts by outcome and both reads."""
    held = dict.fromkeys(KEYS[:3], VALUE)
    migration = traced.migration(world, old=held, new={KEYS[0]: OTHER, KEYS[1]: VALUE, KEYS[3]: VALUE}, **METHODS)
    differ = {"keys": 1, "hashes": str([f"{migration.gate.locate(KEYS[0])[0]:016x}"])}
    extra = {"keys": 1, "hashes": str([f"{migration.gate.locate(KEYS[3])[0]:016x}"])}
    await verify(migration).run()
    reads = [store("old", "read"), store("new", "read")]
    assert typed(traced.tree()) == typed(
        [
            page("verify", reads, [warning("keys_differ", **differ, suppressed=0)], different=1),  # it is changed
            page("verify", reads, different=1),  # New lacks it: nothing is marked
            page("verify", reads, [warning("keys_differ", **extra)], different=1),
        ]
    )


async def test_spans_of_a_verify_that_is_unsure(world: World, traced: Traced) -> None:
    """A key that only looked different is told as equal, and one that is being written as unsure meanwhile."""
    held = dict.fromkeys(KEYS[:2], VALUE)
    migration = traced.migration(world, old=held, new=dict.fromkeys(KEYS[:2], OTHER), **METHODS)
    name = migration.gate.locate(KEYS[1])[1]
    migration.rows.begin([name], b"writer")

    async def catch_up() -> None:
        migration.new.put(held)

    async def finish() -> None:
        migration.rows.withdraw([name], b"writer")

    migration.ledger.before["begin_copy"] = catch_up
    job = verify(migration, page_size=10)
    job.time.hooks.append(finish)
    await job.run()
    reads = [store("old", "read"), store("new", "read")]
    assert typed(traced.tree()) == typed(
        [page("verify", reads, equal=1, unsure=1), page("verify", reads, equal=1)]
    )


async def test_spans_of_a_repair(world: World, traced: Traced) -> None:
    """Each copy of a repair is one span with counts by outcome; the calls that make it are its children."""
    held = dict.fromkeys(KEYS, VALUE)
    migration = traced.migration(world, old=held, new=held, **METHODS)
    await left_stale(migration)
    traced.exporter.clear()
    await migration.repair(delete_extra=True).run()
    assert typed(traced.tree()) == typed(
        [
            page("repair", [store("old", "read"), store("new", "write")], copied=1),
            page("repair", [store("old", "read"), store("new", "delete")], absent=1),
        ]
    )


async def test_spans_within_the_callers(world: World, traced: Traced) -> None:
    """Within a span of the caller's, pages and scans are its children, in the order in which they were done."""
    migration = traced.migration(world, old=dict.fromkeys(KEYS[:3], VALUE), **METHODS)
    await migration.read("absent")  # so that it is known by now that somebody records
    traced.exporter.clear()
    with traced.provider.get_tracer("app").start_as_current_span("nightly"):
        await migration.backfill(page_size=2).run()
        await verify(migration).run()
    copied = ("zddm.backfill_many", [("read users:v2", []), ("read users", []), ("write users:v2", [])])
    scan_old, scan_new = ("scan users", []), ("scan users:v2", [])
    compared = [scan_new, scan_old, scan_new, scan_old, scan_new]  # the first one looks whether New can be walked
    assert names(traced.tree()) == [("nightly", [scan_old, copied, scan_old, copied, *compared])]
    scan = traced.tree()[0][-1][0]
    assert typed(scan) == typed(store("old", "scan", size=2))


async def test_a_failed_page(world: World, traced: Traced) -> None:
    """Where Old fails, the page's span and the call's have the error's type, and the job tries again."""
    migration = traced.migration(world, old={KEYS[0]: VALUE}, **METHODS)
    migration.old.outage(methods=["read"])
    job = migration.backfill()

    async def recover() -> None:
        migration.old.recover()

    job.time.hooks.append(recover)
    await job.run()
    failed, done = traced.tree()
    trouble = "tests.core.worlds.Trouble"
    assert (failed[2], failed[3]["error.type"]) == ("ERROR", trouble)
    assert typed(failed[-1]) == typed([store("new", "read"), store("old", "read", trouble)])
    assert (done[2], done[3]["zddm.path.copied"]) == ("UNSET", 1)


async def everything(migration: Migration) -> None:
    """Each job, over keys and values that are secret, with stores and a ledger that fail now and then."""
    await left_stale(migration)
    migration.new.put({KEYS[2]: OTHER})
    for make in (migration.backfill, lambda: verify(migration), lambda: migration.repair(found_by_verify=True)):
        job = make()

        async def recover() -> None:
            for each in (migration.old, migration.new, migration.ledger):
                each.recover()

        migration.new.outage()
        migration.ledger.outage(methods=["dirty", "begin_copy", "alone"])
        job.time.hooks += [None, recover]
        await job.run()
    await migration.repair(delete_extra=True).run()


async def test_nothing_secret_in_spans_and_events(world: World, traced: Traced) -> None:
    """No key, value or error text is in a span or event of any job, and each event names the migration."""
    held = dict.fromkeys(KEYS, VALUE)
    migration = traced.migration(world, old=held, new=held, guard=None, **METHODS)
    with capture_logs() as logs, traced.provider.get_tracer("app").start_as_current_span("nightly"):
        await everything(migration)
    assert {"zddm.backfill_many", "zddm.verify_many", "zddm.repair_many"} <= {span.name for span in traced.spans}
    assert "secret" not in traced.text()
    assert {"new_failed", "ledger_failed", "keys_differ"} <= {log["event"] for log in logs}
    assert "secret" not in str(logs)
    assert {log["migration"] for log in logs} == {"users"}
    for span in traced.spans:
        assert all((event.attributes or {})["zddm.migration"] == "users" for event in span.events)


async def test_the_metric_of_a_backfill(world: World, metered: Metered) -> None:
    """`zddm.backfill.rows` counts the keys that a backfill looked at, by outcome, and those of no other job."""
    held = dict.fromkeys(KEYS, VALUE)
    migration = metered.migration(world, old=held, new={KEYS[0]: VALUE}, **METHODS)
    assert metered.numbers("zddm.backfill.rows") == {}
    await migration.backfill(page_size=2).run()
    rows = {("users", "copied"): 3, ("users", "present"): 1}  # by migration and path
    assert metered.numbers("zddm.backfill.rows") == rows
    metric = metered.read()["zddm.backfill.rows"]
    assert metric.unit == "{row}"
    assert isinstance(metric.data, Sum)
    assert metric.data.is_monotonic
    await left_stale(migration)
    await verify(migration).run()
    await migration.repair().run()
    assert metered.numbers("zddm.backfill.rows") == rows
    calls = metered.numbers("zddm.store.operations")
    assert calls["users", "scan", "old"] > 0
    assert calls["users", "scan", "new"] > 0
    data = metered.reader.get_metrics_data()
    assert data is not None
    assert "secret" not in data.to_json()
