"""Every way in which LaunchDarkly can fail, with operations going on in both worlds.

docs/launchdarkly.md has a table of what happens in each, which names the tests of this file. `Traffic` checks
what is the same in all of them: no operation raises, returns anything but what was written last, or is held up.
"""

from __future__ import annotations

import contextlib
import gc
import http.server
import math
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import structlog
from ldclient import Config, LDClient
from ldclient.feature_store import InMemoryFeatureStore

from tests.launchdarkly.test_fork import scenario
from tests.launchdarkly.traffic import Traffic
from zddm_adapters import InMemoryAdapter
from zddm_flags import Backfill, LaunchDarklySource, Proxy, Rollout, TrafficGate
from zddm_flags.launchdarkly import EVENTS_KEPT
from zddm_flags.rollout import CLOSED
from zddm_flags.testing import FlagServer

FOREVER = 3600.0
START_WAIT = 0.3

NO_RATES = [
    "0.5",
    "",
    True,
    False,
    None,
    [0.5],
    [],
    {},
    {"read": 0.1},
    {"write": 0.1},
    {"read": "0.1", "write": "0.1"},
    {"read": None, "write": 0.5},
    {"read": 0.6, "write": 0.5},
    {"read": 0.1, "write": 1.1},
    {"read": 0, "write": 0.1, "backfill_per_second": -1},
    {"read": 0, "write": 0.1, "backfill_per_second": True},
    {"read": 0, "write": 0.1, "backfill_per_second": math.inf},
    -0.1,
    -1,
    1.0000001,
    100,
    10**18,
    10**400,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
]


def events(logged: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in logged if event["event"] == name]


def state_of(client: LDClient) -> str:
    """What the SDK says of its connection."""
    return client.data_source_status_provider.status.state.value


# The start


@contextlib.contextmanager
def a_socket() -> Iterator[socket.socket]:
    """A port that nothing else gets, and where nobody listens."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound


@contextlib.contextmanager
def refused() -> Iterator[int]:
    """Connections are refused."""
    with a_socket() as bound:
        yield bound.getsockname()[1]


@contextlib.contextmanager
def never_answered() -> Iterator[int]:
    """The operating system accepts connections, and nobody ever reads them."""
    with a_socket() as bound:
        bound.listen()
        yield bound.getsockname()[1]


@contextlib.contextmanager
def a_web_page() -> Iterator[int]:
    """Something between here and LaunchDarkly answers everything with a page of its own."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>Please log in to the network</html>")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        yield server.server_port
        server.shutdown()
        serving.join()


@contextlib.contextmanager
def unavailable() -> Iterator[int]:
    """LaunchDarkly answers 503."""
    with FlagServer(refusing=503) as server:
        yield int(server.url.rpartition(":")[2])


@pytest.mark.parametrize("outage", [refused, never_answered, a_web_page, unavailable], ids=lambda it: it.__name__)
def test_unreachable_at_the_start(context, reaches, outage: Callable[[], AbstractContextManager[int]]):
    """The SDK waits `start_wait` at most and nothing else waits; Old serves, until LaunchDarkly is there."""
    with ExitStack() as stack, ExitStack() as out:
        port = out.enter_context(outage())
        url = f"http://127.0.0.1:{port}"
        config = Config(
            "sdk-local",
            stream_uri=url,
            base_uri=url,
            events_uri=url,
            send_events=False,
            initial_reconnect_delay=0.05,
        )
        began = time.monotonic()
        client = LDClient(config, start_wait=START_WAIT)
        stack.callback(client.close)
        connected = time.monotonic()
        assert connected - began < START_WAIT + 2.0
        source = stack.enter_context(LaunchDarklySource(client, "rate", context, refresh_seconds=FOREVER))
        with Traffic(TrafficGate(source)) as traffic:
            assert time.monotonic() - connected < 1.0
            assert not traffic.reaches_new()
            assert state_of(client) == "initializing"
            out.close()
            stack.enter_context(FlagServer({"rate": 0.5}, port=port))
            assert reaches(source, 0.5)
            assert traffic.reaches_new()


