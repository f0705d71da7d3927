"""Move live data between two stores without downtime."""

from zddm_flags._async.backfill import AsyncBackfill
from zddm_flags._async.proxy import AsyncProxy
from zddm_flags._async.repair import AsyncRepair
from zddm_flags._async.verify import AsyncVerify
from zddm_flags._sync.backfill import Backfill
from zddm_flags._sync.proxy import Proxy
from zddm_flags._sync.repair import Repair
from zddm_flags._sync.verify import Verify
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
from zddm_flags.results import BackfillResult, FoundDifference, MigrationStatus, RepairResult, VerifyResult
from zddm_flags.rollout import Evaluation, Rollout, RolloutSource, StaticSource
from zddm_flags.stats import ProxyStats
from zddm_telemetry import Telemetry

__all__ = [
    "AsyncBackfill",
    "AsyncInMemoryLedger",
    "AsyncProxy",
    "AsyncRepair",
    "AsyncStorageAdapter",
    "AsyncVerify",
    "Backfill",
    "BackfillResult",
    "Comparison",
    "Copies",
    "DeterministicHasher",
    "Evaluation",
    "FNV1a64Hasher",
    "FoundDifference",
    "Guard",
    "Guardrail",
    "GuardrailCrossed",
    "InMemoryLedger",
    "LaunchDarklySource",
    "MigrationStatus",
    "NotApplied",
    "Page",
    "Proxy",
    "ProxyStats",
    "Repair",
    "RepairResult",
    "Rollout",
    "RolloutSource",
    "Shadow",
    "StaticSource",
    "StorageAdapter",
    "StoreInfo",
    "Telemetry",
    "TrafficGate",
    "Verify",
    "VerifyResult",
    "XXH3Hasher",
    "XXH64Hasher",
]
