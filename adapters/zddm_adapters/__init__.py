"""Everything that talks to a store.

The adapters here need no driver. Those that do have a module each: `zddm_adapters.sqlalchemy` and
`zddm_adapters.redis`.
"""

from zddm_adapters._async._function import AsyncFunctionAdapter
from zddm_adapters._async._mapped import AsyncMappedAdapter
from zddm_adapters._async._memory import AsyncInMemoryAdapter
from zddm_adapters._sync._function import FunctionAdapter
from zddm_adapters._sync._mapped import MappedAdapter
from zddm_adapters._sync._memory import InMemoryAdapter
from zddm_adapters.threaded import ThreadedAdapter

__all__ = [
    "AsyncFunctionAdapter",
    "AsyncInMemoryAdapter",
    "AsyncMappedAdapter",
    "FunctionAdapter",
    "InMemoryAdapter",
    "MappedAdapter",
    "ThreadedAdapter",
]
