"""Move live data between two stores without downtime."""

from zddm_flags.gate import TrafficGate
from zddm_flags.launchdarkly import LaunchDarklySource
from zddm_flags.rollout import Rollout, StaticSource

__all__ = ["LaunchDarklySource", "Rollout", "StaticSource", "TrafficGate"]
