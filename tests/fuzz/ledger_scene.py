"""A migration with a key of each kind, whose ledger is going to be damaged, and what its calls may say then."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any

from zddm_flags.ledger import LedgerTable, MigrationLedger
from zddm_flags.tokens import new_token

__all__ = ["BOTH", "CLEAN", "CONTENDED", "HOUR", "IDENTITY", "KEYS", "PENDING", "STALE", "LedgerScene"]

IDENTITY = "xxh3_64"
HOUR = 3600.0
CLEAN, PENDING, CONTENDED, STALE, BOTH = KEYS = (b"sclean", b"spending", b"scontended", b"sstale", b"sboth")
names = (f"migration {number}" for number in itertools.count())


class LedgerScene(ABC):
    """A migration in a ledger, and the same in the reference."""

    def __init__(self) -> None:
        self.name = next(names)
        self.seen = self.migration()
        self.reference = LedgerTable()
        self.tokens: dict[bytes, bytes] = {}
        for keys in ((PENDING, CONTENDED), (CONTENDED,), (STALE, BOTH)):
            self.begin(self.seen, keys)
            if STALE in keys:
                self.end(self.seen, dict.fromkeys(keys, False))
        self.begin(self.seen, (BOTH,))
        self.open_to(self.seen)
        assert self.seen.save_checkpoint("job", "data", 0)

    @abstractmethod
    def migration(self) -> MigrationLedger:
        """As another process has it, which sees the rows for the first time."""

    # What changes the ledger, and then the reference. The time of the reference does not matter.

    def begin(self, ledger: MigrationLedger, keys: Any) -> None:
        token = new_token()
        ledger.begin(keys, token)
        self.reference.begin(keys, token, 0.0)
        self.tokens |= dict.fromkeys(keys, token)

    def begin_copy(self, ledger: MigrationLedger) -> None:
        token = new_token()
        grant = ledger.begin_copy(KEYS, token)
        wanted = self.reference.begin_copy(KEYS, token, 0.0)
        assert grant.granted <= wanted.granted
        assert grant.stale >= wanted.stale & grant.granted

    def end(self, ledger: MigrationLedger, outcomes: dict[bytes, bool]) -> None:
        for key, ok in outcomes.items():
            ledger.end({key: ok}, self.tokens[key])
            self.reference.end({key: ok}, self.tokens[key])

    def withdraw(self, ledger: MigrationLedger) -> None:
        for key, token in self.tokens.items():
            ledger.withdraw([key], token)
            self.reference.withdraw([key], token)

    def open_to(self, ledger: MigrationLedger) -> None:
        assert ledger.open_to(0.5).opened == 0.5

    def dirty(self, ledger: MigrationLedger) -> None:
        """No dirty key is called clean."""
        assert set(ledger.dirty(KEYS)) >= set(self.reference.dirty(KEYS))

    def stale_keys(self, ledger: MigrationLedger) -> None:
        """All that is stale is given, unless the ledger says that it cannot be understood."""
        assert set(ledger.stale_keys().keys) >= {STALE, BOTH} & set(self.reference.stale_keys(None, 9))

    def checkpoints(self, ledger: MigrationLedger) -> None:
        """What was saved is there, in a version of some time."""
        found = ledger.checkpoints().get("job")
        assert found is not None
        assert found.data == "data"
        assert not ledger.save_checkpoint("job", "other", 0)

    def reset(self, ledger: MigrationLedger) -> None:
        """Nothing is forgotten while a token is pending."""
        assert not ledger.reset()

    def reap(self, ledger: MigrationLedger) -> None:
        """No token is taken from who may still use it, which is for an hour."""
        assert ledger.reap(0.0) == 0
