"""A migration to its end, under live writes: backfill, verify, repair, and whether it is time to cut over."""

import contextlib
import itertools
import tempfile
import threading
from collections.abc import Iterator

from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, create_engine, event

from zddm_adapters.sqlalchemy import SqlAlchemyAdapter, SqlAlchemyLedger
from zddm_flags import Backfill, Proxy, Repair, TrafficGate, Verify

ROWS = 2_000
Users = SqlAlchemyAdapter[int, str]


def database(path: str, **options: str) -> Engine:
    """A SQLite file to which several threads may write. On PostgreSQL: docs/postgresql.md."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30}, **options)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode=WAL"))
    return engine


def users_in(engine: Engine, name: str) -> Users:
    """A table of names by number."""
    columns = Column("id", Integer, primary_key=True), Column("name", String, nullable=False)
    table = Table(name, MetaData(), *columns)
    table.create(engine)
    return SqlAlchemyAdapter(engine, table, value="name")


@contextlib.contextmanager
def traffic(users: Proxy[int, str]) -> Iterator[None]:
    """An application that goes on writing meanwhile: to every user but number 7."""
    stopped, first = threading.Event(), threading.Event()

    def work() -> None:
        for revision in itertools.count():
            if stopped.is_set():
                return
            users.write(revision % ROWS if revision % ROWS != 7 else 8, f"revision {revision}")
            first.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        first.wait(30)
        yield
    finally:
        stopped.set()
        thread.join()


def expect(what: str, *, so: bool) -> None:
    """Say it, and end the example where it is not so."""
    print(what)
    if not so:
        raise SystemExit("that is not as it should be")


def finish(users: Proxy[int, str], new: Users) -> None:
    """What an operator does at 100 %; on the command line: `zddm backfill`, `zddm verify`, `zddm repair`."""
    backfilled = Backfill(users).run()
    expect(f"backfill: {backfilled.rows} rows looked at", so=backfilled.complete)
    reasons = users.migration_status().reasons
    expect(f"not ready yet: {reasons[-1]}", so=reasons[-1].startswith("no verify was run"))

    new.write(7, "written past the proxy")  # which nobody may do
    found = Verify(users).run()
    expect(f"verify: {found.verdict}, {found.marked} key that nobody knew of", so=found.marked == 1)
    stale = users.migration_status().stale
    expect(f"New still has {new.read(7)!r}, but it is stale: Old serves it from now on", so=stale > 0)

    repaired = Repair(users, found_by_verify=True).run()
    expect(f"repair: New has {new.read(7)!r}", so=repaired.complete and new.read(7) == "user 7")


def main(folder: str) -> None:
    """Move the users, while they are written to."""
    engines = [database(f"{folder}/{name}.db") for name in ("old", "new")]
    engines.append(database(f"{folder}/old.db", isolation_level="AUTOCOMMIT"))  # the ledger, where Old is
    old, new = users_in(engines[0], "users"), users_in(engines[1], "people")
    old.write_many({number: f"user {number}" for number in range(ROWS)})
    with Proxy(TrafficGate(1.0), old, new, name="users", ledger=SqlAlchemyLedger(engines[2])) as users:
        with traffic(users):
            finish(users, new)
        Repair(users).run()  # what is stale yet, if anything
        verified = Verify(users).run()
        expect(f"verify: {verified.verdict}, {verified.equal} keys", so=verified.verdict == "equal")
        status = users.migration_status()
        expect("ready to cut over" if status.ready else f"not ready: {status.reasons}", so=status.ready)
    for engine in engines:
        engine.dispose()


with tempfile.TemporaryDirectory() as name:
    main(name)
