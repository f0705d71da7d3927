"""What is told of the calls that an operation makes: to Old, to New and to the ledger."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from zddm_telemetry.events import failed
from zddm_telemetry.spans import begun, ended

if TYPE_CHECKING:
    from zddm_telemetry.migration import MigrationTelemetry

__all__ = ["LedgerTelemetry", "StoreTelemetry"]

Store = Literal["old", "new"]
Operation = Literal["read", "write", "delete", "scan"]
Outcome = Literal["ok", "error"]
_OPERATIONS: tuple[Operation, ...] = ("read", "write", "delete", "scan")


class StoreTelemetry:
    """What is told of the calls to one of the two stores. Thread-safe."""

    __slots__ = ("_attributes", "_collection", "_counted", "_kind", "_outcomes", "migration")

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
        self._collection = collection
        self._kind = _kind(remote)
        self._attributes = {"zddm.store": store, **_database(system, collection, namespace)}
        # Made once, for each call needs them.
        self._counted = {operation: (store, operation) for operation in _OPERATIONS}
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

    def count(self, operation: Operation, keys: int) -> None:
        """Count a call to the store, for `keys` keys: all that is told where nobody records."""
        self.migration.counts.add_call(self._counted[operation], keys)

    def call(self, operation: Operation, keys: int) -> _RecordedCall:
        """A context manager around one call to the store, for `keys` keys, which tells all but the count."""
        return _RecordedCall(self, operation, keys)

    def start(self, operation: Operation, keys: int) -> Span:
        """Start the span of one call. The batch size is given for 2 and more, as the conventions ask."""
        name = operation if self._collection is None else f"{operation} {self._collection}"
        attributes = _of_call(self._attributes, operation, keys)
        return self.migration.tracer.start_span(name, kind=self._kind, attributes=attributes)

    def took(self, operation: Operation, outcome: Outcome, seconds: float) -> None:
        """Record how long a call took."""
        self.migration.instruments.duration.record(seconds, self._outcomes[operation, outcome])


class LedgerTelemetry:
    """What is told of the calls to a ledger that other processes share. Thread-safe."""

    __slots__ = ("_attributes", "_kind", "migration")

    def __init__(
        self,
        migration: MigrationTelemetry,
        *,
        system: str | None,
        collection: str | None,
        namespace: str | None,
        remote: bool,
    ) -> None:
        self.migration = migration
        self._kind = _kind(remote)
        self._attributes = _database(system, collection, namespace)

    def call(self, name: str, keys: int) -> _LedgerCall:
        """A context manager around one call to the ledger, for `keys` keys, or 0 where it is for none."""
        return _LedgerCall(self, name, keys)

    def start(self, name: str, keys: int) -> Span:
        """Start the span of one call."""
        attributes = _of_call(self._attributes, name, keys)
        return self.migration.tracer.start_span(f"zddm.ledger.{name}", kind=self._kind, attributes=attributes)

    def took(self, name: str, outcome: Outcome, seconds: float) -> None:
        """Record how long a call took."""
        about = {"zddm.migration": self.migration.name, "zddm.operation": name, "zddm.outcome": outcome}
        self.migration.instruments.ledger_duration.record(seconds, about)


class _TimedCall(ABC):
    """The span of one call, where that of an operation records, and the call's duration."""

    __slots__ = ("_context", "_migration", "_span", "_started")

    def __init__(self, migration: MigrationTelemetry) -> None:
        self._migration = migration
        self._span: Span | None = None
        self._context: Token[Context] | None = None

    @abstractmethod
    def _start(self) -> Span: ...

    @abstractmethod
    def _took(self, outcome: Outcome, seconds: float) -> None: ...

    def __enter__(self) -> None:
        try:
            if self._migration.tracing and trace.get_current_span().is_recording():
                span = self._start()
                self._context = begun(span)
                self._span = span
        except Exception as error:
            failed(error)
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._started
        try:
            if self._migration.metering:
                self._took("ok" if error is None else "error", seconds)
        except Exception as failure:
            failed(failure)
        finally:  # a span stays current for nobody, whatever ends its thread
            if self._span is not None:
                ended(self._span, self._context, error)


class _RecordedCall(_TimedCall):
    """The span and the duration of one call to a store."""

    __slots__ = ("_keys", "_operation", "_telemetry")

    def __init__(self, telemetry: StoreTelemetry, operation: Operation, keys: int) -> None:
        super().__init__(telemetry.migration)
        self._telemetry = telemetry
        self._operation: Operation = operation
        self._keys = keys

    def _start(self) -> Span:
        return self._telemetry.start(self._operation, self._keys)

    def _took(self, outcome: Outcome, seconds: float) -> None:
        self._telemetry.took(self._operation, outcome, seconds)


class _LedgerCall(_TimedCall):
    """The span and the duration of one call to the ledger."""

    __slots__ = ("_keys", "_name", "_telemetry")

    def __init__(self, telemetry: LedgerTelemetry, name: str, keys: int) -> None:
        super().__init__(telemetry.migration)
        self._telemetry = telemetry
        self._name = name
        self._keys = keys

    def _start(self) -> Span:
        return self._telemetry.start(self._name, self._keys)

    def _took(self, outcome: Outcome, seconds: float) -> None:
        self._telemetry.took(self._name, outcome, seconds)


def _kind(remote: bool) -> SpanKind:
    return SpanKind.CLIENT if remote else SpanKind.INTERNAL


def _database(system: str | None, collection: str | None, namespace: str | None) -> dict[str, str]:
    given = {"db.system.name": system, "db.collection.name": collection, "db.namespace": namespace}
    return {name: value for name, value in given.items() if value is not None}


def _of_call(attributes: Mapping[str, str], operation: str, keys: int) -> Mapping[str, str | int]:
    about: dict[str, str | int] = {**attributes, "db.operation.name": operation}
    if keys > 1:
        about["db.operation.batch.size"] = keys
    return about
