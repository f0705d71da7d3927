"""What the options of `zddm verify` take."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

__all__ = ["ReportFile", "Share", "write_report"]


class Share(click.ParamType):
    """A share above 0 and at most 1, as 0.1 or 10%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click."""
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:  # NaN is in no range
            self.fail(f"{text!r} is no share above 0 and at most 1, such as 0.1 or 10%", param, ctx)
        return share


class ReportFile(click.ParamType):
    """A file that can be written: refused before the work begins, rather than when hours of it are done."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """See click."""
        path = Path(value).resolve()  # what a link leads to is replaced, and the link stays
        if not path.parent.is_dir():
            self.fail(f"there is no folder {str(path.parent)!r}: make it first", param, ctx)
        if path.exists() and not path.is_file():
            self.fail(f"{str(value)!r} is there, and is no file", param, ctx)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            self.fail(f"no file can be made in {str(path.parent)!r}", param, ctx)
        return path


def write_report(path: Path, text: str) -> None:
    """Make or replace the file, at once and whole, for its owner only. Raises OSError."""
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
