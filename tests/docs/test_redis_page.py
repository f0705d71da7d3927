"""docs/redis.md does what it says."""

import contextlib
import io
import os
import re
from pathlib import Path

import pytest
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from tests.docs.preloaded_workers import in_child
from zddm_adapters.redis import AsyncRedisAdapter, AsyncRedisLedger, RedisAdapter, RedisLedger
from zddm_flags import AsyncProxy, TrafficGate

PAGE = Path(__file__).parents[2] / "docs" / "redis.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCK = re.search(
    r"^```python\n(?P<code>.*?)^```\n\n```text\n(?P<output>.*?)^```\n", TEXT, re.DOTALL | re.MULTILINE
)


@pytest.fixture
def names(valkey_server, monkeypatch):
    """What the page's program leaves; its output is in `printed`."""
    assert BLOCK is not None
    address = f"redis://{valkey_server.host}:{valkey_server.port}"
    monkeypatch.setenv("OLD_REDIS_URL", f"{address}/8")
    monkeypatch.setenv("NEW_REDIS_URL", f"{address}/9")
    found = {}
    output = io.StringIO()
    with contextlib.redirect_stdout(output), capture_logs():
        exec(compile(BLOCK["code"], str(PAGE), "exec"), found)  # noqa: S102 - the page is ours
    found["printed"] = output.getvalue()
    yield found
    for client in (found["old_client"], found["new_client"]):
        client.flushdb()
        client.close()


def test_the_code_runs_and_prints_what_the_page_shows(names):
    """The page's one program moves a key through a kill, under the prefixes that it gives."""
    assert TEXT.count("```python") == 1
    assert BLOCK is not None
    assert names["printed"] == BLOCK["output"]
    assert names["new_client"].keys() == [b"people:u1"]
    assert names["old_client"].get("users:u1") == names["new_client"].get("people:u1")


def test_the_time_outs_reach_the_connections(names):
    """What the page sets is what a connection has, and the client takes the keepalive option."""
    settings = names["old_client"].connection_pool.connection_kwargs
    assert (settings["socket_connect_timeout"], settings["socket_timeout"]) == (1, 2)
    connection = names["old_client"].connection_pool.get_connection()
    tcp_user_timeout = next(iter(names["bounded"]["socket_keepalive_options"]))
    try:
        assert connection._sock.getsockopt(names["socket"].IPPROTO_TCP, tcp_user_timeout) == 2000
    finally:
        names["old_client"].connection_pool.release(connection)


def test_the_sum_of_the_time_outs_is_right():
    """The bounds of the table add up to what the page says, and stay below the default of max_call_seconds."""
    total = sum(map(int, re.findall(r"\| (\d+) \|$", TEXT, re.MULTILINE)))
    assert f"The sum, {total} s," in TEXT
    assert total < 30 / 3


def test_an_empty_prefix_meets_the_ledger(names):
    """A scan without a prefix raises where the ledger's keys are, and does not in a database of its own."""
    names["users"].write("u1", {})
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        RedisAdapter(names["old_client"]).scan()
    assert len(RedisAdapter(names["new_client"]).scan().items) == 1


def test_the_keys_of_the_ledger(names):
    """The Redis keys that docs/ledgers.md deletes at the end are all that the ledger has."""
    page = (PAGE.parent / "ledgers.md").read_text(encoding="utf-8")
    deleted = set(re.findall(r"\{zddm:users\}:\w+", page))
    token = names["ledger"].migration("users", names["gate"].identity)
    token.begin([b"k"], b"t")
    token.save_checkpoint("backfill", "", 0)
    assert {key.decode() for key in names["old_client"].keys("*zddm*")} == deleted


def test_bytes_of_a_stale_key(names):
    """A stale key takes about the 80 bytes that docs/ledgers.md tells of."""
    rows = RedisLedger(names["new_client"]).migration("size", "x")
    keys = [b"s%036d" % number for number in range(5000)]
    rows.begin(keys, b"t")
    rows.end(dict.fromkeys(keys, False), b"t")
    used = names["new_client"].memory_usage("{zddm:size}:entries", samples=0)
    assert 40 < used / len(keys) < 120


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_client_made_before_a_fork(names):
    """A forked child serves with the clients, the ledger and the proxy of its parent, which serves on."""
    users = names["users"]

    def look():
        users.write("u3", {"visits": 3})
        return [users.read("u3"), users.read("u1")["visits"]]

    assert in_child(look) == [{"visits": 3}, 2]
    assert users.read("u3") == {"visits": 3}
    paths = users.stats().operations
    assert paths["read", "new_hit"] == 1


async def test_asyncio(names):
    """The same arguments serve redis.asyncio, with its own Retry."""
    settings = names["bounded"] | {"retry": AsyncRetry(NoBackoff(), 1)}
    with capture_logs():
        async with (
            AsyncRedis.from_url(names["os"].environ["OLD_REDIS_URL"], **settings) as old,
            AsyncRedis.from_url(names["os"].environ["NEW_REDIS_URL"], **settings) as new,
        ):
            stores = [AsyncRedisAdapter(each, prefix="moved:", max_wait_seconds=3) for each in (old, new)]
            ledger = AsyncRedisLedger(old)
            async with AsyncProxy(TrafficGate(1.0), *stores, name="users", ledger=ledger) as users:
                await users.write("u2", b"ada")
                assert await users.read("u2") == b"ada" == await new.get("moved:u2")
