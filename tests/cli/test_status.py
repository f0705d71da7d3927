"""`zddm status` tells how far a migration is, and whether to cut over."""

import json
import re
import signal
import time

import pytest

from tests.cli.applications import Application, check_output, until
from tests.cli.terminals import INTERRUPT, Terminal
from zddm_flags import LaunchDarklySource, MigrationStatus, Rollout, TrafficGate
from zddm_flags.cli.status_report import state_lines, status_document, verdict_lines, wait_for_flag
from zddm_flags.results import JobStatus
from zddm_flags.testing import FlagServer

FINISHED = """
from zddm_flags import Backfill, Verify
Backfill(helper.made).run()
Verify(helper.made).run()
"""


@pytest.fixture(params=["blocking", "asyncio"])
def application(request, tmp_path):
    """Old has 300 users, New none."""
    return Application(tmp_path, request.param)


@pytest.fixture
def blocking(tmp_path):
    """The same, in one world only."""
    return Application(tmp_path, "blocking")


def reasons(done):
    """The lines after the verdict."""
    return re.findall(r"^  - (.*)$", done.stdout, re.MULTILINE)


def test_the_way_to_the_cut(application):
    """From the beginning on each reason not to cut over is told, until there is none."""
    done = application.run("status", rate=0.25)
    assert done.returncode == 1
    assert done.stdout.startswith("Migration users\n")
    assert re.search(
        r"^  rate wanted +reads 25 %, writes 25 %   \(a fixed rate, no flag\)$", done.stdout, re.MULTILINE
    )
    assert re.search(
        r"^  backfill +never run\n  verify +never run\n\nNot ready to cut over:\n", done.stdout, re.MULTILINE
    )
    assert len(reasons(done)) == 5
    assert application.run("backfill").returncode == 0
    done = application.run("status")
    assert done.returncode == 1
    assert re.search(
        r"^  backfill +finished, last heard of .* ago: 300 keys looked at\n +300 copied$",
        done.stdout,
        re.MULTILINE,
    )
    assert reasons(done) == ["no verify was run: nothing proves that the stores are equal"]
    assert application.run("verify").returncode == 0
    done = application.run("status")
    assert done.returncode == 0
    assert done.stdout.endswith("\nReady to cut over.\n")
    assert "\x1b[" not in done.stdout


def test_stale_keys_and_differences_are_reasons(blocking):
    """What a kill and a difference leave is told with its number, and with what to run."""
    blocking.python(FINISHED + "helper.made.gate.set_rate(0.0)\nhelper.made.write('secret-key-1', 'secret-value')")
    done = blocking.run("status")
    assert done.returncode == 1
    assert re.search(r"^  stale keys +1   \(served by Old\)$", done.stdout, re.MULTILINE)
    assert reasons(done) == ["1 key is stale, and served by Old: run repair"]
    blocking.sql("new", "DELETE FROM users WHERE id = 'secret-key-2'")
    assert blocking.run("verify").returncode == 1
    assert "the last verify found 2 keys that differ" in "\n".join(reasons(blocking.run("status")))


def test_json_is_one_object(application):
    """With --json stdout has one object with the same, whatever the application prints."""
    application.run("backfill", rate=0.5)
    done = application.run("status", "--json", rate=0.5)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["migration"], told["ready"], told["read_rate"], told["write_rate"]) == ("users", False, 0.5, 0.5)
    assert (told["opened"], told["stale"], told["pending"], told["flag_key"]) == (0.5, 0, 0, None)
    assert (told["backfill"]["state"], told["backfill"]["rows"], told["backfill"]["expected"]) == (
        "finished",
        300,
        300,
    )
    assert told["backfill"]["seconds_ago"] < 60
    assert told["verify"] is None
    assert len(told["reasons"]) == 5


def test_an_operation_in_progress(blocking):
    """What a killed process left is counted, and how old it is; once it is reaped it is stale."""
    blocking.python(
        "import os\n"
        "from zddm_flags.tokens import new_token\n"
        "helper.made._ledger.begin([b'ssecret-key-2'], new_token())\n"
        "os._exit(0)"
    )
    done = blocking.run("status")
    assert re.search(
        r"^  in progress +1 operation, the oldest for .* s \(reaped after .* s\)$", done.stdout, re.MULTILINE
    )
    assert re.search(r"^  reaped +0 operations", done.stdout, re.MULTILINE)
    until(lambda: re.search(r"^  reaped +1 operation,", blocking.run("status").stdout, re.MULTILINE))


def test_a_ledger_that_fails(blocking):
    """Where the ledger cannot be asked it exits with 2, and says so without the error's text."""
    (blocking.folder / "ledger.db").mkdir()
    done = blocking.run("status")
    assert done.returncode == 2
    assert "the ledger fails with OperationalError" in done.stderr
    assert "unable to open" not in done.stderr
    assert done.stdout == ""


def test_watched_on_a_terminal(application):
    """On a terminal the status is drawn again and again; Ctrl-C ends it with the code of the last look."""
    command = application.command("status", "--watch", "--every", "0.2")
    with Terminal(command, application.environment()) as shell:
        seen = shell.until("no backfill was run")
        assert "Not ready to cut over:" in seen
        assert "\x1b[?25l" in seen  # the cursor is hidden
        application.python(FINISHED)
        shell.until("Ready to cut over.")
        shell.until("Ctrl-C ends this.")
        shell.type(INTERRUPT)
        code, rest = shell.end()
    assert code == 0
    assert "\x1b[?25h" in rest  # and is there again
    check_output(seen + rest)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(blocking, number):
    """A plain kill ends it as Ctrl-C does."""
    with Terminal(blocking.command("status", "--watch"), blocking.environment()) as shell:
        shell.until("Ctrl-C ends this.")
        shell.process.send_signal(number)
        code, rest = shell.end()
    assert code == 1
    assert "\x1b[?25h" in rest
    check_output(rest)


