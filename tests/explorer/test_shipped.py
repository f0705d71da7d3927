"""The shipped proxy keeps its promise in every interleaving of small scenarios, with faults of every kind."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable

import pytest

from tests.explorer import scenarios
from tests.explorer.explored import Proved
from tests.explorer.mistakes import Available, CopyJoinsAPendingWrite
from zddm_flags import Shadow
from zddm_flags.ledger import CopyGrant, LedgerTable, Opening
from zddm_flags.testing import BackgroundWork, Delete, Fault, Read, Scenario, SetRate, Write, explore

PROMISES = {
    "h1_copy_and_write": (scenarios.COPY_AND_WRITE, 2),
    "h2_two_writers": (scenarios.TWO_WRITERS, 2),
    "h3_copy_and_delete": (scenarios.COPY_AND_DELETE, 2),
    "h3_stale_key_that_old_lacks": (scenarios.STALE_KEY_THAT_OLD_LACKS, 2),
    "h3_read_while_written_and_deleted": (scenarios.READ_WHILE_IT_IS_WRITTEN_AND_DELETED, 1),
    "h4_crash_between_the_writes": (scenarios.CRASH_BETWEEN_THE_WRITES, 2),
    "h4_cancelled_between_the_writes": (scenarios.CANCELLED_BETWEEN_THE_WRITES, 2),
    "h4_crash_reap_and_copy": (scenarios.CRASH_REAP_AND_COPY, 1),
    "h4_cancelled_while_it_opens": (scenarios.WIDENED_WHILE_IT_IS_WRITTEN, 2),
    "h5_new_fails_after_old": (scenarios.NEW_FAILS_AFTER_OLD, 2),
    "h5_outage_of_new": (scenarios.OUTAGE_OF_NEW, 1),
    "h4_outage_of_the_ledger": (scenarios.OUTAGE_OF_THE_LEDGER, 1),
    "h6_kill_write_resume": (scenarios.KILL_WRITE_RESUME, 2),
    "h6_disabled_and_enabled": (scenarios.DISABLED_AND_ENABLED, 1),
    "h7_ramp_down_write_ramp_up": (scenarios.RAMP_DOWN_WRITE_RAMP_UP, 2),
    "h8_processes_at_different_rates": (scenarios.PROCESSES_AT_DIFFERENT_RATES, 2),
    "h8_copy_and_write_elsewhere": (scenarios.COPY_AND_WRITE_ELSEWHERE, 2),
    "h8_key_above_opened": (scenarios.ABOVE_OPENED, 2),
    "h8_read_rate_below_write_rate": (scenarios.WARMED_BEFORE_IT_IS_READ, 1),
    "h9_reads_go_backwards": (scenarios.READS_GO_BACKWARDS, 2),
    "h9_stale_key_and_two_readers": (scenarios.STALE_KEY_AND_TWO_READERS, 2),
    "h14_batch_and_single_write": (scenarios.BATCH_AND_SINGLE_WRITE, 2),
    "h14_batch_of_copies_and_write": (scenarios.BATCH_OF_COPIES_AND_WRITE, 2),
    "h14_batch_done_key_by_key": (scenarios.BATCH_KEY_BY_KEY, 1),
    "h14_batch_of_copies_key_by_key": (scenarios.COPIES_KEY_BY_KEY, 1),
    "h15_slow_write_and_reaper": (scenarios.SLOW_WRITE_AND_REAPER, 1),
    "h15_slow_write_and_writer": (scenarios.SLOW_WRITE_AND_WRITER, 1),
    "h15_slow_copy_and_writer": (scenarios.SLOW_COPY_AND_WRITER, 1),
    "h15_one_of_two_writers_is_reaped": (scenarios.ONE_OF_TWO_WRITERS_IS_REAPED, 0),
    "h17_several_readers": (scenarios.SEVERAL_READERS, 1),
    "h5_guard_opens_and_closes": (scenarios.GUARD_OPENS_AND_CLOSES, 1),
    "h5_guard_opens_while_it_is_deleted": (scenarios.GUARD_OPENS_WHILE_IT_IS_DELETED, 2),
    "h5_guard_opens_while_a_call_hangs": (scenarios.GUARD_OPENS_WHILE_A_CALL_HANGS, 1),
    "h5_outage_of_a_guarded_new": (scenarios.OUTAGE_OF_A_GUARDED_NEW, 0),
    "h5_guard_is_half_open": (scenarios.GUARD_IS_HALF_OPEN, 1),
    "h6_killed_while_the_guard_is_open": (scenarios.KILLED_WHILE_THE_GUARD_IS_OPEN, 1),
    "h8_ramped_while_the_guard_is_open": (scenarios.RAMPED_WHILE_THE_GUARD_IS_OPEN, 1),
    "h14_guard_opens_in_a_batch": (scenarios.GUARD_OPENS_IN_A_BATCH, 1),
    "h14_guard_opens_in_a_batch_of_copies": (scenarios.GUARD_OPENS_IN_A_BATCH_OF_COPIES, 1),
    "h16_copied_later_and_written": (scenarios.COPIED_LATER_AND_WRITTEN, 2),
    "h16_copied_later_and_deleted": (scenarios.COPIED_LATER_AND_DELETED, 2),
    "h16_stale_key_copied_later": (scenarios.STALE_KEY_COPIED_LATER, 2),
    "h16_killed_before_it_is_copied": (scenarios.KILLED_BEFORE_IT_IS_COPIED, 1),
    "h16_crash_while_it_is_copied_later": (scenarios.CRASH_WHILE_IT_IS_COPIED_LATER, 1),
    "h16_slow_copy_later_and_writer": (scenarios.SLOW_COPY_LATER_AND_WRITER, 1),
    "h16_two_copy_later": (scenarios.TWO_COPY_LATER, 0),
    "h16_queued_twice": (scenarios.QUEUED_TWICE, 1),
    "h16_batch_copied_later": (scenarios.BATCH_COPIED_LATER, 1),
    "h16_never_copied": (scenarios.NEVER_COPIED, 1),
    "h16_copied_at_a_pace": (scenarios.COPIED_AT_A_PACE, 0),
    "compared_and_written": (scenarios.COMPARED_AND_WRITTEN, 0),
    "compared_and_deleted": (scenarios.COMPARED_AND_DELETED, 2),
    "compared_written_and_copied": (scenarios.COMPARED_WRITTEN_AND_COPIED, 1),
    "compared_and_reaped": (scenarios.COMPARED_AND_REAPED, 2),
    "compared_in_two_processes": (scenarios.COMPARED_IN_TWO_PROCESSES, 1),
    "compared_while_it_is_stale": (scenarios.COMPARED_WHILE_IT_IS_STALE, 2),
    "compared_and_killed": (scenarios.COMPARED_AND_KILLED, 1),
    "crash_while_it_is_compared": (scenarios.CRASH_WHILE_IT_IS_COMPARED, 1),
    "compared_while_the_ledger_is_out": (scenarios.COMPARED_WHILE_THE_LEDGER_IS_OUT, 1),
    "batch_compared": (scenarios.BATCH_COMPARED, 2),
    "everything": (scenarios.EVERYTHING, 0),
}
"""The named scenarios, by hazard where there is one, with the faults that a run may have."""


@pytest.mark.parametrize(("scenario", "faults"), PROMISES.values(), ids=PROMISES)
def test_promise_is_kept(scenario: Scenario, faults: int, proved: Proved) -> None:
    """No interleaving serves what Old does not hold, or leaves a clean key that differs."""
    proved(explore(dataclasses.replace(scenario, faults=faults)))


@pytest.mark.parametrize(
    ("scenario", "faults"),
    [
        (scenarios.WRITTEN_WITHOUT_THE_LEDGER, 0),
        (scenarios.COPIED_WHILE_IT_IS_WRITTEN_WITHOUT_THE_LEDGER, 0),
        (scenarios.OLD_LANDS_LATE_WITHOUT_THE_LEDGER, 1),
        (scenarios.CRASH_WITHOUT_THE_LEDGER, 0),
        (scenarios.WRITTEN_AGAIN_WITHOUT_THE_LEDGER, 0),
        (scenarios.MARKED_WITH_TROUBLE, 1),
        (scenarios.COMPARED_WITHOUT_THE_LEDGER, 0),
        (dataclasses.replace(scenarios.WRITTEN_WITHOUT_THE_LEDGER, targets=("old", "new")), 2),
        (dataclasses.replace(scenarios.COPIED_WHILE_IT_IS_WRITTEN_WITHOUT_THE_LEDGER, targets=("old", "new")), 1),
    ],
)
def test_written_without_the_ledger(scenario: Scenario, faults: int, proved: Proved) -> None:
    """Its own process never reads stale what it wrote without the ledger, and nobody does once it is marked."""
    proved(explore(dataclasses.replace(scenario, faults=faults), Available))


@pytest.mark.parametrize("kind", ["fail", "not_applied", "late", "lose_reply", "cancel"])
def test_h5_new_fails_in_two_writes(kind: Fault, proved: Proved) -> None:
    """Two failures of New in a row, each of one kind, leave nothing clean that differs."""
    proved(explore(dataclasses.replace(scenarios.new_fails_after_old(kind), faults=2)))


def test_h3_a_new_that_cannot_delete() -> None:
    """A key that was deleted stays stale where New cannot delete, so that New is never asked for it."""
    scenario = Scenario(
        old=scenarios.V1,
        new=scenarios.V1,
        opened=1.0,
        processes=scenarios.BOTH_OPEN,
        steps={
            "delete": Delete("A", "k"),
            "read": Read("B", "k"),
            "after": Read("B", "k", after=("delete", "read")),
        },
        without=("new.delete", "new.delete_many"),
        faults=1,
    )
    explore(scenario).check()


def test_h6_a_new_that_is_not_empty_needs_opened() -> None:
    """Over a New that is verified but not empty, a ledger that says it was never opened serves stale values."""
    scenario = Scenario(
        old=scenarios.V1,
        new=scenarios.V1,
        processes={"A": 0.0},
        steps={
            "write": Write("A", "k", "v2"),
            "open": SetRate("A", 1.0, after=("write",)),
            "read": Read("A", "k", after=("open",)),
        },
    )
    violation = explore(scenario).violation
    assert violation is not None
    assert violation.what == "read returned 'v1' for k; Old held 'v2' during it"
    explore(dataclasses.replace(scenario, opened=1.0)).check()


def test_a_key_that_is_found_to_differ_is_marked(proved: Proved) -> None:
    """A comparison that finds a difference disturbs no write, and no read, that goes on beside it."""
    scenario = Scenario(
        old={"k": "v1", "m": "x1"},
        new={"k": "v1", "m": "x0"},  # m differs from the start, so that to say so is right; it is mended
        opened=1.0,
        processes=scenarios.BOTH_OPEN,
        options={"guard": None, "shadow": Shadow(share=1.0, per_second=None, equal=operator.is_not)},
        steps={
            "mend": Write("B", "m", "x2"),
            "read": Read("A", "k", after=("mend",)),
            "compare": BackgroundWork("A", after=("read",)),
            "write": Write("B", "k", "v2", after=("mend",)),
            "again": Read("B", "k", after=("read",)),
        },
    )
    proved(explore(scenario))
    quiet = dataclasses.replace(scenario, new={"k": "v1"}, steps=scenario.steps)
    violation = explore(quiet).violation
    assert violation is not None
    assert violation.what == "compare found that 1 keys differ, which nothing can have brought about"


class OneCopier(LedgerTable):
    """Fails where a copy is granted beside any other token."""

    def begin_copy(self, keys: Iterable[bytes], token: bytes, now: float) -> CopyGrant:
        grant = super().begin_copy(keys, token, now)
        for key in grant.granted:
            assert self._entries[key].pending == {token}, "another token was pending"
        return grant


class OneCopierOfMany(OneCopier, CopyJoinsAPendingWrite):
    """The same check over a ledger that grants every copy."""


def test_h17_one_copier_at_a_time() -> None:
    """Of several readers of one key at most one has the right to copy; the others read Old."""
    explore(scenarios.SEVERAL_READERS, ledger_table=OneCopier).check()
    with pytest.raises(AssertionError, match="another token"):
        explore(scenarios.SEVERAL_READERS, ledger_table=OneCopierOfMany)


class ResetWhileItOpens(LedgerTable):
    """A ledger that is reset, each time, between an operation's begin and its open_to."""

    def open_to(self, rate: float) -> Opening:
        self._entries.clear()
        self._tokens.clear()
        self.opened = 0.0
        self.epoch += 1
        return super().open_to(rate)


class RoundsDown(LedgerTable):
    """A ledger that keeps rates with one decimal."""

    def open_to(self, rate: float) -> Opening:
        return super().open_to(int(rate * 10) / 10)


@pytest.mark.parametrize(("table", "rate"), [(ResetWhileItOpens, 1.0), (RoundsDown, 0.25)])
def test_opening_ends(table: type[LedgerTable], rate: float) -> None:
    """An open_to that does not open this epoch wide enough keeps the operation from New, not busy for ever."""
    scenario = Scenario(
        old=scenarios.V1,
        processes={"A": rate},
        steps={"write": Write("A", "k", "v2"), "read": Read("A", "k", after=("write",))},
    )
    explore(scenario, ledger_table=table, limit=10_000).check()
