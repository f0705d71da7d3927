"""What the commands that work on a migration share: the target, running a job, showing how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TextIO, TypeVar, cast

import click

from zddm_flags import AsyncProxy, Proxy
from zddm_flags.cli.words import counted, outcome
from zddm_flags.errors import BadTarget, ZddmError
from zddm_flags.jobs import Progress
from zddm_flags.targets import load

__all__ = [
    "INTERRUPTED",
    "CouldNotRun",
    "Job",
    "LoadedTarget",
    "Screen",
    "again",
    "app_dir_option",
    "counts_of",
    "duration",
    "explained",
    "json_option",
    "load_target",
    "make_screen",
    "pace_of",
    "page_size_option",
    "parts_option",
    "patience_option",
    "per_second_option",
    "percent",
    "plain_option",
    "restart_option",
    "rows_of",
    "target_argument",
    "waiting_of",
    "workers_option",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_LOOK_SECONDS = 0.1
_LINE_SECONDS = 5.0
INTERRUPTED = 130
"""The exit code of a job that was stopped."""


class CouldNotRun(click.ClickException):
    """The command could not run, or gave up. The message says what to do, and holds no key and no value."""

    exit_code = 2


# -- options ------------------------------------------------------------------------------------------------------

target_argument = click.argument("target", metavar="TARGET")
app_dir_option = click.option(
    "--app-dir",
    type=click.Path(exists=True, file_okay=False),
    default=".",
    show_default=True,
    help="Where TARGET's module is looked for first.",
)
plain_option = click.option(
    "--plain",
    is_flag=True,
    help="Print a line every 5 seconds instead of a live display. So does output that is no terminal.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object, and no progress."
)
per_second_option = click.option(
    "--per-second",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Read at most so many keys of Old in a second.  [default: as many as go]",
)
page_size_option = click.option(
    "--page-size",
    type=click.IntRange(min=1),
    metavar="N",
    default=1000,
    show_default=True,
    help="How many keys are worked on at a time.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="How many parts are worked on at once.",
)
parts_option = click.option(
    "--parts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Split Old into so many parts at most.  [default: by how many keys it holds]",
)
patience_option = click.option(
    "--patience",
    "patience_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=60,
    show_default=True,
    help="For how long a store or the ledger may fail, at a stretch, before this gives up.",
)
restart_option = click.option(
    "--restart", is_flag=True, help="Begin anew, whatever an earlier run left unfinished."
)


# -- the target ---------------------------------------------------------------------------------------------------


class Job(Protocol[T_co]):
    """What `run_job` runs: a job of either world."""

    def run(self) -> T_co | Awaitable[T_co]:
        """Do it."""
        ...

    def stop(self) -> None:
        """End it soon. Thread-safe."""
        ...

    def progress(self) -> Progress:
        """How far it is. Thread-safe."""
        ...


class LoadedTarget:
    """A proxy of either world, and what runs its methods: for an `AsyncProxy` one event loop, the same for all.

    Attributes:
        name: the TARGET that was given.
        arguments: what names it on a command line: TARGET, and --app-dir where it was given.
        proxy: the proxy.
        stdout: where the result goes, and nothing else.
    """

    def __init__(
        self,
        name: str,
        app_dir: str,
        proxy: Proxy[Any, Any] | AsyncProxy[Any, Any],
        stack: ExitStack,
        stdout: TextIO,
    ) -> None:
        self.name = name
        self.arguments = [name, *(() if app_dir == "." else ("--app-dir", app_dir))]
        self.proxy = proxy
        self.stdout = stdout
        self._runner = stack.enter_context(asyncio.Runner()) if isinstance(proxy, AsyncProxy) else None

    def call(self, function: Callable[[], T | Awaitable[T]]) -> T:
        """What `function` returns, or awaits, such as `target.proxy.migration_status`. Raises what it raises."""
        if self._runner is None:
            return cast(Callable[[], T], function)()

        async def awaited() -> T:
            return await cast(Callable[[], Awaitable[T]], function)()

        return self._runner.run(awaited())

    def run_job(self, job: Job[T], screen: Screen) -> T:
        """Run a job to its end, in the foreground, and show how far it is.

        SIGINT, SIGTERM and SIGHUP stop it: its result says that it did not finish. A second SIGINT raises
        KeyboardInterrupt at once. Closes the screen.

        Raises:
            CouldNotRun: it gave up. The message tells which store failed, and the error's type alone, for its text
                may hold keys.
        """
        try:
            with explained(), _Follower(job, screen):
                return self.call(job.run)
        except KeyboardInterrupt:
            _hint(f"Ended at once: the page in progress is done again. Go on with: {again()}")
            raise

    def command(self, name: str, *options: str) -> str:
        """The command line of another command for the same migration."""
        return shlex.join(["zddm", name, *self.arguments, *options])

    def tell(self, lines: Iterable[str], document: Mapping[str, object], *, as_json: bool) -> None:
        """Print a result to stdout. Where nobody reads it, the exit code still tells."""
        try:
            click.echo(json.dumps(document) if as_json else "\n".join(lines), file=self.stdout)
        except OSError:
            with contextlib.suppress(OSError):  # or Python complains of it when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stdout.fileno())

    def wait_for_write_rate(self, seconds: float = 5.0) -> None:
        """Wait until New may be written to, for LaunchDarkly may not have answered yet.

        Raises:
            CouldNotRun: it may not after so long. The message says why, and what to do.
        """
        give_up_at = time.monotonic() + seconds
        while not self.proxy.new_takes_writes:
            if time.monotonic() >= give_up_at:
                raise CouldNotRun(self._why_no_writes())
            time.sleep(_LOOK_SECONDS)

    def _why_no_writes(self) -> str:
        if not self.proxy.enabled:
            return f"the proxy of {self.name} is disabled, so that nothing is written to New: let it be enabled"
        why = ": it is at 0 or killed, or LaunchDarkly did not answer" if self.proxy.gate.flag_key else ""
        return (
            f"{self.rate_source} writes 0 % of the keys to New{why}. Nothing may be copied then. Raise the write "
            "rate, and run this again"
        )

    @property
    def rate_source(self) -> str:
        """What sets the rates, in words."""
        flag_key = self.proxy.gate.flag_key
        return "the gate" if flag_key is None else f"the flag {flag_key!r}"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """What a store or the ledger raises within becomes CouldNotRun, with its type alone: its text may hold keys.

    The texts of this library's own errors hold none, and say what to do.
    """
    try:
        yield
    except click.ClickException:
        raise
    except ZddmError as error:
        raise CouldNotRun(str(error)) from error
    except BrokenExecutor as error:
        raise CouldNotRun(
            f"gave up: a worker ended ({type(error).__name__}). What is done stays done. Go on with: {again()}"
        ) from error
    except Exception as error:
        raise CouldNotRun(
            f"gave up: {_who_failed(error)} fails with {type(error).__name__}. What is done stays done. See to "
            f"it, and go on with: {again()}"
        ) from error


@contextlib.contextmanager
def load_target(target: str, app_dir: str = ".") -> Iterator[LoadedTarget]:
    """The proxy that `target` names; it is closed afterwards where it was made for us.

    What the application prints goes to stderr, so that stdout has the result alone; also afterwards, for its
    threads may go on, and a LaunchDarkly client's do.

    Raises:
        CouldNotRun: there is no such proxy, its module raises, or its ledger is not shared.
    """
    folder = str(Path(app_dir).resolve())
    sys.path.insert(0, folder)
    stdout, sys.stdout = sys.stdout, sys.stderr
    with ExitStack() as stack:
        proxy, ours = _load(target, folder)
        loaded = LoadedTarget(target, app_dir, proxy, stack, stdout)
        if ours:
            stack.callback(_close, loaded)
        if not proxy.ledger_is_shared:
            raise CouldNotRun(
                f"{target} keeps its ledger in memory. No other process sees what is marked there, so this one "
                "would overwrite in New what the application writes. Give the proxy a ledger that all processes "
                "share, here and in the application: zddm_adapters.sqlalchemy.SqlAlchemyLedger or "
                "zddm_adapters.redis.RedisLedger"
            )
        yield loaded


def _load(target: str, folder: str) -> tuple[Proxy[Any, Any] | AsyncProxy[Any, Any], bool]:
    try:
        return load(target)
    except BadTarget as error:
        raise CouldNotRun(f"{error}. TARGET is module:attribute; --app-dir says where the module is") from error
    except (ImportError, ZddmError) as error:  # their texts name modules and arguments, never keys
        raise CouldNotRun(f"{target} raised {type(error).__name__}{_place(error, folder)}: {error}") from error
    except (Exception, SystemExit) as error:
        raise CouldNotRun(
            f"{target} raised {type(error).__name__}{_place(error, folder)}. To see all of it, in {folder}: "
            f'{Path(sys.executable).name} -c "{_statement(target)}"'
        ) from error


def _statement(target: str) -> str:
    """Python that raises what `target` did: its module, or where that is there, the function that it names."""
    module, _, function = target.partition(":")
    return f"import {module}; {module}.{function}()" if module in sys.modules else f"import {module}"


def _place(error: BaseException, folder: str) -> str:
    """The line of the application where it was raised, if it was there."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename.startswith(folder)]
    return f" in {Path(frames[-1].filename).relative_to(folder)}, line {frames[-1].lineno}" if frames else ""


