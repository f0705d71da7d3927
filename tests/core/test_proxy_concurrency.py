"""Many at once: one copier a key, an oracle over random histories, a model, and a fork."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.core.worlds import MANY, Migration, Trouble, World, finish
from zddm_flags import Copies, Guard, Rollout, Shadow, StoreInfo, Telemetry
from zddm_flags.errors import LedgerUnavailable, NotApplied, OperationTimedOut

QUIET = Telemetry(log=False)


@pytest.fixture
def often() -> Iterator[None]:
    """Threads that take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


# --- One copier


async def test_one_copier_per_key(world: World) -> None:
    """H17: of fifty concurrent readers of a missing key exactly one copies, and no other waits for it."""
    migration = world.migration(old={"hot": "v"})
    reached, release = world.event(), world.event()

    async def hold() -> None:
        reached.set()
        await release.wait()

    migration.old.before["read"] = hold
    with ThreadPoolExecutor(50) as pool:
        copier = world.spawn(migration.read("hot"), pool)
        await world.until(lambda: reached.is_set)
        others = await asyncio.gather(*(world.spawn(migration.read("hot"), pool) for _ in range(49)))
        assert others == ["v"] * 49
        assert migration.new.values == {}
        release.set()
        assert await copier == "v"
    assert migration.stats().operations == {("read", "copied"): 1, ("read", "dirty"): 49}
    assert migration.stats().copies == 1
    assert [request for request in migration.new.requests if request[0] == "write"] == [("write", ("hot",))]
    assert migration.left == (0, 0)


async def test_readers_do_not_disturb_a_copy(world: World, often: None) -> None:
    """H17: readers who come in any order copy a key once at a time, and leave it clean."""
    migration = world.migration(old={"hot": "v"}, telemetry=QUIET)
    migration.old.pause = migration.new.pause = migration.ledger.pause = world.pause
    with ThreadPoolExecutor(16) as pool:
        values = await asyncio.gather(*(world.spawn(migration.read("hot"), pool) for _ in range(64)))
    assert values == ["v"] * 64
    assert migration.new.values == {"hot": "v"}
    assert migration.left == (0, 0)


# --- An oracle over a random history

KEYS = [f"user:{number}" for number in range(50)]


class Worker:
    """Random operations; every read is checked against what Old held during it."""

    def __init__(self, migration: Migration, seed: int) -> None:
        self.migration = migration
        self.random = random.Random(seed)
        self.seed = seed
        self.reads = 0

    async def work(self, steps: int) -> None:
        for step in range(steps):
            key = self.random.choice(KEYS)
            match self.random.randrange(10):
                case 0 | 1 | 2:
                    await self.migration.write(key, (self.seed, step))
                case 3:
                    await self.migration.delete(key)
                case 4:
                    keys = self.random.sample(KEYS, 5)
                    await self.migration.write_many({each: (self.seed, step, each) for each in keys})
                case 5:
                    await self.read(self.random.sample(KEYS, 5))
                case _:
                    await self.read([key])

    async def read(self, keys: list[str]) -> None:
        history = self.migration.old.history
        first = {key: len(history(key)) - 1 for key in keys}
        if len(keys) == 1:
            found = {keys[0]: await self.migration.read(keys[0])}
        else:
            found = await self.migration.read_many(keys)
        for key in keys:
            held = history(key)[first[key] :]
            assert found.get(key) in held, f"{key}: {found.get(key)} was never in Old during the read ({held})"
            self.reads += 1


async def trouble_maker(migration: Migration, everyone: list[Migration], seed: int, steps: int) -> None:
    """Ramps, kills and resumes in one process or the other, and a New that refuses now and then."""
    choices = random.Random(seed)
    for _ in range(steps):
        process = choices.choice(everyone)
        match choices.randrange(5):
            case 0:
                process.proxy.disable()
            case 1:
                process.proxy.enable()
            case 2:
                migration.new.outage(NotApplied())
            case 3:
                migration.new.recover()
            case _:
                read = choices.random()
                process.gate.set_rate(Rollout(read, choices.uniform(read, 1.0)))
        for _ in range(5):
            await migration.world.pause()
    migration.new.recover()
    for process in everyone:
        process.proxy.enable()
        process.gate.set_rate(1.0)


