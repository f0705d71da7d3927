"""What `make profile` looks at: reads that New serves, over stores in memory, with all that is on by default."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from tests.benchmarks.stores import KEYS, VALUE
from zddm_adapters import InMemoryAdapter
from zddm_flags import Proxy, Telemetry, TrafficGate

ROUND = 100
"""Times that all keys are read between two looks at the clock."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read for so long, and tell how often."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.profiled", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--operation", choices=("read", "write"), default="read")
    parser.add_argument("--rate", type=float, default=1.0, help="0.0: the gate is closed")
    options = parser.parse_args(arguments)
    held = dict.fromkeys(KEYS, VALUE)
    old, new = InMemoryAdapter(held), InMemoryAdapter(held)
    done = 0
    with Proxy(TrafficGate(options.rate), old, new, telemetry=Telemetry(log=False)) as proxy:
        stop_at = time.perf_counter() + options.seconds
        while time.perf_counter() < stop_at:
            for _ in range(ROUND):
                if options.operation == "read":
                    for key in KEYS:
                        proxy.read(key)
                else:
                    for key in KEYS:
                        proxy.write(key, VALUE)
            done += ROUND * len(KEYS)
    sys.stdout.write(f"{done:,} operations, {options.seconds * 1e6 / done:.2f} us each while it was looked at\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
