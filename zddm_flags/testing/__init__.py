"""What users test their migrations with."""

from zddm_flags.testing.explore import explore
from zddm_flags.testing.scenario import (
    Advance,
    Crash,
    Delete,
    Disable,
    Enable,
    Exploration,
    Fault,
    MakeProxy,
    Read,
    ReadMany,
    Scenario,
    SetRate,
    Step,
    Violation,
    Write,
    WriteMany,
)

__all__ = [
    "Advance",
    "Crash",
    "Delete",
    "Disable",
    "Enable",
    "Exploration",
    "Fault",
    "MakeProxy",
    "Read",
    "ReadMany",
    "Scenario",
    "SetRate",
    "Step",
    "Violation",
    "Write",
    "WriteMany",
    "explore",
]
