"""What the asyncio side does otherwise than the blocking one."""

from __future__ import annotations

import inspect

from zddm_flags.errors import Unsupported
from zddm_flags.ledger import AsyncInMemoryLedger as DefaultLedger

__all__ = ["DefaultLedger", "check_adapter"]


def check_adapter(role: str, adapter: object) -> None:
    """Refuse an adapter without awaitable `read` and `write`. `role` is `old` or `new`, for the message."""
    for name in ("read", "write"):
        method = getattr(adapter, name, None)
        if not callable(method):
            raise Unsupported(f"{role}: {type(adapter).__name__} is no storage adapter: it has no {name}()")
        if not inspect.iscoroutinefunction(method):
            raise Unsupported(
                f"{role}: {type(adapter).__name__}.{name}() is a blocking function: wrap the adapter in "
                "zddm_adapters.ThreadedAdapter(adapter), or use Proxy"
            )
