"""A network that fails on command: TCP links that refuse, delay, cut, or swallow what they carry.

What a link swallowed it never delivers: a connection that lost data carries nothing any more, not even its own
end, until the half-open phase is over, and is then cut. What is delayed arrives, even if the client has given up
and gone; that is as late as anything comes. `tests.torture.stores` adds up what that comes to.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

__all__ = ["Link", "Network"]

T = TypeVar("T")

PIECE_BYTES = 65536
HANDSHAKE_SECONDS = 0.4
"""Age from which a connection is taken to be set up."""
CLOSE_SECONDS = 5.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: the connection ends with a RST, and the other side gets ECONNRESET in place of an end."""


class _Connection:
    """One client's connection through a link, and the link's own to the server."""

    def __init__(self, link: Link, client: asyncio.StreamWriter, server: asyncio.StreamWriter | None) -> None:
        self._link = link
        self._client = client
        self._server = server
        self._cut = asyncio.Event()
        self._replies = 0  # since replies are cut
        self.begun = time.monotonic()
        self.lost_data = server is None

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool = False
    ) -> bool:
        """Carry one direction; returns True where it came to its end, False where nobody takes it any more."""
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                lost = self._loses_data()
                if not lost and self._link.delay:
                    await asyncio.sleep(self._link.delay)
                if lost or self._loses_data():
                    continue
                most = self._bytes_of_reply() if replies else None
                try:
                    writer.write(data[:most])
                    await writer.drain()
                except OSError:
                    return False
                if most is not None:
                    return True
        if self._loses_data():  # the other side does not hear of the end either
            await self.stay()
        return True

    def _bytes_of_reply(self) -> int | None:
        """How much of this reply is carried before the connection ends; None: all, and the connection goes on."""
        most = self._link.reply_bytes
        self._replies = 0 if most is None else self._replies + 1
        return most if self._replies > self._link.whole_replies else None

    def _loses_data(self) -> bool:
        self.lost_data = self.lost_data or self._link.half_open
        return self.lost_data

    async def stay(self) -> None:
        """Stay open and do nothing, until cut."""
        await self._cut.wait()

    def cut(self, *, deliver: bool = False) -> None:
        """Cut it with all that is on its way; or, to `deliver` that to the server, cut the client's side alone."""
        self._client.transport.abort()
        if not deliver or self.lost_data:
            self._cut.set()
            if self._server is not None:
                self._server.transport.abort()

    def reset(self) -> None:
        """Cut it, and let the client hear of that by a RST."""
        _reset(self._client)
        self.cut()

    def close(self) -> None:
        """Close both sides, after what they were sent."""
        self._client.close()
        if self._server is not None:
            self._server.close()


def _reset(client: asyncio.StreamWriter) -> None:
    client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    client.transport.abort()


