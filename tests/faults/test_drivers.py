"""What the drivers do where nothing is carried, as far as these tests and the guard rely on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.faults.stores import PLACES, Place
from tests.network import Link
from tests.worlds import settle

CANCEL_SECONDS = 0.1
AT_ONCE_SECONDS = 1.0


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty store on the session's server of each kind."""
    place = PLACES[request.param][0](request.getfixturevalue(f"{request.param}_server"))
    yield place
    place.clear()


async def test_a_call_is_cancelled_at_once(place: Place, link: Link) -> None:
    """A call that waits for an answer ends when it is cancelled, though nothing reaches the server."""
    store = place.open("asyncio", link.port)
    await store.adapter.write("a", b"1")
    link.swallow()
    # The first on a connection that is there, the second on one that is to be made.
    for call, arguments in ((store.adapter.read, ("a",)), (store.adapter.write, ("a", b"2"))):
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call(*arguments), CANCEL_SECONDS)
        assert time.monotonic() - begun < AT_ONCE_SECONDS
    link.heal()
    assert await store.adapter.read("a") == b"1"
    await settle(store.close())
