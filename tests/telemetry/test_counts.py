"""Counts lose nothing, however many threads count, and keep no note of each."""

from concurrent.futures import ThreadPoolExecutor

from zddm_telemetry.counts import Counts

THREADS, TURNS = 8, 5_000
READ, CALL = ("read", "old"), ("old", "read")


def test_threads_lose_nothing():
    """What threads count at once, while others look, adds up; no look sees less than one before it."""
    counts = Counts()
    seen: list[int] = []

    def work(_: int) -> None:
        for turn in range(TURNS):
            counts.add_operation(READ)
            counts.add_call(CALL, 2)
            if turn % 1_000 == 0:
                counts.add_copies(1)
                counts.add_dropped(3)

    def look(_: int) -> None:
        seen.extend(counts.snapshot().operations[READ] for _ in range(200))

    with ThreadPoolExecutor(THREADS + 1) as pool:
        looking = pool.submit(look, 0)
        list(pool.map(work, range(THREADS)))
        looking.result()
    assert seen == sorted(seen)
    found = counts.snapshot()
    assert found.operations == {READ: THREADS * TURNS}
    assert found.calls == {CALL: 2 * THREADS * TURNS}
    assert (found.copies, found.dropped) == (THREADS * TURNS // 1_000, 3 * THREADS * TURNS // 1_000)


def test_notes_do_not_pile_up():
    """Where nobody ever looks, the notes are added up all the same."""
    counts = Counts()
    for _ in range(10_000):
        counts.add_operation(READ)
    assert len(counts._noted) < 1_000
    assert counts.operations[READ] > 9_000


def test_what_changes_is_merged_as_it_is():
    """Counts that nobody has looked at are merged whole, and are left as they were."""
    one, other = Counts(), Counts()
    one.add_operation(READ, 2)
    other.add_operation(READ, 3)
    one.merge(other)
    assert one.snapshot().operations == {READ: 5}
    assert other.snapshot().operations == {READ: 3}


def test_a_snapshot_stays():
    """A snapshot does not change with what it was taken of."""
    counts = Counts()
    counts.add_call(CALL, 1)
    taken = counts.snapshot()
    counts.add_call(CALL, 1)
    assert taken.snapshot().calls == {CALL: 1}
