"""The ledger's rules, one by one, and what holds after any sequence of them."""

from __future__ import annotations

import inspect
import traceback
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.core.worlds import Clock, World
from zddm_flags import AsyncInMemoryLedger, InMemoryLedger
from zddm_flags.deadline import Deadline, DeadlinePassed
from zddm_flags.errors import LedgerMismatch
from zddm_flags.ledger import (
    MAX_CHECKPOINT_CHARACTERS,
    AsyncMigrationLedger,
    Checkpoint,
    CopyGrant,
    Grant,
    LedgerSummary,
    LedgerTable,
    MigrationLedger,
    Opening,
    StalePage,
    check_checkpoint,
)
from zddm_flags.tokens import new_token

K, L = b"sk", b"sl"
A, B, C = b"token-a", b"token-b", b"token-c"
NOW = 100.0


@pytest.fixture
def table() -> LedgerTable:
    return LedgerTable()


def state(table: LedgerTable, key: bytes = K) -> tuple[set[bytes], bool, bool] | None:
    """A key's pending tokens, stale and contended; None where it has no entry."""
    entry = table._entries.get(key)
    return None if entry is None else (entry.pending, entry.stale, entry.contended)


# --- begin


def test_begin_makes_a_key_dirty(table: LedgerTable) -> None:
    """`begin` makes its token pending on each key, and nothing stale or contended."""
    assert table.begin([K, L], A, NOW) == Grant(frozenset(), 0.0, 0)
    assert state(table, K) == state(table, L) == ({A}, False, False)
    assert list(table.dirty([K, L, b"sm"])) == [K, L]


def test_begin_beside_another_contends(table: LedgerTable) -> None:
    """Where other tokens are pending `begin` sets contended, and says on which keys."""
    table.begin([K], A, NOW)
    assert table.begin([K, L], B, NOW).contended == {K}
    assert state(table, K) == ({A, B}, False, True)
    assert state(table, L) == ({B}, False, False)


def test_begin_leaves_stale_as_it_is(table: LedgerTable) -> None:
    """`begin` on a stale key is not contended, and the key stays stale."""
    table.begin([K], A, NOW)
    table.end({K: False}, A)
    assert table.begin([K], B, NOW).contended == frozenset()
    assert state(table) == ({B}, True, False)


def test_begin_tells_opened_and_epoch(table: LedgerTable) -> None:
    """`begin` and `begin_copy` return `opened` and `epoch` as they found them."""
    table.open_to(0.5)
    table.epoch = 3
    assert table.begin([K], A, NOW) == Grant(frozenset(), 0.5, 3)
    assert table.begin_copy([L], B, NOW) == CopyGrant(frozenset({L}), frozenset(), 0.5, 3)


# --- begin_copy


def test_begin_copy_of_a_clean_key(table: LedgerTable) -> None:
    """A clean key is granted, and is pending from then on."""
    assert table.begin_copy([K], A, NOW).granted == {K}
    assert state(table) == ({A}, False, False)


@pytest.mark.parametrize("first", ["write", "copy"])
def test_begin_copy_beside_another(table: LedgerTable, first: str) -> None:
    """H17: a copy is not granted while any token is pending, and neither joins nor contends."""
    (table.begin if first == "write" else table.begin_copy)([K], A, NOW)
    assert table.begin_copy([K, L], B, NOW) == CopyGrant(frozenset({L}), frozenset(), 0.0, 0)
    assert state(table) == ({A}, False, False)


def test_begin_copy_of_a_stale_key(table: LedgerTable) -> None:
    """A stale key is granted, and the grant says that it is stale: New may hold what must be deleted (H3)."""
    table.begin([K], A, NOW)
    table.end({K: False}, A)
    assert table.begin_copy([K, L], B, NOW) == CopyGrant(frozenset({K, L}), frozenset({K}), 0.0, 0)
    assert state(table) == ({B}, True, False)


def test_write_contends_with_a_copy(table: LedgerTable) -> None:
    """H1: a write that begins during a copy leaves the key stale, whoever ends first and however well."""
    table.begin_copy([K], A, NOW)
    assert table.begin([K], B, NOW).contended == {K}
    table.end({K: True}, A)
    assert state(table) == ({B}, True, True)
    table.end({K: True}, B)
    assert state(table) == (set(), True, False)


