"""One hook for what must happen in the child of a fork, where threads are gone and locks may be held."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["after_fork_in_child"]

_methods: list[weakref.WeakMethod[Callable[[], Any]]] = []


def after_fork_in_child(method: Callable[[], Any]) -> None:
    """Call the bound `method` in every child that is forked from now on, for as long as its object lives."""
    _methods[:] = [known for known in _methods if known() is not None]
    _methods.append(weakref.WeakMethod(method))


def _run() -> None:
    for reference in tuple(_methods):
        method = reference()
        if method is not None:
            method()


if hasattr(os, "register_at_fork"):  # pragma: no branch - everywhere but on Windows
    os.register_at_fork(after_in_child=_run)
