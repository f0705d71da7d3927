"""What one proxy tells of its operations and of its calls to the stores.

Written for the hot path: context managers with slots instead of contextlib, attributes computed only for a
span that records, and no span object at all while no OpenTelemetry SDK is set up.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import Literal, Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from zddm_telemetry.counts import Counts
from zddm_telemetry.events import report
from zddm_telemetry.metrics import Gauges, Instruments, instruments_of
from zddm_telemetry.version import VERSION

__all__ = ["MigrationTelemetry", "OperationTelemetry", "StoreCall", "StoreTelemetry", "Telemetry"]

Store = Literal["old", "new"]
_LOOK_AGAIN_SECONDS = 1.0
_REPEAT_SECONDS = 10.0


class Telemetry:
    """Where spans and metrics go, and how much they say. The default suits nearly everyone.

    Args:
        tracer_provider: None uses the global one, whether it is set up before or after the proxy.
        meter_provider: the same for metrics.
        log: write structured log events. Without it they are still added to recording spans.
        record_keys: put each key, as `repr`, on its span as `zddm.key`. Keys are often personal data: off.

    Nothing is configured globally. Immutable, so safe to share between proxies and threads.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        log: bool = True,
        record_keys: bool = False,
    ) -> None:
        self.tracer_provider = tracer_provider
        self.meter_provider = meter_provider
        self.log = log
        self.record_keys = record_keys


class MigrationTelemetry:
    """The telemetry of one proxy. Thread-safe."""

    def __init__(self, options: Telemetry, name: str, flag_key: str | None) -> None:
        self.name = name
        self.counts = Counts()
        self.record_keys = options.record_keys
        self._log = options.log
        self.instruments: Instruments = instruments_of(options.meter_provider, VERSION)
        self._constant = {"zddm.migration": name}
        if flag_key is not None:
            self._constant["feature_flag.key"] = flag_key
        self._provider = options.tracer_provider
        self.tracer = trace.get_tracer("zddm", VERSION, self._provider)
        self._tracing = self._provider is not None
        self._look_again = 0.0
        self._limit_lock = threading.Lock()
        self._quiet_until: dict[str, float] = {}
        self._suppressed: Counter[str] = Counter()

    def show(self, owner: object, gauges: Callable[[], Gauges]) -> None:
        """Show the metrics of `owner`, the proxy, for as long as it lives."""
        self.instruments.add(owner, self.name, self.counts, gauges)

    @property
    def tracing(self) -> bool:
        """Whether a tracer provider is set up; looked up again at most once a second until one is."""
        if not self._tracing:
            now = time.monotonic()
            if now >= self._look_again:
                self._look_again = now + _LOOK_AGAIN_SECONDS
                self._tracing = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        return self._tracing

    def operation(self, name: str, batch: bool = False) -> OperationTelemetry:
        """A context manager around one operation of the proxy."""
        return OperationTelemetry(self, name, batch)

    def start(self, name: str) -> Span:
        """Start the span of the operation `name`."""
        return self.tracer.start_span(f"zddm.{name}", kind=SpanKind.INTERNAL, attributes=self._constant)

    def report(self, level: Literal["info", "warning", "error"], event: str, **fields: object) -> None:
        """Log an event of this migration, and add it to the current span."""
        report(level, event, log=self._log, migration=self.name, **fields)

    def report_limited(self, event: str, **fields: object) -> None:
        """Log a warning that an outage repeats for every operation: at most once in ten seconds.

        The next one to be logged says in `suppressed` how many were not.
        """
        now = time.monotonic()
        with self._limit_lock:
            if now < self._quiet_until.get(event, 0.0):
                self._suppressed[event] += 1
                return
            self._quiet_until[event] = now + _REPEAT_SECONDS
            suppressed = self._suppressed.pop(event, 0)
        self.report("warning", event, suppressed=suppressed, **fields)

    def after_fork(self) -> None:
        """Replace locks that another thread of the parent may have held at the moment of the fork."""
        self.counts.after_fork()
        self._limit_lock = threading.Lock()


