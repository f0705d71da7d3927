"""The ledger on Redis, against real Valkey servers, in both worlds."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import exceptions as errors
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import ValkeyServer, _free_port
from tests.worlds import settle
from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_adapters._redis_scripts import Rows
from zddm_adapters.redis import AsyncRedisLedger, RedisLedger
from zddm_flags import AsyncProxy, Proxy, StoreInfo, TrafficGate
from zddm_flags.errors import InvalidKey, InvalidRollout, LedgerMismatch, NotApplied, Unsupported
from zddm_flags.ledger import CopyGrant, Grant, LedgerTable, Opening

WORLDS = ("blocking", "asyncio")
IDENTITY = "xxh3/canonical"
PARTS = ("meta", "entries", "pending", "tokens")
JOB = "backfill/1"
KEYS = [b"s:plain", b"b:\x00\xff\r\n", b"s:with:colons,and-commas", "s:\u00e9".encode(), b""]
names = itertools.count()


class World:
    """Makes clients and ledgers of one world; closes the clients after the test."""

    def __init__(self, kind: str, server: ValkeyServer) -> None:
        self.kind = kind
        self.server = server
        self.beside: Any = server.client()  # redis-py's annotations serve both worlds at once
        self._clients: list[Any] = []

    def client(self, *, retries: int = 0, **options: Any) -> Any:
        """A client of this world on the server's Unix socket, or where `options` say."""
        if "port" not in options:
            options["unix_socket_path"] = str(self.server._socket)
        if retries:
            options["retry_on_error"] = [errors.ConnectionError]  # older releases need it to retry at all
        if self.kind == "asyncio":
            client: Any = redis.asyncio.Redis(retry=AsyncRetry(NoBackoff(), retries), **options)
        else:
            client = redis.Redis(retry=Retry(NoBackoff(), retries), **options)
        self._clients.append(client)
        return client

    def ledger(self, client: Any = None, **options: Any) -> Any:
        """A ledger of this world."""
        kind: Any = AsyncRedisLedger if self.kind == "asyncio" else RedisLedger
        return kind(client if client is not None else self.client(), **options)

    def rows(self, name: str | None = None, identity: str = IDENTITY, client: Any = None, **options: Any) -> Any:
        """The rows of a migration, a new one where it has no name."""
        return self.ledger(client, **options).migration(name or new_name(), identity)

    async def close(self) -> None:
        self.beside.close()
        for client in self._clients:
            await settle(client.aclose() if self.kind == "asyncio" else client.close())


def new_name() -> str:
    return f"migration-{next(names)}"


def token() -> bytes:
    return b"token-%d" % next(names)


def redis_key(name: str, part: str) -> str:
    return f"{{zddm:{name}}}:{part}"


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest, valkey_server: ValkeyServer) -> AsyncIterator[World]:
    """Both worlds on the server of the session."""
    found = World(request.param, valkey_server)
    yield found
    await found.close()


@pytest.fixture(scope="module")
def own_server() -> Iterator[ValkeyServer]:
    """A server that tests may stop, flush and configure."""
    server = ValkeyServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=WORLDS)
async def own_world(request: pytest.FixtureRequest, own_server: ValkeyServer) -> AsyncIterator[World]:
    """Both worlds on a server whose settings and data are this test's."""
    found = World(request.param, own_server)
    yield found
    found.beside.config_set("maxmemory-policy", "noeviction")
    found.beside.config_set("maxmemory", "0")
    found.beside.config_set("appendonly", "yes")
    await found.close()


# -- the state machine ---------------------------------------------------------------------------------------


subsets = st.lists(st.sampled_from(KEYS), unique=True, max_size=len(KEYS))
pasts = st.integers(0, 5)  # how many tokens ago
steps = st.one_of(
    st.tuples(st.just("begin"), subsets),
    st.tuples(st.just("begin_copy"), subsets),
    st.tuples(st.just("end"), subsets, pasts, st.lists(st.booleans(), min_size=5, max_size=5)),
    st.tuples(st.just("withdraw"), subsets, pasts),
    st.tuples(st.just("open_to"), st.sampled_from((0.0, 0.1, 0.1 + 2**-56, 1 / 3, 1.0))),
    st.tuples(st.just("pass_time"), st.just(1000)),
    st.tuples(st.just("reap"), st.sampled_from((0.0, 500.0, 1500.0))),
)


BEGUN = ("begin", KEYS[:2])
ENDED = [("end", KEYS[:2], past, [True] * 5) for past in range(2)]


