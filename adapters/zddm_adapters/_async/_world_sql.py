"""What differs between the two worlds of SQLAlchemy, for asyncio. Its twin in `_sync` is hand-written too."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["AsyncEngine", "check_engine"]


def check_engine(engine: object) -> None:
    """Raise a TypeError that says what to use, where `engine` is not an asyncio one."""
    if not isinstance(engine, AsyncEngine):
        raise TypeError(
            f"AsyncSqlAlchemyAdapter needs an AsyncEngine (sqlalchemy.ext.asyncio.create_async_engine), not "
            f"{type(engine).__name__}; a blocking engine goes with ThreadedAdapter(SqlAlchemyAdapter(...))"
        )
