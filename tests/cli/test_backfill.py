"""`zddm backfill` over real files: it tells what it does, is stopped, killed, and goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.cli.applications import Application, check_output, until


@pytest.fixture(params=["blocking", "asyncio"])
def application(request, tmp_path):
    """Old has 300 users, New none."""
    return Application(tmp_path, request.param)


@pytest.fixture
def blocking(tmp_path):
    """The same, in one world only."""
    return Application(tmp_path, "blocking")


def test_without_a_terminal(application):
    """It says what it covers, copies that, and says what came of the rows; the next one copies the others."""
    done = application.run("backfill", rate=0.25)
    assert done.returncode == 0, done.stderr
    assert (
        "The gate writes 25 % of the keys to New: this backfill covers these. Raise the write rate" in done.stderr
    )
    copied = len(application.users("new"))
    assert 30 < copied < 120
    assert re.search(rf"^300 of about 300 rows; .*{copied} copied.* rows/s", done.stderr, re.MULTILINE)
    assert done.stdout.startswith("Backfilled 300 rows in ")
    assert f": {copied} copied, {300 - copied} not covered." in done.stdout
    assert "\x1b[" not in done.stdout + done.stderr
    done = application.run("backfill")
    assert done.returncode == 0
    assert "this backfill covers all" in done.stderr
    assert f": {300 - copied} copied, {copied} in New already." in done.stdout
    assert done.stdout.endswith(f"zddm verify app:proxy --app-dir {application.folder}\n")
    assert application.users("new") == application.users("old")


def test_all_covers_the_keys_above_the_rate(blocking):
    """With --all every key is copied at any rate, and what this means is said before."""
    done = blocking.run("backfill", "--all", rate=0.25)
    assert done.returncode == 0
    assert "covers the others too (--all), and each of those is stale from its next write on" in done.stderr
    assert blocking.users("new") == blocking.users("old")


@pytest.mark.parametrize("columns", [100, 30])
def test_on_a_terminal(application, columns):
    """A bar and the figures are drawn, however narrow the terminal is, and the result stands below."""
    code, shown = application.on_terminal("backfill", "--per-second", "80", columns=columns)
    assert code == 0
    assert "━" in shown
    assert "300 of about 300 rows" in shown
    assert "300 copied" in shown
    assert "rows/s" in shown
    assert "waits: the limit" in shown
    assert "Next, compare the stores: zddm verify app:proxy --app-dir " in shown
    assert application.users("new") == application.users("old")


@pytest.mark.parametrize("how", [{"TERM": "dumb"}, {"plain": "--plain"}])
def test_lines_on_a_terminal(blocking, how):
    """A dumb terminal, and --plain, get lines and no bar."""
    arguments = [how["plain"]] if "plain" in how else []
    code, shown = blocking.on_terminal("backfill", *arguments, **{k: v for k, v in how.items() if k == "TERM"})
    assert code == 0
    assert "━" not in shown
    assert "300 of about 300 rows; 300 copied" in shown


def test_a_line_every_5_seconds(blocking):
    """What takes long is told of, line by line."""
    done = blocking.run("backfill", "--per-second", "42")
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "of about 300 rows" in line]
    assert len(lines) >= 2
    assert re.search(r"rows/s, [5-9]\.\d s, about .* left", lines[0])


def test_json_is_one_object(application):
    """With --json stdout has one object, whatever the application prints, and there is no progress."""
    done = application.run("backfill", "--json", "--workers", "2", "--parts", "3")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["job"], told["complete"], told["rows"], told["copied"]) == ("backfill", True, 300, 300)
    assert "rows/s" not in done.stderr
    assert "the application prints" in done.stderr


@pytest.mark.parametrize("command", ["backfill", "repair", "verify", "status"])
def test_what_the_application_prints_last_is_no_result(blocking, command):
    """Stdout has the result alone, also where the application prints after it, as its threads do."""
    with (blocking.folder / "app.py").open("a") as module:
        module.write("\nimport atexit\natexit.register(print, 'the last that the application prints')\n")
    done = blocking.run(command, "--json")
    assert isinstance(json.loads(done.stdout), dict)
    assert "the last that the application prints" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_and_resumed(application, number):
    """A signal stops it with 130 and the command that goes on; that one says that it does, and completes."""
    with application.started("backfill", "--per-second", "40", "--restart") as process:
        until(lambda: len(application.users("new")) > 40)
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    check_output(output + errors)
    assert process.returncode == 130
    stopped = re.search(r"Stopped after (\d+) rows: .* Go on with: (zddm backfill .*)", output)
    assert stopped is not None, output
    assert 40 < int(stopped[1]) < 300
    assert stopped[2] == f"zddm backfill app:proxy --app-dir {application.folder} --per-second 40"
    done = application.run("backfill")
    assert done.returncode == 0
    assert f"Goes on where an earlier run was, after {stopped[1]} rows." in done.stderr
    assert "going on from where an earlier one was: 300 copied." in done.stdout
    assert application.users("new") == application.users("old")


def test_a_second_interrupt_ends_it_at_once(application):
    """A second Ctrl-C does not wait for a store that hangs; the next run does the rest."""
    (application.folder / "hang").touch()
    with application.started("backfill") as process:
        until((application.folder / "hanging").exists)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        seen = ""
        while "Stops after the page in progress" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    check_output(output + errors)
    assert process.returncode == 130
    assert "Ended at once: the page in progress is done again. Go on with: zddm backfill app:proxy" in errors
    (application.folder / "hang").unlink()
    assert application.run("backfill").returncode == 0
    assert application.users("new") == application.users("old")


def test_killed_and_resumed(application):
    """What is killed with SIGKILL goes on from its last checkpoint."""
    with application.started("backfill", "--per-second", "40") as process:
        until(lambda: len(application.users("new")) > 40)
        process.kill()
        process.wait()
    done = application.run("backfill")
    assert done.returncode == 0
    assert "Goes on where an earlier run was" in done.stderr
    assert application.users("new") == application.users("old")


def test_superseded(blocking):
    """Of two at once the later one completes, and the earlier one ends with 2 and says why."""
    with blocking.started("backfill", "--per-second", "40") as process:
        until(lambda: len(blocking.users("new")) > 40)
        done = blocking.run("backfill")
        _, errors = process.communicate(timeout=30)
    assert (done.returncode, process.returncode) == (0, 2)
    assert "Error: another process has taken over this backfill" in errors


def test_processes_do_the_parts(application):
    """With --processes the workers find the application by --app-dir."""
    done = application.run("backfill", "--processes", "--workers", "2", "--parts", "4")
    assert done.returncode == 0, done.stderr
    assert application.users("new") == application.users("old")


@pytest.mark.parametrize("command", ["backfill", "verify"])
def test_processes_leave_stdout_alone(blocking, command):
    """What the application prints in a worker, and the log events there, are not in the result."""
    done = blocking.run(command, "--processes", "--workers", "2", "--json")
    assert json.loads(done.stdout)["job"] == command
    assert done.stderr.count("the application prints") >= 2  # here, and in a worker
    assert "opened_wider" in done.stderr or command == "verify"


def test_what_new_refuses_is_left(application):
    """Rows that New cannot take make the exit code 1, and it is said how many, and what to do."""
    application.let_new_refuse("secret-value-7", "secret-value-8")
    done = application.run("backfill")
    assert done.returncode == 1
    assert ": 298 copied." in done.stdout
    assert "2 refused by New, and stale, so that Old serves what it has." in done.stdout
    assert f"then: zddm repair app:proxy --app-dir {application.folder}\n" in done.stdout
    done = application.run("backfill", "--json")
    assert done.returncode == 1
    assert [json.loads(done.stdout)[name] for name in ("complete", "refused")] == [False, 2]


@pytest.mark.parametrize(("store", "name"), [("old", "Old"), ("ledger", "the ledger")])
def test_a_store_that_fails_for_too_long(application, store, name):
    """Where Old or the ledger fails for longer than --patience, it is said which one, and how to go on."""
    (application.folder / f"{store}.db").unlink(missing_ok=True)
    (application.folder / f"{store}.db").mkdir()
    done = application.run("backfill", "--patience", "1")
    assert done.returncode == 2
    assert f"Error: gave up: {name} fails with OperationalError" in done.stderr
    assert "go on with: zddm backfill app:proxy" in done.stderr
    assert done.stdout == ""


def test_an_output_that_is_closed_ends_no_job(blocking):
    """Where nobody reads what it says, it goes on, and its exit code tells."""
    command = subprocess.list2cmdline(blocking.command("backfill", "--per-second", "300"))
    done = subprocess.run(
        ["bash", "-c", f"{command} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=blocking.environment(),
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
    assert blocking.users("new") == blocking.users("old")


def test_at_rate_0_it_does_not_begin(application):
    """A flag at 0 is waited for, for a moment, and then said, with the exit code 2."""
    done = application.run("backfill", rate=0.0)
    assert done.returncode == 2
    assert "the gate writes 0 % of the keys to New. Nothing may be copied then." in done.stderr
    assert "Raise the write rate" in done.stderr
    assert application.users("new") == {}


LOCAL = """
from zddm_adapters import InMemoryAdapter
from zddm_flags import Proxy, TrafficGate
proxy = Proxy(TrafficGate(1.0), InMemoryAdapter(), InMemoryAdapter(), name="users")
"""


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("nocolon", "'nocolon' is not of the form module:attribute"),
        ("nothere:proxy", "there is no module 'nothere'"),
        ("app:nothing", "app has no 'nothing'"),
        ("app:RATE", "app:RATE is a float: name a Proxy, an AsyncProxy, or a function that makes one"),
        ("app:Table", "app:Table raised TypeError. To see all of it, in "),
        ("app:Table", '-c "import app; app.Table()"'),
        ("broken:proxy", "broken:proxy raised KeyError in broken.py, line 2. To see all of it, in "),
        ("broken:proxy", '-c "import broken"'),
        ("leaving:proxy", "leaving:proxy raised SystemExit in leaving.py, line 1"),
        (
            "importing:proxy",
            "importing:proxy raised ModuleNotFoundError in importing.py, line 1: No module named 'x_y'",
        ),
        ("app:disabled", "the proxy of app:disabled is disabled"),
        ("local:proxy", "Give the proxy a ledger that all processes share, here and in the application"),
    ],
)
def test_a_target_that_cannot_be_used(blocking, target, advice):
    """A wrong target ends with 2 and an advice, never with a traceback."""
    (blocking.folder / "broken.py").write_text("names = {}\nproxy = names['secret']\n")
    (blocking.folder / "leaving.py").write_text("raise SystemExit(0)\n")
    (blocking.folder / "importing.py").write_text("import x_y\n")
    (blocking.folder / "local.py").write_text(LOCAL)
    done = subprocess.run(
        [sys.executable, "-m", "zddm_flags", "backfill", target, "--app-dir", str(blocking.folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=blocking.environment(),
    )
    check_output(done.stdout + done.stderr)
    assert done.returncode == 2
    assert advice in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--per-second", "0"], "x>0"),
        (["--workers", "0"], "x>=1"),
        (["--processes", "--dask", "127.0.0.1:1"], "--processes and --dask exclude each other"),
        (["--dask", "127.0.0.1:1"], "no Dask scheduler answers at 127.0.0.1:1"),
    ],
)
def test_wrong_options(blocking, arguments, advice):
    """Options that cannot be meant end with 2 and an advice."""
    done = blocking.run("backfill", *arguments, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="1s")
    assert done.returncode == 2
    assert advice in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_it(blocking, number):
    """Ctrl-C on a terminal reaches the workers too, and none complains; where it is killed alone, none is left."""
    with blocking.started("backfill", "--processes", "--workers", "2", "--per-second", "40") as process:
        until(lambda: len(blocking.users("new")) > 20)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    check_output(output + errors)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    until(lambda: not _group_lives(process.pid))
    assert blocking.run("backfill").returncode == 0
    assert blocking.users("new") == blocking.users("old")


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
