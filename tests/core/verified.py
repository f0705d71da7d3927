"""Two stores that can be walked, in whatever order, and the jobs of either world that compare them.

Used as `tests.core.worlds` is: one body for both worlds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import total_ordering
from typing import Any, TypeAlias

from tests.core.worlds import MANY, Clock, Migration, Store, WatchedLedger, World
from tests.worlds import settle
from zddm_flags import AsyncVerify, MigrationStatus, Page, Rollout, StoreInfo, TrafficGate, Verify, VerifyResult
from zddm_flags.encoding import decode, ledger_key
from zddm_flags.jobs import Part, Plan
from zddm_flags.ledger import LedgerSummary

Order: TypeAlias = Callable[[Any], Any]
"""What a store's scan sorts its keys by."""

SCANNED = (*MANY, "scan", "partitions", "count")


def natural(key: Any) -> Any:
    """As Python orders keys of one type; types after each other."""
    return ("tuple", tuple(map(natural, key))) if isinstance(key, tuple) else (type(key).__name__, key)


def hashed(key: Any) -> Any:
    """In no order that anybody knows."""
    return hashlib.blake2b(ledger_key(key), digest_size=8).digest()


@total_ordering
class _Backwards:
    def __init__(self, key: Any) -> None:
        self.key = natural(key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Backwards) and self.key == other.key

    def __lt__(self, other: _Backwards) -> bool:
        return bool(other.key < self.key)

    def __hash__(self) -> int:
        return hash(self.key)


def backwards(key: Any) -> Any:
    """From the last to the first."""
    return _Backwards(key)


def broken_at(pivot: Any) -> Order:
    """In order up to and with `pivot`, and in none after it."""
    return lambda key: (0, natural(key)) if natural(key) <= natural(pivot) else (1, hashed(key))