def test_a_terminal_that_is_low(blocking):
    """Where not all fits, the verdict does."""
    with Terminal(blocking.command("status", "--watch"), blocking.environment(), rows=6) as shell:
        shell.until("Not ready to cut over:")
        shell.type(INTERRUPT)
        assert shell.end()[0] == 1


def test_watched_without_a_terminal(application):
    """Without a terminal each look is a block of lines."""
    with application.started("status", "--watch", "--every", "0.1") as process:
        assert process.stdout is not None
        seen = ""
        while seen.count("Not ready to cut over:") < 2:
            seen += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert len(re.findall(r"^\d\d:\d\d:\d\d\nMigration users$", seen, re.MULTILINE)) == 2
    assert "\x1b[" not in seen
    check_output(seen + output + errors)


def test_watched_as_json(blocking):
    """With --json each look is a line; a ledger that fails is one too, and makes the code 2."""
    with blocking.started("status", "--watch", "--json", "--every", "0.1") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ready"] is False
        blocking.sql("ledger", "DROP TABLE zddm_keys")
        line: dict[str, object] = {}
        while "error" not in line:
            line = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    check_output(output + errors + json.dumps(line))


def test_a_reader_that_leaves_ends_it(blocking):
    """Where nobody reads what is watched, it ends, and complains of nothing."""
    with blocking.started("status", "--watch", "--json", "--every", "0.1") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr is not None
        errors = process.stderr.read()
        process.stdout = None
    assert "BrokenPipe" not in errors
    check_output(errors)


LAUNCHDARKLY = """
import ldclient
from ldclient.config import Config
from zddm_flags import LaunchDarklySource
URL = os.environ["FLAGS"]
CLIENT = ldclient.LDClient(
    Config("sdk-local", stream_uri=URL, base_uri=URL, events_uri=URL, send_events=False), start_wait=0
)
CONTEXT = ldclient.Context.builder("service").kind("service").build()
"""


def test_launchdarkly_answers_in_time(blocking):
    """A client that has only just begun is waited for, so that a flag at 1 is not told to be at 0."""
    module = blocking.folder / "app.py"
    text = module.read_text().replace("SHORT =", f"{LAUNCHDARKLY}\nSHORT =")
    module.write_text(
        text.replace("TrafficGate(RATE)", 'TrafficGate(LaunchDarklySource(CLIENT, "users-rate", CONTEXT))')
    )
    with FlagServer({"users-rate": 1.0}) as server:
        done = blocking.run("status", FLAGS=server.url, no_proxy="127.0.0.1")
    assert done.returncode == 1
    assert re.search(
        r"^  rate wanted +reads 100 %, writes 100 %   \(flag users-rate\)$", done.stdout, re.MULTILINE
    ), done.stdout + done.stderr


def test_only_a_flag_is_waited_for():
    """A fixed rate of 0 is what it is; a flag's is waited for, but not for long."""
    began = time.monotonic()
    wait_for_flag(TrafficGate(0.0), seconds=30.0)
    assert time.monotonic() - began < 5
    with FlagServer({"rate": 0.0}) as server, LaunchDarklySource(server.client(), "rate", context()) as source:
        began = time.monotonic()
        wait_for_flag(TrafficGate(source), seconds=0.2)
        assert 0.2 <= time.monotonic() - began < 5


def context():
    from ldclient import Context

    return Context.builder("service").kind("service").build()


def status(**changes):
    given = {
        "name": "users",
        "rollout": Rollout.of(1.0),
        "flag_key": "rate",
        "opened": 1.0,
        "epoch": 0,
        "stale": 0,
        "pending": 0,
        "oldest_pending_seconds": None,
        "token_seconds": 40.0,
        "reaped": 0,
        "backfill": None,
        "verify": None,
        "reasons": [],
    }
    return MigrationStatus(**{**given, **changes})


@pytest.mark.parametrize(("age", "said"), [(5.0, False), (3600.0, True)])
def test_a_job_that_is_not_heard_of(age, said):
    """A job that runs and was not heard of for long may have died: it is said what to do."""
    job = JobStatus(state="running", saved_seconds_ago=age, counts={"rows": 1000}, expected=5000, result={})
    lines = "\n".join(state_lines(status(backfill=job)))
    assert "1,000 of about 5,000 keys looked at" in lines
    assert ("its process has ended: then run it again" in lines) is said


def test_the_verdict_follows_the_reasons():
    """Ready is said only where there is no reason against it, in the text and in the document."""
    assert [click_free(line) for line in verdict_lines(status())] == ["Ready to cut over."]
    lines = [click_free(line) for line in verdict_lines(status(reasons=["one", "two"]))]
    assert lines == ["Not ready to cut over:", "  - one", "  - two"]
    assert status_document(status(reasons=["one"]))["ready"] is False


def click_free(line):
    return re.sub(r"\x1b\[\d+m", "", line)
