"""Spans, metrics and structured logs of zddm-flags. Knows OpenTelemetry and structlog, nothing of the core."""

from zddm_telemetry.counts import Counts
from zddm_telemetry.events import report
from zddm_telemetry.metrics import Gauges
from zddm_telemetry.migration import (
    MigrationTelemetry,
    OperationTelemetry,
    StoreTelemetry,
    Telemetry,
)

__all__ = [
    "Counts",
    "Gauges",
    "MigrationTelemetry",
    "OperationTelemetry",
    "StoreTelemetry",
    "Telemetry",
    "report",
]
