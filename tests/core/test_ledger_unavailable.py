"""What happens while the ledger cannot be reached, where writes must go on: `on_ledger_error="available"`."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.core.worlds import LEDGER_CALLS, MANY, Migration, Trouble, World
from zddm_flags import Telemetry
from zddm_flags.errors import (
    InvalidKey,
    LedgerMismatch,
    LedgerUnavailable,
    NotApplied,
    OperationTimedOut,
    Unsupported,
)
from zddm_flags.ledger import MAX_KEY_BYTES

KEY = "ada"


@pytest.fixture
def often() -> Iterator[None]:
    """Threads that take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture(autouse=True)
async def marked(world: World) -> AsyncIterator[None]:
    """Nothing goes on in the background when a test is over."""
    yield
    for migration in made:
        migration.ledger.recover()
        await world.call(migration.proxy.close)
    made.clear()


made: list[Migration] = []


def available(world: World, **options: Any) -> Migration:
    """A migration in which both stores hold v1, and whose writes go on without the ledger."""
    values = {KEY: "v1", "alan": "w1"}
    options = {"old": values, "new": values, "on_ledger_error": "available", **options}
    migration = world.migration(1.0, **options)
    made.append(migration)
    return migration


async def test_write_goes_on(world: World) -> None:
    """A write without the ledger changes Old alone, and this process reads the key from Old from then on."""
    migration = available(world)
    migration.ledger.outage(methods=LEDGER_CALLS)
    await migration.write(KEY, "v2")
    assert migration.calls() == ["ledger.begin"] * 3 + ["old.write"]
    migration.ledger.recover()
    assert await migration.read(KEY) == "v2"
    assert await migration.read("alan") == "w1"
    assert migration.calls() == ["old.read", "ledger.dirty", "new.read"]
    assert migration.stats().operations == {
        ("write", "ledger_failed"): 1,
        ("read", "ledger_failed"): 1,
        ("read", "new_hit"): 1,
    }
    assert migration.stats().unmarked_keys == 1


async def test_key_is_remembered_before_old_is_written(world: World) -> None:
    """A read that begins while Old is written without the ledger does not trust New."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    seen: list[object] = []

    async def read_meanwhile() -> None:
        seen.append(await migration.read(KEY))

    migration.old.after["write"] = read_meanwhile
    await migration.write(KEY, "v2")
    assert seen == ["v2"]


async def test_marking(world: World) -> None:
    """A mark makes the key stale for every process, and only then is it forgotten here."""
    migration = available(world)
    other = migration.in_another_process(1.0)
    migration.ledger.outage(methods=LEDGER_CALLS)
    await migration.write(KEY, "v2")
    await migration.delete("alan")
    assert await world.call(migration.proxy.mark_unmarked) == 2
    assert migration.stats().unmarked_keys == 2
    migration.ledger.recover()
    migration.calls()
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.calls() == ["ledger.begin", "ledger.end"]
    assert migration.left == (2, 0)
    assert await other.read(KEY) == "v2"
    assert await other.read("alan") is None
    assert migration.new.values == {KEY: "v2"}
    assert migration.clean_differences() == {}
    assert migration.stats().unmarked_keys == 0


async def test_marking_contends_with_a_copy(world: World) -> None:
    """A copy in flight when the key is marked ends stale: it may bring what Old held before."""
    migration = available(world, new={})
    other = migration.in_another_process(1.0)

    async def write_without_the_ledger_and_mark() -> None:
        migration.ledger.before["begin"] = Trouble()
        await migration.write(KEY, "v2")
        migration.ledger.recover()
        assert await world.call(migration.proxy.mark_unmarked) == 0

    migration.new.before["write"] = write_without_the_ledger_and_mark
    assert await other.read(KEY) == "v1"
    assert migration.new.values == {KEY: "v1"}
    assert migration.left == (1, 0)
    assert await other.read(KEY) == "v2"


async def test_key_is_not_marked_while_it_is_changed(world: World) -> None:
    """A key whose write is under way is marked after it, for a copy could come between."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    left: list[int] = []

    async def mark_too_soon() -> None:
        migration.ledger.recover()
        left.append(await world.call(migration.proxy.mark_unmarked))

    migration.old.before["write"] = mark_too_soon
    await migration.write(KEY, "v2")
    assert left == [1]
    assert migration.left == (0, 0)
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.left == (1, 0)


