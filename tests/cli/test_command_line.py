"""The command line teaches, and fails with a code and an advice."""

import os
import subprocess
import sys

import pytest

from zddm_flags.cli import command_line

ROOT_COMMAND = [sys.executable, "-m", "zddm_flags"]


def run(*arguments, **environment):
    return subprocess.run(
        [*ROOT_COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("command", [[], *([name] for name in command_line.commands)])
def test_help_teaches(command):
    """`--help` of every command says what it does and exits with 0."""
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "Usage: zddm" in done.stdout
    assert "--help" in done.stdout
    assert len(done.stdout.splitlines()) > 8


def test_version_is_printed():
    """`--version` names the program and a version."""
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("zddm, version 0.")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["demo", "--seconds", "1"], "5<=x<=3600"),
        (["demo", "--new", "oracle"], "'sqlite', 'postgres'"),
        (["demo", "--relay", "http://127.0.0.1:1"], "--relay goes with --flag-key"),
        (["demo", "--flag-key", "rate"], "LAUNCHDARKLY_SDK_KEY"),
        (["demo", "--otlp", "collector:4318"], "--otlp needs a URL such as"),
        (["demo", "--otlp", "http://127.0.0.1:1"], "no collector answers at http://127.0.0.1:1"),
        (["dmeo"], "No such command 'dmeo'"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(arguments, advice):
    """What cannot run exits with 2 and a message, never a traceback."""
    done = run(*arguments, LAUNCHDARKLY_SDK_KEY="")
    assert done.returncode == 2
    assert advice in done.stderr
    assert "Traceback" not in done.stderr


def at_start(folder, code):
    """An environment in which Python runs `code` before anything else."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def when_imported(module, error):
    """Code that makes the import of `module` raise `error`."""
    return (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            raise {error}\n"
        "sys.meta_path.insert(0, Finder())\n"
    )


def test_without_click_the_extra_is_named(tmp_path):
    """Where click is not installed the message names the extra, and the exit code is 2."""
    missing = when_imported("click", "ModuleNotFoundError(\"No module named 'click'\", name='click')")
    done = run(**at_start(tmp_path, missing))
    assert done.returncode == 2
    assert 'pip install "zddm-flags[cli]"' in done.stderr


@pytest.mark.parametrize("module", ["click", "ldclient"])
def test_an_interrupt_of_the_imports_is_an_interrupt(tmp_path, module):
    """Ctrl-C before the first line of output exits with 130, never with 1 or a traceback."""
    done = run("demo", **at_start(tmp_path, when_imported(module, "KeyboardInterrupt")))
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "Interrupted.")


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    """Where the folder for temporary files is nearly full, the message says how much is needed, and where."""
    full = "import shutil\nshutil.disk_usage = lambda path: type('Usage', (), {'free': 1_000_000})\n"
    done = run("demo", **at_start(tmp_path, full))
    assert done.returncode == 2
    assert "need 64 MB in" in done.stderr
    assert "set TMPDIR" in done.stderr


def test_a_failing_database_stops_the_demo_with_its_error(tmp_path):
    """An error while the demo prepares is told in a line, with the exit code 2."""
    broken = (
        "import sqlite3\n"
        "def connect(*_, **__):\n"
        "    raise sqlite3.OperationalError('no room')\n"
        "sqlite3.connect = sqlite3.dbapi2.connect = connect\n"
    )
    done = run("demo", **at_start(tmp_path, broken))
    assert done.returncode == 2
    assert "the demo had to stop: OperationalError: (sqlite3.OperationalError) no room" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_launchdarkly_that_does_not_answer_is_said(tmp_path):
    """The demo does not run at 0 % for ever where LaunchDarkly cannot be reached."""
    done = run("demo", "--flag-key", "rate", "--relay", "http://127.0.0.1:1", LAUNCHDARKLY_SDK_KEY="sdk-local")
    assert done.returncode == 2
    assert "LaunchDarkly did not answer within 5 s: check LAUNCHDARKLY_SDK_KEY" in done.stderr
    assert "right" not in done.stdout
