"""What a run was like, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.torture.checker import Operation, Violation
from tests.torture.director import Result
from tests.torture.stores import MAX_CALL_SECONDS, MAX_OPERATION_SECONDS

__all__ = ["empty", "found", "save", "summary"]

NEW_HITS_PER_SECOND = 10
CHECKED_PER_SECOND = 20


def found(result: Result) -> bool:
    """Whether the algorithm was caught."""
    settled = result.settled
    return bool(result.violations) or (settled is not None and bool(settled.differing or settled.unrepaired))


def empty(result: Result) -> list[str]:
    """Why the run proves little, if it does: what happened too seldom. Not how fast it was."""
    seconds = result.plan.seconds
    why = [f"no {name}" for name, count in result.faults.items() if count == 0]
    if result.plan.algorithm == "zddm" and _paths(result)["read new_hit"] < NEW_HITS_PER_SECOND * seconds:
        why.append(f"only {_paths(result)['read new_hit']} keys were read from New")
    if _reads(result) < CHECKED_PER_SECOND * seconds:
        why.append(f"only {_reads(result)} reads were checked")
    return why


def summary(result: Result) -> str:
    """All counts of the run, and what was found."""
    plan, history = result.plan, result.history
    processes = [name for name in history.notes if name != "sweep"]
    lines = [
        f"{plan.direction}, algorithm {plan.algorithm}, seed {plan.seed}, {plan.seconds:g} s of faults",
        f"  processes    {len(processes)}, {plan.workers} at once, {plan.concurrency} threads or tasks each",
        *_listed("faults", [f"{count} {name}" for name, count in result.faults.items()]),
        *_listed("", [f"{_sum(result, 'switched_off')} switched off by disable()"]),
        *_listed("operations", _counted(history.operations)),
        *_listed("raised", _counted(history.errors)),
        *_listed("paths", [f"{path} {count}" for path, count in sorted(_paths(result).items())]),
        f"  longest      stall of a process {_longest(result, 'longest_stall'):.2f} s",
        f"{'':15}change of a store {_longest(result, 'longest_change'):.2f} s, {MAX_CALL_SECONDS:g} s allowed",
    ]
    settled = result.settled
    if settled is not None:
        counts = [
            f"{settled.reaped} tokens reaped",
            f"{settled.stale} keys stale",
            f"{settled.compared} others compared, {len(settled.differing)} differ",
            f"all read once more, {len(settled.unrepaired)} not repaired",
        ]
        lines += _listed("afterwards", counts)
    lines.append(
        f"  checked      {_reads(result)} reads of {len(history.keys)} keys in {result.checking_seconds:.1f} s; "
        f"New served {_paths(result)['read new_hit']}"
    )
    lines.append(f"  {_verdict(result)}")
    return "\n".join(lines)


def save(result: Result, folder: Path) -> list[Path]:
    """Write all that was ever done to each key that something is wrong with, and what that is, to a file."""
    stories = {key: _unexplained(result, key, violation) for key, violation in result.violations.items()}
    if result.settled is not None:
        for key in [*result.settled.differing, *result.settled.unrepaired]:
            stories.setdefault(
                key, ["At the end the ledger trusted New for this key, and it was not what Old held."]
            )
    paths: list[Path] = []
    for key, story in stories.items():
        path = folder / f"violation-{key}.txt"
        path.write_text("\n".join([*_title(result, key), *story, "", *_history(result, key)]) + "\n")
        paths.append(path)
    return paths


def _verdict(result: Result) -> str:
    if not found(result):
        return "no violation"
    parts = [f"{len(result.violations)} keys with a read that nothing explains: {_some(list(result.violations))}"]
    if result.settled is not None:
        parts.append(f"clean keys that differ: {_some(result.settled.differing)}")
        parts.append(f"keys that a read did not repair: {_some(result.settled.unrepaired)}")
    return "VIOLATION: " + "; ".join(part for part in parts if not part.endswith(": none"))


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "") if keys else "none"


def _title(result: Result, key: str) -> list[str]:
    plan = result.plan
    run = f"{plan.direction}, algorithm {plan.algorithm}, seed {plan.seed}, {plan.seconds:g} s, key {key}"
    return [run, ""]


def _unexplained(result: Result, key: str, violation: Violation) -> list[str]:
    possible = ", ".join(str(value) for value in violation.possible)
    return [
        f"The read marked by > cannot be explained: {violation.reason}.",
        f"  {_told(violation.read, _first_begin(result, key))}",
        f"At its end the key could hold, or get from a write in progress: {possible}.",
    ]


def _history(result: Result, key: str) -> list[str]:
    violation = result.violations.get(key)
    first = _first_begin(result, key)
    return [
        "All operations on the key, by begin; milliseconds. A write that was killed or raised (possible) may have",
        f"happened until {MAX_OPERATION_SECONDS:g} s after its begin, which is the end shown, or never.",
        "",
        *(
            ("> " if violation is not None and each is violation.read else "  ") + _told(each, first)
            for each in sorted(result.history.keys[key], key=lambda operation: operation.begin)
        ),
    ]


def _first_begin(result: Result, key: str) -> int:
    return min((operation.begin for operation in result.history.keys[key]), default=0)


def _told(operation: Operation, zero: int) -> str:
    begin, end = ((moment - zero) / 1e6 for moment in (operation.begin, operation.end))
    what = f"{operation.kind:5} {operation.value!s:20} {operation.outcome:8}"
    return f"{begin:12.3f} {end:12.3f} {what} {operation.label}"


def _counted(counts: Counter[tuple[str, str]]) -> list[str]:
    return [f"{kind} {what} {count}" for (kind, what), count in sorted(counts.items())]


def _listed(title: str, parts: Sequence[str]) -> list[str]:
    """A title and parts, four to a line."""
    rows = [parts[start : start + 4] for start in range(0, len(parts), 4)]
    return [f"  {title if number == 0 else '':12} {', '.join(row)}" for number, row in enumerate(rows)]


def _reads(result: Result) -> int:
    return sum(each.kind == "read" for operations in result.history.keys.values() for each in operations)


def _paths(result: Result) -> Counter[str]:
    paths: Counter[str] = Counter()
    for facts in result.history.notes.values():
        paths.update(facts["paths"])
    return paths


def _sum(result: Result, fact: str) -> int:
    return sum(facts[fact] for facts in result.history.notes.values())


def _longest(result: Result, fact: str) -> float:
    return max((facts[fact] for facts in result.history.notes.values()), default=0.0)
