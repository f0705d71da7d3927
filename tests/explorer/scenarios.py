"""One small scenario for each hazard of docs/guarantees.md that an interleaving can bring about."""

from __future__ import annotations

import dataclasses

from zddm_flags import Copies, Guard, Rollout, Shadow
from zddm_flags.testing import (
    Advance,
    BackfillPage,
    BackgroundWork,
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
    RepairPage,
    ResetLedger,
    Scenario,
    SetRate,
    VerifyPage,
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

# -- with a guard around New: it opens after one failure, or while one call hangs --------------------------------

GUARD = {"guard": Guard(min_calls=1, max_hanging_calls=1, open_seconds=1.0, trial_calls=1)}
NEW_ALONE: tuple[str, ...] = ("new",)

GUARD_OPENS_AND_CLOSES = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    options=GUARD,
    targets=NEW_ALONE,
    steps={
        "opens": Read("A", "k"),
        "later": Advance(1.0, after=("opens",)),
        "asks": Read("A", "k", after=("opens",)),
        "probe": BackgroundWork("A", after=("asks",)),
        "again": Read("A", "k", after=("probe",)),
        "write": Write("B", "k", "v2", after=("opens",)),
    },
)
GUARD_OPENS_WHILE_IT_IS_DELETED = Scenario(
    old={"k": "v1", "l": "w1"},
    new={"k": "v1", "l": "w1"},
    opened=1.0,
    processes=BOTH_OPEN,
    options=GUARD,
    targets=NEW_ALONE,
    steps={
        "opens": Read("A", "l"),
        "delete": Delete("A", "k"),
        "write": Write("B", "k", "v2", after=("opens",)),
    },
)
GUARD_OPENS_IN_A_BATCH = Scenario(  # which New takes key by key, so that the guard stops it in the middle
    old={"k": "v1", "l": "w1", "m": "x1"},
    new={"k": "v1", "l": "w1", "m": "x1"},
    opened=1.0,
    processes=BOTH_OPEN,
    options=GUARD,
    targets=NEW_ALONE,
    without=("new.write_many",),
    steps={
        "opens": Read("A", "m"),
        "batch": WriteMany("A", (("k", "v2"), ("l", "w2"))),
        "read": ReadMany("B", ("k", "l"), after=("batch",)),
    },
)
GUARD_OPENS_IN_A_BATCH_OF_COPIES = Scenario(
    old={"k": "v1", "m": "x1"},
    new={"l": "w0", "m": "x1", "n": "y0"},
    stale=("l", "n"),
    opened=1.0,
    processes=BOTH_OPEN,
    options=GUARD,
    targets=NEW_ALONE,
    without=("new.read_many", "new.write_many", "new.delete_many"),
    steps={
        "opens": Read("A", "m"),
        "batch": ReadMany("A", ("k", "l", "n")),
        "write": Write("B", "l", "w2", after=("opens",)),
    },
)
GUARD_OPENS_WHILE_A_CALL_HANGS = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    options=GUARD,
    steps={
        "hangs": Write("A", "k", "v2"),
        "pause": Advance(2.0),
        "write": Write("A", "k", "v3", after=("pause",)),
        "read": Read("B", "k", after=("write",)),
    },
    targets=NEW_ALONE,
    kinds=("late",),
)
OUTAGE_OF_A_GUARDED_NEW = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    options=GUARD,
    steps={
        "out": Outage("new"),
        "write": Write("A", "k", "v2"),
        "back": Recovery("new", after=("out",)),
        "later": Advance(1.0, after=("write",)),
        "read": Read("A", "k", after=("later",)),
        "probe": BackgroundWork("A", after=("read",)),
        "trial": Write("A", "k", "v3", after=("probe",)),
        "again": Read("A", "k", after=("trial",)),
        "elsewhere": Read("B", "k"),
    },
)
GUARD_IS_HALF_OPEN = Scenario(  # while two operations want to try New
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    options=GUARD,
    targets=NEW_ALONE,
    steps={
        "opens": Read("A", "k"),
        "later": Advance(1.0, after=("opens",)),
        "asks": Read("A", "k", after=("later",)),
        "probe": BackgroundWork("A", after=("asks",)),
        "one": Write("A", "k", "v2", after=("probe",)),
        "two": Write("A", "k", "v3", after=("probe",)),
    },
)
RAMPED_WHILE_THE_GUARD_IS_OPEN = Scenario(
    old={"k": "v1", "l": "w1"},
    new={"l": "w1"},
    opened=0.4,
    hash_rates={"k": 0.5, "l": 0.3},
    processes={"A": 0.4, "B": 0.4},
    options=GUARD,
    targets=NEW_ALONE,
    steps={
        "opens": Read("A", "l"),
        "wider": SetRate("A", 1.0),
        "copy": Read("A", "k", after=("wider",)),
        "write": Write("B", "k", "v2", after=("opens", "wider")),
    },
)
KILLED_WHILE_THE_GUARD_IS_OPEN = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0},
    options=GUARD,
    targets=NEW_ALONE,
    steps={
        "opens": Read("A", "k"),
        "kill": SetRate("A", 0.0),
        "write": Write("A", "k", "v2", after=("kill",)),
        "later": Advance(1.0, after=("opens",)),
        "resume": SetRate("A", 1.0, after=("write",)),
        "read": Read("A", "k", after=("resume",)),
        "probe": BackgroundWork("A", after=("opens",)),
        "again": Read("A", "k", after=("read", "probe")),
    },
)

