"""The Redis adapter against a real Valkey server, in both worlds from one test body."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.exceptions import NoPermissionError, OutOfMemoryError
from redis.retry import Retry

from tests.servers import ValkeyServer
from tests.worlds import settle
from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_adapters._redis_errors import certainly_not_applied
from zddm_adapters._redis_keys import KeySpace, ScanCursor
from zddm_adapters.redis import AsyncRedisAdapter, JsonCodec, RedisAdapter
from zddm_flags import AsyncProxy, Proxy, TrafficGate
from zddm_flags.errors import NotApplied, Unsupported
from zddm_flags.protocols import (
    AsyncScannable,
    AsyncStorageAdapter,
    AsyncSupportsDelete,
    AsyncSupportsDeleteMany,
    AsyncSupportsReadMany,
    AsyncSupportsWriteMany,
    Scannable,
    StorageAdapter,
    SupportsDelete,
    SupportsDeleteMany,
    SupportsReadMany,
    SupportsWriteMany,
)

DATABASE = 3  # of its own, so that a test may empty it
UNLIMITED = 0


class World:
    """Makes clients and adapters of one world for one server."""

    def __init__(self, server: ValkeyServer, *, asyncio: bool) -> None:
        self.server = server
        self.asyncio = asyncio
        self.beside = redis.Redis(host=server.host, port=server.port, db=DATABASE)
        self.clients: list[Any] = []

    def client(self, **options: Any) -> Any:
        """One more client of this world; it is closed after the test."""
        kind: Any = redis.asyncio.Redis if self.asyncio else redis.Redis
        client = kind(**{"host": self.server.host, "port": self.server.port, "db": DATABASE} | options)
        self.clients.append(client)
        return client

    def adapter(self, client: Any = None, **options: Any) -> Any:
        """The adapter of this world."""
        kind: Any = AsyncRedisAdapter if self.asyncio else RedisAdapter
        return kind(self.client() if client is None else client, **options)

    def retry(self, attempts: int) -> Any:
        """A retry of this world, without waiting."""
        return AsyncRetry(NoBackoff(), attempts) if self.asyncio else Retry(NoBackoff(), attempts)

    async def halt(self) -> None:
        """Stop the server, and let the event loop see that the connections are gone."""
        await asyncio.to_thread(self.server.halt)

    def start(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run a call of this world beside the test."""
        return asyncio.ensure_future(call() if self.asyncio else asyncio.to_thread(call))


@pytest.fixture(params=["blocking", "asyncio"])
async def world(request: pytest.FixtureRequest, valkey_server: ValkeyServer) -> AsyncIterator[World]:
    """Both worlds, over an empty database."""
    found = World(valkey_server, asyncio=request.param == "asyncio")
    found.beside.flushdb()
    yield found
    for client in found.clients:
        await settle(client.aclose() if found.asyncio else client.close())
    found.beside.close()


@pytest.fixture
def adapter(world: World) -> Any:
    return world.adapter(prefix="users:")


async def walk(adapter: Any, limit: int = 7, between: Callable[[], Any] | None = None) -> list[Any]:
    """All items of a scan, with a call between its pages."""
    items: list[Any] = []
    cursor = None
    while True:
        page = await settle(adapter.scan(cursor, limit))
        assert len(page.items) <= limit
        items += page.items
        if page.next_cursor is None:
            return items
        cursor = page.next_cursor
        if between is not None:
            between()


async def eventually(check: Callable[[], bool]) -> None:
    """Wait until `check` holds."""
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def full(beside: redis.Redis) -> Iterator[None]:
    """The server has no memory for another write."""
    beside.config_set("maxmemory", 1)
    try:
        yield
    finally:
        beside.config_set("maxmemory", UNLIMITED)


@contextlib.contextmanager
def paused(world: World) -> Iterator[None]:
    """The server lets writes wait."""
    world.beside.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
    try:
        yield
    finally:
        world.beside.execute_command("CLIENT", "UNPAUSE")


