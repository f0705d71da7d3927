"""examples/services/fastapi_service.py, started as its README says."""

import json
import signal

import pytest

from tests.examples.conftest import FLAG, started, visited_at_once, wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
ENDED = -signal.SIGTERM  # uvicorn, when it has closed everything, lets the signal do what it does by default
COMMAND = ("uvicorn", "fastapi_service:app", "--host", "127.0.0.1", "--port", "{port}")


@pytest.fixture
def old(databases):
    rows = databases()
    rows.execute("CREATE TABLE users (id text PRIMARY KEY, email text NOT NULL, visits integer NOT NULL)")
    return rows


@pytest.fixture
def environment(old, valkey, flags, valkey_server):
    return {
        "OLD_DATABASE_URL": old.url,
        "NEW_REDIS_URL": f"redis://{valkey_server.host}:{valkey_server.port}/11",
        "LAUNCHDARKLY_SDK_KEY": "sdk-local",
        "LAUNCHDARKLY_URI": flags.url,
    }


def in_new(client):
    return {key.decode(): json.loads(client.get(key))["visits"] for key in client.keys("users:*")}


def test_users_move_while_it_serves(environment, old, valkey, flags, tmp_path):
    """At 0 Old has all; at 1 reads copy and New serves; a kill leaves Old alone, and nothing stale after it."""
    with started(COMMAND, environment, tmp_path / "log") as service:
        ada, alan = service.put("ada", 1), service.put("alan", 1)
        assert service.get("ada") == (200, ada)
        assert service.health() == {"ready": True, "rate": 0, "guard": "closed"}
        assert valkey.keys() == []

        flags.set(FLAG, 1)
        wait_until(lambda: service.health()["rate"] == 1, "the service follows the flag")
        assert service.get("ada") == (200, ada)
        assert in_new(valkey) == {"users:ada": 1}
        old.execute("UPDATE users SET visits = 99")  # past the proxy, to see who serves
        assert service.get("ada") == (200, ada)
        old.execute("UPDATE users SET visits = 1")
        service.put("grace", 1)
        assert in_new(valkey) == {"users:ada": 1, "users:grace": 1}

        flags.turn_off(FLAG)
        wait_until(lambda: service.health()["rate"] == 0, "the service follows the kill")
        ada, grace = service.put("ada", 2), service.get("grace")[1]
        assert service.call("DELETE", "/users/grace") == (204, None)
        assert in_new(valkey) == {"users:ada": 1, "users:grace": 1}

        flags.turn_on(FLAG)
        wait_until(lambda: service.health()["rate"] == 1, "the service follows the flag again")
        assert service.get("ada") == (200, ada)
        assert service.get("grace") == (404, None)
        assert grace is not None
        assert service.call("DELETE", "/users/alan") == (204, None)
        assert service.get("alan") == (404, None) == service.get("nobody")
        assert service.call("PUT", "/users/ada", {**alan, "visits": "many"})[0] == 422
        assert service.get("%00")[0] == 422
        assert in_new(valkey) == {"users:ada": 2}
        assert old.execute("SELECT id, visits FROM users") == [("ada", 2)]
        assert service.stop() == ENDED


def test_concurrent_requests(environment, old, valkey, flags, tmp_path):
    """Thirty users that are written and read at once each keep their own last visit, in both stores."""
    flags.set(FLAG, 1)
    with started(COMMAND, environment, tmp_path / "log") as service:
        visits = visited_at_once(service)
        assert dict(old.execute("SELECT id, visits FROM users")) == visits

        def read_from_new():  # a write that New missed, being slow, leaves its key stale until it is read
            assert [service.get(key)[1]["visits"] for key in visits] == list(visits.values())
            return in_new(valkey) == {f"users:{key}": number for key, number in visits.items()}

        wait_until(read_from_new, "New has all")


def test_a_read_is_a_child_of_the_callers_span(environment, collector, tmp_path):
    """A read is below the caller's span, in the caller's trace; it arrives before the end. No probe has one."""
    environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "users-service"}
    with started(COMMAND, environment, tmp_path / "log") as service:
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
        assert service.call("GET", "/users/ada", headers=headers)[0] == 404
        service.put("ada", 1)
        assert service.stop() == ENDED
    (request,) = [tree for tree in collector.traces() if tree.span.name == "GET /users/{key}"]
    assert (request.span.trace_id, request.span.parent_id) == (TRACE, SPAN)
    (read,) = [tree.span for tree in request.find("zddm.read")]
    assert read.service == "users-service"
    (write,) = [span for span in collector.spans if span.name == "zddm.write"]
    assert write.trace_id != TRACE
    assert {tree.span.name for tree in collector.traces()} == {"GET /users/{key}", "PUT /users/{key}"}
