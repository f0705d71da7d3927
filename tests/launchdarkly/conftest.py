"""The real SDK on a local flag server, and ways to wait for what it does."""

import gc
import threading
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog
from ldclient import Context

from zddm_flags import LaunchDarklySource, Rollout
from zddm_flags.testing import FlagServer

DEADLINE = 5.0


def pytest_collection_modifyitems(items):
    """Let pass that the SDK forgets to close the connection on which it was refused."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.fixture(autouse=True, scope="module")
def collect_forgotten_connections():
    """Collect them here, before the tests of others."""
    yield
    deadline = time.monotonic() + DEADLINE
    while any(thread.name.startswith("ldclient") for thread in threading.enumerate()):  # which still hold some
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def context():
    """The constant context of a service."""
    return Context.builder("users-service").kind("service").build()


@pytest.fixture
def server():
    """A server with the flag `rate` at 0.5."""
    with FlagServer({"rate": 0.5}) as server:
        yield server


@pytest.fixture
def client(server):
    """A connected client."""
    return server.client()


@pytest.fixture
def make_source(client, context):
    """Make sources that only follow events, unless told otherwise, and close them."""
    with ExitStack() as stack:

        def make(client=client, **settings):
            settings = {"refresh_seconds": 3600.0} | settings
            return stack.enter_context(LaunchDarklySource(client, "rate", context, **settings))

        yield make


@pytest.fixture(autouse=True)
def logged():
    """The structured log events so far; for every test, since the source logs from a thread of its own."""
    with structlog.testing.capture_logs() as events:
        yield events


@pytest.fixture
def eventually():
    """Poll until something is true; for what offers no event to wait for."""

    def wait(condition, seconds=DEADLINE):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not become true in time"
            time.sleep(0.002)

    return wait


@pytest.fixture
def reaches():
    """Wait by subscription until a source is at a rate; return whether it was in time."""

    def wait(source, rate, seconds=DEADLINE):
        wanted = rate if isinstance(rate, Rollout) else Rollout.of(rate)
        reached = threading.Event()
        unsubscribe = source.subscribe(lambda rollout: reached.set() if rollout == wanted else None)
        try:
            return reached.wait(seconds)
        finally:
            unsubscribe()

    return wait


@pytest.fixture
def set_and_wait():
    """Change a flag and return when every listener that was there before has been told by the SDK."""

    def change(server, client, value, key="rate"):
        told = threading.Event()

        def listener(change):
            if change.key == key:
                told.set()

        client.flag_tracker.add_listener(listener)
        try:
            server.set(key, value)
            assert told.wait(DEADLINE)
        finally:
            client.flag_tracker.remove_listener(listener)

    return change
