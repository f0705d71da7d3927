"""Forks a process that has just begun to follow a flag and is about to log that. Run by test_fork.py.

Its argument is what takes long in the thread that logs: `import`, of structlog, or `logging`, with a lock held.
"""

import os
import signal
import sys
import threading
import time
from importlib.abc import MetaPathFinder

from ldclient import Context

from zddm_flags import LaunchDarklySource
from zddm_flags.testing import FlagServer

CONTEXT = Context.builder("users-service").kind("service").build()
SECONDS = 0.3


class SlowImport(MetaPathFinder):
    """Delays the import of structlog."""

    def __init__(self, begun):
        self._begun = begun

    def find_spec(self, fullname, path, target=None):
        if fullname == "structlog":
            self._begun.set()
            time.sleep(SECONDS)


class SlowProcessor:
    """A processor of structlog that has a lock, as its own logger has."""

    def __init__(self, begun):
        self._begun = begun
        self._lock = threading.Lock()

    def __call__(self, logger, method, event):
        with self._lock:
            self._begun.set()
            time.sleep(SECONDS)
        return str(event)


def make_slow(what):
    """Make one of the two slow; returns what is set when it begins."""
    begun = threading.Event()
    if what == "import":
        assert "structlog" not in sys.modules
        sys.meta_path.insert(0, SlowImport(begun))
    else:
        import structlog

        structlog.configure(processors=[SlowProcessor(begun)])
    return begun


def child(client, source):
    """What a preloaded worker does first: it follows the flag. Closing the source logs what it did."""
    client.postfork()
    source.postfork()
    source.close()
    client.close()


def ended(pid, seconds):
    """Whether the child ends by itself within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def main():
    """Print whether the child of a fork that is as early as can be ends."""
    begun = make_slow(sys.argv[1])
    out, sys.stdout = sys.stdout, sys.stderr  # where structlog writes
    with FlagServer({"rate": 0.5}) as server:
        client = server.client()
        with LaunchDarklySource(client, "rate", CONTEXT) as source:
            assert begun.wait(5)
            pid = os.fork()
            if pid == 0:
                child(client, source)
                os._exit(0)
            print("true" if ended(pid, 5) else "false", file=out)


if __name__ == "__main__":
    main()
