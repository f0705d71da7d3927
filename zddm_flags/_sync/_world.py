"""What the blocking side does otherwise than the asyncio one."""

from __future__ import annotations

import inspect

from zddm_flags.errors import Unsupported
from zddm_flags.ledger import InMemoryLedger as DefaultLedger

__all__ = ["DefaultLedger", "check_adapter"]


def check_adapter(role: str, adapter: object) -> None:
    """Refuse an adapter without blocking `read` and `write`, or with an optional method of the other world.

    `role` is `old` or `new`, for the message.
    """
    for name in ("read", "write", "delete", "read_many", "write_many", "delete_many"):
        method = getattr(adapter, name, None)
        if not callable(method):
            if name not in ("read", "write"):
                continue
            raise Unsupported(f"{role}: {type(adapter).__name__} is no storage adapter: it has no {name}()")
        if inspect.iscoroutinefunction(method):
            raise Unsupported(
                f"{role}: {type(adapter).__name__}.{name}() is a coroutine function: use AsyncProxy, or the "
                "blocking adapter of the store"
            )
