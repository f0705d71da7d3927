"""`zddm verify` over real files: what it finds, tells, and keeps to itself."""

import json
import re
import shlex
import signal
import stat
import subprocess
import sys

import pytest

from tests.cli.applications import Application, check_output, until

FIELDS = """
USERS.append_column(Column("height", Float))
USERS.append_column(Column("seen", DateTime))

def same(old, new):
    return old["name"] == new["name"]

def stumbling(old, new):
    raise ValueError(old["name"])

async def awaited(old, new):
    return True
"""
BACKFILLED = """
from zddm_flags import Backfill
Backfill(helper.made).run()
"""


@pytest.fixture(params=["blocking", "asyncio"])
def application(request, tmp_path):
    """Old and New have the same 300 users, who have a name, a height, and when they were seen."""
    return with_fields(Application(tmp_path, request.param))


@pytest.fixture
def blocking(tmp_path):
    """The same, in one world only."""
    return with_fields(Application(tmp_path, "blocking"))


def with_fields(application, rate=1.0):
    for module in ("app.py", "helper.py"):
        path = application.folder / module
        text = (
            path.read_text()
            .replace('value="name"', "value=None")
            .replace("String, Table", "DateTime, Float, String, Table")
        )
        path.write_text(text.replace("SHORT =", f"{FIELDS}\nSHORT ="))
    for store in ("old", "new"):
        application.sql(store, "ALTER TABLE users ADD COLUMN height FLOAT DEFAULT 1.5")
        application.sql(store, "ALTER TABLE users ADD COLUMN seen DATETIME DEFAULT '2026-01-01 00:00:00.000000'")
    application.python(BACKFILLED, rate)
    return application


def plant(application):
    """Make four keys of New differ, behind the proxy's back: two changed, one missing, one extra."""
    application.sql("new", "UPDATE users SET name = 'secret-other' WHERE id = 'secret-key-1'")
    application.sql("new", "UPDATE users SET name = 'secret-other', height = 9 WHERE id = 'secret-key-2'")
    application.sql("new", "DELETE FROM users WHERE id = 'secret-key-3'")
    application.sql("new", "INSERT INTO users VALUES ('secret-extra', 'secret', 1, '2026-01-01 00:00:00.000000')")


def told(done):
    """The object that `--json` printed."""
    return json.loads(done.stdout)


def test_equal_stores(application):
    """Where the stores are equal it says so, and exits with 0."""
    done = application.run("verify")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Equal: New holds what Old holds, and nothing else.\n")
    assert re.search(r"^  compared +300$", done.stdout, re.MULTILINE)
    assert "Keys that only New has were looked for." in done.stdout
    assert "zddm repair" not in done.stdout
    assert "300 of about 300 rows" in done.stderr
    assert "\x1b[" not in done.stdout + done.stderr


def test_what_differs_is_counted_by_kind_and_field(application, tmp_path):
    """Each planted difference is counted once, by its kind and its fields, and told by its hash alone."""
    plant(application)
    path = tmp_path / "report.json"
    done = application.run("verify", "--json", "--report", str(path))
    assert done.returncode == 1
    found = told(done)
    counts = {name: found[name] for name in ("compared", "equal", "different", "changed", "missing", "extra")}
    assert counts == {"compared": 300, "equal": 297, "different": 4, "changed": 2, "missing": 1, "extra": 1}
    assert found["fields"] == {"name": 2, "height": 1}
    assert (found["marked_stale"], found["known_stale"], found["noted"]) == (3, 0, 4)
    kinds = sorted((each["kind"], each["fields"]) for each in found["differences"])
    assert kinds == [("changed", ["height", "name"]), ("changed", ["name"]), ("extra", []), ("missing", [])]
    assert all(re.fullmatch("[0-9a-f]{16}", each["hash"]) for each in found["differences"])
    assert "rows/s" not in done.stderr
    assert json.loads(path.read_text()) == found
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    done = application.run("verify")
    assert done.returncode == 1
    assert done.stdout.startswith("Different: 4 keys.\n")
    assert re.search(r"^  known stale +3   differing keys that the ledger knew of", done.stdout, re.MULTILINE)
    assert re.search(r"^ +2   name\n +1   height$", done.stdout, re.MULTILINE)
    assert "4 differing keys, by their hashes" in done.stdout
    for each in found["differences"]:
        assert re.search(rf"^  {each['hash']}  {each['kind']}", done.stdout, re.MULTILINE)


