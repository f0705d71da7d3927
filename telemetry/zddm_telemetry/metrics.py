"""The instruments of a migration: one set per meter provider, fed by every migration of the process."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from zddm_telemetry.counts import Counts

__all__ = ["Gauges", "Instruments", "instruments_of"]


@dataclass(frozen=True, slots=True)
class Gauges:
    """What the gauges of one proxy show. None: it has nothing to show for that one."""

    read_rate: float
    write_rate: float
    opened: float
    stale_keys: int | None
    guard_open: bool | None
    connected: bool | None = None
    flag_key: str | None = None


@dataclass(slots=True, eq=False)
class _Migration:
    name: str
    counts: Counts
    gauges: weakref.WeakMethod[Callable[[], Gauges | None]]


DURATION_BOUNDS = (
    *(0.00001, 0.0001),  # in memory
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0),  # half of a `Guard`'s `slow_call_seconds`, that, its budget, and beyond it
)
"""Seconds: those of OpenTelemetry's `db.client.operation.duration`, and more. The SDK's own bounds are for ms."""

_NO_UNIT = ""
"""Of rates, and of what is 0 or 1: of unit "1" some exporters to Prometheus make `_ratio`, and others do not."""


class Instruments:
    """Instruments on one meter provider. Observable ones read the counts, so that counting costs no SDK call."""

    def __init__(self, provider: MeterProvider | None, version: str) -> None:
        meter = get_meter("zddm", version, provider)
        self._lock = threading.Lock()
        self._migrations: list[_Migration] = []
        self._gone: deque[_Migration] = deque()
        self._retired: dict[str, Counts] = {}
        self.duration = meter.create_histogram(
            "zddm.store.operation.duration",
            "s",
            "Time of one call to a store, by store, operation and outcome",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )
        self.ledger_duration = meter.create_histogram(
            "zddm.ledger.operation.duration",
            "s",
            "Time of one call to a ledger that processes share, by operation and outcome",
            explicit_bucket_boundaries_advisory=DURATION_BOUNDS,
        )
        meter.create_observable_counter(
            "zddm.operations", [self._operations], "{key}", "Keys read, written and deleted, by path"
        )
        meter.create_observable_counter(
            "zddm.store.operations", [self._calls], "{key}", "Keys asked of a store, by store and operation"
        )
        meter.create_observable_counter(
            "zddm.copies",
            [self._copies],
            "{key}",
            "Keys whose value was copied from Old into New, by reads, in the background and by jobs",
        )
        meter.create_observable_counter(
            "zddm.backfill.rows",
            [self._backfilled],
            "{row}",
            "Keys that a backfill tried to copy, by what came of each attempt",
        )
        meter.create_observable_counter(
            "zddm.copies.dropped",
            [self._dropped],
            "{key}",
            "Keys that were not copied in the background after all",
        )
        meter.create_observable_gauge(
            "zddm.guard.open",
            [self._guards],
            _NO_UNIT,
            "1 where a guard keeps calls from New, or tries it again; else 0",
        )
        meter.create_observable_gauge(
            "zddm.gate.connected",
            [self._connections],
            _NO_UNIT,
            "1 where changes of the rate can reach this process, 0 where the flag's connection is lost",
        )
        meter.create_observable_gauge(
            "zddm.gate.rate", [self._rates], _NO_UNIT, "Rate wanted by the rollout, for reads and for writes"
        )
        meter.create_observable_gauge(
            "zddm.ledger.opened", [self._opened], _NO_UNIT, "Largest rate at which New was ever used"
        )
        meter.create_observable_gauge(
            "zddm.ledger.stale_keys",
            [self._stale_keys],
            "{key}",
            "Keys of New that are not trusted, as last seen",
        )

    def add(self, owner: object, name: str, counts: Counts, gauges: Callable[[], Gauges | None]) -> None:
        """Show `counts` and `gauges` (a bound method of `owner`) until `owner` is gone; its counts stay.

        None, as the gauges: `owner` has nothing to show any more.
        """
        migration = _Migration(name, counts, weakref.WeakMethod(gauges))
        with self._lock:
            self._retire()  # here too, for nobody may ever read the metrics
            self._migrations.append(migration)
        # A finalizer may run at any allocation, in a thread that holds the lock: it must take none.
        weakref.finalize(owner, self._gone.append, migration).atexit = False

    def after_fork(self) -> None:
        """Replace the locks, which another thread of the parent may have held at the moment of the fork."""
        global _lock  # noqa: PLW0603 - it guards what is the module's
        _lock = threading.Lock()
        self._lock = threading.Lock()

    def _retire(self) -> None:
        """Keep the counts of proxies that are gone, and let go of the rest. Called with the lock held."""
        while self._gone:
            migration = self._gone.popleft()
            self._migrations.remove(migration)
            self._retired.setdefault(migration.name, Counts()).merge(migration.counts)

    def _totals(self) -> dict[str, Counts]:
        totals: dict[str, Counts] = {}
        with self._lock:
            self._retire()
            for name, counts in self._retired.items():
                totals.setdefault(name, Counts()).merge(counts)
            for migration in self._migrations:
                totals.setdefault(migration.name, Counts()).merge(migration.counts.snapshot())
        return totals

    def _live(self) -> Iterator[tuple[str, Gauges]]:
        with self._lock:
            migrations = list(self._migrations)
        for migration in migrations:
            gauges = migration.gauges()
            shown = None if gauges is None else gauges()
            if shown is not None:
                yield migration.name, shown

    def _operations(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, counts in self._totals().items():
            for (operation, path), number in counts.operations.items():
                yield Observation(number, {"zddm.migration": name, "zddm.operation": operation, "zddm.path": path})

    def _backfilled(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, counts in self._totals().items():
            for (operation, path), number in counts.operations.items():
                if operation == "backfill":
                    yield Observation(number, {"zddm.migration": name, "zddm.path": path})

    def _calls(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, counts in self._totals().items():
            for (store, operation), number in counts.calls.items():
                yield Observation(
                    number, {"zddm.migration": name, "zddm.store": store, "zddm.operation": operation}
                )

    def _copies(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, counts in self._totals().items():
            yield Observation(counts.copies, {"zddm.migration": name})

    def _dropped(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, counts in self._totals().items():
            yield Observation(counts.dropped, {"zddm.migration": name})

    def _guards(self, _: CallbackOptions) -> Iterable[Observation]:
        return _largest(
            (gauges.guard_open, {"zddm.migration": name})
            for name, gauges in self._live()
            if gauges.guard_open is not None
        )

    def _connections(self, _: CallbackOptions) -> Iterable[Observation]:
        # The least: one proxy that no kill reaches is what somebody has to know of.
        lost = _largest(
            (not gauges.connected, _attributes(name, gauges.flag_key))
            for name, gauges in self._live()
            if gauges.connected is not None
        )
        return [Observation(1 - each.value, each.attributes) for each in lost]

    def _rates(self, _: CallbackOptions) -> Iterable[Observation]:
        # The largest: after a kill it is 0 only when each proxy has heard of it.
        return _largest(
            (rate, {"zddm.migration": name, "zddm.operation": operation})
            for name, gauges in self._live()
            for operation, rate in (("read", gauges.read_rate), ("write", gauges.write_rate))
        )

    def _opened(self, _: CallbackOptions) -> Iterable[Observation]:
        return _largest((gauges.opened, {"zddm.migration": name}) for name, gauges in self._live())

    def _stale_keys(self, _: CallbackOptions) -> Iterable[Observation]:
        return _largest(
            (gauges.stale_keys, {"zddm.migration": name})
            for name, gauges in self._live()
            if gauges.stale_keys is not None
        )


def _attributes(name: str, flag_key: str | None) -> dict[str, str]:
    about = {"zddm.migration": name}
    if flag_key is not None:
        about["feature_flag.key"] = flag_key
    return about


def _largest(observed: Iterable[tuple[float, dict[str, str]]]) -> list[Observation]:
    """One observation for each set of attributes: of two an SDK would keep whichever comes last."""
    largest: dict[tuple[tuple[str, str], ...], float] = {}
    for number, attributes in observed:
        about = tuple(attributes.items())
        largest[about] = max(largest.get(about, number), number)
    return [Observation(+number, dict(about)) for about, number in largest.items()]


_lock = threading.Lock()
_by_provider: weakref.WeakKeyDictionary[MeterProvider, Instruments] = weakref.WeakKeyDictionary()
_global: list[Instruments] = []


def instruments_of(provider: MeterProvider | None, version: str) -> Instruments:
    """The one set of instruments on `provider`; None is the global one, set up before or after this call."""
    with _lock:
        if provider is None:
            if not _global:
                _global.append(Instruments(None, version))
            return _global[0]
        if provider not in _by_provider:
            _by_provider[provider] = Instruments(provider, version)
        return _by_provider[provider]
