"""Runs the demo: stores, flag, traffic, ramp, finish, and what is said at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from ldclient import Context, LDClient
from ldclient.config import Config
from rich.console import Console
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from zddm_flags import LaunchDarklySource, Proxy, ProxyStats, TrafficGate
from zddm_flags.cli.demo.airports import (
    Airport,
    all_airports,
    new_adapter,
    old_adapter,
    postgres_engine,
    sqlite_engine,
    temporary_folder,
)
from zddm_flags.cli.demo.checker import CheckedOld, TimedNew
from zddm_flags.cli.demo.finish import Finish
from zddm_flags.cli.demo.screen import Lines, LiveTable, Moment, Screen, keys_of, percent
from zddm_flags.cli.demo.traffic import Traffic
from zddm_flags.cli.status_report import verdict_lines
from zddm_flags.jobs import Progress
from zddm_flags.results import MigrationStatus
from zddm_flags.testing import FlagServer

if TYPE_CHECKING:
    from zddm_flags.cli.demo.tracing import Tracing

__all__ = ["Options", "run_demo"]

_FLAG = "airports-migration-rate"
_SDK_KEY = "LAUNCHDARKLY_SDK_KEY"
_LOOK_SECONDS = 0.25
_MEGABYTES = {"sqlite": 64, "postgres": 256}  # several times what 28 seconds of traffic leave


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    new: str
    seconds: float
    seed: int
    plain: bool
    otlp: str | None
    flag_key: str | None
    relay: str | None


@dataclass(frozen=True, slots=True)
class _Phase:
    """From a share of the demo's time on, something is done to the flag."""

    begins: float
    name: str
    act: Callable[[FlagServer], None]


def _set(rate: float) -> Callable[[FlagServer], None]:
    return lambda server: server.set(_FLAG, rate)


_KILLED = "killed: the flag is turned off"
_PHASES = [
    _Phase(0.00, "0 %: everything is on Old", lambda _: None),
    _Phase(0.08, "ramp to 1 %", _set(0.01)),
    _Phase(0.20, "ramp to 10 %", _set(0.10)),
    _Phase(0.34, "ramp to 50 %", _set(0.50)),
    _Phase(0.50, _KILLED, lambda server: server.turn_off(_FLAG)),
    _Phase(0.62, "resumed at 50 %: the flag is turned on", lambda server: server.turn_on(_FLAG)),
    _Phase(0.74, "ramp to 100 %", _set(1.00)),
]


class _CouldNotRunError(click.ClickException):
    """Something that the demo needs is not there. The message says what to do."""

    exit_code = 2


def run_demo(options: Options) -> int:
    """Run the demo and return its exit code."""
    if options.flag_key is not None and not os.environ.get(_SDK_KEY):
        raise click.UsageError(f"--flag-key needs the SDK key of a LaunchDarkly environment in {_SDK_KEY}")
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # end as by Ctrl-C: a server must not be left running
            signal.signal(getattr(signal, name), _interrupt)
    console = Console()
    try:
        _check_space(options)
        if options.otlp is not None:
            _check_collector(options.otlp)
        with ExitStack() as stack:
            return _run(options, console, stack)
    except KeyboardInterrupt:
        console.print("Interrupted: stopped cleanly, the databases are removed.", highlight=False)
        return 130
    except (OSError, SQLAlchemyError, subprocess.SubprocessError) as error:
        raise _CouldNotRunError(f"the demo had to stop: {type(error).__name__}: {error}") from error


def _check_space(options: Options) -> None:
    needed, folder = _MEGABYTES[options.new], tempfile.gettempdir()
    if shutil.disk_usage(folder).free < needed * 1_000_000:
        raise _CouldNotRunError(
            f"the demo's databases need {needed} MB in {folder}: make room, or set TMPDIR to another folder"
        )


