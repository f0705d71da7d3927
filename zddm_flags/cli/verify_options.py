"""What some options of `zddm verify` take."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click

__all__ = ["report_file", "share", "write_report"]


def share(_: click.Context | None, __: click.Parameter | None, given: str) -> float:
    """A share above 0 and at most 1, as 0.1 or 10%. A click callback; raises BadParameter."""
    text = given.strip()
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:  # NaN is in no range
        raise click.BadParameter(f"{given!r} is no share above 0 and at most 1, such as 0.1 or 10%")
    return found


def report_file(_: click.Context | None, __: click.Parameter | None, given: str | None) -> Path | None:
    """A file that can be written. A click callback; raises BadParameter.

    It is refused before the work begins, rather than when hours of it are done.
    """
    if given is None:
        return None
    path = Path(given).resolve()  # what a link leads to is replaced, and the link stays
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(path.parent)!r}: make it first")
    if path.exists() and not path.is_file():
        raise click.BadParameter(f"{given!r} is there, and is no file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"no file can be made in {str(path.parent)!r}")
    return path


def write_report(path: Path, document: Mapping[str, object]) -> None:
    """Make or replace the file, at once and whole, for its owner only. Raises OSError."""
    text = json.dumps(document, indent=2) + "\n"
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)  # of mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
