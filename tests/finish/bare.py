"""What somebody would write without the library: the yardstick. It is wrong under live writes."""

from __future__ import annotations

from typing import Any

__all__ = ["PAGE_SIZE", "compare", "copy"]

PAGE_SIZE = 1000


def copy(old: Any, new: Any) -> int:
    """Copy Old into New, page by page; returns how many keys."""
    cursor, rows = None, 0
    while True:
        page = old.scan(cursor, PAGE_SIZE)
        new.write_many(dict(page.items))
        rows += len(page.items)
        if page.next_cursor is None:
            return rows
        cursor = page.next_cursor


def compare(old: Any, new: Any) -> tuple[int, set[Any]]:
    """Read Old page by page, and its keys from New; returns how many keys there were, and those that differ."""
    cursor, rows, different = None, 0, set()
    while True:
        page = old.scan(cursor, PAGE_SIZE)
        found = new.read_many([key for key, _ in page.items])
        different |= {key for key, value in page.items if found.get(key) != value}
        rows += len(page.items)
        if page.next_cursor is None:
            return rows, different
        cursor = page.next_cursor
