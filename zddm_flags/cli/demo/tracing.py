"""The demo's traces: which operations have one, where they go, and what is said of them at the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from zddm_flags import Telemetry
from zddm_flags.cli.words import counted

__all__ = ["SERVICE", "Tracing"]

SERVICE = "zddm-demo"
_TRACED = 0.05
_JOBS = {"zddm.backfill", "zddm.verify", "zddm.repair"}
_SEND_EVERY_MILLISECONDS = 1000.0
_CALL_SECONDS = 2.0
_LAST_SECONDS = 5.0


class Tracing:
    """Sends spans to a collector, and counts those that it did not get.

    Args:
        url: of a collector that takes OTLP over HTTP.

    What the exporter logs is kept from the screen: where the collector goes away it would be most of what is seen.
    """

    def __init__(self, url: str) -> None:
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        self._url = url
        self._ended = _Ended()
        self._sent = _Sent(OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces", timeout=_CALL_SECONDS))
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": SERVICE}),
            sampler=ParentBased(_JobsAndSome()),
            shutdown_on_exit=False,  # it may wait for half a minute
        )
        self._provider.add_span_processor(self._ended)
        self._provider.add_span_processor(
            BatchSpanProcessor(self._sent, schedule_delay_millis=_SEND_EVERY_MILLISECONDS)
        )
        self.telemetry = Telemetry(tracer_provider=self._provider)

    def close(self) -> None:
        """Send what is left, for a few seconds at most. Idempotent."""
        if self._sent.closing:
            return
        self._sent.closing = True
        closing = threading.Thread(target=self._provider.shutdown, name="demo-last-spans", daemon=True)
        closing.start()
        closing.join(_LAST_SECONDS)

    def lines(self, airport: str, key_hash: int) -> Iterator[str]:
        """What was sent, and what to look for. `airport` is the one that is asked for most."""
        sent = self._sent.spans
        yield f"Traces: {sent:,} spans of the service {SERVICE} were sent to {self._url}."
        if lost := self._ended.spans - sent:
            yield f"{counted(lost, 'span')} could not be sent."
        if sent:
            yield "What to search for, and what it shows: docs/tracing.md."
            yield f"The airport that is read most often is {airport}: zddm.key.hash={key_hash:016x}"


class _JobsAndSome(Sampler):
    """Takes, of the traces that begin: jobs, what traced operations caused, and one in twenty of the others."""

    def __init__(self) -> None:
        self._some = TraceIdRatioBased(_TRACED)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        wanted = name in _JOBS or any(link.context.trace_flags.sampled for link in links or ())
        sampler = ALWAYS_ON if wanted else self._some
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"jobs, what traced operations caused, and {_TRACED} of the rest"


class _Ended(SpanProcessor):
    """Counts the spans that are to be sent."""

    def __init__(self) -> None:
        self.spans = 0
        self._lock = threading.Lock()

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            with self._lock:
                self.spans += 1


class _Sent(SpanExporter):
    """Counts the spans that were sent. One thread at a time calls it.

    Once it is `closing`, the first failure is the last try: somebody waits for the end.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._gave_up = False
        self.spans = 0
        self.closing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._gave_up:
            return SpanExportResult.FAILURE
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.spans += len(spans)
        else:
            self._gave_up = self.closing
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