# -- copies in the background -----------------------------------------------------------------------------------

LATER = {"guard": None, "copy": "background"}

COPIED_LATER_AND_WRITTEN = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    options=LATER,
    steps={
        "read": Read("A", "k"),
        "copy": BackgroundWork("A", after=("read",)),
        "write": Write("B", "k", "v2"),
    },
)
COPIED_LATER_AND_DELETED = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    options=LATER,
    steps={
        "read": Read("A", "k"),
        "copy": BackgroundWork("A", after=("read",)),
        "delete": Delete("B", "k"),
    },
)
STALE_KEY_COPIED_LATER = Scenario(
    old=V1,
    new={"k": "v0", "l": "w0"},
    stale=("k", "l"),  # Old lacks l
    opened=1.0,
    processes=BOTH_OPEN,
    options=LATER,
    steps={
        "read": ReadMany("A", ("k", "l")),
        "copy": BackgroundWork("A", after=("read",)),
        "write": Write("B", "k", "v2"),
    },
)
KILLED_BEFORE_IT_IS_COPIED = Scenario(
    old=V1,
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes=BOTH_OPEN,
    options=LATER,
    steps={
        "read": Read("A", "k"),
        "kill": SetRate("A", 0.0, after=("read",)),
        "copy": BackgroundWork("A", after=("read",)),
        "write": Write("A", "k", "v2", after=("kill",)),
        "resume": SetRate("A", 1.0, after=("write",)),
        "again": Read("B", "k", after=("kill",)),
    },
)
CRASH_WHILE_IT_IS_COPIED_LATER = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    options=LATER,
    steps={
        "read": Read("A", "k"),
        "copy": BackgroundWork("A", after=("read",)),
        "crash": Crash("A", after=("read",)),
        "later": Advance(after=("crash",)),
        "write": Write("B", "k", "v2"),
        "again": Read("B", "k", after=("later", "write")),
        "copy again": BackgroundWork("B", after=("again",)),
    },
)
SLOW_COPY_LATER_AND_WRITER = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    options=LATER,
    steps={
        "read": Read("A", "k"),
        "slow": BackgroundWork("A", after=("read",)),
        "later": Advance(after=("read",)),
        "reap": Read("B", "k", after=("later",)),
        "write": Write("B", "k", "v2", after=("reap",)),
    },
)
TWO_COPY_LATER = Scenario(
    old=V1,
    processes={"A": 1.0, "B": 1.0, "C": 1.0},
    options=LATER,
    steps={
        "one": Read("A", "k"),
        "two": Read("B", "k"),
        "copy one": BackgroundWork("A", after=("one",)),
        "copy two": BackgroundWork("B", after=("two",)),
        "write": Write("C", "k", "v2", after=("one", "two")),
    },
)
QUEUED_TWICE = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    options=LATER,
    steps={
        "read": Read("A", "k"),
        "again": Read("A", "k", after=("read",)),
        "copy": BackgroundWork("A", after=("read",)),
        "copy again": BackgroundWork("A", after=("again", "copy")),
        "write": Write("B", "k", "v2", after=("again",)),
    },
)
BATCH_COPIED_LATER = Scenario(
    old={"k": "v1", "l": "w1", "m": "x1"},
    new={"m": "x1"},
    opened=1.0,
    processes=BOTH_OPEN,
    options={**GUARD, "copy": "background"},
    without=("new.write_many",),
    steps={
        "read": ReadMany("A", ("k", "l")),
        "copy": BackgroundWork("A", after=("read",)),
        "opens": Read("A", "m", after=("read",)),
        "write": Write("B", "l", "w2", after=("read",)),
    },
    targets=NEW_ALONE,
)
NEVER_COPIED = Scenario(
    old=V1,
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes=BOTH_OPEN,
    options={"guard": None, "copy": "off"},
    steps={
        "read": Read("A", "k"),
        "nothing": BackgroundWork("A", after=("read",)),
        "write": Write("B", "k", "v2"),
        "again": Read("A", "k", after=("read",)),
    },
)
COPIED_AT_A_PACE = Scenario(  # which leaves one of two keys to its next read
    old={"k": "v1", "l": "w1"},
    processes=BOTH_OPEN,
    options={"guard": None, "copy": Copies(mode="inline", per_second=1.0)},
    steps={
        "read": ReadMany("A", ("k", "l")),
        "later": Advance(1.0),
        "again": ReadMany("A", ("k", "l"), after=("read",)),
        "write": Write("B", "l", "w2"),
    },
)