class Link:
    """A way to one server for one client process, by a port of its own on 127.0.0.1.

    What a method begins lasts until `heal`, a `cut` aside.

    Attributes:
        port: what the client connects to.
        delay: seconds by which each piece of data comes later. Set it by the methods.
        half_open: whether data is swallowed. Set it by the methods.
        reply_bytes: how much of a reply is carried before the connection ends. Set it by the methods.
        whole_replies: how many replies come through whole before that one. Set it by the methods.
    """

    def __init__(self, network: Network, host: str, port: int, delay: float) -> None:
        self._network = network
        self._target = host, port
        self._connections: set[_Connection] = set()
        self._newcomers: Literal["carried", "cut", "reset"] = "carried"
        self._listener: asyncio.Server | None = None
        # It never listens, and keeps the port from others while nobody does.
        self._placeholder = socket.socket()
        self._placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._placeholder.bind(("127.0.0.1", 0))
        self.port = int(self._placeholder.getsockname()[1])
        self.delay = delay
        self.half_open = False
        self.reply_bytes: int | None = None
        self.whole_replies = 0

    def cut(self, *, deliver: bool = False) -> int:
        """Cut its connections; returns how many there were. To `deliver`: what the clients sent still arrives."""
        return self._network.run(lambda: self._cut_all(deliver=deliver))

    def refuse(self) -> int:
        """Close the port and cut its connections; returns how many there were."""

        def begin() -> int:
            self._stop_listening()
            self._newcomers = "cut"  # whoever was accepted just before
            return self._cut_all(deliver=False)

        return self._network.run(begin)

    def reset(self) -> int:
        """Reset its connections, and new ones as soon as they are there; returns how many there were."""

        def begin() -> int:
            self._newcomers = "reset"
            connections = list(self._connections)
            for connection in connections:
                connection.reset()
            return len(connections)

        return self._network.run(begin)

    def cut_mid_reply(self, after_bytes: int, *, after_replies: int = 0) -> int:
        """Carry requests, and only the first bytes of a reply, then cut; returns how many connections there are.

        The server has done what it was asked. `after_replies` come through whole, on each connection; without them
        new connections lose the reply to their handshake. What comes in one piece counts as one reply.
        """

        def begin() -> int:
            self.reply_bytes = after_bytes
            self.whole_replies = after_replies
            return len(self._connections)

        return self._network.run(begin)

    def slow(self, delay: float) -> int:
        """Delay all data; returns how many connections there are."""

        def begin() -> int:
            self.delay = delay
            return len(self._connections)

        return self._network.run(begin)

    def hold_up(self, delay: float) -> int:
        """Delay data for long on connections that are there, and allow no others; returns how many are held up.

        Young connections are cut, since they may be in the middle of a handshake, whose delays would add up.
        """

        def begin() -> int:
            self.delay = delay
            self._newcomers = "cut"
            set_up_before = time.monotonic() - HANDSHAKE_SECONDS
            young = [connection for connection in self._connections if connection.begun > set_up_before]
            for connection in young:
                connection.cut()
            return len(self._connections) - len(young)

        return self._network.run(begin)

    def swallow(self) -> int:
        """Let connections, and new ones, seem to be there and swallow everything; returns how many there are."""

        def begin() -> int:
            self.half_open = True
            return len(self._connections)

        return self._network.run(begin)

    def heal(self) -> None:
        """End what was begun, and cut the connections that lost data in it."""

        async def end() -> None:
            self.half_open = False
            self._newcomers = "carried"
            self.delay = 0.0
            self.reply_bytes = None
            for connection in list(self._connections):
                if connection.lost_data:
                    connection.cut()
            await self.open()

        self._network.wait_for(end())

    async def open(self) -> None:
        """Listen, unless it does. Called on the network's loop."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_port=True)

    def close(self) -> None:
        """Stop listening and cut everything. Called on the network's loop."""
        self._stop_listening()
        self._placeholder.close()
        self._cut_all(deliver=False)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _cut_all(self, *, deliver: bool) -> int:
        connections = list(self._connections)
        for connection in connections:
            connection.cut(deliver=deliver)
        return len(connections)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self.half_open:
            connection = _Connection(self, to_client, None)
            self._connections.add(connection)
            await self._until_over(connection, connection.stay())
            return
        if self._turns_away(to_client):
            return
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            to_client.transport.abort()
            return
        connection = _Connection(self, to_client, to_server)
        if self._turns_away(to_client):  # since it began to connect
            connection.cut()
            return
        self._connections.add(connection)
        there = asyncio.ensure_future(connection.carry(from_client, to_server))
        back = asyncio.ensure_future(connection.carry(from_server, to_client, replies=True))
        await self._until_over(connection, self._carried(there, back))

    def _turns_away(self, client: asyncio.StreamWriter) -> bool:
        if self._newcomers == "reset":
            _reset(client)
        elif self._newcomers == "cut":
            client.transport.abort()
        return self._newcomers != "carried"

    @staticmethod
    async def _carried(there: asyncio.Task[bool], back: asyncio.Task[bool]) -> None:
        try:
            await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            if back.done() and not back.result():
                await there  # the client is gone, and what it sent arrives nevertheless
        finally:
            there.cancel()
            back.cancel()

    async def _until_over(self, connection: _Connection, over: Awaitable[None]) -> None:
        try:
            await over
        finally:
            self._connections.discard(connection)
            connection.close()


class Network:
    """All links, on an event loop in a thread of their own. A context manager; its methods are thread-safe."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-network", daemon=True)
        self._links: list[Link] = []

    def link(self, host: str, port: int, delay: float = 0.0) -> Link:
        """Open a link to a server."""
        link = Link(self, host, port, delay)
        self.wait_for(link.open())
        self._links.append(link)
        return link

    def run(self, act: Callable[[], T]) -> T:
        """Call `act` on the loop, where nothing happens meanwhile; returns what it returns."""

        async def acting() -> T:
            return act()

        return self.wait_for(acting())

    def wait_for(self, acting: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop; returns what it returns."""
        return asyncio.run_coroutine_threadsafe(acting, self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.wait_for(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for link in self._links:
            link.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:  # they end by themselves; cancelled, asyncio would complain of each that it began
            await asyncio.wait(others, timeout=CLOSE_SECONDS)
