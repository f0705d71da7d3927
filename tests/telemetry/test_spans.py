"""Spans, as exact snapshots: names, kinds, parents, statuses, attributes with their types, and events."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler

from tests.core.worlds import MANY, Migration, Trouble, World
from tests.telemetry.snapshots import (
    KEY,
    VALUE,
    Traced,
    ledger,
    operation,
    store,
    typed,
    warning,
)
from zddm_flags import Guard, Rollout, Shadow, TrafficGate
from zddm_flags.errors import LedgerUnavailable, NotApplied
from zddm_flags.rollout import Evaluation
from zddm_telemetry import events

Run = Callable[[Migration], Any]


@pytest.fixture(autouse=True)
def failures(monkeypatch: pytest.MonkeyPatch) -> set[type[BaseException]]:
    """What telemetry swallowed: nothing, unless a test makes it fail."""
    known: set[type[BaseException]] = set()
    monkeypatch.setattr(events, "_known_failures", known)
    return known


TROUBLE = "tests.core.worlds.Trouble"
OPENED = warning("opened_wider", opened=1.0, before=0.0)
DIRTY, BEGIN, OPEN, END = (ledger(call) for call in ("dirty", "begin", "open_to", "end"))


def _nothing(_: Migration) -> None:
    pass


def _new_fails(migration: Migration) -> None:
    migration.new.outage()


def _old_fails(migration: Migration) -> None:
    migration.old.outage()


def _disable(migration: Migration) -> None:
    migration.proxy.disable()


def _close_gate(migration: Migration) -> None:
    migration.gate.set_rate(0.0)


def _new_refuses(migration: Migration) -> None:
    migration.new.outage(NotApplied())


def _fail(call: str) -> Callable[[Migration], None]:
    def fail(migration: Migration) -> None:
        migration.ledger.before[call] = Trouble()

    return fail


READS: dict[str, tuple[dict[str, str], dict[str, str], Callable[[Migration], None], Any]] = {
    "old": (
        {KEY: VALUE},
        {},
        _close_gate,
        operation("read", "old", [store("old", "read")], rate=0.0, passed=False),
    ),
    "disabled": ({KEY: VALUE}, {}, _disable, operation("read", "disabled", [store("old", "read")])),
    "new_hit": (
        {KEY: VALUE},
        {KEY: VALUE},
        _nothing,
        operation("read", "new_hit", [DIRTY, store("new", "read")], dirty=False),
    ),
    "copied": (
        {KEY: VALUE},
        {},
        _nothing,
        operation(
            "read",
            "copied",
            [
                DIRTY,
                store("new", "read"),
                ledger("begin_copy"),
                store("old", "read"),
                OPEN,
                store("new", "write"),
                END,
            ],
            dirty=False,
            events=[OPENED],
        ),
    ),
    "miss": (
        {},
        {},
        _nothing,
        operation(
            "read",
            "miss",
            [
                DIRTY,
                store("new", "read"),
                ledger("begin_copy"),
                store("old", "read"),
                OPEN,
                END,
            ],
            dirty=False,
            events=[OPENED],
        ),
    ),
    "new_failed": (
        {KEY: VALUE},
        {KEY: VALUE},
        _new_fails,
        operation(
            "read",
            "new_failed",
            [DIRTY, store("new", "read", TROUBLE), store("old", "read")],
            dirty=False,
            events=[warning("new_failed", operation="read", error="Trouble", suppressed=0)],
        ),
    ),
    "ledger_failed": (
        {KEY: VALUE},
        {KEY: VALUE},
        _fail("dirty"),
        operation(
            "read",
            "ledger_failed",
            [ledger("dirty", error=TROUBLE), store("old", "read")],
            events=[warning("ledger_failed", call="dirty", error="Trouble", suppressed=0)],
        ),
    ),
    "old raises": (
        {},
        {},
        lambda migration: (_close_gate(migration), _old_fails(migration))[-1],
        operation("read", "old_failed", [store("old", "read", TROUBLE)], rate=0.0, passed=False, error=TROUBLE),
    ),
}


@pytest.mark.parametrize("path", READS)
async def test_spans_of_a_read(world: World, path: str) -> None:
    """Each path of a read has exactly these spans."""
    old, new, arrange, expected = READS[path]
    traced = Traced()
    migration = traced.migration(world, old=old, new=new)
    arrange(migration)
    try:
        await migration.read(KEY)
    except Trouble:
        assert path == "old raises"
    assert typed(traced.tree()) == typed([expected])


async def test_spans_of_a_dirty_read(world: World) -> None:
    """A read of a key with a write in progress is a read of Old alone."""
    traced = Traced()
    migration = traced.migration(world)
    migration.new.outage()
    await migration.write(KEY, VALUE)
    traced.exporter.clear()
    await migration.read(KEY)
    calls = [DIRTY, ledger("reap"), ledger("summary"), ledger("begin_copy"), store("old", "read")]
    assert typed(traced.tree()) == typed([operation("read", "dirty", calls, dirty=True)])


async def test_spans_of_a_stale_read(world: World) -> None:
    """A read that copies a stale key asks Old alone, and says that the key was stale."""
    traced = Traced()
    migration = traced.migration(world, old={KEY: VALUE}, new={KEY: "before"})
    await left_stale(migration)
    traced.exporter.clear()
    await migration.read(KEY)
    calls = [
        *(DIRTY, ledger("reap"), ledger("summary"), ledger("begin_copy")),
        *(store("old", "read"), store("new", "write"), ledger("end")),
    ]
    assert typed(traced.tree()) == typed([operation("read", "copied", calls, dirty=True)])


CHANGES: dict[str, tuple[Callable[[Migration], None], Callable[[str], Any]]] = {
    "old": (
        _close_gate,
        lambda name: operation(name, "old", [BEGIN, store("old", name), END], rate=0.0, passed=False, stale=False),
    ),
    "disabled": (
        _disable,
        lambda name: operation(name, "disabled", [BEGIN, store("old", name), END], stale=False),
    ),
    "both": (
        _nothing,
        lambda name: operation(
            name, "both", [BEGIN, store("old", name), OPEN, store("new", name), END], stale=False, events=[OPENED]
        ),
    ),
    "new_failed": (
        _new_fails,
        lambda name: operation(
            name,
            "new_failed",
            [BEGIN, store("old", name), OPEN, store("new", name, TROUBLE)],
            stale=True,
            events=[OPENED, warning("new_failed", operation=name, error="Trouble", suppressed=0)],
        ),
    ),
    "ledger_failed": (
        _fail("begin"),
        lambda name: operation(
            name,
            "ledger_failed",
            [ledger("begin", error=TROUBLE)] * 3,
            error="zddm_flags.errors.LedgerUnavailable",
            events=[
                warning("ledger_failed", call="begin", error="Trouble", suppressed=0),
                *[warning("ledger_failed", call="begin", error="Trouble")] * 2,
            ],
        ),
    ),
    "old raises": (
        _old_fails,
        lambda name: operation(name, "old_failed", [BEGIN, store("old", name, TROUBLE)], error=TROUBLE),
    ),
}


async def left_stale(migration: Migration) -> None:
    """Write the key while New is not to be touched."""
    migration.rows.open_to(1.0)
    migration.proxy.disable()
    await migration.write(KEY, VALUE)
    migration.proxy.enable()


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("name", ["write", "delete"])
async def test_spans_of_a_change(world: World, path: str, name: str) -> None:
    """Each path of a write and of a delete has exactly these spans."""
    arrange, expected = CHANGES[path]
    traced = Traced()
    migration = traced.migration(world)
    arrange(migration)
    try:
        await (migration.write(KEY, VALUE) if name == "write" else migration.delete(KEY))
    except (Trouble, LedgerUnavailable):
        assert path in ("old raises", "ledger_failed")
    assert typed(traced.tree()) == typed([expected(name)])


async def test_stale_marked(world: World) -> None:
    """`zddm.stale_marked` says that a write left its key stale."""
    traced = Traced()
    migration = traced.migration(world)
    await migration.write(KEY, VALUE)
    migration.proxy.disable()
    await migration.write(KEY, VALUE)
    marks = [
        (span.attributes or {}).get("zddm.stale_marked") for span in traced.spans if span.name == "zddm.write"
    ]
    assert marks == [False, True]


async def test_spans_of_a_batch(world: World) -> None:
    """A batch is one span with counts by path, and one child for each call to a store."""
    traced = Traced()
    many = ("read", "write", "read_many", "write_many")
    keys = [f"{KEY}-{number}" for number in range(4)]
    migration = traced.migration(world, old=dict.fromkeys(keys[:3], VALUE), old_methods=many, new_methods=many)
    migration.new.put({keys[0]: VALUE})
    await migration.read_many(keys)
    await migration.write_many(dict.fromkeys(keys[:2], VALUE))
    batch = {"zddm.migration": "users", "zddm.gate.rate": 1.0}
    assert typed(traced.tree()) == typed(
        [
            (
                "zddm.read_many",
                "INTERNAL",
                "UNSET",
                {
                    **batch,
                    "zddm.batch.size": 4,
                    "zddm.path.copied": 2,
                    "zddm.path.miss": 1,
                    "zddm.path.new_hit": 1,
                },
                [OPENED],
                [
                    ledger("dirty", 4),
                    store("new", "read", size=4),
                    ledger("begin_copy", 3),
                    store("old", "read", size=3),
                    OPEN,
                    store("new", "write", size=2),
                    ledger("end", 3),
                ],
            ),
            (
                "zddm.write_many",
                "INTERNAL",
                "UNSET",
                {**batch, "zddm.batch.size": 2, "zddm.path.both": 2, "zddm.stale_marked": False},
                [],
                [
                    ledger("begin", 2),
                    store("old", "write", size=2),
                    store("new", "write", size=2),
                    ledger("end", 2),
                ],
            ),
        ]
    )


async def test_a_store_that_says_nothing_of_itself(world: World) -> None:
    """Without `describe` a store's span has no database attributes but the operation."""
    traced = Traced()
    migration = traced.migration(world, 0.0, old_info=None, new_info=None)
    await migration.read(KEY)
    [(*_, [child])] = traced.tree()
    expected = ("read", "CLIENT", "UNSET", {"zddm.store": "old", "db.operation.name": "read"}, [], [])
    assert child == expected


