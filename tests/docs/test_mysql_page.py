"""docs/mysql.md does what it says, on MariaDB."""

import re
import time
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from zddm_adapters import InMemoryAdapter
from zddm_flags import Proxy, TrafficGate

PAGE = Path(__file__).parents[2] / "docs" / "mysql.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
IN_MARIADB = '", max_statement_time = 3"'


@pytest.mark.parametrize("with_statement_time", [False, True])
def test_the_settings_bound_a_write(mariadb_database, monkeypatch, with_statement_time):
    """With the page's program a write that meets a lock raises within seconds, and one that meets none is done."""
    server, name = mariadb_database
    monkeypatch.setenv("OLD_DATABASE_URL", server.url(name).render_as_string(hide_password=False))
    engine = create_engine(server.url(name))
    key = Column("id", String(40, collation="utf8mb4_nopad_bin"), primary_key=True)
    Table("users", MetaData(), key, Column("visits", Integer)).create(engine)
    assert len(BLOCKS) == 1
    assert IN_MARIADB in BLOCKS[0]
    code = BLOCKS[0]
    if with_statement_time:
        code = code.replace("timeout = 2", "timeout = 2" + IN_MARIADB.strip('"'))
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
    with capture_logs():
        users = Proxy(TrafficGate(1.0), names["old"], InMemoryAdapter(), name="users", ledger=names["ledger"])
        users.write("u1", {"visits": 1})
        with engine.begin() as connection:
            connection.execute(text("UPDATE users SET visits = 2"))
            began = time.monotonic()
            with pytest.raises(OperationalError):
                users.write("u1", {"visits": 3})
            assert time.monotonic() - began < 8
        assert users.read("u1") == {"visits": 2}
    with names["ledger_engine"].connect() as connection:
        shown = connection.execute(text("SELECT @@innodb_lock_wait_timeout, @@max_statement_time")).one()
        assert tuple(map(int, shown)) == (2, 3 if with_statement_time else 0)
    for each in (engine, names["old_engine"], names["ledger_engine"]):
        each.dispose()


def test_the_bounds_are_below_the_default():
    """The bounds of the table add up to less than the default of max_call_seconds."""
    bounds = [int(number) for number in re.findall(r"\| (\d+) \|$", TEXT, re.MULTILINE)]
    assert len(bounds) == 5
    assert sum(bounds) < 30 / 3
