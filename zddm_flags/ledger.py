"""The ledger: which keys of New must not be trusted, and how far the gate was ever open.

Per key, only while it is dirty: the pending tokens, *stale* and *contended*. A key without an entry is clean,
so a ledger's size is what is in flight plus what is stale, never the number of keys.

`LedgerTable` is the state machine, with no I/O, no lock and no clock of its own; `InMemoryLedger` puts a lock
around it. A ledger on a server does the same steps in its own language, each call atomically.
"""

from __future__ import annotations

import heapq
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from zddm_flags._fork import after_fork_in_child
from zddm_flags.errors import InvalidKey, LedgerMismatch
from zddm_flags.rollout import checked_rate

__all__ = [
    "MAX_CHECKPOINT_CHARACTERS",
    "MAX_KEY_BYTES",
    "MAX_TOKEN_BYTES",
    "AsyncInMemoryLedger",
    "AsyncLedger",
    "AsyncMigrationLedger",
    "Checkpoint",
    "CopyGrant",
    "Grant",
    "InMemoryLedger",
    "Ledger",
    "LedgerSummary",
    "LedgerTable",
    "MigrationLedger",
    "Opening",
    "StalePage",
    "check_checkpoint",
    "check_limit",
    "cursor_after",
    "key_before",
]


MAX_KEY_BYTES = 1024
"""The longest key that every ledger takes, in its type-tagged encoding."""
MAX_TOKEN_BYTES = 48
MAX_CHECKPOINT_CHARACTERS = 1_000_000
"""The longest text of a checkpoint that every ledger takes."""


class Opening(NamedTuple):
    """The largest rate at which New was ever used, and the epoch in which that holds."""

    opened: float
    epoch: int


class Grant(NamedTuple):
    """The answer to `begin`."""

    contended: frozenset[bytes]
    """Keys on which other tokens were pending, or had become so by the time of the answer: they end stale."""
    opened: float
    """The largest rate at which New was ever used, as `begin` found it."""
    epoch: int


class CopyGrant(NamedTuple):
    """The answer to `begin_copy`."""

    granted: frozenset[bytes]
    """Keys that may be copied: no token was pending on them."""
    stale: frozenset[bytes]
    """Those of the granted keys that were stale."""
    opened: float
    epoch: int


class LedgerSummary(NamedTuple):
    """How much a migration's ledger holds."""

    stale: int
    """Keys that are stale."""
    pending: int
    """Tokens of writes and copies in progress, or never ended."""
    oldest_pending_seconds: float | None
    """Age of the oldest token by the ledger's clock; None where there is none."""
    opened: float
    epoch: int
    reaped: int = 0
    """Tokens reaped since the epoch began: of what crashed, or took too long. Counted as `reap` counts them.

    Where the ledger's server failed meanwhile some may be missing, or be counted twice."""


class StalePage(NamedTuple):
    """Some stale keys, and the cursor at which to go on: None when there are no more."""

    keys: Sequence[bytes]
    next_cursor: str | None


class Checkpoint(NamedTuple):
    """What a long job keeps in the ledger, so that another process can go on from there."""

    data: str
    version: int
    """How often it was saved, from 1."""
    age_seconds: float
    """How long ago it was saved, by the ledger's clock."""


