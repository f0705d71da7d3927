"""docs/postgresql.md does what it says."""

import contextlib
import io
import re
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, text
from structlog.testing import capture_logs

PAGE = Path(__file__).parents[2] / "docs" / "postgresql.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```python\n(?P<code>.*?)^```\n\n```text\n(?P<output>.*?)^```\n", re.DOTALL | re.MULTILINE)


def test_the_code_runs_and_prints_what_the_page_shows(postgresql_database, monkeypatch):
    """Each program of the page writes a row to both tables, with the time-outs that the page sets."""
    server, database = postgresql_database
    url = server.url(database)
    engine = create_engine(url)
    for name in ("users", "people"):
        columns = (Column("id", String, primary_key=True), Column("email", String), Column("visits", Integer))
        Table(name, MetaData(), *columns).create(engine)
    for variable in ("OLD_DATABASE_URL", "NEW_DATABASE_URL"):
        monkeypatch.setenv(variable, url.render_as_string(hide_password=False))
    names = {}
    checked = 0
    for block in BLOCKS.finditer(TEXT):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), capture_logs():
            exec(compile(block["code"], str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
        assert output.getvalue() == block["output"]
        checked += 1
        with engine.begin() as connection:
            assert connection.execute(text("SELECT count(*) FROM people")).scalar() == 1
            connection.execute(text("TRUNCATE users, people"))
    assert checked == TEXT.count("```python") == 3
    with names["old_engine"].connect() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar() == "2s"
    for each in (engine, names["old_engine"], names["new_engine"], names["ledger_engine"]):
        each.dispose()


def test_the_sum_of_the_time_outs_is_right():
    """The bounds of the table add up to what the page says, and stay below the default of max_call_seconds."""
    bounds = re.findall(r"\| ([\d x]+) \|$", TEXT, re.MULTILINE)
    total = sum(
        int(first) * int(second or 1) for first, second in (re.findall(r"(\d)(?: x (\d))?", b)[0] for b in bounds)
    )
    assert f"The sum, {total} s," in TEXT
    assert total < 30 / 3
