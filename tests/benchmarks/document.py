"""The tables on docs/performance.md, which a run puts there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tests.benchmarks.figures import Table, markdown

__all__ = ["PAGE", "put", "rows_of", "tables_of"]

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- table: (?P<name>[a-z-]+) -->\n)(?P<table>.*?)(?=<!-- end -->)", re.DOTALL)


def put(tables: Iterable[Table], page: Path = PAGE) -> None:
    """Replace those of the page's tables that were measured."""
    shown = {table.name: markdown(table) for table in tables}

    def replaced(match: re.Match[str]) -> str:
        found = shown.get(match["name"])
        return match[0] if found is None else f"{match[1]}\n{found}\n\n"

    page.write_text(BLOCK.sub(replaced, page.read_text(encoding="utf-8")), encoding="utf-8")


def tables_of(text: str) -> dict[str, str]:
    """The tables of a page, by name."""
    return {match["name"]: match["table"] for match in BLOCK.finditer(text)}


def rows_of(table: str) -> list[str]:
    """The first column of a table, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [line.split("|")[1].strip() for line in lines[2:]]
