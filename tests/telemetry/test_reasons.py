"""Why a key took its path: there is a sentence for each path, and it is true of what happened."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.worlds import Migration, World
from tests.telemetry.snapshots import KEY, VALUE, Traced
from zddm_flags import Guard, Rollout
from zddm_flags.paths import REASONS, reason_of

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def told(traced: Traced) -> tuple[Any, Any, Any]:
    """The path of the last operation, its reason, and whether the key was dirty."""
    attributes = traced.spans[-1].attributes or {}
    return attributes.get("zddm.path"), attributes.get("zddm.reason"), attributes.get("zddm.key.dirty")


def test_every_path_has_a_reason() -> None:
    """Each path that docs/operations.md lists of reads, writes and deletes has a reason, and no other has one."""
    rows = re.findall(r"^\| (`[^|]*`) \| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {(name, path) for names, path in rows for name in re.findall(r"`(\w+)`", names)}
    of_one_key = {(name, path) for name, path in listed if name in ("read", "write", "delete")}
    assert len(of_one_key) == 10 + 2 * 7
    assert {("write" if name == "delete" else name, path) for name, path in of_one_key} == set(REASONS)
    assert all(reason_of(name, path, passed=True, dirty=False) for name, path in of_one_key)


def test_reasons_are_sentences_of_their_own() -> None:
    """No two paths of an operation have one reason, and none says anything that is not fixed."""
    for operation in ("read", "write"):
        given = [reason for (name, _), reason in REASONS.items() if name == operation]
        assert len(given) == len(set(given))
    assert all("{" not in reason and 20 < len(reason) < 140 for reason in REASONS.values())


def test_no_reason_for_a_batch() -> None:
    """What is no operation on one key has none."""
    assert reason_of("copy", "copied", passed=True, dirty=None) is None
    assert reason_of("backfill", "present", passed=True, dirty=None) is None


async def test_the_words(world: World) -> None:
    """The sentences are those that a reader of a trace sees, word by word."""
    traced = Traced()
    migration = traced.migration(world, Rollout(0.0, 0.0), old={KEY: VALUE})
    await migration.read(KEY)
    closed = "the gate is closed for this key: its hash is not below the rate"
    assert told(traced) == ("old", closed, None)
    await migration.delete("absent")
    assert told(traced) == ("old", f"{closed}; Old alone was changed", None)
    migration.gate.set_rate(1.0)
    await migration.read(KEY)
    assert told(traced) == ("copied", "New lacked the key: Old served it, and now New has it", False)
    await migration.read(KEY)
    assert told(traced) == ("new_hit", "New had the key, and the ledger called it clean", False)
    await migration.write(KEY, VALUE)
    assert told(traced) == ("both", "Old was changed, and then New", None)


async def test_a_stale_key(world: World) -> None:
    """A read that copies a stale key says that it was stale, and not that New lacked it."""
    traced = Traced()
    migration = traced.migration(world)
    await migration.write(KEY, VALUE)
    migration.proxy.disable()
    await migration.write(KEY, VALUE)
    migration.proxy.enable()
    await migration.read(KEY)
    assert told(traced) == ("copied", "the key was stale: Old served it, and now New has it again", True)


async def test_a_stale_key_that_was_deleted(world: World) -> None:
    """A read of a stale key that Old lacks says nothing of what New held: it was not asked."""
    traced = Traced()
    migration = traced.migration(world)
    await migration.write(KEY, VALUE)
    migration.proxy.disable()
    await migration.delete(KEY)
    migration.proxy.enable()
    await migration.read(KEY)
    assert told(traced) == ("miss", "the key was stale, so that New was not asked: Old was, and lacks it", True)


async def test_a_key_that_is_too_long(world: World) -> None:
    """A key that no ledger takes is read from Old at any rate, for a reason of its own."""
    traced = Traced()
    migration = traced.migration(world)
    await migration.read("k" * 5000)
    reason = "the key is too long for the ledger, so it is in Old at most; or the gate opened for it just now"
    assert told(traced) == ("old", reason, None)
    assert (traced.spans[-1].attributes or {})["zddm.gate.passed"] is True


async def test_a_gate_that_closes_meanwhile(world: World) -> None:
    """A read whose gate closes while the ledger is asked says so, and nothing of the key's length."""
    traced = Traced()
    migration = traced.migration(world, old={KEY: VALUE})

    async def close() -> None:
        migration.gate.set_rate(0.0)

    migration.ledger.after["dirty"] = close
    await migration.read(KEY)
    assert told(traced) == ("old", "the gate closed for this key while the operation went on", False)


async def test_a_write_whose_gate_closes_meanwhile(world: World) -> None:
    """A write whose gate closes while Old is written says so."""
    traced = Traced()
    migration = traced.migration(world)

    async def close() -> None:
        migration.gate.set_rate(0.0)

    migration.old.after["write"] = close
    await migration.write(KEY, VALUE)
    reason = "the gate closed for this key while the operation went on; Old alone was changed"
    assert told(traced) == ("old", reason, None)


def _disable(migration: Migration) -> None:
    migration.proxy.disable()


def _open_guard(migration: Migration) -> None:
    migration.new.outage()


@pytest.mark.parametrize(("arrange", "path"), [(_disable, "disabled"), (_open_guard, "guard_open")])
async def test_who_keeps_a_read_from_new(world: World, arrange: Callable[[Migration], None], path: str) -> None:
    """A read that New is not asked for says who kept it from New, and that Old served it."""
    traced = Traced()
    migration = traced.migration(world, old={KEY: VALUE}, new={KEY: VALUE}, guard=Guard(min_calls=1))
    arrange(migration)
    await migration.read(KEY)
    await migration.read(KEY)
    assert told(traced) == (path, REASONS["read", path], None)
    assert (traced.spans[-1].attributes or {})["zddm.served_by"] == "old"
