"""Tells at the end how much was explored."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.explorer.__main__ import Tally
from zddm_flags.testing import Exploration

Proved = Callable[[Exploration], None]
_tally = Tally()


@pytest.fixture
def proved() -> Proved:
    """Checks that an exploration is complete and found no violation, and adds it to what was explored."""

    def check(found: Exploration) -> None:
        _tally.add(found.check())

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The total."""
    if _tally.scenarios:
        terminalreporter.write_line(f"explored the shipped code: {_tally}, no violation")
