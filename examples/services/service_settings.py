"""What both services share: time-outs, and what the environment says of LaunchDarkly and OpenTelemetry."""

import os
import socket
from collections.abc import Callable
from typing import Any

from ldclient import Config, Context, LDClient
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

FLAG = "users-migration-rate"
SERVICE = Context.builder("users-service").kind("service").build()
"""What the flag is evaluated for: the service, never a user, so that every process has the same rate."""

CONNECTION = {
    "connect_timeout": 2,
    "tcp_user_timeout": 1000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
OLD_POSTGRESQL: dict[str, Any] = {
    "pool_timeout": 1,
    "hide_parameters": True,  # no keys and values in the texts of errors
    "connect_args": {**CONNECTION, "options": "-c statement_timeout=2000"},
}
"""For Old and the ledger. A call takes effect within 9 s or never: docs/postgresql.md has the sum."""

NEW_POSTGRESQL: dict[str, Any] = {
    "pool_timeout": 0.25,
    "hide_parameters": True,
    "connect_args": {**CONNECTION, "options": "-c statement_timeout=500"},
}
NEW_VALKEY: dict[str, Any] = {
    "socket_connect_timeout": 0.5,
    "socket_timeout": 0.5,
    "socket_keepalive": True,
    "socket_keepalive_options": {socket.TCP_USER_TIMEOUT: 1000},
}
"""New has less time, for Old serves where New does not answer: docs/operations.md, "Time-outs for New"."""


def connect_launchdarkly() -> LDClient:
    """Connect to LaunchDarkly, or to the Relay Proxy or FlagServer at LAUNCHDARKLY_URI. Waits for 5 s at most."""
    uri = os.environ.get("LAUNCHDARKLY_URI")
    uris: dict[str, Any] = {"base_uri": uri, "stream_uri": uri, "events_uri": uri} if uri else {}
    return LDClient(Config(os.environ["LAUNCHDARKLY_SDK_KEY"], **uris))


def send_traces() -> Callable[[], None]:
    """Export spans to OTEL_EXPORTER_OTLP_ENDPOINT, if that is set. Returns what exports the last ones and stops.

    Call it after a fork, which the processor's thread would not survive.
    """
    if "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ:
        return lambda: None
    provider = TracerProvider()  # the service's name is OTEL_SERVICE_NAME
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider.shutdown
