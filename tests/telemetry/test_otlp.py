"""Whole traces, as they arrive at a collector: exported by the real OTLP exporter, in batches, over HTTP.

What is expected stands in `traces/*.txt`, to be read; `exported.compare` says how it is kept. Both worlds give the
same traces.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.core.worlds import MANY, SCANNED, Job, Migration, Trouble, World
from tests.otlp import OtlpReceiver, Tree
from tests.telemetry.exported import Exported, compare, exporting, rendered, scenes_of
from tests.telemetry.snapshots import KEY, LEDGER, NEW, OLD, VALUE
from tests.worlds import settle
from zddm_flags import AsyncVerify, Guard, Rollout, Shadow, Verify
from zddm_flags.errors import LedgerUnavailable, NotApplied, OperationTimedOut
from zddm_flags.rollout import Evaluation
from zddm_telemetry.version import VERSION

GUARD = Guard(min_calls=2, open_seconds=1.0, max_open_seconds=2.0, trial_calls=1)
OTHER = "secret-other-value"
KEYS = [f"{KEY}-{number}" for number in range(4)]
TOO_LONG = "secret" * 1000

pytestmark = pytest.mark.usefixtures("by_hand")

Do = Callable[[Migration], Awaitable[object]]


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as found:
        yield found


@pytest.fixture
def exported(receiver: OtlpReceiver) -> Iterator[Exported]:
    with exporting(receiver) as found:
        yield found


@dataclass(frozen=True)
class Scene:
    """What is done, in what state. The traces of `before` are not looked at."""

    do: Do
    before: Callable[[Migration], object] = field(default=lambda _: None)
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rate: Callable[[], Any] = field(default=lambda: 1.0)  # or a source of rates


async def play(scene: Scene, world: World, exported: Exported) -> None:
    """Do what the scene says, in a migration of Old and New that tell what they are, with a shared ledger."""
    given = {"old_info": OLD, "new_info": NEW, "ledger_info": LEDGER, "guard": GUARD}
    options = {**given, "telemetry": exported.telemetry(), **scene.options}
    migration = world.migration(scene.rate(), **options)
    await settle(scene.before(migration))
    exported.forget()
    with contextlib.suppress(Trouble, NotApplied, LedgerUnavailable, OperationTimedOut):
        await scene.do(migration)


async def check(
    group: str, name: str, scenes: Mapping[str, Scene], world: World, exported: Exported, *, call: str = ""
) -> None:
    """Play a scene, and compare its traces with those that are written down, where a `call` is called `write`."""
    await play(scenes[name], world, exported)
    traces = exported.traces()
    assert "secret" not in repr(traces), "no key, no value, no error's text"
    spans = [span for tree in traces for span in tree]
    assert {(span.scope, span.scope_version, span.service) for span in spans} == {("zddm", VERSION, "shop")}
    assert all(child.span.start >= tree.span.start for tree in traces for child in tree.children)
    assert all(child.span.end <= tree.span.end for tree in traces for child in tree.children)
    text = rendered(traces)
    compare(group, name, text.replace(call, "write") if call else text)


# -- what scenes are made of


def close_gate(migration: Migration) -> None:
    migration.gate.set_rate(0.0)


def disable(migration: Migration) -> None:
    migration.proxy.disable()


def new_fails(migration: Migration) -> None:
    migration.new.outage()


def new_refuses(migration: Migration) -> None:
    migration.new.outage(NotApplied())


def old_fails(migration: Migration) -> None:
    migration.old.outage()


def old_refuses(migration: Migration) -> None:
    migration.old.outage(NotApplied())


def ledger_fails(call: str) -> Do:
    async def fail(migration: Migration) -> None:
        migration.ledger.before[call] = Trouble()

    return fail


def killed_after(store: str, call: str) -> Do:
    """The gate closes when this call is done, in the middle of an operation."""

    async def arrange(migration: Migration) -> None:
        async def kill() -> None:
            close_gate(migration)

        getattr(migration, store).after[call] = kill

    return arrange


def out_of_time_after(store: str, call: str) -> Do:
    """The operation's time is over when this call is done."""

    async def arrange(migration: Migration) -> None:
        async def pass_time() -> None:
            migration.clock.advance(29.0)

        getattr(migration, store).after[call] = pass_time

    return arrange


