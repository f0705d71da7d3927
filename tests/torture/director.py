"""One run in one direction: set up, let faults loose on workers, look at what is left, check what they saw."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.network import Link, Network
from tests.servers import Server
from tests.torture.checker import Violation, check
from tests.torture.faults import Act, Fault, Faults
from tests.torture.history import History, Recorder, load
from tests.torture.operations import operate
from tests.torture.servers import SIGNALS, Servers, halt
from tests.torture.stores import (
    HALF_OPEN_MAX,
    HELD_UP_MAX,
    ITEMS,
    MAX_OPERATION_SECONDS,
    SLOW_MAX,
    BlockingStores,
    Direction,
    Places,
)
from tests.torture.worker import FLAG, MIGRATION, Algorithm, WorkerSettings
from tests.torture.workers import Workers
from tests.torture.workload import Request, initial_items
from zddm_flags import Proxy, TrafficGate
from zddm_flags.testing import FlagServer

__all__ = ["Plan", "Result", "Settled", "run"]

FLAG_DELAYS = (0.0, 0.05, 0.4, 1.5)
"""Seconds after which the workers hear of a flag's change: each of them has its own, taken in turn."""
RATES: tuple[object, ...] = (
    0,
    0.3,
    0.7,
    0.7,
    1,
    1,
    1,
    1,
    {"read": 0, "write": 1},
    {"read": 0.3, "write": 0.7},
    {"read": 0.7, "write": 1},
)
DOWN_MAX = 0.4
LEDGER_SLOW_MAX = 1.0
LEDGER_HALF_OPEN_MAX = 1.0
SWEEP_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        direction: which store is Old.
        seconds: how long the faults last.
        seed: of all random choices.
        algorithm: what the workers use.
        workers: how many processes; every other one is an asyncio program.
        concurrency: threads or tasks of each.
        folder: for histories and logs; empty.
        progress: called with a line to print, now and then.
    """

    direction: Direction
    seconds: float
    seed: int
    algorithm: Algorithm
    workers: int
    concurrency: int
    folder: Path
    progress: Callable[[str], None]


@dataclass(slots=True)
class Settled:
    """What was found when nothing went on any more.

    Attributes:
        reaped: tokens that dead workers had left.
        stale: keys that the ledger did not trust New for.
        compared: keys that it did.
        differing: those of them that New held, with another value than Old.
        unrepaired: keys that were still dirty or different after each had been read once more at rate 1.
    """

    reaped: int
    stale: int
    compared: int
    differing: list[str]
    unrepaired: list[str]


@dataclass(slots=True)
class Result:
    """What a run was like."""

    plan: Plan
    faults: Counter[str]
    history: History
    settled: Settled | None
    violations: dict[str, Violation]
    checking_seconds: float


class Director:
    """Sets up and runs one plan over servers that are running."""

    def __init__(self, plan: Plan, servers: Servers, network: Network, flags: FlagServer) -> None:
        self._plan = plan
        self._servers = servers
        self._flags = flags
        self._database = servers.postgresql.create_database()
        postgresql, valkey = servers.postgresql.port, servers.valkey.port
        self._old, self._new = plan.direction.split("-to-")
        ledger = postgresql if self._old == "postgresql" else valkey
        self._direct = Places(postgresql, valkey, ledger, self._database)
        self._links: dict[str, list[Link]] = {"postgresql": [], "valkey": [], "ledger": [], "flags": []}
        flag_port = int(flags.url.rpartition(":")[2])
        for slot in range(plan.workers):
            self._links["postgresql"].append(network.link("127.0.0.1", postgresql))
            self._links["valkey"].append(network.link("127.0.0.1", valkey))
            self._links["ledger"].append(network.link("127.0.0.1", ledger))
            self._links["flags"].append(network.link("127.0.0.1", flag_port, FLAG_DELAYS[slot % len(FLAG_DELAYS)]))

    def prepare(self) -> None:
        """Make empty stores and put the first values into Old."""
        with self._servers.valkey.client() as client:
            client.flushall()
        with self._stores() as stores:
            ITEMS.create(stores.engine)
            stores.old.write_many({key: value.encode() for key, value in initial_items().items()})

    def torture(self) -> Counter[str]:
        """Let the workers work and the faults happen; returns the faults."""
        plan = self._plan
        workers = Workers(plan.workers, self._worker_settings)
        try:
            workers.wait_until_begun()
            faults = Faults(f"{plan.seed} {plan.direction}", self._faults(workers))
            try:
                faults.start()
                self._pass_time(faults)
            finally:
                faults.stop()
            faults.check()
            workers.check()
            workers.stop()
        finally:
            workers.kill()
        return faults.counts

    def _pass_time(self, faults: Faults) -> None:
        begun = time.monotonic()
        for reported in range(1, 1 << 30):
            rest = begun + self._plan.seconds - time.monotonic()
            if faults.failed.wait(min(5.0, max(rest, 0.0))) or rest <= 5.0:
                return
            told = ", ".join(f"{count} {name}" for name, count in faults.counts.items())
            self._plan.progress(f"  {5 * reported:4} s: {told}")

    def settle(self, history: History) -> Settled:
        """Wait until every token is old enough, reap once, compare; then read every key once more, and compare."""
        self._plan.progress("  waiting until what the workers left is old enough to be reaped")
        time.sleep(MAX_OPERATION_SECONDS + 0.5)
        with self._stores() as stores:
            gate = TrafficGate(1.0)
            ledger = stores.ledger.migration(MIGRATION, gate.identity)
            reaped = ledger.reap(MAX_OPERATION_SECONDS, 1_000_000)
            old, new = _everything(stores.old), _everything(stores.new)
            keys = sorted({*old, *new, *history.keys})
            stale = self._dirty(ledger, gate, keys)
            clean = [key for key in keys if key not in stale]
            differing = [key for key in clean if key in new and new[key] != old.get(key)]
            history.load(self._sweep(stores, gate, keys))
            old, new = _everything(stores.old), _everything(stores.new)
            still = self._dirty(ledger, gate, keys)
            unrepaired = [key for key in keys if key in still or new.get(key) != old.get(key)]
        return Settled(reaped, len(stale), len(clean), differing, unrepaired)

    def _sweep(self, stores: BlockingStores, gate: TrafficGate, keys: list[str]) -> Path:
        path = self._plan.folder / "sweep.history"
        recorder = Recorder(path)
        proxy = Proxy(gate, stores.old, stores.new, name=MIGRATION, ledger=stores.ledger)
        for start in range(0, len(keys), SWEEP_AT_ONCE):
            chunk = dict.fromkeys(keys[start : start + SWEEP_AT_ONCE])
            error = operate(proxy, recorder, Request("read_many", chunk))
            if error is not None:
                raise error
        recorder.close()
        return path

    @staticmethod
    def _dirty(ledger: Any, gate: TrafficGate, keys: list[str]) -> set[str]:
        names = {gate.locate(key)[1]: key for key in keys}
        return {names[name] for name in ledger.dirty(list(names))} if names else set()

    @contextmanager
    def _stores(self) -> Iterator[BlockingStores]:
        stores = BlockingStores(self._plan.direction, self._direct, 2)
        try:
            yield stores
        finally:
            stores.close()

    def _worker_settings(self, slot: int, generation: int) -> WorkerSettings:
        plan = self._plan
        name = f"w{slot}.{generation}"
        return WorkerSettings(
            name=name,
            seed=f"{plan.seed} {plan.direction} {name}",
            history=str(plan.folder / f"{name}.history"),
            direction=plan.direction,
            postgresql=self._links["postgresql"][slot].port,
            valkey=self._links["valkey"][slot].port,
            ledger=self._links["ledger"][slot].port,
            flags=self._links["flags"][slot].port,
            database=self._database,
            asyncio=slot % 2 == 1,
            algorithm=plan.algorithm,
            concurrency=plan.concurrency,
        )

    # -- faults -----------------------------------------------------------------------------------------------

    def _faults(self, workers: Workers) -> list[Fault]:
        old, new, ledger = self._links[self._old], self._links[self._new], self._links["ledger"]
        return [
            Fault("flag flips", 0.7, self._flip),
            Fault("flag cuts", 4.0, _cutting(self._links["flags"])),
            Fault("kills", 2.5, workers.kill_one),
            Fault("cuts of New", 2.0, _cutting(new)),
            Fault("slow New", 4.0, _slowing(new, SLOW_MAX, 1.0)),
            Fault("held-up New", 1.5, _holding_up(new)),
            Fault("half-open New", 4.0, _swallowing(new, HALF_OPEN_MAX)),
            Fault("restarts of New", 6.0, self._restarting(self._new)),
            Fault("cuts of Old", 3.0, _cutting(old)),
            Fault("slow Old", 6.0, _slowing(old, SLOW_MAX, 1.0)),
            Fault("held-up Old", 2.0, _holding_up(old)),
            Fault("half-open Old", 5.0, _swallowing(old, HALF_OPEN_MAX)),
            Fault("restarts of Old and ledger", 8.0, self._restarting(self._old)),
            Fault("cuts of the ledger", 4.0, _cutting(ledger)),
            Fault("slow ledger", 4.0, _slowing(ledger, LEDGER_SLOW_MAX, 2.5)),
            Fault("half-open ledger", 6.0, _swallowing(ledger, LEDGER_HALF_OPEN_MAX)),
        ]

    def _flip(self, rng: random.Random, stop: threading.Event) -> bool:
        if rng.random() < 0.1:
            self._flags.turn_off(FLAG)
            stop.wait(rng.uniform(0.1, 0.4))
            self._flags.turn_on(FLAG)
        else:
            self._flags.set(FLAG, rng.choice(RATES))
        return True

    def _restarting(self, kind: str) -> Act:
        server: Server = self._servers.postgresql if kind == "postgresql" else self._servers.valkey

        def restart(rng: random.Random, stop: threading.Event) -> bool:
            halt(server, rng.choice(SIGNALS[kind]))
            stop.wait(rng.uniform(0, DOWN_MAX))
            server.launch()
            return True

        return restart


def _some(links: list[Link], rng: random.Random) -> list[Link]:
    """One, or all."""
    return links if rng.random() < 0.3 else [rng.choice(links)]


def _cutting(links: list[Link]) -> Act:
    def cut(rng: random.Random, _: threading.Event) -> bool:
        deliver = rng.random() < 0.5
        return sum(link.cut(deliver=deliver) for link in _some(links, rng)) > 0

    return cut


def _slowing(links: list[Link], most: float, seconds: float) -> Act:
    def slow(rng: random.Random, stop: threading.Event) -> bool:
        slowed = _some(links, rng)
        connections = sum(link.slow(rng.uniform(most / 10, most)) for link in slowed)
        stop.wait(rng.uniform(seconds / 5, seconds))
        for link in slowed:
            link.heal()
        return connections > 0

    return slow


def _holding_up(links: list[Link]) -> Act:
    """Delay what is sent for so long that the client is gone, by its time-out or by a cut, when it arrives."""

    def hold_up(rng: random.Random, stop: threading.Event) -> bool:
        held_up = _some(links, rng)
        connections = sum(link.hold_up(rng.uniform(HELD_UP_MAX / 2, HELD_UP_MAX)) for link in held_up)
        stop.wait(rng.uniform(0.0, 0.5))
        for link in held_up:
            link.cut(deliver=True)
        stop.wait(rng.uniform(0.0, 0.2))
        for link in held_up:
            link.heal()
        return connections > 0

    return hold_up


def _swallowing(links: list[Link], most: float) -> Act:
    def swallow(rng: random.Random, stop: threading.Event) -> bool:
        silent = _some(links, rng)
        connections = sum(link.swallow() for link in silent)
        stop.wait(rng.uniform(most / 4, most))
        for link in silent:
            link.heal()
        return connections > 0

    return swallow


def _everything(store: Any) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    cursor = None
    while True:
        page = store.scan(cursor, 1000)
        found.update(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return found


def run(plan: Plan, servers: Servers) -> Result:
    """Run a plan and check what it left behind."""
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        flags = stack.enter_context(FlagServer({FLAG: 1}))
        director = Director(plan, servers, network, flags)
        director.prepare()
        faults = director.torture()
        history = load(plan.folder, MAX_OPERATION_SECONDS)
        settled = director.settle(history) if plan.algorithm == "zddm" else None
    plan.progress("  checking")
    begun = time.monotonic()
    first = initial_items()
    violations = {
        key: violation
        for key, operations in history.keys.items()
        if (violation := check(first.get(key), operations)) is not None
    }
    return Result(plan, faults, history, settled, violations, time.monotonic() - begun)