# --- end


def test_end_ok(table: LedgerTable) -> None:
    """An end that is ok, of a token that was alone, leaves the key clean: it has no entry."""
    table.begin([K], A, NOW)
    table.end({K: True}, A)
    assert state(table) is None
    assert list(table.dirty([K])) == []


def test_end_not_ok(table: LedgerTable) -> None:
    """An end that is not ok leaves the key stale."""
    table.begin([K], A, NOW)
    table.end({K: False}, A)
    assert state(table) == (set(), True, False)
    assert list(table.dirty([K])) == [K]


def test_end_ok_makes_a_stale_key_clean(table: LedgerTable) -> None:
    """A write that reached New makes a stale key right again."""
    table.begin([K], A, NOW)
    table.end({K: False}, A)
    table.begin([K], B, NOW)
    table.end({K: True}, B)
    assert state(table) is None


def test_end_per_key(table: LedgerTable) -> None:
    """H14: each key of a batch ends by its own outcome; those not named stay pending."""
    table.begin([K, L, b"sm"], A, NOW)
    table.end({K: True, L: False}, A)
    assert state(table, K) is None
    assert state(table, L) == (set(), True, False)
    assert state(table, b"sm") == ({A}, False, False)


@pytest.mark.parametrize("order", [(A, B), (B, A)])
def test_contention_is_not_forgotten_by_the_first_finisher(table: LedgerTable, order: tuple[bytes, bytes]) -> None:
    """H2: of two overlapping writes that both went well, both orders of ending leave the key stale."""
    table.begin([K], A, NOW)
    table.begin([K], B, NOW)
    for token in order:
        table.end({K: True}, token)
    assert state(table) == (set(), True, False)


def test_contention_ends_with_the_last_token(table: LedgerTable) -> None:
    """When no token is left contended is cleared: the next write that is alone makes the key clean."""
    test_contention_is_not_forgotten_by_the_first_finisher(table, (A, B))
    table.begin([K], C, NOW)
    table.end({K: True}, C)
    assert state(table) is None


def test_end_of_a_reaped_token(table: LedgerTable) -> None:
    """The end of a token that was reaped changes nothing: the key stays stale."""
    table.begin([K], A, NOW)
    table.reap(NOW + 1, 10)
    table.end({K: True}, A)
    assert state(table) == (set(), True, False)
    table.begin([K], B, NOW)
    table.end({K: True}, A)
    assert state(table) == ({B}, True, False)


def test_end_twice(table: LedgerTable) -> None:
    """`end` may be retried as it is: the second time nothing changes."""
    table.begin([K], A, NOW)
    table.end({K: False}, A)
    table.begin([K], B, NOW)
    table.end({K: False}, A)
    table.end({K: True}, B)
    table.end({K: False}, A)
    assert state(table) is None


# --- withdraw


def test_withdraw(table: LedgerTable) -> None:
    """A token that is withdrawn leaves no trace."""
    table.begin([K, L], A, NOW)
    table.withdraw([K], A)
    assert state(table, K) is None
    assert state(table, L) == ({A}, False, False)


def test_withdraw_leaves_stale_as_it_was(table: LedgerTable) -> None:
    """A stale key stays stale when a token on it is withdrawn."""
    table.begin([K], A, NOW)
    table.end({K: False}, A)
    table.begin([K], B, NOW)
    table.withdraw([K], B)
    assert state(table) == (set(), True, False)


def test_withdraw_leaves_contended_to_the_others(table: LedgerTable) -> None:
    """The other of two tokens still ends stale after one was withdrawn."""
    table.begin([K], A, NOW)
    table.begin([K], B, NOW)
    table.withdraw([K], B)
    assert state(table) == ({A}, False, True)
    table.end({K: True}, A)
    assert state(table) == (set(), True, False)


def test_withdraw_of_a_token_that_is_not_there(table: LedgerTable) -> None:
    """Withdrawing a reaped, ended or unknown token changes nothing."""
    table.begin([K], A, NOW)
    table.reap(NOW + 1, 10)
    before = table.fingerprint()
    table.withdraw([K, L], A)
    table.withdraw([K, L], B)
    assert table.fingerprint() == before


# --- open_to


