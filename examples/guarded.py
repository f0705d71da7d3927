"""New stalls: its guard opens, Old serves, New recovers and is used again, and nothing stale is served."""

import asyncio

from zddm_adapters import AsyncInMemoryAdapter
from zddm_flags import AsyncProxy, Guard, TrafficGate


class StallingStore:
    """A store in another process, say, that answers only while `answers` is set."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.answers = asyncio.Event()
        self.answers.set()

    async def read(self, key: str) -> str | None:
        """The value of `key`, once the store answers."""
        await self.answers.wait()
        return self.values.get(key)

    async def write(self, key: str, value: str) -> None:
        """Insert or replace, once the store answers."""
        await self.answers.wait()
        self.values[key] = value


async def main() -> None:
    """Read and write through a stall of New."""
    users = [f"user-{number}" for number in range(10)]
    old, new = AsyncInMemoryAdapter(dict.fromkeys(users, "v1")), StallingStore()
    guard = Guard(budget_seconds=0.1, min_calls=5, open_seconds=0.2)
    async with AsyncProxy(TrafficGate(1.0), old, new, guard=guard) as proxy:
        await proxy.read_many(users)
        print(f"{len(new.values)} of {len(users)} users were copied into New")

        new.answers.clear()
        while proxy.stats().guard != "open":
            await proxy.read("user-0")
        waited = proxy.stats().operations["read", "new_failed"]
        print(f"New stalls: {waited} reads waited {guard.budget_seconds} s each, then the guard opened")
        await asyncio.gather(*(proxy.read(user) for user in users * 100))
        await proxy.write("user-1", "v2")
        print(f"{proxy.stats().operations['read', 'guard_open']} reads went to Old, and waited for nothing")

        new.answers.set()
        while proxy.stats().guard != "closed":
            await proxy.read("user-0")
            await asyncio.sleep(0.01)
        value = await proxy.read("user-1")
        print(f"New is used again: user-1 is {value}, and New, which had missed that, has {new.values['user-1']}")
    if value != "v2" or new.values["user-1"] != "v2":
        raise SystemExit("a stale read")


asyncio.run(main())