async def left_stale(migration: Migration) -> None:
    """A write that New did not get, of a key that it had."""
    await migration.write(KEY, OTHER)
    migration.proxy.disable()
    await migration.write(KEY, VALUE)
    migration.proxy.enable()


async def deleted_while_disabled(migration: Migration) -> None:
    await migration.write(KEY, VALUE)
    migration.proxy.disable()
    await migration.delete(KEY)
    migration.proxy.enable()


def being_written(migration: Migration) -> None:
    """Another process has begun a write."""
    migration.rows.begin([migration.gate.locate(KEY)[1]], b"writer")


async def guard_opens(migration: Migration) -> None:
    migration.new.outage()
    while migration.stats().guard != "open":
        await migration.read(KEY)
    migration.new.recover()


async def guard_tries(migration: Migration) -> None:
    await guard_opens(migration)
    await probe(migration)


async def written_without_the_ledger(migration: Migration) -> None:
    migration.ledger.outage(methods=["begin"])
    await migration.write(KEY, VALUE)
    migration.ledger.recover()


def opened(migration: Migration) -> None:
    """New was used at this rate before."""
    migration.rows.open_to(1.0)


HELD: dict[str, Any] = {"old": {KEY: VALUE}, "new": {KEY: VALUE}}
OLD_ONLY: dict[str, Any] = {"old": {KEY: VALUE}}
AVAILABLE: dict[str, Any] = {"on_ledger_error": "available"}


# -- one key


async def read(migration: Migration) -> None:
    await migration.read(KEY)


