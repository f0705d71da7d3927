"""The ways to the servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.stores import Place
from tests.network import Link, Network


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """The way to all servers."""
    with Network() as network:
        yield network


@pytest.fixture
def link(network: Network, place: Place) -> Iterator[Link]:
    """The way to it."""
    link = network.link("127.0.0.1", place.server.port)
    yield link
    link.heal()
