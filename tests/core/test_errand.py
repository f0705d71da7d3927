"""Work beside the operations: it goes on while there is some, ends with it, and is begun anew."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.core.worlds import Trouble, World
from zddm_flags._async.errand import AsyncErrand
from zddm_flags._sync.errand import Errand


class Job:
    """Things to do, one by one."""

    def __init__(self, world: World, pause_seconds: float = 0.0) -> None:
        self.to_do: list[int] = []
        self.done: list[int] = []
        self.error: BaseException | None = None
        self.hold: Callable[[], Any] | None = None
        make: Any = Errand if world.blocking else AsyncErrand
        self.errand: Any = make(world.dress(self._work), lambda: bool(self.to_do), pause_seconds)

    async def _work(self) -> None:
        if self.hold is not None:
            await self.hold()
        if self.error is not None:
            raise self.error
        if self.to_do:
            self.done.append(self.to_do.pop(0))


@pytest.fixture
def often() -> Iterator[None]:
    """Threads that take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("often")
async def test_nothing_is_forgotten(world: World) -> None:
    """What is added at any moment is done, also just as the work before it ends."""
    job = Job(world)
    give_up_at = time.monotonic() + 30
    for number in range(1000):
        job.to_do.append(number)
        job.errand.start()
        while len(job.done) <= number:  # without a pause in which the work could end
            assert time.monotonic() < give_up_at, "it was forgotten"
            await world.pause()
    await world.until(lambda: not job.errand.alive)
    assert job.done == list(range(1000))


def test_what_is_added_at_the_very_end() -> None:
    """What is added while the thread still lives, but after its last look for more, is done by another."""
    job = Job(World("blocking"))
    of_thread = threading.local()

    class Last:
        """Goes with the variables of its thread, which is when that is nearly over."""

        def __del__(self) -> None:
            job.to_do.append(2)
            job.errand.start()

    async def hold() -> None:
        job.hold = None
        of_thread.last = Last()

    job.hold = hold
    job.to_do = [1]
    job.errand.start()
    give_up_at = time.monotonic() + 10
    while job.done != [1, 2]:
        assert time.monotonic() < give_up_at, "it was forgotten"
        time.sleep(0.001)


async def test_it_ends_when_all_is_done(world: World) -> None:
    """It is done one step after another until there is no more; then its thread or task ends."""
    job = Job(world)
    before = threading.active_count()
    release = world.event()
    job.hold = release.wait
    job.to_do = [1, 2, 3]
    job.errand.start()
    job.errand.start()
    assert job.errand.alive
    assert threading.active_count() <= before + 1
    release.set()
    await world.call(job.errand.wait, 30)
    assert job.done == [1, 2, 3]
    await world.until(lambda: not job.errand.alive)
    await world.until(lambda: threading.active_count() <= before)


async def test_wait_is_bounded(world: World) -> None:
    """Who waits for its end waits for the time given, and does not end it."""
    job = Job(world)
    release = world.event()
    job.hold = release.wait
    job.to_do = [1]
    job.errand.start()
    await world.call(job.errand.wait, 0.01)
    assert job.errand.alive
    release.set()
    await world.call(job.errand.wait, 30)
    assert job.done == [1]


async def test_wait_in_the_work_itself(world: World) -> None:
    """The work may wait for its own end in vain: it goes on at once."""
    job = Job(world)

    async def wait() -> None:
        job.hold = None
        await world.call(job.errand.wait, 60)

    job.hold = wait
    job.to_do = [1]
    job.errand.start()
    await world.until(lambda: job.done == [1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_work_that_raises(world: World) -> None:
    """Work that raises ends it; the next start begins it anew."""
    job = Job(world)
    job.error = Trouble() if world.blocking else asyncio.CancelledError()
    job.to_do = [1]
    job.errand.start()
    await world.until(lambda: not job.errand.alive)
    assert job.done == []
    job.error = None
    job.errand.start()
    await world.until(lambda: job.done == [1])


def test_event_loops() -> None:
    """A task of an event loop that is gone does not keep the next loop's from beginning."""
    job = Job(World("asyncio"), 60)
    job.to_do = [1]

    async def begin() -> None:
        job.errand.start()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    assert job.errand.alive
    (task,) = asyncio.all_tasks(loop)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    assert not job.errand.alive
    job.errand._pause_seconds = 0

    async def begin_anew() -> None:
        job.errand.start()
        await job.errand.wait(30)

    asyncio.run(begin_anew())
    assert job.done == [1]


def test_no_event_loop() -> None:
    """Without an event loop nothing begins, and nothing is wrong."""
    job = Job(World("asyncio"))
    job.errand.start()
    assert not job.errand.alive


def test_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads have run out nothing begins, and the next start tries again."""
    job = Job(World("blocking"))
    job.to_do = [1]

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        job.errand.start()
    assert not job.errand.alive
    job.errand.start()
    job.errand.wait(30)
    assert job.done == [1]


def test_fork() -> None:
    """In a forked child nothing goes on, and no lock is held."""
    job = Job(World("blocking"), 0.2)
    job.to_do = [1]
    job.errand.start()
    job.errand._lock.acquire()
    job.errand.after_fork()
    assert not job.errand.alive
    job.to_do.clear()
