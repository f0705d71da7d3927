from __future__ import annotations

import dataclasses
import math
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zddm_flags.guardrail import Guardrail, GuardrailCrossed, GuardrailWatch

WINDOW = 60.0
SLOT = WINDOW / 12
WIDTH = 1.1 * (1 + 1e-9)
"""The documented error of a percentile: a bucket's upper edge over its lower one."""
NEVER = 1e300
"""A ratio that no two times have."""


class Watched:
    """A watch whose clock stands still until it is moved."""

    def __init__(self, **limits: float | None) -> None:
        self.now = 1000.0
        self.watch = GuardrailWatch(Guardrail(**limits), lambda: self.now)  # type: ignore[arg-type]

    def call(
        self, store: Literal["old", "new"] = "new", operation="read", seconds=0.001, *, failed=False, times=1
    ) -> GuardrailCrossed | None:
        """Count `times` equal calls; return the last one's crossing, or fail if an earlier one crossed."""
        for _ in range(times - 1):
            assert self.watch.called(store, operation, seconds, failed=failed) is None
        return self.watch.called(store, operation, seconds, failed=failed)


# --- The configuration


@pytest.mark.parametrize("limits", [{}, {"min_calls": 5}, {"latency_percentile": 0.5, "window_seconds": 1.0}])
def test_a_guardrail_has_a_threshold(limits):
    """A guardrail that could never act is refused."""
    with pytest.raises(ValueError, match="max_error_share, max_latency_ratio and max_differing_keys"):
        Guardrail(**limits)


@pytest.mark.parametrize("name", ["max_error_share", "max_latency_ratio", "latency_percentile", "window_seconds"])
@pytest.mark.parametrize("value", [True, False, "0.5", Decimal("0.5"), b"1", [0.5], 0.5j])
def test_what_is_no_number_is_refused(name, value):
    """Anything but an int or a float raises a TypeError that names the argument; a bool is no number."""
    with pytest.raises(TypeError, match=f"{name} is a number, not a"):
        Guardrail(**{"max_differing_keys": 1, name: value})


@pytest.mark.parametrize("name", ["latency_percentile", "window_seconds", "min_calls"])
def test_only_thresholds_are_optional(name):
    """None switches a threshold off, and is refused for what is none."""
    with pytest.raises(TypeError, match=f"{name} is .*, not a NoneType"):
        Guardrail(**{"max_differing_keys": 1, name: None})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("max_error_share", [0, 0.0, -0.1, 1.01, 2]),
        ("max_latency_ratio", [0, -0.0, -1]),
        ("latency_percentile", [0, 1, -0.5, 1.5, 95]),
        ("window_seconds", [0, -1, 0.0009, 5e-324]),
    ],
)
def test_numbers_out_of_range_are_refused(name, wrong):
    """A number outside its range, NaN or an infinity raises a ValueError that names the argument."""
    for value in (*wrong, math.nan, math.inf, -math.inf, 10**400, -(10**5000)):
        with pytest.raises(ValueError, match=f"^{name} is "):
            Guardrail(**{"max_differing_keys": 1, name: value})


@pytest.mark.parametrize(("name", "least"), [("max_differing_keys", 0), ("min_calls", 1)])
def test_counts_are_ints(name, least):
    """A count is an int from its least on; a bool or a float is none."""
    for value in (True, 1.0, math.nan, "1"):
        with pytest.raises(TypeError, match=f"{name} is an int, not a"):
            Guardrail(**{"max_error_share": 0.5, name: value})
    for value in (least - 1, -(10**5000)):
        with pytest.raises(ValueError, match=f"{name} is at least {least}"):
            Guardrail(**{"max_error_share": 0.5, name: value})
    assert getattr(Guardrail(**{"max_error_share": 0.5, name: least}), name) == least