async def test_key_is_not_marked_between_two_changes(world: World) -> None:
    """A key that two writes change at once is marked after both."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    left: list[int] = []

    async def write_and_mark() -> None:
        await migration.write(KEY, "v3")
        migration.ledger.recover()
        left.append(await world.call(migration.proxy.mark_unmarked))

    migration.old.before["write"] = write_and_mark
    await migration.write(KEY, "v2")
    assert left == [1]
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.left == (1, 0)


async def test_key_changed_again_while_it_is_marked(world: World) -> None:
    """A key that is changed while its mark is on the way is marked once more."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")
    migration.ledger.recover()

    async def change_again() -> None:
        migration.ledger.before["begin"] = Trouble()
        await migration.write(KEY, "v3")
        migration.ledger.recover()

    migration.ledger.after["begin"] = change_again
    migration.calls()
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.calls().count("ledger.end") == 2
    assert migration.left == (1, 0)


async def test_old_raises(world: World) -> None:
    """After a write of Old that raised a token is left to the reaper: the write may land after the mark."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    migration.old.before["write"] = Trouble()
    with pytest.raises(Trouble):
        await migration.write(KEY, "v2")
    migration.ledger.recover()
    migration.old.recover()
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.left == (0, 1)
    migration.old.put({KEY: "v2"})  # it lands
    assert await migration.read(KEY) == "v2"
    migration.clock.advance(60.0)
    assert await migration.read(KEY) == "v2"  # reaps, and copies
    assert migration.left == (0, 0)
    assert migration.new.values[KEY] == "v2"


async def test_old_refuses(world: World) -> None:
    """A write that Old certainly refused raises its cause, and leaves no token."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    cause = ValueError("too long")
    refused = NotApplied()
    refused.__cause__ = cause
    migration.old.before["write"] = refused
    with pytest.raises(ValueError) as caught:
        await migration.write(KEY, "v2")
    assert caught.value is cause
    migration.ledger.recover()
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.left == (1, 0)


async def test_too_many_keys(world: World) -> None:
    """Where no more keys can be remembered a write raises LedgerUnavailable and touches nothing."""
    migration = available(world, max_unmarked_keys=2, old_methods=MANY)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")
    await migration.write(KEY, "v3")
    migration.calls()
    with pytest.raises(LedgerUnavailable, match="1 keys wait"):
        await migration.write_many({"alan": "w2", "grace": "x2"})
    assert migration.calls() == ["ledger.begin"] * 3
    assert migration.old.values == {KEY: "v3", "alan": "w1"}
    await migration.write("alan", "w2")
    await migration.write("alan", "w3")  # is remembered already
    assert migration.stats().unmarked_keys == 2


async def test_time_runs_out(world: World) -> None:
    """A ledger that took all the time leaves none for Old: OperationTimedOut, and neither store was changed."""
    migration = available(world)

    async def time_out() -> None:
        migration.clock.advance(30.0)
        raise Trouble

    migration.ledger.before["begin"] = time_out
    with pytest.raises(OperationTimedOut, match="shorter time-outs"):
        await migration.write(KEY, "v2")
    assert migration.calls() == ["ledger.begin"]
    assert migration.stats().unmarked_keys == 0


async def test_batch(world: World) -> None:
    """A batch without the ledger is one call to Old; a batch read takes its keys from Old, and others from New."""
    migration = available(world, old_methods=MANY, new_methods=MANY, old={KEY: "v1", "alan": "w1", "grace": "x1"})
    migration.new.put({"grace": "x1"})
    migration.ledger.before["begin"] = Trouble()
    await migration.write_many({KEY: "v2", "alan": "w2"})
    migration.ledger.recover()
    assert await migration.read_many([KEY, "alan", "grace"]) == {KEY: "v2", "alan": "w2", "grace": "x1"}
    assert migration.calls() == ["ledger.begin"] * 3 + [
        "old.write_many",
        "ledger.dirty",
        "new.read",
        "old.read_many",
    ]


