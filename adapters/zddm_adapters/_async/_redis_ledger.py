"""The ledger on Redis or Valkey."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from redis.exceptions import NoScriptError, ResponseError

from zddm_adapters._async._world_redis_ledger import (
    Redis,
    RedisCluster,
    check_client,
    drop,
    node_of,
    take_connection,
)
from zddm_adapters._redis_client import describe_redis
from zddm_adapters._redis_scripts import REAP_AT_ONCE, Call, Rows, check_server, is_durable, is_refusal
from zddm_flags.errors import NotApplied, Unsupported
from zddm_flags.ledger import (
    AsyncMigrationLedger,
    Checkpoint,
    CopyGrant,
    Grant,
    LedgerSummary,
    Opening,
    StalePage,
)
from zddm_flags.protocols import StoreInfo
from zddm_flags.rollout import checked_rate
from zddm_telemetry.events import report

__all__ = ["AsyncRedisLedger"]


class AsyncRedisLedger:
    """A ledger on Redis 7 or later, or Valkey: for many processes, one Lua script a call.

    A ledger that loses a mark makes reads stale, so mind what the server does with acknowledged data:

    - It must not evict. `maxmemory-policy` allkeys-* is refused with Unsupported, at the first call; noeviction
      and volatile-* do, as the ledger's keys have no time to live. Where the user may not call INFO nothing is
      checked.
    - It must keep an append-only file (`appendonly yes`), or a restart loses the ledger; without one a warning,
      `ledger_not_durable`, is logged. With `appendfsync everysec` a host that loses its power loses up to a second
      of marks, with `always` none. A failover to a replica that lags loses the latest marks. Neither can be seen
      afterwards, as what is left is whole: let no failover happen by itself, and after either go on as after a
      loss of the ledger.
    - Ages are measured by the server's clock, which is wall clock: slew it, do not step it. A step forward makes
      operations in progress look old, and they are reaped while they may still write.

    A loss that this object can see (rows that are gone, in part or as a whole, or made anew) raises LedgerMismatch
    from then on. A process that starts after a loss cannot see it: it finds no rows and makes them.

    A migration's rows are the five Redis keys `{prefix:name}:meta`, `:entries`, `:pending`, `:tokens` and
    `:checkpoints`, all in one slot of a cluster. They hold the migration's keys in their encoding, and no value.

    `begin`, `begin_copy` and `reset` are sent once, whatever `retry=` the client has; the other calls follow it
    (on a cluster they too are sent once). A new connection is tried as often as `retry=` says, which harms
    nothing but takes time. So make the client with a `socket_timeout`, a `socket_connect_timeout` and a `retry`
    that together stay well below the proxy's `max_operation_seconds`. Thread-safe, as the client is.

    Args:
        client: a `redis.asyncio.Redis` or `RedisCluster`; it stays the caller's to close. Not one that decodes.
        prefix: what the names of the Redis keys begin with: ASCII letters, digits and any of `._-`.
        opened: the largest rate at which New may have been used before this ledger: 0.0 for a New that is empty,
            1.0 for one that is verified. At its first call this object raises the ledger's own to it.

    Raises:
        TypeError: the client belongs to the other world.
        ValueError: the client decodes replies, or `prefix` has other characters.
        InvalidRollout: `opened` is no rate.
    """

    shared = True

    def __init__(self, client: Redis | RedisCluster, *, prefix: str = "zddm", opened: float = 0.0) -> None:
        check_client(client)
        if client.get_encoder().decode_responses:
            raise ValueError("the ledger needs bytes: make its client without decode_responses=True")
        self._client = _Client(client)
        self._prefix = prefix
        self._opened = checked_rate(opened)
        Rows(prefix, "", "", 0.0, 0.0)  # refuses a prefix here, where it was given

    def migration(self, name: str, identity: str, token_seconds: float = 0.0) -> AsyncMigrationLedger:
        """The rows of the migration `name`. No I/O; the first call makes them if there are none.

        What its calls raise beside what `MigrationLedger` says: Unsupported, where the server cannot hold a
        ledger; ValueError for a token that is none; and what the driver raises.
        """
        return _AsyncRedisMigration(self._client, Rows(self._prefix, name, identity, self._opened, token_seconds))

    def describe(self) -> StoreInfo:
        """The number of the database, and what the names of the Redis keys begin with, without I/O."""
        return self._client.describe(self._prefix)


class _AsyncRedisMigration:
    """The rows of one migration on Redis. See `MigrationLedger`."""

    def __init__(self, client: _Client, rows: Rows) -> None:
        self._client = client
        self._rows = rows
        self.last_summary: Callable[[], LedgerSummary] = rows.last_summary

    async def begin(self, keys: Sequence[bytes], token: bytes) -> Grant:
        """See `MigrationLedger.begin`."""
        return self._rows.begun(keys, await self._send(self._rows.begin(keys, token)))

    async def begin_copy(self, keys: Sequence[bytes], token: bytes) -> CopyGrant:
        """See `MigrationLedger.begin_copy`."""
        return self._rows.begun_copy(keys, await self._send(self._rows.begin_copy(keys, token)))

    async def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        """See `MigrationLedger.end`."""
        self._rows.accept(await self._send(self._rows.end(outcomes, token)))

    async def withdraw(self, keys: Collection[bytes], token: bytes) -> None:
        """See `MigrationLedger.withdraw`."""
        self._rows.accept(await self._send(self._rows.withdraw(keys, token)))

    async def dirty(self, keys: Collection[bytes]) -> Collection[bytes]:
        """See `MigrationLedger.dirty`."""
        keys = tuple(keys)
        return self._rows.found(keys, await self._send(self._rows.dirty(keys)))

    async def alone(self, keys: Collection[bytes], token: bytes) -> Collection[bytes]:
        """See `MigrationLedger.alone`."""
        keys = tuple(keys)
        return self._rows.found(keys, await self._send(self._rows.alone(keys, token)))

    async def open_to(self, rate: float) -> Opening:
        """See `MigrationLedger.open_to`."""
        opening, _ = self._rows.accept(await self._send(self._rows.open_to(rate)))
        return opening

    async def reap(self, age_seconds: float, limit: int = 1000) -> int:
        """See `MigrationLedger.reap`. Counts a token once for each of its keys."""
        total = 0
        while total < limit:
            at_once = min(limit - total, REAP_AT_ONCE)
            reaped = self._rows.reaped(await self._send(self._rows.reap(age_seconds, at_once)))
            total += reaped
            if reaped < at_once:
                break
        return total

    async def summary(self) -> LedgerSummary:
        """See `MigrationLedger.summary`."""
        self._rows.accept(await self._send(self._rows.summary()))
        return self._rows.last_summary()

    async def stale_keys(self, cursor: str | None = None, limit: int = 1000) -> StalePage:
        """See `MigrationLedger.stale_keys`. May give a key twice."""
        return self._rows.stale_page(await self._send(self._rows.stale_keys(cursor, limit)))

    async def checkpoints(self) -> Mapping[str, Checkpoint]:
        """See `MigrationLedger.checkpoints`."""
        return self._rows.found_checkpoints(await self._send(self._rows.checkpoints()))

    async def save_checkpoint(self, name: str, data: str, version: int) -> bool:
        """See `MigrationLedger.save_checkpoint`."""
        return self._rows.was_done(await self._send(self._rows.save_checkpoint(name, data, version)))

    async def reset(self) -> bool:
        """See `MigrationLedger.reset`."""
        return self._rows.was_done(await self._send(self._rows.reset()))

    async def _send(self, call: Call) -> Sequence[Any]:
        return await self._client.send(call, self._rows.keys[0])


class _Client:
    """The caller's client, and whether its server was looked at."""

    def __init__(self, client: Redis | RedisCluster) -> None:
        # redis-py annotates one side and not the other, and otherwise in each release.
        self._client: Any = client
        self._clustered = isinstance(client, RedisCluster)
        self._checked = False

    def describe(self, collection: str) -> StoreInfo:
        """The database, without I/O."""
        return describe_redis(self._client, collection, cluster=self._clustered)

    async def send(self, call: Call, key: str) -> Sequence[Any]:
        """The reply to `call`. `key` tells the node of a cluster.

        Raises:
            NotApplied: the call must be sent once, and certainly nothing was done.
        """
        if not call.once:
            return await _run(self._client, call, await self._prepared(key))
        try:
            where = await self._prepared(key)
            connection = None if self._clustered else await take_connection(self._client.connection_pool)
        except Unsupported:
            raise
        except Exception as error:
            raise NotApplied("nothing was sent to the ledger's server") from error
        try:
            if connection is None:
                return await _run(self._client, call, where)
            return await self._run_on(connection, call)
        except Exception as error:
            if is_refusal(error):
                raise NotApplied("the ledger's server did not begin it") from error
            raise

    async def _run_on(self, connection: Any, call: Call) -> Sequence[Any]:
        """Run a script on a connection of the pool, and give it back."""
        try:
            return await _run(_Once(connection), call, {})
        except ResponseError:
            raise
        except BaseException:
            await drop(connection)  # a reply that is still to come must not meet the next command
            raise
        finally:
            await self._client.connection_pool.release(connection)

    async def _prepared(self, key: str) -> dict[str, Any]:
        """Look at the server before the ledger is first used. Returns where to send the scripts.

        Where redis-py is told the node of a cluster it follows redirections, which mean that nothing was done
        yet, and never sends again after an error.
        """
        where = {"target_nodes": await node_of(self._client, key)} if self._clustered else {}
        if not self._checked:
            infos = await self._infos()
            for info in infos:
                check_server(info)
            known, self._checked = self._checked, True
            if not known and not all(map(is_durable, infos)):  # one of those that looked at the same time tells
                report("warning", "ledger_not_durable", advice=_NOT_DURABLE)
        return where

    async def _infos(self) -> list[Mapping[str, Any]]:
        """What the server, or every primary of the cluster, tells of itself; nothing, where we may not ask."""
        try:
            if not self._clustered:
                return [await self._client.info()]
            return [await self._client.info(target_nodes=node) for node in self._client.get_primaries()]
        except ResponseError as error:
            if is_refusal(error):
                raise
            return []


class _Once:
    """Executes commands on one connection. It is redis-py's clients that send again, not its connections."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute_command(self, *arguments: object) -> Any:
        await self._connection.send_command(*arguments)
        return await self._connection.read_response()


async def _run(client: Any, call: Call, where: Mapping[str, Any]) -> Sequence[Any]:
    """Run a script. NOSCRIPT means that the server does not know it, and so did not run it."""
    script = call.script
    try:
        reply = await client.execute_command("EVALSHA", script.digest, *call.arguments, **where)
    except NoScriptError:
        reply = await client.execute_command("EVAL", script.text, *call.arguments, **where)
    return cast(Sequence[Any], reply)


_NOT_DURABLE = (
    "the ledger's server keeps no append-only file, so a restart loses the ledger: set appendonly yes. After a "
    "loss keep the rollout at 0 until New was emptied or verified"
)
