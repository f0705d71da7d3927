"""docs/tracing.md does what it says: in what the demo and its own program send, each of its searches finds the answer.

Where a program `jaeger` is on the PATH, the same is asked of a real Jaeger.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.otlp import Event, Link, OtlpReceiver, Span, Tree
from zddm_flags import TrafficGate
from zddm_flags.paths import REASONS, reason_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tracing.md"
TEXT = re.sub(r"^   (?! )", "", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)  # steps are indented
PYTHON = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)
SEARCH = re.compile(
    r"^<!-- search: (?P<name>\w+) -->\n```text\nService +(?P<service>\S+)\nOperation +(?P<operation>\S+)\n"
    r"Tags +(?P<tags>[^\n]*)\n```\n(?:\n```console\n\$ (?P<curl>curl .*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
DRAWING = re.compile(r"^<!-- trace: (?P<find>[^\n]*) -->\n```text\n(?P<lines>.*?)^```\n", re.DOTALL | re.MULTILINE)
TAG = re.compile(r"(?P<name>[a-z_]+(?:\.[a-z_]+)+)=(?P<value>.*?)(?= +[a-z_]+(?:\.[a-z_]+)+=| {2}|$)")
DEMO = [sys.executable, "-m", "zddm_flags", "demo", "--seconds", "5", "--otlp"]
SECOND = 1_000_000_000

# What is run after the page's program: its last two blocks define what a test can ask.
AFTER = """
with provider.get_tracer("test").start_as_current_span("any"):
    assert set(add_trace(None, "info", {})) == {"trace_id", "span_id"}
taken = [sampler.should_sample(None, number << 64, "zddm.verify").decision for number in range(9)]
assert all(decision.is_sampled() for decision in taken)
assert not sampler.should_sample(None, 2**63, "zddm.read").decision.is_sampled()
"""


@dataclass(frozen=True)
class Search:
    """What the page says to put into Jaeger's form."""

    service: str
    operation: str | None
    tags: Mapping[str, str]
    curl: str | None


def searches() -> dict[str, Search]:
    found = {}
    for each in SEARCH.finditer(TEXT):
        operation = None if each["operation"] == "all" else each["operation"]
        tags = dict(tag.split("=", 1) for tag in shlex.split(each["tags"]))
        found[each["name"]] = Search(each["service"], operation, tags, each["curl"])
    return found


SEARCHES = searches()


class Sent:
    """What the page's program and one run of the demo sent, as a backend gives it."""

    def __init__(self, search: Callable[..., list[Tree]], printed: str) -> None:
        self.search = search
        self.printed = printed

    def found(self, name: str) -> list[Tree]:
        """What the page's search of this name finds, the latest first."""
        asked = SEARCHES[name]
        return self.search(asked.service, asked.operation, asked.tags)

    def spans(self, name: str) -> list[Span]:
        """The spans for which the traces were found, in the order in which they began."""
        asked = SEARCHES[name]
        spans = [span for tree in self.found(name) for span in tree if _has(span, asked.tags)]
        return sorted(spans, key=lambda span: span.start)


def _has(span: Span, tags: Mapping[str, str]) -> bool:
    holders = [span.attributes, *(event.attributes for event in span.events)]
    return all(value in [_text(holder.get(name)) for holder in holders] for name, value in tags.items())


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture(scope="module", params=["receiver", "jaeger"])
def sent(request, tmp_path_factory) -> Iterator[Sent]:
    """One run of the demo, and one of the page's program beside it."""
    folder = tmp_path_factory.mktemp("page")
    backend = _receiver() if request.param == "receiver" else _jaeger(folder)
    with backend as (url, search):
        yield Sent(search, _run(folder, url))


@contextlib.contextmanager
def _receiver():
    with OtlpReceiver() as receiver:
        yield receiver.url, receiver.search


def _run(folder: Path, url: str) -> str:
    """Run both; returns what the demo printed."""
    blocks = list(PYTHON.finditer(TEXT))
    program = folder / "program.py"
    program.write_text("".join(block["code"] for block in blocks) + AFTER, encoding="utf-8")
    environment = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "PYTHONPATH": os.pathsep.join(str(ROOT / each) for each in (".", "adapters", "telemetry")),
        "no_proxy": "127.0.0.1",
    }
    pipes: Mapping[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*DEMO, url], env=environment, **pipes) as demo:
        try:
            own = subprocess.run(
                [sys.executable, program], cwd=folder, env=environment, **pipes, timeout=60, check=False
            )
            printed, errors = demo.communicate(timeout=60)
        finally:
            demo.kill()
    shown = "".join(block["output"] or "" for block in blocks)
    assert own.returncode == 0, own.stderr
    assert [line for line in own.stdout.splitlines() if "opened_wider" not in line] == shown.splitlines()
    assert (demo.returncode, errors) == (0, ""), printed + errors
    return printed