# -- comparisons ------------------------------------------------------------------------------------------------

SHADOW = {"guard": None, "shadow": Shadow(share=1.0, per_second=None)}
READ_AND_COMPARE = {"read": Read("A", "k"), "compare": BackgroundWork("A", after=("read",))}

COMPARED_AND_WRITTEN = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    options=SHADOW,
    steps={**READ_AND_COMPARE, "write": Write("B", "k", "v2"), "again": Read("B", "k", after=("read",))},
)
COMPARED_AND_DELETED = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    options=SHADOW,
    steps={**READ_AND_COMPARE, "delete": Delete("A", "k", after=("read",))},
)
COMPARED_WRITTEN_AND_COPIED = Scenario(  # so that its token is not alone, and the key clean when it is over
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0, "B": 1.0, "C": 1.0},
    options=SHADOW,
    steps={
        **READ_AND_COMPARE,
        "write": Write("B", "k", "v2", after=("read",)),
        "copy": Read("C", "k", after=("read",)),
    },
)
COMPARED_AND_REAPED = Scenario(  # and written by somebody who then has the key alone
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    options=SHADOW,
    steps={
        **READ_AND_COMPARE,
        "later": Advance(after=("read",)),
        "reap": Read("B", "k", after=("later",)),
        "write": Write("B", "k", "v2", after=("reap",)),
    },
)
COMPARED_IN_TWO_PROCESSES = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0, "B": 1.0, "C": 1.0},
    options=SHADOW,
    steps={
        **READ_AND_COMPARE,
        "read too": Read("B", "k"),
        "compare too": BackgroundWork("B", after=("read too",)),
        "write": Write("C", "k", "v2", after=("read", "read too")),
    },
)
COMPARED_WHILE_IT_IS_STALE = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0, "B": 0.0},
    options=SHADOW,
    steps={
        **READ_AND_COMPARE,
        "skips New": Write("B", "k", "v2", after=("read",)),
        "again": Read("A", "k", after=("compare", "skips New")),
    },
)
CRASH_WHILE_IT_IS_COMPARED = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    options=SHADOW,
    steps={
        **READ_AND_COMPARE,
        "crash": Crash("A", after=("read",)),
        "later": Advance(after=("crash",)),
        "write": Write("B", "k", "v2", after=("read",)),
        "again": Read("B", "k", after=("later", "write")),
    },
)
COMPARED_WHILE_THE_LEDGER_IS_OUT = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    options=SHADOW,
    steps={
        **READ_AND_COMPARE,
        "out": Outage("ledger", after=("read",)),
        "back": Recovery("ledger", after=("out",)),
        "write": Write("B", "k", "v2", after=("read",)),
    },
)
COMPARED_AND_KILLED = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    options=SHADOW,
    steps={
        **READ_AND_COMPARE,
        "kill": SetRate("A", 0.0, after=("read",)),
        "write": Write("A", "k", "v2", after=("kill",)),
        "resume": SetRate("A", 1.0, after=("write",)),
        "again": Read("A", "k", after=("resume",)),
    },
)
BATCH_COMPARED = Scenario(
    old={"k": "v1", "l": "w1"},
    new={"k": "v1", "l": "w1"},
    opened=1.0,
    processes=BOTH_OPEN,
    options={**SHADOW, **GUARD},
    without=("new.read_many",),
    steps={
        "read": ReadMany("A", ("k", "l")),
        "compare": BackgroundWork("A", after=("read",)),
        "write": Write("B", "l", "w2", after=("read",)),
    },
)
COMPARED_WITHOUT_THE_LEDGER = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0},
    options=SHADOW,
    steps={
        **READ_AND_COMPARE,
        "out": Outage("ledger", after=("read",)),
        "write": Write("A", "k", "v2", after=("out",)),
        "back": Recovery("ledger", after=("out",)),
        "mark": MarkUnmarked("A", after=("back",)),
        "mark again": MarkUnmarked("A", after=("mark", "write")),
    },
)

