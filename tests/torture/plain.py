"""The algorithm that one writes by hand: a read-through, write-through cache without a ledger.

For showing that the torture finds what is wrong with it. The batches are the same, key by key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.explorer.plain import PlainProxy as ExploredPlainProxy
from zddm_flags import TrafficGate

__all__ = ["AsyncPlainProxy", "PlainProxy"]


class PlainProxy:
    """Read New, on a miss read Old and copy; write Old, then New."""

    def __init__(self, gate: TrafficGate, old: Any, new: Any, **_: Any) -> None:
        self._gate, self._old, self._new = gate, old, new
        self.enabled = True

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def read(self, key: str) -> bytes | None:
        if not self.enabled or not self._gate.should_pass(key):
            return self._old.read(key)
        value = self._new.read(key)
        if value is None:
            value = self._old.read(key)
            if value is not None:
                self._new.write(key, value)
        return value

    def write(self, key: str, value: bytes) -> None:
        self._old.write(key, value)
        if self.enabled and self._gate.should_pass_write(key):
            self._new.write(key, value)

    def delete(self, key: str) -> None:
        self._old.delete(key)
        if self.enabled and self._gate.should_pass_write(key):
            self._new.delete(key)

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return {key: value for key in keys if (value := self.read(key)) is not None}

    def write_many(self, items: Mapping[str, bytes]) -> None:
        for key, value in items.items():
            self.write(key, value)

    def stats(self) -> None:
        """It counts nothing."""


class AsyncPlainProxy(ExploredPlainProxy):
    """The same, awaited: what the explorer finds wrong as well."""

    async def read_many(self, keys: Iterable[str]) -> dict[str, str]:
        return {key: value for key in keys if (value := await self.read(key)) is not None}

    async def write_many(self, items: Mapping[str, str]) -> None:
        for key, value in items.items():
            await self.write(key, value)

    def stats(self) -> None:
        """It counts nothing."""
