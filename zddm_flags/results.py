"""What the jobs that finish a migration tell: plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from zddm_flags.rollout import Rollout

__all__ = ["BackfillResult", "FoundDifference", "JobStatus", "MigrationStatus", "RepairResult", "VerifyResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillResult:
    """What a backfill did. Counts are of keys, of the whole run: what earlier processes did of it is in them."""

    finished: bool
    """Whether it came to the end of Old. False: it was stopped, and a further one goes on."""
    resumed: bool
    """Whether it went on from where another one was."""
    rows: int
    """Keys of Old that were looked at."""
    copied: int
    present: int
    """Keys that New had already, and clean."""
    absent: int
    """Keys that were deleted from Old before they could be copied."""
    not_covered: int
    """Keys above the rate."""
    refused: int
    """Keys whose value New refused: they are stale."""
    pending: int
    """Keys on which operations were in progress for so long that they were left."""
    too_long: int
    """Keys that are too long for any ledger: they stay in Old."""
    covered: float
    """The share of the keys that this backfill covers: those whose hash rate is below."""
    seconds: float
    """How long it was worked on."""

    @property
    def complete(self) -> bool:
        """Whether every key that it covers is in New."""
        return self.finished and not (self.refused or self.pending or self.too_long)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDifference:
    """One key that differs."""

    hash: str
    """The key's hash, 16 hexadecimal digits: what spans show as `zddm.key.hash`."""
    kind: Literal["changed", "missing", "extra"]
    """New holds another value; it lacks the key; or it has a key that Old lacks."""
    fields: Sequence[str]
    """Of a value that changed, up to 20 of the fields that differ, each to its 100th character."""
    stale: bool
    """Whether the ledger knew, so that Old serves the key."""
    name: bytes = field(repr=False)
    """The key as the ledger names it: the key itself, encoded. Often personal data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """What a verify found. Counts are of keys, of the whole run: what earlier processes did of it is in them."""

    finished: bool
    """Whether it came to the end of both stores. False: it was stopped, and a further one goes on."""
    resumed: bool
    compared: int
    """Keys of Old that were compared. One that a store without an order gives twice counts twice."""
    equal: int
    changed: int
    missing: int
    extra: int
    stale: int
    """Those of the differing keys that the ledger knew to be stale: Old serves them."""
    marked: int
    """Those of the differing keys that were made stale by this verify, so that Old serves them from now on."""
    not_opened: int
    """Those of the missing keys that New was never opened for."""
    unsure: int
    """Keys that were written again and again, or that a crash left, so that no comparison was certain."""
    failed: int
    """Keys on which the comparison raised."""
    too_long: int
    """Keys that are too long for any ledger, and were not seen to be equal: no proxy brings them into New."""
    fields: Mapping[str, int]
    """How many keys differ in each field, of the fields in which most do."""
    differences: Sequence[FoundDifference]
    """Some of the differing keys."""
    extra_checked: bool
    """Whether keys that are only in New were looked for: it takes a New that can be scanned."""
    whole: bool
    """Whether every key and its value was to be compared: no sample, no limit, not the keys alone."""
    seconds: float

    @property
    def different(self) -> int:
        """How many keys differ."""
        return self.changed + self.missing + self.extra + self.too_long

    @property
    def verdict(self) -> Literal["equal", "different", "unfinished"]:
        """What can be said of what was to be compared."""
        if self.different:
            return "different"
        return "equal" if self.finished and not self.unsure and not self.failed else "unfinished"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairResult:
    """What a repair did. Counts are of keys."""

    finished: bool
    """Whether it came to the end of the keys. False: it was stopped, and a further one does the rest."""
    dry_run: bool
    """Whether it only looked: then the counts say what would have been done."""
    keys: int
    """Keys that were looked at."""
    copied: int
    """Keys whose value was copied from Old into New."""
    deleted: int
    """Keys that only New had, and that were deleted there."""
    absent: int
    """Keys that neither store had."""
    extra: int
    """Keys that Old lacks, and that were left in New: see `delete_extra`."""
    not_covered: int
    """Keys above the rate: see `everything`."""
    refused: int
    """Keys whose value New refused: they stay stale."""
    pending: int
    """Keys on which operations were in progress for so long that they were left."""
    not_found: int
    """Keys that have no form of which the key can be made again, and that are in neither store."""
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every key is right now."""
        return self.finished and not (
            self.extra or self.not_covered or self.refused or self.pending or self.not_found
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What the ledger has of a job."""

    state: Literal["running", "stopped", "finished"]
    """"running" is also what a process leaves that is killed: see `saved_seconds_ago`."""
    saved_seconds_ago: float
    """When it was last heard of, by the ledger's clock."""
    counts: Mapping[str, int]
    """What came of the keys so far."""
    expected: int | None
    """About how many keys there were when it began."""
    result: Mapping[str, object]
    """Of one that is over: what it told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus:
    """How far a migration is, as of now."""

    name: str
    rollout: Rollout
    """The rates wanted."""
    flag_key: str | None
    opened: float
    """The largest rate at which New was ever used."""
    epoch: int
    stale: int
    """Keys of New that are not trusted: Old serves them."""
    pending: int
    """Writes and copies in progress, or never ended."""
    oldest_pending_seconds: float | None
    token_seconds: float
    """The age at which a token that was left is reaped."""
    reaped: int
    """Tokens that were ever reaped: what crashed, or took too long."""
    backfill: JobStatus | None
    verify: JobStatus | None
    reasons: Sequence[str]
    """Why it is not yet time to cut over; empty where it is."""

    @property
    def ready(self) -> bool:
        """Whether New holds all that Old does, and serves it."""
        return not self.reasons
