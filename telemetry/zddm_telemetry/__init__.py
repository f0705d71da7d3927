"""Spans, metrics and structured logs of zddm-flags. Knows OpenTelemetry and structlog, nothing of the core."""

from zddm_telemetry.events import report

__all__ = ["report"]
