# Generated from zddm_flags/_async/verify.py by `make generate`. Do not edit.
"""Verify: compare every key of Old with New, while reads and writes go on.

What a scan shows is a suspicion only, for the two stores are not looked at in one moment. A key is said to differ
when it was compared under a token, alone (`Bulk.confirm`).

Where both stores scan in one order, a page of each side by side shows the keys that differ and those that one of
them lacks. Whether they do is found out as they are walked: the keys of each must ascend, by Python's order. Where
they do not, New is asked for Old's keys, page by page, and afterwards Old for New's.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from operator import lt
from typing import Any, Generic, TypeVar, Unpack

from zddm_flags._sync.bulk import Bulk, Confirmed, Difference, Located
from zddm_flags._sync.job import Job
from zddm_flags._sync.work import MARGIN_SECONDS, Patience, Stopped
from zddm_flags.comparison import Comparison
from zddm_flags.errors import Unsupported
from zddm_flags.hashing import threshold
from zddm_flags.jobs import JobOptions, Part, Plan, Range
from zddm_flags.protocols import Page
from zddm_flags.results import FoundDifference, VerifyResult

__all__ = ["Verify"]

K = TypeVar("K")
V = TypeVar("V")

KEPT_PER_PART = 200
"""Differing keys that a part's checkpoint tells by name, if so many are within `KEPT_CHARACTERS`."""
KEPT_CHARACTERS = 500_000
KEPT_FIELDS = 200
"""Fields that a part's checkpoint counts. What a mapping's fields are called may be data."""
FIELDS_PER_KEY = 20
FIELD_CHARACTERS = 100
SPREAD = 0x9E3779B97F4A7C15
"""An odd number that makes the sample another one than the keys below the gate's rate."""


