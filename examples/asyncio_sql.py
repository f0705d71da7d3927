"""Two SQL tables under asyncio. On PostgreSQL only the URLs and time-outs differ: docs/postgresql.md."""

import asyncio
import tempfile
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import create_async_engine

from zddm_adapters.sqlalchemy import AsyncSqlAlchemyAdapter, AsyncSqlAlchemyLedger
from zddm_flags import AsyncProxy, TrafficGate


def table(name: str) -> Table:
    """Old and New may be called as they like; here they have the same columns."""
    return Table(
        name, MetaData(), Column("id", String, primary_key=True), Column("visits", Integer, nullable=False)
    )


async def main(folder: Path) -> None:
    """Move the visits of a user, whom requests go on to count."""
    old_engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'old.db'}", hide_parameters=True)
    new_engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'new.db'}", hide_parameters=True)
    old_table, new_table = table("users"), table("people")
    for engine, each in ((old_engine, old_table), (new_engine, new_table)):
        async with engine.begin() as connection:
            await connection.run_sync(each.create)
    old = AsyncSqlAlchemyAdapter(old_engine, old_table, value="visits")
    new = AsyncSqlAlchemyAdapter(new_engine, new_table, value="visits")

    ledger_engine = create_async_engine(old_engine.url, isolation_level="AUTOCOMMIT")  # where Old is
    ledger = AsyncSqlAlchemyLedger(ledger_engine)
    gate = TrafficGate(0.0)
    async with AsyncProxy(gate, old, new, name="users", ledger=ledger) as users:
        await users.write("ada", 1)
        print("at 0 New has", await new.read("ada"))
        gate.set_rate(1.0)
        print("a read returns", await users.read("ada"), "and New has", await new.read("ada"))
        await users.write("ada", 2)
        moved = await new.read("ada")
        print("after a write New has", moved)
    for engine in (old_engine, new_engine, ledger_engine):
        await engine.dispose()
    if moved != 2:
        raise SystemExit("the write did not reach New")


with tempfile.TemporaryDirectory() as name:
    asyncio.run(main(Path(name)))
