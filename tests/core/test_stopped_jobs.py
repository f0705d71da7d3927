"""A job that is stopped ends with a result, wherever it is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.worlds import Clock, Trouble, WatchedLedger, World
from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_flags import AsyncBackfill, AsyncProxy, AsyncVerify, Backfill, Proxy, TrafficGate, Verify


class _Migration:
    """A migration of three keys whose ledger can be failed."""

    def __init__(self, world: World, rate: float) -> None:
        self.world = world
        self.ledger = WatchedLedger(world, [], Clock(), shared=True)
        gate, values = TrafficGate(rate), {"a": "1", "b": "2", "c": "3"}
        self.proxy: Any
        if world.blocking:
            self.proxy = Proxy(gate, InMemoryAdapter(values), InMemoryAdapter(), name="users", ledger=self.ledger)
        else:
            self.proxy = AsyncProxy(
                gate, AsyncInMemoryAdapter(values), AsyncInMemoryAdapter(), name="users", ledger=self.ledger
            )

    def backfill(self) -> Any:
        return (Backfill if self.world.blocking else AsyncBackfill)(self.proxy)

    def verify(self) -> Any:
        return (Verify if self.world.blocking else AsyncVerify)(self.proxy)


async def test_stopped_while_the_rate_is_0(world):
    """A backfill that waits for the write rate to rise, and is stopped, tells that it did nothing."""
    migration = _Migration(world, 0.0)
    job = migration.backfill()
    job.stop()
    result = await world.call(job.run)
    assert (result.finished, result.resumed, result.rows, result.covered) == (False, False, 0, 0.0)
    assert job.progress().waiting is None


@pytest.mark.parametrize("name", ["backfill", "verify"])
async def test_stopped_while_the_ledger_fails_at_the_beginning(world, name):
    """A job that waits for the ledger, and is stopped, tells that it did nothing."""
    migration = _Migration(world, 1.0)
    migration.ledger.outage(methods=["checkpoints"])
    job = getattr(migration, name)()
    job.stop()
    result = await world.call(job.run)
    assert (result.finished, result.resumed) == (False, False)


async def test_stopped_while_the_ledger_fails_at_the_end(world):
    """A run whose end the ledger does not take is not finished, and the next one finds nothing left to do."""
    migration = _Migration(world, 1.0)
    job = migration.backfill()

    async def fail() -> None:
        """The page is done: the ledger takes its checkpoint, and nothing more."""
        migration.ledger.before["save_checkpoint"] = saved_once

    async def saved_once() -> None:
        migration.ledger.before["save_checkpoint"] = Trouble()
        job.stop()

    migration.ledger.before["end"] = fail
    result = await world.call(job.run)
    assert (result.finished, result.copied) == (False, 3)
    migration.ledger.recover()
    again = await world.call(migration.backfill().run)
    assert (again.finished, again.resumed, again.copied) == (True, True, 3)
