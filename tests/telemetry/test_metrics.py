"""Metrics: every instrument, its unit, its attributes and its numbers."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from ldclient import Context
from opentelemetry.metrics import CallbackOptions
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    Sum,
)

from tests.core.worlds import Migration, Trouble, World
from zddm_flags import Guard, LaunchDarklySource, Rollout, Telemetry
from zddm_flags.testing import FlagServer
from zddm_telemetry import events
from zddm_telemetry.counts import Counts
from zddm_telemetry.metrics import Gauges, Instruments

KEY = "secret-key"
VALUE = "secret-value"


class Metered:
    """A provider whose metrics are read when a test asks."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader])

    def migration(self, world: World, rate: float | Rollout = 1.0, **options: Any) -> Migration:
        return world.migration(rate, telemetry=Telemetry(meter_provider=self.provider, log=False), **options)

    def read(self) -> dict[str, Metric]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        [resource] = data.resource_metrics
        [scope] = resource.scope_metrics
        assert scope.scope.name == "zddm"
        return {metric.name: metric for metric in scope.metrics}

    def numbers(self, name: str) -> dict[tuple[Any, ...], Any]:
        """An instrument's numbers by the values of its attributes, in the order of their names."""
        found: dict[tuple[Any, ...], Any] = {}
        metric = self.read().get(name)
        for point in metric.data.data_points if metric is not None else ():
            attributes = point.attributes or {}
            value = point.count if isinstance(point, HistogramDataPoint) else getattr(point, "value", None)
            found[tuple(attributes[each] for each in sorted(attributes))] = value
        return found


async def test_instruments(world: World, metered: Metered) -> None:
    """Each instrument of the design is there, with its kind, its unit and the names of its attributes."""
    migration = metered.migration(world, old={KEY: VALUE})
    await migration.read(KEY)
    seen = {}
    for name, metric in metered.read().items():
        names = {each for point in metric.data.data_points for each in point.attributes or {}}
        seen[name] = (type(metric.data), metric.unit, names - {"zddm.migration"})
        assert metric.description
        assert all((point.attributes or {})["zddm.migration"] == "users" for point in metric.data.data_points)
    assert seen == {
        "zddm.operations": (Sum, "{key}", {"zddm.operation", "zddm.path"}),
        "zddm.store.operations": (Sum, "{key}", {"zddm.store", "zddm.operation"}),
        "zddm.store.operation.duration": (Histogram, "s", {"zddm.store", "zddm.operation", "zddm.outcome"}),
        "zddm.ledger.operation.duration": (Histogram, "s", {"zddm.operation", "zddm.outcome"}),
        "zddm.copies": (Sum, "{key}", set()),
        "zddm.copies.dropped": (Sum, "{key}", set()),
        "zddm.guard.open": (Gauge, "", set()),
        "zddm.gate.rate": (Gauge, "", {"zddm.operation"}),
        "zddm.ledger.opened": (Gauge, "", set()),
        "zddm.ledger.stale_keys": (Gauge, "{key}", set()),
    }
    sums = [metric.data for metric in metered.read().values() if isinstance(metric.data, Sum)]
    assert all(data.is_monotonic for data in sums)


async def test_numbers(world: World, metered: Metered) -> None:
    """The numbers are those of `stats()`, by migration; keys of a batch count one by one."""
    many = ("read", "write", "read_many", "write_many")
    migration = metered.migration(world, Rollout(0.5, 1.0), old={"a": 1}, old_methods=many, new_methods=many)
    assert metered.numbers("zddm.gate.rate") == {("users", "read"): 0.5, ("users", "write"): 1.0}
    assert metered.numbers("zddm.ledger.opened") == {("users",): 0.0}
    migration.gate.set_rate(1.0)
    await migration.read("a")
    await migration.write_many({"a": 1, "b": 2, "c": 3})
    migration.proxy.disable()
    await migration.write("b", 4)
    assert metered.numbers("zddm.operations") == {
        ("users", "read", "copied"): 1,
        ("users", "write", "both"): 3,
        ("users", "write", "disabled"): 1,
    }
    # Sorted by name: migration, operation, store.
    assert metered.numbers("zddm.store.operations") == {
        ("users", "read", "new"): 1,
        ("users", "read", "old"): 1,
        ("users", "write", "new"): 4,
        ("users", "write", "old"): 4,
    }
    assert metered.numbers("zddm.copies") == {("users",): migration.stats().copies} == {("users",): 1}
    assert metered.numbers("zddm.ledger.opened") == {("users",): 1.0}
    assert metered.numbers("zddm.ledger.stale_keys") == {("users",): 1}


