"""Proxies and ledgers that break one rule of docs/protocol.md each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.explorer import scenarios
from zddm_flags import AsyncProxy
from zddm_flags._async.bulk import Confirmed, CopyOutcome, Difference
from zddm_flags._async.migration import Copied, CopyRules
from zddm_flags.errors import LedgerUnavailable, ResetRefused
from zddm_flags.ledger import CopyGrant, Grant, LedgerTable
from zddm_flags.testing import Fault, Scenario


class EndsATokenWhoseCallToNewRaised(AsyncProxy[str, str]):
    """Takes a call that raised for one that had no effect (H5)."""

    async def _apply_to_new(self, *arguments: Any, **named: Any) -> tuple[bool | None, str]:
        done, path = await super()._apply_to_new(*arguments, **named)
        return bool(done), path


class _KnowsItsToken(AsyncProxy[str, str]):
    """Remembers the token of the write in progress, for mistakes that need it."""

    _token = b""

    async def _begin(self, names: Sequence[bytes]) -> tuple[Grant, bytes]:
        grant, self._token = await super()._begin(names)
        return grant, self._token


class EndsATokenWhoseCallToOldRaised(_KnowsItsToken):
    """Takes a write of Old that raised for one that had no effect (H4)."""

    async def _change(self, located: Any, change: Any, operation: Any) -> None:
        try:
            await super()._change(located, change, operation)
        except Exception:
            await self._end(dict.fromkeys([each.name for each in located], False), self._token)
            raise


class EndsAReapedToken(LedgerTable):
    """Lets `end` clear *stale* although the token was reaped."""

    def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        for key, ok in outcomes.items():
            entry = self._entries.get(key)
            if entry is not None and not entry.pending and ok:
                del self._entries[key]
        super().end(outcomes, token)


class BeginsAgainWithTheSameToken(AsyncProxy[str, str]):
    """Retries `begin` with a token that an earlier attempt may yet make pending."""

    async def _begin(self, names: Sequence[bytes]) -> tuple[Grant, bytes]:
        token = self._new_token()
        try:
            return await self._ledger.begin(names, token), token
        except Exception:
            return await self._ledger.begin(names, token), token


class WritesAfterItsTime(AsyncProxy[str, str]):
    """Has no deadline for its writes."""

    async def _change(self, located: Any, change: Any, operation: Any) -> None:
        self._issue_seconds = 1e9
        await super()._change(located, change, operation)


class CopiesAfterItsTime(AsyncProxy[str, str]):
    """Has no deadline for its copies."""

    async def _read_old_and_copy(self, *arguments: Any, **named: Any) -> dict[str, str]:
        self._issue_seconds = 1e9
        return await super()._read_old_and_copy(*arguments, **named)


class SkipsTheDeleteAfterAMiss(AsyncProxy[str, str]):
    """Trusts that New still lacks what it lacked a moment ago (H3)."""

    _dirty: frozenset[bytes] = frozenset()

    async def _read_old_and_copy(
        self, wanted: Any, besides: Any, dirty: Collection[bytes], operation: Any
    ) -> dict[str, str]:
        self._dirty = frozenset(dirty)
        return await super()._read_old_and_copy(wanted, besides, dirty, operation)

    async def _copy(
        self, granted: Any, values: Any, grant: CopyGrant, token: bytes, deadline: Any, rules: CopyRules
    ) -> Copied[str, str]:
        grant = grant._replace(stale=grant.stale & self._dirty)
        return await super()._copy(granted, values, grant, token, deadline, rules)


class TrustsACachedOpened(AsyncProxy[str, str]):
    """Judges by the `opened` that its process saw last (H8)."""

    def _outcomes(self, located: Any, written: Any, grant: Grant) -> dict[bytes, bool | None]:
        return super()._outcomes(located, written, grant._replace(opened=self._opening.opened))


class CopiesBeforeItOpens(AsyncProxy[str, str]):
    """Writes New without telling the ledger first how far it opens."""

    async def _admitted(self, located: Any, grant: Any, **named: Any) -> Any:
        return await super()._admitted(located, grant._replace(opened=1.0), **named)


class AsksNewBeforeTheLedger(AsyncProxy[str, str]):
    """Asks whether the key is dirty after New has answered (H9)."""

    async def read(self, key: str) -> str | None:
        value = await self._new.read(key)
        _, name = self._gate.locate(key)
        if value is not None and not await self._ledger.dirty((name,)):
            return value
        return await super().read(key)


class AsksNoLedger(AsyncProxy[str, str]):
    """Reads New first, whatever the ledger says (H6, H7, H9)."""

    async def read(self, key: str) -> str | None:
        value = await self._new.read(key)
        return value if value is not None else await super().read(key)


class CopyJoinsAPendingWrite(LedgerTable):
    """Grants a copy where a token is pending (H1)."""

    def begin_copy(self, keys: Iterable[bytes], token: bytes, now: float) -> CopyGrant:
        keys = tuple(keys)
        stale = frozenset(key for key in keys if key in self._entries and self._entries[key].stale)
        kept = {key: self._entries.pop(key) for key in keys if key in self._entries}
        super().begin_copy(keys, token, now)
        for key, entry in kept.items():
            entry.pending.add(token)
            self._entries[key] = entry
        return CopyGrant(frozenset(keys), stale, self.opened, self.epoch)


class ForgetsContention(LedgerTable):
    """Forgets with the first token that ends that the key was contended (H2)."""

    def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        super().end(outcomes, token)
        for key in outcomes:
            if key in self._entries:
                self._entries[key].contended = False


class SeesNoContention(LedgerTable):
    """Lets each of two writers end as if it were alone (H2)."""

    def begin(self, keys: Iterable[bytes], token: bytes, now: float) -> Grant:
        keys = tuple(keys)
        grant = super().begin(keys, token, now)
        for key in keys:
            self._entries[key].contended = False
        return grant


class ReapingForgetsStale(LedgerTable):
    """Drops a token that is too old, and with it that the key may be wrong (H4)."""

    def reap(self, begun_before: float, limit: int) -> int:
        old = [token for token, (begun, _) in self._tokens.items() if begun < begun_before][:limit]
        for token in old:
            self.withdraw(tuple(self._tokens[token][1]), token)
        return len(old)


class ReapingForgetsContention(LedgerTable):
    """Makes a key stale without regard to another token that is still pending."""

    def reap(self, begun_before: float, limit: int) -> int:
        reaped = super().reap(begun_before, limit)
        if reaped:
            for entry in self._entries.values():
                entry.contended = False
        return reaped


class WithdrawsAfterOldWasWritten(AsyncProxy[str, str]):
    """Takes its token back although Old has the value and New has not (H4, H6)."""

    async def _end(self, outcomes: Mapping[bytes, bool | None], token: bytes) -> bool:
        if any(outcomes.values()):
            return await super()._end(outcomes, token)
        await self._ledger.withdraw(list(outcomes), token)
        return True


class WithdrawsWhereItIsCancelled(_KnowsItsToken):
    """Takes its token back where it is cancelled while it opens New wider (H4)."""

    async def _admitted(self, located: Any, grant: Any, **named: Any) -> Any:
        try:
            return await super()._admitted(located, grant, **named)
        except BaseException:
            await self._withdraw(located, self._token)
            raise


class WritesWithoutAToken(AsyncProxy[str, str]):
    """Takes no token where its own gate is closed (H6, H7, H8)."""

    async def write(self, key: str, value: str) -> None:
        if self._enabled and self._gate.should_pass_write(key):
            await super().write(key, value)
        else:
            await self._old.write(key, value)


class WritesNewFirst(AsyncProxy[str, str]):
    """Serves from New what Old does not have yet, because it ends its token too soon."""

    async def _change(self, located: Any, change: Any, operation: Any) -> None:
        _, token = await self._begin([each.name for each in located])
        await change.apply(self._new, located, None)
        await self._end(dict.fromkeys([each.name for each in located], True), token)
        await change.apply(self._old, located, None)


class TakesAnErrorOfOldForDone(AsyncProxy[str, str]):
    """Loses a write of Old that raised, and says nothing."""

    async def _change(self, located: Any, change: Any, operation: Any) -> None:
        try:
            await super()._change(located, change, operation)
        except LedgerUnavailable:
            raise
        except Exception:
            return


class SaysThatNothingWasWritten(AsyncProxy[str, str]):
    """Blames the ledger after Old was written, as if the write were safe to repeat."""

    async def _change(self, located: Any, change: Any, operation: Any) -> None:
        await super()._change(located, change, operation)
        raise LedgerUnavailable("too late")


class SwallowsACancellation(AsyncProxy[str, str]):
    """Goes on when it was cancelled while New is written."""

    async def _apply_to_new(self, *arguments: Any, **named: Any) -> tuple[bool | None, str]:
        try:
            return await super()._apply_to_new(*arguments, **named)
        except BaseException as error:
            if isinstance(error, GeneratorExit):
                raise
            return None, "new_failed"


class AwaitsWhenItIsClosed(AsyncProxy[str, str]):
    """Calls the ledger from a coroutine that is being closed, which can await nothing."""

    async def _read_old(self, located: Sequence[Any]) -> dict[str, str]:
        try:
            return await super()._read_old(located)
        except BaseException:
            await self._ledger.dirty([])
            raise


class TakesARefusalForDone(AsyncProxy[str, str]):
    """Takes a change that the guard refused for one that New took."""

    async def _apply_to_new(self, *arguments: Any, **named: Any) -> tuple[bool | None, str]:
        done, path = await super()._apply_to_new(*arguments, **named)
        return done or path == "guard_open", path


class TakesHalfABatchForDone(AsyncProxy[str, str]):
    """Takes a batch that the guard stopped in the middle for one that New took (H14)."""

    async def _apply_to_new(self, change: Any, located: Any, deadline: Any) -> tuple[bool | None, str]:
        if self._guard_refuses(located[0].key):
            return False, "guard_open"
        done, path = await super()._apply_to_new(change, located, deadline)
        return done or path == "guard_open", path


class TakesHalfABatchForNothing(AsyncProxy[str, str]):
    """Takes its token back where the guard stopped a batch, as if neither store had been touched (H14)."""

    async def _apply_to_new(self, change: Any, located: Any, deadline: Any) -> tuple[bool | None, str]:
        done, path = await super()._apply_to_new(change, located, deadline)
        return None if path == "guard_open" else done, path

    async def _end(self, outcomes: Mapping[bytes, bool | None], token: bytes) -> bool:
        await self._ledger.withdraw([name for name, ok in outcomes.items() if ok is None], token)
        return await super()._end(outcomes, token)


class TakesATimeOutForARefusal(AsyncProxy[str, str]):
    """Ends its token where a call opened the guard, although that call may yet have its effect (H5)."""

    async def _apply_to_new(self, change: Any, located: Any, deadline: Any) -> tuple[bool | None, str]:
        done, path = await super()._apply_to_new(change, located, deadline)
        return bool(done) if self._guard_refuses(located[0].key) else done, path


class TakesARefusalForAbsence(AsyncProxy[str, str]):
    """Says that there is nothing where the guard keeps it from looking."""

    async def read(self, key: str) -> str | None:
        return None if self._guard_refuses(key) else await super().read(key)


class ProbesWithACopy(AsyncProxy[str, str]):
    """Tries a New that failed with a write, of a key that it holds no token for (H1)."""

    async def _probe(self) -> None:
        probe_with = self._probe_with
        await super()._probe()
        for key in (probe_with or ())[:1]:
            value = await self._old.read(key)
            if value is not None:
                await self._new.write(key, value)


class EndsACopyThatTheGateStopped(AsyncProxy[str, str]):
    """Ends the token of a copy that was not made as if it had been, and so a stale key clean (H6)."""

    async def _withdraw(self, located: Any, token: bytes) -> None:
        await self._end(dict.fromkeys([each.name for each in located], True), token)


class CopiesWhatTheReadSaw(AsyncProxy[str, str]):
    """Copies in the background the value of some moments ago, without a token (H1)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._saw: dict[str, str] = {}

    def _copy_later(self, wanted: Any, values: Mapping[str, str]) -> None:
        self._saw.update(values)

    async def _copy_some(self) -> int:
        saw = dict(self._saw)
        self._saw.clear()
        for key, value in saw.items():
            await self._new.write(key, value)
        return len(saw)