async def test_flag_key(world: World) -> None:
    """Where the rate comes from a flag, every span of an operation names the flag."""

    class Source:
        flag_key = "users-migration-rate"
        rollout = Rollout.of(0.0)

        def subscribe(self, listener: Callable[[Rollout], None]) -> Callable[[], None]:
            listener(self.rollout)
            return lambda: None

    traced = Traced()
    migration = traced.migration(world)
    proxy = world.proxy_class(
        TrafficGate(Source()),
        world.adapter(migration.old),
        world.adapter(migration.new),
        telemetry=traced.telemetry(),
    )
    await world.call(proxy.read, KEY)
    assert (traced.spans[-1].attributes or {})["feature_flag.key"] == "users-migration-rate"


# --- Nothing secret


async def everything(world: World, traced: Traced, **options: Any) -> None:
    """Every path, with keys and values and error texts that are secret."""
    for old, new, arrange, _ in READS.values():
        migration = traced.migration(world, old=old, new=new, **options)
        arrange(migration)
        for call in (migration.read(KEY), migration.read_many([KEY, KEY + "2"])):
            with contextlib.suppress(Trouble):
                await call
    for arrange, _ in CHANGES.values():
        migration = traced.migration(world, **options)
        arrange(migration)
        for call in (
            migration.write(KEY, VALUE),
            migration.delete(KEY),
            migration.write_many({KEY: VALUE, KEY + "2": VALUE}),
        ):
            with contextlib.suppress(Trouble, LedgerUnavailable):
                await call


