"""A nightly job, as a plain blocking script: it ends the trials of users while these move to another store.

Ctrl-C, or SIGTERM, stops it between two pages, with exit code 130. Run again, it does the rest.
"""

import contextlib
import signal
import sys
import tempfile
import threading

import structlog
from ldclient import Context
from sqlalchemy import Column, Engine, MetaData, String, Table, create_engine, event

from zddm_adapters.sqlalchemy import SqlAlchemyAdapter, SqlAlchemyLedger
from zddm_flags import LaunchDarklySource, Proxy, TrafficGate
from zddm_flags.testing import FlagServer

FLAG = "users-migration-rate"
SERVICE = Context.builder("users-service").kind("service").build()
USERS = int(sys.argv[1]) if len(sys.argv) > 1 else 4_200
PAGE = 500

Plans = SqlAlchemyAdapter[str, str]


def database(path: str, **options: str) -> Engine:
    """A SQLite file. On PostgreSQL: docs/postgresql.md."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30}, hide_parameters=True, **options)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode=WAL"))
    return engine


def plans_in(engine: Engine, name: str) -> Plans:
    """A table of plans by user."""
    columns = Column("id", String, primary_key=True), Column("plan", String, nullable=False)
    table = Table(name, MetaData(), *columns)
    table.create(engine)
    return SqlAlchemyAdapter(engine, table, value="plan")


def end_trials(users: Proxy[str, str], old: Plans, stopped: threading.Event) -> bool:
    """The job: Old, which has them all, lists the users, and the proxy reads and writes their plans."""
    looked_at = ended = 0
    cursor: str | None = None
    while not stopped.is_set():
        page = old.scan(cursor, PAGE)
        plans = users.read_many(key for key, _ in page.items)
        trials = [key for key, plan in plans.items() if plan == "trial"]
        users.write_many(dict.fromkeys(trials, "free"))
        looked_at += len(page.items)
        ended += len(trials)
        print(f"{looked_at:,} users looked at, {ended:,} trials ended", flush=True)
        cursor = page.next_cursor
        if cursor is None:
            return True
    return False


def main(folder: str) -> int:
    """Open everything, do the job, close everything in the opposite order; returns the exit code."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # the progress is on stdout
    with contextlib.ExitStack() as stack:
        old_engine, new_engine = database(f"{folder}/old.db"), database(f"{folder}/new.db")
        ledger_engine = database(f"{folder}/old.db", isolation_level="AUTOCOMMIT")  # where Old is
        for engine in (old_engine, new_engine, ledger_engine):
            stack.callback(engine.dispose)
        old, new = plans_in(old_engine, "users"), plans_in(new_engine, "people")
        old.write_many({f"user-{number:06}": "trial" if number % 4 else "paid" for number in range(USERS)})
        flags = stack.enter_context(FlagServer({FLAG: 0.5}))  # in place of LaunchDarkly
        client = stack.enter_context(contextlib.closing(flags.client()))  # LDClient(Config(sdk_key)) elsewhere
        source = stack.enter_context(LaunchDarklySource(client, FLAG, SERVICE))
        gate = stack.enter_context(contextlib.closing(TrafficGate(source)))
        ledger = SqlAlchemyLedger(ledger_engine)
        users = stack.enter_context(Proxy(gate, old, new, name="users", ledger=ledger))
        complete = end_trials(users, old, stopped)
        moved = users.stats().operations.get(("write", "both"), 0)
        print(f"{moved:,} of them were written to both stores: the flag is at {gate.rate}")
    if not complete:
        print("stopped; run it again", file=sys.stderr)
    return 0 if complete else 130


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        code = main(name)
    sys.exit(code)
