"""One small scenario for each hazard of docs/guarantees.md that an interleaving can bring about."""

from __future__ import annotations

import dataclasses

from zddm_flags import Rollout
from zddm_flags.testing import (
    Advance,
    Crash,
    Delete,
    Disable,
    Enable,
    Fault,
    MarkUnmarked,
    Outage,
    Read,
    ReadMany,
    Recovery,
    Scenario,
    SetRate,
    Write,
    WriteMany,
)

V1 = {"k": "v1"}
BOTH_OPEN = {"A": 1.0, "B": 1.0}

# -- the hazards, as small as they can be: the plain algorithm fails in each ------------------------------------

COPY_AND_WRITE = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={"copy": Read("A", "k"), "write": Write("B", "k", "v2")},
)
TWO_WRITERS = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={"first": Write("A", "k", "v2"), "second": Write("B", "k", "v3")},
)
COPY_AND_DELETE = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={"copy": Read("A", "k"), "delete": Delete("B", "k")},
)
CRASH_BETWEEN_THE_WRITES = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"write": Write("A", "k", "v2"), "crash": Crash("A"), "read": Read("B", "k", after=("crash",))},
)
CANCELLED_BETWEEN_THE_WRITES = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"write": Write("A", "k", "v2"), "read": Read("B", "k", after=("write",))},
    faults=1,
    kinds=("cancel",),
)
NEW_FAILS_AFTER_OLD = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"write": Write("A", "k", "v2"), "again": Write("B", "k", "v3", after=("write",))},
    faults=1,
    targets=("new",),
)


def new_fails_after_old(kind: Fault) -> Scenario:
    """New fails in one way only."""
    return dataclasses.replace(NEW_FAILS_AFTER_OLD, kinds=(kind,))


KILL_WRITE_RESUME = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0},
    steps={
        "kill": SetRate("A", 0.0),
        "write": Write("A", "k", "v2", after=("kill",)),
        "resume": SetRate("A", 1.0, after=("write",)),
        "read": Read("A", "k", after=("resume",)),
    },
)
RAMP_DOWN_WRITE_RAMP_UP = Scenario(
    old=V1,
    new=V1,
    opened=0.75,
    hash_rates={"k": 0.5},
    processes={"A": 0.75},
    steps={
        "down": SetRate("A", 0.25),
        "write": Write("A", "k", "v2", after=("down",)),
        "up": SetRate("A", 0.75, after=("write",)),
        "read": Read("A", "k", after=("up",)),
    },
)
PROCESSES_AT_DIFFERENT_RATES = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0, "B": 0.0},
    steps={"write": Write("B", "k", "v2"), "read": Read("A", "k", after=("write",))},
)
READS_GO_BACKWARDS = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0, "B": 0.0, "C": 1.0},
    steps={
        "write": Write("A", "k", "v2"),
        "from_old": Read("B", "k"),
        "from_new": Read("C", "k", after=("from_old",)),
    },
)

# -- for the protocol: more of them at a time -------------------------------------------------------------------

