"""docs/scale.md does what it says."""

import contextlib
import importlib
import inspect
import io
import re
import signal
import sys
import threading
import time
from pathlib import Path

import ldclient
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine

from zddm_adapters.sqlalchemy import SqlAlchemyAdapter
from zddm_flags._async import job
from zddm_flags._async.job import AsyncJob
from zddm_flags.jobs import Part, Plan, Range
from zddm_flags.testing import FlagServer

distributed = pytest.importorskip("distributed")

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", TEXT, re.DOTALL | re.MULTILINE)
ROWS = 3000
PACKAGE = '''
"""The page's application reaches the LaunchDarkly of the test, in each process."""

import os

import ldclient
from ldclient.client import LDClient

CLIENTS = []


def local(config):
    url = os.environ["FLAGS_URL"]
    uris = {"base_uri": url, "stream_uri": url, "events_uri": url}
    CLIENTS.append(LDClient(ldclient.Config(config.sdk_key, **uris, send_events=False)))
    return CLIENTS[-1]


ldclient.LDClient = local
'''


@pytest.fixture
def application(postgresql_database, tmp_path, monkeypatch):
    """The page's module in a package of the current directory, and the tables and the flag that it expects."""
    server, name = postgresql_database
    url = server.url(name)
    for variable in ("OLD_DATABASE_URL", "NEW_DATABASE_URL"):
        monkeypatch.setenv(variable, url.render_as_string(hide_password=False))
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", "sdk-local")
    monkeypatch.setattr("ldclient.LDClient", ldclient.LDClient)  # so that it is put back
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text(PACKAGE, encoding="utf-8")
    (tmp_path / "app" / "stores.py").write_text(block("app/stores.py")[0], encoding="utf-8")
    engines = [create_engine(url)]
    engine = engines[0]

    def recorded(*arguments, **options):
        engines.append(create_engine(*arguments, **options))
        return engines[-1]

    monkeypatch.setattr("sqlalchemy.create_engine", recorded)
    for table in ("users", "people"):
        Table(table, MetaData(), Column("id", Integer, primary_key=True), Column("email", String)).create(engine)
    users = SqlAlchemyAdapter(engine, Table("users", MetaData(), autoload_with=engine))
    users.write_many({key: {"email": f"{key}@example.org"} for key in range(ROWS)})
    with FlagServer({"users-migration-rate": 1}) as flags:
        monkeypatch.setenv("FLAGS_URL", flags.url)
        yield
        for client in importlib.import_module("app").CLIENTS:
            client.close()
    for module in ("app", "app.stores"):
        sys.modules.pop(module, None)
    for each in engines:
        each.dispose()


def block(name):
    """The code of a file of the page, and what it prints."""
    return next(each for each in BLOCKS if each[0].startswith(f"# {name}\n"))


def run(name):
    """What a program of the page prints."""
    code, shown = block(name)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})  # noqa: S102 - the page is ours
    assert shown
    return output.getvalue(), shown


def test_the_programs_run_and_print_what_the_page_shows(application, tmp_path, monkeypatch):
    """The backfill runs in processes, and the verify on a Dask cluster."""
    printed, shown = run("backfill.py")
    assert printed.splitlines()[-1:] == shown.splitlines()
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(tmp_path / "workers"),
        silence_logs=50,
    ) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        printed, shown = run("verify.py")
    assert printed.splitlines()[-1:] == shown.splitlines()


def test_a_signal_stops_a_job():
    """The page's handler calls stop() in a thread."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    names = {}
    exec(BLOCKS[-1][0], names)  # noqa: S102 - the page is ours

    stopped_by = []

    class Job:
        def stop(self):
            stopped_by.append(threading.current_thread())

    try:
        names["stop_at_signal"](Job())
        signal.raise_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while not stopped_by:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert stopped_by[0] is not threading.main_thread()


def test_the_numbers_of_the_page_are_the_code_s():
    """The sizes of parts and pages, the periods and the patience on the page are those of the code."""
    parameters = inspect.signature(AsyncJob.__init__).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert f"rows / {job.ROWS_PER_PART:,}, at least `workers`, at most {job.MOST_PARTS}" in TEXT
    assert f"| `page_size` | {defaults['page_size']}, the default |" in TEXT
    assert f"`patience_seconds`, {defaults['patience_seconds']:.0f} s" in TEXT
    assert f"ends within {job.HELD_SECONDS:.0f} s" in TEXT
    assert f"{job.LOOK_SECONDS} s until the next is handed out" in TEXT
    assert job.FOLLOW_SECONDS == 1


def test_the_sizes_of_checkpoints_on_the_page_are_the_code_s():
    """A part and a plan take about as many characters as the page says."""
    counts = {"rows": 10**6, "copied": 10**6}
    part = Part("0" * 16, cursor="[123456789]", counts=counts, owner="0" * 16, more={"covers": 1.0})
    assert 150 < len(part.dump()) < 250
    ends = [f"[{number}]" for number in range(10**6, 2 * 10**9, 2 * 10**6)][:1000]
    plan = Plan("0" * 16, tuple(Range(end, end) for end in ends), {})
    assert 30_000 < len(plan.dump()) < 50_000
    longest = Plan("0" * 16, tuple(Range("x" * 460, "x" * 460) for _ in range(1000)), {})
    assert len(longest.dump()) < 10**6
