"""What one proxy tells of its operations and of its calls to the stores.

Written for the hot path: context managers with slots instead of contextlib, attributes computed only for a
span that records, and while no OpenTelemetry SDK is set up nothing but counts. What OpenTelemetry, or a processor
of its user, raises ends in `failed`, never in the operation.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from zddm_telemetry.counts import Counts
from zddm_telemetry.events import failed, report
from zddm_telemetry.metrics import Gauges, Instruments, instruments_of
from zddm_telemetry.version import VERSION

__all__ = ["MigrationTelemetry", "OperationTelemetry", "StoreTelemetry", "Telemetry"]

Store = Literal["old", "new"]
Operation = Literal["read", "write", "delete", "scan"]
_OPERATIONS: tuple[Operation, ...] = ("read", "write", "delete", "scan")
_LOOK_AGAIN_SECONDS = 1.0
_REPEAT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Where spans and metrics go, and how much they say. The default suits nearly everyone.

    Args:
        tracer_provider: None uses the global one, whether it is set up before or after the proxy.
        meter_provider: the same for metrics.
        log: write structured log events. Without it they are still added to recording spans.
        record_keys: put each key, as `repr`, on its span as `zddm.key`. Keys are often personal data: off.

    Nothing is configured globally. Immutable, so safe to share between proxies and threads.
    """

    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None
    log: bool = True
    record_keys: bool = False


class MigrationTelemetry:
    """The telemetry of one proxy. Thread-safe."""

    def __init__(self, options: Telemetry, name: str, flag_key: str | None) -> None:
        self.name = name
        self.counts = Counts()
        self.record_keys = options.record_keys
        self._log = options.log
        self._options = options
        self.instruments: Instruments = instruments_of(options.meter_provider, VERSION)
        self._constant = {"zddm.migration": name}
        if flag_key is not None:
            self._constant["feature_flag.key"] = flag_key
        self.tracer = trace.get_tracer("zddm", VERSION, options.tracer_provider)
        self.tracing = False
        self.metering = False
        self._look_again = 0.0
        self._limit_lock = threading.Lock()
        self._quiet_until: dict[str, float] = {}
        self._suppressed: Counter[str] = Counter()

    def show(self, owner: object, gauges: Callable[[], Gauges]) -> None:
        """Show the metrics of `owner`, the proxy, for as long as it lives."""
        self.instruments.add(owner, self.name, self.counts, gauges)

    def operation(self, name: str, batch: bool = False) -> OperationTelemetry:
        """A context manager around one operation of the proxy."""
        if not (self.tracing and self.metering) and time.monotonic() >= self._look_again:
            self._look()
        if self.tracing:
            return _TracedOperation(self, name, batch)
        return OperationTelemetry(self, name, batch)

    def _look(self) -> None:
        """See whether an SDK is set up by now: once a second, for asking costs more than an operation may."""
        self._look_again = time.monotonic() + _LOOK_AGAIN_SECONDS
        try:
            self.tracing = _records(self._options.tracer_provider) or _records(trace.get_tracer_provider())
            self.metering = _records(self._options.meter_provider) or _records(metrics.get_meter_provider())
        except Exception as error:
            failed(error)

    def start(self, name: str) -> Span:
        """Start the span of the operation `name`."""
        return self.tracer.start_span(f"zddm.{name}", kind=SpanKind.INTERNAL, attributes=self._constant)

    def report(self, level: Literal["info", "warning", "error"], event: str, **fields: object) -> None:
        """Log an event of this migration, and add it to the current span."""
        report(level, event, log=self._log, migration=self.name, **fields)

    def report_limited(self, event: str, **fields: object) -> None:
        """Report a warning that an outage repeats for every operation; log it at most once in ten seconds.

        The next one to be logged says in `suppressed` how many were not. Spans get each of theirs.
        """
        now = time.monotonic()
        with self._limit_lock:
            log = now >= self._quiet_until.get(event, 0.0)
            if log:
                self._quiet_until[event] = now + _REPEAT_SECONDS
                fields["suppressed"] = self._suppressed.pop(event, 0)
            else:
                self._suppressed[event] += 1
        report("warning", event, log=log and self._log, migration=self.name, **fields)

    def after_fork(self) -> None:
        """Replace locks that another thread of the parent may have held at the moment of the fork."""
        self.counts.after_fork()
        self.instruments.after_fork()
        self._limit_lock = threading.Lock()


