"""The command line: `zddm`, or `python -m zddm_flags`. Needs the extra `cli`."""

from zddm_flags.cli.commands import command_line, run

__all__ = ["command_line", "run"]