COPY_AND_WRITE_ELSEWHERE = Scenario(
    old=V1,
    processes={"A": 1.0, "B": 0.0},
    steps={"copy": Read("A", "k"), "write": Write("B", "k", "v2")},
)
SEVERAL_READERS = Scenario(
    old=V1,
    processes={"A": 1.0, "B": 1.0, "C": 1.0},
    steps={"one": Read("A", "k"), "two": Read("B", "k"), "three": Read("C", "k")},
)
STALE_KEY_AND_TWO_READERS = Scenario(
    old=V1,
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"one": Read("A", "k"), "two": Read("B", "k")},
)
STALE_KEY_THAT_OLD_LACKS = Scenario(
    old={},
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"read": Read("A", "k"), "write": Write("B", "k", "v1")},
)
READ_WHILE_IT_IS_WRITTEN_AND_DELETED = Scenario(
    processes={"A": 1.0, "B": 1.0, "C": 0.0},
    steps={
        "read": Read("A", "k"),
        "write": Write("B", "k", "v2"),
        "delete": Delete("C", "k", after=("write",)),
    },
)
WIDENED_WHILE_IT_IS_WRITTEN = Scenario(
    old=V1,
    new=V1,
    opened=0.5,
    hash_rates={"k": 0.2},
    processes=BOTH_OPEN,
    steps={"write": Write("A", "k", "v2"), "read": Read("B", "k", after=("write",))},
    faults=1,
    kinds=("cancel",),
)
ABOVE_OPENED = Scenario(
    old={"k": "v1", "l": "w1"},
    opened=0.4,
    hash_rates={"k": 0.5, "l": 0.3},
    processes={"A": 0.4, "B": 0.4},
    steps={
        "write": Write("A", "k", "v2"),
        "wider": SetRate("B", Rollout(read=0.3, write=0.6)),
        "copy": Read("B", "k"),
        "widest": SetRate("B", 1.0, after=("copy",)),
        "read": Read("B", "k", after=("widest",)),
    },
)
WARMED_BEFORE_IT_IS_READ = Scenario(
    old=V1,
    hash_rates={"k": 0.5},
    processes={"A": Rollout(read=0.25, write=0.75), "B": Rollout(read=0.75, write=0.75)},
    steps={"write": Write("A", "k", "v2"), "read": Read("B", "k"), "again": Read("A", "k")},
)
DISABLED_AND_ENABLED = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "disable": Disable("A"),
        "write": Write("A", "k", "v2"),
        "enable": Enable("A", after=("disable",)),
        "read": Read("A", "k", after=("write",)),
        "elsewhere": Read("B", "k"),
    },
)
CRASH_REAP_AND_COPY = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0, "B": 1.0, "C": 1.0},
    steps={
        "write": Write("A", "k", "v2"),
        "crash": Crash("A"),
        "later": Advance(after=("crash",)),
        "read": Read("B", "k"),
        "again": Read("B", "k", after=("later", "read")),
        "other": Read("C", "k", after=("later",)),
    },
)
SLOW_WRITE_AND_REAPER = Scenario(
    old=V1,
    processes={"A": 1.0, "B": 0.0, "C": 1.0},
    steps={
        "slow": Write("A", "k", "v2"),
        "later": Advance(),
        "reap": Read("C", "k", after=("later",)),
        "write": Write("B", "k", "v3", after=("reap",)),
    },
)
SLOW_WRITE_AND_WRITER = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={
        "slow": Write("A", "k", "v2"),
        "later": Advance(),
        "reap": Read("B", "k", after=("later",)),
        "write": Write("B", "k", "v3", after=("reap",)),
    },
)
SLOW_COPY_AND_WRITER = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={
        "slow": Read("A", "k"),
        "later": Advance(),
        "reap": Read("B", "k", after=("later",)),
        "write": Write("B", "k", "v3", after=("reap",)),
    },
)
ONE_OF_TWO_WRITERS_IS_REAPED = Scenario(
    old=V1,
    processes={"A": 1.0, "B": 1.0, "C": 1.0},
    steps={
        "first": Write("A", "k", "v2"),
        "sooner": Advance(15.0),
        "second": Write("B", "k", "v3", after=("sooner",)),
        "later": Advance(20.0, after=("sooner",)),
        "reap": Read("C", "k", after=("later",)),
    },
)
BATCH_AND_SINGLE_WRITE = Scenario(
    old={"k": "v1", "l": "w1"},
    processes=BOTH_OPEN,
    steps={
        "batch": WriteMany("A", (("k", "v2"), ("l", "w2"))),
        "write": Write("B", "k", "v3"),
    },
)
BATCH_OF_COPIES_AND_WRITE = Scenario(
    old={"k": "v1"},
    new={"l": "w0"},
    stale=("l",),
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"batch": ReadMany("A", ("k", "l")), "write": Write("B", "k", "v2")},
)
CRASH_WHILE_IT_READS = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={"read": Read("A", "k"), "crash": Crash("A"), "write": Write("B", "k", "v2", after=("crash",))},
)
OLD_LANDS_LATE = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"write": Write("A", "k", "v2"), "read": Read("B", "k", after=("write",))},
    faults=1,
)

