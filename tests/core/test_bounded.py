"""One call in asyncio, bounded in time: a driver that does not let go of it holds nobody up."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.core.worlds import Trouble
from zddm_flags._async._world import bounded

SOON = 0.03
LONG = 60.0


class Ended:
    """Hears how a call really ended."""

    def __init__(self) -> None:
        self.told: list[bool | None] = []
        self.event = asyncio.Event()

    def __call__(self, failed: bool | None) -> None:
        self.told.append(failed)
        self.event.set()

    async def wait(self) -> list[bool | None]:
        await asyncio.wait_for(self.event.wait(), 30)
        await asyncio.sleep(0)  # a second time would come by now
        return self.told


@pytest.fixture
async def ended() -> Ended:
    return Ended()


@pytest.fixture(autouse=True)
async def complaints() -> Any:
    """Nothing is left to the event loop to complain about, such as an exception that nobody retrieved."""
    heard: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    yield heard
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    assert heard == []


@pytest.fixture(params=[None, LONG])
def seconds(request: pytest.FixtureRequest) -> float | None:
    """Without a limit, and with one that is far away."""
    return request.param


def stubborn(
    release: asyncio.Event, then: Callable[[], Any] | None = None
) -> Callable[[], Coroutine[Any, Any, Any]]:
    """A driver that ignores a cancellation until it is done."""

    async def call() -> Any:
        give_up_at = time.monotonic() + 10  # so that a test which fails also ends
        while not release.is_set() and time.monotonic() < give_up_at:
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(release.wait(), 10)
        return then() if then is not None else "done"

    return call


def fail() -> None:
    raise Trouble


async def test_result(ended: Ended, seconds: float | None) -> None:
    """The call gets its arguments, and its result is returned."""

    async def call(one: int, other: int) -> int:
        await asyncio.sleep(0)
        return one + other

    assert await bounded(seconds, ended, call, 1, 2) == 3
    assert await ended.wait() == [False]


async def test_error(ended: Ended, seconds: float | None) -> None:
    """What the call raises is raised, as it is."""
    error = Trouble()

    async def call() -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(Trouble) as raised:
        await bounded(seconds, ended, call)
    assert raised.value is error
    assert raised.value.__cause__ is None
    assert await ended.wait() == [True]


async def test_own_time_out(ended: Ended, seconds: float | None) -> None:
    """A TimeoutError of the driver's own is an error like others."""

    async def call() -> None:
        raise TimeoutError("the driver's")

    with pytest.raises(TimeoutError, match="the driver's"):
        await bounded(seconds, ended, call)
    assert await ended.wait() == [True]


async def test_time_out(ended: Ended) -> None:
    """A call that takes too long raises TimeoutError; where the driver lets go of it, it ends without an error."""
    never = asyncio.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="may still take effect"):
        await bounded(SOON, ended, never.wait)
    assert SOON * 0.9 < time.monotonic() - began < 5
    assert await ended.wait() == [True]


@pytest.mark.parametrize("then", [None, fail])
async def test_a_driver_that_takes_its_time(ended: Ended, then: Callable[[], Any] | None) -> None:
    """A driver that ignores its cancellation holds nobody up; when it really ends, `ended` is told: too late."""
    release = asyncio.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await bounded(SOON, ended, stubborn(release, then))
    assert time.monotonic() - began < 5
    await asyncio.sleep(SOON)
    assert ended.told == [], "it goes on"
    release.set()
    assert await ended.wait() == [True]


async def test_a_driver_is_not_collected(ended: Ended) -> None:
    """A call that nobody waits for any more is kept until it has ended, though nothing else knows of it."""
    known: list[weakref.ref[asyncio.Future[str]]] = []

    async def call() -> str:
        answer = asyncio.get_running_loop().create_future()
        known.append(weakref.ref(answer))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(LONG)
        return await answer

    with pytest.raises(TimeoutError):
        await bounded(SOON, ended, call)
    await asyncio.sleep(0)  # the cancellation arrives
    await asyncio.sleep(0)
    gc.collect()
    answer = known[0]()
    assert answer is not None, "the call was lost in its middle"
    answer.set_result("late")
    assert await ended.wait() == [True]


