"""How counts and names are said, in what the commands print."""

from __future__ import annotations

__all__ = ["counted", "outcome", "printable"]


def counted(number: int, thing: str) -> str:
    """A number with what it counts: "1 key", "2,000 keys"."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def outcome(name: str) -> str:
    """What came of keys, of the name that a job counts them by."""
    return {"not_opened": "missing above the opened rate", "stale": "known stale", "marked": "marked stale"}.get(
        name, name.replace("_", " ")
    )


def printable(name: str) -> str:
    """A field's name, which may be data of a store's: quoted where it could do something to a terminal."""
    return name if name and name.isprintable() and "," not in name else repr(name)
