"""Verify: compare every key of Old with New, while reads and writes go on.

What a scan shows is a suspicion only, for the two stores are not looked at in one moment. A key is said to differ
when it was compared under a token, alone (`AsyncBulk.confirm`).

Where both stores scan in one order, a page of each side by side shows the keys that differ and those that one of
them lacks. Whether they do is found out as they are walked: the keys of each must ascend, by Python's order. Where
they do not, New is asked for Old's keys, page by page, and afterwards Old for New's.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Generic, TypeVar, Unpack

from zddm_flags._async.bulk import AsyncBulk, Confirmed, Difference, Located
from zddm_flags._async.job import AsyncJob
from zddm_flags._async.work import MARGIN_SECONDS, Patience
from zddm_flags.comparison import Comparison
from zddm_flags.hashing import threshold
from zddm_flags.jobs import JobOptions, Part, Plan, Range
from zddm_flags.results import FoundDifference, VerifyResult

__all__ = ["AsyncVerify"]

K = TypeVar("K")
V = TypeVar("V")

KEPT_PER_PART = 200
"""Differing keys that a part's checkpoint tells by name."""
SPREAD = 0x9E3779B97F4A7C15
"""An odd number that makes the sample another one than the keys below the gate's rate."""


class AsyncVerify(AsyncJob[K, V]):
    """Compares every key of Old with New, and finds the keys that only New has, while reads and writes go on.

    ::

        result = await AsyncVerify(proxy, comparison=Comparison(ignore=["updated_at"])).run()
        result.verdict, result.different, result.differences

    Live traffic gives no false alarm: each difference is confirmed under a token. It reads New whatever the rate
    is, writes nothing to a store, and waits while the guard is open. After each page the ledger has a checkpoint.

    Args:
        proxy: the migration's, of this process.
        comparison: when two values count as equal.
        sample: the share of the keys to compare, above 0 and at most 1, chosen by their hash.
        limit: compare so many keys of Old at most, from 1, and do not look for keys that only New has.
        keys_only: compare which keys there are, and not their values.
        mark: make stale the keys of which New holds what Old does not, so that Old serves them. A key that only
            New has is then deleted from New by its next read, as the protocol does with a stale key that Old
            lacks.
        options: see `AsyncJob`.

    Raises what `AsyncJob` raises, and ValueError where `sample` or `limit` is out of range.
    """

    name = "verify"

    def __init__(
        self,
        proxy: AsyncBulk[K, V],
        *,
        comparison: Comparison | None = None,
        sample: float = 1.0,
        limit: int | None = None,
        keys_only: bool = False,
        mark: bool = True,
        **options: Unpack[JobOptions],
    ) -> None:
        super().__init__(proxy, **options)
        if not 0 < sample <= 1:
            raise ValueError(f"sample is above 0, and at most 1, not {sample!r}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self._comparison = comparison if comparison is not None else Comparison()
        self._sample = sample
        self._sampled_below = threshold(sample)
        self._limit = limit
        self._keys_only = keys_only
        self._mark = mark
        self._walks: dict[int, _Walk[K, V]] = {}

    async def run(self) -> VerifyResult:
        """Do it, to the end or until `stop()`. Raises what `AsyncBackfill.run` raises."""
        plan = await self._run()
        counts = self._counts()
        return VerifyResult(
            finished=plan.state == "finished",
            resumed=self.resumed,
            compared=counts["rows"] - counts["not_sampled"],
            equal=counts["equal"],
            changed=counts["changed"],
            missing=counts["missing"],
            extra=counts["extra"],
            stale=counts["stale"],
            marked=counts["marked"],
            not_opened=counts["not_opened"],
            unsure=counts["unsure"],
            failed=counts["failed"],
            too_long=counts["too_long"],
            fields=self._fields(),
            differences=self._found(),
            extra_checked=self._proxy.new_can_scan and self._limit is None,
            whole=self._whole,
            seconds=plan.seconds,
        )

    @property
    def _whole(self) -> bool:
        return self._sample == 1 and self._limit is None and not self._keys_only

    def _fields(self) -> Mapping[str, int]:
        fields: Counter[str] = Counter()
        for part in self._parts.values():
            fields.update(part.more.get("fields", {}))
        return dict(fields.most_common())

    def _found(self) -> Sequence[FoundDifference]:
        return [
            FoundDifference(hash=key_hash, kind=kind, fields=tuple(fields), stale=stale, name=bytes.fromhex(name))
            for _, part in sorted(self._parts.items())
            for name, key_hash, kind, fields, stale in part.more.get("found", ())
        ]

    def _asked(self) -> Mapping[str, Any]:
        comparison = self._comparison
        return {
            "sample": self._sample,
            "limit": self._limit,
            "keys_only": self._keys_only,
            "mark": self._mark,
            "ignore": sorted(comparison.ignore),
            "float_tolerance": comparison.float_tolerance,
            "time_tolerance": comparison.time_tolerance,
            "equal": comparison.equal is not None,
        }

    def _may_continue(self, plan: Plan) -> bool:
        return dict(plan.asked) == self._asked()

    async def _ranges(self, parts: int) -> Sequence[Range]:
        old = await self._proxy.partitions_of_old(1 if self._limit is not None else parts)
        if self._limit is not None or not self._proxy.new_can_scan:
            return [Range(after, until, "old") for after, until in old]
        if self._sample == 1 and await self._new_takes(old):
            return [Range(after, until, "both") for after, until in old]
        new = await self._proxy.partitions_of_new(parts)
        return [
            *(Range(after, until, "old") for after, until in old),
            *(Range(after, until, "new") for after, until in new),
        ]

    async def _new_takes(self, ranges: Sequence[tuple[str | None, str | None]]) -> bool:
        """Whether New knows Old's cursors. It need not mean the same by them: that would only be slow."""
        for after, until in (ranges[0], ranges[-1], ranges[len(ranges) // 2]):
            try:
                await self._proxy.scan_new(after, 1, until)
            except (TypeError, ValueError):
                return False
        return True

    def _summary(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        return {
            "counts": dict(counts),
            "whole": self._whole,
            "extra_checked": self._proxy.new_can_scan and self._limit is None,
        }

    def _options(self) -> Mapping[str, Any]:
        return {
            "comparison": self._comparison,
            "sample": self._sample,
            "limit": self._limit,
            "keys_only": self._keys_only,
            "mark": self._mark,
        }

    # -- pages ------------------------------------------------------------------------------------------------

    async def _do_page(self, number: int, reach: Range, part: Part) -> Part:
        if reach.side == "new" or part.more.get("side") == "new":
            return await self._page_of_new(reach, part)
        if reach.side == "old" or part.more.get("side") == "old":
            return await self._page_of_old(reach, part)
        walk = self._walks.get(number)
        if walk is None:
            walk = self._walks[number] = _Walk(part.more.get("new_cursor", reach.after))
        try:
            return await self._page_of_both(walk, reach, part)
        except _UnorderedError:
            del self._walks[number]
            # From here on New is asked for Old's keys, and what is left of New is walked after that.
            return replace(part, more={**part.more, "side": "old"})

    async def _page_of_old(self, reach: Range, part: Part) -> Part:
        """Ask New for the keys of a page of Old."""
        limit = await self._allowance()
        if self._limit is not None:
            limit = min(limit, self._limit - part.counts.get("rows", 0))
        cursor = part.cursor if part.cursor is not None else reach.after
        page = await self._persistently(partial(self._proxy.scan_old, cursor, limit, reach.until))
        tally = _Tally(part, rows=len(page.items))
        located = self._sampled([key for key, _ in page.items], tally)
        held = dict(page.items)
        found: Mapping[K, V] = {}
        if located:
            await self._may_use_new(located[0].key, writing=False)
            found = await self._persistently(partial(self._proxy.read_new, located))
        suspects = [each for each in located if not self._equal(held[each.key], found.get(each.key))]
        tally.counts["equal"] += len(located) - len(suspects)
        await self._confirm(suspects, tally)
        after = tally.added_to(part, page.next_cursor)
        if self._limit is not None and after.counts["rows"] >= self._limit:
            return replace(after, done=True)
        if after.done and reach.side == "both":
            start = part.more.get("new_cursor", reach.after)
            return replace(after, done=False, cursor=start, more={**after.more, "side": "new"})
        return after

    async def _page_of_new(self, reach: Range, part: Part) -> Part:
        """Ask Old for the keys of a page of New: those that it lacks are suspects."""
        limit = await self._allowance()
        cursor = part.cursor if part.cursor is not None or part.more.get("side") == "new" else reach.after
        page = await self._persistently(partial(self._proxy.scan_new, cursor, limit, reach.until))
        tally = _Tally(part)
        located = self._sampled([key for key, _ in page.items], tally)
        tally.counts["not_sampled"] = 0  # which counts those of Old
        held = await self._persistently(partial(self._proxy.read_old, located)) if located else {}
        await self._confirm([each for each in located if each.key not in held], tally, extra_only=True)
        return tally.added_to(part, page.next_cursor, new_rows=len(page.items))

    async def _page_of_both(self, walk: _Walk[K, V], reach: Range, part: Part) -> Part:
        """Compare a page of Old with what New has in the same range of keys. Raises _UnorderedError."""
        limit = await self._allowance()
        tally = _Tally(part)
        if part.more.get("old_done"):
            await self._rest_of_new(walk, reach, limit, tally)
            done = walk.done and not walk.buffer
            return replace(tally.added_to(part, None), done=done).with_more(new_cursor=walk.resume_at)
        cursor = part.cursor if part.cursor is not None else reach.after
        page = await self._persistently(partial(self._proxy.scan_old, cursor, limit, reach.until))
        walk.check_old([key for key, _ in page.items])
        tally.counts["rows"] = len(page.items)
        left = dict(page.items)
        differing: list[K] = []
        extra: list[K] = []
        while left and (item := await self._next_of_new(walk, reach, limit, up_to=page.items[-1][0])) is not None:
            key, value = item
            if key not in left:
                extra.append(key)
            elif self._equal(left.pop(key), value):
                tally.counts["equal"] += 1
            else:
                differing.append(key)
            if len(extra) >= limit:  # New may have any number of them between two of Old's
                await self._confirm(self._locate(extra, tally), tally, extra_only=True)
                extra.clear()
        await self._confirm(self._locate([*differing, *left], tally), tally)
        await self._confirm(self._locate(extra, tally), tally, extra_only=True)
        after = tally.added_to(part, page.next_cursor).with_more(
            new_cursor=walk.resume_at, old_done=page.next_cursor is None
        )
        return replace(after, done=False)

    async def _next_of_new(
        self, walk: _Walk[K, V], reach: Range, limit: int, up_to: K | None = None
    ) -> tuple[K, V] | None:
        """New's next item, if there is one up to and with this key."""
        while not walk.buffer:
            if walk.done:
                return None
            walk.take(await self._persistently(partial(self._proxy.scan_new, walk.cursor, limit, reach.until)))
        if up_to is not None and walk.is_beyond(up_to):
            return None
        return walk.buffer.popleft()

    async def _rest_of_new(self, walk: _Walk[K, V], reach: Range, limit: int, tally: _Tally) -> None:
        """A page of what New has after Old's last key."""
        suspects: list[K] = []
        while len(suspects) < limit and (item := await self._next_of_new(walk, reach, limit)) is not None:
            suspects.append(item[0])
        await self._confirm(self._locate(suspects, tally), tally, extra_only=True)

    # -- keys -------------------------------------------------------------------------------------------------

    def _sampled(self, keys: Iterable[K], tally: _Tally) -> list[Located[K]]:
        located = self._locate(keys, tally)
        if self._sample == 1:
            return located
        chosen = [each for each in located if each.hash * SPREAD % 2**64 < self._sampled_below]
        tally.counts["not_sampled"] += len(located) - len(chosen)
        return chosen

    def _locate(self, keys: Iterable[K], tally: _Tally) -> list[Located[K]]:
        located, too_long = self._proxy.locate(keys)
        tally.counts["too_long"] += len(too_long)
        return located

    def _equal(self, old: V, new: V | None) -> bool:
        if new is None:
            return False
        if self._keys_only:
            return True
        try:
            return self._comparison.differing(old, new) is None
        except Exception:  # a function of the user's; whether it does so again is seen under a token
            return False

    async def _confirm(self, located: Sequence[Located[K]], tally: _Tally, *, extra_only: bool = False) -> None:
        """Compare suspects under a token, until it is certain of each. Raises Stopped."""
        left = list(located)
        patience = Patience(self._clock, self._proxy.token_seconds + MARGIN_SECONDS)
        while left:
            if await self._may_use_new(left[0].key, writing=False):
                patience.renew()
            confirmed = await self._persistently(
                partial(self._proxy.confirm, left, self._comparison, mark=self._mark, keys_only=self._keys_only)
            )
            opened = threshold(self._proxy.opened)
            tally.add(confirmed, mark=self._mark, opened=opened, extra_only=extra_only)
            left = [each for each in left if each.name in confirmed.unsure]
            if left:
                if patience.is_over(len(left)):
                    tally.counts["unsure"] += len(left)
                    return
                await self._wait(
                    patience.pause(), "operations on some keys are in progress, or were left by a crash"
                )
                await self._proxy.reap_if_due()


class _UnorderedError(Exception):
    """The keys of a store do not ascend."""


class _Walk(Generic[K, V]):
    """New's side of a range that both stores are walked through, and where both are."""

    def __init__(self, cursor: str | None) -> None:
        self.cursor = cursor
        self.done = False
        self.buffer: deque[tuple[K, V]] = deque()
        self._began_at = cursor
        self._last_of_old: list[K] = []
        self._last_of_new: list[K] = []

    @property
    def resume_at(self) -> str | None:
        """The cursor before the first item that was not looked at, or some before it: they are looked at again."""
        return self._began_at if self.buffer or self.done else self.cursor

    def take(self, page: Any) -> None:
        """A further page of New. Raises _UnorderedError."""
        keys = [key for key, _ in page.items]
        _check_ascending([*self._last_of_new, *keys])
        self._last_of_new = keys[-1:] or self._last_of_new
        self._began_at = self.cursor
        self.buffer.extend(page.items)
        self.cursor = page.next_cursor
        self.done = page.next_cursor is None

    def check_old(self, keys: Sequence[K]) -> None:
        """A further page of Old. Raises _UnorderedError."""
        _check_ascending([*self._last_of_old, *keys])
        self._last_of_old = list(keys[-1:]) or self._last_of_old

    def is_beyond(self, key: K) -> bool:
        """Whether New's next item comes after this key. Raises _UnorderedError."""
        return not _ascends(self.buffer[0][0], key) and self.buffer[0][0] != key


class _Tally:
    """What a page came to. `part`: what was found before it."""

    def __init__(self, part: Part, *, rows: int = 0) -> None:
        self._known = {bytes.fromhex(each[0]) for each in part.more.get("found", ())}
        self.counts: Counter[str] = Counter(rows=rows)
        self.fields: Counter[str] = Counter()
        self.found: list[Difference] = []

    def add(self, confirmed: Confirmed, *, mark: bool, opened: int, extra_only: bool) -> None:
        """What was made sure of. `extra_only`: the keys were counted already, where they are Old's."""
        if not extra_only:
            self.counts["equal"] += len(confirmed.equal)
        self.counts["failed"] += len(confirmed.failed)
        for each in confirmed.different:
            if extra_only and each.kind != "extra":
                continue
            if each.name in self._known:  # a store without an order may give a key twice
                continue
            self.counts[each.kind] += 1
            self.counts["stale"] += each.stale
            self.counts["marked"] += mark and each.is_wrong
            self.counts["not_opened"] += each.kind == "missing" and each.hash >= opened
            self.fields.update(each.fields)
            self.found.append(each)

    def added_to(self, part: Part, cursor: str | None, **more: Any) -> Part:
        """The part after the page."""
        found = list(part.more.get("found", ()))
        room = max(0, KEPT_PER_PART - len(found))
        found += [
            [each.name.hex(), f"{each.hash:016x}", each.kind, list(each.fields), each.stale]
            for each in self.found[:room]
        ]
        fields = Counter(part.more.get("fields", {})) + self.fields
        new_rows = part.more.get("new_rows", 0) + more.pop("new_rows", 0)
        return part.after_page(cursor, self.counts, found=found, fields=dict(fields), new_rows=new_rows, **more)


def _check_ascending(keys: Sequence[Any]) -> None:
    for before, after in pairwise(keys):
        if not _ascends(before, after):
            raise _UnorderedError


def _ascends(before: Any, after: Any) -> bool:
    try:
        return bool(before < after)
    except TypeError:
        raise _UnorderedError from None
