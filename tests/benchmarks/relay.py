"""A TCP relay that counts round trips: how often the client spoke after the server had, and so had to wait."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Self

__all__ = ["Relay"]

PIECE_BYTES = 65536
LOOK_SECONDS = 0.05


class Relay:
    """Carries connections to a port of this machine. Exact for a client that does one thing at a time.

    What a client pipelines, sending more before it has read an answer, is one round trip, as it is on a network.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LOOK_SECONDS)
        self.port: int = self._listener.getsockname()[1]
        self.round_trips = 0
        self._stopped = False
        self._threads = [threading.Thread(target=self._accept, name="relay")]

    def _accept(self) -> None:
        while not self._stopped:
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                client.settimeout(None)
                server = socket.create_connection(("127.0.0.1", self._to))
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._carry, args=(client, server), name="relay-connection")
                self._threads.append(thread)
                thread.start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        server_spoke = True
        with client, server, selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self._stopped:
                for key, _ in selector.select(LOOK_SECONDS):
                    data = key.fileobj.recv(PIECE_BYTES)  # type: ignore[union-attr] # it is a socket
                    if not data:
                        return
                    if key.fileobj is client and server_spoke:
                        self.round_trips += 1
                    server_spoke = key.fileobj is server
                    key.data.sendall(data)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        self._stopped = True
        for thread in list(self._threads):
            thread.join()
        self._listener.close()
