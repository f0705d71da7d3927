"""The adapter and the ledger on Redis keep the contract that they are held to, against a real server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis

from zddm_adapters.redis import AsyncRedisAdapter, AsyncRedisLedger, RedisAdapter, RedisLedger
from zddm_flags.testing.contract import (
    AsyncLedgerContract,
    AsyncStorageAdapterContract,
    LedgerContract,
    StorageAdapterContract,
)

DATABASE = 13
"""Of these tests alone: a scan walks all keys of its database."""


class Valkey:
    """A prefix of its own for each test."""

    values = (b"", b"\0", b"None", bytes(range(256)))
    refused_values = (None, {})

    def make_value(self, number: int) -> bytes:
        return b"value-%d" % number

    @pytest.fixture(autouse=True)
    def server(self, valkey_server):
        self.path = str(valkey_server._socket)
        self.prefix = uuid.uuid4().hex
        with redis.Redis(unix_socket_path=self.path, db=DATABASE) as client:
            client.flushdb()

    def lose(self) -> Any:
        with redis.Redis(unix_socket_path=self.path, db=DATABASE) as client:
            client.delete(*client.keys(f"*{self.prefix}*"))


class TestRedisAdapter(Valkey, StorageAdapterContract):
    def adapter(self) -> Iterator[Any]:
        with redis.Redis(unix_socket_path=self.path, db=DATABASE) as client:
            yield RedisAdapter(client, prefix=self.prefix)

    def another_adapter(self, adapter: Any) -> Iterator[Any]:
        yield from self.adapter()


class TestAsyncRedisAdapter(Valkey, AsyncStorageAdapterContract):
    async def adapter(self) -> AsyncIterator[Any]:
        async with AsyncRedis(unix_socket_path=self.path, db=DATABASE) as client:
            yield AsyncRedisAdapter(client, prefix=self.prefix)


class TestRedisLedger(Valkey, LedgerContract):
    def ledger(self) -> Iterator[Any]:
        with redis.Redis(unix_socket_path=self.path, db=DATABASE) as client:
            yield RedisLedger(client, prefix=self.prefix)

    def another_ledger(self, ledger: Any) -> Iterator[Any]:
        yield from self.ledger()


class TestAsyncRedisLedger(Valkey, AsyncLedgerContract):
    async def ledger(self) -> AsyncIterator[Any]:
        async with AsyncRedis(unix_socket_path=self.path, db=DATABASE) as client:
            yield AsyncRedisLedger(client, prefix=self.prefix)

    async def another_ledger(self, ledger: Any) -> AsyncIterator[Any]:
        async for another in self.ledger():
            yield another

    async def lose(self) -> None:
        Valkey.lose(self)
