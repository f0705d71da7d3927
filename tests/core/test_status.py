"""The status says whether it is time to cut over, and if not, what is to be done."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.verified import Killed, Verified, killed_at, verified
from tests.core.worlds import Trouble, World
from tests.worlds import settle
from zddm_flags import AsyncBackfill, AsyncInMemoryLedger, Backfill, InMemoryLedger, Rollout
from zddm_flags.ledger import LedgerSummary
from zddm_flags.verdict import reasons_not_to_cut_over

COPIED = {"covered": 1.0, "counts": {"copied": 3}}
EQUAL = {"whole": True, "extra_checked": True, "counts": {"equal": 3}}
VALUES = {1: "a", 2: "b", 3: "c"}


async def backfill(migration: Verified, **options: Any) -> Any:
    job: Any = Backfill if migration.world.blocking else AsyncBackfill
    return await settle(job(migration.proxy, **options).run())


def finished(world: World, rate: float | Rollout = 1.0, **options: Any) -> Verified:
    """A migration that is ready, by what the ledger has of its jobs."""
    migration = verified(world, VALUES, VALUES, rate, **options)
    migration.plan("backfill", run="b1", result=COPIED)
    migration.plan("verify", after="b1", result=EQUAL)
    return migration


async def only_reason(migration: Verified) -> str:
    """Why it is not ready: there is one reason."""
    status = await migration.status()
    assert not status.ready
    (reason,) = status.reasons
    return reason


class TestReasons:
    async def test_none(self, world: World):
        """A migration of which all is done is ready."""
        status = await finished(world).status()
        assert status.ready
        assert list(status.reasons) == []

    async def test_a_whole_migration(self, world: World):
        """From an empty New to ready: by a backfill and a verify, in this order, at a rate of 1."""
        migration = verified(world, VALUES, {}, opened=0.0)
        assert "no backfill" in " ".join((await migration.status()).reasons)
        assert (await migration.verify()).verdict == "different"
        await backfill(migration)
        assert (await migration.verify()).verdict == "equal"
        assert list((await migration.status()).reasons) == []

    @pytest.mark.parametrize(
        ("rollout", "told"),
        [
            (Rollout(read=0.5, write=1.0), "reads 50 % of the keys from New: raise it to 1"),
            (Rollout(read=0.0, write=1.0), "reads 0 % of the keys from New: raise it to 1"),
        ],
    )
    async def test_reads(self, world: World, rollout, told):
        """New does not serve all reads yet."""
        assert told in await only_reason(finished(world, rollout))

    async def test_writes(self, world: World):
        """New does not get all writes yet, nor then all reads."""
        reasons = (await finished(world, 0.25).status()).reasons
        assert len(reasons) == 2
        assert "writes 25 % of the keys to New: raise it to 1" in reasons[0]

    @pytest.mark.parametrize("rate", [0.9999999, 1 - 2**-53])
    async def test_almost_all(self, world: World, rate):
        """What is told of a rate just below 1 is not that it is 1."""
        reasons = (await finished(world, rate).status()).reasons
        assert len(reasons) == 2
        assert "100 %" not in " ".join(reasons)

    async def test_opened(self, world: World):
        """New was never used for some keys."""
        assert "only ever opened for 50 % of the keys" in await only_reason(finished(world, opened=0.5))

    async def test_stale(self, world: World):
        """Some keys are stale."""
        migration = finished(world)
        migration.distrust(1, 2)
        assert await only_reason(migration) == "2 keys are stale, and served by Old: run repair"

    async def test_left_token(self, world: World):
        """What a crash left is reaped by the status itself, and told as what it is then."""
        migration = finished(world)
        migration.leave_token(1)
        assert (await migration.status()).ready  # it may be in progress
        migration.clock.advance(100)
        # This process has looked a moment ago, and does not reap again so soon.
        reason = await only_reason(migration)
        assert "an operation was left 100 s ago" in reason
        assert "then repair" in reason
        other = migration.another(1.0)
        assert "stale" in await only_reason(other)
        assert (await other.status()).reaped == 1

    async def test_token_of_an_operation_that_takes_long(self, world: World):
        """A write whose New.write raised leaves its token: New may lack the value until that is reaped."""
        migration = finished(world)
        migration.leave_token(1)
        migration.clock.advance(5)
        reason = await only_reason(migration)
        assert "an operation was begun 5 s ago, and may have left New as it was: run status again in" in reason

    async def test_no_backfill(self, world: World):
        """No backfill was run."""
        migration = verified(world, VALUES, VALUES)
        migration.plan("verify", result=EQUAL)
        assert "no backfill was run" in await only_reason(migration)

    @pytest.mark.parametrize("state", ["running", "stopped"])
    async def test_unfinished_backfill(self, world: World, state):
        """The last backfill did not finish."""
        migration = finished(world)
        migration.plan("backfill", run="b2", state=state)
        assert "the last backfill did not finish: run it again" in await only_reason(migration)

    async def test_backfill_below_the_rate(self, world: World):
        """The last backfill was of some keys only."""
        migration = finished(world)
        migration.plan("backfill", run="b1", result=COPIED | {"covered": 0.25})
        assert "covered 25 % of the keys: run it again at a write rate of 1" in await only_reason(migration)

    @pytest.mark.parametrize("left", ["refused", "pending", "too_long"])
    async def test_backfill_left_keys(self, world: World, left):
        """The last backfill could not copy some keys."""
        migration = finished(world)
        migration.plan("backfill", run="b1", result=COPIED | {"counts": {left: 2_000}})
        told = await only_reason(migration)
        assert "left 2,000 keys that it could not copy: run repair, then backfill and verify again" in told

    async def test_no_verify(self, world: World):
        """No verify was run."""
        migration = verified(world, VALUES, VALUES)
        migration.plan("backfill", result=COPIED)
        assert "no verify was run" in await only_reason(migration)

    @pytest.mark.parametrize("state", ["running", "stopped"])
    async def test_unfinished_verify(self, world: World, state):
        """The last verify did not finish."""
        migration = finished(world)
        migration.plan("verify", after="b1", state=state, result=EQUAL)
        assert "the last verify did not finish: run it again" in await only_reason(migration)

    @pytest.mark.parametrize("kind", ["changed", "missing", "extra", "too_long"])
    async def test_verify_found_differences(self, world: World, kind):
        """The last verify found keys that differ."""
        migration = finished(world)
        migration.plan("verify", after="b1", result=EQUAL | {"counts": {kind: 3}})
        assert "found 3 keys that differ: run repair --from-verify, then verify" in await only_reason(migration)

    async def test_one_key(self, world: World):
        """What is told of a single key is said of one."""
        migration = finished(world)
        migration.distrust(1)
        migration.plan("backfill", run="b1", result=COPIED | {"counts": {"refused": 1}})
        migration.plan("verify", after="b1", result=EQUAL | {"counts": {"changed": 1, "unsure": 1}})
        assert list((await migration.status()).reasons) == [
            "1 key is stale, and served by Old: run repair",
            "the last backfill left 1 key that it could not copy: run repair, then backfill and verify again",
            "the last verify found 1 key that differs: run repair --from-verify, then verify",
            "the last verify could not compare 1 key: run it again",
        ]

    @pytest.mark.parametrize("kind", ["unsure", "failed"])
    async def test_verify_was_not_sure(self, world: World, kind):
        """The last verify could not compare some keys."""
        migration = finished(world)
        migration.plan("verify", after="b1", result=EQUAL | {"counts": {kind: 3}})
        assert "could not compare 3 keys: run it again" in await only_reason(migration)

    @pytest.mark.parametrize("options", [{"sample": 0.5}, {"keys_only": True}])
    async def test_verify_of_some_keys(self, world: World, options):
        """The last verify did not look at everything."""
        migration = finished(world)
        await migration.verify(**options)
        assert "looked at some keys only, or not at their values: run it without options" in await only_reason(
            migration
        )

    async def test_verify_with_a_limit(self, world: World):
        """A limit leaves out keys, and those that only New has."""
        migration = finished(world)
        await migration.verify(limit=2)
        assert len((await migration.status()).reasons) == 2

    async def test_verify_without_a_scan_of_new(self, world: World):
        """The last verify could not look for keys that only New has."""
        migration = finished(world, new_methods=("read", "write", "delete", "read_many"))
        await migration.verify()
        assert "keys that only New has: its adapter has no scan()" in await only_reason(migration)

    async def test_verify_before_the_backfill_had_finished(self, world: World):
        """A verify that began before the last backfill had finished proves nothing of what that did."""
        migration = verified(world, VALUES, VALUES)
        job: Any = migration.job(migration.proxy)

        async def finish_backfill() -> None:
            await backfill(migration)

        migration.old.after["scan"] = finish_backfill
        assert (await settle(job.run())).verdict == "equal"
        assert "began before the last backfill had finished: run it again" in await only_reason(migration)
        await migration.verify()
        assert (await migration.status()).ready
        await backfill(migration)
        assert "began before the last backfill had finished" in await only_reason(migration)

    async def test_a_verify_that_is_gone_on_with_after_the_backfill(self, world: World):
        """When the backfill finished is compared with when the verify began, and not with when it went on."""
        migration = verified(world, VALUES, VALUES)
        job: Any = migration.job(migration.proxy)
        job.stop()
        await settle(job.run())
        await backfill(migration)
        assert (await migration.verify()).resumed
        assert "began before the last backfill had finished" in await only_reason(migration)

    def test_everything_at_once(self):
        """All reasons are told, in the order in which one sees to them."""
        summary = LedgerSummary(5, 1, 99.0, 0.5, 0)
        reasons = reasons_not_to_cut_over(Rollout(read=0.1, write=0.2), summary, None, None, 34.0)
        assert [reason.split()[0] for reason in reasons] == ["the", "the", "New", "5", "an", "no", "no"]


class TestJobs:
    async def test_none(self, world: World):
        """Where no job was run there is nothing to tell of one."""
        status = await verified(world, {}, {}).status()
        assert (status.backfill, status.verify) == (None, None)

    async def test_finished(self, world: World):
        """Of a job that finished it tells what came of it, and when that was."""
        migration = verified(world, VALUES, {1: "x", 2: "b"})
        result = await migration.verify(parts=2)
        migration.clock.advance(60)
        status = (await migration.status()).verify
        assert status is not None
        assert (status.state, status.saved_seconds_ago, status.expected) == ("finished", 60, 3)
        assert (status.counts["changed"], status.counts["missing"], status.counts["rows"]) == (1, 1, 3)
        assert status.result["counts"] == status.counts
        assert result.changed == 1

    async def test_in_progress(self, world: World):
        """Of one that goes on it tells how far it is by its parts, and when it was last heard of."""
        old = dict.fromkeys(range(10), "v")
        migration = verified(world, old, old)
        other = migration.another(1.0)
        told: list[Any] = []

        async def look() -> None:
            migration.clock.advance(7)
            told.append((await other.status()).verify)
            migration.old.before["scan"] = look

        migration.old.before["scan"] = look
        await migration.verify(page_size=2, parts=1)
        assert [each.counts.get("rows", 0) for each in told] == [0, 2, 4, 6, 8]
        assert {each.state for each in told} == {"running"}
        assert {each.saved_seconds_ago for each in told} == {7}

    async def test_killed(self, world: World):
        """One whose process was killed seems to go on: when it was last heard of tells."""
        migration = verified(world, VALUES, VALUES)
        interruptions = killed_at(migration, 12)
        with pytest.raises(Killed):
            await migration.verify()
        interruptions.end()
        migration.clock.advance(3600)
        status = (await migration.another(1.0).status()).verify
        assert status is not None
        assert (status.state, status.saved_seconds_ago) == ("running", 3600)
        assert (await migration.another(1.0).verify()).resumed

    async def test_stopped(self, world: World):
        """One that was stopped tells what it did until then."""
        old = dict.fromkeys(range(10), "v")
        migration = verified(world, old, {})
        job: Any = migration.job(migration.proxy, page_size=4, parts=1)

        async def stop() -> None:
            job.stop()

        migration.ledger.after["alone"] = stop
        await settle(job.run())
        status = (await migration.status()).verify
        assert status is not None
        assert (status.state, status.counts["missing"]) == ("stopped", 4)
        assert status.result["counts"] == status.counts

    async def test_parts_of_an_earlier_run(self, world: World):
        """What an earlier run left under the name of a part does not count."""
        migration = verified(world, VALUES, VALUES)
        migration.plan("verify", run="r2", state="running", ranges=((None, "a", "old"), ("a", None, "old")))
        migration.part("verify", 0, run="r1", counts={"rows": 100})
        migration.part("verify", 1, run="r2", counts={"rows": 1})
        status = (await migration.status()).verify
        assert status is not None
        assert status.counts == {"rows": 1}


class TestFacts:
    async def test_what_the_ledger_says(self, world: World):
        """It tells the flag's rates, and what the ledger holds."""
        migration = verified(world, VALUES, VALUES, Rollout(read=0.1, write=0.2), opened=0.3)
        migration.distrust(1)
        migration.leave_token(2)
        migration.clock.advance(5)
        status = await migration.status()
        assert (status.name, status.flag_key, status.epoch) == ("users", None, 0)
        assert status.rollout == Rollout(read=0.1, write=0.2)
        assert (status.opened, status.stale, status.pending, status.oldest_pending_seconds) == (0.3, 1, 1, 5)
        assert status.token_seconds == 34.0

    async def test_no_store_is_called(self, world: World):
        """It asks the ledger alone, whatever state the stores are in."""
        migration = finished(world)
        migration.old.outage()
        migration.new.outage()
        await migration.status()
        assert set(migration.calls()) <= {"ledger.reap", "ledger.summary", "ledger.checkpoints"}

    async def test_the_ledger_fails(self, world: World):
        """Where the ledger fails there is no status, but its error."""
        migration = finished(world)
        migration.ledger.before["summary"] = Trouble()
        with pytest.raises(Trouble):
            await migration.status()

    async def test_with_the_ledger_in_memory(self, world: World):
        """It works with the ledger of one process."""
        ledger = InMemoryLedger(opened=1.0)
        migration = verified(
            world, VALUES, VALUES, ledger=ledger if world.blocking else AsyncInMemoryLedger(ledger)
        )
        await backfill(migration)
        await migration.verify()
        assert (await migration.status()).ready
