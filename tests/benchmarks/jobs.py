"""Backfill and verify beside the bare loops that a person would write, over PostgreSQL and Valkey."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import redis
from sqlalchemy import Column, Integer, LargeBinary, MetaData, Table, create_engine, delete, insert

from tests.benchmarks import figures
from tests.benchmarks.figures import Figure, Row, ratio, spread
from tests.benchmarks.settings import Settings
from tests.benchmarks.stores import VALUE
from tests.finish import bare
from zddm_adapters.redis import RedisAdapter
from zddm_adapters.sqlalchemy import SqlAlchemyAdapter, SqlAlchemyLedger
from zddm_flags import Backfill, Proxy, TrafficGate, Verify

__all__ = ["jobs_table"]

TURNS = 5
ROWS = Table(
    "many",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", LargeBinary, nullable=False),
)


def jobs_table(name: str, title: str, settings: Settings) -> figures.Table:
    """In turns, each from an empty New and with a ledger that knows nothing of the migration."""
    engine = create_engine(settings.postgresql)
    ledger_engine = create_engine(settings.postgresql, isolation_level="AUTOCOMMIT")
    ROWS.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(delete(ROWS))
        connection.execute(insert(ROWS), [{"id": number, "value": VALUE} for number in range(settings.rows)])
    client = redis.Redis(port=settings.valkey, db=settings.valkey_database)
    old: Any = SqlAlchemyAdapter(engine, ROWS, value="value")
    new: Any = RedisAdapter(client, prefix="many:", encode_key=lambda key: b"%d" % key, decode_key=int)
    found: dict[str, list[float]] = {each: [] for each in ("backfill", "bare copy", "verify", "bare comparison")}
    try:
        ledger = SqlAlchemyLedger(ledger_engine)
        for turn in range(min(TURNS, settings.turns)):
            with Proxy(TrafficGate(1.0), old, new, name=f"jobs-{turn}", ledger=ledger) as proxy:
                steps: list[tuple[str, Callable[[], Any]]] = [
                    ("backfill", Backfill(proxy).run),
                    ("bare copy", lambda: bare.copy(old, new)),
                    ("bare comparison", lambda: bare.compare(old, new)),
                    ("verify", Verify(proxy).run),
                ]
                if turn % 2:
                    steps = [steps[1], steps[0], steps[3], steps[2]]
                for step, do in steps:
                    if step in ("backfill", "bare copy"):
                        client.flushdb()
                    began = time.perf_counter()
                    do()
                    found[step].append(time.perf_counter() - began)
    finally:
        engine.dispose()
        ledger_engine.dispose()
        client.close()
    rows = [
        Row(job, _cells(found[job], found[alone], settings.rows))
        for job, alone in (("backfill", "bare copy"), ("verify", "bare comparison"))
    ]
    notes = [f"{settings.rows:,} rows; the ledger is in PostgreSQL; `tests/finish/bare.py` holds the bare loops."]
    return figures.Table(name, title, ("rows", "bare loop", "to bare loop", "share"), rows, notes, "job")


def _cells(job: list[float], alone: list[float], rows: int) -> dict[str, Figure | str]:
    shares = spread([100 * one / other for one, other in zip(alone, job, strict=True)], "%")
    return {
        "rows": spread([rows / each for each in job], "/s"),
        "bare loop": spread([rows / each for each in alone], "/s"),
        "to bare loop": ratio(job, alone),
        "share": shares,
    }
