"""What differs between the worlds of the ledger on Redis: asyncio. Its twin in `_sync` is by hand too."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

__all__ = ["Redis", "RedisCluster", "check_client", "drop", "node_of", "take_connection"]


def check_client(client: object) -> None:
    """Raise a TypeError that says what to use, where `client` is not an asyncio one."""
    if not isinstance(client, (Redis, RedisCluster)):
        raise TypeError(
            f"AsyncRedisLedger needs a client of redis.asyncio (redis.asyncio.Redis or RedisCluster), not "
            f"{type(client).__module__}.{type(client).__name__}; a blocking client goes with RedisLedger and Proxy"
        )


async def take_connection(pool: Any) -> Any:
    """A connection of the pool, connected; the caller releases it."""
    return await pool.get_connection()


async def node_of(client: Any, key: str) -> Any:
    """The primary that holds the slot of `key`."""
    await client.initialize()
    return client.get_node_from_key(key)


async def drop(connection: Any) -> None:
    """Close a connection whose replies can no longer be told apart; its next user connects anew."""
    await connection.disconnect(nowait=True)