class MigrationLedger(Protocol):
    """The rows of one migration. When a call returns, its effect is as durable as the ledger is. Thread-safe.

    `keys` are distinct, each of at most `MAX_KEY_BYTES`; a `token` is of at most `MAX_TOKEN_BYTES`, ASCII letters,
    digits and hyphens, and never the same twice. `begin` and `begin_copy` are atomic over all of their keys, and
    `opened` and `epoch` are read when the token is pending, or later, never before. The others are atomic for each
    key, so that what interrupts one of them between two keys leaves no key half done.

    A call that raises may have taken effect, unless it raises:

    - NotApplied, from the cause: it certainly took no effect. The proxy begins again, with a fresh token.
    - LedgerMismatch: what the ledger holds is not this migration's, cannot be understood, or was lost: another
      hasher, another schema version, rows that are gone or were made anew since this object saw them. The text
      says what to do.
    - InvalidKey: a key is too long for the ledger.

    `begin` and `begin_copy` are never retried by a ledger or its driver: their first attempt may yet land. The
    others may be, but for `reset`.
    """

    def begin(self, keys: Sequence[bytes], token: bytes) -> Grant:
        """Make `token` pending on each key; where other tokens are pending, mark the key contended."""
        ...

    def begin_copy(self, keys: Sequence[bytes], token: bytes) -> CopyGrant:
        """Make `token` pending on each key on which no token is."""
        ...

    def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        """Remove `token` from each key; mark it stale if it is contended or its outcome is False, else clean.

        Where the token is not pending, nothing changes: it was reaped, and the key is stale for a reason.
        """
        ...

    def withdraw(self, keys: Collection[bytes], token: bytes) -> None:
        """Remove `token` from each key and leave *stale* as it was."""
        ...

    def dirty(self, keys: Collection[bytes]) -> Collection[bytes]:
        """Those of `keys` that are pending or stale."""
        ...

    def alone(self, keys: Collection[bytes], token: bytes) -> Collection[bytes]:
        """Those of `keys` on which `token` is pending, and was the only one since it began."""
        ...

    def open_to(self, rate: float) -> Opening:
        """Raise `opened` to `rate`, if it is below."""
        ...

    def reap(self, age_seconds: float, limit: int = 1000) -> int:
        """Remove at most `limit` tokens older than this by the ledger's clock; their keys become stale.

        And older than the `token_seconds` of whoever uses these rows: another's may be longer than one's own.
        Returns how many were removed. A ledger may count a token once for each of its keys.
        """
        ...

    def summary(self) -> LedgerSummary:
        """How much the ledger holds of this migration."""
        ...

    def last_summary(self) -> LedgerSummary:
        """The same, as last seen by this process. No I/O, for blocking and asyncio ledgers alike."""
        ...

    def stale_keys(self, cursor: str | None = None, limit: int = 1000) -> StalePage:
        """A page of about `limit` keys, at least 1, that are stale, whether a token is pending on them or not.

        It is the first one, or with a page's `next_cursor` the one behind that page. A key that is stale from the
        first page to the last is given once or more; one that becomes stale meanwhile, or ceases to be, perhaps.
        A page may be empty though more follow, and larger than `limit`.

        Raises ValueError where `cursor` is none that a page of this ledger gave, as far as it can tell, or
        `limit` is below 1.
        """
        ...

    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """All checkpoints of the migration, by name."""
        ...

    def save_checkpoint(self, name: str, data: str, version: int) -> bool:
        """Replace the checkpoint `name` if `version` is the one that it has (0: there is none); else False.

        It has `version + 1` then. So of two who go on from the same one with different `data` only the first
        succeeds. May be repeated: where it has `version + 1` and this very `data`, it counts as replaced. A `name`
        has 1 to 64 characters, lower-case ASCII letters, digits, `-`, `.` and `/`; `data` at most
        `MAX_CHECKPOINT_CHARACTERS`, of any that UTF-8 has but NUL. Raises ValueError for others.
        """
        ...

    def reset(self) -> bool:
        """Forget every stale key and checkpoint, set `opened` and `reaped` to 0, and raise `epoch` by 1.

        False, and nothing changed, where any token is pending. Atomic as a whole: a `begin` that comes at the same
        time is before it, so that this is False, or after it, and gets the new `opened` and `epoch`. What New
        missed is forgotten with it, so nothing that New holds may be trusted afterwards: empty it first.
        """
        ...


