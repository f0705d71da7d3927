"""What differs between the two worlds of redis-py, for asyncio. Its twin in `_sync` is hand-written too."""

from __future__ import annotations

from typing import TypeAlias

from redis.asyncio import Redis, RedisCluster

__all__ = ["AsyncClient", "check_client"]

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
