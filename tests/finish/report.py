"""What a run came to, as a table and as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.finish.processes import Life
from tests.finish.run import Result

__all__ = ["facts", "table"]

MIB = 2**20


def facts(result: Result) -> dict[str, Any]:
    """The figures."""
    bare = sum(result.copies) / len(result.copies)
    alone, verified = result.undisturbed, result.verified
    seconds = sum(life.seconds for life in result.lives)
    stalled = sum(life.stalled_seconds for life in result.lives)
    done = result.lives[-1].result.get("rows", 0) if result.lives else 0
    undisturbed = _per_second(alone.result.get("rows", 0), alone.seconds)
    working = _per_second(done, seconds - stalled)
    return {
        "pair": result.pair,
        "rows": result.rows,
        "bare_per_second": result.copies,
        "backfill_per_second": undisturbed,
        "ratio": undisturbed / bare,
        "shares": _shares(alone),
        "cpu_seconds": alone.cpu_seconds,
        "memory_at_a_tenth": next((memory for rows, memory in alone.memory if rows >= result.rows / 10), 0),
        "memory_at_the_end": alone.memory[-1][1] if alone.memory else 0,
        "live": {
            "writes_per_second": result.writes_per_second,
            "writes": result.operations,
            "kills": sum(life.killed for life in result.lives),
            "backfill_per_second": working,
            "ratio": working / bare,
            "seconds": seconds,
            "stalled_seconds": stalled,
            "cpu_seconds": sum(life.cpu_seconds for life in result.lives),
            "memory_peak": max((memory for life in result.lives for _, memory in life.memory), default=0),
            "copied_twice": result.again,
            "repaired": result.repaired.keys if result.repaired is not None else 0,
            "verify_per_second": _per_second(verified.compared, verified.seconds) if verified is not None else 0.0,
        },
        "bare_compare_per_second": result.compare,
        "verify_per_second": _per_second(
            result.undisturbed_verify.result.get("rows", 0), result.undisturbed_verify.seconds
        ),
        "verify_shares": _shares(result.undisturbed_verify),
        "reasons": result.reasons,
        "violations": result.violations,
    }


def table(figures: Mapping[str, Any]) -> str:
    """The same, to be read."""
    live = figures["live"]
    first, last = figures["bare_per_second"]
    lines = [
        (f"{figures['pair']}, {figures['rows']:,} rows", ""),
        ("bare loop, before and after", f"{first:,.0f} and {last:,.0f} rows/s"),
        ("backfill, undisturbed", f"{figures['backfill_per_second']:,.0f} rows/s"),
        ("  ratio to the bare loop", f"{figures['ratio']:.2f}"),
        *((f"  {name}", f"{share:.1%}") for name, share in figures["shares"].items() if share >= 0.005),
        ("  CPU of this process", f"{figures['cpu_seconds']:.1f} s"),
        ("  memory at 10 % of the rows", _mib(figures["memory_at_a_tenth"])),
        ("  memory at the end", _mib(figures["memory_at_the_end"])),
        (f"backfill under {live['writes_per_second']:.0f} writes/s", f"{live['backfill_per_second']:,.0f} rows/s"),
        ("  ratio to the bare loop", f"{live['ratio']:.2f}"),
        ("  killed", f"{live['kills']} times"),
        ("  keys copied twice", f"{live['copied_twice']:,}"),
        ("  seconds, and those for reaping", f"{live['seconds']:.1f}, {live['stalled_seconds']:.1f}"),
        ("  CPU of these processes", f"{live['cpu_seconds']:.1f} s"),
        ("  memory, at most", _mib(live["memory_peak"])),
        ("  stale keys repaired", f"{live['repaired']:,}"),
        ("bare loop that compares", f"{figures['bare_compare_per_second']:,.0f} rows/s"),
        ("verify, undisturbed", f"{figures['verify_per_second']:,.0f} rows/s"),
        ("  ratio to the bare loop", f"{figures['verify_per_second'] / figures['bare_compare_per_second']:.2f}"),
        *((f"  {name}", f"{share:.1%}") for name, share in figures["verify_shares"].items() if share >= 0.005),
        ("verify under live writes", f"{live['verify_per_second']:,.0f} rows/s"),
        ("time to cut over", "no" if figures["reasons"] else "yes"),
    ]  # fmt: skip
    text = "\n".join(f"  {name:36}{value:>24}".rstrip() for name, value in lines)
    return text + "".join(f"\n  VIOLATION {each}" for each in figures["violations"])


def _per_second(rows: int, seconds: float) -> float:
    return rows / seconds if seconds > 0 else 0.0


def _shares(life: Life) -> dict[str, float]:
    """What part of its time each call took; what is left is Python between them."""
    shares = {name: seconds / life.seconds for name, seconds in life.shares.items()} if life.seconds else {}
    return {**shares, "the library itself": 1 - sum(shares.values())}


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
