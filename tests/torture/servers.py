"""The servers of a run, which can be stopped in two ways each and end with the director, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import PostgreSqlServer, Server, ValkeyServer

__all__ = ["ROOT", "SIGNALS", "Servers", "environment", "halt", "running"]

ROOT = Path(__file__).parents[2]
SIGNALS = {"postgresql": (signal.SIGINT, signal.SIGQUIT), "valkey": (signal.SIGTERM, signal.SIGKILL)}
"""How a server may be stopped without losing what it acknowledged (see `tests.torture.stores`)."""

STOP_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Servers:
    """Both servers of a run."""

    postgresql: PostgreSqlServer
    valkey: ValkeyServer


def environment() -> dict[str, str]:
    """The environment of child processes: they import what this one does, and reach 127.0.0.1 without a proxy."""
    path = os.pathsep.join([str(ROOT), *(each for each in sys.path if each)])
    return {**os.environ, "PYTHONPATH": path, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}


def halt(server: Server, by: signal.Signals) -> None:
    """End the server by a signal and wait until it is gone; its data stay, and `launch` goes on from there."""
    process = server._process  # what `Server.halt` does, by another signal
    assert process is not None
    process.send_signal(by)
    process.wait(STOP_SECONDS)


@contextmanager
def running() -> Iterator[Servers]:
    """Both servers, stopped at the end.

    A guard, whose standard input ends when this process is killed, stops them then.
    """
    with ExitStack() as stack:
        guard = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.guard"],
            stdin=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
            start_new_session=True,
        )
        stack.callback(guard.communicate)  # ends its standard input, and waits
        servers = Servers(PostgreSqlServer(), ValkeyServer())
        for server in (servers.postgresql, servers.valkey):
            stack.callback(server.stop)
            assert guard.stdin is not None
            guard.stdin.write(f"{server.folder}\n")
            guard.stdin.flush()
            server.start()
        yield servers
