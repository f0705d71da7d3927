"""What runs one part of a job elsewhere: in another process, or on another machine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zddm_flags import targets

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
    options: Mapping[str, Any]
    """The job's arguments."""
    workers: int
    """How many work at a time."""


def run_part(part: RemotePart) -> None:
    """Do the part, to its end. Safe to run twice, also at once: the later one goes on from the last checkpoint."""
    from zddm_flags._async.backfill import AsyncBackfill  # noqa: PLC0415 - they import this
    from zddm_flags._async.proxy import AsyncProxy  # noqa: PLC0415
    from zddm_flags._async.verify import AsyncVerify  # noqa: PLC0415
    from zddm_flags._sync.backfill import Backfill  # noqa: PLC0415
    from zddm_flags._sync.verify import Verify  # noqa: PLC0415

    proxy = targets.shared(part.target)
    if isinstance(proxy, AsyncProxy):
        awaited = {"backfill": AsyncBackfill, "verify": AsyncVerify}[part.job](proxy, **part.options)
        work = awaited.run_part(part.number, part.owner, part.workers)
        asyncio.run_coroutine_threadsafe(work, _loop()).result()
    else:
        job = {"backfill": Backfill, "verify": Verify}[part.job](proxy, **part.options)
        job.run_part(part.number, part.owner, part.workers)


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