class CopiesLaterWithoutAToken(AsyncProxy[str, str]):
    """Copies in the background what Old holds now, without a token (H1, H3)."""

    async def _copy_some(self) -> int:
        batch = [each.located for each in self._to_copy.take(10)]
        for each in batch:
            value = await self._old.read(each.key)
            if value is not None:
                await self._new.write(each.key, value)
        return len(batch)


class ComparesWithoutAToken(AsyncProxy[str, str]):
    """Takes two moments for one: a write between its two reads looks like a difference."""

    async def _compare(self, wanted: Any) -> Any:
        differing, failed = await self._read_and_compare(wanted) or ([], 0)
        return {"different": len(differing), "failed": failed}


class AsksNotWhetherItWasAlone(AsyncProxy[str, str]):
    """Trusts that nobody writes a key that it compares."""

    async def _those_alone(self, differing: Any, token: bytes) -> Any:
        return differing


class AsksTooLateWhetherItWasAlone(AsyncProxy[str, str]):
    """Takes a key that is clean, after its token was ended, for one that it had alone until then."""

    async def _those_alone(self, differing: Any, token: bytes) -> Any:
        await self._end(dict.fromkeys([each.name for each in differing], True), token)
        dirty = await self._ledger.dirty([each.name for each in differing])
        return [each for each in differing if each.name not in dirty]