async def test_durations(world: World, metered: Metered) -> None:
    """The duration of each call to a store is recorded in seconds, with its outcome, once for a batch."""
    many = ("read", "write", "read_many", "write_many")
    migration = metered.migration(world, old_methods=many, new_methods=many)
    await migration.write_many({"a": 1, "b": 2})
    migration.new.outage()
    await migration.read("a")
    migration.old.outage()
    with pytest.raises(Trouble):
        await migration.read("a")
    # Sorted by name: migration, operation, outcome, store.
    assert metered.numbers("zddm.store.operation.duration") == {
        ("users", "write", "ok", "old"): 1,
        ("users", "write", "ok", "new"): 1,
        ("users", "read", "error", "new"): 2,
        ("users", "read", "ok", "old"): 1,
        ("users", "read", "error", "old"): 1,
    }
    for point in metered.read()["zddm.store.operation.duration"].data.data_points:
        assert isinstance(point, HistogramDataPoint)
        assert 0 <= point.sum < 5


async def test_counters_never_fall(world: World, metered: Metered) -> None:
    """What a proxy counted stays counted when it is gone, and a second one of its name adds to it."""
    for number in range(3):
        migration = metered.migration(world)
        await migration.write(KEY, VALUE)
        assert metered.numbers("zddm.operations") == {("users", "write", "both"): number + 1}
        del migration
        gc.collect()
        assert metered.numbers("zddm.operations") == {("users", "write", "both"): number + 1}
        assert metered.numbers("zddm.gate.rate") == {}


async def test_two_proxies_on_one_provider(world: World, metered: Metered) -> None:
    """Proxies on one provider share its instruments; one name's counts are added up, names are kept apart."""
    one = metered.migration(world)
    other = one.in_another_process(1.0)
    orders = metered.migration(world, 0.25, name="orders")
    await one.write("a", 1)
    await other.write("b", 2)
    await orders.write("c", 3)
    numbers = metered.numbers("zddm.operations")
    assert numbers["users", "write", "both"] == 2
    assert sum(numbers[each] for each in numbers if each[0] == "orders") == 1
    rates = metered.numbers("zddm.gate.rate")
    assert (rates["users", "read"], rates["orders", "read"]) == (1.0, 0.25)


async def test_gauges_of_two_proxies_of_one_name(world: World, metered: Metered) -> None:
    """Each gauge has one number for a name: the largest, of the proxies that are not closed."""
    one = metered.migration(world)
    other = one.in_another_process(Rollout(0.25, 0.5))
    await one.write("a", 1)
    one.gate.set_rate(0.0)
    assert metered.numbers("zddm.gate.rate") == {("users", "read"): 0.25, ("users", "write"): 0.5}
    assert metered.numbers("zddm.ledger.opened") == {("users",): 1.0}
    data = metered.read()
    gauges = [metric for metric in data.values() if isinstance(metric.data, Gauge)]
    assert all(len(metric.data.data_points) == len(metered.numbers(metric.name)) for metric in gauges)
    await world.call(other.proxy.close)
    assert metered.numbers("zddm.gate.rate") == {("users", "read"): 0.0, ("users", "write"): 0.0}
    await world.call(one.proxy.close)
    assert metered.numbers("zddm.gate.rate") == {}
    assert metered.numbers("zddm.operations") == {("users", "write", "both"): 1}


def test_observations_have_attributes_of_their_own(metered: Metered) -> None:
    """The callbacks themselves give each set of attributes once: of two an SDK keeps whichever came last."""

    class Owner:
        def __init__(self, *, connected: bool | None, guard_open: bool | None, stale_keys: int | None) -> None:
            self.shown = Gauges(
                0.5, 0.5, 0.5, stale_keys, guard_open=guard_open, connected=connected, flag_key="rate"
            )

        def gauges(self) -> Gauges:
            return self.shown

    instruments = Instruments(metered.provider, "0")
    owners = [
        Owner(connected=True, guard_open=False, stale_keys=3),
        Owner(connected=False, guard_open=True, stale_keys=2),
        Owner(connected=None, guard_open=None, stale_keys=None),
    ]
    for owner in owners:
        instruments.add(owner, "users", Counts(), owner.gauges)
    callbacks = (
        (instruments._connections, [0]),
        (instruments._guards, [1]),
        (instruments._stale_keys, [3]),
        (instruments._opened, [0.5]),
        (instruments._rates, [0.5, 0.5]),
    )
    for callback, values in callbacks:
        assert [each.value for each in callback(CallbackOptions())] == values