class TestSingle:
    async def test_write_then_read(self, adapter, world):
        """A written value reads as it was written, the empty one too; an absent key reads as None."""
        assert await settle(adapter.read("ann")) is None
        for value in (b"", b"\x00\xff\r\n", b"x" * 100_000):
            await settle(adapter.write("ann", value))
            assert await settle(adapter.read("ann")) == value
            assert world.beside.get("users:ann") == value

    async def test_delete(self, adapter, world):
        """Delete removes one key, and does not mind an absent one."""
        await settle(adapter.write_many({"ann": b"1", "bob": b"2"}))
        await settle(adapter.delete("ann"))
        await settle(adapter.delete("ann"))
        assert world.beside.keys() == [b"users:bob"]

    @pytest.mark.parametrize("key", ["", "a b", "日本語🙂", "\x00\r\n*1\r\n", "{tag}:1", "*?[a]\\"])
    async def test_keys_of_text(self, adapter, key):
        """Any text is a key: it reads, scans and deletes as itself."""
        await settle(adapter.write(key, b"1"))
        assert await settle(adapter.read(key)) == b"1"
        assert await walk(adapter) == [(key, b"1")]
        assert await settle(adapter.read_many([key, key + "x"])) == {key: b"1"}
        await settle(adapter.delete(key))
        assert await settle(adapter.read(key)) is None

    async def test_binary_keys(self, world):
        """Keys of bytes are what they are, with a prefix of bytes."""
        adapter = world.adapter(prefix=b"\xff*", encode_key=bytes, decode_key=bytes)
        keys = [b"", b"\xff", b"\x00", bytes(range(256))]
        await settle(adapter.write_many(dict.fromkeys(keys, b"1")))
        assert set(world.beside.keys()) == {b"\xff*" + key for key in keys}
        assert sorted(key for key, _ in await walk(adapter)) == sorted(keys)

    async def test_keys_of_ones_own(self, world):
        """Any key goes with a pair of functions; without the second one there is no scan."""
        adapter = world.adapter(prefix="n", encode_key=lambda key: b"%d" % key, decode_key=int)
        await settle(adapter.write(7, b"seven"))
        assert world.beside.get("n7") == b"seven"
        assert await walk(adapter) == [(7, b"seven")]
        with pytest.raises(Unsupported, match="decode_key="):
            await settle(world.adapter(prefix="n", encode_key=lambda key: b"%d" % key).scan())

    async def test_json(self, world):
        """The JSON codec stores JSON, which others can read."""
        adapter = world.adapter(codec=JsonCodec())
        value = {"name": "Zoë", "tags": [1, 2.5, None, True], "": {}}
        await settle(adapter.write("a", value))
        assert await settle(adapter.read("a")) == value
        assert world.beside.get("a") == '{"name":"Zoë","tags":[1,2.5,null,true],"":{}}'.encode()
        world.beside.set("a", "null")
        with pytest.raises(TypeError, match="None"):
            await settle(adapter.read("a"))

    async def test_protocols(self, adapter, world):
        """The adapter offers all that an adapter may offer."""
        kinds: tuple[Any, ...] = (StorageAdapter, SupportsDelete, Scannable)
        kinds += (SupportsReadMany, SupportsWriteMany, SupportsDeleteMany)
        if world.asyncio:
            kinds = (AsyncStorageAdapter, AsyncSupportsDelete, AsyncScannable)
            kinds += (AsyncSupportsReadMany, AsyncSupportsWriteMany, AsyncSupportsDeleteMany)
        assert all(isinstance(adapter, kind) for kind in kinds)

    async def test_describe(self, adapter, world):
        """The adapter says which database and prefix it is, without I/O."""
        info = adapter.describe()
        assert (info.system, info.collection, info.namespace) == ("redis", "users:", str(DATABASE))
        assert (info.remote, info.strong_reads, info.expires) == (True, True, False)
        info = world.adapter(world.client(db=0, port=1), strong_reads=False).describe()
        assert (info.collection, info.namespace, info.strong_reads) == (None, "0", False)

    async def test_a_write_is_permanent(self, adapter, world):
        """A write drops a time to live, as the documentation says, in a batch as well."""
        for key in ("ann", "bob"):
            world.beside.set(f"users:{key}", b"old", ex=1000)
        await settle(adapter.write("ann", b"1"))
        await settle(adapter.write_many({"bob": b"2"}))
        assert [world.beside.ttl(f"users:{key}") for key in ("ann", "bob")] == [-1, -1]