class ComparisonClearsAStaleKey(AsyncProxy[str, str]):
    """Ends its comparison as if it had made New right (H6)."""

    async def _compare(self, wanted: Any) -> Any:
        token = self._new_token()
        grant = await self._begin_copy(wanted, token)
        if grant is not None:
            await self._end(dict.fromkeys(grant.granted, True), token)
        return {"different": 0}


class TellsWhoseBackgroundFailed(AsyncProxy[str, str]):
    """Lets what fails in the background end all background work."""

    async def _compare_some(self) -> int:
        batch = [each.located for each in self._to_compare.take(10)]
        return (await self._compare(batch)).get("different", 0) if batch else 0


class CopiesWhatTheScanShowed(AsyncProxy[str, str]):
    """Copies the value that a page of Old had, from before its token (H1)."""

    async def copy_keys(self, job: Any, located: Any, rules: Any) -> dict[bytes, CopyOutcome]:
        shown = await self.read_old(located)
        token = self._new_token()
        grant = await self._begin_copy(located, token)
        if grant is None:
            return dict.fromkeys([each.name for each in located], "ledger_failed")
        granted = [each for each in located if each.name in grant.granted]
        if granted:
            await self._copy(granted, shown, grant, token, self._deadline(), rules)
        return {each.name: "copied" if each in granted else "pending" for each in located}


