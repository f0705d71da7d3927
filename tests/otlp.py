"""A receiver of OpenTelemetry traces, as a collector or Jaeger has it: OTLP over HTTP, on 127.0.0.1.

It keeps every span that an exporter sends it, and gives them as plain objects, as trees, and by a search like
Jaeger's. ::

    with OtlpReceiver() as receiver:
        exporter = OTLPSpanExporter(receiver.endpoint)
        ...
        receiver.wait_for_spans(3)
        [trace] = receiver.search("shop", "zddm.read", {"zddm.path": "copied"})
        print(trace.text())

Another process is told of it by `OTEL_EXPORTER_OTLP_ENDPOINT=<receiver.url>`.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

__all__ = ["Event", "Link", "OtlpReceiver", "Span", "Tree", "spans_of"]

PATH = "/v1/traces"
CONTENT_TYPE = "application/x-protobuf"
ENCODINGS: Mapping[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}
KINDS = {number: name.removeprefix("SPAN_KIND_") for name, number in trace_pb2.Span.SpanKind.items()}
STATUSES = {number: name.removeprefix("STATUS_CODE_") for name, number in trace_pb2.Status.StatusCode.items()}

Attributes = Mapping[str, Any]
"""By name. A value is of the Python type that OTLP's says: bool, int, float, str, bytes, tuple or dict.

1, 1.0 and True are equal in Python: compare the types beside the values."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happened in a span. `time` is in nanoseconds since 1970."""

    name: str
    attributes: Attributes
    time: int


@dataclass(frozen=True, slots=True)
class Link:
    """A span that led to this one, maybe of another trace. Its ids are hexadecimal."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """One span, as it was sent.

    Attributes:
        name: its name, which Jaeger calls the operation.
        kind: INTERNAL, CLIENT, SERVER, PRODUCER, CONSUMER or UNSPECIFIED.
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        parent_id: the parent's `span_id`; None for a root.
        status: UNSET, OK or ERROR.
        message: the text of the status, "" if there is none.
        attributes: the span's own.
        events: what happened, in order.
        links: the spans that led to it, in order.
        resource: attributes of the process; `service.name` is one.
        scope: name of the library that made the span.
        scope_version: its version, "" if it gave none.
        start: nanoseconds since 1970.
        end: the same.
    """

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str | None
    status: str
    message: str
    attributes: Attributes
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    resource: Attributes
    scope: str
    scope_version: str
    start: int
    end: int

    @property
    def service(self) -> str:
        """`service.name` of the process, "" if it gave none."""
        return str(self.resource.get("service.name", ""))


@dataclass(frozen=True, slots=True)
class Tree:
    """A span, and the trees of its children in the order in which they began."""

    span: Span
    children: tuple[Tree, ...] = field(repr=False)

    def __iter__(self) -> Iterator[Span]:
        """Every span of it, each before its children."""
        yield self.span
        for child in self.children:
            yield from child

    def find(self, name: str) -> list[Tree]:
        """The trees of all spans in it that have this name."""
        found = [self] if self.span.name == name else []
        return found + [each for child in self.children for each in child.find(name)]

    def names(self) -> tuple[str, Any]:
        """The span's name, and the names below it: `("zddm.read", [("read users", [])])`."""
        return self.span.name, [child.names() for child in self.children]

    def text(self, indent: str = "") -> str:
        """A line for each span, for a human: name, kind, status, attributes."""
        span = self.span
        attributes = " ".join(f"{name}={_text(value)}" for name, value in sorted(span.attributes.items()))
        happened = "".join(f"\n{indent}  ! {event.name}" for event in span.events)
        lines = [f"{indent}{span.name} [{span.kind} {span.status}] {attributes}{happened}"]
        return "\n".join([*lines, *(child.text(f"{indent}  ") for child in self.children)])