class TestBatches:
    async def test_thousands_of_keys(self, adapter, world):
        """Large batches are whole."""
        items = {f"k{number}": str(number).encode() for number in range(20_000)}
        await settle(adapter.write_many(items))
        assert world.beside.dbsize() == 20_000
        assert await settle(adapter.read_many(["none", *items])) == items
        await settle(adapter.delete_many([key for key in items if key != "k7"]))
        assert world.beside.keys() == [b"users:k7"]

    async def test_batches_insert_and_replace(self, adapter, world):
        """A batch inserts what is new and replaces the rest; repeated and absent keys are no matter."""
        await settle(adapter.write_many({"1": b"a", "2": b"a"}))
        await settle(adapter.write_many({"3": b"b", "2": b""}))
        assert await settle(adapter.read_many(["3", "1", "3", "9", "2"])) == {"1": b"a", "2": b"", "3": b"b"}
        await settle(adapter.delete_many(["1", "1", "9", "3"]))
        assert world.beside.keys() == [b"users:2"]

    async def test_empty_batches(self, world):
        """An empty batch asks nothing of the server."""
        adapter = world.adapter(world.client(port=1))
        await settle(adapter.write_many({}))
        await settle(adapter.delete_many([]))
        assert await settle(adapter.read_many([])) == {}

    async def test_what_is_no_string_does_not_read_as_absent(self, adapter, world):
        """A key that holds a list raises in every kind of read."""
        world.beside.rpush("users:list", "x")
        for read in (lambda: adapter.read("list"), lambda: adapter.read_many(["a", "list"]), adapter.scan):
            with pytest.raises(redis.ResponseError, match="WRONGTYPE") as caught:
                await settle(read())
            assert "users:" not in str(caught.value)


class TestScan:
    @pytest.mark.parametrize("limit", [1, 7, 100, 5000])
    async def test_scan_gives_every_key(self, adapter, world, limit):
        """A scan gives every key of the prefix, and no other, whatever the page size."""
        items = {f"k{number}": str(number).encode() for number in range(400)}
        await settle(adapter.write_many(items))
        world.beside.mset({f"user{number}:": b"" for number in range(300)})
        found = await walk(adapter, limit)
        assert dict(found) == items
        assert len(found) == len(items)  # nothing changed meanwhile, so nothing was repeated

    async def test_an_empty_store(self, adapter):
        """A store without keys scans as empty, and is one range."""
        assert await walk(adapter) == []
        assert await settle(adapter.partitions(4)) == [(None, None)]

    async def test_count(self, adapter, world):
        """The count is that of the database: what stands outside the prefix is in it."""
        assert await settle(adapter.count()) == 0
        await settle(adapter.write_many({"a": b"1", "b": b"2"}))
        await settle(adapter.write("a", b"3"))
        assert await settle(adapter.count()) == 2
        world.beside.set("orders:1", b"")
        assert await settle(adapter.count()) == 3

    @pytest.mark.parametrize("limit", [3, 50])
    async def test_what_is_there_throughout_is_given(self, adapter, world, limit):
        """Keys that are there all the while are given, though the server's table grows and shrinks meanwhile."""
        steady = {f"steady{number}" for number in range(300)}
        await settle(adapter.write_many(dict.fromkeys(steady, b"1")))
        numbers, choice = itertools.count(), random.Random(4)

        def churn() -> None:
            if choice.random() < 0.5:
                world.beside.mset({f"users:new{next(numbers)}": b"2" for _ in range(choice.choice([1, 300]))})
            elif names := world.beside.keys("users:new*"):
                world.beside.delete(*choice.sample(names, choice.randint(1, len(names))))

        found = await walk(adapter, limit, churn)
        assert steady <= {key for key, _ in found}

    async def test_a_restart_of_the_server_begins_the_scan_anew(self, adapter, world):
        """A cursor of the server's former life, whose order is gone, skips nothing."""
        items = {f"k{number}": b"1" for number in range(500)}
        await settle(adapter.write_many(items))
        page = await settle(adapter.scan(None, 250))
        assert page.next_cursor is not None
        world.server.halt()
        world.server.launch()
        found: dict[str, bytes] = {}
        cursor: str | None = page.next_cursor
        while cursor is not None:
            page = await settle(adapter.scan(cursor, 250))
            found.update(page.items)
            cursor = page.next_cursor
        assert found == items

    @pytest.mark.parametrize("cursor", ["", "0", "nonsense", "a:b", "a:1:2", "a:1:2:f", ":1"])
    async def test_what_is_no_cursor_is_refused(self, adapter, cursor):
        """A cursor of something else raises instead of beginning anywhere."""
        with pytest.raises(ValueError, match="cursor"):
            await settle(adapter.scan(cursor))

    async def test_what_a_scan_cannot_do_is_refused(self, adapter):
        """A page or number of ranges below one raises, and so does the end of a range."""
        with pytest.raises(ValueError, match="at least 1"):
            await settle(adapter.scan(None, 0))
        with pytest.raises(ValueError, match="at least 1"):
            await settle(adapter.partitions(0))
        with pytest.raises(ValueError, match="until"):
            await settle(adapter.scan(None, 5, "x:1"))

    def test_a_reply_larger_than_a_page_is_given_in_pages(self):
        """A reply's names are given once over several pages, and anew where the reply changed."""
        names = [b"d", b"a", b"c", b"b", b"a"]
        given, place = ScanCursor("run", 5).page(names, 9, 3)
        assert given == [b"a", b"b", b"c"]
        assert place is not None
        assert ScanCursor.parse(str(place)) == place
        assert place.page(names, 9, 3) == ([b"d"], ScanCursor("run", 9))
        assert place.page([*names, b"bb"], 0, 9)[0] == [b"a", b"b", b"bb", b"c", b"d"]
        assert place.page(names, 0, 9)[1] is None