# -- pages of a backfill ----------------------------------------------------------------------------------------

BACKFILLED_AND_WRITTEN = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={"page": BackfillPage("A", ("k",)), "write": Write("B", "k", "v2")},
)
BACKFILLED_AND_DELETED = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={"page": BackfillPage("A", ("k",)), "delete": Delete("B", "k")},
)
BACKFILLED_WRITTEN_AND_READ = Scenario(
    old=V1,
    processes={"A": 1.0, "B": 1.0, "C": 1.0},
    steps={"page": BackfillPage("A", ("k",)), "write": Write("B", "k", "v2"), "read": Read("C", "k")},
)
BACKFILLED_AND_WRITTEN_ELSEWHERE = Scenario(
    old=V1,
    processes={"A": 1.0, "B": 0.0},
    steps={
        "page": BackfillPage("A", ("k",)),
        "write": Write("B", "k", "v2"),
        "read": Read("A", "k", after=("write",)),
    },
)
BACKFILLED_WHILE_IT_IS_STALE = Scenario(
    old=V1,
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"page": BackfillPage("A", ("k",)), "write": Write("B", "k", "v2")},
)
BACKFILLED_WHERE_IT_IS = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0, "B": 1.0, "C": 0.0},
    steps={
        "page": BackfillPage("A", ("k",)),
        "delete": Delete("B", "k"),
        "write": Write("C", "k", "v2", after=("delete",)),
    },
)
CRASH_BEFORE_IT_IS_BACKFILLED = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "write": Write("A", "k", "v2"),
        "crash": Crash("A"),
        "page": BackfillPage("B", ("k",), after=("crash",)),
        "later": Advance(after=("crash",)),
        "read": Read("B", "k", after=("later",)),
    },
)
CRASH_WHILE_IT_IS_BACKFILLED = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={
        "page": BackfillPage("A", ("k",)),
        "crash": Crash("A"),
        "write": Write("B", "k", "v2"),
        "later": Advance(after=("crash",)),
        "read": Read("B", "k", after=("later", "write")),
        "again": BackfillPage("B", ("k",), after=("read",)),
    },
)
SLOW_BACKFILL_AND_WRITER = Scenario(
    old=V1,
    processes=BOTH_OPEN,
    steps={
        "slow": BackfillPage("A", ("k",)),
        "later": Advance(),
        "reap": Read("B", "k", after=("later",)),
        "write": Write("B", "k", "v2", after=("reap",)),
    },
)
KILLED_WHILE_IT_IS_BACKFILLED = Scenario(
    old=V1,
    processes={"A": 1.0},
    steps={
        "page": BackfillPage("A", ("k",)),
        "kill": SetRate("A", 0.0),
        "write": Write("A", "k", "v2", after=("kill",)),
        "resume": SetRate("A", 1.0, after=("write",)),
        "again": BackfillPage("A", ("k",), after=("resume", "page")),
        "read": Read("A", "k", after=("resume",)),
    },
)
LOWERED_WHILE_IT_IS_BACKFILLED = Scenario(
    old={"k": "v1", "l": "w1"},
    hash_rates={"k": 0.5, "l": 0.2},
    processes={"A": 0.75, "B": 0.75},
    steps={
        "page": BackfillPage("A", ("k", "l")),
        "down": SetRate("A", 0.25),
        "down too": SetRate("B", 0.25),
        "write": Write("B", "k", "v2"),
    },
)
TWO_BACKFILLS = Scenario(
    old=V1,
    processes={"A": 1.0, "B": 1.0, "C": 1.0},
    steps={
        "page": BackfillPage("A", ("k",)),
        "page too": BackfillPage("B", ("k",)),
        "write": Write("C", "k", "v2"),
    },
)
ALL_BACKFILLED_AND_WRITTEN = Scenario(  # by a process whose gate is closed for the key, as is that of the backfill
    old=V1,
    opened=0.3,
    hash_rates={"k": 0.5},
    processes={"A": 0.3, "B": 0.3},
    steps={
        "page": BackfillPage("A", ("k",), everything=True),
        "write": Write("B", "k", "v2"),
        "up": SetRate("B", 1.0, after=("write",)),
        "read": Read("B", "k", after=("up",)),
    },
)
ALL_BACKFILLED_AND_DELETED = Scenario(
    old=V1,
    opened=0.3,
    hash_rates={"k": 0.5},
    processes={"A": 0.3, "B": 0.3},
    steps={"page": BackfillPage("A", ("k",), everything=True), "delete": Delete("B", "k")},
)
ALL_BACKFILLED_AND_KILLED = Scenario(
    old=V1,
    hash_rates={"k": 0.5},
    processes={"A": 0.3, "B": 0.3},
    steps={
        "page": BackfillPage("A", ("k",), everything=True),
        "kill": SetRate("A", 0.0),
        "write": Write("B", "k", "v2"),
        "resume": SetRate("A", 1.0, after=("kill", "page")),
        "read": Read("A", "k", after=("resume",)),
    },
)
ALL_BACKFILLED_WHILE_ANOTHER_OPENS = Scenario(
    old=V1,
    hash_rates={"k": 0.5},
    processes={"A": 0.3, "B": 0.3},
    steps={
        "page": BackfillPage("A", ("k",), everything=True),
        "up": SetRate("B", Rollout(read=0.3, write=0.8)),
        "write": Write("B", "k", "v2"),
    },
)
GUARD_OPENS_IN_A_BACKFILL = Scenario(  # which New takes key by key
    old={"k": "v1", "l": "w1", "m": "x1"},
    new={"l": "w0", "m": "x1", "n": "y0"},
    stale=("l", "n"),  # Old lacks n
    opened=1.0,
    processes=BOTH_OPEN,
    options=GUARD,
    targets=NEW_ALONE,
    without=("new.read_many", "new.write_many", "new.delete_many"),
    steps={
        "opens": Read("A", "m"),
        "page": BackfillPage("A", ("k", "l", "n")),
        "write": Write("B", "l", "w2", after=("opens",)),
    },
)
BACKFILLED_WITHOUT_THE_LEDGER = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0},
    steps={
        "out": Outage("ledger"),
        "write": Write("A", "k", "v2", after=("out",)),
        "back": Recovery("ledger", after=("out",)),
        "page": BackfillPage("A", ("k",)),
        "mark": MarkUnmarked("A", after=("back",)),
        "read": Read("A", "k", after=("page",)),
        "mark again": MarkUnmarked("A", after=("mark", "write")),
    },
)