def entries_of(beside: Any, name: str) -> frozenset[Any]:
    """The entries as Redis holds them, in the form of `LedgerTable.fingerprint`."""
    stored = beside.hgetall(redis_key(name, "entries"))
    return frozenset(
        (key, frozenset(filter(None, text[2:].split(b","))), text[:1] == b"s", text[1:2] == b"c")
        for key, text in stored.items()
    )


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(steps, max_size=30))
@example([BEGUN, BEGUN, ENDED[1], ENDED[0], ("begin_copy", KEYS[:2]), ENDED[0]])  # contended to the end
@example([BEGUN, BEGUN, ("withdraw", KEYS[:2], 1), ENDED[0], BEGUN, ("withdraw", KEYS[:2], 0)])
@example([BEGUN, ("pass_time", 1000), BEGUN, ("reap", 500.0), ENDED[1], ENDED[0], BEGUN, ENDED[0]])
async def test_it_is_the_reference_state_machine(world: World, sequence: list[Any]) -> None:
    """Any sequence of calls gets the answers, and leaves the entries, of LedgerTable."""
    name = new_name()
    ledger, table = world.rows(name), LedgerTable()
    fingerprint: Any = table.fingerprint
    tokens = [token()]
    now, reaped_pairs = 0.0, 0
    for call, *arguments in sequence:
        expected: Any = None
        if call in {"begin", "begin_copy"}:
            tokens.append(token())
            expected = getattr(table, call)(arguments[0], tokens[-1], now)
            assert await settle(getattr(ledger, call)(arguments[0], tokens[-1])) == expected
        elif call in {"end", "withdraw"}:
            chosen: Any = arguments[0]
            used = tokens[max(-1 - arguments[1], -len(tokens))]
            if call == "end":
                chosen = dict(zip(chosen, arguments[2], strict=False))
            getattr(table, call)(chosen, used)
            assert await settle(getattr(ledger, call)(chosen, used)) is None
        elif call == "open_to":
            assert await settle(ledger.open_to(*arguments)) == table.open_to(*arguments)
        elif call == "pass_time":
            now += arguments[0]
            for member in world.beside.zrange(redis_key(name, "pending"), 0, -1):
                world.beside.zincrby(redis_key(name, "pending"), -arguments[0] * 1_000_000, member)
        else:
            pairs = world.beside.zcard(redis_key(name, "pending"))
            table.reap(now - arguments[0] + 1e-9, 10**6)
            reaped = await settle(ledger.reap(*arguments))
            assert reaped == pairs - world.beside.zcard(redis_key(name, "pending"))
            reaped_pairs += reaped
        assert set(await settle(ledger.dirty(KEYS))) == set(table.dirty(KEYS))
        summary, wanted = await settle(ledger.summary()), table.summary(now)._replace(reaped=reaped_pairs)
        assert summary._replace(oldest_pending_seconds=None) == wanted._replace(oldest_pending_seconds=None)
        assert ledger.last_summary() == summary
        if wanted.oldest_pending_seconds is None:
            assert summary.oldest_pending_seconds is None
        else:
            assert summary.oldest_pending_seconds == pytest.approx(wanted.oldest_pending_seconds, abs=100)
        assert entries_of(world.beside, name) == fingerprint()[0]  # type: ignore[index]


async def test_reaping_takes_the_oldest_first_and_no_more_than_the_limit(world: World) -> None:
    """A limited reap takes the oldest tokens, and says how many."""
    name = new_name()
    ledger = world.rows(name)
    for key in (b"1", b"2", b"3"):
        await settle(ledger.begin([key], b"token-" + key))
    assert await settle(ledger.reap(0.0, limit=0)) == 0
    assert await settle(ledger.reap(0.0, limit=2)) == 2
    assert world.beside.hkeys(redis_key(name, "tokens")) == [b"token-3"]
    assert await settle(ledger.reap(0.0, limit=2)) == 1
    assert (await settle(ledger.summary()))[:2] == (3, 0)


async def test_a_young_token_is_not_reaped(world: World) -> None:
    """Only tokens older than the age, by the server's clock, are reaped."""
    name = new_name()
    ledger = world.rows(name)
    await settle(ledger.begin([b"old"], b"old"))
    before = time.monotonic()
    await settle(ledger.begin([b"young"], b"young"))
    world.beside.zincrby(redis_key(name, "pending"), -60_000_000, b"old:old")
    assert (await settle(ledger.summary())).oldest_pending_seconds >= 60
    assert await settle(ledger.reap(30.0)) == 1
    assert set(await settle(ledger.dirty([b"old", b"young"]))) == {b"old", b"young"}
    assert (await settle(ledger.summary()))[:2] == (1, 1)
    world.beside.zincrby(redis_key(name, "pending"), -90_500_000, b"young:young")
    reaped = await settle(ledger.reap(90.9))  # a fraction of a second counts
    assert reaped == 0 or time.monotonic() - before > 0.4
    assert reaped + await settle(ledger.reap(90.5)) == 1


async def test_large_batches(world: World) -> None:
    """Nine thousand keys, more than Lua's stack takes, go through every call at once."""
    ledger = world.rows()
    keys = [b"key-%d" % number for number in range(9000)]
    assert await settle(ledger.begin(keys, b"first")) == Grant(frozenset(), 0.0, 0)
    assert (await settle(ledger.begin(keys, b"second"))).contended == frozenset(keys)
    assert await settle(ledger.dirty(keys)) == keys
    await settle(ledger.end(dict.fromkeys(keys, True), b"first"))
    await settle(ledger.withdraw(keys, b"second"))
    assert (await settle(ledger.summary()))[:2] == (9000, 0)
    grant = await settle(ledger.begin_copy(keys, b"third"))
    assert grant == CopyGrant(frozenset(keys), frozenset(keys), 0.0, 0)
    assert await settle(ledger.reap(0.0, limit=10_000)) == 9000
    await settle(ledger.begin(keys, b"fourth"))
    await settle(ledger.end(dict.fromkeys(keys, True), b"fourth"))
    assert (await settle(ledger.summary()))[:2] == (0, 0)


async def test_a_clean_ledger_leaves_its_meta_alone(world: World) -> None:
    """When nothing is dirty, Redis holds one key of the migration."""
    name = new_name()
    ledger = world.rows(name)
    await settle(ledger.begin(KEYS, b"one"))
    await settle(ledger.end(dict.fromkeys(KEYS, True), b"one"))
    assert world.beside.exists(*(redis_key(name, part) for part in PARTS)) == 1


async def test_opened_keeps_every_digit(world: World) -> None:
    """A rate comes back as exactly the same double, and the smallest step above it is above it."""
    ledger = world.rows()
    chance = random.Random(7)
    rates = sorted([*(chance.random() ** 9 for _ in range(50)), 1 - 2**-53])
    for rate in rates:
        assert await settle(ledger.open_to(rate)) == Opening(rate, 0)
    assert await settle(ledger.open_to(1 - 2**-52)) == Opening(1 - 2**-53, 0)