@pytest.mark.parametrize("status", [401, 403])
def test_the_key_is_refused_at_the_start(context, eventually, status):
    """A wrong SDK key leaves the gate closed, and Old serves."""
    with FlagServer({"rate": 0.5}, refusing=status) as server:
        client = server.client(start_wait=START_WAIT)
        with (
            LaunchDarklySource(client, "rate", context, refresh_seconds=0.01) as source,
            Traffic(TrafficGate(source)) as traffic,
        ):
            eventually(
                lambda: getattr(client.data_source_status_provider.status.error, "status_code", 0) == status
            )
            server.accept()  # the SDK comes back in minutes
            assert not traffic.reaches_new()
            assert source.rollout == CLOSED


@pytest.mark.parametrize("value", [True, {"read": 0.1}, 1.5], ids=repr)
def test_no_rate_from_the_start(context, reaches, value):
    """Where the first value is no rate there is no good one before it, and the default holds."""
    with FlagServer({"rate": value}) as server:
        client = server.client()
        with (
            LaunchDarklySource(client, "rate", context, refresh_seconds=FOREVER) as source,
            Traffic(TrafficGate(source)) as traffic,
        ):
            assert not traffic.reaches_new()
            server.set("rate", 0.5)
            assert reaches(source, 0.5)
            assert traffic.reaches_new()


# The connection


@pytest.mark.parametrize("status", [401, 403])
def test_the_key_is_refused_later(server, client, make_source, eventually, status):
    """When the SDK key is refused later the last rate stays; `disable()` is the kill then."""
    source = make_source(refresh_seconds=0.01)
    with Traffic(TrafficGate(source)) as traffic:
        assert traffic.reaches_new()
        server.refuse(status)
        server.turn_off("rate")
        eventually(lambda: state_of(client) == "interrupted")
        assert traffic.reaches_new()
        for proxy in traffic.proxies:
            proxy.disable()
        assert not traffic.reaches_new()
        assert source.rollout == Rollout.of(0.5)


def test_the_connection_is_lost(server, client, make_source, reaches, eventually):
    """While the stream is cut the last rate stays, and what changed meanwhile is followed afterwards."""
    source = make_source()
    with Traffic(TrafficGate(source)) as traffic:
        server.refuse(503)
        server.turn_off("rate")
        eventually(lambda: state_of(client) == "interrupted")
        assert traffic.reaches_new()
        server.accept()
        assert reaches(source, 0.0)
        assert not traffic.reaches_new()


def test_the_connection_is_lost_for_long(server, make_source, reaches, logged, eventually):
    """After `max_staleness` without a connection Old serves, until there is one."""
    source = make_source(max_staleness=0.2)
    with Traffic(TrafficGate(source)) as traffic:
        assert traffic.reaches_new()
        server.refuse(503)
        assert reaches(source, 0.0)
        assert not traffic.reaches_new()
        eventually(lambda: events(logged, "rollout_stale_closed"))
        server.accept()
        assert reaches(source, 0.5)
        assert traffic.reaches_new()


def test_the_connection_is_silent(server, client, make_source, reaches):
    """A kill does not pass a half-open stream, nor is `max_staleness` told of it; `disable()` works."""
    source = make_source(max_staleness=0.1, refresh_seconds=0.01)
    with Traffic(TrafficGate(source)) as traffic:
        server.pause()
        server.turn_off("rate")
        silent_since = time.monotonic()
        while time.monotonic() < silent_since + 0.3:
            traffic.go_on()
        assert source.rollout == Rollout.of(0.5)
        assert state_of(client) == "valid"
        for proxy in traffic.proxies:
            proxy.disable()
        assert not traffic.reaches_new()
        for proxy in traffic.proxies:
            proxy.enable()
        assert traffic.reaches_new()
        server.resume()
        assert reaches(source, 0.0)
        assert not traffic.reaches_new()


