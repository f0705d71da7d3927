"""A command on a pseudo-terminal that is typed to."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Self

INTERRUPT = "\x03"


class Terminal:
    """Runs a command that has a terminal of its own, so that Ctrl-C typed there reaches it."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = 120, rows: int = 40
    ) -> None:
        self._controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - there are no threads here yet
        )
        os.close(terminal)
        self.shown = ""

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._controller, text.encode())

    def until(self, text: str, seconds: float = 40.0) -> str:
        """All that it showed since the last call, up to and with `text`."""
        at = 0
        deadline = time.monotonic() + seconds
        while (at := self.shown.find(text)) < 0:
            assert self._read(deadline), f"{text!r} was not shown: {self.shown[-2000:]!r}"
        at += len(text)
        seen, self.shown = self.shown[:at], self.shown[at:]
        return seen

    def end(self, seconds: float = 40.0) -> tuple[int, str]:
        """The exit code, and the rest that it showed."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(seconds), self.shown

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._controller], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing came: {self.shown[-2000:]!r}"
        try:
            data = os.read(self._controller, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # with which Linux ends a pseudo-terminal
                raise
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._controller)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell's; a test's parent may ignore it
