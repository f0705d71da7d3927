"""What users test their migrations with: a local LaunchDarkly, and an explorer of interleavings."""

from zddm_flags.testing.explore import explore
from zddm_flags.testing.flag_server import FlagServer
from zddm_flags.testing.scenario import (
    Advance,
    Crash,
    Delete,
    Disable,
    Enable,
    Exploration,
    Fault,
    MakeProxy,
    MarkUnmarked,
    Outage,
    Read,
    ReadMany,
    Recovery,
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
    "FlagServer",
    "MakeProxy",
    "MarkUnmarked",
    "Outage",
    "Read",
    "ReadMany",
    "Recovery",
    "Scenario",
    "SetRate",
    "Step",
    "Violation",
    "Write",
    "WriteMany",
    "explore",
]
