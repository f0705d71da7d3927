"""Which replies of a Redis server make it certain that a command had no effect."""

from __future__ import annotations

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

__all__ = ["certainly_not_applied"]

REFUSALS = (
    AskError,  # MOVED too
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,  # MASTERDOWN too
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
# Those that redis-py has no class for; it leaves the code in front of the text.
REFUSAL_CODES = frozenset({"BUSY", "MISCONF", "NOREPLICAS", "WRONGTYPE"})


def certainly_not_applied(error: Exception) -> bool:
    """Whether `error`, raised by one command that was sent once, means that the server refused to run it.

    Only replies that are known to come before any effect. A proxy in front of Redis has replies of its own for a
    connection that it lost, so that any other reply means "unknown", as a lost connection does.
    """
    if error.__context__ is not None:
        return False  # it came up while the client dealt with another error, which may have been a lost connection
    if isinstance(error, REFUSALS):
        return True
    return isinstance(error, ResponseError) and str(error).split(" ", 1)[0] in REFUSAL_CODES
