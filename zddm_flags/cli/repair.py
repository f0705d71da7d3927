"""`zddm repair`."""

from __future__ import annotations

from typing import Any

import click

from zddm_flags.cli.jobs import (
    app_dir_option,
    json_option,
    page_size_option,
    patience_option,
    per_second_option,
    plain_option,
    target_argument,
)

__all__ = ["repair"]

_EPILOG = """
\b
Examples:
  zddm repair app.stores:users --dry-run
  zddm repair app.stores:users
  zddm repair app.stores:users --from-verify --delete-extra

\b
Exit codes:
  0    every key is right now; with --dry-run: there is nothing to do
  1    some keys were left: it says how many, and why; with --dry-run: there is something to do
  2    it could not run, or gave up because a store or the ledger failed
  130  it was stopped, by Ctrl-C or SIGTERM: run it again, and it does the rest
"""


@click.command(epilog=_EPILOG, short_help="Make right what is stale, or what a verify found.")
@target_argument
@click.option(
    "--from-verify",
    is_flag=True,
    help="Repair the differing keys that the last verify noted, and not those that are stale.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Repair the keys above the write rate too. From then on every write of such a key leaves it stale.",
)
@click.option(
    "--delete-extra",
    is_flag=True,
    help="Delete from New the keys that Old lacks. Without it they stay in New, as stale as they were.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, and tell what would be done.")
@per_second_option
@page_size_option
@patience_option
@app_dir_option
@plain_option
@json_option
def repair(
    target: str,
    from_verify: bool,
    everything: bool,
    delete_extra: bool,
    dry_run: bool,
    per_second: float | None,
    page_size: int,
    patience_seconds: float,
    app_dir: str,
    plain: bool,
    as_json: bool,
) -> int:
    """Copy stale keys from Old to New, so that New serves them again, while the application reads and writes.

    TARGET is module:attribute of the migration's proxy, or of a function that makes one. Its ledger must be one
    that processes share.

    A key is stale where New may not hold what Old does: it was written while New failed, or while the migration
    was killed. No newer write is ever overwritten.

    Safe to stop, to kill, and to run again: what is done is not stale any more.
    """
    from zddm_flags import AsyncProxy, AsyncRepair, Repair
    from zddm_flags.cli.jobs import CouldNotRun, explained, load_target, make_screen
    from zddm_flags.cli.results import tell_repair

    with load_target(target, app_dir) as loaded:
        if not dry_run:
            loaded.wait_for_write_rate()
        if from_verify:
            with explained():
                status = loaded.call(loaded.proxy.migration_status)
            if status.verify is None:
                raise CouldNotRun(f"no verify was run, so that none found anything: {loaded.command('verify')}")
        options: dict[str, Any] = {
            "found_by_verify": from_verify,
            "everything": everything,
            "delete_extra": delete_extra,
            "dry_run": dry_run,
            "page_size": page_size,
            "per_second": per_second,
            "patience_seconds": patience_seconds,
        }
        job: Repair[object, object] | AsyncRepair[object, object]
        if isinstance(loaded.proxy, AsyncProxy):
            job = AsyncRepair(loaded.proxy, **options)
        else:
            job = Repair(loaded.proxy, **options)
        screen = make_screen(f"Repair of {loaded.proxy.name}", plain=plain, as_json=as_json)
        if dry_run:
            screen.note("Changing nothing: what is counted is what would be done.")
        result = loaded.run_job(job, screen)
    return tell_repair(result, loaded, as_json=as_json)
