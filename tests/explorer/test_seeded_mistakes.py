"""Each rule of the protocol is needed: a proxy or a ledger that breaks it is caught by a small scenario."""

from __future__ import annotations

import dataclasses

import pytest

from tests.explorer.mistakes import SEEDS, Seed
from zddm_flags.testing import explore


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.mistake.__name__)
def test_mistake_is_caught(seed: Seed) -> None:
    """The mistake breaks the promise in its scenario, in which the shipped code keeps it."""
    scenario = dataclasses.replace(seed.scenario, faults=seed.faults, kinds=seed.kinds)
    explore(scenario, seed.shipped).check()
    violation = explore(scenario, seed.proxy, ledger_table=seed.table).violation
    assert violation is not None
    assert violation.schedule
    assert "Error:" not in violation.what, "the mistake is in the test's own code"
