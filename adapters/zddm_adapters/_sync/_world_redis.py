"""What differs between the two worlds of redis-py, blocking. Its twin in `_async` is hand-written too."""

from __future__ import annotations

from typing import Any, TypeAlias

from redis import Redis, RedisCluster

__all__ = ["Client", "check_client", "renew_if_closed"]

Client: TypeAlias = Redis | RedisCluster


def check_client(client: object) -> bool:
    """Whether `client` is a cluster's. Raises a TypeError that says what to use, where it is of another world."""
    if not isinstance(client, (Redis, RedisCluster)):
        raise TypeError(
            f"RedisAdapter needs a blocking client (redis.Redis or redis.RedisCluster), not "
            f"{type(client).__module__}.{type(client).__name__}; one of redis.asyncio goes with AsyncRedisAdapter"
        )
    return isinstance(client, RedisCluster)


def renew_if_closed(connection: Any) -> None:
    """Nothing: the pool looks by itself whether the server has closed an idle connection."""
    del connection