class ScannedStore(Store):
    """A store that is walked in `order`, whose cursors begin with `tag`.

    With `quirks` every second page is empty, each other one begins with the last key of the one before, and the
    store is one range.
    """

    def __init__(
        self,
        name: str,
        journal: list[str],
        values: Mapping[Any, Any],
        *,
        order: Order = natural,
        tag: str = "",
        quirks: bool = False,
    ) -> None:
        super().__init__(name, journal, values)
        self._order = order
        self._tag = tag
        self._quirks = quirks

    async def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[Any, Any]:
        return await self.step("scan", [cursor, limit, until], lambda: self._page(cursor, limit, until))

    async def partitions(self, count: int) -> list[tuple[str | None, str | None]]:
        keys = self._sorted()
        count = 1 if self._quirks else max(1, min(count, len(keys)))
        bounds = [self._cursor(keys[len(keys) * part // count - 1]) for part in range(1, count)]
        return list(zip([None, *bounds], [*bounds, None], strict=True))

    async def count(self) -> int:
        return len(self.values)

    def _page(self, cursor: str | None, limit: int, until: str | None) -> Page[Any, Any]:
        if cursor is not None and cursor.startswith("~"):
            cursor = cursor[1:]
        elif self._quirks and cursor is not None:
            return Page([], f"~{cursor}")
        after = None if cursor is None else self._order(self._key(cursor))
        last = None if until is None else self._order(self._key(until))
        inside = [
            key
            for key in self._sorted()
            if (after is None or self._order(key) > after) and (last is None or not self._order(key) > last)
        ]
        page = inside[:limit]
        items = [(key, self.values[key]) for key in page if key in self.values]
        if self._quirks and cursor is not None and (before := self._key(cursor)) in self.values:
            items.insert(0, (before, self.values[before]))
        return Page(items, self._cursor(page[-1]) if len(inside) > limit else None)

    def _sorted(self) -> list[Any]:
        return sorted(self.values.copy(), key=self._order)

    def _cursor(self, key: Any) -> str:
        return self._tag + ledger_key(key).hex()

    def _key(self, cursor: str) -> Any:
        if not cursor.startswith(self._tag):
            raise ValueError("this is another store's cursor")
        return decode(bytes.fromhex(cursor[len(self._tag) :]))


class Verified(Migration):
    """A migration whose stores can be walked, and the calls that this is about."""

    old: ScannedStore
    new: ScannedStore

    @property
    def job(self) -> Any:
        """The class of the job in this world."""
        return Verify if self.world.blocking else AsyncVerify

    async def verify(self, **options: Any) -> VerifyResult:
        return await settle(self.job(self.proxy, **options).run())

    async def status(self) -> MigrationStatus:
        return await settle(self.proxy.migration_status())

    async def state(self) -> str | None:
        """That of the last verify, by the ledger."""
        told = (await self.status()).verify
        return None if told is None else told.state

    async def reset(self, **options: Any) -> LedgerSummary:
        return await settle(self.proxy.reset_ledger(**options))

    def another(self, rate: float | Rollout, **options: Any) -> Verified:
        """The same migration in another process."""
        other = Verified(self.world, TrafficGate(rate), self.old, self.new, self.ledger)
        other.clock = self.clock
        other.made_by(lambda gate, **more: self._make(gate, **{**options, **more}))
        return other

    def remade(self) -> Verified:
        """The same migration, whose adapters have the methods that its stores have now."""
        made = Verified(self.world, self.gate, self.old, self.new, self.ledger)
        made.clock = self.clock
        adapters = (self.world.adapter(self.old, SCANNED), self.world.adapter(self.new, SCANNED))
        made.made_by(lambda gate: self.world.proxy_class(gate, *adapters, name="users", ledger=self.ledger))
        return made

    def name_of(self, key: Any) -> bytes:
        """The key's name in the ledger."""
        return self.gate.locate(key)[1]

    def distrust(self, *keys: Any) -> None:
        """Make keys stale, as a write does that skips New."""
        names = [self.name_of(key) for key in keys]
        self.rows.begin(names, b"distrust")
        self.rows.end(dict.fromkeys(names, False), b"distrust")

    def leave_token(self, *keys: Any) -> None:
        """What a process leaves that is killed in the middle of a write."""
        self.rows.begin([self.name_of(key) for key in keys], b"left")

    def plan(self, job: Any, **members: Any) -> None:
        """Keep a plan in the ledger."""
        self.keep(job, Plan(**{"run": "r1", "ranges": _WHOLE, "asked": {}, "state": "finished", **members}).dump())

    def part(self, job: str, number: int, **members: Any) -> None:
        """Keep a part in the ledger."""
        self.keep(f"{job}/{number}", Part(**{"run": "r1", **members}).dump())

    def keep(self, name: str, data: str) -> None:
        """Keep a checkpoint in the ledger, whatever is there."""
        kept = self.rows.checkpoints()
        assert self.rows.save_checkpoint(name, data, kept[name].version if name in kept else 0)

    def kept(self, name: str) -> Any:
        """What a checkpoint says."""
        return json.loads(self.rows.checkpoints()[name].data)

    def store_calls(self) -> list[str]:
        """The calls to stores since the last look."""
        return [call for call in self.calls() if not call.startswith("ledger.")]


_WHOLE = ((None, None, "old"),)


def verified(
    world: World,
    old: Mapping[Any, Any],
    new: Mapping[Any, Any],
    rate: float | Rollout = 1.0,
    *,
    old_order: Order = natural,
    new_order: Order = natural,
    new_tag: str = "",
    quirks: bool = False,
    new_methods: Sequence[str] = SCANNED,
    new_info: StoreInfo | None = None,
    opened: float = 1.0,
    **options: Any,
) -> Verified:
    """A migration of which these are the stores."""
    journal: list[str] = []
    clock = Clock()
    made = Verified(
        world,
        TrafficGate(rate),
        ScannedStore("old", journal, old, order=old_order, quirks=quirks),
        ScannedStore("new", journal, new, order=new_order, tag=new_tag),
        WatchedLedger(world, journal, clock, shared=True),
    )
    made.clock = clock  # the ledger's; jobs and proxies have that of the machine
    adapters = (world.adapter(made.old, SCANNED), world.adapter(made.new, new_methods, new_info))
    given = {"name": "users", "ledger": made.ledger, **options}
    made.made_by(lambda gate, **others: world.proxy_class(gate, *adapters, **{**given, **others}))
    made.rows.open_to(opened)
    return made


def planted(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> dict[str, int]:
    """How many keys differ, and how, found without the library."""
    return {
        "changed": sum(key in new and new[key] != value for key, value in old.items()),
        "missing": len(old.keys() - new.keys()),
        "extra": len(new.keys() - old.keys()),
    }


def found(result: VerifyResult) -> dict[str, int]:
    """The same, as a verify says."""
    return {"changed": result.changed, "missing": result.missing, "extra": result.extra}


class Killed(BaseException):
    """The process is no more."""


class Interruptions:
    """Counts the moments around the calls to all stores and the ledger, and does something at some of them.

    `at(number)` is called at each moment, from 1, but for those of the calls that it makes itself.
    """

    def __init__(self, migration: Verified, at: Callable[[int], Awaitable[object]]) -> None:
        self.moments = 0
        self._at = at
        self._busy = False
        self._watched = (migration.old, migration.new, migration.ledger)
        for watched in self._watched:
            watched.pause = self._moment

    def end(self) -> None:
        """From now on nothing interrupts a call."""
        for watched in self._watched:
            watched.pause = None

    async def _moment(self) -> None:
        if self._busy:
            return
        self.moments += 1
        self._busy = True
        try:
            await self._at(self.moments)
        finally:
            self._busy = False


def killed_at(migration: Verified, moment: int) -> Interruptions:
    """The process that works on the migration dies at this moment: nothing that it does then has an effect."""

    async def die(number: int) -> None:
        if number >= moment:
            raise Killed

    return Interruptions(migration, die)


class Ticking:
    """Seconds that pass by themselves, at each look."""

    def __init__(self, seconds: float = 1.0) -> None:
        self._now = itertools.count(1000.0, seconds)

    def __call__(self) -> float:
        return next(self._now)
