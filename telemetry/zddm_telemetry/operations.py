"""What is told of one operation of a proxy: its counts, and where somebody records them, its span."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from zddm_telemetry.events import failed
from zddm_telemetry.spans import Attributes, Cause, Untraced, begun, ended, links_to

if TYPE_CHECKING:
    from zddm_telemetry.migration import MigrationTelemetry

__all__ = ["Evaluated", "OperationTelemetry", "TracedOperation"]


class Evaluated(NamedTuple):
    """How the rollout of now came about: each as far as it is known."""

    flag_key: str
    value: str
    provider: str | None = None
    variant: str | None = None
    reason: str | None = None
    error: str | None = None
    context: str | None = None


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

    def asked(self, dirty: bool) -> None:
        """Say what the ledger answered."""

    def note(self, name: str, value: str) -> None:
        """Add an attribute to the span, where there is one that records."""

    def evaluated(self, evaluation: Callable[[], Evaluated]) -> None:
        """Say how the rollout came about, where there is a span that records. What `evaluation` raises is told."""

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


class TracedOperation(OperationTelemetry):
    """The counts and the span of one operation."""

    __slots__ = ("_causes", "_context", "_dirty", "_passed", "_span", "recording")

    def __init__(
        self, telemetry: MigrationTelemetry, name: str, batch: bool, causes: Sequence[Cause | None] = ()
    ) -> None:
        super().__init__(telemetry, name, batch)
        self._causes = causes
        self._span: Span | None = None
        self._context: Token[Context] | None = None
        self._passed = False
        self._dirty: bool | None = None
        self.recording = False

    def __enter__(self) -> Self:
        name = f"zddm.{self._name}" if self._batch is None else f"zddm.{self._name}_many"
        try:
            if self._telemetry.leaves_out_pages and isinstance(trace.get_current_span(), Untraced):
                return self
            links = links_to(self._causes) if self._causes else None
            span = self._telemetry.tracer.start_span(
                name, kind=SpanKind.INTERNAL, attributes=self._telemetry.constant, links=links
            )
            self.recording = span.is_recording()
            self._context = begun(span)
            self._span = span
        except Exception as error:
            failed(error)
        return self

    def located(self, key: object, key_hash: int, rate: float, passed: bool) -> None:
        """Say what the gate decided on the key. The hash is hexadecimal: it has no place in a signed int64."""
        self._passed = passed
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

    def asked(self, dirty: bool) -> None:
        """Say what the ledger answered."""
        self._dirty = dirty

    def note(self, name: str, value: str) -> None:
        """Add an attribute to the span."""
        if self._span is None:
            return
        try:
            self._span.set_attribute(name, value)
        except Exception as error:
            failed(error)

    def evaluated(self, evaluation: Callable[[], Evaluated]) -> None:
        """Say how the rollout came about: an event, named as OpenTelemetry's conventions for flags do."""
        if self._span is None:
            return
        try:  # around the call, too: it asks a source of rollouts that may be the application's own
            said = evaluation()
            known = {
                "feature_flag.key": said.flag_key,
                "feature_flag.result.value": said.value,
                "feature_flag.provider.name": said.provider,
                "feature_flag.result.variant": said.variant,
                "feature_flag.result.reason": said.reason,
                "feature_flag.context.id": said.context,
                "error.type": said.error,
            }
            self._span.add_event(
                "feature_flag.evaluation", {name: each for name, each in known.items() if each is not None}
            )
        except Exception as failure:
            failed(failure)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace_back)
        if self._span is not None:
            ended(self._span, self._context, error, self._outcome(error) if self.recording else None)

    def _outcome(self, error: BaseException | None) -> Attributes:
        outcome: dict[str, str | bool | int] = {}
        path = self.path
        if path is not None:
            outcome["zddm.path"] = path
            reason = self._telemetry.reason(self._name, path, self._passed, self._dirty)
            if reason is not None:
                outcome["zddm.reason"] = reason
            if self._name == "read" and error is None:  # one that was cancelled served nobody
                outcome["zddm.served_by"] = "new" if path == "new_hit" else "old"
        for each, keys in sorted((self._batch or {}).items()):
            outcome[f"zddm.path.{each}"] = keys
        if self._dirty is not None:
            outcome["zddm.key.dirty"] = self._dirty
        if self.stale_marked is not None:
            outcome["zddm.stale_marked"] = self.stale_marked
        return outcome
