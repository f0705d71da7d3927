"""The adapters that need no driver: in memory, functions, mapped, threaded."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds import settle
from zddm_adapters import (
    AsyncFunctionAdapter,
    AsyncInMemoryAdapter,
    AsyncMappedAdapter,
    FunctionAdapter,
    InMemoryAdapter,
    MappedAdapter,
    ThreadedAdapter,
)
from zddm_flags import AsyncInMemoryLedger, AsyncProxy, InMemoryLedger, TrafficGate
from zddm_flags.errors import NotApplied, Unsupported
from zddm_flags.protocols import (
    AsyncSupportsCount,
    Scannable,
    StorageAdapter,
    StoreInfo,
    SupportsCount,
    SupportsDelete,
)

KEYS = st.text() | st.integers() | st.binary() | st.uuids()
OPTIONAL = ("delete", "read_many", "write_many", "delete_many", "scan", "partitions", "count")


async def walk(adapter: Any, limit: int = 3) -> list[tuple[Any, Any]]:
    items: list[tuple[Any, Any]] = []
    page = await settle(adapter.scan(None, limit))
    items.extend(page.items)
    while page.next_cursor is not None:
        page = await settle(adapter.scan(page.next_cursor, limit))
        items.extend(page.items)
    return items


MAKERS = {
    "memory": InMemoryAdapter,
    "memory, asyncio": AsyncInMemoryAdapter,
    "memory in threads": lambda values=None: ThreadedAdapter(InMemoryAdapter(values)),
    "mapped": lambda values=None: MappedAdapter(
        InMemoryAdapter({f"k{key}": json.dumps(value) for key, value in (values or {}).items()}),
        load=json.loads,
        dump=json.dumps,
        key=lambda key: f"k{key}",
        unkey=lambda stored: stored[1:],
    ),
    "mapped, asyncio": lambda values=None: AsyncMappedAdapter(
        AsyncInMemoryAdapter({f"k{key}": json.dumps(value) for key, value in (values or {}).items()}),
        load=json.loads,
        dump=json.dumps,
        key=lambda key: f"k{key}",
        unkey=lambda stored: stored[1:],
    ),
}


@pytest.fixture(params=MAKERS.values(), ids=list(MAKERS))
def make(request):
    return request.param


class TestEveryAdapter:
    async def test_write_then_read(self, make):
        """A value reads as it was written last; an absent key reads as None."""
        adapter = make()
        assert await settle(adapter.read("a")) is None
        await settle(adapter.write("a", {"n": 1}))
        await settle(adapter.write("a", {"n": 2}))
        assert await settle(adapter.read("a")) == {"n": 2}

    async def test_delete(self, make):
        """Delete removes a key, and does not mind an absent one."""
        adapter = make({"a": 1, "b": 2})
        await settle(adapter.delete("a"))
        await settle(adapter.delete("a"))
        assert await settle(adapter.read("a")) is None
        assert await settle(adapter.read("b")) == 2

    async def test_batches(self, make):
        """Batches do what as many single calls would; absent and repeated keys are no matter."""
        adapter = make({"a": 1, "b": 2})
        await settle(adapter.write_many({"b": 3, "c": 4}))
        assert await settle(adapter.read_many(["a", "b", "a", "c", "d"])) == {"a": 1, "b": 3, "c": 4}
        await settle(adapter.delete_many(["a", "a", "d"]))
        assert await settle(adapter.read_many(["a", "b"])) == {"b": 3}
        assert await settle(adapter.read_many([])) == {}

    async def test_scan_is_restartable_and_complete(self, make):
        """A scan gives every key once, in an order that insertions do not change, from any cursor on."""
        keys = [f"{number:02}" for number in range(20)]
        forwards, backwards = make(dict.fromkeys(keys, 1)), make(dict.fromkeys(reversed(keys), 1))
        assert await walk(forwards) == [(key, 1) for key in keys] == await walk(backwards)
        first = await settle(forwards.scan(None, 7))
        await settle(forwards.delete("03"))
        await settle(forwards.delete("10"))
        await settle(forwards.write("99", 1))
        rest = await settle(forwards.scan(first.next_cursor, 100))
        assert [key for key, _ in rest.items] == [*keys[7:10], *keys[11:], "99"]

    @pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
    async def test_partitions_cover_the_store_once(self, make, count):
        """At most `count` ranges, each beginning where the one before ends, from the start to the end."""
        adapter = make({f"{number:02}": number for number in range(10)})
        ranges = await settle(adapter.partitions(count))
        assert 1 <= len(ranges) <= count
        assert ranges[0][0] is None
        assert ranges[-1][1] is None
        assert [end for _, end in ranges[:-1]] == [start for start, _ in ranges[1:]]
        found = []
        for start, until in ranges:
            page = await settle(adapter.scan(start, 2, until))
            found.extend(page.items)
            while page.next_cursor is not None:
                page = await settle(adapter.scan(page.next_cursor, 2, until))
                found.extend(page.items)
        assert found == [(f"{number:02}", number) for number in range(10)]

    async def test_an_empty_store_is_one_partition(self, make):
        """A store without a key scans as empty, and is one range."""
        assert await walk(make()) == []
        assert list(await settle(make().partitions(4))) == [(None, None)]

    async def test_count(self, make):
        """The count is the number of keys, of a store behind another adapter too."""
        adapter = make({"a": 1, "b": 2})
        assert await settle(adapter.count()) == 2
        await settle(adapter.write("a", 3))
        await settle(adapter.delete("b"))
        assert await settle(adapter.count()) == 1
        assert await settle(make().count()) == 0


class TestInMemory:
    @given(
        st.dictionaries(st.text() | st.integers() | st.binary() | st.uuids(), st.integers()),
        st.integers(1, 9),
    )
    def test_scan_gives_what_is_there(self, values, limit):
        """For any keys and any page size, a scan is the store, once."""
        adapter: InMemoryAdapter[Any, int] = InMemoryAdapter(values)
        found: list[tuple[Any, int]] = []
        page = adapter.scan(None, limit)
        found.extend(page.items)
        while page.next_cursor is not None:
            page = adapter.scan(page.next_cursor, limit)
            found.extend(page.items)
        assert dict(found) == values
        assert len(found) == len(values)

    def test_none_is_refused_before_anything_is_written(self):
        """None is no value: it would read as an absent key."""
        adapter: InMemoryAdapter[str, Any] = InMemoryAdapter({"a": 1})
        with pytest.raises(NotApplied) as caught:
            adapter.write("a", None)
        assert isinstance(caught.value.__cause__, TypeError)
        with pytest.raises(NotApplied):
            adapter.write_many({"a": 2, "b": None})
        assert adapter.read("a") == 1

    def test_describe(self):
        """The store says its name, and that it is in this process."""
        assert InMemoryAdapter(name="users").describe() == StoreInfo(collection="users", remote=False)

    @pytest.mark.parametrize("call", [lambda a: a.scan(None, 0), lambda a: a.partitions(0)])
    def test_sizes_below_one_are_refused(self, call):
        """A page or a number of partitions below one raises instead of running for ever."""
        with pytest.raises(ValueError, match="at least 1"):
            call(InMemoryAdapter({"a": 1}))

    def test_initial_is_copied(self):
        """What the application does to the mapping it gave does not change the store."""
        initial = {"a": 1}
        adapter = InMemoryAdapter(initial)
        initial["b"] = 2
        assert adapter.read("b") is None

    def test_scan_while_threads_write(self):
        """A key that is there throughout is in every scan, whatever other threads insert and delete."""
        adapter: InMemoryAdapter[int, int] = InMemoryAdapter(dict.fromkeys(range(300), 0))
        done = threading.Event()

        def churn() -> None:
            number = 1000
            while not done.is_set():
                adapter.write(number, 1)
                adapter.delete(number - 5)
                number += 1

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(20):
                keys: list[int] = []
                page = adapter.scan(None, 50)
                keys.extend(key for key, _ in page.items)
                while page.next_cursor is not None:
                    page = adapter.scan(page.next_cursor, 50)
                    keys.extend(key for key, _ in page.items)
                assert set(range(300)) <= set(keys)
                assert len(set(keys)) == len(keys)
        finally:
            done.set()
            thread.join()


def read_user(identifier: str) -> int | None:
    return {"a": 1}.get(identifier)


def write_user(identifier: str, user: int) -> None:
    del identifier, user


async def read_user_async(identifier: str) -> int | None:
    return {"a": 1}.get(identifier)


async def write_user_async(identifier: str, user: int) -> None:
    del identifier, user


class TestFunctionAdapter:
    def test_has_only_what_it_was_given(self):
        """Without `delete=` there is nothing that looks like a delete, to `isinstance` neither."""
        adapter: FunctionAdapter[str, int] = FunctionAdapter(read=read_user, write=write_user)
        assert [name for name in (*OPTIONAL, "describe") if hasattr(adapter, name)] == []
        assert isinstance(adapter, StorageAdapter)
        assert not isinstance(adapter, SupportsDelete)
        assert adapter.read("a") == 1

    def test_has_all_that_it_was_given(self):
        """Each function given is the adapter's method."""
        store: dict[str, int] = {}

        def delete(key: str) -> None:
            store.pop(key, None)

        def delete_many(keys: Sequence[str]) -> None:
            for key in keys:
                delete(key)

        adapter: FunctionAdapter[str, int] = FunctionAdapter(
            read=store.get,
            write=store.__setitem__,
            delete=delete,
            read_many=lambda keys: {key: store[key] for key in keys if key in store},
            write_many=store.update,
            delete_many=delete_many,
            info=StoreInfo(system="other_sql"),
        )
        adapter.write("a", 1)
        adapter.write_many({"b": 2, "c": 3})
        adapter.delete("a")
        adapter.delete_many(["b"])
        assert adapter.read_many(["a", "b", "c"]) == {"c": 3}
        assert adapter.describe().system == "other_sql"
        assert isinstance(adapter, SupportsDelete)

    async def test_asyncio(self):
        """The asyncio twin takes coroutine functions, partial ones and callable objects too."""

        class Write:
            async def __call__(self, key: str, value: int, /) -> None:
                written[key] = value

        written: dict[str, int] = {}
        adapter: AsyncFunctionAdapter[str, int] = AsyncFunctionAdapter(
            read=functools.partial(read_user_async), write=Write()
        )
        await adapter.write("b", 2)
        assert await adapter.read("a") == 1
        assert written == {"b": 2}
        assert not hasattr(adapter, "delete")

    @pytest.mark.parametrize("role", ["read", "write", "delete", "read_many"])
    def test_wrong_world(self, role):
        """A function of the other world is refused, and the text says what to use."""
        blocking: dict[str, Any] = {"read": read_user, "write": write_user}
        coroutines: dict[str, Any] = {"read": read_user_async, "write": write_user_async}
        with pytest.raises(TypeError, match=f"{role}= is a coroutine function: use AsyncFunctionAdapter"):
            FunctionAdapter(**{**blocking, role: read_user_async})
        with pytest.raises(TypeError, match=rf"{role}= is none.*ThreadedAdapter\(FunctionAdapter"):
            AsyncFunctionAdapter(**{**coroutines, role: read_user})


