"""The proxy: what the application calls instead of its store.

docs/protocol.md tells the protocol. What every line below serves: *a clean key's value in New, if
there is one, equals Old's*. A key is dirty from `begin` to `end`, so New is not read meanwhile; `end` clears it
only if its token was alone all that time and New was written, or was never opened for the key.

What must not happen to a token: it is ended or withdrawn only while none of its calls to a store can still take
effect. A call that raised or was cancelled can (H4, H5), so its token stays until it is reaped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from zddm_flags._async._world import DefaultLedger, in_background
from zddm_flags._async.changes import Change, Delete, Located, WriteMany, WriteOne
from zddm_flags._async.store import AsyncStore
from zddm_flags._fork import after_fork_in_child
from zddm_flags.deadline import Deadline, DeadlinePassed
from zddm_flags.errors import (
    InvalidKey,
    LedgerMismatch,
    LedgerUnavailable,
    NotApplied,
    OperationTimedOut,
    ProxyClosed,
    Unsupported,
)
from zddm_flags.gate import TrafficGate
from zddm_flags.hashing import passes
from zddm_flags.ledger import (
    MAX_KEY_BYTES,
    AsyncLedger,
    AsyncMigrationLedger,
    CopyGrant,
    Grant,
    LedgerSummary,
    Opening,
)
from zddm_flags.protocols import AsyncStorageAdapter
from zddm_flags.stats import ProxyStats
from zddm_flags.tokens import new_token
from zddm_flags.unmarked import UnmarkedKeys
from zddm_telemetry import Gauges, MigrationTelemetry, OperationTelemetry, Telemetry

__all__ = ["AsyncProxy"]

K = TypeVar("K")
V = TypeVar("V")


class AsyncProxy(Generic[K, V]):
    """Reads and writes of one kind of thing while it moves from `old` to `new`.

    A value that is served from New always equals what Old holds at some moment during the read, provided that
    every write goes through a proxy with the same ledger (the README lists the assumptions).

    Args:
        gate: which keys take part.
        old: the authority. Every write goes here first, and its errors reach the caller unchanged.
        new: where the keys move to. Its errors are reported by span, metric and log, never raised.
        name: names the migration in the ledger, in spans, metrics and logs. Needed with a `ledger`.
        ledger: which keys of New must not be trusted. None: in memory, for one process whose New starts empty;
            where New is verified but not empty, give one in memory that was made with `opened=1.0`.
        max_operation_seconds: an operation that could not write Old within this time raises
            `OperationTimedOut`, and tokens older than this (and a margin) are reaped; older than the largest that
            any proxy of the migration ever had, where they differ. Above 0.
        max_call_seconds: how long one call to a store may take to have its effect, by the driver's time-outs.
            No write is issued later than `max_operation_seconds` less this. None: a third of it.
        on_ledger_error: what a write does that cannot reach the ledger; a read goes to Old. `"strict"`: it raises
            `LedgerUnavailable` before Old is touched. `"available"`: it changes Old alone and marks the keys
            in the ledger once that can be reached. Until then this proxy reads them from Old, but others may
            serve what New held before: the promise is suspended (docs/guarantees.md says how far).
        max_unmarked_keys: keys that may wait to be marked, after which `"available"` is as `"strict"`. From 1.
        max_batch: keys that one step of a batch takes at a time, from 1.
        telemetry: where spans and metrics go; None uses the global OpenTelemetry providers.
        clock: monotonic seconds; for tests.
        new_token: makes tokens; for tests.

    Thread-safe if the adapters are (asyncio: for the tasks of one event loop). Enabled until `disable()`.
    Close it, or use it as a context manager; the stores, the gate and the ledger remain the caller's to close.

    Raises:
        Unsupported: an adapter is of the wrong world or lacks read or write, or New's reads are not strong.
        LedgerMismatch: the in-memory ledger knows this migration with another hasher or encoding. A shared one
            raises it from the first write on.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        gate: TrafficGate,
        old: AsyncStorageAdapter[K, V],
        new: AsyncStorageAdapter[K, V],
        *,
        name: str | None = None,
        ledger: AsyncLedger | None = None,
        max_operation_seconds: float = 30.0,
        max_call_seconds: float | None = None,
        on_ledger_error: Literal["strict", "available"] = "strict",
        max_unmarked_keys: int = 10_000,
        max_batch: int = 500,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
        new_token: Callable[[], bytes] = new_token,
    ) -> None:
        if max_call_seconds is None:
            max_call_seconds = max_operation_seconds / 3
        if not 0 < max_call_seconds < max_operation_seconds < float("inf"):
            raise ValueError("0 < max_call_seconds < max_operation_seconds must hold, and both be finite")
        if max_batch < 1 or max_unmarked_keys < 1:
            raise ValueError("max_batch and max_unmarked_keys must be at least 1")
        if on_ledger_error not in ("strict", "available"):
            raise ValueError('on_ledger_error must be "strict" or "available"')
        if name is None and ledger is not None:
            raise ValueError("a migration with a ledger of its own needs a name=, which its rows are kept under")
        self.name = name if name is not None else "default"
        self._gate = gate
        self._telemetry = MigrationTelemetry(telemetry or Telemetry(), self.name, gate.flag_key)
        self._old = AsyncStore("old", old, self._telemetry)
        self._new = AsyncStore("new", new, self._telemetry)
        if not self._new.info.strong_reads:
            raise Unsupported("new: its reads do not see every acknowledged write, so a read could be stale")
        ledger = ledger if ledger is not None else DefaultLedger()
        self._available = on_ledger_error == "available"
        self._unmarked = UnmarkedKeys(max_unmarked_keys)
        self._background: Callable[[], bool] | None = None  # whether what marks still goes on
        self._issue_seconds = max_operation_seconds - max_call_seconds
        self._begin_again_seconds = max_operation_seconds / 10
        self._reap_age = max_operation_seconds * 1.1 + 1.0
        self._ledger: AsyncMigrationLedger = ledger.migration(self.name, gate.identity, self._reap_age)
        self._reap_interval = max_operation_seconds / 4
        self._next_reap = 0.0
        self._max_batch = max_batch
        self._clock = clock
        self._new_token = new_token
        self._opening = Opening(0.0, -1)
        self._enabled = True
        self._forked = False
        self._fork_reported = False
        self._closed = False
        self._telemetry.show(self, self._gauges)
        self._ledger_is_shared = ledger.shared
        after_fork_in_child(self._after_fork)
        if not ledger.shared:
            self._telemetry.report(
                "info",
                "ledger_in_memory",
                promise="for this process alone, from a New that is empty, or as far as opened= says",
            )

    # -- operations -------------------------------------------------------------------------------------------

    async def read(self, key: K) -> V | None:
        """The value of `key`, or None where neither store has one.

        Raises:
            InvalidKey: the key's type has no canonical encoding.
            ProxyClosed: after `close()`.

        Whatever Old raises passes through. An unreachable ledger or New never fails a read: Old serves it.
        """
        if self._closed:
            raise self._closed_error()
        with self._telemetry.operation("read") as operation:
            key_hash, name = self._gate.locate(key)
            why_old = self._why_not_read_new(key_hash, name)
            if operation.recording:
                decision = self._gate.decision
                operation.located(key, key_hash, decision.rollout.read, key_hash < decision.read_below)
            if why_old is not None:
                operation.path = why_old
                return await self._old.read(key)
            try:
                dirty = await self._ledger.dirty((name,))  # acknowledged before New is asked (H9)
            except Exception as error:
                self._ledger_failed("dirty", error)
                operation.path = "ledger_failed"
                return await self._old.read(key)
            if not dirty:
                # A kill may have arrived while the ledger was asked.
                why_old = self._why_not_read_new(key_hash, name)
                if why_old is not None:
                    operation.path = why_old
                    return await self._old.read(key)
                try:
                    value = await self._new.read(key)
                except Exception as error:
                    self._new_failed("read", error)
                    operation.path = "new_failed"
                    return await self._old.read(key)
                if value is not None:
                    operation.path = "new_hit"
                    return value
            located = Located(key_hash, name, key)
            return (await self._read_old_and_copy([located], (), dirty, operation)).get(key)

    async def read_many(self, keys: Iterable[K]) -> dict[K, V]:
        """The values of `keys`; keys that are in neither store are left out.

        Each key is read as `read` does it, with one call per step for up to `max_batch` keys; the batch is no
        snapshot of several keys at one moment. Raises what `read` raises.
        """
        if self._closed:
            raise self._closed_error()
        found: dict[K, V] = {}
        with self._telemetry.operation("read", batch=True) as operation:
            located = self._locate(keys)
            operation.batched(len(located), self._gate.rate)
            for chunk in self._chunks(located):
                await self._read_chunk(chunk, found, operation)
        return found

    async def write(self, key: K, value: V) -> None:
        """Insert or replace `key`. When it returns, Old has the value.

        Raises:
            TypeError: the value is None; use `delete`.
            InvalidKey: the key's type has no canonical encoding, or the key is too long for the ledger.
            LedgerUnavailable: the ledger could not be reached; neither store was touched.
            LedgerMismatch: the ledger was lost, or is another's; neither store was touched, and the error's text
                says what to do. Raised at every rate and with either `on_ledger_error`.
            Unsupported: the server cannot hold a ledger; neither store was touched.
            OperationTimedOut: the time ran out before Old was written; neither store was touched.
            ProxyClosed: after `close()`.

        Whatever Old raises passes through; such a write takes effect at most once, at any moment until
        `max_operation_seconds` after it began, or never.
        """
        _check_value(value)
        await self._change_one(key, WriteOne(value))

    async def write_many(self, items: Mapping[K, V]) -> None:
        """Insert or replace each item, as `write` does it, with one call per step for up to `max_batch` keys.

        Where it raises, some items may be written and others not. Raises what `write` raises; a value that is
        None raises before anything is touched.
        """
        items = dict(items)  # the caller may change its own while Old is written, and New must get the same
        for value in items.values():
            _check_value(value)
        if self._closed:
            raise self._closed_error()
        with self._telemetry.operation("write", batch=True) as operation:
            located = self._locate(items)
            operation.batched(len(located), self._gate.rate)
            for chunk in self._chunks(located):
                await self._change(chunk, WriteMany(items), operation)

    async def delete(self, key: K) -> None:
        """Remove `key`; no error where it is absent. When it returns, Old does not have it.

        Raises what `write` raises, and Unsupported, before anything is touched, where Old cannot delete. A New
        that cannot delete keeps the key's old value: the key then stays stale and is served by Old.
        """
        if not self._old.can_delete:
            raise Unsupported("old: its adapter has no delete()")
        await self._change_one(key, Delete())

    # -- control ----------------------------------------------------------------------------------------------

    def enable(self) -> None:
        """Let New be used again after `disable()`. No I/O. What was written meanwhile is read from Old.

        Raises:
            LedgerUnavailable: in the child of a fork, whose in-memory ledger is a copy that sees nothing.
        """
        if self._forked:
            raise LedgerUnavailable(_FORKED)
        if not self._enabled:
            self._enabled = True
            self._telemetry.report("info", "proxy_enabled")

    def disable(self) -> None:
        """Stop using New in this process, at once: the local kill switch. No I/O.

        Calls to New that are in flight finish; no further one begins. Writes go on marking their keys, so that
        `enable()` serves nothing stale. So they still need the ledger.
        """
        if self._enabled:
            self._enabled = False
            self._telemetry.report("warning", "proxy_disabled")

    @property
    def enabled(self) -> bool:
        """Whether New may be used by this proxy, as far as the local switch goes."""
        return self._enabled

    def stats(self) -> ProxyStats:
        """What this proxy did so far, and the rates and the ledger as this process last saw them. No I/O."""
        counts = self._telemetry.counts.snapshot()
        summary = self._ledger.last_summary()
        return ProxyStats(
            operations=dict(counts.operations),
            calls=dict(counts.calls),
            copies=counts.copies,
            rollout=self._gate.decision.rollout,
            enabled=self._enabled,
            opened=summary.opened,
            stale_keys=summary.stale,
            pending_tokens=summary.pending,
            unmarked_keys=len(self._unmarked),
        )

    async def ledger_summary(self) -> LedgerSummary:
        """What the ledger holds of this migration now: one call to it. Raises what the ledger raises.

        `stats()` shows the same as this process last saw it.
        """
        return await self._ledger.summary()

    async def close(self) -> None:
        """Take no more operations. Those in progress finish. Idempotent.

        Keys that the ledger has not heard of are marked, if it can be reached now.
        """
        self._closed = True
        await self.mark_unmarked()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        await self.close()

    # -- reading ----------------------------------------------------------------------------------------------

    async def _read_chunk(
        self, chunk: Sequence[Located[K]], found: dict[K, V], operation: OperationTelemetry
    ) -> None:
        """`read` for many keys; adds what it finds to `found`."""
        from_old: list[Located[K]] = []  # to be read from Old, and not copied
        from_new = self._readable(chunk, from_old, operation)
        dirty: Collection[bytes] = ()
        if from_new:
            try:
                dirty = await self._ledger.dirty([each.name for each in from_new])
            except Exception as error:
                self._ledger_failed("dirty", error)
                operation.count("ledger_failed", len(from_new))
                from_old += from_new
                from_new = []
        dirty = set(dirty)
        to_copy = [each for each in from_new if each.name in dirty]
        clean = [each for each in from_new if each.name not in dirty]
        clean = self._readable(clean, from_old, operation)
        if clean:
            try:
                permit = self._deadline().only_while(self._new_takes_reads)
                hits = await self._new.read_many([each.key for each in clean], permit)
            except DeadlinePassed:
                for each in clean:
                    operation.count(self._why_not_read_new(each.hash, each.name) or "new_failed")
                from_old += clean
            except Exception as error:
                self._new_failed("read", error)
                operation.count("new_failed", len(clean))
                from_old += clean
            else:
                for each in clean:
                    value = hits.get(each.key)
                    if value is None:
                        to_copy.append(each)
                    else:
                        found[each.key] = value
                        operation.count("new_hit")
        if to_copy or from_old:
            to_copy.sort(key=_name)
            found.update(await self._read_old_and_copy(to_copy, from_old, dirty, operation))

    def _readable(
        self, located: Sequence[Located[K]], refused: list[Located[K]], operation: OperationTelemetry
    ) -> list[Located[K]]:
        """Those that may be read from New now; the others are counted and added to `refused`."""
        readable: list[Located[K]] = []
        for each in located:
            why_old = self._why_not_read_new(each.hash, each.name)
            if why_old is None:
                readable.append(each)
            else:
                operation.count(why_old)
                refused.append(each)
        return readable

    async def _read_old_and_copy(
        self,
        wanted: Sequence[Located[K]],
        besides: Sequence[Located[K]],
        dirty: Collection[bytes],
        operation: OperationTelemetry,
    ) -> dict[K, V]:
        """Read `wanted` and `besides` from Old, and bring what may be copied of `wanted` into New.

        `dirty` are those that the ledger called dirty. A failure of the copy never fails the read.
        """
        if dirty:
            await self._reap_if_due()
        deadline = self._deadline()
        token = self._new_token()
        grant = await self._begin_copy(wanted, token)
        granted = [each for each in wanted if grant is not None and each.name in grant.granted]
        try:
            values = await self._read_old([*wanted, *besides])
        except GeneratorExit:
            raise  # the coroutine is being closed and can await nothing: the token is left to the reaper
        except BaseException:
            await self._withdraw(granted, token)  # a read has no effect that could come late
            raise
        paths: dict[bytes, str] = {}
        if grant is not None and granted:
            paths = await self._copy(granted, values, grant, token, deadline)
        elif grant is None and self._old.info.strong_reads:
            paths = {each.name: "ledger_failed" for each in wanted}
        for each in wanted:
            pending = grant is not None or each.name in dirty
            operation.count(paths.get(each.name) or ("dirty" if pending else "miss"))
        return values

    async def _read_old(self, located: Sequence[Located[K]]) -> dict[K, V]:
        if len(located) == 1:
            value = await self._old.read(located[0].key)
            return {} if value is None else {located[0].key: value}
        found = await self._old.read_many([each.key for each in located])
        return {each.key: value for each in located if (value := found.get(each.key)) is not None}

    async def _begin_copy(self, wanted: Sequence[Located[K]], token: bytes) -> CopyGrant | None:
        """Ask for the right to copy. None: no copy, because the ledger failed or Old's reads may lag (H18).

        Not retried: after an unknown outcome the key is read from Old, and the token, if any, is reaped.
        """
        if not wanted or not self._old.info.strong_reads:
            return None
        try:
            return await self._ledger.begin_copy([each.name for each in wanted], token)
        except Exception as error:
            self._ledger_failed("begin_copy", error)
            return None

    async def _copy(
        self,
        granted: Sequence[Located[K]],
        values: Mapping[K, V],
        grant: CopyGrant,
        token: bytes,
        deadline: Deadline,
    ) -> dict[bytes, str]:
        """Make New hold what Old held; returns the path of each granted key."""
        try:
            admitted, why_not = await self._admitted(granted, grant)
        except GeneratorExit:
            raise
        except BaseException:
            await self._withdraw(granted, token)  # New was not touched
            raise
        if deadline.passed:
            admitted, why_not = [], "new_failed"
        paths = {each.name: why_not for each in granted}
        names = {each.name for each in admitted}
        await self._withdraw([each for each in granted if each.name not in names], token)
        present = [each for each in admitted if each.key in values]
        absent = [each for each in admitted if each.key not in values]
        # Absence is never cached (H10). A stale key that Old lacks is deleted even if New missed it a moment
        # ago (H3); where the key is not stale New has nothing to delete.
        gone = [each for each in absent if each.name in grant.stale]
        outcomes: dict[bytes, bool | None] = {each.name: True for each in absent}
        paths.update((each.name, "miss") for each in absent)
        if present:
            done = await self._apply_to_new(WriteMany(values), present, deadline)
            outcomes.update((each.name, done) for each in present)
            paths.update((each.name, "copied" if done else "new_failed") for each in present)
            if done:
                self._telemetry.counts.add_copies(len(present))
        if gone:
            done = await self._apply_to_new(Delete(), gone, deadline)
            outcomes.update((each.name, done) for each in gone)
        await self._end(outcomes, token)
        return paths

    # -- changing ---------------------------------------------------------------------------------------------

    async def _change_one(self, key: K, change: Change[K, V]) -> None:
        if self._closed:
            raise self._closed_error()
        with self._telemetry.operation(change.operation) as operation:
            key_hash, name = self._gate.locate(key)
            if operation.recording:
                decision = self._gate.decision
                operation.located(key, key_hash, decision.rollout.write, key_hash < decision.write_below)
            await self._change([Located(key_hash, name, key)], change, operation)

    async def _change(
        self, located: Sequence[Located[K]], change: Change[K, V], operation: OperationTelemetry
    ) -> None:
        """Begin -> Old -> New, where the gate, read again, admits the key -> end."""
        deadline = self._deadline()  # the clock starts before begin is sent
        try:
            grant, token = await self._begin([each.name for each in located])
        except (LedgerMismatch, InvalidKey, Unsupported):
            operation.count("ledger_failed", len(located))
            raise
        except LedgerUnavailable:
            operation.count("ledger_failed", len(located))
            # A key that the ledger may refuse could never be marked, nor those that are marked with it.
            if not self._available or any(len(each.name) > MAX_KEY_BYTES for each in located):
                raise
            await self._change_unmarked(located, change, deadline)
            return
        if deadline.passed:
            operation.count("ledger_failed", len(located))
            await self._withdraw(located, token)
            raise OperationTimedOut(
                "the ledger took too long: max_operation_seconds less max_call_seconds passed before Old was "
                "written; neither store was changed"
            )
        refused = await self._apply_to_old(change, located, deadline)  # an error leaves the token (H4)
        if refused is not None:
            outcomes = self._outcomes(located, (), grant)
            operation.stale_marked = bool(grant.contended) or not all(outcomes.values())
            await self._end(outcomes, token)
            raise refused.__cause__ or refused  # out of the handler, so that its own cause stays as it was
        try:
            admitted, why_not = await self._admitted(located, grant)
        except GeneratorExit:
            raise
        except BaseException:
            # Old is written, New is not.
            await self._end(dict.fromkeys((each.name for each in located), False), token)
            raise
        operation.count(why_not, len(located) - len(admitted))
        done: bool | None = None
        if admitted and deadline.passed:
            # Old has the value, so the caller's change is done; the reaper makes the keys stale.
            self._telemetry.report_limited("operation_out_of_time", operation=change.operation)
            operation.count("new_failed", len(admitted))
        elif admitted:
            done = await self._apply_to_new(change, admitted, deadline)
            operation.count("both" if done else "new_failed", len(admitted))
        outcomes = self._outcomes(located, admitted if done else (), grant)
        if done is None:
            outcomes.update((each.name, None) for each in admitted)
        operation.stale_marked = bool(grant.contended) or not all(outcomes.values())
        await self._end(outcomes, token)
        if grant.contended:
            await self._reap_if_due()

    async def _begin(self, names: Sequence[bytes]) -> tuple[Grant, bytes]:
        """Take the token that makes the keys dirty; raises LedgerUnavailable before a store is touched.

        An attempt that failed soon is made again: a deadlock, or a connection that died while nobody used it.
        Each has a token of its own, for an earlier attempt may yet land, and is then for the reaper.
        """
        again_until = self._clock() + self._begin_again_seconds
        attempts = 0
        while True:
            attempts += 1
            token = self._new_token()
            try:
                return await self._ledger.begin(names, token), token
            except InvalidKey:
                raise
            except Exception as error:
                self._ledger_failed("begin", error)
                if isinstance(error, (LedgerMismatch, Unsupported)):
                    raise
                if attempts < _BEGIN_ATTEMPTS and self._clock() < again_until:
                    continue
                raise LedgerUnavailable(
                    f"the ledger of migration {self.name!r} could not be reached; neither store was changed"
                ) from error

    async def _apply_to_old(
        self, change: Change[K, V], located: Sequence[Located[K]], deadline: Deadline
    ) -> NotApplied | None:
        """Change Old; returns the error that says that it certainly was not changed. Raises what Old raises."""
        try:
            await change.apply(self._old, located, deadline)
        except NotApplied as error:
            return error
        except DeadlinePassed:
            raise OperationTimedOut(
                "max_operation_seconds less max_call_seconds passed in the middle of a batch; some of it may "
                "have been written to Old"
            ) from None
        return None

    # -- without the ledger -----------------------------------------------------------------------------------

    async def _change_unmarked(
        self, located: Sequence[Located[K]], change: Change[K, V], deadline: Deadline
    ) -> None:
        """Change Old alone, and see to it that the ledger hears of it."""
        if deadline.passed:
            raise OperationTimedOut(
                "max_operation_seconds less max_call_seconds passed before the ledger failed; neither store was "
                "changed: give the ledger's driver shorter time-outs"
            )
        names = [each.name for each in located]
        # Before Old is changed, so that no read here trusts New from then on.
        self._unmarked.add(names, self._new_token())
        certain = False
        try:
            refused = await self._apply_to_old(change, located, deadline)
            certain = True
        finally:
            self._unmarked.changed(names, certain=certain)
            self._mark_in_background()
        if refused is not None:
            raise refused.__cause__ or refused

    async def mark_unmarked(self) -> int:
        """Tell the ledger of the keys that were changed without it (`on_ledger_error="available"`).

        Happens by itself, every second, until all are marked. Returns how many keys are left: those that are
        being changed now, or all of them where the ledger still cannot be reached.
        """
        # Several may do this at once, such as close() beside the background: a key that is marked twice is stale.
        while marked := self._unmarked.to_mark(self._max_batch):
            try:
                _, token = await self._begin(list(marked))
            except (LedgerUnavailable, LedgerMismatch, InvalidKey, Unsupported):
                break
            # From here on the keys are dirty for everybody, and tokens that were pending end stale.
            self._unmarked.forget(marked)
            self._telemetry.report("warning", "keys_marked", keys=len(marked))
            # Where a change of Old may yet land the token is left to the reaper, which comes after that.
            await self._end({name: None if known.unsure else False for name, known in marked.items()}, token)
        left = len(self._unmarked)
        if left and self._closed:
            self._telemetry.report("error", "closed_with_unmarked_keys", keys=left, advice=_UNMARKED)
        return left

    def _mark_in_background(self) -> None:
        with self._unmarked.lock:
            if self._background is None or not self._background():
                self._background = in_background(self._mark_again, _MARK_SECONDS)

    async def _mark_again(self) -> bool:
        """Whether there is more to do."""
        await self.mark_unmarked()
        with self._unmarked.lock:  # who adds a key later finds it ended, and begins it anew
            more = bool(self._unmarked) and not self._closed
            if not more:
                self._background = None
        return more

    def _outcomes(
        self, located: Iterable[Located[K]], written: Collection[Located[K]], grant: Grant
    ) -> dict[bytes, bool | None]:
        """Whether each key may end clean: New was written, or was never opened for the key.

        `opened` must be the one that `begin` returned: what the process knew before may be out of date.
        """
        names = {each.name for each in written}
        return {each.name: each.name in names or not passes(each.hash, grant.opened) for each in located}

    # -- both -------------------------------------------------------------------------------------------------

    async def _admitted(
        self, located: Sequence[Located[K]], grant: Grant | CopyGrant
    ) -> tuple[list[Located[K]], str]:
        """Those that may be written to New now, and the path of the others.

        The gate is read again, now, so that a kill holds at once. Before the first write at a rate above the
        `opened` that this process knows of this epoch, the ledger is told and has acknowledged.
        """
        known = self._opening
        opened = max(grant.opened, known.opened) if known.epoch == grant.epoch else grant.opened
        while True:
            if not self._enabled:
                return [], "disabled"
            decision = self._gate.decision
            admitted = [each for each in located if each.hash < decision.write_below]
            rate = decision.rollout.write
            if not admitted and decision.alarm is not None:
                decision.alarm()
            if not admitted or rate <= opened:
                return admitted, "old"
            try:
                opening = await self._ledger.open_to(rate)
            except Exception as error:
                self._ledger_failed("open_to", error)
                return [], "ledger_failed"
            if opening.epoch != grant.epoch or opening.opened < rate:
                self._ledger_failed("open_to", LedgerMismatch("reset under a token, or keeps rates inexactly"))
                return [], "ledger_failed"
            self._opening = opening
            self._telemetry.report("info", "opened_wider", opened=opening.opened, before=opened)
            opened = opening.opened

    def _deadline(self) -> Deadline:
        """When an operation that begins now stops issuing writes."""
        return Deadline(self._clock, self._clock() + self._issue_seconds)

    async def _apply_to_new(
        self, change: Change[K, V], located: Sequence[Located[K]], deadline: Deadline
    ) -> bool | None:
        """Change New. True: done; False: certainly not done; None: unknown, so the tokens must be left."""
        permit = deadline.only_while(self._new_takes_writes)
        if permit.passed or not change.possible(self._new):
            return False
        try:
            await change.apply(self._new, located, permit)
        except DeadlinePassed:
            # Raised between calls, so nothing is in flight: after a kill the keys may be stale at once.
            return None if deadline.passed else False
        except NotApplied as error:
            self._new_failed(change.operation, error.__cause__ or error)
            return False
        except Exception as error:
            self._new_failed(change.operation, error)
            return None
        return True

    async def _end(self, outcomes: Mapping[bytes, bool | None], token: bytes) -> None:
        """End the token on each key whose outcome is known; None leaves it there (H4, H5).

        Where the ledger fails the token stays pending, which is safe: the reaper makes the keys stale.
        """
        known = {name: ok for name, ok in outcomes.items() if ok is not None}
        if not known:
            return
        try:
            await self._ledger.end(known, token)
        except Exception as error:
            self._ledger_failed("end", error)

    async def _withdraw(self, located: Sequence[Located[K]], token: bytes) -> None:
        """Take the token back, as if it had never been; only where no store was written."""
        if not located:
            return
        try:
            await self._ledger.withdraw([each.name for each in located], token)
        except Exception as error:
            self._ledger_failed("withdraw", error)

    async def _reap_if_due(self) -> None:
        """Reap, at most once in a quarter of `max_operation_seconds`, when a key was found dirty.

        Every process does, and each call is bounded, so that what a crashed one left needs nobody's care.
        """
        now = self._clock()
        if now < self._next_reap:
            return
        self._next_reap = now + self._reap_interval
        try:
            reaped = await self._ledger.reap(self._reap_age, _REAP_LIMIT)
            await self._ledger.summary()  # for last_summary(), which metrics and stats() show
        except Exception as error:
            self._ledger_failed("reap", error)
            return
        if reaped:
            self._telemetry.report("warning", "tokens_reaped", tokens=reaped)
        if reaped >= _REAP_LIMIT:
            self._next_reap = now  # there is more

    def _why_not_read_new(self, key_hash: int, name: bytes) -> Literal["disabled", "old", "ledger_failed"] | None:
        """None where the key may be read from New now, else the path that the read takes instead.

        Also asked before the ledger is: a key that is unmarked then may be marked, and forgotten here, just after
        the ledger has called it clean.
        """
        if not self._enabled:
            if self._forked:
                self._report_fork()
            return "disabled"
        decision = self._gate.decision
        if key_hash < decision.read_below:
            if name not in self._unmarked:
                return None
            self._mark_in_background()  # which may have ended with its event loop, or by a fork
            return "ledger_failed"
        if decision.alarm is not None:
            decision.alarm()
        return "old"

    def _new_takes_reads(self) -> bool:
        """Whether any key may be read from New: False from the moment of a kill on, be it of reads alone."""
        return self._enabled and self._gate.decision.read_below > 0

    def _new_takes_writes(self) -> bool:
        """Whether any key may be changed in New: False from the moment of a kill on."""
        return self._enabled and self._gate.decision.write_below > 0

    def _locate(self, keys: Iterable[K]) -> list[Located[K]]:
        """The distinct keys in canonical order, so that no two batches wait for each other in a circle."""
        by_name: dict[bytes, Located[K]] = {}
        for key in keys:
            key_hash, name = self._gate.locate(key)
            by_name[name] = Located(key_hash, name, key)
        return sorted(by_name.values(), key=_name)

    def _chunks(self, located: Sequence[Located[K]]) -> Iterator[Sequence[Located[K]]]:
        for start in range(0, len(located), self._max_batch):
            yield located[start : start + self._max_batch]

    # -- reports ----------------------------------------------------------------------------------------------

    def _new_failed(self, operation: str, error: BaseException) -> None:
        self._telemetry.report_limited("new_failed", operation=operation, error=type(error).__name__)

    def _ledger_failed(self, call: str, error: BaseException) -> None:
        advice = {"advice": str(error)} if isinstance(error, (LedgerMismatch, Unsupported)) else {}
        self._telemetry.report_limited("ledger_failed", call=call, error=type(error).__name__, **advice)

    def _closed_error(self) -> ProxyClosed:
        return ProxyClosed(f"the proxy of migration {self.name!r} is closed")

    def _gauges(self) -> Gauges:
        stats = self._ledger.last_summary()
        return Gauges(self._gate.rate, self._gate.write_rate, stats.opened, stats.stale)

    def _after_fork(self) -> None:
        self._telemetry.after_fork()
        self._unmarked.after_fork()
        self._background = None  # threads of the parent are gone
        if self._ledger_is_shared:
            return
        # The child has a copy of the in-memory ledger that sees none of the parent's writes.
        self._enabled = False
        self._forked = True
        self._fork_reported = False

    def _report_fork(self) -> None:
        if not self._fork_reported:
            self._fork_reported = True
            self._telemetry.report("error", "proxy_disabled_by_fork", advice=_FORKED)


_FORKED = (
    "this process was forked with an in-memory ledger, which sees no other process, so New is not used here: "
    "make the proxy after the fork, and give processes that serve together one shared ledger"
)


_UNMARKED = (
    "other processes may serve what New held of these keys before, until the keys are written again: set the rate "
    "to 0 until New was emptied"
)
_BEGIN_ATTEMPTS = 3
_REAP_LIMIT = 1000
_MARK_SECONDS = 1.0


def _name(located: Located[K]) -> bytes:
    return located.name


def _check_value(value: object) -> None:
    if value is None:
        raise TypeError("a value is never None, which means absent; use delete() to remove a key")