@pytest.mark.parametrize("seed", range(3))
async def test_random_histories(world: World, seed: int, often: None) -> None:
    """Under ramps, kills, resumes and refusals every read is a value that Old held during it."""
    migration = world.migration(
        0.5,
        old=dict.fromkeys(KEYS[:25], "initial"),
        old_methods=MANY,
        new_methods=MANY,
        telemetry=QUIET,
        max_batch=3,
        guard=None,  # which would leave New alone after so many refusals
    )
    migration.old.pause = migration.new.pause = migration.ledger.pause = world.pause
    everyone = [migration, migration.in_another_process(0.7)]
    size, steps = (8, 120) if world.blocking else (100, 12)
    workers = [Worker(everyone[number % 2], seed * 1000 + number) for number in range(size)]
    with ThreadPoolExecutor(size + 1) as pool:
        await asyncio.gather(
            *(world.spawn(worker.work(steps), pool) for worker in workers),
            world.spawn(trouble_maker(migration, everyone, seed, 60), pool),
        )
    assert sum(worker.reads for worker in workers) > 300
    assert migration.summary.pending == 0
    assert migration.clean_differences() == {}
    # The counts lose nothing either.
    calls = sum(number for process in everyone for number in process.stats().calls.values())
    assert calls == sum(len(keys) for store in (migration.old, migration.new) for _, keys in store.requests)
    assert await migration.read_many(KEYS) == migration.old.values
    assert migration.left == (0, 0)
    assert migration.new.values == migration.old.values


# --- A model

KEY = st.sampled_from(["a", "b", "c"])
RATE = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: Rollout(min(pair), max(pair)))
FAILURE = st.sampled_from(["before", "after", "late", "not_applied"])


GUARD = Guard(min_calls=2, open_seconds=1, max_open_seconds=40, trial_calls=1, max_hanging_calls=1)
NARROW = Copies(mode="background", max_keys=1, per_second=0.1)


