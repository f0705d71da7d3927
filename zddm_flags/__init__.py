"""Move live data between two stores without downtime."""

from zddm_flags._async.proxy import AsyncProxy
from zddm_flags._sync.proxy import Proxy
from zddm_flags.background import Copies, Shadow
from zddm_flags.comparison import Comparison
from zddm_flags.errors import NotApplied
from zddm_flags.gate import TrafficGate
from zddm_flags.guard import Guard
from zddm_flags.guardrail import Guardrail, GuardrailCrossed
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
    "Comparison",
    "Copies",
    "DeterministicHasher",
    "FNV1a64Hasher",
    "Guard",
    "Guardrail",
    "GuardrailCrossed",
    "InMemoryLedger",
    "LaunchDarklySource",
    "NotApplied",
    "Page",
    "Proxy",
    "ProxyStats",
    "Rollout",
    "RolloutSource",
    "Shadow",
    "StaticSource",
    "StorageAdapter",
    "StoreInfo",
    "Telemetry",
    "TrafficGate",
    "XXH3Hasher",
    "XXH64Hasher",
]