def _close(loaded: LoadedTarget) -> None:
    try:
        loaded.call(loaded.proxy.close)
    except Exception as error:
        _hint(f"Closing {loaded.name} raised {type(error).__name__}.")


def _who_failed(error: Exception) -> str:
    """Old, New or the ledger, by the functions of this library that the error came through.

    Those that call one store are named for it: `scan_old`, `read_new`. All else that a job tries again and again
    is a call of the ledger. What a worker process raised has lost its way here.
    """
    if type(error.__cause__).__name__ == "_RemoteTraceback":  # which concurrent.futures does not export
        return "a store, or the ledger,"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").startswith("zddm_flags."):
            for ending, store in (("_old", "Old"), ("_new", "New")):
                if frame.f_code.co_name.endswith(ending):
                    return store
    return "the ledger"


def again() -> str:
    """The command that goes on where this one ends."""
    return shlex.join(["zddm", *(each for each in sys.argv[1:] if each != "--restart")])


# -- running ------------------------------------------------------------------------------------------------------


class _Follower:
    """While it is entered, shows how far a job is, and stops it where a signal asks for that.

    A handler does nothing but note the signal, for it may have interrupted what holds any lock. The thread that
    follows the job does the rest.
    """

    def __init__(self, job: Job[Any], screen: Screen) -> None:
        self._job = job
        self._screen = screen
        self._asked = False
        self._told_before = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="zddm-follower", daemon=True)
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                self._handlers[number] = signal.signal(number, self._signalled)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third one ends what waits for a driver
            raise KeyboardInterrupt
        self._asked = True

    def _follow(self) -> None:
        stopping = False
        while not self._over.wait(_LOOK_SECONDS):
            if self._asked and not stopping:
                stopping = True
                self._job.stop()
                self._show(
                    lambda: self._screen.note("Stops after the page in progress. Ctrl-C again ends it at once.")
                )
            self._show(self._look)
        self._show(lambda: self._look(last=True))
        self._show(self._screen.close)

    def _look(self, *, last: bool = False) -> None:
        progress = self._job.progress()
        before = progress.rows - progress.rows_now
        if before and not self._told_before:
            self._told_before = True
            self._screen.note(f"Goes on where an earlier run was, after {counted(before, 'row')}.")
        self._screen.show(progress, last=last)

    def _show(self, act: Callable[[], None]) -> None:
        """A screen that cannot be written to any more, as of a terminal that was closed, ends no job."""
        try:
            act()
        except Exception:
            self._screen = _Nothing()


