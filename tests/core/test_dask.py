"""A backfill on a Dask cluster of real processes, one of which is killed in the middle."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, text

from zddm_adapters.sqlalchemy import SqlAlchemyAdapter
from zddm_flags import AsyncVerify, Backfill, Repair, VerifyResult

distributed = pytest.importorskip("distributed")

ROWS = 2000
APPLICATION = '''
import os
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from zddm_adapters.sqlalchemy import (
    AsyncSqlAlchemyAdapter, AsyncSqlAlchemyLedger, SqlAlchemyAdapter, SqlAlchemyLedger
)
from zddm_flags import AsyncProxy, Proxy, TrafficGate

PAGES = Path(__file__).parent / "pages"


class Old(SqlAlchemyAdapter):
    """Leaves a line for each page: which process read it."""

    def scan(self, cursor=None, limit=1000, until=None):
        with PAGES.open("a") as pages:
            pages.write(f"{os.getpid()}\\n")
        return super().scan(cursor, limit, until)


def table(name):
    return Table(name, MetaData(), Column("id", Integer, primary_key=True), Column("name", String))


def users():
    stores = create_engine(os.environ["STORES_URL"])
    ledger = create_engine(os.environ["STORES_URL"], isolation_level="AUTOCOMMIT")
    made = Proxy(
        TrafficGate(1.0), Old(stores, table("old")), SqlAlchemyAdapter(stores, table("new")), name="users",
        ledger=SqlAlchemyLedger(ledger), max_operation_seconds=2.5, max_call_seconds=2.0,
    )
    made.engines = stores, ledger
    return made


def awaited_users():
    stores = create_async_engine(os.environ["STORES_URL"])
    ledger = create_async_engine(os.environ["STORES_URL"], isolation_level="AUTOCOMMIT")
    made = AsyncProxy(
        TrafficGate(1.0),
        AsyncSqlAlchemyAdapter(stores, table("old")),
        AsyncSqlAlchemyAdapter(stores, table("new")),
        name="users", ledger=AsyncSqlAlchemyLedger(ledger), max_operation_seconds=2.5, max_call_seconds=2.0,
    )
    made.engines = stores, ledger
    return made
'''


@pytest.fixture
def stores(postgresql_database, tmp_path, monkeypatch):
    """An engine on both tables, and the application's module where the workers look for it."""
    server, name = postgresql_database
    url = server.url(name)
    monkeypatch.setenv("STORES_URL", url.render_as_string(hide_password=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "dask_stores.py").write_text(APPLICATION, encoding="utf-8")
    (tmp_path / "pages").touch()
    engine = create_engine(url)
    for side in ("old", "new"):
        Table(side, MetaData(), Column("id", Integer, primary_key=True), Column("name", String)).create(engine)
    table = Table("old", MetaData(), autoload_with=engine)
    SqlAlchemyAdapter(engine, table).write_many({key: {"name": f"n{key}"} for key in range(ROWS)})
    yield engine
    engine.dispose()


@pytest.fixture
def cluster(stores, tmp_path):
    """Two workers with a thread each, in processes of their own that start again where they end."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(tmp_path / "workers"),
        silence_logs=50,  # a killed worker is told of at length
    ) as made:
        yield made


@pytest.fixture
def users(stores):
    """The application's proxy, in this process."""
    import dask_stores  # pyright: ignore[reportMissingImports] - the fixture `stores` has written it

    proxy = dask_stores.users()
    yield proxy
    proxy.close()
    for engine in proxy.engines:
        engine.dispose()


class Writer(threading.Thread):
    """The application's traffic: writes, deletes and reads through the proxy until it is told to end."""

    def __init__(self, proxy: Any) -> None:
        super().__init__()
        self._proxy = proxy
        self._ended = threading.Event()
        self.written: dict[int, str | None] = {}
        self.wrong: list[int] = []

    def run(self) -> None:
        chance = random.Random(20260)
        while not self._ended.wait(0.002):
            key = chance.randrange(ROWS)
            if chance.random() < 0.2:
                self._proxy.delete(key)
                self.written[key] = None
            else:
                self.written[key] = f"w{len(self.written)}-{chance.random()}"
                self._proxy.write(key, {"name": self.written[key]})
            again = chance.choice(list(self.written))
            found = self._proxy.read(again)
            if (found and found["name"]) != self.written[again]:
                self.wrong.append(again)

    def end(self) -> None:
        self._ended.set()
        self.join(10)


def held(engine: Any, side: str) -> dict[int, str]:
    with engine.connect() as connection:
        return {row.id: row.name for row in connection.execute(text(f"SELECT id, name FROM {side}"))}


def workers_at_it() -> list[int]:
    """The processes that read the pages so far, one a page."""
    return [int(line) for line in Path("pages").read_text(encoding="utf-8").split()]


async def verified(executor: Any) -> VerifyResult:
    """What an asyncio program finds, with its parts on the cluster."""
    import dask_stores  # pyright: ignore[reportMissingImports] - the fixture `stores` has written it

    async with dask_stores.awaited_users() as proxy:
        job = AsyncVerify(proxy, executor=executor, target="dask_stores:awaited_users", workers=2)
        result = await job.run()
    for engine in proxy.engines:
        await engine.dispose()
    return result


def test_a_killed_worker_s_parts_run_again_elsewhere(stores, cluster, users):
    """One of two workers is SIGKILLed under an application's writes: the run finishes, and every key is right."""
    writer = Writer(users)
    killed: list[int] = []
    with distributed.Client(cluster) as client, client.get_executor(pure=False) as executor:
        job = Backfill(
            users, executor=executor, target="dask_stores:users", workers=2, parts=4, page_size=50, per_second=1000
        )

        def kill() -> None:
            while job.progress().rows < ROWS / 5:
                time.sleep(0.01)
            killed.append(workers_at_it()[-1])
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        writer.start()
        killer.start()
        try:
            result = job.run()
        finally:
            writer.end()
        killer.join(10)
        found = asyncio.run(verified(executor))
    assert killed
    assert killed[0] != os.getpid()
    assert len(set(workers_at_it())) >= 2
    assert result.finished
    assert result.complete
    assert result.rows >= ROWS - sum(value is None for value in writer.written.values())
    assert writer.wrong == []
    old = held(stores, "old")
    expected = {key: f"n{key}" for key in range(ROWS)} | writer.written
    assert old == {key: value for key, value in expected.items() if value is not None}
    assert found.finished
    assert found.marked == 0  # what is wrong in New is stale, so that Old serves it
    assert found.equal >= ROWS / 2
    assert Repair(users).run().finished
    assert held(stores, "new") == old
