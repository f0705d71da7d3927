"""The command line teaches, and fails with a code and an advice."""

import os
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("command", [[], ["demo"]])
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
        (["dmeo"], "No such command 'dmeo'"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(arguments, advice):
    """What cannot run exits with 2 and a message, never a traceback."""
    done = run(*arguments, LAUNCHDARKLY_SDK_KEY="")
    assert done.returncode == 2
    assert advice in done.stderr
    assert "Traceback" not in done.stderr


def test_without_click_the_extra_is_named(tmp_path):
    """Where click is not installed the message names the extra, and the exit code is 2."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click':\n"
        "            raise ModuleNotFoundError(\"No module named 'click'\", name='click')\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    done = run(PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert done.returncode == 2
    assert 'pip install "zddm-flags[cli]"' in done.stderr
