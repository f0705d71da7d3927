"""The trace of a job: one span for the run, and below it those of some of its pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from zddm_telemetry.events import failed
from zddm_telemetry.spans import Attributes, Untraced, WorkTelemetry, begun, left

if TYPE_CHECKING:
    from zddm_telemetry.migration import MigrationTelemetry

__all__ = ["JobTelemetry", "PageTelemetry"]

_FIRST_PAGES = 10
_SAME_WAIT_SECONDS = 10.0


class JobTelemetry:
    """The trace of one run, or of a part of one that is done elsewhere. Thread-safe but for entering and leaving.

    `stopped` is what ends a page that is no failure, where the run is to end early.

    The first ten pages have spans, and of the others one in `page_span_seconds`, for a run of hours has more pages
    than a trace can hold. What an operation does below a page that has none is not traced either; nor is what a
    driver does, where the sampler heeds a span's parent.
    """

    def __init__(
        self,
        telemetry: MigrationTelemetry,
        job: str,
        stopped: type[Exception],
        *,
        part: int | None = None,
        carrier: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._telemetry = telemetry
        self._job = job
        self._stopped = stopped
        name, about = f"zddm.{job}", {}
        if part is not None:
            name, about = f"zddm.{job}.part", {"zddm.job.part": part}
        self._work = WorkTelemetry(telemetry, name, about, parent=_context_of(carrier))
        self._clock = clock
        self._lock = threading.Lock()
        self._pages = self._traced = 0
        self._next_page_at = 0.0
        self._told: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._work.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        try:
            self._work.add({"zddm.job.pages": self._pages, "zddm.job.pages_traced": self._traced})
        finally:  # a span stays current for nobody, whatever ends its thread
            self._work.__exit__(kind, error, trace_back)

    def tell(self, counts: Mapping[str, int], **about: str | bool | int) -> None:
        """Say of the run each of `about`, as `zddm.job.<name>`, and how many rows met with which outcome."""
        if self._work.recording:
            said = {f"zddm.job.{name}": value for name, value in about.items()}
            self._work.add(said | {f"zddm.rows.{name}": number for name, number in counts.items() if number})

    def waits(self, why: str) -> None:
        """Say that the run waits, and why: at most once in ten seconds for each reason."""
        if not self._work.recording:
            return
        now = self._clock()
        with self._lock:
            if now < self._told.get(why, 0.0):
                return
            self._told[why] = now + _SAME_WAIT_SECONDS
        self._work.event("zddm.waiting", {"zddm.migration": self._telemetry.name, "zddm.why": why})

    def page(self, part: int | None = None) -> PageTelemetry:
        """A context manager around one page, of this part of the run."""
        if self._work.recording and self._takes_page():
            about = {} if part is None else {"zddm.job.part": part}
            work = WorkTelemetry(self._telemetry, f"zddm.{self._job}.page", about)
            return PageTelemetry(work, self._stopped)
        return self.untraced()

    def untraced(self) -> PageTelemetry:
        """A context manager around calls that a run of hours makes again and again, and that are no page."""
        if not self._work.recording or self._work.span is None:
            return PageTelemetry(None)
        self._telemetry.leaves_out_pages = True
        return _UntracedPage(self._work.span)

    def _takes_page(self) -> bool:
        now = self._clock()
        with self._lock:
            self._pages += 1
            wanted = self._pages <= _FIRST_PAGES or now >= self._next_page_at
            if wanted:
                self._traced += 1
                self._next_page_at = now + self._telemetry.page_span_seconds
        return wanted

    def carrier(self) -> dict[str, str]:
        """What a process that does a part of the run needs in order to go on with its trace: W3C trace context."""
        carrier: dict[str, str] = {}
        try:
            if self._work.span is not None:
                TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(self._work.span))
        except Exception as error:
            failed(error)
        return carrier


class PageTelemetry:
    """One page of a run; nothing is told of it where the run is not traced."""

    __slots__ = ("_stopped", "_work")

    def __init__(self, work: WorkTelemetry | None, stopped: type[Exception] | None = None) -> None:
        self._work = work
        self._stopped = stopped

    def __enter__(self) -> Self:
        if self._work is not None:
            self._work.__enter__()
        return self

    def add(self, attributes: Attributes) -> None:
        """Add attributes to the page's span, where it has one."""
        if self._work is not None:
            self._work.add(attributes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        if self._work is None:
            return
        if self._stopped is not None and isinstance(error, self._stopped):
            try:
                self._work.add({"zddm.job.state": "stopped"})
            finally:
                self._work.__exit__(None, None, None)
        else:
            self._work.__exit__(kind, error, trace_back)


class _UntracedPage(PageTelemetry):
    """A page without a span, in a run that has one: what goes on below it takes the trace for one not sampled."""

    __slots__ = ("_context", "_span", "_untraced")

    def __init__(self, run: Span) -> None:
        super().__init__(None)
        self._span = run
        self._context: Token[Context] | None = None

    def __enter__(self) -> Self:
        try:
            self._untraced = Untraced(self._span)
            self._context = begun(self._untraced)
        except Exception as error:
            failed(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        try:
            if self._context is not None:
                left(self._untraced, self._context, error)
        except Exception as failure:
            failed(failure)


def _context_of(carrier: Mapping[str, str] | None) -> Context | None:
    """The context that another process goes on with; None: the current one."""
    if not carrier:
        return None
    try:
        return TraceContextTextMapPropagator().extract(carrier)
    except Exception as error:
        failed(error)
        return None
