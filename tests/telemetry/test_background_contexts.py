"""What goes on in the background is no part of the trace of whoever happened to begin it."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
from ldclient import Config, Context, LDClient
from ldclient.integrations.test_data import TestData as FlagData
from opentelemetry import trace

from zddm_flags import LaunchDarklySource
from zddm_flags._sync._world import in_background


@pytest.fixture(autouse=True)
def inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads inherit the context of who starts them: by OpenTelemetry's instrumentation, or a Python 3.14."""
    start = threading.Thread.start

    def start_with_context(thread: threading.Thread) -> None:
        context = contextvars.copy_context()
        run: Callable[[], None] = thread.run
        monkeypatch.setattr(thread, "run", lambda: context.run(run))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_with_context)


def test_what_a_request_began() -> None:
    """Work in the background has no span of the request that began it."""
    found: list[object] = []
    request = trace.NonRecordingSpan(trace.SpanContext(1, 2, False, trace.TraceFlags(1)))

    def work() -> bool:
        found.append(trace.get_current_span())
        return False

    with trace.use_span(request):
        repeating = in_background(work, 0.001)
        inheriting = threading.Thread(target=work)
        inheriting.start()
        inheriting.join(30)
    assert repeating is not None
    repeating.wait(30)
    assert set(found) == {request, trace.INVALID_SPAN}


def test_the_threads_of_a_source() -> None:
    """What a source logs, as a change of the rate, has the ids of no span that was current where it was made."""
    flags = FlagData.data_source()
    flags.update(flags.flag("rate").value_for_all(0.5))
    options: dict[str, Any] = {"send_events": False, "diagnostic_opt_out": True}
    found: list[object] = []
    asked = threading.Event()
    with LDClient(Config("sdk-key", update_processor_class=flags, **options)) as client:

        class Looking(LaunchDarklySource):
            def _step(self) -> None:
                found.append(trace.get_current_span())
                asked.set()

        context = Context.builder("service").kind("service").build()
        with (
            trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 2, False, trace.TraceFlags(1)))),
            Looking(client, "rate", context, refresh_seconds=0.01),
        ):
            assert asked.wait(30)
    assert set(found) == {trace.INVALID_SPAN}
