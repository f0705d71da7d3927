"""What happened to a migration, as a structlog event and, where a span is recording, as a span event."""

from __future__ import annotations

from typing import Any, Literal

from opentelemetry import trace

__all__ = ["report"]

Level = Literal["debug", "info", "warning", "error"]


def report(level: Level, event: str, *, log: bool = True, **fields: Any) -> None:
    """Log `event` with `fields` to the structlog logger `zddm`, unless `log` is off; add it to the current span.

    The caller's structlog configuration decides how it looks and where it goes. Never raises: telemetry must
    not hurt the operation that it tells of. Fields carry no key and no value of a store.
    """
    try:
        if log:
            import structlog  # noqa: PLC0415 - it loads rich where that is installed, and a bare import should not

            getattr(structlog.get_logger("zddm"), level)(event, **fields)
        span = trace.get_current_span()
        if span.is_recording():
            span.add_event(event, {f"zddm.{name}": _attribute(value) for name, value in fields.items()})
    except Exception:  # noqa: S110 - the one funnel for failures of non-essential work
        pass


def _attribute(value: object) -> str | bool | int | float:
    return value if isinstance(value, (str, bool, int, float)) else str(value)