async def test_concurrent_operations_leave_nothing_behind(world: World) -> None:
    """Eight workers on three keys: contention is never missed, a copy is alone, nothing stays pending."""
    name = new_name()
    client = world.client()
    ledger = world.rows(name, client=client)
    keys = [b"one", b"two", b"three"]
    held: dict[bytes, set[bytes]] = {key: set() for key in keys}  # from the answer to begin until end is sent
    lock = threading.Lock()
    wrong: list[str] = []

    def holders(key: bytes) -> set[bytes]:
        with lock:
            return set(held[key])

    async def work(number: int) -> None:
        chance = random.Random(number)
        for step in range(60):
            own = b"worker-%d-%d" % (number, step)
            wanted = sorted(chance.sample(keys, chance.randint(1, 3)))
            before = {key: holders(key) for key in wanted}
            copying = chance.random() < 0.4
            taken, contended = frozenset(wanted), frozenset[bytes]()
            if copying:
                taken = (await settle(ledger.begin_copy(wanted, own))).granted
            else:
                contended = (await settle(ledger.begin(wanted, own))).contended
            for key in taken:
                throughout = before[key] & holders(key)
                if throughout and copying:
                    wrong.append("a copy was granted beside another token")
                if throughout and not copying and key not in contended:
                    wrong.append("contention was missed")
            with lock:
                for key in taken:
                    held[key].add(own)
            if taken - set(await settle(ledger.dirty(wanted))):
                wrong.append("a pending key was called clean")
            with lock:
                for key in taken:
                    held[key].discard(own)
            if chance.random() < 0.3:
                await settle(ledger.withdraw(taken, own))
            else:
                await settle(ledger.end({key: chance.random() < 0.7 for key in taken}, own))

    if world.kind == "asyncio":
        await asyncio.gather(*(work(number) for number in range(8)))
    else:
        threads = [threading.Thread(target=asyncio.run, args=(work(number),)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    summary = await settle(ledger.summary())
    assert summary.pending == 0
    assert len(await settle(ledger.dirty(keys))) == summary.stale
    await settle(ledger.begin(keys, b"last"))
    await settle(ledger.end(dict.fromkeys(keys, True), b"last"))
    assert world.beside.exists(*(redis_key(name, part) for part in PARTS)) == 1


# -- what is refused -----------------------------------------------------------------------------------------


async def test_arguments_out_of_range_are_refused_without_io(world: World) -> None:
    """A bad token, a long key, a rate that is none, and a prefix that would break the hash tag are refused."""
    ledger = world.rows(client=world.client(port=1))  # nobody listens there
    for bad in (b"", b"x" * 49, b"a,b", b"a:b", b"a b", b"a\n", "\u00e9".encode()):
        with pytest.raises(ValueError, match="token"):
            await settle(ledger.begin([b"key"], bad))
    with pytest.raises(InvalidKey) as caught:
        await settle(ledger.dirty([b"secret" * 200]))
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidRollout):
        await settle(ledger.open_to(1.5))
    with pytest.raises(InvalidRollout):
        world.ledger(opened=2.0)
    for prefix in ("", "a:b", "a}", "{a"):
        with pytest.raises(ValueError, match="prefix"):
            world.ledger(prefix=prefix)


async def test_clients_of_the_other_world_are_refused(world: World) -> None:
    """A client of the other world, and one that decodes, are refused with what to use."""
    other = World("blocking" if world.kind == "asyncio" else "asyncio", world.server)
    with pytest.raises(TypeError, match="goes with"):
        world.ledger(other.client())
    with pytest.raises(ValueError, match="decode_responses"):
        world.ledger(world.client(decode_responses=True))
    await other.close()


async def test_another_identity_is_refused(world: World) -> None:
    """Rows that were begun with another hasher are refused, whichever call comes first, and left as they are."""
    name = new_name()
    first = world.rows(name)
    await settle(first.begin([b"key"], b"one"))
    calls: list[Any] = [
        lambda rows: rows.begin([b"key"], b"two"),
        lambda rows: rows.begin_copy([b"key"], b"two"),
        lambda rows: rows.end({b"key": True}, b"one"),
        lambda rows: rows.withdraw([b"key"], b"one"),
        lambda rows: rows.dirty([b"key"]),
        lambda rows: rows.open_to(1.0),
        lambda rows: rows.reap(0.0),
        lambda rows: rows.summary(),
        lambda rows: rows.stale_keys(),
        lambda rows: rows.checkpoints(),
        lambda rows: rows.save_checkpoint(JOB, "data", 0),
        lambda rows: rows.reset(),
    ]
    for call in calls:
        with pytest.raises(LedgerMismatch, match="was begun with hasher 'xxh3/canonical'"):
            await settle(call(world.rows(name, "fnv1a64/canonical")))
    assert (await settle(first.summary()))[:2] == (0, 1)
    assert (await settle(first.summary())).opened == 0.0


async def test_another_schema_version_is_refused(world: World) -> None:
    """Rows of a later release are refused, before and after they were first seen."""
    name = new_name()
    seen = world.rows(name)
    await settle(seen.summary())
    world.beside.hset(redis_key(name, "meta"), "schema", "2")
    for rows in (seen, world.rows(name)):
        with pytest.raises(LedgerMismatch, match="schema version '2'"):
            await settle(rows.begin([b"key"], token()))
    assert not world.beside.exists(redis_key(name, "entries"))


@pytest.mark.parametrize("part", PARTS)
async def test_keys_of_another_type_are_named(world: World, part: str) -> None:
    """A Redis key of the ledger that holds something else is named, and nothing is changed."""
    name = new_name()
    world.beside.set(redis_key(name, part), "something else")
    with pytest.raises(LedgerMismatch, match=f"{part}' holds something else"):
        await settle(world.rows(name).begin([b"secret"], token()))
    assert world.beside.exists(*(redis_key(name, each) for each in PARTS)) == 1


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("meta", "opened", "many"),
        ("meta", "opened", "nan"),
        ("meta", "stale", ""),
        ("meta", "epoch", "x"),
        ("meta", "reaped", "-1"),
        ("entries", "key", "??"),
        ("entries", "key", ""),
    ],
)
async def test_what_does_not_parse_is_refused(world: World, part: str, field: str, value: str) -> None:
    """Content that the ledger did not write is refused, with the Redis key's name and not the migration's key."""
    name = new_name()
    ledger = world.rows(name)
    await settle(ledger.begin([b"key"], b"one"))
    world.beside.hset(redis_key(name, part), field, value)
    for rows in (ledger, world.rows(name)):
        with pytest.raises(LedgerMismatch, match=f"{part}' holds something else") as caught:
            await settle(rows.begin([b"key"], token()))
        assert "'key'" not in str(caught.value)
    assert world.beside.zcard(redis_key(name, "pending")) == 1


