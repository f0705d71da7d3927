# Generated from zddm_flags/_async/job.py by `make generate`. Do not edit.
"""A long job over all keys of a migration: in parts, paced, checkpointed after each page, and stopped cleanly.

What a job does with a page is its own (`backfill.py`, `verify.py`). That it may be killed at any point, and gone
on with by another process, is seen to here: a page counts as done when its part's checkpoint is acknowledged.

Two processes never work on one run for long. Who takes a run over makes its plan his own, and each part that he
begins; the other finds out when it saves a page, or begins a part, and ends with `Superseded`.
"""

from __future__ import annotations

import pickle
import time
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from zddm_flags._sync._world import together
from zddm_flags._sync.bulk import Bulk
from zddm_flags._sync.work import LOOK_SECONDS, Stopped, Work
from zddm_flags.errors import CorruptCheckpoint, ExecutorFailed, LedgerMismatch, LedgerNotShared, Superseded
from zddm_flags.jobs import JobName, JobState, Part, Plan, Progress, Range, new_run, part_name, saved_plan
from zddm_flags.ledger import MAX_CHECKPOINT_CHARACTERS, Checkpoint
from zddm_flags.remote import RemotePart, run_part

__all__ = ["Job"]

K = TypeVar("K")
V = TypeVar("V")
ROWS_PER_PART = 50_000
"""Keys in a part, where Old says how many it holds: over a second of work, on any store."""
MOST_PARTS = 1000
MOST_CHARACTERS = MAX_CHECKPOINT_CHARACTERS // 2
"""Of a plan that is new: what it tells at its end comes on top."""
FOLLOW_SECONDS = 1.0
"""How often who waits for parts that are done elsewhere reads how far they are."""
HELD_SECONDS = 5.0
"""How often who does a part for another looks, while it saves no page, whether that one still waits for it."""
FENCE_ATTEMPTS = 20


