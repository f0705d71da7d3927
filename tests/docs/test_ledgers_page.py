"""docs/ledgers.md does what it says."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, text
from structlog.testing import capture_logs

from tests.docs.preloaded_workers import page_names
from zddm_adapters import InMemoryAdapter
from zddm_adapters.sqlalchemy import SqlAlchemyLedger
from zddm_flags import Proxy, TrafficGate
from zddm_flags.errors import LedgerMismatch, LedgerUnavailable
from zddm_flags.testing import FlagServer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "ledgers.md"
TEXT = PAGE.read_text(encoding="utf-8")
EVENTS = re.compile(r'report(?:_limited)?\(\s*(?:"(?:info|warning|error)",\s*)?"(\w+)"')


@pytest.fixture
def database(postgresql_database, monkeypatch):
    """An engine on a database that has both of the page's tables, and is the page's Old and New."""
    server, name = postgresql_database
    url = server.url(name)
    for variable in ("OLD_DATABASE_URL", "NEW_DATABASE_URL"):
        monkeypatch.setenv(variable, url.render_as_string(hide_password=False))
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", "sdk-local")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    for table in ("users", "people"):
        columns = (Column("id", String, primary_key=True), Column("email", String), Column("visits", Integer))
        Table(table, MetaData(), *columns).create(engine)
    yield engine
    engine.dispose()


def execute(engine, *statements):
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_the_code_runs_and_prints_what_the_page_shows(database):
    """The page's code runs with one connection an engine, its last block prints what follows it, and its SQL
    leaves nothing of the migration.
    """
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    shown = re.search(r"^```text\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    statements = re.search(r"^```sql\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert statements is not None
    output = io.StringIO()
    with capture_logs(), FlagServer({"users-migration-rate": 1}) as server:
        names = page_names(server)
        with contextlib.redirect_stdout(output):
            exec(compile(blocks[2], str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
        names["source"].close()
    assert output.getvalue() == shown[1]
    users = names["users"]
    execute(database, *statements[1].strip().split("\n"))
    with database.connect() as connection:
        for table in ("zddm_migrations", "zddm_keys", "zddm_checkpoints"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0
    with pytest.raises(LedgerMismatch):  # hence only when no process has a proxy of it any more
        users.write("u1", {"email": "ada@example.org", "visits": 2})
    for engine in ("old_engine", "new_engine", "ledger_engine"):
        names[engine].dispose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_workers_of_a_preloaded_application(database):
    """Forked workers that call the page's `post_fork` follow the flag, and share the ledger with their parent."""
    script = Path(__file__).parent / "preloaded_workers.py"
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    seen = [0.0, 1.0, True, 7, True, True]
    assert json.loads(run.stdout) == {"workers": [seen, seen], "parent": [1, 2]}


@pytest.mark.parametrize("on_ledger_error", ["strict", "available"])
def test_after_a_loss(database, on_ledger_error):
    """After a loss writes fail at rate 0 too and reads go to Old, until the process has a proxy of a new name."""
    gate = TrafficGate(1.0)
    old, new = InMemoryAdapter({"k": 1}), InMemoryAdapter()
    ledger = SqlAlchemyLedger(database)
    with capture_logs():
        users = Proxy(gate, old, new, name="users", ledger=ledger, on_ledger_error=on_ledger_error)
        users.write("k", 2)
        execute(database, "DELETE FROM zddm_migrations")
        assert (users.read("k"), users.stats().operations["read", "ledger_failed"]) == (2, 1)
        gate.set_rate(0.0)
        with pytest.raises(LedgerMismatch):
            users.write("k", 3)
        assert users.read("k") == 2
        users = Proxy(gate, old, new, name="users-2", ledger=ledger, on_ledger_error=on_ledger_error)
        users.write("k", 3)
        new.delete("k")  # New is emptied
        gate.set_rate(1.0)
        assert users.read("k") == 3 == new.read("k")


def test_a_row_of_a_key_that_is_gone_is_not_noticed(database):
    """Whoever deletes rows of zddm_keys under a live migration gets a stale read, as the page warns."""
    gate = TrafficGate(1.0)
    with capture_logs():
        users = Proxy(gate, InMemoryAdapter(), InMemoryAdapter(), name="users", ledger=SqlAlchemyLedger(database))
        users.write("k", 1)
        gate.set_rate(0.0)
        users.write("k", 2)
        execute(database, "DELETE FROM zddm_keys")
        gate.set_rate(1.0)
        assert users.read("k") == 1


def test_a_user_who_may_not_create_tables(database):
    """With the rights on the two tables alone a process serves; after they are dropped, a new one fails."""
    role = f"r_{database.url.database}"
    ledger = SqlAlchemyLedger(database)
    ledger.create_tables()
    execute(
        database,
        "REVOKE CREATE ON SCHEMA public FROM public",
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON zddm_migrations, zddm_keys TO {role}",
    )
    limited = create_engine(database.url.set(username=role), isolation_level="AUTOCOMMIT")
    gate = TrafficGate(1.0)
    try:
        with capture_logs():
            old, new = InMemoryAdapter(), InMemoryAdapter()
            Proxy(gate, old, new, name="users", ledger=SqlAlchemyLedger(limited)).write("k", 1)
            assert new.read("k") == 1
            execute(database, "DROP TABLE zddm_migrations, zddm_keys")
            with pytest.raises(LedgerUnavailable):
                Proxy(gate, old, new, name="users", ledger=SqlAlchemyLedger(limited)).write("k", 2)
    finally:
        limited.dispose()
        execute(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_bytes_of_a_stale_key(database):
    """A stale key takes about the 380 bytes that the page tells of, rows that are dead included."""
    rows = SqlAlchemyLedger(database).migration("size", "x")
    keys = [b"s%036d" % number for number in range(5000)]
    rows.begin(keys, b"t")
    rows.end(dict.fromkeys(keys, False), b"t")
    with database.connect() as connection:
        used = connection.execute(text("SELECT pg_total_relation_size('zddm_keys')")).scalar()
    assert 200 < used / len(keys) < 600


def logged_events():
    """Every event that the library logs."""
    logged = set()
    for folder in ("zddm_flags", "adapters", "telemetry"):
        for file in (ROOT / folder).rglob("*.py"):
            source = file.read_text(encoding="utf-8")
            logged |= set(EVENTS.findall(source))
            if file.name == "launchdarkly.py":
                logged |= set(re.findall(r'"((?:launchdarkly|rollout|rate|flag)_\w+)"', source))
    return logged - {"flag_key", "flag_value", "info", "warning", "error"}


def test_every_log_event_is_on_the_page():
    """Each event that the library logs is on the page, and the page names no other."""
    logged = logged_events()
    assert len(logged) > 15
    assert sorted(event for event in logged if f"`{event}`" not in TEXT) == []
    section = TEXT.split("## What to alert on")[1].split("\nMetrics:")[0]
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`\*?", section)) - {"suppressed"}
    assert named <= logged


def test_default_waits():
    """The page counts with the default of max_operation_seconds: how old a token is when it is reaped."""
    proxy = Proxy(TrafficGate(1.0), InMemoryAdapter(), InMemoryAdapter())
    assert proxy._settings.reap_age == pytest.approx(34)
    assert "about 34 s" in TEXT
