"""What `zddm demo --otlp` sends, and what it says where the collector goes away."""

import logging
import subprocess
import sys
import time

import pytest
from opentelemetry import context
from opentelemetry.trace import Link, SpanContext, TraceFlags

from tests.otlp import OtlpReceiver
from zddm_flags.cli.demo.tracing import SERVICE, Tracing


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """The demo is a program of its own, and may silence OpenTelemetry's logger for good: these tests may not."""
    logger = logging.getLogger("opentelemetry")
    before = logger.propagate, list(logger.handlers)
    yield
    logger.propagate, logger.handlers = before


def _tracer(tracing):
    return tracing.telemetry.tracer_provider.get_tracer("zddm")


def _make(tracing, name, count=1, **options):
    tracer = _tracer(tracing)
    for _ in range(count):
        tracer.start_span(name, context=context.Context(), **options).end()


def test_jobs_are_always_traced_and_of_operations_one_in_twenty():
    """Each run of a job has a trace, and so has what a traced operation caused; one of twenty operations has."""
    with OtlpReceiver() as receiver:
        tracing = Tracing(receiver.url)
        for job in ("zddm.backfill", "zddm.verify", "zddm.repair"):
            _make(tracing, job, 50)
        for sampled in (TraceFlags.SAMPLED, TraceFlags.DEFAULT):
            cause = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(sampled))
            _make(tracing, f"zddm.copy_many {sampled}", 50, links=[Link(cause)])
        _make(tracing, "zddm.read", 5_000)
        tracing.close()
        names = [span.name for span in receiver.spans]
        assert {span.service for span in receiver.spans} == {SERVICE}
    for name in ("zddm.backfill", "zddm.verify", "zddm.repair", "zddm.copy_many 1"):
        assert names.count(name) == 50, name
    assert names.count("zddm.copy_many 0") < 25
    assert 150 < names.count("zddm.read") < 350
    [sent, *_] = tracing.lines("ABCD", 0)
    assert sent == f"Traces: {len(names):,} spans of the service zddm-demo were sent to {receiver.url}."


def test_what_is_below_an_operation_is_traced_as_it_is():
    """A call below an operation that is not traced is not traced either."""
    with OtlpReceiver() as receiver:
        tracing = Tracing(receiver.url)
        for _ in range(300):
            with _tracer(tracing).start_as_current_span("zddm.read"):
                _tracer(tracing).start_span("read airports").end()
        tracing.close()
        names = [span.name for span in receiver.spans]
    assert 0 < names.count("zddm.read") == names.count("read airports") < 100


def test_a_collector_that_goes_away_is_told_of_in_one_line(capfd):
    """Nothing is printed or logged while the collector is away; the end says how many spans it did not get."""
    with OtlpReceiver() as receiver:
        tracing = Tracing(receiver.url)
        _make(tracing, "zddm.backfill", 3)
        receiver.wait_for_spans(3)
        url = receiver.url
    _make(tracing, "zddm.backfill", 5_000)  # more than wait in memory
    began = time.monotonic()
    tracing.close()
    assert time.monotonic() - began < 8
    assert list(tracing.lines("ABCD", 0xAB)) == [
        f"Traces: 3 spans of the service zddm-demo were sent to {url}.",
        "5,000 spans could not be sent.",
        "What to search for, and what it shows: docs/tracing.md.",
        "The airport that is read most often is ABCD: zddm.key.hash=00000000000000ab",
    ]
    assert capfd.readouterr() == ("", "")


def test_nothing_to_look_at_is_not_looked_for():
    """Where no span was sent, the demo does not say what to search for."""
    with OtlpReceiver() as receiver:
        url = receiver.url
    tracing = Tracing(url)
    _make(tracing, "zddm.verify")
    tracing.close()
    assert list(tracing.lines("ABCD", 0)) == [
        f"Traces: 0 spans of the service zddm-demo were sent to {url}.",
        "1 span could not be sent.",
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:4318", "--otlp needs a URL such as http://localhost:4318, not '127.0.0.1:4318'"),
        ("http://127.0.0.1:1", "no collector answers at http://127.0.0.1:1 "),
    ],
)
def test_no_collector_is_told_at_once(url, said):
    """A URL that is none, or where nobody listens, ends the demo with 2 before it begins."""
    done = subprocess.run(
        [sys.executable, "-m", "zddm_flags", "demo", "--otlp", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert done.stdout == ""
