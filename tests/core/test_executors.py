"""Parts of a job that are done by an executor: in threads, and in processes that end without a word."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine
from sqlalchemy.exc import OperationalError

from tests.worlds import settle
from zddm_adapters.sqlalchemy import SqlAlchemyAdapter
from zddm_flags import AsyncBackfill, AsyncVerify, Backfill, Comparison, Verify, targets
from zddm_flags.errors import BadTarget, ExecutorFailed, LedgerMismatch, LedgerNotShared, Superseded
from zddm_flags.remote import RemotePart

ROWS = 600
APPLICATION = '''
"""An application's stores, and some that are out of order."""

import os
import sys
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_adapters.sqlalchemy import (
    AsyncSqlAlchemyAdapter, AsyncSqlAlchemyLedger, SqlAlchemyAdapter, SqlAlchemyLedger
)
from zddm_flags import AsyncProxy, Proxy, TrafficGate

HERE = Path(__file__).parent
ENGINES = {"blocking": [], "awaited": []}


class StoreDown(Exception):
    def __init__(self, host, *, port):
        super().__init__(f"{host}:{port}")


class Old(SqlAlchemyAdapter):
    def scan(self, cursor=None, limit=1000, until=None):
        (HERE / f"pid-{os.getpid()}").touch()
        return super().scan(cursor, limit, until)


class AsyncOld(AsyncSqlAlchemyAdapter):
    async def scan(self, cursor=None, limit=1000, until=None):
        (HERE / f"pid-{os.getpid()}").touch()
        return await super().scan(cursor, limit, until)


def options(name):
    own = {"isolation_level": "AUTOCOMMIT"} if name == "ledger" else {}
    return {"connect_args": {"timeout": 30}, **own}


def engines(*names):
    made = [create_engine(f"sqlite:///{HERE}/{name}.db", **options(name)) for name in names]
    ENGINES["blocking"] += made
    return made


def awaited_engines(*names):
    made = [create_async_engine(f"sqlite+aiosqlite:///{HERE}/{name}.db", **options(name)) for name in names]
    ENGINES["awaited"] += made
    return made


def table():
    return Table("users", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))


def blocking(rate=1.0, old_class=Old, name="users"):
    old, new, ledger = engines("old", "new", "ledger")
    return Proxy(
        TrafficGate(rate), old_class(old, table()), SqlAlchemyAdapter(new, table()), name=name,
        ledger=SqlAlchemyLedger(ledger), max_operation_seconds=1.5, max_call_seconds=1.0,
    )


def awaited(rate=1.0, old_class=AsyncOld, name="users"):
    old, new, ledger = awaited_engines("old", "new", "ledger")
    return AsyncProxy(
        TrafficGate(rate), old_class(old, table()), AsyncSqlAlchemyAdapter(new, table()), name=name,
        ledger=AsyncSqlAlchemyLedger(ledger), max_operation_seconds=1.5, max_call_seconds=1.0,
    )


def blocking_closed():
    return blocking(rate=0.0)


def awaited_closed():
    return awaited(rate=0.0)


def blocking_elsewhere():
    return blocking(name="others")


def awaited_elsewhere():
    return awaited(name="others")


def blocking_alone():
    return Proxy(TrafficGate(1.0), InMemoryAdapter(), InMemoryAdapter(), name="users")


def awaited_alone():
    return AsyncProxy(TrafficGate(1.0), AsyncInMemoryAdapter(), AsyncInMemoryAdapter(), name="users")


class DownAfterHalf(Old):
    """Its second half cannot be read."""

    error = OperationalError("SELECT", {}, Exception("the disk"))

    def scan(self, cursor=None, limit=1000, until=None):
        if cursor is not None:
            raise self.error
        return super().scan(cursor, limit, until)


class AsyncDownAfterHalf(AsyncOld):
    error = DownAfterHalf.error

    async def scan(self, cursor=None, limit=1000, until=None):
        if cursor is not None:
            raise self.error
        return await super().scan(cursor, limit, until)


class Unsendable(DownAfterHalf):
    error = StoreDown("old", port=5432)


def blocking_down():
    return blocking(old_class=DownAfterHalf)