async def test_a_foreign_hash_is_not_taken_for_rows(world: World) -> None:
    """A hash of another program under the ledger's name is refused."""
    name = new_name()
    world.beside.hset(redis_key(name, "meta"), "colour", "red")
    with pytest.raises(LedgerMismatch, match="another prefix="):
        await settle(world.rows(name).summary())


async def test_prefixes_keep_ledgers_apart(world: World) -> None:
    """Ledgers of two prefixes share no rows, whatever a migration is called."""
    for name in ("users", "a}b", "{", "u\u00e9", ""):
        one, other = (world.rows(name, prefix=prefix) for prefix in (new_name(), new_name()))
        await settle(one.begin([b"key"], b"one"))
        assert await settle(other.dirty([b"key"])) == []
        assert await settle(one.dirty([b"key"])) == [b"key"]


# -- what long jobs keep and ask -----------------------------------------------------------------------------


async def test_pages_give_every_stale_key_of_many(world: World) -> None:
    """Among thousands of keys the pages give those that are stale, and each is a small part of them."""
    ledger = world.rows()
    keys = [b"key-%d" % number for number in range(6000)]
    await settle(ledger.begin(keys, b"one"))
    await settle(ledger.end(dict.fromkeys(keys[:3000], False), b"one"))
    found: set[bytes] = set()
    pages, page = 1, await settle(ledger.stale_keys(None, 100))
    while page.next_cursor is not None:
        assert len(page.keys) < 300
        found.update(page.keys)
        pages, page = pages + 1, await settle(ledger.stale_keys(page.next_cursor, 100))
    assert found | set(page.keys) == set(keys[:3000])
    assert pages > 30
    assert len((await settle(ledger.stale_keys(None, 10**9))).keys) < 3000  # the server has others to answer


@pytest.mark.parametrize("cursor", ["", "x", "-1", " 1", "1\n", "1.0", str(2**64), "9" * 21, "\u0661"])
async def test_what_is_no_cursor_is_refused_without_io(world: World, cursor: str) -> None:
    """A cursor that no page gave raises ValueError, not an error of the server."""
    ledger = world.rows(client=world.client(port=1))  # nobody listens there
    with pytest.raises(ValueError, match="no cursor"):
        await settle(ledger.stale_keys(cursor))


@pytest.mark.parametrize("text", ["", "x", "1", "1 2", "0 2 data", "-1 2 data", "1 -2 data", "1x 2 data"])
async def test_a_checkpoint_that_is_none_is_refused(world: World, text: str) -> None:
    """A checkpoint that something else wrote is given to no job, and the rest of the ledger is used on."""
    name = new_name()
    ledger = world.rows(name)
    world.beside.hset(redis_key(name, "checkpoints"), JOB, text)
    for call in (ledger.checkpoints, lambda: ledger.save_checkpoint(JOB, "data", 0)):
        with pytest.raises(LedgerMismatch, match="checkpoints' holds something else"):
            await settle(call())
    assert world.beside.hget(redis_key(name, "checkpoints"), JOB) == text.encode()
    assert await settle(ledger.dirty([b"key"])) == []


@pytest.mark.parametrize("field", ["name", "data"])
async def test_a_checkpoint_that_is_no_text_is_refused(world: World, field: str) -> None:
    """Bytes that are no UTF-8 raise LedgerMismatch, which does not show them."""
    name = new_name()
    changed = {"name": (b"\xff", "1 2 data"), "data": (JOB, b"1 2 \xff")}[field]
    world.beside.hset(redis_key(name, "checkpoints"), *changed)
    with pytest.raises(LedgerMismatch, match="checkpoints' holds something else") as caught:
        await settle(world.rows(name).checkpoints())
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_checkpoints_of_another_type_are_left_alone(world: World) -> None:
    """A Redis key of another program in the place of checkpoints is named, and neither changed nor deleted."""
    name = new_name()
    ledger = world.rows(name)
    world.beside.set(redis_key(name, "checkpoints"), "something else")
    for call in (ledger.checkpoints, lambda: ledger.save_checkpoint(JOB, "data", 0), ledger.reset):
        with pytest.raises(LedgerMismatch, match="checkpoints' holds something else"):
            await settle(call())
    assert world.beside.get(redis_key(name, "checkpoints")) == b"something else"
    assert (await settle(ledger.summary())).epoch == 0


async def test_lost_checkpoints_are_no_lost_ledger(world: World) -> None:
    """No promise is lost with the checkpoints: jobs begin anew, and all else goes on."""
    name = new_name()
    ledger = world.rows(name)
    await settle(ledger.begin([b"key"], b"one"))
    assert await settle(ledger.save_checkpoint(JOB, "data", 0))
    world.beside.delete(redis_key(name, "checkpoints"))
    assert await settle(ledger.checkpoints()) == {}
    assert not await settle(ledger.save_checkpoint(JOB, "data", 1))
    assert await settle(ledger.save_checkpoint(JOB, "data", 0))
    assert await settle(ledger.dirty([b"key"])) == [b"key"]


