"""The contracts of one of the two worlds, asyncio and blocking; the blocking ones are generated."""