# -- showing ------------------------------------------------------------------------------------------------------


class Screen(Protocol):
    """Where it is shown how far a job is."""

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """Show it; called again and again, the last time with `last`."""
        ...

    def note(self, text: str) -> None:
        """Say something beside."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was. Idempotent."""
        ...


def make_screen(title: str, *, plain: bool, as_json: bool) -> Screen:
    """What suits stderr, and the options `--plain` and `--json`. `title` says what is done, such as "Backfill"."""
    if as_json:
        return _Nothing()
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if plain or not console.is_terminal or console.is_dumb_terminal:
        return _Lines()
    from zddm_flags.cli.live import LiveScreen

    return LiveScreen(title)


class _Nothing:
    """For programs that read the result."""

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """See `Screen.show`."""

    def note(self, text: str) -> None:
        """See `Screen.note`."""

    def close(self) -> None:
        """See `Screen.close`."""


class _Lines:
    """A line every 5 seconds, and one at the end."""

    def __init__(self) -> None:
        self._next = _LINE_SECONDS

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """See `Screen.show`."""
        if last or progress.seconds >= self._next:
            self._next = progress.seconds + _LINE_SECONDS
            parts = (rows_of(progress), counts_of(progress), pace_of(progress), waiting_of(progress))
            self.note("; ".join(part for part in parts if part))

    def note(self, text: str) -> None:
        """See `Screen.note`."""
        _hint(text)

    def close(self) -> None:
        """See `Screen.close`."""


def rows_of(progress: Progress) -> str:
    """How many rows, of about how many."""
    if progress.expected is None:
        return counted(progress.rows, "row")
    return f"{progress.rows:,} of about {counted(progress.expected, 'row')}"


def counts_of(progress: Progress) -> str:
    """What came of the rows."""
    counts = {name: number for name, number in progress.counts.items() if number and name not in _NO_OUTCOMES}
    return ", ".join(f"{number:,} {outcome(name)}" for name, number in counts.items())


_NO_OUTCOMES = {"rows", "keys"}


def pace_of(progress: Progress) -> str:
    """How fast it is, since when, and about how long it takes yet."""
    left = progress.seconds_left
    ahead = f", about {duration(left)} left" if left else ""
    return f"{progress.per_second:,.0f} rows/s, {duration(progress.seconds)}{ahead}"


def waiting_of(progress: Progress) -> str:
    """Why nothing happens at the moment."""
    return "" if progress.waiting is None else f"waits: {progress.waiting}"


def duration(seconds: float) -> str:
    """Seconds in words that fit them."""
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def percent(share: float) -> str:
    """A share as percent: never as all where it is not, nor as nothing."""
    rounded = f"{share * 100:.4g}"
    return f"{share * 100!r} %" if (rounded == "100") != (share == 1) else f"{rounded} %"


def _hint(text: str) -> None:
    """Say something on stderr, if anybody reads it."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)