async def test_the_age_of_a_checkpoint_is_the_servers(world: World) -> None:
    """A checkpoint's age counts by the server's time, and is never below 0."""
    name = new_name()
    ledger = world.rows(name)
    seconds, micros = world.beside.time()
    for age in (60, -60):
        world.beside.hset(redis_key(name, "checkpoints"), JOB, f"1 {(seconds - age) * 1_000_000 + micros} data")
        assert max(0, age) <= (await settle(ledger.checkpoints()))[JOB].age_seconds < max(0, age) + 30


async def test_reset_leaves_nothing_but_meta(world: World) -> None:
    """After a reset Redis holds one key of the migration, of the same incarnation, for all who know it."""
    name = new_name()
    ledger, other = world.rows(name, opened=0.5), world.rows(name)
    await settle(other.begin([b"stale", b"reaped"], b"one"))
    await settle(other.end({b"stale": False}, b"one"))
    await settle(ledger.save_checkpoint(JOB, "data", 0))
    assert not await settle(ledger.reset())
    assert await settle(ledger.reap(0.0)) == 1
    assert other.last_summary().reaped == 0
    assert (await settle(other.summary())).reaped == 1
    assert await settle(ledger.reset())
    assert ledger.last_summary() == (0, 0, None, 0.0, 1, 0)
    assert world.beside.exists(*(redis_key(name, part) for part in (*PARTS, "checkpoints"))) == 1
    assert await settle(other.begin([b"stale"], b"two")) == Grant(frozenset(), 0.0, 1)
    assert await settle(world.rows(name).dirty([b"stale", b"reaped"])) == [b"stale"]


async def test_a_full_server_keeps_no_more_checkpoints(own_world: World) -> None:
    """A server without memory refuses a checkpoint before anything, and still pages, resets and tells."""
    ledger = own_world.rows()
    assert await settle(ledger.save_checkpoint(JOB, "data", 0))
    own_world.beside.config_set("maxmemory", "1")
    with pytest.raises(errors.OutOfMemoryError):
        await settle(ledger.save_checkpoint(JOB, "more", 1))
    assert (await settle(ledger.checkpoints()))[JOB].data == "data"
    assert await settle(ledger.stale_keys()) == ([], None)
    assert await settle(ledger.reset())


async def test_reset_is_sent_once(world: World) -> None:
    """However the client retries, a reset whose reply is lost was done once; a checkpoint is sent again."""
    await teach(world.server)
    with cutting(world.server.port) as cutter:
        client = world.client(retries=3, host="127.0.0.1", port=cutter.port)
        ledger = world.rows(client=client)
        await settle(ledger.summary())
        cutter.armed = 1
        with pytest.raises(errors.ConnectionError):
            await settle(ledger.reset())
        assert (await settle(ledger.summary())).epoch == 1
        cutter.armed = 1
        assert await settle(ledger.save_checkpoint(JOB, "data", 0))
        assert (await settle(ledger.checkpoints()))[JOB].version == 1
        await settle(client.aclose() if world.kind == "asyncio" else client.close())


# -- loss ----------------------------------------------------------------------------------------------------


async def test_a_flushed_ledger_is_not_trusted(own_world: World) -> None:
    """After FLUSHDB every call of an object that saw the rows raises, even once others made them anew."""
    name = new_name()
    client = own_world.client(db=1)
    ledger = own_world.rows(name, client=client)
    await settle(ledger.begin([b"key"], b"one"))
    await settle(client.flushdb())
    for _ in range(2):
        with pytest.raises(LedgerMismatch, match="was lost"):
            await settle(ledger.dirty([b"key"]))
        with pytest.raises(LedgerMismatch, match="set the rollout to 0"):
            await settle(ledger.begin([b"key"], b"two"))
        with pytest.raises(LedgerMismatch, match="made anew"):
            await settle(ledger.end({b"key": True}, b"one"))
        assert await settle(own_world.rows(name, client=client).dirty([b"key"])) == []  # made anew


@pytest.mark.parametrize("part", PARTS)
async def test_a_partial_loss_is_seen(own_world: World, part: str) -> None:
    """If any one of the ledger's Redis keys is gone, every object refuses the rest, a new one as well."""
    name = new_name()
    ledger = own_world.rows(name)
    await settle(ledger.begin([b"key", b"other"], b"one"))
    own_world.beside.delete(redis_key(name, part))
    for rows in (ledger, own_world.rows(name)):
        with pytest.raises(LedgerMismatch, match="was lost"):
            await settle(rows.dirty([b"key"]))
        with pytest.raises(LedgerMismatch, match="was lost"):
            await settle(rows.reap(0.0))


async def test_a_restart_keeps_the_ledger(own_world: World) -> None:
    """A server that was stopped and started again has every mark, and does without the scripts it knew."""
    ledger = own_world.rows(client=own_world.client(retries=3))
    await settle(ledger.begin([b"stale", b"pending"], b"one"))
    await settle(ledger.end({b"stale": False}, b"one"))
    await settle(ledger.open_to(0.3))
    own_world.server.halt()
    own_world.server.launch()
    assert set(await settle(ledger.dirty([b"stale", b"pending", b"clean"]))) == {b"stale", b"pending"}
    assert (await settle(ledger.begin([b"pending"], b"two"))).contended == {b"pending"}
    summary = await settle(ledger.summary())
    assert (summary.stale, summary.pending, summary.opened) == (1, 2, 0.3)


async def test_opened_is_raised_at_first_use(world: World) -> None:
    """`opened=` raises what the rows have, once, and never lowers it."""
    name = new_name()
    assert world.rows(name, opened=0.25).last_summary().opened == 0.25
    assert await settle(world.rows(name, opened=0.25).open_to(0.0)) == Opening(0.25, 0)
    assert await settle(world.rows(name).open_to(0.0)) == Opening(0.25, 0)
    late = world.rows(name, opened=0.5)
    assert (await settle(late.begin([b"key"], b"one"))).opened == 0.5
    assert await settle(world.rows(name, opened=0.1).open_to(0.2)) == Opening(0.5, 0)


