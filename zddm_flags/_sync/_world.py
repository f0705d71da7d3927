"""What the blocking side does otherwise than the asyncio one."""

from __future__ import annotations

from zddm_flags.ledger import InMemoryLedger as DefaultLedger
from zddm_flags.worlds import check_methods

__all__ = ["DefaultLedger", "check_adapter"]


def check_adapter(role: str, adapter: object) -> None:
    """Refuse an adapter that is not of this world; see `check_methods`."""
    check_methods(
        role,
        adapter,
        coroutines=False,
        otherwise="a coroutine function: use AsyncProxy, or the blocking adapter of the store",
    )
