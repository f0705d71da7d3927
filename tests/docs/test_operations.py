"""docs/operations.md does what it says, and names what there is."""

import ast
import asyncio
import contextlib
import dataclasses
import io
import re
import signal
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import get_args

import pytest
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from tests.docs.test_ledgers_page import logged_events
from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_adapters.redis import RedisAdapter
from zddm_adapters.sqlalchemy import SqlAlchemyAdapter
from zddm_flags import AsyncProxy, Copies, Guard, Guardrail, Proxy, ProxyStats, Shadow, StoreInfo, TrafficGate
from zddm_flags._async import observed
from zddm_flags._async.bulk import CopyOutcome
from zddm_flags._async.changes import Located
from zddm_flags.background import KeyQueue
from zddm_flags.guard import CircuitBreaker, GuardOpen
from zddm_flags.guardrail import GuardrailWatch
from zddm_flags.testing import FlagServer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)
SETTINGS_OF_NEW = re.compile(r"^bounded_new\w* = \{.*?^\}|^from redis.*?$", re.DOTALL | re.MULTILINE)
NAMES = set(re.findall(r"`([^`]+)`", TEXT))
SETTINGS = {"Guard": Guard, "Guardrail": Guardrail, "Copies": Copies, "Shadow": Shadow}


def section(heading):
    """The text from a heading to the next one of its level or above."""
    level = len(heading.split(" ")[0])
    return re.split(rf"^#{{2,{level}}} ", TEXT.split(f"\n{heading}\n")[1], flags=re.MULTILINE)[0]


def rows(heading):
    """The cells of the tables of a section."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|---" not in line]


# -- the code --------------------------------------------------------------------------------------------------


@pytest.fixture
def database(postgresql_database, monkeypatch):
    """An engine on a database that has both of the page's tables."""
    server, name = postgresql_database
    url = server.url(name)
    for variable in ("OLD_DATABASE_URL", "NEW_DATABASE_URL"):
        monkeypatch.setenv(variable, url.render_as_string(hide_password=False))
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", "sdk-local")
    engine = create_engine(url)
    for table in ("users", "people"):
        Table(table, MetaData(), Column("id", String, primary_key=True), Column("visits", Integer)).create(engine)
    yield engine
    engine.dispose()


