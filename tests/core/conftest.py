from __future__ import annotations

import pytest

from tests.core.worlds import World


@pytest.fixture(params=["blocking", "asyncio"])
def world(request: pytest.FixtureRequest) -> World:
    """Each test runs in the blocking world and in the asyncio one."""
    return World(request.param)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing begins in the background by itself, as where threads have run out: a test does the work by hand."""
    for errand in ("zddm_flags._sync.errand", "zddm_flags._async.errand"):
        monkeypatch.setattr(f"{errand}.in_background", lambda *_: None)
