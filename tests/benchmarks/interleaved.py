"""Time several ways of doing one thing in turns: A B C, C B A, ... so that what slows the machine slows them all.

`pyperf.Runner` is not used for that: it measures one thing to its end, in processes of its own, before it begins
with the next, so that a neighbour's minute of work is in one side of a ratio. What is taken over from it: loops
that are calibrated until a turn is long enough for the clock, a turn to warm up that is thrown away, and several
processes, because the layout of memory and the seed of hashes differ between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pyperf import perf_counter

from tests.benchmarks.settings import Settings

__all__ = ["WORLDS", "Side", "World", "in_turns"]

World: TypeAlias = Literal["blocking", "asyncio"]
WORLDS: tuple[World, ...] = ("blocking", "asyncio")

MOST_LOOPS = 1_000_000
WARM_UP_LOOPS = 3


@dataclass(frozen=True, slots=True)
class Side:
    """One way of doing it.

    `call(item)`, or `call(item, value)` where there is a value, is timed for each of `items`, again and again.
    """

    call: Callable[..., Any]
    items: Sequence[Any]
    value: object = None
    reset: Callable[[], Any] | None = None
    """Is called before the items are gone through (again), and not timed."""


def in_turns(
    sides: Mapping[str, Side], settings: Settings, runner: asyncio.Runner | None = None
) -> dict[str, list[float]]:
    """Seconds of one call of each side in each turn. With a `runner` the calls are coroutine functions."""

    def seconds(side: Side, loops: int) -> float:
        return _blocking(side, loops) if runner is None else runner.run(_asyncio(side, loops))

    loops = {name: _calibrated(side, seconds, settings.turn_seconds) for name, side in sides.items()}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(settings.turns):
        for name in order:
            taken[name].append(seconds(sides[name], loops[name]) / loops[name])
        order.reverse()
    return taken


def _calibrated(side: Side, seconds: Callable[[Side, int], float], wanted: float) -> int:
    """So many loops take `wanted` seconds or more, after a few that connect and make all that is made once."""
    seconds(side, WARM_UP_LOOPS)
    loops = 1
    while (taken := seconds(side, loops)) < wanted and loops < MOST_LOOPS:
        loops = max(loops * 2, min(int(loops * wanted / max(taken, 1e-9)), loops * 20))
    return loops


def _blocking(side: Side, loops: int) -> float:
    taken = 0.0
    for items in _portions(side, loops):
        if side.reset is not None:
            side.reset()
        call, value = side.call, side.value
        if value is None:
            began = perf_counter()
            for item in items:
                call(item)
        else:
            began = perf_counter()
            for item in items:
                call(item, value)
        taken += perf_counter() - began
    return taken


async def _asyncio(side: Side, loops: int) -> float:
    taken = 0.0
    for items in _portions(side, loops):
        if side.reset is not None:
            reset: Awaitable[object] = side.reset()
            await reset
        call, value = side.call, side.value
        if value is None:
            began = perf_counter()
            for item in items:
                await call(item)
        else:
            began = perf_counter()
            for item in items:
                await call(item, value)
        taken += perf_counter() - began
    return taken


def _portions(side: Side, loops: int) -> Sequence[Sequence[Any]]:
    whole, rest = divmod(loops, len(side.items))
    return [side.items] * whole + ([side.items[:rest]] if rest else [])
