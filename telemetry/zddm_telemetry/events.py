"""What happened to a migration, as a structlog event and, where a span is recording, as a span event."""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Literal

from opentelemetry import trace

__all__ = ["failed", "report"]

Level = Literal["debug", "info", "warning", "error"]

_logger = logging.getLogger("zddm_telemetry")
_known_failures: set[type[BaseException]] = set()


def report(level: Level, event: str, *, log: bool = True, **fields: Any) -> None:
    """Log `event` with `fields` to the structlog logger `zddm`, unless `log` is off; add it to the current span.

    The caller's structlog configuration decides how it looks and where it goes. Never raises: telemetry must
    not hurt the operation that it tells of. Fields carry no key and no value of a store.
    """
    if log:
        try:
            import structlog  # noqa: PLC0415 - it loads rich where that is installed, and a bare import should not

            getattr(structlog.get_logger("zddm"), level)(event, **fields)
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


def _attribute(value: object) -> str | bool | int | float:
    return value if isinstance(value, (str, bool, int, float)) else str(value)
