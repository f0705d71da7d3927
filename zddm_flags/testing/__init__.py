"""What users test their migrations with."""

from zddm_flags.testing.explore import Exploration, Scenario, explore

__all__ = ["Exploration", "Scenario", "explore"]
