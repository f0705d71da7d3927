"""Forks a process that has just begun to follow a flag, where structlog takes long to import. Run by test_fork.py."""

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


class SlowImport(MetaPathFinder):
    """Delays the import of structlog, and tells when it begins."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def find_spec(self, fullname, path, target=None):
        if fullname == "structlog":
            self.begun.set()
            time.sleep(0.5)


def child(client, source):
    """What a preloaded worker does first: it follows the flag, and closing the source logs what it did."""
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
    assert "structlog" not in sys.modules
    slow = SlowImport()
    sys.meta_path.insert(0, slow)
    sys.stdout, out = sys.stderr, sys.stdout  # where structlog writes
    with FlagServer({"rate": 0.5}) as server:
        client = server.client()
        with LaunchDarklySource(client, "rate", CONTEXT) as source:
            slow.begun.wait(5)
            pid = os.fork()
            if pid == 0:
                child(client, source)
                os._exit(0)
            print("true" if ended(pid, 4) else "false", file=out)


if __name__ == "__main__":
    main()
