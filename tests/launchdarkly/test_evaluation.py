"""How the rollout that is served came about, through the real SDK."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from zddm_flags import Evaluation, LaunchDarklySource, Rollout, StaticSource, TrafficGate
from zddm_flags.rollout import CLOSED, RolloutSource
from zddm_flags.testing import FlagServer

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE = "service:users-service"
TARGETED = {"on": True, "variations": [0, 0.25, 0.75], "fallthrough": {"variation": 0}}
FOR_THE_SERVICE = {"contextKind": "service", "attribute": "key", "op": "in", "values": ["users-service"]}
BY_TARGET = {"contextTargets": [{"contextKind": "service", "variation": 2, "values": ["users-service"]}]}
BY_RULE = {"rules": [{"id": "rule", "variation": 2, "clauses": [FOR_THE_SERVICE]}]}
EXPERIMENT = {
    "kind": "experiment",
    "contextKind": "service",
    "seed": 1,
    "variations": [{"variation": 2, "weight": 100_000}],
}


def said(rollout: Rollout, reason: str, *, variant: str | None = None, error: str | None = None) -> Evaluation:
    return Evaluation(rollout, "rate", "launchdarkly", variant, reason, error, SERVICE)


def test_a_rate_of_the_default_rule(make_source):
    """A rate that the default rule serves has the index of its variation, and what it was evaluated for."""
    source = make_source()
    assert source.evaluation == said(Rollout.of(0.5), "fallthrough", variant="0")
    assert source.evaluation.rollout is source.rollout


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (TARGETED | BY_TARGET, said(Rollout.of(0.75), "targeting_match", variant="2")),
        (TARGETED | BY_RULE, said(Rollout.of(0.75), "targeting_match", variant="2")),
        (TARGETED | {"fallthrough": {"rollout": EXPERIMENT}}, said(Rollout.of(0.75), "split", variant="2")),
        (
            TARGETED | {"on": False, "offVariation": 1},
            said(Rollout.of(0.25), "disabled", variant="1"),
        ),
        (TARGETED | {"on": False}, said(Rollout.of(0.125), "disabled")),
        (
            TARGETED | {"prerequisites": [{"key": "unknown", "variation": 0}], "offVariation": 1},
            said(Rollout.of(0.25), "prerequisite_failed", variant="1"),
        ),
        (
            {"on": False, "variations": ["no rate"], "offVariation": 0},
            said(Rollout.of(0.125), "disabled", error="flag_value_refused"),
        ),
        (TARGETED | {"fallthrough": {"variation": 7}}, said(Rollout.of(0.125), "error", error="malformed_flag")),
    ],
    ids=[
        "target",
        "rule",
        "experiment",
        "off",
        "off without an off variation",
        "prerequisite",
        "off to no rate",
        "malformed",
    ],
)
def test_what_the_flag_says(server, make_source, reaches, flag: dict[str, Any], expected: Evaluation):
    """Every kind of answer of LaunchDarkly has its word, and its variation where the rate is of one."""
    source = make_source(default=0.125)
    server.set_flag("rate", flag)
    assert reaches(source, expected.rollout)
    assert source.evaluation == expected


@pytest.mark.parametrize("default", [0.0, 0.125])
def test_an_unknown_flag(context, default):
    """A flag that does not exist is an error of the evaluation, of no variation."""
    with FlagServer({}) as server, LaunchDarklySource(server.client(), "rate", context, default=default) as source:
        assert source.evaluation == said(Rollout.of(default), "error", error="flag_not_found")


def test_a_value_that_is_refused(server, client, make_source, set_and_wait, reaches):
    """A refused value leaves the last good rate with its variation, and says so until a good one comes."""
    source = make_source()
    good = {"on": True, "variations": [0.25, "no rate"], "fallthrough": {"variation": 0}}
    server.set_flag("rate", good)
    assert reaches(source, 0.25)
    served = source.rollout
    told = threading.Event()
    client.flag_tracker.add_listener(lambda _: told.set())  # after the source's own
    server.set_flag("rate", good | {"fallthrough": {"variation": 1}})
    assert told.wait(5)
    assert source.evaluation == said(Rollout.of(0.25), "error", variant="0", error="flag_value_refused")
    assert source.evaluation.rollout is source.rollout is served
    set_and_wait(server, client, 0.75)
    assert source.evaluation == said(Rollout.of(0.75), "fallthrough", variant="0")


def test_before_the_first_evaluation(context):
    """Where LaunchDarkly has not answered yet, the rate is the default, and that is the reason."""
    with FlagServer({"rate": 0.5}, refusing=503) as server:
        client = server.client(start_wait=0)
        with LaunchDarklySource(client, "rate", context, default=0.125) as source:
            assert source.evaluation == said(Rollout.of(0.125), "default")


def test_the_connection_is_lost(server, client, make_source, eventually):
    """While the connection is lost, what the flag said last is still how the rate came about."""
    source = make_source()
    server.refuse(503)
    eventually(lambda: client.data_source_status_provider.status.state.value != "valid")
    assert source.evaluation == said(Rollout.of(0.5), "fallthrough", variant="0")


def test_stale(server, make_source, reaches):
    """A rate that was closed for staleness is of no variation, until the flag is read again."""
    source = make_source(max_staleness=0.1)
    server.refuse(503)
    assert reaches(source, 0.0)
    assert source.evaluation == said(CLOSED, "stale")
    server.accept()
    assert reaches(source, 0.5)
    assert source.evaluation == said(Rollout.of(0.5), "fallthrough", variant="0")


@pytest.mark.parametrize("rate", [0, 0.5])
def test_closed(server, client, make_source, set_and_wait, rate):
    """A closed source says that it is closed, also where its rate was 0 before."""
    source = make_source()
    set_and_wait(server, client, rate)
    source.close()
    assert source.evaluation == said(CLOSED, "closed")
    assert source.evaluation.rollout is source.rollout


def test_another_reason_for_the_same_rate(server, client, make_source):
    """A change of the reason alone is followed, and the rollout stays the object that the gates have."""
    source = make_source()
    gate = TrafficGate(source)
    rollout = source.rollout
    told = threading.Event()
    client.flag_tracker.add_listener(lambda _: told.set())  # after the source's own
    server.set_flag("rate", {"on": False, "variations": [0, 0.5], "offVariation": 1})
    assert told.wait(5)
    assert source.evaluation == said(Rollout.of(0.5), "disabled", variant="1")
    assert source.evaluation.rollout is source.rollout is rollout is gate.decision.rollout
    assert gate.evaluation is source.evaluation


def test_rates_and_reasons_change_at_once(server, client, make_source, set_and_wait):
    """Under constant change no reader sees one rollout with the variation or the reason of another."""
    source = make_source(default=0.125)
    expected = {
        0.25: said(Rollout.of(0.25), "fallthrough", variant="0"),
        0.125: said(Rollout.of(0.125), "disabled"),
    }
    set_and_wait(server, client, 0.25)
    turned = threading.Semaphore(0)
    client.flag_tracker.add_listener(lambda _: turned.release())  # after the source's own
    wrong = []
    done = threading.Event()

    def read():
        while not done.is_set():
            evaluation = source.evaluation
            if evaluation != expected.get(evaluation.rollout.read):
                wrong.append(evaluation)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for on in [False, True] * 50:
        server.set_flag("rate", {"on": on, "variations": [0.25], "fallthrough": {"variation": 0}})
    followed = all(turned.acquire(timeout=5) for _ in range(100))
    done.set()
    for reader in readers:
        reader.join()
    assert followed
    assert wrong == []


def test_a_listener_sees_the_evaluation_of_its_rollout(server, make_source, reaches):
    """Who is told of a rollout finds its evaluation on the source, and on its own gate."""
    source = make_source()
    gate = TrafficGate(source)
    seen: list[tuple[Rollout, Evaluation, Evaluation | None]] = []
    source.subscribe(lambda rollout: seen.append((rollout, source.evaluation, gate.evaluation)))
    server.set("rate", 0.25)
    assert reaches(source, 0.25)
    assert [rollout.read for rollout, _, _ in seen] == [0.5, 0.25]
    assert all(rollout is evaluation.rollout and evaluation is of_gate for rollout, evaluation, of_gate in seen)


# Gates


class Own:
    """A source of another flag system, with what it says of its rollout."""

    def __init__(self, rollout: Rollout, evaluation: Evaluation | None) -> None:
        self.rollout = rollout
        self.evaluation = evaluation

    def subscribe(self, listener: Callable[[Rollout], None]) -> Callable[[], None]:
        listener(self.rollout)
        return lambda: None


def test_the_gate_of_a_source_of_ones_own():
    """A gate shows what a source of one's own says, and needs no more of it than of any source."""
    said = Evaluation(Rollout.of(0.5), "rate", "own")
    source = Own(Rollout.of(0.5), said)
    assert isinstance(source, RolloutSource)
    assert TrafficGate(source).evaluation is said
    assert said.reason == "unknown"
    assert said.variant is said.error is said.context_id is None


@pytest.mark.parametrize("rate", [0.5, StaticSource(0.5), Own(Rollout.of(0.5), None)], ids=type)
def test_no_flag(rate):
    """A gate whose rate is of no flag, or whose source does not say, has no evaluation."""
    assert TrafficGate(rate).evaluation is None


def test_a_gate_that_was_closed(server, make_source, reaches):
    """A gate that follows no more does not claim its source's later evaluation for its own rate."""
    source = make_source()
    gate = TrafficGate(source)
    gate.close()
    server.set("rate", 0.25)
    assert reaches(source, 0.25)
    assert gate.rate == 0.5
    assert gate.evaluation is None
