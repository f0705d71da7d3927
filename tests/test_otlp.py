"""The receiver of traces gives back what the real exporter was given, and finds traces as Jaeger's search does."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, Tracer

from tests.otlp import OtlpReceiver, Span


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as found:
        yield found


@pytest.fixture
def provider(receiver: OtlpReceiver) -> Iterator[TracerProvider]:
    """Exports to the receiver, as the service `shop`."""
    found = TracerProvider(resource=Resource({"service.name": "shop", "host.name": "a"}))
    found.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(receiver.endpoint)))
    yield found
    found.shutdown()


@pytest.fixture
def tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("library", "1.2")


def one(receiver: OtlpReceiver, provider: TracerProvider) -> Span:
    assert provider.force_flush()
    [span] = receiver.spans
    return span


@pytest.mark.parametrize("compression", Compression)
def test_a_span_is_kept_as_it_was(receiver: OtlpReceiver, compression: Compression) -> None:
    """All that a span has arrives, compressed or not."""
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    exporter = OTLPSpanExporter(receiver.endpoint, compression=compression)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    link = Link(SpanContext(0xAB, 0xCD, is_remote=False), {"why": "asked"})
    span = provider.get_tracer("library", "1.2").start_span(
        "read users", kind=SpanKind.CLIENT, attributes={"size": 2}, links=[link], start_time=1_000
    )
    span.add_event("failed", {"again": True}, timestamp=1_500)
    span.set_status(Status(StatusCode.ERROR, "broken"))
    span.end(2_000)
    provider.shutdown()
    [found] = receiver.spans
    context = span.get_span_context()
    assert (found.trace_id, found.span_id) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert (found.name, found.kind, found.parent_id) == ("read users", "CLIENT", None)
    assert (found.status, found.message) == ("ERROR", "broken")
    assert (found.attributes, found.resource, found.service) == ({"size": 2}, {"service.name": "shop"}, "shop")
    assert (found.scope, found.scope_version) == ("library", "1.2")
    assert (found.start, found.end) == (1_000, 2_000)
    [event] = found.events
    assert (event.name, event.attributes, event.time) == ("failed", {"again": True}, 1_500)
    [led] = found.links
    assert (led.trace_id, led.span_id, led.attributes) == ("0" * 30 + "ab", "0" * 14 + "cd", {"why": "asked"})


def test_values_keep_their_types(receiver: OtlpReceiver, provider: TracerProvider, tracer: Tracer) -> None:
    """1, 1.0, True and "1" stay what they are, in sequences too."""
    values = {"int": 1, "float": 1.0, "bool": True, "str": "1", "many": (1, 2), "none": (), "texts": ("a",)}
    tracer.start_span("any", attributes=values).end()
    found = one(receiver, provider).attributes
    assert {name: (type(value), value) for name, value in found.items()} == {
        name: (type(value), value) for name, value in values.items()
    }


def test_trees(receiver: OtlpReceiver, provider: TracerProvider, tracer: Tracer) -> None:
    """Roots and children are in the order in which they began, though the last one ended first."""
    with tracer.start_as_current_span("first"):
        slow = tracer.start_span("slow")
        with tracer.start_as_current_span("quick"), tracer.start_as_current_span("quicker"):
            pass
        slow.end()
    tracer.start_span("second").end()
    assert provider.force_flush()
    trees = receiver.traces()
    assert [tree.names() for tree in trees] == [
        ("first", [("slow", []), ("quick", [("quicker", [])])]),
        ("second", []),
    ]
    assert [span.name for span in trees[0]] == ["first", "slow", "quick", "quicker"]
    assert [tree.names() for tree in trees[0].find("quick")] == [("quick", [("quicker", [])])]
    assert trees[0].text().splitlines()[3] == "    quicker [INTERNAL UNSET] "


def test_a_span_of_a_parent_elsewhere_is_a_root(
    receiver: OtlpReceiver, provider: TracerProvider, tracer: Tracer
) -> None:
    """A span keeps the id of a parent that never came, and its tree is not lost."""
    context = SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1))
    remote = trace.set_span_in_context(trace.NonRecordingSpan(context))
    with tracer.start_as_current_span("served", context=remote):
        tracer.start_span("inner").end()
    assert provider.force_flush()
    [tree] = receiver.traces()
    assert (tree.names(), tree.span.parent_id) == (("served", [("inner", [])]), "0" * 15 + "2")


def test_search(receiver: OtlpReceiver, provider: TracerProvider, tracer: Tracer) -> None:
    """A trace is found by one span that is of the service and the operation and has all the tags, as text."""
    attributes = {"path": "copied", "rate": 1.0, "share": 0.25, "passed": True, "size": 3}
    with tracer.start_as_current_span("read", attributes=attributes) as span:
        span.add_event("opened", {"to": 0.5})
        with tracer.start_as_current_span("write", kind=SpanKind.CLIENT, attributes={"store": "new"}) as inner:
            inner.set_status(StatusCode.ERROR)
    with tracer.start_as_current_span("read", attributes={"path": "miss"}):
        pass
    assert provider.force_flush()

    def found(operation: str | None = None, service: str = "shop", **tags: str) -> list[str]:
        trees = receiver.search(service, operation, {name.replace("_", "."): text for name, text in tags.items()})
        return [str(tree.span.attributes["path"]) for tree in trees]

    assert found() == found("read") == ["miss", "copied"], "the latest first"
    assert found("write") == ["copied"], "the whole trace"
    assert found("read", rate="1", share="0.25", passed="true", size="3") == ["copied"]
    assert found("read", to="0.5", event="opened", host_name="a", otel_scope_name="library") == ["copied"]
    assert found(error="true") == found("write", span_kind="client", store="new") == ["copied"]
    assert found("read", error="true") == [], "it is the other span that failed"
    assert found(path="copied", store="new") == [], "no one span has both"
    assert found(path="copied", rate="1.0") == found(passed="True") == found(path="cop") == []
    assert found(service="other") == found("delete") == []
    assert (receiver.services(), receiver.operations("shop")) == (["shop"], ["read", "write"])


def test_waiting(receiver: OtlpReceiver, provider: TracerProvider, tracer: Tracer) -> None:
    """A waiter is woken by what it waits for; what never comes fails at the deadline, and says what came."""
    seen: list[int] = []
    waiter = threading.Thread(target=lambda: seen.append(len(receiver.wait_for_spans(2, "b"))))
    waiter.start()
    for name in ("a", "b", "b"):
        tracer.start_span(name).end()
        assert provider.force_flush()
    waiter.join(10)
    assert seen == [3]
    started = time.monotonic()
    with pytest.raises(AssertionError, match=r"3 spans came: \['a', 'b'\]"):
        receiver.wait_for_spans(4, seconds=0.05)
    assert time.monotonic() - started < 5
    receiver.clear()
    assert receiver.spans == ()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/metrics", {"Content-Type": "application/x-protobuf"}, 404),
        ("/v1/traces", {"Content-Type": "application/json"}, 415),
        ("/v1/traces", {"Content-Type": "application/x-protobuf"}, 400),
        ("/v1/traces", {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}, 400),
        ("/v1/traces", {"Content-Type": "application/x-protobuf", "Content-Encoding": "br"}, 400),
    ],
)
def test_anything_else_is_refused(receiver: OtlpReceiver, path: str, headers: dict[str, str], status: int) -> None:
    """Another path, another format and what cannot be read are refused, and nothing is kept."""
    request = urllib.request.Request(receiver.url + path, b"\xff\xff", headers)  # noqa: S310 - it is ours
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)  # noqa: S310 - it is ours
    caught.value.close()
    assert (caught.value.code, receiver.spans) == (status, ())
