"""What the jobs that finish a migration are made of: the protocol's steps, for many keys at a time.

Each is one attempt. What came of it is told key by key, so that the job decides what to try again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from zddm_flags._async.background import AsyncBackground
from zddm_flags._async.changes import Located
from zddm_flags._async.migration import Copied, CopyRules, by_name
from zddm_flags.comparison import Comparison
from zddm_flags.deadline import DeadlinePassed
from zddm_flags.errors import Unsupported
from zddm_flags.gate import TrafficGate
from zddm_flags.guard import GuardOpen
from zddm_flags.ledger import MAX_KEY_BYTES, AsyncMigrationLedger
from zddm_flags.protocols import Page
from zddm_telemetry import JobTelemetry, OperationTelemetry

__all__ = ["AsyncBulk", "Confirmed", "CopyOutcome", "Difference", "DifferenceKind", "Located"]

K = TypeVar("K")
V = TypeVar("V")

CopyOutcome: TypeAlias = Literal[
    "copied",  # New holds what Old held
    "present",  # New had it already, and it is clean
    "absent",  # Old lacks it, and so does New
    "extra",  # Old lacks it, New may hold something, and it was not to be deleted
    "not_covered",  # its hash is above the rate
    "refused",  # New certainly did not take it: it is stale
    "pending",  # an operation on it is in progress, or was left by a process that ended
    "failed",  # New raised; where it was being changed the token is left to the reaper
    "guard_open",
    "disabled",  # nothing may be written to New now
    "ledger_failed",
]
"""What came of copying a key."""

DifferenceKind: TypeAlias = Literal["changed", "missing", "extra"]
"""How New differs: it holds another value, it lacks the key, or it has one that Old lacks."""


class Difference(NamedTuple):
    """A key that certainly differs."""

    name: bytes
    """The key's name in the ledger."""
    hash: int
    kind: DifferenceKind
    fields: tuple[str, ...]
    """The fields that differ, of a value that changed."""
    stale: bool
    """Whether the ledger knew, so that Old serves the key."""

    @property
    def is_wrong(self) -> bool:
        """Whether New would serve what Old does not hold, and nobody knows."""
        return self.kind != "missing" and not self.stale


class Confirmed(NamedTuple):
    """What came of comparing keys under a token."""

    equal: frozenset[bytes]
    different: Sequence[Difference]
    failed: frozenset[bytes]
    """Those that could not be compared: the comparison raised."""
    unsure: frozenset[bytes]
    """Those that were being written, or the ledger could not be asked: worth another attempt."""
    opened: float = 0.0
    """The largest rate at which New was ever used, as the ledger said; 0 where no key could be compared."""


