"""docs/tracing.md does what it says: its searches are answered by what the demo and the page's program send.

Where a program `jaeger` is on the PATH, the same is asked of a real Jaeger.
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import jaeger
from tests.otlp import Event, OtlpReceiver, Span, Tree
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

    def __init__(self, search: Callable[..., list[Tree]], printed: str, logged: str) -> None:
        self.search = search
        self.printed = printed  # by the demo
        self.logged = logged  # by the page's program

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
    with contextlib.ExitStack() as stack:
        if request.param == "receiver":
            backend = stack.enter_context(OtlpReceiver())
            url = backend.url
        elif jaeger.PROGRAM is None:
            pytest.skip("there is no program `jaeger` on the PATH")
        else:
            url, backend = stack.enter_context(jaeger.running(folder))
        yield Sent(backend.search, *_run(folder, url))


def _run(folder: Path, url: str) -> tuple[str, str]:
    """Run both; returns what the demo printed, and what the program did."""
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
            printed, errors = demo.communicate(timeout=100)
        finally:
            demo.kill()
    shown = "".join(block["output"] or "" for block in blocks)
    assert own.returncode == 0, own.stderr
    assert [line for line in own.stdout.splitlines() if "opened_wider" not in line] == shown.splitlines()
    assert (demo.returncode, errors) == (0, ""), printed + errors
    return printed, own.stdout


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
    """The search finds reads that the gate let pass, each with a reason of the table why New did not serve it."""
    reads = sent.spans("old")
    assert {span.name for span in reads} == {"zddm.read"}
    told = {(span.attributes["zddm.path"], span.attributes["zddm.reason"]) for span in reads}
    assert {"copied", "miss"} <= {path for path, _ in told}
    assert told <= set(reasons())


def test_why_a_key_is_not_served_by_new(sent):
    """The search finds reads of one key; those from before the rate took it in say that the gate was closed."""
    reads = sent.spans("key")
    [key_hash] = {span.attributes["zddm.key.hash"] for span in reads}
    assert key_hash == SEARCHES["key"].tags["zddm.key.hash"]
    closed = [span for span in reads if span.attributes["zddm.reason"] == REASONS["read", "old"]]
    assert all(not span.attributes["zddm.gate.passed"] for span in closed)
    taken_in = evaluations(sent)[-1].time
    assert reads[0] in closed
    assert not [span for span in closed if span.start > taken_in]


def test_what_the_kill_changed(sent):
    """The search finds the one kill; New serves reads before it, none after it, and again from the resume on."""
    [killed] = sent.spans("kill")
    [event] = [event for event in killed.events if event.name == "feature_flag.evaluation"]
    assert event.attributes == evaluation()
    changes = [each.time for each in evaluations(sent)]
    assert 5 <= len(changes) <= 7  # the demo's phases; on a slow machine a short one may have no trace
    resumed = changes[changes.index(event.time) + 1]
    served = [span.start for span in sent.spans("new")]
    assert any(start < event.time for start in served)
    assert not [start for start in served if event.time <= start < resumed - SECOND / 10]
    assert any(start > resumed for start in served)


def test_the_copied_reads(sent):
    """The first search of the page finds reads that were copied."""
    assert {span.attributes["zddm.served_by"] for span in sent.spans("copied")} == {"old"}


def test_one_trace_for_each_run_of_a_job(sent):
    """The demo's backfill is two traces, for the second goes on with its run; the first ten pages have spans."""
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


def test_the_trace_of_a_log_event_is_found_by_its_id(sent):
    """The log event of the page's program has the ids of the span that it stands on as an event."""
    logged = re.search(r"opened_wider .*?span_id=(\w{16}) trace_id=(\w{32})", sent.logged)
    assert logged is not None
    [written] = [tree.span for tree in sent.search("users-service", "zddm.write")]
    assert (written.span_id, written.trace_id) == logged.groups()
    assert "opened_wider" in [event.name for event in written.events]


