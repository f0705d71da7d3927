"""After a fork: real processes, each scenario in a fresh one, so that no thread of the tests is forked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def scenario(*names, program="forked_child.py"):
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        Path(__file__).parent / program,
        *names,
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_without_postfork():
    """A child without `postfork` is closed, logs so once when the gate is used; its parent goes on."""
    logged = [["error", "launchdarkly_forked"]]
    assert scenario("without_postfork") == {"child": [0.0, "forked", 0, False, logged], "parent": 0.25}


def test_with_postfork():
    """After both `postfork`s a child follows the flag live, and so does a process forked later."""
    assert scenario("with_postfork") == {"child": [0.5, True, True, 0.25], "grandchild": [0.25, 0.0]}


def test_postfork_at_rate_zero():
    """After both `postfork`s the gate raises no alarm, also where the rate is 0."""
    assert scenario("closed_flag") == [0.0, "fallthrough", True, False]


def test_postfork_too_early():
    """`postfork` before the client's own is refused with what to do, and the gate stays closed."""
    message, rate = scenario("too_early")
    assert "client's postfork() in this process before" in message
    assert rate == 0.0


def test_a_lock_held_at_the_fork():
    """A lock that a thread of the parent holds at the fork does not hang the child."""
    assert scenario("held_locks") == [False, 0.0]


@pytest.mark.parametrize("what", ["import", "logging"])
def test_a_fork_right_after_the_source_was_made(what):
    """A child hangs on neither the import of structlog nor the logging that a thread of the parent had begun."""
    assert scenario(what, program="early_fork.py") is True


def test_closing_in_the_child():
    """A child may close its source, with any lock of the SDK held at the fork; the parent's is untouched."""
    assert scenario("closed_in_child") == [0.0, True]


def test_postfork_without_a_fork():
    """In a process that was not forked `postfork` is harmless, and follows a client that was restarted."""
    assert scenario("replaced_without_a_fork") == [True, 0.25, False]