# -- the server ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
async def test_a_server_that_evicts_is_refused(own_world: World, policy: str) -> None:
    """An evicting server is refused at the first call, with what to do, and until it is set right."""
    own_world.beside.config_set("maxmemory-policy", policy)
    ledger = own_world.rows()
    for _ in range(2):
        with pytest.raises(Unsupported, match="maxmemory-policy to noeviction"):
            await settle(ledger.begin([b"key"], token()))
        with pytest.raises(Unsupported, match=policy):
            await settle(ledger.dirty([b"key"]))
    own_world.beside.config_set("maxmemory-policy", "volatile-lru")
    assert await settle(ledger.dirty([b"key"])) == []


async def test_info_may_be_forbidden(own_world: World) -> None:
    """Where the user may not call INFO the ledger goes on unchecked."""
    own_world.beside.execute_command("ACL", "SETUSER", "narrow", "on", ">word", "~*", "+@all", "-info")
    ledger = own_world.rows(client=own_world.client(username="narrow", password="word"))
    assert await settle(ledger.dirty([b"key"])) == []


async def test_a_server_without_a_file_is_reported(own_world: World, capsys: Any) -> None:
    """A server that would lose the ledger in a restart is reported once."""
    own_world.beside.config_set("appendonly", "no")
    ledger = own_world.ledger()
    for _ in range(2):
        await settle(ledger.migration(new_name(), IDENTITY).summary())
    assert capsys.readouterr().out.count("ledger_not_durable") == 1


