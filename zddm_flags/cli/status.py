"""`zddm status`."""

from __future__ import annotations

import click

from zddm_flags.cli.jobs import app_dir_option, json_option, target_argument

__all__ = ["status"]

_EPILOG = """
\b
Examples:
  zddm status app.stores:users
  zddm status app.stores:users --watch
  zddm status app.stores:users --json | jq -r '.reasons[]'

\b
Exit codes, with --watch by the last look:
  0    ready to cut over
  1    not ready: it says why, and what to do
  2    it could not tell
  130  it was interrupted before it could
"""


@click.command(epilog=_EPILOG, short_help="Tell how far a migration is, and whether to cut over.")
@target_argument
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.1, max=86_400),
    metavar="SECONDS",
    default=2,
    show_default=True,
    help="With --watch: how often to look.",
)
@app_dir_option
@json_option
def status(target: str, watch: bool, every: float, app_dir: str, as_json: bool) -> int:
    """Tell how far a migration is, and whether it is time to cut over to New.

    TARGET is module:attribute of the migration's proxy, or of a function that makes one. Its ledger must be one
    that processes share.

    It asks the ledger and the flag, and no store, so that it costs the application nothing. It is time to cut over
    when the flag is at 1, a backfill of all keys has finished, a verify of all keys that began after it found no
    difference, and no key is stale.

    With --watch and --json it prints one object a line.
    """
    from zddm_flags.cli.jobs import explained, load_target
    from zddm_flags.cli.status_report import state_lines, status_document, verdict_lines, wait_for_flag

    with load_target(target, app_dir) as loaded:
        wait_for_flag(loaded.proxy.gate)
        if watch:
            from zddm_flags.cli.watching import make_watch_screen, watch_status

            return watch_status(loaded, make_watch_screen(loaded.stdout, as_json=as_json), every)
        with explained():
            found = loaded.call(loaded.proxy.migration_status)
    lines = [*state_lines(found), "", *verdict_lines(found)]
    loaded.tell(lines, status_document(found), as_json=as_json)
    return 0 if found.ready else 1
