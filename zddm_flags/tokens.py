"""Tokens: names of operations in progress that are never the same twice, in any process."""

from __future__ import annotations

import itertools
import os

from zddm_flags._fork import after_fork_in_child

__all__ = ["new_token"]


class _Tokens:
    """A random prefix per process and a counter: unique as a UUID is, at a tenth of the cost."""

    def __init__(self) -> None:
        self._renew()
        after_fork_in_child(self._renew)

    def _renew(self) -> None:
        prefix = os.urandom(12).hex().encode()
        self._parts = prefix, itertools.count()

    def new(self) -> bytes:
        """A fresh token of at most 48 ASCII bytes. Thread-safe: advancing a counter is one atomic step."""
        prefix, counter = self._parts
        return b"%s-%x" % (prefix, next(counter))


new_token = _Tokens().new
"""Return a token that no other call of any process ever returns."""