class CopiesKeysWithoutAToken(AsyncProxy[str, str]):
    """Copies what Old holds, as if nobody wrote meanwhile (H1)."""

    async def copy_keys(self, job: Any, located: Any, rules: Any) -> dict[bytes, CopyOutcome]:
        held = await self.read_old(located)
        for key, value in held.items():
            await self._new.write(key, value)
        return {each.name: "copied" if each.key in held else "absent" for each in located}


class SkipsWhatNewHas(AsyncProxy[str, str]):
    """Leaves alone what is in New, without asking whether that is right."""

    async def _present(self, located: Any) -> dict[bytes, CopyOutcome]:
        found = await self._new.read_many([each.key for each in located])
        return {each.name: "present" for each in located if each.key in found}


class SkipsWhatIsPending(AsyncProxy[str, str]):
    """Leaves alone what is in New and not stale, though a write of it may have been left half done (H4)."""

    async def _present(self, located: Any) -> dict[bytes, CopyOutcome]:
        found = await self._new.read_many([each.key for each in located])
        stale = (await self._ledger.stale_keys()).keys
        return {each.name: "present" for each in located if each.key in found and each.name not in stale}


class CopiesEverythingWithoutOpening(AsyncProxy[str, str]):
    """Writes keys above the rate to New without a word to those whose gate is closed for them (H8)."""

    async def _admitted(self, located: Any, grant: Any, *, everything: bool = False, **named: Any) -> Any:
        if everything:
            return list(located), "old"
        return await super()._admitted(located, grant, **named)


class OpensToItsRateForEverything(AsyncProxy[str, str]):
    """Tells the ledger of its rate, and writes keys above it (H8)."""

    async def _admitted(self, located: Any, grant: Any, *, everything: bool = False, **named: Any) -> Any:
        if everything:
            await self._ledger.open_to(self._gate.write_rate)
            return list(located), "old"
        return await super()._admitted(located, grant, **named)


class LeavesOutWhatAKillStopped(AsyncProxy[str, str]):
    """Takes a key that a kill kept from New for one that the backfill is not for."""

    def _outcome(self, located: Any, copied: Copied[str, str], rules: Any) -> CopyOutcome:
        outcome = super()._outcome(located, copied, rules)
        return "not_covered" if copied.paths.get(located.name) == "old" else outcome


class EndsWhatItLeaves(AsyncProxy[str, str]):
    """Leaves a key that Old lacks in New, and calls it clean (H3)."""

    async def _copy(
        self, granted: Any, values: Any, grant: CopyGrant, token: bytes, deadline: Any, rules: CopyRules
    ) -> Copied[str, str]:
        if not rules.delete:
            grant, rules = grant._replace(stale=frozenset()), rules._replace(distrust=False)
        return await super()._copy(granted, values, grant, token, deadline, rules)


class DeletesWhatWasFound(AsyncProxy[str, str]):
    """Deletes a key from New because Old lacked it when that was looked for."""

    async def copy_keys(self, job: Any, located: Any, rules: Any) -> dict[bytes, CopyOutcome]:
        token = self._new_token()
        grant = await self._begin_copy(located, token)
        if grant is None:
            return dict.fromkeys([each.name for each in located], "ledger_failed")
        granted = [each for each in located if each.name in grant.granted]
        for each in granted:
            await self._new.delete(each.key)
        await self._end(dict.fromkeys([each.name for each in granted], True), token)
        return {each.name: "absent" if each in granted else "pending" for each in located}


class DeletesWithoutAToken(AsyncProxy[str, str]):
    """Deletes a key from New that Old lacks, as if nobody wrote it meanwhile."""

    async def copy_keys(self, job: Any, located: Any, rules: Any) -> dict[bytes, CopyOutcome]:
        held = await self.read_old(located)
        for each in located:
            if each.key not in held:
                await self._new.delete(each.key)
        return {each.name: "failed" if each.key in held else "absent" for each in located}


class VerifiesWithoutAToken(AsyncProxy[str, str]):
    """Takes two moments for one: a write between its two reads looks like a difference."""

    async def confirm(self, located: Any, comparison: Any, **named: Any) -> Confirmed:
        held = await self.read_old(located)
        found = await self.read_new(located)
        wrong = [each for each in located if each.key in found and held.get(each.key) != found[each.key]]
        different = [Difference(each.name, each.hash, "changed", (), stale=False) for each in wrong]
        equal = frozenset(each.name for each in located if each not in wrong)
        return Confirmed(equal, different, frozenset(), frozenset())


class VerifiesWithoutAskingWhetherItWasAlone(AsksNotWhetherItWasAlone):
    """Marks keys that are being written."""


class AsksTooSoonWhetherItWasAlone(AsyncProxy[str, str]):
    """Trusts what the ledger said before the stores were read."""

    _were_alone: frozenset[bytes] = frozenset()

    async def _begin_copy(self, wanted: Any, token: bytes, **named: Any) -> CopyGrant | None:
        grant = await super()._begin_copy(wanted, token, **named)
        self._were_alone = frozenset(await self._ledger.alone([each.name for each in wanted], token))
        return grant

    async def _those_alone(self, differing: Any, token: bytes) -> Any:
        return [each for each in differing if each.name in self._were_alone]


class MarksAfterItsTokenIsGone(AsyncProxy[str, str]):
    """Takes its token back, and ends it then, which changes nothing."""

    async def _distrust(self, differing: Any, token: bytes) -> None:
        await self._withdraw(differing, token)
        await super()._distrust(differing, token)


