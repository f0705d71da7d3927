# Generated from zddm_flags/testing/_async/adapters.py by `make generate`. Do not edit.
"""The rules that every adapter keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from zddm_flags.errors import NotApplied
from zddm_flags.protocols import Page, StorageAdapter, StoreInfo
from zddm_flags.testing._samples import KEYS, VALUES, require, samples_like
from zddm_flags.testing._sync._world import COROUTINES, GENERATOR, OTHERWISE, Body, opened, pass_time, together
from zddm_flags.testing._sync._world_cancellation import AdapterCancellation
from zddm_flags.testing._sync.rules import error_of, rule, until_applied, until_it_answers
from zddm_flags.worlds import check_methods, is_coroutine_function

__all__ = ["StorageAdapterContract"]

WORKERS = 4
ROUNDS = 10
SCANNED = 25
MAX_PAGES = 400


class StorageAdapterContract(AdapterCancellation):
    """The rules of `StorageAdapter`, as tests. Subclass it under a name that starts with `Test`.

    Only `adapter` must be defined. An optional method of the protocol is checked if the adapter has it, and
    skipped otherwise. The tests are plain functions, which need no plugin of pytest. Each has a store of its own.
    Set a rule that your store cannot keep to None, with the reason beside it, and heed docs/protocol.md.

    Attributes:
        keys: keys that a store could take for one another; by default some of the type of `make_key`'s.
        values: values that a store could lose or bend; by default some of the type of `make_value`'s.
        refused_values: values that the store refuses, if there are any; a write of them raises.
        keeps_copies: False for a store that holds the very objects that it is given, and says so.
        counts_exactly: False for a store whose `count` is an estimate, or counts what others keep there.
        batch_size: how many keys the largest batch has; more than a statement of your store may name.
    """

    keys: Sequence[Any] | None = None
    values: Sequence[Any] | None = None
    refused_values: Sequence[Any] = ()
    keeps_copies: bool = True
    counts_exactly: bool = True
    batch_size: int = 1100

    def adapter(self) -> Iterator[StorageAdapter[Any, Any]]:
        """Yield an adapter of an empty store, and clean up behind the yield. Not a fixture of pytest.

        To use fixtures, take them in an autouse fixture of the class that keeps them on `self`.
        """
        raise NotImplementedError(f"define adapter(), {GENERATOR} of an adapter of an empty store")

    def another_adapter(self, adapter: Any) -> Iterator[StorageAdapter[Any, Any]] | None:
        """Yield one more adapter of the store of `adapter`, as another process would have it."""
        del adapter
        return None

    def outage(self) -> Iterator[None] | None:
        """Make the store unreachable, yield, and make it reachable again with the data that it had."""
        return None

    def make_key(self, number: int) -> Any:
        """The key of this number, from 0; another one for each."""
        return f"key-{number}"

    def make_value(self, number: int) -> Any:
        """The value of this number, from 0; another one for each."""
        return f"value-{number}"

    def check_rule(self, body: Callable[[Any, Any], Body], needs: Sequence[str], /) -> None:
        """Run the body of a test with an adapter; skip it where the adapter lacks one of `needs`."""
        with opened(self.adapter(), "adapter") as adapter:
            check_methods("adapter()", adapter, coroutines=COROUTINES, otherwise=OTHERWISE)
            for name in needs:
                if not callable(getattr(adapter, name, None)):
                    pytest.skip(f"{type(adapter).__name__} has no {name}(), which is optional")
            body(self, adapter)

    # -- one key -------------------------------------------------------------------------------------------------

    @rule()
    def test_an_absent_key_reads_as_none(self, adapter: Any) -> None:
        """A key that was never written reads as None, and raises nothing."""
        for key in [self.make_key(0), *self._keys()]:
            found = adapter.read(key)
            require(
                found is None,
                f"read({key!r}) gave {found!r}, and the key was never written. An absent key must read as None. "
                "If the value is from another test, let adapter() yield an empty store.",
            )

    @rule()
    def test_a_write_is_read(self, adapter: Any) -> None:
        """What was written is read, and a second write replaces the first."""
        key = self.make_key(0)
        for value in (self.make_value(0), self.make_value(1)):
            adapter.write(key, value)
            self._require_value(adapter, key, value, "after a write returned")
        self._require_value(adapter, self.make_key(1), None, "after a write of another key")

    @rule()
    def test_every_value_is_kept(self, adapter: Any) -> None:
        """Each value reads as one that is equal, falsy ones included."""
        key = self.make_key(0)
        for value in self._values():
            adapter.write(key, value)
            self._require_value(
                adapter,
                key,
                value,
                f"after write({key!r}, {value!r})",
                "Test for absence, never whether a value is true; and bring values to a form that your store "
                "keeps as it is, or New and Old never compare equal.",
            )

    @rule()
    def test_keys_stay_apart(self, adapter: Any) -> None:
        """Keys that differ in Python are different keys of the store."""
        keys = self._keys()
        written = {key: self.make_value(number) for number, key in enumerate(keys)}
        require(len(written) == len(keys), "the contract's keys must differ from one another")
        for key, value in written.items():
            adapter.write(key, value)
        for key, value in written.items():
            self._require_value(
                adapter,
                key,
                value,
                f"after different values were written to each of {keys!r}",
                "Your store takes two of these keys for one (by case, accents, spaces or type), so that a write "
                "of one replaces the other: give the key a binary collation, or encode it. If your application "
                "has no such keys, set `keys`.",
            )

    @rule()
    def test_the_store_keeps_no_objects_of_the_caller(self, adapter: Any) -> None:
        """Who changes a value after its write, or one that was read, does not change the store."""
        if not self.keeps_copies:
            pytest.skip("keeps_copies is False: the store holds the very objects that it is given")
        key, value = self.make_key(0), self.make_value(0)
        if not isinstance(value, (dict, list, set, bytearray)):
            pytest.skip(f"a value of type {type(value).__name__} is not changed in place")
        adapter.write(key, value)
        for ours in (value, adapter.read(key)):
            ours.clear()
            self._require_value(
                adapter,
                key,
                self.make_value(0),
                "after the caller changed the object that it had written or read",
                "Copy values, or say in your documentation that nobody may change them, and set keeps_copies to "
                "False.",
            )

    # -- delete --------------------------------------------------------------------------------------------------

    @rule("delete")
    def test_a_deleted_key_is_absent(self, adapter: Any) -> None:
        """A delete removes its key and no other, and the key can be written again."""
        keys = self._keys()
        for number, key in enumerate(keys):
            adapter.write(key, self.make_value(number))
        adapter.delete(keys[0])
        self._require_value(adapter, keys[0], None, f"after delete({keys[0]!r}) returned")
        for number, key in enumerate(keys[1:], 1):
            self._require_value(adapter, key, self.make_value(number), f"after delete({keys[0]!r})")
        adapter.write(keys[0], self.make_value(1))
        self._require_value(adapter, keys[0], self.make_value(1), "after a write of a deleted key")

    @rule("delete")
    def test_deleting_an_absent_key_is_no_error(self, adapter: Any) -> None:
        """A delete of an absent key, or a second one, returns as if there had been something."""
        key = self.make_key(0)
        adapter.write(key, self.make_value(0))
        for _ in range(2):
            _without_error(
                partial(adapter.delete, key),
                "delete() of an absent key raised: it must return, for the key is as absent as was asked",
            )
        _without_error(partial(adapter.delete, self.make_key(1)), "delete() of a key that never was raised")

    # -- batches -------------------------------------------------------------------------------------------------

    @rule("read_many")
    def test_read_many_agrees_with_read(self, adapter: Any) -> None:
        """`read_many` gives for each key what `read` gives, without the absent keys."""
        keys = self._keys()
        for number, key in enumerate(keys):
            adapter.write(key, self.make_value(number))
        absent = self.make_key(1000)
        self._require_values(adapter, {key: self.make_value(number) for number, key in enumerate(keys)}, absent)
        found = adapter.read_many([absent])
        require(len(found) == 0, f"read_many() of an absent key alone gave {found!r}: it must be empty")

    @rule("read_many")
    def test_read_many_keeps_every_value(self, adapter: Any) -> None:
        """A falsy value is in the answer of `read_many` as any other."""
        written = {self.make_key(number): value for number, value in enumerate(self._values())}
        for key, value in written.items():
            adapter.write(key, value)
        self._require_values(adapter, written, self.make_key(1000))

    @rule("write_many")
    def test_write_many_agrees_with_write(self, adapter: Any) -> None:
        """`write_many` inserts and replaces each of its items, whatever the value, and touches no other."""
        values = self._values()
        written = {self.make_key(number): value for number, value in enumerate(values)}
        others = {key: self.make_value(0) for key in [*list(written)[::2], self.make_key(1000)]}
        for key, value in others.items():
            adapter.write(key, value)
        adapter.write_many(written)
        for key, value in (others | written).items():
            self._require_value(adapter, key, value, f"after write_many() of the values {values!r}")

    @rule("delete_many")
    def test_delete_many_agrees_with_delete(self, adapter: Any) -> None:
        """`delete_many` removes each of its keys and no other, and does not mind those that are absent."""
        keys = self._keys()
        for number, key in enumerate(keys):
            adapter.write(key, self.make_value(number))
        gone = [*keys[::2], self.make_key(1000)]
        for _ in range(2):
            _without_error(
                partial(adapter.delete_many, gone),
                "delete_many() of keys of which some are absent raised: it must return",
            )
        for number, key in enumerate(keys):
            left = None if key in gone else self.make_value(number)
            self._require_value(adapter, key, left, f"after delete_many({gone!r})")

    @rule()
    def test_an_empty_batch_does_nothing(self, adapter: Any) -> None:
        """A batch of nothing returns, and changes nothing."""
        batches: dict[str, Any] = {"read_many": [], "write_many": {}, "delete_many": []}
        names = [name for name in batches if hasattr(adapter, name)]
        if not names:
            pytest.skip(f"{type(adapter).__name__} has no batches, which are optional")
        adapter.write(self.make_key(0), self.make_value(0))
        for name in names:
            found = _without_error(
                partial(getattr(adapter, name), batches[name]), f"{name}() of nothing raised: it must do nothing"
            )
            require(not found, f"{name}() of nothing gave {found!r}")
        self._require_value(adapter, self.make_key(0), self.make_value(0), "after batches of nothing")

    @rule()
    def test_a_large_batch_is_whole(self, adapter: Any) -> None:
        """A batch of more keys than a statement or request may name is done to its end."""
        if not any(hasattr(adapter, name) for name in ("read_many", "write_many", "delete_many")):
            pytest.skip(f"{type(adapter).__name__} has no batches, which are optional")
        written = {self.make_key(number): self.make_value(number) for number in range(self.batch_size)}
        require(len(written) == self.batch_size, "make_key() must give another key for each number")
        absent = self.make_key(self.batch_size)
        if hasattr(adapter, "write_many"):
            adapter.write_many(written)
        else:
            for key, value in written.items():
                adapter.write(key, value)
        self._require_values(adapter, written, absent)
        if hasattr(adapter, "delete_many"):
            adapter.delete_many([*written, absent])
            self._require_values(adapter, {}, *written)

    # -- at the same time ----------------------------------------------------------------------------------------

    @rule()
    def test_a_key_that_is_replaced_is_never_absent(self, adapter: Any) -> None:
        """While a key is replaced over and over a read gives one of the values written, and never None."""
        key = self.make_key(0)
        written = [self.make_value(number) for number in range(WORKERS * ROUNDS)]
        adapter.write(key, written[0])

        writing = list(range(WORKERS))

        def write(worker: int) -> None:
            try:
                for value in written[worker * ROUNDS : (worker + 1) * ROUNDS]:
                    until_applied(partial(adapter.write, key, value))
            finally:
                writing.remove(worker)

        def read() -> None:
            while writing:
                self._require_one_of(adapter.read(key), written, "while others replaced the key")
                pass_time(0)  # an adapter that never waits would keep the event loop to itself

        calls: list[Callable[[], Any]] = [partial(write, worker) for worker in range(WORKERS)]
        together([*calls, read, read])
        last = [written[(worker + 1) * ROUNDS - 1] for worker in range(WORKERS)]
        self._require_one_of(adapter.read(key), last, "after the last write of each writer returned")

    @rule()
    def test_no_writer_loses_the_key_of_another(self, adapter: Any) -> None:
        """Writers of different keys at the same time do not undo one another's writes."""

        def write(worker: int) -> None:
            for number in range(worker, WORKERS * ROUNDS, WORKERS):
                until_applied(partial(adapter.write, self.make_key(number), self.make_value(number)))

        together([partial(write, worker) for worker in range(WORKERS)])
        for number in range(WORKERS * ROUNDS):
            self._require_value(
                adapter,
                self.make_key(number),
                self.make_value(number),
                "after writers of different keys were done",
                "A write must change its own key only; reading a whole, changing it and writing it back needs a "
                "lock.",
            )

    @rule()
    def test_another_adapter_sees_each_write_at_once(self, adapter: Any) -> None:
        """A write, or a delete, is committed when it returns: every other reader of the store sees it."""
        given = self.another_adapter(adapter)
        if given is None:
            pytest.skip("define another_adapter() to check that a write is committed when it returns")
        key = self.make_key(0)
        with opened(given, "another_adapter") as another:
            self._require_value(another, key, None, "from another adapter of an empty store")
            for number in range(4):
                writer, reader = (adapter, another) if number % 2 == 0 else (another, adapter)
                writer.write(key, self.make_value(number))
                self._require_value(
                    reader,
                    key,
                    self.make_value(number),
                    "from another adapter, after the write returned",
                    "Commit before write() returns, and answer no read() from a cache, a replica or an older "
                    "transaction.",
                )
            if hasattr(adapter, "delete"):
                adapter.delete(key)
                self._require_value(another, key, None, "from another adapter, after the delete returned")

    # -- what goes wrong -----------------------------------------------------------------------------------------

    @rule()
    def test_a_refused_value_raises(self, adapter: Any) -> None:
        """A write that the store refuses raises, and after `NotApplied` nothing is changed."""
        if not self.refused_values:
            pytest.skip("set refused_values to check what a write does that the store refuses")
        old, refused_key, other_key = self.make_value(0), self.make_key(0), self.make_key(1)
        for value in self.refused_values:
            calls: list[Callable[[], Any]] = [partial(adapter.write, refused_key, value)]
            if hasattr(adapter, "write_many"):
                items = {other_key: self.make_value(1), refused_key: value}
                calls.append(partial(adapter.write_many, items))
            for call in calls:
                for key in (refused_key, other_key):
                    adapter.write(key, old)
                error = error_of(call)
                require(
                    error is not None,
                    f"a write of {value!r}, one of refused_values, returned as if it were done. A write that the "
                    "store refuses must raise.",
                )
                if isinstance(error, NotApplied):
                    for key in (refused_key, other_key):
                        self._require_value(
                            adapter, key, old, "after NotApplied", "It says that nothing was changed at all."
                        )

    @rule()
    def test_an_outage_raises(self, adapter: Any) -> None:
        """While the store cannot be reached every call raises; above all no read tells that a key is absent."""
        given = self.outage()
        if given is None:
            pytest.skip("define outage() to check that calls raise while the store cannot be reached")
        key, old, new, newest = self.make_key(0), self.make_value(0), self.make_value(1), self.make_value(2)
        adapter.write(key, old)
        calls: dict[str, tuple[Any, ...]] = {
            "read": (key,),
            "read_many": ([key, self.make_key(1)],),
            "scan": (),
            "partitions": (2,),
            "write": (key, new),
            "write_many": ({key: newest},),
            "delete": (key,),
            "delete_many": ([key],),
        }
        outcomes = {"write": new, "write_many": newest, "delete": None, "delete_many": None}
        possible: list[Any] = [old]
        with opened(given, "outage"):
            for name in [name for name in calls if hasattr(adapter, name)]:
                error = error_of(partial(getattr(adapter, name), *calls[name]))
                require(
                    error is not None,
                    f"{name}() returned while the store could not be reached. It must raise: a read that gives "
                    "None, or a batch without the key, makes a proxy believe that the key does not exist, so that "
                    "it deletes or overwrites what is there; and a change that returns is taken as done.",
                )
                if name in outcomes and not isinstance(error, NotApplied):
                    possible.append(outcomes[name])
            if hasattr(adapter, "describe"):
                self._require_description(adapter)
        found = until_it_answers(partial(adapter.read, key))
        require(
            any(found == value for value in possible),
            f"after the outage read() gave {found!r}, and not one of {possible!r}. NotApplied may be raised only "
            "where it is certain that the change took no effect and never will.",
        )

    # -- scan ----------------------------------------------------------------------------------------------------

    @rule("scan")
    def test_a_scan_of_an_empty_store_ends(self, adapter: Any) -> None:
        """A scan of nothing gives no items and comes to its end."""
        items = self._walk(adapter)
        require(not items, f"scan() of an empty store gave {items!r}")

    @rule("scan")
    def test_a_scan_visits_every_key(self, adapter: Any) -> None:
        """Whatever the limit, a scan visits each key at least once, with its value, and no page is too long."""
        written = self._fill(adapter)
        for limit in (1, 7, SCANNED, 1000):
            self._require_items(self._walk(adapter, limit=limit), written, f"scan() with a limit of {limit}")

    @rule("scan")
    def test_a_scan_keeps_every_key_and_value(self, adapter: Any) -> None:
        """Odd keys and falsy values come out of a scan as they went in."""
        keys, values = self._keys(), self._values()
        count = max(len(keys), len(values))
        written = {
            keys[number] if number < len(keys) else self.make_key(number): values[number % len(values)]
            for number in range(count)
        }
        for key, value in written.items():
            adapter.write(key, value)
        self._require_items(self._walk(adapter, limit=3), written, "scan() with a limit of 3")

    @rule("scan")
    def test_a_scan_goes_on_from_a_kept_cursor(self, adapter: Any) -> None:
        """A cursor is a string that can be kept: a scan that goes on there visits all that is left."""
        written = self._fill(adapter)
        page = adapter.scan(None, 7)
        self._require_page(page, 7)
        if page.next_cursor is None:
            raise AssertionError(f"scan() with a limit of 7 ended before it had visited {len(written)} keys")
        cursor = page.next_cursor.encode().decode()
        given = self.another_adapter(adapter)
        for _ in range(2):  # what a process does that was killed before it had kept the next cursor
            rest = self._walk(adapter, cursor)
            self._require_items([*page.items, *rest], written, "scan() that goes on at its first cursor")
        if given is not None:
            with opened(given, "another_adapter") as another:
                rest = self._walk(another, cursor)
                self._require_items([*page.items, *rest], written, "scan() that another adapter goes on with")

    @rule("scan", "partitions")
    def test_a_scan_ends_at_until(self, adapter: Any) -> None:
        """A scan up to a cursor and one from there visit each key once between them."""
        written = self._fill(adapter)
        if len(self._partitions(adapter, 2)) == 1:
            pytest.skip("partitions() gives one range for a store with many keys, so that `until` is always None")
        page = adapter.scan(None, 7)
        self._require_page(page, 7)
        until = page.next_cursor
        before = self._walk(adapter, until=until, limit=3)
        behind = self._walk(adapter, until, limit=3)
        self._require_items([*before, *behind], written, "scan() up to `until` and on from there", once=True)
        require(
            _counted(before) == _counted(page.items),
            "scan() up to `until` must give what stands before that cursor, and what it stands at: the items of "
            "the page that the cursor came with",
        )

    @rule("scan")
    def test_a_scan_survives_changes(self, adapter: Any) -> None:
        """Keys that are there throughout are visited, whatever is written and deleted between two pages."""
        written = self._fill(adapter)
        here = dict(written)
        number = len(written)
        items: list[tuple[Any, Any]] = []
        cursor = None
        for _ in range(MAX_PAGES):
            page = adapter.scan(cursor, 3)
            self._require_page(page, 3)
            items += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
            if hasattr(adapter, "delete") and page.items:
                gone = page.items[-1][0]  # where a cursor most likely stands
                adapter.delete(gone)
                here.pop(gone, None)
            if number < len(written) * 2:
                adapter.write(self.make_key(number), self.make_value(number))
                number += 1
        require(cursor is None, f"scan() beside writes and deletes did not end after {MAX_PAGES} pages")
        visited = {key for key, _ in items}
        missed = [key for key in here if key not in visited]
        require(
            not missed,
            f"scan() missed {missed!r}, which were there from its beginning to its end, while other keys were "
            "written and deleted. A cursor must stand for a place in the order of the keys, never for a number of "
            "items to pass over.",
        )

    @rule("scan", "partitions")
    def test_partitions_cover_the_store_once(self, adapter: Any) -> None:
        """The ranges of `partitions` hold each key once, one that is written later included.

        A store whose scans may give a key twice, as Redis's, has one range for all.
        """
        for count in (1, 3):
            ranges = self._partitions(adapter, count)
            for start, until in ranges:
                require(not self._walk(adapter, start, until=until), "a range of an empty store holds a key")
        written = self._fill(adapter)
        for count in (1, 2, 3, 7, SCANNED * 2):
            ranges = self._partitions(adapter, count)
            number = len(written)
            adapter.write(self.make_key(number), self.make_value(number))
            written[self.make_key(number)] = self.make_value(number)
            items = [item for start, until in ranges for item in self._walk(adapter, start, until=until)]
            self._require_items(
                items, written, f"scans of all {len(ranges)} ranges of partitions({count})", once=len(ranges) > 1
            )

    # -- count ---------------------------------------------------------------------------------------------------

    @rule("count")
    def test_count_is_the_number_of_keys(self, adapter: Any) -> None:
        """`count` gives how many keys there are, replaced ones once; about, where the store says so."""
        self._require_count(adapter, 0)
        written = self._fill(adapter)
        self._require_count(adapter, len(written))
        for key in written:
            adapter.write(key, self.make_value(0))
        self._require_count(adapter, len(written))
        if hasattr(adapter, "delete"):
            adapter.delete(self.make_key(0))
            self._require_count(adapter, len(written) - 1)

    # -- describe ------------------------------------------------------------------------------------------------

    @rule("describe")
    def test_describe_says_what_the_store_is(self, adapter: Any) -> None:
        """`describe` gives a `StoreInfo`, and is a plain method in both worlds, for it does no I/O."""
        self._require_description(adapter)

    # -- helpers -------------------------------------------------------------------------------------------------

    def _keys(self) -> Sequence[Any]:
        return samples_like(self.make_key(0), KEYS, self.make_key) if self.keys is None else self.keys

    def _values(self) -> Sequence[Any]:
        return samples_like(self.make_value(0), VALUES, self.make_value) if self.values is None else self.values

    def _require_value(self, adapter: Any, key: Any, wanted: Any, when: str, advice: str = "") -> None:
        __tracebackhide__ = True
        found = adapter.read(key)
        if wanted is None:
            require(found is None, f"{when}, read({key!r}) gave {found!r}: the key must be absent. {advice}")
        require(
            found is not None or wanted is None,
            f"{when}, read({key!r}) gave None, and the key holds {wanted!r}. A key that is there never reads as "
            f"None: a proxy takes that for absence, and may overwrite or delete it. {advice}",
        )
        require(found == wanted, f"{when}, read({key!r}) gave {found!r}, which is not {wanted!r}. {advice}")

    def _require_one_of(self, found: Any, written: Sequence[Any], when: str) -> None:
        __tracebackhide__ = True
        require(
            found is not None,
            f"{when}, read() gave None, and the key is there throughout. Replace a value in one step: not by a "
            "delete and an insert.",
        )
        require(
            any(found == value for value in written),
            f"{when}, read() gave {found!r}, which is not one of the values {written!r}. A write must take "
            "effect as "
            "a whole, and later ones must stay.",
        )

    def _require_values(self, adapter: Any, wanted: dict[Any, Any], *absent: Any) -> None:
        """Read all of these keys, in one call if the adapter can."""
        __tracebackhide__ = True
        keys = [*wanted, *absent]
        if not hasattr(adapter, "read_many"):
            for key in keys:
                self._require_value(adapter, key, wanted.get(key), "after a batch returned")
            return
        found = adapter.read_many(keys)
        require(
            all(value is not None for value in found.values()),
            "read_many() gave None for a key: absent keys are left out of its answer",
        )
        missing = [key for key in wanted if key not in found]
        require(
            not missing,
            f"read_many() of {len(keys)} keys left out {len(missing)} that are there, {missing[:3]!r} among them. "
            "The keys of its answer must equal those that were asked for, in type as well.",
        )
        strange = [key for key in found if key not in wanted]
        require(not strange, f"read_many() of {len(keys)} keys gave absent or other keys: {strange[:3]!r}")
        for key, value in wanted.items():
            require(found[key] == value, f"read_many() gave {found[key]!r} for {key!r}, which holds {value!r}")

    def _require_description(self, adapter: Any) -> None:
        __tracebackhide__ = True
        require(
            not is_coroutine_function(adapter.describe),
            "describe() is a coroutine function: it must be a plain method in both worlds, for it does no I/O",
        )
        try:
            info = adapter.describe()
        except Exception as error:
            raise AssertionError("describe() raised: it must say what is known, without I/O") from error
        require(isinstance(info, StoreInfo), f"describe() gave {type(info).__name__}: it must give a StoreInfo")

    def _require_count(self, adapter: Any, keys: int) -> None:
        __tracebackhide__ = True
        count = adapter.count()
        require(
            isinstance(count, int) and not isinstance(count, bool) and count >= 0,
            f"count() gave {count!r}: it must give an int, 0 or more",
        )
        require(
            not self.counts_exactly or count == keys,
            f"count() gave {count}, and the store holds {keys} keys. If your store keeps an estimate, set "
            "counts_exactly to False.",
        )

    def _fill(self, adapter: Any) -> dict[Any, Any]:
        written = {self.make_key(number): self.make_value(number) for number in range(SCANNED)}
        for key, value in written.items():
            adapter.write(key, value)
        return written

    def _require_page(self, page: Any, limit: int) -> None:
        __tracebackhide__ = True
        require(isinstance(page, Page), f"scan() gave {type(page).__name__}: it must give a Page")
        require(
            len(page.items) <= limit,
            f"scan() with a limit of {limit} gave {len(page.items)} items: it may give fewer",
        )
        require(
            page.next_cursor is None or isinstance(page.next_cursor, str),
            f"the cursor is of type {type(page.next_cursor).__name__}: it must be a str, which can be kept, or "
            "None "
            "at the end",
        )

    def _walk(
        self, adapter: Any, cursor: str | None = None, *, until: str | None = None, limit: int = 7
    ) -> list[tuple[Any, Any]]:
        items: list[tuple[Any, Any]] = []
        for _ in range(MAX_PAGES):
            page = adapter.scan(cursor, limit) if until is None else adapter.scan(cursor, limit, until)
            self._require_page(page, limit)
            items += page.items
            if page.next_cursor is None:
                return items
            cursor = page.next_cursor
        raise AssertionError(
            f"scan() did not end after {MAX_PAGES} pages: next_cursor must be None when there are no more items"
        )

    def _partitions(self, adapter: Any, count: int) -> Sequence[tuple[str | None, str | None]]:
        ranges = [tuple(each) for each in adapter.partitions(count)]
        require(
            1 <= len(ranges) <= count, f"partitions({count}) gave {len(ranges)} ranges: it must give 1 to {count}"
        )
        starts, untils = [start for start, _ in ranges], [until for _, until in ranges]
        require(
            None in starts and None in untils,
            f"partitions({count}) must cover the store from its start to its end, both None: a key that is "
            "written "
            "later may come first or last",
        )
        return ranges

    def _require_items(
        self, items: Collection[tuple[Any, Any]], written: dict[Any, Any], what: str, *, once: bool = False
    ) -> None:
        __tracebackhide__ = True
        visited = [key for key, _ in items]
        missed = [key for key in written if key not in visited]
        require(not missed, f"{what} missed {len(missed)} of {len(written)} keys, {missed[:3]!r} among them")
        for key, value in items:
            require(key in written, f"{what} gave {key!r}, which was never written")
            require(value == written[key], f"{what} gave {value!r} for {key!r}, which holds {written[key]!r}")
        twice = [key for key, times in Counter(visited).items() if times > 1]
        require(not (once and twice), f"{what} must visit each key once: they visited {twice[:3]!r} more often")


def _counted(items: Collection[tuple[Hashable, Any]]) -> Counter[Hashable]:
    return Counter(key for key, _ in items)


def _without_error(call: Callable[[], Any], rule: str) -> Any:
    __tracebackhide__ = True
    try:
        return call()
    except Exception as error:
        raise AssertionError(rule) from error
