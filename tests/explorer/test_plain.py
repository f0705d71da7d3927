"""The plain algorithm breaks the promise in each hazard, and the explorer says how."""

from __future__ import annotations

import pytest

from tests.explorer import scenarios
from tests.explorer.plain import PlainProxy
from zddm_flags.testing import Fault, Scenario, Violation, explore


def violation_of(scenario: Scenario, *, applied: int) -> Violation:
    """What explore() finds against the plain algorithm, in a schedule of so many calls that take effect."""
    violation = explore(scenario, PlainProxy).violation
    assert violation is not None
    assert sum(line.endswith((" is applied", " lands late")) for line in violation.schedule) == applied
    return violation


def test_h1_a_copy_lands_after_a_write() -> None:
    """A copy of v1 lands in New after the write of v2."""
    violation = violation_of(scenarios.COPY_AND_WRITE, applied=5)
    assert violation.what == "at rest k is clean, New holds 'v1' and Old 'v2'"
    assert violation.schedule == (
        "copy: A starts",
        "copy: new.read(k) is applied",
        "copy: new.read(k) is acknowledged",
        "copy: old.read(k) is applied",
        "copy: old.read(k) is acknowledged",
        "write: B starts",
        "write: old.write(k, v2) is applied",
        "write: old.write(k, v2) is acknowledged",
        "write: new.write(k, v2) is applied",
        "write: new.write(k, v2) is acknowledged; it returns None",
        "copy: new.write(k, v1) is applied",
        "copy: new.write(k, v1) is acknowledged; it returns 'v1'",
    )


def test_h2_two_writers_in_two_orders() -> None:
    """Two writers reach Old in one order and New in the other."""
    violation = violation_of(scenarios.TWO_WRITERS, applied=4)
    assert violation.what == "at rest k is clean, New holds 'v2' and Old 'v3'"


def test_h3_a_copy_resurrects_a_deleted_key() -> None:
    """A copy brings back into New what was deleted meanwhile."""
    violation = violation_of(scenarios.COPY_AND_DELETE, applied=5)
    assert violation.what == "at rest k is clean, New holds 'v1' and Old None"


def test_h4_crash_between_the_two_writes() -> None:
    """A process that dies between its two writes leaves New behind."""
    violation = violation_of(scenarios.CRASH_BETWEEN_THE_WRITES, applied=2)
    assert "crash: A crashes" in violation.schedule
    assert "New holds 'v1' and Old 'v2'" in violation.what


def test_h4_cancellation_between_the_two_writes() -> None:
    """A write that is cancelled after Old took it leaves New behind."""
    violation = violation_of(scenarios.CANCELLED_BETWEEN_THE_WRITES, applied=2)
    assert violation.what == "read returned 'v1' for k; Old held 'v2' during it"
    assert "write: old.write(k, v2) is cancelled; it raises CancelledError" in violation.schedule


@pytest.mark.parametrize("kind", ["fail", "not_applied", "late"])
def test_h5_new_fails_after_old(kind: Fault) -> None:
    """A write that New did not take leaves New behind."""
    violation = violation_of(scenarios.new_fails_after_old(kind), applied=3)
    assert violation.what == "at rest k is clean, New holds 'v2' and Old 'v3'"


def test_h6_kill_write_resume() -> None:
    """After a kill and a resume New serves what it missed."""
    violation = violation_of(scenarios.KILL_WRITE_RESUME, applied=2)
    assert violation.what == "read returned 'v1' for k; Old held 'v2' during it"
    assert violation.schedule[0] == "kill: A sees the rate 0.0"


def test_h7_ramp_down_write_ramp_up() -> None:
    """After a ramp down and up New serves what it missed."""
    violation = violation_of(scenarios.RAMP_DOWN_WRITE_RAMP_UP, applied=2)
    assert violation.what == "read returned 'v1' for k; Old held 'v2' during it"


def test_h8_processes_at_different_rates() -> None:
    """A process that does not see the flag yet writes only Old, and another one reads New."""
    violation = violation_of(scenarios.PROCESSES_AT_DIFFERENT_RATES, applied=2)
    assert violation.what == "read returned 'v1' for k; Old held 'v2' during it"


def test_h9_reads_go_backwards() -> None:
    """A reader sees v2 in Old and afterwards v1 in New."""
    violation = violation_of(scenarios.READS_GO_BACKWARDS, applied=3)
    assert violation.what == "from_new returned 'v1' for k; Old held 'v2' during it"
    assert "from_old: old.read(k) is acknowledged; it returns 'v2'" in violation.schedule
