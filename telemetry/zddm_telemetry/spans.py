"""How a span of this library begins and ends. What OpenTelemetry raises ends in `failed`, never in the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from zddm_telemetry.events import failed

if TYPE_CHECKING:
    from zddm_telemetry.migration import MigrationTelemetry

__all__ = ["Attributes", "Cause", "Untraced", "WorkTelemetry", "begun", "cause", "ended", "left", "links_to"]

Attributes: TypeAlias = Mapping[str, str | bool | int | float]

Cause: TypeAlias = SpanContext
"""The span of an operation that something is done for later."""

_MOST_LINKS = 32


class Untraced(NonRecordingSpan):
    """Takes the place of a span while below it nothing is traced.

    To a sampler that heeds the parent, its trace is not sampled. This library has no span of an operation below
    it whatever the sampler does, for one may keep all spans, as that of `OTEL_TRACES_SAMPLER=always_on`.
    """

    def __init__(self, of: Span) -> None:
        span = of.get_span_context()
        super().__init__(SpanContext(span.trace_id, span.span_id, False, TraceFlags(0), span.trace_state))


def begun(span: Span) -> Token[Context]:
    """Make a span the current one; `ended` or `left` takes the token."""
    return otel_context.attach(trace.set_span_in_context(span))


def left(span: Span, context: Token[Context], error: BaseException | None) -> None:
    """Make current again what was when `span` began.

    A coroutine that is thrown away, as one that waits when its event loop ends, is closed wherever that happens.
    Nothing has to be made current there, and OpenTelemetry would log an error, with the text of what is raised.
    """
    if not isinstance(error, GeneratorExit) or trace.get_current_span() is span:
        otel_context.detach(context)


def ended(
    span: Span, context: Token[Context] | None, error: BaseException | None, outcome: Attributes | None = None
) -> None:
    """End a span. A failure is told by the error's type alone: messages of drivers carry keys and values."""
    try:
        if context is not None:
            left(span, context, error)
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


def cause() -> Cause | None:
    """The current span, to be linked to by what is done later because of it. None where it does not record."""
    try:
        span = trace.get_current_span()
        return span.get_span_context() if span.is_recording() else None
    except Exception as error:
        failed(error)
        return None


def links_to(causes: Sequence[Cause | None]) -> list[Link]:
    """A link to each span once, and to no more of them than anybody follows."""
    distinct = {each.span_id: each for each in causes if each is not None}
    return [Link(each) for each in list(distinct.values())[:_MOST_LINKS]]


class WorkTelemetry:
    """The span of work that is no operation of an application, and that counts nothing.

    Not to be shared between threads, but for `event`.
    """

    __slots__ = ("_attributes", "_context", "_links", "_name", "_parent", "_telemetry", "recording", "span")

    def __init__(
        self,
        telemetry: MigrationTelemetry,
        name: str,
        attributes: Attributes | None = None,
        *,
        causes: Sequence[Cause | None] = (),
        parent: Context | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._name = name
        self._attributes = attributes or {}
        self._links = causes
        self._parent = parent
        self._context: Token[Context] | None = None
        self.span: Span | None = None
        self.recording = False  # whether there is a span that records

    def __enter__(self) -> Self:
        if not self._telemetry.traces():
            return self
        try:
            span = self._telemetry.tracer.start_span(
                self._name,
                self._parent,
                SpanKind.INTERNAL,
                {**self._telemetry.constant, **self._attributes},
                links_to(self._links),
            )
            recording = span.is_recording()
            self._context = begun(span)
            self.span, self.recording = span, recording
        except Exception as error:
            failed(error)
        return self

    def add(self, attributes: Attributes) -> None:
        """Add attributes to the span."""
        if self.span is None:
            return
        try:
            self.span.set_attributes(attributes)
        except Exception as error:
            failed(error)

    def event(self, name: str, attributes: Attributes) -> None:
        """Add an event to the span."""
        if self.span is None:
            return
        try:
            self.span.add_event(name, attributes)
        except Exception as error:
            failed(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        if self.span is not None:
            ended(self.span, self._context, error)
