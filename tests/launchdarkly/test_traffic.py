"""The operations that go on in the tests of failures notice what they are there to notice."""

import pytest

from tests.launchdarkly import traffic as traffic_module
from tests.launchdarkly.traffic import Traffic
from zddm_flags import TrafficGate


class Spoiled:
    """A proxy, one of whose operations is replaced."""

    def __init__(self, proxy, name, operation):
        self._proxy = proxy
        setattr(self, name, operation)

    def __getattr__(self, name):
        return getattr(self._proxy, name)


def raises(*_):
    raise ValueError("broken")


@pytest.mark.parametrize("world", [0, 1])
@pytest.mark.parametrize(
    ("name", "operation", "seen"),
    [
        ("read", raises, "read raised ValueError"),
        ("write", raises, "write raised ValueError"),
        ("read", lambda _: "another", "gave 'another'"),
        ("read_many", lambda _: {}, "gave {}"),
        ("write", lambda *_: None, "gave None"),
        ("delete", lambda _: None, ", not None"),
    ],
)
def test_what_goes_wrong_is_seen(world, name, operation, seen):
    """An operation of either world that raises, returns anything else or is lost fails the test."""
    traffic = Traffic(TrafficGate(0.5))
    migration = traffic._migrations[world]
    migration.proxy = Spoiled(migration.proxy, name, operation)
    with pytest.raises(AssertionError) as failure, traffic:
        traffic.go_on(10)
    assert seen in str(failure.value)


def test_a_wait_is_seen(monkeypatch):
    """An operation that takes too long fails the test."""
    monkeypatch.setattr(traffic_module, "BLOCKED", 0.0)
    with pytest.raises(AssertionError, match="an operation took"), Traffic(TrafficGate(0.5)) as traffic:
        traffic.go_on()


def test_whether_new_is_used():
    """It is told apart whether operations use New now."""
    gate = TrafficGate(0.5)
    with Traffic(gate) as traffic:
        assert traffic.reaches_new()
        gate.set_rate(0.0)
        assert not traffic.reaches_new()
        gate.set_rate(0.1)
        assert traffic.reaches_new()
