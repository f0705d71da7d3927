# Generated from zddm_flags/_async/store.py by `make generate`. Do not edit.
"""One side of a migration: an adapter as the protocol sees it, each call counted, timed and traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from zddm_flags._sync._world import check_adapter
from zddm_flags.deadline import Deadline
from zddm_flags.protocols import (
    StorageAdapter,
    StoreInfo,
    SupportsDelete,
    SupportsDeleteMany,
    SupportsDescribe,
    SupportsReadMany,
    SupportsWriteMany,
)
from zddm_telemetry import MigrationTelemetry, StoreTelemetry

K = TypeVar("K")
V = TypeVar("V")


class Store(Generic[K, V]):
    """An adapter with its optional methods filled in. Raises what the adapter raises.

    A batch that the adapter cannot do in one call is done key by key; each such call is a call to the store of
    its own, and none is issued after the deadline.
    """

    def __init__(
        self, role: Literal["old", "new"], adapter: StorageAdapter[K, V], telemetry: MigrationTelemetry
    ) -> None:
        check_adapter(role, adapter)
        self.info = adapter.describe() if isinstance(adapter, SupportsDescribe) else StoreInfo()
        self.telemetry = StoreTelemetry(
            telemetry,
            role,
            system=self.info.system,
            collection=self.info.collection,
            namespace=self.info.namespace,
            remote=self.info.remote,
        )
        # Optional methods are looked up once; None means that the adapter has no such method.
        self._adapter = adapter
        self._delete: SupportsDelete[K] | None = _having(adapter, "delete")
        self._read_many: SupportsReadMany[K, V] | None = _having(adapter, "read_many")
        self._write_many: SupportsWriteMany[K, V] | None = _having(adapter, "write_many")
        self._delete_many: SupportsDeleteMany[K] | None = _having(adapter, "delete_many")

    @property
    def can_delete(self) -> bool:
        """Whether a key can be removed from this store."""
        return self._delete is not None

    def read(self, key: K) -> V | None:
        """The value of `key`, or None."""
        with self.telemetry.call("read"):
            return self._adapter.read(key)

    def write(self, key: K, value: V) -> None:
        """Insert or replace."""
        with self.telemetry.call("write"):
            self._adapter.write(key, value)

    def delete(self, key: K) -> None:
        """Remove `key`; the caller has seen that `can_delete` is true."""
        if self._delete is None:
            raise NotImplementedError
        with self.telemetry.call("delete"):
            self._delete.delete(key)

    def read_many(self, keys: Sequence[K], deadline: Deadline | None = None) -> Mapping[K, V]:
        """The values of `keys`; absent ones are left out. Raises DeadlinePassed where one is given and passes."""
        if len(keys) > 1 and self._read_many is not None:
            with self.telemetry.call("read", len(keys)):
                return self._read_many.read_many(keys)
        found: dict[K, V] = {}
        for key in keys:
            if deadline is not None:
                deadline.check()
            value = self.read(key)
            if value is not None:
                found[key] = value
        return found

    def write_many(self, items: Mapping[K, V], deadline: Deadline) -> None:
        """Insert or replace each. Raises DeadlinePassed, where some may be written and others not."""
        if len(items) > 1 and self._write_many is not None:
            deadline.check()
            with self.telemetry.call("write", len(items)):
                self._write_many.write_many(items)
            return
        for key, value in items.items():
            deadline.check()
            self.write(key, value)

    def delete_many(self, keys: Sequence[K], deadline: Deadline) -> None:
        """Remove each. Raises DeadlinePassed, where some may be removed and others not."""
        if len(keys) > 1 and self._delete_many is not None:
            deadline.check()
            with self.telemetry.call("delete", len(keys)):
                self._delete_many.delete_many(keys)
            return
        for key in keys:
            deadline.check()
            self.delete(key)


def _having(adapter: object, method: str) -> Any:
    return adapter if callable(getattr(adapter, method, None)) else None
