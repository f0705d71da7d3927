"""`zddm reset` clears a ledger only where it was confirmed, and where nothing wrong would be trusted."""

import subprocess

import pytest

from tests.cli.applications import Application, check_output
from tests.cli.terminals import INTERRUPT, Terminal


@pytest.fixture(params=["blocking", "asyncio"])
def application(request, tmp_path):
    """Old has 300 users, New had them, and is empty now; the ledger knows of it."""
    return emptied(Application(tmp_path, request.param))


@pytest.fixture
def blocking(tmp_path):
    """The same, in one world only."""
    return emptied(Application(tmp_path, "blocking"))


def emptied(application):
    application.python(
        "from zddm_flags import Backfill\n"
        "Backfill(helper.made).run()\n"
        "helper.made.gate.set_rate(0.0)\n"
        "helper.made.write('secret-key-1', 'secret-value-new')"
    )
    application.sql("new", "DELETE FROM users")
    return application


def is_cleared(application):
    """Whether the ledger is as at the beginning."""
    opened = application.sql("ledger", "SELECT opened FROM zddm_migrations")
    keys = application.sql("ledger", "SELECT * FROM zddm_keys")
    checkpoints = application.sql("ledger", "SELECT * FROM zddm_checkpoints")
    return opened == [(0.0,)] and not keys and not checkpoints


def terminal(application, *arguments, rate=0.0):
    return Terminal(application.command("reset", *arguments), application.environment(rate))


def test_the_name_is_typed(application):
    """On a terminal it says what is cleared and what the risk is, and goes on once the name is typed."""
    with terminal(application) as shell:
        asked = shell.until("Type users to go on: ")
        assert "1 stale key, opened 100 %, 0 operations in progress" in asked
        assert "Whatever is still in New is trusted from then on, wrong or not." in asked
        assert not is_cleared(application)
        shell.type("users\n")
        code, shown = shell.end()
    assert code == 0
    assert "is as at the beginning: 0 stale keys, opened 0 %, 0 operations in progress." in shown
    assert is_cleared(application)
    check_output(asked + shown)


@pytest.mark.parametrize("typed", ["user\n", "\n", "y\n", "\x04"])
def test_anything_else_changes_nothing(blocking, typed):
    """Another word, none, and the end of the input are no confirmation."""
    with terminal(blocking) as shell:
        shell.until("Type users to go on: ")
        shell.type(typed)
        code, shown = shell.end()
    assert code == 2
    assert "nothing was changed" in shown
    assert not is_cleared(blocking)


def test_an_interrupt_of_the_question(application):
    """Ctrl-C at the question exits with 130, and nothing was changed."""
    with terminal(application) as shell:
        shell.until("Type users to go on: ")
        shell.type(INTERRUPT)
        code, shown = shell.end()
    assert code == 130
    assert "Interrupted." in shown
    assert "Traceback" not in shown
    assert not is_cleared(application)


def test_without_a_terminal_it_asks_for_yes(blocking):
    """Where nobody can be asked, --yes is needed."""
    done = subprocess.run(
        blocking.command("reset"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=blocking.environment(0.0),
    )
    assert done.returncode == 2
    assert "give --yes. Nothing was changed" in done.stderr
    assert not is_cleared(blocking)


def test_no_input_at_all(blocking):
    """A closed standard input is no terminal either."""
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *blocking.command("reset")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=blocking.environment(0.0)
    )
    assert done.returncode == 2
    assert "give --yes" in done.stderr


def test_yes_does_not_ask(application):
    """With --yes it is done, and what was held is told all the same."""
    done = application.run("reset", "--yes", rate=0.0)
    assert done.returncode == 0, done.stderr
    assert "1 stale key, opened 100 %" in done.stderr
    assert "Type" not in done.stderr
    assert "Raise the rate to begin anew." in done.stdout
    assert is_cleared(application)
    status = application.run("status", rate=1.0)
    assert "no backfill was run" in status.stdout


def test_a_rate_above_0_is_refused(application):
    """While New is written to, nothing is cleared."""
    done = application.run("reset", "--yes", rate=0.1)
    assert done.returncode == 2
    assert "set the flag to 0" in done.stderr
    assert not is_cleared(application)


def test_a_new_that_holds_something_is_refused(blocking):
    """What is left in New would be trusted: it is looked for, unless one has seen to it."""
    blocking.sql("new", "INSERT INTO users VALUES ('secret-left', 'secret-value')")
    done = blocking.run("reset", "--yes", rate=0.0)
    assert done.returncode == 2
    assert "New holds something, which would be trusted from then on: empty it first" in done.stderr
    assert not is_cleared(blocking)
    done = blocking.run("reset", "--yes", "--new-was-emptied", rate=0.0)
    assert done.returncode == 0
    assert is_cleared(blocking)


def test_an_operation_in_progress_is_refused(blocking):
    """A token that is pending keeps the ledger as it is, and the message says until when."""
    blocking.python(
        "import os\n"
        "from zddm_flags.tokens import new_token\n"
        "made = helper.made\n"
        "made._ledger.begin([b'ssecret-key-2'], new_token())\n"
        "os._exit(0)",
        rate=0.0,
    )
    done = blocking.run("reset", "--yes", rate=0.0)
    assert done.returncode == 2
    assert "1 operation in progress" in done.stderr
    assert "those are reaped after" in done.stderr
    assert not is_cleared(blocking)


def test_a_new_that_cannot_be_scanned(blocking):
    """Where nothing shows that New is empty, the operator has to say so."""
    module = blocking.folder / "app.py"
    module.write_text(
        module.read_text()
        .replace("class Old(", "class New(SqlAlchemyAdapter):\n    scan = None\n\nclass Old(")
        .replace("new = SqlAlchemyAdapter(", "new = New(")
    )
    done = blocking.run("reset", "--yes", rate=0.0)
    assert done.returncode == 2
    assert "give --new-was-emptied. Nothing was changed" in done.stderr
    assert not is_cleared(blocking)
    assert blocking.run("reset", "--yes", "--new-was-emptied", rate=0.0).returncode == 0
    assert is_cleared(blocking)


def test_a_store_that_fails_is_told_by_its_error_s_type(application):
    """Where New cannot be looked at, that is said without its error's text, and nothing was changed."""
    application.sql("new", "DROP TABLE users")
    done = application.run("reset", "--yes", rate=0.0)
    assert done.returncode == 2
    assert "New fails with OperationalError" in done.stderr
    assert "no such table" not in done.stderr
    assert not is_cleared(application)
