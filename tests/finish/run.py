"""One pair of stores, from a full Old and an empty New to the verdict that it is time to cut over."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from tests.finish import bare
from tests.finish.processes import Life, Writers, job, writing
from tests.finish.stores import Pair, Places, Stores, UserProxy, fill, opened, proxy_of, row_of
from tests.finish.worker import COPIES
from tests.finish.writer import HOT, PLANTED
from zddm_flags import Repair, Verify
from zddm_flags.results import RepairResult, VerifyResult

__all__ = ["Result", "Settings", "run"]

DIFFERENCES = {"changed": 34, "missing": 33, "extra": 33}
FAR_AWAY = 10**9
"""Above all keys of Old and of the writers."""
LAST_PAGES = 3
"""So many pages before the end the last kill comes, so that it meets a process that works."""
MEMORY_GROWTH = 32 * 2**20
"""Bytes by which a process may grow from a tenth of the rows to all of them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked of a run."""

    rows: int
    seed: int
    kills: int
    per_second: float
    """Writes a second, of all writers together."""
    say: Callable[[str], None]


@dataclass(slots=True)
class Result:
    """What a run came to."""

    pair: Pair
    rows: int
    copies: list[float] = field(default_factory=list)
    """Rows a second of the bare loop, before and after."""
    compare: float = 0.0
    undisturbed: Life = field(default_factory=Life)
    undisturbed_verify: Life = field(default_factory=Life)
    lives: list[Life] = field(default_factory=list)
    """Of the backfill under live writes."""
    again: int = 0
    """Keys that a backfill wrote to New more than once."""
    repaired: RepairResult | None = None
    verified: VerifyResult | None = None
    """After the backfill, under live writes."""
    operations: int = 0
    writes_per_second: float = 0.0
    reasons: list[str] = field(default_factory=list)
    """Why it is not time to cut over."""
    violations: list[str] = field(default_factory=list)

    def expect(self, claim: str, holds: bool, but: object = "") -> None:
        """Note a claim that does not hold."""
        if not holds:
            self.violations.append(f"{claim}: {but}" if but != "" else claim)


def run(places: Places, settings: Settings) -> Result:
    """Do everything, once."""
    result = Result(places.pair, settings.rows)
    settings.say(f"{places.pair}: {settings.rows:,} rows")
    fill(places, settings.rows, settings.seed)
    with opened(places) as stores:
        _undisturbed(places, settings, stores, result)
        settings.say("  backfill under live writes, killed")
        with writing(places, settings.rows, settings.seed, settings.per_second) as writers:
            _backfill(places, settings, result)
            writers.keep_apart()
            with proxy_of(stores, places.name) as proxy:
                _finish(proxy, settings, stores, result)
                writers.end()
                _judge(proxy, settings, stores, writers, result)
    return result


def _undisturbed(places: Places, settings: Settings, stores: Stores, result: Result) -> None:
    """The bare loop, the backfill, and the bare loop again, each into an empty New."""
    alone = replace(places, name="undisturbed")
    settings.say("  bare loop, undisturbed backfill and verify, bare loop")
    result.copies.append(_rows_per_second(job(alone, "copy")))
    stores.empty_new()
    life = result.undisturbed = job(alone, "backfill")
    result.expect("an undisturbed backfill copies every row once", life.result["copied"] == settings.rows)
    tenth = next((memory for rows, memory in life.memory if rows >= settings.rows / 10), 0)
    grown = life.memory[-1][1] - tenth
    result.expect("memory is flat in the number of rows", grown < MEMORY_GROWTH, f"it grew by {grown:,} bytes")
    result.undisturbed_verify = job(alone, "verify")
    result.expect("an undisturbed copy is equal", result.undisturbed_verify.result["verdict"] == "equal")
    result.compare = _rows_per_second(job(alone, "compare"))
    stores.empty_new()
    result.copies.append(_rows_per_second(job(alone, "copy")))
    stores.empty_new()


def _rows_per_second(life: Life) -> float:
    return float(life.result["rows"]) / life.seconds


def _backfill(places: Places, settings: Settings, result: Result) -> None:
    chance = random.Random(settings.seed)
    moments = sorted(chance.uniform(0.05, 0.9) for _ in range(settings.kills))
    copies = Path(places.folder) / COPIES
    for moment in [*moments, None]:
        kill_at = None if moment is None else int(moment * (settings.rows - LAST_PAGES * bare.PAGE_SIZE))
        result.lives.append(job(places, "backfill", {"note_copies": True}, kill_at=kill_at))
        if not result.lives[-1].killed:
            break
    last = result.lives[-1]
    kills = sum(life.killed for life in result.lives)
    result.expect("the backfill is killed as often as asked", kills == settings.kills, kills)
    result.expect("a killed backfill is gone on with", bool(last.result["resumed"]) == (kills > 0))
    left = {name: last.result[name] for name in ("refused", "pending", "too_long") if last.result[name]}
    result.expect("the backfill leaves no key", last.result["finished"] and not left, left)
    keys = array("q", copies.read_bytes())
    result.again = sum(times > 1 for times in Counter(keys).values())
    result.expect("at most a page a kill is copied twice", result.again <= kills * bare.PAGE_SIZE, result.again)


def _finish(proxy: UserProxy, settings: Settings, stores: Stores, result: Result) -> None:
    """Repair and verify under live writes, find what was planted, and repair that."""
    settings.say("  repair and verify under live writes")
    # A copy that was in flight as its key was deleted may have brought it back: New has it then, and it is stale.
    result.repaired = Repair(proxy, delete_extra=True).run()
    result.verified = Verify(proxy).run()
    _expect_equal(result, "after the backfill", result.verified)
    planted = _plant(settings, stores)
    settings.say(f"  verify finds {len(planted)} planted differences")
    found = Verify(proxy).run()
    seen = {cast(int, proxy.gate.key_of(each.name)): each.kind for each in found.differences}
    result.expect("verify finds each planted difference", planted.items() <= seen.items(), _kinds(planted, seen))
    result.expect("verify finds no other", seen.items() <= planted.items(), _kinds(seen, planted))
    counted = {"changed": found.changed, "missing": found.missing, "extra": found.extra}
    result.expect("verify counts each once", counted == DIFFERENCES, counted)
    repaired = Repair(proxy, found_by_verify=True, delete_extra=True).run()
    right = repaired.copied, repaired.deleted
    expected = DIFFERENCES["changed"] + DIFFERENCES["missing"], DIFFERENCES["extra"]
    result.expect("repair makes each right", right == expected, right)
    _expect_equal(result, "after repair", Verify(proxy).run())


def _expect_equal(result: Result, when: str, verified: VerifyResult) -> None:
    kinds = (*DIFFERENCES, "unsure", "failed")
    found = {kind: number for kind in kinds if (number := getattr(verified, kind))}
    result.expect(f"verify says equal {when}", verified.verdict == "equal", found)


def _kinds(some: Mapping[int, str], others: Mapping[int, str]) -> dict[str, int]:
    return dict(Counter(kind for key, kind in some.items() if others.get(key) != kind))


def _plant(settings: Settings, stores: Stores) -> dict[int, str]:
    """Make keys differ that nobody writes, behind the proxies' backs: in New, or in Old."""
    chance = random.Random(settings.seed)
    free = range(HOT + PLANTED - HOT % PLANTED, settings.rows + 1, PLANTED)
    keys = chance.sample(free, DIFFERENCES["changed"] + DIFFERENCES["missing"] + DIFFERENCES["extra"])
    planted: dict[int, str] = {}
    for place, key in enumerate(keys):
        in_new = chance.random() < 0.5
        if place < DIFFERENCES["changed"]:
            (stores.new if in_new else stores.old).write(key, row_of(key, settings.seed, -1))
            planted[key] = "changed"
        elif place < DIFFERENCES["changed"] + DIFFERENCES["missing"]:
            if in_new:
                stores.new.delete(key)
            else:
                key += FAR_AWAY  # noqa: PLW2901 - one that neither store has yet
                stores.old.write(key, row_of(key, settings.seed))
            planted[key] = "missing"
        else:
            if in_new:
                key += FAR_AWAY  # noqa: PLW2901
                stores.new.write(key, row_of(key, settings.seed))
            else:
                stores.old.delete(key)
            planted[key] = "extra"
    return planted


def _judge(proxy: UserProxy, settings: Settings, stores: Stores, writers: Writers, result: Result) -> None:
    """The verdict of the library; and, beside it, what the bare loop and the writers' own notes say."""
    settings.say("  the verdict")
    result.operations, result.writes_per_second = writers.operations, writers.per_second
    result.expect("no write fails", not writers.errors, dict(Counter(writers.errors)))
    Repair(proxy, delete_extra=True).run()
    result.reasons = list(proxy.migration_status().reasons)
    result.expect("it is time to cut over", not result.reasons, "; ".join(result.reasons))
    _, different = bare.compare(stores.old, stores.new)
    result.expect("New holds what Old holds", not different, f"{len(different)} keys differ")
    acknowledged = writers.acknowledged
    found = stores.new.read_many(list(acknowledged))
    lost = [
        key
        for key, version in acknowledged.items()
        if found.get(key) != (None if version is None else row_of(key, settings.seed, version))
    ]
    result.expect("New holds every acknowledged write", not lost, f"{len(lost)} of {len(acknowledged)} keys")
