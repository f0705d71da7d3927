"""The moment after which an operation issues no further write to a store."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Deadline", "DeadlinePassed"]


class DeadlinePassed(Exception):
    """The deadline passed before the call was issued; an earlier call of the same batch may have been."""


class Deadline:
    """No write is issued to a store at or after this moment of a process's own monotonic clock (H15)."""

    __slots__ = ("_at", "_clock")

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._at = clock() + seconds

    @property
    def passed(self) -> bool:
        """Whether no further write may be issued."""
        return self._clock() >= self._at

    def check(self) -> None:
        """Raise DeadlinePassed if it has."""
        if self.passed:
            raise DeadlinePassed
