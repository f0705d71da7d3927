"""One test body for both worlds."""

from __future__ import annotations

import inspect
from typing import Any


async def settle(result: Any) -> Any:
    """The result of a call of either world, blocking or asyncio."""
    return await result if inspect.isawaitable(result) else result
