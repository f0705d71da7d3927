"""An asyncio service whose requests go on while its sessions move to another store."""

import asyncio

from zddm_adapters import AsyncInMemoryAdapter
from zddm_flags import AsyncProxy, TrafficGate


async def serve(sessions: AsyncProxy[str, str], user: str) -> None:
    """One request: read the session, or begin one."""
    if await sessions.read(user) is None:
        await sessions.write(user, f"session of {user}")


async def main() -> None:
    """Ramp from 0 to 100 % while requests come in."""
    gate = TrafficGate(0.0)
    old: AsyncInMemoryAdapter[str, str] = AsyncInMemoryAdapter()
    new: AsyncInMemoryAdapter[str, str] = AsyncInMemoryAdapter()
    users = [f"user-{number}" for number in range(1_000)]
    async with AsyncProxy(gate, old, new) as sessions:
        for rate in (0.0, 0.01, 0.1, 0.5, 1.0, 1.0):
            gate.set_rate(rate)
            before = sessions.stats().operations.get(("read", "new_hit"), 0)
            await asyncio.gather(*(serve(sessions, user) for user in users))
            hits = sessions.stats().operations.get(("read", "new_hit"), 0) - before
            print(f"rate {rate:4}: {hits:5} of {len(users)} reads served by New")
    if hits != len(users):
        raise SystemExit("some sessions did not move")


asyncio.run(main())
