"""What the demo shows: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zddm_flags import ProxyStats
from zddm_flags.cli.jobs import counts_of, pace_of, rows_of, waiting_of
from zddm_flags.jobs import Progress

__all__ = ["Lines", "LiveTable", "Moment", "Screen", "keys_of", "percent"]

_EVENTS = 4  # all of it fits a terminal of 24 lines


_TRAFFIC = ("read", "write", "delete")


def keys_of(stats: ProxyStats) -> int:
    """How many keys the traffic asked for: what jobs did is not in it."""
    return sum(count for (operation, _), count in stats.operations.items() if operation in _TRAFFIC)


def percent(share: float) -> str:
    """A share as percent, with no digit more than it needs."""
    return f"{share * 100:.3g} %"


@dataclass(frozen=True, slots=True)
class Moment:
    """What there is to see at one moment; reads and rates are those since the moment before."""

    seconds: float
    phase: str
    stats: ProxyStats
    reads: int
    reads_on_old: int
    operations_per_second: float
    wrong: int
    job: Progress | None = None
    """How far the job is that goes on beside the traffic."""

    @property
    def share_on_old(self) -> float:
        """Of the reads since the moment before, those that Old served."""
        return self.reads_on_old / self.reads if self.reads else 1.0


class Screen(Protocol):
    """Where moments and log events go."""

    def show(self, moment: Moment) -> None:
        """Show a moment."""
        ...

    def phase(self, name: str) -> None:
        """Announce what is done to the rollout."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class Lines:
    """A line a second, and one for each phase and event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        _send_events_to(self._event)

    def _event(self, event: str, fields: Mapping[str, object]) -> None:
        self._console.print(f"           event: {_event_line(event, fields)}", markup=False, highlight=False)

    def phase(self, name: str) -> None:
        """See `Screen.phase`."""
        self._console.print(f"           {name}", markup=False, highlight=False)

    def show(self, moment: Moment) -> None:
        """See `Screen.show`."""
        if moment.seconds < self._next:
            return
        self._next = moment.seconds + 1.0
        if moment.job is not None:
            self.phase(f"{moment.phase}: {_job_line(moment.job)}")
        if not moment.reads:
            return  # the traffic has stopped
        self._console.print(
            f"{moment.seconds:6.1f} s   rate {percent(moment.stats.rollout.read):>6}   "
            f"{moment.operations_per_second:7,.0f} operations/s   reads on Old {moment.share_on_old:6.1%}   "
            f"stale keys {moment.stats.stale_keys:4}   wrong reads {moment.wrong}",
            markup=False,
            highlight=False,
        )

    def close(self) -> None:
        """See `Screen.close`."""
        _send_events_to(_nowhere)


class LiveTable:
    """A table that is drawn again four times a second."""

    def __init__(self, console: Console) -> None:
        self._events: deque[str] = deque(maxlen=_EVENTS)
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()
        _send_events_to(self._event)

    def _event(self, event: str, fields: Mapping[str, object]) -> None:
        self._events.append(_event_line(event, fields))

    def phase(self, name: str) -> None:
        """See `Screen.phase`."""
        self._events.append(name)

    def show(self, moment: Moment) -> None:
        """See `Screen.show`."""
        stats = moment.stats
        figures = Table.grid(padding=(0, 2))
        figures.add_column(min_width=28)
        figures.add_column(justify="right", min_width=10)
        figures.add_row("rate wanted by the flag", percent(stats.rollout.read))
        figures.add_row("widest rate ever open", percent(stats.opened))
        figures.add_row("operations a second", f"{moment.operations_per_second:,.0f}")
        figures.add_row("reads on Old", f"{moment.share_on_old:.1%}")
        figures.add_row("stale keys", str(stats.stale_keys))
        wrong = Text(str(moment.wrong), style="bold red" if moment.wrong else "bold green")
        figures.add_row("wrong reads", wrong)
        paths = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        paths.add_column("keys by path", min_width=28)
        for operation in _TRAFFIC:
            paths.add_column(operation, justify="right", min_width=9)
        for path in sorted({path for operation, path in stats.operations if operation in _TRAFFIC}):
            counts = (stats.operations.get((operation, path), 0) for operation in _TRAFFIC)
            paths.add_row(path, *(f"{count:,}" if count else "" for count in counts))
        title = Text(f"{moment.seconds:.0f} s · {moment.phase}", style="bold")
        shown = list(self._events)
        job: list[RenderableType] = []
        if moment.job is not None:
            bar = Table.grid(expand=True)  # without it the next line would go on where the bar ends
            bar.add_row(ProgressBar(total=moment.job.expected, completed=moment.job.rows))
            job = [bar, Text(_job_line(moment.job), no_wrap=True, overflow="ellipsis")]
            shown = shown[len(job) - _EVENTS :]
        events = Text("\n".join(shown), style="dim", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(title, *job, figures, paths, events))

    def close(self) -> None:
        """See `Screen.close`."""
        self._live.stop()
        _send_events_to(_nowhere)


def _job_line(progress: Progress) -> str:
    """How far a job is, in a line of which a narrow terminal cuts the end: what is looked at most comes first."""
    parts = (waiting_of(progress), pace_of(progress), rows_of(progress), counts_of(progress))
    return "; ".join(part for part in parts if part)


def _event_line(event: str, fields: Mapping[str, object]) -> str:
    return " ".join([event, *(f"{name}={value}" for name, value in fields.items() if name not in _DULL)])


_DULL = {"level", "migration", "flag_key", "trace_id", "span_id"}


class _Sink(Protocol):
    def __call__(self, event: str, fields: Mapping[str, object], /) -> None: ...


def _nowhere(event: str, fields: Mapping[str, object]) -> None:
    """What happens after the screen is closed is told by nobody."""


def _send_events_to(sink: _Sink) -> None:
    """The demo is the application here, so it may say where structlog's events go."""

    def deliver(_: object, __: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
        sink(str(fields.pop("event")), fields)
        raise structlog.DropEvent

    structlog.configure(processors=[deliver])
