"""How long a benchmark takes, and where its servers are. Handed to the processes that measure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LONG", "NORMAL", "QUICK", "Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured."""

    turns: int = 15
    """Turns of each side in each process."""
    turn_seconds: float = 0.005
    """How long one side is timed in its turn, at least."""
    servers_turn_seconds: float = 0.010
    """The same where servers are called, whose processes and the measured one wait for each other."""
    processes: int = 2
    """Processes, one after the other, that the single-thread timings are repeated in."""
    window_seconds: float = 0.15
    """How long each side is under load in its turn, where there are threads or tasks."""
    window_turns: int = 4
    kills: int = 200
    cpu_kills: int = 40
    """Kills under load that saturates a processor."""
    operations: int = 1_000_000
    """Operations, each on a key of its own, during which the memory is looked at."""
    hashes: int = 10_000_000
    """Keys that the gate's fairness is measured on."""
    rows: int = 20_000
    """Rows of a backfill."""
    stalled_turns: int = 3
    stalled_seconds: float = 0.5
    at_once: int = 1
    """Benchmarks that run beside each other, which is for seeing that they work alone."""
    postgresql: str = ""
    """The URL of a database, by TCP."""
    valkey: int = 0
    """The port of a server."""
    valkey_database: int = 0


NORMAL = Settings()
LONG = Settings(
    turns=40,
    processes=4,
    window_turns=10,
    operations=10_000_000,
    hashes=100_000_000,
    rows=200_000,
    stalled_turns=7,
    stalled_seconds=2.0,
)
QUICK = Settings(
    turns=2,
    turn_seconds=0.0005,
    servers_turn_seconds=0.0005,
    processes=1,
    window_seconds=0.01,
    window_turns=1,
    kills=3,
    cpu_kills=2,
    operations=20_000,
    hashes=100_000,
    rows=1000,
    stalled_turns=1,
    stalled_seconds=0.5,
    at_once=4,
)