def test_the_ends_of_the_ranges():
    """The ends that belong to a range are taken, ints for floats as well, and a guardrail cannot be changed."""
    guardrail = Guardrail(
        max_error_share=1, max_latency_ratio=5e-324, latency_percentile=0.001, window_seconds=0.001
    )
    assert dataclasses.astuple(guardrail) == (1, 5e-324, 0.001, None, 100, 0.001)
    with pytest.raises(dataclasses.FrozenInstanceError):
        guardrail.max_error_share = 0.5  # type: ignore[misc]  # what must fail


# --- The share of errors


def test_too_many_errors():
    """New is to be disabled as soon as more than its share of errors has come, by figures that add up."""
    watched = Watched(max_error_share=0.1, min_calls=10)
    assert watched.call(times=18) is None
    assert watched.call(failed=True, times=2) is None, "2 of 20 are not above a tenth"
    assert watched.call(failed=True) == GuardrailCrossed(
        "error_share", 0.1, {"error_share": 3 / 21, "calls": 21, "errors": 3}
    )


def test_min_calls_for_errors():
    """Too few calls are no share: the last of `min_calls` is the first that can cross, also by a success."""
    for last_fails in (True, False):
        watched = Watched(max_error_share=0.5, min_calls=10)
        assert watched.call(failed=True, times=9) is None
        crossed = watched.call(failed=last_fails)
        assert crossed is not None
        assert crossed.figures["calls"] == 10


def test_errors_of_old():
    """What Old fails at never counts against New, and what Old succeeds at never for it."""
    watched = Watched(max_error_share=0.4, min_calls=10)
    assert watched.call("old", failed=True, times=500) is None
    assert watched.call(times=5) is None
    assert watched.call("old", times=500) is None
    assert watched.call(failed=True, times=4) is None
    assert watched.call(failed=True) is not None


