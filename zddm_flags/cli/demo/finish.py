"""The end of the demo's migration: backfill, repair and verify while the traffic goes on, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

from zddm_flags import Backfill, Proxy, Repair, Verify
from zddm_flags.cli.demo.airports import Airport
from zddm_flags.cli.jobs import counts_of, duration, rows_of, waiting_of
from zddm_flags.cli.verify_report import VerifyReport
from zddm_flags.cli.words import counted
from zddm_flags.jobs import Progress
from zddm_flags.results import BackfillResult, MigrationStatus, VerifyResult

__all__ = ["Finish"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_LOOK_SECONDS = 0.1
_PAGE = 500  # so that there is a middle to stop in
_ROUNDS = 3


class _Job(Protocol[T_co]):
    """A job of the blocking world."""

    def run(self) -> T_co: ...
    def stop(self) -> None: ...
    def progress(self) -> Progress: ...


class Finish:
    """What brings the migration to its end, step by step. A step may be interrupted: its job is stopped first.

    Attributes:
        served_wrong: keys of which New held what Old did not, and nobody knew: verify found them.

    Args:
        show: called several times a second with the name of the job and how far it is.
        announce: called with what happens, in words.
    """

    def __init__(
        self,
        proxy: Proxy[str, Airport],
        show: Callable[[str, Progress], None],
        announce: Callable[[str], None],
    ) -> None:
        self._proxy = proxy
        self._show = show
        self._announce = announce
        self._told: list[str] = []
        self._when = "under traffic"
        self._backfilled: BackfillResult | None = None
        self._verified: VerifyResult | None = None
        self.served_wrong = 0

    def under_traffic(self) -> None:
        """Copy the airports that no traffic touched, and compare all, while the traffic goes on."""
        self._backfill()
        for _ in range(_ROUNDS):
            self._repair()
            if self._stores_agree(self._verify()):
                return

    def at_rest(self) -> MigrationStatus:
        """Make right what the traffic left stale when it stopped, and ask for the verdict."""
        self._when = "the traffic stopped"
        self._repair()
        if self._verified is None or not self._stores_agree(self._verified):
            self._verify()
        return self._proxy.migration_status()

    @property
    def covered(self) -> float:
        """The share of the airports that the backfill covered; 0 before its end."""
        return 0.0 if self._backfilled is None else self._backfilled.covered

    def lines(self) -> Iterator[str]:
        """What was done, and what the last verify found."""
        yield from self._told
        if self._verified is not None:
            report = VerifyReport(
                migration=self._proxy.name, arguments=["TARGET"], again="", result=self._verified, first=0
            )
            yield report.verdict
            yield from report.lines()

    def _backfill(self) -> None:
        self._announce("backfill: copies the airports that no traffic touched")
        result = self._run("backfill", Backfill(self._proxy, page_size=_PAGE), stop_half_way=True)
        if not result.finished and result.rows:
            self._announce("backfill: was stopped half way; another one goes on where it was")
            result = self._run("backfill, gone on with", Backfill(self._proxy, page_size=_PAGE))
        self._backfilled = result

    def _repair(self) -> None:
        stale = self._proxy.migration_status().stale
        if stale:
            self._announce(f"repair: {counted(stale, 'key')} stale, for writes overlapped, or New missed one")
            self._run("repair", Repair(self._proxy, delete_extra=True))  # the traffic deletes airports

    def _verify(self) -> VerifyResult:
        self._announce(f"verify: compares every airport, {self._when}")
        result = self._run("verify", Verify(self._proxy))
        self._verified = result
        self.served_wrong += result.marked
        return result

    @staticmethod
    def _stores_agree(result: VerifyResult) -> bool:
        """Whether another verify could show no more: what the rate leaves in Old stays there."""
        return result.finished and result.different == result.not_opened and not result.unsure + result.failed

    def _run(self, name: str, job: _Job[T], *, stop_half_way: bool = False) -> T:
        """Run a job in a thread of its own, and show how far it is."""
        waiting = ""
        with ThreadPoolExecutor(1, thread_name_prefix=f"demo-{name}") as pool:
            try:
                running = pool.submit(job.run)
                while not running.done():
                    wait([running], _LOOK_SECONDS)
                    progress = job.progress()
                    self._show(name, progress)
                    half = stop_half_way and 2 * progress.rows >= (progress.expected or 0) > 0
                    if self._is_held(progress):
                        waiting = waiting_of(progress)
                    if half or waiting:
                        job.stop()
            finally:  # an interrupt comes here too
                job.stop()
        result, progress = running.result(), job.progress()
        parts = (rows_of(progress), counts_of(progress), waiting, duration(progress.seconds))
        done = "; ".join(part for part in parts if part)
        self._told.append(f"{name.capitalize()}, {self._when}: {done}")
        self._announce(f"{name}: {done}")
        return result

    def _is_held(self, progress: Progress) -> bool:
        """Whether it waits for the flag, which may stay where it is for ever."""
        rollout = self._proxy.gate.decision.rollout
        return progress.waiting is not None and (rollout.write == 0 or rollout.backfill_per_second == 0)