class AsyncBulk(AsyncBackground[K, V]):
    """A migration with what its jobs need. See `AsyncProxy`; an application has no use for it."""

    # -- what a job has to know -------------------------------------------------------------------------------

    @property
    def gate(self) -> TrafficGate:
        """The gate that the proxy was made with."""
        return self._gate

    @property
    def ledger(self) -> AsyncMigrationLedger:
        """The migration's rows in the ledger."""
        return self._ledger

    @property
    def ledger_is_shared(self) -> bool:
        """Whether other processes see the ledger, so that it outlives this one."""
        return self._ledger_is_shared

    @property
    def token_seconds(self) -> float:
        """The age in seconds at which a token that was left is reaped."""
        return self._settings.reap_age

    @property
    def new_takes_writes(self) -> bool:
        """Whether any key may be changed in New now: False from a kill on."""
        return self._new_takes_writes()

    def job_telemetry(
        self,
        job: str,
        stopped: type[Exception],
        *,
        part: int | None = None,
        carrier: Mapping[str, str] | None = None,
    ) -> JobTelemetry:
        """What is told of a run of a job; or of one part, in the trace that `carrier` comes from.

        A page that ends with `stopped` did not fail.
        """
        return self._telemetry.job(job, stopped, part=part, carrier=carrier)

    def guard_refuses(self, key: K) -> bool:
        """Whether New is not to be called now. Where it is time to try it again, `key` is read for that, aside."""
        return self._guard_refuses(key)

    def locate(self, keys: Iterable[K]) -> tuple[list[Located[K]], list[Located[K]]]:
        """The distinct keys with their places, in canonical order, and those that are too long for any ledger.

        Raises InvalidKey for a key that the gate cannot encode.
        """
        located = self._locate(keys)
        too_long = [each for each in located if len(each.name) > MAX_KEY_BYTES]
        return [each for each in located if len(each.name) <= MAX_KEY_BYTES] if too_long else located, too_long

    def _locate(self, keys: Iterable[K]) -> list[Located[K]]:
        """The distinct keys in canonical order, so that no two batches wait for each other in a circle."""
        distinct: dict[bytes, Located[K]] = {}
        for key in keys:
            key_hash, name = self._gate.locate(key)
            distinct[name] = Located(key_hash, name, key)
        return sorted(distinct.values(), key=by_name)

    def check_can_scan(self, job: str) -> None:
        """Raises Unsupported, where Old cannot be walked, or its reads may lag so that nothing is sure."""
        if not self._old.can_scan:
            raise Unsupported(
                f"old: its adapter has no scan(), so {job} cannot find the keys: see docs/writing-an-adapter.md"
            )
        self.check_can_work(job)

    def check_can_work(self, job: str) -> None:
        """Raises what keeps every job from its work: ProxyClosed after `close()`, and Unsupported.

        That is where the ledger, one of the user's own, has no methods for jobs, or where Old's reads may lag, so
        that nothing is sure and nothing may be copied.
        """
        if self._closed:
            raise self._closed_error()
        for method in ("checkpoints", "save_checkpoint", "stale_keys"):
            if not hasattr(self._ledger, method):
                raise Unsupported(f"the ledger has no {method}(), so there can be no {job}: see MigrationLedger")
        if not self._old.info.strong_reads:
            raise Unsupported(
                f"old: its reads may lag behind its writes (H18): give {job} an adapter of the primary"
            )

    @property
    def new_can_scan(self) -> bool:
        """Whether keys that are only in New can be found."""
        return self._new.can_scan

    async def reap_if_due(self) -> None:
        """Make stale, now and then, what crashed processes left."""
        await self._reap_if_due()

    async def open_to(self, rate: float) -> None:
        """Raise `opened` before New is used at this rate: a write that skips New leaves its key stale then.

        Raises what the ledger raises.
        """
        opened = (await self._ledger.summary()).opened
        if opened < rate:
            opening = await self._ledger.open_to(rate)
            self._telemetry.report("info", "opened_wider", opened=opening.opened, before=opened)

    # -- walking ----------------------------------------------------------------------------------------------

    async def scan_old(self, cursor: str | None, limit: int, until: str | None) -> Page[K, V]:
        """A page of Old."""
        return await self._old.scan(cursor, limit, until)

    async def scan_new(self, cursor: str | None, limit: int, until: str | None) -> Page[K, V]:
        """A page of New. Raises GuardOpen."""
        return await self._new.scan(cursor, limit, until)

    async def partitions_of_old(self, count: int) -> Sequence[tuple[str | None, str | None]]:
        """At most `count` ranges of cursors that cover Old once."""
        return await self._old.partitions(count)

    async def partitions_of_new(self, count: int) -> Sequence[tuple[str | None, str | None]]:
        """At most `count` ranges of cursors that cover New once."""
        return await self._new.partitions(count)

    async def count_old(self) -> int | None:
        """About how many keys Old holds; None where it does not say."""
        return await self._old.count()

    async def read_old(self, located: Sequence[Located[K]]) -> dict[K, V]:
        """What Old holds."""
        return await self._read_old(located)

    async def read_new(self, located: Sequence[Located[K]]) -> Mapping[K, V]:
        """What New holds, trusted or not. Raises GuardOpen, and what New raises."""
        return await self._new.read_many([each.key for each in located])

    # -- copying ----------------------------------------------------------------------------------------------

    async def copy_keys(
        self, job: Literal["backfill", "repair"], located: Sequence[Located[K]], rules: CopyRules
    ) -> dict[bytes, CopyOutcome]:
        """Make New hold what Old holds of these keys. What Old and the ledger raise passes through.

        A backfill leaves alone what is in New and clean: that equals what Old holds.
        """
        with self._telemetry.operation(job, batch=True) as operation:
            operation.batched(len(located), self._gate.write_rate)
            outcomes = await self._present(located) if job == "backfill" else {}
            wanted = [each for each in located if each.name not in outcomes]
            if wanted and self.new_takes_writes:
                copied = await self._copy_under_token(wanted, (), rules._replace(strict=True))
                outcomes.update((each.name, self._outcome(each, copied, rules)) for each in wanted)
            else:
                outcomes.update((each.name, "disabled") for each in wanted)
            _count(operation, outcomes.values())
        return outcomes

    def _outcome(self, located: Located[K], copied: Copied[K, V], rules: CopyRules) -> CopyOutcome:
        """What came of copying a key. One that only a kill kept from New is not left out: it is tried again."""
        outcome = _outcome(located.name, copied, rules)
        decision = self._gate.decision
        is_out = 0 < decision.write_below <= located.hash and not rules.everything
        return "disabled" if outcome == "not_covered" and not is_out else outcome

    async def _present(self, located: Sequence[Located[K]]) -> dict[bytes, CopyOutcome]:
        """Those that need no copy, and those on which New failed.

        The ledger is asked last, for fewer keys. That is safe, for nothing is served: a key that New had a moment
        ago, and that is clean now, is in New as Old holds it, or was removed from both meanwhile.
        """
        try:
            permit = self._deadline().only_while(self._new_takes_writes)
            found = await self._new.read_many([each.key for each in located], permit)
        except GuardOpen as refused:
            self._guard_refused(refused)
            return dict.fromkeys((each.name for each in located), "guard_open")
        except DeadlinePassed:
            why: CopyOutcome = "failed" if self.new_takes_writes else "disabled"
            return dict.fromkeys((each.name for each in located), why)
        except Exception as error:
            self._new_failed("read", error)
            return dict.fromkeys((each.name for each in located), "failed")
        there = [each.name for each in located if found.get(each.key) is not None]
        if not there:
            return {}
        # Before the ledger is asked: a key that is unmarked now may be marked, and forgotten here, just after.
        there = [name for name in there if name not in self._unmarked]
        try:
            dirty = set(await self._ledger.dirty(there))
        except Exception as error:
            self._ledger_failed("dirty", error)
            raise
        return {name: "present" for name in there if name not in dirty}

    # -- comparing --------------------------------------------------------------------------------------------

    async def confirm(
        self,
        located: Sequence[Located[K]],
        comparison: Comparison,
        *,
        mark: bool,
        keys_only: bool = False,
        extra_only: bool = False,
    ) -> Confirmed:
        """Compare keys under a token, so that no write comes between the two reads.

        Raises what the stores raise, and the ledger where it gives no token.

        As in the comparison beside reads, a difference counts where the ledger says, after both stores were read,
        that the token was alone from its begin until then. `mark`: a key whose value in New is wrong becomes
        stale, so that Old serves it. One that New lacks stays as it is, for a read finds it in Old. `keys_only`:
        no values are compared. `extra_only`: nothing counts as a difference but that Old lacks a key.
        """
        with self._telemetry.operation("verify", batch=True) as operation:
            operation.batched(len(located), self._gate.rate)
            compare = partial(_difference, comparison=comparison, keys_only=keys_only, extra_only=extra_only)
            confirmed = await self._confirm(located, compare, mark=mark)
            operation.count("equal", len(confirmed.equal))
            operation.count("different", len(confirmed.different))
            operation.count("unsure", len(confirmed.unsure))
            operation.count("failed", len(confirmed.failed))
        return confirmed

    async def _confirm(
        self, located: Sequence[Located[K]], compare: Callable[[V | None, V | None], _Found], *, mark: bool
    ) -> Confirmed:
        token = self._new_token()
        grant = await self._begin_copy(located, token, strict=True)
        granted = [each for each in located if grant is not None and each.name in grant.granted]
        others = frozenset(each.name for each in located) - {each.name for each in granted}
        if grant is None or not granted:
            return Confirmed(frozenset(), (), frozenset(), others)
        suspects: dict[bytes, Difference] = {}
        failed: set[bytes] = set()
        try:
            held = await self._read_old(granted)
            found = await self.read_new(granted)
            for each in granted:
                try:
                    kind, fields = compare(held.get(each.key), found.get(each.key))
                except Exception as error:  # a function of the user's
                    failed.add(each.name)
                    self._telemetry.report_limited("comparison_failed", error=type(error).__name__)
                    continue
                if kind is not None:
                    stale = each.name in grant.stale
                    suspects[each.name] = Difference(each.name, each.hash, kind, fields, stale)
            different = [each for each in granted if each.name in suspects]
            certain = await self._those_alone(different, token) if different else []
            marked = [each for each in certain if mark and suspects[each.name].is_wrong]
        except GeneratorExit:
            raise
        except BaseException:
            await self._withdraw(granted, token)  # nothing was written
            raise
        names = {each.name for each in marked}
        await self._withdraw([each for each in granted if each.name not in names], token)
        if marked:
            await self._distrust(marked, token)
        sure = {each.name for each in certain}
        return Confirmed(
            frozenset(each.name for each in granted) - suspects.keys() - failed,
            [suspects[each.name] for each in certain],
            frozenset(failed),
            others | (suspects.keys() - sure),
            grant.opened,
        )

    # -- the ledger -------------------------------------------------------------------------------------------

    async def holds_nothing(self) -> bool:
        """Whether New is empty, as far as a scan of it tells. Raises Unsupported where New cannot be scanned."""
        cursor: str | None = None
        while True:
            page = await self.scan_new(cursor, 1, None)
            if page.items:
                return False
            if page.next_cursor is None:
                return True
            cursor = page.next_cursor