async def test_no_key_no_value_no_message(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither keys nor values nor error texts are in any span or log of any path."""
    traced = Traced()
    await everything(world, traced)
    assert len(traced.spans) > 50
    assert "secret" not in traced.text()
    output = capfd.readouterr()
    assert "new_failed" in output.out
    assert "secret" not in output.out + output.err


async def test_keys_where_asked_for(world: World) -> None:
    """`record_keys` puts the key on its span, and the value stays away."""
    traced = Traced()
    await everything(world, traced, telemetry=traced.telemetry(record_keys=True))
    [recorded] = {
        str((span.attributes or {}).get("zddm.key"))
        for span in traced.spans
        if span.name in ("zddm.read", "zddm.write", "zddm.delete")
    }
    assert recorded == repr(KEY)
    assert VALUE not in traced.text()


# --- Context


async def test_child_of_the_callers_span(world: World) -> None:
    """An operation's span is a child of the caller's, and the caller's is current again afterwards."""
    traced = Traced()
    migration = traced.migration(world)
    with traced.provider.get_tracer("app").start_as_current_span("request") as request:
        await migration.write(KEY, VALUE)
        with pytest.raises(Trouble):
            migration.old.outage()
            await migration.write(KEY, VALUE)
        assert trace.get_current_span() is request
    assert trace.get_current_span() is trace.INVALID_SPAN
    [(name, *_, children)] = traced.tree()
    assert (name, [child[0] for child in children]) == ("request", ["zddm.write", "zddm.write"])
    assert [child[0] for child in children[0][-1]] == [
        *("zddm.ledger.begin", "write users", "zddm.ledger.open_to", "write users:v2", "zddm.ledger.end")
    ]


async def test_spans_within_a_store_call_are_its_children(world: World) -> None:
    """A driver's own span is a child of the store's span."""
    traced = Traced()
    migration = traced.migration(world)

    async def driver() -> None:
        traced.provider.get_tracer("driver").start_span("SELECT").end()

    migration.old.before["read"] = driver
    migration.gate.set_rate(0.0)
    await migration.read(KEY)
    [(name, *_, [(child, *_, [(grandchild, *_)])])] = traced.tree()
    assert (name, child, grandchild) == ("zddm.read", "read users", "SELECT")


async def test_context_across_tasks_and_threads(world: World) -> None:
    """Concurrent operations each keep to their own caller's span."""
    traced = Traced()
    migration = traced.migration(world)
    migration.old.pause = migration.new.pause = world.pause
    migration.rows.open_to(1.0)
    tracer = traced.provider.get_tracer("app")

    async def request(number: int) -> None:
        with tracer.start_as_current_span(f"request-{number}"):
            await migration.write(f"k{number}", VALUE)
            await migration.read(f"k{number}")

    with ThreadPoolExecutor(8) as pool:
        await asyncio.gather(*(world.spawn(request(number), pool) for number in range(16)))
    tree = traced.tree()
    assert len(tree) == 16
    for _, _, _, _, _, children in tree:
        assert [child[0] for child in children] == ["zddm.write", "zddm.read"]
        assert [[name for name, *_ in child[-1]] for child in children] == [
            [*("zddm.ledger.begin", "write users", "write users:v2", "zddm.ledger.end")],
            ["zddm.ledger.dirty", "read users:v2"],
        ]


async def test_context_of_a_cancelled_task() -> None:
    """Cancelling an operation ends its spans, with the cancellation as their error."""
    traced = Traced()
    migration = traced.migration(World("asyncio"))
    reached = asyncio.Event()

    async def hold() -> None:
        reached.set()
        await asyncio.Event().wait()

    migration.new.before["write"] = hold
    task = asyncio.ensure_future(migration.write(KEY, VALUE))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    errors = {span.name: (span.attributes or {}).get("error.type") for span in traced.spans}
    cancelled = "asyncio.exceptions.CancelledError"
    assert errors == {
        **dict.fromkeys(["zddm.ledger.begin", "write users", "zddm.ledger.open_to"]),  # the token is left
        "write users:v2": cancelled,
        "zddm.write": cancelled,
    }


# --- Sampling


class Counting(Sampler):
    """Counts whom it is asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *arguments: Any, **options: Any) -> Any:
        self.asked.append(name)
        return ALWAYS_OFF.should_sample(parent_context, trace_id, name)

    def get_description(self) -> str:
        return "counting"


async def test_unsampled(world: World) -> None:
    """Where the operation is not sampled no span is made for its calls, and a driver's span follows it."""
    sampler = Counting()
    traced = Traced(sampler=ParentBased(sampler))
    migration = traced.migration(world)
    seen: list[bool] = []

    async def driver() -> None:
        span = traced.provider.get_tracer("driver").start_span("SELECT")
        seen.append(span.get_span_context().trace_flags.sampled)

    migration.old.before["write"] = driver
    await migration.write(KEY, VALUE)
    assert traced.spans == ()
    assert sampler.asked == ["zddm.write"]
    assert seen == [False]
    assert migration.stats().operations == {("write", "both"): 1}


async def test_unsampled_parent(world: World) -> None:
    """The caller's decision not to sample is kept."""
    traced = Traced()
    migration = traced.migration(world)
    context = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(context)):
        await migration.write(KEY, VALUE)
    assert traced.spans == ()


