"""Who does the parts of a job, where it is not this process."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import connection
from pathlib import Path
from typing import Any, cast

import click

from zddm_flags.cli.jobs import CouldNotRun

__all__ = ["dask_option", "made_executor", "processes_option"]

processes_option = click.option(
    "--processes",
    is_flag=True,
    help="Let --workers processes do the parts, and not threads or tasks. Each imports TARGET.",
)
dask_option = click.option(
    "--dask",
    metavar="ADDRESS",
    help="Let the workers of this Dask scheduler do the parts, --workers at a time. They must be able to import "
    'TARGET. Needs pip install "zddm-flags[dask]".',
)


@contextlib.contextmanager
def made_executor(workers: int, app_dir: str, *, processes: bool, dask: str | None) -> Iterator[Executor | None]:
    """What runs the parts elsewhere; None where this process does them.

    Raises:
        UsageError: both were asked for, or Dask is not installed.
        CouldNotRun: no scheduler answers.
    """
    if processes and dask is not None:
        raise click.UsageError("--processes and --dask exclude each other")
    if dask is not None:
        with _dask(dask) as executor:
            yield executor
    elif processes:
        with _importing_from(app_dir), _processes(workers) as executor:
            yield executor
    else:
        yield None


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    context = multiprocessing.get_context("spawn")  # a forked child would share the stores' connections
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """In a worker: Ctrl-C is for who waits for it, and without whom it ends. Stdout has the result alone."""
    with contextlib.suppress(OSError):  # there is no stderr
        os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="zddm-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)  # as if it were killed: its part goes on from the last checkpoint


@contextlib.contextmanager
def _importing_from(app_dir: str) -> Iterator[None]:
    """Processes that begin meanwhile look for modules in `app_dir` first."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(app_dir).resolve()), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Executor]:
    if importlib.util.find_spec("distributed") is None:
        raise click.UsageError('--dask needs distributed: pip install "zddm-flags[dask]"')
    import distributed

    try:
        client = cast(Any, distributed).Client(address)  # which has no types
    except (OSError, ValueError) as error:
        raise CouldNotRun(f"no Dask scheduler answers at {address}: {type(error).__name__}") from error
    try:
        yield client.get_executor(pure=False)
    finally:
        client.close()
