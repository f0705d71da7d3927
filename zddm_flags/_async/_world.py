"""What the asyncio side does otherwise than the blocking one."""

from __future__ import annotations

import inspect

from zddm_flags.errors import Unsupported
from zddm_flags.ledger import AsyncInMemoryLedger as DefaultLedger

__all__ = ["DefaultLedger", "check_adapter"]


def check_adapter(role: str, adapter: object) -> None:
    """Refuse an adapter without awaitable `read` and `write`, or with an optional method of the other world.

    `role` is `old` or `new`, for the message.
    """
    for name in ("read", "write", "delete", "read_many", "write_many", "delete_many"):
        method = getattr(adapter, name, None)
        if not callable(method):
            if name not in ("read", "write"):
                continue
            raise Unsupported(f"{role}: {type(adapter).__name__} is no storage adapter: it has no {name}()")
        if not inspect.iscoroutinefunction(method):
            raise Unsupported(
                f"{role}: {type(adapter).__name__}.{name}() is a blocking function: wrap the adapter in "
                "zddm_adapters.ThreadedAdapter(adapter), or use Proxy"
            )
