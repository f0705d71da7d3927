# Generated from zddm_flags/_async/watch.py by `make generate`. Do not edit.
"""What keeps the number of stale keys that metrics show from growing old."""

from __future__ import annotations

from zddm_flags._sync.errand import Errand
from zddm_flags.errors import LedgerMismatch, Unsupported
from zddm_flags.ledger import MigrationLedger
from zddm_telemetry import MigrationTelemetry

__all__ = ["Watch", "report_ledger_failed"]

WATCH_SECONDS = 15.0
"""Time between two looks: about what Prometheus takes between two scrapes."""


class Watch:
    """Asks a ledger for its summary now and then, for as long as it holds stale keys. Thread-safe.

    While New is down nobody else does: no key is found dirty where the ledger is not asked. It holds on to no
    proxy, so that one that is forgotten without `close` can go.
    """

    def __init__(self, ledger: MigrationLedger, telemetry: MigrationTelemetry) -> None:
        self._ledger = ledger
        self._telemetry = telemetry
        self._news = False  # a key became stale since the last look
        self._closed = False
        self._errand = Errand(self._look, self._has_more, WATCH_SECONDS)

    def start(self) -> None:
        """See to it that the ledger is looked at: a key became stale, or a summary shows one."""
        if not self._closed:
            self._news = True
            self._errand.start()

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        return self._errand.alive

    def close(self) -> None:
        """Look no more. Idempotent."""
        self._closed = True

    def _look(self) -> None:
        if self._closed:
            return
        self._news = False
        try:
            self._ledger.summary()
        except Exception as error:
            self._news = True
            if not self._closed:  # else what it is kept in may be closed as well
                report_ledger_failed(self._telemetry, "summary", error)

    def _has_more(self) -> bool:
        return not self._closed and (self._news or self._ledger.last_summary().stale > 0)

    def after_fork(self) -> None:
        """In a forked child, where the threads of the parent are gone."""
        self._errand.after_fork()


def report_ledger_failed(telemetry: MigrationTelemetry, call: str, error: BaseException) -> None:
    """Tell that a call to the ledger failed, and what to do where the error says so."""
    advice = {"advice": str(error)} if isinstance(error, (LedgerMismatch, Unsupported)) else {}
    telemetry.report_limited("ledger_failed", call=call, error=type(error).__name__, **advice)
