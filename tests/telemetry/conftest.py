from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.conftest import by_hand, world
from tests.telemetry.snapshots import Traced
from tests.telemetry.test_metrics import Metered
from zddm_telemetry import events

__all__ = ["by_hand", "failures", "metered", "traced", "world"]


@pytest.fixture(autouse=True)
def failures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Telemetry swallows nothing."""
    known: set[type[BaseException]] = set()
    monkeypatch.setattr(events, "_known_failures", known)
    yield
    assert known == set()


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.provider.shutdown()


@pytest.fixture
def metered(caplog: pytest.LogCaptureFixture) -> Iterator[Metered]:
    """Metrics that nothing complains about: no duplicate instrument, no failing callback."""
    metered = Metered()
    yield metered
    assert caplog.records == []
    metered.provider.shutdown()