class AsyncMigrationLedger(Protocol):
    """The asyncio twin of `MigrationLedger`."""

    async def begin(self, keys: Sequence[bytes], token: bytes) -> Grant:
        """See `MigrationLedger.begin`."""
        ...

    async def begin_copy(self, keys: Sequence[bytes], token: bytes) -> CopyGrant:
        """See `MigrationLedger.begin_copy`."""
        ...

    async def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        """See `MigrationLedger.end`."""
        ...

    async def withdraw(self, keys: Collection[bytes], token: bytes) -> None:
        """See `MigrationLedger.withdraw`."""
        ...

    async def dirty(self, keys: Collection[bytes]) -> Collection[bytes]:
        """See `MigrationLedger.dirty`."""
        ...

    async def alone(self, keys: Collection[bytes], token: bytes) -> Collection[bytes]:
        """See `MigrationLedger.alone`."""
        ...

    async def open_to(self, rate: float) -> Opening:
        """See `MigrationLedger.open_to`."""
        ...

    async def reap(self, age_seconds: float, limit: int = 1000) -> int:
        """See `MigrationLedger.reap`."""
        ...

    async def summary(self) -> LedgerSummary:
        """See `MigrationLedger.summary`."""
        ...

    def last_summary(self) -> LedgerSummary:
        """See `MigrationLedger.last_summary`."""
        ...

    async def stale_keys(self, cursor: str | None = None, limit: int = 1000) -> StalePage:
        """See `MigrationLedger.stale_keys`."""
        ...

    async def checkpoints(self) -> Mapping[str, Checkpoint]:
        """See `MigrationLedger.checkpoints`."""
        ...

    async def save_checkpoint(self, name: str, data: str, version: int) -> bool:
        """See `MigrationLedger.save_checkpoint`."""
        ...

    async def reset(self) -> bool:
        """See `MigrationLedger.reset`."""
        ...


class Ledger(Protocol):
    """Holds the rows of any number of migrations."""

    @property
    def shared(self) -> bool:
        """Whether other processes see the same rows, so that it outlives this one."""
        ...

    def migration(self, name: str, identity: str, token_seconds: float = 0.0) -> MigrationLedger:
        """The rows of the migration `name`, whose gate has this `identity` (hasher and encoding). No I/O.

        `token_seconds` is how old a token of this caller's may become while it is still in use. The rows keep the
        largest that they were ever told, before the first such token is pending, and nobody reaps a younger one.

        Raises, now or at the first call: LedgerMismatch, where the rows were written under another identity.
        """
        ...


class AsyncLedger(Protocol):
    """The asyncio twin of `Ledger`."""

    @property
    def shared(self) -> bool:
        """See `Ledger.shared`."""
        ...

    def migration(self, name: str, identity: str, token_seconds: float = 0.0) -> AsyncMigrationLedger:
        """See `Ledger.migration`."""
        ...


@dataclass(slots=True)
class _Entry:
    """A dirty key. There is an entry only while a token is pending or the key is stale."""

    pending: set[bytes] = field(default_factory=set)
    stale: bool = False
    contended: bool = False