def test_open_to_is_a_maximum(table: LedgerTable) -> None:
    """`opened` only ever rises."""
    assert table.open_to(0.5) == Opening(0.5, 0)
    assert table.open_to(0.25) == Opening(0.5, 0)
    assert table.open_to(1.0) == Opening(1.0, 0)


# --- reap


def test_reap_by_age(table: LedgerTable) -> None:
    """Tokens from before the moment are removed from all their keys, which become stale; others stay."""
    table.begin([K, L], A, 10.0)
    table.begin([K], B, 20.0)
    assert table.reap(10.0, 10) == 0  # exactly that old is not older
    assert table.reap(15.0, 10) == 1
    assert state(table, K) == ({B}, True, True)
    assert state(table, L) == (set(), True, False)
    assert table.reap(100.0, 10) == 1
    assert state(table, K) == (set(), True, False)
    assert table.reap(100.0, 10) == 0


def test_reap_is_limited(table: LedgerTable) -> None:
    """At most `limit` tokens are reaped at a time, the oldest first."""
    for number in range(5):
        table.begin([b"s%d" % number], b"token-%d" % number, float(number))
    assert table.reap(100.0, 2) == 2
    assert [state(table, b"s%d" % number) == (set(), True, False) for number in range(5)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert table.reap(100.0, 10) == 3


def test_reap_of_a_copy(table: LedgerTable) -> None:
    """H4: a copy whose owner died leaves its key stale, and the next copy may begin."""
    table.begin_copy([K], A, 0.0)
    table.reap(1.0, 10)
    assert table.begin_copy([K], B, 2.0).stale == {K}


# --- summary


def test_summary(table: LedgerTable) -> None:
    """The summary counts stale keys and pending tokens, and tells the age of the oldest."""
    assert table.summary(5.0) == LedgerSummary(0, 0, None, 0.0, 0)
    table.begin([K, L], A, 10.0)
    table.begin([K], B, 12.0)
    table.open_to(0.5)
    assert table.summary(15.0) == LedgerSummary(0, 2, 5.0, 0.5, 0)
    table.end({K: True, L: True}, A)
    assert table.summary(15.0) == LedgerSummary(1, 1, 3.0, 0.5, 0)  # contended, hence stale, and still pending
    table.end({K: True}, B)
    assert table.summary(15.0) == LedgerSummary(1, 0, None, 0.5, 0)


# --- Any sequence


class LedgerMachine(RuleBasedStateMachine):
    """The table against the rules written anew, in the words of the design."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LedgerTable()
        self.now = 0.0
        self.tokens: list[bytes] = []
        self.begun: dict[bytes, float] = {}
        self.pending: dict[bytes, set[bytes]] = {key: set() for key in (b"a", b"b", b"c")}
        self.stale: set[bytes] = set()
        self.contended: set[bytes] = set()

    keys = st.sets(st.sampled_from([b"a", b"b", b"c"]), min_size=1)
    some_token = st.integers(0, 40)

    def fresh(self) -> bytes:
        token = b"%d" % len(self.tokens)
        self.tokens.append(token)
        self.begun[token] = self.now
        return token

    def known(self, number: int) -> bytes:
        return self.tokens[number % len(self.tokens)] if self.tokens else b"unknown"

    def remove(self, key: bytes, token: bytes) -> None:
        self.pending[key].discard(token)
        if not self.pending[key]:
            self.contended.discard(key)

    @rule(keys=keys)
    def begin(self, keys: set[bytes]) -> None:
        token = self.fresh()
        contended = {key for key in keys if self.pending[key]}
        assert self.table.begin(sorted(keys), token, self.now).contended == contended
        self.contended |= contended
        for key in keys:
            self.pending[key].add(token)

    @rule(keys=keys)
    def begin_copy(self, keys: set[bytes]) -> None:
        token = self.fresh()
        granted = {key for key in keys if not self.pending[key]}
        grant = self.table.begin_copy(sorted(keys), token, self.now)
        assert (grant.granted, grant.stale) == (granted, granted & self.stale)
        for key in granted:
            self.pending[key].add(token)

    @rule(number=some_token, outcomes=st.dictionaries(st.sampled_from([b"a", b"b", b"c"]), st.booleans()))
    def end(self, number: int, outcomes: dict[bytes, bool]) -> None:
        token = self.known(number)
        self.table.end(outcomes, token)
        for key, ok in outcomes.items():
            if token in self.pending[key]:
                if key in self.contended or not ok:
                    self.stale.add(key)
                else:
                    self.stale.discard(key)
                self.remove(key, token)

    @rule(number=some_token, keys=keys)
    def alone(self, number: int, keys: set[bytes]) -> None:
        token = self.known(number)
        alone = {key for key in keys if token in self.pending[key] and key not in self.contended}
        assert set(self.table.alone(keys, token)) == alone

    @rule(number=some_token, keys=keys)
    def withdraw(self, number: int, keys: set[bytes]) -> None:
        token = self.known(number)
        self.table.withdraw(sorted(keys), token)
        for key in keys:
            self.remove(key, token)

    @rule(seconds=st.integers(0, 10))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(age=st.integers(0, 10))
    def reap(self, age: int) -> None:
        old = {token for token, begun in self.begun.items() if begun < self.now - age}
        reaped = {token for tokens in self.pending.values() for token in tokens} & old
        assert self.table.reap(self.now - age, 1000) == len(reaped)
        for key, tokens in self.pending.items():
            for token in tokens & reaped:
                self.stale.add(key)
                self.remove(key, token)

    @rule(rate=st.floats(0, 1))
    def open_to(self, rate: float) -> None:
        before = self.table.opened
        assert self.table.open_to(rate).opened == max(before, rate)

    @invariant()
    def holds_what_the_rules_say(self) -> None:
        """An entry exists only while its key is dirty, so the size is what is in flight and what is stale."""
        dirty = {key for key, tokens in self.pending.items() if tokens or key in self.stale}
        assert set(self.table.dirty(self.pending)) == dirty == set(self.table._entries)
        for key in dirty:
            assert state(self.table, key) == (self.pending[key], key in self.stale, key in self.contended)
        held = {token for tokens in self.pending.values() for token in tokens}
        assert set(self.table._tokens) == held
        summary = self.table.summary(self.now)
        oldest = max((self.now - self.begun[token] for token in held), default=None)
        assert (summary.stale, summary.pending, summary.oldest_pending_seconds) == (
            len(self.stale),
            len(held),
            oldest,
        )


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=200))
def test_size_is_what_is_stale(writes: list[tuple[int, bool]]) -> None:
    """After any number of finished writes there is one row for each stale key and none for others."""
    table = LedgerTable()
    stale: dict[bytes, bool] = {}
    for number, ok in writes:
        key, token = b"i%d" % number, new_token()
        table.begin([key], token, NOW)
        table.end({key: ok}, token)
        stale[key] = not ok
    assert set(table._entries) == {key for key, is_stale in stale.items() if is_stale}
    assert table._tokens == {}


# --- The ledgers in memory


def rows_of(world: World, ledger: InMemoryLedger, identity: str = "xxh3-64") -> Any:
    shared = ledger if world.blocking else AsyncInMemoryLedger(ledger)
    assert shared.shared is False
    return shared.migration("users", identity)


async def test_in_memory(world: World) -> None:
    """The blocking ledger and the asyncio one do what the table does, by the ledger's own clock."""
    clock = Clock()
    rows = rows_of(world, InMemoryLedger(clock=clock))
    call = world.call
    assert await call(rows.begin, [K], A) == Grant(frozenset(), 0.0, 0)
    assert list(await call(rows.dirty, [K, L])) == [K]
    assert (await call(rows.begin_copy, [K, L], B)).granted == {L}
    assert await call(rows.end, {L: True}, B) is None
    assert await call(rows.open_to, 0.5) == Opening(0.5, 0)
    clock.advance(10)
    assert await call(rows.summary) == rows.last_summary() == LedgerSummary(0, 1, 10.0, 0.5, 0)
    assert await call(rows.reap, 10.0) == 0
    assert await call(rows.reap, 9.9) == 1
    assert await call(rows.withdraw, [K], A) is None
    assert rows.last_summary() == LedgerSummary(1, 0, None, 0.5, 0, reaped=1)


async def test_in_memory_for_long_jobs(world: World) -> None:
    """Pages of stale keys, checkpoints and reset are those of the protocol, in both worlds."""
    clock = Clock()
    rows, call = rows_of(world, InMemoryLedger(clock=clock)), world.call
    await call(rows.begin, [K, L], A)
    await call(rows.end, {K: False, L: False}, A)
    await call(rows.open_to, 0.5)
    first, second = sorted([K, L])
    assert await call(rows.stale_keys, None, 1) == StalePage([first], first.hex())
    assert await call(rows.stale_keys, first.hex(), 1) == StalePage([second], second.hex())
    assert await call(rows.stale_keys, second.hex(), 1) == StalePage([], None)
    assert await call(rows.stale_keys) == StalePage([first, second], None)
    assert await call(rows.save_checkpoint, "job", "data", 0)
    clock.advance(10)
    assert await call(rows.checkpoints) == {"job": Checkpoint("data", 1, 10.0)}
    await call(rows.begin, [K], A)
    assert await call(rows.reset) is False
    assert (await call(rows.summary)).epoch == 0
    clock.advance(1)
    assert await call(rows.reap, 0.5) == 1
    assert await call(rows.reset) is True
    assert await call(rows.summary) == LedgerSummary(0, 0, None, 0.0, 1, reaped=0)
    assert await call(rows.checkpoints) == {}
    assert await call(rows.stale_keys) == StalePage([], None)
    assert await call(rows.begin, [K], B) == Grant(frozenset(), 0.0, 1)


@pytest.mark.parametrize("cursor", ["x", "0", "0g", "AB", " 00", "00\n", "0x00"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    """A cursor that no page gave raises ValueError and says so, rather than skip keys."""
    with pytest.raises(ValueError, match=r"no cursor .* not hexadecimal"):
        InMemoryLedger().migration("users", "xxh3-64").stale_keys(cursor)


def test_data_of_a_checkpoint_is_in_no_error() -> None:
    """A checkpoint that is refused is not shown: a cursor in it is a key."""
    for data in ("secret\0", "secret\ud800", "secret" * MAX_CHECKPOINT_CHARACTERS):
        with pytest.raises(ValueError, match="the data of a checkpoint") as refused:
            check_checkpoint("job", data)
        assert "secret" not in "".join(traceback.format_exception(refused.value))


async def test_one_name_is_one_set_of_rows(world: World) -> None:
    """Migrations of one name share their rows, those of different names do not."""
    ledger = InMemoryLedger()
    one, same = rows_of(world, ledger), rows_of(world, ledger)
    other = ledger.migration("orders", "xxh3-64")
    await world.call(one.begin, [K], A)
    assert list(await world.call(same.dirty, [K])) == [K]
    assert list(other.dirty([K])) == []


def test_mismatch_names_both_hashers(world: World) -> None:
    """Another hasher is refused, and the message names both and the migration."""
    ledger = InMemoryLedger()
    rows_of(world, ledger)
    with pytest.raises(LedgerMismatch, match=r"users.*xxh3-64.*fnv1a-64"):
        rows_of(world, ledger, "fnv1a-64")
    assert rows_of(world, ledger).last_summary().pending == 0  # the first is not disturbed


def test_twins_have_the_same_calls() -> None:
    """Each call of the blocking protocol has its asyncio twin with the same arguments, and no other."""
    names = {name for name in vars(MigrationLedger) if not name.startswith("_")}
    assert names == {name for name in vars(AsyncMigrationLedger) if not name.startswith("_")}
    for name in names:
        blocking, twin = getattr(MigrationLedger, name), getattr(AsyncMigrationLedger, name)
        assert inspect.signature(blocking) == inspect.signature(twin)
        assert inspect.iscoroutinefunction(twin) is (name != "last_summary")


# --- Tokens and deadlines


def test_tokens_are_never_the_same() -> None:
    """Tokens differ, and are short ASCII."""
    tokens = [new_token() for _ in range(10_000)]
    assert len(set(tokens)) == 10_000
    assert all(len(token) <= 48 and token.isascii() for token in tokens)


def test_deadline() -> None:
    """A deadline has passed at its very moment, by the clock that it was given."""
    clock = Clock()
    deadline = Deadline(clock, clock() + 20.0)
    clock.advance(19.999)
    assert not deadline.passed
    deadline.check()
    clock.now = 1020.0
    assert deadline.passed
    with pytest.raises(DeadlinePassed):
        deadline.check()
