"""Spans that went through the real OTLP exporter, and how whole traces are written down and compared.

The traces that are expected stand in `traces/*.txt`, a section for each scene. After a change that is meant, run
the tests in one process with ACCEPT_TRACES=1, which writes what came, and read the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import unified_diff
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.otlp import OtlpReceiver, Span, Tree
from zddm_flags import Telemetry

__all__ = ["Exported", "compare", "exporting", "rendered", "scenes_of"]

SERVICE = "shop"
FOLDER = Path(__file__).parent / "traces"
RANDOM = ("zddm.job.run", "zddm.open_seconds")  # of these only the type can be compared


class Exported:
    """A tracer provider that exports in batches to a receiver."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        self.receiver = receiver
        self.provider = TracerProvider(resource=Resource({"service.name": SERVICE}))
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(receiver.endpoint)))

    def telemetry(self, **options: Any) -> Telemetry:
        """Tells of spans to the provider, and logs nothing."""
        return Telemetry(tracer_provider=self.provider, log=False, **options)

    @property
    def spans(self) -> Sequence[Span]:
        """All that ended so far."""
        assert self.provider.force_flush()
        return self.receiver.spans

    def traces(self) -> list[Tree]:
        """All that ended so far, as trees."""
        assert self.provider.force_flush()
        return self.receiver.traces()

    def forget(self) -> None:
        """Forget all that ended so far."""
        assert self.provider.force_flush()
        self.receiver.clear()


@contextmanager
def exporting(receiver: OtlpReceiver) -> Iterator[Exported]:
    """Export to a receiver that has forgotten what came before."""
    receiver.clear()
    exported = Exported(receiver)
    yield exported
    exported.provider.shutdown()


def rendered(trees: Sequence[Tree]) -> str:
    """Whole traces as text, in which a value's `repr` tells its type: 1, 1.0, True and '1' are four.

    A line for each span with its kind and status, its attributes below it, then its events (`!`), its links (`~`,
    with the number of the trace that they lead to) and its children.
    """
    numbers: dict[str, int] = {}
    for tree in trees:
        numbers.setdefault(tree.span.trace_id, len(numbers) + 1)
    names = {span.span_id: f"{span.name} of trace {numbers[span.trace_id]}" for tree in trees for span in tree}
    lines: list[str] = []
    for tree in trees:
        lines += [f"trace {numbers[tree.span.trace_id]}", *_lines(tree, names, "  ")]
    return "\n".join(lines)


def _lines(tree: Tree, names: Mapping[str, str], indent: str) -> Iterator[str]:
    span = tree.span
    status = f"{span.status} {span.message!r}" if span.message else span.status
    yield f"{indent}{span.name} {span.kind} {status}"
    for name, value in sorted(span.attributes.items()):
        yield f"{indent}  . {name} = {_text(name, value)}"
    for event in span.events:
        about = ", ".join(f"{name} = {_text(name, value)}" for name, value in sorted(event.attributes.items()))
        yield f"{indent}  ! {event.name}: {about}"
    for link in span.links:
        yield f"{indent}  ~ {names.get(link.span_id, 'a span that is not here')}"
    for child in tree.children:
        yield from _lines(child, names, f"{indent}  ")


def _text(name: str, value: Any) -> str:
    return f"<{type(value).__name__}>" if name in RANDOM else repr(value)


def compare(group: str, scene: str, found: str) -> None:
    """Compare the traces of a scene, as text, with the section of `traces/<group>.txt` that has its name."""
    path = FOLDER / f"{group}.txt"
    sections = _sections(path)
    if os.environ.get("ACCEPT_TRACES"):
        sections[scene] = found
        text = "\n\n".join(f"=== {name}\n{section}" for name, section in sections.items())
        path.write_text(text + "\n", encoding="utf-8")
    difference = "\n".join(
        unified_diff(sections[scene].splitlines(), found.splitlines(), "written down", "came", n=9)
    )
    assert not difference, f"the traces of {scene!r} differ:\n{difference}"


def _sections(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    parts = re.split(r"^=== (.*)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {name: section.strip("\n") for name, section in zip(parts[::2], parts[1::2], strict=True)}


def scenes_of(group: str) -> list[str]:
    """The names of the sections that `traces/<group>.txt` has."""
    return list(_sections(FOLDER / f"{group}.txt"))
