"""What a proxy does beside its operations: marks, copies, comparisons, and the probe of a New that is given up.

None of it may hurt a caller: nobody waits for it, what it may pile up is bounded (H16), and its failures are
counted and logged. It keeps the protocol as the operations do.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Generic, Literal, NamedTuple, TypeVar

from zddm_flags._async.changes import Located
from zddm_flags._async.errand import AsyncErrand
from zddm_flags._async.migration import AsyncMigration, by_name
from zddm_flags.background import KeyQueue, approximate_bytes
from zddm_flags.deadline import DeadlinePassed
from zddm_flags.errors import InvalidKey, LedgerMismatch, LedgerUnavailable, Unsupported
from zddm_flags.gate import TrafficGate
from zddm_flags.guard import CircuitBreaker, GuardOpen
from zddm_flags.ledger import AsyncLedger
from zddm_flags.pace import Pace
from zddm_flags.protocols import AsyncStorageAdapter
from zddm_flags.settings import Settings
from zddm_telemetry import Cause, OperationTelemetry, Telemetry

__all__ = ["AsyncBackground"]

K = TypeVar("K")
V = TypeVar("V")

Verdict = Literal["equal", "different", "unsure", "failed"]


class _Waiting(NamedTuple, Generic[K]):
    """A key that something is done with later, and the span of the operation that it is done for."""

    located: Located[K]
    cause: Cause | None


class AsyncBackground(AsyncMigration[K, V]):
    """The steps of the protocol, and what is done with them beside the operations. See `AsyncProxy`."""

    def __init__(
        self,
        gate: TrafficGate,
        old: AsyncStorageAdapter[K, V],
        new: AsyncStorageAdapter[K, V],
        ledger: AsyncLedger | None,
        telemetry: Telemetry,
        settings: Settings,
    ) -> None:
        super().__init__(gate, old, new, ledger, telemetry, settings)
        copies, shadow = settings.copies, settings.shadow
        self._copy_pace = Pace(copies.per_second, self._clock)
        self._to_copy: KeyQueue[_Waiting[K]] = KeyQueue(copies.max_keys, copies.max_bytes)
        self._compare_pace = Pace(shadow.per_second if shadow else None, self._clock)
        self._to_compare: KeyQueue[_Waiting[K]] = KeyQueue(shadow.max_keys if shadow else 0)
        self._marking = AsyncErrand(
            self.mark_unmarked, lambda: bool(self._unmarked) and not self._closed, _MARK_SECONDS
        )
        # A probe waits for no copy or comparison: a stalled store holds them for as long as its driver lets it.
        self._probing = AsyncErrand(self._probe, self._has_probe, _CHORES_SECONDS)
        self._chores = AsyncErrand(self._do_chores, self._has_chores, _CHORES_SECONDS)

    def _has_probe(self) -> bool:
        return self._probe_with is not None and not self._closed

    def _has_chores(self) -> bool:
        return bool(self._to_copy) or bool(self._to_compare)

    async def do_background_work(self) -> int:
        """Try a New again that the guard gave up, and copy and compare keys that wait for that: one round of each.

        Happens by itself, twenty times a second, while there is some of it. Never raises. Returns how many keys
        were found to differ.
        """
        await self._probe()
        return await self._do_chores()

    async def _do_chores(self) -> int:
        await self._copy_some()
        return await self._compare_some()

    # -- the probe --------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Read New once, for nobody, to see whether it can be used again."""
        asked, breaker = self._probe_with, self._breaker
        if asked is None or breaker is None:
            return
        # A kill, of reads and writes, or close() may have come since the probe was due.
        if not self._new_takes_writes() or self._closed:
            self._probed(asked, breaker, None)
            return
        key, cause = asked
        with suppress(Exception), self._telemetry.work("probe", [cause]):
            succeeded: bool | None = None
            try:
                await self._new.probe(key)
                succeeded = True
            except Exception as error:
                self._new_failed("probe", error)
                succeeded = False
                raise
            finally:  # within the probe's span, which is where the guard's change belongs
                self._probed(asked, breaker, succeeded)

    def _probed(self, asked: object, breaker: CircuitBreaker, succeeded: bool | None) -> None:
        """What became of a probe. None: it was not made, or not to its end, which says nothing of New."""
        # Not forgotten before it is over: one that ends with its event loop is made by the next errand. Nor after
        # the breaker is told, which may ask for another one at once.
        if self._probe_with is asked:
            self._probe_with = None
        breaker.probed(succeeded=succeeded)

    def _still_wanted(self, batch: Sequence[_Waiting[K]]) -> tuple[list[Located[K]], list[Cause | None]]:
        """The keys that may still be read from New, in canonical order, and what they wait for."""
        wanted = [
            each
            for each in batch
            if self._why_not_read_new(each.located.hash, each.located.name, each.located.key) is None
        ]
        located = sorted((each.located for each in wanted), key=by_name)
        return located, [each.cause for each in wanted]

    # -- copies -----------------------------------------------------------------------------------------------

    async def _read_old_in_place_of_new(
        self,
        wanted: Sequence[Located[K]],
        besides: Sequence[Located[K]],
        dirty: Collection[bytes],
        operation: OperationTelemetry,
    ) -> dict[K, V]:
        """Read `wanted` and `besides` from Old, and see to it that `wanted` are copied, as the settings say."""
        if dirty:
            await self._reap_if_due()
        inline = self._settings.copies.mode == "inline"
        now = wanted[: self._copy_pace.take(len(wanted))] if inline else []
        not_now = wanted[len(now) :]
        if not not_now:
            return await self._read_old_and_copy(now, besides, dirty, operation)
        values = await self._read_old_and_copy(now, [*not_now, *besides], dirty, operation)
        for each in not_now:
            operation.count("dirty" if each.name in dirty else "miss")
        if self._settings.copies.mode == "background" and self._old.info.strong_reads:
            self._copy_later([each for each in not_now if each.key in values or each.name in dirty], values)
        return values

    def _copy_later(self, wanted: Sequence[Located[K]], values: Mapping[K, V]) -> None:
        size_of = self._settings.copies.size_of or approximate_bytes
        dropped = 0
        cause = self._telemetry.cause()
        for each in wanted:
            try:
                size = max(0, int(size_of(values[each.key]))) if each.key in values else 0
            except Exception as error:  # a function of the user's, which must not fail the read
                self._telemetry.report_limited("size_of_failed", error=type(error).__name__)
                size = 0
            # A read that was in progress at close() leaves nothing behind: the stores may be closed next.
            dropped += self._closed or not self._to_copy.add(each.name, _Waiting(each, cause), size)
        if dropped:
            self._drop(dropped)
        if self._to_copy:
            self._chores.start()

    def _drop(self, keys: int) -> None:
        """Copies that are not made. The keys are as they were: the next read of each asks again."""
        self._telemetry.counts.add_dropped(keys)
        self._telemetry.report_limited("copies_dropped", keys=keys)

    async def _copy_some(self) -> int:
        """Copy keys that wait, as many as may be copied now; returns how many were taken for that."""
        allowed = self._copy_pace.take(min(len(self._to_copy), self._settings.max_batch))
        batch = self._to_copy.take(allowed)
        self._copy_pace.give_back(allowed - len(batch))
        wanted, causes = self._still_wanted(batch)
        if len(wanted) < len(batch):
            self._drop(len(batch) - len(wanted))
        if wanted:
            try:
                with self._telemetry.operation("copy", batch=True, causes=causes) as operation:
                    operation.batched(len(wanted), self._gate.rate)
                    try:
                        await self._read_old_and_copy(wanted, (), (), operation)
                    except Exception:  # Old's
                        operation.count("old_failed", len(wanted))
                        raise
            except Exception as error:
                self._telemetry.report_limited("copy_failed", error=type(error).__name__)
                self._drop(len(wanted))
        return len(batch)

    async def _settle_copies(self) -> None:
        """What waits to be copied is copied, or not, as the settings say for `close()`."""
        copies = self._settings.copies
        try:
            if copies.mode == "background" and copies.on_close == "finish":
                # Not in the caller's own thread or task, which a New that hangs would keep for longer.
                if self._to_copy:
                    self._chores.start()
                await self._chores.wait(copies.close_seconds)
        finally:  # a close() that is cancelled leaves nothing behind either
            dropped = self._to_copy.clear()
            if dropped:
                self._drop(dropped)

    # -- comparisons ------------------------------------------------------------------------------------------

    def _served_by_new(self, key_hash: int, name: bytes, key: K) -> None:
        """New served a key: it is compared some time soon, if it is one of those that are."""
        shadow = self._settings.shadow
        if shadow is not None and not self._closed and random.random() < shadow.share:
            self._to_compare.add(name, _Waiting(Located(key_hash, name, key), self._telemetry.cause()))
            self._chores.start()

    async def _compare_some(self) -> int:
        """Compare keys that wait, as many as may be compared now; returns how many of them differ."""
        if self._settings.shadow is None or not self._to_compare:
            return 0
        allowed = self._compare_pace.take(min(len(self._to_compare), self._settings.max_batch))
        batch = self._to_compare.take(allowed)
        self._compare_pace.give_back(allowed - len(batch))
        wanted, causes = self._still_wanted(batch)
        if not wanted:
            return 0
        try:
            with self._telemetry.operation("compare", batch=True, causes=causes) as operation:
                operation.batched(len(wanted), self._gate.rate)
                try:
                    found = await self._compare(wanted)
                except Exception:  # Old's
                    operation.count("old_failed", len(wanted))
                    raise
                for verdict, keys in found.items():
                    operation.count(verdict, keys)
                return found.get("different", 0)
        except Exception as error:
            self._telemetry.report_limited("comparison_failed", error=type(error).__name__)
            return 0

    async def _compare(self, wanted: Sequence[Located[K]]) -> Mapping[Verdict, int]:
        """Compare the keys' values; differing ones are marked stale. Returns how many of each verdict there are.

        The token of a copy is held while both stores are read. Where the ledger says, after both were, that it
        was alone from its begin until then, nothing wrote the key meanwhile: every write takes its token before it
        touches Old. What the ledger says later proves nothing, for a copy may have made the key clean by then.
        """
        token = self._new_token()
        grant = await self._begin_copy(wanted, token)
        if grant is None:
            return {"unsure": len(wanted)}
        granted = [each for each in wanted if each.name in grant.granted]
        fresh = [each for each in granted if each.name not in grant.stale]
        try:
            compared = await self._read_and_compare(fresh) if fresh else None
            certain = await self._those_alone(compared[0], token) if compared is not None else []
        except GeneratorExit:
            raise
        except BaseException:
            await self._withdraw(granted, token)  # nothing was written
            raise
        if compared is None:
            await self._withdraw(granted, token)
            return {"unsure": len(wanted)}
        differing, failed = compared
        names = {each.name for each in certain}
        await self._withdraw([each for each in granted if each.name not in names], token)
        if certain:
            await self._distrust(certain, token)
        unsure = len(wanted) - len(fresh) + len(differing) - len(certain)
        equal = len(fresh) - len(differing) - failed
        return {"equal": equal, "different": len(certain), "unsure": unsure, "failed": failed}

    async def _read_and_compare(self, located: Sequence[Located[K]]) -> tuple[list[Located[K]], int] | None:
        """The keys whose values differ, and how many could not be compared. None: New could not be asked."""
        shadow = self._settings.shadow
        if shadow is None:
            return None
        held = await self._read_old(located)
        permit = self._deadline().only_while(self._new_takes_reads)
        try:
            served = await self._new.read_many([each.key for each in located], permit)
        except (DeadlinePassed, GuardOpen):
            return None
        except Exception as error:
            self._new_failed("read", error)
            return None
        differing: list[Located[K]] = []
        failed = 0
        for each in located:
            value = served.get(each.key)
            if value is None:
                continue  # a key that New lacks is no difference: a read finds it in Old
            try:
                if each.key not in held or not shadow.equal(held[each.key], value):
                    differing.append(each)
            except Exception as error:  # a function of the user's
                failed += 1
                self._telemetry.report_limited("comparison_failed", error=type(error).__name__)
        return differing, failed

    async def _those_alone(self, differing: Sequence[Located[K]], token: bytes) -> list[Located[K]]:
        """Those that nothing has written since the token began."""
        # What was written without the ledger is left out first: were it marked by now, the ledger would know.
        known = [each for each in differing if each.name not in self._unmarked]
        if not known:
            return []
        try:
            alone = set(await self._ledger.alone([each.name for each in known], token))
        except Exception as error:
            self._ledger_failed("alone", error)
            return []
        return [each for each in known if each.name in alone]

    async def _distrust(self, differing: Sequence[Located[K]], token: bytes) -> None:
        """New holds what Old does not: say so, and end the token so that the keys are stale."""
        self._telemetry.report_limited(
            "keys_differ",
            keys=len(differing),
            hashes=[f"{each.hash:016x}" for each in differing[:_HASHES_SHOWN]],
        )
        if self._guardrail is not None:
            self._kill_if(self._guardrail.differed(len(differing)))
        await self._end(dict.fromkeys((each.name for each in differing), False), token)

    # -- marks ------------------------------------------------------------------------------------------------

    async def mark_unmarked(self) -> int:
        """Tell the ledger of the keys that were changed without it (`on_ledger_error="available"`).

        Happens by itself, every second, until all are marked. Returns how many keys are left: those that are
        being changed now, or all of them where the ledger still cannot be reached.
        """
        # Several may do this at once, such as close() beside the background: a key that is marked twice is stale.
        keys = 0
        while marked := self._unmarked.to_mark(self._settings.max_batch):
            try:
                _, token = await self._begin(list(marked))
            except (LedgerUnavailable, LedgerMismatch, InvalidKey, Unsupported):
                break
            # From here on the keys are dirty for everybody, and tokens that were pending end stale.
            self._unmarked.forget(marked)
            keys += len(marked)
            # Where a change of Old may yet land the token is left to the reaper, which comes after that.
            await self._end({name: None if known.unsure else False for name, known in marked.items()}, token)
        if keys:  # again and again, where the ledger fails now and then
            self._telemetry.report_limited("keys_marked", keys=keys)
        left = len(self._unmarked)
        if left and self._closed:
            self._telemetry.report("error", "closed_with_unmarked_keys", keys=left, advice=_UNMARKED)
        return left


_UNMARKED = (
    "other processes may serve what New held of these keys before, until the keys are written again: set the rate "
    "to 0 until New was emptied"
)
_MARK_SECONDS = 1.0
_CHORES_SECONDS = 0.05
_HASHES_SHOWN = 10