# What LaunchDarkly sends

MALFORMED = {
    "half a line": "event: put\ndata: {\n\n",
    "no JSON": "event: patch\ndata: <html>\n\n",
    "nothing": "event: put\ndata: \n\n",
    "not an object": "event: put\ndata: []\n\n",
    "no flags": 'event: put\ndata: {"path": "/", "data": {}}\n\n',
    "flags that are none": 'event: put\ndata: {"path": "/", "data": {"flags": {"rate": 5}, "segments": {}}}\n\n',
    "a patch of nothing": 'event: patch\ndata: {"path": "/flags/rate"}\n\n',
    "a patch to a number": 'event: patch\ndata: {"path": "/flags/rate", "data": 0.9}\n\n',
    "a patch to null": 'event: patch\ndata: {"path": "/flags/rate", "data": null}\n\n',
    "a patch to a list": 'event: patch\ndata: {"path": "/flags/rate", "data": [0.9]}\n\n',
    "a flag of wrong types": 'event: patch\ndata: {"path": "/flags/rate", "data": '
    '{"key": "rate", "version": 99, "on": "yes", "variations": 0.9}}\n\n',
    "a flag without a version": 'event: patch\ndata: {"path": "/flags/rate", "data": '
    '{"key": "rate", "on": true, "variations": [0.9], "fallthrough": {"variation": 0}}}\n\n',
    "a deletion without a version": 'event: delete\ndata: {"path": "/flags/rate"}\n\n',
    "an unknown event": 'event: surprise\ndata: {"path": "/flags/rate", "data": 0.9}\n\n',
    "an unknown path": 'event: patch\ndata: {"path": "/rates/rate", "data": {"version": 99}}\n\n',
    "deep nesting": f"event: put\ndata: {'[' * 100_000}\n\n",
    "a number of 5,000 digits": f"event: put\ndata: {'9' * 5000}\n\n",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_data(server, make_source, reaches, text):
    """What is malformed on the stream changes nothing, and changes after it are followed."""
    source = make_source()
    seen = []
    source.subscribe(lambda rollout: seen.append(rollout.read))
    with Traffic(TrafficGate(source)) as traffic:
        server.send_raw(text)
        server.set("rate", 0.25)
        assert reaches(source, 0.25)
        assert seen == [0.5, 0.25]
        assert traffic.reaches_new()


@pytest.mark.parametrize("max_staleness", [None, 0.2])
def test_data_that_stay_malformed(server, client, make_source, reaches, eventually, max_staleness):
    """One flag of the environment that the SDK cannot decode is as a lost connection, until it is repaired."""
    source = make_source(max_staleness=max_staleness)
    with Traffic(TrafficGate(source)) as traffic:
        server.set_flag("another", {"on": True, "variations": 5})
        server.turn_off("rate")
        eventually(lambda: state_of(client) == "interrupted")
        if max_staleness is None:
            assert traffic.reaches_new()
            assert source.rollout == Rollout.of(0.5)
        else:
            assert reaches(source, 0.0)
            assert not traffic.reaches_new()
        server.set("another", True)
        server.set("rate", 0.25)
        server.turn_on("rate")
        assert reaches(source, 0.25)
        assert traffic.reaches_new()


def test_no_rate(server, make_source, reaches, logged, eventually):
    """A value that is no rate is logged, and the last good one stays."""
    source = make_source()
    with Traffic(TrafficGate(source)) as traffic:
        for number, value in enumerate(NO_RATES, start=1):
            server.set("rate", value)
            eventually(lambda number=number: len(events(logged, "flag_value_refused")) == number)
            assert source.rollout == Rollout.of(0.5)
        assert traffic.reaches_new()
        server.set("rate", {"read": 0, "write": 0.25})
        assert reaches(source, Rollout(0.0, 0.25))
        assert traffic.reaches_new()


# What an operator does


def test_the_flag_changes(server, make_source, reaches):
    """Up, down, up: writes ahead of reads, everything, nothing, and everything again."""
    source = make_source()
    with Traffic(TrafficGate(source)) as traffic:
        for value, used in (({"read": 0, "write": 0.5}, True), (1, True), (0, False), (0.1, True), (1, True)):
            server.set("rate", value)
            assert reaches(source, Rollout.parse(value))
            assert traffic.reaches_new() == used


def test_the_flag_paces_a_backfill(server, make_source, reaches, logged, eventually):
    """A backfill in progress stops at 0 rows a second and goes on at more; a wrong number changes nothing."""
    source = make_source()
    gate = TrafficGate(source)
    server.set("rate", {"read": 0, "write": 1, "backfill_per_second": 0})
    assert reaches(source, Rollout(0, 1, 0))
    held = {f"key-{number}": number for number in range(300)}
    old, new = InMemoryAdapter[str, int](held), InMemoryAdapter[str, int]()
    with Proxy(gate, old, new) as proxy, ThreadPoolExecutor(1) as pool:
        job = Backfill(proxy)
        try:
            running = pool.submit(job.run)
            eventually(lambda: job.progress().waiting == "the flag's backfill_per_second is 0")
            server.set("rate", {"read": 0, "write": 1, "backfill_per_second": "fast"})
            eventually(lambda: events(logged, "flag_value_refused"))
            assert gate.decision.rollout == Rollout(0, 1, 0)
            assert new.scan().items == []
            server.set("rate", {"read": 0, "write": 1, "backfill_per_second": 1_000_000})
            assert running.result(10).complete
        finally:
            job.stop()
        assert gate.decision.rollout.backfill_per_second == 1_000_000
    assert dict(new.scan().items) == held
    eventually(
        lambda: any(event.get("backfill_per_second") == 1_000_000 for event in events(logged, "rate_changed"))
    )


def test_the_flag_is_turned_off(server, make_source, reaches):
    """Off is a kill, and on again resumes where it was."""
    source = make_source()
    with Traffic(TrafficGate(source)) as traffic:
        for _ in range(3):
            assert traffic.reaches_new()
            server.turn_off("rate")
            assert reaches(source, 0.0)
            assert not traffic.reaches_new()
            server.turn_on("rate")
            assert reaches(source, 0.5)
        assert traffic.reaches_new()


def test_turned_off_without_an_off_variation(server, make_source, reaches):
    """Off without an off variation is the default."""
    source = make_source()
    with Traffic(TrafficGate(source)) as traffic:
        server.set_flag("rate", {"on": False, "variations": [0.75], "fallthrough": {"variation": 0}})
        assert reaches(source, 0.0)
        assert not traffic.reaches_new()


@pytest.mark.parametrize("off", ["off", None, 100, False, {"read": 0}], ids=repr)
@pytest.mark.parametrize("by", ["switch", "prerequisite"])
def test_turned_off_to_no_rate(server, make_source, reaches, logged, eventually, off, by):
    """Off is a kill where the off variation is no rate, too: the default, and not the last good rate."""
    source = make_source()
    server.set("needed", value=True)
    flag = {
        "on": True,
        "variations": [0.75, off],
        "fallthrough": {"variation": 0},
        "offVariation": 1,
        "prerequisites": [{"key": "needed", "variation": 0}],
    }
    server.set_flag("rate", flag)
    with Traffic(TrafficGate(source)) as traffic:
        assert reaches(source, 0.75)
        server.turn_off("rate" if by == "switch" else "needed")
        assert reaches(source, 0.0)
        assert not traffic.reaches_new()
        eventually(lambda: events(logged, "flag_value_refused"))
        server.turn_on("rate" if by == "switch" else "needed")
        assert reaches(source, 0.75)
        assert traffic.reaches_new()


@pytest.mark.parametrize("when", ["connected", "cut off"])
def test_deleted_or_archived(server, client, make_source, reaches, eventually, when):
    """A flag that was deleted, or archived, is the default, and is followed when it is there again."""
    source = make_source()
    with Traffic(TrafficGate(source)) as traffic:
        assert traffic.reaches_new()
        if when == "cut off":  # it is then missing in what LaunchDarkly sends, and not told to be deleted
            server.refuse(503)
            eventually(lambda: state_of(client) == "interrupted")
        server.delete("rate")
        server.accept()
        assert reaches(source, 0.0)
        assert not traffic.reaches_new()
        server.set("rate", 0.25)
        assert reaches(source, 0.25)
        assert traffic.reaches_new()


NOT_EVALUATED: dict[str, dict[str, Any]] = {
    "no variations": {"on": True, "fallthrough": {"variation": 0}},
    "an empty list of variations": {"on": True, "variations": [], "fallthrough": {"variation": 0}},
    "no such variation": {"on": True, "variations": [0.75], "fallthrough": {"variation": 7}},
    "no fallthrough": {"on": True, "variations": [0.75]},
    "an empty percentage rollout": {
        "on": True,
        "variations": [0.75],
        "fallthrough": {"rollout": {"variations": []}},
    },
    "its own prerequisite": {
        "on": True,
        "variations": [0.75],
        "fallthrough": {"variation": 0},
        "prerequisites": [{"key": "rate", "variation": 0}],
    },
}


@pytest.mark.parametrize("flag", NOT_EVALUATED.values(), ids=NOT_EVALUATED)
def test_the_flag_cannot_be_evaluated(server, make_source, reaches, flag):
    """A flag that LaunchDarkly's rules give no value for is the default."""
    source = make_source()
    with Traffic(TrafficGate(source)) as traffic:
        assert traffic.reaches_new()
        server.set_flag("rate", flag)
        assert reaches(source, 0.0)
        assert not traffic.reaches_new()
        server.set("rate", 0.25)
        assert reaches(source, 0.25)
        assert traffic.reaches_new()


# The SDK


def test_a_change_that_is_not_reported(server, make_source, reaches):
    """A kill that the SDK has, and does not report, is found by the refresh."""
    source = make_source(refresh_seconds=0.05)
    with Traffic(TrafficGate(source)) as traffic:
        assert traffic.reaches_new()
        flag = {"on": True, "variations": [0.0], "fallthrough": {"variation": 0}}
        server.set_flag("rate", flag, version=0)
        server.put()
        assert reaches(source, 0.0)
        assert not traffic.reaches_new()


class BrokenStore(InMemoryFeatureStore):
    """What the SDK keeps flags in, which in production can be a database."""

    broken = False

    def get(self, kind: Any, key: str, callback: Callable[[Any], Any] = lambda item: item) -> Any:
        if self.broken:
            raise ConnectionError("the SDK's store is out of reach")
        return super().get(kind, key, callback)


def test_the_sdk_cannot_read_its_store(context, reaches):
    """Where the SDK cannot read the flags that it keeps, the default holds until it can."""
    store = BrokenStore()
    with FlagServer({"rate": 0.5}) as server:
        client = server.client(feature_store=store)
        with (
            LaunchDarklySource(client, "rate", context, refresh_seconds=0.02) as source,
            Traffic(TrafficGate(source)) as traffic,
        ):
            assert traffic.reaches_new()
            store.broken = True
            assert reaches(source, 0.0)
            assert not traffic.reaches_new()
            store.broken = False
            assert reaches(source, 0.5)
            assert traffic.reaches_new()


def test_a_listener_of_the_application_blocks(server, client, make_source, reaches):
    """A listener that blocks the SDK's thread holds up later changes, not operations; then they are followed."""
    entered, leave = threading.Event(), threading.Event()

    def block(_: object) -> None:
        entered.set()
        assert leave.wait(30)

    client.flag_tracker.add_listener(block)  # before the source's, which is told after it
    source = make_source(refresh_seconds=0.02)
    try:
        with Traffic(TrafficGate(source)) as traffic:
            server.set("rate", 0.25)
            assert entered.wait(5)
            assert reaches(source, 0.25)  # by the refresh
            server.turn_off("rate")
            assert traffic.reaches_new()
            leave.set()
            assert reaches(source, 0.0)
            assert not traffic.reaches_new()
    finally:
        leave.set()


@pytest.mark.filterwarnings("ignore:Exception in thread ldclient:pytest.PytestUnhandledThreadExceptionWarning")
def test_a_listener_of_the_application_exits(server, client, make_source, reaches, eventually):
    """A listener that exits ends the SDK's thread, unseen; a restart of the client is followed."""
    source = make_source(max_staleness=0.1, refresh_seconds=0.02)

    def exits(_: object) -> None:
        raise SystemExit

    client.flag_tracker.add_listener(exits)
    with Traffic(TrafficGate(source)) as traffic:
        server.set("rate", 0.25)
        assert reaches(source, 0.25)
        eventually(lambda: server.connections == 0)
        server.turn_off("rate")
        assert traffic.reaches_new()
        assert state_of(client) == "valid"
        for proxy in traffic.proxies:
            proxy.disable()
        assert not traffic.reaches_new()
        client.postfork()
        source.postfork()
        assert source.rollout == CLOSED
        for proxy in traffic.proxies:
            proxy.enable()
        assert not traffic.reaches_new()


@pytest.mark.parametrize("answer", ["refused", 401, 503])
def test_events_are_not_taken(context, caplog, reaches, eventually, answer):
    """That LaunchDarkly takes no events from the SDK has no effect on the flag nor on operations."""
    with ExitStack() as stack:
        if answer == "refused":
            port = stack.enter_context(refused())
            url = f"http://127.0.0.1:{port}"
        else:
            url = stack.enter_context(FlagServer(refusing=answer)).url
        server = stack.enter_context(FlagServer({"rate": 0.5}))
        client = server.client(send_events=True, events_uri=url, flush_interval=0.02)
        source = stack.enter_context(LaunchDarklySource(client, "rate", context, refresh_seconds=0.01))
        with Traffic(TrafficGate(source)) as traffic:
            eventually(lambda: any("event" in record.getMessage() for record in caplog.records))
            assert traffic.reaches_new()
            server.turn_off("rate")
            assert reaches(source, 0.0)
            assert not traffic.reaches_new()


@pytest.mark.parametrize("max_staleness", [None, 0.1])
def test_the_client_is_closed(server, client, make_source, reaches, max_staleness):
    """An SDK client that was closed leaves the last rate, or after `max_staleness` a closed gate."""
    source = make_source(refresh_seconds=0.01, max_staleness=max_staleness)
    with Traffic(TrafficGate(source)) as traffic:
        client.close()
        server.turn_off("rate")
        if max_staleness is None:
            assert traffic.reaches_new()
            for proxy in traffic.proxies:
                proxy.disable()
        else:
            assert reaches(source, 0.0)
        assert not traffic.reaches_new()
        assert state_of(client) == "off"


def test_the_source_is_closed(server, client, make_source, set_and_wait):
    """A closed source closes its gates for good."""
    source = make_source()
    with Traffic(TrafficGate(source)) as traffic:
        assert traffic.reaches_new()
        source.close()
        assert not traffic.reaches_new()
        set_and_wait(server, client, 1)
        assert not traffic.reaches_new()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_without_postfork():
    """In a child all operations go to Old, and nobody reads what New holds from before them."""
    seen = scenario("operations_without_postfork")
    assert seen["parent before"] == ["both", "new_hit", "old"]
    assert seen["child"] == {"paths": ["old"], "wrong": [], "logged": ["launchdarkly_forked"]}
    assert seen["stale in New"] > 0
    assert seen["wrong in parent"] == []
    assert seen["parent after"] == ["both", "copied", "miss", "new_hit", "old"]


# Many


def test_a_thousand_changes_a_second(server, make_source, reaches):
    """Operations go on through 3,000 changes in 3 s, the last one stays, and waiting log events are bounded."""
    changes, seconds = 3000, 3.0
    logging, release = threading.Event(), threading.Event()
    written = []

    def log(_: object, __: str, event: MutableMapping[str, Any]) -> str:
        if event["event"] == "rate_changed":
            logging.set()
            assert release.wait(60)
            written.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[log])
    source = make_source()
    told = []
    source.subscribe(told.append)
    try:
        with Traffic(TrafficGate(source)) as traffic:
            assert logging.wait(5)  # from here on the log takes nothing
            began = time.monotonic()
            for number in range(changes):
                due = began + number * seconds / changes
                time.sleep(max(0.0, due - time.monotonic()))  # the pace that is tested
                rate = 0.3 + number % 100 / 250
                server.set("rate", rate if number % 2 else {"read": rate / 2, "write": rate})
                if number % 300 == 0:
                    traffic.go_on()
            server.set("rate", 0.123)
            sending = time.monotonic() - began
            assert reaches(source, 0.123)
            assert traffic.reaches_new()
        assert len(told) == changes + 2, "the first rate, each change, and the last"
        assert sending < 3 * seconds, "the machine was too slow for what this is to show"
        release.set()
        source.close()
        assert EVENTS_KEPT <= len(written) <= EVENTS_KEPT + 2  # one was being written, one is of the closing
        assert [(event["read"], event["reason"]) for event in written[-2:]] == [
            (0.123, "fallthrough"),
            (0.0, "closed"),
        ]
    finally:
        release.set()
        structlog.configure(processors=[structlog.testing.LogCapture()])


