"""One job in a process of its own: `python -m tests.finish.worker JOB '{"option": 1}'`.

The stores are those that the environment names. It prints JSON, a line each: that it begins, how far it is, and
what came of it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from tests.finish import bare
from tests.finish.clocks import Clocks
from tests.finish.stores import Stores, UserProxy, here, opened, proxy_of
from zddm_flags import Backfill, Verify
from zddm_flags.jobs import Progress

__all__ = ["COPIES", "LEFT_BY_A_CRASH"]

LOOK_SECONDS = 0.02
COPIES = "copies"
"""The file that each key is added to as it is about to be written to New by a job, 8 bytes each."""
LEFT_BY_A_CRASH = "operations on some keys"
"""How a job says that it waits for tokens to be reaped."""


def main(job: str, options: dict[str, Any]) -> None:
    """Do one job."""
    places = here()
    with opened(places) as stores:
        if job == "copy":
            _follow(lambda: {"rows": bare.copy(stores.old, stores.new)})
            return
        if job == "compare":
            _follow(lambda: {"rows": bare.compare(stores.old, stores.new)[0]})
            return
        if options.pop("note_copies", False):
            _note_copies(stores, Path(places.folder) / COPIES)
        clocks = Clocks()
        clocks.time_store("Old", stores.old)
        clocks.time_store("New", stores.new)
        with proxy_of(stores, places.name) as proxy:
            clocks.time_ledger(proxy.ledger)
            _do(job, options, proxy, clocks)


def _do(job: str, options: dict[str, Any], proxy: UserProxy, clocks: Clocks) -> None:
    if job == "backfill":
        backfill = Backfill(proxy, **options)
        _follow(lambda: asdict(backfill.run()), clocks, backfill.progress)
    elif job == "verify":
        verify = Verify(proxy, **options)
        _follow(
            lambda: {"verdict": (result := verify.run()).verdict, "rows": result.compared}, clocks, verify.progress
        )
    else:
        raise ValueError(job)


def _follow(
    run: Callable[[], dict[str, Any]], clocks: Clocks | None = None, progress: Callable[[], Progress] | None = None
) -> None:
    """Run it, and say meanwhile how far it is."""
    done = threading.Event()
    look = threading.Thread(target=_look, args=(done, progress), daemon=True)
    cpu, began = time.process_time(), time.perf_counter()
    _say(begun=True)
    look.start()
    result = run()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    done.set()
    look.join()
    shares = {} if clocks is None else dict(sorted(clocks.seconds.items(), key=lambda each: -each[1]))
    _say(result=result, seconds=seconds, cpu=cpu, shares=shares)


def _look(done: threading.Event, progress: Callable[[], Progress] | None) -> None:
    process = psutil.Process()
    while not done.wait(LOOK_SECONDS):
        if progress is not None:
            now = progress()
            _say(rows=now.rows, rows_now=now.rows_now, waiting=now.waiting, memory=process.memory_info().rss)


def _note_copies(stores: Stores, path: Path) -> None:
    """Note the keys of each write to New, before it: the process may be killed in it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def noting(write: Callable[..., Any], keys_of: Callable[[Any], Iterable[int]]) -> Callable[..., Any]:
        def noted(first: Any, *more: Any) -> Any:
            os.write(file, array("q", keys_of(first)).tobytes())
            return write(first, *more)

        return noted

    stores.new.write_many = noting(stores.new.write_many, lambda items: items)
    stores.new.write = noting(stores.new.write, lambda key: [key])


def _say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
