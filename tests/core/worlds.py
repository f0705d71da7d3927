"""One test body for both worlds.

A test asks for the fixture `world`, builds a `Migration` with it and awaits its operations; the proxy below is the
blocking one or the asyncio one. Stores and ledger are written once, as coroutines that a test can watch, fail
and interrupt in the middle of a call; the blocking side runs each of them by hand to its end, so that a hook may
itself call a blocking proxy.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

from zddm_flags import (
    AsyncBackfill,
    AsyncProxy,
    AsyncRepair,
    Backfill,
    InMemoryLedger,
    Page,
    Proxy,
    ProxyStats,
    Repair,
    Rollout,
    StoreInfo,
    TrafficGate,
)
from zddm_flags.jobs import Progress
from zddm_flags.ledger import LedgerSummary, MigrationLedger

T = TypeVar("T")

Hook: TypeAlias = Callable[[], Awaitable[object]]

PLAIN = ("read", "write", "delete")
MANY = (*PLAIN, "read_many", "write_many", "delete_many")
SCANNED = (*MANY, "scan", "partitions", "count")
LEDGER_CALLS = (
    *("begin", "begin_copy", "end", "withdraw", "dirty", "alone", "open_to", "reap", "summary"),
    *("stale_keys", "checkpoints", "save_checkpoint", "reset"),
)


class Trouble(Exception):
    """What a store or a ledger of these tests raises. Its text carries what must never be repeated."""

    def __init__(self, text: str = "secret-key secret-value") -> None:
        super().__init__(text)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits to its end, in the caller's thread."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("a coroutine waited in the blocking world")


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Watched:
    """Something that is called, whose every call is recorded and can be failed or interrupted.

    `before[method]` comes before the call takes effect, `after[method]` between its effect and its return. An
    exception there is raised at every call until it is removed; a hook is awaited once.
    """

    def __init__(self, name: str, journal: list[str]) -> None:
        self.name = name
        self.journal = journal
        self.requests: list[tuple[str, tuple[Any, ...]]] = []
        self.before: dict[str, Hook | BaseException] = {}
        self.after: dict[str, Hook | BaseException] = {}
        self.pause: Hook | None = None

    async def step(self, method: str, keys: Iterable[Any], effect: Callable[[], T]) -> T:
        """One call: it is recorded, takes effect and returns what that gave."""
        self.journal.append(f"{self.name}.{method}")
        self.requests.append((method, tuple(keys)))
        await self._come_between(self.before, method)
        result = effect()
        await self._come_between(self.after, method)
        return result

    async def _come_between(self, hooks: dict[str, Hook | BaseException], method: str) -> None:
        if self.pause is not None:
            await self.pause()
        hook = hooks.get(method)
        if isinstance(hook, BaseException):
            raise hook
        if hook is not None:
            del hooks[method]
            await hook()

    def outage(self, error: BaseException | None = None, methods: Sequence[str] = MANY) -> None:
        """Fail every call from now on, without effect."""
        self.before.update(dict.fromkeys(methods, error if error is not None else Trouble()))

    def recover(self) -> None:
        """End all failures and drop hooks that were not reached."""
        self.before.clear()
        self.after.clear()


class Store(Watched):
    """A dict as a store. `history` holds each value that a key ever had, in order; None is absence."""

    def __init__(self, name: str, journal: list[str], values: Mapping[Any, Any]) -> None:
        super().__init__(name, journal)
        self.values: dict[Any, Any] = dict(values)
        self._lock = threading.Lock()
        self._initial = dict(values)
        self._history: dict[Any, list[Any]] = {}

    def history(self, key: Any) -> list[Any]:
        """Each value that the key had so far, the present one last."""
        return self._history.setdefault(key, [self._initial.get(key)])

    def put(self, items: Mapping[Any, Any]) -> None:
        """Insert, replace, or remove where the value is None."""
        with self._lock:
            for key, value in items.items():
                self.history(key).append(value)
                if value is None:
                    self.values.pop(key, None)
                else:
                    self.values[key] = value

    async def read(self, key: Any) -> Any:
        return await self.step("read", [key], lambda: self.values.get(key))

    async def write(self, key: Any, value: Any) -> None:
        await self.step("write", [key], lambda: self.put({key: value}))

    async def delete(self, key: Any) -> None:
        await self.step("delete", [key], lambda: self.put({key: None}))

    async def read_many(self, keys: Sequence[Any]) -> dict[Any, Any]:
        return await self.step(
            "read_many", keys, lambda: {key: self.values[key] for key in keys if key in self.values}
        )

    async def write_many(self, items: Mapping[Any, Any]) -> None:
        await self.step("write_many", items, lambda: self.put(items))

    async def delete_many(self, keys: Sequence[Any]) -> None:
        await self.step("delete_many", keys, lambda: self.put(dict.fromkeys(keys)))

    async def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[Any, Any]:
        """In the order of what the keys look like; a cursor is that of a page's last key, in hexadecimal."""
        return await self.step("scan", [cursor, limit, until], lambda: self._page(cursor, limit, until))

    async def partitions(self, count: int) -> list[tuple[str | None, str | None]]:
        return await self.step("partitions", [count], lambda: self._partitions(count))

    async def count(self) -> int:
        return await self.step("count", [], lambda: len(self.values))

    def _page(self, cursor: str | None, limit: int, until: str | None) -> Page[Any, Any]:
        after, last = (None if each is None else bytes.fromhex(each).hex() for each in (cursor, until))
        with self._lock:
            places = sorted((cursor_of(key), key) for key in self.values)
            items = [
                (key, self.values[key])
                for place, key in places
                if (after is None or place > after) and (last is None or place <= last)
            ]
        chosen = items[:limit]
        return Page(chosen, cursor_of(chosen[-1][0]) if len(items) > limit else None)

    def _partitions(self, count: int) -> list[tuple[str | None, str | None]]:
        with self._lock:
            places = sorted(map(cursor_of, self.values))
        bounds = [places[len(places) * number // count] for number in range(1, count)] if places else []
        ends: list[str | None] = [None, *sorted(set(bounds)), None]
        return list(pairwise(ends))


def cursor_of(key: Any) -> str:
    """The cursor with which a scan of a `Store` goes on behind this key."""
    return repr(key).encode().hex()


class _Given:
    """An object with the methods that it is given, each of them of one world."""

    describe: Callable[[], StoreInfo]

    def __init__(self, methods: Mapping[str, Callable[..., Any]]) -> None:
        vars(self).update(methods)


class WatchedLedger(Watched):
    """An `InMemoryLedger` whose calls can be watched and failed, as a ledger of either world."""

    describe: Callable[[], StoreInfo]

    def __init__(
        self, world: World, journal: list[str], clock: Clock, *, shared: bool, info: StoreInfo | None = None
    ) -> None:
        super().__init__("ledger", journal)
        if info is not None:
            self.describe = lambda: info
        self.rows_of = InMemoryLedger(clock=clock)
        self.shared = shared
        self._world = world

    def migration(self, name: str, identity: str, token_seconds: float = 0.0) -> Any:
        rows = self.rows_of.migration(name, identity, token_seconds)
        calls = {call: self._world.dress(self._watched(rows, call)) for call in LEDGER_CALLS}
        return _Given({**calls, "last_summary": rows.last_summary})

    def _watched(self, rows: MigrationLedger, call: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def watched(*arguments: Any) -> Any:
            return await self.step(call, arguments, lambda: getattr(rows, call)(*arguments))

        return watched


class Event:
    """Something that a test waits for in either world: threads block on it, tasks await it."""

    def __init__(self, world: World) -> None:
        self._event = threading.Event() if world.blocking else asyncio.Event()

    def set(self) -> None:
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        if isinstance(self._event, threading.Event):
            assert self._event.wait(30), "nobody set the event"
        else:
            await self._event.wait()


class TimePasses:
    """In a job's place of waiting: the time that it would wait is over at once.

    `hooks` are awaited, the first one at the first wait, and so on; None waits on without one. `always` is called
    at each wait.
    """

    def __init__(self, world: World, clock: Clock) -> None:
        self.stopped = False
        self.waits: list[float] = []
        self.hooks: list[Hook | None] = []
        self.always: Callable[[], object] = lambda: None
        self.wait = world.dress(self._wait)
        self._world = world
        self._clock = clock

    def stop(self) -> None:
        self.stopped = True

    async def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        assert len(self.waits) < 20_000, "it waits for ever"
        assert seconds > 0, "it does not wait, and looks again at once"
        self._clock.advance(seconds)
        self.always()
        await self._world.pause()
        hook = self.hooks.pop(0) if self.hooks else None
        if hook is not None:
            await hook()


class Job:
    """A job of either world whose `run` is awaited in both, and which waits for nothing in real time."""

    def __init__(self, migration: Migration, job: Any) -> None:
        self.job = job
        self.time = TimePasses(migration.world, migration.clock)
        self._world = migration.world
        job._stopper = self.time

    async def run(self) -> Any:
        return await self._world.call(self.job.run)

    def stop(self) -> None:
        self.job.stop()

    def progress(self) -> Progress:
        return self.job.progress()


class Migration:
    """Two stores, a ledger and a proxy, whose operations are awaited in both worlds."""

    def __init__(self, world: World, gate: TrafficGate, old: Store, new: Store, ledger: WatchedLedger) -> None:
        self.world = world
        self.gate = gate
        self.old = old
        self.new = new
        self.ledger = ledger
        self.journal = old.journal
        self.clock = Clock()
        self.proxy: Any = None
        self._make: Callable[..., Any] = lambda _: None

    def made_by(self, make: Callable[..., Any]) -> Migration:
        """Let `make` make the proxy, this one and those of other processes."""
        self._make = make
        self.proxy = make(self.gate)
        return self

    def in_another_process(self, rate: float | Rollout, **others: Any) -> Migration:
        """The same stores and ledger through a proxy of its own, with another rate, and maybe `others` options."""
        other = Migration(self.world, TrafficGate(rate), self.old, self.new, self.ledger)
        other.clock = self.clock
        return other.made_by(lambda gate, **more: self._make(gate, **{**others, **more}))

    async def read(self, key: Any) -> Any:
        return await self.world.call(self.proxy.read, key)

    async def write(self, key: Any, value: Any) -> None:
        await self.world.call(self.proxy.write, key, value)

    async def delete(self, key: Any) -> None:
        await self.world.call(self.proxy.delete, key)

    async def read_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        return await self.world.call(self.proxy.read_many, keys)

    async def write_many(self, items: Mapping[Any, Any]) -> None:
        await self.world.call(self.proxy.write_many, items)

    def backfill(self, **options: Any) -> Job:
        """A backfill of this migration, which waits for nothing in real time."""
        make: Any = Backfill if self.world.blocking else AsyncBackfill
        return Job(self, make(self.proxy, **{"clock": self.clock, **options}))

    def repair(self, **options: Any) -> Job:
        """A repair of this migration, which waits for nothing in real time."""
        make: Any = Repair if self.world.blocking else AsyncRepair
        return Job(self, make(self.proxy, **{"clock": self.clock, **options}))

    async def work(self) -> int:
        """What the proxy would do in the background by now."""
        return await self.world.call(self.proxy.do_background_work)

    def stats(self) -> ProxyStats:
        return self.proxy.stats()

    @property
    def rows(self) -> MigrationLedger:
        """The ledger's rows, past all watching."""
        return self.ledger.rows_of.migration("users", self.gate.identity)

    @property
    def summary(self) -> LedgerSummary:
        return self.rows.summary()

    @property
    def left(self) -> tuple[int, int]:
        """How many keys are stale, and how many tokens are pending."""
        summary = self.summary
        return summary.stale, summary.pending

    def is_dirty(self, key: Any) -> bool:
        return bool(self.rows.dirty([self.gate.locate(key)[1]]))

    def calls(self) -> list[str]:
        """The calls made since the last look, in order."""
        made = list(self.journal)
        self.journal.clear()
        return made

    def clean_differences(self) -> dict[Any, tuple[Any, Any]]:
        """Clean keys whose value in New, if there is one, is not Old's: there must never be one."""
        return {
            key: (self.old.values.get(key), value)
            for key, value in dict(self.new.values).items()
            if not self.is_dirty(key) and self.old.values.get(key) != value
        }


class World:
    """Blocking or asyncio."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocking = name == "blocking"
        self.proxy_class: Any = Proxy if self.blocking else AsyncProxy

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of this world, and await it where that is how it is called."""
        result = function(*arguments)
        return await result if inspect.isawaitable(result) else result

    def dress(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        """A coroutine function as a function of this world."""
        if not self.blocking:
            return method

        def blocking(*arguments: Any) -> Any:
            return finish(method(*arguments))

        return blocking

    def adapter(self, store: Store, methods: Sequence[str] = PLAIN, info: StoreInfo | None = None) -> Any:
        """The store as an adapter that has these methods, and `describe` if there is anything to say."""
        given = _Given({method: self.dress(getattr(store, method)) for method in methods})
        if info is not None:
            given.describe = lambda: info
        return given

    def migration(
        self,
        rate: float | Rollout = 1.0,
        *,
        old: Mapping[Any, Any] | None = None,
        new: Mapping[Any, Any] | None = None,
        old_methods: Sequence[str] = PLAIN,
        new_methods: Sequence[str] = PLAIN,
        old_info: StoreInfo | None = None,
        new_info: StoreInfo | None = None,
        ledger_info: StoreInfo | None = None,
        shared: bool = True,
        **options: Any,
    ) -> Migration:
        """Stores that hold these values, a ledger, and a proxy with `options` between them."""
        journal: list[str] = []
        clock = Clock()
        made = Migration(
            self,
            TrafficGate(rate),
            Store("old", journal, old or {}),
            Store("new", journal, new or {}),
            WatchedLedger(self, journal, clock, shared=shared, info=ledger_info),
        )
        made.clock = clock
        adapters = (
            self.adapter(made.old, old_methods, old_info),
            self.adapter(made.new, new_methods, new_info),
        )
        options = {"name": "users", "ledger": made.ledger, "clock": clock, **options}
        return made.made_by(lambda gate, **others: self.proxy_class(gate, *adapters, **{**options, **others}))

    def event(self) -> Event:
        """An event to hold a call with."""
        return Event(self)

    async def pause(self) -> None:
        """Let others run."""
        if self.blocking:
            time.sleep(0)  # noqa: ASYNC251 - only threads come here
        else:
            await asyncio.sleep(0)

    def spawn(self, coroutine: Coroutine[Any, Any, T], pool: ThreadPoolExecutor) -> asyncio.Future[T]:
        """Run beside the test: blocking code in a thread of `pool`, asyncio code as a task."""
        if self.blocking:
            return asyncio.get_running_loop().run_in_executor(pool, finish, coroutine)
        return asyncio.ensure_future(coroutine)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so that no event tells of."""
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "it never came to be"
            await asyncio.sleep(0.001)
