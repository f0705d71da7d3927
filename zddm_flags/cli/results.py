"""What the results of backfill and repair are in words, and in exit codes."""

from __future__ import annotations

from dataclasses import asdict

from zddm_flags.cli.jobs import INTERRUPTED, LoadedTarget, again, duration, percent
from zddm_flags.cli.words import counted
from zddm_flags.ledger import MAX_KEY_BYTES
from zddm_flags.results import BackfillResult, RepairResult

__all__ = ["tell_backfill", "tell_repair"]


def tell_backfill(result: BackfillResult, loaded: LoadedTarget, *, as_json: bool) -> int:
    """Print what a backfill did, and return the exit code."""
    lines = _backfill_lines(result, loaded)
    loaded.tell(lines, {"job": "backfill", **asdict(result), "complete": result.complete}, as_json=as_json)
    return _exit_code(finished=result.finished, complete=result.complete)


def tell_repair(result: RepairResult, loaded: LoadedTarget, *, as_json: bool) -> int:
    """Print what a repair did, or would do, and return the exit code."""
    complete = result.finished and not result.keys if result.dry_run else result.complete
    lines = _dry_run_lines(result) if result.dry_run else _repair_lines(result, loaded)
    loaded.tell(lines, {"job": "repair", **asdict(result), "complete": complete}, as_json=as_json)
    return _exit_code(finished=result.finished, complete=complete)


def _exit_code(*, finished: bool, complete: bool) -> int:
    if not finished:
        return INTERRUPTED
    return 0 if complete else 1


def _backfill_lines(result: BackfillResult, loaded: LoadedTarget) -> list[str]:
    counts = _counts(
        (result.copied, "copied"),
        (result.present, "in New already"),
        (result.absent, "deleted meanwhile"),
        (result.not_covered, "not covered"),
    )
    if not result.finished:
        return [f"Stopped after {counted(result.rows, 'row')}{counts}. Go on with: {again()}"]
    resumed = ", going on from where an earlier one was" if result.resumed else ""
    lines = [f"Backfilled {counted(result.rows, 'row')} in {duration(result.seconds)}{resumed}{counts}."]
    lines += _left(
        (result.refused, "refused by New, and stale, so that Old serves what it has"),
        (result.pending, "left, for operations went on for too long, or New failed: Old serves what it has"),
        (
            result.too_long,
            f"too long for a ledger (over {MAX_KEY_BYTES} bytes), and in Old only, whatever is run",
        ),
    )
    if result.refused or result.pending:
        lines.append(f"See why (the events that New failed say so), then: {loaded.command('repair')}")
    if result.not_covered:
        lines.append(
            f"Covered are {percent(result.covered)} of the keys: raise the write rate, and run this again for the "
            "others."
        )
    else:
        lines.append(f"Next, compare the stores: {loaded.command('verify')}")
    return lines


def _repair_lines(result: RepairResult, loaded: LoadedTarget) -> list[str]:
    counts = _counts(
        (result.copied, "copied"), (result.deleted, "deleted from New"), (result.absent, "in neither store")
    )
    if not result.finished:
        return [f"Stopped after {counted(result.keys, 'row')}{counts}. Do the rest with: {again()}"]
    if not result.keys:
        return ["There was nothing to repair."]
    lines = [
        f"Repaired {counted(result.keys - _not_repaired(result), 'row')} in {duration(result.seconds)}{counts}."
    ]
    lines += _left(
        (result.extra, "left in New, though not in Old: run this again with --delete-extra"),
        (result.not_covered, "left, above the write rate: raise it, or give --all"),
        (result.refused, "refused by New, and stale, so that Old serves what it has: see why, and run this again"),
        (result.pending, "left, for operations went on for too long, or New failed: run this again"),
        (result.not_found, "in neither store, and stale all the same"),
    )
    if result.complete:
        lines.append(f"Next, compare the stores: {loaded.command('verify')}")
    return lines


def _not_repaired(result: RepairResult) -> int:
    return result.extra + result.not_covered + result.refused + result.pending + result.not_found


def _dry_run_lines(result: RepairResult) -> list[str]:
    if not result.finished:
        return [f"Stopped after {counted(result.keys, 'row')}. Nothing was changed."]
    if not result.keys:
        return ["There is nothing to do."]
    would = _counts(
        (result.copied, "would be copied"),
        (result.deleted, "would be deleted from New"),
        (result.extra, "in New only, to stay there without --delete-extra"),
        (result.not_covered, "above the write rate, to be left without --all"),
        (result.absent + result.not_found, "in neither store"),
    )
    return [f"{counted(result.keys, 'row')} to repair{would}.", "Nothing was changed: run it without --dry-run."]


def _counts(*counts: tuple[int, str]) -> str:
    told = ", ".join(f"{number:,} {what}" for number, what in counts if number)
    return f": {told}" if told else ""


def _left(*counts: tuple[int, str]) -> list[str]:
    return [f"  {number:,} {what}." for number, what in counts if number]