async def test_keys_are_marked_by_themselves(world: World) -> None:
    """Once the ledger can be reached the keys are marked in the background, without another operation."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")
    migration.ledger.recover()
    await world.until(lambda: migration.left == (1, 0))
    await world.until(lambda: migration.stats().unmarked_keys == 0)
    migration.ledger.before["begin"] = Trouble()  # and again after that
    await migration.write("alan", "w2")
    migration.ledger.recover()
    await world.until(lambda: migration.left == (2, 0))


async def test_long_outage(world: World) -> None:
    """Marking goes on in the background until the ledger answers, however long that takes."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")
    migration.calls()
    await world.until(lambda: "ledger.begin" in migration.journal)
    migration.ledger.recover()
    await world.until(lambda: migration.left == (1, 0))


async def test_close_marks(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """close() marks what is left, and says loudly where it cannot."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")
    await world.call(migration.proxy.close)
    assert "closed_with_unmarked_keys" in capsys.readouterr().out
    migration.ledger.recover()
    await world.call(migration.proxy.close)
    assert migration.left == (1, 0)


@pytest.mark.filterwarnings("ignore:Exception in thread zddm-background")
async def test_marking_ends_and_begins_again(world: World) -> None:
    """What ends the marking in the background, such as a cancelled task, ends it until the key is met again."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")
    migration.calls()
    migration.ledger.before["begin"] = SystemExit() if world.blocking else asyncio.CancelledError()
    await world.until(lambda: "ledger.begin" in migration.journal)
    await world.until(lambda: not migration.proxy._marking.alive)
    migration.ledger.recover()
    assert await migration.read(KEY) == "v2"
    await world.until(lambda: migration.left == (1, 0))
    await world.until(lambda: migration.stats().unmarked_keys == 0)


def test_marking_ends_with_its_event_loop() -> None:
    """A proxy that is used again in another event loop marks there what the first one left."""
    world = World("asyncio")
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(migration.write(KEY, "v2"))
    (task,) = asyncio.all_tasks(loop)
    loop.close()  # and nobody cancels the task
    migration.ledger.recover()

    async def read_and_wait() -> None:
        assert await migration.read(KEY) == "v2"
        await world.until(lambda: migration.left == (1, 0))

    asyncio.run(read_and_wait())
    task._log_destroy_pending = False  # type: ignore[attr-defined] # it is pending, which is the point


async def test_close_does_not_wait_for_the_background(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """close() marks by itself while another marking hangs in the ledger; a key may be marked twice."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")

    async def close_meanwhile() -> None:
        await world.call(migration.proxy.close)
        assert migration.left == (1, 0)

    migration.ledger.before["begin"] = close_meanwhile
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.left == (1, 0)
    assert "closed_with_unmarked_keys" not in capsys.readouterr().out


async def test_key_changed_again_while_it_is_marked_twice(world: World) -> None:
    """A mark is never taken for one of a later change, though another marking forgot the key in between."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")
    migration.ledger.recover()

    async def mark_and_change_again() -> None:
        assert await world.call(migration.proxy.mark_unmarked) == 0
        migration.ledger.before["begin"] = Trouble()
        await migration.write(KEY, "v3")
        migration.ledger.recover()

    migration.ledger.after["begin"] = mark_and_change_again
    migration.calls()
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.calls().count("ledger.end") == 3


async def test_close_begins_again(world: World) -> None:
    """The first call after an outage may meet a connection that died in it: close() does not give up then."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")

    async def fail_once() -> None:
        raise Trouble

    migration.ledger.before["begin"] = fail_once
    await world.call(migration.proxy.close)
    assert migration.left == (1, 0)


async def test_write_in_progress_at_close(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A write that ends after close() is marked as well, or it is said that it could not be."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()

    async def close_meanwhile() -> None:
        await world.call(migration.proxy.close)
        capsys.readouterr()

    migration.old.before["write"] = close_meanwhile
    await migration.write(KEY, "v2")
    said: list[str] = []

    def is_said() -> bool:
        said.append(capsys.readouterr().out)
        return "closed_with_unmarked_keys" in "".join(said)

    await world.until(is_said)
    assert not migration.proxy._marking.alive  # it calls no ledger after that, which may be closed by now


async def test_close_in_the_middle_of_a_write_marks_it(world: World) -> None:
    """A write that ends after close() is marked, if the ledger can be reached then."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()

    async def close_meanwhile() -> None:
        await world.call(migration.proxy.close)
        migration.ledger.recover()

    migration.old.before["write"] = close_meanwhile
    await migration.write(KEY, "v2")
    await world.until(lambda: migration.left == (1, 0))