async def test_bounds_of_durations(world: World, metered: Metered) -> None:
    """The histograms' bounds are seconds: those of the conventions, a guard's limits, and calls in memory."""
    migration = metered.migration(world)
    await migration.write(KEY, VALUE)
    guard = Guard()
    wanted = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10}  # db.client.operation.duration
    wanted |= {guard.slow_call_seconds / 2, guard.slow_call_seconds, guard.budget_seconds}
    for name in ("zddm.store.operation.duration", "zddm.ledger.operation.duration"):
        for point in metered.read()[name].data.data_points:
            assert isinstance(point, HistogramDataPoint)
            assert wanted <= set(point.explicit_bounds)
            assert point.explicit_bounds[0] <= 7e-6 * 2
            assert sum(point.bucket_counts) == point.count > point.bucket_counts[-1]


class Following:
    """A source of rollouts that says whether changes reach it."""

    flag_key = "users-rate"
    rollout = Rollout(1.0, 1.0)

    def __init__(self) -> None:
        self.connected = True

    def subscribe(self, listener: Callable[[Rollout], None]) -> Callable[[], None]:
        listener(self.rollout)
        return lambda: None


async def test_connected(world: World, metered: Metered) -> None:
    """`zddm.gate.connected` says of each flag whether its changes come; of a fixed rate nothing is said."""
    migration = metered.migration(world)
    assert metered.numbers("zddm.gate.connected") == {}
    migration.gate.source = source = Following()
    assert metered.numbers("zddm.gate.connected") == {("users-rate", "users"): 1}
    source.connected = False
    assert metered.numbers("zddm.gate.connected") == {("users-rate", "users"): 0}


def test_connected_to_launchdarkly() -> None:
    """`connected` of a source is True from when its client hears of changes until that ends."""
    context = Context.builder("users-service").kind("service").build()

    def wait_for(source: LaunchDarklySource, connected: bool) -> None:
        give_up_at = time.monotonic() + 10
        while source.connected is not connected:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)

    with FlagServer({"rate": 0.5}, refusing=503) as server:
        source = LaunchDarklySource(server.client(start_wait=0), "rate", context)
        assert not source.connected  # it never was
        server.accept()
        wait_for(source, connected=True)
        server.refuse()
        server.drop_connections()
        wait_for(source, connected=False)
        server.accept()
        wait_for(source, connected=True)
        source.close()
        assert not source.connected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_not_connected() -> None:
    """In a forked child a source is not connected until `postfork`, and its parent's stays so."""
    script = """
    import os, warnings
    from ldclient import Context
    from zddm_flags import LaunchDarklySource
    from zddm_flags.testing import FlagServer
    warnings.simplefilter("ignore")
    with FlagServer({"rate": 0.5}) as server:
        client = server.client()
        source = LaunchDarklySource(client, "rate", Context.create("service"))
        seen = [source.connected]
        child = os.fork()
        if child == 0:
            before = source.connected
            client.postfork()
            source.postfork()
            os._exit(0 if (before, source.connected) == (False, True) else 1)
        seen += [os.waitpid(child, 0)[1] == 0, source.connected]
        source.close()
        print(seen)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[True, True, True]"


@pytest.fixture
def watched_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stale keys are looked for without a pause to speak of."""
    monkeypatch.setattr("zddm_flags._async.watch.WATCH_SECONDS", 0.001)
    monkeypatch.setattr("zddm_flags._sync.watch.WATCH_SECONDS", 0.001)


def looks(migration: Migration) -> int:
    return migration.journal.count("ledger.summary")


@pytest.mark.usefixtures("watched_closely")
async def test_stale_keys_are_watched(world: World, metered: Metered) -> None:
    """While New is killed and nobody reads, the number of stale keys is what the ledger holds, until it is 0."""
    migration = metered.migration(world)
    await migration.write_many({"a": 1, "b": 1, "c": 1})
    assert not watch(migration).alive
    migration.proxy.disable()
    for number, key in enumerate("abc"):
        await migration.write(key, 2)
        await world.until(lambda number=number: migration.proxy._ledger.last_summary().stale == number + 1)
        assert metered.numbers("zddm.ledger.stale_keys") == {("users",): number + 1}
    assert watch(migration).alive
    migration.proxy.enable()
    for key in "abc":
        await migration.read(key)
    await world.until(lambda: not watch(migration).alive)
    assert metered.numbers("zddm.ledger.stale_keys") == {("users",): 0}


@pytest.mark.usefixtures("watched_closely")
async def test_what_others_made_stale_is_watched(world: World, metered: Metered) -> None:
    """A process that reaps and sees the stale keys of others goes on looking at them."""
    migration = metered.migration(world)
    other = migration.in_another_process(1.0)
    await migration.write("a", 1)
    other.proxy.disable()
    await other.write("a", 2)
    await world.call(other.proxy.close)
    await world.call(migration.proxy._reap_if_due)
    before = looks(migration)
    await world.until(lambda: looks(migration) > before + 3)
    assert metered.numbers("zddm.ledger.stale_keys") == {("users",): 1}