class OtlpReceiver:
    """Receives traces on a free port of 127.0.0.1 while its context is entered. Thread-safe.

    Waiting ends as soon as what is waited for arrives, or fails with an AssertionError at the deadline.
    """

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._changed = threading.Condition()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="otlp-receiver")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def endpoint(self) -> str:
        """For `OTLPSpanExporter(endpoint=...)`."""
        return self.url + PATH

    @property
    def spans(self) -> Sequence[Span]:
        """All spans so far, in the order in which they arrived."""
        with self._changed:
            return tuple(self._spans)

    def add(self, spans: Iterable[Span]) -> None:
        """Keep more spans."""
        with self._changed:
            self._spans.extend(spans)
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget all spans."""
        with self._changed:
            self._spans.clear()

    def wait(self, condition: Callable[[Sequence[Span]], bool], seconds: float = 10.0) -> Sequence[Span]:
        """All spans, as soon as they fulfil `condition`; it is asked whenever some arrived."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not condition(tuple(self._spans)):
                left = deadline - time.monotonic()
                names = sorted({span.name for span in self._spans})
                assert left > 0, f"not within {seconds} s; {len(self._spans)} spans came: {names}"
                self._changed.wait(left)
            return tuple(self._spans)

    def wait_for_spans(self, count: int = 1, name: str | None = None, seconds: float = 10.0) -> Sequence[Span]:
        """All spans, as soon as there are `count`, or as many of this name."""
        return self.wait(lambda spans: sum(name is None or span.name == name for span in spans) >= count, seconds)

    def traces(self) -> list[Tree]:
        """The tree of every root, in the order in which they began.

        A span whose parent was not sent, or not yet, is a root too: it is so in Jaeger.
        """
        return _trees(self.spans)

    def services(self) -> list[str]:
        """The names of the services that sent spans, in alphabetical order."""
        return sorted({span.service for span in self.spans})

    def operations(self, service: str) -> list[str]:
        """The names of a service's spans, in alphabetical order."""
        return sorted({span.name for span in self.spans if span.service == service})

    def search(
        self, service: str, operation: str | None = None, tags: Mapping[str, str] | None = None
    ) -> list[Tree]:
        """What Jaeger's search finds, the latest first: traces in which one span fulfils all that is asked.

        Args:
            service: `service.name` of the span's process.
            operation: the span's name; None: all.
            tags: names and texts. All must be of that one span: attributes of its own, of one of its events, of
                its process, and what Jaeger derives (`error`, `span.kind`, `otel.status_code`, `otel.scope.name`).
                They are compared as text, in which 1.0 is "1" and True is "true".
        """
        spans = self.spans
        found = {
            span.trace_id
            for span in spans
            if span.service == service
            and operation in (None, span.name)
            and all(text in _tag(span, name) for name, text in (tags or {}).items())
        }
        trees = _trees([span for span in spans if span.trace_id in found])
        return sorted(trees, key=lambda tree: tree.span.start, reverse=True)


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """The spans of one request of an exporter."""
    for sent in request.resource_spans:
        resource = _attributes(sent.resource.attributes)
        for scoped in sent.scope_spans:
            for span in scoped.spans:
                yield Span(
                    name=span.name,
                    kind=KINDS[span.kind],
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex() or None,
                    status=STATUSES[span.status.code],
                    message=span.status.message,
                    attributes=_attributes(span.attributes),
                    events=tuple(
                        Event(event.name, _attributes(event.attributes), event.time_unix_nano)
                        for event in span.events
                    ),
                    links=tuple(
                        Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes))
                        for link in span.links
                    ),
                    resource=resource,
                    scope=scoped.scope.name,
                    scope_version=scoped.scope.version,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return tuple(_value(each) for each in value.array_value.values)
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)


def _trees(spans: Sequence[Span]) -> list[Tree]:
    known = {(span.trace_id, span.span_id) for span in spans}
    below: dict[tuple[str, str] | None, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        parent = None if span.parent_id is None else (span.trace_id, span.parent_id)
        below.setdefault(parent if parent in known else None, []).append(span)

    def tree(span: Span) -> Tree:
        return Tree(span, tuple(map(tree, below.get((span.trace_id, span.span_id), []))))

    return [tree(span) for span in below.get(None, [])]


def _tag(span: Span, name: str) -> set[str]:
    """The texts that Jaeger finds under the name of a tag."""
    derived = {
        "span.kind": span.kind.lower(),
        "otel.scope.name": span.scope,
        "otel.scope.version": span.scope_version,
        **({"otel.status_code": span.status} if span.status != "UNSET" else {}),
        **({"error": "true"} if span.status == "ERROR" else {}),
    }
    holders: list[Attributes] = [
        derived,
        span.attributes,
        span.resource,
        *(event.attributes for event in span.events),
        *({"event": event.name} for event in span.events),
    ]
    return {_text(holder[name]) for holder in holders if name in holder}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.10g}"
    return json.dumps(value, separators=(",", ":"), default=repr)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, receiver: OtlpReceiver) -> None:
        self.receiver = receiver
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for this address's name, which can take seconds.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    timeout = 30

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path != PATH:
            self._answer(404, b"only " + PATH.encode())
        elif self.headers.get("Content-Type") != CONTENT_TYPE:
            self._answer(415, b"only " + CONTENT_TYPE.encode())
        else:
            self._receive(body)

    def _receive(self, body: bytes) -> None:
        request = ExportTraceServiceRequest()
        try:
            request.ParseFromString(ENCODINGS[self.headers.get("Content-Encoding", "identity")](body))
        except (DecodeError, KeyError, OSError, EOFError, zlib.error) as error:
            self._answer(400, type(error).__name__.encode())
            return
        assert isinstance(self.server, _Server)
        self.server.receiver.add(spans_of(request))
        self._answer(200, ExportTraceServiceResponse().SerializeToString(), CONTENT_TYPE)

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Be quiet."""
