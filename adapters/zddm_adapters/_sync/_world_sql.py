"""What differs between the two worlds of SQLAlchemy, blocking. Its twin in `_async` is hand-written too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

__all__ = [
    "Connection",
    "Engine",
    "check_engine",
    "check_ledger_engine",
    "driver_connection",
    "raise_if_cancelled",
    "run_blocking",
    "to_its_end",
]

T = TypeVar("T")


def check_engine(engine: object) -> None:
    """Raise a TypeError that says what to use, where `engine` is not a blocking one."""
    if not isinstance(engine, Engine):
        raise TypeError(
            f"SqlAlchemyAdapter needs an Engine (sqlalchemy.create_engine), not {type(engine).__name__}; "
            "an AsyncEngine goes with AsyncSqlAlchemyAdapter"
        )


def check_ledger_engine(engine: object) -> None:
    """Raise a TypeError that says what to use, where `engine` is not a blocking one."""
    if not isinstance(engine, Engine):
        raise TypeError(
            f"SqlAlchemyLedger needs an Engine (sqlalchemy.create_engine), not {type(engine).__name__}; "
            "an AsyncEngine goes with AsyncSqlAlchemyLedger and AsyncProxy"
        )


def run_blocking(connection: Connection, function: Callable[[Connection], T]) -> T:
    """What `function` makes of the connection."""
    return function(connection)


def to_its_end(call: Callable[[], T]) -> T:
    """What `call` returns, for nobody cancels a thread."""
    return call()


def driver_connection(connection: Connection) -> Any:
    """The driver's own connection."""
    return connection.connection.driver_connection


def raise_if_cancelled(error: BaseException) -> None:
    """Nothing is cancelled in blocking code."""
    del error
