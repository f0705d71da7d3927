"""examples/services/flask_service.py under gunicorn, started as its README says."""

import os
import signal

import pytest

from tests.examples.conftest import FLAG, started, visited_at_once, wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
COMMAND = ("gunicorn", "--bind", "127.0.0.1:{port}", "--no-control-socket")


@pytest.fixture
def old(databases):
    rows = databases()
    rows.execute("CREATE TABLE users (id text PRIMARY KEY, email text NOT NULL, visits integer NOT NULL)")
    return rows


@pytest.fixture
def new(databases):
    rows = databases()
    rows.execute("CREATE TABLE people (id text PRIMARY KEY, email text NOT NULL, visit_count integer NOT NULL)")
    return rows


@pytest.fixture
def environment(old, new, flags):
    return {
        "OLD_DATABASE_URL": old.url,
        "NEW_DATABASE_URL": new.url,
        "LAUNCHDARKLY_SDK_KEY": "sdk-local",
        "LAUNCHDARKLY_URI": flags.url,
    }


def in_old(rows):
    return dict(rows.execute("SELECT id, visits FROM users"))


def in_new(rows):
    return dict(rows.execute("SELECT id, visit_count FROM people"))


def workers(service, rate):
    """The pids of two workers that have this rate, both, or nothing."""
    answers = [service.health() for _ in range(12)]
    pids = {answer["pid"] for answer in answers if answer["rate"] == rate and answer["ready"]}
    return pids if len(pids) == 2 and all(answer["rate"] == rate for answer in answers) else None


def every_worker(service, rate):
    return wait_until(lambda: workers(service, rate), f"two workers have the rate {rate}")


def test_users_move_while_two_workers_serve(environment, old, new, flags, tmp_path):
    """Both workers follow a ramp, a kill and its end, and neither serves stale what was written in the kill."""
    with started(COMMAND, environment, tmp_path / "log") as service:
        first = every_worker(service, 0)
        assert service.process.pid not in first
        ada, _ = service.put("ada", 1), service.put("alan", 1)
        assert service.get("ada") == (200, ada)
        assert in_new(new) == {}

        flags.set(FLAG, 1)
        assert every_worker(service, 1) == first
        assert service.get("ada") == (200, ada)
        assert in_new(new) == {"ada": 1}
        old.execute("UPDATE users SET visits = 99")  # past the proxy, to see who serves
        assert [service.get("ada") for _ in range(6)] == [(200, ada)] * 6
        old.execute("UPDATE users SET visits = 1")

        flags.turn_off(FLAG)
        every_worker(service, 0)
        ada = service.put("ada", 2)
        assert in_new(new) == {"ada": 1}

        flags.turn_on(FLAG)
        every_worker(service, 1)
        assert [service.get("ada") for _ in range(6)] == [(200, ada)] * 6
        assert service.call("DELETE", "/users/alan") == (204, None)
        assert service.get("alan")[0] == 404 == service.get("nobody")[0]
        assert service.call("PUT", "/users/ada", {"email": "ada@example.org", "visits": "many"})[0] == 422
        assert in_old(old) == {"ada": 2} == in_new(new)
        assert service.stop() == 0


def test_a_killed_worker_is_replaced_by_one_that_follows(environment, new, flags, tmp_path):
    """After SIGKILL of a worker two serve again, and the flag reaches the one that is new."""
    flags.set(FLAG, 0.5)
    with started(COMMAND, environment, tmp_path / "log") as service:
        before = every_worker(service, 0.5)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)

        def replaced():
            pids = workers(service, 0.5)
            return pids if pids and victim not in pids else None

        after = wait_until(replaced, "another worker takes the place of the killed one")
        assert len(after & before) == 1
        flags.set(FLAG, 1)
        assert every_worker(service, 1) == after
        user = service.put("ada", 1)
        assert [service.get("ada") for _ in range(6)] == [(200, user)] * 6
        assert in_new(new) == {"ada": 1}
        assert service.stop() == 0


def test_concurrent_requests(environment, old, new, flags, tmp_path):
    """Thirty users that are written and read at once each keep their own last visit, in both stores."""
    flags.set(FLAG, 1)
    with started(COMMAND, environment, tmp_path / "log") as service:
        visits = visited_at_once(service)
        assert in_old(old) == visits

        def read_from_new():  # where the guard let New miss a write the key is stale until it is read
            assert [service.get(key)[1]["visits"] for key in visits] == list(visits.values())
            return in_new(new) == visits

        wait_until(read_from_new, "New has what it missed while too many wrote to it at once")


def test_a_read_is_a_child_of_the_callers_span(environment, collector, tmp_path):
    """A read is below the caller's span, the thread's next request is not, and both arrive at a worker's end."""
    environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "users-service"}
    with started((*COMMAND, "--workers", "1", "--threads", "1"), environment, tmp_path / "log") as service:
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
        assert service.call("GET", "/users/ada", headers=headers)[0] == 404
        service.put("ada", 1)
        assert service.stop() == 0
    (read,) = [span for span in collector.spans if span.name == "zddm.read"]
    assert (read.trace_id, read.parent_id, read.service) == (TRACE, SPAN, "users-service")
    (write,) = [span for span in collector.spans if span.name == "zddm.write"]
    assert write.trace_id != TRACE
    assert write.parent_id is None
    assert {tree.span.name for tree in collector.traces()} == {"zddm.read", "zddm.write"}  # none of a probe