TEXT = st.text(
    st.one_of(st.sampled_from("*?[]^-\\{}:a\x00"), st.characters(exclude_categories=["Cs"])), max_size=8
)


class TestKeys:
    @given(prefix=TEXT, key=TEXT)
    def test_a_key_comes_back(self, prefix, key):
        """Every key has a name below the prefix, which gives the key back."""
        keys: KeySpace[str] = KeySpace(prefix, str.encode, bytes.decode)
        assert keys.name(key) == (prefix + key).encode()
        assert keys.key(keys.name(key)) == key

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(prefix=TEXT, others=st.sets(TEXT, max_size=5))
    @example(prefix="*", others=set())
    @example(prefix="[u]?", others={"ux", "uy"})
    @example(prefix="\\", others={"\\*"})
    def test_a_prefix_is_no_pattern(self, valkey_server, prefix, others):
        """A scan gives just the keys that begin with the prefix, whatever characters it has."""
        with redis.Redis(host=valkey_server.host, port=valkey_server.port, db=DATABASE) as client:
            client.flushdb()
            names = {*others, *(prefix + key for key in others)}
            client.mset({"unrelated": b"", **dict.fromkeys(names, b"")})
            page = RedisAdapter(client, prefix=prefix).scan()
            wanted = {name.removeprefix(prefix) for name in {*names, "unrelated"} if name.startswith(prefix)}
            assert {key for key, _ in page.items} == wanted
            assert page.next_cursor is None


