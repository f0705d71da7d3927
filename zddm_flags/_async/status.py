"""How far a migration is, whether it is time to cut over, and the way back to its beginning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from zddm_flags._async.bulk import AsyncBulk
from zddm_flags.errors import ResetRefused
from zddm_flags.jobs import JobName, Part, Plan, part_name, saved_plan
from zddm_flags.ledger import Checkpoint, LedgerSummary
from zddm_flags.results import JobStatus, MigrationStatus
from zddm_flags.verdict import reasons_not_to_cut_over

__all__ = ["AsyncOverview"]

K = TypeVar("K")
V = TypeVar("V")


class AsyncOverview(AsyncBulk[K, V]):
    """What an operator asks of a migration. See `AsyncProxy`."""

    async def migration_status(self) -> MigrationStatus:
        """How far the migration is, by the ledger and the flag, and whether it is time to cut over.

        Calls the ledger, which it has reaped where that is due, and no store. Raises what the ledger raises, and
        CorruptCheckpoint.
        """
        await self._reap_if_due()
        summary = await self._ledger.summary()
        kept = await self._ledger.checkpoints()
        backfill, verify = (saved_plan(job, kept, summary.epoch) for job in ("backfill", "verify"))
        return MigrationStatus(
            name=self.name,
            rollout=self._gate.decision.rollout,
            flag_key=self._gate.flag_key,
            opened=summary.opened,
            epoch=summary.epoch,
            stale=summary.stale,
            pending=summary.pending,
            oldest_pending_seconds=summary.oldest_pending_seconds,
            token_seconds=self._settings.reap_age,
            reaped=summary.reaped,
            backfill=_job_status("backfill", backfill, kept),
            verify=_job_status("verify", verify, kept),
            reasons=reasons_not_to_cut_over(
                self._gate.decision.rollout, summary, backfill, verify, self._settings.reap_age
            ),
        )

    async def reset_ledger(self, *, new_was_emptied: bool = False) -> LedgerSummary:
        """Forget every stale key, `opened` and all checkpoints: the migration begins anew, from an empty New.

        What New holds is trusted afterwards, as of no key: whatever is still in it may be served, wrong or not. So
        the rate must be 0, in all processes; no token may be pending; and New must be empty.

        Args:
            new_was_emptied: New cannot be scanned, or only seems to hold something: you have seen to it that
                it is empty, once every process had seen the rate at 0 and what it was doing then had ended.

        Returns:
            What the ledger holds then.

        Raises:
            ResetRefused: one of these does not hold; nothing was changed, unless it says that New was written
                to meanwhile.
            Unsupported: New cannot be scanned, and `new_was_emptied` is not said.

        What the ledger and New raise. Where it was the ledger, the reset may have come, or may come later.
        """
        if self._gate.write_rate > 0:
            raise ResetRefused(
                "the write rate is above 0, so that New is being written to: set the flag to 0, wait until every "
                "process has seen it, and empty New"
            )
        await self._reap_if_due()  # at a rate of 0 nobody else may come to do so
        # Before New is looked at: what was admitted before the rate went down may still write to it.
        if (await self._ledger.summary()).pending:
            raise self._operations_are_in_progress()
        if not new_was_emptied and not await self.holds_nothing():
            raise ResetRefused("New holds something, which would be trusted from then on: empty it first")
        if not await self._ledger.reset():
            raise self._operations_are_in_progress()
        if not new_was_emptied and not await self._is_still_empty():
            raise ResetRefused(
                "New was written to meanwhile, by a process that has not seen the flag at 0: leave it at 0, wait, "
                "empty New, and reset again"
            )
        self._telemetry.report("warning", "ledger_reset", new_was_emptied=new_was_emptied)
        return await self._ledger.summary()

    async def _is_still_empty(self) -> bool:
        """Whether New holds nothing after the reset. Unless that is sure, writes that skip New leave marks."""
        try:
            empty = await self.holds_nothing()
        except GeneratorExit:
            raise
        except BaseException:
            await self._ledger.open_to(1.0)
            raise
        if not empty:
            await self._ledger.open_to(1.0)
        return empty

    def _operations_are_in_progress(self) -> ResetRefused:
        return ResetRefused(
            f"operations are in progress, or were left by a process that ended: those are reaped after "
            f"{self._settings.reap_age:.0f} s. Try again then"
        )


def _job_status(job: JobName, plan: Plan | None, kept: Mapping[str, Checkpoint]) -> JobStatus | None:
    if plan is None:
        return None
    counts: Counter[str] = Counter()
    age = kept[job].age_seconds
    for number in range(len(plan.ranges)):
        name = part_name(job, number)
        if name in kept:
            part = Part.load(name, kept[name].data)
            if part.run == plan.run:
                counts.update(part.counts)
                age = min(age, kept[name].age_seconds)
    return JobStatus(
        state=plan.state,
        saved_seconds_ago=age,
        counts=dict(counts),
        expected=plan.expected,
        result=plan.result,
    )