OUTAGE_OF_NEW = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "out": Outage("new"),
        "write": Write("A", "k", "v2"),
        "read": Read("B", "k"),
        "back": Recovery("new", after=("out",)),
        "again": Read("B", "k", after=("write", "back", "read")),
    },
)
OUTAGE_OF_THE_LEDGER = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "out": Outage("ledger"),
        "write": Write("A", "k", "v2"),
        "read": Read("B", "k"),
        "back": Recovery("ledger", after=("out",)),
        "again": Read("B", "k", after=("write",)),
    },
)

# -- for on_ledger_error="available": what holds although the promise is suspended for other processes ----------

WRITTEN_WITHOUT_THE_LEDGER = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0},
    steps={
        "out": Outage("ledger"),
        "write": Write("A", "k", "v2", after=("out",)),
        "back": Recovery("ledger", after=("out",)),
        "mark": MarkUnmarked("A", after=("back",)),
        "read": Read("A", "k"),
        "mark again": MarkUnmarked("A", after=("mark", "write")),
    },
)
COPIED_WHILE_IT_IS_WRITTEN_WITHOUT_THE_LEDGER = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={
        "copy": Read("B", "k"),
        "out": Outage("ledger"),
        "write": Write("A", "k", "v2", after=("out",)),
        "back": Recovery("ledger", after=("out",)),
        "mark": MarkUnmarked("A", after=("back",)),
        "mark again": MarkUnmarked("A", after=("mark", "write")),
        "read": Read("B", "k", after=("mark again",)),
    },
)
CRASH_WITHOUT_THE_LEDGER = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={
        "out": Outage("ledger"),
        "write": Write("A", "k", "v2", after=("out",)),
        "other": Write("A", "l", "w2", after=("out",)),
        "crash": Crash("A"),
    },
)
WRITTEN_AGAIN_WITHOUT_THE_LEDGER = Scenario(  # while a mark is so slow that it is reaped, and its key copied
    old=V1,
    processes=BOTH_OPEN,
    steps={
        "out": Outage("ledger"),
        "write": Write("A", "k", "v2", after=("out",)),
        "back": Recovery("ledger", after=("write",)),
        "mark": MarkUnmarked("A", after=("back",)),
        "later": Advance(after=("back",)),
        "reap": Read("B", "k", after=("later",)),
        "out again": Outage("ledger", after=("reap",)),
        "write again": Write("A", "k", "v3", after=("out again",)),
        "back again": Recovery("ledger", after=("write again",)),
        "mark again": MarkUnmarked("A", after=("back again",)),
        "mark at last": MarkUnmarked("A", after=("mark", "mark again")),
        "read": Read("A", "k", after=("back again",)),
    },
)
MARKED_WITH_TROUBLE = dataclasses.replace(
    WRITTEN_WITHOUT_THE_LEDGER,
    steps={**WRITTEN_WITHOUT_THE_LEDGER.steps, "mark once more": MarkUnmarked("A", after=("mark again",))},
    targets=("ledger",),
)
OLD_LANDS_LATE_WITHOUT_THE_LEDGER = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "out": Outage("ledger"),
        "write": Write("A", "k", "v2", after=("out",)),
        "back": Recovery("ledger", after=("write",)),
        "mark": MarkUnmarked("A", after=("back",)),
        "copy": Read("B", "k", after=("mark",)),
        "later": Advance(after=("mark",)),
        "read": Read("B", "k", after=("copy",)),
    },
    kinds=("late",),
    targets=("old",),
)

KEY_BY_KEY = ("old.read_many", "old.write_many", "new.read_many", "new.write_many", "new.delete_many")
BATCH_KEY_BY_KEY = dataclasses.replace(BATCH_AND_SINGLE_WRITE, without=KEY_BY_KEY)
COPIES_KEY_BY_KEY = dataclasses.replace(BATCH_OF_COPIES_AND_WRITE, without=KEY_BY_KEY)
