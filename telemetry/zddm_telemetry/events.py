"""What happened to a migration, as a structlog event and, where a span is recording, as a span event."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Container
from typing import Any, Literal

from opentelemetry import trace

__all__ = ["failed", "report"]

Level = Literal["debug", "info", "warning", "error"]

_logger = logging.getLogger("zddm_telemetry")
_known_failures: set[type[BaseException]] = set()


def report(level: Level, event: str, *, log: bool = True, **fields: Any) -> None:
    """Log `event` with `fields` to the structlog logger `zddm`, unless `log` is off; add it to the current span.

    The caller's structlog configuration decides how it looks and where it goes. It also gets `trace_id` (32
    hexadecimal digits) and `span_id` (16) of the current span, unless `fields` or structlog's context variables
    have them. A span that is not sampled has them too: its trace is not kept, but the logs of all services that
    the request passed are, and they share the id. Never raises: telemetry must not hurt the operation that it
    tells of. Fields carry no key and no value of a store.
    """
    if log:
        try:
            import structlog  # noqa: PLC0415 - it loads rich where that is installed, and a bare import should not

            known = {*fields, *structlog.contextvars.get_contextvars()}
            logger = structlog.get_logger("zddm")
            # Of structlog's asyncio wrapper, whose own methods nobody would await here.
            logger = getattr(logger, "sync_bl", logger)
            getattr(logger, level)(event, **_ids_of_span(known), **fields)
        except Exception as error:
            failed(error)
    try:
        span = trace.get_current_span()
        if span.is_recording():
            span.add_event(event, {f"zddm.{name}": _attribute(value) for name, value in fields.items()})
    except Exception as error:
        failed(error)


def failed(error: BaseException) -> None:
    """Tell, once for each type of error, that telemetry failed: the one funnel of what must not hurt a caller.

    By the standard library's logging, for structlog may be what failed, and without the error's text, which may
    quote what it was asked to record. Never raises.
    """
    if type(error) in _known_failures:
        return
    _known_failures.add(type(error))
    with contextlib.suppress(Exception):
        _logger.warning("telemetry failed, and goes on without: %s", type(error).__qualname__)


def _ids_of_span(known: Container[str]) -> dict[str, str]:
    """Which span is current, in the names that OpenTelemetry gives for logs; without those that are known."""
    try:
        span = trace.get_current_span().get_span_context()
        ids = {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"} if span.is_valid else {}
    except Exception as error:  # the event is worth logging all the same
        failed(error)
        return {}
    return {name: text for name, text in ids.items() if name not in known}


def _attribute(value: object) -> str | bool | int | float:
    return value if isinstance(value, (str, bool, int, float)) else str(value)