class LedgerTable:
    """One migration's ledger as a state machine. Not thread-safe; `now` is the caller's clock in seconds."""

    def __init__(self) -> None:
        self.opened = 0.0
        self.epoch = 0
        self.reaped = 0
        self._entries: dict[bytes, _Entry] = {}
        self._tokens: dict[bytes, tuple[float, set[bytes]]] = {}  # oldest first
        self._stale = 0

    def begin(self, keys: Iterable[bytes], token: bytes, now: float) -> Grant:
        """See `MigrationLedger.begin`."""
        contended: list[bytes] = []
        for key in keys:
            entry = self._entries.setdefault(key, _Entry())
            if entry.pending:
                entry.contended = True
                contended.append(key)
            self._add(entry, key, token, now)
        return Grant(frozenset(contended), self.opened, self.epoch)

    def begin_copy(self, keys: Iterable[bytes], token: bytes, now: float) -> CopyGrant:
        """See `MigrationLedger.begin_copy`."""
        granted: list[bytes] = []
        stale: list[bytes] = []
        for key in keys:
            entry = self._entries.setdefault(key, _Entry())
            if entry.pending:
                continue
            self._add(entry, key, token, now)
            granted.append(key)
            if entry.stale:
                stale.append(key)
        return CopyGrant(frozenset(granted), frozenset(stale), self.opened, self.epoch)

    # The order of the lines below matters where a KeyboardInterrupt comes between them: a token that is pending
    # can always be reaped, and *stale* is set before the token that protected the key is gone.

    def _add(self, entry: _Entry, key: bytes, token: bytes, now: float) -> None:
        self._tokens.setdefault(token, (now, set()))[1].add(key)
        entry.pending.add(token)

    def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        """See `MigrationLedger.end`."""
        for key, ok in outcomes.items():
            entry = self._entries.get(key)
            if entry is not None and token in entry.pending:
                self._remove(entry, key, token, stale=entry.contended or not ok)

    def withdraw(self, keys: Iterable[bytes], token: bytes) -> None:
        """See `MigrationLedger.withdraw`."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and token in entry.pending:
                self._remove(entry, key, token, stale=entry.stale)

    def _remove(self, entry: _Entry, key: bytes, token: bytes, *, stale: bool) -> None:
        self._stale += stale - entry.stale
        entry.stale = stale
        entry.pending.remove(token)
        if not entry.pending:
            entry.contended = False
            if not stale:
                del self._entries[key]
        keys = self._tokens[token][1]
        keys.remove(key)
        if not keys:
            del self._tokens[token]

    def dirty(self, keys: Iterable[bytes]) -> Collection[bytes]:
        """See `MigrationLedger.dirty`."""
        entries = self._entries
        return [key for key in keys if key in entries]

    def alone(self, keys: Iterable[bytes], token: bytes) -> Collection[bytes]:
        """See `MigrationLedger.alone`."""
        entries = ((key, self._entries.get(key)) for key in keys)
        return [key for key, entry in entries if entry and token in entry.pending and not entry.contended]

    def open_to(self, rate: float) -> Opening:
        """See `MigrationLedger.open_to`."""
        self.opened = max(self.opened, rate)
        return Opening(self.opened, self.epoch)

    def reap(self, begun_before: float, limit: int) -> int:
        """Reap at most `limit` tokens whose `begin` came before this moment."""
        old: list[bytes] = []
        for token, (begun, _) in self._tokens.items():
            if begun >= begun_before or len(old) >= limit:
                break
            old.append(token)
        for token in old:
            for key in sorted(self._tokens[token][1]):
                entry = self._entries.get(key)
                if entry is not None and token in entry.pending:
                    self._remove(entry, key, token, stale=True)
            self._tokens.pop(token, None)
        self.reaped += len(old)
        return len(old)

    def stale_keys(self, after: bytes | None, limit: int) -> list[bytes]:
        """At most `limit` stale keys that come after `after`, in their order."""
        stale = (key for key, entry in self._entries.items() if entry.stale and (after is None or key > after))
        return heapq.nsmallest(limit, stale)

    def reset(self) -> bool:
        """See `MigrationLedger.reset`; the checkpoints are not here."""
        if self._tokens:
            return False
        self._entries.clear()
        self._stale = self.reaped = 0
        self.opened = 0.0
        self.epoch += 1
        return True

    def summary(self, now: float) -> LedgerSummary:
        """See `MigrationLedger.summary`."""
        oldest = next((begun for begun, _ in self._tokens.values()), None)
        age = None if oldest is None else max(0.0, now - oldest)
        return LedgerSummary(self._stale, len(self._tokens), age, self.opened, self.epoch, self.reaped)

    def fingerprint(self) -> object:
        """The whole state, hashable: what an explorer remembers of it."""
        entries = frozenset(
            (key, frozenset(entry.pending), entry.stale, entry.contended) for key, entry in self._entries.items()
        )
        begun = frozenset((token, moment) for token, (moment, _) in self._tokens.items())
        return entries, begun, self.opened, self.epoch


class _InMemoryMigration:
    """One migration's rows in memory: a `LedgerTable` behind a lock that is held for microseconds."""

    def __init__(self, identity: str, clock: Callable[[], float], opened: float) -> None:
        self.identity = identity
        self._token_seconds = 0.0
        self._clock = clock
        self._table = LedgerTable()
        self._table.open_to(opened)
        self._checkpoints: dict[str, tuple[str, int, float]] = {}
        self._lock = threading.Lock()

    def begin(self, keys: Sequence[bytes], token: bytes) -> Grant:
        for key in keys:
            if len(key) > MAX_KEY_BYTES:  # as every other ledger, so that it is seen before there is one
                raise InvalidKey(f"a key's encoding is longer than the {MAX_KEY_BYTES} bytes that a ledger takes")
        with self._lock:
            return self._table.begin(keys, token, self._clock())

    def begin_copy(self, keys: Sequence[bytes], token: bytes) -> CopyGrant:
        with self._lock:
            return self._table.begin_copy(keys, token, self._clock())

    def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        with self._lock:
            self._table.end(outcomes, token)

    def withdraw(self, keys: Collection[bytes], token: bytes) -> None:
        with self._lock:
            self._table.withdraw(keys, token)

    def dirty(self, keys: Collection[bytes]) -> Collection[bytes]:
        # No lock: whether a key has an entry is one atomic look into a dict, and each key stands for itself.
        return self._table.dirty(keys)

    def alone(self, keys: Collection[bytes], token: bytes) -> Collection[bytes]:
        with self._lock:
            return self._table.alone(keys, token)

    def open_to(self, rate: float) -> Opening:
        with self._lock:
            return self._table.open_to(rate)

    def reap(self, age_seconds: float, limit: int = 1000) -> int:
        with self._lock:
            return self._table.reap(self._clock() - max(age_seconds, self._token_seconds), limit)

    def summary(self) -> LedgerSummary:
        with self._lock:
            return self._table.summary(self._clock())

    last_summary = summary

    def stale_keys(self, cursor: str | None = None, limit: int = 1000) -> StalePage:
        check_limit(limit)
        after = key_before(cursor)
        with self._lock:
            keys = self._table.stale_keys(after, limit)
        return StalePage(keys, cursor_after(keys, limit))

    def checkpoints(self) -> Mapping[str, Checkpoint]:
        with self._lock:
            now = self._clock()
            kept = self._checkpoints.items()
            return {name: Checkpoint(data, version, now - saved) for name, (data, version, saved) in kept}

    def save_checkpoint(self, name: str, data: str, version: int) -> bool:
        check_checkpoint(name, data)
        with self._lock:
            kept, known, _ = self._checkpoints.get(name, (None, 0, 0.0))
            if known == version:
                self._checkpoints[name] = (data, version + 1, self._clock())
                return True
            return known == version + 1 and kept == data

    def reset(self) -> bool:
        with self._lock:
            cleared = self._table.reset()
            if cleared:
                self._checkpoints.clear()
            return cleared

    def keep_tokens_for(self, seconds: float) -> None:
        """Reap no token that is younger than this."""
        with self._lock:
            self._token_seconds = max(self._token_seconds, seconds)

    def after_fork(self) -> None:
        self._lock = threading.Lock()


