"""Spans, metrics and structured logs of zddm-flags. Knows OpenTelemetry and structlog, nothing of the core."""

from zddm_telemetry.counts import Counts
from zddm_telemetry.events import report
from zddm_telemetry.jobs import JobTelemetry
from zddm_telemetry.metrics import Gauges
from zddm_telemetry.migration import MigrationTelemetry, Telemetry
from zddm_telemetry.operations import Evaluated, OperationTelemetry
from zddm_telemetry.spans import Cause
from zddm_telemetry.stores import LedgerTelemetry, StoreTelemetry

__all__ = [
    "Cause",
    "Counts",
    "Evaluated",
    "Gauges",
    "JobTelemetry",
    "LedgerTelemetry",
    "MigrationTelemetry",
    "OperationTelemetry",
    "StoreTelemetry",
    "Telemetry",
    "report",
]