@given(
    calls=st.lists(st.tuples(st.floats(0, 30), st.sampled_from(["old", "new"]), st.booleans()), max_size=200),
    share=st.sampled_from([0.05, 0.25, 0.5, 0.9, 1.0]),
    min_calls=st.integers(1, 20),
)
def test_the_share_of_errors_against_a_list(calls, share, min_calls):
    """The watch crosses exactly where a list of all calls in the window says so."""
    watched = Watched(max_error_share=share, min_calls=min_calls)
    known = []
    for pause, store, failed in calls:
        watched.now += pause
        if store == "new":
            known.append((watched.now // SLOT, failed))
        inside = [failed for slot, failed in known if slot > watched.now // SLOT - 12]
        crossed = watched.call(store, failed=failed)
        if len(inside) >= min_calls and sum(inside) / len(inside) > share:
            assert crossed is not None
            assert crossed.figures == {
                "error_share": sum(inside) / len(inside),
                "calls": len(inside),
                "errors": sum(inside),
            }
            return
        assert crossed is None


@pytest.mark.parametrize("start", [0.0, 1000.0, 1003.7, 86_400.0 * 365 + 4.999])
def test_old_errors_leave_the_window(start):
    """An error counts for at least 11/12 of the window and at most all of it."""
    for age, counts in ((WINDOW * 11 / 12 - 0.001, True), (WINDOW, False), (WINDOW * 100, False)):
        watched = Watched(max_error_share=0.5, min_calls=10, window_seconds=WINDOW)
        watched.now = start
        assert watched.call(failed=True, times=9) is None
        watched.now += age
        results = [watched.watch.called("new", "read", 0.001, failed=False) for _ in range(10)]
        assert any(results) is counts, age


# --- The latencies


def test_new_is_slow():
    """An operation that takes New too long is named, and the figures say how long both took."""
    watched = Watched(max_latency_ratio=5.0, min_calls=100)
    assert watched.call("old", "read", 0.001, times=100) is None
    assert watched.call("old", "write", 0.002, times=100) is None
    assert watched.call("new", "read", 0.0045, times=100) is None
    crossed = watched.call("new", "write", 0.02, times=100)
    assert crossed is not None
    assert (crossed.threshold, crossed.limit, crossed.operation) == ("latency_ratio", 5.0, "write")
    figures = dict(crossed.figures)
    assert 0.02 <= figures.pop("new_seconds") <= 0.02 * WIDTH
    assert 0.002 <= figures.pop("old_seconds") <= 0.002 * WIDTH
    assert figures.pop("latency_ratio") == pytest.approx(10, rel=0.1)
    assert figures == {"latency_percentile": 0.95, "old_calls": 100, "new_calls": 100}


def test_operations_are_compared_with_their_like():
    """A write of New is not compared with a read of Old."""
    watched = Watched(max_latency_ratio=2.0, min_calls=10)
    watched.call("old", "read", 0.001, times=100)
    assert watched.call("new", "write", 0.1, times=1000) is None


@pytest.mark.parametrize(
    ("old", "new", "crosses"), [(9, 400, False), (10, 400, True), (400, 9, False), (400, 10, True)]
)
def test_min_calls_for_latencies(old, new, crosses):
    """A ratio needs `min_calls` of the operation in each of the two stores, whatever else was called."""
    watched = Watched(max_latency_ratio=2.0, min_calls=10)
    watched.call("new", "write", 0.001, times=400)
    watched.call("old", "read", 0.001, times=old)
    results = [watched.watch.called("new", "read", 0.1, failed=False) for _ in range(new)]
    watched.now += SLOT
    results.append(watched.watch.called("old", "write", 0.001, failed=False))
    assert any(results) is crosses


def test_a_slow_start_is_found_at_once():
    """Where New is slow from the start it is found at `min_calls`, not at the end of a part of the window."""
    watched = Watched(max_latency_ratio=2.0, min_calls=100)
    watched.call("old", seconds=0.001, times=100)
    assert watched.call(seconds=0.1, times=99) is None
    assert watched.call(seconds=0.1) is not None


@pytest.mark.parametrize("store", ["old", "new"])
def test_a_later_slowness_is_found_within_a_slot(store):
    """A New that becomes slow is found by the next call of either store in the next twelfth of the window."""
    watched = Watched(max_latency_ratio=2.0, min_calls=100)
    for slot in range(30):
        watched.now = 1000 + slot * SLOT
        assert watched.call("old", times=100) is None
        assert watched.call("new", times=100) is None
    assert watched.call("new", seconds=0.1, times=99) is None
    watched.now += SLOT
    assert watched.call(store) is not None


def test_few_comparisons():
    """Percentiles are computed a few times in a window, however many calls there are."""
    watched = Watched(max_latency_ratio=NEVER, min_calls=10)
    comparisons, first_window = [], 0
    compare = watched.watch._too_slow
    watched.watch._too_slow = lambda limit: comparisons.append(limit) or compare(limit)  # type: ignore[method-assign]
    for number in range(24_000):
        watched.now = 1000 + number * WINDOW / 12_000
        watched.call(("old", "new")[number % 2])
        if number == 12_000:
            first_window = len(comparisons)
    assert 12 <= first_window <= 12 + math.log2(6000 / 10)
    assert len(comparisons) - first_window <= 12


def test_a_ratio_at_the_limit():
    """A New that takes exactly as long as it may does not cross."""
    watched = Watched(max_latency_ratio=1.0, min_calls=10)
    watched.call("old", times=10)
    assert watched.call(times=10) is None


def test_the_first_slow_operation():
    """Where New is slow at several operations the first by name is told, in every process alike."""
    watched = Watched(max_latency_ratio=2.0, min_calls=10)
    operations = ["write", "read", "write_many", "delete", "read_many", "delete_many"]
    for operation in operations:
        assert watched.call("new", operation, 0.1, times=10) is None
    for operation in operations:
        watched.call("old", operation, times=10)
    watched.now += SLOT
    crossed = watched.call()
    assert crossed is not None
    assert crossed.operation == "delete"


def test_the_percentile_counts():
    """Up to 5 % of New's calls may be slow at the percentile 0.95, and none more."""
    for slow, crosses in ((50, False), (51, True)):
        watched = Watched(max_latency_ratio=2.0, min_calls=1000, latency_percentile=0.95)
        watched.call("old", times=1000)
        watched.call("new", seconds=0.1, times=slow)
        assert (watched.call("new", times=1000 - slow) is not None) is crosses


@pytest.mark.parametrize("start", [0.0, 1003.7])
def test_old_latencies_leave_the_window(start):
    """Slow calls are forgotten at the latest when the window is over, and not before 11/12 of it."""
    for age, counts in ((WINDOW * 11 / 12 - 0.001, True), (WINDOW, False)):
        watched = Watched(max_latency_ratio=2.0, min_calls=100)
        watched.now = start
        assert watched.call("new", seconds=0.1, times=99) is None
        watched.now += age
        watched.call("old", seconds=0.001, times=100)
        assert (watched.call("new", seconds=0.1) is not None) is counts, age


def percentile(times: list[float], share: float) -> float:
    """The nearest-rank percentile of a sorted list."""
    return next(time for rank, time in enumerate(sorted(times), 1) if rank >= share * len(times))


def measured(old: list[float], new: list[float], share: float) -> tuple[float, float, float]:
    """What a watch takes for Old's and New's percentile, and for their ratio."""
    watched = Watched(max_latency_ratio=5e-324, min_calls=len(new), latency_percentile=share)
    for seconds in old:
        watched.call("old", seconds=seconds)
    results = [watched.call("new", seconds=seconds) for seconds in new]
    assert results[-1] is not None
    figures = results[-1].figures
    return figures["old_seconds"], figures["new_seconds"], figures["latency_ratio"]


times = st.one_of(
    st.floats(1e-6, 107), st.floats(0.001, 0.01), st.sampled_from([1e-6, 1e-3, 1e-6 * 1.1**50, 100.0])
)


@given(
    times=st.lists(st.tuples(times, times), min_size=1, max_size=100),
    share=st.one_of(st.floats(0.001, 0.999), st.sampled_from([0.5, 0.95, 0.99])),
)
def test_percentiles_against_a_sorted_list(times, share):
    """A percentile is the sorted list's, or up to 10 % above it; a ratio of two is within 10 % either way."""
    old, new = [list(each) for each in zip(*times, strict=True)]
    old_seconds, new_seconds, ratio = measured(old, new, share)
    exact_old, exact_new = percentile(old, share), percentile(new, share)
    assert exact_old / (1 + 1e-9) <= old_seconds <= exact_old * WIDTH
    assert exact_new / (1 + 1e-9) <= new_seconds <= exact_new * WIDTH
    assert exact_new / exact_old / WIDTH <= ratio <= exact_new / exact_old * WIDTH


@pytest.mark.parametrize(
    ("seconds", "counted"), [(0.0, 1e-6), (-1.0, 1e-6), (1e-9, 1e-6), (1e6, 107), (math.inf, 107)]
)
def test_times_beyond_the_histogram(seconds, counted):
    """Times that the histogram does not reach count as its ends."""
    assert measured([seconds] * 10, [seconds] * 10, 0.95) == (pytest.approx(counted, 0.01),) * 2 + (1.0,)


# --- The latencies of failures


@pytest.mark.parametrize("seconds", [0.0001, 0.1])
def test_fast_failures_do_not_hide_slowness(seconds):
    """Failures that take no longer than successes, as refused connections, do not make a slow New look fast."""
    watched = Watched(max_latency_ratio=5.0, min_calls=100)
    watched.call("new", seconds=seconds, failed=True, times=10_000)
    watched.call("old", times=100)
    assert watched.call("new", seconds=0.1, times=99) is None
    watched.now += SLOT
    crossed = watched.call("new", seconds=0.1)
    assert crossed is not None
    assert crossed.figures["new_calls"] == 100


@pytest.mark.parametrize(("successes", "failures"), [(940, 60), (0, 1000)])
def test_slow_failures_count(successes, failures):
    """Calls of New that time out are slow calls, in a part of its calls and where it has no other."""
    watched = Watched(max_latency_ratio=5.0, min_calls=1000)
    watched.call("old", times=1000)
    if successes:
        watched.call("new", times=successes)
    crossed = watched.call("new", seconds=30.0, failed=True, times=failures)
    assert crossed is not None
    assert crossed.figures["new_seconds"] >= 30


def test_old_that_fails_as_slowly():
    """Where both stores time out alike, New is not the slower one."""
    watched = Watched(max_latency_ratio=2.0, min_calls=100)
    for store in ("old", "new"):
        watched.call(store, times=900)
        watched.call(store, seconds=30.0, failed=True, times=100)
    watched.now += SLOT
    assert watched.call() is None


@example(successes=[0.001] * 9, failures=[0.0015], ratio=1.5)  # too few successes, and a failure that makes up
@example(successes=[0.001] * 10, failures=[0.0001] * 100, ratio=5.0)  # fast failures
@given(
    successes=st.lists(st.sampled_from([0.001, 0.002, 0.1]), max_size=20),
    failures=st.lists(st.sampled_from([0.0, 0.0001, 0.0015, 0.05, 30.0]), min_size=1, max_size=20),
    ratio=st.sampled_from([0.5, 1.5, 5.0]),
)
def test_failures_of_old_never_count_against_new(successes, failures, ratio):
    """No failure of Old, fast or slow, makes a ratio cross that would not have crossed without it."""

    def crosses(failures: list[float]) -> bool:
        watched = Watched(max_latency_ratio=ratio, max_error_share=0.5, min_calls=10, latency_percentile=0.8)
        for seconds in successes:
            watched.call("old", seconds=seconds)
        for seconds in failures:
            watched.call("old", seconds=seconds, failed=True)
        return watched.call("new", seconds=0.003, times=10) is not None

    assert crosses([]) or not crosses(failures)


# --- The differing keys


def test_differing_keys():
    """More differing keys than allowed are too many, whether found one by one or at once."""
    for found in ([1, 1, 1], [0, 3], [2, 0, 1]):
        watched = Watched(max_differing_keys=2)
        results = [watched.watch.differed(keys) for keys in found]
        expected = GuardrailCrossed("differing_keys", 2, {"differing_keys": 3})
        assert results == [None] * (len(found) - 1) + [expected]


def test_no_differing_key_is_allowed():
    """With `max_differing_keys=0` the first differing key is one too many; a comparison without any is none."""
    watched = Watched(max_differing_keys=0)
    assert watched.watch.differed(0) is None
    assert watched.watch.differed(1) is not None


def test_differing_keys_leave_the_window():
    """Keys that were found to differ before the window do not count."""
    for age, counts in ((WINDOW * 11 / 12 - 0.001, True), (WINDOW, False)):
        watched = Watched(max_differing_keys=2)
        assert watched.watch.differed(2) is None
        watched.now += age
        assert (watched.watch.differed(2) is not None) is counts


def test_thresholds_that_are_off():
    """Without its threshold nothing crosses, whatever the numbers."""
    watched = Watched(max_differing_keys=1, min_calls=10)
    watched.call("old", times=100)
    assert watched.call("new", seconds=30.0, failed=True, times=100) is None
    watched = Watched(max_error_share=0.5, max_latency_ratio=2.0)
    assert watched.watch.differed(10**9) is None


# --- Once, and again


def crossing(watched: Watched) -> list[GuardrailCrossed | None]:
    return [watched.call(failed=True), watched.watch.differed(1), watched.call("old"), watched.watch.differed(1)]


def test_only_the_first_crossing_is_returned():
    """After a crossing nothing crosses, by either rule, until restart(); then all may again, from nothing."""
    watched = Watched(max_error_share=0.5, max_differing_keys=0, min_calls=1)
    first = watched.watch.differed(1)
    assert first is not None
    assert crossing(watched) == [None] * 4
    watched.now += WINDOW * 2
    assert crossing(watched) == [None] * 4
    watched.watch.restart()
    assert watched.call() is None
    assert watched.call(failed=True) is None, "1 of 2 is not above a half, so what was before is forgotten"
    assert watched.watch.differed(1) == first
    watched.watch.restart()
    assert [each is not None for each in crossing(watched)] == [True, False, False, False]


@pytest.mark.parametrize("forget", [GuardrailWatch.restart, GuardrailWatch.after_fork])
def test_restart_forgets(forget):
    """Calls, latencies and differing keys from before a restart, or a fork, do not count."""
    watched = Watched(max_error_share=0.5, max_latency_ratio=2.0, max_differing_keys=1, min_calls=10)
    assert watched.watch.differed(1) is None
    watched.call("old", times=10)
    assert watched.call(seconds=0.1, failed=True, times=9) is None
    forget(watched.watch)
    assert watched.watch.differed(1) is None
    assert watched.call(seconds=0.1, times=100) is None
    watched.now += SLOT
    assert watched.call(seconds=0.1) is None
    watched.call("old", times=10)
    watched.now += SLOT
    assert watched.call() is not None


def test_a_fork_while_a_call_is_counted():
    """In the child of a fork a watch works, though a thread of the parent held its lock."""
    watched = Watched(max_differing_keys=0)
    watched.watch._lock.acquire()
    watched.watch.after_fork()
    assert watched.watch.differed(1) is not None


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Threads that take turns as often as the interpreter lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(body, count=4):
    start = threading.Barrier(count)

    def run():
        start.wait(30)
        body()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@pytest.mark.parametrize("rules", ["called", "differed", "both"])
@pytest.mark.usefixtures("busy_threads")
def test_one_crossing_of_many_threads(rules):
    """However many threads cross at once, one is told; again after each restart."""

    def clock() -> float:
        time.sleep(0)  # lets the others go where the lock does not hold them
        return 0.0

    limits = Guardrail(max_error_share=0.1, max_latency_ratio=2.0, max_differing_keys=0, min_calls=1)
    watch = GuardrailWatch(limits, clock)
    for _ in range(50):
        crossings = []

        def cross(crossings=crossings):
            if rules != "differed":
                crossings.append(watch.called("new", "read", 0.1, failed=True))
            if rules != "called":
                crossings.append(watch.differed(1))

        in_threads(cross)
        assert len(crossings) == (8 if rules == "both" else 4)
        assert sum(each is not None for each in crossings) == 1
        watch.restart()


@pytest.mark.usefixtures("busy_threads")
def test_no_call_of_many_threads_is_lost():
    """Calls and keys that threads count at once, while the window moves on, all count."""
    watched = Watched(max_error_share=0.999, max_differing_keys=4 * 2000, min_calls=4 * 2000 + 1)

    def count():
        for number in range(2000):
            watched.now += 0.001
            assert watched.call(failed=True) is None
            assert watched.watch.differed(number % 2 * 2) is None

    in_threads(count)
    last = watched.call(failed=True)
    assert last is not None
    assert last.figures == {"error_share": 1.0, "calls": 8001, "errors": 8001}
    assert watched.watch._differing == 8000


def test_memory_is_bounded():
    """What a watch holds does not grow with the number of calls, nor with time."""
    watched = Watched(max_error_share=1.0, max_latency_ratio=NEVER, max_differing_keys=10**9)

    def held() -> int:
        return sum(len(histogram) for slot in watched.watch._slots for histogram in slot.histograms.values())

    sizes = []
    for number in range(20_000):
        watched.now += WINDOW / 1000
        watched.call(
            ("old", "new")[number % 2], ("read", "write")[number // 2 % 2], number * 1e-3, failed=number % 3 == 0
        )
        if number % 1000 == 999:
            sizes.append(held())
    assert len(watched.watch._slots) <= 12
    assert max(sizes) <= 12 * 2 * 2 * 2 * 196
