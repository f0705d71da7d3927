"""What differs between the two worlds of redis-py, for asyncio. Its twin in `_sync` is hand-written too."""

from __future__ import annotations

from typing import Any, TypeAlias

from redis.asyncio import Redis, RedisCluster

__all__ = ["AsyncClient", "check_client", "renew_if_closed"]

AsyncClient: TypeAlias = Redis | RedisCluster


def check_client(client: object) -> bool:
    """Whether `client` is a cluster's. Raises a TypeError that says what to use, where it is of another world."""
    if not isinstance(client, (Redis, RedisCluster)):
        raise TypeError(
            f"AsyncRedisAdapter needs a client of redis.asyncio (Redis or RedisCluster), not "
            f"{type(client).__module__}.{type(client).__name__}; a blocking one goes with "
            "ThreadedAdapter(RedisAdapter(...))"
        )
    return isinstance(client, RedisCluster)


async def renew_if_closed(connection: Any) -> None:
    """Connect anew where the server has closed an idle connection.

    The pool of redis-py 8 does not look, where the server may send notes of its maintenance. Without this the
    first write on each connection after a restart of the server would end as "unknown".
    """
    can_read = getattr(connection, "can_read", None)
    if can_read is not None and await can_read():
        await connection.disconnect()
        await connection.connect()
