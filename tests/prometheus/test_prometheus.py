"""examples/prometheus under a real Prometheus: rules, queries, and an incident for each alert.

Minutes are seconds here, and hours ten of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.examples.conftest import free_port, process_environment
from tests.prometheus.test_names import ALERTS, EXAMPLES, QUERIES, ROOT

PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")

pytestmark = [
    pytest.mark.skipif(
        PROMTOOL is None or PROMETHEUS is None, reason="prometheus and promtool are not on the PATH"
    ),
    pytest.mark.timeout(180),
]

INCIDENTS = {
    ("ZddmLedgerFailing", "ledgerless"),
    ("ZddmKeysDiffer", "differing"),
    ("ZddmNewFailing", "failing"),
    ("ZddmNewFailing", "stale"),
    ("ZddmGuardOpen", "failing"),
    ("ZddmStaleKeysGrowing", "stale"),
    ("ZddmReadsStayOnOld", "staying"),
    ("ZddmFlagDisconnected", "disconnected"),
    ("ZddmProcessesDisagree", "disagreeing"),
    ("ZddmProxyDisabled", "disabled"),
    ("ZddmCopiesDropped", "dropping"),
}


def quick(text: str) -> str:
    """The same with its durations scaled down."""
    text = re.sub(r"\b15s\b", "500ms", text)
    text = re.sub(r"\b(\d+)h\b", lambda found: f"{int(found[1]) * 10}s", text)
    return re.sub(r"\b(\d+)m\b", r"\1s", text)


def test_the_files_are_valid() -> None:
    """`promtool` finds nothing wrong with the configuration and the rules."""
    assert PROMTOOL is not None
    for command in (["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"]):
        run = subprocess.run([PROMTOOL, *command], cwd=EXAMPLES, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr


class Server:
    """Prometheus, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, what: str, **arguments: str) -> Any:
        """The data of an answer, or None where the server does not answer yet."""
        url = f"{self._url}{what}?{urllib.parse.urlencode(arguments)}"
        try:
            with self._open(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments}: {error.read().decode()}") from error
        except urllib.error.URLError:
            return None

    def alerts(self, *states: str) -> set[tuple[str, str]]:
        """The alerts that are in one of these states, each with its migration."""
        found = self.get("alerts")["alerts"]
        return {
            (each["labels"]["alertname"], each["labels"]["zddm_migration"])
            for each in found
            if each["state"] in states
        }

    def has(self, query: str) -> bool:
        return bool(self.get("query", query=quick(query))["result"])


@contextmanager
def running(command: list[str], log: IO[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    process = subprocess.Popen(command, stderr=log, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class Program:
    """One process of the service that has all the migrations."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    def wait(self, word: str) -> None:
        """Wait until it says so."""
        assert self._stdout.readline().strip() == word

    def begin(self) -> None:
        """Let the incidents begin."""
        self._stdin.write("begin\n")
        self._stdin.flush()
        self.wait("begun")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Server, list[Program]]]:
    """Prometheus with the example's configuration, and two processes that it reads."""
    assert PROMETHEUS is not None
    port, *ports = (free_port() for _ in range(3))
    targets = ", ".join(f'"127.0.0.1:{each}"' for each in ports)
    configuration = quick((EXAMPLES / "prometheus.yml").read_text(encoding="utf-8"))
    assert '"127.0.0.1:9464"' in configuration
    (tmp_path / "prometheus.yml").write_text(configuration.replace('"127.0.0.1:9464"', targets), encoding="utf-8")
    (tmp_path / "alerts.yml").write_text(quick(ALERTS), encoding="utf-8")
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("w", encoding="utf-8"))
        programs = []
        for which, each in zip(("first", "second"), ports, strict=True):
            command = [sys.executable, "-m", "tests.prometheus.program", str(each), str(tmp_path), which]
            process = stack.enter_context(
                running(
                    command,
                    log,
                    cwd=ROOT,
                    env=process_environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            programs.append(Program(process))
        command = [
            PROMETHEUS,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'storage'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        stack.enter_context(running(command, log, env={**os.environ, "GOMAXPROCS": "1"}))
        for program in programs:
            program.wait("ready")
        yield Server(port), programs


def wait_until(condition: Callable[[], object], seconds: float, what: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def test_every_alert_fires_in_its_incident(served: tuple[Server, list[Program]]) -> None:
    """While all is well no alert fires; in its incident each does, and each query of the page has an answer."""
    server, programs = served
    wait_until(lambda: server.get("query", query="1"), 30, lambda: "Prometheus does not answer")
    well = 'sum(zddm_gate_rate{zddm_migration="well"} offset 15m) == 4'  # both processes were read so long ago
    fired: set[tuple[str, str]] = set()

    def all_is_well() -> bool:
        fired.update(server.alerts("firing"))
        return server.has(well) and not server.alerts("firing", "pending")

    wait_until(all_is_well, 60, lambda: server.alerts("firing", "pending"))
    assert fired == set()
    rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {alert for alert, _ in INCIDENTS}

    for program in programs:
        program.begin()

    def all_fire() -> bool:
        fired.update(server.alerts("firing"))
        return fired >= INCIDENTS

    wait_until(all_fire, 60, lambda: INCIDENTS - fired)
    assert {migration for _, migration in fired} == {migration for _, migration in INCIDENTS}
    assert [query for query in QUERIES if not server.has(query)] == []
