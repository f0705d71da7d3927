"""What only calls that can be cancelled must keep. Its twin in `_sync` is hand-written too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from zddm_flags.testing._async._world import Body
from zddm_flags.testing._async.rules import rule
from zddm_flags.testing._samples import IDENTITY, NAME, require
from zddm_flags.tokens import new_token

__all__ = ["AdapterCancellation", "LedgerCancellation"]

STEPS = 12
MIXED_UP = (
    "after other calls were cancelled. A connection on which a call was cancelled may still bring its answer: "
    "close "
    "it, or the next call takes that answer for its own."
)


class AdapterCancellation:
    """What a call of an adapter that is cancelled must leave as it is: all other calls."""

    async def check_rule(self, body: Callable[[Any, Any], Body], needs: Sequence[str], /) -> None:
        """Run the body of a test."""
        raise NotImplementedError

    def make_key(self, number: int) -> Any:
        """The key of this number."""
        raise NotImplementedError

    def make_value(self, number: int) -> Any:
        """The value of this number."""
        raise NotImplementedError

    @rule()
    async def test_a_cancelled_call_leaves_the_others_alone(self, adapter: Any) -> None:
        """After calls were cancelled at any moment each key reads as what was written to it."""
        cancelled, other, absent = self.make_key(0), self.make_key(1), self.make_key(2)
        old, new, value = self.make_value(0), self.make_value(1), self.make_value(2)
        for key in (cancelled, other):
            await adapter.write(key, old if key == cancelled else value)
        for call in (lambda: adapter.read(cancelled), lambda: adapter.write(cancelled, new)):
            async for _ in cancellations(call):
                found = await adapter.read(other)
                require(found == value, f"read({other!r}) gave {found!r}, which holds {value!r}, {MIXED_UP}")
                found = await adapter.read(absent)
                require(found is None, f"read() of an absent key gave {found!r}, {MIXED_UP}")
                found = await adapter.read(cancelled)
                require(
                    found in (old, new), f"read() gave {found!r}, which is not one of {(old, new)!r}, {MIXED_UP}"
                )


class LedgerCancellation:
    """What a call of a ledger that is cancelled must leave as it is: all other calls."""

    async def check_rule(self, body: Callable[[Any, Any], Body], needs: Sequence[str], /) -> None:
        """Run the body of a test."""
        raise NotImplementedError

    @rule()
    async def test_a_cancelled_call_leaves_the_others_alone(self, ledger: Any) -> None:
        """After calls were cancelled at any moment `dirty` answers what it was asked."""
        rows = ledger.migration(NAME, IDENTITY)
        await rows.begin([b"sdirty"], new_token())
        for call in (
            lambda: rows.dirty([b"sdirty"]),
            lambda: rows.dirty([b"sclean"]),
            lambda: rows.begin([b"sother"], new_token()),
            lambda: rows.begin_copy([b"sother"], new_token()),
            rows.reset,  # which changes nothing, and keeps nobody out for longer than it lasts
        ):
            async for _ in cancellations(call):
                for key, dirty in ((b"sdirty", [b"sdirty"]), (b"sclean", [])):
                    found = list(await rows.dirty([key]))
                    require(found == dirty, f"dirty([{key!r}]) gave {found!r}, and it is {dirty!r}, {MIXED_UP}")


async def cancellations(call: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
    """Make the call and cancel it, over and over, each time a little later; yields after each."""
    started = time.monotonic()
    task = asyncio.ensure_future(_made(call))
    await asyncio.wait([task])
    seconds = time.monotonic() - started
    for step in range(STEPS * 2):
        task = asyncio.ensure_future(_made(call))
        if step < STEPS:
            for _ in range(step):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(seconds * (step - STEPS) / STEPS)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        yield


async def _made(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()
