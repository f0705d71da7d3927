"""What one proxy tells of its operations, of its calls to stores and ledger, and of its jobs.

Written for the hot path: context managers with slots instead of contextlib, attributes computed only for a
span that records, and while no OpenTelemetry SDK is set up nothing but counts. What OpenTelemetry, or a processor
of its user, raises ends in `failed`, never in the operation.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from zddm_telemetry.counts import Counts
from zddm_telemetry.events import failed, report
from zddm_telemetry.jobs import JobTelemetry
from zddm_telemetry.metrics import Gauges, Instruments, instruments_of
from zddm_telemetry.operations import OperationTelemetry, TracedOperation
from zddm_telemetry.spans import Cause, WorkTelemetry, cause
from zddm_telemetry.version import VERSION

__all__ = ["MigrationTelemetry", "Telemetry"]

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
        page_span_seconds: of the pages of a backfill, a verify or a repair the first ten have spans, then one in
            so many seconds; 0.0: each.

    Nothing is configured globally. Immutable, so safe to share between proxies and threads.

    Raises:
        ValueError: `page_span_seconds` is below 0, or is no number.
    """

    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None
    log: bool = True
    record_keys: bool = False
    page_span_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not self.page_span_seconds >= 0:  # so that NaN is refused, too
            raise ValueError(f"page_span_seconds must be 0 or more, not {self.page_span_seconds}")


Reason = Callable[[str, str, bool, bool | None], str | None]
"""Makes a sentence that says why a key took its path.

Of the operation, the path, whether the gate lets the key pass, and whether the ledger called it dirty (None: it
was not asked).
"""


class MigrationTelemetry:
    """The telemetry of one proxy. Thread-safe."""

    def __init__(self, options: Telemetry, name: str, flag_key: str | None, reason: Reason) -> None:
        self.name = name
        self.counts = Counts()
        self.reason = reason
        self.record_keys = options.record_keys
        self.page_span_seconds = options.page_span_seconds
        self._log = options.log
        self._options = options
        self.instruments: Instruments = instruments_of(options.meter_provider, VERSION)
        self.flag_key = flag_key
        self.constant = {"zddm.migration": name}
        if flag_key is not None:
            self.constant["feature_flag.key"] = flag_key
        self.tracer = trace.get_tracer("zddm", VERSION, options.tracer_provider)
        self.leaves_out_pages = False  # whether there ever was a page of a job without a span: looking costs time
        self.tracing = False
        self.metering = False
        self.recorded = False  # whether anybody records spans or durations
        self._look_again = 0.0
        self._last_told: object = None
        self._limit_lock = threading.RLock()  # a signal handler may disable the proxy, which reports, meanwhile
        self._quiet_until: dict[str, float] = {}
        self._suppressed: Counter[str] = Counter()

    def show(self, owner: object, gauges: Callable[[], Gauges | None]) -> None:
        """Show the metrics of `owner`, the proxy, for as long as it lives."""
        self.instruments.add(owner, self.name, self.counts, gauges)

    def operation(self, name: str, batch: bool = False, causes: Sequence[Cause | None] = ()) -> OperationTelemetry:
        """A context manager around one operation of the proxy. Its span has links to those of its `causes`."""
        if not (self.tracing and self.metering) and time.monotonic() >= self._look_again:
            self._look()
        if self.tracing:
            return TracedOperation(self, name, batch, causes)
        return OperationTelemetry(self, name, batch)

    def work(self, name: str, causes: Sequence[Cause | None] = ()) -> WorkTelemetry:
        """A context manager around what is done in the background and is no operation, as a probe."""
        return WorkTelemetry(self, f"zddm.{name}", causes=causes)

    def job(
        self,
        name: str,
        stopped: type[Exception],
        *,
        part: int | None = None,
        carrier: Mapping[str, str] | None = None,
    ) -> JobTelemetry:
        """A context manager around a run of a job; or around one part, in the trace that `carrier` comes from."""
        return JobTelemetry(self, name, stopped, part=part, carrier=carrier)

    def cause(self) -> Cause | None:
        """The current span, for what is done later because of it. None where it does not record."""
        return cause() if self.tracing else None

    def is_news(self, decision: object) -> bool:
        """Whether no span has told of this decision of the gate; from then on one has."""
        known, self._last_told = self._last_told, decision  # without a lock: at worst two spans tell of it
        return known is not decision

    def traces(self) -> bool:
        """Whether an SDK for spans is set up by now, looked for again."""
        if not self.tracing:
            self._look()
        return self.tracing

    def _look(self) -> None:
        """See whether an SDK is set up by now: once a second, for asking costs more than an operation may."""
        self._look_again = time.monotonic() + _LOOK_AGAIN_SECONDS
        try:
            self.tracing = _records(self._options.tracer_provider) or _records(trace.get_tracer_provider())
            self.metering = _records(self._options.meter_provider) or _records(metrics.get_meter_provider())
            self.recorded = self.tracing or self.metering
        except Exception as error:
            failed(error)

    def report(self, level: Literal["info", "warning", "error"], event: str, **fields: object) -> None:
        """Log an event of this migration, and add it to the current span.

        It also says what `report_limited` did not log so far, as `suppressed_new_failed`: an outage that ends has
        no next warning to say so, but `guard_closed` comes then.
        """
        told: dict[str, int] = {}
        if self._log:
            with self._limit_lock:
                left_out, self._suppressed = self._suppressed, Counter()
            told = {f"suppressed_{name}": count for name, count in left_out.items()}
        report(level, event, log=self._log, migration=self.name, **fields, **told)

    def report_limited(self, event: str, **fields: object) -> None:
        """Report a warning that an outage repeats for every operation; log it at most once in ten seconds.

        The next one to be logged says in `suppressed` how many were not. Spans get each of theirs.
        """
        log = self._log
        if log:
            now = time.monotonic()
            with self._limit_lock:
                log = now >= self._quiet_until.get(event, 0.0)
                if log:
                    self._quiet_until[event] = now + _REPEAT_SECONDS
                    fields["suppressed"] = self._suppressed.pop(event, 0)
                else:
                    self._suppressed[event] += 1
        report("warning", event, log=log, migration=self.name, **fields)

    def after_fork(self) -> None:
        """Replace locks that another thread of the parent may have held at the moment of the fork."""
        self.counts.after_fork()
        self.instruments.after_fork()
        self._limit_lock = threading.RLock()
        self._suppressed = Counter()  # its parent tells of those


def _records(provider: object) -> bool:
    """Whether it is more than one of the API's own providers, which stand in for an SDK and record nothing."""
    return provider is not None and not type(provider).__module__.startswith(_API)


_API = ("opentelemetry.trace", "opentelemetry.metrics")