async def test_nothing_sent_is_not_applied(own_world: World) -> None:
    """Where nobody listens, begin and begin_copy certainly took no effect."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for warm in (False, True):
            client = own_world.client(host="127.0.0.1", port=own_world.server.port)
            ledger = own_world.rows(client=client)
            if warm:
                await settle(ledger.summary())
                await settle(client.connection_pool.disconnect())
            client.connection_pool.connection_kwargs["port"] = closed.getsockname()[1]
            await settle(client.connection_pool.disconnect())
            client.connection_pool.reset()
            for call in (ledger.begin, ledger.begin_copy):
                with pytest.raises(NotApplied) as caught:
                    await settle(call([b"key"], token()))
                assert isinstance(caught.value.__cause__, errors.ConnectionError)


@pytest.mark.parametrize("reason", ["NOPERM", "ERR"])
async def test_a_script_that_stops_half_way_is_unknown(own_world: World, reason: str) -> None:
    """An error in the middle of `begin` is no NotApplied, and what it left is not taken for whole."""
    name, stopped = new_name(), token()
    rules = ["on", ">word", "~*", "+@all"] + (["-hincrby"] if reason == "NOPERM" else [])
    own_world.beside.execute_command("ACL", "SETUSER", "stopped", "reset", *rules)
    ledger = own_world.rows(name, client=own_world.client(username="stopped", password="word"))
    assert await settle(ledger.dirty([b"key"])) == []
    if reason == "ERR":
        own_world.beside.hset(redis_key(name, "tokens"), stopped.decode(), "no number")
        own_world.beside.hset(redis_key(name, "meta"), "tokens", "1")
    with pytest.raises(errors.ResponseError):
        await settle(ledger.begin([b"key"], stopped))
    assert own_world.beside.zcard(redis_key(name, "pending")) == 1
    for rows in (ledger, own_world.rows(name)):
        with pytest.raises(LedgerMismatch, match="lost"):
            await settle(rows.dirty([b"key"]))


def test_of_two_first_replies_one_counts() -> None:
    """Two calls that were both the first, and met different rows, are not both believed."""
    rows = Rows("zddm", "users", IDENTITY, 0.0, 0.0)
    reply: list[Any] = [b"0.0", 0, 0, 0, -1, 0]
    rows.accept([b"ok", b"one", *reply])
    with pytest.raises(LedgerMismatch, match="made anew"):
        rows.accept([b"ok", b"other", *reply])
    rows.accept([b"ok", b"one", *reply])


async def test_what_the_server_refuses_is_not_applied(own_world: World) -> None:
    """OOM, READONLY, NOAUTH and BUSY are known to have changed nothing; a full server still lets keys end."""
    beside = own_world.beside
    ledger = own_world.rows(client=own_world.client(single_connection_client=False))
    await settle(ledger.begin([b"key"], b"one"))

    async def refused(kind: type[Exception]) -> None:
        for call in (ledger.begin, ledger.begin_copy):
            with pytest.raises(NotApplied) as caught:
                await settle(call([b"other"], token()))
            assert isinstance(caught.value.__cause__, kind)

    beside.config_set("maxmemory", "1")
    await refused(errors.OutOfMemoryError)
    assert await settle(ledger.dirty([b"key", b"other"])) == [b"key"]
    await settle(ledger.end({b"key": False}, b"one"))
    beside.config_set("maxmemory", "0")

    beside.replicaof("127.0.0.1", "1")
    await refused(errors.ReadOnlyError)
    with pytest.raises(errors.ReadOnlyError):
        await settle(ledger.dirty([b"key"]))  # a replica may lag
    beside.replicaof("NO", "ONE")

    beside.config_set("busy-reply-threshold", "1")
    busy = threading.Thread(target=spin, args=(own_world.server,))
    busy.start()
    try:
        poll(lambda: is_busy(own_world.server))
        await refused(errors.ResponseError)
    finally:
        with own_world.server.client() as client:
            client.script_kill()
        busy.join()
    assert (await settle(ledger.summary()))[:2] == (1, 0)


def spin(server: ValkeyServer) -> None:
    with server.client() as client, pytest.raises(errors.ResponseError):
        client.eval("while true do end", 0)


def is_busy(server: ValkeyServer) -> bool:
    with server.client() as client:
        try:
            client.get("x")
        except errors.ResponseError:
            return True
        return False


def poll(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- one attempt ---------------------------------------------------------------------------------------------


class Cutter:
    """A TCP proxy that, while armed, forwards a script to the server and cuts the connection before its reply."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.armed = 0  # how many scripts are to lose their reply
        self.forwarded = bytearray()
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, function: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=function, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += [client, server]
                condemned = threading.Event()
                self._start(self._requests, client, server, condemned)
                self._start(self._replies, client, server, condemned)

    def _requests(self, client: socket.socket, server: socket.socket, condemned: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                self.forwarded += data
                if self.armed and b"EVALSHA" in data:
                    self.armed -= 1
                    condemned.set()
                server.sendall(data)
        _cut(client, server)

    def _replies(self, client: socket.socket, server: socket.socket, condemned: threading.Event) -> None:
        with suppress(OSError):
            while (data := server.recv(1 << 20)) and not condemned.is_set():
                client.sendall(data)
        _cut(client, server)  # if condemned, the script has run

    def close(self) -> None:
        """Cut everything, and wait for the threads."""
        _cut(*self._sockets)
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()


def _cut(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


async def teach(server: ValkeyServer) -> None:
    """Make the server know all scripts, so that none is sent a second time because of NOSCRIPT."""
    world = World("blocking", server)
    rows = world.rows()
    for answer in (rows.begin([b"key"], b"one"), rows.begin_copy([b"key"], b"two"), rows.open_to(0.0)):
        assert answer
    rows.end({b"key": True}, b"one")
    rows.summary()
    rows.reset()
    rows.save_checkpoint(JOB, "data", 0)
    await world.close()


@contextmanager
def cutting(port: int) -> Iterator[Cutter]:
    """A Cutter before the server at `port`."""
    cutter = Cutter(port)
    try:
        yield cutter
    finally:
        cutter.close()


@pytest.mark.parametrize("call", ["begin", "begin_copy"])
async def test_begin_is_sent_once(world: World, call: str) -> None:
    """However the client retries, a begin whose reply is lost reached the server once and is not known."""
    await teach(world.server)
    with cutting(world.server.port) as cutter:
        client = world.client(retries=3, host="127.0.0.1", port=cutter.port)
        ledger = world.rows(client=client)
        await settle(ledger.summary())
        cutter.armed = 1
        with pytest.raises(errors.ConnectionError):
            await settle(getattr(ledger, call)([b"key"], b"the-token"))
        assert cutter.forwarded.count(b"the-token") == 1
        assert (await settle(ledger.summary())).pending == 1
        # The same client, whose retries are as they were, sends again what may be sent again.
        cutter.armed = 1
        await settle(ledger.end({b"key": True}, b"the-token"))
        assert cutter.forwarded.count(b"the-token") == 3
        assert (await settle(ledger.summary()))[:2] == (0, 0)
        await settle(client.aclose() if world.kind == "asyncio" else client.close())


async def test_the_first_call_is_sent_once(world: World) -> None:
    """Whatever could make the rows is sent once, and the next call finds what it made."""
    await teach(world.server)
    with cutting(world.server.port) as cutter:
        client = world.client(retries=3, host="127.0.0.1", port=cutter.port)
        name = new_name()
        ledger = world.rows(name, client=client)
        cutter.armed = 1
        with pytest.raises(errors.ConnectionError):
            await settle(ledger.open_to(0.7))
        assert await settle(ledger.open_to(0.1)) == Opening(0.7, 0)
        await settle(client.aclose() if world.kind == "asyncio" else client.close())


async def test_a_begin_gives_its_connection_back(own_world: World) -> None:
    """Begins one after another, refused ones among them, get by with a pool of one connection."""
    client = own_world.client(max_connections=1)
    ledger = own_world.rows(client=client)
    for number in range(5):
        await settle(ledger.begin([b"key"], b"token-%d" % number))
        own_world.beside.config_set("maxmemory", "1")
        with pytest.raises(NotApplied):
            await settle(ledger.begin([b"key"], b"refused-%d" % number))
        own_world.beside.config_set("maxmemory", "0")
        assert await settle(ledger.dirty([b"key"])) == [b"key"]
    assert (await settle(ledger.summary())).pending == 5


async def test_a_cancelled_begin_leaves_no_reply_behind(own_server: ValkeyServer) -> None:
    """A begin that is cancelled while the server is slow never hands its reply to the next call."""
    world = World("asyncio", own_server)
    client = world.client(max_connections=1)
    ledger = world.rows(client=client)
    await ledger.summary()
    world.beside.client_pause(300, all=True)
    begin = asyncio.create_task(ledger.begin([b"key"], b"one"))
    await asyncio.sleep(0.05)  # until it is sent; the paused server can tell nobody
    begin.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begin
    world.beside.client_unpause()
    assert await ledger.open_to(0.5) == Opening(0.5, 0)
    assert (await ledger.summary()).opened == 0.5
    await world.close()


# -- cluster -------------------------------------------------------------------------------------------------


class ClusterServer(ValkeyServer):
    """A cluster of one node, which owns every slot."""

    def __init__(self) -> None:
        super().__init__()
        while self.port > 55535:  # the nodes talk at a port that is larger by 10000
            self.port = _free_port()

    def _command(self) -> Sequence[str]:
        return [*super()._command(), "--cluster-enabled", "yes", "--cluster-announce-ip", self.host]

    def form(self) -> None:
        """Take all slots."""
        client: Any
        with self.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            poll(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


@pytest.fixture(scope="module")
def cluster_server() -> Iterator[ClusterServer]:
    server = ClusterServer()
    try:
        server.start()
        server.form()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=WORLDS)
async def cluster_client(request: pytest.FixtureRequest, cluster_server: ClusterServer) -> AsyncIterator[Any]:
    """Makes clients of the cluster that reach its node at a port."""
    clients: list[Any] = []

    def make(announced: int) -> Any:
        with cluster_server.client() as beside:
            beside.config_set("cluster-announce-port", announced)
        kind: Any = redis.asyncio.RedisCluster if request.param == "asyncio" else redis.RedisCluster
        clients.append(kind(host="127.0.0.1", port=cluster_server.port))
        return clients[-1]

    yield make
    for client in clients:
        await settle(client.aclose() if request.param == "asyncio" else client.close())


def cluster_ledger(client: Any) -> Any:
    kind: Any = AsyncRedisLedger if isinstance(client, redis.asyncio.RedisCluster) else RedisLedger
    return kind(client)


def cluster_rows(client: Any, name: str) -> Any:
    return cluster_ledger(client).migration(name, IDENTITY)


async def test_a_migration_is_in_one_slot(cluster_server: ClusterServer, cluster_client: Any) -> None:
    """On a cluster, which refuses scripts over several slots, every call of any migration goes through."""
    client = cluster_client(cluster_server.port)
    with cluster_server.client() as beside, pytest.raises(errors.ResponseError, match="slot"):
        beside.eval("#!lua\nreturn 1", 2, "one", "another")
    for name in ("users", "a}b", "{x}", "", "u\u00e9"):
        rows = cluster_rows(client, name + new_name())
        assert await settle(rows.begin(KEYS, b"one")) == Grant(frozenset(), 0.0, 0)
        await settle(rows.end(dict.fromkeys(KEYS, False), b"one"))
        assert len((await settle(rows.begin_copy(KEYS, b"two"))).stale) == len(KEYS)
        await settle(rows.withdraw(KEYS[:1], b"two"))
        assert await settle(rows.reap(0.0)) == len(KEYS) - 1
        assert await settle(rows.open_to(0.5)) == Opening(0.5, 0)
        assert len(await settle(rows.dirty(KEYS))) == len(KEYS)
        assert (await settle(rows.summary())).stale == len(KEYS)
        assert set((await settle(rows.stale_keys())).keys) == set(KEYS)
        assert await settle(rows.save_checkpoint(JOB, "data", 0))
        assert list(await settle(rows.checkpoints())) == [JOB]
        assert await settle(rows.reset())


async def test_a_cluster_has_the_only_database(cluster_server: ClusterServer, cluster_client: Any) -> None:
    """A ledger on a cluster says that it is in database 0."""
    info = cluster_ledger(cluster_client(cluster_server.port)).describe()
    assert info == StoreInfo(system="redis", collection="zddm", namespace="0")


async def test_begin_is_sent_once_to_a_cluster(cluster_server: ClusterServer, cluster_client: Any) -> None:
    """However a client of a cluster retries, a begin whose reply is lost reached the node once."""
    await teach(cluster_server)
    with cutting(cluster_server.port) as cutter:
        client = cluster_client(cutter.port)
        name = new_name()
        rows = cluster_rows(client, name)
        await settle(rows.summary())
        cutter.armed = 1
        with pytest.raises((errors.ConnectionError, errors.RedisClusterException)):  # older releases: the latter
            await settle(rows.begin([b"key"], b"the-token"))
        assert cutter.armed == 0
        assert cutter.forwarded.count(b"the-token") == 1
        with cluster_server.client() as beside:
            assert beside.hgetall(redis_key(name, "tokens")) == {b"the-token": b"1"}


async def test_an_evicting_cluster_is_refused(cluster_server: ClusterServer, cluster_client: Any) -> None:
    """The eviction policy of a cluster's primaries is looked at too."""
    client = cluster_client(cluster_server.port)
    with cluster_server.client() as beside:
        beside.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(Unsupported, match="allkeys-lru"):
                await settle(cluster_rows(client, new_name()).begin([b"key"], token()))
        finally:
            beside.config_set("maxmemory-policy", "noeviction")


# -- with proxies --------------------------------------------------------------------------------------------


def proxy_over(world: World, name: str, rate: float, old: Any, new: Any) -> tuple[TrafficGate, Any]:
    """A gate of its own and a proxy with a client of its own, as another process has them."""
    gate = TrafficGate(rate)
    kind: Any = AsyncProxy if world.kind == "asyncio" else Proxy
    return gate, kind(gate, old, new, name=name, ledger=world.ledger())


async def test_two_processes_kill_write_and_resume(world: World) -> None:
    """What one process writes while it is killed is never served stale, there or by another, then or later."""
    store: Any = AsyncInMemoryAdapter if world.kind == "asyncio" else InMemoryAdapter
    old, new, name = store(), store(), new_name()
    gate, here = proxy_over(world, name, 1.0, old, new)
    _, there = proxy_over(world, name, 1.0, old, new)
    await settle(here.write("user", 1))
    assert await settle(there.read("user")) == 1
    assert await settle(new.read("user")) == 1
    gate.set_rate(0.0)
    await settle(here.write("user", 2))
    assert await settle(new.read("user")) == 1  # the kill holds
    assert await settle(there.read("user")) == 2
    await settle(here.write("user", 3))
    gate.set_rate(1.0)
    assert await settle(here.read("user")) == 3
    assert await settle(new.read("user")) == 3  # repaired by that read
    gate.set_rate(0.0)
    await settle(here.delete("user"))
    gate.set_rate(1.0)
    assert await settle(there.read("user")) is None
    assert await settle(new.read("user")) is None
    assert there.stats().stale_keys == 0
    assert there.stats().opened == 1.0
    assert not world.beside.exists(redis_key(name, "entries"))
    for proxy in (here, there):
        await settle(proxy.close())
