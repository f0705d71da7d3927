"""Ends servers whose director was killed: `python -m tests.torture.guard`.

It reads the servers' folders, one a line, until its standard input ends. Of a director that ended by itself none
is left by then. (The next session would stop leftovers too, but neither at once nor all: a process that was just
killed is there until its parent has looked at it, a server that was just launched has written no pid file yet, and
Valkey puts a title of its own in the place of its arguments.)
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

import psutil

STOP_SECONDS = 20


def main() -> None:
    """Wait, then end what is left."""
    for folder in sys.stdin.read().splitlines():
        if not Path(folder).exists():
            continue
        servers = [process for process in psutil.process_iter() if _works_in(process, folder)]
        for server in servers:
            with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's end with the first of them
                server.kill()
        psutil.wait_procs(servers, STOP_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _works_in(process: psutil.Process, folder: str) -> bool:
    """Whether it works in this folder, whose name is unlike any other, as both servers and their processes do."""
    try:
        return process.cwd().startswith(folder)
    except psutil.Error:
        return False


if __name__ == "__main__":
    main()
