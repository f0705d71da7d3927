"""What docs/guarantees.md says is shown where it says so."""

import re
from pathlib import Path

import pytest

from tests.explorer.mistakes import SEEDS
from tests.explorer.test_shipped import PROMISES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (H\d+) \|(.*)$", TEXT, re.MULTILINE))


@pytest.mark.parametrize("mark", [f"H{number}" for number in range(1, 19)])
def test_hazard_has_a_row(mark):
    """Each hazard has its row, which names a test or says that it is not promised."""
    assert "tests/" in ROWS[mark] or "the same (h" in ROWS[mark] or "not promised" in ROWS[mark]


def test_scenarios_named_are_explored():
    """Where a row names the scenarios of a hazard, there are some."""
    explored = {identifier.split("_")[0] for identifier in PROMISES}
    named = re.findall(r"\((h\d+)\)", TEXT)
    assert len(named) > 8
    assert set(named) <= explored


def test_tests_named_exist():
    """Each test that the page names is in the file that it names."""
    references = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len(references) > 10
    for file, test in references:
        assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_number_of_seeded_mistakes():
    """The page counts the seeded mistakes right."""
    assert f"{len(SEEDS)} proxies and ledgers" in TEXT