class TestMappedAdapter:
    def test_optional_methods_follow_the_wrapped_adapter(self):
        """The mapped adapter can do what the wrapped one can, and no more."""
        bare: FunctionAdapter[str, int] = FunctionAdapter(read=read_user, write=write_user)
        assert [name for name in (*OPTIONAL, "describe") if hasattr(MappedAdapter(bare), name)] == []
        mapped: MappedAdapter[str, int] = MappedAdapter(InMemoryAdapter(name="users"))
        assert [name for name in OPTIONAL if hasattr(mapped, name)] == list(OPTIONAL)
        assert isinstance(mapped, Scannable)
        assert isinstance(mapped, SupportsCount)
        assert mapped.describe().collection == "users"

    @pytest.mark.parametrize("batch", [False, True])
    @pytest.mark.parametrize("failing", ["dump", "key"])
    def test_failure_before_the_store_is_certain(self, failing, batch):
        """A failing dump or key means NotApplied from its own error; the store is untouched."""
        store: InMemoryAdapter[str, Any] = InMemoryAdapter({"a": 1})

        def fail(argument: object) -> Any:
            raise KeyError("missing")

        mapped: MappedAdapter[str, int] = MappedAdapter(store, **{failing: fail})
        with pytest.raises(NotApplied) as caught:
            mapped.write_many({"a": 2}) if batch else mapped.write("a", 2)
        assert isinstance(caught.value.__cause__, KeyError)
        assert store.read("a") == 1

    def test_a_present_value_never_reads_as_absent(self):
        """A load that returns None raises instead of hiding the key."""
        mapped: MappedAdapter[str, Any] = MappedAdapter(InMemoryAdapter({"a": 1}), load=lambda _: None)
        assert mapped.read("b") is None
        for read in (lambda: mapped.read("a"), lambda: mapped.read_many(["a"]), mapped.scan):
            with pytest.raises(TypeError, match="load="):
                read()

    def test_two_keys_that_become_one_are_refused(self):
        """A batch whose keys collide in the store loses no value silently."""
        store: InMemoryAdapter[str, int] = InMemoryAdapter()
        mapped: MappedAdapter[str, int] = MappedAdapter(store, key=str.lower)
        with pytest.raises(NotApplied):
            mapped.write_many({"a": 1, "A": 2})
        assert store.read("a") is None

    def test_scan_needs_unkey(self):
        """Without `unkey=` the stored keys cannot be mapped back: a scan says so; reading many goes on."""
        mapped: MappedAdapter[int, int] = MappedAdapter(InMemoryAdapter({"1": 5}), key=str)
        assert mapped.read_many([1, 2]) == {1: 5}
        with pytest.raises(Unsupported, match="unkey="):
            mapped.scan()

    def test_wrong_world(self):
        """An adapter of the other world is refused when it is wrapped, not when it is called."""
        with pytest.raises(TypeError, match="AsyncMappedAdapter"):
            MappedAdapter(AsyncInMemoryAdapter())  # pyright: ignore[reportArgumentType] - refused
        with pytest.raises(TypeError, match="ThreadedAdapter"):
            AsyncMappedAdapter(InMemoryAdapter())  # pyright: ignore[reportArgumentType] - refused

    @pytest.mark.parametrize("adapter", [MappedAdapter, AsyncMappedAdapter])
    async def test_a_batch_with_an_ambiguous_key_is_no_absence(self, adapter: Any):
        """Two keys with one stored key raise in a batch of reads: one of them would read as absent."""
        store: Any = InMemoryAdapter({"a": 1}) if adapter is MappedAdapter else AsyncInMemoryAdapter({"a": 1})
        mapped = adapter(store, key=str.lower)
        with pytest.raises(ValueError, match="one stored key for two keys"):
            await settle(mapped.read_many(["a", "A"]))
        assert await settle(mapped.read_many(["a", "a"])) == {"a": 1}