def time_outs_of_old():
    """What docs/postgresql.md calls `bounded`."""
    page = (ROOT / "docs" / "postgresql.md").read_text(encoding="utf-8")
    found = re.search(r"^bounded = \{.*?^\}", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    names = {}
    exec(found[0], names)  # noqa: S102 - the page is ours
    return names["bounded"]


def wait_for(names, rate):
    """Wait until the page's gate has the flag's rate."""
    deadline = time.monotonic() + 5
    while names["gate"].rate != rate:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def migrate(names, flags):
    """What happens between the page's first programs and its last: keys that are cold, deleted, stale, missing."""
    users = names["users"]
    names["old"].write("cold", {"visits": 0})
    flags.set("users-migration-rate", 1)
    wait_for(names, 1)
    users.write_many({f"u{number}": {"visits": number} for number in range(700)})
    flags.turn_off("users-migration-rate")
    wait_for(names, 0)
    users.delete("u1")
    users.write("u2", {"visits": -1})
    flags.turn_on("users-migration-rate")
    wait_for(names, 1)
    assert users.read("u2") == {"visits": -1}
    assert names["new"].read("u1") == {"visits": 1}


def test_the_code_runs_and_prints_what_the_page_shows(database, monkeypatch):
    """Each block runs, in order, and prints what follows it; the last one makes the stores equal."""
    with FlagServer({"users-migration-rate": 0}) as flags:
        monkeypatch.setattr("ldclient.LDClient", lambda config: flags.client(sdk_key=config.sdk_key))
        names = {"bounded": time_outs_of_old()}
        checked = 0
        for block in BLOCK.finditer(TEXT):
            line = TEXT.count("\n", 0, block.start("code"))
            if "structlog.configure(" in block["code"]:
                continue  # test_log_events.py runs it, and puts structlog back
            if "Backfill(users)" in block["code"]:
                migrate(names, flags)
            output = io.StringIO()
            with contextlib.redirect_stdout(output), capture_logs():
                exec(compile("\n" * line + block["code"], str(PAGE), "exec"), names)  # noqa: S102
            assert output.getvalue() == (block["output"] or ""), f"the block at line {line + 1}"
            checked += block["output"] is not None
        assert checked == TEXT.count("```text") == 4
        assert names["new"].read("u1") is None
        assert names["new"].read("cold") == {"visits": 0}
        assert dict(names["new"].scan().items) == dict(names["old"].scan().items)
        names["users"].close()
        names["source"].close()
        for engine in ("old_engine", "new_engine", "ledger_engine"):
            names[engine].dispose()


@pytest.fixture
def settings():
    """What the page's blocks of time-outs define."""
    names = {}
    for block in BLOCK.finditer(TEXT):
        for definition in SETTINGS_OF_NEW.findall(block["code"]):
            exec(definition, names)  # noqa: S102 - the page is ours
    return names


def seconds_to_raise(error, call, *arguments):
    began = time.monotonic()
    with pytest.raises(error):
        call(*arguments)
    return time.monotonic() - began


@contextlib.contextmanager
def stopped(server):
    """A server that is stopped on a host that lives."""
    server._process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server._process.send_signal(signal.SIGCONT)


def test_time_outs_for_new_in_postgresql(database, settings):
    """A read of New that meets a lock raises after half a second."""
    engine = create_engine(database.url, **settings["bounded_new"])
    new = SqlAlchemyAdapter(engine, Table("people", MetaData(), autoload_with=engine))
    with database.begin() as connection:
        connection.execute(text("LOCK TABLE people"))
        assert 0.4 < seconds_to_raise(OperationalError, new.read, "u1") < 3.75
    assert new.read("u1") is None
    engine.dispose()


def test_time_outs_for_new_in_mariadb(mariadb_database, settings):
    """A read of a New that is stopped raises after a second."""
    server, name = mariadb_database
    engine = create_engine(server.url(name), **settings["bounded_new_mysql"])
    table = Table("people", MetaData(), Column("id", String(40), primary_key=True), Column("visits", Integer))
    table.create(engine)
    new = SqlAlchemyAdapter(engine, table)
    assert new.read("u1") is None
    with stopped(server):
        assert 0.9 < seconds_to_raise(OperationalError, new.read, "u1") < 3.5
    engine.dispose()


def test_time_outs_for_new_in_valkey(valkey_server, settings):
    """A read of a New that is stopped raises after half a second."""
    with Redis(host=valkey_server.host, port=valkey_server.port, db=7, **settings["bounded_new_redis"]) as client:
        new = RedisAdapter(client, max_wait_seconds=1)
        assert new.read("u1") is None
        with stopped(valkey_server):
            assert 0.4 < seconds_to_raise(RedisTimeoutError, new.read, "u1") < 2


# -- the names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("### Size the guard", Guard),
        ("## Guardrail", Guardrail),
        ("## Copies in the background", Copies),
        ("## Shadow comparison", Shadow),
    ],
)
def test_every_field_is_on_the_page_with_its_default(heading, kind):
    """The table of a settings class has each of its fields, no other, and the default that it has."""
    table = {row[0].strip("`"): row[1] for row in rows(heading) if re.fullmatch(r"`\w+`", row[0])}
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    assert set(table) == set(fields)
    for name, default in fields.items():
        if default is dataclasses.MISSING:
            shown = "no default"
        elif name == "max_bytes":
            shown = f"{default // 2**20} MiB"
        elif name == "equal":
            shown = "`operator.eq`"
        elif isinstance(default, str):
            shown = f'`"{default}"`'
        else:
            shown = f"{default:,}" if isinstance(default, int) else str(default)
        assert table[name] == shown, name


def test_every_field_that_is_named_exists():
    """What the page names of settings, of stats() and of a proxy is there, and all of stats() is on the page."""
    for kind, field in re.findall(r"\b(Guard|Guardrail|Copies|Shadow)\.(\w+)", TEXT):
        assert field in SETTINGS[kind].__dataclass_fields__
    stats = set(re.findall(r"\bstats(?:\(\))?\.(\w+)", TEXT))
    assert stats == set(ProxyStats.__dataclass_fields__)
    for method in re.findall(r"\bproxy\.(\w+)", TEXT) + re.findall(r"\busers\.(\w+)", TEXT):
        assert hasattr(Proxy, method), method


def test_every_metric_is_on_the_page():
    """The table of metrics has each instrument, and no other."""
    source = (ROOT / "telemetry/zddm_telemetry/metrics.py").read_text(encoding="utf-8")
    created = set(re.findall(r'meter\.create_\w+\(\s*"([\w.]+)"', source))
    assert len(created) >= 9
    assert {row[0].strip("`") for row in rows("### Metrics")[1:]} == created