def listeners_of(client: LDClient) -> tuple[list[Any], list[Any]]:
    """What the SDK tells of changes of flags, and of the connection; it has no public way to ask."""
    trackers: Any = client.flag_tracker, client.data_source_status_provider
    of_flags = trackers[0]._FlagTrackerImpl__listeners
    of_status = trackers[1]._DataSourceStatusProviderImpl__listeners
    return list(of_flags._Listeners__listeners), list(of_status._Listeners__listeners)


@pytest.mark.parametrize(("sources", "gates"), [(1, 25), (5, 5)])
def test_many_proxies_on_one_flag(server, client, context, reaches, sources, gates):
    """A kill reaches 50 proxies of both worlds, and nothing is left of them when all is closed."""
    client.flag_tracker.add_listener(print)  # one of the application's own stays
    before = listeners_of(client)
    threads = set(threading.enumerate())
    followers = [LaunchDarklySource(client, "rate", context, refresh_seconds=FOREVER) for _ in range(sources)]
    doors = [TrafficGate(source) for source in followers for _ in range(gates)]
    traffic = Traffic(*doors)
    assert len(traffic.proxies) == 50
    with traffic:
        assert traffic.reaches_new()
        server.turn_off("rate")
        assert all(reaches(source, 0.0) for source in followers)
        assert not traffic.reaches_new()
        server.turn_on("rate")
        assert all(reaches(source, 0.5) for source in followers)
        assert traffic.reaches_new()
    for gate in doors:
        gate.close()
    assert [source._listeners for source in followers] == [()] * sources
    for source in followers:
        source.close()
    assert listeners_of(client) == before
    assert set(threading.enumerate()) == threads
    references = [weakref.ref(thing) for thing in (*followers, *doors, *traffic.proxies)]
    del gate, source, followers, doors, traffic  # pyright: ignore[reportPossiblyUnboundVariable] - no list was empty
    gc.collect()
    assert [reference() for reference in references if reference() is not None] == []
