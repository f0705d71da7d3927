"""One application process of the torture: `python -m tests.torture.worker SETTINGS`, settings as JSON.

It runs until its standard input ends, as it does when the director stops it, and when the director is killed. Its
exit status is 0 unless something failed that no fault explains, which it prints.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ldclient import Context
from ldclient.client import LDClient
from ldclient.config import Config

from tests.torture.facts import BEAT_SECONDS, Facts
from tests.torture.history import Recorder
from tests.torture.operations import EXPECTED, operate, operate_async
from tests.torture.plain import AsyncPlainProxy, PlainProxy
from tests.torture.stores import (
    MAX_CALL_SECONDS,
    MAX_OPERATION_SECONDS,
    AsyncStores,
    BlockingStores,
    Direction,
    Places,
)
from tests.torture.workload import KEYS, Workload
from zddm_flags import AsyncProxy, LaunchDarklySource, Proxy, TrafficGate

__all__ = ["FLAG", "MIGRATION", "Algorithm", "WorkerSettings"]

Algorithm = Literal["zddm", "plain"]

FLAG = "rate"
MIGRATION = "torture"
AFTER_A_FAILURE_SECONDS = 0.02
CANCELLED_SHARE = 0.03
CANCELLED_WITHIN_SECONDS = 0.02
OFF_SECONDS = 0.2
ON_SECONDS = 3.0
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker has to know.

    Attributes:
        name: of the process, unlike any other's.
        seed: of its random choices.
        history: the file that it notes what it does in.
        direction: which store is Old.
        postgresql, valkey, ledger, flags: the ports of its links.
        database: the PostgreSQL database.
        asyncio: whether it is an asyncio program, or one with threads.
        algorithm: what it uses: this library's proxy, or the plain one.
        concurrency: how many threads or tasks.
    """

    name: str
    seed: str
    history: str
    direction: Direction
    postgresql: int
    valkey: int
    ledger: int
    flags: int
    database: str
    asyncio: bool
    algorithm: Algorithm
    concurrency: int

    def dump(self) -> str:
        """As an argument of the command line."""
        return json.dumps(asdict(self))

    @property
    def places(self) -> Places:
        """Where the servers are."""
        return Places(self.postgresql, self.valkey, self.ledger, self.database)

    @property
    def connections(self) -> int:
        """How many connections to a store it uses at once."""
        return self.concurrency + 1


