"""What users test their migrations with: a local LaunchDarkly, and an explorer of interleavings."""

from zddm_flags.testing.explore import Exploration, Scenario, explore
from zddm_flags.testing.flag_server import FlagServer

__all__ = ["Exploration", "FlagServer", "Scenario", "explore"]
