# Generated from zddm_flags/_async/backfill.py by `make generate`. Do not edit.
"""Backfill: copy the keys that no traffic touches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, Unpack

from zddm_flags._sync.bulk import Bulk
from zddm_flags._sync.job import Job
from zddm_flags._sync.migration import CopyRules
from zddm_flags._sync.work import LOOK_SECONDS, Stopped
from zddm_flags.hashing import threshold
from zddm_flags.jobs import JobOptions, Part, Plan, Range
from zddm_flags.results import BackfillResult

__all__ = ["Backfill"]

K = TypeVar("K")
V = TypeVar("V")


class Backfill(Job[K, V]):
    """Copies every key of Old into New that is not there yet, while reads and writes go on.

    ::

        result = await Backfill(proxy).run()

    Each page of keys is copied as a read copies one: under a token, from what Old holds then, so that no newer
    write is ever overwritten (H1). Keys that are in New and clean are left alone. After each page the ledger has a
    checkpoint, so that a further backfill goes on where this one was killed, in any process.

    It covers the keys below the write rate at its beginning. Where that has risen since, a further one begins
    anew, and passes over what is there. It waits while the write rate is 0, the guard is open, or the JSON flag
    says so.

    Args:
        proxy: the migration's, of this process.
        everything: cover the keys above the write rate too. From then on every write of such a key leaves it
            stale, until the write rate covers it: raise the write rate first where you can.
        options: see `Job`.

    Raises what `Job` raises.
    """

    name = "backfill"

    def __init__(self, proxy: Bulk[K, V], *, everything: bool = False, **options: Unpack[JobOptions]) -> None:
        super().__init__(proxy, **options)
        self._rules = CopyRules(everything=everything)
        self._opened = False

    def run(self) -> BackfillResult:
        """Do it, to the end or until `stop()`.

        Raises:
            Unsupported: Old cannot be scanned, or its reads may lag; or a method of the ledger is not there.
            CorruptCheckpoint: what an earlier run left cannot be understood.
            Superseded: another process has taken this over.

        Whatever the stores or the ledger raised last, where they failed for longer than `patience_seconds`.
        """
        plan = self._run()
        counts = self._counts()
        return BackfillResult(
            finished=plan.state == "finished",
            resumed=self.resumed,
            rows=counts["rows"],
            copied=counts["copied"],
            present=counts["present"],
            absent=counts["absent"],
            not_covered=counts["not_covered"],
            refused=counts["refused"],
            pending=counts["pending"],
            too_long=counts["too_long"],
            covered=self._covered(plan),
            seconds=plan.seconds,
        )

    @property
    def covers(self) -> float:
        """The share of the keys that a backfill that begins now covers."""
        return 1.0 if self._rules.everything else self._proxy.gate.write_rate

    def _covered(self, plan: Plan) -> float:
        """The share that was covered from end to end: the write rate may have been lowered in the middle."""
        covered = [float(plan.asked["covers"])]
        covered += [float(part.more["covers"]) for part in self._parts.values() if "covers" in part.more]
        return min(covered)

    def _asked(self) -> Mapping[str, Any]:
        return {"everything": self._rules.everything, "covers": self.covers}

    def _may_continue(self, plan: Plan) -> bool:
        same = plan.asked.get("everything") == self._rules.everything
        return same and float(plan.asked.get("covers", 0.0)) >= self.covers

    def _ranges(self, parts: int) -> Sequence[Range]:
        return [Range(after, until) for after, until in self._proxy.partitions_of_old(parts)]

    def _before_plan(self) -> None:
        while not self._proxy.new_takes_writes:
            self._wait(LOOK_SECONDS, "the write rate is 0, or the proxy is disabled: nothing may be copied")

    def _do_page(self, number: int, reach: Range, part: Part) -> Part:
        del number
        if self._plan is None:
            raise Stopped
        covers = float(self._plan.asked["covers"])
        if not self._opened:
            # Not by the first copy alone: a key that is written behind the cursor before that, by a process that
            # sees a lower rate, would be clean, and in Old only (H8).
            self._persistently(partial(self._proxy.open_to, covers))
            self._opened = True
        limit = self._allowance()
        cursor = part.cursor if part.cursor is not None else reach.after
        page = self._persistently(partial(self._proxy.scan_old, cursor, limit, reach.until))
        located, too_long = self._proxy.locate(key for key, _ in page.items)
        below = threshold(covers)
        covered = [each for each in located if each.hash < below]
        copying = self._copy("backfill", covered, self._rules)
        counts = copying.counts
        counts["not_covered"] += len(located) - len(covered)
        counts["too_long"] = len(too_long)
        counts["rows"] = len(page.items)
        # A rate of 0 is a kill, which is waited for, and leaves out no key.
        covers = min(covers, self.covers or 1.0, copying.below, float(part.more.get("covers", 1.0)))
        return part.after_page(page.next_cursor, counts, covers=covers)

    def _summary(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        covered = 0.0 if self._plan is None else self._covered(self._plan)
        return {"counts": dict(counts), "covered": covered}

    def _options(self) -> Mapping[str, Any]:
        return {"everything": self._rules.everything}
