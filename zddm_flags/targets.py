"""The one object to point at: `module:attribute`, which names a proxy, or a function that makes one."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
from typing import Any

from zddm_flags._async.proxy import AsyncProxy
from zddm_flags._sync.proxy import Proxy
from zddm_flags.errors import BadTarget

__all__ = ["load", "look_up", "shared"]


def load(target: str) -> tuple[Proxy[Any, Any] | AsyncProxy[Any, Any], bool]:
    """The proxy that `target` names, and whether it was made for the caller, who then closes it.

    The current directory is looked in first, as `python -m` does.

    Raises:
        BadTarget: there is no such module or attribute, or it is no proxy and makes none.

    What the module or the function raises.
    """
    found = look_up(target)
    if isinstance(found, (Proxy, AsyncProxy)):
        return found, False
    if not callable(found):
        raise BadTarget(
            f"{target} is a {type(found).__name__}: name a Proxy, an AsyncProxy, or a function that makes one"
        )
    made = found()
    if inspect.iscoroutine(made):
        made.close()
        raise BadTarget(f"{target} is a coroutine function: let an ordinary one make the AsyncProxy")
    if not isinstance(made, (Proxy, AsyncProxy)):
        raise BadTarget(f"{target}() returned a {type(made).__name__}, not a Proxy or an AsyncProxy")
    return made, True


_lock = threading.Lock()
_shared: dict[str, Proxy[Any, Any] | AsyncProxy[Any, Any]] = {}


def shared(target: str) -> Proxy[Any, Any] | AsyncProxy[Any, Any]:
    """The same, once for this process: it is never closed. Raises what `load` raises. Thread-safe."""
    with _lock:
        if target not in _shared:
            _shared[target] = load(target)[0]
        return _shared[target]


def look_up(target: str) -> Any:
    """What `module:attribute` names. Raises BadTarget, and what the module raises."""
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise BadTarget(f"{target!r} is not of the form module:attribute, such as app.stores:users")
    here = os.getcwd()  # noqa: PTH109 - what stands in sys.path is text
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise BadTarget(f"there is no module {error.name!r}, seen from {here}") from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise BadTarget(f"{module_name} has no {path!r}") from None
    return found