class Wire:
    """A relay before the server that can cut a connection when the server's reply comes, and that counts."""

    def __init__(self, server: ValkeyServer) -> None:
        self.target = (server.host, server.port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.cut = False
        self.sets = 0
        self._sockets: list[socket.socket] = [self.listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.target)
                self._sockets += [near, far]
                for ends, replies in ((near, far), False), ((far, near), True):
                    self._threads.append(threading.Thread(target=self._relay, args=(*ends, replies)))
                    self._threads[-1].start()

    def _relay(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.sets += 0 if replies else data.count(b"\r\nSET\r\n")
                if replies and self.cut:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def wire(world: World) -> Iterator[Wire]:
    found = Wire(world.server)
    yield found
    found.close()


class TestCertainty:
    @pytest.mark.parametrize("value", [None, "text", 5, bytearray(b"x")])
    async def test_values_that_are_no_bytes(self, world, value):
        """A value that is no bytes is refused before the server is asked, and that is certain."""
        adapter = world.adapter(world.client(port=1))
        for write in (lambda: adapter.write("a", value), lambda: adapter.write_many({"b": b"", "a": value})):
            with pytest.raises(NotApplied) as caught:
                await settle(write())
            assert isinstance(caught.value.__cause__, TypeError)

    async def test_keys_that_are_no_text(self, world):
        """b"a" and "a" would be one key of the server, so without functions of its own only text is a key."""
        adapter = world.adapter(world.client(port=1))
        for change in (
            lambda: adapter.write(b"a", b""),
            lambda: adapter.write_many({1: b""}),
            lambda: adapter.delete(b"a"),
            lambda: adapter.delete_many([b"a"]),
        ):
            with pytest.raises(NotApplied) as caught:
                await settle(change())
            assert "encode_key=" in str(caught.value.__cause__)
        with pytest.raises(TypeError, match="encode_key="):
            await settle(adapter.read(b"a"))
        wrong = world.adapter(world.client(port=1), encode_key=str)
        with pytest.raises(NotApplied):
            await settle(wrong.write("a", b""))

    async def test_codecs_that_fail(self, world):
        """A value that the codec cannot encode is certainly not written."""
        adapter = world.adapter(world.client(port=1), codec=JsonCodec())
        for value in (None, {1, 2}, float("nan")):
            with pytest.raises(NotApplied):
                await settle(adapter.write("a", value))

    async def test_no_connection(self, world):
        """Where nobody listens nothing was sent, and that is certain."""
        adapter = world.adapter(world.client(port=1, retry=world.retry(1)))
        for change in (
            lambda: adapter.write("a", b""),
            lambda: adapter.delete("a"),
            lambda: adapter.write_many({"a": b""}),
            lambda: adapter.delete_many(["a"]),
        ):
            with pytest.raises(NotApplied) as caught:
                await settle(change())
            assert isinstance(caught.value.__cause__, redis.ConnectionError)

    async def test_a_restart_of_the_server(self, world):
        """While the server is down a write is certainly not applied; afterwards the same adapter goes on."""
        adapter = world.adapter(world.client(retry=world.retry(0)))
        await settle(adapter.write("a", b"1"))
        await world.halt()
        try:
            with pytest.raises(NotApplied):
                await settle(adapter.write("a", b"2"))
            with pytest.raises(redis.ConnectionError):
                await settle(adapter.read("a"))
        finally:
            world.server.launch()
        assert await settle(adapter.read("a")) == b"1"
        await settle(adapter.write("a", b"3"))
        assert world.beside.get("a") == b"3"

    async def test_a_lost_answer_means_unknown_and_is_not_repeated(self, world, wire):
        """A write whose answer was lost raises the driver's error, and was sent once though the client retries."""
        adapter = world.adapter(world.client(port=wire.port, retry=world.retry(3)))
        await settle(adapter.write("a", b"1"))
        wire.cut = True
        with pytest.raises(redis.ConnectionError):
            await settle(adapter.write("a", b"2"))
        assert world.beside.get("a") == b"2"
        assert wire.sets == 2
        wire.cut = False
        await settle(adapter.write("a", b"3"))
        assert await settle(adapter.read("a")) == b"3"

    async def test_a_time_out_means_unknown(self, world):
        """A write that timed out raises the driver's error, though here the server never ran it."""
        adapter = world.adapter(world.client(socket_timeout=0.1))
        await settle(adapter.read("a"))
        with paused(world), pytest.raises(redis.TimeoutError):
            await settle(adapter.write("a", b"1"))
        await settle(adapter.write("a", b"2"))

    async def test_a_connection_that_comes_late(self, world):
        """A write that waited too long for a connection is not sent, and that is certain."""
        kind: Any = redis.asyncio.BlockingConnectionPool if world.asyncio else redis.BlockingConnectionPool
        pool = kind(host=world.server.host, port=world.server.port, db=DATABASE, max_connections=1, timeout=20)
        client = world.client(connection_pool=pool)
        adapter = world.adapter(client, max_wait_seconds=0.05)
        await settle(adapter.write("a", b"1"))
        held = await settle(pool.get_connection())
        writing = world.start(lambda: adapter.write("a", b"2"))
        await asyncio.sleep(0.15)
        await settle(pool.release(held))
        with pytest.raises(NotApplied) as caught:
            await writing
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert await settle(adapter.read("a")) == b"1"
        await settle(pool.disconnect())

    async def test_a_cancelled_write_leaves_the_pool_healthy(self, world):
        """A cancelled write raises CancelledError, and its answer is not taken for another call's."""
        if not world.asyncio:
            pytest.skip("blocking calls are not cancelled")
        adapter = world.adapter(world.client(max_connections=1))
        await adapter.write("a", b"1")
        for _ in range(3):
            with paused(world):
                writing = asyncio.create_task(adapter.write("a", b"2"))
                await eventually(lambda: world.beside.info("clients")["blocked_clients"] == 1)
                writing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await writing
            assert await adapter.read("a") == b"1"
        await adapter.write("a", b"3")
        assert await adapter.read("a") == b"3"

    async def test_a_full_server(self, world, adapter):
        """OOM is certain, for one key and for all of a batch."""
        with full(world.beside):
            for write in (lambda: adapter.write("a", b"1"), lambda: adapter.write_many({"a": b"", "b": b""})):
                with pytest.raises(NotApplied) as caught:
                    await settle(write())
                assert isinstance(caught.value.__cause__, OutOfMemoryError)
        assert world.beside.dbsize() == 0
        await settle(adapter.write("a", b"1"))

    async def test_a_read_only_user(self, world):
        """NOPERM and a wrong password are certain."""
        world.beside.execute_command(
            "ACL", "SETUSER", "reader", "on", ">secret", "allkeys", "+@read", "+@connection"
        )
        try:
            adapter = world.adapter(world.client(username="reader", password="secret"))
            assert await settle(adapter.read("a")) is None
            with pytest.raises(NotApplied):
                await settle(adapter.write("a", b""))
            with pytest.raises(NotApplied):
                await settle(
                    world.adapter(world.client(username="reader", password="no", retry=world.retry(0))).delete("a")
                )
        finally:
            world.beside.execute_command("ACL", "DELUSER", "reader")

    async def test_a_replica(self, world, adapter):
        """READONLY is certain."""
        await settle(adapter.write("a", b"1"))
        world.beside.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            with pytest.raises(NotApplied) as caught:
                await settle(adapter.write("a", b"2"))
            assert isinstance(caught.value.__cause__, redis.ReadOnlyError)
        finally:
            world.beside.execute_command("REPLICAOF", "NO", "ONE")
        assert await settle(adapter.read("a")) == b"1"

    def test_which_replies_are_certain(self):
        """Only replies that come before any effect are certain, and only as an answer to the command itself."""
        assert certainly_not_applied(redis.ResponseError("MISCONF cannot persist"))
        assert certainly_not_applied(redis.BusyLoadingError("loading"))
        assert not certainly_not_applied(redis.ResponseError("upstream failure"))
        assert not certainly_not_applied(redis.ConnectionError("Connection closed by server."))
        assert not certainly_not_applied(redis.TimeoutError("Timeout reading from socket"))
        with pytest.raises(redis.BusyLoadingError) as caught:
            try:
                raise redis.ConnectionError("lost")
            except redis.ConnectionError:
                raise redis.BusyLoadingError("while it connected anew")  # noqa: B904 - the context is the claim
        assert not certainly_not_applied(caught.value)


class TestConstruction:
    def test_wrong_world(self):
        """A client of the other world is refused, and the text says what to use."""
        with pytest.raises(TypeError, match="AsyncRedisAdapter"):
            RedisAdapter(redis.asyncio.Redis())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType] - the claim
        with pytest.raises(TypeError, match=r"ThreadedAdapter\(RedisAdapter"):
            AsyncRedisAdapter(redis.Redis())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType] - the claim

    async def test_clients_that_decode(self, world):
        """A client that decodes replies is refused, and the text says what to do."""
        with pytest.raises(ValueError, match="decode_responses"):
            world.adapter(world.client(decode_responses=True))

    def test_a_cache_of_the_client(self):
        """A client with a cache of its own reads weakly: refused unless the caller says so."""
        client = redis.Redis(protocol=3, cache_config=CacheConfig())
        with pytest.raises(ValueError, match="strong_reads=False"):
            RedisAdapter(client)
        assert not RedisAdapter(client, strong_reads=False).describe().strong_reads

    @pytest.mark.parametrize("seconds", [0, -1, float("nan")])
    async def test_a_wait_of_nothing(self, world, seconds):
        """A wait that is not above 0 is refused."""
        with pytest.raises(ValueError, match="max_wait_seconds"):
            world.adapter(max_wait_seconds=seconds)


