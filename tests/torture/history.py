"""What each process did and when, written so that a SIGKILL loses nothing that matters, and read back.

A process appends to a file of its own, one JSON array a line, each with one unbuffered system call. An operation
is written down before it begins and again when it has ended: one that has no end was killed in the middle. Times
are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.torture.checker import Operation

__all__ = ["History", "Outcome", "Recorder", "load"]

Kind = Literal["read", "write", "delete", "read_many", "write_many"]
Outcome = Literal["ok", "refused", "raised"]
"""`refused`: the caller was told that neither store was touched."""

READS = frozenset({"read", "read_many"})


class Recorder:
    """Appends to one process's file. Thread-safe: each line is one write, at the end of the file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count()

    def begin(self, kind: Kind, items: Mapping[str, str | None]) -> int:
        """Note that an operation on these keys is about to begin; returns its number.

        Args:
            kind: of the operation.
            items: key -> what is to be written; None for a delete and for a read.
        """
        number = next(self._numbers)
        self._append(["begin", number, time.monotonic_ns(), kind, items])
        return number

    def end(
        self, number: int, outcome: Outcome, found: Mapping[str, str] | None = None, error: str | None = None
    ) -> None:
        """Note that the operation has ended; `found` is what a read returned, without absent keys."""
        self._append(["end", number, time.monotonic_ns(), outcome, found, error])

    def note(self, facts: Mapping[str, Any]) -> None:
        """Note what the process knows of itself; the last note counts."""
        self._append(["note", facts])

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _append(self, row: list[Any]) -> None:
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("the history could not be written in full")


@dataclass(slots=True)
class History:
    """What all processes did.

    Attributes:
        max_operation_seconds: a possible write takes effect within this time from its begin.
        keys: key -> all operations that were begun on it.
        operations: how many ended how: (kind, outcome) -> count, `killed` for those without an end.
        errors: how many raised what: (kind, error) -> count.
        notes: process -> its last note.
    """

    max_operation_seconds: float
    keys: defaultdict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def load(self, path: Path) -> None:
        """Add what one process noted; its name is that of the file."""
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is nothing, or torn by a kill
        begun: dict[int, list[Any]] = {}
        for row in map(json.loads, lines):
            if row[0] == "begin":
                begun[row[1]] = row
            elif row[0] == "end":
                self._add(path.stem, begun.pop(row[1]), row)
            else:
                self.notes[path.stem] = row[1]
        for row in begun.values():
            self._add(path.stem, row, ["end", row[1], row[2], "killed", None, None])

    def _add(self, name: str, begun: list[Any], ended: list[Any]) -> None:
        _, number, begin, kind, items = begun
        _, _, end, outcome, found, error = ended
        self.operations[kind, outcome] += 1
        if error is not None:
            self.errors[kind, error] += 1
        label = f"{name} {kind} {number} {outcome}" + (f" ({error})" if error is not None else "")
        for key, value in items.items():
            if kind in READS:
                if outcome == "ok":
                    self.keys[key].append(Operation("read", found.get(key), begin, end, label=label))
            elif outcome == "ok":
                self.keys[key].append(Operation("write", value, begin, end, label=label))
            elif outcome == "refused":
                self.keys[key].append(Operation("write", value, begin, end, "refused", label))
            else:
                last = begin + int(self.max_operation_seconds * 1e9)
                self.keys[key].append(Operation("write", value, begin, last, "possible", label))


def load(folder: Path, max_operation_seconds: float) -> History:
    """All of the histories in `folder`, one file `NAME.history` for each process."""
    history = History(max_operation_seconds)
    for path in sorted(folder.glob("*.history")):
        history.load(path)
    return history