def _records(provider: object) -> bool:
    """Whether it is more than one of the API's own providers, which stand in for an SDK and record nothing."""
    return provider is not None and not type(provider).__module__.startswith(_API)


_API = ("opentelemetry.trace", "opentelemetry.metrics")


class OperationTelemetry:
    """The counts of one operation, where nobody records spans.

    The proxy sets `path` (of a single key) or calls `count` (for a batch's keys); where `recording` it also
    calls `located`. Not to be shared between threads.
    """

    __slots__ = ("_batch", "_marked", "_name", "_telemetry", "path", "stale_marked")

    recording = False

    def __init__(self, telemetry: MigrationTelemetry, name: str, batch: bool) -> None:
        self._telemetry = telemetry
        self._name = name
        self._batch: Counter[str] | None = Counter() if batch else None
        self._marked: Counter[str] | None = None
        self.path: str | None = None
        self.stale_marked: bool | None = None

    def __enter__(self) -> Self:
        return self

    def located(self, key: object, key_hash: int, rate: float, passed: bool) -> None:
        """Say what the gate decided on the key."""

    def batched(self, size: int, rate: float) -> None:
        """Say how large the batch is, and the rate wanted when it began."""

    def note(self, name: str, value: str) -> None:
        """Add an attribute to the span, where there is one that records."""

    def mark(self) -> None:
        """Remember what a batch has counted so far."""
        self._marked = Counter(self._batch)

    def instead(self, path: str, keys: int = 1) -> None:
        """Count `keys` keys that took `path`, and forget what was counted since `mark`."""
        if self._batch is not None and self._marked is not None:
            self._batch = self._marked
        self.count(path, keys)

    def count(self, path: str, keys: int = 1) -> None:
        """Count `keys` keys, perhaps none, that took `path`."""
        if not keys:
            return
        if self._batch is None:
            self.path = path
        else:
            self._batch[path] += keys

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        if self.path is not None:
            self._telemetry.counts.add_operation((self._name, self.path))
        elif self._batch is not None:
            for path, keys in self._batch.items():
                self._telemetry.counts.add_operation((self._name, path), keys)


class _TracedOperation(OperationTelemetry):
    """The counts and the span of one operation."""

    __slots__ = ("_context", "_span", "recording")

    def __init__(self, telemetry: MigrationTelemetry, name: str, batch: bool) -> None:
        super().__init__(telemetry, name, batch)
        self._span: Span | None = None
        self._context: Token[Context] | None = None
        self.recording = False

    def __enter__(self) -> Self:
        try:
            span = self._telemetry.start(self._name if self._batch is None else f"{self._name}_many")
            self.recording = span.is_recording()
            self._context = otel_context.attach(trace.set_span_in_context(span))
            self._span = span
        except Exception as error:
            failed(error)
        return self

    def located(self, key: object, key_hash: int, rate: float, passed: bool) -> None:
        """Say what the gate decided on the key. The hash is hexadecimal: it has no place in a signed int64."""
        if self._span is None or not self.recording:
            return
        try:
            self._span.set_attributes(
                {"zddm.gate.rate": rate, "zddm.gate.passed": passed, "zddm.key.hash": f"{key_hash:016x}"}
            )
            if self._telemetry.record_keys:
                self._span.set_attribute("zddm.key", repr(key))
        except Exception as error:
            failed(error)

    def batched(self, size: int, rate: float) -> None:
        """Say how large the batch is, and the rate wanted when it began."""
        if self._span is None or not self.recording:
            return
        try:
            self._span.set_attributes({"zddm.batch.size": size, "zddm.gate.rate": rate})
        except Exception as error:
            failed(error)

    def note(self, name: str, value: str) -> None:
        """Add an attribute to the span."""
        if self._span is None:
            return
        try:
            self._span.set_attribute(name, value)
        except Exception as error:
            failed(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace_back)
        if self._span is not None:
            _end(self._span, self._context, error, self._outcome() if self.recording else {})

    def _outcome(self) -> dict[str, str | bool | int]:
        outcome: dict[str, str | bool | int] = {}
        if self.path is not None:
            outcome["zddm.path"] = self.path
        for path, keys in sorted((self._batch or {}).items()):
            outcome[f"zddm.path.{path}"] = keys
        if self.stale_marked is not None:
            outcome["zddm.stale_marked"] = self.stale_marked
        return outcome