# --- Telemetry that fails


class BrokenProcessor(SpanProcessor):
    def __init__(self, moment: str) -> None:
        self.moment = moment

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.moment == "start":
            raise Trouble

    def on_end(self, span: Any) -> None:
        if self.moment == "end":
            raise Trouble


class BrokenSampler(Counting):
    def should_sample(self, *arguments: Any, **options: Any) -> Any:
        raise Trouble


class Unrepresentable(str):
    __slots__ = ()

    def __repr__(self) -> str:
        raise Trouble


async def works(world: World, traced: Traced, key: str = KEY, **options: Any) -> None:
    """All operations do what they do without telemetry, and the context is as it was."""
    migration = traced.migration(world, **options)
    before = trace.get_current_span()
    await migration.write(key, VALUE)
    assert await migration.read(key) == VALUE
    assert await migration.read_many([key, "other"]) == {key: VALUE}
    await migration.delete(key)
    migration.old.outage()
    with pytest.raises(Trouble) as caught:
        await migration.write(key, VALUE)
    assert caught.value is migration.old.before["write"]
    assert trace.get_current_span() is before
    assert migration.new.values == {}
    assert migration.stats().operations["write", "both"] == 1


@pytest.mark.parametrize("moment", ["start", "end"])
async def test_broken_processor(
    world: World, moment: str, failures: set[type[BaseException]], caplog: pytest.LogCaptureFixture
) -> None:
    """A span processor that raises hurts no operation; it is told once, without the error's text."""
    traced = Traced()
    traced.provider.add_span_processor(BrokenProcessor(moment))
    await works(world, traced)
    assert failures == {Trouble}
    told = [record.getMessage() for record in caplog.records if record.name == "zddm_telemetry"]
    assert told == ["telemetry failed, and goes on without: Trouble"]


