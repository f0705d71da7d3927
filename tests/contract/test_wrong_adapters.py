"""Every rule of the adapters' contract catches an adapter that breaks it, and says which rule that is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter
from zddm_flags.errors import NotApplied
from zddm_flags.protocols import Page, StoreInfo
from zddm_flags.testing.contract import AsyncStorageAdapterContract, StorageAdapterContract

SWITCH_SECONDS = 0.001  # long enough that another thread comes between


class Store(InMemoryAdapter[Any, Any]):
    """A right adapter, whose store can be away and refuses negative numbers."""

    away = False

    def __init__(self, values: dict[Any, Any] | None = None) -> None:
        super().__init__()
        self._values = {} if values is None else values

    def _reach(self) -> None:
        if self.away:
            raise ConnectionError

    def read(self, key):
        self._reach()
        value = super().read(key)
        return value.copy() if isinstance(value, dict) else value

    def write(self, key, value):
        self._reach()
        if value == -1:
            raise NotApplied from ValueError()
        super().write(key, value.copy() if isinstance(value, dict) else value)

    def delete(self, key):
        self._reach()
        super().delete(key)

    def read_many(self, keys):
        self._reach()
        return super().read_many(keys)

    def write_many(self, items):
        self._reach()
        if -1 in items.values():
            raise NotApplied from ValueError()
        super().write_many(items)

    def delete_many(self, keys):
        self._reach()
        super().delete_many(keys)

    def scan(self, cursor=None, limit=1000, until=None):
        self._reach()
        return super().scan(cursor, limit, until)

    def partitions(self, count):
        self._reach()
        return super().partitions(count)

    def another(self) -> Store:
        return type(self)(self._values)


class Checked(StorageAdapterContract):
    """The contract of a store of integers, with all that a user may define."""

    kind: type[Store] = Store
    values = (0, 1, 2**31 - 1)
    refused_values = (-1,)

    def make_value(self, number: int) -> Any:
        return number

    def adapter(self) -> Iterator[Any]:
        self.store = self.kind()
        yield self.store

    def another_adapter(self, adapter: Any) -> Iterator[Any]:
        yield adapter.another()

    def outage(self) -> Iterator[None]:
        self.store.away = True
        yield
        self.store.away = False


class CheckedObjects(Checked):
    values = ({},)

    def make_value(self, number: int) -> Any:
        return {"n": number}


# -- one key


class RaisesKeyError(Store):
    def read(self, key):
        if key not in self._values:
            return "absent"
        return super().read(key)


class KeepsTheFirst(Store):
    def write(self, key, value):
        if key not in self._values:
            super().write(key, value)


class LosesFalsyValues(Store):
    def read(self, key):
        return super().read(key) or None


class IgnoresCase(Store):
    def read(self, key):
        return super().read(key.lower())

    def write(self, key, value):
        super().write(key.lower(), value)


class KeepsReferences(Store):
    def read(self, key):
        return self._values.get(key)

    def write(self, key, value):
        self._values[key] = value


# -- delete


class DeletesAsAPattern(Store):
    def delete(self, key):
        for each in [each for each in self._values if each.lower() == key.lower()]:
            del self._values[each]


class DeleteRaises(Store):
    def delete(self, key):
        del self._values[key]


# -- batches


class ReadManyGivesNone(Store):
    def read_many(self, keys):
        return {key: self._values.get(key) for key in keys}


class ReadManyGivesOtherKeys(Store):
    def read_many(self, keys):
        return {key.encode(): value for key, value in super().read_many(keys).items()}


class ReadManyLosesFalsyValues(Store):
    def read_many(self, keys):
        return {key: value for key, value in super().read_many(keys).items() if value}


class WriteManyInserts(Store):
    def write_many(self, items):
        super().write_many(items | {key: self._values[key] for key in items if key in self._values})


class DeleteManyMindsAbsence(Store):
    def delete_many(self, keys):
        for key in keys:
            del self._values[key]


class EmptyBatchRaises(Store):
    def read_many(self, keys):
        if not keys:
            raise ValueError("IN () is no SQL")
        return super().read_many(keys)


class EmptyBatchTouchesAll(Store):
    def delete_many(self, keys):
        if not keys:
            self._values.clear()
        super().delete_many(keys)


class BatchIsCutOff(Store):
    def read_many(self, keys):
        return super().read_many(keys[:1000])


class WriteIsCutOff(Store):
    def write_many(self, items):
        super().write_many(dict(list(items.items())[:1000]))


# -- at the same time


class DeletesAndInserts(Store):
    def write(self, key, value):
        self._values.pop(key, None)
        time.sleep(SWITCH_SECONDS)
        super().write(key, value)


class LosesUpdates(Store):
    def write(self, key, value):
        whole = dict(self._values)
        time.sleep(SWITCH_SECONDS)
        self._values = {**whole, key: value}


class CommitsLate(Store):
    def another(self):
        return Store(dict(self._values))


class CachesReads(Store):
    def __init__(self, values=None):
        super().__init__(values)
        self._cache: dict[Any, Any] = {}

    def read(self, key):
        return self._cache.setdefault(key, super().read(key))

    def write(self, key, value):
        super().write(key, value)
        self._cache[key] = value


# -- what goes wrong


class SwallowsRefusals(Store):
    def write(self, key, value):
        if value != -1:
            super().write(key, value)


class NotAppliedThoughHalfDone(Store):
    def write_many(self, items):
        for key, value in items.items():
            self.write(key, value)


class ReadsNoneInAnOutage(Store):
    def read(self, key):
        return None if self.away else super().read(key)


class ReadsNothingInAnOutage(Store):
    def read_many(self, keys):
        return {} if self.away else super().read_many(keys)


class WritesNothingInAnOutage(Store):
    def write(self, key, value):
        if not self.away:
            super().write(key, value)


class NotAppliedThoughDone(Store):
    def write(self, key, value):
        super().write(key, value) if not self.away else self._values.update({key: value})
        if self.away:
            raise NotApplied from ConnectionError()


# -- scan


class ScanNeverEnds(Store):
    def scan(self, cursor=None, limit=1000, until=None):
        page = super().scan(cursor, limit, until)
        return Page(page.items, page.next_cursor or "ff")


class ScanSkips(Store):
    def scan(self, cursor=None, limit=1000, until=None):
        page = super().scan(cursor, limit, until)
        return Page(page.items[:-1] if len(page.items) > 1 else page.items, page.next_cursor)


class ScanOverdoesIt(Store):
    def scan(self, cursor=None, limit=1000, until=None):
        return super().scan(cursor, limit + 1, until)


class ScanSkipsFalsyValues(Store):
    def scan(self, cursor=None, limit=1000, until=None):
        page = super().scan(cursor, limit, until)
        return Page([item for item in page.items if item[1]], page.next_cursor)


class CursorIsUsedOnce(Store):
    used: tuple[str, ...] = ()

    def scan(self, cursor=None, limit=1000, until=None):
        if cursor in self.used:
            return Page([], None)
        self.used += () if cursor is None else (cursor,)
        return super().scan(cursor, limit, until)


class CursorIsANumber(Store):
    def scan(self, cursor=None, limit=1000, until=None):
        start = int(cursor or 0)
        items = sorted(self._values.items())[start : start + limit]
        return Page(items, str(start + limit) if len(items) == limit else None)


class CursorIsNoString(Store):
    def scan(self, cursor: Any = None, limit=1000, until=None):
        page = super().scan(cursor and cursor.hex(), limit, until)
        cursor = page.next_cursor and bytes.fromhex(page.next_cursor)
        return Page(page.items, cursor)


class UntilIsIgnored(Store):
    def scan(self, cursor=None, limit=1000, until=None):
        return super().scan(cursor, limit)


class PartitionsOverlap(Store):
    def partitions(self, count) -> Any:
        return [(None, until) for _, until in super().partitions(count)]


class PartitionsEndTooEarly(Store):
    def partitions(self, count) -> Any:
        page = super().scan(None, max(1, len(self._values)))
        last = page.items[-1][0].encode().hex() if page.items else "00"
        return [(None, last)]


class PartitionsAreTooMany(Store):
    def partitions(self, count):
        return super().partitions(count + 1)


# -- count


class CountsItsWrites(Store):
    written = 0

    def write(self, key, value):
        super().write(key, value)
        self.written += 1

    def count(self):
        return self.written


class CountsNoDeletes(Store):
    def delete(self, key):
        super().delete(key)
        self._values.setdefault("deleted", 0)


class CountIsUnknown(Store):
    def count(self) -> Any:
        return None


class CountIsNegative(Store):
    def count(self):
        return super().count() or -1  # as PostgreSQL's estimate of a new table


class CountIsAFlag(Store):
    def count(self):
        return bool(self._values)


# -- describe


class DescribesInADictionary(Store):
    def describe(self) -> Any:
        return {"system": "memory"}


class DescribeAsksTheStore(Store):
    def describe(self) -> StoreInfo:
        self._reach()
        return StoreInfo()


WRONG: list[tuple[str, type[Store], str]] = [
    ("an_absent_key_reads_as_none", RaisesKeyError, "An absent key must read as None"),
    ("a_write_is_read", KeepsTheFirst, "after a write returned, read("),
    ("every_value_is_kept", LosesFalsyValues, "A key that is there never reads as None"),
    ("keys_stay_apart", IgnoresCase, "takes two of these keys for one"),
    ("the_store_keeps_no_objects_of_the_caller", KeepsReferences, "Copy values, or say in your documentation"),
    ("a_deleted_key_is_absent", DeletesAsAPattern, "after delete('a')"),
    ("deleting_an_absent_key_is_no_error", DeleteRaises, "delete() of an absent key raised"),
    ("read_many_agrees_with_read", ReadManyGivesNone, "absent keys are left out"),
    ("read_many_agrees_with_read", ReadManyGivesOtherKeys, "must equal those that were asked for"),
    ("read_many_keeps_every_value", ReadManyLosesFalsyValues, "left out 1 that are there"),
    ("write_many_agrees_with_write", WriteManyInserts, "after write_many()"),
    ("delete_many_agrees_with_delete", DeleteManyMindsAbsence, "delete_many() of keys of which some are absent"),
    ("an_empty_batch_does_nothing", EmptyBatchRaises, "read_many() of nothing raised"),
    ("an_empty_batch_does_nothing", EmptyBatchTouchesAll, "after batches of nothing"),
    ("a_large_batch_is_whole", BatchIsCutOff, "of 1101 keys left out 100"),
    ("a_large_batch_is_whole", WriteIsCutOff, "left out 100"),
    ("a_key_that_is_replaced_is_never_absent", DeletesAndInserts, "not by a delete and an insert"),
    ("no_writer_loses_the_key_of_another", LosesUpdates, "must change its own key only"),
    ("another_adapter_sees_each_write_at_once", CommitsLate, "Commit before write() returns"),
    ("another_adapter_sees_each_write_at_once", CachesReads, "answer no read() from a cache"),
    ("a_refused_value_raises", SwallowsRefusals, "A write that the store refuses must raise"),
    ("a_refused_value_raises", NotAppliedThoughHalfDone, "after NotApplied"),
    ("an_outage_raises", ReadsNoneInAnOutage, "read() returned while the store could not be reached"),
    ("an_outage_raises", ReadsNothingInAnOutage, "read_many() returned while the store could not be reached"),
    ("an_outage_raises", WritesNothingInAnOutage, "write() returned while the store could not be reached"),
    ("an_outage_raises", NotAppliedThoughDone, "NotApplied may be raised only where it is certain"),
    ("an_outage_raises", DescribeAsksTheStore, "describe() raised"),
    ("a_scan_of_an_empty_store_ends", ScanNeverEnds, "next_cursor must be None when there are no more"),
    ("a_scan_visits_every_key", ScanSkips, "missed"),
    ("a_scan_visits_every_key", ScanOverdoesIt, "with a limit of 1 gave 2 items"),
    ("a_scan_visits_every_key", CursorIsNoString, "it must be a str"),
    ("a_scan_keeps_every_key_and_value", ScanSkipsFalsyValues, "missed"),
    ("a_scan_goes_on_from_a_kept_cursor", CursorIsUsedOnce, "goes on at its first cursor missed"),
    ("a_scan_ends_at_until", UntilIsIgnored, "visit each key once"),
    ("a_scan_survives_changes", CursorIsANumber, "never for a number of items to pass over"),
    ("partitions_cover_the_store_once", PartitionsOverlap, "must visit each key once"),
    ("partitions_cover_the_store_once", PartitionsEndTooEarly, "from its start to its end, both None"),
    ("partitions_cover_the_store_once", PartitionsAreTooMany, "it must give 1 to"),
    ("count_is_the_number_of_keys", CountsItsWrites, "count() gave 50, and the store holds 25 keys"),
    ("count_is_the_number_of_keys", CountsNoDeletes, "count() gave 25, and the store holds 24 keys"),
    ("count_is_the_number_of_keys", CountIsUnknown, "it must give an int, 0 or more"),
    ("count_is_the_number_of_keys", CountIsNegative, "it must give an int, 0 or more"),
    ("count_is_the_number_of_keys", CountIsAFlag, "it must give an int, 0 or more"),
    ("describe_says_what_the_store_is", DescribesInADictionary, "it must give a StoreInfo"),
]
OBJECTS = {"the_store_keeps_no_objects_of_the_caller"}


def check(rule: str, kind: type[Store]) -> None:
    contract = CheckedObjects() if rule in OBJECTS else Checked()
    contract.kind = kind
    getattr(contract, f"test_{rule}")()


@pytest.mark.parametrize(("rule", "kind", "sentence"), WRONG, ids=[kind.__name__ for _, kind, _ in WRONG])
def test_a_wrong_adapter_is_caught(rule, kind, sentence):
    """The rule that the adapter breaks fails, with a sentence that says so."""
    with pytest.raises(AssertionError) as caught:
        check(rule, kind)
    assert sentence in str(caught.value)


def test_every_rule_is_broken_by_one():
    """For each rule there is an adapter above that breaks it."""
    rules = {name.removeprefix("test_") for name in dir(StorageAdapterContract) if name.startswith("test_")}
    assert {rule for rule, _, _ in WRONG} == rules
    twins = {name.removeprefix("test_") for name in dir(AsyncStorageAdapterContract) if name.startswith("test_")}
    assert twins - rules == {"a_cancelled_call_leaves_the_others_alone"}
    assert rules <= twins


@pytest.mark.parametrize("rule", sorted({rule for rule, _, _ in WRONG}))
def test_the_right_one_passes(rule):
    """The adapter that the wrong ones are made of keeps every rule, none of them skipped."""
    check(rule, Store)


def test_a_count_may_be_an_estimate():
    """Where the subclass says that the store keeps an estimate, any number of keys will do, but no other thing."""
    contract = Checked()
    contract.counts_exactly = False
    contract.kind = CountsItsWrites
    contract.test_count_is_the_number_of_keys()
    contract.kind = CountIsUnknown
    with pytest.raises(AssertionError, match="it must give an int"):
        contract.test_count_is_the_number_of_keys()


# -- asyncio only


class MixesUpAnswers(AsyncInMemoryAdapter[Any, Any]):
    """An adapter with one connection, on which a cancelled call leaves its answer behind."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: list[Any] = []

    async def read(self, key):
        self._answers.append(await super().read(key))
        await asyncio.sleep(0)
        return self._answers.pop(0)


