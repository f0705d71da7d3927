"""The moment after which an operation issues no further write to a store."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Deadline", "DeadlinePassed"]


class DeadlinePassed(Exception):
    """The deadline passed, or a kill came, before the call was issued; earlier ones of its batch may have been."""


class Deadline:
    """No write is issued to a store at or after this moment of a process's own monotonic clock (H15).

    A store that takes a batch key by key asks before each call. `allowed` lets a kill reach such a batch in its
    middle: the deadline counts as passed once it is False.
    """

    __slots__ = ("_allowed", "_at", "_clock")

    def __init__(self, clock: Callable[[], float], at: float, allowed: Callable[[], bool] | None = None) -> None:
        self._clock = clock
        self._at = at
        self._allowed = allowed

    def only_while(self, allowed: Callable[[], bool]) -> Deadline:
        """The same moment, or the one at which `allowed` is False, if that comes first."""
        return Deadline(self._clock, self._at, allowed)

    @property
    def passed(self) -> bool:
        """Whether no further write may be issued."""
        return self._clock() >= self._at or (self._allowed is not None and not self._allowed())

    def check(self) -> None:
        """Raise DeadlinePassed if it has."""
        if self.passed:
            raise DeadlinePassed
