"""examples/plain_script.py, and what is true of all examples of a program."""

import re
import signal
import subprocess
import sys

import pytest

from tests.examples.conftest import DEADLINE, ROOT, SERVICES, process_environment

SCRIPT = ROOT / "examples" / "plain_script.py"


@pytest.mark.parametrize("program", [*SERVICES.glob("*.py"), SCRIPT], ids=lambda program: program.name)
def test_a_program_is_short(program):
    """Each program fits on two screens."""
    assert len(program.read_text(encoding="utf-8").splitlines()) < 100


def test_the_script_does_its_job():
    """It goes through all users, tells how far it is, says how many moved, and ends with 0 and no complaint."""
    run = subprocess.run(
        [sys.executable, SCRIPT, "1200"],
        env=process_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert run.returncode == 0, run.stderr
    *progress, moved = run.stdout.splitlines()
    assert progress == [
        "500 users looked at, 375 trials ended",
        "1,000 users looked at, 750 trials ended",
        "1,200 users looked at, 900 trials ended",
    ]
    found = re.fullmatch(r"(\d+) of them were written to both stores: the flag is at 0.5", moved)
    assert found is not None
    assert 360 < int(found[1]) < 540
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_script_is_stopped_between_two_pages(number):
    """A signal ends it after the page that it was at, with its proxy and stores closed and exit code 130."""
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "100000"],
        env=process_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(number)
    rest, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, errors
    assert first == "500 users looked at, 375 trials ended\n"
    assert rest.count("users looked at") < 100
    assert "of them were written to both stores" in rest
    assert "stopped; run it again" in errors
    assert "reason=closed" in errors
    assert "Traceback" not in errors
