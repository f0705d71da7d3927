"""Redis and Valkey, through redis-py."""

try:
    import redis as _redis  # noqa: F401 - only to see whether it is there
except ImportError as error:
    raise ImportError('this needs redis-py: pip install "zddm-flags[redis]"') from error

from zddm_adapters._async._redis import AsyncRedisAdapter
from zddm_adapters._codecs import Codec, JsonCodec
from zddm_adapters._sync._redis import RedisAdapter

__all__ = ["AsyncRedisAdapter", "Codec", "JsonCodec", "RedisAdapter"]
