"""Forks a real process that follows a flag; prints what the child saw, as JSON. Run by test_fork.py."""

import asyncio
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

from ldclient import Context
from sqlalchemy import Column, MetaData, NullPool, String, Table, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from structlog.testing import capture_logs

from zddm_adapters.sqlalchemy import (
    AsyncSqlAlchemyAdapter,
    AsyncSqlAlchemyLedger,
    SqlAlchemyAdapter,
    SqlAlchemyLedger,
)
from zddm_flags import AsyncProxy, LaunchDarklySource, Proxy, TrafficGate
from zddm_flags.errors import NotForked
from zddm_flags.testing import FlagServer

CONTEXT = Context.builder("users-service").kind("service").build()


def in_child(look):
    """Fork, run `look` in the child, and return what it returned there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = look()
        except BaseException as error:
            answer = repr(error)
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return answer


def reached(source, rate):
    event = threading.Event()
    source.subscribe(lambda rollout: event.set() if rollout.read == rate else None)
    return event.wait(5)


def without_postfork(server, client, source, gate):
    """The child is closed and says so once, when the gate is used; the parent goes on."""

    def look():
        with capture_logs() as logs:
            before = gate.rate
            silent = len(logs)
            passed = [gate.should_pass(key) or gate.should_pass_write(key) for key in range(100)]
        reason = source.evaluation.reason
        return [before, reason, silent, any(passed), [(event["log_level"], event["event"]) for event in logs]]

    child = in_child(look)
    server.set("rate", 0.25)
    return {"child": child, "parent": reached(source, 0.25) and gate.rate}


def operations_without_postfork(server, client, source, gate):
    """A child that shares stores and ledger with its parent uses Old alone, and its writes are seen there."""
    with tempfile.TemporaryDirectory() as folder:
        return _operations(gate, folder)


def _operations(gate, folder):
    by_hash = sorted((f"key-{number}" for number in range(10)), key=lambda key: gate.locate(key)[0])
    keys = by_hash[::2] + by_hash[1::2]  # the first of each half, which are deleted, are in New
    old, new, proxy, async_proxy = _proxies(gate, folder)
    proxy.write_many(dict.fromkeys(keys, "parent"))
    proxy.read_many(keys)
    before = proxy.stats().operations

    async def change_more(wrong):
        for key in keys[5:]:
            await async_proxy.write(key, "child")
        await async_proxy.delete(keys[5])
        wrong += [key for key in keys[6:] if await async_proxy.read(key) != "child"]
        wrong += [key for key in keys[5:6] if await async_proxy.read(key) is not None]

    def look():
        with capture_logs() as logs:
            wrong = [key for key in keys if proxy.read(key) != "parent"]
            for key in keys[:5]:
                proxy.write(key, "child")
            proxy.delete(keys[0])
            asyncio.run(change_more(wrong))
        if proxy.read_many(keys) != expected:
            wrong.append("all keys")
        paths = {path for path, count in proxy.stats().operations.items() if count > before.get(path, 0)}
        paths |= set(async_proxy.stats().operations)
        return {
            "paths": sorted({path for _, path in paths}),
            "wrong": wrong,
            "logged": [event["event"] for event in logs],
        }

    expected = dict.fromkeys([*keys[1:5], *keys[6:]], "child")
    child = in_child(look)
    stale = sum(value == "parent" for value in new.read_many(keys).values())
    wrong = [key for key in keys if proxy.read(key) != expected.get(key)]  # and what is stale is copied
    wrong += [] if old.read_many(keys) == expected else ["Old"]
    wrong += [] if proxy.read_many(keys) == expected else ["all keys"]
    return {
        "parent before": sorted({path for _, path in before}),
        "child": child,
        "stale in New": stale,
        "wrong in parent": wrong,
        "parent after": sorted({path for _, path in proxy.stats().operations}),
    }


def _proxies(gate, folder):
    """Old, New and a proxy of each world on SQLite files, without connections that a fork would share."""
    table = Table(
        "users", MetaData(), Column("key", String, primary_key=True), Column("value", String, nullable=False)
    )
    urls = [f"{Path(folder) / name}.db" for name in ("old", "new", "ledger")]
    bounded = {"poolclass": NullPool, "connect_args": {"timeout": 30}}
    old_engine, new_engine = (create_engine(f"sqlite:///{url}", **bounded) for url in urls[:2])
    for engine in (old_engine, new_engine):
        table.metadata.create_all(engine)
    old, new = (SqlAlchemyAdapter(engine, table, value="value") for engine in (old_engine, new_engine))
    alone = {**bounded, "isolation_level": "AUTOCOMMIT"}
    ledger = SqlAlchemyLedger(create_engine(f"sqlite:///{urls[2]}", **alone))
    async_old, async_new = (
        AsyncSqlAlchemyAdapter(create_async_engine(f"sqlite+aiosqlite:///{url}", **bounded), table, value="value")
        for url in urls[:2]
    )
    async_ledger = AsyncSqlAlchemyLedger(create_async_engine(f"sqlite+aiosqlite:///{urls[2]}", **alone))
    proxy = Proxy(gate, old, new, name="users", ledger=ledger)
    return old, new, proxy, AsyncProxy(gate, async_old, async_new, name="users", ledger=async_ledger)


def with_postfork(server, client, source, gate):
    """The child follows the flag again, and so does its own child."""

    def follow_again():
        client.postfork()
        source.postfork()
        start, alarm = gate.rate, gate.decision.alarm is None
        server_in_parent.set()
        return [start, alarm, reached(source, 0.25), gate.rate]

    # The server lives in the parent: tell it over a pipe when to change the flag.
    reader, writer = os.pipe()

    class server_in_parent:  # noqa: N801 - reads as the event that it stands for
        @staticmethod
        def set():
            os.write(writer, b".")

    changing = threading.Thread(target=lambda: (os.read(reader, 1), server.set("rate", 0.25)))
    changing.start()
    child = in_child(follow_again)
    changing.join()

    def grandchild():
        client.postfork()
        source.postfork()
        closed_in_between = in_child(lambda: gate.rate)
        return [gate.rate, closed_in_between]

    return {"child": child, "grandchild": in_child(grandchild)}


def closed_flag(server, client, source, gate):
    """A flag at 0 takes the alarm off the gate, too."""
    server.set("rate", 0)
    assert reached(source, 0.0)

    def look():
        client.postfork()
        source.postfork()
        with capture_logs() as logs:
            gate.should_pass("key")
        return [
            gate.rate,
            source.evaluation.reason,
            gate.decision.alarm is None,
            "launchdarkly_forked" in str(logs),
        ]

    return in_child(look)


def too_early(server, client, source, gate):
    """The source's postfork() before the client's is refused and leaves the gate closed."""

    def look():
        try:
            source.postfork()
        except NotForked as error:
            return [str(error), gate.rate]
        return "not refused"

    return in_child(look)


def held_locks(server, client, source, gate):
    """A fork while another thread holds the source's lock neither hangs the child nor leaves it open."""
    inside, leave = threading.Event(), threading.Event()

    def hold(rollout):
        if rollout.read == 0.75:
            inside.set()
            leave.wait(10)

    source.subscribe(hold)
    server.set("rate", 0.75)
    assert inside.wait(5)

    def look():
        passed = gate.should_pass("key")
        client.postfork()
        source.subscribe(lambda _: None)
        source.close()
        source.close()
        return [passed, gate.rate]

    child = in_child(look)
    leave.set()
    return child


