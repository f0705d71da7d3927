"""What must happen in the child of a fork happens, whatever the threads of the parent were doing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.core.worlds import Trouble, World
from zddm_flags import Rollout, StaticSource, TrafficGate, _fork
from zddm_flags._fork import after_fork_in_child
from zddm_telemetry import metrics

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


class Hooked:
    """Something that has to know that it was forked."""

    def __init__(self) -> None:
        self.forked = False
        after_fork_in_child(self.after_fork)

    def after_fork(self) -> None:
        self.forked = True


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Threads that take turns as often as the interpreter lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_child(check: Callable[[], bool]) -> bool:
    """What `check` says in the child of a fork; False where it raises or takes longer than 10 seconds."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)
        status = 1
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.usefixtures("busy_threads")
def test_hooks_of_many_threads() -> None:
    """No hook is lost where threads register theirs at once: a proxy without it would trust New in the child."""
    made: list[Hooked] = []
    start = threading.Barrier(4)

    def make() -> None:
        start.wait(30)
        made.extend([Hooked() for _ in range(10)])

    for _ in range(20):
        crowd = [Hooked() for _ in range(500)]
        del crowd  # they have to be let go of
        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert in_child(lambda: len(made) == 800 and all(hooked.forked for hooked in made))


def test_a_fork_while_a_thread_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork waits for a thread that logs, but not for one whose logging is blocked; the child may log at once."""
    monkeypatch.setattr(_fork, "WAIT_SECONDS", 0.2)
    logging, log, blocked = threading.Event(), threading.Event(), []

    def work() -> None:
        with _fork.logging:
            logging.set()
            blocked.append(not log.wait(30))

    def child_logs() -> bool:
        with _fork.logging:
            return True

    thread = threading.Thread(target=work)
    thread.start()
    assert logging.wait(30)
    began = time.monotonic()
    assert in_child(child_logs)
    assert time.monotonic() - began >= 0.2
    assert blocked == []
    threading.Timer(0.05, log.set).start()
    monkeypatch.setattr(_fork, "WAIT_SECONDS", 30)
    assert in_child(lambda: blocked == [False] and child_logs())
    thread.join(30)
    another = threading.Thread(target=child_logs, daemon=True)
    another.start()
    another.join(30)
    assert not another.is_alive()


def test_a_fork_by_what_logs() -> None:
    """A thread that forks in the middle of logging goes on with that, in the parent and in the child."""
    results: list[bool] = []

    def nested() -> bool:
        with _fork.logging:
            pass
        return True

    def in_both() -> None:
        child, status = -1, 1
        try:
            with _fork.logging:
                child = os.fork()
            if child == 0:
                thread = threading.Thread(target=nested)  # another one may log, now that this one is done
                thread.start()
                thread.join(10)
                status = 1 if thread.is_alive() else 0
        finally:
            if child == 0:
                os._exit(status)
        results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0)

    thread = threading.Thread(target=in_both)
    thread.start()
    thread.join(30)
    assert results == [True]
    assert in_child(nested)


def test_keys_without_a_mark() -> None:
    """What a parent changed without the ledger is read from Old in its child, and marked there once it is met."""
    world = World("blocking")
    values = {"ada": "v1"}
    migration = world.migration(1.0, old=values, new=values, on_ledger_error="available")
    migration.ledger.before["begin"] = Trouble()
    migration.proxy.write("ada", "v2")
    migration.ledger.recover()

    def read_and_wait() -> bool:
        read = migration.proxy.read("ada")
        while migration.proxy.stats().unmarked_keys:
            time.sleep(0.01)
        return read == "v2" and migration.left == (1, 0)

    assert in_child(read_and_wait)


def test_a_fork_between_two_event_loops() -> None:
    """The child of a fork does not take the task of its parent's event loop for one of its own."""
    world = World("asyncio")
    values = {"ada": "v1"}
    migration = world.migration(1.0, old=values, new=values, on_ledger_error="available")
    migration.ledger.before["begin"] = Trouble()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(migration.write("ada", "v2"))
    migration.ledger.recover()

    async def read_and_wait() -> bool:
        read = await migration.read("ada")
        await world.until(lambda: migration.left == (1, 0))
        return bool(read == "v2")

    try:
        assert in_child(lambda: asyncio.run(read_and_wait()))
    finally:
        (task,) = asyncio.all_tasks(loop)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()


def test_a_fork_while_old_is_changed() -> None:
    """The child of a fork cannot see how its parent's change of Old ends: its mark is left to the reaper."""
    world = World("blocking")
    migration = world.migration(1.0, old={"ada": "v1"}, on_ledger_error="available")
    migration.ledger.before["begin"] = Trouble()
    marked: list[bool] = []

    def mark() -> bool:
        migration.ledger.recover()
        return migration.proxy.mark_unmarked() == 0 and migration.left == (0, 1)

    async def fork() -> None:
        with migration.proxy._unmarked.lock:  # as another thread may
            marked.append(in_child(mark))

    migration.old.before["write"] = fork
    migration.proxy.write("ada", "v2")
    migration.ledger.recover()
    migration.proxy.close()
    assert marked == [True]


def test_a_fork_while_a_rate_is_set() -> None:
    """A rate can be set in the child, though a thread of the parent was setting one at the moment of the fork."""
    source = StaticSource(0.5)
    gate = TrafficGate(source)
    inside, release = threading.Event(), threading.Event()

    def listener(rollout: Rollout) -> None:
        if rollout.read == 0.25:
            inside.set()
            assert release.wait(30)

    source.subscribe(listener)
    setting = threading.Thread(target=lambda: source.set(0.25))
    setting.start()
    assert inside.wait(30)

    def kill() -> bool:
        gate.set_rate(0.0)
        return gate.rate == 0.0

    try:
        assert in_child(kill)
    finally:
        release.set()
        setting.join(30)


def test_a_fork_while_a_proxy_is_made() -> None:
    """The child can make a proxy, though a thread of the parent was making one at the moment of the fork."""
    migration = World("blocking").migration(1.0, old={"ada": "v1"})

    def read() -> bool:
        return World("blocking").migration(1.0, old={"ada": "v1"}).proxy.read("ada") == "v1"

    with metrics._lock, migration.proxy._telemetry.instruments._lock:
        assert in_child(read)
