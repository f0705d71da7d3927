"""New fails in every way that a network and a server can, and the application does not notice."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.faults.stores import PLACES, WORLDS, Place, Store, World
from tests.faults.traffic import KEYS, Traffic
from tests.network import Link
from tests.servers import Server
from tests.worlds import settle
from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_flags import AsyncInMemoryLedger, AsyncProxy, Guard, InMemoryLedger, Proxy, TrafficGate

GUARD = Guard(
    budget_seconds=0.2,
    slow_call_seconds=0.08,
    max_slow_share=0.5,
    min_calls=4,
    max_hanging_calls=2,
    window_seconds=0.25,
    open_seconds=0.1,
    max_open_seconds=0.5,
    trial_calls=2,
)
"""Of every proxy: as the default, but quicker."""
MAX_OPERATION_SECONDS = 3.0
MAX_CALL_SECONDS = 1.5
HEALTHY_SECONDS = 0.1
FAULT_SECONDS = 0.4
LATE_SECONDS = 0.2
"""A call that raised is over within this, on the server too: no delay of these faults is longer."""
MARGIN_SECONDS = 1.0
"""What a busy machine may add to an operation."""
RESUME_SECONDS = 15.0
DELAY_SECONDS = 0.05
REPLY_BYTES = 3
REPLIES_BEFORE_COMMIT = 2
"""To BEGIN and to the statement, in PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with New.

    Attributes:
        begin: makes it so, for the link to New and its server.
        end: heals it.
        fails: whether calls to New fail meanwhile.
        own_server: whether the server must be of these tests alone.
    """

    begin: Callable[[Link, Server], object]
    end: Callable[[Link, Server], object] = lambda link, _: link.heal()
    fails: bool = True
    own_server: bool = False


FAULTS = {
    "refuse": Fault(lambda link, _: link.refuse()),
    "reset": Fault(lambda link, _: link.reset()),
    "stall": Fault(lambda link, _: link.swallow()),
    "slow": Fault(lambda link, _: link.slow(DELAY_SECONDS), fails=False),
    "cut_mid_reply": Fault(lambda link, _: link.cut_mid_reply(REPLY_BYTES)),
    # The reply to a COMMIT among others: New has the value, and nobody was told.
    "cut_at_commit": Fault(lambda link, _: link.cut_mid_reply(REPLY_BYTES, after_replies=REPLIES_BEFORE_COMMIT)),
    "restart": Fault(lambda _, server: server.halt(), lambda _, server: server.launch(), own_server=True),
}


def cases() -> list[Any]:
    """Every adapter in both worlds with every fault."""
    return [pytest.param(*case, id="-".join(case)) for case in itertools.product(PLACES, WORLDS, FAULTS)]


class Clock:
    """Monotonic seconds, of which a test may leave some out."""

    def __init__(self) -> None:
        self._left_out = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._left_out

    def leave_out(self, seconds: float) -> None:
        self._left_out += seconds


class Migration:
    """A proxy from a store in memory to `new`, with all keys in both and clean."""

    def __init__(self, world: World, new: Store) -> None:
        self.world: World = world
        self.new = new
        self.clock = Clock()
        self.gate = TrafficGate(1.0)
        self.initial = dict.fromkeys(KEYS, b"initial")
        blocking = world == "blocking"
        self.old: Any = (InMemoryAdapter if blocking else AsyncInMemoryAdapter)(self.initial)
        self.ledger = InMemoryLedger(clock=self.clock)
        kind: Any = Proxy if blocking else AsyncProxy
        self.proxy: Any = kind(
            self.gate,
            self.old,
            new.adapter,
            name="items",
            ledger=self.ledger if blocking else AsyncInMemoryLedger(self.ledger),
            max_operation_seconds=MAX_OPERATION_SECONDS,
            max_call_seconds=MAX_CALL_SECONDS,
            clock=self.clock,
            guard=GUARD,
        )

    def count(self, path: str) -> int:
        """How many keys took this path so far."""
        return sum(count for (_, taken), count in self.proxy.stats().operations.items() if taken == path)

    async def old_values(self) -> dict[str, bytes]:
        return await settle(self.old.read_many(KEYS))

    def dirty(self) -> set[str]:
        """The keys that the ledger calls dirty."""
        names = {self.gate.locate(key)[1]: key for key in KEYS}
        return {names[name] for name in self.ledger.migration("items", self.gate.identity).dirty(list(names))}

    async def served_by_new(self) -> bool:
        """Read every key; whether New served all that are there."""
        before = self.count("new_hit")
        found = {key: value for key in KEYS if (value := await settle(self.proxy.read(key))) is not None}
        assert found == await self.old_values()
        return self.count("new_hit") - before == len(found)

    async def resume(self) -> None:
        """Read until New serves everything again."""
        deadline = time.monotonic() + RESUME_SECONDS
        while not await self.served_by_new() or self.dirty():
            assert time.monotonic() < deadline, self.proxy.stats()
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Callable[[str], Server]]:
    """A server of each kind that may be stopped, for nobody else uses it."""
    with ExitStack() as stack:
        servers: dict[str, Server] = {}

        def start(adapter: str) -> Server:
            if adapter not in servers:
                servers[adapter] = server = PLACES[adapter][1]()
                stack.callback(server.stop)
                server.start()
            return servers[adapter]

        yield start


@pytest.fixture
def place(adapter: str, fault: str, request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty store for New."""
    server = request.getfixturevalue(f"{adapter}_server")  # skips the test where there is none
    if FAULTS[fault].own_server:
        server = request.getfixturevalue("own_server")(adapter)
    place = PLACES[adapter][0](server)
    yield place
    place.clear()