# -- pages of a repair ------------------------------------------------------------------------------------------

REPAIRED_AND_WRITTEN = Scenario(
    old=V1,
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"page": RepairPage("A", ("k",)), "write": Write("B", "k", "v2")},
)
REPAIRED_AND_DELETED = Scenario(
    old=V1,
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "page": RepairPage("A", ("k",)),
        "delete": Delete("B", "k"),
        "read": Read("B", "k", after=("delete",)),
    },
)
REPAIRED_THOUGH_IT_IS_RIGHT = Scenario(  # since the verify that found it
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"page": RepairPage("A", ("k",), delete_extra=True), "delete": Delete("B", "k")},
)
EXTRA_KEY_REPAIRED_AND_WRITTEN = Scenario(
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"page": RepairPage("A", ("k",), delete_extra=True), "write": Write("B", "k", "v1")},
)
EXTRA_KEY_LEFT_AND_WRITTEN = Scenario(
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "page": RepairPage("A", ("k",)),
        "write": Write("B", "k", "v1"),
        "read": Read("A", "k", after=("page",)),
    },
)
REPAIRED_TWICE_AND_WRITTEN = Scenario(
    old=V1,
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes={"A": 1.0, "B": 1.0, "C": 1.0},
    steps={
        "page": RepairPage("A", ("k",)),
        "page too": RepairPage("B", ("k",), delete_extra=True),
        "write": Write("C", "k", "v2"),
    },
)
ALL_REPAIRED_AND_WRITTEN = Scenario(
    old=V1,
    new={"k": "v0"},
    stale=("k",),
    opened=0.6,
    hash_rates={"k": 0.5},
    processes={"A": 0.3, "B": 0.3},
    steps={"page": RepairPage("A", ("k",), everything=True), "write": Write("B", "k", "v2")},
)
CRASH_WHILE_IT_IS_REPAIRED = Scenario(
    old=V1,
    new={"k": "v0"},
    stale=("k",),
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "page": RepairPage("A", ("k",)),
        "crash": Crash("A"),
        "later": Advance(after=("crash",)),
        "write": Write("B", "k", "v2"),
        "read": Read("B", "k", after=("later", "write")),
    },
)