async def test_broken_sampler(world: World, failures: set[type[BaseException]]) -> None:
    """A sampler that raises hurts no operation."""
    await works(world, Traced(sampler=BrokenSampler()))
    assert failures == {Trouble}


ALL = (*MANY, "scan", "partitions", "count")


class Follows:
    """A source of a rate that names a flag and says how the rate came about."""

    flag_key = "users-migration-rate"
    rollout = Rollout.of(1.0)
    evaluation = Evaluation(rollout, flag_key, "acme", "1", "split", None, "service:users")

    def subscribe(self, listener: Callable[[Rollout], None]) -> Callable[[], None]:
        listener(self.rollout)
        return lambda: None


async def works_beside(world: World, traced: Traced) -> None:
    """Copies, comparisons, a probe, jobs and a flag's evaluation: all is done as without telemetry."""
    migration = traced.migration(
        world,
        old={KEY: VALUE, "a": VALUE, "b": VALUE},
        old_methods=ALL,
        new_methods=ALL,
        copy="background",
        shadow=Shadow(share=1),
        guard=Guard(min_calls=1, trial_calls=1),
    )
    migration.gate = TrafficGate(Follows())
    migration = migration.made_by(migration._make)
    before = trace.get_current_span()
    assert await migration.read_many([KEY, "a"]) == {KEY: VALUE, "a": VALUE}
    await migration.work()
    assert set(migration.new.values) == {KEY, "a"}
    assert await migration.read(KEY) == VALUE
    migration.new.outage()
    assert await migration.read(KEY) == VALUE
    migration.new.recover()
    migration.clock.advance(100)
    assert await migration.read("a") == VALUE
    await migration.work()
    assert migration.stats().guard == "closed"  # by the probe, and a comparison as the trial
    job = migration.backfill(page_size=1)
    migration.old.outage(methods=["scan"])

    async def recover() -> None:
        migration.old.recover()

    job.time.hooks.append(recover)
    assert (await job.run()).complete
    assert migration.new.values == migration.old.values
    migration.proxy.disable()
    await migration.write("b", "later")
    migration.proxy.enable()
    assert (await migration.repair().run()).copied == 1
    migration.ledger.outage(methods=["summary", "checkpoints"])
    with pytest.raises(Trouble) as caught:
        await migration.backfill(restart=True).run()
    assert caught.value in migration.ledger.before.values()
    assert migration.stats().operations["compare", "equal"] >= 1
    assert trace.get_current_span() is before


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("moment", ["start", "end"])
async def test_broken_processor_beside_operations(
    world: World, moment: str, failures: set[type[BaseException]]
) -> None:
    """A span processor that raises hurts no background work, no job and no evaluation."""
    traced = Traced()
    traced.provider.add_span_processor(BrokenProcessor(moment))
    await works_beside(world, traced)
    assert failures == {Trouble}