async def cancelled(running: asyncio.Future[Any]) -> float:
    """Cancel, and return how long that took."""
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    return time.monotonic() - began


async def test_cancellation(ended: Ended, seconds: float | None) -> None:
    """A caller that is cancelled cancels the call, which is no error of the store's."""
    reached, never = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        reached.set()
        await never.wait()

    running = asyncio.ensure_future(bounded(seconds, ended, call))
    await reached.wait()
    assert await cancelled(running) < 5
    assert await ended.wait() == [None]


async def test_cancellation_as_the_call_ends(ended: Ended) -> None:
    """A caller that is cancelled just as its call ends is cancelled, and `ended` is told once."""
    called: list[int] = []

    async def call() -> None:
        called.append(1)

    running = asyncio.ensure_future(bounded(LONG, ended, call))
    await asyncio.sleep(0)  # the call has its task now, and ends before its caller hears of the cancellation
    await cancelled(running)
    assert await ended.wait() == [False]
    assert called == [1]


async def test_cancellation_lets_the_driver_clean_up(ended: Ended) -> None:
    """What the driver cleans up when it is cancelled is clean before its caller goes on."""
    reached, never = asyncio.Event(), asyncio.Event()
    cleaned: list[int] = []

    async def call() -> None:
        reached.set()
        try:
            await never.wait()
        finally:
            await asyncio.sleep(SOON)
            cleaned.append(1)

    running = asyncio.ensure_future(bounded(LONG, ended, call))
    await reached.wait()
    await cancelled(running)
    assert cleaned == [1]
    assert ended.told == [None]


async def test_cancellation_is_bounded_too(ended: Ended) -> None:
    """A driver that ignores the cancellation of its caller holds it up no longer than the time for the call."""
    release = asyncio.Event()
    running = asyncio.ensure_future(bounded(SOON, ended, stubborn(release)))
    await asyncio.sleep(0)
    assert await cancelled(running) < 5
    assert ended.told == []
    release.set()
    assert await ended.wait() == [False]


async def test_cancellation_twice(ended: Ended) -> None:
    """A caller that is cancelled again while the driver cleans up goes on at once."""
    release = asyncio.Event()
    running = asyncio.ensure_future(bounded(LONG, ended, stubborn(release)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not running.done()
    assert await cancelled(running) < 5
    release.set()
    assert await ended.wait() == [False]


async def test_an_error_after_a_cancellation(ended: Ended) -> None:
    """What a driver raises as its caller is cancelled says nothing of the store, and disturbs nobody."""
    reached, never = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        reached.set()
        try:
            await never.wait()
        except asyncio.CancelledError:
            raise Trouble from None

    running = asyncio.ensure_future(bounded(LONG, ended, call))
    await reached.wait()
    await cancelled(running)
    assert await ended.wait() == [None]


async def test_a_call_that_cancels_itself(ended: Ended) -> None:
    """A call that ends cancelled though nobody cancelled it, as when a connection is lost, has failed."""

    async def call() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ConnectionAbortedError):
        await bounded(LONG, ended, call)
    assert await ended.wait() == [True]


async def test_context(ended: Ended, seconds: float | None) -> None:
    """The call sees its caller's context variables."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("the caller's")

    async def call() -> str:
        return variable.get("none")

    assert await bounded(seconds, ended, call) == "the caller's"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.shutdown()


async def test_parent_of_spans(ended: Ended, seconds: float | None, exporter: InMemorySpanExporter) -> None:
    """The spans of a driver are children of the span that is current where it is called."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")

    async def call() -> None:
        with tracer.start_as_current_span("driver"):
            await asyncio.sleep(0)

    with tracer.start_as_current_span("operation") as operation:
        await bounded(seconds, ended, call)
        assert trace.get_current_span() is operation
    driver, outer = exporter.get_finished_spans()
    assert driver.parent is not None
    assert outer.context is not None
    assert driver.parent.span_id == outer.context.span_id
