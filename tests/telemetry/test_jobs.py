"""What is told of the jobs that finish a migration: the spans of their pages, their metric, and events."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from opentelemetry.sdk.metrics.export import Sum
from structlog.testing import capture_logs

from tests.core.worlds import SCANNED, Job, Migration, World
from tests.telemetry.snapshots import Traced, ledger, store, typed, warning
from tests.telemetry.test_metrics import Metered
from zddm_flags import AsyncVerify, Verify

KEYS = [f"secret-key-{number}" for number in range(4)]
VALUE = "secret-value"
OTHER = "secret-other-value"
METHODS: dict[str, Any] = {"old_methods": SCANNED, "new_methods": SCANNED}


BEGIN_COPY, ALONE, END, SAVE = (ledger(call) for call in ("begin_copy", "alone", "end", "save_checkpoint"))
OPENED = warning("opened_wider", opened=1.0, before=0.0)
LOOKED = [ledger("summary"), ledger("checkpoints")]
TAKEN = [SAVE]  # the plan; that a part is taken over is not traced
SAVED = [ledger("summary"), SAVE]


def run(job: str, children: Sequence[Any], pages: int, traced: int | None = None, **about: Any) -> Any:
    """The span of a run that finished, as it must be. `about`: what is told of the job, and the outcomes."""
    told = ("state", "rows", "resumed", "parts", "dry_run")
    attributes: dict[str, Any] = {
        "zddm.migration": "users",
        "zddm.job.state": "finished",
        "zddm.job.pages": pages,
        "zddm.job.pages_traced": pages if traced is None else traced,
        **({} if job == "repair" else {"zddm.job.resumed": False, "zddm.job.parts": 1}),
        **{f"zddm.job.{name}": value for name, value in about.items() if name in told},
        **{f"zddm.rows.{outcome}": rows for outcome, rows in about.items() if outcome not in told},
    }
    return (f"zddm.{job}", "INTERNAL", "UNSET", attributes, [], list(children))


def page(job: str, children: Sequence[Any], rows: int, happened: Sequence[Any] = ()) -> Any:
    """The span of one page of a run, as it must be."""
    attributes = {"zddm.migration": "users", "zddm.job.rows": rows}
    if job != "repair":
        attributes["zddm.job.part"] = 0
    return (f"zddm.{job}.page", "INTERNAL", "UNSET", attributes, list(happened), list(children))


def runs(traced: Traced) -> list[Any]:
    """Every trace, without the names of the runs, which nobody knows before."""
    tree = traced.tree()
    for name, _, _, attributes, *_ in tree:
        if name in ("zddm.backfill", "zddm.verify"):
            assert re.fullmatch("[0-9a-f]{16}", attributes.pop("zddm.job.run"))
    return tree


def many(job: str, children: Sequence[Any], happened: Sequence[Any] = (), **counts: int) -> Any:
    """A span of keys of a page, as it must be."""
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


def without_ledger(tree: Sequence[Any]) -> list[Any]:
    """Spans without those of calls to the ledger."""
    kept = [each for each in tree if not each[0].startswith("zddm.ledger.")]
    return [(*about, without_ledger(children)) for *about, children in kept]


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
    """A run is one trace: below it are its pages, and below these the calls that copy keys, and save the page."""
    migration = traced.migration(world, old=dict.fromkeys(KEYS[:3], VALUE), new={KEYS[0]: VALUE}, **METHODS)
    await migration.backfill(page_size=2).run()
    copied = [BEGIN_COPY, store("old", "read"), store("new", "write"), END]
    first = [
        *(ledger("summary"), ledger("open_to"), store("old", "scan", size=2)),
        many("backfill", [store("new", "read", size=2), ledger("dirty"), *copied], copied=1, present=1),
        SAVE,
    ]
    second = [store("old", "scan", size=2), many("backfill", [store("new", "read"), *copied], copied=1), SAVE]
    pages = [page("backfill", first, 2, [OPENED]), page("backfill", second, 1)]
    children = [*LOOKED, *TAKEN, *pages, *SAVED]
    assert typed(runs(traced)) == typed([run("backfill", children, 2, rows=3, copied=2, present=1)])


async def test_spans_of_a_verify(world: World, traced: Traced) -> None:
    """The keys that look different are compared under one span a page, with counts by outcome and both reads."""
    held = dict.fromkeys(KEYS[:3], VALUE)
    migration = traced.migration(world, old=held, new={KEYS[0]: OTHER, KEYS[1]: VALUE, KEYS[3]: VALUE}, **METHODS)
    differ = {"keys": 1, "hashes": str([f"{migration.gate.locate(KEYS[0])[0]:016x}"])}
    extra = {"keys": 1, "hashes": str([f"{migration.gate.locate(KEYS[3])[0]:016x}"])}
    await verify(migration).run()
    calls = [BEGIN_COPY, store("old", "read"), store("new", "read"), ALONE]
    changed = many("verify", [*calls, END], [warning("keys_differ", **differ, suppressed=0)], different=1)
    missing = many("verify", [*calls, ledger("withdraw")], different=1)  # New lacks it: nothing is marked
    more = many("verify", [*calls, END], [warning("keys_differ", **extra)], different=1)
    scans = [store("old", "scan", size=2), store("new", "scan", size=2)]
    pages = [
        page("verify", [*scans, changed, SAVE], 2),
        page("verify", [*scans, missing, SAVE], 1),
        page("verify", [more, SAVE], 0),
    ]
    children = [*LOOKED, store("new", "scan"), *TAKEN, *pages, *SAVED]
    counts = {"equal": 1, "changed": 1, "marked": 2, "missing": 1, "not_opened": 1, "extra": 1}
    assert typed(runs(traced)) == typed([run("verify", children, 3, rows=3, **counts)])


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
    withdrawn = ledger("withdraw")
    reads = [store("old", "read"), store("new", "read"), withdrawn]
    compared = [each for each in _below(traced.tree()) if each[0] == "zddm.verify_many"]
    assert typed(compared) == typed(
        [
            many("verify", [ledger("begin_copy", 2), *reads], equal=1, unsure=1),
            many("verify", [BEGIN_COPY, *reads], equal=1),
        ]
    )


def _below(tree: Sequence[Any]) -> Iterator[Any]:
    for each in tree:
        yield each
        yield from _below(each[-1])


async def test_spans_of_a_repair(world: World, traced: Traced) -> None:
    """Each copy of a repair is one span with counts by outcome; the calls that make it are its children."""
    held = dict.fromkeys(KEYS, VALUE)
    migration = traced.migration(world, old=held, new=held, **METHODS)
    await left_stale(migration)
    traced.exporter.clear()
    await migration.repair(delete_extra=True).run()
    reads = [store("old", "read", size=2), store("new", "read")]
    begun = [BEGIN_COPY, store("old", "read")]
    copies = [
        many("repair", [*begun, store("new", "write"), END], copied=1),
        many("repair", [*begun, store("new", "delete"), END], absent=1),
    ]
    children = [ledger("summary"), page("repair", [*reads, *copies], 2)]
    counts = {"rows": 2, "dry_run": False, "copied": 1, "deleted": 1}
    assert typed(runs(traced)) == typed([run("repair", children, 1, **counts)])


async def test_spans_within_the_callers(world: World, traced: Traced) -> None:
    """Within a span of the caller's, pages and scans are its children, in the order in which they were done."""
    migration = traced.migration(world, old=dict.fromkeys(KEYS[:3], VALUE), **METHODS)
    await migration.read("absent")  # so that it is known by now that somebody records
    traced.exporter.clear()
    with traced.provider.get_tracer("app").start_as_current_span("nightly"):
        await migration.backfill(page_size=2).run()
        await verify(migration).run()
    tree = without_ledger(traced.tree())
    scan_old, scan_new = ("scan users", []), ("scan users:v2", [])
    copied = ("zddm.backfill_many", [("read users:v2", []), ("read users", []), ("write users:v2", [])])
    backfill = ("zddm.backfill", [("zddm.backfill.page", [scan_old, copied])] * 2)
    compared = ("zddm.verify.page", [scan_old, scan_new])
    # The first scan looks whether New can be walked; the last page is of what only New may have.
    walked = ("zddm.verify", [scan_new, compared, compared, ("zddm.verify.page", [])])
    assert names(tree) == [("nightly", [backfill, walked])]


async def test_a_failed_page(world: World, traced: Traced) -> None:
    """Where Old fails, the page's span and the call's have the error's type, and the job tries again."""
    migration = traced.migration(world, old={KEYS[0]: VALUE}, **METHODS)
    migration.old.outage(methods=["read"])
    job = migration.backfill()

    async def recover() -> None:
        migration.old.recover()

    job.time.hooks.append(recover)
    await job.run()
    failed, done = (each for each in _below(without_ledger(traced.tree())) if each[0] == "zddm.backfill_many")
    trouble = "tests.core.worlds.Trouble"
    assert (failed[2], failed[3]["error.type"]) == ("ERROR", trouble)
    assert typed(failed[-1]) == typed([store("new", "read"), store("old", "read", trouble)])
    assert (done[2], done[3]["zddm.path.copied"]) == ("UNSET", 1)
    [(_, _, status, _, happened, _)] = traced.tree()
    waited = ("zddm.waiting", {"zddm.migration": "users", "zddm.why": "a store or the ledger fails: Trouble"})
    assert (status, happened) == ("UNSET", [waited])


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
