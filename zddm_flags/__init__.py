"""Move live data between two stores without downtime."""

from zddm_flags._async.proxy import AsyncProxy
from zddm_flags._sync.proxy import Proxy
from zddm_flags.errors import NotApplied
from zddm_flags.gate import TrafficGate
from zddm_flags.hashing import DeterministicHasher, FNV1a64Hasher, XXH3Hasher, XXH64Hasher
from zddm_flags.launchdarkly import LaunchDarklySource
from zddm_flags.ledger import AsyncInMemoryLedger, InMemoryLedger
from zddm_flags.protocols import AsyncStorageAdapter, Page, StorageAdapter, StoreInfo
from zddm_flags.rollout import Rollout, RolloutSource, StaticSource
from zddm_flags.stats import ProxyStats
from zddm_telemetry import Telemetry

__all__ = [
    "AsyncInMemoryLedger",
    "AsyncProxy",
    "AsyncStorageAdapter",
    "DeterministicHasher",
    "FNV1a64Hasher",
    "InMemoryLedger",
    "LaunchDarklySource",
    "NotApplied",
    "Page",
    "Proxy",
    "ProxyStats",
    "Rollout",
    "RolloutSource",
    "StaticSource",
    "StorageAdapter",
    "StoreInfo",
    "Telemetry",
    "TrafficGate",
    "XXH3Hasher",
    "XXH64Hasher",
]
