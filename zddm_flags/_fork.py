"""What must happen around a fork: in the child threads are gone, and locks that they held are held for good."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["after_fork_in_child", "logging"]

WAIT_SECONDS = 1.0
"""How long a fork waits for a thread that logs: the application's logging may be blocked."""


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


class _Logging:
    """Entered by a thread of this library while it logs: a fork waits for its end.

    Else the child would find the locks of the application's logging held for good (structlog's own logger has
    one for each file), and hang where it logs. Reentrant, thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._forking: set[int] = set()  # the threads that fork and hold the lock

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        """Wait, but not for ever."""
        if self._lock.acquire(timeout=WAIT_SECONDS):
            self._forking.add(threading.get_ident())

    def after_fork_in_parent(self) -> None:
        """Let threads log again."""
        if threading.get_ident() in self._forking:
            self._forking.remove(threading.get_ident())
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew, but where this thread has the lock: it may log itself, and is not done with that.

        Where the fork did not wait for it, a thread that is gone holds it.
        """
        if threading.get_ident() in self._forking:
            self._lock.release()
        else:
            self._lock = threading.RLock()
        self._forking = set()


_hooks = _Hooks()
after_fork_in_child = _hooks.add
logging = _Logging()

if hasattr(os, "register_at_fork"):  # pragma: no branch - everywhere but on Windows
    os.register_at_fork(
        before=logging.before_fork,
        after_in_parent=logging.after_fork_in_parent,
        after_in_child=logging.after_fork_in_child,
    )
    os.register_at_fork(after_in_child=_hooks.run)
