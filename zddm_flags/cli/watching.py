"""`zddm status --watch`: the status again and again."""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from typing import Protocol, TextIO

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from zddm_flags.cli.jobs import INTERRUPTED, CouldNotRun, LoadedTarget, explained
from zddm_flags.cli.status_report import state_lines, status_document, verdict_lines
from zddm_flags.results import MigrationStatus

__all__ = ["WatchScreen", "make_watch_screen", "watch_status"]


class WatchScreen(Protocol):
    """Where each look goes. What it prints may raise OSError, where nobody reads it any more."""

    def show(self, status: MigrationStatus) -> None:
        """Show what was seen."""
        ...

    def fail(self, why: str) -> None:
        """Show why nothing was seen."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def watch_status(loaded: LoadedTarget, screen: WatchScreen, every: float) -> int:
    """Look every so many seconds, until an interrupt. Returns the exit code by the last look."""
    code = INTERRUPTED
    for name in ("SIGTERM", "SIGHUP"):  # or a terminal is left without its cursor
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        while True:
            try:
                with explained():
                    status = loaded.call(loaded.proxy.migration_status)
            except CouldNotRun as error:  # the ledger may be there again at the next look
                code = 2
                screen.fail(error.message)
            else:
                code = 0 if status.ready else 1
                screen.show(status)
            time.sleep(every)
    except (KeyboardInterrupt, OSError):
        return code
    finally:
        with suppress(OSError):
            screen.close()


def make_watch_screen(stdout: TextIO, *, as_json: bool) -> WatchScreen:
    """What suits stdout, and the option `--json`."""
    if as_json:
        return _Objects(stdout)
    console = _Console(file=stdout, highlight=False)
    return _Live(console) if console.is_terminal and not console.is_dumb_terminal else _Blocks(stdout)


class _Objects:
    """One JSON object a line."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout

    def show(self, status: MigrationStatus) -> None:
        """See `WatchScreen.show`."""
        click.echo(json.dumps(status_document(status)), file=self._stdout)

    def fail(self, why: str) -> None:
        """See `WatchScreen.fail`."""
        click.echo(json.dumps({"error": why}), file=self._stdout)

    def close(self) -> None:
        """See `WatchScreen.close`."""


class _Blocks:
    """A block of lines for each look."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout

    def show(self, status: MigrationStatus) -> None:
        """See `WatchScreen.show`."""
        self._print("\n".join([*state_lines(status), "", *verdict_lines(status)]))

    def fail(self, why: str) -> None:
        """See `WatchScreen.fail`."""
        self._print(why)

    def close(self) -> None:
        """See `WatchScreen.close`."""

    def _print(self, text: str) -> None:
        click.echo(f"{_now()}\n{text}\n", file=self._stdout)


class _Live:
    """The last look, drawn over the one before."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, status: MigrationStatus) -> None:
        """See `WatchScreen.show`."""
        # What matters stands above, for a terminal that is too low shows what fits.
        lines = [*verdict_lines(status), "", *state_lines(status), "", f"{_now()}  Ctrl-C ends this."]
        self._live.update(Text.from_ansi("\n".join(lines)), refresh=True)

    def fail(self, why: str) -> None:
        """See `WatchScreen.fail`."""
        self._live.update(Text(f"{_now()}  {why}"), refresh=True)

    def close(self) -> None:
        """See `WatchScreen.close`."""
        self._live.stop()


def _now() -> str:
    return time.strftime("%H:%M:%S")


class _Console(Console):
    """Rich ends the process where a pipe is closed; here it is the watching that ends."""

    def on_broken_pipe(self) -> None:
        """Called in an except clause: the error goes on."""
        raise  # noqa: PLE0704 - see above
