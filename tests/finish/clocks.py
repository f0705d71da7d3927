"""Where a job's time goes: each method of the stores and the ledger is timed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

__all__ = ["Clocks"]

STORE_METHODS = (
    "scan",
    "read",
    "read_many",
    "write",
    "write_many",
    "delete",
    "delete_many",
    "count",
    "partitions",
)
LEDGER_METHODS = (
    "begin", "begin_copy", "end", "withdraw", "dirty", "alone", "open_to", "reap", "summary", "stale_keys",
    "checkpoints", "save_checkpoint",
)  # fmt: skip


class Clocks:
    """Seconds by method. For one thread."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def time_store(self, role: str, adapter: Any) -> None:
        """Time an adapter from now on: its methods are replaced, in this instance."""
        self._time(role, adapter, STORE_METHODS)

    def time_ledger(self, migration: Any) -> None:
        """Time a migration's rows in a ledger."""
        self._time("ledger", migration, LEDGER_METHODS)

    def _time(self, role: str, owner: Any, methods: tuple[str, ...]) -> None:
        for name in methods:
            if hasattr(owner, name):
                setattr(owner, name, self._timed(f"{role}.{name}", getattr(owner, name)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed
