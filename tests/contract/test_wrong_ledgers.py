"""Every rule of the ledgers' contract catches a ledger that breaks it, and says which rule that is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from zddm_flags import AsyncInMemoryLedger
from zddm_flags.errors import InvalidKey, LedgerMismatch
from zddm_flags.ledger import Checkpoint, CopyGrant, Grant, LedgerTable, Opening, StalePage, check_checkpoint
from zddm_flags.testing.contract import AsyncLedgerContract, LedgerContract

SWITCH_SECONDS = 0.005  # long enough that another thread comes between


class Backing:
    """What ledgers of several processes share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.now = 0.0
        self.away = False
        self.tables: dict[str, tuple[str, LedgerTable]] = {}
        self.token_seconds: dict[str, float] = {}
        self.kept: dict[str, dict[str, tuple[str, int, float]]] = {}


class Rows:
    """A right ledger: `LedgerTable` behind a lock, which notices that its table was lost."""

    table_class: type[LedgerTable] = LedgerTable
    cut = 1024

    def __init__(self, backing: Backing, name: str, identity: str, token_seconds: float) -> None:
        self.backing = backing
        self.name = name
        self.identity = identity
        backing.token_seconds[name] = max(token_seconds, backing.token_seconds.get(name, 0.0))
        self.seen: LedgerTable | None = None
        self.last = LedgerTable().summary(0)

    @property
    def table(self) -> Any:
        if self.backing.away:
            raise ConnectionError
        identity, table = self.backing.tables.setdefault(self.name, (self.identity, self.table_class()))
        if identity != self.identity or self.seen not in (None, table):
            raise LedgerMismatch
        self.seen = table
        return table

    @property
    def now(self) -> float:
        return self.backing.now

    def begin(self, keys, token):
        with self.backing.lock:
            if any(len(key) > self.cut for key in keys):
                raise InvalidKey
            return self.table.begin(keys, token, self.now)

    def begin_copy(self, keys, token):
        with self.backing.lock:
            return self.table.begin_copy(keys, token, self.now)

    def end(self, outcomes, token):
        with self.backing.lock:
            self.table.end(outcomes, token)

    def withdraw(self, keys, token):
        with self.backing.lock:
            self.table.withdraw(keys, token)

    def dirty(self, keys):
        with self.backing.lock:
            return self.table.dirty(keys)

    def alone(self, keys, token):
        with self.backing.lock:
            return self.table.alone(keys, token)

    def open_to(self, rate):
        with self.backing.lock:
            return self.table.open_to(rate)

    def reap(self, age_seconds, limit=1000):
        with self.backing.lock:
            age_seconds = max(age_seconds, self.backing.token_seconds[self.name])
            return self.table.reap(self.now - age_seconds, limit)

    def summary(self):
        with self.backing.lock:
            self.last = self.table.summary(self.now)
            return self.last

    def last_summary(self):
        return self.last

    def stale_keys(self, cursor=None, limit=1000):
        if limit < 1:
            raise ValueError
        with self.backing.lock:
            keys = self.table.stale_keys(None if cursor is None else bytes.fromhex(cursor), limit)
            return StalePage(keys, keys[-1].hex() if len(keys) == limit else None)

    @property
    def kept(self):
        self.table  # noqa: B018 - raises what it raises
        return self.backing.kept.setdefault(self.name, {})

    def checkpoints(self):
        with self.backing.lock:
            kept = self.kept.items()
            return {name: Checkpoint(data, version, self.now - saved) for name, (data, version, saved) in kept}

    def save_checkpoint(self, name, data, version):
        check_checkpoint(name, data)
        with self.backing.lock:
            kept, known, _ = self.kept.get(name, (None, 0, 0.0))
            if known == version:
                self.kept[name] = data, version + 1, self.now
                return True
            return (kept, known) == (data, version + 1)

    def reset(self):
        with self.backing.lock:
            done = self.table.reset()
            if done:
                self.kept.clear()
                self.summary()
            return done


class Ledger:
    shared = True

    def __init__(self, backing: Backing, kind: type[Rows]) -> None:
        self.backing = backing
        self.kind = kind

    def migration(self, name: str, identity: str, token_seconds: float = 0.0) -> Any:
        return self.kind(self.backing, name, identity, token_seconds)


class Checked(LedgerContract):
    """The contract with all that a user may define, and a clock that a test advances."""

    kind: type[Rows] = Rows

    def ledger(self) -> Iterator[Any]:
        self.backing = Backing()
        yield Ledger(self.backing, self.kind)

    def another_ledger(self, ledger: Any) -> Iterator[Any]:
        yield Ledger(self.backing, self.kind)

    def outage(self) -> Iterator[None]:
        self.backing.away = True
        yield
        self.backing.away = False

    def lose(self) -> None:
        self.backing.tables.clear()

    def advance(self, seconds: float) -> None:
        self.backing.now += seconds


# -- tables that break a rule


class Table(LedgerTable):
    """What a wrong table is made of."""

    def entry(self, key: bytes) -> Any:
        return self._entries.get(key)


class EndsStrangers(Table):
    def end(self, outcomes, token):
        for key in outcomes:
            if self.entry(key) is None:
                self.begin([key], token, 0)
        super().end(outcomes, token)


class BeginsTheFirstKey(Table):
    def begin(self, keys, token, now):
        return super().begin(list(keys)[:1], token, now)


class ForgetsContention(Table):
    def end(self, outcomes, token):
        super().end(outcomes, token)
        for key in outcomes:
            if self.entry(key) is not None:
                self.entry(key).contended = False


class KeepsContention(Table):
    def _remove(self, entry, key, token, *, stale):
        contended = entry.contended
        super()._remove(entry, key, token, stale=stale)
        entry.contended = contended


class GrantsNoCleanKey(Table):
    def begin_copy(self, keys, token, now):
        return super().begin_copy([key for key in keys if self.entry(key) is not None], token, now)


class CopiesJoin(Table):
    def begin_copy(self, keys, token, now):
        grant = super().begin_copy(keys, token, now)
        return grant._replace(granted=frozenset(keys))


class DeniedCopiesContend(Table):
    def begin_copy(self, keys, token, now):
        grant = super().begin_copy(keys, token, now)
        for key in set(keys) - grant.granted:
            self.entry(key).contended = True
        return grant


class HidesStaleFromCopies(Table):
    def begin_copy(self, keys, token, now):
        return super().begin_copy(keys, token, now)._replace(stale=frozenset())


class WritesDoNotContendWithCopies(Table):
    def __init__(self) -> None:
        super().__init__()
        self.copies: set[bytes] = set()

    def begin_copy(self, keys, token, now):
        self.copies.add(token)
        return super().begin_copy(keys, token, now)

    def begin(self, keys, token, now):
        grant = super().begin(keys, token, now)
        contended = {key for key in grant.contended if self.entry(key).pending - self.copies - {token}}
        for key in grant.contended - contended:
            self.entry(key).contended = False
        return grant._replace(contended=frozenset(contended))


class EndsABatchAsOne(Table):
    def end(self, outcomes, token):
        super().end(dict.fromkeys(outcomes, all(outcomes.values())), token)


class NeverCleans(Table):
    def end(self, outcomes, token):
        for key, ok in outcomes.items():
            entry = self.entry(key)
            super().end({key: ok and not (entry is not None and entry.stale)}, token)


class EndOfAReapedTokenCleans(Table):
    def end(self, outcomes, token):
        super().end(outcomes, token)
        for key, ok in outcomes.items():
            entry = self.entry(key)
            if (
                ok
                and entry is not None
                and not entry.pending
                and not entry.contended
                and token not in self._tokens
            ):
                del self._entries[key]


class WithdrawCleans(Table):
    def withdraw(self, keys, token):
        self.end(dict.fromkeys(keys, True), token)


class WithdrawForgetsContention(Table):
    def withdraw(self, keys, token):
        super().withdraw(keys, token)
        for key in keys:
            if self.entry(key) is not None:
                self.entry(key).contended = False


class ForgetsThatOthersWereThere(Table):
    def alone(self, keys, token):
        return [key for key in keys if self.entry(key) is not None and self.entry(key).pending == {token}]


class AloneWhereNobodyContends(Table):
    def alone(self, keys, token):
        return [key for key in keys if self.entry(key) is not None and not self.entry(key).contended]


class OpenedFalls(Table):
    def open_to(self, rate):
        self.opened = rate
        return Opening(self.opened, self.epoch)


class OpenedIsRounded(Table):
    def open_to(self, rate):
        return super().open_to(float(f"{rate:.15g}"))


class OpenedGoesWithTheKeys(Table):
    def _remove(self, entry, key, token, *, stale):
        super()._remove(entry, key, token, stale=stale)
        if not self._entries:
            self.opened = 0.0


class ReapLeavesKeysClean(Table):
    def reap(self, begun_before, limit):
        old = [(token, list(keys)) for token, (begun, keys) in self._tokens.items() if begun < begun_before]
        for token, keys in old[:limit]:
            self.withdraw(keys, token)
        return len(old[:limit])


class ReapsKeysWithAllTheirTokens(Table):
    def reap(self, begun_before, limit):
        old = {key for begun, keys in self._tokens.values() if begun < begun_before for key in keys}
        for key in old:
            for token in list(self.entry(key).pending):
                self.end({key: False}, token)
        return len(old)


class ReapIsNotLimited(Table):
    def reap(self, begun_before, limit):
        return super().reap(begun_before, 10**9)


class CountsKeysAsStale(Table):
    def summary(self, now):
        return super().summary(now)._replace(stale=len(self._entries))


class CountsNotWhatItReaps(Table):
    def summary(self, now):
        return super().summary(now)._replace(reaped=0)


class PendingKeysAreNotStale(Table):
    def stale_keys(self, after, limit):
        return [key for key in super().stale_keys(after, limit) if not self.entry(key).pending]


class GivesDirtyKeysAsStale(Table):
    def stale_keys(self, after, limit):
        return sorted(key for key in self._entries if after is None or key > after)[:limit]


class ResetKeepsOpened(Table):
    def reset(self):
        opened, done = self.opened, super().reset()
        self.opened = opened
        return done


class ResetKeepsTheEpoch(Table):
    def reset(self):
        epoch, done = self.epoch, super().reset()
        self.epoch = epoch
        return done


class ResetKeepsTheCount(Table):
    def reset(self):
        reaped, done = self.reaped, super().reset()
        self.reaped = reaped
        return done


class ResetForgetsTokens(Table):
    def reset(self):
        self._tokens.clear()
        return super().reset()


class ResetForgetsWhatIsNotPending(Table):
    def reset(self):
        for key in [key for key, entry in self._entries.items() if not entry.pending]:
            del self._entries[key]
            self._stale -= 1
        return super().reset()


# -- rows that break a rule


def of(table: type[LedgerTable]) -> type[Rows]:
    return type(table.__name__, (Rows,), {"table_class": table})


class TextKeys(Rows):
    def begin(self, keys, token):
        return super().begin([self.text(key) for key in keys], token)

    def end(self, outcomes, token):
        super().end({self.text(key): ok for key, ok in outcomes.items()}, token)

    def dirty(self, keys):
        found = set(super().dirty([self.text(key) for key in keys]))
        return [key for key in keys if self.text(key) in found]

    def text(self, key: bytes) -> Any:
        return key.decode(errors="replace").rstrip(" \0")


class CutKeys(TextKeys):
    def text(self, key: bytes) -> Any:
        return key[:255]


class ShortKeys(Rows):
    cut = 767


class TokensWithoutCase(Rows):
    def begin(self, keys, token):
        return super().begin(keys, token.lower())

    def end(self, outcomes, token):
        super().end(outcomes, token.lower())


class OneTableForAll(Rows):
    def __init__(self, backing, name, identity, token_seconds):
        super().__init__(backing, "all", identity, token_seconds)


class NamesWithoutCase(Rows):
    def __init__(self, backing, name, identity, token_seconds):
        super().__init__(backing, name.lower(), identity, token_seconds)


class AnyIdentity(Rows):
    def __init__(self, backing, name, identity, token_seconds):
        super().__init__(backing, name, "any", token_seconds)


class DirtyOfAnyIdentity(Rows):
    def dirty(self, keys):
        return self.backing.tables[self.name][1].dirty(keys)


class BatchIsCutOff(Rows):
    def dirty(self, keys):
        return super().dirty(list(keys)[:900])


class GrantsAfterALook(Rows):
    def begin_copy(self, keys, token):
        table: Any = self.table
        granted = [key for key in keys if key not in table._entries]
        time.sleep(SWITCH_SECONDS)
        with self.backing.lock:
            table.begin(granted, token, self.now)
        return CopyGrant(frozenset(granted), frozenset(), table.opened, 0)


class BeginsKeyByKey(Rows):
    def begin(self, keys, token):
        contended: set[bytes] = set()
        for key in keys:
            contended |= super().begin([key], token).contended
            time.sleep(SWITCH_SECONDS / 10)
        return Grant(frozenset(contended), 0.0, 0)


class OneLockForKeys(Rows):
    """Says of keys that share a bucket that they contend."""

    def begin(self, keys, token):
        grant = super().begin(keys, token)
        others = len(self.table._tokens) > 1
        time.sleep(SWITCH_SECONDS)
        return grant._replace(contended=frozenset(keys)) if others else grant


class OpensAfterALook(Rows):
    def open_to(self, rate):
        opened = max(self.table.opened, rate)
        time.sleep(SWITCH_SECONDS)
        self.table.opened = opened
        return Opening(opened, 0)


class EachItsOwn(Rows):
    def __init__(self, backing, name, identity, token_seconds):
        super().__init__(backing, name, identity, token_seconds)
        self.backing = Backing()


class DirtyIsEmptyInAnOutage(Rows):
    def dirty(self, keys):
        return [] if self.backing.away else super().dirty(keys)


class EndIsSilentInAnOutage(Rows):
    def end(self, outcomes, token):
        if not self.backing.away:
            super().end(outcomes, token)


class DoesNotNoticeLoss(Rows):
    @property
    def table(self):
        self.seen = None
        return super().table


class StaleIsForgottenByTheThirdCopy(Table):
    """A mistake that no single rule looks for."""

    copies = 0

    def begin_copy(self, keys, token, now):
        self.copies += 1
        grant = super().begin_copy(keys, token, now)
        return grant._replace(stale=frozenset()) if self.copies == 3 else grant


class ReapsByItsOwnTime(Rows):
    def reap(self, age_seconds, limit=1000):
        return self.table.reap(self.now - age_seconds, limit)


class PagesByPlace(Rows):
    """The next page begins at a number of keys, whatever became of those before it."""

    def stale_keys(self, cursor=None, limit=1000):
        if limit < 1 or not (cursor or "0").isdecimal():
            raise ValueError
        with self.backing.lock:
            start = int(cursor or "0")
            keys = self.table.stale_keys(None, 10**9)[start : start + limit]
            return StalePage(keys, str(start + limit) if len(keys) == limit else None)


class AnyCursorIsTheStart(Rows):
    def stale_keys(self, cursor=None, limit=1000):
        try:
            return super().stale_keys(cursor, limit)
        except ValueError:
            return super().stale_keys(None, 10)


class CheckpointsAreStripped(Rows):
    def save_checkpoint(self, name, data, version):
        return super().save_checkpoint(name, data.strip(), version)


class CheckpointsOfNoAge(Rows):
    def checkpoints(self):
        return {name: kept._replace(age_seconds=0.0) for name, kept in super().checkpoints().items()}


class CheckpointsOfAllMigrations(Rows):
    @property
    def kept(self):
        return self.backing.kept.setdefault("all", {})


class SavesAnyVersion(Rows):
    def save_checkpoint(self, name, data, version):
        return super().save_checkpoint(name, data, self.kept.get(name, ("", 0, 0.0))[1])


class RefusesTheSameAgain(Rows):
    def save_checkpoint(self, name, data, version):
        return self.kept.get(name, ("", 0, 0.0))[1] == version and super().save_checkpoint(name, data, version)


class KeepsAnyCheckpoint(Rows):
    def save_checkpoint(self, name, data, version):
        self.kept[name] = data, version + 1, self.now
        return True


class SavesAfterALook(Rows):
    def save_checkpoint(self, name, data, version):
        same = self.kept.get(name, ("", 0, 0.0))[1] == version
        time.sleep(SWITCH_SECONDS)
        if same:
            self.kept[name] = data, version + 1, self.now
        return same


class ResetKeepsCheckpoints(Rows):
    def reset(self):
        with self.backing.lock:
            done = self.table.reset()
            self.summary()
            return done


class ResetsAfterALook(Rows):
    def reset(self):
        table = self.table
        if table._tokens:
            return False
        time.sleep(SWITCH_SECONDS)
        table._tokens.clear()
        return super().reset()


class LastSummaryIsOld(Rows):
    def last_summary(self):
        return LedgerTable().summary(0)


WRONG: list[tuple[str, type[Rows], str]] = [
    ("an_unknown_key_is_clean", of(EndsStrangers), "of a token that never began"),
    ("begin_makes_its_keys_dirty", of(BeginsTheFirstKey), "a proxy would read them from New"),
    ("two_tokens_contend", of(ForgetsContention), "Contention must not be forgotten before the last token"),
    ("two_tokens_contend", of(KeepsContention), "Contention ends with the tokens"),
    ("a_copy_of_a_clean_key_is_granted", of(GrantsNoCleanKey), "must grant the keys on which no token is pending"),
    ("a_copy_is_denied_beside_any_token", of(CopiesJoin), "those keys on which no token is pending"),
    ("a_copy_is_denied_beside_any_token", of(DeniedCopiesContend), "A copy that is denied must not contend"),
    ("a_copy_of_a_stale_key_says_so", of(HidesStaleFromCopies), "what Old deleted stays in New"),
    ("a_write_contends_with_a_copy", of(WritesDoNotContendWithCopies), "begin() during a copy must be contended"),
    ("end_settles_each_key_by_itself", of(EndsABatchAsOne), "with one key ok, one not ok and one not named"),
    ("a_write_that_ends_well_makes_a_stale_key_clean", of(NeverCleans), "after a write that was alone ended well"),
    ("end_of_a_token_that_is_gone_changes_nothing", of(EndOfAReapedTokenCleans), "after end() of a reaped token"),
    ("withdraw_leaves_stale_as_it_was", of(WithdrawCleans), "after withdraw() of a stale"),
    (
        "withdraw_leaves_contention_to_the_others",
        of(WithdrawForgetsContention),
        "was withdrawn and the other ended",
    ),
    ("alone_tells_who_was_alone", of(ForgetsThatOthersWereThere), "after another ended alone() gave"),
    ("a_reaped_token_is_not_alone", of(AloneWhereNobodyContends), "after it was reaped alone() gave"),
    ("opened_only_rises", of(OpenedFalls), "must never fall"),
    ("opened_only_rises", of(OpenedIsRounded), "must be kept as a double, every bit of it"),
    ("opened_survives_an_emptied_ledger", of(OpenedGoesWithTheKeys), "it must outlive all keys"),
    ("reap_makes_old_tokens_stale", of(ReapLeavesKeysClean), "0 stale keys and 0 pending tokens; there are 2"),
    (
        "reap_spares_young_tokens",
        of(ReapsKeysWithAllTheirTokens),
        "a copy must be denied the key that the younger",
    ),
    ("reap_spares_what_others_may_still_use", ReapsByItsOwnTime, "it may still write New under its token"),
    ("reap_is_limited", of(ReapIsNotLimited), "with a limit of 2 returned 5"),
    ("summary_counts", of(CountsKeysAsStale), "counted 3 stale keys"),
    ("summary_counts", LastSummaryIsOld, "last_summary() is"),
    ("what_was_reaped_is_counted", of(CountsNotWhatItReaps), "and reap() returned 1 so far"),
    ("stale_keys_are_paged", of(PendingKeysAreNotStale), "pending or not"),
    ("stale_keys_are_paged", of(GivesDirtyKeysAsStale), "of which 5 are not stale"),
    ("no_page_loses_what_stays_stale", PagesByPlace, "nobody would make them right"),
    ("a_cursor_that_is_none_is_refused", AnyCursorIsTheStart, "must raise ValueError, not return"),
    ("checkpoints_come_back_as_they_were", CheckpointsAreStripped, "checkpoints() gave"),
    ("checkpoints_come_back_as_they_were", CheckpointsOfNoAge, "the ages are"),
    ("checkpoints_come_back_as_they_were", CheckpointsOfAllMigrations, "are seen in another"),
    ("a_checkpoint_is_replaced_by_its_next_version", SavesAnyVersion, "one would undo what the other did"),
    ("a_checkpoint_is_replaced_by_its_next_version", RefusesTheSameAgain, "it must give True"),
    ("what_is_no_checkpoint_is_refused", KeepsAnyCheckpoint, "must raise ValueError, not return"),
    ("reset_begins_another_epoch", of(ResetKeepsOpened), "after reset() last_summary() tells opened 0.5"),
    ("reset_begins_another_epoch", of(ResetKeepsTheEpoch), "and epoch 0: they must be"),
    ("reset_begins_another_epoch", of(ResetKeepsTheCount), "still counts what was reaped before"),
    ("reset_begins_another_epoch", ResetKeepsCheckpoints, "there must be no checkpoint"),
    ("reset_waits_for_tokens", of(ResetForgetsTokens), "what its write misses in New would be clean"),
    ("reset_waits_for_tokens", of(ResetForgetsWhatIsNotPending), "changed the summary"),
    ("one_of_many_replaces_a_checkpoint", SavesAfterALook, "were told that they did"),
    ("no_begin_comes_into_a_reset", ResetsAfterALook, "a token that began meanwhile was told"),
    ("keys_are_bytes", TextKeys, "after begin() of some of many odd keys"),
    ("long_keys_are_whole", CutKeys, "after begin() of a key of 1024 bytes"),
    ("long_keys_are_whole", ShortKeys, "every ledger takes keys of up to 1024 bytes"),
    ("tokens_are_told_apart", TokensWithoutCase, "a token that differs in one byte"),
    ("migrations_are_apart", OneTableForAll, "beside others"),
    ("migrations_are_apart", NamesWithoutCase, "in migration 'a', beside others"),
    ("another_identity_is_refused", AnyIdentity, "begin() of a migration with another identity must raise"),
    ("another_identity_is_refused", DirtyOfAnyIdentity, "dirty() of a migration with another identity must raise"),
    ("a_large_batch_is_whole", BatchIsCutOff, "told 100 keys to be clean that are dirty"),
    ("one_copier_at_a_time", GrantsAfterALook, "one must be granted, and"),
    ("batches_begin_as_one", BeginsKeyByKey, "must be atomic over all of their keys"),
    ("tokens_of_different_keys_do_not_meet", OneLockForKeys, "on a key that nobody else has begun"),
    ("opened_is_the_largest_of_all", OpensAfterALook, "it must be the largest, and never fall"),
    ("another_process_sees_each_call_at_once", EachItsOwn, "in another process, after begin() returned"),
    ("an_outage_raises", DirtyIsEmptyInAnOutage, "dirty() returned while the ledger could not be reached"),
    ("an_outage_raises", EndIsSilentInAnOutage, "end() returned while the ledger could not be reached"),
    ("lost_rows_are_noticed", DoesNotNoticeLoss, "it must raise LedgerMismatch"),
    ("any_sequence_agrees_with_the_table", of(StaleIsForgottenByTheThirdCopy), "The calls of seed"),
]


def check(rule: str, kind: type[Rows]) -> None:
    contract = Checked()
    contract.kind = kind
    getattr(contract, f"test_{rule}")()


@pytest.mark.parametrize(("rule", "kind", "sentence"), WRONG, ids=[kind.__name__ for _, kind, _ in WRONG])
def test_a_wrong_ledger_is_caught(rule, kind, sentence):
    """The rule that the ledger breaks fails, with a sentence that says so."""
    with pytest.raises(AssertionError) as caught:
        check(rule, kind)
    assert sentence in str(caught.value)


def test_every_rule_is_broken_by_one():
    """For each rule there is a ledger above that breaks it."""
    rules = {name.removeprefix("test_") for name in dir(LedgerContract) if name.startswith("test_")}
    assert {rule for rule, _, _ in WRONG} == rules
    twins = {name.removeprefix("test_") for name in dir(AsyncLedgerContract) if name.startswith("test_")}
    assert twins - rules == {"a_cancelled_call_leaves_the_others_alone"}
    assert rules <= twins


@pytest.mark.parametrize("rule", sorted({rule for rule, _, _ in WRONG}))
def test_the_right_one_passes(rule):
    """The ledger that the wrong ones are made of keeps every rule, none of them skipped."""
    check(rule, Rows)


# -- asyncio only


class MixesUpAnswers:
    """A ledger with one connection, on which a cancelled call leaves its answer behind."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self._answers: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    async def dirty(self, keys):
        self._answers.append(await self._rows.dirty(keys))
        await asyncio.sleep(0)
        return self._answers.pop(0)


class OneConnection(AsyncInMemoryLedger):
    def migration(self, name: str, identity: str, token_seconds: float = 0.0) -> Any:
        return MixesUpAnswers(super().migration(name, identity, token_seconds))


class CheckedAsync(AsyncLedgerContract):
    async def ledger(self) -> AsyncIterator[Any]:
        yield OneConnection()


def test_mixed_up_answers_are_caught():
    """A cancelled call whose answer the next call takes for its own is caught."""
    with pytest.raises(AssertionError, match="after other calls were cancelled"):
        CheckedAsync().test_a_cancelled_call_leaves_the_others_alone()


def test_the_other_world_is_refused():
    """An asyncio ledger in the blocking contract is told where it belongs."""

    class OfTheOtherWorld(LedgerContract):
        def ledger(self) -> Iterator[Any]:
            yield AsyncInMemoryLedger()

    with pytest.raises(AssertionError, match="an asyncio ledger is checked with AsyncLedgerContract"):
        OfTheOtherWorld().test_two_tokens_contend()
