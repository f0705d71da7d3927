# Generated from zddm_flags/_async/proxy.py by `make generate`. Do not edit.
"""The proxy: what the application calls instead of its store.

Its operations are put together from the steps of `migration.py`; what is not any caller's to wait for is in
`background.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Literal, Self, TypeVar

from zddm_flags._fork import after_fork_in_child
from zddm_flags._sync.changes import Change, Delete, Located, WriteMany, WriteOne
from zddm_flags._sync.migration import FORKED, by_name
from zddm_flags._sync.status import Overview
from zddm_flags.background import Copies, CopyMode, Shadow
from zddm_flags.deadline import Deadline, DeadlinePassed
from zddm_flags.errors import (
    InvalidKey,
    LedgerMismatch,
    LedgerUnavailable,
    OperationTimedOut,
    Unsupported,
)
from zddm_flags.gate import TrafficGate
from zddm_flags.guard import Guard, GuardOpen
from zddm_flags.guardrail import Guardrail
from zddm_flags.ledger import MAX_KEY_BYTES, Ledger, LedgerSummary
from zddm_flags.protocols import StorageAdapter
from zddm_flags.rollout import Rollout
from zddm_flags.settings import Settings
from zddm_flags.stats import ProxyStats
from zddm_flags.tokens import new_token
from zddm_telemetry import Evaluated, Gauges, OperationTelemetry, Telemetry

__all__ = ["Proxy"]

K = TypeVar("K")
V = TypeVar("V")


_DEFAULT_GUARD = Guard()


class Proxy(Overview[K, V]):
    """Reads and writes of one kind of thing while it moves from `old` to `new`.

    A value that is served from New always equals what Old holds at some moment during the read, provided that
    every write goes through a proxy with the same ledger (the README lists the assumptions).

    In the ledger each write and each copy takes a token, and ends it. A key is stale while New may lack a write of
    it; Old serves it then. Tokens that were left, as by a killed process, are reaped: their keys become stale.

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
        guard: how far New is called: see `Guard`. Where it refuses, reads are served by Old and writes leave their
            keys stale; nothing waits. None: New is always called, and waited for.
        guardrail: when this proxy is to disable itself, until `enable()`: see `Guardrail`. None: never.
        copy: how a read brings a key into New that only Old had: `"inline"`, before it returns;
            `"background"`, after; `"off"`; or `Copies(...)` with limits of your own.
        shadow: compares some of what New serves with Old, in the background: see `Shadow`. None: nothing.
        telemetry: where spans and metrics go; None uses the global OpenTelemetry providers.
        clock: monotonic seconds; for tests.
        new_token: makes tokens; for tests.

    Thread-safe if the adapters are (asyncio: for the tasks of one event loop). Enabled until `disable()`.
    Close it, or use it as a context manager; the stores, the gate and the ledger remain the caller's to close.

    Raises:
        Unsupported: an adapter is of the wrong world or lacks read or write, or New's reads are not strong.
        LedgerMismatch: the in-memory ledger knows this migration with another hasher or encoding. A shared one
            raises it from the first write on.
        ValueError: an argument is out of range, or there is a `ledger` and no `name`.
        TypeError: `guard`, `guardrail` or `shadow` is of another type.
    """

    def __init__(
        self,
        gate: TrafficGate,
        old: StorageAdapter[K, V],
        new: StorageAdapter[K, V],
        *,
        name: str | None = None,
        ledger: Ledger | None = None,
        max_operation_seconds: float = 30.0,
        max_call_seconds: float | None = None,
        on_ledger_error: Literal["strict", "available"] = "strict",
        max_unmarked_keys: int = 10_000,
        max_batch: int = 500,
        guard: Guard | None = _DEFAULT_GUARD,
        guardrail: Guardrail | None = None,
        copy: CopyMode | Copies = "inline",
        shadow: Shadow | None = None,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
        new_token: Callable[[], bytes] = new_token,
    ) -> None:
        if name is None and ledger is not None:
            raise ValueError("a migration with a ledger of its own needs a name=, which its rows are kept under")
        settings = Settings(
            name=name if name is not None else "default",
            max_operation_seconds=max_operation_seconds,
            max_call_seconds=max_call_seconds if max_call_seconds is not None else max_operation_seconds / 3,
            on_ledger_error=on_ledger_error,
            max_unmarked_keys=max_unmarked_keys,
            max_batch=max_batch,
            guard=guard,
            guardrail=guardrail,
            copies=copy if isinstance(copy, Copies) else Copies(mode=copy),
            shadow=shadow,
            clock=clock,
            new_token=new_token,
        )
        super().__init__(gate, old, new, ledger, telemetry or Telemetry(), settings)
        self._telemetry.show(self, self._gauges)
        after_fork_in_child(self._after_fork)
        if not self._ledger_is_shared:
            self._telemetry.report(
                "info",
                "ledger_in_memory",
                promise="for this process alone, from a New that is empty, or as far as opened= says",
            )

    # -- operations -------------------------------------------------------------------------------------------

    def read(self, key: K) -> V | None:
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
            try:
                why_old = self._why_not_read_new(key_hash, name, key)
                if operation.recording:
                    decision = self._gate.decision
                    operation.located(key, key_hash, decision.rollout.read, key_hash < decision.read_below)
                    self._note_state(operation)
                if why_old is not None:
                    operation.path = why_old
                    return self._old.read(key)
                try:
                    dirty = self._ledger.dirty((name,))  # acknowledged before New is asked (H9)
                except Exception as error:
                    self._ledger_failed("dirty", error)
                    operation.path = "ledger_failed"
                    return self._old.read(key)
                if operation.recording:
                    operation.asked(bool(dirty))
                if not dirty:
                    # A kill may have arrived while the ledger was asked.
                    why_old = self._why_not_read_new(key_hash, name, key)
                    if why_old is not None:
                        operation.path = why_old
                        return self._old.read(key)
                    try:
                        value = self._new.read(key)
                    except GuardOpen as refused:
                        self._guard_refused(refused)
                        operation.path = "guard_open"
                        return self._old.read(key)
                    except Exception as error:
                        self._new_failed("read", error)
                        operation.path = "new_failed"
                        return self._old.read(key)
                    if value is not None:
                        operation.path = "new_hit"
                        self._served_by_new(key_hash, name, key)
                        return value
                located = Located(key_hash, name, key)
                return (self._read_old_in_place_of_new([located], (), dirty, operation)).get(key)
            except Exception:  # Old's: New's and the ledger's end here
                operation.instead("old_failed")
                raise

    def read_many(self, keys: Iterable[K]) -> dict[K, V]:
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
            self._note_state(operation)
            for chunk in self._chunks(located):
                operation.mark()
                try:
                    self._read_chunk(chunk, found, operation)
                except Exception:  # Old's
                    operation.instead("old_failed", len(chunk))
                    raise
        return found

    def write(self, key: K, value: V) -> None:
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
        self._change_one(key, WriteOne(value))

    def write_many(self, items: Mapping[K, V]) -> None:
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
            self._note_state(operation)
            for chunk in self._chunks(located):
                self._change(chunk, WriteMany(items), operation)

    def delete(self, key: K) -> None:
        """Remove `key`; no error where it is absent. When it returns, Old does not have it.

        Raises what `write` raises, and Unsupported, before anything is touched, where Old cannot delete. A New
        that cannot delete keeps the key's old value: the key then stays stale and is served by Old.
        """
        if not self._old.can_delete:
            raise Unsupported("old: its adapter has no delete()")
        self._change_one(key, Delete())

    # -- control ----------------------------------------------------------------------------------------------

    def enable(self) -> None:
        """Let New be used again after `disable()`, or after a guardrail did that. No I/O.

        What was written meanwhile is read from Old. A guardrail starts counting anew.

        Raises:
            LedgerUnavailable: in the child of a fork, whose in-memory ledger is a copy that sees nothing.
        """
        if self._forked:
            raise LedgerUnavailable(FORKED)
        if not self._enabled:
            self._disabled_by = None
            self._enabled = True
            # Last: a threshold that is crossed while the proxy is disabled is passed over, for good.
            if self._guardrail is not None:
                self._guardrail.restart()
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
            copies_waiting=len(self._to_copy),
            copies_dropped=counts.dropped,
            rollout=self._gate.decision.rollout,
            enabled=self._enabled,
            disabled_by=self._disabled_by,
            guard=self._breaker.state if self._breaker is not None else None,
            opened=summary.opened,
            stale_keys=summary.stale,
            pending_tokens=summary.pending,
            unmarked_keys=len(self._unmarked),
        )

    def ledger_summary(self) -> LedgerSummary:
        """What the ledger holds of this migration now: one call to it. Raises what the ledger raises.

        `stats()` shows the same as this process last saw it.
        """
        return self._ledger.summary()

    def close(self) -> None:
        """Take no more operations. Those in progress finish. Idempotent.

        Keys that the ledger has not heard of are marked, if it can be reached now. Keys that wait to be copied are
        copied, for `Copies.close_seconds` at most, or dropped, as `Copies.on_close` says.
        """
        if not self._closed:
            self._closed = True
            if self._watch is not None:
                self._watch.close()
            self._to_compare.clear()
            self._settle_copies()
        self.mark_unmarked()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        self.close()

    # -- reading ----------------------------------------------------------------------------------------------

    def _read_chunk(self, chunk: Sequence[Located[K]], found: dict[K, V], operation: OperationTelemetry) -> None:
        """`read` for many keys; adds what it finds to `found`."""
        from_old: list[Located[K]] = []  # to be read from Old, and not copied
        from_new = self._readable(chunk, from_old, operation)
        dirty: Collection[bytes] = ()
        if from_new:
            try:
                dirty = self._ledger.dirty([each.name for each in from_new])
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
                hits = self._new.read_many([each.key for each in clean], permit)
            except GuardOpen as refused:
                self._guard_refused(refused)
                operation.count("guard_open", len(clean))
                from_old += clean
            except DeadlinePassed:
                for each in clean:
                    why_old = self._why_not_read_new(each.hash, each.name, each.key)
                    operation.count(why_old or "new_failed")
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
                        self._served_by_new(each.hash, each.name, each.key)
        if to_copy or from_old:
            to_copy.sort(key=by_name)
            found.update(self._read_old_in_place_of_new(to_copy, from_old, dirty, operation))

    def _readable(
        self, located: Sequence[Located[K]], refused: list[Located[K]], operation: OperationTelemetry
    ) -> list[Located[K]]:
        """Those that may be read from New now; the others are counted and added to `refused`."""
        readable: list[Located[K]] = []
        for each in located:
            why_old = self._why_not_read_new(each.hash, each.name, each.key)
            if why_old is None:
                readable.append(each)
            else:
                operation.count(why_old)
                refused.append(each)
        return readable

    # -- changing ---------------------------------------------------------------------------------------------

    def _change_one(self, key: K, change: Change[K, V]) -> None:
        if self._closed:
            raise self._closed_error()
        with self._telemetry.operation(change.operation) as operation:
            key_hash, name = self._gate.locate(key)
            if operation.recording:
                decision = self._gate.decision
                operation.located(key, key_hash, decision.rollout.write, key_hash < decision.write_below)
                self._note_state(operation)
            self._change([Located(key_hash, name, key)], change, operation)

    def _change(self, located: Sequence[Located[K]], change: Change[K, V], operation: OperationTelemetry) -> None:
        """Begin -> Old -> New, where the gate, read again, admits the key -> end."""
        deadline = self._deadline()  # the clock starts before begin is sent
        try:
            grant, token = self._begin([each.name for each in located])
        except (LedgerMismatch, InvalidKey, Unsupported):
            operation.count("ledger_failed", len(located))
            raise
        except LedgerUnavailable:
            operation.mark()
            operation.count("ledger_failed", len(located))
            # A key that the ledger may refuse could never be marked, nor those that are marked with it.
            strict = self._settings.on_ledger_error == "strict"
            if strict or any(len(each.name) > MAX_KEY_BYTES for each in located):
                raise
            self._change_unmarked(located, change, operation, deadline)
            return
        if deadline.passed:
            operation.count("ledger_failed", len(located))
            self._withdraw(located, token)
            raise OperationTimedOut(
                "the ledger took too long: max_operation_seconds less max_call_seconds passed before Old was "
                "written; neither store was changed"
            )
        try:
            refused = self._apply_to_old(change, located, deadline)
        except Exception:
            operation.count("old_failed", len(located))
            raise  # and leaves the token (H4)
        if refused is not None:
            operation.count("old_failed", len(located))
            outcomes = self._outcomes(located, (), grant)
            stale = bool(grant.contended) or not all(outcomes.values())
            operation.stale_marked = not self._end(outcomes, token) or stale
            raise refused.__cause__ or refused  # out of the handler, so that its own cause stays as it was
        try:
            admitted, why_not = self._admitted(located, grant)
        except GeneratorExit:
            raise
        except BaseException:
            # Old is written, New is not.
            self._end(dict.fromkeys((each.name for each in located), False), token)
            raise
        operation.count(why_not, len(located) - len(admitted))
        done: bool | None = None
        if admitted and deadline.passed:
            # Old has the value, so the caller's change is done; the reaper makes the keys stale.
            self._telemetry.report_limited("operation_out_of_time", operation=change.operation)
            operation.count("new_failed", len(admitted))
        elif admitted:
            done, path = self._apply_to_new(change, admitted, deadline)
            operation.count(path, len(admitted))
        outcomes = self._outcomes(located, admitted if done else (), grant)
        if done is None:
            outcomes.update((each.name, None) for each in admitted)
        stale = bool(grant.contended) or not all(outcomes.values())
        operation.stale_marked = not self._end(outcomes, token) or stale
        if grant.contended:
            self._reap_if_due()

    # -- without the ledger -----------------------------------------------------------------------------------

    def _change_unmarked(
        self,
        located: Sequence[Located[K]],
        change: Change[K, V],
        operation: OperationTelemetry,
        deadline: Deadline,
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
            refused = self._apply_to_old(change, located, deadline)
            certain = True
        except Exception:
            operation.instead("old_failed", len(located))
            raise
        finally:
            self._unmarked.changed(names, certain=certain)
            self._marking.start()
        if refused is not None:
            operation.instead("old_failed", len(located))
            raise refused.__cause__ or refused

    def _chunks(self, located: Sequence[Located[K]]) -> Iterator[Sequence[Located[K]]]:
        for start in range(0, len(located), self._settings.max_batch):
            yield located[start : start + self._settings.max_batch]

    # -- reports ----------------------------------------------------------------------------------------------

    def _note_state(self, operation: OperationTelemetry) -> None:
        """Say what an operation meets: a guard that is not closed, and a rollout that no span has told of yet."""
        if not operation.recording:
            return
        if self._breaker is not None and self._breaker.state != "closed":
            operation.note("zddm.guard.state", self._breaker.state)
        decision = self._gate.decision
        flag_key = self._telemetry.flag_key
        if flag_key is not None and self._telemetry.is_news(decision):
            operation.evaluated(partial(_evaluated, flag_key, decision.rollout, self._gate))

    def _gauges(self) -> Gauges | None:
        if self._closed:
            return None  # it uses neither store: what it saw last would only hide what others see
        summary = self._ledger.last_summary()
        rollout = self._gate.decision.rollout  # taken once, so that both rates are of one moment
        return Gauges(
            read_rate=rollout.read,
            write_rate=rollout.write,
            opened=summary.opened,
            stale_keys=summary.stale,
            guard_open=None if self._breaker is None else self._breaker.state != "closed",
            connected=getattr(self._gate.source, "connected", None),
            flag_key=self._gate.flag_key,
        )

    def _after_fork(self) -> None:
        self._telemetry.after_fork()
        renewed = (
            self._unmarked,
            self._marking,
            self._probing,
            self._chores,
            self._watch,
            self._to_copy,
            self._copy_pace,
            self._to_compare,
            self._compare_pace,
            self._breaker,
            self._guardrail,
        )
        for each in renewed:
            if each is not None:
                each.after_fork()
        self._probe_with = None
        if self._ledger_is_shared:
            return
        # The child has a copy of the in-memory ledger that sees none of the parent's writes.
        self._enabled = False
        self._forked = True
        self._fork_reported = False


def _evaluated(flag_key: str, rollout: Rollout, gate: TrafficGate) -> Evaluated:
    value = rollout.text
    evaluation = gate.evaluation
    if evaluation is None or evaluation.rollout != rollout:
        return Evaluated(flag_key, value)  # by a source that tells no more, or that is a change ahead
    return Evaluated(
        flag_key,
        value,
        evaluation.provider,
        evaluation.variant,
        evaluation.reason,
        evaluation.error,
        evaluation.context_id,
    )


def _check_value(value: object) -> None:
    if value is None:
        raise TypeError("a value is never None, which means absent; use delete() to remove a key")
