# Generated from adapters/zddm_adapters/_async/_redis.py by `make generate`. Do not edit.
"""String keys of Redis or Valkey as a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from redis.exceptions import ClusterCrossSlotError

from zddm_adapters._codecs import BytesCodec, Codec
from zddm_adapters._redis_client import check_settings, describe_redis
from zddm_adapters._redis_errors import certainly_not_applied
from zddm_adapters._redis_keys import KeySpace, ScanCursor
from zddm_adapters._sync._world_redis import Client, check_client, renew_if_closed
from zddm_flags.errors import NotApplied, Unsupported, ValueRefused
from zddm_flags.protocols import Page, StoreInfo

__all__ = ["RedisAdapter"]

UNCONNECTED = "there was no connection to the server, so that nothing was sent"

K = TypeVar("K")
V = TypeVar("V")
OwnK = TypeVar("OwnK")
OwnV = TypeVar("OwnV")


class RedisAdapter(Generic[K, V]):
    """The string keys below a prefix, in Redis or Valkey: one server, Sentinel's or a cluster.

    Keys are str, stored in UTF-8, and values are bytes, unless said otherwise. `codec=JsonCodec()` stores what
    JSON can hold. Thread-safe, as redis-py's clients are. ::

        client = Redis.from_url("rediss://...", socket_timeout=2, socket_connect_timeout=1)
        users = RedisAdapter(client, prefix="users:", codec=JsonCodec())

    A write is sent once, whatever the client's `retry`: were it repeated after its answer was lost, the lost one
    could land after the repetition was acknowledged, over a newer value. `retry` is for reads and for connecting.
    A write is sent within `max_wait_seconds` or never, and its answer awaited for the client's `socket_timeout`;
    keep the two together within the proxy's `max_call_seconds`. Redis itself knows no deadline.

    `NotApplied` is raised from the error where it is certain that a write took no effect: a key or value that
    cannot be encoded, no connection in time, or the server's word that it refused (READONLY, OOM, NOPERM, LOADING
    and their like). Any other error of a write passes as it is, and means "unknown": a lost connection or a
    time-out above all.

    Mind these:

    - What the server acknowledged must not be taken back. A New that merely loses an entry, by eviction, costs
      another copy as long as Old is there; set `maxmemory-policy noeviction` before Old is switched off. But a
      New that brings an older value or a deleted key back breaks the promise unseen: after a failover to a
      replica, which lags behind its primary, or after a crash with snapshots or `appendfsync everysec`. Use
      `appendfsync always`, and after a failover repair New before it is read again. An Old that evicts or fails
      over loses data by itself.
    - Values that expire are not for this adapter: it neither reads, copies nor sets a time to live. A write makes
      its key permanent, a copy outlives what it was copied from, and New keeps what expired in Old. Put the moment
      of expiry into the value, or give keys their time to live when the migration is over.
    - A key that holds no string raises, in reads and in scans, and is replaced by a write.
    - A batch is one command, all or nothing. In a cluster it is one command after another, not all or nothing,
      with as many round trips as keys; and the client must be made with `retry=Retry(NoBackoff(), 0)`.
    - A scan walks all keys of the database, those outside the prefix too, and may give a key more than once. A
      cursor ends with the life of the server: after a restart or failover the scan begins anew. A cluster cannot
      be scanned as one: scan each primary with an adapter and a `Redis` client of its own, while no slot moves.

    Args:
        client: a `Redis` or `RedisCluster` without `decode_responses`; it stays the caller's to close.
        prefix: what all keys of this store begin with, and no others; "" for a database of its own.
        codec: makes bytes of values, and back; None for values that are bytes.
        encode_key: makes bytes of a key; different keys must give different bytes. None for str keys. Keys that
            are bytes need `encode_key=bytes, decode_key=bytes`.
        decode_key: undoes `encode_key`; needed to scan where that is given.
        strong_reads: False where reads may lag, so that nothing is copied from this store: from a replica, or
            from the client's own cache.
        max_wait_seconds: above 0. A write that got no connection for so long is not sent and raises `NotApplied`.
            In a cluster the client's own time-outs take its place.

    Raises:
        TypeError: the client belongs to the other world.
        ValueError: the client decodes replies, reads weakly though `strong_reads` says otherwise, or is a
            cluster's and repeats writes; or `max_wait_seconds` is not above 0.
    """

    @overload
    def __init__(
        self: RedisAdapter[str, bytes],
        client: Client,
        *,
        prefix: str | bytes = "",
        codec: None = None,
        encode_key: None = None,
        decode_key: None = None,
        strong_reads: bool = True,
        max_wait_seconds: float = 5.0,
    ) -> None: ...
    @overload
    def __init__(
        self: RedisAdapter[str, OwnV],
        client: Client,
        *,
        prefix: str | bytes = "",
        codec: Codec[OwnV],
        encode_key: None = None,
        decode_key: None = None,
        strong_reads: bool = True,
        max_wait_seconds: float = 5.0,
    ) -> None: ...
    @overload
    def __init__(
        self: RedisAdapter[OwnK, bytes],
        client: Client,
        *,
        prefix: str | bytes = "",
        codec: None = None,
        encode_key: Callable[[OwnK], bytes],
        decode_key: Callable[[bytes], OwnK] | None = None,
        strong_reads: bool = True,
        max_wait_seconds: float = 5.0,
    ) -> None: ...
    @overload
    def __init__(
        self: RedisAdapter[OwnK, OwnV],
        client: Client,
        *,
        prefix: str | bytes = "",
        codec: Codec[OwnV],
        encode_key: Callable[[OwnK], bytes],
        decode_key: Callable[[bytes], OwnK] | None = None,
        strong_reads: bool = True,
        max_wait_seconds: float = 5.0,
    ) -> None: ...
    def __init__(
        self,
        client: Client,
        *,
        prefix: str | bytes = "",
        codec: Codec[Any] | None = None,
        encode_key: Callable[[Any], bytes] | None = None,
        decode_key: Callable[[bytes], Any] | None = None,
        strong_reads: bool = True,
        max_wait_seconds: float = 5.0,
    ) -> None:
        self._cluster = check_client(client)
        check_settings(client, cluster=self._cluster, strong_reads=strong_reads)
        if not max_wait_seconds > 0:
            raise ValueError("max_wait_seconds must be above 0")
        if encode_key is None:
            encode_key, decode_key = _encode_str, decode_key or _decode_str
        self._client: Any = client  # redis-py's annotations mix the two worlds
        self._codec: Codec[Any] = codec or BytesCodec()
        self._keys: KeySpace[Any] = KeySpace(prefix, encode_key, decode_key)
        self._strong_reads = strong_reads
        self._max_wait_seconds = max_wait_seconds

    def read(self, key: K) -> V | None:
        """The value of `key`, or None where there is none."""
        stored = self._client.get(self._keys.name(key))
        return None if stored is None else self._load(stored)

    def write(self, key: K, value: V) -> None:
        """Insert or replace, for good. Raises `NotApplied` from the cause where that is sure."""
        self._apply([("SET", *self._pair(key, value))])

    def delete(self, key: K) -> None:
        """Remove `key`; no error where it is absent."""
        self._apply([("DEL", self._name(key))])

    def read_many(self, keys: Sequence[K]) -> dict[K, V]:
        """The values of `keys`; absent keys are left out."""
        stored = self._stored([self._keys.name(key) for key in keys])
        return {key: self._load(data) for key, data in zip(keys, stored, strict=True) if data is not None}

    def write_many(self, items: Mapping[K, V]) -> None:
        """Insert or replace each, for good; all or nothing, except in a cluster."""
        pairs = [self._pair(key, value) for key, value in items.items()]
        if self._cluster:
            self._apply([("SET", *pair) for pair in pairs])
        elif pairs:
            self._apply([("MSET", *(part for pair in pairs for part in pair))])

    def delete_many(self, keys: Sequence[K]) -> None:
        """Remove each, all or nothing, except in a cluster; no error where one is absent."""
        names = [self._name(key) for key in keys]
        if self._cluster:
            self._apply([("DEL", name) for name in names])
        elif names:
            self._apply([("DEL", *names)])

    def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[K, V]:
        """At most `limit` items after `cursor`, in no order; a page may be empty though more pages follow.

        What is there from the first page to the last is given once or more; what comes or goes meanwhile, perhaps.

        Raises:
            ValueError: `cursor` is none of a Redis adapter, `limit` is below 1, or `until` is given.
            Unsupported: the store is a cluster, or there is `encode_key` without `decode_key`.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        if until is not None:
            raise ValueError("a scan of Redis knows no ranges: until must be None")
        if self._cluster:
            raise Unsupported("a cluster cannot be scanned as one: scan each primary with a client of its own")
        place = None if cursor is None else ScanCursor.parse(cursor)
        position = 0 if place is None else place.position
        together = self._client.pipeline(transaction=False)  # on one connection, so that one server answers both
        together.info("server")
        together.scan(position, match=self._keys.pattern, count=limit)
        server, (end, found) = _raised(together.execute(raise_on_error=False))
        if place is not None and place.run != server["run_id"]:
            return self.scan(None, limit)  # another life's cursor would skip keys
        names, following = (place or ScanCursor(server["run_id"])).page(found, int(end), limit)
        stored = self._stored(names)
        items: list[tuple[K, V]] = [
            (self._keys.key(name), self._load(data))
            for name, data in zip(names, stored, strict=True)
            if data is not None
        ]
        return Page(items, None if following is None else str(following))

    def partitions(self, count: int) -> list[tuple[str | None, str | None]]:
        """The whole store as one range, for Redis knows no others. Raises ValueError where `count` is below 1."""
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        return [(None, None)]

    def count(self) -> int:
        """How many keys the database holds now, those outside the prefix too: at most so many are the store's.

        Raises:
            Unsupported: the store is a cluster.
        """
        if self._cluster:
            raise Unsupported("a cluster cannot be counted as one: count each primary with a client of its own")
        keys: int = self._client.dbsize()
        return keys

    def describe(self) -> StoreInfo:
        """The prefix and the number of the database, without I/O. Valkey is called `redis` too."""
        prefix = self._keys.prefix.decode(errors="replace") or None
        return describe_redis(self._client, prefix, cluster=self._cluster, strong_reads=self._strong_reads)

    def _stored(self, names: list[bytes]) -> list[bytes | None]:
        """What is stored under each of `names`. Raises where that is not a string."""
        if self._cluster:
            return [self._client.get(name) for name in names]
        if not names:
            return []
        found: list[bytes | None]
        is_cross_slot = False
        try:
            found = self._client.mget(names)
        except ClusterCrossSlotError:  # from a client of one of a cluster's servers, which is how they are scanned
            is_cross_slot = True
            found = [None] * len(names)
        absent = [place for place, data in enumerate(found) if data is None]
        # MGET answers nil for a list or a hash as well, and what is there must not read as absent. Mostly nothing
        # is there, which one command tells of all of them.
        if absent and (is_cross_slot or self._client.exists(*(names[place] for place in absent))):
            together = self._client.pipeline(transaction=False)
            for place in absent:
                together.get(names[place])
            for place, data in zip(absent, _raised(together.execute(raise_on_error=False)), strict=True):
                found[place] = data
        return found

    def _apply(self, commands: Sequence[tuple[str | bytes, ...]]) -> None:
        """Run one command after another; several only in a cluster."""
        for number, command in enumerate(commands):
            try:
                self._send(command)
            except Exception as error:
                if number == 0 and certainly_not_applied(error):
                    raise NotApplied("the server refused the write") from error
                raise

    def _send(self, command: tuple[str | bytes, ...]) -> None:
        """Send a command once, and see its answer."""
        if self._cluster:
            self._client.execute_command(*command)
            return
        pool = self._client.connection_pool
        asked_at = time.monotonic()
        try:
            connection = pool.get_connection()
        except Exception as error:
            raise NotApplied(UNCONNECTED) from error
        try:
            try:
                renew_if_closed(connection)
            except Exception as error:
                raise NotApplied(UNCONNECTED) from error
            if time.monotonic() - asked_at > self._max_wait_seconds:
                # What is sent now could land when its token is reaped, over a later write (H5).
                raise NotApplied(UNCONNECTED) from TimeoutError("no connection within max_wait_seconds")
            connection.send_command(*command, check_health=False)
            connection.read_response()
        finally:
            pool.release(connection)

    def _name(self, key: K) -> bytes:
        try:
            return self._keys.name(key)
        except Exception as error:
            raise ValueRefused("the key was refused before the server was asked") from error

    def _pair(self, key: K, value: V) -> tuple[bytes, bytes]:
        name = self._name(key)
        try:
            return name, self._dump(value)
        except Exception as error:
            raise ValueRefused("the value was refused before the server was asked") from error

    def _dump(self, value: V) -> bytes:
        if value is None:
            raise TypeError("a value must not be None: delete the key")
        data = self._codec.dumps(value)
        if not isinstance(data, bytes):
            raise TypeError(f"a stored value must be bytes, not {type(data).__name__}: give the adapter a codec=")
        return data

    def _load(self, data: bytes) -> V:
        value: V = self._codec.loads(data)
        if value is None:
            # A present key that read as absent would be copied over, or deleted, as if it were not there.
            raise TypeError("the codec's loads returned None for a value that is there")
        return value


def _raised(answers: list[Any]) -> list[Any]:
    # redis-py itself would put the command, with its keys, into the error's text.
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _encode_str(key: str) -> bytes:
    if not isinstance(key, str):
        raise TypeError(
            f"a key must be str, not {type(key).__name__}: give the adapter encode_key= and decode_key="
        )
    return key.encode()


def _decode_str(name: bytes) -> str:
    return name.decode()
