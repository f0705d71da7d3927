"""What only calls that can be cancelled must keep: nothing, for blocking ones. Its twin is hand-written too."""

from __future__ import annotations

__all__ = ["AdapterCancellation", "LedgerCancellation"]


class AdapterCancellation:
    """Nothing to check: a blocking call is not cancelled."""


class LedgerCancellation:
    """Nothing to check: a blocking call is not cancelled."""