def spoken():
    """Every name of the library's spans, metrics and their attributes, as its source has it."""
    found = set()
    for folder in ("zddm_flags/_async", "telemetry"):
        for file in (ROOT / folder).rglob("*.py"):
            source = file.read_text(encoding="utf-8")
            found |= set(re.findall(r'"((?:zddm|db|feature_flag|error)\.[\w.]+)"', source))
    return found


def test_every_span_attribute_is_on_the_page():
    """Each attribute of spans and metrics is on the page, and the page names none that there is not."""
    told = told_of_jobs()
    assert len(told) >= 6
    names = spoken()
    assert len(names) > 20
    assert sorted(name for name in names | told if f"`{name}`" not in TEXT) == []
    named = {name for name in NAMES if re.fullmatch(r"(?:zddm|db|feature_flag|error)\.[\w.]+", name)}
    assert named - spans() - told - names == set()
    for folder, pattern, shown in (
        ("operations", 'f"zddm.path.{each}"', "`zddm.path.<path>`"),
        ("jobs", 'f"zddm.rows.{name}"', "`zddm.rows.<outcome>`"),
    ):
        assert pattern in (ROOT / f"telemetry/zddm_telemetry/{folder}.py").read_text(encoding="utf-8")
        assert shown in TEXT


def spans():
    """The names that spans may have, whose parts the source puts together, but for calls to stores."""
    one_key, jobs = ("read", "write", "delete"), ("backfill", "verify", "repair")
    batches = ("read", "write", "copy", "compare", *jobs)
    return {
        *(f"zddm.{name}" for name in (*one_key, *jobs, "probe")),
        *(f"zddm.{name}_many" for name in batches),
        *(f"zddm.{job}.page" for job in jobs),
        *(f"zddm.{job}.part" for job in ("backfill", "verify")),
        *(f"zddm.ledger.{call}" for call in vars(observed)["_CALLS"]),
    }


def test_every_span_is_on_the_page():
    """The table of spans has each, but that of the ledger's calls some are enough."""
    missing = {name for name in spans() if f"`{name}`" not in section("### Spans")}
    assert all(name.startswith("zddm.ledger.") for name in missing)
    assert len(missing) == len(vars(observed)["_CALLS"]) - 3


def told_of_jobs():
    """What the source tells of a run: the arguments that it gives by name."""
    found = set()
    for file in (ROOT / "zddm_flags/_async").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("tell", "_tell_counts"):
                found |= {f"zddm.job.{each.arg}" for each in node.keywords if each.arg is not None}
    return found