class TestThreadedAdapter:
    async def test_runs_elsewhere_with_the_context(self):
        """The call runs in another thread and sees the caller's context variables."""
        variable = contextvars.ContextVar("variable", default="unset")
        seen: list[tuple[str, int]] = []

        def write(key: str, value: int) -> None:
            seen.append((variable.get(), threading.get_ident()))

        adapter: ThreadedAdapter[str, int] = ThreadedAdapter(FunctionAdapter(read=read_user, write=write))
        variable.set("mine")
        await adapter.write("a", 1)
        adapter.close()
        assert seen[0][0] == "mine"
        assert seen[0][1] != threading.get_ident()

    async def test_errors_pass_unchanged(self):
        """What the store raises reaches the caller as it is."""
        error = NotApplied("no")

        def write(key: str, value: int) -> None:
            raise error

        adapter: ThreadedAdapter[str, int] = ThreadedAdapter(FunctionAdapter(read=read_user, write=write))
        with pytest.raises(NotApplied) as caught:
            await adapter.write("a", 1)
        assert caught.value is error

    async def test_calls_are_bounded_and_a_cancelled_waiting_call_never_starts(self):
        """No more calls run than there are threads; a running call goes on after its cancellation."""
        release, started = threading.Event(), threading.Event()
        written: list[str] = []

        def write(key: str, value: int) -> None:
            started.set()
            assert release.wait(30)
            written.append(key)

        adapter: ThreadedAdapter[str, int] = ThreadedAdapter(
            FunctionAdapter(read=read_user, write=write), max_workers=1
        )
        running = asyncio.create_task(adapter.write("runs", 1))
        await asyncio.to_thread(started.wait, 30)
        waiting = asyncio.create_task(adapter.write("waits", 1))
        await asyncio.sleep(0)
        for task in (running, waiting):
            task.cancel()
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        release.set()
        await adapter.write("last", 1)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2
        assert written == ["runs", "last"]

    async def test_a_change_that_waited_too_long_never_lands(self):
        """H5: a call that no thread takes in time never reaches the store, to land over a later write."""
        release, started = threading.Event(), threading.Event()
        old: AsyncInMemoryAdapter[str, str] = AsyncInMemoryAdapter()
        new: InMemoryAdapter[str, str] = InMemoryAdapter()

        def hang(key: str) -> str | None:
            started.set()
            assert release.wait(30)
            return new.read(key)

        stuck: ThreadedAdapter[str, str] = ThreadedAdapter(
            FunctionAdapter(read=hang, write=new.write, delete=new.delete), max_workers=1, max_wait_seconds=0.01
        )
        now = 1000.0
        ledger = AsyncInMemoryLedger(InMemoryLedger(clock=lambda: now))
        here = AsyncProxy(TrafficGate(1.0), old, stuck, name="users", ledger=ledger, clock=lambda: now)
        other = AsyncProxy(
            TrafficGate(1.0), old, ThreadedAdapter(new), name="users", ledger=ledger, clock=lambda: now
        )
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(stuck.read("another"))
            await asyncio.to_thread(started.wait, 30)
            tasks.create_task(here.write("k", "v1"))
            waiting_read = asyncio.create_task(stuck.read("k"))
            waiting_delete = asyncio.create_task(stuck.delete("another"))
            await asyncio.sleep(0)  # each is in the executor's queue now
            now += 60.0
            assert await other.read("k") == "v1"  # reaps the token of the write that waits
            await other.write("k", "v2")
            await asyncio.sleep(0.02)
            release.set()
        assert await other.read("k") == "v2"
        with pytest.raises(TimeoutError):
            await waiting_read
        with pytest.raises(NotApplied) as refused:
            await waiting_delete
        assert isinstance(refused.value.__cause__, TimeoutError)

    async def test_optional_methods_follow_the_wrapped_adapter(self):
        """The adapter has the optional methods of the wrapped one, as coroutine functions."""
        bare: FunctionAdapter[str, int] = FunctionAdapter(read=read_user, write=write_user)
        assert [name for name in (*OPTIONAL, "describe") if hasattr(ThreadedAdapter(bare), name)] == []
        full: ThreadedAdapter[str, int] = ThreadedAdapter(InMemoryAdapter(name="users"))
        assert all(inspect.iscoroutinefunction(getattr(full, name)) for name in OPTIONAL)
        assert isinstance(full, AsyncSupportsCount)
        assert full.describe().collection == "users"

    def test_refusals(self):
        """An asyncio adapter needs no threads, and two executors are one too many."""
        with pytest.raises(TypeError, match="use it as it is"):
            ThreadedAdapter(AsyncInMemoryAdapter())  # pyright: ignore[reportArgumentType] - refused
        with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="not both"):
            ThreadedAdapter(InMemoryAdapter(), max_workers=1, executor=executor)
        for seconds in (0, -1, float("nan")):
            with pytest.raises(ValueError, match="max_wait_seconds"):
                ThreadedAdapter(InMemoryAdapter(), max_wait_seconds=seconds)

    async def test_a_callers_executor_stays_open(self):
        """Closing the adapter leaves an executor that is not its own; its own takes no more calls."""
        with ThreadPoolExecutor(1) as executor:
            shared: ThreadedAdapter[str, int] = ThreadedAdapter(InMemoryAdapter({"a": 1}), executor=executor)
            shared.close()
            assert await shared.read("a") == 1
        owner: ThreadedAdapter[str, int] = ThreadedAdapter(InMemoryAdapter({"a": 1}))
        owner.close()
        owner.close()
        with pytest.raises(RuntimeError):
            await owner.read("a")


def test_importing_the_adapters_imports_no_driver():
    """`import zddm_adapters` works, and stays light, where no driver is installed."""
    program = "import sys, zddm_adapters; print({'sqlalchemy', 'psycopg', 'aiosqlite'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
