"""The rollout follows the flag, through the real SDK."""

from __future__ import annotations

import gc
import json
import math
import threading
import time
import weakref
from typing import TYPE_CHECKING, ClassVar, cast

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ldclient import Config, LDClient
from ldclient.hook import Hook, Metadata
from ldclient.integrations.test_data import TestData as FlagData
from ldclient.interfaces import UpdateProcessor
from ldclient.versioned_data_kind import FEATURES, SEGMENTS

from zddm_flags import LaunchDarklySource, Rollout, TrafficGate
from zddm_flags.errors import GateIsLive, InvalidRollout
from zddm_flags.rollout import CLOSED, RolloutSource
from zddm_flags.testing import FlagServer

if TYPE_CHECKING:
    from collections.abc import Callable

WRONG = [
    "0.5",
    True,
    math.nan,
    math.inf,
    1.5,
    -0.1,
    None,
    [0.5],
    {},
    {"read": 0.1},
    {"read": 0.6, "write": 0.5},
    {"backfill_per_second": -1, "read": 0.1, "write": 0.5},
    {"backfill_per_second": "fast", "read": 0.1, "write": 0.5},
]


class Evaluations(Hook):
    """Counts the evaluations, and runs a function after one, before its caller has the result."""

    def __init__(self):
        self.count = 0
        self.afterwards: Callable[[], object] | None = None

    @property
    def metadata(self):
        return Metadata("evaluations")

    def before_evaluation(self, series_context, data):
        return data

    def after_evaluation(self, series_context, data, detail):
        self.count += 1
        afterwards, self.afterwards = self.afterwards, None
        if afterwards is not None:
            afterwards()
        return data


def events(logged, name):
    return [event for event in logged if event["event"] == name]


# Values


@pytest.mark.parametrize(
    ("value", "rollout"),
    [
        (0.25, Rollout.of(0.25)),
        (1, Rollout.of(1.0)),
        (0, CLOSED),
        ({"read": 0.1, "write": 0.5}, Rollout(0.1, 0.5)),
        ({"read": 0, "write": 1, "comment": "warming"}, Rollout(0.0, 1.0)),
        ({"read": 0, "write": 1, "backfill_per_second": 500}, Rollout(0.0, 1.0, 500.0)),
        ({"read": 0, "write": 1, "backfill_per_second": 0}, Rollout(0.0, 1.0, 0.0)),
        ({"read": 0, "write": 1, "backfill_per_second": None}, Rollout(0.0, 1.0)),
    ],
)
def test_values(server, make_source, reaches, value, rollout):
    """A number, whole or not, and an object with both rates are rollouts of floats."""
    source = make_source()
    server.set("rate", value)
    assert reaches(source, rollout)
    assert (type(source.rollout.read), type(source.rollout.write)) == (float, float)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_wrong_values(server, make_source, logged, eventually, value):
    """A value that is no rollout is logged and changes nothing; the next good one is followed."""
    gate = TrafficGate(make_source())
    server.set("rate", value)
    eventually(lambda: events(logged, "flag_value_refused"))
    assert (gate.rate, gate.write_rate) == (0.5, 0.5)
    (event,) = events(logged, "flag_value_refused")
    assert (event["log_level"], event["flag_key"], event["value"]) == ("error", "rate", repr(value))
    server.set("rate", 0.25)
    eventually(lambda: gate.rate == 0.25)


def test_a_wrong_value_is_logged_once(server, client, make_source, set_and_wait, logged):
    """Each wrong value is logged once, however often it is evaluated and whatever comes in between."""
    source = make_source()
    for value in (1.5, {"read": 1}, 1.5, 0.5, 1.5, {"read": 1}, "1.5"):
        set_and_wait(server, client, value)
    source.close()
    assert [event["value"] for event in events(logged, "flag_value_refused")] == [
        "1.5",
        "{'read': 1}",
        "'1.5'",
    ]


def test_wrong_values_take_bounded_memory(server, client, make_source, set_and_wait, logged):
    """Hundreds of wrong and long values are neither remembered, nor all logged, nor logged whole."""
    source = make_source()
    nested: object = "x" * 200
    for _ in range(5):
        nested = [nested] * 6
    set_and_wait(server, client, nested)
    for number in range(300):
        set_and_wait(server, client, f"{number} " * 500)
    source.close()
    assert len(source._remembered) <= 100
    assert 100 < len(events(logged, "flag_value_refused")) <= 110, "100, then one in ten seconds"
    assert max(len(event["value"]) for event in logged if "value" in event) <= 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.floats(0, 1) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.sampled_from(["read", "write", "backfill_per_second"]), inner)
    ),
    max_leaves=5,
)