def _outcome(name: bytes, copied: Copied[K, V], rules: CopyRules) -> CopyOutcome:
    if name in copied.refused:
        return "refused"
    if name in copied.unsure:
        return "failed"
    match copied.paths.get(name):
        case "copied":
            return "copied"
        case "miss":
            return "absent" if rules.delete else "extra"
        case "old":
            return "not_covered"
        case "disabled":
            return "disabled"
        case "guard_open":
            return "guard_open"
        case "ledger_failed":
            return "ledger_failed"
        case None:
            return "pending"
        case _:
            return "failed"  # the time ran out before New was called


def _count(operation: OperationTelemetry, outcomes: Collection[CopyOutcome]) -> None:
    for outcome in sorted(set(outcomes)):
        operation.count(outcome, sum(each == outcome for each in outcomes))


_Found: TypeAlias = tuple[DifferenceKind | None, tuple[str, ...]]


def _difference(
    held: object | None, found: object | None, *, comparison: Comparison, keys_only: bool, extra_only: bool
) -> _Found:
    """How the values of a key differ, and in which fields. Raises what a function of the user's does."""
    if held is None:
        return (None if found is None else "extra"), ()
    if extra_only:
        return None, ()
    if found is None:
        return "missing", ()
    fields = None if keys_only else comparison.differing(held, found)
    return ("changed", fields) if fields else (None, ())
