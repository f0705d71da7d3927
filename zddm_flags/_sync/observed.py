# Generated from zddm_flags/_async/observed.py by `make generate`. Do not edit.
"""A ledger as the protocol sees it, each call timed and traced."""

from __future__ import annotations

from collections.abc import Sized
from functools import partial
from typing import Any, cast

from zddm_flags._sync._world import Calls
from zddm_flags.ledger import Ledger, MigrationLedger
from zddm_flags.protocols import StoreInfo, SupportsDescribe
from zddm_telemetry import LedgerTelemetry, MigrationTelemetry

__all__ = ["observed"]

_CALLS = (
    "begin",
    "begin_copy",
    "end",
    "withdraw",
    "dirty",
    "alone",
    "open_to",
    "reap",
    "summary",
    "stale_keys",
    "checkpoints",
    "save_checkpoint",
    "reset",
)
_OF_KEYS = ("begin", "begin_copy", "end", "withdraw", "dirty", "alone")


def observed(ledger: Ledger, migration: MigrationLedger, telemetry: MigrationTelemetry) -> MigrationLedger:
    """The migration's rows, with telemetry of each call. One in this process is left alone: it takes no time."""
    if not ledger.shared:
        return migration
    info = ledger.describe() if isinstance(ledger, SupportsDescribe) else StoreInfo()
    told = LedgerTelemetry(
        telemetry,
        system=info.system,
        collection=info.collection,
        namespace=info.namespace,
        remote=info.remote,
    )
    return cast(MigrationLedger, _AsyncObserved(migration, told))


class _AsyncObserved:
    """Has the methods that the ledger has: one of a user's own may lack those that only jobs need."""

    def __init__(self, migration: MigrationLedger, telemetry: LedgerTelemetry) -> None:
        self._migration = migration
        self._telemetry = telemetry
        for name in _CALLS:
            if hasattr(migration, name):
                setattr(self, name, partial(self._call, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._migration, name)

    def _call(self, called: str, /, *arguments: Any, **options: Any) -> Any:
        call: Calls[Any] = getattr(self._migration, called)
        told = self._telemetry
        if not told.migration.recorded:
            return call(*arguments, **options)
        keys = arguments[0] if arguments and called in _OF_KEYS else ()
        with told.call(called, len(keys) if isinstance(keys, Sized) else 0):
            return call(*arguments, **options)
