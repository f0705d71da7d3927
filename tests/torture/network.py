"""A network that fails on command: TCP links that delay, cut, or swallow what they carry.

What a link swallowed it never delivers: a connection that lost data carries nothing any more, not even its own
end, until the half-open phase is over, and is then cut. What is delayed arrives, even if the client has given up
and gone; that is as late as anything comes. `tests.torture.stores` adds up what that comes to.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

__all__ = ["Link", "Network"]

T = TypeVar("T")

PIECE_BYTES = 65536
HANDSHAKE_SECONDS = 0.4
"""Age from which a connection is taken to be set up."""
CLOSE_SECONDS = 5.0


class _Connection:
    """One client's connection through a link, and the link's own to the server."""

    def __init__(self, link: Link, client: asyncio.StreamWriter, server: asyncio.StreamWriter | None) -> None:
        self._link = link
        self._client = client
        self._server = server
        self._cut = asyncio.Event()
        self.begun = time.monotonic()
        self.lost_data = server is None

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Carry one direction; returns True where it came to its end, False where nobody takes it any more."""
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                lost = self._loses_data()
                if not lost and self._link.delay:
                    await asyncio.sleep(self._link.delay)
                if lost or self._loses_data():
                    continue
                try:
                    writer.write(data)
                    await writer.drain()
                except OSError:
                    return False
        if self._loses_data():  # the other side does not hear of the end either
            await self.stay()
        return True

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

    def close(self) -> None:
        """Close both sides, after what they were sent."""
        self._client.close()
        if self._server is not None:
            self._server.close()


class Link:
    """A way to one server for one client process, by a port of its own on 127.0.0.1.

    Attributes:
        port: what the client connects to.
        delay: seconds by which each piece of data comes later. Set it by the methods.
        half_open: whether data is swallowed. Set it by the methods.
    """

    def __init__(self, network: Network, host: str, port: int, delay: float) -> None:
        self._network = network
        self._target = host, port
        self._connections: set[_Connection] = set()
        self._listener: asyncio.Server | None = None
        self._refusing = False
        self.delay = delay
        self.half_open = False
        self.port = 0

    def cut(self, *, deliver: bool = False) -> int:
        """Cut its connections; returns how many there were. To `deliver`: what the clients sent still arrives."""
        return self._network.run(lambda: self._cut_all(deliver=deliver))

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
            self._refusing = True
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

        def end() -> None:
            self.half_open = self._refusing = False
            self.delay = 0.0
            for connection in list(self._connections):
                if connection.lost_data:
                    connection.cut()

        self._network.run(end)

    async def open(self) -> None:
        """Listen. Called on the network's loop."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and cut everything. Called on the network's loop."""
        if self._listener is not None:
            self._listener.close()
        self._cut_all(deliver=False)

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
        try:
            if self._refusing:
                raise ConnectionRefusedError
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            to_client.transport.abort()
            return
        connection = _Connection(self, to_client, to_server)
        self._connections.add(connection)
        there = asyncio.ensure_future(connection.carry(from_client, to_server))
        back = asyncio.ensure_future(connection.carry(from_server, to_client))
        await self._until_over(connection, self._carried(there, back))

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
        self._thread = threading.Thread(target=self._loop.run_forever, name="torture-network", daemon=True)
        self._links: list[Link] = []

    def link(self, host: str, port: int, delay: float = 0.0) -> Link:
        """Open a link to a server."""
        link = Link(self, host, port, delay)
        asyncio.run_coroutine_threadsafe(link.open(), self._loop).result()
        self._links.append(link)
        return link

    def run(self, act: Callable[[], T]) -> T:
        """Call `act` on the loop, where nothing happens meanwhile; returns what it returns."""

        async def acting() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(acting(), self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for link in self._links:
            await link.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:  # they end by themselves; cancelled, asyncio would complain of each that it began
            await asyncio.wait(others, timeout=CLOSE_SECONDS)
