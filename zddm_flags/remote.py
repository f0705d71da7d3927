"""What runs one part of a job elsewhere: in another process, or on another machine."""

from __future__ import annotations

import asyncio
import multiprocessing.context
import pickle
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zddm_flags import targets
from zddm_flags.errors import ExecutorFailed

__all__ = ["RemotePart", "run_part"]


@dataclass(frozen=True, slots=True)
class RemotePart:
    """What a worker elsewhere has to know. All of it can be sent; the rest it finds in the ledger."""

    job: str
    target: str
    """`module:attribute` of the proxy, or of a function that makes it."""
    owner: str
    """Who waits for the part."""
    number: int
    version: int
    """Of the part's checkpoint, when this was sent. An executor may take equal calls for one, as Dask can."""
    options: Mapping[str, Any]
    """The job's arguments."""
    sharing: int
    """How many parts are done at a time."""
    trace: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the trace of the run is gone on with: W3C trace context."""


def run_part(part: RemotePart) -> None:
    """Do the part, to its end. Safe to run twice, also at once: the later one goes on from the last checkpoint.

    Raises ExecutorFailed in a process that was forked, or in place of an error that cannot be sent; BadTarget; and
    what ended the part.
    """
    if _is_forked():
        raise ExecutorFailed(
            "this worker was forked: it shares connections with the process that it comes from, and hears of no "
            'flag. Use ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))'
        )
    try:
        _run(part)
    except Exception as error:
        if _can_be_sent(error):
            raise
        name = f"{type(error).__module__}.{type(error).__qualname__}"
        raise ExecutorFailed(f"a part of the {part.job} raised {name}, which cannot be sent from here") from error


def _run(part: RemotePart) -> None:
    from zddm_flags._async.backfill import AsyncBackfill  # noqa: PLC0415 - they import this
    from zddm_flags._async.proxy import AsyncProxy  # noqa: PLC0415
    from zddm_flags._async.verify import AsyncVerify  # noqa: PLC0415
    from zddm_flags._sync.backfill import Backfill  # noqa: PLC0415
    from zddm_flags._sync.verify import Verify  # noqa: PLC0415

    proxy = targets.shared(part.target)
    trace = getattr(part, "trace", {})  # an earlier version of who waits knows of none
    if isinstance(proxy, AsyncProxy):
        awaited = {"backfill": AsyncBackfill, "verify": AsyncVerify}[part.job](proxy, **part.options)
        work = awaited.run_part(part.number, part.owner, part.sharing, trace)
        asyncio.run_coroutine_threadsafe(work, _loop()).result()
    else:
        job = {"backfill": Backfill, "verify": Verify}[part.job](proxy, **part.options)
        job.run_part(part.number, part.owner, part.sharing, trace)


def _is_forked() -> bool:
    if sys.platform == "win32":
        return False
    return isinstance(multiprocessing.current_process(), multiprocessing.context.ForkProcess)


def _can_be_sent(error: Exception) -> bool:
    """Whether another process gets this error: one that it cannot make again would break a pool of processes."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)  # noqa: S301 - what was dumped right here
    except Exception:
        return False


_lock = threading.Lock()
_loops: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    """One event loop for all parts of this process: what a proxy's drivers hold belongs to one."""
    with _lock:
        if not _loops:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="zddm-parts", daemon=True).start()
            _loops.append(loop)
        return _loops[0]
