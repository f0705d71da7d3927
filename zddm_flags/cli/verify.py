"""`zddm verify`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from zddm_flags.cli.executors import dask_option, processes_option
from zddm_flags.cli.jobs import (
    CouldNotRun,
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
from zddm_flags.cli.verify_options import report_file, share

__all__ = ["verify"]

_EPILOG = """
\b
Examples:
  zddm verify app.stores:users
  zddm verify app.stores:users --ignore seen_at --time-tolerance 0.001
  zddm verify app.stores:users --sample 1% --report verify.json

\b
Exit codes:
  0    equal, as far as it was to be looked at
  1    keys differ
  2    it could not run, or could not compare some keys: it says what to do
  130  it was stopped, by Ctrl-C or SIGTERM: run it again, and it goes on
"""


@click.command(epilog=_EPILOG, short_help="Compare every key of Old with New.")
@target_argument
@click.option(
    "--ignore",
    multiple=True,
    metavar="FIELD",
    help='Do not compare this field, as "seen_at", or "meta.seen_at" within a field. May be given again.',
)
@click.option(
    "--float-tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    default=0.0,
    help="A float equals a number that differs from it by at most X.  [default: 0]",
)
@click.option(
    "--time-tolerance",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=0.0,
    help="A time equals one that is at most so far away.  [default: 0]",
)
@click.option(
    "--equal",
    metavar="MODULE:FUNCTION",
    help="Compare by this function of the two values, Old's and New's, and by no rule of the library.",
)
@click.option(
    "--sample",
    metavar="SHARE",
    default="1",
    callback=share,
    help="Compare this share of the keys, as 0.1 or 10%, chosen by their hash.  [default: all]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Compare so many keys of Old at most, and do not look for keys that only New has.",
)
@click.option("--only-keys", is_flag=True, help="Compare which keys there are, and not their values.")
@click.option(
    "--no-mark",
    is_flag=True,
    help="Leave it at telling. Without this, keys of which New holds what Old does not become stale, so that Old "
    "serves them.",
)
@click.option(
    "--first",
    type=click.IntRange(min=0),
    metavar="N",
    default=20,
    show_default=True,
    help="Tell so many of the differing keys.",
)
@click.option(
    "--show-keys",
    is_flag=True,
    help="Tell the keys themselves, and not their hashes alone. They may be personal data.",
)
@click.option(
    "--report",
    metavar="FILE",
    callback=report_file,
    help="Write the result as JSON to this file too, which only you may read.",
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
def verify(
    target: str,
    ignore: tuple[str, ...],
    float_tolerance: float,
    time_tolerance: float,
    equal: str | None,
    sample: float,
    limit: int | None,
    only_keys: bool,
    no_mark: bool,
    first: int,
    show_keys: bool,
    report: Path | None,
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
    """Compare every key of Old with New, and look for keys that only New has, while the application goes on.

    TARGET is module:attribute of the migration's proxy, or of a function that makes one. Its ledger must be one
    that processes share.

    Live traffic gives no false alarm: each difference is confirmed under a token. It writes to neither store, and
    reads New whatever the flag's rate is.

    It tells how many keys are changed, missing or extra in New, in which fields, and by which command they are
    repaired. Keys are told by their hashes: what spans show as zddm.key.hash.

    Safe to stop, to kill, and to run again: after each page the ledger has a checkpoint, from which the same
    command goes on.
    """
    from zddm_flags import AsyncProxy, AsyncVerify, Verify
    from zddm_flags.cli.executors import made_executor
    from zddm_flags.cli.jobs import again, load_target, make_screen
    from zddm_flags.cli.verify_options import write_report
    from zddm_flags.cli.verify_report import VerifyReport

    with (
        made_executor(workers, app_dir, processes=processes, dask=dask) as executor,
        load_target(target, app_dir) as loaded,
    ):
        options: dict[str, Any] = {
            "comparison": _comparison(equal, ignore, float_tolerance, time_tolerance),
            "sample": sample,
            "limit": limit,
            "keys_only": only_keys,
            "mark": not no_mark,
            "workers": workers,
            "page_size": page_size,
            "parts": parts,
            "per_second": per_second,
            "patience_seconds": patience_seconds,
            "restart": restart,
            "executor": executor,
            "target": target,
        }
        proxy = loaded.proxy
        job: Verify[object, object] | AsyncVerify[object, object]
        job = AsyncVerify(proxy, **options) if isinstance(proxy, AsyncProxy) else Verify(proxy, **options)
        result = loaded.run_job(job, make_screen(f"Verify of {proxy.name}", plain=plain, as_json=as_json))
    told = VerifyReport(
        migration=proxy.name,
        arguments=loaded.arguments,
        again=again(),
        result=result,
        sample=sample,
        limit=limit,
        only_keys=only_keys,
        mark=not no_mark,
        first=first,
        key_of=proxy.gate.key_of if show_keys else None,
    )
    verdict = click.style(told.verdict, bold=True, fg="green" if told.exit_code == 0 else "red")
    loaded.tell([verdict, "", *told.lines()], told.document, as_json=as_json)
    if report is not None:
        try:
            write_report(report, told.document)
        except OSError as error:
            raise CouldNotRun(f"the report was not written to {report}: {error.strerror}") from error
    return told.exit_code


def _comparison(equal: str | None, ignore: tuple[str, ...], float_tolerance: float, time_tolerance: float) -> Any:
    from zddm_flags import Comparison

    function = None if equal is None else _function(equal)
    try:
        return Comparison(
            equal=function, ignore=ignore, float_tolerance=float_tolerance, time_tolerance=time_tolerance
        )
    except TypeError as error:
        raise click.UsageError(f"--equal {equal}: it is no plain function of two values") from error
    except ValueError as error:
        raise click.UsageError(
            "--float-tolerance and --time-tolerance are finite"
            if equal is None
            else "--equal goes without --ignore, --float-tolerance and --time-tolerance"
        ) from error


def _function(equal: str) -> Callable[[Any, Any], bool]:
    from zddm_flags.errors import BadTarget
    from zddm_flags.targets import look_up

    try:
        found: Callable[[Any, Any], bool] = look_up(equal)
    except BadTarget as error:
        raise click.UsageError(f"--equal: {error}") from error
    except (Exception, SystemExit) as error:  # what it says may be anything
        raise CouldNotRun(f"--equal {equal}: its module raised {type(error).__name__}") from error
    return found