@pytest.fixture
async def migration(world: World, place: Place, link: Link) -> AsyncIterator[Migration]:
    """A migration that goes well, by the link."""
    new = place.open(world, link.port)
    migration = Migration(world, new)
    await migration.resume()
    yield migration
    await settle(migration.proxy.close())
    await settle(new.close())


async def clean_differences(migration: Migration, place: Place) -> dict[str, Any]:
    """Clean keys that New has and that differ from Old, seen past the link."""
    beside = place.open("blocking", place.server.port)
    try:
        found = await asyncio.to_thread(beside.adapter.read_many, KEYS)
    finally:
        await settle(beside.close())
    dirty, old = migration.dirty(), await migration.old_values()
    return {key: value for key, value in found.items() if key not in dirty and value != old.get(key)}


@pytest.mark.parametrize(("adapter", "world", "fault"), cases())
async def test_new_fails(migration: Migration, place: Place, link: Link, world: World, fault: str) -> None:
    """No operation fails or takes long, the guard opens, each read is right, and the migration goes on afterwards.

    What bounds an operation is the guard's budget in asyncio, and the driver's time-outs in blocking code.
    """
    call_seconds = GUARD.budget_seconds if world == "asyncio" else place.call_seconds(world)
    assert call_seconds is not None
    traffic = Traffic(world, migration.proxy, migration.initial)
    try:
        await asyncio.sleep(HEALTHY_SECONDS)
        await asyncio.to_thread(FAULTS[fault].begin, link, place.server)
        await asyncio.sleep(FAULT_SECONDS)
        for _ in range(200):  # a busy machine makes few calls in that time
            if not FAULTS[fault].fails or migration.count("guard_open"):
                break
            await asyncio.sleep(0.05)
    finally:
        await traffic.stop()  # before the fault ends, so that it is not its end that ends an operation
    failed, refused = migration.count("new_failed"), migration.count("guard_open")
    await asyncio.to_thread(FAULTS[fault].end, link, place.server)

    assert not traffic.violations()
    assert traffic.slowest < call_seconds + MARGIN_SECONDS
    if FAULTS[fault].fails:
        assert failed > 0
        assert refused > 0
    else:  # so few slow calls end in so short a time that the guard may or may not open
        assert traffic.slowest >= 2 * DELAY_SECONDS

    await asyncio.sleep(LATE_SECONDS)  # no event tells that nothing is on its way any more
    migration.clock.leave_out(MAX_OPERATION_SECONDS * 1.1 + 1.0)  # which the reaper would wait
    assert not await clean_differences(migration, place)
    await migration.resume()
    assert not await clean_differences(migration, place)
