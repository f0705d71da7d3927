"""A migration whose metrics Prometheus can read at http://127.0.0.1:9464/metrics, until Ctrl-C."""

import itertools
import time

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

from zddm_adapters import InMemoryAdapter
from zddm_flags import Proxy, Shadow, TrafficGate

PORT = 9464
STEP_SECONDS = 30


def serve_metrics(port: int = PORT) -> None:
    """Let Prometheus read this process's metrics on 127.0.0.1. Call it once, before or after proxies are made."""
    metrics.set_meter_provider(MeterProvider(metric_readers=[PrometheusMetricReader(scope_info_enabled=False)]))
    start_http_server(port, addr="127.0.0.1")


def main() -> None:
    """Ramp in steps, back to 0 at the end, and again, while users are read and written."""
    serve_metrics()
    keys = [f"user-{number}" for number in range(1000)]
    old, new = InMemoryAdapter(dict.fromkeys(keys, "v1")), InMemoryAdapter[str, str]()
    gate = TrafficGate(0.0)
    print(f"http://127.0.0.1:{PORT}/metrics")
    with Proxy(gate, old, new, name="users", shadow=Shadow(share=0.1)) as users:
        for rate in itertools.cycle([0.0, 0.01, 0.1, 0.5, 1.0]):
            gate.set_rate(rate)
            step_ends = time.monotonic() + STEP_SECONDS
            while time.monotonic() < step_ends:
                for key in keys:
                    users.read(key)
                users.write(keys[0], "v2")
                time.sleep(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("ended")