def test_keys_are_shown_when_asked_for(blocking):
    """With --show-keys the first keys are told as Python writes them, and no value ever is."""
    plant(blocking)
    done = subprocess.run(
        blocking.command("verify", "--show-keys", "--first", "3"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=blocking.environment(),
    )
    assert done.returncode == 1
    assert "The first 3 of 4 differing keys\n" in done.stdout
    shown = re.findall(r"'(secret-[^']*)'", done.stdout)
    assert len(shown) == 3
    assert set(shown) < {"secret-key-1", "secret-key-2", "secret-key-3", "secret-extra"}
    assert "secret-other" not in done.stdout + done.stderr
    assert "secret-value" not in done.stdout + done.stderr


def test_the_printed_command_repairs_exactly_these(application):
    """The command that is printed makes right what was found, and touches nothing else."""
    plant(application)
    done = application.run("verify")
    printed = re.search(r"^To repair exactly these keys:\n  zddm (repair .*)$", done.stdout, re.MULTILINE)
    assert printed is not None, done.stdout
    assert "with --delete-extra it deletes the keys that only New has" in done.stdout
    application.sql("new", "UPDATE users SET name = 'secret-later' WHERE id = 'secret-key-7'")
    done = subprocess.run(
        [sys.executable, "-m", "zddm_flags", *shlex.split(printed[1]), "--delete-extra"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=application.environment(),
    )
    assert done.returncode == 0, done.stderr
    differing = set(application.users("old").items()) ^ set(application.users("new").items())
    assert {key for key, _ in differing} == {"secret-key-7"}


def test_keys_above_the_opened_rate(tmp_path):
    """Keys that New was never opened for are counted apart, and lead to a backfill, not to a repair."""
    application = with_fields(Application(tmp_path, "blocking"), rate=0.25)
    done = application.run("verify", "--json")
    assert done.returncode == 1
    found = told(done)
    missing = 300 - len(application.users("new"))
    assert (found["missing"], found["missing_above_opened"], found["marked_stale"]) == (missing, missing, 0)
    assert found["repair"] is None
    done = application.run("verify")
    assert f"{missing} of them above the opened rate, which no backfill has covered" in done.stdout
    assert f"copy them: zddm backfill app:proxy --app-dir {tmp_path}" in done.stdout


def test_stale_keys_are_known(blocking):
    """A key that was written while the migration was killed differs, and the ledger knew."""
    blocking.python("helper.made.write('secret-key-5', {'name': 'x', 'height': 1, 'seen': None})", rate=0.0)
    found = told(blocking.run("verify", "--json"))
    assert (found["changed"], found["known_stale"], found["marked_stale"]) == (1, 1, 0)


def test_no_mark_only_tells(blocking):
    """With --no-mark nothing becomes stale, and that is said."""
    plant(blocking)
    done = blocking.run("verify", "--no-mark")
    assert done.returncode == 1
    assert "No key was marked stale, by --no-mark" in done.stdout
    assert blocking.sql("ledger", "SELECT * FROM zddm_keys") == []
    blocking.run("verify")
    assert len(blocking.sql("ledger", "SELECT * FROM zddm_keys WHERE stale")) == 3


def test_less_than_the_whole_is_said_to_be(blocking):
    """A sample, a limit and the keys alone find less, and the report says that it was not the whole."""
    plant(blocking)
    found = told(blocking.run("verify", "--sample", "50%", "--json"))
    assert 100 < found["compared"] < 200
    assert (found["sample"], found["whole"], found["extra_checked"]) == (0.5, False, True)
    done = blocking.run("verify", "--limit", "10", "--page-size", "4", "--json")
    found = told(done)
    assert (found["compared"], found["limit"], found["extra"], found["extra_checked"]) == (10, 10, 0, False)
    found = told(blocking.run("verify", "--only-keys", "--json"))
    assert (found["changed"], found["missing"], found["extra"], found["whole"]) == (0, 1, 1, False)
    done = blocking.run("verify", "--limit", "10")
    assert "up to 10 keys of Old" in done.stdout
    assert "Keys that only New has were not looked for, by --limit." in done.stdout
    assert "This was not the whole" in done.stdout


def test_what_counts_as_equal(blocking):
    """Fields can be left out, floats and times can be near, and a function can decide."""
    blocking.sql("new", "UPDATE users SET height = 1.5001 WHERE id = 'secret-key-1'")
    blocking.sql("new", "UPDATE users SET seen = '2026-01-01 00:00:00.400000' WHERE id = 'secret-key-2'")
    assert told(blocking.run("verify", "--json"))["fields"] == {"height": 1, "seen": 1}
    assert told(blocking.run("verify", "--json", "--ignore", "seen"))["fields"] == {"height": 1}
    assert blocking.run("verify", "--ignore", "seen", "--ignore", "height").returncode == 0
    assert blocking.run("verify", "--time-tolerance", "0.5", "--float-tolerance", "0.001").returncode == 0
    assert blocking.run("verify", "--equal", "app:same").returncode == 0
    plant(blocking)
    assert told(blocking.run("verify", "--json", "--equal", "app:same"))["changed"] == 2


def test_processes_compare_by_the_same_function(blocking, tmp_path):
    """Worker processes count what differs as this one does."""
    plant(blocking)
    path = tmp_path / "report.json"
    options = ["--processes", "--workers", "2", "--parts", "3", "--equal", "app:same", "--report", str(path)]
    done = blocking.run("verify", *options)
    assert done.returncode == 1, done.stderr
    found = json.loads(path.read_text())
    assert (found["compared"], found["changed"], found["missing"], found["extra"]) == (300, 2, 1, 1)


def test_a_comparison_that_raises(blocking):
    """Where nothing differs, but keys could not be compared, it exits with 2, says what to do, and no value."""
    done = blocking.run("verify", "--equal", "app:stumbling")
    assert done.returncode == 2
    assert done.stdout.startswith("Not certain: 300 keys could not be compared.\n")
    assert "correct it, and run verify again" in done.stdout


def test_a_key_that_a_crash_left(blocking):
    """A key whose writer died is waited for until it is reaped, and then counted as known to be stale."""
    plant(blocking)
    blocking.python(
        "import os\n"
        "from zddm_flags.tokens import new_token\n"
        "helper.made._ledger.begin([b'ssecret-key-1'], new_token())\n"
        "os._exit(0)"
    )
    found = told(blocking.run("verify", "--json"))
    assert (found["changed"], found["known_stale"], found["unsure"]) == (2, 1, 0)


def test_a_new_that_cannot_be_scanned(blocking):
    """Where extra keys cannot be looked for, no verdict claims that there are none."""
    module = blocking.folder / "app.py"
    module.write_text(
        module.read_text()
        .replace("class Old(", "class New(SqlAlchemyAdapter):\n    scan = None\n\nclass Old(")
        .replace("new = SqlAlchemyAdapter(", "new = New(")
    )
    done = blocking.run("verify")
    assert done.returncode == 0
    assert done.stdout.startswith("Equal, as far as it was looked at.\n")
    assert "Keys that only New has were not looked for: New's adapter has no scan()." in done.stdout


def test_on_a_terminal(application):
    """A bar is drawn while it works, and the verdict stands out."""
    plant(application)
    code, shown = application.on_terminal("verify", "--per-second", "300")
    assert code == 1
    assert "━" in shown
    assert "Verify of users" in shown
    assert "\x1b[31m\x1b[1mDifferent: 4 keys.\x1b[0m" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed(application, number):
    """A signal stops it with 130, and the command that it prints goes on where it was."""
    with application.started("verify", "--per-second", "60") as process:
        until(lambda: verified(application) > 40)
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    check_output(output + errors)
    assert process.returncode == 130, errors
    stopped = re.search(r"^Stopped after (\d+) keys\. Go on with: (zddm verify .*)$", output, re.MULTILINE)
    assert stopped is not None, output
    assert 40 < int(stopped[1]) < 300
    assert stopped[2] == f"zddm verify app:proxy --app-dir {application.folder} --per-second 60"
    done = application.run("verify")
    assert done.returncode == 0
    assert "went on with an earlier verify" in done.stdout
    assert re.search(r"^  compared +300 ", done.stdout, re.MULTILINE)


def verified(application):
    """How many keys the checkpoints say were compared."""
    kept = application.sql("ledger", "SELECT data FROM zddm_checkpoints WHERE name LIKE 'verify/%'")
    return sum(json.loads(data)["counts"].get("rows", 0) for (data,) in kept)


def test_a_store_that_fails_is_told_by_its_error_s_type(blocking):
    """It gives up with 2, and says which store fails, but not with what text."""
    blocking.sql("new", "DROP TABLE users")
    done = blocking.run("verify", "--patience", "0")
    assert done.returncode == 2
    assert "New fails with OperationalError" in done.stderr
    assert "no such table" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--sample", "0"], "such as 0.1 or 10%"),
        (["--limit", "0"], "x>=1"),
        (["--report", "there-is-no/report.json"], "there is no folder"),
        (["--equal", "app:none"], "app has no 'none'"),
        (["--equal", "nowhere:same"], "there is no module 'nowhere'"),
        (["--equal", "app:awaited"], "it is no plain function of two values"),
        (["--equal", "app:RATE"], "it is no plain function of two values"),
        (["--equal", "app:same", "--ignore", "name"], "--equal goes without --ignore"),
        (["--float-tolerance", "inf"], "are finite"),
        (["--float-tolerance", "-1"], "x>=0"),
        (["--processes", "--dask", "127.0.0.1:1"], "exclude each other"),
    ],
)
def test_wrong_options(blocking, arguments, advice):
    """What cannot be done is refused with 2 before any key is looked at, and says what would be right."""
    done = blocking.run("verify", *arguments)
    assert done.returncode == 2
    assert advice in done.stderr
    assert blocking.sql("ledger", "SELECT * FROM zddm_checkpoints WHERE name LIKE 'verify%'") == []


def test_a_report_that_cannot_be_written_any_more(blocking, tmp_path):
    """Where the folder vanishes meanwhile, the result is printed all the same, and the exit code is 2."""
    folder = tmp_path / "reports"
    folder.mkdir()
    with blocking.started("verify", "--per-second", "150", "--report", str(folder / "report.json")) as process:
        until(lambda: verified(blocking) > 0)
        folder.rmdir()
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output.startswith("Equal")
    assert "the report was not written to" in errors
    check_output(output + errors)