def paths_in_source():
    """What operations are counted under: the literals that the core gives as a path or a verdict."""
    found = set()
    for file in ("migration", "proxy", "background"):
        tree = ast.parse((ROOT / f"zddm_flags/_async/{file}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            given = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in ("count", "instead"):
                    given = node.args[:1]
            elif isinstance(node, ast.Assign):
                target = node.targets[0]
                name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", None)
                if name in ("path", "WhyOld", "Verdict") or isinstance(target, ast.Tuple):
                    given = [node.value]
            elif isinstance(node, (ast.Return, ast.GeneratorExp)):
                value = node.value if isinstance(node, ast.Return) else node.elt
                given = [value] if isinstance(value, (ast.Tuple, ast.Constant)) else []
            elif isinstance(node, ast.DictComp):
                given = [node.value]
            for each in given:
                constants = [part for part in ast.walk(each) if isinstance(part, ast.Constant)]
                found |= {part.value for part in constants if isinstance(part.value, str)}
    return {path for path in found if re.fullmatch(r"[a-z_]+", path)}


def test_every_path_is_on_the_page():
    """The table of paths has each that the source gives, and no other."""
    named = set()
    for row in rows("### Paths")[1:]:
        named |= set(re.findall(r"`(\w+)`", row[1]))
    assert named == paths_in_source() | set(get_args(CopyOutcome))


def test_every_log_event_is_on_the_page():
    """The table of log events has each that the library logs, once, and no other."""
    events = [row[1] for row in rows("### Log events")[1:] if not row[0].startswith("`")]  # else of their fields
    named = [event for row in events for event in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(logged_events())


# -- the claims ------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def first_opening(threads, seconds, guard):
    """Why and when the guard of a blocking process opens, where each call fails after so long."""
    clock, changes = Clock(), []
    breaker = CircuitBreaker(guard, hangs_after_seconds=guard.budget_seconds, clock=clock, report=changes.append)
    calls: list[tuple[float, int | None]] = [(number * 0.01, None) for number in range(threads)]
    while calls and not changes and clock.now < 120:
        calls.sort(key=lambda each: each[0])
        clock.now, call = calls.pop(0)
        if call is not None:
            breaker.end(call, failed=True)
        with contextlib.suppress(GuardOpen):
            calls.append((clock.now + seconds, breaker.begin()))
    return changes[0].reason, clock.now


def test_guards_of_few_threads():
    """With one thread and calls of 3 s the guard opens as late as the page says, with more threads sooner."""
    assert first_opening(1, 3.0, Guard()) == ("hanging_calls", 12.0)
    assert first_opening(1, 3.0, Guard(max_hanging_calls=2)) == ("hanging_calls", 6.0)
    assert first_opening(1, 3.0, Guard(max_hanging_calls=1)) == ("hanging_calls", 3.0)
    assert first_opening(1, 0.6, Guard(max_hanging_calls=1)) == ("hanging_calls", 0.6)
    for threads in (2, 3, 4):
        reason, when = first_opening(threads, 3.0, Guard())
        assert (reason, when <= 6.1) == ("hanging_calls", True)
    assert first_opening(1, 0.4, Guard())[0] == "failures"  # 20 calls in 10 s at least


class Slow(InMemoryAdapter):
    """A store whose reads wait until they are let go."""

    def __init__(self):
        super().__init__()
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def read(self, key):
        self.begun.release()
        assert self.go.wait(20)
        return super().read(key)


def test_a_full_guard_stays_closed():
    """With max_concurrent_calls calls in flight the path is guard_open and the guard closed; one event says so."""
    new = Slow()
    with capture_logs() as events:
        proxy = Proxy(TrafficGate(1.0), InMemoryAdapter({"k": 1}), new, guard=Guard(max_concurrent_calls=2))
        threads = [threading.Thread(target=proxy.read, args=("k",)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert new.begun.acquire(timeout=10)
        assert proxy.read("k") == 1
        stats = proxy.stats()
        new.go.set()
        for thread in threads:
            thread.join()
    assert (stats.guard, stats.operations["read", "guard_open"]) == ("closed", 1)
    assert [event["event"] for event in events if event["event"].startswith("guard")] == ["guard_full"]


class Failing(InMemoryAdapter):
    def __init__(self):
        super().__init__()
        self.down = False
        self.calls = 0

    def read(self, key):
        self.calls += 1
        if self.down:
            raise ConnectionError
        return super().read(key)


def test_after_a_kill_the_guard_stays_as_it_was():
    """Without operations on keys in the gate nobody probes New, and the guard stays open."""
    gate, new = TrafficGate(1.0), Failing()
    guard = Guard(min_calls=2, open_seconds=0.001)
    with capture_logs():
        proxy = Proxy(gate, InMemoryAdapter({"k": 1}), new, guard=guard, copy="off")
        new.down = True
        for _ in range(2):
            proxy.read("k")
        gate.set_rate(0.0)
        new.down = False
        calls = new.calls
        for _ in range(20):
            assert proxy.read("k") == 1
            time.sleep(0.01)
        assert (proxy.stats().guard, new.calls) == ("open", calls)
        gate.set_rate(1.0)
        deadline = time.monotonic() + 10
        while proxy.stats().guard != "closed":
            proxy.read("k")
            assert time.monotonic() < deadline
        assert proxy.stats().operations["read", "old"] == 20


class Remote:
    """An asyncio store in another process that never answers for some keys, and is slow to give up on a call."""

    async def read(self, key):
        if key.startswith("never"):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(1)
        return 1

    async def write(self, key, value):
        raise NotImplementedError


async def test_calls_that_are_cut_off_open_the_guard():
    """In asyncio callers go on after the budget; so many calls in a row that are cut off open the guard."""
    guard = Guard(budget_seconds=0.2, slow_call_seconds=0.1)
    with capture_logs() as events:
        proxy = AsyncProxy(TrafficGate(1.0), AsyncInMemoryAdapter({"never 1": 5}), Remote(), guard=guard)
        for _ in range(200):
            await proxy.read("k")
        began = time.monotonic()
        values = await asyncio.gather(*(proxy.read(f"never {number}") for number in range(4)))
        assert values == [None, 5, None, None]
        assert time.monotonic() - began < 1
        assert proxy.stats().operations["read", "new_failed"] == 4
        await proxy.read("k")
        await asyncio.sleep(1.1)
    opened = next(event for event in events if event["event"] == "guard_opened")
    assert (opened["reason"], opened["failures"], opened["calls"]) == ("hanging_calls", 4, 205)


class Near(Remote):
    def describe(self):
        return StoreInfo(remote=False)

    async def read(self, key):
        await asyncio.sleep(0.3)
        return 1


async def test_a_store_in_this_process_is_not_cut_off():
    """Where StoreInfo.remote is False a call goes on beyond the budget."""
    with capture_logs():
        proxy = AsyncProxy(TrafficGate(1.0), AsyncInMemoryAdapter(), Near(), guard=Guard(budget_seconds=0.05))
        assert await proxy.read("k") == 1
    assert proxy.stats().operations == {("read", "new_hit"): 1}


def seconds_of_outage(guardrail, *, failed=False, slow=False):
    """How long after New goes bad, at 20 calls/s of 10 ms, the default guard opens and a guardrail is crossed."""
    clock, opened, crossed = Clock(), [], []
    guard = Guard()
    breaker = CircuitBreaker(
        guard, hangs_after_seconds=guard.budget_seconds, clock=clock, report=lambda _: opened.append(clock.now)
    )
    watch = GuardrailWatch(guardrail, clock)
    goes_bad = guardrail.window_seconds * 2

    def call_new(bad):
        seconds = 0.6 if bad and slow else 0.01
        return watch.called("new", "read", seconds, failed=bad and failed)

    for number in range(int(goes_bad * 2 * 20)):
        clock.now = number / 20
        bad = clock.now >= goes_bad
        found = watch.called("old", "read", 0.01, failed=False)
        with contextlib.suppress(GuardOpen):
            call = breaker.begin()
            breaker._running[call] -= 0.6 if bad and slow else 0.01  # so long ago it began
            breaker.end(call, failed=bad and failed)
            found = found or call_new(bad)
        if breaker.probe_due():
            found = found or call_new(bad)
            breaker.probed(succeeded=not failed)
        if found is not None:
            crossed.append(clock.now)
    return [moments[0] - goes_bad if moments else None for moments in (opened, crossed)]


def test_how_soon_an_outage_is_seen():
    """The guard opens after 5 s of failures or 8 s of slow calls, a guardrail of a minute is crossed before, and
    one of ten minutes after 8 minutes.
    """
    after = seconds_of_outage(Guardrail(max_error_share=0.05), failed=True)
    assert after == [pytest.approx(5, abs=1), pytest.approx(3, abs=0.5)]
    after = seconds_of_outage(Guardrail(max_latency_ratio=4.0), slow=True)
    assert after == [pytest.approx(8, abs=1), pytest.approx(5.5, abs=2.5)]
    after = seconds_of_outage(Guardrail(max_error_share=0.05, window_seconds=600), failed=True)
    assert after == [pytest.approx(5, abs=1), pytest.approx(8 * 60, abs=40)]


def test_a_guardrail_comes_back_by_enable_alone():
    """Once crossed it stays so when New is well, until enable()."""
    new = Failing()
    old = InMemoryAdapter({"k": 1})
    with capture_logs() as events:
        proxy = Proxy(
            TrafficGate(1.0), old, new, guard=None, guardrail=Guardrail(max_error_share=0.05, min_calls=10)
        )
        new.down = True
        for _ in range(10):
            proxy.read("k")
        new.down = False
        assert proxy.read("k") == 1
        stats = proxy.stats()
        assert (stats.enabled, stats.operations["read", "disabled"]) == (False, 1)
        assert stats.disabled_by is not None
        assert stats.disabled_by.threshold == "error_share"
        proxy.enable()
        proxy.read("k")
        assert proxy.stats().disabled_by is None
    [crossed] = [event for event in events if event["event"] == "guardrail_crossed"]
    assert crossed["limit"] == 0.05


def test_a_background_copy_reads_old_twice():
    """A read returns before the copy, as a miss; the copy reads Old again, and is counted as one."""
    with capture_logs():
        old, new = InMemoryAdapter({"k": 1}), InMemoryAdapter()
        with Proxy(TrafficGate(1.0), old, new, copy="background") as proxy:
            assert proxy.read("k") == 1
        stats = proxy.stats()
    assert new.read("k") == 1
    assert stats.calls["old", "read"] == 2
    assert stats.operations == {("read", "miss"): 1, ("copy", "copied"): 1}


def test_memory_of_the_queue():
    """10,000 keys of 36 characters that wait take about the 4 MB of the page."""
    gate, queue = TrafficGate(1.0), KeyQueue(10_000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000):
            key = f"{number:036d}"
            key_hash, name = gate.locate(key)
            queue.add(name, Located(key_hash, name, key), sys.getsizeof(key))
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 3e6 < used < 5e6


class Lagging(InMemoryAdapter):
    def describe(self):
        return StoreInfo(strong_reads=False, remote=False)


@pytest.mark.parametrize(
    ("old", "verdict"), [(InMemoryAdapter({"k": 2}), "different"), (Lagging({"k": 2}), "unsure")]
)
def test_a_replica_is_not_compared(old, verdict):
    """New, written around the proxy, differs: that is certain with an Old of strong reads, and unsure without."""
    new = InMemoryAdapter({"k": 1})
    with capture_logs() as events:
        proxy = Proxy(TrafficGate(1.0), old, new, shadow=Shadow(share=1.0))
        assert proxy.read("k") == 1
        deadline = time.monotonic() + 10
        while ("compare", verdict) not in proxy.stats().operations:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        different = [event for event in events if event["event"] == "keys_differ"]
        if different:
            assert different[0]["hashes"] == [f"{TrafficGate().locate('k')[0]:016x}"]
            deadline = time.monotonic() + 10
            while proxy.read("k") != 2:  # the key is stale, hence made right
                assert time.monotonic() < deadline
            assert new.read("k") == 2
    assert bool(different) is (verdict == "different")


def test_why_the_end_needs_a_pause():
    """Who writes New directly, while another still has the proxy, loses the write."""
    gate, old, new = TrafficGate(1.0), InMemoryAdapter(), InMemoryAdapter()
    with capture_logs():
        proxy = Proxy(gate, old, new)
        proxy.write("k", 1)
        gate.set_rate(0.0)
        proxy.write("k", 2)
        gate.set_rate(1.0)
        new.write("k", 3)  # by a process without the proxy
        assert proxy.read("k") == 2
    assert new.read("k") == 2


def test_reads_of_new_while_old_is_down():
    """Keys that New has are served while Old is down and the ledger answers; others raise, as old_failed."""
    old, new = Failing(), InMemoryAdapter()
    with capture_logs():
        proxy = Proxy(TrafficGate(1.0), old, new)
        proxy.write("k", 1)
        old.down = True
        assert proxy.read("k") == 1
        with pytest.raises(ConnectionError):
            proxy.read("other")
    assert proxy.stats().operations["read", "old_failed"] == 1


def test_new_dropped_before_the_ledger():
    """A proxy that is started by mistake after New was dropped goes to Old."""
    new = Failing()
    new.down = True
    with capture_logs():
        proxy = Proxy(TrafficGate(1.0), InMemoryAdapter({"k": 1}), new)
        assert proxy.read("k") == 1


def test_default_waits():
    """The page counts with the default of max_operation_seconds: 34 s to the reaping of a token."""
    with capture_logs():
        proxy = Proxy(TrafficGate(1.0), InMemoryAdapter(), InMemoryAdapter())
    assert proxy._settings.reap_age == pytest.approx(34)
    assert proxy._settings.max_call_seconds == 10
    assert "Wait 34 s: 1.1 x" in TEXT


def test_the_table_of_time_outs_is_what_the_programs_set(settings):
    """Each number of the table of time-outs for New is in the page's settings."""
    table = {(row[0], row[1]): row[3] for row in rows("### Time-outs for New")[1:]}
    new, mysql, redis = (settings[f"bounded_new{name}"] for name in ("", "_mysql", "_redis"))
    assert table["SQLAlchemy", "`pool_timeout`"] == f"{new['pool_timeout']} s" == f"{mysql['pool_timeout']} s"
    postgresql = new["connect_args"]
    assert table["psycopg", "`connect_timeout`"] == f"{postgresql['connect_timeout']} s"
    assert ("psycopg", f"`options={postgresql['options']}`") in table
    gone = postgresql["keepalives_idle"] + postgresql["keepalives_interval"] * postgresql["keepalives_count"]
    shown = f"{postgresql['tcp_user_timeout'] // 1000} s; {gone} s"
    assert table["psycopg", "`tcp_user_timeout`, `keepalives_*`"] == shown
    for name in ("connect_timeout", "write_timeout", "read_timeout"):
        assert table["PyMySQL", f"`{name}`"] == f"{mysql['connect_args'][name]} s"
    for name in ("socket_connect_timeout", "socket_timeout"):
        assert table["redis-py", f"`{name}`"] == f"{redis[name]} s"
