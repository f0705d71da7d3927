"""The network of the tests fails as it is told to, and delivers nothing late."""

import socket
import threading
import time

import pytest

from tests import network
from tests.network import Network

PATIENCE = 5.0


class Echo:
    """A server that answers with what it gets, and remembers it."""

    def __init__(self):
        self.got = bytearray()
        self.ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection):
        with connection:
            try:
                while data := connection.recv(1000):
                    self.got += data
                    connection.sendall(data)
            except OSError:
                pass
        self.ended.set()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def echo():
    """An echo server."""
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def link(echo):
    """A link to it."""
    with Network() as links:
        yield links.link("127.0.0.1", echo.port)


@pytest.fixture
def connect(link):
    """Open connections through the link, and close them."""
    connections = []

    def open_one():
        connection = socket.create_connection(("127.0.0.1", link.port), timeout=PATIENCE)
        connections.append(connection)
        return connection

    yield open_one
    for connection in connections:
        connection.close()


def asked(connection, data):
    connection.sendall(data)
    return connection.recv(1000)


def is_cut(connection):
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True


def test_carries(connect):
    """A link carries data both ways."""
    assert asked(connect(), b"hello") == b"hello"


def test_delays(link, connect):
    """A delay holds back each way."""
    connection = connect()
    asked(connection, b".")
    assert link.slow(0.05) == 1
    begin = time.monotonic()
    assert asked(connection, b"hello") == b"hello"
    assert time.monotonic() - begin >= 0.1


def test_cuts(link, connect, echo):
    """A cut ends every connection on both sides; the next one works."""
    connection = connect()
    asked(connection, b"hello")
    assert link.cut() == 1
    assert is_cut(connection)
    assert echo.ended.wait(PATIENCE)
    assert asked(connect(), b"again") == b"again"


def test_cuts_the_client_alone(link, connect, echo):
    """Where a cut is to deliver, what was on its way to the server arrives, later, and no answer comes back."""
    connection = connect()
    asked(connection, b"hello")
    link.slow(0.1)
    connection.sendall(b"late")
    begin = time.monotonic()
    time.sleep(0.05)  # it is on its way: the link has no event for that
    link.cut(deliver=True)
    assert is_cut(connection)
    assert bytes(echo.got) == b"hello"
    assert echo.ended.wait(PATIENCE)
    assert bytes(echo.got) == b"hellolate"
    assert time.monotonic() - begin >= 0.1


def test_refuses(link, connect):
    """A link that refuses cuts what is there and lets nobody connect, until it is healed, by the same port."""
    connection = connect()
    asked(connection, b"hello")
    assert link.refuse() == 1
    assert is_cut(connection)
    with pytest.raises(ConnectionRefusedError):
        connect()
    link.heal()
    assert asked(connect(), b"again") == b"again"


def test_resets(link, connect, echo):
    """A link that resets does so to what is there and to whoever connects, until it is healed."""
    connection = connect()
    asked(connection, b"hello")
    assert link.reset() == 1
    with pytest.raises(ConnectionResetError):
        connection.recv(1000)
    assert echo.ended.wait(PATIENCE)
    with pytest.raises(ConnectionResetError):
        connect().recv(1000)
    link.heal()
    assert asked(connect(), b"again") == b"again"


def test_cuts_in_the_middle_of_a_reply(link, connect, echo):
    """Where replies are cut the request arrives, and the first bytes of its reply alone come back."""
    connection = connect()
    asked(connection, b"before")
    assert link.cut_mid_reply(2) == 1
    for broken in (connection, connect()):
        assert asked(broken, b"hello") == b"he"
        assert is_cut(broken)
    link.heal()
    assert asked(connect(), b"again") == b"again"
    assert bytes(echo.got) == b"beforehellohelloagain"


def test_cuts_in_the_middle_of_a_later_reply(link, connect):
    """Where some replies are spared, each connection gets them whole, and then loses one."""
    connection = connect()
    asked(connection, b"before")
    link.cut_mid_reply(2, after_replies=1)
    for broken in (connection, connect()):
        assert asked(broken, b"spared") == b"spared"
        assert asked(broken, b"hello") == b"he"
        assert is_cut(broken)


def test_delivers_for_a_client_that_has_gone(link, connect, echo):
    """What a client sent before it gave up arrives after it has gone."""
    connection = connect()
    asked(connection, b"hello")
    link.slow(0.1)
    connection.sendall(b"late")
    connection.close()
    assert echo.ended.wait(PATIENCE)
    assert bytes(echo.got) == b"hellolate"


def test_holds_up(link, connect, monkeypatch):
    """A link that holds up delays what is there, cuts connections that are young, and allows no others."""
    young = connect()
    asked(young, b".")
    link.hold_up(0.0)
    assert is_cut(young)
    assert is_cut(connect())
    link.heal()
    old = connect()
    asked(old, b".")
    monkeypatch.setattr(network, "HANDSHAKE_SECONDS", 0.0)
    link.hold_up(0.05)
    begin = time.monotonic()
    assert asked(old, b"hello") == b"hello"
    assert time.monotonic() - begin >= 0.1


def test_half_open_swallows_for_ever(link, connect, echo):
    """What is sent in a half-open phase never arrives, and at its end a connection that lost data is cut."""
    old, unused = connect(), connect()
    asked(old, b"before")
    asked(unused, b".")
    link.swallow()
    new = connect()
    for connection in (old, new):
        connection.sendall(b"swallowed")
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1000)
        connection.settimeout(PATIENCE)
    link.heal()
    assert is_cut(old)
    assert is_cut(new)
    assert asked(unused, b"after") == b"after"
    assert bytes(echo.got) == b"before.after"


def test_half_open_hides_the_end(link, connect, echo):
    """In a half-open phase the server does not hear that the client has gone, until the phase is over."""
    connection = connect()
    asked(connection, b"hello")
    link.swallow()
    connection.close()
    assert not echo.ended.wait(0.1)
    link.heal()
    assert echo.ended.wait(PATIENCE)


def test_a_server_that_is_down(connect, echo):
    """Where nobody listens behind the link, the client's connection is cut at once."""
    echo.close()
    try:
        assert is_cut(connect())
    finally:
        echo._listener = socket.create_server(("127.0.0.1", 0))
