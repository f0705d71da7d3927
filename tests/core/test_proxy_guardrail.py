"""The guardrail in a proxy: it disables itself where New is bad enough, and stays so until `enable()`."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.core.worlds import MANY, Migration, Trouble, World
from zddm_flags import Guard, Guardrail, Shadow, StoreInfo
from zddm_flags.errors import NotApplied
from zddm_flags.guardrail import GuardrailCrossed

KEY = "secret-key"
ERRORS = Guardrail(max_error_share=0.5, min_calls=4)
BY_HAND = pytest.mark.usefixtures("by_hand")


def start(world: World, guardrail: Guardrail | None = ERRORS, **options: Any) -> Migration:
    """A migration in which both stores hold the same, all clean, with a guardrail and no guard."""
    values = {KEY: "v1", **{f"k{number}": "v1" for number in range(9)}}
    options = {"old": values, "new": values, "guard": None, "new_info": StoreInfo(remote=False), **options}
    migration = world.migration(guardrail=guardrail, **options)
    migration.rows.open_to(1.0)
    return migration


async def crossed(world: World, **options: Any) -> Migration:
    """The same migration, whose proxy has disabled itself."""
    migration = start(world, **options)
    migration.new.outage()
    for _ in range(4):
        assert await migration.read(KEY) == "v1"
    assert not migration.proxy.enabled
    migration.new.recover()
    migration.calls()
    return migration


async def test_errors(world: World) -> None:
    """Too many errors of New disable the proxy, at the call that crosses the threshold, and that is told once."""
    migration = start(world)
    migration.new.outage()
    with capture_logs() as logs:
        for number in range(6):
            assert migration.proxy.enabled is (number < 4)
            assert await migration.read(KEY) == "v1"
    assert migration.stats().operations == {("read", "new_failed"): 4, ("read", "disabled"): 2}
    assert [log for log in logs if log["event"] != "new_failed"] == [
        {
            "event": "guardrail_crossed",
            "log_level": "error",
            "migration": "users",
            "threshold": "error_share",
            "limit": 0.5,
            "error_share": 1.0,
            "suppressed_new_failed": 2,
            "calls": 4,
            "errors": 4,
            "advice": "New is not used by this proxy until its enable()",
        }
    ]
    figures = {"error_share": 1.0, "calls": 4, "errors": 4}
    assert migration.stats().disabled_by == GuardrailCrossed("error_share", 0.5, figures)
    assert migration.stats().enabled is False


@pytest.mark.parametrize("operation", ["write", "delete", "copy", "write_many", "read_many"])
async def test_errors_of_every_operation(world: World, operation: str) -> None:
    """Errors of every call to New count, also those that certainly took no effect."""
    guardrail = Guardrail(max_error_share=0.4, min_calls=4)
    migration = start(world, guardrail, old_methods=MANY, new_methods=MANY)
    error = NotApplied() if operation == "write" else Trouble()
    changes = ["write", "write_many", "delete", "delete_many"]
    migration.new.outage(error, ["read_many"] if operation == "read_many" else changes)
    for number in range(4):
        match operation:
            case "write":
                await migration.write(KEY, "v2")
            case "delete":
                await migration.delete(KEY)
            case "write_many":
                await migration.write_many({KEY: "v2", "k0": "v2"})
            case "read_many":
                await migration.read_many([KEY, "k0"])
            case _:
                del migration.new.values[f"k{number}"]
                await migration.read(f"k{number}")
    disabled_by = migration.stats().disabled_by
    assert disabled_by is not None
    assert disabled_by.threshold == "error_share"


async def test_slowness(world: World) -> None:
    """A New that takes too many times as long as Old disables the proxy, with the operation and both times."""
    guardrail = Guardrail(max_latency_ratio=5, min_calls=3)
    migration = start(world, guardrail)

    async def slow() -> None:
        time.sleep(0.02)  # noqa: ASYNC251 - the time that New takes

    # Changes are made in both stores, so both have calls of one operation to compare.
    with capture_logs() as logs:
        for number in range(20):
            migration.new.before["write"] = slow
            await migration.write(KEY, number)
            if not migration.proxy.enabled:
                break
    told = [log for log in logs if log["event"] == "guardrail_crossed"]
    assert len(told) == 1
    assert told[0]["threshold"] == "latency_ratio"
    assert told[0]["operation"] == "write"
    assert told[0]["limit"] == 5
    assert told[0]["latency_ratio"] > 5
    assert told[0]["new_seconds"] >= 0.02 > told[0]["old_seconds"]
    disabled_by = migration.stats().disabled_by
    assert disabled_by is not None
    assert (disabled_by.threshold, disabled_by.operation) == ("latency_ratio", "write")


@BY_HAND
async def test_differences(world: World) -> None:
    """Keys that differ from Old, more than are allowed, disable the proxy, and are stale all the same."""
    guardrail = Guardrail(max_differing_keys=1)
    migration = start(world, guardrail, shadow=Shadow(share=1, per_second=None))
    migration.new.values.update(k0="planted", k1="planted")
    await migration.read("k0")
    assert await migration.work() == 1
    assert migration.proxy.enabled
    await migration.read("k1")
    with capture_logs() as logs:
        assert await migration.work() == 1
    assert [(log["event"], log["threshold"], log["limit"], log["differing_keys"]) for log in logs] == [
        ("guardrail_crossed", "differing_keys", 1, 2)
    ]
    figures = {"differing_keys": 2}
    assert migration.stats().disabled_by == GuardrailCrossed("differing_keys", 1, figures)
    assert migration.left == (2, 0)
    assert await migration.read("k1") == "v1"
    migration.proxy.enable()
    assert await migration.read_many(["k0", "k1"]) == {"k0": "v1", "k1": "v1"}


async def test_it_stays_disabled(world: World) -> None:
    """A proxy that disabled itself leaves New alone until `enable()`, however long; writes mark their keys."""
    migration = await crossed(world)
    migration.clock.advance(100_000)
    assert await migration.read(KEY) == "v1"
    assert migration.calls() == ["old.read"]
    await migration.write(KEY, "v2")
    assert [call for call in migration.calls() if call.startswith("new.")] == []
    assert migration.left == (1, 0)
    migration.proxy.disable()
    assert migration.stats().disabled_by is not None, "it was disabled already, and by what it is told"
    migration.proxy.enable()
    assert migration.stats().enabled
    assert migration.stats().disabled_by is None
    assert await migration.read(KEY) == "v2"
    assert migration.new.values[KEY] == "v2"
    assert migration.left == (0, 0)


async def test_enable_counts_anew(world: World) -> None:
    """After `enable()` the calls before it count no more, and the threshold can be crossed again."""
    migration = await crossed(world)
    migration.proxy.enable()
    migration.new.outage()
    for _ in range(3):
        await migration.read(KEY)
        assert migration.proxy.enabled
    with capture_logs() as logs:
        await migration.read(KEY)
    assert not migration.proxy.enabled
    assert [log["event"] for log in logs if log["event"] != "new_failed"] == ["guardrail_crossed"]


async def test_a_proxy_that_was_disabled_by_hand(world: World) -> None:
    """A proxy that somebody disabled was not disabled by the guardrail, whatever New did before."""
    migration = start(world)
    migration.new.outage()
    for _ in range(3):
        await migration.read(KEY)
    migration.proxy.disable()
    await migration.read(KEY)
    assert migration.stats().disabled_by is None
    migration.proxy.enable()
    for _ in range(3):
        await migration.read(KEY)
    assert migration.proxy.enabled, "what came before enable() counts no more"


async def test_another_proxy_goes_on(world: World) -> None:
    """Each proxy counts for itself: another of the same migration goes on with New."""
    migration = start(world)
    other = migration.in_another_process(1.0)
    migration.new.outage()
    for _ in range(4):
        await migration.read(KEY)
    migration.new.recover()
    assert (migration.proxy.enabled, other.proxy.enabled) == (False, True)
    assert await other.read(KEY) == "v1"
    assert other.stats().operations == {("read", "new_hit"): 1}


async def test_old_does_not_count(world: World) -> None:
    """Failures of Old never disable the use of New."""
    migration = start(world)
    migration.old.outage()
    for _ in range(20):
        with pytest.raises(Trouble):
            await migration.write(KEY, "v2")
        migration.new.values.pop("k0", None)
        with pytest.raises(Trouble):
            await migration.read("k0")
    assert migration.proxy.enabled
    assert migration.stats().disabled_by is None


@BY_HAND
async def test_calls_that_the_guard_refused(world: World) -> None:
    """What the guard refuses is no call, so that it neither crosses the guardrail nor makes up for errors."""
    migration = start(world, guard=Guard(min_calls=2), guardrail=Guardrail(max_error_share=0.9, min_calls=3))
    migration.new.outage()
    for _ in range(20):
        await migration.read(KEY)
    assert migration.stats().guard == "open"
    assert migration.proxy.enabled
    migration.clock.advance(5)
    await migration.read(KEY)
    await migration.work()  # the probe is a call, the third
    assert not migration.proxy.enabled


@pytest.mark.parametrize("operation", ["read", "write", "write_many", "copy"])
async def test_operations_in_flight_finish(world: World, operation: str) -> None:
    """A call to New in flight when the guardrail is crossed finishes its operation; nothing is left behind."""
    migration = start(world)
    method = "read" if operation == "read" else "write"
    if operation == "copy":
        migration.new.values.clear()
    reached, release = world.event(), world.event()

    async def hold() -> None:
        reached.set()
        await release.wait()

    migration.new.before[method] = hold
    with ThreadPoolExecutor(1) as pool:
        doing: dict[str, Any] = {
            "read": lambda: migration.read(KEY),
            "copy": lambda: migration.read(KEY),
            "write": lambda: migration.write(KEY, "v2"),
            "write_many": lambda: migration.write_many({KEY: "v2", "k0": "v2", "k1": "v2"}),
        }
        running = world.spawn(doing[operation](), pool)
        await world.until(lambda: reached.is_set)
        migration.new.before["delete"] = NotApplied()
        for _ in range(5):
            await migration.delete("k8")
        assert not migration.proxy.enabled
        migration.calls()
        release.set()
        assert await running == ("v1" if operation in {"read", "copy"} else None)
    begun = [call for call in migration.calls() if call.startswith("new.")]
    assert begun == [], "a call to New began after the guardrail was crossed"
    assert migration.summary.pending == 0
    migration.new.recover()
    migration.proxy.enable()
    for key in (KEY, "k0", "k1", "k8"):
        assert await migration.read(key) == migration.old.values.get(key)
    assert migration.clean_differences() == {}


async def test_cancelled_calls_do_not_count() -> None:
    """A call whose caller gave up says nothing of New."""
    world = World("asyncio")
    migration = start(world)
    never = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await never.wait()

    for _ in range(10):
        reached = asyncio.Event()
        migration.new.before["read"] = hang
        reading = asyncio.ensure_future(migration.read(KEY))
        await reached.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert migration.proxy.enabled


def test_wrong_guardrail(world: World) -> None:
    """A share alone is not taken for a `Guardrail`."""
    with pytest.raises(TypeError, match="guardrail"):
        world.migration(guardrail=0.5)
