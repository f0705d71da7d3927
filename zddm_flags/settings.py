"""What a proxy was told to do, checked: the arguments of `Proxy` that are plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from zddm_flags.background import Copies, Shadow
from zddm_flags.guard import Guard
from zddm_flags.guardrail import Guardrail

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """See `Proxy`, whose arguments these are. Raises ValueError or TypeError where one is wrong."""

    name: str
    max_operation_seconds: float
    max_call_seconds: float
    on_ledger_error: Literal["strict", "available"]
    max_unmarked_keys: int
    max_batch: int
    guard: Guard | None
    guardrail: Guardrail | None
    copies: Copies
    shadow: Shadow | None
    clock: Callable[[], float]
    new_token: Callable[[], bytes]

    def __post_init__(self) -> None:
        if not 0 < self.max_call_seconds < self.max_operation_seconds < float("inf"):
            raise ValueError("0 < max_call_seconds < max_operation_seconds must hold, and both be finite")
        if self.max_batch < 1 or self.max_unmarked_keys < 1:
            raise ValueError("max_batch and max_unmarked_keys must be at least 1")
        if self.on_ledger_error not in ("strict", "available"):
            raise ValueError('on_ledger_error must be "strict" or "available"')
        for argument, kind in (("guard", Guard), ("guardrail", Guardrail), ("shadow", Shadow)):
            value = getattr(self, argument)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{argument}= is None or a {kind.__name__}, not a {type(value).__name__}")
        if not isinstance(self.copies, Copies):
            raise TypeError(f'copy= is "inline", "background", "off" or Copies(...), not {self.copies!r}')

    @property
    def issue_seconds(self) -> float:
        """How long after an operation began it may issue a write to a store."""
        return self.max_operation_seconds - self.max_call_seconds

    @property
    def reap_age(self) -> float:
        """The age in seconds at which a token is reaped: no call under it can take effect any more."""
        return self.max_operation_seconds * 1.1 + 1.0

    @property
    def reap_interval(self) -> float:
        """Seconds between two reapings."""
        return self.max_operation_seconds / 4

    @property
    def begin_again_seconds(self) -> float:
        """How long after an operation began its token may be asked for again."""
        return self.max_operation_seconds / 10
