"""Tells at the end how much was explored: a pytest plugin, which `tests/conftest.py` registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where several processes share the tests, tell the one that writes the summary."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None and _tally.scenarios:
        output["explored"] = vars(_tally)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear what another process explored."""
    for name, number in node.workeroutput.get("explored", {}).items():
        setattr(_tally, name, getattr(_tally, name) + number)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The total."""
    if _tally.scenarios:
        terminalreporter.write_line(f"explored the shipped code: {_tally}, no violation")
