# Generated from zddm_flags/testing/_async/ledgers.py by `make generate`. Do not edit.
"""The rules that every ledger keeps."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import pytest

from zddm_flags.errors import InvalidKey, LedgerMismatch
from zddm_flags.ledger import (
    MAX_CHECKPOINT_CHARACTERS,
    MAX_KEY_BYTES,
    MAX_TOKEN_BYTES,
    Checkpoint,
    CopyGrant,
    Grant,
    Ledger,
    LedgerSummary,
    LedgerTable,
    Opening,
    StalePage,
)
from zddm_flags.testing._samples import IDENTITY, NAME, NAMES, require
from zddm_flags.testing._sync._world import (
    COROUTINES,
    GENERATOR,
    OTHERWISE_LEDGER,
    Body,
    opened,
    pass_time,
    together,
)
from zddm_flags.testing._sync._world_cancellation import LedgerCancellation
from zddm_flags.testing._sync.rules import error_of, rule, until_applied, until_it_answers
from zddm_flags.tokens import new_token
from zddm_flags.worlds import is_coroutine_function

__all__ = ["LedgerContract"]

K, L, M = b"sk", b"sl", b"sm"
STEP_CALLS = ("begin", "begin_copy", "end", "withdraw", "dirty", "open_to", "reap", "reset")
CALLS = (*STEP_CALLS, "summary", "alone", "stale_keys", "checkpoints", "save_checkpoint")
AN_HOUR = 3600.0
WORKERS = 4
ROUNDS = 8
STEPS = 40
JOB = "backfill/users.1-of-2"
MOST_PAGES = 1000
# What databases, drivers and their escapes change: quotes, backslashes, percent signs, spaces at either end, what
# looks like nothing, and characters of one to four bytes.
TEXTS = (
    '{"cursor": "it\'s \\"here\\""}', "", " ", " a ", "\\", "\\'", "%s %(a)s ?", "null", "0", "a\r\n\tb",
    "\N{LATIN SMALL LETTER E WITH ACUTE}\N{CYRILLIC SMALL LETTER ZHE}\N{CAT FACE}e\N{COMBINING ACUTE ACCENT}",
)  # fmt: skip
RATES = (2**-64, 0.1, math.nextafter(0.1, 1), 0.1 + 0.2, 1 / 3, 0.7000000000000001, 1 - 2**-53, 1.0)


class LedgerContract(LedgerCancellation):
    """The rules of `MigrationLedger`, as tests. Subclass it under a name that starts with `Test`.

    Only `ledger` must be defined. `another_ledger` is what sharing is checked with: define it for a ledger that
    is shared. The tests are plain functions, which need no plugin of pytest. Each has a ledger of its own.

    Attributes:
        tick_seconds: above 0; an age that the ledger's clock can tell, and that tests wait for.
        seeds: of the random sequences of calls that are compared with `LedgerTable`; a failure names its seed.
        batch_size: how many keys the largest batch has.
    """

    tick_seconds: float = 0.05
    seeds: Sequence[int] = range(5)
    batch_size: int = 1000

    def ledger(self) -> Iterator[Ledger]:
        """Yield a ledger that holds nothing and was never opened, and clean up behind the yield.

        Not a fixture of pytest: to use fixtures, take them in an autouse fixture of the class that keeps them on
        `self`.
        """
        raise NotImplementedError(f"define ledger(), {GENERATOR} of a ledger that holds nothing")

    def another_ledger(self, ledger: Any) -> Iterator[Ledger] | None:
        """Yield one more ledger on the rows of `ledger`, as another process would have it."""
        del ledger
        return None

    def outage(self) -> Iterator[None] | None:
        """Make the rows unreachable, yield, and make them reachable again as they were."""
        return None

    def lose(self) -> None:
        """Lose all rows, as a server does that is emptied or made anew."""
        pytest.skip("define lose() to check what a ledger says whose rows are gone")

    def advance(self, seconds: float) -> None:
        """Let the ledger's clock go on by this time, or a little more."""
        pass_time(seconds)

    def check_rule(self, body: Callable[[Any, Any], Body], needs: Sequence[str], /) -> None:
        """Run the body of a test with a ledger."""
        with opened(self.ledger(), "ledger") as ledger:
            rows = ledger.migration(NAME, IDENTITY)
            for call in (*CALLS, *needs):
                require(
                    is_coroutine_function(getattr(rows, call)) is COROUTINES,
                    f"{call}() of {type(rows).__name__} is {OTHERWISE_LEDGER}",
                )
            body(self, ledger)

    # -- begin ---------------------------------------------------------------------------------------------------

    @rule()
    def test_an_unknown_key_is_clean(self, ledger: Any) -> None:
        """A key that nothing happened to is clean, and what is asked of nothing changes nothing."""
        rows = _rows(ledger)
        _require_dirty(rows, [], "in a ledger that holds nothing")
        require(not list(rows.dirty([])), "dirty() of no keys must be empty")
        rows.end({}, new_token())
        rows.withdraw([], new_token())
        rows.end({K: True, L: False}, new_token())
        rows.withdraw([K], new_token())
        _require_dirty(rows, [], "after end() and withdraw() of a token that never began")
        _require_summary(rows.summary(), stale=0, pending=0)

    @rule()
    def test_begin_makes_its_keys_dirty(self, ledger: Any) -> None:
        """When `begin` returns its keys are dirty, and no others; nothing is contended."""
        rows = _rows(ledger)
        grant = rows.begin([K, L], new_token())
        require(isinstance(grant, Grant), f"begin() gave {type(grant).__name__}: it must give a Grant")
        require(set(grant.contended) == set(), "begin() of keys without tokens must not be contended")
        require(grant.opened == 0.0, f"begin() gave opened {grant.opened!r} of a ledger that was never opened")
        _require_dirty(rows, [K, L], "after begin() returned")

    @rule()
    def test_two_tokens_contend(self, ledger: Any) -> None:
        """`begin` says on which keys other tokens are pending; whoever ends first, these end stale (H2)."""
        rows = _rows(ledger)
        for order in ((0, 1), (1, 0)):
            tokens = [new_token(), new_token()]
            rows.begin([K, M], tokens[0])
            grant = rows.begin([K, L], tokens[1])
            require(
                set(grant.contended) == {K},
                f"begin() gave contended {set(grant.contended)!r}: it must be the keys on which others are "
                "pending",
            )
            for number in order:
                rows.end({(M, L)[number]: True, K: True}, tokens[number])
            _require_dirty(
                rows,
                [K],
                "after both of two overlapping tokens ended well",
                "Contention must not be forgotten before the last token of the key is gone: nobody knows in which "
                "order the two wrote to New.",
            )
            _begin_and_end(rows, K)
            _require_dirty(rows, [], "after a token that was alone ended well", "Contention ends with the tokens")

    # -- begin_copy ----------------------------------------------------------------------------------------------

    @rule()
    def test_a_copy_of_a_clean_key_is_granted(self, ledger: Any) -> None:
        """A copy is granted a key without tokens, which is dirty from then on, and clean after it ended well."""
        rows = _rows(ledger)
        token = new_token()
        grant = rows.begin_copy([K, L], token)
        require(
            isinstance(grant, CopyGrant), f"begin_copy() gave {type(grant).__name__}: it must give a CopyGrant"
        )
        require(set(grant.granted) == {K, L}, "begin_copy() must grant the keys on which no token is pending")
        require(set(grant.stale) == set(), "begin_copy() told of a clean key that it is stale")
        _require_dirty(rows, [K, L], "after begin_copy() was granted them")
        rows.end({K: True, L: True}, token)
        _require_dirty(rows, [], "after a copy that was alone ended well")

    @rule()
    def test_a_copy_is_denied_beside_any_token(self, ledger: Any) -> None:
        """A copy is not granted a key on which any token is pending, and leaves no trace on it (H17)."""
        rows = _rows(ledger)
        for begin in (rows.begin, rows.begin_copy):
            first, second = new_token(), new_token()
            begin([K], first)
            grant = rows.begin_copy([K, L], second)
            require(
                set(grant.granted) == {L},
                f"begin_copy() granted {set(grant.granted)!r}: it must be those keys on which no token is pending",
            )
            rows.end({K: False, L: True}, second)  # of K it holds nothing
            rows.end({K: True}, first)
            _require_dirty(rows, [], "after a denied copy", "A copy that is denied must not contend.")

    @rule()
    def test_a_copy_of_a_stale_key_says_so(self, ledger: Any) -> None:
        """A stale key is granted, and named as stale: New may hold what Old deleted (H3)."""
        rows = _rows(ledger)
        _begin_and_end(rows, K, ok=False)
        token = new_token()
        grant = rows.begin_copy([K, L], token)
        require(set(grant.granted) == {K, L}, "begin_copy() must grant a stale key: its copy makes it right")
        require(
            set(grant.stale) == {K},
            f"begin_copy() gave stale {set(grant.stale)!r}: it must be the granted keys that are stale, or "
            "what Old "
            "deleted stays in New",
        )
        rows.end({K: True, L: True}, token)
        _require_dirty(rows, [], "after a copy of a stale key ended well")

    @rule()
    def test_a_write_contends_with_a_copy(self, ledger: Any) -> None:
        """A write that begins during a copy leaves the key stale, whoever ends first (H1)."""
        rows = _rows(ledger)
        for order in ((0, 1), (1, 0)):
            tokens = [new_token(), new_token()]
            rows.begin_copy([K], tokens[0])
            require(set((rows.begin([K], tokens[1])).contended) == {K}, "begin() during a copy must be contended")
            for number in order:
                rows.end({K: True}, tokens[number])
            _require_dirty(rows, [K], "after a write that began during a copy")
            _begin_and_end(rows, K)

    # -- end and withdraw ----------------------------------------------------------------------------------------

    @rule()
    def test_end_settles_each_key_by_itself(self, ledger: Any) -> None:
        """Of a batch each key ends by its own outcome; keys that are not named stay pending (H14)."""
        rows = _rows(ledger)
        token = new_token()
        rows.begin([K, L, M], token)
        rows.end({K: True, L: False}, token)
        _require_dirty(rows, [L, M], "after end() with one key ok, one not ok and one not named")
        _require_summary(rows.summary(), stale=1, pending=1)
        rows.end({M: True}, token)
        _require_dirty(rows, [L], "after end() of the last key")

    @rule()
    def test_a_write_that_ends_well_makes_a_stale_key_clean(self, ledger: Any) -> None:
        """A token that was alone and ends well clears *stale*; until then the key stays stale."""
        rows = _rows(ledger)
        _begin_and_end(rows, K, ok=False)
        _require_dirty(rows, [K], "after end() that was not ok")
        token = new_token()
        grant = rows.begin([K], token)
        require(set(grant.contended) == set(), "begin() on a stale key without tokens must not be contended")
        rows.end({K: True}, token)
        _require_dirty(rows, [], "after a write that was alone ended well")

    @rule()
    def test_end_of_a_token_that_is_gone_changes_nothing(self, ledger: Any) -> None:
        """The end of a token that is not pending, reaped ones above all, leaves everything as it is."""
        rows = _rows(ledger)
        reaped, other = new_token(), new_token()
        rows.begin([K, L], reaped)
        self._reap_all(rows)
        rows.end({K: True}, reaped)
        _require_dirty(
            rows,
            [K, L],
            "after end() of a reaped token",
            "Where the token is not pending nothing may change: the key is stale for a reason, and clearing it "
            "serves an old value of New.",
        )
        rows.begin([K], other)
        rows.end({K: False}, reaped)
        rows.withdraw([K, L], reaped)
        rows.end({K: True}, other)
        rows.end({K: False}, other)
        _require_dirty(rows, [L], "after end() and withdraw() of tokens that are gone, and a good end between")

    @rule()
    def test_withdraw_leaves_stale_as_it_was(self, ledger: Any) -> None:
        """A token that is withdrawn leaves a clean key clean and a stale key stale."""
        rows = _rows(ledger)
        _begin_and_end(rows, K, ok=False)
        token = new_token()
        rows.begin([K, L, M], token)
        rows.withdraw([K, L], token)
        _require_dirty(rows, [K, M], "after withdraw() of a stale and a clean key of three")
        rows.withdraw([M], token)
        _require_dirty(rows, [K], "after withdraw() of the rest")
        _require_summary(rows.summary(), stale=1, pending=0)

    @rule()
    def test_withdraw_leaves_contention_to_the_others(self, ledger: Any) -> None:
        """The other of two tokens still ends stale after one was withdrawn."""
        rows = _rows(ledger)
        for withdrawn in (0, 1):
            tokens = [new_token(), new_token()]
            for token in tokens:
                rows.begin([K], token)
            rows.withdraw([K], tokens[withdrawn])
            rows.end({K: True}, tokens[1 - withdrawn])
            _require_dirty(rows, [K], "after one of two overlapping tokens was withdrawn and the other ended")
            _begin_and_end(rows, K)

    # -- alone ---------------------------------------------------------------------------------------------------

    @rule()
    def test_alone_tells_who_was_alone(self, ledger: Any) -> None:
        """`alone` gives the keys on which a token is pending and no other was since it began."""
        rows = _rows(ledger)
        for begin in (rows.begin, rows.begin_copy):
            first, second = new_token(), new_token()
            begin([K, L], first)
            _require_alone(rows, first, [K, L], "after its begin")
            rows.begin([L, M], second)
            _require_alone(rows, first, [K], "while another is pending")
            _require_alone(rows, second, [M], "while another is pending")
            rows.end({L: True, M: True}, second)
            _require_alone(rows, first, [K], "after another ended")
            rows.end({K: True, L: True}, first)
            _require_alone(rows, first, [], "after its end")
            _begin_and_end(rows, L)

    @rule()
    def test_a_reaped_token_is_not_alone(self, ledger: Any) -> None:
        """A token that was reaped is alone on no key, for anybody may have had the key since."""
        rows = _rows(ledger)
        token = new_token()
        rows.begin_copy([K], token)
        self._reap_all(rows)
        _require_alone(rows, token, [], "after it was reaped")

    # -- opened --------------------------------------------------------------------------------------------------

    @rule()
    def test_opened_only_rises(self, ledger: Any) -> None:
        """`open_to` is a maximum, and every later answer tells it, to the last bit."""
        rows = _rows(ledger)
        for rate in RATES:
            opening = rows.open_to(rate)
            require(
                isinstance(opening, Opening), f"open_to() gave {type(opening).__name__}: it must give an Opening"
            )
            answers = {
                "open_to": opening,
                "open_to of less": rows.open_to(rate / 2),
                "begin": rows.begin([K], new_token()),
                "begin_copy": rows.begin_copy([L], new_token()),
                "summary": rows.summary(),
            }
            for name, answer in answers.items():
                require(
                    answer.opened == rate,
                    f"after open_to({rate!r}) returned, {name} tells opened as {answer.opened!r}. It must be "
                    "kept as "
                    "a double, every bit of it, and must never fall: keys between the two are taken to be in Old "
                    "only.",
                )
                require(
                    answer.epoch == opening.epoch, f"{name} tells another epoch than open_to, and nobody reset it"
                )
        _require_dirty(rows, [K, L], "after open_to(), which touches no key")

    @rule()
    def test_opened_survives_an_emptied_ledger(self, ledger: Any) -> None:
        """`opened` stays when the last dirty key becomes clean."""
        rows = _rows(ledger)
        rows.open_to(0.5)
        _begin_and_end(rows, K)
        found = (rows.begin([K], new_token())).opened
        require(found == 0.5, f"opened is {found!r} after the last key became clean: it must outlive all keys")

    # -- reap ----------------------------------------------------------------------------------------------------

    @rule()
    def test_reap_makes_old_tokens_stale(self, ledger: Any) -> None:
        """`reap` removes tokens older than the age, of writes and of copies; their keys become stale (H4)."""
        rows = _rows(ledger)
        rows.begin([K], new_token())
        rows.begin_copy([L], new_token())
        require(rows.reap(AN_HOUR) == 0, "reap() of an hour removed tokens that are a moment old")
        _require_summary(rows.summary(), stale=0, pending=2)
        require(self._reap_all(rows) == 2, "reap() must return how many tokens it removed, here 2")
        _require_summary(rows.summary(), stale=2, pending=0)
        _require_dirty(rows, [K, L], "after their tokens were reaped")
        grant = rows.begin_copy([K, L], new_token())
        require(
            set(grant.granted) == set(grant.stale) == {K, L},
            "a key whose token was reaped must be stale, and free for a copy",
        )

    @rule()
    def test_reap_spares_young_tokens(self, ledger: Any) -> None:
        """`reap` goes by the age of each token, and a key that has a younger one stays pending."""
        rows = _rows(ledger)
        tick = self.tick_seconds
        for _ in range(8):
            old, young = new_token(), new_token()
            rows.begin([K, L], old)
            self.advance(tick)
            asked = time.monotonic()
            rows.begin([K], young)
            reaped = rows.reap(tick * 0.8)
            if time.monotonic() - asked < tick * 0.7:
                require(reaped in (1, 2), f"reap() returned {reaped} after removing one token of two keys")
                copy = new_token()
                require(
                    set((rows.begin_copy([K, L], copy)).granted) == {L},
                    "after the older of two tokens was reaped, a copy must be denied the key that the younger one "
                    "has, and granted the other",
                )
                rows.withdraw([L], copy)
                rows.end({K: True}, young)
                _require_dirty(
                    rows,
                    [K, L],
                    "after the older of two tokens was reaped",
                    "Both are contended, or reaped: stale.",
                )
                _require_summary(rows.summary(), stale=2, pending=0)
                rows.begin([K], young)
                rows.begin([L], old)
                require(rows.reap(AN_HOUR) == 0, "reap() removed young tokens")
                return
            self._reap_all(rows)  # the machine was too slow to tell the two apart
            tick *= 2
        pytest.skip("the ledger is too slow to tell two tokens apart by their ages")

    @rule()
    def test_reap_is_limited(self, ledger: Any) -> None:
        """`reap` removes at most `limit` tokens, and goes on where it is called again."""
        rows = _rows(ledger)
        names = [b"s%d" % number for number in range(5)]
        for name in names:
            rows.begin([name], new_token())
        self.advance(self.tick_seconds)
        left = len(names)
        while left:
            reaped = rows.reap(self.tick_seconds / 2, 2)
            require(
                1 <= reaped <= 2, f"reap() with a limit of 2 returned {reaped} while {left} old tokens were left"
            )
            left -= reaped
            _require_summary(rows.summary(), stale=len(names) - left, pending=left)
        require(rows.reap(self.tick_seconds / 2, 2) == 0, "reap() returned more than 0 with nothing left")

    @rule()
    def test_reap_spares_what_others_may_still_use(self, ledger: Any) -> None:
        """`reap` spares tokens that are younger than the largest `token_seconds` of whoever uses the rows."""
        hasty, patient = _rows(ledger), ledger.migration(NAME, IDENTITY, AN_HOUR)
        hasty.begin([K], new_token())
        patient.begin([L], new_token())
        require(
            self._reap_all(hasty) == 0,
            "reap() removed tokens though another asked, by `token_seconds` of migration(), to keep them for an "
            "hour: it may still write New under its token",
        )
        _require_summary(hasty.summary(), stale=0, pending=2)

    # -- summary -------------------------------------------------------------------------------------------------

    @rule()
    def test_summary_counts(self, ledger: Any) -> None:
        """`summary` counts stale keys and pending tokens and tells the oldest's age; `last_summary` repeats it."""
        rows = _rows(ledger)
        require(
            not is_coroutine_function(rows.last_summary),
            "last_summary() is a coroutine function: it must be a plain method in both worlds, for it does no I/O",
        )
        require(
            isinstance(rows.last_summary(), LedgerSummary), "last_summary() must give a LedgerSummary at any time"
        )
        _require_summary(rows.summary(), stale=0, pending=0)
        rows.begin([K], new_token())
        self.advance(self.tick_seconds)
        _begin_and_end(rows, L, ok=False)
        _begin_and_end(rows, M, ok=False)
        rows.open_to(0.25)
        summary = rows.summary()
        _require_summary(summary, stale=2, pending=1)
        require(
            self.tick_seconds * 0.9 <= (summary.oldest_pending_seconds or 0.0) < AN_HOUR,
            f"oldest_pending_seconds is {summary.oldest_pending_seconds}, and the token began "
            f"{self.tick_seconds} s "
            "before, or a little more",
        )
        last = rows.last_summary()
        require(
            last._replace(oldest_pending_seconds=None) == summary._replace(oldest_pending_seconds=None),
            f"last_summary() is {last}, and summary() had just given {summary}",
        )
        self._reap_all(rows)
        _require_summary(rows.summary(), stale=3, pending=0)

    @rule()
    def test_what_was_reaped_is_counted(self, ledger: Any) -> None:
        """`summary` tells how many tokens were ever reaped, as `reap` counts them."""
        rows = _rows(ledger)
        counted = 0
        for names in ([K], [L, M]):
            rows.begin(names, new_token())
            counted += self._reap_all(rows)
            _begin_and_end(rows, K)
            rows.withdraw([K], new_token())
            for told in (rows.summary(), rows.last_summary()):
                require(
                    told.reaped == counted,
                    f"the summary tells {told.reaped} reaped tokens, and reap() returned {counted} so far",
                )

    # -- stale_keys ----------------------------------------------------------------------------------------------

    @rule()
    def test_stale_keys_are_paged(self, ledger: Any) -> None:
        """The pages of `stale_keys` give every key that is stale, pending or not, and no other."""
        rows = _rows(ledger)
        require(_stale_keys(rows, 10) == set(), "a ledger that holds nothing has no stale keys")
        names = [b"s%d" % number for number in range(40)] + list(NAMES)
        _make_stale(rows, names[::2])
        rows.begin(names[:10], new_token())
        for limit in (1, 3, len(names[::2]), 1000):
            found = _stale_keys(rows, limit)
            require(
                found == set(names[::2]),
                f"in pages of {limit} stale_keys() gave {len(found)} keys, of which "
                f"{len(found - set(names[::2]))} are not stale; there are {len(names[::2])}, pending or not",
            )

    @rule()
    def test_no_page_loses_what_stays_stale(self, ledger: Any) -> None:
        """While keys become stale, and clean, between two pages, those that were stale all the time are given."""
        rows = _rows(ledger)
        size = self.batch_size
        names = [b"s%d" % number for number in range(2 * size)]
        stay, come_and_go = names[::2], names[1::2]
        _make_stale(rows, names[:size])
        _make_stale(rows, stay)
        found: set[bytes] = set()
        cursor: str | None = None
        for number in range(MOST_PAGES):
            page = rows.stale_keys(cursor, max(1, size // 10))
            found.update(page.keys)
            cursor = page.next_cursor
            if cursor is None:
                break
            token = new_token()
            rows.begin(come_and_go, token)
            rows.end(dict.fromkeys(come_and_go, number % 2 == 0), token)
        missing = set(stay) - found
        require(cursor is None, f"after {MOST_PAGES} pages stale_keys() still gives a cursor")
        require(
            not missing,
            f"{len(missing)} keys that were stale from the first page to the last were on none, because others "
            "became clean or stale meanwhile: nobody would make them right",
        )

    @rule()
    def test_a_cursor_that_is_none_is_refused(self, ledger: Any) -> None:
        """A text that is no cursor, and a page of no keys, raise ValueError: nothing is skipped for them."""
        rows = _rows(ledger)
        _make_stale(rows, [K])
        for cursor, limit in (("no cursor", 10), ("-1", 10), ("+", 10), (None, 0), (None, -1)):
            error = error_of(partial(rows.stale_keys, cursor, limit))
            require(
                isinstance(error, ValueError),
                f"stale_keys({cursor!r}, {limit}) must raise ValueError, not "
                f"{'return' if error is None else type(error).__name__}",
            )

    # -- checkpoints ---------------------------------------------------------------------------------------------

    @rule()
    def test_checkpoints_come_back_as_they_were(self, ledger: Any) -> None:
        """A checkpoint is kept to the last character, under its name, with its version and its age."""
        rows = _rows(ledger)
        require(dict(rows.checkpoints()) == {}, "a ledger that holds nothing has no checkpoints")
        longest = "\N{CAT FACE}" * MAX_CHECKPOINT_CHARACTERS
        wanted: dict[str, tuple[str, int]] = {}
        for name in ("a", "a.b", "a/b-1", "z" * 64):
            for version, data in enumerate((*TEXTS, longest) if name == "a/b-1" else TEXTS[:2]):
                require(
                    rows.save_checkpoint(name, data, version) is True,
                    f"save_checkpoint() of version {version} gave no True, and the checkpoint had that version",
                )
                wanted[name] = data, version + 1
                found = rows.checkpoints()
                require(
                    all(isinstance(each, Checkpoint) for each in found.values()),
                    "checkpoints() must give Checkpoints",
                )
                shown = {each: (kept.data[:80], kept.version) for each, kept in found.items()}
                require(
                    {each: (kept.data, kept.version) for each, kept in found.items()} == wanted,
                    f"after save_checkpoint({name!r}, {data[:80]!r}, {version}) checkpoints() gave {shown!r}",
                )
        other = ledger.migration("another", IDENTITY)
        require(dict(other.checkpoints()) == {}, "the checkpoints of one migration are seen in another")
        require(other.save_checkpoint("a", "other", 0), "another migration's checkpoint has a version of its own")
        require((rows.checkpoints())["a"].data == wanted["a"][0], "migrations share a checkpoint")
        before = (rows.checkpoints())["a"].age_seconds
        self.advance(self.tick_seconds)
        rows.save_checkpoint("a", "young", 2)
        found = rows.checkpoints()
        require(
            0 <= before <= AN_HOUR
            and found["a"].age_seconds < found["a.b"].age_seconds
            and self.tick_seconds * 0.9 <= found["a.b"].age_seconds <= AN_HOUR,
            f"the ages are {found['a'].age_seconds} s of a checkpoint that was saved just now, and "
            f"{found['a.b'].age_seconds} s of one that was saved {self.tick_seconds} s ago, or a little more",
        )
        _require_summary(rows.summary(), stale=0, pending=0)

    @rule()
    def test_a_checkpoint_is_replaced_by_its_next_version(self, ledger: Any) -> None:
        """Only who knows a checkpoint's version replaces it; the same once more counts as done."""
        rows = _rows(ledger)
        for version, data, saved, kept in (
            (1, "too early", False, None),
            (0, "one", True, ("one", 1)),
            (0, "one", True, ("one", 1)),
            (0, "other", False, ("one", 1)),
            (1, "two", True, ("two", 2)),
            (1, "two", True, ("two", 2)),
            (0, "one", False, ("two", 2)),
            (1, "other", False, ("two", 2)),
            (3, "four", False, ("two", 2)),
            (2, "two", True, ("two", 3)),
            (1, "two", False, ("two", 3)),
        ):
            found = rows.save_checkpoint(JOB, data, version)
            checkpoint = (rows.checkpoints()).get(JOB)
            state = None if checkpoint is None else (checkpoint.data, checkpoint.version)
            require(
                (found, state) == (saved, kept),
                f"save_checkpoint(..., {data!r}, {version}) gave {found!r} and left {state!r}: it must give "
                f"{saved!r} and leave {kept!r}. Of two jobs that go on from the same version one would undo what "
                "the other did.",
            )

    @rule()
    def test_what_is_no_checkpoint_is_refused(self, ledger: Any) -> None:
        """A name or data that some ledger could not keep raise ValueError in every ledger, and change nothing."""
        rows = _rows(ledger)
        rows.save_checkpoint(JOB, "kept", 0)
        for name, data in (
            *((name, "") for name in ("", "x" * 65, "A", "a b", "a\n", "\N{LATIN SMALL LETTER E WITH ACUTE}")),
            *((JOB, data) for data in ("a\0b", "\ud800", "x" * (MAX_CHECKPOINT_CHARACTERS + 1))),
        ):
            error = error_of(partial(rows.save_checkpoint, name, data, 1))
            require(
                isinstance(error, ValueError),
                f"save_checkpoint({name!r}, {data[:9]!r}) of {len(data)} characters must raise ValueError, not "
                f"{'return' if error is None else type(error).__name__}",
            )
        found = {name: (kept.data, kept.version) for name, kept in (rows.checkpoints()).items()}
        require(found == {JOB: ("kept", 1)}, "save_checkpoint() raised ValueError, and changed a checkpoint")

    # -- reset ---------------------------------------------------------------------------------------------------

    @rule()
    def test_reset_begins_another_epoch(self, ledger: Any) -> None:
        """After `reset` nothing is stale, kept, opened or counted, in another epoch and this migration only."""
        rows, other = _rows(ledger), ledger.migration("another", IDENTITY)
        epoch = (rows.summary()).epoch
        for round_number in range(1, 3):
            for each in (rows, other):
                _make_stale(each, [K, L])
                each.open_to(0.5)
                version = JOB in each.checkpoints()
                each.save_checkpoint(JOB, "data", int(version))
                each.begin([M], new_token())
                self._reap_all(each)
            require(rows.reset() is True, "reset() gave no True where no token is pending")
            answers = {
                "last_summary": rows.last_summary(),
                "summary": rows.summary(),
                "open_to": rows.open_to(0.0),
                "begin_copy": rows.begin_copy([], new_token()),
            }
            for name, answer in answers.items():
                require(
                    (answer.opened, answer.epoch) == (0.0, epoch + round_number),
                    f"after reset() {name}() tells opened {answer.opened} and epoch {answer.epoch}: they must be "
                    f"0.0 and one more than before, {epoch + round_number}",
                )
            require(
                answers["summary"].reaped == 0, "after reset() the summary still counts what was reaped before"
            )
            _require_summary(answers["summary"], stale=0, pending=0)
            _require_dirty(rows, [], "after reset()")
            require(_stale_keys(rows, 10) == set(), "after reset() stale_keys() must give none")
            require(dict(rows.checkpoints()) == {}, "after reset() there must be no checkpoint")
        summary = other.summary()
        require(
            (summary.opened, summary.epoch) == (0.5, epoch) and summary.reaped > 0,
            "reset() of a migration changed the summary of another one",
        )
        _require_summary(summary, stale=3, pending=0)
        require(list(other.checkpoints()) == [JOB], "reset() forgot the checkpoints of another migration")

    @rule()
    def test_reset_waits_for_tokens(self, ledger: Any) -> None:
        """While any token is pending `reset` is False and changes nothing."""
        rows = _rows(ledger)
        _make_stale(rows, [K])
        rows.open_to(0.5)
        rows.save_checkpoint(JOB, "data", 0)
        before = (rows.summary())._replace(pending=1)
        for begin in (rows.begin, rows.begin_copy):
            token = new_token()
            begin([L], token)
            require(
                rows.reset() is False,
                "reset() gave no False where a token is pending: what its write misses in New would be clean",
            )
            summary = rows.summary()
            require(
                summary._replace(oldest_pending_seconds=None) == before,
                f"reset() gave False and changed the summary to {summary}",
            )
            _require_dirty(rows, [K, L], "after reset() gave False")
            require(JOB in rows.checkpoints(), "reset() gave False and forgot a checkpoint")
            rows.end({L: True}, token)
        require(rows.reset() is True, "reset() gave no True after the last token ended")

    # -- keys, tokens and names ----------------------------------------------------------------------------------

    @rule()
    def test_keys_are_bytes(self, ledger: Any) -> None:
        """Keys are told apart by every byte: case, trailing spaces and NULs, and what is no text."""
        rows = _rows(ledger)
        for dirty in (NAMES[::2], NAMES[1::2]):
            token = new_token()
            rows.begin(dirty, token)
            _require_dirty(rows, dirty, "after begin() of some of many odd keys", among=NAMES)
            rows.end(dict.fromkeys(dirty, True), token)
            _require_dirty(rows, [], "after these odd keys ended well", among=NAMES)

    @rule()
    def test_long_keys_are_whole(self, ledger: Any) -> None:
        """A key of `MAX_KEY_BYTES` is taken, to its last byte; a longer one as well, or InvalidKey is raised."""
        rows = _rows(ledger)
        for length in (MAX_KEY_BYTES, MAX_KEY_BYTES + 1, MAX_KEY_BYTES * 5):
            names = [b"b" + bytes(length - 2) + last for last in (b"\0", b"\1")]
            try:
                rows.begin(names[:1], new_token())
            except InvalidKey as error:
                if length <= MAX_KEY_BYTES:
                    raise AssertionError(f"every ledger takes keys of up to {MAX_KEY_BYTES} bytes") from error
                continue
            _require_dirty(rows, names[:1], f"after begin() of a key of {length} bytes", among=names)

    @rule()
    def test_tokens_are_told_apart(self, ledger: Any) -> None:
        """Tokens differ by every byte, case included, up to `MAX_TOKEN_BYTES`."""
        rows = _rows(ledger)
        long = b"a" * (MAX_TOKEN_BYTES - 1)
        for number, (token, other) in enumerate(
            [(b"token-a", b"token-A"), (long + b"1", long + b"2"), (b"1", b"01")]
        ):
            name = b"i%d" % number
            rows.begin([name], token)
            rows.end({name: True}, other)
            rows.withdraw([name], other)
            _require_dirty(rows, [name], "after end() of a token that differs in one byte", among=[name])
            rows.end({name: True}, token)
            _require_dirty(rows, [], "after end() of its own token", among=[name])

    @rule()
    def test_migrations_are_apart(self, ledger: Any) -> None:
        """Each name has its own rows and its own `opened`, whatever the names have in common."""
        names = ["a", "A", "a:b", "a/b", "ab", "a b", "é"]
        keys = [K, b"b:" + K, b"b/" + K]
        migrations = {name: ledger.migration(name, IDENTITY) for name in names}
        for number, name in enumerate(names):
            migrations[name].open_to((number + 1) / 10)
            migrations[name].begin([keys[number % 3]], b"the-same-token")
        for number, name in enumerate(names):
            rows = migrations[name]
            key = keys[number % 3]
            _require_dirty(rows, [key], f"in migration {name!r}, beside others", among=keys)
            summary = rows.summary()
            _require_summary(summary, stale=0, pending=1)
            require(
                summary.opened == (number + 1) / 10,
                f"migration {name!r} was opened to {(number + 1) / 10}, and tells {summary.opened}",
            )
            rows.end({key: True}, b"the-same-token")
            _require_dirty(rows, [], f"in migration {name!r} after its end()", among=keys)

    @rule()
    def test_another_identity_is_refused(self, ledger: Any) -> None:
        """Rows that were written under one hasher or encoding are never read or changed under another."""
        _rows(ledger).begin([K], new_token())
        for name, call in _calls().items():
            try:
                call(ledger.migration(NAME, "another hasher"))
            except LedgerMismatch:
                continue
            raise AssertionError(
                f"{name}() of a migration with another identity must raise LedgerMismatch, if migration() did "
                "not: "
                "the keys that it names are other ones, so that what it says is wrong"
            )
        _require_dirty(_rows(ledger), [K], "after another identity was refused")

    @rule()
    def test_a_large_batch_is_whole(self, ledger: Any) -> None:
        """A batch of many keys, in any order, is begun, ended, withdrawn and reaped to its last key."""
        rows = _rows(ledger)
        names = [b"s%d" % number for number in range(self.batch_size)]
        random.Random(0).shuffle(names)
        token, copy = new_token(), new_token()
        require(set((rows.begin(names, token)).contended) == set(), "a batch contended with itself")
        _require_dirty(rows, names, "after begin() of a large batch", among=names)
        require(set((rows.begin_copy(names, copy)).granted) == set(), "a copy was granted pending keys")
        rows.end({name: number % 2 == 0 for number, name in enumerate(names)}, token)
        _require_dirty(rows, names[1::2], "after every second key of a large batch ended well", among=names)
        grant = rows.begin_copy(names, copy)
        require(set(grant.granted) == set(names), "begin_copy() must grant all keys of a large batch")
        require(set(grant.stale) == set(names[1::2]), "begin_copy() must name all stale keys of a large batch")
        rows.withdraw(names, copy)
        _require_dirty(rows, names[1::2], "after withdraw() of a large batch", among=names)
        rows.begin(names, token)
        self._reap_all(rows)
        _require_summary(rows.summary(), stale=len(names), pending=0)

    # -- at the same time ----------------------------------------------------------------------------------------

    @rule()
    def test_one_copier_at_a_time(self, ledger: Any) -> None:
        """Between a copy's grant and its end nobody else is granted the key, in any process."""
        with self._processes(ledger) as processes:
            for _ in range(ROUNDS):
                begins = [processes[worker % len(processes)].begin_copy for worker in range(WORKERS)]
                grants = together([_begin_call(begin, [K]) for begin in begins])
                granted = sum(bool(grant.granted) for grant, _ in grants)
                require(
                    granted == 1,
                    f"of {WORKERS} copies of a clean key, begun together, one must be granted, and {granted} were",
                )
                for _, token in grants:
                    processes[0].end({K: True}, token)
            _require_dirty(processes[0], [], "after all copies ended well")

    @rule()
    def test_batches_begin_as_one(self, ledger: Any) -> None:
        """Of batches over the same keys, begun at once in any order, each is before or behind each other."""
        names = [b"s%d" % number for number in range(20)]
        orders = [names, names[::-1], names[10:] + names[:10], names[::2] + names[1::2]]
        with self._processes(ledger) as processes:
            for number in range(ROUNDS):
                used = [processes[worker % len(processes)] for worker in range(WORKERS)]
                begins = [rows.begin if number % 2 == 0 else rows.begin_copy for rows in used]
                grants = together([_begin_call(*each) for each in zip(begins, orders, strict=True)])
                first: tuple[int, ...]
                if number % 2 == 0:
                    free = [set(names) - set(grant.contended) for grant, _ in grants]
                    told, first = "found no other token on", (0, 1)  # the first may have seen those behind it
                else:
                    free = [set(grant.granted) for grant, _ in grants]
                    told, first = "were granted", (1,)
                sizes = [len(each) for each in free]
                require(
                    sizes.count(len(names)) in first and sizes.count(0) == WORKERS - sizes.count(len(names)),
                    f"of {WORKERS} batches over the same {len(names)} keys, begun together, one comes first; they "
                    f"{told} {sizes} keys. begin() and begin_copy() must be atomic over all of their keys.",
                )
                for _, token in grants:
                    processes[0].end(dict.fromkeys(names, True), token)
                stale = names if number % 2 == 0 else []
                _require_dirty(processes[-1], stale, "after batches that were begun together", among=names)
                for name in stale:
                    _begin_and_end(processes[0], name)

    @rule()
    def test_tokens_of_different_keys_do_not_meet(self, ledger: Any) -> None:
        """Writers of different keys at the same time are never contended, and leave their keys clean."""
        with self._processes(ledger) as processes:

            def write(worker: int) -> None:
                rows = processes[worker % len(processes)]
                name = b"i%d" % worker
                for _ in range(ROUNDS):
                    grant, token = _begin_call(rows.begin, [name])()
                    require(not grant.contended, "begin() told of contention on a key that nobody else has begun")
                    rows.end({name: True}, token)

            together([partial(write, worker) for worker in range(WORKERS)])
            names = [b"i%d" % worker for worker in range(WORKERS)]
            _require_dirty(processes[0], [], "after writers of different keys ended well", among=names)
            _require_summary(processes[0].summary(), stale=0, pending=0)

    @rule()
    def test_opened_is_the_largest_of_all(self, ledger: Any) -> None:
        """Of rates that are opened at the same time the largest stays."""
        with self._processes(ledger) as processes:
            count = WORKERS * ROUNDS
            rates = [number / count for number in range(1, count + 1)]
            for start in range(0, count, WORKERS):
                group = rates[start : start + WORKERS]
                random.Random(start).shuffle(group)
                used = [processes[worker % len(processes)] for worker in range(WORKERS)]
                together([partial(rows.open_to, rate) for rows, rate in zip(used, group, strict=True)])
                found = (processes[0].summary()).opened
                require(
                    found == max(group),
                    f"opened is {found} after {group} were opened at once: it must be the largest, and never fall",
                )

    @rule()
    def test_one_of_many_replaces_a_checkpoint(self, ledger: Any) -> None:
        """Of jobs that replace the same version of a checkpoint at the same time one is told that it did."""
        with self._processes(ledger) as processes:
            for version in range(ROUNDS):
                saves = [
                    partial(processes[worker % len(processes)].save_checkpoint, JOB, f"by {worker}", version)
                    for worker in range(WORKERS)
                ]
                saved = together(saves)
                kept = (processes[0].checkpoints())[JOB]
                told = [f"by {worker}" for worker, done in enumerate(saved) if done]
                require(
                    told == [kept.data] and kept.version == version + 1,
                    f"of {WORKERS} jobs that replaced version {version} together {told} were told that they did, "
                    f"and what is kept is {kept.data!r} of version {kept.version}",
                )

    @rule()
    def test_no_begin_comes_into_a_reset(self, ledger: Any) -> None:
        """A token that begins while `reset` is under way keeps it from it, or is of the new epoch, and stays."""
        with self._processes(ledger) as processes:
            rows = processes[0]
            epoch = (rows.summary()).epoch
            for number in range(ROUNDS):
                _make_stale(rows, [b"i%d" % other for other in range(20)])
                rows.open_to(0.5)
                begin = processes[-1].begin if number % 2 == 0 else processes[-1].begin_copy
                calls: list[Callable[[], Any]] = [rows.reset, _begin_call(begin, [K])]
                answers = together(calls if number % 4 < 2 else calls[::-1])
                cleared, (grant, token) = answers if number % 4 < 2 else answers[::-1]
                epoch += cleared
                wanted = (0.0 if cleared else 0.5, epoch)
                require(
                    (grant.opened, grant.epoch) == wanted,
                    f"reset() gave {cleared!r}, and a token that began meanwhile was told opened {grant.opened} "
                    f"and epoch {grant.epoch}; they are {wanted}",
                )
                _require_dirty(processes[-1], [K], "after a token began while reset() was under way")
                rows.end({K: True}, token)
                require(rows.reset() is True, "reset() gave no True after the last token ended")
                epoch += 1

    # -- shared --------------------------------------------------------------------------------------------------

    @rule()
    def test_another_process_sees_each_call_at_once(self, ledger: Any) -> None:
        """What a call did is seen by another ledger object on the same rows as soon as it returned."""
        given = self.another_ledger(ledger)
        if given is None:
            require(not ledger.shared, "`shared` is True: define another_ledger(), which sharing is checked with")
            pytest.skip("define another_ledger() to check what other processes see")
        with opened(given, "another_ledger") as another:
            ours, theirs = _rows(ledger), _rows(another)
            _require_dirty(theirs, [], "in another process, before anything was begun")
            first, second = new_token(), new_token()
            ours.begin([K, L], first)
            _require_dirty(theirs, [K, L], "in another process, after begin() returned")
            require(set((theirs.begin([K], second)).contended) == {K}, "begin() must see another process's token")
            require(not (theirs.begin_copy([L], new_token())).granted, "a copy joined another process's token")
            ours.end({K: True, L: True}, first)
            _require_dirty(theirs, [K], "in another process, after end() returned")
            theirs.end({K: True}, second)
            _require_dirty(ours, [K], "in the first process, after the other of two overlapping tokens ended")
            ours.open_to(0.5)
            for opened_to in ((theirs.begin([M], new_token())).opened, (theirs.open_to(0.25)).opened):
                require(opened_to == 0.5, f"another process was told opened {opened_to}, and it is 0.5")
            require(self._reap_all(ours) == 1, "reap() must find the tokens of other processes")
            _require_dirty(theirs, [K, M], "in another process, after reap() returned")
            require((theirs.summary()).reaped == 1, "another process must be told what was reaped")
            require(_stale_keys(theirs, 1) == {K, M}, "another process must be given the same stale keys")
            ours.save_checkpoint(JOB, "ours", 0)
            require(
                (theirs.checkpoints())[JOB].data == "ours",
                "another process must be given the same checkpoint",
            )
            require(ours.reset(), "reset() gave no True where no token is pending")
            for answer in (
                theirs.begin([K], new_token()),
                theirs.open_to(0.0),
                theirs.summary(),
            ):
                require(
                    (answer.opened, answer.epoch) == (0.0, 1),
                    "another process must be told the `opened` and the epoch of after a reset()",
                )

    # -- what goes wrong -----------------------------------------------------------------------------------------

    @rule()
    def test_an_outage_raises(self, ledger: Any) -> None:
        """While the rows cannot be reached every call raises: above all no key is told to be clean."""
        given = self.outage()
        if given is None:
            pytest.skip("define outage() to check that calls raise while the rows cannot be reached")
        rows = _rows(ledger)
        rows.begin([K], new_token())
        with opened(given, "outage"):
            for name, call in _calls().items():
                require(
                    error_of(partial(call, rows)) is not None,
                    f"{name}() returned while the ledger could not be reached. It must raise: a key that is told "
                    "to be clean is read from New, whatever New holds.",
                )
            require(
                isinstance(rows.last_summary(), LedgerSummary), "last_summary() does no I/O: it must not raise"
            )
        found = list(until_it_answers(partial(rows.dirty, [K])))
        require(found == [K], "the ledger lost a pending token in an outage")

    @rule()
    def test_lost_rows_are_noticed(self, ledger: Any) -> None:
        """A ledger whose rows are gone, or were made anew, says so: it must not call every key clean."""
        seen = {}
        for name in ("begin", "begin_copy", "dirty", "open_to"):
            seen[name] = _rows(ledger)
            seen[name].begin([K], new_token())
            seen[name].dirty([K])
        self.lose()
        for name, rows in seen.items():
            try:
                _calls()[name](rows)
            except LedgerMismatch:
                continue
            raise AssertionError(
                f"{name}() returned after the rows were lost that this object had seen: it must raise "
                "LedgerMismatch, "
                "for all that was stale would be taken for clean"
            )

    # -- any sequence --------------------------------------------------------------------------------------------

    @rule()
    def test_any_sequence_agrees_with_the_table(self, ledger: Any) -> None:
        """After any calls, in turn from several processes, the ledger answers as `LedgerTable` does."""
        for seed in self.seeds:
            name = f"sequence-{seed}"
            with self._processes(ledger, name) as processes:
                done: list[str] = []
                try:
                    self._sequence(random.Random(seed), processes, done)
                except AssertionError as error:
                    steps = "\n  ".join(done)
                    raise AssertionError(f"{error}\nThe calls of seed {seed}:\n  {steps}") from error

    def _sequence(self, chance: random.Random, processes: Sequence[Any], done: list[str]) -> None:
        table = LedgerTable()
        names = [b"a", b"b", b"c"]
        tokens = [new_token()]
        for step in range(STEPS):
            rows = chance.choice(processes)
            keys = chance.sample(names, chance.randint(1, 3))
            fresh, known = new_token(), chance.choice(tokens[-6:])
            # More ends than begins, so that keys are also found stale and free, which is when most can go wrong.
            call = chance.choices(STEP_CALLS, weights=(5, 7, 18, 3, 1, 1, 6, 2))[0]
            label = f"token {tokens.index(known)}"
            match call:
                case "begin":
                    tokens.append(fresh)
                    done.append(f"begin({keys}, token {len(tokens) - 1})")
                    wanted: Any = table.begin(keys, fresh, step)
                    found: Any = rows.begin(keys, fresh)
                    same = (found.contended, found.opened) == (wanted.contended, wanted.opened)
                case "begin_copy":
                    tokens.append(fresh)
                    done.append(f"begin_copy({keys}, token {len(tokens) - 1})")
                    wanted = table.begin_copy(keys, fresh, step)
                    found = rows.begin_copy(keys, fresh)
                    same = (found.granted, found.stale) == (wanted.granted, wanted.stale)
                    same = same and found.opened == wanted.opened
                case "end":
                    outcomes = {key: chance.random() < 0.8 for key in keys}
                    done.append(f"end({outcomes}, {label})")
                    table.end(outcomes, known)
                    wanted, found, same = None, rows.end(outcomes, known), True
                case "withdraw":
                    done.append(f"withdraw({keys}, {label})")
                    table.withdraw(keys, known)
                    wanted, found, same = None, rows.withdraw(keys, known), True
                case "open_to":
                    rate = chance.random()
                    done.append(f"open_to({rate!r})")
                    wanted, found = table.open_to(rate), rows.open_to(rate)
                    same = found.opened == wanted.opened
                case "reap":
                    done.append("reap(all)")
                    wanted = table.reap(math.inf, 1000)
                    found = self._reap_all(rows)
                    same = found >= wanted
                case "reset":
                    done.append("reset()")
                    wanted, found = table.reset(), rows.reset()
                    same = found == wanted
                case _:
                    done.append(f"dirty({keys})")
                    wanted, found = set(table.dirty(keys)), set(rows.dirty(keys))
                    same = found == wanted
            require(same, f"{done[-1]} gave {found!r}, and LedgerTable gives {wanted!r}")
            _require_dirty(
                chance.choice(processes),
                list(table.dirty(names)),
                f"after {done[-1]}, as in LedgerTable,",
                among=names,
            )
            alone = f"after {done[-1]} alone({label})"
            found, wanted = set(rows.alone(names, known)), set(table.alone(names, known))
            require(found == wanted, f"{alone} gave {found!r}, and LedgerTable gives {wanted!r}")
        found, wanted = processes[0].summary(), table.summary(STEPS)
        require(
            (found.stale, found.opened) == (wanted.stale, wanted.opened)
            and found.pending >= wanted.pending
            and found.reaped >= wanted.reaped,
            f"summary() gave {found!r}, and LedgerTable gives {wanted!r}",
        )
        stale, wanted_keys = _stale_keys(processes[0], 2), set(table.stale_keys(None, len(names)))
        require(stale == wanted_keys, f"stale_keys() gave {stale!r}, and LedgerTable gives {wanted_keys!r}")

    # -- helpers -------------------------------------------------------------------------------------------------

    def _reap_all(self, rows: Any) -> int:
        """Reap every token that there is."""
        self.advance(self.tick_seconds)
        reaped: int = rows.reap(self.tick_seconds / 2, 10 * self.batch_size)
        return reaped

    def _processes(self, ledger: Any, name: str = NAME) -> _Processes:
        """The rows as seen by as many processes as can be had."""
        return _Processes(ledger, self.another_ledger(ledger), name)


class _Processes:
    """The rows of a migration through one or two ledger objects."""

    def __init__(self, ledger: Any, another: Any, name: str) -> None:
        self._ledger = ledger
        self._name = name
        self._another = None if another is None else opened(another, "another_ledger")

    def __enter__(self) -> list[Any]:
        ledgers = [self._ledger]
        if self._another is not None:
            ledgers.append(self._another.__enter__())
        return [ledger.migration(self._name, IDENTITY) for ledger in ledgers]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._another is not None:
            self._another.__exit__(kind, error, traceback)


def _rows(ledger: Any) -> Any:
    return ledger.migration(NAME, IDENTITY)


def _calls() -> dict[str, Callable[[Any], Any]]:
    """Each call that reaches the rows."""
    return {
        "begin": lambda rows: rows.begin([K], new_token()),
        "begin_copy": lambda rows: rows.begin_copy([K], new_token()),
        "end": lambda rows: rows.end({K: True}, new_token()),
        "withdraw": lambda rows: rows.withdraw([K], new_token()),
        "dirty": lambda rows: rows.dirty([K]),
        "alone": lambda rows: rows.alone([K], new_token()),
        "open_to": lambda rows: rows.open_to(0.5),
        "reap": lambda rows: rows.reap(AN_HOUR),
        "summary": lambda rows: rows.summary(),
        "stale_keys": lambda rows: rows.stale_keys(),
        "checkpoints": lambda rows: rows.checkpoints(),
        "save_checkpoint": lambda rows: rows.save_checkpoint(JOB, "data", 0),
        "reset": lambda rows: rows.reset(),
    }


def _begin_and_end(rows: Any, key: bytes, *, ok: bool = True) -> None:
    token = new_token()
    rows.begin([key], token)
    rows.end({key: ok}, token)


def _make_stale(rows: Any, keys: Sequence[bytes]) -> None:
    token = new_token()
    rows.begin(keys, token)
    rows.end(dict.fromkeys(keys, False), token)


def _stale_keys(rows: Any, limit: int) -> set[bytes]:
    """All keys that are stale, as the pages of this size give them."""
    __tracebackhide__ = True
    found: set[bytes] = set()
    cursor: str | None = None
    for _ in range(MOST_PAGES):
        page = rows.stale_keys(cursor, limit)
        require(isinstance(page, StalePage), f"stale_keys() gave {type(page).__name__}: it must give a StalePage")
        found.update(page.keys)
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise AssertionError(f"after {MOST_PAGES} pages of {limit} stale_keys() still gives a cursor")


def _begin_call(begin: Callable[[Sequence[bytes], bytes], Any], keys: Sequence[bytes]) -> Callable[[], Any]:
    """A call that begins with a fresh token, at each attempt, and gives the grant and the token."""

    def attempt() -> tuple[Any, bytes]:
        token = new_token()
        return begin(keys, token), token

    return partial(until_applied, attempt)


def _require_dirty(
    rows: Any, wanted: Sequence[bytes], when: str, advice: str = "", *, among: Sequence[bytes] = (K, L, M)
) -> None:
    __tracebackhide__ = True
    found = list(rows.dirty(among))
    missing = [key for key in wanted if key not in found]
    strange = [key for key in found if key not in wanted]
    require(
        not missing,
        f"{when} dirty() told {len(missing)} keys to be clean that are dirty, {missing[:3]!r} among them: a "
        "proxy would "
        f"read them from New. {advice}",
    )
    require(
        not strange,
        f"{when} dirty() told {len(strange)} keys to be dirty that are clean, {strange[:3]!r} among them. "
        f"{advice}",
    )


def _require_alone(rows: Any, token: bytes, wanted: Sequence[bytes], when: str) -> None:
    __tracebackhide__ = True
    found = set(rows.alone((K, L, M), token))
    require(
        found == set(wanted),
        f"{when} alone() gave {found!r} of a token: it must be those keys on which it is pending and no other "
        f"was since it began, {set(wanted)!r}",
    )


def _require_summary(summary: Any, *, stale: int, pending: int) -> None:
    __tracebackhide__ = True
    require(
        isinstance(summary, LedgerSummary),
        f"summary() gave {type(summary).__name__}: it must give a LedgerSummary",
    )
    require(
        (summary.stale, summary.pending) == (stale, pending),
        f"summary() counted {summary.stale} stale keys and {summary.pending} pending tokens; there are {stale} "
        "and "
        f"{pending}",
    )
    require(
        (summary.oldest_pending_seconds is None) is (pending == 0),
        f"oldest_pending_seconds is {summary.oldest_pending_seconds}: it must be None where no token is "
        "pending, and only "
        "there",
    )
