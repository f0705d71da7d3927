"""What OpenTelemetry costs, beside the same number of bare spans of its SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from opentelemetry import context as contexts
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from tests.benchmarks.figures import Figure, Row, Table, spread
from tests.benchmarks.interleaved import WORLDS, Side, in_turns
from tests.benchmarks.operations import READS, WRITES, Case, prepared
from tests.benchmarks.settings import Settings
from tests.benchmarks.stores import in_memory
from zddm_flags import Telemetry

__all__ = ["telemetry_table"]


class _Mode(NamedTuple):
    name: str
    sampler: Any
    unsampled_parent: bool = False
    metrics: bool = False


MODES = (
    _Mode("unsampled parent", ParentBased(ALWAYS_ON), unsampled_parent=True),
    _Mode("at 1 %", ParentBased(TraceIdRatioBased(0.01))),
    _Mode("always on", ParentBased(ALWAYS_ON)),
    _Mode("always on, with metrics", ParentBased(ALWAYS_ON), metrics=True),
)
CASES: tuple[tuple[Case, int], ...] = ((READS[1], 2), (WRITES[1], 3))
"""The operations, and how many spans each has: its own, and one for each call to a store."""

COLUMNS = ("without SDK", "with SDK", "difference", "bare spans", "difference to bare spans")


def _bare(tracer: Any, spans: int) -> Callable[[str], None]:
    """As many spans as the proxy makes, one with the others in it, and nothing on them."""

    def call(_: str) -> None:
        with tracer.start_as_current_span("outer"):
            for _number in range(spans - 1):
                with tracer.start_as_current_span("inner"):
                    pass

    return call


def _as_coroutine(call: Callable[[str], None]) -> Callable[[str], Any]:
    async def made(key: str) -> None:
        call(key)

    return made


@contextmanager
def _parent(mode: _Mode) -> Iterator[None]:
    """Below a span that another service did not sample, where the mode says so."""
    if not mode.unsampled_parent:
        yield
        return
    span = NonRecordingSpan(SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(0)))
    token = contexts.attach(set_span_in_context(span))
    try:
        yield
    finally:
        contexts.detach(token)


def telemetry_table(name: str, title: str, settings: Settings) -> Table:
    """Spans are not exported, nor metrics read: the SDK's exporters are not the proxy's."""
    rows: list[Row] = []
    for world in WORLDS:
        for case, spans in CASES:
            for mode in MODES:
                provider = TracerProvider(sampler=mode.sampler, shutdown_on_exit=False)
                meters = None
                if mode.metrics:
                    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
                telemetry = Telemetry(tracer_provider=provider, meter_provider=meters)
                with (
                    _parent(mode),  # before the runner, which takes the context as it is
                    in_memory(world) as stores,
                    prepared(case, stores, "without") as without,
                    prepared(case, stores, "with", telemetry=telemetry) as with_sdk,
                ):
                    bare = _bare(provider.get_tracer("bare"), spans)
                    sides = {
                        "without": without.side(without.proxy, case.operation),
                        "with": with_sdk.side(with_sdk.proxy, case.operation),
                        "bare": Side(bare if stores.runner is None else _as_coroutine(bare), without.items),
                    }
                    taken = in_turns(sides, settings, stores.runner)
                rows.append(Row(f"{world} {case.name}, {mode.name}", _cells(taken)))
                provider.shutdown()
                if meters is not None:
                    meters.shutdown()
    return Table(name, title, COLUMNS, rows, first="operation, path, sampling")


def _cells(taken: dict[str, list[float]]) -> dict[str, Figure]:
    extra = [one - other for one, other in zip(taken["with"], taken["without"], strict=True)]
    return {
        "without SDK": spread([each * 1e6 for each in taken["without"]], "us"),
        "with SDK": spread([each * 1e6 for each in taken["with"]], "us"),
        "difference": spread([each * 1e6 for each in extra], "us"),
        "bare spans": spread([each * 1e6 for each in taken["bare"]], "us"),
        "difference to bare spans": spread(
            [one / other for one, other in zip(extra, taken["bare"], strict=True)], "x"
        ),
    }
