"""The seed's plain algorithm: a read-through, write-through cache that keeps no ledger."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from zddm_flags import TrafficGate
from zddm_flags._async.bulk import Confirmed, CopyOutcome, Difference
from zddm_flags._async.changes import Located
from zddm_flags.protocols import AsyncStorageAdapter


class PlainProxy:
    """Read New, on a miss read Old and copy; write Old, then New where the gate passes; delete alike."""

    def __init__(
        self,
        gate: TrafficGate,
        old: AsyncStorageAdapter[str, str],
        new: AsyncStorageAdapter[str, str],
        **_: Any,
    ) -> None:
        self._gate = gate
        self._old: Any = old
        self._new: Any = new
        self._enabled = True

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    async def read(self, key: str) -> str | None:
        if not self._enabled or not self._gate.should_pass(key):
            return await self._old.read(key)
        value = await self._new.read(key)
        if value is None:
            value = await self._old.read(key)
            if value is not None:
                await self._new.write(key, value)
        return value

    async def write(self, key: str, value: str) -> None:
        await self._old.write(key, value)
        if self._enabled and self._gate.should_pass_write(key):
            await self._new.write(key, value)

    async def delete(self, key: str) -> None:
        await self._old.delete(key)
        if self._enabled and self._gate.should_pass_write(key):
            await self._new.delete(key)

    async def do_background_work(self) -> int:
        return 0

    def locate(self, keys: Collection[str]) -> tuple[list[Located[str]], list[Located[str]]]:
        return [Located(*self._gate.locate(key), key) for key in keys], []

    async def copy_keys(self, job: str, located: Sequence[Located[str]], rules: Any) -> dict[bytes, CopyOutcome]:
        del job, rules
        outcomes: dict[bytes, CopyOutcome] = {}
        for each in located:
            value = await self._old.read(each.key)
            if value is not None:
                await self._new.write(each.key, value)
            outcomes[each.name] = "absent" if value is None else "copied"
        return outcomes

    async def confirm(self, located: Sequence[Located[str]], comparison: Any, *, mark: bool) -> Confirmed:
        del comparison, mark
        different: list[Difference] = []
        for each in located:
            held = await self._old.read(each.key)
            found = await self._new.read(each.key)
            if found is not None and held != found:
                kind = "extra" if held is None else "changed"
                different.append(Difference(each.name, each.hash, kind, (), stale=False))
        names = frozenset(each.name for each in located) - {each.name for each in different}
        return Confirmed(names, different, frozenset(), frozenset())

    async def reset_ledger(self, *, new_was_emptied: bool) -> None:
        del new_was_emptied
