"""What the blocking side does otherwise than the asyncio one."""

from __future__ import annotations

import inspect

from zddm_flags.errors import Unsupported
from zddm_flags.ledger import InMemoryLedger as DefaultLedger

__all__ = ["DefaultLedger", "check_adapter"]


def check_adapter(role: str, adapter: object) -> None:
    """Refuse an adapter without blocking `read` and `write`. `role` is `old` or `new`, for the message."""
    for name in ("read", "write"):
        method = getattr(adapter, name, None)
        if not callable(method):
            raise Unsupported(f"{role}: {type(adapter).__name__} is no storage adapter: it has no {name}()")
        if inspect.iscoroutinefunction(method):
            raise Unsupported(
                f"{role}: {type(adapter).__name__}.{name}() is a coroutine function: use AsyncProxy, or the "
                "blocking adapter of the store"
            )
