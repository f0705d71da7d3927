"""What `zddm status` tells, as text and as data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from zddm_flags.cli.jobs import duration, percent
from zddm_flags.cli.words import counted, outcome
from zddm_flags.gate import TrafficGate
from zddm_flags.results import JobStatus, MigrationStatus

__all__ = ["state_lines", "status_document", "verdict_lines", "wait_for_flag"]

_SILENT_SECONDS = 60.0
"""A job that runs saves a page, or says that it waits, far more often."""


def status_document(status: MigrationStatus) -> dict[str, Any]:
    """The whole, for a program."""
    return {
        "migration": status.name,
        "ready": status.ready,
        "reasons": list(status.reasons),
        "flag_key": status.flag_key,
        "read_rate": status.rollout.read,
        "write_rate": status.rollout.write,
        "opened": status.opened,
        "epoch": status.epoch,
        "stale": status.stale,
        "pending": status.pending,
        "oldest_pending_seconds": status.oldest_pending_seconds,
        "token_seconds": status.token_seconds,
        "reaped": status.reaped,
        "backfill": _job_document(status.backfill),
        "verify": _job_document(status.verify),
    }


def wait_for_flag(gate: TrafficGate, seconds: float = 2.0) -> None:
    """Wait until the flag is above 0, or so long: LaunchDarkly's client may not have had its answer yet."""
    give_up_at = time.monotonic() + seconds
    while gate.flag_key is not None and gate.write_rate == 0 and time.monotonic() < give_up_at:
        time.sleep(0.02)


def state_lines(status: MigrationStatus) -> Iterator[str]:
    """How far it is, for people."""
    yield f"Migration {status.name}"
    yield ""
    rates = f"reads {percent(status.rollout.read)}, writes {percent(status.rollout.write)}"
    flag = "a fixed rate, no flag" if status.flag_key is None else f"flag {status.flag_key}"
    yield _row("rate wanted", f"{rates}   ({flag})")
    yield _row("opened", f"{percent(status.opened)}   (the largest rate at which New was ever used)")
    yield _row("stale keys", f"{status.stale:,}" + ("   (served by Old)" if status.stale else ""))
    yield _row("in progress", _pending(status))
    yield _row("reaped", f"{counted(status.reaped, 'operation')}, ever: they crashed or took too long")
    yield from _job_lines("backfill", status.backfill)
    yield from _job_lines("verify", status.verify)


def verdict_lines(status: MigrationStatus) -> Iterator[str]:
    """Whether it is time to cut over, for people."""
    if status.ready:
        yield click.style("Ready to cut over.", bold=True, fg="green")
    else:
        yield click.style("Not ready to cut over:", bold=True, fg="red")
        yield from (f"  - {reason}" for reason in status.reasons)


def _pending(status: MigrationStatus) -> str:
    if status.oldest_pending_seconds is None:
        return "nothing"
    pending = counted(status.pending, "operation")
    oldest = duration(status.oldest_pending_seconds)
    return f"{pending}, the oldest for {oldest} (reaped after {duration(status.token_seconds)})"


def _job_lines(name: str, job: JobStatus | None) -> Iterator[str]:
    if job is None:
        yield _row(name, "never run")
        return
    heard = duration(job.saved_seconds_ago)
    rows = job.counts.get("rows", 0)
    looked_at = counted(rows, "key")
    if job.expected is not None and job.state != "finished":
        looked_at = f"{rows:,} of about {counted(job.expected, 'key')}"
    yield _row(name, f"{job.state}, last heard of {heard} ago: {looked_at} looked at")
    if job.state == "running" and job.saved_seconds_ago > _SILENT_SECONDS:
        yield _row("", "it waits, or its process has ended: then run it again, and it goes on where it was")
    rest = [f"{count:,} {outcome(what)}" for what, count in job.counts.items() if what != "rows" and count]
    if rest:
        yield _row("", ", ".join(rest))
    covered = job.result.get("covered")
    if isinstance(covered, (int, float)):
        yield _row("", f"covers {percent(covered)} of the keys")


def _job_document(job: JobStatus | None) -> dict[str, Any] | None:
    if job is None:
        return None
    return {
        "state": job.state,
        "seconds_ago": round(job.saved_seconds_ago, 3),
        "rows": job.counts.get("rows", 0),
        "expected": job.expected,
        "counts": dict(job.counts),
        "result": dict(job.result),
    }


def _row(name: str, text: str) -> str:
    return f"  {name:<13}{text}"