class ResetsUnderAToken(LedgerTable):
    """Forgets the tokens that are pending."""

    def reset(self) -> bool:
        self._tokens.clear()
        return super().reset()


class LooksOnlyAtNewBeforeItResets(AsyncProxy[str, str]):
    """Takes a New that is empty for one that nobody is about to write."""

    async def reset_ledger(self, *, new_was_emptied: bool = False) -> Any:
        if not await self.holds_nothing() or not await self._ledger.reset():
            raise ResetRefused("not now")
        if not await self.holds_nothing():
            await self._ledger.open_to(1.0)
            raise ResetRefused("New was written to meanwhile")


class Available(AsyncProxy[str, str]):
    """The shipped proxy, whose writes go on without the ledger: no mistake."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options, on_ledger_error="available")


class RemembersAfterOldWasChanged(Available):
    """Lets its own process read New while Old is changed without the ledger."""

    async def _change_unmarked(self, located: Any, change: Any, operation: Any, deadline: Any) -> None:
        await change.apply(self._old, located, deadline)
        names = [each.name for each in located]
        self._unmarked.add(names, self._new_token())
        self._unmarked.changed(names, certain=True)


class ForgetsBeforeItIsMarked(Available):
    """Forgets the key when it sends the mark."""

    async def mark_unmarked(self) -> int:
        marked = self._unmarked.to_mark(10)
        self._unmarked.forget(marked)
        if marked:
            token = self._new_token()
            await self._ledger.begin(list(marked), token)
            await self._end(dict.fromkeys(marked, False), token)
        return 0


class MarksWithoutRegardToACopy(Available):
    """Makes the key stale as a copy would, which leaves a copy in flight as it is (H1)."""

    async def mark_unmarked(self) -> int:
        marked = self._unmarked.to_mark(10)
        if marked:
            token = self._new_token()
            grant = await self._ledger.begin_copy(list(marked), token)
            await self._end(dict.fromkeys(grant.granted, False), token)
            self._unmarked.forget(marked)
        return 0


class TakesAMarkForOneOfALaterChange(Available):
    """Cannot tell two changes of a key apart, and forgets the later one with the mark of the first."""

    async def _change_unmarked(self, located: Any, change: Any, operation: Any, deadline: Any) -> None:
        await super()._change_unmarked(located, change, operation, deadline)
        for name, known in tuple(self._unmarked.items()):
            self._unmarked[name] = known._replace(last=b"")


class ForgetsWhenItSendsTheMark(Available):
    """Takes a mark that failed for one that was taken."""

    async def mark_unmarked(self) -> int:
        marked = self._unmarked.to_mark(10)
        try:
            return await super().mark_unmarked()
        finally:
            self._unmarked.forget(marked)


class MarksWhileItIsChanged(Available):
    """Marks a key, and forgets it, while Old is yet to be changed."""

    async def mark_unmarked(self) -> int:
        for name, known in tuple(self._unmarked.items()):
            self._unmarked[name] = known._replace(changing=0)
        return await super().mark_unmarked()

    async def _change_unmarked(self, located: Any, change: Any, operation: Any, deadline: Any) -> None:
        names = [each.name for each in located]
        self._unmarked.add(names, self._new_token())
        await change.apply(self._old, located, deadline)


class MarksAsIfOldHadNotRaised(Available):
    """Leaves no token to the reaper where Old may yet be changed (H4)."""

    async def mark_unmarked(self) -> int:
        for name, known in tuple(self._unmarked.items()):
            self._unmarked[name] = known._replace(unsure=False)
        return await super().mark_unmarked()


class NeverMarks(Available):
    """Forgets what it wrote without the ledger."""

    async def mark_unmarked(self) -> int:
        self._unmarked.forget(self._unmarked.to_mark(10))
        return 0


class ComparesWhatWasWrittenWithoutTheLedger(Available):
    """Trusts the ledger to know of every write while it cannot be reached."""

    async def _those_alone(self, differing: Any, token: bytes) -> Any:
        alone = await self._ledger.alone([each.name for each in differing], token)
        return [each for each in differing if each.name in alone]


class Seed(NamedTuple):
    """A mistake, the scenario that catches it, and the faults that this takes."""

    mistake: type[AsyncProxy[str, str] | LedgerTable]
    scenario: Scenario
    faults: int = 0
    kinds: Collection[Fault] = ()

    @property
    def proxy(self) -> type[AsyncProxy[str, str]]:
        return self.mistake if issubclass(self.mistake, AsyncProxy) else AsyncProxy

    @property
    def shipped(self) -> type[AsyncProxy[str, str]]:
        return Available if issubclass(self.mistake, Available) else AsyncProxy

    @property
    def table(self) -> Callable[[], LedgerTable]:
        return self.mistake if issubclass(self.mistake, LedgerTable) else LedgerTable


SEEDS = [
    Seed(EndsATokenWhoseCallToNewRaised, scenarios.NEW_FAILS_AFTER_OLD, 1, ["late"]),
    Seed(EndsATokenWhoseCallToOldRaised, scenarios.OLD_LANDS_LATE, 1, ["late"]),
    Seed(EndsAReapedToken, scenarios.SLOW_WRITE_AND_REAPER),
    Seed(BeginsAgainWithTheSameToken, scenarios.SLOW_WRITE_AND_REAPER, 1, ["late"]),
    Seed(WritesAfterItsTime, scenarios.SLOW_WRITE_AND_WRITER),
    Seed(CopiesAfterItsTime, scenarios.SLOW_COPY_AND_WRITER),
    Seed(SkipsTheDeleteAfterAMiss, scenarios.READ_WHILE_IT_IS_WRITTEN_AND_DELETED),
    Seed(TrustsACachedOpened, scenarios.PROCESSES_AT_DIFFERENT_RATES),
    Seed(CopiesBeforeItOpens, scenarios.COPY_AND_WRITE_ELSEWHERE),
    Seed(AsksNewBeforeTheLedger, scenarios.STALE_KEY_AND_TWO_READERS),
    Seed(AsksNoLedger, scenarios.READS_GO_BACKWARDS),
    Seed(CopyJoinsAPendingWrite, scenarios.COPY_AND_WRITE),
    Seed(ForgetsContention, scenarios.TWO_WRITERS),
    Seed(SeesNoContention, scenarios.TWO_WRITERS),
    Seed(ReapingForgetsStale, scenarios.CRASH_REAP_AND_COPY),
    Seed(ReapingForgetsContention, scenarios.ONE_OF_TWO_WRITERS_IS_REAPED),
    Seed(WithdrawsAfterOldWasWritten, scenarios.KILL_WRITE_RESUME),
    Seed(WithdrawsWhereItIsCancelled, scenarios.WIDENED_WHILE_IT_IS_WRITTEN, 1, ["cancel"]),
    Seed(WritesWithoutAToken, scenarios.PROCESSES_AT_DIFFERENT_RATES),
    Seed(WritesNewFirst, scenarios.COPY_AND_WRITE),
    Seed(TakesAnErrorOfOldForDone, scenarios.COPY_AND_WRITE, 1, ["fail"]),
    Seed(SaysThatNothingWasWritten, scenarios.COPY_AND_WRITE),
    Seed(SwallowsACancellation, scenarios.COPY_AND_WRITE, 1, ["cancel"]),
    Seed(AwaitsWhenItIsClosed, scenarios.CRASH_WHILE_IT_READS),
    Seed(TakesARefusalForDone, scenarios.GUARD_OPENS_WHILE_IT_IS_DELETED, 1, ["fail"]),
    Seed(TakesHalfABatchForDone, scenarios.GUARD_OPENS_IN_A_BATCH, 1, ["fail"]),
    Seed(TakesHalfABatchForNothing, scenarios.GUARD_OPENS_IN_A_BATCH, 1, ["fail"]),
    Seed(TakesATimeOutForARefusal, scenarios.GUARD_OPENS_WHILE_A_CALL_HANGS, 1, ["late"]),
    Seed(TakesARefusalForAbsence, scenarios.GUARD_OPENS_AND_CLOSES, 1, ["fail"]),
    Seed(ProbesWithACopy, scenarios.GUARD_OPENS_AND_CLOSES, 1, ["fail"]),
    Seed(EndsACopyThatTheGateStopped, scenarios.KILLED_BEFORE_IT_IS_COPIED),
    Seed(CopiesWhatTheReadSaw, scenarios.COPIED_LATER_AND_WRITTEN),
    Seed(CopiesLaterWithoutAToken, scenarios.COPIED_LATER_AND_DELETED),
    Seed(ComparesWithoutAToken, scenarios.COMPARED_AND_WRITTEN),
    Seed(AsksNotWhetherItWasAlone, scenarios.COMPARED_AND_WRITTEN),
    Seed(AsksTooLateWhetherItWasAlone, scenarios.COMPARED_WRITTEN_AND_COPIED),
    Seed(ComparisonClearsAStaleKey, scenarios.COMPARED_WHILE_IT_IS_STALE),
    Seed(TellsWhoseBackgroundFailed, scenarios.COMPARED_AND_WRITTEN, 1, ["fail"]),
    Seed(CopiesWhatTheScanShowed, scenarios.BACKFILLED_AND_WRITTEN),
    Seed(CopiesKeysWithoutAToken, scenarios.REPAIRED_AND_WRITTEN),
    Seed(SkipsWhatNewHas, scenarios.BACKFILLED_WHILE_IT_IS_STALE),
    Seed(SkipsWhatIsPending, scenarios.CRASH_BEFORE_IT_IS_BACKFILLED),
    Seed(CopiesEverythingWithoutOpening, scenarios.ALL_BACKFILLED_AND_WRITTEN),
    Seed(OpensToItsRateForEverything, scenarios.ALL_BACKFILLED_AND_WRITTEN),
    Seed(LeavesOutWhatAKillStopped, scenarios.KILLED_WHILE_IT_IS_BACKFILLED),
    Seed(EndsWhatItLeaves, scenarios.EXTRA_KEY_LEFT_AND_WRITTEN),
    Seed(DeletesWhatWasFound, scenarios.EXTRA_KEY_REPAIRED_AND_WRITTEN),
    Seed(DeletesWithoutAToken, scenarios.EXTRA_KEY_REPAIRED_AND_WRITTEN),
    Seed(VerifiesWithoutAToken, scenarios.VERIFIED_AND_WRITTEN),
    Seed(VerifiesWithoutAskingWhetherItWasAlone, scenarios.VERIFIED_AND_WRITTEN),
    Seed(AsksTooSoonWhetherItWasAlone, scenarios.VERIFIED_AND_WRITTEN),
    Seed(MarksAfterItsTokenIsGone, scenarios.PLANTED_DIFFERENCE),
    Seed(ResetsUnderAToken, scenarios.RESET_AND_WRITTEN),
    Seed(LooksOnlyAtNewBeforeItResets, scenarios.RESET_WHILE_IT_IS_COPIED),
    Seed(ComparesWhatWasWrittenWithoutTheLedger, scenarios.COMPARED_WITHOUT_THE_LEDGER),
    Seed(RemembersAfterOldWasChanged, scenarios.WRITTEN_WITHOUT_THE_LEDGER),
    Seed(ForgetsBeforeItIsMarked, scenarios.WRITTEN_WITHOUT_THE_LEDGER),
    Seed(MarksWithoutRegardToACopy, scenarios.COPIED_WHILE_IT_IS_WRITTEN_WITHOUT_THE_LEDGER),
    Seed(TakesAMarkForOneOfALaterChange, scenarios.WRITTEN_AGAIN_WITHOUT_THE_LEDGER),
    Seed(ForgetsWhenItSendsTheMark, scenarios.MARKED_WITH_TROUBLE, 1, ["cancel"]),
    Seed(MarksWhileItIsChanged, scenarios.COPIED_WHILE_IT_IS_WRITTEN_WITHOUT_THE_LEDGER),
    Seed(MarksAsIfOldHadNotRaised, scenarios.OLD_LANDS_LATE_WITHOUT_THE_LEDGER, 1, ["late"]),
    Seed(NeverMarks, scenarios.WRITTEN_WITHOUT_THE_LEDGER),
]
