"""The stand-in for LaunchDarkly, as the real SDK sees it."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from zddm_flags.testing import FlagServer


def fetch(url, data=None):
    return urllib.request.urlopen(url, data, timeout=5)  # noqa: S310 - the server of this test


def value(client, context, key="rate"):
    return client.variation(key, context, "the default")


@pytest.mark.parametrize("sent", [0.25, 1, 0, True, None, "text", [1, {"a": 2}], {"read": 0.1, "write": 0.2}])
def test_values_are_any_json(context, sent):
    """What is set is what the SDK evaluates, whatever JSON it is."""
    with FlagServer({"rate": sent}) as server:
        assert value(server.client(), context) == sent


def test_changes_arrive(server, client, context, eventually):
    """A change and a new flag both reach a connected SDK."""
    server.set("rate", 0.75)
    server.set("other", 0.125)
    eventually(lambda: value(client, context, "other") == 0.125)
    assert value(client, context) == 0.75


def test_off_and_on(server, client, context, eventually):
    """A flag that is off serves its off value, also after a change, until it is on again."""
    server.set("rate", 0.5, off=0.125)
    server.turn_off("rate")
    eventually(lambda: value(client, context) == 0.125)
    server.set("rate", 0.75)
    eventually(lambda: value(client, context) == 0.0)
    server.turn_on("rate")
    eventually(lambda: value(client, context) == 0.75)


def test_delete_and_create_again(server, client, context, eventually):
    """A deleted flag is unknown to the SDK, and one that is created again is above the deleted version."""
    server.delete("rate")
    eventually(lambda: value(client, context) == "the default")
    server.set("rate", 0.25)
    eventually(lambda: value(client, context) == 0.25)


@pytest.mark.parametrize("change", ["turn_off", "turn_on", "delete"])
def test_unknown_flags(server, change):
    """Only `set` creates a flag; all else says that it is unknown."""
    with pytest.raises(KeyError, match="no flag 'other'"):
        getattr(server, change)("other")


def test_values_that_are_not_json(server, client, context):
    """A value that is not JSON is a TypeError and changes nothing."""
    with pytest.raises(TypeError):
        server.set("rate", object())
    server.put()
    assert value(client, context) == 0.5


def test_flags_are_copied(server, client, context, eventually):
    """What the caller does to its object afterwards does not reach the SDK."""
    rates = {"read": 0.1, "write": 0.2}
    server.set("rate", rates)
    rates["read"] = 0.9
    server.put()
    server.set("last", 1)
    eventually(lambda: value(client, context, "last") == 1)
    assert value(client, context) == {"read": 0.1, "write": 0.2}


def test_flags_of_any_shape(server, client, context, eventually):
    """A percentage rollout is served as it is given."""
    split = [{"variation": 0, "weight": 0}, {"variation": 1, "weight": 100_000}]
    rollout = {"contextKind": "service", "bucketBy": "key", "variations": split}
    flag = {"on": True, "variations": [0.25, 0.75], "fallthrough": {"rollout": rollout}, "salt": "s"}
    server.set_flag("rate", flag)
    eventually(lambda: value(client, context) == 0.75)


def test_versions_always_rise(server):
    """Every change of every kind has a version above all before it."""
    stream = fetch(f"{server.url}/all")
    server.wait_for_connections()
    server.set("rate", 0.1)
    server.turn_off("rate")
    server.delete("rate")
    server.set("rate", 0.2)
    versions = []
    with stream:
        while len(versions) < 5:
            line = stream.readline()
            if line.startswith(b"data: "):
                message = json.loads(line[6:])
                body = message.get("data", message)
                versions.append(body["flags"]["rate"]["version"] if "flags" in body else body["version"])
    assert versions == sorted(set(versions))


def test_cut_streams_come_back_with_what_they_missed(server, client, context, eventually):
    """After a cut the SDK connects by itself and has the changes made meanwhile."""
    server.drop_connections()
    assert server.connections == 0
    server.set("rate", 0.75)
    server.wait_for_connections()
    eventually(lambda: value(client, context) == 0.75)


def test_silent_streams(server, client, context, eventually):
    """A paused stream stays open and delivers nothing; resumed, it delivers all in order."""
    server.pause()
    server.set("rate", 0.1)
    server.set("rate", 0.2)
    with FlagServer({"rate": 0.9}) as other:  # a round trip elsewhere: time in which it could have arrived
        assert value(other.client(), context) == 0.9
    assert value(client, context) == 0.5
    assert server.connections == 1
    server.resume()
    eventually(lambda: value(client, context) == 0.2)


def test_paused_before_the_start(server, context, eventually):
    """A client that starts on a paused server is not ready until the server resumes."""
    server.pause()
    client = server.client(start_wait=0)
    server.wait_for_connections()
    assert not client.is_initialized()
    server.resume()
    eventually(client.is_initialized)
    assert value(client, context) == 0.5


def test_refusals(context, eventually):
    """While it refuses, streams and requests get the status; afterwards the SDK is served by itself."""
    with FlagServer({"rate": 0.5}, refusing=503) as server:
        client = server.client(start_wait=0)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            fetch(f"{server.url}/sdk/latest-all")
        assert not client.is_initialized()
        server.accept()
        eventually(client.is_initialized)
        server.refuse(502)
        assert server.connections == 0
        server.accept()
        server.wait_for_connections()


@pytest.mark.parametrize("status", [200, 399, 600])
def test_a_refusal_is_an_error_status(server, status):
    """Only a status from 400 to 599 refuses."""
    with pytest.raises(ValueError, match="from 400 to 599"):
        server.refuse(status)


def test_malformed_data(server, client, context, eventually):
    """Malformed data makes the SDK connect again, and then everything is as before."""
    server.send_raw("event: patch\ndata: {oops\n\n")
    eventually(lambda: client.data_source_status_provider.status.error is not None)
    server.set("rate", 0.75)
    eventually(lambda: value(client, context) == 0.75)


def test_waiting_for_connections_ends(server):
    """Waiting for more streams than there are ends with a TimeoutError that says how many there are."""
    with pytest.raises(TimeoutError, match="0 of 2 streams"):
        server.wait_for_connections(2, timeout=0.01)


def test_a_client_that_leaves_is_noticed(server, client, eventually):
    """A stream ends when its client closes, without waiting for the next change."""
    assert server.connections == 1
    client.close()
    eventually(lambda: server.connections == 0)


def test_polling(server, context):
    """An SDK that polls is served as well."""
    assert value(server.client(stream=False), context) == 0.5


@pytest.mark.parametrize("compressed", [False, True])
def test_events_are_taken(server, context, caplog, eventually, compressed):
    """The SDK's analytics and diagnostics are accepted, compressed or not."""
    caplog.set_level(logging.DEBUG, "ldclient")
    client = server.client(send_events=True, enable_event_compression=compressed, flush_interval=60)
    value(client, context)
    client.flush()
    client.close()  # waits until its events are delivered
    posted = [record for record in caplog.records if "posting" in record.getMessage()]
    assert not [record for record in posted if record.levelno >= logging.WARNING]


