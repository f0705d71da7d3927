"""`zddm backfill`."""

from __future__ import annotations

import click

from zddm_flags.cli.executors import dask_option, processes_option
from zddm_flags.cli.jobs import (
    app_dir_option,
    json_option,
    page_size_option,
    parts_option,
    patience_option,
    per_second_option,
    plain_option,
    restart_option,
    target_argument,
    workers_option,
)

__all__ = ["backfill"]

_EPILOG = """
\b
Examples:
  zddm backfill app.stores:users
  zddm backfill app.stores:users --per-second 500 --workers 4

\b
Exit codes:
  0    every key that it covers is in New
  1    it came to the end, and some keys were left: it says how many, and why
  2    it could not run, or gave up because a store or the ledger failed
  130  it was stopped, by Ctrl-C or SIGTERM: run it again, and it goes on
"""


@click.command(epilog=_EPILOG, short_help="Copy the keys that no traffic touches.")
@target_argument
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Cover the keys above the write rate too. From then on every write of such a key leaves it stale, so "
    "that Old serves it, until the write rate covers it: raise the write rate first where you can.",
)
@per_second_option
@workers_option
@page_size_option
@parts_option
@restart_option
@processes_option
@dask_option
@patience_option
@app_dir_option
@plain_option
@json_option
def backfill(
    target: str,
    everything: bool,
    per_second: float | None,
    workers: int,
    page_size: int,
    parts: int | None,
    restart: bool,
    processes: bool,
    dask: str | None,
    patience_seconds: float,
    app_dir: str,
    plain: bool,
    as_json: bool,
) -> int:
    """Copy every key of Old into New that is not there yet, while the application reads and writes.

    TARGET is module:attribute of the migration's proxy, or of a function that makes one. Its ledger must be one
    that processes share.

    Covered are the keys below the flag's write rate. It waits while the flag is killed, and slows down as the JSON
    flag's backfill_per_second says. No newer write is ever overwritten.

    Safe to stop, to kill, and to run again: after each page the ledger has a checkpoint, from which the same
    command goes on. Run it once more after the write rate was raised.
    """
    from zddm_flags import AsyncBackfill, AsyncProxy, Backfill
    from zddm_flags.cli.executors import made_executor
    from zddm_flags.cli.jobs import load_target, make_screen
    from zddm_flags.cli.results import tell_backfill
    from zddm_flags.jobs import JobOptions

    with (
        made_executor(workers, app_dir, processes=processes, dask=dask) as executor,
        load_target(target, app_dir) as loaded,
    ):
        loaded.wait_for_write_rate()
        options: JobOptions = {
            "workers": workers,
            "page_size": page_size,
            "parts": parts,
            "per_second": per_second,
            "patience_seconds": patience_seconds,
            "restart": restart,
            "executor": executor,
            "target": target,
        }
        job: Backfill[object, object] | AsyncBackfill[object, object]
        if isinstance(loaded.proxy, AsyncProxy):
            job = AsyncBackfill(loaded.proxy, everything=everything, **options)
        else:
            job = Backfill(loaded.proxy, everything=everything, **options)
        screen = make_screen(f"Backfill of {loaded.proxy.name}", plain=plain, as_json=as_json)
        screen.note(_covers(loaded.rate_source, loaded.proxy.gate.write_rate, everything=everything))
        result = loaded.run_job(job, screen)
    return tell_backfill(result, loaded, as_json=as_json)


def _covers(source: str, write_rate: float, *, everything: bool) -> str:
    from zddm_flags.cli.jobs import percent

    wanted = f"{source[0].upper()}{source[1:]} writes {percent(write_rate)} of the keys to New"
    if write_rate >= 1:
        return f"{wanted}: this backfill covers all."
    if everything:
        return (
            f"{wanted}: this backfill covers the others too (--all), and each of those is stale from its next "
            "write on, until the write rate covers it."
        )
    return f"{wanted}: this backfill covers these. Raise the write rate, or give --all."