def awaited_down():
    return awaited(old_class=AsyncDownAfterHalf)


def unsendable():
    return blocking(old_class=Unsendable)


def broken():
    raise ZeroDivisionError("no such host")


def leaving():
    sys.exit(3)
'''


class Application:
    """The application's module in a folder, and its stores: files there."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self.module_name = f"stores_{uuid.uuid4().hex}"  # threads of one process know modules by their names
        (folder / f"{self.module_name}.py").write_text(APPLICATION, encoding="utf-8")
        self.target = f"{self.module_name}:{kind}"
        for name in ("old", "new"):
            table = Table("users", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))
            engine = create_engine(f"sqlite:///{folder}/{name}.db")
            with engine.begin() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                table.create(connection)
            if name == "old":
                SqlAlchemyAdapter(engine, table).write_many({key: {"name": f"n{key}"} for key in range(ROWS)})
            engine.dispose()

    @property
    def module(self) -> Any:
        return importlib.import_module(self.module_name)

    def target_of(self, what: str) -> str:
        return f"{self.module_name}:{self.kind}_{what}"

    def backfill(
        self, executor: Executor | None = None, *, target: str | None = None, workers: int = 2, **options: Any
    ) -> Any:
        kind = Backfill if self.kind == "blocking" else AsyncBackfill
        target = target if target is not None else self.target
        return kind(self.proxy(), executor=executor, target=target, workers=workers, **options)

    def verify(self, executor: Executor | None = None, *, workers: int = 2, **options: Any) -> Any:
        kind = Verify if self.kind == "blocking" else AsyncVerify
        return kind(self.proxy(), executor=executor, target=self.target, workers=workers, **options)

    def proxy(self) -> Any:
        return getattr(self.module, self.kind)()

    async def run(self, job: Any) -> Any:
        """The job's result."""
        if self.kind == "blocking":
            return await asyncio.to_thread(job.run)
        return await job.run()

    def names(self, store: str) -> dict[int, str]:
        engine = create_engine(f"sqlite:///{self.folder}/{store}.db", connect_args={"timeout": 30})
        try:
            with engine.connect() as connection:
                return {row.id: row.name for row in connection.exec_driver_sql("SELECT id, name FROM users")}
        finally:
            engine.dispose()

    def checkpoints(self) -> dict[str, int]:
        """The versions of the checkpoints, by name."""
        with self.module.blocking() as proxy:
            return {name: each.version for name, each in proxy.ledger.checkpoints().items()}

    def process_ids(self) -> set[int]:
        """The processes that scanned Old."""
        return {int(path.name.removeprefix("pid-")) for path in self.folder.glob("pid-*")}


@pytest.fixture(params=["blocking", "awaited"])
async def application(request: pytest.FixtureRequest, tmp_path, monkeypatch) -> AsyncIterator[Application]:
    """An application of each world, whose module processes find in their current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made = Application(tmp_path, request.param)
    yield made
    for engine in made.module.ENGINES["blocking"]:
        engine.dispose()
    for engine in made.module.ENGINES["awaited"]:
        await engine.dispose()


def processes(workers: int = 2) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


async def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.01)


def ended_within(seconds: float, executor: Executor) -> None:
    """Assert that the executor has no work left soon."""
    began = time.monotonic()
    executor.shutdown(wait=True)
    assert time.monotonic() - began < seconds


class Recording(Executor):
    """Keeps what is submitted, and does nothing."""

    def __init__(self) -> None:
        self.submitted: list[Any] = []

    def submit(self, fn, /, *args, **kwargs):
        self.submitted.append((fn, args))
        raise RuntimeError("cannot schedule new futures after shutdown")


class Late(Executor):
    """Holds what is submitted until the test calls it. It counts as running, so that it cannot be cancelled."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def submit(self, fn, /, *args, **kwargs):
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self.calls.append(lambda: fn(*args, **kwargs))
        return future


class Earlier(ThreadPoolExecutor):
    """Sends parts as a version from before there were traces did: what it pickled lacks the last field."""

    def submit(self, fn, /, *args, **kwargs):
        [part] = args
        values = [getattr(part, field.name) for field in dataclasses.fields(part) if field.name != "trace"]
        sent: Any = object.__new__(RemotePart)
        sent.__setstate__(values)
        return super().submit(fn, sent, **kwargs)


class Twice(ThreadPoolExecutor):
    """Does everything twice at once, as a cluster that lost sight of a worker, and listens to one of the two."""

    def __init__(self, listen_to: int) -> None:
        super().__init__(4)
        self._listen_to = listen_to
        self.superseded = 0
        self.kept: list[Future[Any]] = []

    def submit(self, fn, /, *args, **kwargs):
        both = [super(Twice, self).submit(fn, *args, **kwargs) for _ in range(2)]
        self.kept += both
        return both[self._listen_to]


# -- what it does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(2), processes], ids=["threads", "processes"])
async def test_a_backfill_and_a_verify_come_to_what_a_local_run_comes_to(application, make):
    """Threads and processes copy and compare every key, and count as a local run does."""
    proxy = application.proxy()
    await settle(proxy.write(3, {"name": "n3"}))
    with make() as executor:
        copied = await application.run(application.backfill(executor, page_size=50))
        compared = await application.run(application.verify(executor, page_size=50))
    assert application.names("new") == application.names("old")
    assert (copied.finished, copied.resumed, copied.covered) == (True, False, 1.0)
    assert (copied.rows, copied.copied, copied.present) == (ROWS, ROWS - 1, 1)
    again = await application.run(application.verify(page_size=50))
    assert dataclasses.replace(compared, seconds=0) == dataclasses.replace(again, seconds=0)
    assert (compared.equal, compared.differences) == (ROWS, [])


async def test_a_verify_elsewhere_tells_of_the_differences(application):
    """What parts find in other processes is in the result, by key."""
    with processes(1) as executor:
        await application.run(application.backfill())
        engine = create_engine(f"sqlite:///{application.folder}/new.db")
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE users SET name = 'other' WHERE id IN (5, 500)")
            connection.exec_driver_sql("DELETE FROM users WHERE id = 7")
        engine.dispose()
        found = await application.run(application.verify(executor, comparison=Comparison(ignore=["visits"])))
    assert (found.changed, found.missing, found.equal) == (2, 1, ROWS - 3)
    assert sorted(each.kind for each in found.differences) == ["changed", "changed", "missing"]
    assert found.fields == {"name": 2}


async def test_its_progress_is_followed_and_its_stop_ends_it_with_the_next_page(application):
    """While parts run elsewhere progress() grows; after stop() they end soon, and a later run goes on."""
    executor = processes()
    job = application.backfill(executor, per_second=60, page_size=5)
    run = asyncio.ensure_future(application.run(job))
    await until(lambda: job.progress().rows > 0)
    assert (job.progress().parts, job.progress().expected) == (2, ROWS)
    seen = job.progress().rows
    await until(lambda: job.progress().rows > seen)
    job.stop()
    stopped = await asyncio.wait_for(run, 10)
    assert not stopped.finished
    assert 0 < stopped.rows < ROWS
    await asyncio.to_thread(ended_within, 5, executor)
    versions = application.checkpoints()
    with ThreadPoolExecutor(2) as threads:
        result = await application.run(application.backfill(threads))
    assert (result.finished, result.resumed, result.rows) == (True, True, ROWS)
    assert result.copied + result.present == ROWS
    assert application.names("new") == application.names("old")
    assert versions["backfill/0"] < application.checkpoints()["backfill/0"]


async def test_a_part_that_begins_after_a_stop_does_nothing(application):
    """A queue that cannot be cancelled may deliver a part after its run was stopped: it ends at once."""
    executor = Late()
    job = application.backfill(executor)
    run = asyncio.ensure_future(application.run(job))
    await until(lambda: len(executor.calls) == 2)
    job.stop()
    assert not (await asyncio.wait_for(run, 10)).finished
    for call in executor.calls:
        with pytest.raises(Superseded):
            await asyncio.to_thread(call)
    assert application.names("new") == {}


async def test_parts_that_wait_end_with_a_stop_too(application, monkeypatch):
    """Where the flag is at 0 for the workers, they wait; a stop ends them although they save no page."""
    for job_module in ("zddm_flags._sync.job", "zddm_flags._async.job"):
        monkeypatch.setattr(f"{job_module}.HELD_SECONDS", 0.1)
    executor = ThreadPoolExecutor(2)
    job = application.backfill(executor, target=application.target_of("closed"))
    run = asyncio.ensure_future(application.run(job))
    await until(
        lambda: len(application.process_ids()) == 1 and {"backfill/0", "backfill/1"} <= job._versions.keys()
    )
    job.stop()
    result = await asyncio.wait_for(run, 10)
    assert (result.finished, result.rows) == (False, 0)
    await asyncio.to_thread(ended_within, 5, executor)
    assert application.names("new") == {}


async def test_a_second_run_takes_over_from_one_that_goes_on(application):
    """Who begins later has the parts; the earlier one ends as superseded, and leaves the other's parts alone."""
    with processes() as slow, ThreadPoolExecutor(2) as threads:
        job = application.backfill(slow, per_second=40, page_size=2)
        first = asyncio.ensure_future(application.run(job))
        await until(lambda: job.progress().rows > 0)
        result = await application.run(application.backfill(threads))
        with pytest.raises(Superseded):
            await asyncio.wait_for(first, 10)
    assert (result.finished, result.resumed, result.rows) == (True, True, ROWS)
    assert application.names("new") == application.names("old")


async def test_a_cancelled_run_ends_its_parts(application):
    """Where the coroutine that waits is cancelled, its parts end with their next page."""
    if application.kind == "blocking":
        pytest.skip("a blocking call is not cancelled")
    executor = processes()
    job = application.backfill(executor, per_second=40, page_size=2)
    run = asyncio.ensure_future(application.run(job))
    await until(lambda: job.progress().rows > 0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await asyncio.to_thread(ended_within, 5, executor)
    assert len(application.names("new")) < ROWS


@pytest.mark.parametrize("listen_to", [0, 1])
async def test_a_part_that_runs_twice_at_once_is_done_once(application, listen_to):
    """The later copy fences the earlier; whichever of them the executor tells of, the run finishes, all right."""
    with Twice(listen_to) as executor:
        result = await application.run(application.backfill(executor, page_size=20))
        await until(lambda: all(call.done() for call in executor.kept))
        errors = [call.exception() for call in executor.kept]
    assert (result.finished, result.rows) == (True, ROWS)
    assert application.names("new") == application.names("old")
    assert {type(error) for error in errors} <= {type(None), Superseded}
    assert any(isinstance(error, Superseded) for error in errors)


async def test_the_workers_share_what_is_allowed_in_a_second(application):
    """Two workers together keep to per_second, and no part begins with a burst after the part before it."""
    with ThreadPoolExecutor(2) as executor:
        result = await application.run(application.backfill(executor, parts=2, per_second=200))
    assert result.rows == ROWS
    assert result.seconds > 0.9 * ROWS / 200


# -- what goes wrong -------------------------------------------------------------------------------------------


async def test_a_worker_that_is_killed_costs_its_page(application):
    """A SIGKILLed worker ends the run with what to do about it, and the next run completes it."""
    with processes() as executor:
        job = application.backfill(executor, per_second=100, page_size=10)
        run = asyncio.ensure_future(application.run(job))
        await until(lambda: job.progress().rows > 0)
        others = application.process_ids() - {os.getpid()}
        os.kill(others.pop(), signal.SIGKILL)
        with pytest.raises(ExecutorFailed, match="run it again") as failed:
            await asyncio.wait_for(run, 20)
    assert isinstance(failed.value.__cause__, BrokenProcessPool)
    with processes() as executor:
        result = await application.run(application.backfill(executor))
    assert (result.finished, result.resumed, result.complete, result.rows) == (True, True, True, ROWS)
    assert application.names("new") == application.names("old")


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(2), processes], ids=["threads", "processes"])
async def test_a_store_that_is_down_reaches_the_caller(application, make):
    """An error of a part is the run's, of its own kind, and ends the other parts, which would last for long."""
    executor = make()
    job = application.backfill(
        executor, target=application.target_of("down"), patience_seconds=0, per_second=20, page_size=5
    )
    with pytest.raises(OperationalError, match="the disk"):
        await asyncio.wait_for(application.run(job), 20)
    await asyncio.to_thread(ended_within, 5, executor)
    assert len(application.names("new")) < ROWS / 2


@pytest.mark.parametrize(
    ("attribute", "error"), [("broken", ZeroDivisionError), ("nothing", BadTarget), ("leaving", ExecutorFailed)]
)
async def test_a_target_that_raises_reaches_the_caller(application, attribute, error):
    """What making the proxy raises in a worker is the run's error, and never its exit."""
    with ThreadPoolExecutor(2) as executor:
        job = application.backfill(executor, target=f"{application.module_name}:{attribute}")
        with pytest.raises(error) as failed:
            await asyncio.wait_for(application.run(job), 20)
    if attribute == "leaving":
        assert isinstance(failed.value.__cause__, SystemExit)


async def test_a_part_of_an_earlier_version_is_done(application):
    """Workers that are newer than who waits for them do the parts that it sends."""
    with Earlier(2) as executor:
        result = await asyncio.wait_for(application.run(application.backfill(executor)), 20)
    assert (result.finished, result.rows) == (True, ROWS)


async def test_an_error_that_cannot_be_sent_is_named(application):
    """An exception that no other process can make again breaks no pool: its name reaches the caller."""
    with processes(1) as executor:
        target = f"{application.module_name}:unsendable"
        job = application.backfill(executor, target=target, patience_seconds=0)
        with pytest.raises(ExecutorFailed, match=r"stores_\w+\.StoreDown"):
            await asyncio.wait_for(application.run(job), 20)
        assert executor.submit(os.getpid).result() != os.getpid()


async def test_another_ledger_elsewhere_is_told(application):
    """A target whose proxy is of another migration ends the run, and hangs nothing."""
    with ThreadPoolExecutor(2) as executor:
        job = application.backfill(executor, target=application.target_of("elsewhere"))
        with pytest.raises(LedgerMismatch, match="another name"):
            await asyncio.wait_for(application.run(job), 20)
        job = application.backfill(executor, target=application.target_of("alone"))
        with pytest.raises(LedgerNotShared):
            await asyncio.wait_for(application.run(job), 20)


async def test_what_cannot_be_sent_is_refused_before_anything_is_submitted(application):
    """A lambda as an argument is a TypeError that says so; nothing is submitted, and no run begins."""
    executor = Recording()
    job = application.verify(executor, comparison=Comparison(equal=lambda old, new: old == new))
    with pytest.raises(TypeError, match=r"Comparison\.equal"):
        await application.run(job)
    assert executor.submitted == []
    assert application.checkpoints() == {}
    with pytest.raises(RuntimeError, match="after shutdown"):
        await application.run(application.verify(executor))
    assert len(executor.submitted) == 1


async def test_a_ledger_in_memory_is_refused(application):
    """No part elsewhere would see it."""
    kind = Backfill if application.kind == "blocking" else AsyncBackfill
    executor = Recording()
    alone = getattr(application.module, f"{application.kind}_alone")()
    with pytest.raises(LedgerNotShared):
        await settle(kind(alone, executor=executor, target=application.target).run())
    assert executor.submitted == []
    await settle(alone.close())


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
# It warns of what is tested here.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_forked_workers_are_refused(application):
    """A worker that was forked shares connections with this process: it says so, and does nothing."""
    executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with executor, pytest.raises(ExecutorFailed, match="spawn"):
        await asyncio.wait_for(application.run(application.backfill(executor)), 20)
    assert application.names("new") == {}


async def test_a_process_makes_one_proxy_for_all_its_threads(application, monkeypatch):
    """However many parts and threads ask at once, the target is called once."""
    made = []
    together = threading.Barrier(4)

    def make():
        made.append(application.proxy())
        return made[-1]

    monkeypatch.setattr(application.module, "counted", make, raising=False)

    def ask(_):
        together.wait(10)
        return targets.shared(f"{application.module_name}:counted")

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(4)))
    assert len(made) == 1
    assert all(each is made[0] for each in found)


def test_dask_is_not_imported():
    """What runs parts elsewhere knows no cluster: an executor is all that it takes."""
    code = "import sys, zddm_flags.remote as _; print({'dask', 'distributed'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "set()\n"
