"""A run of a job is one trace that stays small: which pages it has, what it says, and how it goes on elsewhere."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, use_span

from tests.core.worlds import SCANNED, Clock, Migration, Store, Trouble, World
from tests.telemetry.snapshots import Traced
from tests.telemetry.test_jobs import verify
from zddm_flags import AsyncBackfill, Backfill, targets
from zddm_flags._async.work import Stopped
from zddm_flags.paths import reason_of
from zddm_telemetry import JobTelemetry, MigrationTelemetry

METHODS: dict[str, Any] = {"old_methods": SCANNED, "new_methods": SCANNED}
VALUE = "secret-value"
UNSAMPLED = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0)))


def keys(number: int) -> dict[str, str]:
    return {f"secret-key-{each:03}": VALUE for each in range(number)}


def told(telemetry: Traced, clock: Clock, **options: Any) -> JobTelemetry:
    """The telemetry of a run whose time passes by hand."""
    migration = MigrationTelemetry(telemetry.telemetry(**options), "users", None, reason_of)
    return JobTelemetry(migration, "backfill", Stopped, clock=clock)


def spans(traced: Traced, name: str) -> list[ReadableSpan]:
    return sorted((span for span in traced.spans if span.name == name), key=lambda span: span.start_time or 0)


def root(traced: Traced, name: str) -> dict[str, Any]:
    """The attributes of the one span of that name, which is a root."""
    [span] = spans(traced, name)
    assert span.parent is None
    return dict(span.attributes or {})


def beyond(traced: Traced, name: str) -> int:
    """How many spans have a parent that is neither the run, nor below it."""
    [run] = spans(traced, name)
    assert run.context is not None
    return sum(span.context is None or span.context.trace_id != run.context.trace_id for span in traced.spans)


# --- which pages have spans


def test_ten_pages_then_one_in_a_while(traced: Traced) -> None:
    """The first ten pages have spans, then the first one after `page_span_seconds` since the last that had one."""
    clock = Clock()
    with told(traced, clock, page_span_seconds=30.0) as run:
        for number in range(40):
            with run.page(part=number):
                clock.advance(7)
    parts = [(span.attributes or {})["zddm.job.part"] for span in spans(traced, "zddm.backfill.page")]
    assert parts == [*range(10), 14, 19, 24, 29, 34, 39]
    attributes = root(traced, "zddm.backfill")
    assert (attributes["zddm.job.pages"], attributes["zddm.job.pages_traced"]) == (40, 16)


def test_each_page_where_asked_for(traced: Traced) -> None:
    """`page_span_seconds=0` gives each page a span."""
    with told(traced, Clock(), page_span_seconds=0.0) as run:
        for _ in range(25):
            with run.page():
                pass
    assert len(spans(traced, "zddm.backfill.page")) == 25


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_wrong_seconds(traced: Traced, seconds: float) -> None:
    """A number of seconds below 0, or that is none, is refused."""
    with pytest.raises(ValueError, match="page_span_seconds must be 0 or more"):
        traced.telemetry(page_span_seconds=seconds)


@pytest.mark.parametrize("job", ["backfill", "verify", "repair"])
async def test_nothing_below_an_untraced_page(world: World, traced: Traced, job: str) -> None:
    """A run of many pages records what one of fewer does, and so does a driver with a tracer of its own."""
    recorded = []
    for number in (30, 90):
        migration = traced.migration(
            world, old=keys(number), telemetry=traced.telemetry(page_span_seconds=3600.0), **METHODS
        )
        await prepare(migration, job)
        seen = watch_driver(traced, migration.old, "read_many" if job == "repair" else "scan")
        traced.exporter.clear()
        await made(migration, job).run()
        about = root(traced, f"zddm.{job}")
        assert about["zddm.job.pages"] >= number // 2
        assert about["zddm.job.pages_traced"] == 10
        assert set(seen) == {True, False}
        assert beyond(traced, f"zddm.{job}") == 0
        recorded.append(Counter(span.name for span in traced.spans))
    fewer, more = recorded
    assert more == fewer
    assert fewer[f"zddm.{job}.page"] == 10
    assert fewer["SELECT"] >= 10


def watch_driver(traced: Traced, store: Store, method: str) -> list[bool]:
    """Let a driver of this store make a span at each such call; whether each was recorded."""
    seen: list[bool] = []
    tracer = traced.provider.get_tracer("driver")

    async def driver() -> None:
        with tracer.start_as_current_span("SELECT") as span:
            seen.append(span.is_recording())
        store.before[method] = driver

    store.before[method] = driver
    return seen


async def prepare(migration: Migration, job: str) -> None:
    if job == "repair":
        migration.rows.open_to(1.0)
        migration.proxy.disable()
        await migration.write_many(dict(migration.old.values))
        migration.proxy.enable()


def made(migration: Migration, job: str) -> Any:
    return verify(migration) if job == "verify" else getattr(migration, job)(page_size=2)


# --- what is said of a run


def test_waiting_is_said_now_and_then(traced: Traced) -> None:
    """That a run waits is an event, at most once in ten seconds for each reason."""
    clock = Clock()
    with told(traced, clock) as run:
        for _ in range(25):
            run.waits("one")
            run.waits("other")
            clock.advance(1)
    [span] = spans(traced, "zddm.backfill")
    happened = Counter((event.name, (event.attributes or {})["zddm.why"]) for event in span.events)
    assert happened == {("zddm.waiting", "one"): 3, ("zddm.waiting", "other"): 3}


async def test_a_run_that_is_stopped_and_gone_on_with(world: World, traced: Traced) -> None:
    """A run says whether it was stopped or finished, whether it was gone on with, its rows and its outcomes."""
    migration = traced.migration(world, old=keys(8), **METHODS)
    job = migration.backfill(page_size=2)

    async def stop() -> None:
        job.stop()

    migration.new.after["write_many"] = stop
    await job.run()
    first = root(traced, "zddm.backfill")
    assert {span.status.status_code.name for span in traced.spans} == {"UNSET"}
    traced.exporter.clear()
    await migration.backfill(page_size=2).run()
    then = root(traced, "zddm.backfill")
    assert [each["zddm.job.state"] for each in (first, then)] == ["stopped", "finished"]
    assert [each["zddm.job.resumed"] for each in (first, then)] == [False, True]
    assert first["zddm.job.run"] == then["zddm.job.run"]
    assert first["zddm.job.rows"] < then["zddm.job.rows"] == 8
    assert then["zddm.rows.copied"] + then.get("zddm.rows.present", 0) == 8
    assert not [name for name in then if name in ("zddm.rows.rows", "zddm.rows.failed")]


async def test_a_page_that_is_stopped(world: World, traced: Traced) -> None:
    """A page that is given up because the run is stopped is no failure, and says that it was stopped."""
    migration = traced.migration(world, 0.0, old=keys(2), **METHODS)
    job = migration.backfill()
    migration.gate.set_rate(1.0)
    migration.new.outage(methods=["write_many"])

    async def stop() -> None:
        job.stop()

    job.time.hooks.append(stop)
    await job.run()
    [page] = spans(traced, "zddm.backfill.page")
    assert page.status.status_code.name == "UNSET"
    assert (page.attributes or {})["zddm.job.state"] == "stopped"
    assert "error.type" not in (page.attributes or {})
    assert root(traced, "zddm.backfill")["zddm.job.state"] == "stopped"


@pytest.mark.parametrize("job", ["backfill", "verify", "repair"])
async def test_a_run_that_raises(world: World, traced: Traced, job: str) -> None:
    """A run that raises has the class of its error, and no state, for it came to none."""
    migration = traced.migration(world, old=keys(3), **METHODS)
    await prepare(migration, job)
    traced.exporter.clear()
    migration.ledger.outage(methods=["summary", "checkpoints"])
    with pytest.raises(Trouble):
        await made(migration, job).run()
    [span] = spans(traced, f"zddm.{job}")
    attributes = span.attributes or {}
    assert (span.status.status_code.name, attributes["error.type"]) == ("ERROR", "tests.core.worlds.Trouble")
    assert "zddm.job.state" not in attributes
    assert "secret" not in traced.text()


# --- workers


async def test_workers_keep_below_the_run(world: World, traced: Traced) -> None:
    """Several workers' pages are all children of the run's span, and what they call is below the pages."""
    migration = traced.migration(world, old=keys(24), telemetry=traced.telemetry(page_span_seconds=0.0), **METHODS)
    migration.old.pause = world.pause
    await migration.backfill(page_size=2, workers=4, parts=4).run()
    [(name, *_, children)] = traced.tree()
    pages = [child for child in children if child[0] == "zddm.backfill.page"]
    assert name == "zddm.backfill"
    assert {page[3]["zddm.job.part"] for page in pages} == {0, 1, 2, 3}
    for page in pages:
        assert {child[0] for child in page[-1]} >= {"scan users", "zddm.ledger.save_checkpoint"}
    assert not get_current_span().is_recording()


async def test_an_unsampled_caller(world: World, traced: Traced) -> None:
    """Nothing of a run is recorded, whose caller is not sampled, by any of several workers."""
    migration = traced.migration(world, old=keys(30), **METHODS)
    with use_span(UNSAMPLED):
        await migration.backfill(page_size=2, workers=2, parts=2).run()
        await made(migration, "verify").run()
    assert traced.spans == ()
    assert len(migration.new.values) == 30


# --- elsewhere


_elsewhere: list[Any] = []


def proxy_elsewhere() -> Any:
    """The proxy of who does parts of a run."""
    return _elsewhere[-1]


async def done_by_threads(migration: Migration, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """A backfill whose parts are done by an executor's threads, which have no context of the run's."""
    monkeypatch.setattr(targets, "_shared", {})
    _elsewhere.append(migration.in_another_process(1.0, **options).proxy)
    make: Any = Backfill if migration.world.blocking else AsyncBackfill
    with ThreadPoolExecutor(2) as executor:
        target = f"{__name__}:proxy_elsewhere"
        job = make(migration.proxy, page_size=2, parts=2, workers=2, executor=executor, target=target)
        return await migration.world.call(job.run)


async def test_an_executors_parts(world: World, traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that an executor does go on with the run's trace: each has a span below the run's, with its pages."""
    migration = traced.migration(world, old=keys(12), **METHODS)
    elsewhere = Traced()
    result = await done_by_threads(migration, monkeypatch, telemetry=elsewhere.telemetry())
    assert result.complete
    [run] = spans(traced, "zddm.backfill")
    parts = spans(elsewhere, "zddm.backfill.part")
    assert run.context is not None
    assert {str((part.attributes or {})["zddm.job.part"]) for part in parts} == {"0", "1"}
    for part in parts:
        assert part.context is not None
        assert part.parent is not None
        assert part.context.trace_id == run.context.trace_id
        assert part.parent.span_id == run.context.span_id
        attributes = part.attributes or {}
        assert attributes["zddm.job.rows"] == attributes["zddm.rows.copied"] in (5, 7)
        assert attributes["zddm.job.pages"] == attributes["zddm.job.pages_traced"] in (3, 4)
    ids = {part.context.span_id for part in parts if part.context is not None}
    pages = spans(elsewhere, "zddm.backfill.page")
    assert len(pages) == 7
    assert {page.parent.span_id for page in pages if page.parent is not None} == ids
    assert (run.attributes or {})["zddm.rows.copied"] == 12
    assert spans(traced, "zddm.backfill.page") == []


