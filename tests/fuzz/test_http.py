"""What reaches the local stand-in for LaunchDarkly: it answers, closes the connection, and serves others on."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.effort import examples
from zddm_flags.testing import FlagServer

ANSWER_SECONDS = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[FlagServer]:
    """A server for the module."""
    with FlagServer({"rate": 0.5}) as found:
        yield found


def polled(server: FlagServer) -> dict[str, Any]:
    """All flags, as an SDK that polls gets them."""
    with urllib.request.urlopen(f"{server.url}/sdk/latest-all", timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - ours
        found: dict[str, Any] = json.load(answer)["flags"]
        return found


def talk(server: FlagServer, data: bytes) -> None:
    """Send these bytes and no more; return when the server has closed the connection. Raises TimeoutError."""
    host, port = server.url.removeprefix("http://").split(":")
    connecting = socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS)
    with connecting as connection, suppress(ConnectionError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


token = st.binary(max_size=8) | st.sampled_from(
    [b"/all", b"/bulk", b"/sdk/latest-all", b"*", b"/%00", b"//", b"/../", b""]
)
header = st.tuples(
    st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"Host"])
    | st.binary(max_size=5),
    st.sampled_from(
        [b"-1", b"0", b"5", b"1e3", b"abc", b"\xb2", b"9" * 30, b"chunked", b"keep-alive", b"100-continue", b""]
    ),
)
requests = st.tuples(
    st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"get", b""]) | st.binary(max_size=4),
    token,
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/9.9", b"HTTP/1.1.1", b"", b"\xff"]),
    st.lists(header, max_size=4),
    st.binary(max_size=20),
).map(
    lambda found: (
        b"%b %b %b\r\n%b\r\n%b" % (*found[:3], b"".join(b"%b: %b\r\n" % one for one in found[3]), found[4])
    )
)


@given(data=requests | st.binary(max_size=60))
@example(data=b"POST /bulk HTTP/1.1\r\nContent-Length: abc\r\n\r\n")
@example(data=b"POST /bulk HTTP/1.1\r\nContent-Length: -1\r\n\r\n")
@example(data=b"POST /bulk HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n")
@example(data=b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n")
@example(data=b"GET /all HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n")
@examples(150)
def test_any_request_is_answered_or_dropped(
    server: FlagServer, capfd: pytest.CaptureFixture[str], data: bytes
) -> None:
    """Any bytes of a client that then goes silent end its connection, print nothing, and leave the flags alone."""
    talk(server, data)
    assert polled(server)["rate"]["variations"] == [0.5, 0.0]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("data", [b"POST /bulk HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET /all", b"\xff"])
@pytest.mark.timeout(30)
def test_a_client_that_says_no_more_does_not_hold_up_the_end(data: bytes) -> None:
    """The server closes while a client has said half of a request and waits."""
    server = FlagServer({"rate": 0.5})
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
        connection.sendall(data)
        assert polled(server)
        server.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    key=st.text(st.characters(), max_size=9), flag=st.dictionaries(st.text(max_size=9), json_values, max_size=4)
)
@examples(60)
def test_any_flag_is_served_or_refused(server: FlagServer, key: str, flag: dict[str, Any]) -> None:
    """A flag of any shape is served as it was given, whatever its key is."""
    before = polled(server)
    server.set_flag(key, flag)
    found = polled(server)
    served = found.pop(key)
    assert repr({**flag, "key": key, "version": served["version"]}) == repr(served) or set(flag) & {
        "key",
        "version",
    }
    assert repr(found) == repr({name: each for name, each in before.items() if name != key})
    server.delete(key)


def test_a_flag_that_is_no_json_changes_nothing(server: FlagServer) -> None:
    """A flag that JSON has no form for raises, and what is served stays."""
    before = polled(server)
    endless: list[Any] = []
    endless.append(endless)
    for wrong in (object(), endless, 10**5000, {1, 2}, b"a"):
        with pytest.raises((TypeError, ValueError)):
            server.set_flag("other", {"variations": [wrong]})
    assert polled(server) == before