class CheckedAsync(AsyncStorageAdapterContract):
    kind: type[Any] = MixesUpAnswers

    async def adapter(self) -> AsyncIterator[Any]:
        yield self.kind()


def test_mixed_up_answers_are_caught():
    """A cancelled call whose answer the next call takes for its own is caught."""
    with pytest.raises(AssertionError, match="after other calls were cancelled"):
        CheckedAsync().test_a_cancelled_call_leaves_the_others_alone()


# -- what a subclass does wrong


class OfTheOtherWorld(Checked):
    def adapter(self) -> Iterator[Any]:
        yield AsyncInMemoryAdapter()


class Returns(Checked):
    def adapter(self) -> Any:
        return Store()


class Blocking(AsyncStorageAdapterContract):
    async def adapter(self) -> AsyncIterator[Any]:
        yield InMemoryAdapter()


class NoCoroutine(AsyncStorageAdapterContract):
    def adapter(self) -> Any:
        yield AsyncInMemoryAdapter()


@pytest.mark.parametrize(
    ("contract", "sentence"),
    [
        (OfTheOtherWorld, "an asyncio adapter is checked with AsyncStorageAdapterContract"),
        (Blocking, "a blocking adapter is checked with StorageAdapterContract"),
        (Returns, "adapter() must be a `def` with a `yield`; it gave Store"),
        (NoCoroutine, "adapter() must be an `async def` with a `yield`"),
        (StorageAdapterContract, "define adapter(), a `def` with a `yield`"),
    ],
)
def test_a_wrong_subclass_is_told_what_to_do(contract, sentence):
    """What a subclass gets wrong is told in each test, in words that say what to do."""
    with pytest.raises((TypeError, NotImplementedError)) as caught:
        contract().test_a_write_is_read()
    assert sentence in str(caught.value)


def test_without_pytest_the_error_names_it():
    """Where pytest is missing, importing the contracts says what to install."""
    program = """
import sys
sys.modules["pytest"] = None
try:
    import zddm_flags.testing.contract
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install pytest" in done.stdout
