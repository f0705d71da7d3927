"""Small scenarios that nobody thought of. `make explore` goes on with them for as long as it is given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.explorer.any_scenario import any_outage_of_the_ledger, any_scenario
from tests.explorer.explored import Proved
from tests.explorer.mistakes import AsksNoLedger, Available, WithdrawsAfterOldWasWritten, WritesWithoutAToken
from tests.explorer.plain import PlainProxy
from zddm_flags.testing import explore

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(24))
def test_promise_is_kept_in_any_small_scenario(seed: int, proved: Proved) -> None:
    """The shipped proxy keeps its promise whatever the rates, the stores, the faults and the events are."""
    proved(explore(any_scenario(Random(seed))))


@pytest.mark.parametrize("seed", range(6))
def test_one_process_keeps_the_promise_without_the_ledger(seed: int, proved: Proved) -> None:
    """A process reads right what it changed without the ledger, whatever comes between, and marks all of it."""
    proved(explore(any_outage_of_the_ledger(Random(seed), jobs=False), Available))


@pytest.mark.parametrize("proxy", [PlainProxy, AsksNoLedger, WithdrawsAfterOldWasWritten, WritesWithoutAToken])
def test_reduction_hides_nothing_in_any_small_scenario(proxy: Any) -> None:
    """With and without the reduction a wrong algorithm is caught in the same scenarios, and not in all or none."""
    verdicts: set[bool] = set()
    for seed in range(40):  # 42 alone takes as long as all of these
        scenario = any_scenario(Random(seed), batches=False, jobs=False, faults=int(proxy is PlainProxy))
        reduced, whole = (explore(scenario, proxy, reduce=reduce).violation for reduce in (True, False))
        assert (reduced is None) == (whole is None)
        verdicts.add(whole is None)
    assert verdicts == {True, False}


def deep(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the deep mode."""
    command = [sys.executable, "-m", "tests.explorer", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


def test_deep_mode() -> None:
    """The deep mode explores until its time is over, and says how much that was."""
    done = deep("--seconds", "2", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 1" in done.stdout
    assert "states" in done.stdout
    assert "schedules" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("no violation")


def test_deep_mode_finds_a_violation() -> None:
    """A violation ends the deep mode with its schedule, and with the seed that finds it again."""
    done = deep("--seconds", "60", "--seed", "1", "--algorithm", "plain")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "  1. " in done.stdout
    assert "--seed 1" in done.stdout
