"""`zddm repair` over real files: what it copies, deletes and leaves, and why."""

from __future__ import annotations

import json
import re
import signal

import pytest

from tests.cli.applications import Application, check_output, until

STALE = """
import os
proxy = helper.proxy()
proxy.write_many({f"secret-key-{row}": f"secret-value-{row} of before" for row in range(300)})
proxy.gate.set_rate(0.0)  # a kill
proxy.write_many({f"secret-key-{row}": f"secret-value-{row}" for row in range(200)})
"""
VERIFIED = """
from zddm_flags import Backfill, Verify
proxy = helper.proxy()
Backfill(proxy).run()
with helper.engine("new").begin() as connection:
    connection.exec_driver_sql("UPDATE users SET name = 'secret-value' WHERE id LIKE 'secret-key-1_'")
    connection.exec_driver_sql("INSERT INTO users VALUES ('secret-extra', 'secret-value')")
Verify(proxy).run()
"""


@pytest.fixture(params=["blocking", "asyncio"])
def application(request, tmp_path):
    """Old has 300 users, New none."""
    return Application(tmp_path, request.param)


@pytest.fixture
def blocking(tmp_path):
    """The same, in one world only."""
    return Application(tmp_path, "blocking")


def test_stale_keys_are_copied(application):
    """A dry run says what there is to do and changes nothing; then it is done; then there is nothing to do."""
    application.python(STALE)
    before = application.users("new")
    assert before != application.users("old")
    done = application.run("repair", "--dry-run")
    assert done.returncode == 1
    assert done.stdout.startswith("200 rows to repair: 200 would be copied.\nNothing was changed")
    assert "Changing nothing: what is counted is what would be done.\n" in done.stderr
    assert application.users("new") == before
    done = application.run("repair")
    assert done.returncode == 0, done.stderr
    assert re.match(r"Repaired 200 rows in .* s: 200 copied\.\nNext, ", done.stdout)
    assert done.stdout.endswith(f" zddm verify app:proxy --app-dir {application.folder}\n")
    assert "200 of about 200 rows; 200 copied" in done.stderr
    assert application.users("new") == application.users("old")
    done = application.run("repair", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "There is nothing to do.\n")
    done = application.run("repair")
    assert (done.returncode, done.stdout) == (0, "There was nothing to repair.\n")


def test_what_a_verify_found(application):
    """Without --delete-extra a key that only New has is left, and said; with it New equals Old."""
    application.python(VERIFIED)
    done = application.run("repair", "--from-verify")
    assert done.returncode == 1
    assert "Repaired 10 rows" in done.stdout
    assert "1 left in New, though not in Old: run this again with --delete-extra." in done.stdout
    assert application.users("new") == {**application.users("old"), "secret-extra": "secret-value"}
    done = application.run("repair", "--from-verify", "--delete-extra", "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["job"], told["complete"], told["deleted"], told["extra"]) == ("repair", True, 1, 0)
    assert application.users("new") == application.users("old")


def test_without_a_verify_it_is_said(blocking):
    """--from-verify before any verify ends with 2, and says what to run."""
    done = blocking.run("repair", "--from-verify")
    assert done.returncode == 2
    assert "no verify was run, so that none found anything: zddm verify app:proxy --app-dir" in done.stderr


def test_keys_above_the_rate(blocking):
    """Keys above the write rate are left, unless --all is given."""
    blocking.python(STALE)
    done = blocking.run("repair", "--dry-run", rate=0.25)
    told = re.match(
        r"200 rows to repair: (\d+) would be copied, (\d+) above the write rate, to be left without --all\.\n",
        done.stdout,
    )
    assert told is not None, done.stdout
    assert int(told[1]) + int(told[2]) == 200
    done = blocking.run("repair", rate=0.25)
    assert done.returncode == 1
    assert re.search(r"1\d\d left, above the write rate: raise it, or give --all\.", done.stdout)
    assert blocking.run("repair", "--all", rate=0.25).returncode == 0
    assert blocking.users("new") == blocking.users("old")


def test_what_new_refuses_is_left(blocking):
    """A row that New does not take stays stale, and the exit code is 1."""
    blocking.let_new_refuse("secret-value-7")
    blocking.python(STALE)
    done = blocking.run("repair")
    assert done.returncode == 1
    assert (
        "1 refused by New, and stale, so that Old serves what it has: see why, and run this again." in done.stdout
    )


def test_on_a_terminal(application):
    """A bar and the figures are drawn, and the result stands below."""
    application.python(STALE)
    code, shown = application.on_terminal("repair", "--per-second", "150")
    assert code == 0
    assert "━" in shown
    assert "200 of about 200 rows" in shown
    assert "Next, compare the stores: zddm verify app:proxy --app-dir " in shown


def test_stopped(application):
    """Ctrl-C stops it with 130 and the command that does the rest."""
    application.python(STALE)
    with application.started("repair", "--per-second", "40") as process:
        until(lambda: "secret-value-1" in application.users("new").values())
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    check_output(output + errors)
    assert process.returncode == 130
    stopped = re.search(r"Stopped after (\d+) rows: .* Do the rest with: zddm repair app:proxy", output)
    assert stopped is not None, output
    done = application.run("repair")
    assert done.returncode == 0
    assert f"Repaired {200 - int(stopped[1])} rows" in done.stdout
    assert application.users("new") == application.users("old")


def test_killed(application):
    """What is killed with SIGKILL leaves nothing that the next one does not do."""
    application.python(STALE)
    with application.started("repair", "--per-second", "40") as process:
        until(lambda: "secret-value-1" in application.users("new").values())
        process.kill()
        process.wait()
    assert application.run("repair").returncode == 0
    assert application.users("new") == application.users("old")


def test_a_store_that_fails_for_too_long(application):
    """Where New fails for longer than --patience it is said, by the error's type alone."""
    application.python(STALE)
    (application.folder / "old.db").unlink()
    (application.folder / "old.db").mkdir()
    done = application.run("repair", "--patience", "1")
    assert done.returncode == 2
    assert "Error: gave up: Old fails with OperationalError" in done.stderr
    assert "go on with: zddm repair app:proxy" in done.stderr


def test_at_rate_0_it_does_not_begin(blocking):
    """A flag at 0 is said, with the exit code 2; a dry run asks for no rate."""
    blocking.python(STALE)
    done = blocking.run("repair", rate=0.0)
    assert done.returncode == 2
    assert "the gate writes 0 % of the keys to New" in done.stderr
    assert blocking.run("repair", "--dry-run", rate=0.0).returncode == 1


def test_a_target_that_cannot_be_used(blocking):
    """A wrong target ends with 2 and an advice, never with a traceback."""
    (blocking.folder / "app.py").write_text("raise RuntimeError('secret')\n")
    done = blocking.run("repair")
    assert done.returncode == 2
    assert "app:proxy raised RuntimeError in app.py, line 1. To see all of it, in " in done.stderr
