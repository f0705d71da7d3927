"""What the jobs that finish a migration keep in the ledger, and what they tell: plain data.

A job (backfill, verify) has a plan, the checkpoint of its name, and a part for each range of the store, in
`name/0`, `name/1` and so on. Each run of a job has an identity of its own, which its parts carry, so that what an
earlier run left is told apart.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

from zddm_flags.errors import CorruptCheckpoint
from zddm_flags.ledger import Checkpoint
from zddm_flags.rollout import checked_rate

__all__ = [
    "JobName",
    "JobOptions",
    "JobState",
    "Part",
    "Plan",
    "Progress",
    "Range",
    "names_found",
    "new_run",
    "part_name",
    "saved_plan",
]

FORMAT = 1

JobName: TypeAlias = Literal["backfill", "verify"]
JobState: TypeAlias = Literal["running", "stopped", "finished"]


class JobOptions(TypedDict, total=False):
    """The arguments that all jobs have: see `Job`."""

    workers: int
    page_size: int
    parts: int | None
    per_second: float | None
    restart: bool
    patience_seconds: float
    executor: Executor | None
    target: str | None
    clock: Callable[[], float]


class Range(NamedTuple):
    """A part of a store: after one cursor, up to and with another."""

    after: str | None
    until: str | None
    side: Literal["old", "new", "both"] = "old"
    """The store that the cursors are of; "both": they are of Old, and New takes them as well."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of a job was asked for, and how far it is as a whole."""

    run: str
    ranges: tuple[Range, ...]
    asked: Mapping[str, Any]
    """What decides which keys are looked at, and how: a run is continued only where this is still the same."""
    expected: int | None = None
    """About how many keys Old held when the run began."""
    state: JobState = "running"
    seconds: float = 0.0
    """How long it was worked on, by all processes that did, one after the other."""
    owner: str = ""
    """The process that works on it, or did last."""
    epoch: int = 0
    """The ledger's when the run began: what is of another one was copied into a New that was emptied since."""
    after: str | None = None
    """The run of the backfill that had finished before this one began: what a verify of it proves."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """Of a run that is over: what it told."""

    def dump(self) -> str:
        """As text."""
        return _dump(
            run=self.run,
            ranges=[list(each) for each in self.ranges],
            asked=dict(self.asked),
            expected=self.expected,
            state=self.state,
            seconds=round(self.seconds, 3),
            owner=self.owner,
            epoch=self.epoch,
            after=self.after,
            result=dict(self.result),
        )

    @classmethod
    def load(cls, name: str, data: str) -> Plan:
        """From text. Raises CorruptCheckpoint."""
        found = _load(name, data)
        try:
            plan = cls(
                run=_text(found["run"]),
                ranges=tuple(_range(each) for each in found["ranges"]),
                asked=_members(found["asked"]),
                expected=None if found["expected"] is None else _whole_number(found["expected"]),
                state=found["state"],
                seconds=_seconds(found["seconds"]),
                owner=_text(found["owner"]),
                epoch=_whole_number(found["epoch"]),
                after=_cursor(found["after"]),
                result=dict(found["result"]),
            )
            if plan.state not in {"running", "stopped", "finished"} or not plan.ranges:
                raise ValueError(plan.state)
        except Exception as error:
            raise _corrupt(name) from error
        return plan


@dataclass(frozen=True, slots=True)
class Part:
    """How far a run is in one range, and what it counted there."""

    run: str
    cursor: str | None = None
    """Where to go on; None at the start of the range."""
    done: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    """What only one of the jobs keeps."""
    owner: str = ""
    """The process that works on it, or did last."""

    def after_page(self, cursor: str | None, counts: Mapping[str, int], **more: Any) -> Part:
        """The part after a further page; `cursor` None: that was the last."""
        return replace(
            self,
            cursor=cursor if cursor is not None else self.cursor,
            done=cursor is None,
            counts=Counter(self.counts) + Counter(counts),
            more={**self.more, **more},
        )

    def with_more(self, **more: Any) -> Part:
        """The same, with more in `more`."""
        return replace(self, more={**self.more, **more})

    def dump(self) -> str:
        """As text."""
        return _dump(
            run=self.run,
            cursor=self.cursor,
            done=self.done,
            counts=dict(self.counts),
            more=dict(self.more),
            owner=self.owner,
        )

    @classmethod
    def load(cls, name: str, data: str) -> Part:
        """From text. Raises CorruptCheckpoint."""
        found = _load(name, data)
        try:
            counts = {_text(key): _whole_number(value) for key, value in found["counts"].items()}
            if not isinstance(found["done"], bool):
                raise TypeError(type(found["done"]))
            return cls(
                run=_text(found["run"]),
                cursor=_cursor(found["cursor"]),
                done=found["done"],
                counts=counts,
                more=_members(found["more"]),
                owner=_text(found["owner"]),
            )
        except Exception as error:
            raise _corrupt(name) from error


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. Counts are of the whole run, those that did a part of it before included."""

    rows: int
    """Keys that were looked at."""
    expected: int | None
    """About how many there are in all, as of the start of the run; None if the store does not say."""
    counts: Mapping[str, int]
    """Keys by what came of them; see the job."""
    parts_done: int
    parts: int
    rows_now: int
    """Keys that were looked at since this process began, or took over."""
    seconds: float
    """Since this process began, or took over."""
    waiting: str | None = None
    """Why nothing happens at the moment, in words; None where something does."""

    @property
    def per_second(self) -> float:
        """Keys a second, since this process began or took over."""
        return self.rows_now / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this pace; None where nobody knows."""
        if self.expected is None or not self.per_second:
            return None
        return max(0, self.expected - self.rows) / self.per_second


def new_run() -> str:
    """An identity for a run."""
    return os.urandom(8).hex()


def part_name(job: JobName, number: int) -> str:
    """The name of a part's checkpoint."""
    return f"{job}/{number}"


