# Generated from zddm_flags/_async/migration.py by `make generate`. Do not edit.
"""The steps of the protocol, as one process takes them: what the operations of a proxy are made of.

docs/protocol.md tells the protocol. What every line below serves: *a clean key's value in New, if
there is one, equals Old's*. A key is dirty from `begin` to `end`, so New is not read meanwhile; `end` clears it
only if its token was alone all that time and New was written, or was never opened for the key.

What must not happen to a token: it is ended or withdrawn only while none of its calls to a store can still take
effect. A call that raised or was cancelled can (H4, H5), so its token stays until it is reaped.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, Literal, NamedTuple, TypeVar, assert_never

from zddm_flags._sync._world import HANGS_AFTER_BUDGETS, DefaultLedger
from zddm_flags._sync.changes import Change, Delete, Located, WriteMany
from zddm_flags._sync.errand import Errand
from zddm_flags._sync.observed import observed
from zddm_flags._sync.store import Store
from zddm_flags._sync.watch import Watch, report_ledger_failed
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
from zddm_flags.guard import CircuitBreaker, GuardChange, GuardOpen
from zddm_flags.guardrail import GuardrailCrossed, GuardrailWatch
from zddm_flags.hashing import passes
from zddm_flags.ledger import MAX_KEY_BYTES, CopyGrant, Grant, Ledger, MigrationLedger, Opening
from zddm_flags.paths import reason_of
from zddm_flags.protocols import StorageAdapter
from zddm_flags.settings import Settings
from zddm_flags.unmarked import UnmarkedKeys
from zddm_telemetry import Cause, MigrationTelemetry, OperationTelemetry, Telemetry

__all__ = ["FORKED", "Copied", "CopyRules", "Migration", "WhyOld", "by_name"]

K = TypeVar("K")
V = TypeVar("V")

WhyOld = Literal["disabled", "old", "ledger_failed", "guard_open"]
"""The path of a key that is not to be read from New now."""


class CopyRules(NamedTuple):
    """Which keys a copy is for. As they are, those of a read."""

    everything: bool = False
    """Keys above the write rate too, which `opened` is raised for."""
    delete: bool = True
    """Delete from New a stale key that Old lacks (H3); else it stays as it is."""
    distrust: bool = False
    """Take every key for stale, whatever the ledger says of it."""
    strict: bool = False
    """Raise what the ledger raises where nothing was copied for it; else the keys stay as they are."""


class Copied(NamedTuple, Generic[K, V]):
    """What came of copying keys."""

    values: dict[K, V]
    """What Old held."""
    paths: dict[bytes, str]
    """The path of each key that was granted, or of all where the ledger failed."""
    refused: frozenset[bytes] = frozenset()
    """Those on which New certainly was not changed, though it was asked to be: they are stale."""
    unsure: frozenset[bytes] = frozenset()
    """Those on which New may yet be changed: their token is left to the reaper."""


class Migration(Generic[K, V]):
    """One process's part in a migration: its stores, its ledger, and the steps between them. See `Proxy`."""

    _marking: Errand  # marks the keys that the ledger does not know of
    _probing: Errand  # tries a New again that the guard gave up

    def __init__(
        self,
        gate: TrafficGate,
        old: StorageAdapter[K, V],
        new: StorageAdapter[K, V],
        ledger: Ledger | None,
        telemetry: Telemetry,
        settings: Settings,
    ) -> None:
        # With 30 attributes or more, CPython looks each up more slowly: a read then takes 8 % longer.
        self.name = settings.name
        self._gate = gate
        self._settings = settings
        self._clock = settings.clock
        self._issue_seconds = settings.issue_seconds
        self._telemetry = MigrationTelemetry(telemetry, self.name, gate.flag_key, reason_of)
        self._guardrail: GuardrailWatch | None = None
        if settings.guardrail is not None:
            self._guardrail = GuardrailWatch(settings.guardrail, self._clock)
        ended = None if self._guardrail is None else self._call_ended
        self._old = Store("old", old, self._telemetry, ended and partial(ended, "old"))
        self._breaker: CircuitBreaker | None = None
        budget = None
        if settings.guard is not None:
            budget = min(settings.guard.budget_seconds, settings.max_call_seconds)
            # A call that is cut off at its budget is slow, even where the budget is less than `slow_call_seconds`.
            slow_call_seconds = min(settings.guard.slow_call_seconds, budget)
            self._breaker = CircuitBreaker(
                replace(settings.guard, slow_call_seconds=slow_call_seconds),
                hangs_after_seconds=budget * HANGS_AFTER_BUDGETS,
                clock=self._clock,
                report=self._guard_changed,
            )
        self._new = Store("new", new, self._telemetry, ended and partial(ended, "new"), self._breaker, budget)
        if not self._new.info.strong_reads:
            raise Unsupported("new: its reads do not see every acknowledged write, so a read could be stale")
        ledger = ledger if ledger is not None else DefaultLedger()
        self._ledger_is_shared = ledger.shared
        rows = ledger.migration(self.name, gate.identity, settings.reap_age)
        self._ledger: MigrationLedger = observed(ledger, rows, self._telemetry)
        self._watch: Watch | None = None
        if ledger.shared:  # one in memory is asked at no cost by who wants to know
            self._watch = Watch(self._ledger, self._telemetry)
            weakref.finalize(self, self._watch.close).atexit = False
        self._next_reap = 0.0
        self._opening = Opening(0.0, -1)
        self._unmarked = UnmarkedKeys(settings.max_unmarked_keys)
        self._probe_with: tuple[K, Cause | None] | None = None
        self._enabled = True
        self._disabled_by: GuardrailCrossed | None = None
        self._forked = False
        self._fork_reported = False
        self._closed = False

    # -- whether New may be used ------------------------------------------------------------------------------

    def _why_not_read_new(self, key_hash: int, name: bytes, key: K) -> WhyOld | None:
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
            if len(name) > MAX_KEY_BYTES:
                return "old"  # no write takes such a key, so it is in Old at most
            if name in self._unmarked:
                self._marking.start()  # what marks may have ended with its event loop, or by a fork
                return "ledger_failed"
            return "guard_open" if self._guard_refuses(key) else None
        if decision.alarm is not None:
            decision.alarm()
        return "old"

    def _guard_refuses(self, key: K) -> bool:
        """Whether New is not to be called now. Where it is time to try it again, `key` is read for that, aside."""
        breaker = self._breaker
        if breaker is None or (state := breaker.state) == "closed":
            return False  # where it is closed, the call itself asks whether it may be made
        if state == "half_open" and breaker.why_refused() is None:
            return False
        if breaker.probe_due():
            self._probe_with = (key, self._telemetry.cause())
        if self._probe_with is not None and not self._probing.alive:  # without a lock: the next one looks again
            self._probing.start()
        return True

    def _new_takes_reads(self) -> bool:
        """Whether any key may be read from New: False from the moment of a kill on, be it of reads alone."""
        return self._enabled and self._gate.decision.read_below > 0

    def _new_takes_writes(self) -> bool:
        """Whether any key may be changed in New: False from the moment of a kill on."""
        return self._enabled and self._gate.decision.write_below > 0

    def _deadline(self) -> Deadline:
        """When an operation that begins now stops issuing writes."""
        return Deadline(self._clock, self._clock() + self._issue_seconds)

    # -- tokens -----------------------------------------------------------------------------------------------

    def _new_token(self) -> bytes:
        return self._settings.new_token()

    def _begin(self, names: Sequence[bytes]) -> tuple[Grant, bytes]:
        """Take the token that makes the keys dirty; raises LedgerUnavailable before a store is touched.

        An attempt that failed soon is made again: a deadlock, or a connection that died while nobody used it.
        Each has a token of its own, for an earlier attempt may yet land, and is then for the reaper.
        """
        again_until = self._clock() + self._settings.begin_again_seconds
        attempts = 0
        while True:
            attempts += 1
            token = self._new_token()
            try:
                return self._ledger.begin(names, token), token
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

    def _begin_copy(self, wanted: Sequence[Located[K]], token: bytes, *, strict: bool = False) -> CopyGrant | None:
        """Ask for the right to copy. None: no copy, because the ledger failed or Old's reads may lag (H18).

        `strict`: where the ledger fails, raise its error.

        Not retried: after an unknown outcome the key is read from Old, and the token, if any, is reaped.
        """
        if not wanted or not self._old.info.strong_reads:
            return None
        try:
            return self._ledger.begin_copy([each.name for each in wanted], token)
        except Exception as error:
            self._ledger_failed("begin_copy", error)
            if strict:
                raise
            return None

    def _end(self, outcomes: Mapping[bytes, bool | None], token: bytes) -> bool:
        """End the token on each key whose outcome is known; None leaves it there (H4, H5).

        Where the ledger fails the token stays pending, which is safe: the reaper makes the keys stale. False then.
        """
        known = {name: ok for name, ok in outcomes.items() if ok is not None}
        if not known:
            return True
        try:
            self._ledger.end(known, token)
        except Exception as error:
            self._ledger_failed("end", error)
            return False
        if self._watch is not None and not all(known.values()):
            self._watch.start()
        return True

    def _withdraw(self, located: Sequence[Located[K]], token: bytes) -> None:
        """Take the token back, as if it had never been; only where no store was written."""
        if not located:
            return
        try:
            self._ledger.withdraw([each.name for each in located], token)
        except Exception as error:
            self._ledger_failed("withdraw", error)

    def _reap_if_due(self) -> None:
        """Reap, at most once in a quarter of `max_operation_seconds`, when a key was found dirty.

        Every process does, and each call is bounded, so that what a crashed one left needs nobody's care.
        """
        now = self._clock()
        if now < self._next_reap:
            return
        self._next_reap = now + self._settings.reap_interval
        try:
            reaped = self._ledger.reap(self._settings.reap_age, _REAP_LIMIT)
            summary = self._ledger.summary()  # for last_summary(), which metrics and stats() show
        except Exception as error:
            self._ledger_failed("reap", error)
            return
        if self._watch is not None and summary.stale:
            self._watch.start()
        if reaped:
            self._telemetry.report("warning", "tokens_reaped", tokens=reaped)
        if reaped >= _REAP_LIMIT:
            self._next_reap = now  # there is more

    # -- the stores -------------------------------------------------------------------------------------------

    def _read_old(self, located: Sequence[Located[K]]) -> dict[K, V]:
        if len(located) == 1:
            value = self._old.read(located[0].key)
            return {} if value is None else {located[0].key: value}
        found = self._old.read_many([each.key for each in located])
        return {each.key: value for each in located if (value := found.get(each.key)) is not None}

    def _apply_to_old(
        self, change: Change[K, V], located: Sequence[Located[K]], deadline: Deadline
    ) -> NotApplied | None:
        """Change Old; returns the error that says that it certainly was not changed. Raises what Old raises."""
        try:
            change.apply(self._old, located, deadline)
        except NotApplied as error:
            return error
        except DeadlinePassed:
            raise OperationTimedOut(
                "max_operation_seconds less max_call_seconds passed in the middle of a batch; some of it may "
                "have been written to Old"
            ) from None
        return None

    def _admitted(
        self,
        located: Sequence[Located[K]],
        grant: Grant | CopyGrant,
        *,
        everything: bool = False,
        strict: bool = False,
    ) -> tuple[list[Located[K]], str]:
        """Those that may be written to New now, and the path of the others.

        The gate is read again, now, so that a kill holds at once. Before the first write at a rate above the
        `opened` that this process knows of this epoch, the ledger is told and has acknowledged. `everything`: a
        rate above 0 admits every key, which takes an `opened` that all of them are below. `strict`: raise what the
        ledger raises.
        """
        known = self._opening
        opened = max(grant.opened, known.opened) if known.epoch == grant.epoch else grant.opened
        while True:
            if not self._enabled:
                return [], "disabled"
            decision = self._gate.decision
            admitted = [each for each in located if each.hash < decision.write_below]
            rate = decision.rollout.write
            if everything and rate > 0:
                admitted = list(located)
                rate = opened if all(passes(each.hash, opened) for each in located) else 1.0
            if not admitted and decision.alarm is not None:
                decision.alarm()
            if not admitted or rate <= opened:
                return admitted, "old"
            if self._guard_refuses(admitted[0].key):
                return [], "guard_open"
            try:
                opening = self._ledger.open_to(rate)
            except Exception as error:
                self._ledger_failed("open_to", error)
                if strict:
                    raise
                return [], "ledger_failed"
            if opening.epoch != grant.epoch or opening.opened < rate:
                self._ledger_failed("open_to", LedgerMismatch("reset under a token, or keeps rates inexactly"))
                return [], "ledger_failed"
            known, self._opening = self._opening, opening
            if (opening.epoch, opening.opened) != (known.epoch, known.opened):  # else another one has told of it
                self._telemetry.report("info", "opened_wider", opened=opening.opened, before=opened)
            opened = opening.opened

    def _apply_to_new(
        self, change: Change[K, V], located: Sequence[Located[K]], deadline: Deadline
    ) -> tuple[bool | None, str]:
        """Change New. True: done; False: certainly not done; None: unknown, so the tokens must be left.

        With it the path that the keys took.
        """
        if self._guard_refuses(located[0].key):
            return False, "guard_open"
        permit = deadline.only_while(self._new_takes_writes)
        if permit.passed or not change.possible(self._new):
            return False, "new_failed"
        try:
            change.apply(self._new, located, permit)
        except DeadlinePassed:
            # Raised between calls, so nothing is in flight: after a kill the keys may be stale at once.
            return (None if deadline.passed else False), "new_failed"
        except GuardOpen as refused:
            self._guard_refused(refused)
            return False, "guard_open"  # also raised between calls
        except NotApplied as error:
            self._new_failed(change.operation, error.__cause__ or error)
            return False, "new_failed"
        except Exception as error:
            self._new_failed(change.operation, error)
            return None, "new_failed"
        return True, "both"

    def _outcomes(
        self, located: Iterable[Located[K]], written: Collection[Located[K]], grant: Grant
    ) -> dict[bytes, bool | None]:
        """Whether each key may end clean: New was written, or was never opened for the key.

        `opened` must be the one that `begin` returned: what the process knew before may be out of date.
        """
        names = {each.name for each in written}
        return {each.name: each.name in names or not passes(each.hash, grant.opened) for each in located}

    # -- copying ----------------------------------------------------------------------------------------------

    def _read_old_and_copy(
        self,
        wanted: Sequence[Located[K]],
        besides: Sequence[Located[K]],
        dirty: Collection[bytes],
        operation: OperationTelemetry,
    ) -> dict[K, V]:
        """Read `wanted` and `besides` from Old, and bring what may be copied of `wanted` into New.

        `dirty` are those that the ledger called dirty. A failure of the copy never fails the read.
        """
        copied = self._copy_under_token(wanted, besides, CopyRules())
        for each in wanted:
            path = copied.paths.get(each.name)
            # Without strong reads nobody asked for a token, so that only `dirty` tells why New was not used.
            pending = self._old.info.strong_reads or each.name in dirty
            operation.count(path or ("dirty" if pending else "miss"))
        return copied.values

    def _copy_under_token(
        self, wanted: Sequence[Located[K]], besides: Sequence[Located[K]], rules: CopyRules
    ) -> Copied[K, V]:
        """Take a token, read `wanted` and `besides` from Old, and make New hold what may be copied of `wanted`."""
        deadline = self._deadline()
        token = self._new_token()
        grant = self._begin_copy(wanted, token, strict=rules.strict)
        granted = [each for each in wanted if grant is not None and each.name in grant.granted]
        try:
            values = self._read_old([*wanted, *besides])
        except GeneratorExit:
            raise  # the coroutine is being closed and can await nothing: the token is left to the reaper
        except BaseException:
            self._withdraw(granted, token)  # a read has no effect that could come late
            raise
        if grant is not None and granted:
            return self._copy(granted, values, grant, token, deadline, rules)
        failed = grant is None and self._old.info.strong_reads
        return Copied(values, {each.name: "ledger_failed" for each in wanted} if failed else {})

    def _copy(
        self,
        granted: Sequence[Located[K]],
        values: dict[K, V],
        grant: CopyGrant,
        token: bytes,
        deadline: Deadline,
        rules: CopyRules,
    ) -> Copied[K, V]:
        """Make New hold what Old held."""
        try:
            admitted, why_not = self._admitted(granted, grant, everything=rules.everything, strict=rules.strict)
        except GeneratorExit:
            raise
        except BaseException:
            self._withdraw(granted, token)  # New was not touched
            raise
        if deadline.passed:
            admitted, why_not = [], "new_failed"
        paths = {each.name: why_not for each in granted}
        present = [each for each in admitted if each.key in values]
        absent = [each for each in admitted if each.key not in values]
        # Absence is never cached (H10). A stale key that Old lacks is deleted even if New missed it a moment
        # ago (H3); where the key is not stale New has nothing to delete.
        gone = [each for each in absent if rules.distrust or each.name in grant.stale]
        left = gone if not rules.delete else []
        gone = gone if rules.delete else []
        names = {each.name for each in admitted} - {each.name for each in left}
        self._withdraw([each for each in granted if each.name not in names], token)
        outcomes: dict[bytes, bool | None] = {each.name: True for each in absent if each.name in names}
        paths.update((each.name, "miss") for each in absent)
        if present:
            done, path = self._apply_to_new(WriteMany(values), present, deadline)
            if path == "guard_open":
                self._withdraw(present, token)  # New has what it had, or what Old has: no key became worse
            else:
                outcomes.update((each.name, done) for each in present)
            paths.update((each.name, "copied" if done else path) for each in present)
            if done:
                self._telemetry.counts.add_copies(len(present))
        if gone:
            done, _ = self._apply_to_new(Delete(), gone, deadline)
            outcomes.update((each.name, done) for each in gone)
        self._end(outcomes, token)
        return Copied(
            values,
            paths,
            refused=frozenset(name for name, done in outcomes.items() if done is False),
            unsure=frozenset(name for name, done in outcomes.items() if done is None),
        )

    # -- reports ----------------------------------------------------------------------------------------------

    def _guard_changed(self, change: GuardChange) -> None:
        figures = {
            "reason": change.reason,
            "calls": change.calls,
            "failures": change.failures,
            "slow_calls": change.slow_calls,
            "hanging_calls": change.hanging_calls,
        }
        match change.state:
            case "open":
                seconds = round(change.open_seconds, 3)
                self._telemetry.report("warning", "guard_opened", **figures, open_seconds=seconds)
            case "half_open":
                self._telemetry.report("info", "guard_half_open", **figures)
            case "closed":
                self._telemetry.report("info", "guard_closed", **figures)
            case _:
                assert_never(change.state)

    def _guard_refused(self, refused: GuardOpen) -> None:
        """Tell of the one refusal that no change of the guard's state tells of."""
        if refused.why == "full":
            self._telemetry.report_limited("guard_full")

    def _call_ended(self, store: Literal["old", "new"], operation: str, seconds: float, failed: bool) -> None:
        if self._guardrail is not None:
            self._kill_if(self._guardrail.called(store, operation, seconds, failed=failed))

    def _kill_if(self, crossed: GuardrailCrossed | None) -> None:
        """Disable the proxy where a threshold of the guardrail was crossed; it stays so until `enable()`."""
        if crossed is None or not self._enabled:
            return
        self._enabled = False
        self._disabled_by = crossed
        about = {} if crossed.operation is None else {"operation": crossed.operation}
        self._telemetry.report(
            "error",
            "guardrail_crossed",
            threshold=crossed.threshold,
            limit=crossed.limit,
            **about,
            **crossed.figures,
            advice="New is not used by this proxy until its enable()",
        )

    def _new_failed(self, operation: str, error: BaseException) -> None:
        self._telemetry.report_limited("new_failed", operation=operation, error=type(error).__name__)

    def _ledger_failed(self, call: str, error: BaseException) -> None:
        report_ledger_failed(self._telemetry, call, error)

    def _closed_error(self) -> ProxyClosed:
        return ProxyClosed(f"the proxy of migration {self.name!r} is closed")

    def _report_fork(self) -> None:
        if not self._fork_reported:
            self._fork_reported = True
            self._telemetry.report("error", "proxy_disabled_by_fork", advice=FORKED)


FORKED = (
    "this process was forked with an in-memory ledger, which sees no other process, so New is not used here: "
    "make the proxy after the fork, and give processes that serve together one shared ledger"
)

_BEGIN_ATTEMPTS = 3
_REAP_LIMIT = 1000


def by_name(located: Located[K]) -> bytes:
    """What sorts keys in canonical order."""
    return located.name
