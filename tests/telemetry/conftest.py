from __future__ import annotations

import pytest

from tests.core.worlds import World


@pytest.fixture(params=["blocking", "asyncio"])
def world(request: pytest.FixtureRequest) -> World:
    """Each test runs in the blocking world and in the asyncio one."""
    return World(request.param)