@given(value=json_values)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json(server, client, shared_source, set_and_wait, value):
    """Any JSON is either followed exactly as `Rollout.parse` reads it, or changes nothing."""
    before = shared_source.rollout
    set_and_wait(server, client, value)
    try:
        expected = Rollout.parse(json.loads(json.dumps(value)))
    except InvalidRollout:
        expected = before
    assert shared_source.rollout == expected


@pytest.fixture
def shared_source(make_source):
    return make_source()


# No value


def no_value(server, case):
    if case == "off without an off variation":
        server.set_flag("rate", {"on": False, "variations": [0.5], "fallthrough": {"variation": 0}})
    elif case == "deleted":
        server.delete("rate")
    elif case == "no variations":
        server.set_flag("rate", {"on": True, "fallthrough": {"variation": 0}})
    elif case == "no such variation":
        server.set_flag("rate", {"on": True, "variations": [0.5], "fallthrough": {"variation": 7}})


@pytest.mark.parametrize("case", ["off without an off variation", "deleted", "no variations", "no such variation"])
@pytest.mark.parametrize("default", [0.0, 0.125, Rollout(0.0, 0.25), {"read": 0.1, "write": 0.2}])
def test_no_value_is_the_default(server, make_source, reaches, case, default):
    """Where LaunchDarkly has no value for the flag, the rollout is the default, until it has one again."""
    source = make_source(default=default)
    no_value(server, case)
    assert reaches(source, default if isinstance(default, Rollout) else Rollout.parse(default))
    server.set("rate", 0.75)
    server.turn_on("rate")
    assert reaches(source, 0.75)


def test_turning_the_flag_off_is_a_kill(server, make_source, reaches):
    """Off, the flag serves its off value, and on again, the rate from before."""
    source = make_source()
    server.turn_off("rate")
    assert reaches(source, 0.0)
    server.turn_on("rate")
    assert reaches(source, 0.5)


@pytest.mark.parametrize("default", [0.0, 0.125])
def test_turning_the_flag_off_to_no_rollout(server, make_source, reaches, logged, eventually, default):
    """Off, a flag whose off variation is no rollout is the default; on, a wrong value changes nothing."""
    source = make_source(default=default)
    server.set("rate", 0.5, off="off")
    server.turn_off("rate")
    assert reaches(source, default)
    eventually(lambda: [event["value"] for event in events(logged, "flag_value_refused")] == ["'off'"])
    server.set("rate", 1.5, off="off")
    server.turn_on("rate")
    eventually(lambda: len(events(logged, "flag_value_refused")) == 2)
    assert source.rollout == Rollout.of(default)
    server.set("rate", 0.75)
    assert reaches(source, 0.75)


def test_an_unknown_flag_that_is_created(client, server, context, reaches):
    """A flag that does not exist yet is the default, and is followed from its creation on."""
    with LaunchDarklySource(client, "later", context) as source:
        assert source.rollout == CLOSED
        server.set("later", 0.25)
        assert reaches(source, 0.25)


# No change is lost


def test_a_kill_arrives_by_an_event(server, make_source, reaches):
    """A kill reaches the gate at once, long before the next refresh."""
    gate = TrafficGate(make_source())
    assert gate.should_pass("key-1") == (gate.locate("key-1")[0] < 2**63)
    started = time.monotonic()
    server.set("rate", 0)
    assert reaches(gate.source, 0.0, seconds=1.0)
    assert time.monotonic() - started < 1.0
    assert not gate.should_pass("key-1")


@pytest.mark.parametrize("when", ["construction", "refresh"])
def test_a_change_during_an_evaluation(server, context, when, set_and_wait):
    """A change that is followed while another evaluation holds the older value is not overwritten by it."""
    hook = Evaluations()
    client = server.client(hooks=[hook])
    finished = threading.Event()

    def change():
        set_and_wait(server, client, 0.0)
        finished.set()

    if when == "construction":
        hook.afterwards = change
    with LaunchDarklySource(client, "rate", context, refresh_seconds=0.05) as source:
        hook.afterwards = hook.afterwards or (None if finished.is_set() else change)
        assert finished.wait(5)
        source._refresh_seconds = 3600.0
        assert source.rollout == CLOSED


