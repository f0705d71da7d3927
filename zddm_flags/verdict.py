"""Whether it is time to cut over: a pure decision."""

from __future__ import annotations

import math

from zddm_flags.jobs import Plan
from zddm_flags.ledger import LedgerSummary
from zddm_flags.rollout import Rollout

__all__ = ["reasons_not_to_cut_over"]


IN_PROGRESS_SECONDS = 1.0
"""An operation that takes longer may have been left."""


def reasons_not_to_cut_over(
    rollout: Rollout, summary: LedgerSummary, backfill: Plan | None, verify: Plan | None, token_seconds: float
) -> list[str]:
    """Why it is not yet time, each with what to do; none where New holds all that Old does, and serves it."""
    reasons: list[str] = []
    if rollout.write < 1:
        reasons.append(f"the flag writes {_share(rollout.write)} of the keys to New: raise it to 1")
    if rollout.read < 1:
        reasons.append(f"the flag reads {_share(rollout.read)} of the keys from New: raise it to 1")
    if summary.opened < 1:
        reasons.append(
            f"New was only ever opened for {_share(summary.opened)} of the keys: run backfill at a rate of 1"
        )
    if summary.stale:
        verb = "is" if summary.stale == 1 else "are"
        reasons.append(f"{_keys(summary.stale)} {verb} stale, and served by Old: run repair")
    oldest = summary.oldest_pending_seconds
    if oldest is not None and oldest > token_seconds:
        reasons.append(
            f"an operation was left {oldest:.0f} s ago, by a process that ended: run status again, which reaps "
            "it, then repair"
        )
    elif oldest is not None and oldest > IN_PROGRESS_SECONDS:
        # A call of New's that raised leaves its token: until that is reaped nothing tells it from one in progress.
        reasons.append(
            f"an operation was begun {oldest:.0f} s ago, and may have left New as it was: run status again in "
            f"{token_seconds - oldest:.0f} s, when it is over or can be reaped"
        )
    return [*reasons, *_backfill_reasons(backfill), *_verify_reasons(backfill, verify)]


def _backfill_reasons(plan: Plan | None) -> list[str]:
    if plan is None:
        return ["no backfill was run: keys that no traffic touched are in Old only"]
    if plan.state != "finished":
        return ["the last backfill did not finish: run it again, and it goes on where it was"]
    covered = float(plan.result.get("covered", 0.0))
    reasons = []
    if covered < 1:
        share = _share(covered)
        reasons.append(f"the last backfill covered {share} of the keys: run it again at a write rate of 1")
    counts = plan.result.get("counts", {})
    left = sum(int(counts.get(name, 0)) for name in ("refused", "pending", "too_long"))
    if left:
        reasons.append(
            f"the last backfill left {_keys(left)} that it could not copy: run repair, then backfill and verify "
            "again"
        )
    return reasons


def _verify_reasons(backfill: Plan | None, verify: Plan | None) -> list[str]:
    if verify is None:
        return ["no verify was run: nothing proves that the stores are equal"]
    if verify.state != "finished":
        return ["the last verify did not finish: run it again, and it goes on where it was"]
    reasons = []
    counts = verify.result.get("counts", {})
    different = sum(int(counts.get(name, 0)) for name in ("changed", "missing", "extra", "too_long"))
    if different:
        verb = "differs" if different == 1 else "differ"
        reasons.append(
            f"the last verify found {_keys(different)} that {verb}: run repair --from-verify, then verify"
        )
    uncertain = sum(int(counts.get(name, 0)) for name in ("unsure", "failed"))
    if uncertain:
        reasons.append(f"the last verify could not compare {_keys(uncertain)}: run it again")
    if not verify.result.get("whole"):
        reasons.append("the last verify looked at some keys only, or not at their values: run it without options")
    if not verify.result.get("extra_checked"):
        reasons.append("the last verify could not look for keys that only New has: its adapter has no scan()")
    if backfill is not None and backfill.state == "finished" and verify.after != backfill.run:
        reasons.append("the last verify began before the last backfill had finished: run it again")
    return reasons


def _share(rate: float) -> str:
    """Rounded down: what is not all of them does not read as if it were."""
    return f"{math.floor(rate * 1_000_000) / 10_000:g} %"


def _keys(number: int) -> str:
    return "1 key" if number == 1 else f"{number:,} keys"
