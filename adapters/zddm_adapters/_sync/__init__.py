# Generated from adapters/zddm_adapters/_async/__init__.py by `make generate`. Do not edit.
"""The adapters of one of the two worlds, asyncio and blocking; the blocking ones are generated."""
