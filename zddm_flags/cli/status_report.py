"""What `zddm status` tells: pure text and data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zddm_flags.cli.words import ago, counted, percent
from zddm_flags.results import JobStatus, MigrationStatus

__all__ = ["status_document", "status_lines", "status_verdict"]

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


def status_verdict(status: MigrationStatus) -> str:
    """Whether it is time to cut over, in a line."""
    return "Ready to cut over." if status.ready else "Not ready to cut over:"


def status_lines(status: MigrationStatus) -> Iterator[str]:
    """What goes before the verdict, for people."""
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


def _pending(status: MigrationStatus) -> str:
    if status.oldest_pending_seconds is None:
        return "nothing"
    pending = counted(status.pending, "operation")
    return f"{pending}, the oldest since {status.oldest_pending_seconds:.1f} s (reaped after {status.token_seconds:.0f} s)"


def _job_lines(name: str, job: JobStatus | None) -> Iterator[str]:
    if job is None:
        yield _row(name, "never run")
        return
    heard = ago(job.saved_seconds_ago)
    rows = job.counts.get("rows", 0)
    expected = f" of about {job.expected:,}" if job.expected is not None and job.state != "finished" else ""
    yield _row(name, f"{job.state}, last heard of {heard}: {rows:,}{expected} keys looked at")
    if job.state == "running" and job.saved_seconds_ago > _SILENT_SECONDS:
        yield _row("", "it waits, or its process has ended: then run it again, and it goes on where it was")
    rest = [f"{count:,} {_word(what)}" for what, count in job.counts.items() if what != "rows" and count]
    if rest:
        yield _row("", ", ".join(rest))
    covered = job.result.get("covered")
    if isinstance(covered, (int, float)):
        yield _row("", f"covers {percent(covered)} of the keys")


def _word(count: str) -> str:
    return {"not_opened": "missing above the opened rate", "stale": "known stale", "marked": "marked stale"}.get(
        count, count.replace("_", " ")
    )


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