async def test_key_that_the_ledger_may_refuse(world: World) -> None:
    """A key that a ledger may find too long is not changed without it: it could never be marked."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    with pytest.raises(LedgerUnavailable):
        await migration.write("x" * MAX_KEY_BYTES, "v2")  # its name in the ledger is longer by one
    assert migration.calls() == ["ledger.begin"] * 3
    await migration.write("x" * (MAX_KEY_BYTES - 1), "v2")
    assert migration.stats().unmarked_keys == 1


@pytest.mark.parametrize("error", [LedgerMismatch(), InvalidKey(), Unsupported()])
async def test_ledger_refuses_the_mark(world: World, error: Exception) -> None:
    """A ledger that refuses the mark is asked again later, and the keys are read from Old until then."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")
    migration.calls()
    migration.ledger.before["begin"] = error
    assert await world.call(migration.proxy.mark_unmarked) == 1
    assert migration.calls() == ["ledger.begin"]
    migration.ledger.recover()
    assert await migration.read(KEY) == "v2"
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.left == (1, 0)


async def test_cancelled_while_old_is_written(world: World) -> None:
    """A write without the ledger that is interrupted in Old is marked, and its token is left to the reaper."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    migration.old.before["write"] = KeyboardInterrupt() if world.blocking else asyncio.CancelledError()
    with pytest.raises(BaseException) as caught:
        await migration.write(KEY, "v2")
    assert isinstance(caught.value, (KeyboardInterrupt, asyncio.CancelledError))
    migration.ledger.recover()
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.left == (0, 1)


async def test_many_keys_are_marked_in_steps(world: World) -> None:
    """Marking takes as many keys at a time as a batch does, in the order that all batches take them in."""
    migration = available(world, max_batch=2)
    migration.ledger.before["begin"] = Trouble()
    for key in ("grace", "alan", KEY):
        await migration.write(key, "v2")
    migration.ledger.recover()
    migration.ledger.requests.clear()
    assert await world.call(migration.proxy.mark_unmarked) == 0
    begun = [request[1][0] for request in migration.ledger.requests if request[0] == "begin"]
    assert begun == [[b"sada", b"salan"], [b"sgrace"]]
    assert migration.left == (3, 0)


@pytest.mark.parametrize("first", ["raises", "returns"])
async def test_one_of_two_changes_raised(world: World, first: str) -> None:
    """Where one of two changes of a key raised, whichever it was, its token is left to the reaper."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    for raises in (first == "raises", first == "returns"):
        if raises:
            migration.old.before["write"] = Trouble()
            with pytest.raises(Trouble):
                await migration.write(KEY, "v2")
            migration.old.recover()
        else:
            await migration.write(KEY, "v3")
    migration.ledger.recover()
    assert await world.call(migration.proxy.mark_unmarked) == 0
    assert migration.left == (0, 1)


@pytest.mark.usefixtures("often")
def test_threads_change_and_mark() -> None:
    """Threads that write while the ledger comes and goes, and others that mark, leave no key unmarked."""
    world = World("blocking")
    migration = available(world, telemetry=Telemetry(log=False))
    keys = [f"key {number}" for number in range(4)]
    stop = threading.Event()

    def write(worker: int) -> None:
        for number in range(300):
            key = keys[number % len(keys)]
            migration.proxy.write(key, f"{worker} {number}")
            migration.proxy.read(key)

    def flap() -> None:
        while not stop.is_set():
            migration.ledger.before["begin"] = Trouble()
            migration.ledger.before.pop("begin")
            migration.proxy.mark_unmarked()

    with ThreadPoolExecutor(5) as pool:
        flapping = [pool.submit(flap) for _ in range(2)]
        for done in [pool.submit(write, worker) for worker in range(3)]:
            done.result(60)
        stop.set()
        for each in flapping:
            each.result(60)
    assert migration.proxy.mark_unmarked() == 0
    assert all(not known.changing for known in migration.proxy._unmarked.values())
    assert migration.clean_differences() == {}


async def test_fork(world: World) -> None:
    """The child of a fork goes on reading from Old what its parent has not marked, and can mark it."""
    migration = available(world)
    migration.ledger.before["begin"] = Trouble()
    await migration.write(KEY, "v2")
    migration.ledger.recover()
    migration.proxy._after_fork()  # what the hook calls; tests of real forks show that it does
    assert await migration.read(KEY) == "v2"
    assert await world.call(migration.proxy.mark_unmarked) == 0