class StoreTelemetry:
    """What is told of the calls to one of the two stores. Thread-safe."""

    __slots__ = ("_attributes", "_collection", "_counted", "_kind", "_outcomes", "migration", "store")

    def __init__(
        self,
        migration: MigrationTelemetry,
        store: Store,
        *,
        system: str | None,
        collection: str | None,
        namespace: str | None,
        remote: bool,
    ) -> None:
        self.migration = migration
        self.store = store
        self._collection = collection
        self._kind = SpanKind.CLIENT if remote else SpanKind.INTERNAL
        given = {"db.system.name": system, "db.collection.name": collection, "db.namespace": namespace}
        self._attributes: dict[str, str] = {"zddm.store": store}
        self._attributes.update({name: value for name, value in given.items() if value is not None})
        # Made once, for each call of one key needs them.
        self._counted = {operation: _CountedCall(self, operation, 1) for operation in _OPERATIONS}
        self._outcomes = {
            (operation, outcome): {
                "zddm.migration": migration.name,
                "zddm.store": store,
                "zddm.operation": operation,
                "zddm.outcome": outcome,
            }
            for operation in _OPERATIONS
            for outcome in ("ok", "error")
        }

    def call(self, operation: Operation, keys: int = 1) -> _CountedCall:
        """A context manager around one call to the store, for `keys` keys."""
        migration = self.migration
        if migration.tracing or migration.metering:
            return _RecordedCall(self, operation, keys)
        return self._counted[operation] if keys == 1 else _CountedCall(self, operation, keys)

    def start(self, operation: Operation, keys: int) -> Span:
        """Start the span of one call. The batch size is given for 2 and more, as the conventions ask."""
        name = operation if self._collection is None else f"{operation} {self._collection}"
        attributes: dict[str, str | int] = {**self._attributes, "db.operation.name": operation}
        if keys > 1:
            attributes["db.operation.batch.size"] = keys
        return self.migration.tracer.start_span(name, kind=self._kind, attributes=attributes)

    def took(self, operation: Operation, outcome: Literal["ok", "error"], seconds: float) -> None:
        """Record how long a call took."""
        self.migration.instruments.duration.record(seconds, self._outcomes[operation, outcome])


class _CountedCall:
    """The count of a call to a store. Holds nothing of the one call, so that one object serves them all."""

    __slots__ = ("_counted", "_counts", "_keys")

    def __init__(self, telemetry: StoreTelemetry, operation: Operation, keys: int) -> None:
        self._counts = telemetry.migration.counts
        self._counted = (telemetry.store, operation)
        self._keys = keys

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        self._counts.add_call(self._counted, self._keys)


class _RecordedCall(_CountedCall):
    """The count, the span and the duration of one call to a store."""

    __slots__ = ("_context", "_operation", "_span", "_started", "_telemetry")

    def __init__(self, telemetry: StoreTelemetry, operation: Operation, keys: int) -> None:
        super().__init__(telemetry, operation, keys)
        self._telemetry = telemetry
        self._operation: Operation = operation
        self._span: Span | None = None
        self._context: Token[Context] | None = None

    def __enter__(self) -> None:
        try:
            if self._telemetry.migration.tracing and trace.get_current_span().is_recording():
                span = self._telemetry.start(self._operation, self._keys)
                self._context = otel_context.attach(trace.set_span_in_context(span))
                self._span = span
        except Exception as error:
            failed(error)
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._started
        super().__exit__(kind, error, trace_back)
        if self._telemetry.migration.metering:
            try:
                self._telemetry.took(self._operation, "ok" if error is None else "error", seconds)
            except Exception as failure:
                failed(failure)
        if self._span is not None:
            _end(self._span, self._context, error, {})


def _end(
    span: Span,
    context: Token[Context] | None,
    error: BaseException | None,
    outcome: Mapping[str, str | bool | int],
) -> None:
    """End a span. A failure is told by the error's type alone: messages of drivers carry keys and values."""
    try:
        if context is not None:
            otel_context.detach(context)
        if outcome:
            span.set_attributes(outcome)
        if error is not None and span.is_recording():
            kind = type(error)
            name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
            span.set_attribute("error.type", name)
            span.set_status(Status(StatusCode.ERROR))
    except Exception as failure:
        failed(failure)
    try:
        span.end()
    except Exception as failure:
        failed(failure)
