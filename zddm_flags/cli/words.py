"""How numbers, times and names are said, in what the commands print."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["ago", "as_json", "counted", "percent", "printable"]

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def percent(share: float) -> str:
    """A share as percent: only a share of 1 is 100 %."""
    text = f"{share * 100:.10g}"
    return f"{'under 100' if text == '100' and share < 1 else text} %"


def counted(number: int, thing: str) -> str:
    """A number with what it counts: "1 key", "2,000 keys"."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def ago(seconds: float) -> str:
    """How long ago, in its two largest units."""
    left = max(0, round(seconds))
    for unit, size in _UNITS:
        if left >= size:
            count, rest = divmod(left, size)
            smaller, smaller_size = {"d": ("h", 3_600), "h": ("min", 60), "min": ("s", 1)}[unit]
            return f"{count} {unit} {rest // smaller_size} {smaller} ago"
    return f"{left} s ago"


def printable(name: str) -> str:
    """A field's name, which may be data of a store's: quoted where it could do something to a terminal."""
    return name if name.isprintable() and name and "," not in name else repr(name)


def as_json(document: Mapping[str, Any], *, one_line: bool = False) -> str:
    """A document as text."""
    return json.dumps(document, indent=None if one_line else 2)