# -- pages of a verify ------------------------------------------------------------------------------------------

VERIFIED_AND_WRITTEN = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"page": VerifyPage("A", ("k",)), "write": Write("B", "k", "v2")},
)
VERIFIED_AND_DELETED = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={"page": VerifyPage("A", ("k",)), "delete": Delete("B", "k"), "read": Read("B", "k", after=("delete",))},
)
VERIFIED_AND_WRITTEN_FOR_THE_FIRST_TIME = Scenario(
    processes=BOTH_OPEN,
    steps={"page": VerifyPage("A", ("k",)), "write": Write("B", "k", "v1"), "read": Read("B", "k")},
)
VERIFIED_WRITTEN_AND_COPIED = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes={"A": 1.0, "B": 0.0, "C": 1.0},
    steps={
        "page": VerifyPage("A", ("k",)),
        "write": Write("B", "k", "v2"),
        "copy": Read("C", "k", after=("write",)),
    },
)
VERIFIED_WRITTEN_AND_REAPED = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "page": VerifyPage("A", ("k",)),
        "later": Advance(),
        "reap": Read("B", "k", after=("later",)),
        "write": Write("B", "k", "v2", after=("reap",)),
    },
)
CRASH_WHILE_IT_IS_VERIFIED = Scenario(
    old=V1,
    new=V1,
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "page": VerifyPage("A", ("k",)),
        "crash": Crash("A"),
        "write": Write("B", "k", "v2"),
        "read": Read("B", "k", after=("crash",)),
    },
)
VERIFIED_WHILE_IT_IS_BACKFILLED = Scenario(
    old=V1,
    processes={"A": 1.0, "B": 1.0, "C": 1.0},
    steps={
        "backfill": BackfillPage("A", ("k",)),
        "page": VerifyPage("B", ("k",)),
        "write": Write("C", "k", "v2"),
    },
)
PLANTED_DIFFERENCE = Scenario(
    old=V1,
    new={"k": "v0"},
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "page": VerifyPage("A", ("k",)),
        "read": Read("B", "k", after=("page",)),
        "write": Write("B", "k", "v2"),
    },
    kinds=(),  # a page that fails finds nothing
)
PLANTED_EXTRA_KEY = dataclasses.replace(PLANTED_DIFFERENCE, old={})
PLANTED_DIFFERENCE_REPAIRED = Scenario(
    old=V1,
    new={"k": "v0", "l": "w0"},  # Old lacks l
    opened=1.0,
    processes=BOTH_OPEN,
    steps={
        "page": VerifyPage("A", ("k", "l"), mark=False),
        "repair": RepairPage("A", ("k", "l"), delete_extra=True, after=("page",)),
        "read": ReadMany("B", ("k", "l"), after=("repair",)),
        "write": Write("B", "k", "v2"),
    },
    kinds=(),
)

