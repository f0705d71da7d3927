"""Redis and Valkey, through redis-py: string keys as a store, and a ledger."""

try:
    import redis as _redis  # noqa: F401 - only to see whether it is there
except ImportError as error:
    raise ImportError('this needs redis-py: pip install "zddm-flags[redis]"') from error

from zddm_adapters._async._redis import AsyncRedisAdapter
from zddm_adapters._async._redis_ledger import AsyncRedisLedger
from zddm_adapters._codecs import Codec, JsonCodec
from zddm_adapters._sync._redis import RedisAdapter
from zddm_adapters._sync._redis_ledger import RedisLedger

__all__ = ["AsyncRedisAdapter", "AsyncRedisLedger", "Codec", "JsonCodec", "RedisAdapter", "RedisLedger"]