def saved_plan(job: JobName, checkpoints: Mapping[str, Checkpoint], epoch: int | None = None) -> Plan | None:
    """The plan that the ledger has of a job, or None; with `epoch`, if it is of that. Raises CorruptCheckpoint.

    A process that slept through a reset of the ledger may save a plan from before it.
    """
    kept = checkpoints.get(job)
    plan = None if kept is None else Plan.load(job, kept.data)
    return plan if plan is None or epoch in {None, plan.epoch} else None


def names_found(name: str, part: Part) -> list[bytes]:
    """The names of the keys that a part of a verify, the checkpoint `name`, noted as differing.

    Raises CorruptCheckpoint.
    """
    try:
        return [bytes.fromhex(each[0]) for each in part.more.get("found", ())]
    except Exception as error:
        raise _corrupt(name) from error


def _dump(**members: Any) -> str:
    return json.dumps({"format": FORMAT, **members}, separators=(",", ":"))


def _load(name: str, data: str) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
        if found["format"] != FORMAT:
            raise ValueError(found["format"])
    except Exception as error:
        raise _corrupt(name) from error
    return dict(found)


def _range(found: Sequence[Any]) -> Range:
    after, until, side = found
    if side not in {"old", "new", "both"}:
        raise ValueError(side)
    return Range(_cursor(after), _cursor(until), side)


def _cursor(found: object) -> str | None:
    return None if found is None else _text(found)


def _text(found: object) -> str:
    if not isinstance(found, str):
        raise TypeError(type(found))
    return found


def _members(found: Mapping[str, Any]) -> dict[str, Any]:
    """Members of which a backfill reads one: the share of the keys that it covers."""
    members = dict(found)
    if "covers" in members:
        checked_rate(members["covers"])
    return members


def _whole_number(found: object) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise ValueError(type(found))
    return found


def _seconds(found: object) -> float:
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < math.inf:
        raise ValueError(type(found))
    return float(found)


def _corrupt(name: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"the checkpoint {name!r} in the ledger is corrupt, or of another version of zddm-flags: begin the "
        f"{name.partition('/')[0]} anew with restart=True (on the command line --restart), which loses nothing "
        "but the progress"
    )
