"""The benchmark of a stalled New measures what it says, at a small size. Figures are for `make bench`."""

import pytest

from tests.benchmarks.stalled_new import GUARD, OPERATIONS, SOCKET_SECONDS, WORKERS, measure, table


@pytest.mark.parametrize("world", ["blocking", "asyncio"])
def test_stalled_new(postgresql_server, valkey_server, world):
    """A stall of New slows down at most a call of each worker; then the guard is open, and nobody waits."""
    run = measure(postgresql_server, valkey_server, world, turns=1, seconds=0.5)
    assert run.seconds_to_open < GUARD.budget_seconds + SOCKET_SECONDS + 2
    assert run.slow_operations <= WORKERS
    for operation in OPERATIONS:
        assert run.proxied[0][operation].per_second > 0
        assert run.proxied[0][operation].longest < SOCKET_SECONDS, "somebody waited for New"
    assert run.calls_of_new <= 2  # in the background
    assert len(table([run]).splitlines()) > len(OPERATIONS) + 3
