"""A local stand-in for LaunchDarkly, so that ramps and kills are tested with the real SDK and no account.

It speaks the part of LaunchDarkly's protocol that the Python server SDK uses by default: flag data as
server-sent events on `GET /all`, or polled from `GET /sdk/latest-all`; what the SDK sends to `POST /bulk` and
`POST /diagnostic` is accepted and forgotten. The SDK's experimental `datasystem_config` is not served.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from ldclient.client import LDClient

__all__ = ["FlagServer"]

CLOSE_SECONDS = 5.0
"""How long `FlagServer.close` waits for connections to end."""


class FlagServer:
    """LaunchDarkly on 127.0.0.1 until `close`.

    ::

        with FlagServer({"rate": 0.1}) as server:
            client = server.client()
            server.set("rate", 0.5)
            server.turn_off("rate")

    Args:
        flags: flag key -> value, any JSON; each is set as by `set`.
        refusing: an HTTP status to refuse every request with from the start, as by `refuse`, so that a start
            of the SDK without LaunchDarkly can be tested. None: serve.
        port: to serve at, so that a server can come to where an SDK looks for it. 0: one that is free.

    Changes reach connected SDKs as they are made, in order, and their versions always rise. Thread-safe.
    Where the environment has `http_proxy`, let `no_proxy` name 127.0.0.1: the SDK obeys both.

    Raises:
        OSError: the port is taken.
        TypeError: a value is not JSON.
    """

    def __init__(
        self, flags: Mapping[str, Any] | None = None, *, refusing: int | None = None, port: int = 0
    ) -> None:
        self._state = threading.Condition()
        self._flags: dict[str, dict[str, Any]] = {}
        self._version = 0
        self._streams: list[_Stream] = []
        self._refusal = refusing
        self._paused = False
        self._closed = False
        self._clients: list[LDClient] = []
        for key, value in (flags or {}).items():
            self.set(key, value)
        self._http = _Http(self, port)
        # The interval is only how soon close() is noticed; requests and changes wake their threads at once.
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.02,), name="zddm-flag-server", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it serves: give it to the SDK as `stream_uri`, `base_uri` and `events_uri`."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def client(self, *, start_wait: float = 5.0, **config: Any) -> LDClient:
        """Make a real LaunchDarkly client that is connected to this server; `close` closes it.

        Args:
            start_wait: seconds to wait for the client to be ready, 0 for not at all.
            config: arguments of `ldclient.config.Config`. Other than in the SDK, `send_events` is False and
                `initial_reconnect_delay` is 0.1 s, unless given.
        """
        from ldclient.client import LDClient  # noqa: PLC0415 - whoever needs no client, needs no SDK
        from ldclient.config import Config  # noqa: PLC0415

        settings: dict[str, Any] = {
            "sdk_key": "sdk-local",
            "stream_uri": self.url,
            "base_uri": self.url,
            "events_uri": self.url,
            "send_events": False,
            "initial_reconnect_delay": 0.1,
            **config,
        }
        client = LDClient(Config(**settings), start_wait=start_wait)
        with self._state:
            self._clients.append(client)
        return client

    def set(self, key: str, value: Any, *, off: Any = 0.0) -> None:
        """Change what the flag serves to everyone, or create the flag.

        Args:
            key: of the flag.
            value: any JSON.
            off: any JSON: what the flag serves while it is turned off.

        A flag that is turned off stays off. Raises TypeError where a value is not JSON.
        """
        with self._state:
            on = self._flags.get(key, {}).get("on", True)
            flag = {
                "on": on,
                "variations": [value, off],
                "fallthrough": {"variation": 0},
                "offVariation": 1,
                "salt": "salt",
                "targets": [],
                "contextTargets": [],
                "rules": [],
                "prerequisites": [],
            }
            self.set_flag(key, flag)

    def set_flag(self, key: str, flag: Mapping[str, Any], *, version: int | None = None) -> None:
        """Change or create a flag of any shape: rules, percentage rollouts, no variations, wrong types.

        Args:
            key: of the flag.
            flag: LaunchDarkly's own representation of a flag; `key` and `version` are filled in.
            version: in place of the next one. SDKs ignore a change whose version is not above the one they
                have, and take any version in `put`.

        Raises TypeError where the flag is not JSON. A flag that the SDK cannot decode makes it reconnect.
        """
        with self._state:
            self._version += 1
            number = self._version if version is None else version
            # Through text and back: what the caller does to its own objects later has no effect here.
            copy = json.loads(json.dumps({**flag, "key": key, "version": number}))
            self._flags[key] = copy
            self._send(_event("patch", {"path": f"/flags/{key}", "data": copy}))

    def turn_off(self, key: str) -> None:
        """Turn the flag's targeting off, as the switch in the dashboard does. Raises KeyError if unknown."""
        self._turn(key, on=False)

    def turn_on(self, key: str) -> None:
        """Turn the flag's targeting on again. Raises KeyError if it is unknown."""
        self._turn(key, on=True)

    def delete(self, key: str) -> None:
        """Delete the flag. Raises KeyError if it is unknown."""
        with self._state:
            self._known(key)
            del self._flags[key]
            self._version += 1
            self._send(_event("delete", {"path": f"/flags/{key}", "version": self._version}))

    def put(self) -> None:
        """Send all flags again to every connected SDK, as LaunchDarkly does at the start of a stream."""
        with self._state:
            self._send(self._everything())

    def send_raw(self, text: str) -> None:
        r"""Send `text` as it is on every stream, for malformed data such as `"event: put\ndata: {\n\n"`."""
        with self._state:
            self._send(text.encode())

    def pause(self) -> None:
        """Hold back everything that is sent on streams: they stay open and silent. Idempotent."""
        self._flow(paused=True)

    def resume(self) -> None:
        """Deliver what was held back, in order, and everything from now on at once. Idempotent."""
        self._flow(paused=False)

    def drop_connections(self) -> None:
        """Cut every stream. SDKs connect again by themselves and then get all flags."""
        with self._state:
            streams, self._streams = self._streams, []
            for stream in streams:
                stream.cut()

    def refuse(self, status: int = 503) -> None:
        """Cut every stream and answer every request with this HTTP status, from 400 to 599, until `accept`.

        After a 401 or 403, which stand for a wrong SDK key, the SDK waits for minutes, or stops for good in
        releases before 9.18; after a 5xx it retries as after a cut. Raises ValueError for another status.
        """
        if not 400 <= status <= 599:
            raise ValueError(f"a refusal is an HTTP status from 400 to 599, not {status}")
        with self._state:
            self._refusal = status
            self.drop_connections()

    def accept(self) -> None:
        """End a refusal. Idempotent."""
        with self._state:
            self._refusal = None

    @property
    def connections(self) -> int:
        """How many streams are open now."""
        with self._state:
            return len(self._streams)

    def wait_for_connections(self, count: int = 1, timeout: float = 5.0) -> None:
        """Wait until at least `count` streams are open. Raises TimeoutError after `timeout` seconds."""
        with self._state:
            if not self._state.wait_for(lambda: len(self._streams) >= count, timeout):
                raise TimeoutError(f"{len(self._streams)} of {count} streams were open after {timeout} s")

    def close(self) -> None:
        """Close the clients that `client` made, then the server. Idempotent."""
        with self._state:
            if self._closed:
                return
            self._closed = True
            clients, self._clients = self._clients, []
        for client in clients:
            client.close()  # type: ignore[no-untyped-call] # the SDK has no annotation there
        self._http.shutdown()
        self._thread.join()
        self._http.close_all()
        self._http.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _known(self, key: str) -> dict[str, Any]:
        if key not in self._flags:
            raise KeyError(f"there is no flag {key!r}")
        return self._flags[key]

    def _turn(self, key: str, *, on: bool) -> None:
        with self._state:
            self.set_flag(key, {**self._known(key), "on": on})

    def _flow(self, *, paused: bool) -> None:
        with self._state:
            self._paused = paused
            for stream in self._streams:
                stream.flow(paused=paused)

    def _send(self, data: bytes) -> None:
        for stream in self._streams:
            stream.send(data)

    def _everything(self) -> bytes:
        return _event("put", {"path": "/", "data": {"flags": self._flags, "segments": {}}})

    def _refused_with(self) -> int | None:
        with self._state:
            return self._refusal

    def _polled(self) -> bytes:
        with self._state:
            return json.dumps({"flags": self._flags, "segments": {}}).encode()

    def _opened(self, stream: _Stream) -> None:
        with self._state:
            if self._closed or self._refusal is not None:
                stream.cut()
                return
            # Under the lock that every change takes: nothing falls between this and the first change.
            stream.flow(paused=self._paused)
            stream.send(self._everything())
            self._streams.append(stream)
            self._state.notify_all()

    def _ended(self, stream: _Stream) -> None:
        with self._state:
            if stream in self._streams:
                self._streams.remove(stream)


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class _Stream:
    """What is still to be sent on one open stream, handed from the changing threads to the sending one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._pending: list[bytes] = []
        self._paused = False
        self._ended = False

    def send(self, data: bytes) -> None:
        with self._changed:
            self._pending.append(data)
            self._changed.notify()

    def flow(self, *, paused: bool) -> None:
        with self._changed:
            self._paused = paused
            self._changed.notify()

    def take(self) -> bytes | None:
        """Wait for something to send; None at the end of the stream."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or (self._pending and not self._paused))
            if self._ended:
                return None
            data = b"".join(self._pending)
            self._pending.clear()
            return data

    def cut(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        _cut(self._connection)

    def cut_when_the_client_leaves(self) -> None:
        """Wait for the client to close: it sends nothing more after its request."""
        with contextlib.suppress(OSError):
            self._connection.recv(1)
        self.cut()


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        connection.shutdown(socket.SHUT_RDWR)


class _Http(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, flags: FlagServer, port: int) -> None:
        self.flags = flags
        self._connections: set[socket.socket] = set()
        self._connections_changed = threading.Condition()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for this address's name, which can take seconds.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._connections_changed:
            self._connections.add(connection)
        return connection, address

    def close_request(self, request: Any) -> None:
        super().close_request(request)
        with self._connections_changed:
            self._connections.discard(request)
            self._connections_changed.notify_all()

    def close_all(self) -> None:
        with self._connections_changed:
            for connection in self._connections:
                _cut(connection)
            self._connections_changed.wait_for(lambda: not self._connections, CLOSE_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that left in the middle of a request: this server is for testing that."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http  # pyright: ignore[reportIncompatibleVariableOverride] - it is made by that server only

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        refusal = self.server.flags._refused_with()  # noqa: SLF001 - one component in two classes
        if refusal is not None:
            self._answer(refusal)
        elif path == "/all":
            self._stream()
        elif path == "/sdk/latest-all":
            self._answer(200, self.server.flags._polled())  # noqa: SLF001
        else:
            self._answer(404)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            self._answer(400)  # a negative one would be read as "until the end"
            return
        self.rfile.read(int(length))
        refusal = self.server.flags._refused_with()  # noqa: SLF001
        if refusal is not None:
            self._answer(refusal)
        else:
            self._answer(202 if self.path in {"/bulk", "/diagnostic"} else 404)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status >= 400:
            self.send_header("Connection", "close")  # the SDK leaves a refused connection open and unread
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        # Chunked, because the SDK's HTTP client hands a chunk on as it comes, and otherwise fills a buffer.
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        stream = _Stream(self.connection)
        leaving = threading.Thread(target=stream.cut_when_the_client_leaves, daemon=True)
        leaving.start()
        self.server.flags._opened(stream)  # noqa: SLF001
        try:
            while (data := stream.take()) is not None:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        except OSError:
            pass  # the client left
        finally:
            stream.cut()
            self.server.flags._ended(stream)  # noqa: SLF001
            leaving.join()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a test's output is the test's."""
