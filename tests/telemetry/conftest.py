from __future__ import annotations

from tests.core.conftest import by_hand, world

__all__ = ["by_hand", "world"]
