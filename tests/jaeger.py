"""A Jaeger of this machine, if there is a program `jaeger`, and its query API as `tests.otlp` gives traces."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.otlp import Event, Link, Span, Tree

__all__ = ["PROGRAM", "Query", "running"]

PROGRAM = shutil.which("jaeger")
CONFIGURATION = Path(__file__).parents[1] / "examples" / "jaeger" / "jaeger.yaml"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[str, Query]]:
    """Start it with the configuration of examples/jaeger, on free ports; gives where spans go, and its queries."""
    assert PROGRAM is not None
    text = CONFIGURATION.read_text(encoding="utf-8")
    ports = {port: free_port() for port in ("16686", "16685", "4318")}
    for port, free in ports.items():
        text = text.replace(f"endpoint: 127.0.0.1:{port}", f"endpoint: 127.0.0.1:{free}")
    configuration, log = folder / "jaeger.yaml", folder / "jaeger.log"
    configuration.write_text(text, encoding="utf-8")
    query = Query(f"http://127.0.0.1:{ports['16686']}/api")
    with (
        log.open("wb") as output,
        subprocess.Popen([PROGRAM, "--config", configuration], stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            deadline = time.monotonic() + 30
            while not query.answers():
                said = log.read_text(encoding="utf-8", errors="replace")[-3000:]
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.1)
            yield f"http://127.0.0.1:{ports['4318']}", query
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Query:
    """The query API below `url`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers(self) -> bool:
        """Whether Jaeger is there."""
        try:
            self._get("services", {})
        except OSError:
            return False
        return True

    def search(
        self, service: str, operation: str | None = None, tags: Mapping[str, str] | None = None
    ) -> list[Tree]:
        """What Jaeger finds, the latest first: as `OtlpReceiver.search`."""
        asked = {"service": service, "limit": "20000", "tags": json.dumps(tags or {})}
        if operation is not None:
            asked["operation"] = operation
        trees = [tree for trace in self._get("traces", asked) for tree in trees_of(trace)]
        return sorted(trees, key=lambda tree: tree.span.start, reverse=True)

    def _get(self, path: str, asked: Mapping[str, str]) -> Any:
        with self._opener.open(f"{self._url}/{path}?{urllib.parse.urlencode(asked)}", timeout=20) as answer:
            return json.load(answer)["data"]


def trees_of(trace: Mapping[str, Any]) -> list[Tree]:
    """The tree of each root of one trace."""
    spans = sorted((span_of(each, trace["processes"]) for each in trace["spans"]), key=lambda span: span.start)
    known = {span.span_id for span in spans}

    def tree(span: Span) -> Tree:
        return Tree(span, tuple(tree(each) for each in spans if each.parent_id == span.span_id))

    return [tree(span) for span in spans if span.parent_id not in known]


def span_of(span: Mapping[str, Any], processes: Mapping[str, Any]) -> Span:
    """One span of Jaeger's JSON, whose times are microseconds."""
    trace_id = span["traceID"].zfill(32)
    links = [
        (each["refType"], Link(each["traceID"].zfill(32), each["spanID"].zfill(16), {}))
        for each in span["references"] or ()
    ]
    parents = [link for kind, link in links if kind == "CHILD_OF" and link.trace_id == trace_id]
    tags = tags_of(span["tags"])
    process = processes[span["processID"]]
    return Span(
        name=span["operationName"],
        kind=str(tags.get("span.kind", "unspecified")).upper(),
        trace_id=trace_id,
        span_id=span["spanID"].zfill(16),
        parent_id=parents[0].span_id if parents else None,
        status=str(tags.get("otel.status_code", "UNSET")),
        message="",
        attributes=tags,
        events=tuple(event_of(log) for log in span["logs"] or ()),
        links=tuple(link for _, link in links if link not in parents),
        resource={**tags_of(process["tags"]), "service.name": process["serviceName"]},
        scope=str(tags.get("otel.scope.name", "")),
        scope_version=str(tags.get("otel.scope.version", "")),
        start=span["startTime"] * 1000,
        end=(span["startTime"] + span["duration"]) * 1000,
    )


def event_of(log: Mapping[str, Any]) -> Event:
    """A span's event, whose name is the field `event`."""
    fields = tags_of(log["fields"])
    return Event(str(fields.pop("event", "")), fields, log["timestamp"] * 1000)


def tags_of(tags: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """The values of Jaeger's typed tags."""
    return {tag["key"]: tag["value"] for tag in tags or ()}
