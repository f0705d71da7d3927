"""What exact snapshots of spans are made of: a provider that keeps them, and each kind of span as it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.core.worlds import Migration, World
from zddm_flags import Rollout, StoreInfo, Telemetry
from zddm_flags.paths import reason_of

KEY = "secret-key"
KEY_HASH = "01097fed43c38984"  # XXH3 of the key's bytes
VALUE = "secret-value"
OLD = StoreInfo(system="postgresql", collection="users", namespace="shop")
NEW = StoreInfo(system="redis", collection="users:v2", remote=False)
LEDGER = StoreInfo(system="mariadb", collection="zddm_keys", namespace="ops")


class Traced:
    """A provider that keeps its spans."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def telemetry(self, **options: Any) -> Telemetry:
        return Telemetry(tracer_provider=self.provider, **options)

    def migration(self, world: World, rate: float | Rollout = 1.0, **options: Any) -> Migration:
        given = {"old_info": OLD, "new_info": NEW, "ledger_info": LEDGER, "telemetry": self.telemetry(), **options}
        return world.migration(rate, **given)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def text(self) -> str:
        return "".join(span.to_json() for span in self.spans)

    def tree(self) -> list[Any]:
        """Every root span with its children, in the order in which they began."""
        spans = sorted(self.spans, key=lambda span: span.start_time or 0)
        return [self.branch(span, spans) for span in spans if span.parent is None]

    def branch(self, span: ReadableSpan, spans: Sequence[ReadableSpan]) -> Any:
        """One span with those of `spans` that are below it."""
        assert span.context is not None
        children = [
            self.branch(each, spans)
            for each in spans
            if each.parent is not None and each.parent.span_id == span.context.span_id
        ]
        attributes = dict(span.attributes or {})
        happened = [(event.name, dict(event.attributes or {})) for event in span.events]
        return (span.name, span.kind.name, span.status.status_code.name, attributes, happened, children)


def operation(
    name: str,
    path: str | None,
    children: Sequence[Any],
    *,
    rate: float = 1.0,
    passed: bool = True,
    dirty: bool | None = None,
    stale: bool | None = None,
    error: str | None = None,
    events: Sequence[Any] = (),
) -> Any:
    """A span of one operation, as it must be. Its reason alone is the code's: tests of its own pin that."""
    attributes: dict[str, Any] = {
        "zddm.migration": "users",
        "zddm.gate.rate": rate,
        "zddm.gate.passed": passed,
        "zddm.key.hash": KEY_HASH,
    }
    if path is not None:
        attributes["zddm.path"] = path
        attributes["zddm.reason"] = reason_of(name, path, passed, dirty)
    if name == "read" and path != "old_failed":
        attributes["zddm.served_by"] = "new" if path == "new_hit" else "old"
    if dirty is not None:
        attributes["zddm.key.dirty"] = dirty
    if stale is not None:
        attributes["zddm.stale_marked"] = stale
    if error is not None:
        attributes["error.type"] = error
    return (f"zddm.{name}", "INTERNAL", _status(error), attributes, list(events), list(children))


def store(role: str, name: str, error: str | None = None, size: int | None = None) -> Any:
    """A span of one call to a store, as it must be."""
    info = OLD if role == "old" else NEW
    attributes = {"zddm.store": role, **_call(info, name, error, size)}
    return (f"{name} {info.collection}", _kind(info), _status(error), attributes, [], [])


def ledger(call: str, size: int | None = None, error: str | None = None, *, events: Sequence[Any] = ()) -> Any:
    """A span of one call to the ledger, as it must be: `size` keys, where they are two or more."""
    attributes = _call(LEDGER, call, error, size)
    return (f"zddm.ledger.{call}", _kind(LEDGER), _status(error), attributes, list(events), [])


def _call(info: StoreInfo, name: str, error: str | None, size: int | None) -> dict[str, Any]:
    given = {
        "db.system.name": info.system,
        "db.collection.name": info.collection,
        "db.namespace": info.namespace,
        "db.operation.name": name,
        "db.operation.batch.size": size,
        "error.type": error,
    }
    return {attribute: value for attribute, value in given.items() if value is not None}


def _kind(info: StoreInfo) -> str:
    return "CLIENT" if info.remote else "INTERNAL"


def _status(error: str | None) -> str:
    return "UNSET" if error is None else "ERROR"


def warning(event: str, **fields: Any) -> Any:
    return (event, {"zddm.migration": "users", **{f"zddm.{name}": value for name, value in fields.items()}})


def typed(tree: Any) -> Any:
    """The same tree with the type of every value beside it: True is not 1, and 1 is not 1.0."""
    if isinstance(tree, Mapping):
        return {name: typed(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [typed(each) for each in tree]
    return type(tree).__name__, tree