@pytest.mark.usefixtures("watched_closely")
async def test_watching_goes_on_when_the_ledger_is_back(world: World, metered: Metered) -> None:
    """A look that fails is reported as the ledger's failure, hurts nobody, and is made again."""
    migration = metered.migration(world)
    await migration.write("a", 1)
    migration.ledger.outage(methods=("summary",))
    migration.proxy.disable()
    before = looks(migration)
    await migration.write("a", 2)
    await world.until(lambda: looks(migration) > before + 3)
    assert watch(migration).alive
    migration.ledger.recover()
    await world.until(lambda: migration.proxy._ledger.last_summary().stale == 1)


@pytest.mark.usefixtures("watched_closely")
async def test_watching_ends_with_the_proxy(world: World, metered: Metered) -> None:
    """A proxy that is closed, or forgotten, asks the ledger no more; a hit or a clean write never made it ask."""
    for forgotten in (False, True):
        migration = metered.migration(world)
        await migration.write("a", 1)
        await migration.read("a")
        watching = watch(migration)
        assert not watching.alive
        migration.proxy.disable()
        await migration.write("a", 2)
        assert watching.alive
        if forgotten:
            del migration
            gc.collect()
        else:
            await world.call(migration.proxy.close)
        await world.until(lambda watching=watching: not watching.alive)
        watching.start()
        assert not watching.alive


def watch(migration: Migration) -> Any:
    return migration.proxy._watch


async def test_a_ledger_in_memory_is_not_watched(world: World, metered: Metered) -> None:
    """A ledger that no other process shares needs no watching: what the metrics show is what it holds."""
    migration = metered.migration(world, shared=False)
    await migration.write("a", 1)
    migration.proxy.disable()
    await migration.write("a", 2)
    assert watch(migration) is None
    assert metered.numbers("zddm.ledger.stale_keys") == {("users",): 1}


async def test_nothing_secret(world: World, metered: Metered) -> None:
    """Neither keys nor values nor error texts are in the metrics."""
    migration = metered.migration(world)
    await migration.write(KEY, VALUE)
    migration.new.outage()
    await migration.read(KEY)
    data = metered.reader.get_metrics_data()
    assert data is not None
    assert "secret" not in data.to_json()


def test_proxy_collected_while_the_metrics_are_read() -> None:
    """A proxy whose end comes in the middle of a reading, in the thread that reads, blocks nothing."""

    class Owner:
        def gauges(self) -> Gauges:
            return Gauges(1.0, 1.0, 1.0, 0, guard_open=None)

    provider = MeterProvider(metric_readers=[InMemoryMetricReader()])
    instruments = Instruments(provider, "0")
    owner = Owner()

    class Ending(Counts):
        """The garbage collector runs just here."""

        def snapshot(self) -> Counts:
            nonlocal owner
            owner = Owner()
            return super().snapshot()

    counts = Ending()
    counts.add_copies(1)
    instruments.add(owner, "users", counts, owner.gauges)
    totals: list[int] = []

    def read() -> None:
        totals.extend(each["users"].copies for each in (instruments._totals(), instruments._totals()))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert totals == [1, 1]
    provider.shutdown()


async def test_broken_histogram(world: World, metered: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instrument that raises hurts no operation, and other metrics go on."""
    known: set[type[BaseException]] = {Trouble}  # told already
    monkeypatch.setattr(events, "_known_failures", known)
    migration = metered.migration(world)
    instruments = migration.proxy._telemetry.instruments

    class Broken:
        def record(self, *arguments: object) -> None:
            raise Trouble

    monkeypatch.setattr(instruments, "duration", Broken())
    await migration.write(KEY, VALUE)
    assert await migration.read(KEY) == VALUE
    assert metered.numbers("zddm.operations") == {("users", "write", "both"): 1, ("users", "read", "new_hit"): 1}


@pytest.mark.usefixtures("watched_closely")
async def test_watching_after_a_fork(world: World, metered: Metered) -> None:
    """In a forked child nobody watches, until a key becomes stale there."""
    migration = metered.migration(world)
    await migration.write("a", 1)
    migration.proxy.disable()
    watching = watch(migration)
    watching._errand._pause_seconds = 60
    await migration.write("a", 2)
    assert watching.alive
    migration.proxy._after_fork()
    assert not watching.alive
    watching._errand._pause_seconds = 0
    await migration.write("b", 2)
    await world.until(lambda: migration.proxy._ledger.last_summary().stale == 2)
