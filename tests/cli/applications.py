"""Applications for the tests of the commands: a blocking and an asyncio one, over the same SQLite files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_COMMON = """
import asyncio, os, pathlib, time
from sqlalchemy import CheckConstraint, Column, MetaData, String, Table, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from zddm_adapters.sqlalchemy import AsyncSqlAlchemyAdapter, AsyncSqlAlchemyLedger
from zddm_adapters.sqlalchemy import SqlAlchemyAdapter, SqlAlchemyLedger
from zddm_flags import AsyncProxy, Proxy, TrafficGate

print("the application prints")
FOLDER = pathlib.Path(__file__).parent
RATE = float(os.environ.get("RATE", "1"))
USERS = Table("users", MetaData(), Column("id", String, primary_key=True), Column("name", String, nullable=False))
SHORT = {"max_operation_seconds": 4.0, "max_call_seconds": 2.0}  # what a killed process leaves is soon reaped
"""
BLOCKING = (
    _COMMON
    + """
def engine(name, **options):
    return create_engine(
        f"sqlite:///{FOLDER}/{name}.db", hide_parameters=True, connect_args={"timeout": 30}, **options
    )

class Old(SqlAlchemyAdapter):
    def scan(self, *arguments):
        while (FOLDER / "hang").exists():
            (FOLDER / "hanging").touch()
            time.sleep(60)
        return super().scan(*arguments)

def proxy():
    ledger = SqlAlchemyLedger(engine("ledger", isolation_level="AUTOCOMMIT"))
    new = SqlAlchemyAdapter(engine("new"), USERS, value="name")
    old = Old(engine("old"), USERS, value="name")
    return Proxy(TrafficGate(RATE), old, new, name="users", ledger=ledger, **SHORT)

def disabled():
    made = proxy()
    made.disable()
    return made

made = proxy()
"""
)
ASYNCIO = (
    _COMMON
    + """
def engine(name, **options):
    return create_async_engine(
        f"sqlite+aiosqlite:///{FOLDER}/{name}.db", hide_parameters=True, connect_args={"timeout": 30}, **options
    )

class Old(AsyncSqlAlchemyAdapter):
    async def scan(self, *arguments):
        while (FOLDER / "hang").exists():
            (FOLDER / "hanging").touch()
            await asyncio.sleep(60)
        return await super().scan(*arguments)

def proxy():
    ledger = AsyncSqlAlchemyLedger(engine("ledger", isolation_level="AUTOCOMMIT"))
    new = AsyncSqlAlchemyAdapter(engine("new"), USERS, value="name")
    old = Old(engine("old"), USERS, value="name")
    return AsyncProxy(TrafficGate(RATE), old, new, name="users", ledger=ledger, **SHORT)

def disabled():
    made = proxy()
    made.disable()
    return made

made = proxy()
"""
)


class Application:
    """A folder with the module `app`, and the SQLite files of its stores: Old has `rows` users."""

    def __init__(self, folder: Path, world: str, rows: int = 300) -> None:
        self.folder = folder
        (folder / "app.py").write_text(BLOCKING if world == "blocking" else ASYNCIO)
        (folder / "helper.py").write_text(BLOCKING)
        for name in ("old", "new"):
            self.sql(name, "CREATE TABLE users (id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL)")
        self.fill(rows)

    def fill(self, rows: int) -> None:
        """Put users into Old, behind the proxy's back."""
        with contextlib.closing(sqlite3.connect(self.folder / "old.db")) as connection, connection:
            names = [(f"secret-key-{row}", f"secret-value-{row}") for row in range(rows)]
            connection.executemany("INSERT OR REPLACE INTO users VALUES (?, ?)", names)

    def let_new_refuse(self, *names: str) -> None:
        """Let New, which is empty, take no such names."""
        refused = ", ".join(f"'{name}'" for name in names)
        self.sql("new", "DROP TABLE users")
        self.sql(
            "new",
            f"CREATE TABLE users (id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL CHECK (name NOT IN ({refused})))",
        )

    def sql(self, store: str, statement: str) -> list[Any]:
        """Execute a statement in a store, behind the proxy's back."""
        with (
            contextlib.closing(sqlite3.connect(self.folder / f"{store}.db", timeout=30)) as connection,
            connection,
        ):
            return connection.execute(statement).fetchall()

    def users(self, store: str) -> dict[str, str]:
        """What a store holds."""
        return dict(self.sql(store, "SELECT id, name FROM users"))

    def python(self, code: str, rate: float = 1.0) -> None:
        """Run Python in which `helper` is the blocking application."""
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(self.folder)!r}); import helper\n{code}"],
            check=True,
            timeout=60,
            env={**os.environ, "RATE": str(rate)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def command(self, *arguments: str) -> list[str]:
        """A command line of `zddm`."""
        name, *others = arguments
        return [sys.executable, "-m", "zddm_flags", name, "app:proxy", "--app-dir", str(self.folder), *others]

    def run(self, *arguments: str, rate: float = 1.0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command without a terminal. Nothing that it says holds a key or a value."""
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=self.environment(rate, environment),
        )
        check_output(done.stdout + done.stderr)
        return done

    def environment(self, rate: float = 1.0, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Of a process of `zddm`."""
        return {**os.environ, "RATE": str(rate), "COLUMNS": "200", **(more or {})}

    @contextlib.contextmanager
    def started(self, *arguments: str, rate: float = 1.0) -> Iterator[subprocess.Popen[str]]:
        """A command that runs without a terminal, and is killed at the end if it still does."""
        process = subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(rate),
            start_new_session=True,
            preexec_fn=_with_interrupts,  # noqa: PLW1509 - there are no threads here yet
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def on_terminal(self, *arguments: str, columns: int = 100, rate: float = 1.0, **more: str) -> tuple[int, str]:
        """Run a command on a pseudo-terminal; returns its exit code, and all that it showed."""
        controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**self.environment(rate), "TERM": "xterm-256color", **more}
        del environment["COLUMNS"]
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=environment,
            start_new_session=True,
        )
        os.close(terminal)
        try:
            shown = _everything(controller, 60)
            code = process.wait(30)
        finally:
            process.kill()
            process.wait()
            os.close(controller)
        check_output(shown)
        return code, shown


def check_output(shown: str) -> None:
    """No key, no value, no traceback."""
    assert "secret" not in shown
    assert "Traceback" not in shown


def until(condition: Any, seconds: float = 30.0) -> None:
    """Wait until something is so that no event tells of."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


def _with_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell's; a test's parent may ignore it


def _everything(descriptor: int, seconds: float) -> str:
    seen = b""
    deadline = time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"it did not end: {seen[-2000:]!r}"
        try:
            data = os.read(descriptor, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # with which Linux ends a pseudo-terminal
                raise
            data = b""
        if not data:
            return seen.decode(errors="replace")
        seen += data
