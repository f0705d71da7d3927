"""The services of examples/services as processes, and what they are given in place of production."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.otlp import OtlpReceiver
from zddm_flags.testing import FlagServer

ROOT = Path(__file__).parents[2]
SERVICES = ROOT / "examples" / "services"
FLAG = "users-migration-rate"
DEADLINE = 20.0


def wait_until(condition, what):
    """Ask `condition` until it is true, and return its answer."""
    deadline = time.monotonic() + DEADLINE
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        time.sleep(0.02)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def process_environment(more=None):
    """The environment of a process that imports this checkout, with what is given and no telemetry of its own."""
    paths = os.pathsep.join(str(ROOT / each) for each in (".", "adapters", "telemetry"))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return {**inherited, "PYTHONPATH": paths, "no_proxy": "127.0.0.1", **(more or {})}


@dataclass
class Service:
    """A service in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def call(self, method, path, body=None, headers=None) -> tuple[int, Any]:
        """The status and the JSON of one request."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - our own
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as response:  # noqa: S310 - our own
                answer = response.read()
                return response.status, json.loads(answer) if answer else None
        except urllib.error.HTTPError as error:
            with error:
                error.read()
                return error.code, None

    def get(self, key):
        return self.call("GET", f"/users/{key}")

    def put(self, key, visits):
        """Write a user and return it."""
        user = {"email": f"{key}@example.org", "visits": visits}
        assert self.call("PUT", f"/users/{key}", user) == (200, user)
        return user

    def health(self):
        status, answer = self.call("GET", "/health")
        assert status == 200
        return answer

    def answers(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.call("GET", "/health")[0] == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def stop(self):
        """SIGTERM; the exit status, once it ended and nothing was raised in any process of it."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(DEADLINE)
        log = self.log.read_text()
        assert "Traceback" not in log, log
        return status


def visited_at_once(service):
    """Let thirty users be written twice and read back, ten at a time; the last visit of each."""
    visits = {f"u{number}": number for number in range(30)}

    def visit(key):
        service.put(key, 0)
        written = service.put(key, visits[key])
        return service.get(key) == (200, written)

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(visit, visits))
    return visits


@contextlib.contextmanager
def started(command, environment, log):
    """The service that `command` starts on a port that is free, once it is ready."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=port) for part in command)],
            cwd=SERVICES,
            env=process_environment(environment),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    service = Service(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_until(service.answers, "the service is ready")
        yield service
    finally:
        with contextlib.suppress(ProcessLookupError):  # ended, and its workers with it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Rows:
    """A database of its own for one store, for as long as one test."""

    def __init__(self, server, name):
        self.url = server.url(name).render_as_string(hide_password=False)
        self._engine = create_engine(self.url)

    def execute(self, statement):
        with self._engine.begin() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    def close(self):
        self._engine.dispose()


@pytest.fixture
def databases(postgresql_server):
    """Makes databases on the server, and drops them."""
    with contextlib.ExitStack() as stack:

        def make():
            name = postgresql_server.create_database()
            stack.callback(postgresql_server.drop_database, name)
            rows = Rows(postgresql_server, name)
            stack.callback(rows.close)
            return rows

        yield make


@pytest.fixture
def valkey(valkey_server):
    """A client of a numbered database of its own."""
    with valkey_server.client() as client:
        client.select(11)
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def flags():
    """LaunchDarkly, where the flag is on and serves 0."""
    with FlagServer({FLAG: 0}) as server:
        yield server


@pytest.fixture
def collector():
    """What spans are exported to."""
    with OtlpReceiver() as receiver:
        yield receiver