# -- Jaeger itself ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _jaeger(folder: Path):
    """A Jaeger of the page's configuration, on free ports, with its traces in memory."""
    program = shutil.which("jaeger")
    if program is None:
        pytest.skip("there is no program `jaeger` on the PATH")
    text = (ROOT / "examples" / "jaeger" / "jaeger.yaml").read_text(encoding="utf-8")
    ports = {port: _free_port() for port in ("16686", "16685", "4318")}
    for port, free in ports.items():
        text = text.replace(f"endpoint: 127.0.0.1:{port}", f"endpoint: 127.0.0.1:{free}")
    configuration = folder / "jaeger.yaml"
    configuration.write_text(text, encoding="utf-8")
    query = f"http://127.0.0.1:{ports['16686']}/api"
    log = folder / "jaeger.log"
    with (
        log.open("wb") as output,
        subprocess.Popen([program, "--config", configuration], stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            deadline = time.monotonic() + 30
            while not _answers(f"{query}/services"):
                assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")[-3000:]
                assert time.monotonic() < deadline, log.read_text(encoding="utf-8", errors="replace")[-3000:]
                time.sleep(0.1)
            yield f"http://127.0.0.1:{ports['4318']}", _Query(query).search
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _answers(url: str) -> bool:
    try:
        _fetched(url)
    except OSError:
        return False
    return True


def _fetched(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as answer:
        return json.load(answer)


class _Query:
    """Jaeger's query API, which gives what tests/otlp.py gives."""

    def __init__(self, url: str) -> None:
        self._url = url

    def search(
        self, service: str, operation: str | None = None, tags: Mapping[str, str] | None = None
    ) -> list[Tree]:
        asked = {"service": service, "limit": "20000", "tags": json.dumps(tags or {})}
        if operation is not None:
            asked["operation"] = operation
        found = _fetched(f"{self._url}/traces?{urllib.parse.urlencode(asked)}")["data"]
        return sorted(map(_tree, found), key=lambda tree: tree.span.start, reverse=True)


def _tree(trace: Mapping[str, Any]) -> Tree:
    spans = [_span(each, trace["processes"]) for each in trace["spans"]]
    known = {span.span_id for span in spans}
    root = min((span for span in spans if span.parent_id not in known), key=lambda span: span.start)

    def below(span: Span) -> Tree:
        children = sorted((each for each in spans if each.parent_id == span.span_id), key=lambda each: each.start)
        return Tree(span, tuple(map(below, children)))

    return below(root)


def _span(span: Mapping[str, Any], processes: Mapping[str, Any]) -> Span:
    tags = _tags(span["tags"])
    references = [
        (each["refType"], Link(each["traceID"].zfill(32), each["spanID"].zfill(16), {}))
        for each in span["references"]
    ]
    trace_id = span["traceID"].zfill(32)
    parents = [link for kind, link in references if kind == "CHILD_OF" and link.trace_id == trace_id]
    events = []
    for log in span["logs"]:
        fields = _tags(log["fields"])
        events.append(Event(str(fields.pop("event", "")), fields, log["timestamp"] * 1000))
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
        events=tuple(events),
        links=tuple(link for _, link in references if link not in parents),
        resource={**_tags(process["tags"]), "service.name": process["serviceName"]},
        scope=str(tags.get("otel.scope.name", "")),
        scope_version=str(tags.get("otel.scope.version", "")),
        start=span["startTime"] * 1000,
        end=(span["startTime"] + span["duration"]) * 1000,
    )


def _tags(tags: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in tags}


# -- the three questions ---------------------------------------------------------------------------------------


def evaluations(sent: Sent) -> list[Event]:
    """Each change of the demo's rate, as traces tell of it."""
    events = [
        event
        for tree in sent.search("zddm-demo", None, {"feature_flag.provider.name": "launchdarkly"})
        for span in tree
        for event in span.events
        if event.name == "feature_flag.evaluation"
    ]
    return sorted(events, key=lambda event: event.time)


def test_which_reads_still_hit_old(sent):
    """The search finds reads that the gate let pass, and each says why New did not serve it, as the page's table."""
    reads = sent.spans("old")
    assert {span.name for span in reads} == {"zddm.read"}
    told = {(span.attributes["zddm.path"], span.attributes["zddm.reason"]) for span in reads}
    assert {"copied", "miss"} <= {path for path, _ in told}
    assert told <= set(reasons())


def test_why_a_key_is_not_served_by_new(sent):
    """The search finds reads of the one key; those from before the rate took it in say that the gate was closed."""
    reads = sent.spans("key")
    [key_hash] = {span.attributes["zddm.key.hash"] for span in reads}
    assert key_hash == SEARCHES["key"].tags["zddm.key.hash"]
    closed = [span for span in reads if span.attributes["zddm.reason"] == REASONS["read", "old"]]
    assert all(not span.attributes["zddm.gate.passed"] for span in closed)
    taken_in = evaluations(sent)[-1].time
    assert reads[0] in closed
    assert not [span for span in closed if span.start > taken_in]
    assert REASONS["read", "old"] in TEXT.replace("\n", " ")


def test_what_the_kill_changed(sent):
    """The search finds the one kill; reads are served by New before it, by none after it, and again from the resume."""
    [killed] = sent.spans("kill")
    [event] = [event for event in killed.events if event.name == "feature_flag.evaluation"]
    assert event.attributes == evaluation()
    changes = [each.time for each in evaluations(sent)]
    assert len(changes) == 7  # each phase of the demo
    resumed = changes[changes.index(event.time) + 1]
    served = [span.start for span in sent.spans("new")]
    assert any(start < event.time for start in served)
    assert not [start for start in served if event.time <= start < resumed - SECOND / 10]
    assert any(start > resumed for start in served)


def test_the_copied_reads(sent):
    """The first search of the page finds reads that were copied."""
    assert {span.attributes["zddm.served_by"] for span in sent.spans("copied")} == {"old"}


def test_one_trace_for_each_run_of_a_job(sent):
    """The demo's backfills are two traces, the second of which goes on with the run; the first ten pages have spans."""
    [finished] = sent.found("backfill")
    [stopped] = sent.search("zddm-demo", "zddm.backfill", {"zddm.job.state": "stopped"})
    for tree in (stopped, finished):
        assert tree.span.attributes["zddm.job.pages_traced"] == len(tree.find("zddm.backfill.page")) >= 10
    assert stopped.span.attributes["zddm.job.run"] == finished.span.attributes["zddm.job.run"]
    assert finished.span.attributes["zddm.job.resumed"] is True
    assert sent.search("zddm-demo", "zddm.verify", {"zddm.job.state": "finished"})


def test_a_background_copy_leads_to_the_read_that_caused_it(sent):
    """The copy of the page's program has a link to the read below the request."""
    [copy] = sent.search("users-service", "zddm.copy_many")
    [link] = copy.span.links
    [request] = sent.search("users-service", "GET /users/{id}")
    [read] = request.find("zddm.read")
    assert (link.trace_id, link.span_id) == (read.span.trace_id, read.span.span_id)
    assert read.span.attributes["zddm.path"] == "miss"


@pytest.mark.parametrize("number", range(TEXT.count("<!-- trace:")))
def test_the_drawings_are_traces(sent, number):
    """Each drawing has the spans of a trace that was sent, in their order, with attributes that they have."""
    drawing = list(DRAWING.finditer(TEXT))[number]
    find = dict(each.split("=", 1) for each in drawing["find"].split())
    service = find.pop("service")
    drawn, whole = parsed(drawing["lines"])
    assert len(drawn) > 3
    tags = find or {"zddm.path": "copied"}
    traces = sent.search(service, drawn[0][1], tags)
    shapes = [shape for tree in traces for shape in shapes_of(tree, drawn[0][1])]
    assert any(fits(drawn, shape, whole, exact=service != "zddm-demo") for shape in shapes), drawing["lines"]


def parsed(lines: str) -> tuple[list[tuple[int, str, dict[str, str]]], bool]:
    """Depth, name and attributes of each span of a drawing, and whether there is no more of the trace."""
    drawn: list[tuple[int, str, dict[str, str]]] = []
    for line in lines.splitlines():
        if line == "...":
            return drawn, False
        found = re.match(r"(?P<tree>[├└│─ ]*)(?P<name>[a-z]\S*(?: [a-z]+)?)(?= {2}|$)", line)
        tags = {tag["name"]: tag["value"].strip() for tag in TAG.finditer(line.partition("link →")[0])}
        if found is not None and found["name"] not in ("begins",) and not line.startswith(" "):
            drawn.append((len(found["tree"]) // 3, found["name"], tags))
        elif drawn:
            drawn[-1][2].update(tags)
    return drawn, True


def shapes_of(tree: Tree, name: str) -> Iterator[list[tuple[int, Span]]]:
    for top in tree.find(name):

        def walk(each: Tree, depth: int) -> Iterator[tuple[int, Span]]:
            yield depth, each.span
            for child in each.children:
                yield from walk(child, depth + 1)

        yield list(walk(top, 0))


def fits(
    drawn: list[tuple[int, str, dict[str, str]]], shape: list[tuple[int, Span]], whole: bool, *, exact: bool
) -> bool:
    """Whether the drawing shows this. Numbers of the demo differ from run to run: there they need only be there."""
    if len(shape) < len(drawn) or (whole and len(shape) != len(drawn)):
        return False
    for (depth, name, tags), (real_depth, span) in zip(drawn, shape, strict=False):
        if (depth, name) != (real_depth, span.name):
            return False
        for tag, value in tags.items():
            real = span.attributes.get(tag)
            counts = type(real) is int and value.isdigit() and not exact
            if real is None or not (counts or _text(real) == value):
                return False
    return True


# -- the page's words ------------------------------------------------------------------------------------------


def reasons() -> list[tuple[str, str]]:
    """The page's table of paths and reasons."""
    return re.findall(r"^\| `(\w+)` \| ([^|`]+) \| .* \|$", TEXT, re.MULTILINE)


def evaluation() -> dict[str, str]:
    """The page's table of what the event says after the kill."""
    return dict(re.findall(r"^\| `(feature_flag\.[\w.]+)` \| `([^`]+)` \|$", TEXT, re.MULTILINE))


def test_every_reason_is_in_the_table():
    """The table has the reason of each read that passes the gate and that New does not serve, and no other."""
    paths = {path for operation, path in REASONS if operation == "read"} - {"old", "new_hit", "old_failed"}
    told = {(path, reason_of("read", path, True, dirty)) for path in paths for dirty in (False, True)}
    assert sorted(reasons()) == sorted(told)


def test_the_commands_ask_what_the_forms_ask():
    """Each curl command on the page has the service, the operation and the tags of the form above it."""
    asked = {name: search for name, search in SEARCHES.items() if search.curl is not None}
    assert set(asked) == {"old", "key", "kill", "new"}
    assert TEXT.count("$ curl ") == len(asked)
    for search in asked.values():
        words = shlex.split((search.curl or "").replace("\\\n", ""))
        assert words[:3] == ["curl", "-sG", "http://127.0.0.1:16686/api/traces"]
        data = dict(word.split("=", 1) for word in words[4::2])
        assert set(words[3::2]) == {"--data-urlencode"}
        tags = json.loads(data.pop("tags"))
        assert tags == search.tags
        wanted = {"service": search.service, "operation": search.operation}
        assert data == {name: value for name, value in wanted.items() if value is not None}


def test_the_demo_says_where_to_look(sent):
    """What the demo prints at its end is what the page shows, but for the numbers; its key is the page's."""
    end = re.search(r"```text\n(Traces: .*?)```", TEXT, re.DOTALL)
    assert end is not None
    shown = end[1].splitlines()
    printed = sent.printed.splitlines()
    first = next(number for number, line in enumerate(printed) if line.startswith("Traces: "))
    assert re.sub(r"http:\S+|[\d,]+(?= spans)", "N", printed[first]) == re.sub(
        r"http:\S+|[\d,]+(?= spans)", "N", shown[0]
    )
    assert printed[first + 1 : first + 4] == [*shown[1:], ""]
    assert "could not be sent" not in sent.printed


def test_the_hash_on_the_page_is_the_keys():
    """The page's search for a key has the hash of the airport that it names."""
    assert f"{TrafficGate().locate('0LL5')[0]:016x}" == SEARCHES["key"].tags["zddm.key.hash"]


def test_jaeger_is_reached_from_this_machine_alone():
    """Every port of the two ways to start Jaeger is one of 127.0.0.1, and the version of the image is pinned."""
    folder = ROOT / "examples" / "jaeger"
    compose = (folder / "compose.yaml").read_text(encoding="utf-8")
    published = re.findall(r'^ +- "(.*?)"', compose, re.MULTILINE)
    assert published == ["127.0.0.1:16686:16686", "127.0.0.1:4318:4318"]
    assert re.search(r"image: jaegertracing/jaeger:2\.\d+\.\d+$", compose, re.MULTILINE)
    plain = (folder / "jaeger.yaml").read_text(encoding="utf-8")
    endpoints = re.findall(r"endpoint: (\S+)", plain)
    assert len(endpoints) == 3
    assert all(each.startswith("127.0.0.1:") for each in endpoints)
    assert "level: none" in plain  # else a port for Jaeger's own metrics
