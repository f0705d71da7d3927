"""The least that a person would write: no ledger, no span, no guard, and wrong under writers (H1 to H9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xxhash import xxh3_64_intdigest

__all__ = ["AsyncHandWritten", "HandWritten"]


class HandWritten:
    """Reads through and writes through, below a rate."""

    def __init__(self, old: Any, new: Any, rate: float) -> None:
        self.old = old
        self.new = new
        self.rate = rate

    def read(self, key: str) -> Any:
        if xxh3_64_intdigest(key.encode()) * 2**-64 < self.rate:
            value = self.new.read(key)
            if value is None:
                value = self.old.read(key)
                if value is not None:
                    self.new.write(key, value)
            return value
        return self.old.read(key)

    def write(self, key: str, value: Any) -> None:
        self.old.write(key, value)
        if xxh3_64_intdigest(key.encode()) * 2**-64 < self.rate:
            self.new.write(key, value)

    def delete(self, key: str) -> None:
        self.old.delete(key)
        if xxh3_64_intdigest(key.encode()) * 2**-64 < self.rate:
            self.new.delete(key)

    def read_many(self, keys: Sequence[str]) -> dict[str, Any]:
        passed = [key for key in keys if xxh3_64_intdigest(key.encode()) * 2**-64 < self.rate]
        found = dict(self.new.read_many(passed)) if passed else {}
        missing = [key for key in keys if key not in found]
        if missing:
            from_old = self.old.read_many(missing)
            copies = {key: from_old[key] for key in passed if key in from_old}
            if copies:
                self.new.write_many(copies)
            found.update(from_old)
        return found

    def write_many(self, items: Mapping[str, Any]) -> None:
        self.old.write_many(items)
        passed = {
            key: value for key, value in items.items() if xxh3_64_intdigest(key.encode()) * 2**-64 < self.rate
        }
        if passed:
            self.new.write_many(passed)


class AsyncHandWritten:
    """The same for asyncio."""

    def __init__(self, old: Any, new: Any, rate: float) -> None:
        self.old = old
        self.new = new
        self.rate = rate

    async def read(self, key: str) -> Any:
        if xxh3_64_intdigest(key.encode()) * 2**-64 < self.rate:
            value = await self.new.read(key)
            if value is None:
                value = await self.old.read(key)
                if value is not None:
                    await self.new.write(key, value)
            return value
        return await self.old.read(key)

    async def write(self, key: str, value: Any) -> None:
        await self.old.write(key, value)
        if xxh3_64_intdigest(key.encode()) * 2**-64 < self.rate:
            await self.new.write(key, value)

    async def delete(self, key: str) -> None:
        await self.old.delete(key)
        if xxh3_64_intdigest(key.encode()) * 2**-64 < self.rate:
            await self.new.delete(key)

    async def read_many(self, keys: Sequence[str]) -> dict[str, Any]:
        passed = [key for key in keys if xxh3_64_intdigest(key.encode()) * 2**-64 < self.rate]
        found = dict(await self.new.read_many(passed)) if passed else {}
        missing = [key for key in keys if key not in found]
        if missing:
            from_old = await self.old.read_many(missing)
            copies = {key: from_old[key] for key in passed if key in from_old}
            if copies:
                await self.new.write_many(copies)
            found.update(from_old)
        return found

    async def write_many(self, items: Mapping[str, Any]) -> None:
        await self.old.write_many(items)
        passed = {
            key: value for key, value in items.items() if xxh3_64_intdigest(key.encode()) * 2**-64 < self.rate
        }
        if passed:
            await self.new.write_many(passed)