class Life:
    """When the process has to stop, and whether it failed."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.failed = False
        self._director = os.getppid()
        threading.Thread(target=self._watch_standard_input, daemon=True).start()

    def saw(self, error: Exception) -> None:
        """Fail, if this error is one that no fault explains."""
        if not isinstance(error, EXPECTED):
            traceback.print_exception(error)
            self.failed = True
            self.stop.set()

    def _watch_standard_input(self) -> None:
        sys.stdin.buffer.read()
        if os.getppid() != self._director:
            os._exit(3)
        self.stop.set()
        time.sleep(STOP_SECONDS)
        sys.stderr.write("the worker did not stop\n")
        os._exit(3)


@contextmanager
def flag_gate(port: int) -> Iterator[TrafficGate]:
    """A gate that follows the flag by a real LaunchDarkly client."""
    url = f"http://127.0.0.1:{port}"
    client = LDClient(
        Config(
            "sdk-local",
            stream_uri=url,
            base_uri=url,
            events_uri=url,
            send_events=False,
            initial_reconnect_delay=0.1,
        ),
        start_wait=STOP_SECONDS,
    )
    try:
        with LaunchDarklySource(client, FLAG, Context.builder("torture").kind("service").build()) as source:
            yield TrafficGate(source)
    finally:
        client.close()  # pyright: ignore[reportUnknownMemberType] - the SDK has no annotation there


def _proxy(kind: Any, gate: TrafficGate, stores: BlockingStores | AsyncStores) -> Any:
    return kind(
        gate,
        stores.old,
        stores.new,
        name=MIGRATION,
        ledger=stores.ledger,
        max_operation_seconds=MAX_OPERATION_SECONDS,
        max_call_seconds=MAX_CALL_SECONDS,
    )


class BlockingApplication:
    """Threads that share one proxy."""

    def __init__(self, settings: WorkerSettings, life: Life, recorder: Recorder) -> None:
        self._settings = settings
        self._stop = life.stop
        self._life = life
        self._recorder = recorder
        self._facts = Facts(recorder)

    def run(self, gate: TrafficGate) -> None:
        """Run until the process has to stop."""
        stores = BlockingStores(self._settings.direction, self._settings.places, self._settings.connections)
        self._warm_up(stores)
        for store in (stores.old, stores.new):
            self._facts.time_changes(store)
        kind = Proxy if self._settings.algorithm == "zddm" else PlainProxy
        self._facts.proxy = _proxy(kind, gate, stores)
        threads = [threading.Thread(target=self._switch)]
        threads += [
            threading.Thread(target=self._operate, args=(index,)) for index in range(self._settings.concurrency)
        ]
        for thread in threads:
            thread.start()
        while not self._stop.is_set():
            begun = time.monotonic()
            self._stop.wait(BEAT_SECONDS)
            self._facts.beat(begun)
        for thread in threads:
            thread.join()
        self._facts.note()
        stores.close()

    def _warm_up(self, stores: BlockingStores) -> None:
        """Connect once, which asks the server more than later connections do, before time counts."""
        for store in (stores.old, stores.new):
            while not self._stop.is_set():
                try:
                    store.read(KEYS[0])
                    break
                except EXPECTED:
                    self._stop.wait(BEAT_SECONDS)

    def _operate(self, index: int) -> None:
        rng = random.Random(f"{self._settings.seed} {index}")
        workload = Workload(f"{self._settings.name}.{index}", rng)
        while not self._stop.wait(workload.pause_seconds()):
            error = operate(self._facts.proxy, self._recorder, workload.request())
            if error is not None:
                self._life.saw(error)
                self._stop.wait(AFTER_A_FAILURE_SECONDS)

    def _switch(self) -> None:
        rng = random.Random(f"{self._settings.seed} switch")
        while not self._stop.wait(rng.expovariate(1 / ON_SECONDS)):
            self._facts.proxy.disable()
            self._facts.switched_off += 1
            self._stop.wait(rng.expovariate(1 / OFF_SECONDS))
            self._facts.proxy.enable()


class AsyncApplication:
    """Tasks that share one proxy, and are cancelled now and then. The asyncio twin of `BlockingApplication`."""

    def __init__(self, settings: WorkerSettings, life: Life, recorder: Recorder) -> None:
        self._settings = settings
        self._life = life
        self._recorder = recorder
        self._facts = Facts(recorder)

    async def run(self, gate: TrafficGate) -> None:
        """Run until the process has to stop."""
        stores = AsyncStores(self._settings.direction, self._settings.places, self._settings.connections)
        await self._warm_up(stores)
        for store in (stores.old, stores.new):
            self._facts.time_changes(store)
        kind = AsyncProxy if self._settings.algorithm == "zddm" else AsyncPlainProxy
        self._facts.proxy = _proxy(kind, gate, stores)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._switch())
            for index in range(self._settings.concurrency):
                tasks.create_task(self._operate(index))
            begun = time.monotonic()
            while await self._sleeps(BEAT_SECONDS):
                self._facts.beat(begun)
                begun = time.monotonic()
        self._facts.note()
        await stores.close()

    def _stopped(self) -> bool:
        return self._life.stop.is_set()

    async def _warm_up(self, stores: AsyncStores) -> None:
        for store in (stores.old, stores.new):
            while not self._stopped():
                try:
                    await store.read(KEYS[0])
                    break
                except EXPECTED:
                    await asyncio.sleep(BEAT_SECONDS)

    async def _operate(self, index: int) -> None:
        rng = random.Random(f"{self._settings.seed} {index}")
        workload = Workload(f"{self._settings.name}.{index}", rng)
        while not self._stopped():
            await asyncio.sleep(workload.pause_seconds())
            cancelled = rng.random() < CANCELLED_SHARE
            patience = rng.uniform(0, CANCELLED_WITHIN_SECONDS) if cancelled else None
            error = await operate_async(self._facts.proxy, self._recorder, workload.request(), patience)
            if error is not None:
                self._life.saw(error)
                await asyncio.sleep(AFTER_A_FAILURE_SECONDS)

    async def _switch(self) -> None:
        rng = random.Random(f"{self._settings.seed} switch")
        while await self._sleeps(rng.expovariate(1 / ON_SECONDS)):
            self._facts.proxy.disable()
            self._facts.switched_off += 1
            await self._sleeps(rng.expovariate(1 / OFF_SECONDS))
            self._facts.proxy.enable()

    async def _sleeps(self, seconds: float) -> bool:
        """Sleep; False if the process has to stop. Few things sleep for long, so that is noticed soon enough."""
        await asyncio.sleep(min(seconds, ON_SECONDS))
        return not self._stopped()


def main(argument: str) -> int:
    """Run the worker; returns the exit status."""
    settings = WorkerSettings(**json.loads(argument))
    life = Life()
    recorder = Recorder(Path(settings.history))
    with flag_gate(settings.flags) as gate:
        if settings.asyncio:
            asyncio.run(AsyncApplication(settings, life, recorder).run(gate))
        else:
            BlockingApplication(settings, life, recorder).run(gate)
    recorder.close()
    return 1 if life.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