def _check_collector(url: str) -> None:
    """Say at once what the exporter would only say between the lines of the demo, again and again."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname or "", port), timeout=3).close()
    except (KeyError, ValueError) as error:
        raise click.UsageError(f"--otlp needs a URL such as http://localhost:4318, not {url!r}") from error
    except OSError as error:
        raise _CouldNotRunError(
            f"no collector answers at {url} ({error}): start one, or leave --otlp out"
        ) from error


def _run(options: Options, console: Console, stack: ExitStack) -> int:
    live = console.is_terminal and not options.plain
    console.soft_wrap = not live  # a line of a log is one line, however narrow the terminal
    console.print("Preparing: 28,000 airports go into a SQLite file", highlight=False)
    folder = temporary_folder(stack)
    airports = all_airports()
    old_engine = stack.enter_context(_disposing(sqlite_engine(folder / "old.sqlite")))
    old_store = old_adapter(old_engine)
    old_store.write_many(airports)
    if options.new == "postgres":
        console.print("Starting a PostgreSQL server", highlight=False)
        new_engine = stack.enter_context(postgres_engine())
    else:
        new_engine = stack.enter_context(_disposing(sqlite_engine(folder / "new.sqlite")))
    old, new = CheckedOld(old_store), TimedNew(new_adapter(new_engine))
    screen: Screen = LiveTable(console) if live else Lines(console)
    stack.callback(screen.close)
    tracing = _tracing(options, stack)
    telemetry = tracing.telemetry if tracing is not None else None
    server = None if options.flag_key else stack.enter_context(FlagServer({_FLAG: 0.0}))
    client = _client(options, server, stack)
    context = Context.builder("zddm-demo").kind("service").build()
    source = stack.enter_context(LaunchDarklySource(client, options.flag_key or _FLAG, context))
    proxy: Proxy[str, Airport] = Proxy(TrafficGate(source), old, new, name="airports", telemetry=telemetry)
    traffic = Traffic(proxy, old, airports, options.seed)
    stack.callback(traffic.stop)
    demo = _Demo(options, proxy, old, new, traffic, screen, server, tracing)
    try:
        status = demo.run()
    except KeyboardInterrupt:
        traffic.stop()
        screen.close()
        demo.summarise(console)
        raise
    screen.close()
    return demo.verdict(console, status)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _disposing(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


def _client(options: Options, server: FlagServer | None, stack: ExitStack) -> LDClient:
    """A client of the local stand-in, or of LaunchDarkly itself."""
    if server is not None:
        return server.client()
    key = os.environ[_SDK_KEY]
    if options.relay is None:
        config = Config(key)
    else:
        config = Config(key, stream_uri=options.relay, base_uri=options.relay, events_uri=options.relay)
    client = LDClient(config, start_wait=5)
    stack.callback(client.close)
    if not client.is_initialized():
        raise _CouldNotRunError(
            f"LaunchDarkly did not answer within 5 s: check {_SDK_KEY}, and the network or --relay"
        )
    return client


def _tracing(options: Options, stack: ExitStack) -> Tracing | None:
    if options.otlp is None:
        return None
    try:
        from zddm_flags.cli.demo.tracing import Tracing
    except ModuleNotFoundError as error:
        raise click.UsageError('--otlp needs the OpenTelemetry SDK: pip install "zddm-flags[otlp]"') from error
    tracing = Tracing(options.otlp)
    stack.callback(tracing.close)
    return tracing


class _Demo:
    """One run: the ramp while the traffic flows, and what was seen of it."""

    def __init__(
        self,
        options: Options,
        proxy: Proxy[str, Airport],
        old: CheckedOld,
        new: TimedNew,
        traffic: Traffic,
        screen: Screen,
        server: FlagServer | None,
        tracing: Tracing | None,
    ) -> None:
        self._options = options
        self._proxy = proxy
        self._old = old
        self._new = new
        self.traffic = traffic
        self._screen = screen
        self._server = server
        self._tracing = tracing
        self._phases = _PHASES if server is not None else [_Phase(0.0, "the flag is yours", lambda _: None)]
        self._shares: list[tuple[str, float, int]] = []
        self._kill_milliseconds: float | None = None
        self._before = proxy.stats()
        self._started = self._looked = 0.0
        self._finish = Finish(proxy, self._show_job, screen.phase)

    def run(self) -> MigrationStatus:
        """Ramp, kill, resume and finish under traffic; stop the traffic, and return what the library says then."""
        self._started = self._looked = time.perf_counter()
        self.traffic.start()
        self._ramp()
        self._finish.under_traffic()
        self.traffic.stop()
        return self._finish.at_rest()

    def _ramp(self) -> None:
        started = self._started
        ends = [phase.begins for phase in self._phases[1:]] + [1.0]
        for phase, end in zip(self._phases, ends, strict=True):
            began = self._proxy.stats()
            self._screen.phase(phase.name)
            changed = time.perf_counter()
            if self._server is not None:
                phase.act(self._server)
            while (now := time.perf_counter()) - started < end * self._options.seconds:
                time.sleep(min(_LOOK_SECONDS, max(0.0, started + end * self._options.seconds - now)))
                self._screen.show(self._look(phase.name))
            reads, on_old = _reads(began, self._proxy.stats())
            self._shares.append((phase.name, on_old / reads if reads else 1.0, reads))
            if phase.name == _KILLED:
                self._kill_milliseconds = max(0.0, (self._new.last_call - changed) * 1000)

    def _show_job(self, name: str, progress: Progress) -> None:
        self._screen.show(self._look(name, progress))

    def _look(self, phase: str, job: Progress | None = None) -> Moment:
        now, stats = time.perf_counter(), self._proxy.stats()
        reads, on_old = _reads(self._before, stats)
        operations = keys_of(stats) - keys_of(self._before)
        seconds = now - self._looked
        self._before, self._looked = stats, now
        return Moment(
            now - self._started, phase, stats, reads, on_old, operations / seconds, self.traffic.wrong, job
        )

    def verdict(self, console: Console, status: MigrationStatus) -> int:
        """Say what happened, and whether it is time to cut over; the exit code."""
        self.summarise(console)
        console.print()
        for line in verdict_lines(status):
            click.echo(line)
        wrong = []
        if self.traffic.wrong:
            wrong.append("reads returned what Old did not hold")
        if self.traffic.failed:
            wrong.append("operations raised")
        if self._finish.served_wrong:
            wrong.append("New held what Old did not, and nobody knew")
        # Where the flag is the user's it may leave some in Old: the verdict says what is missing.
        moved_all = self._finish.covered == status.rollout.read == 1
        if not status.ready and (moved_all or self._server is not None):
            wrong.append("it is not ready to cut over at 100 %")
        if wrong:
            console.print(f"SOMETHING WAS WRONG: {', '.join(wrong)}.", highlight=False)
        return 1 if wrong else 0

    def summarise(self, console: Console) -> None:
        """Print what the run showed."""
        stats = self._proxy.stats()
        if self._shares:
            console.print("\nReads served by Old, phase by phase:", highlight=False)
        for name, share, reads in self._shares:
            console.print(f"  {name:42} {share:6.1%} of {reads:,}", highlight=False)
        if self._kill_milliseconds is not None:
            later = (
                f"for the last time {self._kill_milliseconds:.1f} ms later"
                if self._kill_milliseconds
                else "no more"
            )
            console.print(f"After the kill New was called {later}.", highlight=False)
        copied = stats.operations.get(("read", "copied"), 0)
        console.print(
            f"{keys_of(stats):,} keys read, written or deleted; {copied:,} copied by reads; "
            f"opened to {percent(stats.opened)}; {stats.stale_keys:,} keys stale now.",
            highlight=False,
        )
        console.print(f"Reads that returned what Old did not hold: {self.traffic.wrong}", highlight=False)
        if self.traffic.failed:
            console.print(
                f"Operations that raised: {self.traffic.failed}; the last: {self.traffic.last_error}",
                highlight=False,
                markup=False,
            )
        console.print()
        for line in self._finish.lines():
            console.print(line, highlight=False, markup=False)
        if self._tracing is not None:
            self._tracing.close()
            airport = self.traffic.most_popular
            console.print()
            for line in self._tracing.lines(airport, self._proxy.gate.locate(airport)[0]):
                console.print(line, highlight=False, markup=False)


def _reads(before: ProxyStats, after: ProxyStats) -> tuple[int, int]:
    """How many reads there were between two moments, and how many of them Old served."""
    all_reads = on_old = 0
    for (operation, path), count in after.operations.items():
        if operation == "read":
            new = count - before.operations.get((operation, path), 0)
            all_reads += new
            on_old += new if path != "new_hit" else 0
    return all_reads, on_old