def check_checkpoint(name: str, data: str) -> None:
    """Refuse what no ledger keeps as a checkpoint. Raises ValueError."""
    if re.fullmatch(r"[a-z0-9./-]{1,64}", name) is None:
        raise ValueError(f"{name!r} is no name of a checkpoint")
    if len(data) > MAX_CHECKPOINT_CHARACTERS or "\0" in data:
        raise ValueError(
            f"the data of a checkpoint has at most {MAX_CHECKPOINT_CHARACTERS} characters, and no NUL"
        )
    try:
        data.encode()
    except UnicodeEncodeError:
        # Without its context: that holds the data.
        raise ValueError("the data of a checkpoint has a character that UTF-8 has not") from None


def check_limit(limit: int) -> None:
    """Refuse what is no size of a page. Raises ValueError."""
    if limit < 1:
        raise ValueError(f"a page of {limit} keys is none: give a limit of at least 1")


def cursor_after(keys: Sequence[bytes], limit: int) -> str | None:
    """The cursor after a page of at most `limit` keys in their order, of a ledger that goes on behind a key."""
    return keys[-1].hex() if len(keys) == limit else None


def key_before(cursor: str | None) -> bytes | None:
    """The last key of the page that gave a cursor; None before the first page. Raises ValueError."""
    if cursor is not None and re.fullmatch(r"([0-9a-f]{2})*", cursor) is None:
        raise ValueError("this is no cursor of a page of stale keys: it is not hexadecimal")
    return None if cursor is None else bytes.fromhex(cursor)


