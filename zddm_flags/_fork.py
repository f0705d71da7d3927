"""One hook for what must happen in the child of a fork, where threads are gone and locks may be held."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["after_fork_in_child"]


class _Hooks:
    """Bound methods to call in a forked child. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._methods: list[weakref.WeakMethod[Callable[[], Any]]] = []

    def add(self, method: Callable[[], Any]) -> None:
        """Call the bound `method` in every child that is forked from now on, for as long as its object lives."""
        with self._lock:  # dropping the dead must not drop what another thread adds meanwhile
            self._methods = [known for known in self._methods if known() is not None]
            self._methods.append(weakref.WeakMethod(method))

    def run(self) -> None:
        """Call those whose objects still live."""
        self._lock = threading.Lock()  # a thread that is gone may hold it
        for reference in tuple(self._methods):
            method = reference()
            if method is not None:
                method()


_hooks = _Hooks()
after_fork_in_child = _hooks.add

if hasattr(os, "register_at_fork"):  # pragma: no branch - everywhere but on Windows
    os.register_at_fork(after_in_child=_hooks.run)
