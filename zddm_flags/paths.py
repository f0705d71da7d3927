"""Why a key took its path, in a sentence: what spans tell who has read none of the documentation."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["REASONS", "reason_of"]

_CLOSED = "the gate is closed for this key: its hash is not below the rate"
_GUARD = "the guard keeps calls from New, which failed or was slow"
_DISABLED = "this proxy does not use New: disable() was called, a guardrail was crossed, or the process was forked"

REASONS: Mapping[tuple[str, str], str] = {
    ("read", "old"): _CLOSED,
    ("read", "new_hit"): "New had the key, and the ledger called it clean",
    ("read", "copied"): "New lacked the key: Old served it, and now New has it",
    ("read", "miss"): "New lacked the key, and it was not copied: Old lacks it too, or it is not copied now",
    ("read", "dirty"): "the key was dirty: it is being written or copied, or is stale and was not copied now",
    ("read", "new_failed"): "New was called, and failed or took too long: Old served the key",
    ("read", "guard_open"): f"{_GUARD}: Old served the key",
    ("read", "ledger_failed"): "the ledger failed, now or when the key was written, so New could not be trusted",
    ("read", "old_failed"): "Old failed, and so did the read",
    ("read", "disabled"): _DISABLED,
    ("write", "old"): f"{_CLOSED}; Old alone was changed",
    ("write", "both"): "Old was changed, and then New",
    ("write", "new_failed"): "Old was changed; New failed or took too long, or the operation's time was over",
    ("write", "guard_open"): f"Old was changed; {_GUARD}",
    ("write", "ledger_failed"): "the ledger failed: nothing was changed, or Old alone",
    ("write", "old_failed"): "Old failed, and so did the operation; New was left alone",
    ("write", "disabled"): f"Old was changed; {_DISABLED}",
}
"""By operation and path. What a delete does is told as for a write."""

_STALE = "the key was stale: Old served it, and now New has it again"
_STALE_AND_ABSENT = "the key was stale, so that New was not asked: Old was, and lacks it"
_UNUSABLE = "the key is too long for the ledger, so it is in Old at most; or the gate opened for it just now"
_CLOSED_MEANWHILE = "the gate closed for this key while the operation went on"


def reason_of(operation: str, path: str, passed: bool, dirty: bool | None) -> str | None:
    """The sentence for one key; None for what is no operation on one key.

    `passed`: whether the gate let the key pass. `dirty`: what the ledger said of it, None where it was not asked.
    """
    operation = "write" if operation == "delete" else operation
    if operation == "read" and dirty and path in ("copied", "miss"):
        return _STALE if path == "copied" else _STALE_AND_ABSENT
    if path == "old" and passed:
        if operation == "write":
            return f"{_CLOSED_MEANWHILE}; Old alone was changed"
        return _UNUSABLE if dirty is None else _CLOSED_MEANWHILE
    return REASONS.get((operation, path))