class ModelMachine(RuleBasedStateMachine):
    """Two processes with one ledger against a dict. Calls fail in every way, and may take effect later.

    Single-threaded, so a read returns exactly what Old holds, whatever happened before.
    """

    world_name = "blocking"

    @initialize(rate=RATE, batch=st.integers(1, 3), guarded=st.booleans(), copy=st.sampled_from(["inline", "off"]))
    def start(self, rate: Rollout, batch: int, guarded: bool, copy: str) -> None:
        self.begin(rate, batch, guard=GUARD if guarded else None, copy=copy)

    def begin(self, rate: Rollout, batch: int, **options: Any) -> None:
        world = World(self.world_name)
        first = world.migration(
            rate,
            old_methods=MANY,
            new_methods=MANY,
            new_info=StoreInfo(remote=False),  # which needs no event loop
            telemetry=QUIET,
            max_batch=batch,
            **options,
        )
        self.migration = first
        self.processes = [first, first.in_another_process(rate)]
        self.model: dict[str, Any] = {}
        self.late: list[tuple[Any, dict[str, Any]]] = []
        self.serial = 0

    def value(self) -> int:
        self.serial += 1
        return self.serial

    @rule(process=st.integers(0, 1), rate=RATE)
    def ramp(self, process: int, rate: Rollout) -> None:
        self.processes[process].gate.set_rate(rate)

    @rule(process=st.integers(0, 1), on=st.booleans())
    def switch(self, process: int, on: bool) -> None:
        proxy = self.processes[process].proxy
        proxy.enable() if on else proxy.disable()

    @rule(process=st.integers(0, 1), key=KEY)
    def read(self, process: int, key: str) -> None:
        assert finish(self.processes[process].read(key)) == self.migration.old.values.get(key)

    @rule(process=st.integers(0, 1), keys=st.lists(KEY))
    def read_many(self, process: int, keys: list[str]) -> None:
        held = self.migration.old.values
        expected = {key: held[key] for key in keys if key in held}
        assert finish(self.processes[process].read_many(keys)) == expected

    @rule(process=st.integers(0, 1), keys=st.sets(KEY, min_size=1), batch=st.booleans(), delete=st.booleans())
    def change(self, process: int, keys: set[str], batch: bool, delete: bool) -> None:
        migration = self.processes[process]
        changes: dict[str, Any] = {key: None if delete else self.value() for key in sorted(keys)}
        if batch and not delete:
            finish(migration.write_many(changes))
        else:
            for key, value in changes.items():
                finish(migration.delete(key) if delete else migration.write(key, value))
        for key, value in changes.items():
            self.model.pop(key, None)
            if value is not None:
                self.model[key] = value

    @rule(process=st.integers(0, 1), key=KEY, store=st.sampled_from(["old", "new"]), failure=FAILURE)
    def failing_write(self, process: int, key: str, store: str, failure: str) -> None:
        part = getattr(self.migration, store)
        value = self.value()
        error: Exception = NotApplied() if failure == "not_applied" else Trouble()
        hooks = part.after if failure == "after" else part.before
        hooks.update(write=error, write_many=error)
        asked = len(part.requests)
        try:
            finish(self.processes[process].write(key, value))
        except (Trouble, NotApplied):
            assert store == "old"
            if failure == "after":
                self.model[key] = value
        else:
            self.model[key] = value
        part.recover()
        if failure == "late" and ("write", (key,)) in part.requests[asked:]:
            self.late.append((part, {key: value}))

    @rule(process=st.integers(0, 1), key=KEY, failure=FAILURE)
    def failing_copy(self, process: int, key: str, failure: str) -> None:
        new = self.migration.new
        error: Exception = NotApplied() if failure == "not_applied" else Trouble()
        hooks = new.after if failure == "after" else new.before
        hooks.update(write=error, delete=error)
        held = self.migration.old.values.get(key)
        asked = len(new.requests)
        assert finish(self.processes[process].read(key)) == held
        new.recover()
        if failure == "late" and ("write", (key,)) in new.requests[asked:]:
            self.late.append((new, {key: held}))

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def land(self, data: st.DataObject) -> None:
        """A call that failed takes effect after all."""
        part, items = self.late.pop(data.draw(st.integers(0, len(self.late) - 1)))
        part.put(items)
        if part is self.migration.old:
            self.model.update(items)

    @rule(
        process=st.integers(0, 1),
        key=KEY,
        call=st.sampled_from(["begin", "begin_copy", "end", "withdraw", "dirty", "open_to", "reap"]),
        moment=st.sampled_from(["before", "after"]),
    )
    def failing_ledger(self, process: int, key: str, call: str, moment: str) -> None:
        ledger = self.migration.ledger
        getattr(ledger, moment)[call] = Trouble()
        value = self.value()
        try:
            finish(self.processes[process].write(key, value))
            self.model[key] = value
        except LedgerUnavailable:
            assert call == "begin"
        assert finish(self.processes[process].read(key)) == self.migration.old.values.get(key)
        ledger.recover()

    @rule(process=st.integers(0, 1), key=KEY, call=st.sampled_from(["ledger.begin", "old.write", "new.write"]))
    def slow_write(self, process: int, key: str, call: str) -> None:
        part, method = call.split(".")

        async def slow() -> None:
            self.migration.clock.advance(25)

        value = self.value()
        getattr(self.migration, part).after[method] = slow
        try:
            finish(self.processes[process].write(key, value))
            self.model[key] = value
        except OperationTimedOut:
            assert call == "ledger.begin"
        self.migration.ledger.recover()
        self.migration.old.recover()
        self.migration.new.recover()
        self.late.clear()  # 25 s may be all the time that the earlier calls had

    @rule()
    def time_passes(self) -> None:
        """Long enough for calls to have landed or never to land, and for their tokens to be reaped."""
        self.late.clear()
        self.migration.clock.advance(60)

    @invariant()
    def clean_keys_are_equal(self) -> None:
        if hasattr(self, "migration"):
            assert self.migration.clean_differences() == {}
            assert self.migration.old.values == self.model

    def teardown(self) -> None:
        """When all is over, one read of each key leaves New equal to Old and the ledger empty."""
        if not hasattr(self, "migration"):
            return
        self.time_passes()
        migration = self.migration.in_another_process(1.0, guard=None, copy="inline", shadow=None)
        assert finish(migration.read_many("abc")) == self.model
        assert finish(migration.read_many("abc")) == self.model
        assert migration.left == (0, 0)
        assert migration.new.values == self.model


