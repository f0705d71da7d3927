"""`zddm reset`."""

from __future__ import annotations

import sys

import click

from zddm_flags.cli.jobs import CouldNotRun, app_dir_option, target_argument
from zddm_flags.cli.words import counted
from zddm_flags.ledger import LedgerSummary

__all__ = ["reset"]

_EPILOG = """
\b
Examples:
  zddm reset app.stores:users
  zddm reset app.stores:users --new-was-emptied --yes

\b
Exit codes:
  0    the ledger holds nothing of the migration any more
  2    it was refused, could not run, or was not confirmed: it says why
  130  it was interrupted
"""


@click.command(epilog=_EPILOG, short_help="Forget a migration's state, to begin anew from an empty New.")
@target_argument
@click.option(
    "--new-was-emptied",
    is_flag=True,
    help="You have seen to it that New is empty, and it is not looked at: for a New that cannot be scanned.",
)
@click.option("--yes", is_flag=True, help="Do not ask. Needed without a terminal.")
@app_dir_option
def reset(target: str, new_was_emptied: bool, yes: bool, app_dir: str) -> int:
    """Clear what the ledger holds of a migration, so that it begins anew from an empty New.

    TARGET is module:attribute of the migration's proxy, or of a function that makes one. Its ledger must be one
    that processes share.

    It forgets which keys are stale, how far New was ever opened, and what backfill and verify have done. Whatever
    New still holds is trusted from then on, wrong or not. So first set the rate to 0, wait until every process has
    seen it, and empty New.

    It is refused where the rate is above 0, New holds anything, or an operation is in progress.
    """
    from zddm_flags.cli.jobs import explained, load_target, percent
    from zddm_flags.cli.status_report import wait_for_flag

    if not yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise CouldNotRun("there is no terminal to ask on: give --yes. Nothing was changed")
    with load_target(target, app_dir) as loaded:
        proxy = loaded.proxy
        if not new_was_emptied and not proxy.new_can_scan:
            raise CouldNotRun(
                "New's adapter has no scan(), so that nothing shows whether New is empty. See to it that it is, "
                "and give --new-was-emptied. Nothing was changed"
            )
        wait_for_flag(proxy.gate)  # a flag that LaunchDarkly has not told of yet looks as if it were at 0
        with explained():
            held = loaded.call(proxy.ledger_summary)
        _say(
            f"A reset clears all that the ledger holds of the migration {proxy.name!r}:",
            f"  {_held(held, percent(held.opened))}, and what backfill and verify have done.",
            "Whatever is still in New is trusted from then on, wrong or not. So the rate has to be at 0 in every "
            "process, and New emptied.",
        )
        if not yes and not _confirmed(proxy.name):
            raise CouldNotRun("that is not the name: nothing was changed")
        with explained():
            left = loaded.call(lambda: proxy.reset_ledger(new_was_emptied=new_was_emptied))
    loaded.tell(
        [
            f"The ledger of {proxy.name!r} is as at the beginning: {_held(left, percent(left.opened))}.",
            "Raise the rate to begin anew.",
        ],
        {},
        as_json=False,
    )
    return 0


def _held(summary: LedgerSummary, opened: str) -> str:
    pending = counted(summary.pending, "operation")
    return f"{counted(summary.stale, 'stale key')}, opened {opened}, {pending} in progress"


def _confirmed(name: str) -> bool:
    click.echo(f"Type {name} to go on: ", err=True, nl=False)
    return sys.stdin.readline().rstrip("\n") == name


def _say(*lines: str) -> None:
    click.echo("\n".join(lines), err=True)