def test_unknown_paths(server):
    """Any other path is a 404."""
    for data in (None, b"{}"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(f"{server.url}/other", data)


def test_only_this_machine_is_served(server):
    """The server is bound to the loopback address."""
    assert server._http.socket.getsockname()[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server._http.server_port}"


def test_a_port_of_the_caller(context, eventually):
    """A server comes back where its SDKs look for it; a port that is taken is refused."""
    with FlagServer({"rate": 0.5}) as other, FlagServer() as first:
        port = int(first.url.rpartition(":")[2])
        client = other.client(stream_uri=first.url, base_uri=first.url)
        with pytest.raises(OSError, match="in use"):
            FlagServer(port=port)
        first.close()
        with FlagServer({"rate": 0.75}, port=port) as second:
            assert second.url == first.url
            eventually(lambda: value(client, context) == 0.75)


def test_closing(context):
    """Closing ends the clients and the server; again it does nothing."""
    server = FlagServer({"rate": 0.5})
    client = server.client()
    port = server._http.server_port
    server.close()
    server.close()
    assert client.data_source_status_provider.status.state.value == "off"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_closing_while_paused_and_while_polled():
    """Neither a silent stream nor an idle connection holds up closing."""
    with (
        FlagServer({"rate": 0.5}) as server,
        socket.create_connection(("127.0.0.1", server._http.server_port)),
    ):
        server.client()
        server.pause()
    assert not server._http._connections


def test_many_threads(server, client, context, eventually):
    """Changes from many threads all arrive, and the SDK ends where the server does."""

    def change(number):
        for step in range(100):
            server.set("rate", number + step / 100)
        server.set(f"done-{number}", True)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: all(value(client, context, f"done-{number}") is True for number in range(4)))
    assert value(client, context) == server._flags["rate"]["variations"][0]


def test_importing_loads_no_sdk():
    """Neither the library nor its testing kit loads the SDK before it is used."""
    code = "import sys, zddm_flags, zddm_flags.testing; print([m for m in sys.modules if m.startswith('ld')])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"