class TestProxy:
    async def test_a_migration_into_redis(self, world):
        """Through a proxy keys are copied, written to both, deleted from both, and served through an outage."""
        new = world.adapter(world.client(retry=world.retry(0)), prefix="new:")
        items = {f"k{number}": str(number).encode() for number in range(50)}
        gate = TrafficGate(1.0)
        proxy: Any
        old: Any
        if world.asyncio:
            old = AsyncInMemoryAdapter(items)
            proxy = AsyncProxy(gate, old, new, name="users")
        else:
            old = InMemoryAdapter(items)
            proxy = Proxy(gate, old, new, name="users")
        assert await settle(proxy.read("k1")) == b"1"
        assert world.beside.get("new:k1") == b"1"
        assert await settle(proxy.read_many(list(items))) == items
        await settle(proxy.write("k2", b"two"))
        await settle(proxy.write_many({"k3": b"three", "k4": b""}))
        await settle(proxy.delete("k5"))
        assert world.beside.mget("new:k2", "new:k3", "new:k4", "new:k5") == [b"two", b"three", b"", None]
        assert await settle(proxy.read("k4")) == b""
        await world.halt()
        try:
            await settle(proxy.write("k6", b"six"))
            assert await settle(proxy.read("k6")) == b"six"
        finally:
            world.server.launch()
        assert await settle(proxy.read("k6")) == b"six"
        assert world.beside.get("new:k6") == b"six"  # stale since the outage, and made right by that read
        await settle(proxy.close())

    async def test_a_migration_out_of_redis(self, world):
        """Redis serves as Old as well, between prefixes of one database."""
        old, new = world.adapter(prefix="old:"), world.adapter(prefix="new:")
        await settle(old.write("a", b"1"))
        kind: Any = AsyncProxy if world.asyncio else Proxy
        proxy = kind(TrafficGate(1.0), old, new, name="users")
        assert await settle(proxy.read("a")) == b"1"
        await settle(proxy.write("a", b"2"))
        assert world.beside.mget("old:a", "new:a") == [b"2", b"2"]
        await settle(proxy.close())


