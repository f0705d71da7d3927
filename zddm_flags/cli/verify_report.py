"""What `zddm verify` tells: pure text and data."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zddm_flags.cli.jobs import INTERRUPTED, percent
from zddm_flags.cli.words import counted, printable
from zddm_flags.errors import InvalidKey
from zddm_flags.results import FoundDifference, VerifyResult

__all__ = ["VerifyReport"]

_FIELDS = 20
_ADVICE_UNSURE = (
    "Unsure keys were being written again and again, or a process that ended left them. Its tokens are reaped: "
    "run verify again."
)
_ADVICE_FAILED = "On the failed keys the comparison itself raised an error: correct it, and run verify again."
_ADVICE_TOO_LONG = "Keys that are too long for any ledger stay in Old: no command can move them."


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """A verify's result, and what was asked for."""

    migration: str
    arguments: Sequence[str]
    """What names the migration on a command line: TARGET, and --app-dir where it was given."""
    again: str
    """The command that goes on where a stopped one was."""
    result: VerifyResult
    sample: float = 1.0
    limit: int | None = None
    only_keys: bool = False
    mark: bool = True
    first: int = 20
    """How many of the differing keys are told."""
    key_of: Callable[[bytes], object] | None = None
    """Makes a key of its name in the ledger; None: no key is shown."""

    @property
    def exit_code(self) -> int:
        """0 equal, 1 different, 2 nobody knows, 130 stopped."""
        if not self.result.finished:
            return INTERRUPTED
        return {"equal": 0, "different": 1, "unfinished": 2}[self.result.verdict]

    @property
    def repair(self) -> str | None:
        """The command that repairs the keys that were noted; None where there is none to repair."""
        if not self.result.differences or self.result.different == self.result.not_opened:
            return None
        return self._command("repair", "--from-verify")

    @property
    def document(self) -> dict[str, Any]:
        """The whole, for a program."""
        result = self.result
        return {
            "job": "verify",
            "migration": self.migration,
            "target": self.arguments[0],
            "verdict": result.verdict,
            "finished": result.finished,
            "resumed": result.resumed,
            "compared": result.compared,
            "equal": result.equal,
            "different": result.different,
            "changed": result.changed,
            "missing": result.missing,
            "extra": result.extra,
            "too_long": result.too_long,
            "known_stale": result.stale,
            "marked_stale": result.marked,
            "missing_above_opened": result.not_opened,
            "unsure": result.unsure,
            "failed": result.failed,
            "fields": dict(result.fields),
            "extra_checked": result.extra_checked,
            "whole": result.whole,
            "sample": self.sample,
            "limit": self.limit,
            "only_keys": self.only_keys,
            "mark": self.mark,
            "noted": len(result.differences),
            "differences": [self._difference(each) for each in result.differences[: self.first]],
            "repair": self.repair,
            "seconds": round(result.seconds, 3),
        }

    @property
    def verdict(self) -> str:
        """What was found, in a line."""
        result = self.result
        if not result.finished:
            found = f" {counted(result.different, 'key')} that differ so far." if result.different else ""
            return f"Stopped after {counted(result.compared, 'key')}.{found} Go on with: {self.again}"
        match result.verdict:
            case "different":
                return f"Different: {counted(result.different, 'key')}."
            case "unfinished":
                return f"Not certain: {counted(result.unsure + result.failed, 'key')} could not be compared."
            case "equal":
                if result.whole and result.extra_checked:
                    return "Equal: New holds what Old holds, and nothing else."
                return "Equal, as far as it was looked at."

    def lines(self) -> Iterator[str]:
        """The rest, for people."""
        yield from self._counts()
        if self.result.finished:
            yield ""
            yield from self._looked_at()
        yield from self._fields()
        yield from self._keys()
        yield from self._advice()

    def _counts(self) -> Iterator[str]:
        result = self.result
        above = f"{result.not_opened:,} of them above the opened rate, which no backfill has covered"
        yield _row("compared", result.compared, "went on with an earlier verify" if result.resumed else "")
        yield _row("equal", result.equal)
        yield _row("changed", result.changed, "New holds another value")
        yield _row("missing", result.missing, above if result.not_opened else "New lacks the key")
        yield _row("extra", result.extra, "only New has the key")
        if result.too_long:
            yield _row("too long", result.too_long, "for any ledger: in Old only")
        if result.different:
            yield _row("known stale", result.stale, "differing keys that the ledger knew of: Old serves them")
            yield _row("marked stale", result.marked, "differing keys that Old serves from now on")
        yield _row("unsure", result.unsure, "they were being written, or a crash left them")
        yield _row("failed", result.failed, "the comparison raised")

    def _looked_at(self) -> Iterator[str]:
        keys = "Every other key" if self.result.unsure or self.result.failed else "Every key"
        if self.sample < 1:
            keys = f"A sample of {percent(self.sample)} of the keys"
        what = "was looked for, and no value compared" if self.only_keys else "was compared with its value"
        up_to = "" if self.limit is None else f", up to {counted(self.limit, 'key')} of Old"
        yield f"{keys} {what}{up_to}."
        if self.result.extra_checked:
            yield "Keys that only New has were looked for."
        elif self.limit is not None:
            yield "Keys that only New has were not looked for, by --limit."
        else:
            yield "Keys that only New has were not looked for: New's adapter has no scan()."
        if not self.mark:
            yield "No key was marked stale, by --no-mark: New goes on serving what differs and nobody knew of."
        if not self.result.whole:
            yield "This was not the whole: only a verify of everything is one to cut over on."

    def _fields(self) -> Iterator[str]:
        fields = sorted(self.result.fields.items(), key=lambda field: (-field[1], field[0]))
        if not fields:
            return
        yield from ("", "Fields that differ, and in how many keys")
        yield from (f"  {number:>12,}   {printable(name)}" for name, number in fields[:_FIELDS])
        if len(fields) > _FIELDS:
            yield f"  and {counted(len(fields) - _FIELDS, 'field')} more"

    def _keys(self) -> Iterator[str]:
        shown = self.result.differences[: self.first]
        if not shown:
            return
        hidden = "" if self.key_of is not None else ", by their hashes"
        which = counted(self.result.different, "differing key")
        if len(shown) < self.result.different:
            which = f"the first {len(shown):,} of {which}"
        yield from ("", f"{which[0].upper()}{which[1:]}{hidden}")
        yield from (f"  {self._line(each)}" for each in shown)

    def _line(self, found: FoundDifference) -> str:
        told = [found.hash, f"{found.kind:<7}" if found.fields or found.stale or self.key_of else found.kind]
        if found.fields:
            told.append(", ".join(map(printable, found.fields)))
        if found.stale:
            told.append("(known stale)")
        if self.key_of is not None:
            told.append(self._key(found.name) or f"name {found.name.hex()}")
        return "  ".join(told)

    def _advice(self) -> Iterator[str]:
        result = self.result
        advice: list[list[str]] = []
        if self.repair is not None:
            advice.append(list(self._repair_advice()))
        if result.not_opened:
            advice.append(
                [
                    "The missing keys above the opened rate are no error: they are in Old only. Once the flag's",
                    f"rate is raised, copy them: {self._command('backfill')}",
                ]
            )
        if result.too_long:
            advice.append([_ADVICE_TOO_LONG])
        if result.unsure:
            advice.append([_ADVICE_UNSURE])
        if result.failed:
            advice.append([_ADVICE_FAILED])
        for each in advice:
            yield ""
            yield from each

    def _repair_advice(self) -> Iterator[str]:
        result = self.result
        noted = len(result.differences)
        repairable = result.different - result.too_long
        if noted < repairable:
            yield (
                f"To repair {noted:,} of the {repairable:,} differing keys (the ledger notes at most 200 for each "
                "part; verify again afterwards):"
            )
        else:
            yield "To repair exactly these keys:"
        yield f"  {self.repair}"
        if result.not_opened:
            yield "  (but those above the opened rate)"
        if result.extra:
            yield "  (with --delete-extra it deletes the keys that only New has; without, they stay there)"

    def _command(self, name: str, *options: str) -> str:
        return shlex.join(["zddm", name, *self.arguments, *options])

    def _difference(self, found: FoundDifference) -> dict[str, Any]:
        told: dict[str, Any] = {
            "hash": found.hash,
            "kind": found.kind,
            "fields": list(found.fields),
            "stale": found.stale,
        }
        if self.key_of is not None:
            key = self._key(found.name)
            told |= {"name": found.name.hex()} if key is None else {"key": key}
        return told

    def _key(self, name: bytes) -> str | None:
        """The key as Python writes it; None where none can be made of its name."""
        if self.key_of is None:
            return None
        try:
            return repr(self.key_of(name))
        except InvalidKey:
            return None


def _row(name: str, number: int, remark: str = "") -> str:
    return f"  {name:<13}{number:>12,}   {remark if number else ''}".rstrip()
