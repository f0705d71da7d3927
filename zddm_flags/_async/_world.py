"""What the asyncio side does otherwise than the blocking one."""

from __future__ import annotations

from zddm_flags.ledger import AsyncInMemoryLedger as DefaultLedger
from zddm_flags.worlds import check_methods

__all__ = ["DefaultLedger", "check_adapter"]


def check_adapter(role: str, adapter: object) -> None:
    """Refuse an adapter that is not of this world; see `check_methods`."""
    check_methods(
        role,
        adapter,
        coroutines=True,
        otherwise="a blocking function: wrap the adapter in zddm_adapters.ThreadedAdapter(adapter), or use Proxy",
    )
