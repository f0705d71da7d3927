"""What is counted and not timed: evaluations of the flag for each operation, and what an import loads."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from ldclient.context import Context

from tests.benchmarks.figures import Row, Table
from tests.benchmarks.settings import Settings
from tests.benchmarks.stores import KEYS, VALUE
from tests.torture.servers import ROOT, environment
from zddm_adapters import InMemoryAdapter
from zddm_flags import LaunchDarklySource, Proxy, TrafficGate
from zddm_flags.testing import FlagServer

__all__ = ["EVALUATIONS", "IMPORTED", "facts_table"]

EVALUATIONS = "evaluations of the flag during 1,000 reads and 1,000 writes"
IMPORTED = "drivers, SDKs and other heavy packages loaded by `import zddm_flags`"
HEAVY = (
    "ldclient",
    "sqlalchemy",
    "redis",
    "psycopg",
    "click",
    "rich",
    "distributed",
    "structlog",
    "opentelemetry.sdk",
)


def facts_table(name: str, title: str, settings: Settings) -> Table:
    """Both should be nothing."""
    del settings
    loaded = _loaded()
    rows = [
        Row(EVALUATIONS, {"found": str(_evaluations())}),
        Row(IMPORTED, {"found": ", ".join(loaded) or "none"}),
    ]
    return Table(name, title, ("found",), rows, [f"Looked for: {', '.join(HEAVY)}."], "what")


def _evaluations() -> int:
    with FlagServer({"rate": 1.0}) as server:
        client: Any = server.client()
        source = LaunchDarklySource(client, "rate", Context.builder("bench").kind("service").build())
        evaluated = 0
        ask = client.variation_detail

        def counting(*arguments: Any, **named: Any) -> Any:
            nonlocal evaluated
            evaluated += 1
            return ask(*arguments, **named)

        client.variation_detail = client.variation = counting
        gate = TrafficGate(source)
        held = dict.fromkeys(KEYS, VALUE)
        try:
            with Proxy(gate, InMemoryAdapter(held), InMemoryAdapter(held)) as proxy:
                for key in KEYS:
                    proxy.read(key)
                    proxy.write(key, VALUE)
        finally:
            gate.close()
            source.close()
    return evaluated


def _loaded() -> list[str]:
    program = f"import sys, zddm_flags; print(*(each for each in {HEAVY!r} if each in sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment(), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return found.stdout.split()