@pytest.mark.usefixtures("by_hand")
async def test_broken_sampler_beside_operations(world: World, failures: set[type[BaseException]]) -> None:
    """A sampler that raises hurts no background work, no job and no evaluation."""
    await works_beside(world, Traced(sampler=BrokenSampler()))
    assert failures == {Trouble}


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("method", ["add_event", "set_attribute", "set_attributes", "set_status", "end"])
async def test_broken_span(
    world: World, method: str, failures: set[type[BaseException]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A span of which a method raises hurts no operation, no background work, no job and no evaluation."""

    def broken(*_: object, **__: object) -> None:
        raise Trouble

    monkeypatch.setattr(Span, method, broken)
    await works(world, Traced())
    await works_beside(world, Traced())
    assert failures == {Trouble}


@pytest.mark.usefixtures("by_hand")
async def test_the_rest_of_what_could_break(world: World, failures: set[type[BaseException]]) -> None:
    """Where nothing raises the same is done, and nothing is swallowed."""
    await works_beside(world, Traced())
    assert failures == set()


async def test_key_without_repr(world: World, failures: set[type[BaseException]]) -> None:
    """A key whose repr() raises hurts no operation, recorded or not."""
    traced = Traced()
    await works(world, traced, Unrepresentable("k"))
    assert not failures
    await works(world, traced, Unrepresentable("k"), telemetry=traced.telemetry(record_keys=True))
    assert failures == {Trouble}


async def test_provider_that_was_shut_down(world: World) -> None:
    """A provider that was shut down hurts no operation."""
    traced = Traced()
    traced.provider.shutdown()
    await works(world, traced)


# --- Without an SDK, and with one that comes later


def run_alone(script: str) -> str:
    """What `script` prints in a process of its own."""
    code = PREPARE + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


PREPARE = """
import sys
from zddm_flags import Proxy, Telemetry, TrafficGate
class Dict:
    def __init__(self): self.values = {}
    def read(self, key): return self.values.get(key)
    def write(self, key, value): self.values[key] = value
def use(proxy):
    proxy.write("k", "v")
    assert proxy.read("k") == "v"
proxy = Proxy(TrafficGate(1.0), Dict(), Dict(), telemetry=Telemetry(log=False))
"""


def test_without_an_sdk() -> None:
    """Without an SDK no span is made, nothing of the SDK is imported, and the proxy counts as ever."""
    script = """
    from opentelemetry import trace
    made = []
    for name in ("NonRecordingSpan", "set_span_in_context"):
        whole = getattr(trace, name)
        setattr(trace, name, lambda *args, whole=whole: (made.append(args), whole(*args))[-1])
    use(proxy)
    assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
    assert proxy.stats().operations == {("write", "both"): 1, ("read", "new_hit"): 1}
    print(len(made))
    """
    assert run_alone(script) == "0"


def test_nothing_is_configured_by_an_import() -> None:
    """Importing and using the library sets no provider, no structlog configuration and no logging handler."""
    script = """
    import logging, structlog
    from opentelemetry import metrics, trace
    use(proxy)
    print(
        type(trace.get_tracer_provider()).__name__,
        type(metrics.get_meter_provider()).__name__,
        structlog.is_configured(),
        logging.getLogger().handlers,
        logging.getLogger("zddm_telemetry").handlers,
    )
    """
    assert run_alone(script) == "ProxyTracerProvider _ProxyMeterProvider False [] []"


def test_sdk_that_is_set_up_later() -> None:
    """An SDK that is set up globally after the proxy was made and used gets spans and metrics within a second."""
    script = """
    import time
    use(proxy)
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
    started = time.monotonic()
    while not exporter.get_finished_spans():
        assert time.monotonic() < started + 10
        use(proxy)
    use(proxy)
    assert time.monotonic() < started + 5
    [resource] = reader.get_metrics_data().resource_metrics
    names = {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
    print(exporter.get_finished_spans()[-1].name, *sorted(names))
    """
    assert run_alone(script) == (
        "zddm.read zddm.copies zddm.copies.dropped zddm.gate.rate zddm.guard.open zddm.ledger.opened "
        "zddm.ledger.stale_keys zddm.operations zddm.store.operation.duration zddm.store.operations"
    )