def test_constructing_under_constant_change(server, client, context, reaches):
    """Every source that is made while the flag keeps changing ends at its last value."""
    stop = threading.Event()

    def hammer():
        step = 0
        while not stop.is_set():
            step += 1
            server.set("rate", (step % 100) / 100)
            stop.wait(0.0005)  # slower than the SDK follows, or the test measures its backlog

    hammering = threading.Thread(target=hammer)
    hammering.start()
    sources = [LaunchDarklySource(client, "rate", context, refresh_seconds=3600) for _ in range(30)]
    stop.set()
    hammering.join()
    server.set("rate", 0.123)
    try:
        assert all(reaches(source, 0.123) for source in sources)
    finally:
        for source in sources:
            source.close()


def test_a_subscriber_sees_every_change_in_order(server, make_source, reaches):
    """A thousand quick changes are told one by one, in order, and the last one stays."""
    source = make_source()
    seen = []
    source.subscribe(lambda rollout: seen.append(rollout.read))
    values = [step / 1000 for step in range(1000)]
    for value in values:
        server.set("rate", value)
    assert reaches(source, 0.999)
    assert seen == [0.5, *values]


def test_refreshes_between_changes_keep_the_order(server, make_source, reaches):
    """Refreshes in the midst of quick changes may skip one that is over, and never bring one back."""
    source = make_source(refresh_seconds=0.01)
    seen = []
    source.subscribe(lambda rollout: seen.append(rollout.read))
    for step in range(1000):
        server.set("rate", 0.5 + step / 2000)
    assert reaches(source, 0.9995)
    assert seen == sorted(seen)


def test_a_change_that_the_sdk_does_not_report(server, client, make_source, reaches):
    """A change without a listener call, here a put with a lower version, is found by the refresh."""
    source = make_source(refresh_seconds=0.05)
    flag = {"on": True, "variations": [0.25], "fallthrough": {"variation": 0}}
    server.set_flag("rate", flag, version=0)
    server.put()
    assert reaches(source, 0.25)


def test_test_data_is_followed_by_the_refresh(context, reaches):
    """LaunchDarkly's TestData, which reports no change and never connects, works at the refresh."""
    data = FlagData.data_source()
    data.update(data.flag("rate").variations(0.1, 0.7).on(True).fallthrough_variation(0))
    config = Config("sdk-local", update_processor_class=data, send_events=False)
    with (
        LDClient(config) as client,
        LaunchDarklySource(client, "rate", context, refresh_seconds=0.02) as source,
    ):
        assert source.rollout == Rollout.of(0.1)
        data.update(data.flag("rate").variations(0.1, 0.7).fallthrough_variation(1))
        assert reaches(source, 0.7)


def test_other_flags_cost_nothing(server, context, set_and_wait):
    """Neither a change of another flag nor a decision of the gate evaluates the flag."""
    hook = Evaluations()
    client = server.client(hooks=[hook])
    with LaunchDarklySource(client, "rate", context, refresh_seconds=3600) as source:
        gate = TrafficGate(source)
        set_and_wait(server, client, 1, key="other")
        for number in range(1000):
            gate.should_pass(number)
        assert hook.count == 1


# Listeners


def test_many_gates(server, make_source, reaches):
    """Every gate on a source has followed a change once a later subscriber has."""
    source = make_source()
    gates = [TrafficGate(source) for _ in range(20)]
    assert isinstance(source, RolloutSource)
    server.set("rate", {"read": 0.25, "write": 0.75})
    assert reaches(source, Rollout(0.25, 0.75))
    assert {(gate.rate, gate.write_rate, gate.flag_key) for gate in gates} == {(0.25, 0.75, "rate")}
    with pytest.raises(GateIsLive, match="'rate'"):
        gates[0].set_rate(1.0)


def test_a_gate_that_was_closed(server, make_source, reaches):
    """A gate that was closed keeps its rate, and the others go on."""
    source = make_source()
    closed, other = TrafficGate(source), TrafficGate(source)
    closed.close()
    closed.close()
    server.set("rate", 0.25)
    assert reaches(source, 0.25)
    assert (closed.rate, other.rate) == (0.5, 0.25)


@pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_listener_that_raises(server, make_source, reaches, logged, raised):
    """A listener that raises, even SystemExit, keeps no change from other listeners nor from the SDK."""
    source = make_source()

    def broken(rollout):
        if rollout.read != 0.5:
            raise raised("broken")

    source.subscribe(broken)
    gate = TrafficGate(source)
    for rate in (0.25, 0.0, 0.75):
        server.set("rate", rate)
        assert reaches(source, rate)
        assert gate.rate == rate
    source.close()
    [failed] = events(logged, "launchdarkly_source_failed")
    line = broken.__code__.co_firstlineno + 2
    assert (failed["error"], failed["at"]) == (raised.__name__, f"test_source.py:{line}")
    assert "broken" not in str(failed), "the text may quote what the listener works on"


def test_a_listener_that_refuses_to_subscribe(make_source):
    """What a listener raises as it subscribes reaches the subscriber, and it is not subscribed."""
    source = make_source()
    with pytest.raises(ZeroDivisionError):
        source.subscribe(lambda _: 1 // 0)
    assert source._listeners == ()


def test_a_listener_that_closes_the_source(server, make_source, eventually):
    """A listener may close the source, at once: everyone after it is told of the closing only."""
    source = make_source(max_staleness=3600)
    seen, seconds = [], []

    def close(rollout):
        if rollout.read == 0.25:
            started = time.monotonic()
            source.close()
            seconds.append(time.monotonic() - started)

    source.subscribe(close)
    source.subscribe(lambda rollout: seen.append(rollout.read))
    server.set("rate", 0.25)
    eventually(lambda: seconds)
    assert seen == [0.5, 0.0]
    assert seconds[0] < 1.0


# The connection


def test_not_ready_at_the_start(context, caplog, reaches, logged):
    """Without LaunchDarkly at the start the gate is closed, nothing is evaluated, and it opens by itself."""
    hook = Evaluations()
    with FlagServer({"rate": 0.5}, refusing=503) as server:
        client = server.client(start_wait=0, hooks=[hook])
        with LaunchDarklySource(client, "rate", context, refresh_seconds=3600) as source:
            gate = TrafficGate(source)
            source.postfork()
            assert (gate.rate, hook.count) == (0.0, 0)
            server.accept()
            assert reaches(source, 0.5)
            assert gate.rate == 0.5
    assert "returning default" not in caplog.text
    assert [event["state"] for event in events(logged, "launchdarkly_connection_changed")][:2] == [
        "initializing",
        "valid",
    ]


class Silent(UpdateProcessor):
    """A data source that becomes ready without reporting a state or a change, as files and daemons do."""

    started: ClassVar[list[Silent]] = []

    def __init__(self, config, store, ready):
        self.store = store
        self.ready = ready

    def start(self):
        self.started.append(self)

    def initialized(self):
        return self.ready.is_set()

    def become_ready(self, rate):
        flag = {
            "key": "rate",
            "version": 1,
            "on": True,
            "variations": [rate],
            "fallthrough": {"variation": 0},
        }
        self.store.init({FEATURES: {"rate": flag}, SEGMENTS: {}})
        self.ready.set()


def test_ready_without_a_word(context, reaches):
    """A client that becomes ready without reporting it is noticed long before the next refresh."""
    config = Config("sdk-local", update_processor_class=Silent, send_events=False)
    with (
        LDClient(config, start_wait=0) as client,
        LaunchDarklySource(client, "rate", context, refresh_seconds=3600) as source,
    ):
        Silent.started.pop().become_ready(0.25)
        assert reaches(source, 0.25)


def test_a_default_while_not_ready(context):
    """A client that is not ready means the default."""
    with FlagServer(refusing=503) as server:
        client = server.client(start_wait=0)
        with LaunchDarklySource(client, "rate", context, default=0.25) as source:
            assert source.rollout == Rollout.of(0.25)


def test_a_wrong_key_at_the_start(context):
    """A refused SDK key leaves the gate closed and raises nothing."""
    with FlagServer({"rate": 0.5}, refusing=401) as server:
        client = server.client(start_wait=0.1)
        with LaunchDarklySource(client, "rate", context, refresh_seconds=0.01) as source:
            server.accept()
            assert source.rollout == CLOSED


def test_a_key_that_is_refused_later(server, client, make_source, logged, eventually):
    """When the SDK key is refused later, the last rate stays, and the log says once that it may be old."""
    source = make_source(refresh_seconds=0.01)
    server.refuse(401)
    eventually(lambda: client.data_source_status_provider.status.error is not None)
    eventually(lambda: events(logged, "launchdarkly_connection_changed"))
    server.accept()
    assert source.rollout == Rollout.of(0.5)
    (event,) = events(logged, "launchdarkly_connection_changed")
    assert (event["log_level"], event["state"]) == ("warning", "interrupted")


def test_a_change_during_a_cut(server, make_source, reaches, logged, eventually):
    """A change made while the stream was cut is followed at the reconnection, which is logged."""
    source = make_source()
    server.refuse(503)
    server.set("rate", 0.25)
    server.accept()
    assert reaches(source, 0.25)
    eventually(lambda: len(events(logged, "launchdarkly_connection_changed")) == 2)
    states = [(event["log_level"], event["state"]) for event in events(logged, "launchdarkly_connection_changed")]
    assert states == [("warning", "interrupted"), ("info", "valid")]


def test_malformed_data(server, make_source, reaches):
    """Malformed data on the stream changes nothing, and later changes arrive."""
    source = make_source()
    seen = []
    source.subscribe(lambda rollout: seen.append(rollout.read))
    server.send_raw("event: put\ndata: {oops\n\n")
    server.send_raw('event: patch\ndata: {"path": "/flags/rate"}\n\n')
    server.set("rate", 0.25)
    assert reaches(source, 0.25)
    assert seen == [0.5, 0.25]


@pytest.mark.parametrize("version", [None, 0])
def test_staleness(server, make_source, reaches, logged, version):
    """Too long without a connection closes the gate, and it opens again with the flag's new value only."""
    source = make_source(max_staleness=0.1)
    seen = []
    source.subscribe(lambda rollout: seen.append(rollout.read))
    server.refuse(503)
    assert reaches(source, 0.0)
    # A version of 0 is one that the SDK does not report: the value from before must not come back meanwhile.
    flag = {"on": True, "variations": [0.25], "fallthrough": {"variation": 0}}
    server.set_flag("rate", flag, version=version)
    server.accept()
    assert reaches(source, 0.25)
    assert seen == [0.5, 0.0, 0.25]
    source.close()
    assert [event["reason"] for event in events(logged, "rate_changed")][1] == "stale"
    assert [event["log_level"] for event in events(logged, "rollout_stale_closed")] == ["error"]


def test_a_short_cut_is_not_stale(server, make_source, logged, eventually):
    """A cut shorter than `max_staleness` leaves the rate alone."""
    source = make_source(max_staleness=3600)
    seen = []
    source.subscribe(seen.append)
    server.drop_connections()
    eventually(lambda: len(events(logged, "launchdarkly_connection_changed")) == 2)
    assert seen == [Rollout.of(0.5)]


def test_staleness_from_the_start(context, reaches):
    """A client that never connects is stale from construction on, whatever the default."""
    with FlagServer({"rate": 0.5}, refusing=503) as server:
        client = server.client(start_wait=0)
        with LaunchDarklySource(client, "rate", context, default=0.25, max_staleness=0.1) as source:
            assert source.rollout == Rollout.of(0.25)
            assert reaches(source, 0.0)
            server.accept()
            assert reaches(source, 0.5)


# Log events


def test_a_change_is_logged(server, make_source, reaches, logged):
    """A change is logged with the rates before and after it, and with LaunchDarkly's reason."""
    source = make_source()
    server.set("rate", {"read": 0.1, "write": 0.2})
    assert reaches(source, Rollout(0.1, 0.2))
    server.turn_off("rate")
    assert reaches(source, 0.0)
    source.close()
    change = {"event": "rate_changed", "log_level": "info", "flag_key": "rate"}
    start, ramp, kill = events(logged, "rate_changed")
    assert (
        start == {"read": 0.5, "write": 0.5, "old_read": 0.0, "old_write": 0.0, "reason": "fallthrough"} | change
    )
    assert ramp == {"read": 0.1, "write": 0.2, "old_read": 0.5, "old_write": 0.5, "reason": "fallthrough"} | change
    assert kill == {"read": 0.0, "write": 0.0, "old_read": 0.1, "old_write": 0.2, "reason": "disabled"} | change


def test_blocked_logging_delays_no_kill(server, make_source, reaches):
    """Logging that blocks or exits keeps no change from the gate."""
    logging, release = threading.Event(), threading.Event()

    def block(logger, name, event):
        logging.set()
        release.wait(30)
        raise SystemExit

    structlog.configure(processors=[block])
    try:
        source = make_source()
        assert logging.wait(5)
        server.set("rate", 0)
        assert reaches(source, 0.0, seconds=1.0)
        release.set()
        server.set("rate", 0.25)
        assert reaches(source, 0.25)
        assert source._log_thread is not None
        assert source._log_thread.is_alive()
    finally:
        release.set()
        structlog.configure(processors=[structlog.testing.LogCapture()])


def test_blocked_logging_delays_no_staleness(server, make_source, reaches):
    """Logging that blocks, as it may in the very outage, does not keep a stale gate open."""
    logging, release = threading.Event(), threading.Event()

    def block(logger, name, event):
        if event["event"] == "launchdarkly_connection_changed":
            logging.set()
            release.wait(30)
        raise structlog.DropEvent

    structlog.configure(processors=[block])
    try:
        source = make_source(max_staleness=0.5)
        server.refuse(503)
        assert logging.wait(5)
        assert reaches(source, 0.0)
    finally:
        release.set()
        structlog.configure(processors=[structlog.testing.LogCapture()])


# The end


def test_closing(server, context, set_and_wait, logged):
    """A closed source is closed for good: no listener in the SDK, no thread, no evaluation, no rate."""
    hook = Evaluations()
    client = server.client(hooks=[hook])
    with LaunchDarklySource(client, "rate", context) as source:
        gate = TrafficGate(source)
        assert gate.rate == 0.5
    assert (gate.rate, source.rollout) == (0.0, CLOSED)
    evaluations = hook.count
    set_and_wait(server, client, 0.25)
    source.close()
    source.postfork()
    assert (gate.rate, hook.count) == (0.0, evaluations)
    for thread in (source._thread, source._log_thread):
        assert thread is not None
        assert not thread.is_alive()
    assert client.variation("rate", context, None) == 0.25
    assert events(logged, "rate_changed")[-1]["reason"] == "closed"
    late = []
    source.subscribe(late.append)
    assert late == [CLOSED]


def test_closing_is_quick(make_source):
    """Closing does not wait for the next refresh."""
    source = make_source()
    started = time.monotonic()
    source.close()
    assert source._thread is not None
    assert not source._thread.is_alive()
    assert time.monotonic() - started < 1.0


def test_closing_releases_the_source(make_source, client, context):
    """Neither the SDK nor a thread holds on to a closed source."""
    source = LaunchDarklySource(client, "rate", context)
    source.close()
    reference = weakref.ref(source)
    del source
    gc.collect()
    assert reference() is None


def test_a_closed_client(server, client, make_source):
    """A client that was closed first leaves the last rate, and the source closes as ever."""
    source = make_source(refresh_seconds=0.01)
    client.close()
    assert source.rollout == Rollout.of(0.5)
    source.close()
    assert source.rollout == CLOSED


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"default": 1.5}, InvalidRollout, "a rate is a number from 0 to 1"),
        ({"default": "0"}, InvalidRollout, "not a str"),
        ({"refresh_seconds": 0}, ValueError, "refresh_seconds is a number of seconds from 0.01 to 86400"),
        ({"refresh_seconds": 86_401}, ValueError, "not 86401"),
        ({"refresh_seconds": math.nan}, ValueError, "not nan"),
        ({"refresh_seconds": "30"}, TypeError, "not a str"),
        ({"max_staleness": 0}, ValueError, "max_staleness is a number of seconds above 0, not 0"),
        ({"max_staleness": math.inf}, ValueError, "not inf"),
        ({"max_staleness": True}, TypeError, "not a bool"),
        ({"flag_key": ""}, ValueError, "flag key is empty"),
    ],
)
def test_arguments(client, context, arguments, error, message):
    """A wrong argument is refused with what is right."""
    with pytest.raises(error, match=message):
        LaunchDarklySource(client, **({"flag_key": "rate", "context": context} | arguments))


def test_an_invalid_context(client):
    """A context that the SDK would refuse at every evaluation is refused at construction."""
    from ldclient import Context

    with pytest.raises(ValueError, match="the context is invalid: "):
        LaunchDarklySource(client, "rate", Context.create(""))


def test_the_asyncio_client(context):
    """LaunchDarkly's asyncio client, whose evaluations are coroutines, is refused with what to use."""

    class AsyncLDClient:  # the real one needs a driver that is no dependency here
        async def variation_detail(self, key, context, default): ...

    with pytest.raises(TypeError, match=r"takes an ldclient\.LDClient"):
        LaunchDarklySource(cast("LDClient", AsyncLDClient()), "rate", context)
