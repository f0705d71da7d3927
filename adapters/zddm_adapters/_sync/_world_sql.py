"""What differs between the two worlds of SQLAlchemy, blocking. Its twin in `_async` is hand-written too."""

from __future__ import annotations

from sqlalchemy import Engine

__all__ = ["Engine", "check_engine"]


def check_engine(engine: object) -> None:
    """Raise a TypeError that says what to use, where `engine` is not a blocking one."""
    if not isinstance(engine, Engine):
        raise TypeError(
            f"SqlAlchemyAdapter needs an Engine (sqlalchemy.create_engine), not {type(engine).__name__}; "
            "an AsyncEngine goes with AsyncSqlAlchemyAdapter"
        )
