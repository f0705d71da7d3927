"""How much the fuzz tests try. With ZDDM_FUZZ_FACTOR=10 it is ten times as much, and each time something else."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("ZDDM_FUZZ_FACTOR", "1"))


def examples(count: int) -> settings:
    """Settings for `count` examples, the same in every run unless there is a factor.

    Without a deadline for each: the machine may be shared. pytest's time-out ends what hangs.
    """
    return settings(
        max_examples=count * FACTOR,
        derandomize=FACTOR == 1,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,  # what an example needs anew it makes itself
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
        ],
    )