class OperationTelemetry:
    """The span and the counts of one operation.

    The proxy sets `path` (of a single key) or calls `count` (for a batch's keys); where `recording` it also
    calls `located`. Not to be shared between threads.
    """

    __slots__ = ("_batch", "_context", "_name", "_span", "_telemetry", "path", "recording", "stale_marked")

    def __init__(self, telemetry: MigrationTelemetry, name: str, batch: bool) -> None:
        self._telemetry = telemetry
        self._name = name
        self._batch: Counter[str] | None = Counter() if batch else None
        self._span: Span | None = None
        self._context: Token[Context] | None = None
        self.path: str | None = None
        self.stale_marked: bool | None = None
        self.recording = False

    def __enter__(self) -> Self:
        if self._telemetry.tracing:
            self._start()
        return self

    def _start(self) -> None:
        span = self._telemetry.start(self._name if self._batch is None else f"{self._name}_many")
        self._span = span
        self.recording = span.is_recording()
        self._context = otel_context.attach(trace.set_span_in_context(span))

    def located(self, key: object, key_hash: int, rate: float, passed: bool) -> None:
        """Say what the gate decided on the key. The hash is hexadecimal: it has no place in a signed int64."""
        if self._span is not None:
            self._span.set_attributes(
                {"zddm.gate.rate": rate, "zddm.gate.passed": passed, "zddm.key.hash": f"{key_hash:016x}"}
            )
            if self._telemetry.record_keys:
                self._span.set_attribute("zddm.key", repr(key))

    def batched(self, size: int, rate: float) -> None:
        """Say how large the batch is, and the rate wanted when it began."""
        if self._span is not None:
            self._span.set_attributes({"zddm.batch.size": size, "zddm.gate.rate": rate})

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
        counts = self._telemetry.counts
        if self._batch is not None:
            for path, keys in self._batch.items():
                counts.add_operation(self._name, path, keys)
        elif self.path is not None:
            counts.add_operation(self._name, self.path)
        if self._span is not None:
            self._finish(self._span, error)

    def _finish(self, span: Span, error: BaseException | None) -> None:
        if self.recording:
            if self.path is not None:
                span.set_attribute("zddm.path", self.path)
            for path, keys in sorted((self._batch or {}).items()):
                span.set_attribute(f"zddm.path.{path}", keys)
            if self.stale_marked is not None:
                span.set_attribute("zddm.stale_marked", self.stale_marked)
            if error is not None:
                _mark(span, error)
        if self._context is not None:
            otel_context.detach(self._context)
        span.end()


class StoreTelemetry:
    """What is told of the calls to one of the two stores. Thread-safe."""

    __slots__ = ("_attributes", "_collection", "_kind", "migration", "store")

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

    def call(self, operation: str, keys: int = 1) -> StoreCall:
        """A context manager around one call to the store, for `keys` keys."""
        return StoreCall(self, operation, keys)

    def start(self, operation: str, keys: int) -> Span:
        """Start the span of one call. The batch size is given for 2 and more, as the conventions ask."""
        name = operation if self._collection is None else f"{operation} {self._collection}"
        attributes: dict[str, str | int] = {**self._attributes, "db.operation.name": operation}
        if keys > 1:
            attributes["db.operation.batch.size"] = keys
        return self.migration.tracer.start_span(name, kind=self._kind, attributes=attributes)


class StoreCall:
    """The span, the count and the duration of one call to a store."""

    __slots__ = ("_context", "_keys", "_operation", "_span", "_started", "_telemetry")

    def __init__(self, telemetry: StoreTelemetry, operation: str, keys: int) -> None:
        self._telemetry = telemetry
        self._operation = operation
        self._keys = keys
        self._span: Span | None = None
        self._context: Token[Context] | None = None

    def __enter__(self) -> None:
        telemetry = self._telemetry
        if telemetry.migration.tracing and trace.get_current_span().is_recording():
            self._span = telemetry.start(self._operation, self._keys)
            self._context = otel_context.attach(trace.set_span_in_context(self._span))
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._started
        telemetry = self._telemetry
        telemetry.migration.counts.add_call(telemetry.store, self._operation, self._keys)
        telemetry.migration.instruments.duration.record(
            seconds,
            {
                "zddm.migration": telemetry.migration.name,
                "zddm.store": telemetry.store,
                "zddm.operation": self._operation,
                "zddm.outcome": "ok" if error is None else "error",
            },
        )
        if self._span is not None:
            if error is not None:
                _mark(self._span, error)
            if self._context is not None:
                otel_context.detach(self._context)
            self._span.end()


def _mark(span: Span, error: BaseException) -> None:
    """Mark the span as failed by the error's type alone: messages of drivers carry keys and values."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute("error.type", name)
    span.set_status(Status(StatusCode.ERROR))