class Job(Work[K, V]):
    """One run of a job, or the continuation of one that did not finish. Run it once.

    Args:
        proxy: the migration's, of this process. Its stores, gate and ledger are used.
        workers: how many parts are worked on at a time, from 1: threads (asyncio: tasks), or what `executor` runs.
        page_size: keys that are read and copied at a time, from 1.
        parts: at most how many parts Old is split into, from 1; None: by how many keys it holds.
        per_second: at most how many keys of Old are read in a second, above 0; None: as many as go. A JSON flag's
            `backfill_per_second` lowers it, live.
        restart: begin anew, whatever an earlier run left.
        patience_seconds: for how long a store or the ledger may fail, at a stretch, before the job raises.
        executor: runs the parts, in other threads, processes or machines. Needs `target`, and a ledger that is
            shared. What else the job is given, as a `Comparison`, is sent there: it must be possible to pickle it.
        target: `module:attribute` of the proxy, or of a function that makes it, for who runs the parts elsewhere.
            Each process makes one, and keeps it. Where the executor runs threads of this process, name a function
            that makes an `Proxy`, not this one: theirs belongs to another event loop.
        clock: monotonic seconds; for tests.

    Raises:
        ValueError: an argument is out of range.
        TypeError: `executor` without `target`.
    """

    name: JobName

    def __init__(
        self,
        proxy: Bulk[K, V],
        *,
        workers: int = 1,
        page_size: int = 1000,
        parts: int | None = None,
        per_second: float | None = None,
        restart: bool = False,
        patience_seconds: float = 60.0,
        executor: Executor | None = None,
        target: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for argument, number in (("workers", workers), ("parts", parts)):
            if number is not None and number < 1:
                raise ValueError(f"{argument} must be at least 1, not {number}")
        if executor is not None and target is None:
            raise TypeError("executor= needs target=: the module:attribute of the proxy, for who runs a part")
        super().__init__(
            proxy,
            proxy.job_telemetry(self.name, Stopped),
            page_size=page_size,
            per_second=per_second,
            patience_seconds=patience_seconds,
            clock=clock,
        )
        self._workers = workers
        self._most_parts = parts
        self._restart = restart
        self._executor = executor
        self._target = target
        self._owner = new_run()
        self._plan_owner = self._owner  # another's, where this process does some parts of a run
        self._plan: Plan | None = None
        self._versions: dict[str, int] = {}
        self._parts: dict[int, Part] = {}
        self._rows_before = 0
        self._elsewhere: frozenset[int] = frozenset()  # parts that others may be at when this run ends early
        self._look_at: float | None = None  # None: nobody waits for this elsewhere
        self.resumed = False

    # -- what a job is ----------------------------------------------------------------------------------------

    @abstractmethod
    def _asked(self) -> Mapping[str, Any]:
        """What decides which keys are looked at, and how."""

    @abstractmethod
    def _may_continue(self, plan: Plan) -> bool:
        """Whether a run that did not finish is gone on with, and not begun anew."""

    def _before_plan(self) -> None:
        """What is waited for before anything is planned. Raises Stopped."""

    @abstractmethod
    def _ranges(self, parts: int) -> Sequence[Range]:
        """What the run is split into."""

    @abstractmethod
    def _do_page(self, number: int, reach: Range, part: Part) -> Part:
        """Do a page, and return the part after it. Raises Stopped."""

    @abstractmethod
    def _summary(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        """What the plan keeps of a run that is over."""

    def _rows(self, counts: Mapping[str, int]) -> int:
        """How many keys were looked at."""
        return counts.get("rows", 0)

    # -- what is asked of it meanwhile ------------------------------------------------------------------------

    def progress(self) -> Progress:
        """How far it is. Thread-safe, no I/O."""
        plan = self._plan
        counts = self._counts()
        rows = self._rows(counts)
        return Progress(
            rows=rows,
            expected=None if plan is None else plan.expected,
            counts=counts,
            parts_done=sum(part.done for part in list(self._parts.values())),
            parts=0 if plan is None else len(plan.ranges),
            rows_now=rows - self._rows_before,
            seconds=self._clock() - self._began,
            waiting=self._waiting,
        )

    def _counts(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for part in list(self._parts.values()):
            total.update(part.counts)
        return total

    def _tell_counts(self, counts: Mapping[str, int], **about: bool) -> None:
        outcomes = {outcome: number for outcome, number in counts.items() if outcome != "rows"}
        self._told.tell(outcomes, rows=self._rows(counts), **about)

    # -- the run ----------------------------------------------------------------------------------------------

    def _run(self) -> Plan:
        """Do it, or go on with it; returns the plan as it is then, or one without parts where none was begun."""
        with self._told:
            try:
                plan = self._run_all()
                self._told.tell({}, state=plan.state)
                return plan
            finally:
                self._tell_counts(self._counts(), resumed=self.resumed)
                if self._plan is not None:
                    self._told.tell({}, run=self._plan.run, parts=len(self._plan.ranges))

    def _run_all(self) -> Plan:
        self._proxy.check_can_scan(self.name)
        if self._executor is not None:
            self._check_can_be_sent()
        try:
            self._before_plan()
            self._began = self._clock()
            plan = self._take_over_plan()
        except Stopped:
            self._waiting = None
            return Plan("", (), dict(self._asked()), state="stopped")  # nothing was begun
        self._rows_before = self._rows(self._counts())
        try:
            if self._executor is None:
                todo = deque(number for number in range(len(plan.ranges)) if not self._part(number).done)
                workers = min(self._workers, len(todo))
                if workers:
                    together([partial(self._work_off, todo)] * workers, self._stopper)
            else:
                self._have_worked_off(plan, self._executor, self._target or "")
        except Stopped:
            pass
        except (Superseded, GeneratorExit):
            raise
        except BaseException:
            with suppress(Exception):  # what matters is the error
                data = self._ended(plan, "stopped").dump()
                if self._proxy.ledger.save_checkpoint(self.name, data, self._versions[self.name]):
                    self._fence_off(plan)
            raise
        finally:
            self._waiting = None
        done = all(self._part(number).done for number in range(len(plan.ranges)))
        plan = self._ended(plan, "finished" if done else "stopped")
        try:
            if self._epoch() != plan.epoch:
                # Versions begin anew with a reset, so that what was saved may have been taken for a later run's.
                raise Superseded(f"the ledger was reset while this {self.name} went on: begin it anew")
            self._save(self.name, plan.dump())
        except Stopped:  # the ledger fails: to it the run goes on, and so will the next one
            plan = replace(plan, state="stopped")
        self._plan = plan
        with suppress(Exception):  # nothing is lost: they go on, until the next run takes the parts over
            self._fence_off(plan)
        return plan

    def _take_over_plan(self) -> Plan:
        epoch = self._epoch()
        kept = self._persistently(self._proxy.ledger.checkpoints)
        self._versions = {name: each.version for name, each in kept.items()}
        found = None if self._restart else saved_plan(self.name, kept, epoch)
        plan = found if found is not None and found.state != "finished" and self._may_continue(found) else None
        self.resumed = plan is not None
        if plan is None:
            plan = self._new_plan(kept, epoch)
        else:
            self._know_parts(plan, kept)
        plan = replace(plan, state="running", owner=self._owner)
        self._save(self.name, plan.dump())
        if not self.resumed:
            self._clear_corrupt_parts(plan, kept)
        self._plan = plan
        return plan

    def _epoch(self) -> int:
        return (self._persistently(self._proxy.ledger.summary)).epoch

    def _new_plan(self, kept: Mapping[str, Checkpoint], epoch: int) -> Plan:
        expected = self._persistently(self._proxy.count_old)
        parts = self._most_parts
        if parts is None:
            by_size = self._workers * 4 if expected is None else expected // ROWS_PER_PART
            parts = max(self._workers, min(MOST_PARTS, by_size))
        after = _finished_run("backfill", kept, epoch)
        while True:
            ranges = self._persistently(partial(self._ranges, parts))
            plan = Plan(new_run(), tuple(ranges), dict(self._asked()), expected, epoch=epoch, after=after)
            if parts == 1 or len(plan.dump()) <= MOST_CHARACTERS:
                return plan
            parts //= 2  # keys are long, and so are cursors

    def _clear_corrupt_parts(self, plan: Plan, kept: Mapping[str, Checkpoint]) -> None:
        """Replace the checkpoints of this plan's parts that an earlier run left, and that nobody understands."""
        for name in (part_name(self.name, number) for number in range(len(plan.ranges))):
            try:
                if name in kept:
                    Part.load(name, kept[name].data)
            except CorruptCheckpoint:
                self._save(name, Part(plan.run).dump())

    def _know_parts(self, plan: Plan, kept: Mapping[str, Checkpoint]) -> None:
        """Note how far the parts of the run are, by the ledger."""
        for number in range(len(plan.ranges)):
            name = part_name(self.name, number)
            if name in kept:
                self._versions[name] = kept[name].version
                part = Part.load(name, kept[name].data)
                if part.run == plan.run:  # what an earlier run left has the same name
                    self._parts[number] = part

    def _part(self, number: int) -> Part:
        return self._parts.get(number) or Part(self._run_of_plan)

    @property
    def _run_of_plan(self) -> str:
        return "" if self._plan is None else self._plan.run

    def _ended(self, plan: Plan, state: JobState) -> Plan:
        seconds = plan.seconds + self._clock() - self._began
        return replace(plan, state=state, seconds=seconds, result=self._summary(self._counts()))

    # -- parts ------------------------------------------------------------------------------------------------

    def _work_off(self, todo: deque[int]) -> None:
        """One worker: part after part, until there is none."""
        while not self._stopper.stopped:
            try:
                number = todo.popleft()
            except IndexError:
                return
            self._do_part(number)

    def _do_part(self, number: int) -> None:
        plan = self._plan
        if plan is None:
            return
        with self._told.untraced():  # a run may have a thousand parts
            part = self._take_over_part(plan, number)
        while not part.done:
            if self._stopper.stopped:
                raise Stopped
            part = self._do_told_page(number, plan.ranges[number], part)
            self._parts[number] = part
            self._waiting = None

    def _do_told_page(self, number: int, reach: Range, part: Part) -> Part:
        """Do a page and save it, below a span of its own or none: a run of hours has more than a trace holds."""
        with self._told.page(number) as page:
            try:
                after = self._do_page(number, reach, part)
            except ValueError as error:
                # An adapter refuses a cursor so, as that of a table whose key was changed; and much else.
                error.add_note(
                    f"{self.name} went on from where {part_name(self.name, number)!r} in the ledger says: if it "
                    "is this cursor that the adapter refuses, begin anew with restart=True (on the command line "
                    "--restart), which loses nothing but the progress"
                )
                raise
            page.add({"zddm.job.rows": self._rows(after.counts) - self._rows(part.counts)})
            self._save(part_name(self.name, number), after.dump())
        return after

    def _take_over_part(self, plan: Plan, number: int) -> Part:
        kept = self._persistently(self._proxy.ledger.checkpoints)
        self._check_plan(plan, kept)
        self._know_parts(plan, {name: each for name, each in kept.items() if name == part_name(self.name, number)})
        part = replace(self._part(number), owner=self._owner)
        if not part.done:
            self._save(part_name(self.name, number), part.dump())
        self._parts[number] = part
        return part

    def _check_plan(self, plan: Plan, kept: Mapping[str, Checkpoint]) -> None:
        """Raises Superseded where the run is another's by now, or was stopped."""
        current = saved_plan(self.name, kept)
        asked = (plan.run, self._plan_owner, "running")
        if current is None or (current.run, current.owner, current.state) != asked:
            raise _superseded(self.name)

    def _save(self, name: str, data: str) -> None:
        version = self._versions.get(name, 0)
        if not self._persistently(partial(self._proxy.ledger.save_checkpoint, name, data, version)):
            raise _superseded(self.name)
        self._versions[name] = version + 1
        if self._look_at is not None:
            self._look_at = self._clock() + HELD_SECONDS

    # -- elsewhere --------------------------------------------------------------------------------------------

    def _check_can_be_sent(self) -> None:
        """Raises what says that parts cannot be done elsewhere, before any of them is begun."""
        if not self._proxy.ledger_is_shared:
            raise LedgerNotShared(
                "what runs elsewhere sees the ledger only if it is shared: RedisLedger, SqlAlchemyLedger"
            )
        try:
            pickle.dumps(dict(self._options()))
        except Exception as error:
            raise TypeError(
                f"a {self.name} with executor= is sent to who runs its parts, and an argument of it cannot be: a "
                "function, as Comparison.equal, has to stand in a module, by its name"
            ) from error

    def _have_worked_off(self, plan: Plan, executor: Executor, target: str) -> None:
        """Let the executor do the parts, at most `workers` at a time, and follow how far they are.

        What counts is what the ledger has of a part, not what became of a call. Where an executor lost sight of a
        worker and has its part done again, either of the two may end as superseded by the other.
        """
        todo = deque(number for number in range(len(plan.ranges)) if not self._part(number).done)
        sharing = min(self._workers, len(todo))
        running: dict[Future[None], RemotePart] = {}
        look_at = self._clock() + FOLLOW_SECONDS
        try:
            while todo or running:
                while todo and len(running) < self._workers and not self._stopper.stopped:
                    part = self._remote(target, plan, todo.popleft(), sharing)
                    self._elsewhere |= {part.number}
                    running[_submitted(executor, part)] = part
                self._stopper.wait(LOOK_SECONDS)
                if self._stopper.stopped:
                    raise Stopped
                ended = [call for call in running if call.done()]
                if ended or self._clock() >= look_at:
                    with self._told.untraced():
                        kept = self._persistently(self._proxy.ledger.checkpoints)
                    self._check_plan(plan, kept)
                    self._know_parts(plan, kept)
                    look_at = self._clock() + FOLLOW_SECONDS
                for call in ended:
                    part = running.pop(call)
                    if not self._part(part.number).done:
                        self._judge(call, part)
                        todo.appendleft(part.number)
                    self._elsewhere -= {part.number}
        finally:
            for call in running:
                call.cancel()

    def _remote(self, target: str, plan: Plan, number: int, sharing: int) -> RemotePart:
        return RemotePart(
            job=self.name,
            target=target,
            owner=plan.owner,
            number=number,
            version=self._versions.get(part_name(self.name, number), 0),
            options={
                **self._options(),
                "page_size": self._page_size,
                "per_second": None if self._per_second is None else self._per_second / sharing,
                "patience_seconds": self._patience_seconds,
            },
            sharing=sharing,
            trace=self._told.carrier(),
        )

    def _judge(self, call: Future[None], part: RemotePart) -> None:
        """Raises what ended the call, unless it is worth another: the part is not done, by the ledger."""
        if call.cancelled():
            raise ExecutorFailed(f"the executor cancelled a part of the {self.name}. {_GO_ON}")
        error = call.exception()
        if isinstance(error, BrokenExecutor):
            raise _worker_lost(self.name) from error
        if error is not None and not isinstance(error, Exception):
            # As SystemExit, which must not end this process.
            name = type(error).__name__
            raise ExecutorFailed(f"a part of the {self.name} ended with {name}. {_GO_ON}") from error
        if error is not None and not isinstance(error, Superseded):
            raise error
        if self._versions.get(part_name(self.name, part.number), 0) == part.version:
            raise LedgerMismatch(
                f"who runs the parts found no such {self.name}: the proxy that {part.target} names there has "
                "another ledger than this one, or another name"
            )

    def _options(self) -> Mapping[str, Any]:
        """What makes a job like this one elsewhere, beside what all jobs have."""
        return {}

    def _fence_off(self, plan: Plan) -> None:
        """Take the parts that others may still be at from them, so that they end with their next page.

        The plan is not running any more, so that nobody begins one of them. May fail.
        """
        left = set(self._elsewhere)
        for _ in range(FENCE_ATTEMPTS):  # each is in vain where a page is saved in the middle of it
            if not left:
                return
            kept = self._proxy.ledger.checkpoints()
            self._know_parts(plan, kept)
            for number in tuple(left):
                part, name = self._part(number), part_name(self.name, number)
                data = replace(part, owner=self._owner).dump()
                version = self._versions.get(name, 0)
                if part.done or self._proxy.ledger.save_checkpoint(name, data, version):
                    left.discard(number)

    def run_part(self, number: int, owner: str, sharing: int, trace: Mapping[str, str]) -> None:
        """Do one part of the run that the ledger has the plan of, for `owner`, who waits for it.

        `sharing` is how many parts are done at a time: they share what the flag allows in a second. `trace` is
        what the run's trace is gone on with.
        """
        if not self._proxy.ledger_is_shared:
            raise LedgerNotShared("the proxy of who runs a part needs the ledger of who waits for it")
        self._plan_owner = owner
        self._sharing = sharing
        self._paced_at = None  # not yet, so that it is paced as a part
        self._look_at = self._clock() + HELD_SECONDS
        kept = self._persistently(self._proxy.ledger.checkpoints)
        self._plan = saved_plan(self.name, kept)
        if self._plan is None:
            raise _superseded(self.name)
        self._told = self._proxy.job_telemetry(self.name, Stopped, part=number, carrier=trace)
        with self._told:
            self._do_part(number)
            self._tell_counts(self._part(number).counts)

    def _wait(self, seconds: float, why: str) -> None:
        super()._wait(seconds, why)
        if self._look_at is None or self._plan is None or self._clock() < self._look_at:
            return
        self._look_at = self._clock() + HELD_SECONDS
        try:
            with self._told.untraced():
                kept = self._proxy.ledger.checkpoints()
        except Exception:  # who waits is patient with the ledger, or soon calls it
            return
        self._check_plan(self._plan, kept)
        for number, part in self._parts.items():
            name = part_name(self.name, number)
            mine = part.owner == self._owner
            if mine and (name not in kept or Part.load(name, kept[name].data).owner != self._owner):
                raise _superseded(self.name)


def _submitted(executor: Executor, part: RemotePart) -> Future[None]:
    try:
        return executor.submit(run_part, part)
    except BrokenExecutor as error:
        raise _worker_lost(part.job) from error


_GO_ON = (
    "Nothing is lost but the pages that were in progress: run it again, and it goes on from the last ones saved"
)


def _worker_lost(name: str) -> ExecutorFailed:
    return ExecutorFailed(f"the executor of the {name} lost a worker, and takes no more work. {_GO_ON}")


def _finished_run(job: JobName, kept: Mapping[str, Checkpoint], epoch: int) -> str | None:
    """The last run of a job, if it finished. None where its plan is corrupt, too: others need it, and say so."""
    try:
        plan = saved_plan(job, kept, epoch)
    except CorruptCheckpoint:
        return None
    return plan.run if plan is not None and plan.state == "finished" else None


def _superseded(name: str) -> Superseded:
    return Superseded(f"another process has taken over this {name}, and goes on from the last page that was saved")
