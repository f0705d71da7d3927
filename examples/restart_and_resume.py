"""Kill, write, restart, resume: each step is a process of its own, and the last one serves nothing stale."""

import subprocess
import sys
import tempfile

from sqlalchemy import Column, MetaData, String, Table, create_engine

from zddm_adapters.sqlalchemy import SqlAlchemyAdapter, SqlAlchemyLedger
from zddm_flags import Proxy, TrafficGate


def step(folder: str, rate: float, value: str | None) -> None:
    """What one process does: it writes a value, or reads what there is."""
    table = Table(
        "users", MetaData(), Column("id", String, primary_key=True), Column("name", String, nullable=False)
    )
    engines = [create_engine(f"sqlite:///{folder}/{name}.db") for name in ("old", "new")]
    for engine in engines:
        table.create(engine, checkfirst=True)
    old, new = (SqlAlchemyAdapter(engine, table, value="name") for engine in engines)
    ledger = SqlAlchemyLedger(create_engine(engines[0].url, isolation_level="AUTOCOMMIT"))  # where Old is
    with Proxy(TrafficGate(rate), old, new, name="users", ledger=ledger) as proxy:
        if value is not None:
            proxy.write("ada", value)
        else:
            print(f"a read-through cache serves {new.read('ada')!r}, the proxy {proxy.read('ada')!r}")
            if proxy.read("ada") != "v2":
                raise SystemExit("a stale read")


if len(sys.argv) > 1:
    step(sys.argv[1], float(sys.argv[2]), *(sys.argv[3:] or [None]))
else:
    with tempfile.TemporaryDirectory() as folder:
        for arguments in (["1.0", "v1"], ["0.0", "v2"], ["1.0"]):  # migrate; kill and write; resume
            subprocess.run([sys.executable, __file__, folder, *arguments], check=True)