def closed_in_child(server, client, source, gate):
    """Closing in the child without postfork() ends, whatever lock of the SDK was held; the parent goes on."""

    def look():
        source.close()
        source.postfork()
        return gate.rate

    lock = listeners_of(client.flag_tracker)._Listeners__lock
    held, leave = threading.Event(), threading.Event()

    def hold():
        if hasattr(lock, "acquire"):
            lock.acquire()
        else:  # since some release after 9.12 it is a lock of the SDK's own
            lock.lock()
        held.set()
        leave.wait(10)
        lock.release() if hasattr(lock, "release") else lock.unlock()

    holding = threading.Thread(target=hold)
    holding.start()
    assert held.wait(5)
    child = in_child(look)
    leave.set()
    holding.join()
    server.set("rate", 0.25)
    return [child, reached(source, 0.25)]


def replaced_without_a_fork(server, client, source, gate):
    """The client's postfork() in a process that was not forked: the source follows the new one only."""
    source.postfork()
    before = client.flag_tracker
    client.postfork()
    source.postfork()
    server.set("rate", 0.25)
    return [reached(source, 0.25), gate.rate, listeners_of(before).has_listeners()]


def listeners_of(flag_tracker):
    """What the SDK keeps the listeners in; it has no public way to ask."""
    return flag_tracker._FlagTrackerImpl__listeners


def main():
    """Run the scenario named on the command line."""
    with capture_logs(), FlagServer({"rate": 0.5}) as server:
        client = server.client()
        with LaunchDarklySource(client, "rate", CONTEXT, refresh_seconds=3600) as source:
            result = globals()[sys.argv[1]](server, client, source, TrafficGate(source))
    print(json.dumps(result))  # noqa: T201 - the answer to the test


if __name__ == "__main__":
    main()