class Verify(Job[K, V]):
    """Compares every key of Old with New, and finds the keys that only New has, while reads and writes go on.

    ::

        result = await Verify(proxy, comparison=Comparison(ignore=["updated_at"])).run()
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
        options: see `Job`.

    Raises what `Job` raises, and ValueError where `sample` or `limit` is out of range.
    """

    name = "verify"

    def __init__(
        self,
        proxy: Bulk[K, V],
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

    def run(self) -> VerifyResult:
        """Do it, to the end or until `stop()`. Raises what `Backfill.run` raises."""
        plan = self._run()
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
            extra_checked=_walks_new(plan),
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
            "equal": None if comparison.equal is None else _named(comparison.equal),
        }

    def _may_continue(self, plan: Plan) -> bool:
        return dict(plan.asked) == self._asked()

    def _ranges(self, parts: int) -> Sequence[Range]:
        old = self._proxy.partitions_of_old(1 if self._limit is not None else parts)
        if self._limit is not None or not self._new_scans():
            return [Range(after, until, "old") for after, until in old]
        if self._sample == 1 and self._new_takes([until for _, until in old if until is not None]):
            return [Range(after, until, "both") for after, until in old]
        new = self._proxy.partitions_of_new(parts)
        return [
            *(Range(after, until, "old") for after, until in old),
            *(Range(after, until, "new") for after, until in new),
        ]

    def _new_scans(self) -> bool:
        """Whether New can be walked: an adapter may have a scan() that says that it cannot."""
        if not self._proxy.new_can_scan:
            return False
        try:
            self._proxy.scan_new(None, 1, None)
        except Unsupported:
            return False
        return True

    def _new_takes(self, bounds: Sequence[str]) -> bool:
        """Whether New knows Old's cursors, and has nothing between two of them the wrong way round.

        Then Old's ranges cover New once. It need not order its keys as Old does: that would only be slow.
        """
        try:
            for before, after in pairwise(bounds):
                between = self._proxy.scan_new(after, 1, before)
                if between.items or between.next_cursor is not None:
                    return False
            for bound in bounds[:1]:
                self._proxy.scan_new(bound, 1, bound)
        except (TypeError, ValueError):
            return False
        return True

    def _summary(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        return {
            "counts": dict(counts),
            "whole": self._whole,
            "extra_checked": self._plan is not None and _walks_new(self._plan),
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

    def _do_page(self, number: int, reach: Range, part: Part) -> Part:
        side = part.more.get("side", reach.side)
        if side == "new":
            return self._page_of_new(reach, part)
        if side == "old":
            return self._page_of_old(reach, part)
        walk = self._walks.get(number)
        if walk is None:
            walk = self._walks[number] = _Walk(part.more.get("new_cursor", reach.after), self._seen(part))
        if part.more.get("old_done"):
            return self._rest_of_new(walk, reach, part)
        return self._page_of_both(walk, reach, part)

    def _page_of_old(self, reach: Range, part: Part) -> Part:
        """Ask New for the keys of a page of Old."""
        limit = self._allowance()
        if self._limit is not None:
            limit = min(limit, self._limit - part.counts.get("rows", 0))
        cursor = part.cursor if part.cursor is not None else reach.after
        page = self._persistently(partial(self._proxy.scan_old, cursor, limit, reach.until))
        tally = _Tally(part, rows=len(page.items))
        located, too_long = self._sampled([key for key, _ in page.items], tally)
        held = dict(page.items)
        found: Mapping[K, V] = {}
        if located:
            self._may_use_new(located[0].key, writing=False)
            found = self._persistently(partial(self._proxy.read_new, located))
        suspects = [each.key for each in located if not self._equal(held[each.key], found.get(each.key))]
        tally.counts["equal"] += len(located) - len(suspects)
        self._confirm([*suspects, *(each.key for each in too_long)], tally)
        after = tally.added_to(part, page.next_cursor)
        if self._limit is not None and after.counts["rows"] >= self._limit:
            return replace(after, done=True)
        if after.done and reach.side == "both":
            return _then_new(after, reach)
        return after

    def _page_of_new(self, reach: Range, part: Part) -> Part:
        """Ask Old for the keys of a page of New: those that it lacks are suspects."""
        limit = self._allowance()
        cursor = part.cursor if part.cursor is not None or part.more.get("side") == "new" else reach.after
        seen = self._seen(part)
        page = self._persistently(partial(self._proxy.scan_new, cursor, seen.at_least(limit), reach.until))
        tally = _Tally(part)
        located, too_long = self._sampled([key for key, _ in seen.left_of(page.items)], tally)
        tally.counts["not_sampled"] = 0  # which counts those of Old
        keys = [*located, *too_long]
        held = self._persistently(partial(self._proxy.read_old, keys)) if keys else {}
        self._confirm([each.key for each in keys if each.key not in held], tally, extra_only=True)
        return tally.added_to(part, page.next_cursor).with_more(new_seen=None)

    def _page_of_both(self, walk: _Walk[K, V], reach: Range, part: Part) -> Part:
        """Compare a page of Old with what New has in the same range of keys."""
        limit = self._allowance()
        tally = _Tally(part)
        cursor = part.cursor if part.cursor is not None else reach.after
        page = self._persistently(partial(self._proxy.scan_old, cursor, limit, reach.until))
        left = dict(page.items)
        equal = 0
        differing: list[K] = []
        extra: list[K] = []
        try:
            keys = [key for key, _ in page.items]
            walk.check_old(keys)
            while left and (items := self._next_of_new(walk, reach, limit, up_to=keys[-1:])):
                # New may have any number of them between two of Old's, so they are not collected.
                self._confirm(extra, tally, extra_only=True)
                extra.clear()
                for key, value in items:
                    if key not in left:
                        extra.append(key)
                    elif self._equal(left.pop(key), value):
                        equal += 1
                    else:
                        differing.append(key)
        except _UnorderedError:
            # From here on New is asked for Old's keys, beginning with this page, and what is left of New is walked
            # after that. What was walked of it is not looked at again.
            self._confirm(extra, tally, extra_only=True)
            after = replace(tally.added_to(part, None), done=False)
            return self._noting(walk, after).with_more(side="old")
        self._confirm([*differing, *left], tally)
        self._confirm(extra, tally, extra_only=True)
        tally.counts.update(rows=len(page.items), equal=equal)
        after = replace(tally.added_to(part, page.next_cursor), done=False)
        return self._noting(walk, after).with_more(old_done=page.next_cursor is None)

    def _rest_of_new(self, walk: _Walk[K, V], reach: Range, part: Part) -> Part:
        """A page of what New has after Old's last key."""
        limit = self._allowance()
        tally = _Tally(part)
        suspects: list[K] = []
        ordered = True
        try:
            suspects += (key for key, _ in self._next_of_new(walk, reach, limit))
        except _UnorderedError:
            ordered = False
        self._confirm(suspects, tally, extra_only=True)
        after = self._noting(walk, replace(tally.added_to(part, None), done=walk.done and not walk.buffer))
        return after if ordered else _then_new(after, reach)

    def _next_of_new(
        self, walk: _Walk[K, V], reach: Range, limit: int, up_to: Sequence[K] = ()
    ) -> Sequence[tuple[K, V]]:
        """New's next items, up to and with this key. Raises _UnorderedError."""
        while not walk.buffer and not walk.done:
            if self._stopper.stopped:
                raise Stopped
            limit = walk.seen.at_least(limit)
            walk.add(self._persistently(partial(self._proxy.scan_new, walk.cursor, limit, reach.until)))
        return walk.take(up_to)

    def _noting(self, walk: _Walk[K, V], part: Part) -> Part:
        """The part, with where the walk through New is."""
        cursor, looked_at = walk.position
        seen = [len(looked_at), self._mark_of(looked_at[-1])] if looked_at else None
        return part.with_more(new_cursor=cursor, new_seen=seen)

    def _seen(self, part: Part) -> _Seen:
        """What was looked at already, of the page of New that is next."""
        count, mark = part.more.get("new_seen") or (0, None)
        return _Seen(int(count), mark, self._mark_of)

    def _mark_of(self, key: Any) -> str:
        """What tells a key of a page from the others, in a checkpoint."""
        return hashlib.blake2b(self._proxy.gate.locate(key)[1], digest_size=16).hexdigest()

    # -- keys -------------------------------------------------------------------------------------------------

    def _sampled(self, keys: Iterable[K], tally: _Tally) -> tuple[list[Located[K]], list[Located[K]]]:
        """Those keys that are to be compared, and those of them that are too long for any ledger."""
        located, too_long = self._proxy.locate(keys)
        if self._sample == 1:
            return located, too_long
        chosen, chosen_too_long = (
            [each for each in found if each.hash * SPREAD % 2**64 < self._sampled_below]
            for found in (located, too_long)
        )
        tally.counts["not_sampled"] += len(located) + len(too_long) - len(chosen) - len(chosen_too_long)
        return chosen, chosen_too_long

    def _equal(self, old: V, new: V | None) -> bool:
        if new is None:
            return False
        if self._keys_only:
            return True
        try:
            return self._comparison.differing(old, new) is None
        except Exception:  # a function of the user's; whether it does so again is seen under a token
            return False

    def _confirm(self, keys: Iterable[K], tally: _Tally, *, extra_only: bool = False) -> None:
        """Compare suspects under a token, until it is certain of each. Raises Stopped.

        A key that is too long for the ledger can have no token, nor does it need one: no proxy writes such a key.
        """
        left, too_long = self._proxy.locate(keys)
        if too_long and extra_only:
            held = self._persistently(partial(self._proxy.read_old, too_long))
            too_long = [each for each in too_long if each.key not in held]
        tally.counts["too_long"] += len(too_long)
        patience = Patience(self._clock, self._proxy.token_seconds + MARGIN_SECONDS)
        while left:
            if self._may_use_new(left[0].key, writing=False):
                patience.renew()
            confirmed = self._persistently(
                partial(
                    self._proxy.confirm,
                    left,
                    self._comparison,
                    mark=self._mark,
                    keys_only=self._keys_only,
                    extra_only=extra_only,
                )
            )
            tally.add(confirmed, mark=self._mark, extra_only=extra_only)
            left = [each for each in left if each.name in confirmed.unsure]
            if left:
                if patience.is_over(len(left)):
                    tally.counts["unsure"] += len(left)
                    return
                self._wait(patience.pause(), "operations on some keys are in progress, or were left by a crash")
                self._proxy.reap_if_due()


class _UnorderedError(Exception):
    """The keys of a store do not ascend."""


class _Seen:
    """How many of the first items of a page were looked at, and what tells the last of them from others."""

    def __init__(self, count: int, mark: str | None, mark_of: Callable[[Any], str]) -> None:
        self.count = count
        self._mark = mark
        self._mark_of = mark_of

    def at_least(self, limit: int) -> int:
        """How large the page must be, so that the last of them is on it."""
        return max(limit, self.count)

    def left_of(self, items: Sequence[tuple[K, V]]) -> Sequence[tuple[K, V]]:
        """Those after it; all, where it is gone from the store."""
        if self.count:
            for number, (key, _) in enumerate(items, 1):
                if self._mark_of(key) == self._mark:
                    return items[number:]
        return items


class _Walk(Generic[K, V]):
    """New's side of a range that both stores are walked through, and where both are."""

    def __init__(self, cursor: str | None, seen: _Seen) -> None:
        self.cursor = cursor
        self.seen = seen
        self.done = False
        self.buffer: Sequence[tuple[K, V]] = ()
        self._page_at = cursor
        self._page: list[K] = []
        self._last_of_old: list[K] = []
        self._last_of_new: list[K] = []

    @property
    def position(self) -> tuple[str | None, list[K]]:
        """The cursor before a page, and those of the page's keys that were looked at."""
        if not self.buffer and not self.done:
            return self.cursor, []
        return self._page_at, self._page[: len(self._page) - len(self.buffer)]

    def add(self, page: Page[K, V]) -> None:
        """A further page of New, where the one before was taken. Raises _UnorderedError."""
        keys = [key for key, _ in page.items]
        _check_ascending([*self._last_of_new, *keys])
        self._last_of_new = keys[-1:] or self._last_of_new
        self._page_at = self.cursor
        self._page = keys
        self.buffer = self.seen.left_of(page.items)
        self.seen.count = 0
        self.cursor = page.next_cursor
        self.done = page.next_cursor is None

    def check_old(self, keys: Sequence[K]) -> None:
        """A further page of Old. Raises _UnorderedError."""
        _check_ascending([*self._last_of_old, *keys])
        self._last_of_old = list(keys[-1:]) or self._last_of_old

    def take(self, up_to: Sequence[Any]) -> Sequence[tuple[K, V]]:
        """Take what there is of New, up to and with this key. Raises _UnorderedError."""
        keys: list[Any] = [*self._page[len(self._page) - len(self.buffer) :]]
        try:
            end = bisect_right(keys, up_to[0]) if up_to else len(keys)
        except TypeError:
            raise _UnorderedError from None
        taken, self.buffer = self.buffer[:end], self.buffer[end:]
        return taken


class _Tally:
    """What a page of a part came to."""

    def __init__(self, part: Part, *, rows: int = 0) -> None:
        self.counts: Counter[str] = Counter(rows=rows)
        self.fields: Counter[str] = Counter()
        self.found: list[Difference] = []
        # Stores without an order give a key twice now and then.
        self._known = {bytes.fromhex(each[0]) for each in part.more.get("found", ())}

    def add(self, confirmed: Confirmed, *, mark: bool, extra_only: bool) -> None:
        """What was made sure of. `extra_only`: those that are not extra are counted where Old's keys are."""
        if not extra_only:
            self.counts["equal"] += len(confirmed.equal)
            self.counts["failed"] += len(confirmed.failed)
        opened = threshold(confirmed.opened)
        for each in confirmed.different:
            if each.name in self._known:
                continue
            self.counts[each.kind] += 1
            self.counts["stale"] += each.stale
            self.counts["marked"] += mark and each.is_wrong
            self.counts["not_opened"] += each.kind == "missing" and each.hash >= opened
            self.fields.update(field[:FIELD_CHARACTERS] for field in each.fields)
            self.found.append(each)

    def added_to(self, part: Part, cursor: str | None) -> Part:
        """The part after the page."""
        found = list(part.more.get("found", ()))
        characters = len(json.dumps(found)) if self.found and len(found) < KEPT_PER_PART else 0
        for each in self.found[: max(0, KEPT_PER_PART - len(found))]:
            fields = [field[:FIELD_CHARACTERS] for field in each.fields[:FIELDS_PER_KEY]]
            told = [each.name.hex(), f"{each.hash:016x}", each.kind, fields, each.stale]
            characters += len(json.dumps(told))
            if characters > KEPT_CHARACTERS:
                break
            found.append(told)
        counted = Counter(part.more.get("fields", {})) + self.fields
        return part.after_page(cursor, self.counts, found=found, fields=dict(counted.most_common(KEPT_FIELDS)))


def _named(function: Callable[..., Any]) -> str:
    """What tells a function from another one, in a checkpoint that another process may go on from."""
    return (
        f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__qualname__)}"
    )


def _walks_new(plan: Plan) -> bool:
    """Whether a run of this plan looks for keys that only New has."""
    return any(reach.side != "old" for reach in plan.ranges)


def _then_new(part: Part, reach: Range) -> Part:
    """The part, once Old's range is walked: what is left of New's comes next."""
    return replace(part, done=False, cursor=part.more.get("new_cursor", reach.after)).with_more(side="new")


def _check_ascending(keys: Sequence[Any]) -> None:
    try:
        ascending = all(map(lt, keys, keys[1:]))
    except TypeError:
        ascending = False
    if not ascending:
        raise _UnorderedError