class AsyncModelMachine(ModelMachine):
    """The same in asyncio, whose background a rule does by hand, for no event loop runs."""

    world_name = "asyncio"

    @initialize(
        rate=RATE,
        batch=st.integers(1, 3),
        guarded=st.booleans(),
        copy=st.sampled_from(["inline", "off", "background", NARROW]),
        compared=st.booleans(),
    )
    def start(self, rate: Rollout, batch: int, guarded: bool, copy: Any, compared: bool) -> None:
        shadow = Shadow(share=1.0, per_second=None, max_keys=2) if compared else None
        self.begin(rate, batch, guard=GUARD if guarded else None, copy=copy, shadow=shadow)

    @rule(process=st.integers(0, 1))
    def background(self, process: int) -> None:
        """No difference is found where there is none."""
        assert finish(self.processes[process].work()) == 0


SETTINGS = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestModelBlocking = ModelMachine.TestCase
TestModelBlocking.settings = SETTINGS
TestModelAsyncio = AsyncModelMachine.TestCase
TestModelAsyncio.settings = SETTINGS


# --- A fork

FORK = """
import asyncio, json, os, sys, warnings
warnings.simplefilter("error")
import structlog
from structlog.testing import capture_logs
from zddm_flags import AsyncProxy, InMemoryLedger, Proxy, TrafficGate
from zddm_flags.errors import LedgerUnavailable
from zddm_flags.tokens import new_token

class Dict:
    def __init__(self, values): self.values = values
    def read(self, key): return self.values.get(key)
    def write(self, key, value): self.values[key] = value

class AsyncDict(Dict):
    async def read(self, key): return self.values.get(key)
    async def write(self, key, value): self.values[key] = value

blocking = sys.argv[1] == "blocking"
proxy_class, adapter = (Proxy, Dict) if blocking else (AsyncProxy, AsyncDict)
def call(function, *arguments):
    return function(*arguments) if blocking else asyncio.run(function(*arguments))

class Shared:
    # As far as a proxy can see, a ledger on a server.
    shared = True
    def __init__(self, ledger): self.migration = ledger.migration

shared = sys.argv[2] == "shared"
options = {}
if shared:
    from zddm_flags import AsyncInMemoryLedger
    options = {"name": "users", "ledger": Shared(InMemoryLedger() if blocking else AsyncInMemoryLedger())}
proxy = proxy_class(TrafficGate(1.0), adapter({"k": "old"}), adapter({"k": "new"}), **options)
assert call(proxy.read, "k") == "new"

# Other threads of the parent may hold any lock at the moment of the fork.
counts = proxy._telemetry.counts
held = [counts._lock, proxy._telemetry._limit_lock, proxy._telemetry.instruments._lock]
for lock in held:
    lock.acquire()
readable, writable = os.pipe()
if os.fork() == 0:
    with capture_logs() as logs:
        told = {"read": [call(proxy.read, "k") for _ in range(3)], "enabled": proxy.enabled}
        call(proxy.write, "k", "changed")
        told["after"] = call(proxy.read, "k")
        try:
            proxy.enable()
            told["enable"] = "works"
        except LedgerUnavailable:
            told["enable"] = "refused"
        told["operations"] = sorted(path for _, path in proxy.stats().operations)
    told["logs"] = [[log["log_level"], log["event"]] for log in logs]
    told["token"] = new_token().decode()
    os.write(writable, json.dumps(told).encode())
    os._exit(0)
for lock in held:
    lock.release()
os.close(writable)
with os.fdopen(readable) as child:
    told = json.load(child)
assert os.wait()[1] == 0
assert proxy.enabled and call(proxy.read, "k") == "new"
told["parent"] = [new_token().decode() for _ in range(3)]
print(json.dumps(told))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("ledger", ["in_memory", "shared"])
def test_fork(world: World, ledger: str) -> None:
    """A forked child with the in-memory ledger leaves New alone and says so once; no lock stays held in it."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, world.name, ledger],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    tokens = [*told.pop("parent"), told.pop("token")]
    assert len({token.rpartition("-")[0] for token in tokens}) == 2
    assert len(set(tokens)) == 4
    assert all(len(token) <= 48 for token in tokens)
    if ledger == "shared":
        assert told == {
            "read": ["new"] * 3,
            "enabled": True,
            "after": "changed",
            "enable": "works",
            "operations": ["both", "new_hit"],
            "logs": [["info", "opened_wider"]],
        }
    else:
        assert told == {
            "read": ["old"] * 3,
            "enabled": False,
            "after": "changed",
            "enable": "refused",
            "operations": ["disabled", "disabled", "new_hit"],
            "logs": [["error", "proxy_disabled_by_fork"]],
        }