class InMemoryLedger:
    """The ledger of a single process whose New starts empty or verified: the default.

    It is lost when the process ends and is seen by no other process, so its promise ends there as well.
    Share one instance between the proxies that write to the same stores. In the child of a fork a proxy with
    this ledger is disabled. Thread-safe.

    Args:
        opened: the largest rate at which New may have been used before. 0.0 is for a New that is empty. Where
            New holds anything, verified or not, a write that skips New must leave its key stale, so give 1.0,
            or the largest rate that there ever was.
        clock: seconds from any start, never running backwards; for tests.

    Raises:
        InvalidRollout: `opened` is no rate.
    """

    shared = False

    def __init__(self, *, opened: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._opened = checked_rate(opened)
        self._clock = clock
        self._lock = threading.Lock()
        self._migrations: dict[str, _InMemoryMigration] = {}
        after_fork_in_child(self._after_fork)

    def migration(self, name: str, identity: str, token_seconds: float = 0.0) -> MigrationLedger:
        """The rows of the migration `name`. See `Ledger.migration`.

        Raises:
            LedgerMismatch: another proxy uses the name with another hasher or encoding.
        """
        with self._lock:
            rows = self._migrations.setdefault(name, _InMemoryMigration(identity, self._clock, self._opened))
        if rows.identity != identity:
            raise LedgerMismatch(
                f"migration {name!r} was begun with hasher {rows.identity!r}, this gate has {identity!r}: "
                "use the same hasher and encoding in every gate of a migration, or give this one its own name"
            )
        rows.keep_tokens_for(token_seconds)
        return rows

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        for rows in self._migrations.values():
            rows.after_fork()


class _AsyncInMemoryMigration:
    """The same rows, awaited. No call ever waits, so each is one step of the event loop."""

    def __init__(self, rows: MigrationLedger) -> None:
        self._rows = rows
        self.last_summary = rows.last_summary

    async def begin(self, keys: Sequence[bytes], token: bytes) -> Grant:
        return self._rows.begin(keys, token)

    async def begin_copy(self, keys: Sequence[bytes], token: bytes) -> CopyGrant:
        return self._rows.begin_copy(keys, token)

    async def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        self._rows.end(outcomes, token)

    async def withdraw(self, keys: Collection[bytes], token: bytes) -> None:
        self._rows.withdraw(keys, token)

    async def dirty(self, keys: Collection[bytes]) -> Collection[bytes]:
        return self._rows.dirty(keys)

    async def alone(self, keys: Collection[bytes], token: bytes) -> Collection[bytes]:
        return self._rows.alone(keys, token)

    async def open_to(self, rate: float) -> Opening:
        return self._rows.open_to(rate)

    async def reap(self, age_seconds: float, limit: int = 1000) -> int:
        return self._rows.reap(age_seconds, limit)

    async def summary(self) -> LedgerSummary:
        return self._rows.summary()

    async def stale_keys(self, cursor: str | None = None, limit: int = 1000) -> StalePage:
        return self._rows.stale_keys(cursor, limit)

    async def checkpoints(self) -> Mapping[str, Checkpoint]:
        return self._rows.checkpoints()

    async def save_checkpoint(self, name: str, data: str, version: int) -> bool:
        return self._rows.save_checkpoint(name, data, version)

    async def reset(self) -> bool:
        return self._rows.reset()


class AsyncInMemoryLedger:
    """The asyncio twin of `InMemoryLedger`.

    Args:
        ledger: an `InMemoryLedger` to share with blocking proxies of this process; None makes a new one.
    """

    shared = False

    def __init__(self, ledger: InMemoryLedger | None = None) -> None:
        self._ledger = ledger if ledger is not None else InMemoryLedger()

    def migration(self, name: str, identity: str, token_seconds: float = 0.0) -> AsyncMigrationLedger:
        """See `InMemoryLedger.migration`."""
        return _AsyncInMemoryMigration(self._ledger.migration(name, identity, token_seconds))
