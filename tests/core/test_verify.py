"""A verify finds what differs, all of it and nothing else, while reads and writes go on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.verified import backwards, broken_at, found, hashed, natural, planted, verified
from tests.core.worlds import World
from zddm_flags.encoding import ledger_key

ints = st.integers(-50, 50)
texts = st.text("abcAB1", max_size=3)
pairs = st.tuples(st.integers(0, 5), st.text("ab", max_size=2))
mixed = st.one_of(ints, texts, pairs, st.tuples(st.one_of(ints, texts)))
values = st.sampled_from(["x", "y"])


@st.composite
def two_stores(draw: st.DrawFn) -> tuple[dict[Any, str], dict[Any, str]]:
    """Mostly equal, as stores are that are to be verified."""
    keys = draw(st.sampled_from([ints, texts, pairs, mixed]))
    both = draw(st.dictionaries(keys, values, max_size=25))
    old, new = (dict(both) | draw(st.dictionaries(keys, values, max_size=12)) for _ in range(2))
    for side in (old, new):
        for key in draw(
            st.sets(st.sampled_from(sorted(side, key=natural)), max_size=8) if side else st.just(set())
        ):
            del side[key]
    return old, new


orders = st.one_of(
    st.sampled_from([natural, ledger_key, backwards, hashed]), st.builds(broken_at, st.one_of(ints, texts, pairs))
)


def keep_per_part(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let checkpoints tell only so many differing keys by name."""
    for verify in ("zddm_flags._sync.verify", "zddm_flags._async.verify"):
        patch.setattr(f"{verify}.KEPT_PER_PART", number)


class TestCounts:
    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        stores=two_stores(),
        old_order=orders,
        new_order=orders,
        tag=st.sampled_from(["", "foreign:"]),
        scans=st.booleans(),
        quirks=st.booleans(),
        mark=st.booleans(),
        page_size=st.integers(1, 8),
        parts=st.integers(1, 4),
        workers=st.integers(1, 2),
        kept=st.sampled_from([1, 200]),
    )
    async def test_what_differs_is_found_whatever_the_stores_order(
        self, world: World, stores, old_order, new_order, tag, scans, quirks, mark, page_size, parts, workers, kept
    ):
        """Each key that differs is counted once, in the right kind, in whatever order the stores are walked."""
        old, new = stores
        methods = ("read", "write", "delete", "read_many") + (("scan", "partitions") if scans else ())
        migration = verified(
            world,
            old,
            new,
            old_order=old_order,
            new_order=new_order,
            new_tag=tag,
            quirks=quirks,
            new_methods=methods,
        )
        with pytest.MonkeyPatch.context() as patch:
            if not quirks:  # which keys were counted is known as far as they are kept
                keep_per_part(patch, kept)
            result = await migration.verify(page_size=page_size, parts=parts, workers=workers, mark=mark)
        expected = planted(old, new)
        if not scans:
            expected["extra"] = 0
        assert found(result) == expected
        assert result.extra_checked is scans
        assert result.finished
        assert (result.unsure, result.failed, result.too_long) == (0, 0, 0)
        assert result.verdict == ("different" if any(expected.values()) else "equal")
        if not quirks:
            assert result.compared == len(old)
            assert result.equal == len(old) - expected["changed"] - expected["missing"]
        names = {(each.name, each.kind) for each in result.differences}
        assert len(names) == len(result.differences)
        assert len(names) == sum(expected.values()) or kept == 1
        marked = expected["changed"] + expected["extra"] if mark else 0
        assert (result.marked, result.stale) == (marked, 0)
        assert migration.left == (marked, 0)
