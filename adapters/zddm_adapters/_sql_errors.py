"""Which errors of a statement make it certain that its transaction took no effect."""

from __future__ import annotations

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.exc import InternalError as DatabaseInternalError

__all__ = ["certainly_not_applied", "parameter_refused"]

# The server reported that it gave the statement up: serialization failure, deadlock, lock not available,
# statement cancelled by its own time-out, read-only transaction.
POSTGRESQL_STATES = frozenset({"40001", "40P01", "55P03", "57014", "25006"})
# Lock wait timeout, deadlock.
MYSQL_CODES = frozenset({1205, 1213})
SQLITE_NAMES = ("SQLITE_BUSY", "SQLITE_LOCKED")


def certainly_not_applied(error: Exception) -> bool:
    """Whether `error`, raised by a statement before COMMIT was sent, means that nothing can land any more.

    False wherever there is a doubt, a lost connection above all: then the key stays dirty a while longer,
    which costs time and no data.
    """
    if not isinstance(error, DBAPIError):
        return isinstance(error, SQLAlchemyError)  # raised before the database was asked
    if error.connection_invalidated:
        return False
    if isinstance(error, (IntegrityError, DataError, ProgrammingError)):
        return True
    return isinstance(error, (OperationalError, DatabaseInternalError)) and _given_up(error.orig)


def parameter_refused(error: Exception) -> bool:
    """Whether a statement failed for the value of a parameter: too large a number, or what is no text."""
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError)
    return isinstance(error, (StatementError, OverflowError, UnicodeEncodeError))


def _given_up(error: BaseException | None) -> bool:
    if getattr(error, "sqlstate", None) in POSTGRESQL_STATES:
        return True
    if str(getattr(error, "sqlite_errorname", "")).startswith(SQLITE_NAMES):
        return True
    return error is not None and bool(error.args) and error.args[0] in MYSQL_CODES