async def test_an_executors_parts_of_an_unsampled_run(
    world: World, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the run is not sampled, its parts elsewhere are not, either."""
    migration = traced.migration(world, old=keys(12), **METHODS)
    elsewhere = Traced()
    with use_span(UNSAMPLED):
        result = await done_by_threads(migration, monkeypatch, telemetry=elsewhere.telemetry())
    assert result.complete
    assert traced.spans == elsewhere.spans == ()


async def test_an_executors_parts_of_a_run_without_telemetry(
    world: World, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only those who do the parts have an SDK, each part is a trace of its own."""
    migration = world.migration(old=keys(12), **METHODS)
    result = await done_by_threads(migration, monkeypatch, telemetry=traced.telemetry())
    assert result.complete
    assert [span.parent for span in spans(traced, "zddm.backfill.part")] == [None, None]


APPLICATION = '''
"""An application whose spans are kept in files, one for each process."""

import os
from pathlib import Path

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine

from zddm_adapters.sqlalchemy import SqlAlchemyAdapter, SqlAlchemyLedger
from zddm_flags import Proxy, Telemetry, TrafficGate

HERE = Path(__file__).parent


class Keep(SpanProcessor):
    def on_end(self, span):
        parent = "" if span.parent is None else f"{span.parent.span_id:x}"
        line = f"{span.name},{span.context.trace_id:x},{span.context.span_id:x},{parent}"
        with (HERE / f"{os.getpid()}.spans").open("a") as file:
            file.write(line + chr(10))


ENGINES = []


def engine(name, **options):
    ENGINES.append(create_engine(f"sqlite:///{HERE}/{name}.db", connect_args={"timeout": 30}, **options))
    return ENGINES[-1]


def table():
    return Table("users", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))


def users():
    provider = TracerProvider()
    provider.add_span_processor(Keep())
    ledger = engine("ledger", isolation_level="AUTOCOMMIT")
    return Proxy(
        TrafficGate(1.0), SqlAlchemyAdapter(engine("old"), table()), SqlAlchemyAdapter(engine("new"), table()),
        name="users", ledger=SqlAlchemyLedger(ledger), telemetry=Telemetry(tracer_provider=provider, log=False),
    )
'''


def test_parts_in_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are spawned for the parts go on with the trace of the run, each with its own SDK."""
    module = f"spans_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(APPLICATION, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    application: Any = importlib.import_module(module)
    for name in ("old", "new"):
        engine = application.engine(name)
        application.table().create(engine)
        if name == "old":
            with engine.begin() as connection:
                connection.execute(
                    application.table().insert(), [{"id": number, "name": "n"} for number in range(20)]
                )
    proxy = application.users()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        target = f"{module}:users"
        assert Backfill(proxy, page_size=5, parts=2, workers=2, executor=executor, target=target).run().complete
    for engine in application.ENGINES:
        engine.dispose()
    lines = {path.stem: path.read_text().splitlines() for path in tmp_path.glob("*.spans")}
    made = {process: [tuple(line.split(",")) for line in kept] for process, kept in lines.items()}
    own = made.pop(str(os.getpid()))
    [(_, trace_id, run, parent)] = [span for span in own if span[0] == "zddm.backfill"]
    assert parent == ""
    parts = [span for kept in made.values() for span in kept if span[0] == "zddm.backfill.part"]
    assert [part[1:2] + part[3:] for part in parts] == [(trace_id, run)] * 2
    ids = {part[2] for part in parts}
    pages = [span for kept in made.values() for span in kept if span[0] == "zddm.backfill.page"]
    assert len(pages) >= 4
    assert {page[3] for page in pages} == ids
