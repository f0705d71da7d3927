# Generated from zddm_flags/testing/_async/__init__.py by `make generate`. Do not edit.
"""The contracts of one of the two worlds, asyncio and blocking; the blocking ones are generated."""
