"""How far a job is, on a terminal: drawn again and again."""

from __future__ import annotations

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zddm_flags.cli.jobs import counts_of, pace_of, rows_of, waiting_of
from zddm_flags.jobs import Progress

__all__ = ["LiveScreen"]


class LiveScreen:
    """A bar and the figures, on stderr, in as many columns as there are."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = _Console(stderr=True, highlight=False)
        # Nothing but `show` draws, so that a terminal that is closed is noticed in one place.
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """See `Screen.show`."""
        del last
        bar = Table.grid(expand=True)  # without it the next line would go on where the bar ends
        bar.add_row(ProgressBar(total=progress.expected, completed=progress.rows))
        self._live.update(
            Group(
                _line(self._title, "bold"),
                bar,
                _line(rows_of(progress), ""),
                _line(counts_of(progress), ""),
                _line(pace_of(progress), "dim"),
                _line(waiting_of(progress), "yellow"),
            ),
            refresh=True,
        )

    def note(self, text: str) -> None:
        """See `Screen.note`."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """See `Screen.close`."""
        self._live.stop()


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


class _Console(Console):
    """Rich ends the process where a pipe is closed; here it is the screen that ends."""

    def on_broken_pipe(self) -> None:
        """Called in an except clause: the error goes on."""
        raise  # noqa: PLE0704 - see above