class Flag:
    """A flag system, which tells all that it knows of how its rollout came about."""

    flag_key = "users-migration"

    def __init__(self) -> None:
        self._listeners: list[Callable[[Rollout], None]] = []
        self.evaluation = self._evaluated(1.0)

    @property
    def rollout(self) -> Rollout:
        return self.evaluation.rollout

    def subscribe(self, listener: Callable[[Rollout], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        listener(self.rollout)
        return lambda: None

    def change(self, rate: float) -> None:
        self.evaluation = self._evaluated(rate)
        for listener in self._listeners:
            listener(self.rollout)

    def _evaluated(self, rate: float) -> Evaluation:
        about = {"provider": "flags", "variant": "1", "reason": "fallthrough", "context_id": "service:shop"}
        return Evaluation(Rollout.of(rate), self.flag_key, **about)


async def read_at_two_rates(migration: Migration) -> None:
    await read(migration)
    await read(migration)
    flag = migration.gate.source
    assert isinstance(flag, Flag)
    flag.change(0.5)
    await read(migration)


READS = {
    "old": Scene(read, close_gate, HELD),
    "old, for the gate was closed meanwhile": Scene(read, killed_after("ledger", "dirty"), HELD),
    "old, for no ledger takes so long a key": Scene(lambda migration: migration.read(TOO_LONG)),
    "disabled": Scene(read, disable, HELD),
    "new_hit": Scene(read, options=HELD),
    "copied, for New lacked it": Scene(read, options=OLD_ONLY),
    "copied, for it was stale": Scene(read, left_stale),
    "miss": Scene(read),
    "miss, of a stale key that Old lacks": Scene(read, deleted_while_disabled),
    "miss, to be copied in the background": Scene(read, options={**OLD_ONLY, "copy": "background"}),
    "dirty, for it is being written": Scene(read, being_written, HELD),
    "dirty, to be copied in the background": Scene(read, left_stale, {"copy": "background"}),
    "new_failed": Scene(read, new_fails, HELD),
    "new_failed, with the copy": Scene(read, lambda migration: migration.new.outage(methods=["write"]), OLD_ONLY),
    "guard_open": Scene(read, guard_opens, HELD),
    "new_hit, by a call that the guard tries": Scene(read, guard_tries, HELD),
    "ledger_failed": Scene(read, ledger_fails("dirty"), HELD),
    "ledger_failed, with the copy": Scene(read, ledger_fails("begin_copy"), OLD_ONLY),
    "ledger_failed, when it was written": Scene(read, written_without_the_ledger, AVAILABLE),
    "old_failed": Scene(read, lambda migration: (close_gate(migration), old_fails(migration))[-1], HELD),
    "old_failed, after New lacked it": Scene(read, old_fails),
    "new_hit, the first one after a change of the flag": Scene(read_at_two_rates, options=HELD, rate=Flag),
}


@pytest.mark.parametrize("name", READS)
async def test_reads(world: World, exported: Exported, name: str) -> None:
    """Each path of a read is one trace, of the operation and all its calls, as it is written down."""
    await check("reads", name, READS, world, exported)


CHANGES: dict[str, tuple[Callable[[Migration], object], dict[str, Any]]] = {
    "old": (close_gate, {}),
    "disabled": (disable, {}),
    "both, New opened by it": (lambda _: None, {}),
    "both": (opened, {}),
    "both, beside another write": (lambda migration: (opened(migration), being_written(migration))[-1], {}),
    "both, the end unknown": (ledger_fails("end"), {}),
    "new_failed, and may have done it": (new_fails, {}),
    "new_failed, and did not do it": (new_refuses, {}),
    "new_failed, for the time was over": (out_of_time_after("old", "*"), {}),
    "guard_open": (guard_opens, {}),
    "ledger_failed, strict": (ledger_fails("begin"), {}),
    "ledger_failed, available": (ledger_fails("begin"), AVAILABLE),
    "ledger_failed, with the opening": (ledger_fails("open_to"), {}),
    "ledger_failed, for it took too long": (out_of_time_after("ledger", "begin"), {}),
    "old_failed, and may have done it": (old_fails, {}),
    "old_failed, and did not do it": (old_refuses, {}),
    "old_failed, without the ledger": (
        lambda migration: (old_fails(migration), migration.ledger.outage(methods=["begin"]))[-1],
        AVAILABLE,
    ),
    "old, for the gate was closed meanwhile": (killed_after("old", "*"), {}),
}


def changes(call: str) -> dict[str, Scene]:
    """The scenes for a write or for a delete."""

    async def do(migration: Migration) -> None:
        for hooks in (migration.old.after, migration.new.after):
            if "*" in hooks:
                hooks[call] = hooks.pop("*")
        await (migration.write(KEY, VALUE) if call == "write" else migration.delete(KEY))

    return {name: Scene(do, before, options) for name, (before, options) in CHANGES.items()}


@pytest.mark.parametrize("call", ["write", "delete"])
@pytest.mark.parametrize("name", CHANGES)
async def test_changes(world: World, exported: Exported, call: str, name: str) -> None:
    """Each path of a write and of a delete is one trace, as it is written down for both."""
    await check("writes", name, changes(call), world, exported, call=call)
    spans = [span.attributes for tree in exported.traces() for span in tree]
    assert {each["db.operation.name"] for each in spans if "zddm.store" in each} <= {call}


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)  # nobody cancels a thread
async def test_a_read_that_is_cancelled(world: World, exported: Exported) -> None:
    """A read that is cancelled while Old is asked ends in error, with all its spans, and was served by nobody."""
    reached = asyncio.Event()

    async def hold() -> None:
        reached.set()
        await asyncio.Event().wait()

    def arrange(migration: Migration) -> None:
        close_gate(migration)
        migration.old.before["read"] = hold

    task = asyncio.ensure_future(play(Scene(read, arrange), world, exported))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [tree] = exported.traces()
    assert tree.names() == ("zddm.read", [("read users", [])])
    for span in tree:
        assert (span.status, span.attributes["error.type"]) == ("ERROR", "asyncio.exceptions.CancelledError")
    assert "zddm.served_by" not in tree.span.attributes


# -- batches

ALL_MANY: dict[str, Any] = {"old_methods": MANY, "new_methods": MANY}


async def read_many(migration: Migration) -> None:
    await migration.read_many(KEYS)


async def write_many(migration: Migration) -> None:
    await migration.write_many(dict.fromkeys(KEYS[:2], VALUE))


async def one_of_each(migration: Migration) -> None:
    """Of four keys New has the first, the second is stale, Old alone has the third, and nobody the last one."""
    migration.rows.open_to(1.0)
    migration.proxy.disable()
    await migration.write(KEYS[1], VALUE)
    migration.proxy.enable()
    migration.old.put({KEYS[0]: VALUE, KEYS[2]: VALUE})
    migration.new.put({KEYS[0]: VALUE})


BATCHES = {
    "read_many": Scene(read_many, one_of_each, ALL_MANY),
    "read_many, of stores without batches": Scene(read_many, one_of_each),
    "read_many, in chunks": Scene(read_many, options={**ALL_MANY, "max_batch": 2}),
    "read_many, half of it in Old only": Scene(read_many, options=ALL_MANY, rate=lambda: 0.5),
    "read_many, where New fails": Scene(read_many, new_fails, ALL_MANY),
    "read_many, where the ledger fails": Scene(read_many, ledger_fails("dirty"), ALL_MANY),
    "read_many, where Old fails": Scene(read_many, old_fails, ALL_MANY),
    "write_many": Scene(write_many, options=ALL_MANY),
    "write_many, of stores without batches": Scene(write_many),
    "write_many, where New fails": Scene(write_many, new_fails, ALL_MANY),
    "write_many, where the guard is open": Scene(write_many, guard_opens, ALL_MANY),
    "write_many, where the ledger fails": Scene(write_many, ledger_fails("begin"), ALL_MANY),
    "write_many, where Old fails": Scene(write_many, old_fails, ALL_MANY),
}


@pytest.mark.parametrize("name", BATCHES)
async def test_batches(world: World, exported: Exported, name: str) -> None:
    """A batch is one trace, with counts by path in place of one path."""
    await check("batches", name, BATCHES, world, exported)


# -- in the background


async def copy_later(migration: Migration) -> None:
    """Two reads, of three keys, lead to one round of copies."""
    await migration.read(KEYS[0])
    await migration.read_many(KEYS[1:3])
    await migration.work()


async def compare_later(migration: Migration) -> None:
    migration.new.put({KEYS[1]: OTHER})
    await migration.read(KEYS[0])
    await migration.read(KEYS[1])
    await migration.work()


async def probe(migration: Migration) -> None:
    migration.clock.advance(2)
    await migration.read(KEY)
    await migration.work()


async def probe_in_vain(migration: Migration) -> None:
    migration.new.outage()
    await probe(migration)


async def copy_in_vain(migration: Migration) -> None:
    await migration.read(KEYS[0])
    migration.old.outage()
    await migration.work()


async def mark_later(migration: Migration) -> None:
    await written_without_the_ledger(migration)
    await migration.work()


THREE: dict[str, Any] = {"old": dict.fromkeys(KEYS[:3], VALUE)}
BACKGROUND = {
    "copies": Scene(copy_later, options={**THREE, **ALL_MANY, "copy": "background"}),
    "copies, where Old fails": Scene(copy_in_vain, options={**THREE, "copy": "background"}),
    "comparisons": Scene(
        compare_later,
        options={**THREE, **ALL_MANY, "new": dict.fromkeys(KEYS[:2], VALUE), "shadow": Shadow(share=1)},
    ),
    "a probe": Scene(probe, guard_opens, HELD),
    "a probe that fails": Scene(probe_in_vain, guard_opens, HELD),
    "marks of what was written without the ledger": Scene(mark_later, options=AVAILABLE),
}


@pytest.mark.parametrize("name", BACKGROUND)
async def test_background(world: World, exported: Exported, name: str) -> None:
    """What is done later is a trace of its own, with links to the operations that it is done for."""
    await check("background", name, BACKGROUND, world, exported)


# -- jobs

JOBS: dict[str, Any] = {"old_methods": SCANNED, "new_methods": SCANNED}


def verify(migration: Migration, **options: Any) -> Job:
    """A verify, which waits for nothing in real time."""
    make: Any = Verify if migration.world.blocking else AsyncVerify
    return Job(migration, make(migration.proxy, **{"page_size": 2, "clock": migration.clock, **options}))


async def backfill(migration: Migration) -> None:
    await migration.backfill(page_size=2, parts=1).run()


async def backfill_by_one(migration: Migration) -> None:
    await migration.backfill(page_size=1, parts=1).run()


async def backfill_in_parts(migration: Migration) -> None:
    await migration.backfill(page_size=2, parts=2).run()


async def backfill_that_waits(migration: Migration) -> None:
    job = migration.backfill(parts=1)

    async def open_gate() -> None:
        migration.gate.set_rate(1.0)

    job.time.hooks += [None, open_gate]
    await job.run()


async def backfill_where_old_fails(migration: Migration) -> None:
    job = migration.backfill(parts=1)
    migration.old.outage(methods=["read"])

    async def recover() -> None:
        migration.old.recover()

    job.time.hooks.append(recover)
    await job.run()


async def backfill_that_is_stopped(migration: Migration) -> None:
    job = migration.backfill(page_size=2, parts=1)

    async def stop() -> None:
        job.stop()

    migration.new.after["write_many"] = stop
    await job.run()
    await migration.backfill(page_size=2, parts=1).run()


async def verify_what_differs(migration: Migration) -> None:
    await verify(migration, parts=1).run()


async def repair(migration: Migration) -> None:
    await migration.repair().run()


async def repair_extra(migration: Migration) -> None:
    await migration.repair(delete_extra=True).run()


async def repair_dry(migration: Migration) -> None:
    await migration.repair(dry_run=True).run()


async def two_stale(migration: Migration) -> None:
    """One key was changed and another deleted, while New was not to be touched."""
    migration.rows.open_to(1.0)
    migration.proxy.disable()
    await migration.write(KEYS[0], OTHER)
    await migration.delete(KEYS[1])
    migration.proxy.enable()


DIFFERING: dict[str, Any] = {
    "old": dict.fromkeys(KEYS[:3], VALUE),
    "new": {KEYS[0]: OTHER, KEYS[1]: VALUE, KEYS[3]: VALUE},
    **JOBS,
}
BOTH: dict[str, Any] = {"old": dict.fromkeys(KEYS, VALUE), "new": dict.fromkeys(KEYS, VALUE), **JOBS}
RUNS = {
    "a backfill": Scene(backfill, options={**THREE, "new": {KEYS[0]: VALUE}, **JOBS}),
    "a backfill in parts": Scene(backfill_in_parts, options={**THREE, **JOBS}),
    "a backfill that waits": Scene(backfill_that_waits, options={**OLD_ONLY, **JOBS}, rate=lambda: 0.0),
    "a backfill, where Old fails": Scene(backfill_where_old_fails, options={**OLD_ONLY, **JOBS}),
    "a backfill that is stopped, and goes on": Scene(backfill_that_is_stopped, options={**THREE, **JOBS}),
    "a verify": Scene(verify_what_differs, options=DIFFERING),
    "a repair": Scene(repair, two_stale, BOTH),
    "a repair of extra keys": Scene(repair_extra, two_stale, BOTH),
    "a dry repair": Scene(repair_dry, two_stale, BOTH),
}


@pytest.mark.parametrize("name", RUNS)
async def test_jobs(world: World, exported: Exported, name: str) -> None:
    """A run of a job is one trace, of its pages and all that is done below them."""
    await check("jobs", name, RUNS, world, exported)


async def test_a_run_of_many_pages(world: World, exported: Exported) -> None:
    """Ten pages are traced. Of those that follow, ever so many, the trace has nothing but their number."""
    runs: list[Tree] = []
    for keys in (10, 14):
        exported.forget()
        old = {f"{KEY}-{number:02}": VALUE for number in range(keys)}
        await play(Scene(backfill_by_one, options={"old": old, **JOBS}), world, exported)
        runs += exported.traces()
    ten, more = runs
    assert [tree.span.attributes["zddm.job.pages"] for tree in runs] == [10, 14]
    assert [len(tree.find("zddm.backfill.page")) for tree in runs] == [10, 10]
    assert more.names() == ten.names()


# -- all of it


def test_every_trace_that_is_written_down_is_compared() -> None:
    """No section of the files is left over from a scene that is no more."""
    scenes = {"reads": READS, "writes": CHANGES, "batches": BATCHES, "background": BACKGROUND, "jobs": RUNS}
    for group, names in scenes.items():
        assert set(scenes_of(group)) == set(names)
