"""What a proxy did so far, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zddm_flags.guard import GuardState
from zddm_flags.guardrail import GuardrailCrossed
from zddm_flags.rollout import Rollout

__all__ = ["ProxyStats"]


@dataclass(frozen=True, slots=True)
class ProxyStats:
    """A snapshot of one proxy. Counts are of keys, since the proxy was made, in this process."""

    operations: Mapping[tuple[str, str], int]
    """Keys by operation (`read`, `write`, `delete`) and path (`old`, `new_hit`, `copied`, ...).

    Also by `copy`, in the background, and path; and by `compare` and verdict: `equal`, `different`, `unsure` (the
    key was being written, or New or the ledger could not be asked), `failed` (the comparison raised) and
    `old_failed`.
    """
    calls: Mapping[tuple[str, str], int]
    """Keys that a store was asked for, by store (`old`, `new`) and operation."""
    copies: int
    """Keys that reads, or the background after them, copied from Old into New."""
    copies_waiting: int
    """Keys that wait to be copied in the background."""
    copies_dropped: int
    """Keys that were to be copied in the background and were not: no room, a kill, an error, or the end."""
    rollout: Rollout
    """The rates wanted."""
    enabled: bool
    """The local switch."""
    disabled_by: GuardrailCrossed | None
    """What of the guardrail was crossed, where that turned the switch."""
    guard: GuardState | None
    """What the guard allows of New, or None without one."""
    opened: float
    """The largest rate at which New was ever used, as last seen in the ledger."""
    stale_keys: int
    """Keys that are stale, as last seen: with a SQL ledger in the last `ledger_summary()` or reaping here."""
    pending_tokens: int
    """Writes and copies in progress or never ended, as last seen in the ledger: see `stale_keys`."""
    unmarked_keys: int
    """Keys that were changed while the ledger could not be reached, and that it does not know of yet."""