@pytest.mark.parametrize("number", range(TEXT.count("<!-- trace:")))
def test_the_drawings_are_traces(sent, number):
    """Each drawing has the spans of a trace that was sent, in their order, with attributes that they have."""
    drawing = list(DRAWING.finditer(TEXT))[number]
    tags = dict(each.split("=", 1) for each in drawing["find"].split())
    service = tags.pop("service")
    drawn = lines_of(drawing["lines"])
    assert len(drawn) > 3
    top = drawn[0].name
    traces = sent.search(service, top, tags)
    alike = partial(shows, exact=service != "zddm-demo")
    fits = within if "..." in drawing["lines"] else whole
    reals = [list(lines_of_trace(tree)) for trace in traces for tree in trace.find(top)]
    assert any(fits(drawn, real, alike) for real in reals), drawing["lines"]


@dataclass(frozen=True)
class Line:
    """A span of a drawing, or of a trace: how deep it stands, its name, and its attributes as texts."""

    depth: int
    name: str
    tags: Mapping[str, str]


def lines_of(drawing: str) -> list[Line]:
    """The spans of a drawing, up to its `...`."""
    drawn: list[Line] = []
    for text in drawing.partition("...")[0].splitlines():
        tags = {tag["name"]: tag["value"].strip() for tag in TAG.finditer(text.partition("link →")[0])}
        found = re.match(r"(?P<tree>[├└│─ ]*)(?P<name>[a-z]\S*(?: [a-z]+)?)(?= {2}|$)", text)
        if not text.startswith(" "):
            assert found is not None, text
            drawn.append(Line(len(found["tree"]) // 3, found["name"], tags))
        elif drawn:  # more attributes; above the first span stands a heading
            drawn[-1] = replace(drawn[-1], tags={**drawn[-1].tags, **tags})
    return drawn


def lines_of_trace(tree: Tree, depth: int = 0) -> Iterator[Line]:
    yield Line(depth, tree.span.name, {name: _text(value) for name, value in tree.span.attributes.items()})
    for child in tree.children:
        yield from lines_of_trace(child, depth + 1)


def shows(drawn: Line, real: Line, *, exact: bool) -> bool:
    """Whether the drawing may stand for it. Unless `exact`, numbers need only be numbers."""
    alike = (drawn.depth, drawn.name) == (real.depth, real.name)
    return alike and all(
        real.tags.get(name) == value or (not exact and value.isdigit() and real.tags.get(name, "").isdigit())
        for name, value in drawn.tags.items()
    )


def whole(drawn: list[Line], real: list[Line], alike: Callable[[Line, Line], bool]) -> bool:
    """Whether the drawing is the trace."""
    return len(drawn) == len(real) and all(map(alike, drawn, real))


def within(drawn: list[Line], real: list[Line], alike: Callable[[Line, Line], bool]) -> bool:
    """Whether the drawing leaves something out of the trace, and nothing else."""
    left = iter(real)
    return all(any(alike(line, each) for each in left) for line in drawn)


# -- the page's words ------------------------------------------------------------------------------------------


def reasons() -> list[tuple[str, str]]:
    """The page's table of paths and reasons."""
    return re.findall(r"^\| `(\w+)` \| ([^|`]+) \| .* \|$", TEXT, re.MULTILINE)


def evaluation() -> dict[str, str]:
    """The page's table of what the event says after the kill."""
    return dict(re.findall(r"^\| `(feature_flag\.[\w.]+)` \| `([^`]+)` \|$", TEXT, re.MULTILINE))


def test_every_reason_is_in_the_table():
    """The table has the reason of each read that passes the gate and that New does not serve, and no other."""
    paths = {path for operation, path in REASONS if operation == "read"} - {"new_hit", "old_failed"}
    told = {(path, reason_of("read", path, True, dirty)) for path in paths for dirty in (None, False, True)}
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