# -- a reset, with the rate at 0 in every process, and New empty ------------------------------------------------

RESET_AND_WRITTEN = Scenario(
    old=V1,
    stale=("k",),
    opened=1.0,
    processes={"A": 0.0, "B": 0.0},
    targets=("old", "new"),
    steps={
        "reset": ResetLedger("A"),
        "write": Write("B", "k", "v2"),
        "up": SetRate("B", 1.0, after=("reset",)),
        "read": Read("B", "k", after=("up",)),
    },
)
RESET_WHILE_IT_IS_COPIED = Scenario(  # by what began before the rate was 0
    old=V1,
    opened=1.0,
    processes={"A": 0.0, "B": 1.0, "C": 0.0},
    targets=("old", "new"),
    steps={
        "copy": Read("B", "k"),
        "down": SetRate("B", 0.0),
        "reset": ResetLedger("A", after=("down",)),
        "write": Write("C", "k", "v2", after=("down",)),
    },
)
RESET_WHILE_IT_IS_BACKFILLED = dataclasses.replace(
    RESET_WHILE_IT_IS_COPIED,
    steps={**RESET_WHILE_IT_IS_COPIED.steps, "copy": BackfillPage("B", ("k",))},
)
RESET_AFTER_A_CRASH = Scenario(
    old=V1,
    opened=1.0,
    processes={"A": 0.0, "B": 1.0},
    targets=("old", "new"),
    steps={
        "write": Write("B", "k", "v2"),
        "crash": Crash("B"),
        "later": Advance(after=("crash",)),
        "reset": ResetLedger("A", after=("later",)),
        "up": SetRate("A", 1.0, after=("reset",)),
        "read": Read("A", "k", after=("up",)),
    },
)

# -- all of it at once ------------------------------------------------------------------------------------------

EVERYTHING = Scenario(
    old={"k": "v1", "l": "w1"},
    new={"k": "v1"},
    opened=1.0,
    processes=BOTH_OPEN,
    options={**GUARD, "copy": "background", "shadow": Shadow(share=1.0, per_second=None)},
    targets=NEW_ALONE,
    steps={
        "read": ReadMany("A", ("k", "l")),
        "work": BackgroundWork("A", after=("read",)),
        "write": WriteMany("B", (("k", "v2"), ("l", "w2")), after=("read",)),
        "later": Advance(1.0, after=("work",)),
        "again": ReadMany("A", ("k", "l"), after=("work",)),
        "work again": BackgroundWork("A", after=("again",)),
    },
)
