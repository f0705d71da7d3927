"""What differs between the two worlds of SQLAlchemy, for asyncio. Its twin in `_sync` is hand-written too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = [
    "AsyncConnection",
    "AsyncEngine",
    "check_engine",
    "check_ledger_engine",
    "driver_connection",
    "raise_if_cancelled",
    "run_blocking",
    "to_its_end",
]

T = TypeVar("T")


def check_engine(engine: object) -> None:
    """Raise a TypeError that says what to use, where `engine` is not an asyncio one."""
    if not isinstance(engine, AsyncEngine):
        raise TypeError(
            f"AsyncSqlAlchemyAdapter needs an AsyncEngine (sqlalchemy.ext.asyncio.create_async_engine), not "
            f"{type(engine).__name__}; a blocking engine goes with ThreadedAdapter(SqlAlchemyAdapter(...))"
        )


def check_ledger_engine(engine: object) -> None:
    """Raise a TypeError that says what to use, where `engine` is not an asyncio one."""
    if not isinstance(engine, AsyncEngine):
        raise TypeError(
            "AsyncSqlAlchemyLedger needs an AsyncEngine (sqlalchemy.ext.asyncio.create_async_engine), not "
            f"{type(engine).__name__}; a blocking engine goes with SqlAlchemyLedger and Proxy"
        )


async def run_blocking(connection: AsyncConnection, function: Callable[[Connection], T]) -> T:
    """What `function` makes of the connection; it is written as for a blocking one."""
    return await connection.run_sync(function)


async def to_its_end(call: Callable[[], Awaitable[T]]) -> T:
    """What `call` returns. Where this is cancelled, it goes on to its end, and then CancelledError is raised."""
    task = asyncio.ensure_future(call())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # which asyncio would report as never retrieved
        raise


def driver_connection(connection: AsyncConnection) -> Any:
    """The driver's own connection."""
    blocking = connection.sync_connection
    return None if blocking is None else blocking.connection.driver_connection


def raise_if_cancelled(error: BaseException) -> None:
    """Raise CancelledError where `error` is what a driver made of one."""
    context = error.__context__
    while context is not None:
        if isinstance(context, asyncio.CancelledError):
            raise asyncio.CancelledError from error
        context = context.__context__
