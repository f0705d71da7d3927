"""A process with migrations that are well until it reads `begin` on its standard input; then each has an incident.

Arguments: the port to serve metrics at, the folder for a ledger's file, and whether this is the first process.
"""

import contextlib
import logging
import sys
import threading
from pathlib import Path

import structlog
from ldclient import Context
from sqlalchemy import create_engine, text

from examples.prometheus.app import serve_metrics
from zddm_adapters import InMemoryAdapter
from zddm_adapters.sqlalchemy import SqlAlchemyLedger
from zddm_flags import Backfill, Copies, LaunchDarklySource, NotApplied, Proxy, Shadow, TrafficGate
from zddm_flags._sync import watch
from zddm_flags.testing import FlagServer

KEYS = [f"user-{number}" for number in range(40)]
PAUSE_SECONDS = 0.05


class New(InMemoryAdapter[str, str]):
    """A store that raises, or refuses writes, from a moment on."""

    trouble: Exception | None = None

    def read(self, key: str) -> str | None:
        if isinstance(self.trouble, OSError):
            raise self.trouble
        return super().read(key)

    def write(self, key: str, value: str) -> None:
        if self.trouble is not None:
            raise self.trouble
        super().write(key, value)

    write_many = None  # type: ignore[assignment]  # else its batches would not raise


class Incidents:
    """Migrations by name, and what befalls each of them."""

    def __init__(self, folder: Path, *, first: bool) -> None:
        self._folder = folder
        self._first = first
        self.proxies: dict[str, Proxy[str, str]] = {}
        self.gates: dict[str, TrafficGate] = {}
        self.news: dict[str, New] = {}
        self.engines = {}
        self.flags = FlagServer({"users-migration-rate": 1})
        source = LaunchDarklySource(
            self.flags.client(), "users-migration-rate", Context.builder("users").kind("service").build()
        )
        self._make("well", 1.0, shadow=Shadow(share=0.2), copy="inline")
        self._make("failing", 1.0)
        self._make("stale", 1.0, ledger=self._ledger("stale"), guard=None)
        self._make("staying", 0.0, copy="off")
        self._make("disconnected", source)
        self._make("disagreeing", 0.5)
        self._make("ledgerless", 1.0, ledger=self._ledger("ledgerless"))
        self._make("differing", 1.0, shadow=Shadow(share=1.0))
        self._make("disabled", 1.0)
        self._make("dropping", 0.0, copy=Copies(mode="background", max_keys=1, per_second=1))
        for name in ("well", "failing", "stale", "differing"):
            Backfill(self.proxies[name]).run()

    def _make(self, name: str, rate: object, **options: object) -> None:
        gate = TrafficGate(rate)  # type: ignore[arg-type]  # a number or a source
        new = New()
        old = InMemoryAdapter(dict.fromkeys(KEYS, "v1"))
        self.gates[name], self.news[name] = gate, new
        self.proxies[name] = Proxy(gate, old, new, name=name, **options)  # type: ignore[arg-type]  # by name

    def _ledger(self, name: str) -> SqlAlchemyLedger:
        engine = create_engine(f"sqlite:///{self._folder / name}-{self._first}.db", isolation_level="AUTOCOMMIT")
        self.engines[name] = engine
        ledger = SqlAlchemyLedger(engine)
        ledger.create_tables()
        return ledger

    def begin(self) -> None:
        self.news["failing"].trouble = ConnectionError()
        self.news["stale"].trouble = NotApplied()
        self.gates["staying"].set_rate(0.5)
        self.gates["dropping"].set_rate(1.0)
        self.flags.close()
        if self._first:
            self.gates["disagreeing"].set_rate(0.25)
        with self.engines["ledgerless"].connect() as connection:
            for table in connection.execute(
                text("SELECT name FROM sqlite_master WHERE type = 'table'")
            ).fetchall():
                connection.execute(text(f"DROP TABLE {table[0]}"))
        for key in KEYS:
            InMemoryAdapter.write(self.news["differing"], key, "by nobody")
        self.proxies["disabled"].disable()

    def traffic(self, number: int) -> None:
        """What callers do: reads of every key now and then, and a write of a key that nobody wrote yet."""
        for proxy in self.proxies.values():
            with contextlib.suppress(Exception):  # as a caller bears it
                proxy.read_many(KEYS[number % 4 :: 4])
            with contextlib.suppress(Exception):
                proxy.read(KEYS[number % len(KEYS)])
            with contextlib.suppress(Exception):
                proxy.write_many({f"{number}-{each}": "v1" for each in range(10)})


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    watch.WATCH_SECONDS = 0.2
    serve_metrics(int(sys.argv[1]))
    incidents = Incidents(Path(sys.argv[2]), first=sys.argv[3] == "first")
    ended = threading.Event()

    def serve() -> None:
        number = 0
        while not ended.wait(PAUSE_SECONDS):
            incidents.traffic(number)
            number += 1

    thread = threading.Thread(target=serve)
    thread.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip() == "begin":
            incidents.begin()
            sys.stdout.write("begun\n")
            sys.stdout.flush()
    ended.set()
    thread.join()


if __name__ == "__main__":
    main()
