"""What differs between the worlds of the ledger on Redis: blocking code. Its twin in `_async` is by hand too."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.cluster import RedisCluster

__all__ = ["Redis", "RedisCluster", "check_client", "drop", "node_of", "take_connection"]


def check_client(client: object) -> None:
    """Raise a TypeError that says what to use, where `client` is not a blocking one."""
    if not isinstance(client, (Redis, RedisCluster)):
        raise TypeError(
            f"RedisLedger needs a blocking client (redis.Redis or redis.RedisCluster), not "
            f"{type(client).__module__}.{type(client).__name__}; one of redis.asyncio goes with AsyncRedisLedger "
            "and AsyncProxy"
        )


def take_connection(pool: Any) -> Any:
    """A connection of the pool, connected; the caller releases it."""
    return pool.get_connection()


def node_of(client: Any, key: str) -> Any:
    """The primary that holds the slot of `key`."""
    return client.get_node_from_key(key)


def drop(connection: Any) -> None:
    """Close a connection whose replies can no longer be told apart; its next user connects anew."""
    connection.disconnect()
