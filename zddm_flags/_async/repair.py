"""Repair: make right what is stale, and what a verify found to differ."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar, cast

from zddm_flags._async.bulk import AsyncBulk, Located
from zddm_flags._async.migration import CopyRules
from zddm_flags._async.work import AsyncWork, Stopped
from zddm_flags.errors import InvalidKey
from zddm_flags.hashing import passes
from zddm_flags.jobs import Part, Progress, names_found, part_name, saved_plan
from zddm_flags.protocols import Page
from zddm_flags.results import RepairResult

__all__ = ["AsyncRepair"]

K = TypeVar("K")
V = TypeVar("V")


class AsyncRepair(AsyncWork[K, V]):
    """Copies stale keys from Old to New, so that New serves them again, while reads and writes go on.

    ::

        result = await AsyncRepair(proxy).run()

    Each key is copied as a read copies one, under a token: nothing newer is overwritten. Safe to stop, to kill and
    to run twice, for what is done is not stale any more. It waits as a backfill does.

    Args:
        proxy: the migration's, of this process.
        found_by_verify: repair the differing keys that the last verify noted, and not those that are stale.
        everything: keys above the write rate too.
        delete_extra: delete from New the keys that Old lacks. Without it they stay, as stale as they were.
        dry_run: change nothing, and tell what would be done.
        page_size: keys at a time, from 1.
        per_second: at most how many keys a second, above 0; None: as many as go.
        patience_seconds: for how long a store or the ledger may fail, at a stretch, before this raises.
        clock: monotonic seconds; for tests.
    """

    def __init__(
        self,
        proxy: AsyncBulk[K, V],
        *,
        found_by_verify: bool = False,
        everything: bool = False,
        delete_extra: bool = False,
        dry_run: bool = False,
        page_size: int = 1000,
        per_second: float | None = None,
        patience_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            proxy,
            proxy.job_telemetry("repair", Stopped),
            page_size=page_size,
            per_second=per_second,
            patience_seconds=patience_seconds,
            clock=clock,
        )
        self._found_by_verify = found_by_verify
        self._everything = everything
        self._delete_extra = delete_extra
        self._dry_run = dry_run
        self._counts: Counter[str] = Counter()
        self._expected: int | None = None

    async def run(self) -> RepairResult:
        """Do it, to the end or until `stop()`.

        Raises:
            Unsupported: Old's reads may lag; or a key can only be found by a scan, which Old cannot do.
            CorruptCheckpoint: what the last verify left cannot be understood.

        Whatever the stores or the ledger raised last, where they failed for longer than `patience_seconds`.
        """
        self._proxy.check_can_work("repair")
        self._began = self._clock()
        with self._told:
            finished = await self._repair_all()
            state = "finished" if finished else "stopped"
            counts = self._counts
            outcomes = {outcome: number for outcome, number in counts.items() if outcome != "keys"}
            self._told.tell(outcomes, state=state, rows=counts["keys"], dry_run=self._dry_run)
        return RepairResult(
            finished=finished,
            dry_run=self._dry_run,
            keys=counts["keys"],
            copied=counts["copied"],
            deleted=counts["deleted"],
            absent=counts["absent"],
            extra=counts["extra"],
            not_covered=counts["not_covered"],
            refused=counts["refused"],
            pending=counts["pending"],
            not_found=counts["not_found"],
            seconds=self._clock() - self._began,
        )

    async def _repair_all(self) -> bool:
        """Do it; returns whether it came to the end."""
        try:
            unknown: set[bytes] = set()
            async for names in self._names():
                located = self._made_again(names, unknown)
                if located:
                    await self._repair(located)
            if unknown:
                await self._find(unknown)
        except Stopped:
            return False
        finally:
            self._waiting = None
        return True

    def progress(self) -> Progress:
        """How far it is. Thread-safe, no I/O."""
        return Progress(
            rows=self._counts["keys"],
            expected=self._expected,
            counts=Counter(self._counts),
            parts_done=0,
            parts=1,
            rows_now=self._counts["keys"],
            seconds=self._clock() - self._began,
            waiting=self._waiting,
        )

    # -- which keys -------------------------------------------------------------------------------------------

    async def _names(self) -> AsyncIterator[Collection[bytes]]:
        """The names of the keys, page by page. Raises Stopped."""
        if self._found_by_verify:
            found = await self._found()
            self._expected = len(found)
            while found:
                limit = await self._allowance()
                yield found[:limit]
                del found[:limit]
            return
        self._expected = (await self._persistently(self._proxy.ledger.summary)).stale
        cursor: str | None = None
        while True:
            limit = await self._allowance()
            with self._told.untraced():
                page = await self._persistently(partial(self._proxy.ledger.stale_keys, cursor, limit))
            if page.keys:
                yield page.keys
            if page.next_cursor is None:
                return
            cursor = page.next_cursor

    async def _found(self) -> list[bytes]:
        """The names of the keys that the last verify noted as differing."""
        kept = await self._persistently(self._proxy.ledger.checkpoints)
        plan = saved_plan("verify", kept)
        found: list[bytes] = []
        for number in range(0 if plan is None else len(plan.ranges)):
            name = part_name("verify", number)
            part = Part.load(name, kept[name].data) if name in kept else None
            if part is not None and plan is not None and part.run == plan.run:
                found += names_found(name, part)
        return found

    def _made_again(self, names: Collection[bytes], unknown: set[bytes]) -> list[Located[K]]:
        """The keys of these names; adds to `unknown` those of which the key cannot be made again."""
        keys: list[K] = []
        for name in names:
            try:
                keys.append(cast(K, self._proxy.gate.key_of(name)))
            except InvalidKey:
                unknown.add(name)
        located, _ = self._proxy.locate(keys)
        return located

    async def _find(self, unknown: set[bytes]) -> None:
        """Repair keys that only a scan of the stores can find: Old's first, then those that only New has."""
        self._proxy.check_can_scan("repair")
        scans = [self._proxy.scan_old, *([self._proxy.scan_new] if self._proxy.new_can_scan else [])]
        for scan in scans:
            cursor: str | None = None
            while unknown:
                limit = await self._allowance()
                with self._told.untraced():
                    page: Page[K, V] = await self._persistently(partial(scan, cursor, limit, None))
                located, _ = self._proxy.locate(key for key, _ in page.items)
                wanted = [each for each in located if each.name in unknown]
                if wanted:
                    await self._repair(wanted)
                    unknown -= {each.name for each in wanted}
                if page.next_cursor is None:
                    break
                cursor = page.next_cursor
        self._counts["keys"] += len(unknown)
        self._counts["not_found"] += len(unknown)

    # -- what is done with them -------------------------------------------------------------------------------

    async def _repair(self, located: Sequence[Located[K]]) -> None:
        with self._told.page() as page:
            await self._repair_page(located)
            page.add({"zddm.job.rows": len(located)})

    async def _repair_page(self, located: Sequence[Located[K]]) -> None:
        held = await self._persistently(partial(self._proxy.read_old, located))
        absent = [each for each in located if each.key not in held]
        extra: list[Located[K]] = []
        if absent:
            await self._may_use_new(absent[0].key, writing=False)
            found = await self._persistently(partial(self._proxy.read_new, absent))
            extra = [each for each in absent if found.get(each.key) is not None]
        names = {each.name for each in extra}
        if self._dry_run:
            self._tell(located, held, names)
            return
        rules = CopyRules(everything=self._everything, distrust=True)
        done, _ = await self._copy("repair", [each for each in located if each.name not in names], rules)
        # A key that was deleted in the meantime, by an application, is deleted from New as well: that is no extra.
        done_extra, _ = await self._copy("repair", extra, rules._replace(delete=self._delete_extra))
        done_extra["deleted"] = done_extra.pop("absent", 0)
        self._counts.update(done + done_extra)
        self._counts["keys"] += len(located)

    def _tell(self, located: Sequence[Located[K]], held: Collection[K], extra: Collection[bytes]) -> None:
        """Count what a run that is no dry one would do at the rate of now."""
        rate = self._proxy.gate.write_rate
        self._counts["keys"] += len(located)
        for each in located:
            if not (self._everything or passes(each.hash, rate)):
                self._counts["not_covered"] += 1
            elif each.key in held:
                self._counts["copied"] += 1
            elif each.name in extra:
                self._counts["deleted" if self._delete_extra else "extra"] += 1
            else:
                self._counts["absent"] += 1
