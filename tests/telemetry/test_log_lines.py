"""Log events as an application's own structlog configuration renders them, with the ids of the span."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from structlog.testing import capture_logs

from tests.core.worlds import Trouble, World
from zddm_flags import Proxy, Telemetry, TrafficGate
from zddm_telemetry import events, report

PARENT = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(TraceFlags.DEFAULT))


@pytest.fixture
def configured() -> Iterator[Callable[..., None]]:
    """Configure structlog as an application does; afterwards it is as before."""
    before, was_configured = structlog.get_config(), structlog.is_configured()
    yield structlog.configure
    structlog.reset_defaults()
    if was_configured:
        structlog.configure(**before)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that telemetry swallows passes unseen."""
    failures: list[BaseException] = []
    monkeypatch.setattr(events, "failed", failures.append)
    yield
    assert failures == []


# -- the ids of the span ------------------------------------------------------------------------------------------


@pytest.fixture(params=["sampled", "not sampled"])
def provider(request: pytest.FixtureRequest) -> TracerProvider:
    return TracerProvider() if request.param == "sampled" else TracerProvider(sampler=ALWAYS_OFF)


def test_ids_of_the_span(provider: TracerProvider) -> None:
    """An event has its span's ids in hexadecimal, whether the span is sampled or not."""
    with capture_logs() as logs, provider.get_tracer("test").start_as_current_span("request") as span:
        report("info", "happened")
    [log] = logs
    ids = span.get_span_context()
    assert (int(log["trace_id"], 16), int(log["span_id"], 16)) == (ids.trace_id, ids.span_id)
    assert re.fullmatch("[0-9a-f]{32}", log["trace_id"])
    assert re.fullmatch("[0-9a-f]{16}", log["span_id"])


def test_ids_have_leading_zeros() -> None:
    """Small ids are of full length."""
    with capture_logs() as logs, trace.use_span(NonRecordingSpan(PARENT)):
        report("info", "happened")
    assert (logs[0]["trace_id"], logs[0]["span_id"]) == (f"{'abc':0>32}", f"{'def':0>16}")


def test_no_span() -> None:
    """Without a span there are no ids."""
    with capture_logs() as logs:
        report("info", "happened")
    assert logs == [{"event": "happened", "log_level": "info"}]


def test_ids_of_the_caller() -> None:
    """Ids that the caller of `report` gives stay."""
    with capture_logs() as logs, trace.use_span(NonRecordingSpan(PARENT)):
        report("info", "happened", trace_id="own")
    assert logs == [{"event": "happened", "log_level": "info", "trace_id": "own", "span_id": f"{'def':0>16}"}]


def test_ids_of_the_application(configured: Callable[..., None]) -> None:
    """Ids that the application has bound to structlog's context variables stay."""
    output = io.StringIO()
    configured(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(output),
    )
    with trace.use_span(NonRecordingSpan(PARENT)), structlog.contextvars.bound_contextvars(trace_id="own", user=1):
        report("info", "happened")
    assert json.loads(output.getvalue()) == {
        "event": "happened",
        "trace_id": "own",
        "span_id": f"{'def':0>16}",
        "user": 1,
    }


def test_the_event_on_the_span_has_no_ids() -> None:
    """On the span itself its own ids would say nothing."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with capture_logs(), provider.get_tracer("test").start_as_current_span("request"):
        report("info", "happened", keys=1)
    [span] = exporter.get_finished_spans()
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("happened", {"zddm.keys": 1})
    ]


def test_a_broken_context_of_spans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the current span cannot be told, the event is logged without it."""

    def raise_trouble() -> Any:
        raise Trouble

    monkeypatch.setattr(events, "_known_failures", {Trouble})
    monkeypatch.setattr(trace, "get_current_span", raise_trouble)
    with capture_logs() as logs:
        report("info", "happened")
    assert logs == [{"event": "happened", "log_level": "info"}]


async def test_an_operation_logs_its_own_span(world: World) -> None:
    """What an operation logs carries the ids of the span of that operation."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    migration = world.migration(new={"k": 1}, telemetry=Telemetry(tracer_provider=provider))
    migration.new.outage()
    with capture_logs() as logs:
        await migration.read("k")
    [log] = [log for log in logs if log["event"] == "new_failed"]
    [span] = [span for span in exporter.get_finished_spans() if span.name == "zddm.read"]
    assert (log["trace_id"], log["span_id"]) == ids_of(span)


def ids_of(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


# -- the application's configuration ------------------------------------------------------------------------------


def work() -> None:
    """A proxy that says a few things."""
    with Proxy(TrafficGate(1.0), Store(), Store()) as proxy:
        proxy.write("k", 1)
        proxy.disable()
        proxy.enable()


class Store:
    """A store that takes all and has nothing."""

    def read(self, key: str) -> None:
        return None

    def write(self, key: str, value: int) -> None: ...

    def delete(self, key: str) -> None: ...


EVENTS = ["ledger_in_memory", "opened_wider", "proxy_disabled", "proxy_enabled"]


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("cached", [False, True])
def test_processors_and_levels_of_the_application(configured: Callable[..., None], cached: bool) -> None:
    """Its processors see each event of its level and above; its configuration is left as it is."""
    seen: list[Any] = []

    def see(_: object, level: str, event: dict[str, Any]) -> Any:
        seen.append((level, event["event"]))
        raise structlog.DropEvent

    class Wrapper(structlog.make_filtering_bound_logger(logging.WARNING)):  # type: ignore[misc]  # made at run time
        pass

    configured(processors=[see], wrapper_class=Wrapper, cache_logger_on_first_use=cached)
    before = structlog.get_config()
    work()
    assert seen == [("warning", "proxy_disabled")]
    assert structlog.get_config() == before
    assert structlog.is_configured()
    seen.clear()
    configured(wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET))
    work()
    assert [event for _, event in seen] == EVENTS, "a later configuration is followed, cached loggers or not"


@pytest.mark.usefixtures("strict")
def test_structlog_that_was_never_configured(
    configured: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody configures structlog its defaults print the events, and it stays unconfigured."""
    structlog.reset_defaults()
    before = structlog.get_config()
    work()
    assert not structlog.is_configured()
    assert structlog.get_config() == before
    printed = capsys.readouterr().out.splitlines()
    assert [event for line, event in zip(printed, EVENTS, strict=True) if event in line] == EVENTS


@pytest.mark.usefixtures("strict")
def test_structlog_on_the_standard_library(
    configured: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Where structlog logs by the standard library, the logger is `zddm` and its level counts."""
    configured(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    with caplog.at_level(logging.WARNING, "zddm"):
        work()
    assert [(record.name, record.levelname) for record in caplog.records] == [("zddm", "WARNING")]
    said = json.loads(caplog.messages[0])
    assert said == {"event": "proxy_disabled", "migration": "default", "level": "warning", "logger": "zddm"}


@pytest.mark.usefixtures("strict")
async def test_the_asyncio_wrapper_of_structlog(configured: Callable[..., None]) -> None:
    """In an event loop events arrive through structlog's AsyncBoundLogger too: no coroutine is left unawaited."""
    seen: list[str] = []

    def see(_: object, __: str, event: dict[str, Any]) -> Any:
        seen.append(event["event"])
        raise structlog.DropEvent

    configured(
        processors=[see],
        wrapper_class=structlog.stdlib.AsyncBoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    work()
    assert seen == EVENTS
