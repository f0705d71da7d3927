"""Contracts: tests that an adapter or a ledger of your own passes if it does what the protocol relies on.

Subclass one in a test module, under a name that starts with `Test`, and run pytest::

    class TestJsonFiles(StorageAdapterContract):
        def adapter(self):
            with TemporaryDirectory() as folder:
                yield JsonFiles(folder)

docs/writing-an-adapter.md has the rules. The asyncio contracts need no plugin: each test runs in an event loop of
its own, and so do the generators that they are given, so that a client is made in the loop that uses it.
"""

try:
    import pytest  # noqa: F401 - only to see whether it is there
except ImportError as error:
    raise ImportError("the contracts of zddm_flags.testing need pytest: pip install pytest") from error

from zddm_flags.testing._async.adapters import AsyncStorageAdapterContract
from zddm_flags.testing._async.ledgers import AsyncLedgerContract
from zddm_flags.testing._sync.adapters import StorageAdapterContract
from zddm_flags.testing._sync.ledgers import LedgerContract

__all__ = ["AsyncLedgerContract", "AsyncStorageAdapterContract", "LedgerContract", "StorageAdapterContract"]