class ClusterServer(ValkeyServer):
    """A cluster of one node, which refuses commands across slots as a larger one does."""

    def _command(self) -> Sequence[str]:
        with socket.create_server((self.host, 0)) as bus:  # the default, 10000 above the port, may be no port
            bus_port = bus.getsockname()[1]
        return [*super()._command(), "--cluster-enabled", "yes", "--cluster-port", str(bus_port)]

    def launch(self) -> None:
        super().launch()
        with self.client() as client:
            if not client.execute_command("CLUSTER", "SLOTS"):
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)


@pytest.fixture(scope="module")
def cluster_server(valkey_server: ValkeyServer) -> Iterator[ClusterServer]:
    server = ClusterServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


class TestCluster:
    @pytest.fixture(params=["blocking", "asyncio"])
    async def cluster(self, request, cluster_server) -> AsyncIterator[Any]:
        with cluster_server.client() as beside:
            await eventually(lambda: b"cluster_state:ok" in beside.execute_command("CLUSTER", "INFO"))
            beside.flushdb()
        client: Any
        address = {"host": cluster_server.host, "port": cluster_server.port}
        if request.param == "asyncio":
            client = redis.asyncio.RedisCluster(**address, retry=AsyncRetry(NoBackoff(), 0))
        else:
            client = redis.RedisCluster(**address, retry=Retry(NoBackoff(), 0))
        yield client
        await settle(client.aclose() if request.param == "asyncio" else client.close())

    @staticmethod
    def adapter(client: Any, **options: Any) -> Any:
        kind: Any = AsyncRedisAdapter if isinstance(client, redis.asyncio.RedisCluster) else RedisAdapter
        return kind(client, **options)

    async def test_keys_of_several_slots(self, cluster, cluster_server):
        """Batches over many slots work, though the server refuses commands across slots."""
        adapter = self.adapter(cluster, prefix="users:")
        items = {f"k{number}": str(number).encode() for number in range(50)}
        with cluster_server.client() as beside, pytest.raises(redis.ResponseError, match=r"(?i)slot"):
            beside.mset({"k1": b"", "k2": b""})
        await settle(adapter.write_many(items))
        assert await settle(adapter.read_many(["none", *items])) == items
        await settle(adapter.write("k1", b""))
        assert await settle(adapter.read("k1")) == b""
        await settle(adapter.delete_many([*items][1:]))
        await settle(adapter.delete("k0"))
        assert await settle(adapter.read_many(list(items))) == {}
        assert adapter.describe().namespace == "0"

    async def test_a_scan_of_each_primary(self, cluster, cluster_server):
        """A cluster is refused as a whole, and each of its servers can be scanned with a client of its own."""
        await settle(self.adapter(cluster).write_many({"a": b"1", "b": b"2", "c": b"3"}))
        with pytest.raises(Unsupported, match="primary"):
            await settle(self.adapter(cluster).scan())
        with redis.Redis(host=cluster_server.host, port=cluster_server.port) as primary:
            assert dict(await walk(RedisAdapter(primary), 2)) == {"a": b"1", "b": b"2", "c": b"3"}

    async def test_a_count_of_each_primary(self, cluster, cluster_server):
        """A cluster is refused as a whole, and each of its servers can be counted with a client of its own."""
        await settle(self.adapter(cluster).write_many({"a": b"1", "b": b"2", "c": b"3"}))
        with pytest.raises(Unsupported, match="primary"):
            await settle(self.adapter(cluster).count())
        with redis.Redis(host=cluster_server.host, port=cluster_server.port) as primary:
            assert RedisAdapter(primary).count() == 3

    async def test_what_is_certain(self, cluster, cluster_server):
        """A refusal of a batch's first key is certain; afterwards some may have been written."""
        adapter = self.adapter(cluster)
        await settle(adapter.write("a", b"1"))
        with cluster_server.client() as beside:
            with full(beside):
                for write in (lambda: adapter.write("a", b"2"), lambda: adapter.write_many({"a": b"", "b": b""})):
                    with pytest.raises(NotApplied):
                        await settle(write())
            beside.execute_command("ACL", "SETUSER", "default", "resetkeys", "~a")
            try:
                with pytest.raises(NoPermissionError):
                    await settle(adapter.write_many({"a": b"3", "b": b"3"}))
            finally:
                beside.execute_command("ACL", "SETUSER", "default", "allkeys")
        assert await settle(adapter.read("a")) == b"3"

    def test_a_client_that_repeats_writes(self, cluster_server):
        """A cluster client with its default retries is refused, and the text says what to set."""
        advice = r"Retry\(NoBackoff\(\), 0\)"
        client = redis.RedisCluster(host=cluster_server.host, port=cluster_server.port)
        with client, pytest.raises(ValueError, match=advice):
            RedisAdapter(client)
        with pytest.raises(ValueError, match=advice):
            AsyncRedisAdapter(redis.asyncio.RedisCluster(host="127.0.0.1", port=1))


def test_without_redis_the_error_names_the_extra():
    """Where redis-py is missing, importing the adapter says what to install."""
    program = """
import sys
sys.modules["redis"] = None
try:
    import zddm_adapters.redis
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'pip install "zddm-flags[redis]"' in result.stdout
