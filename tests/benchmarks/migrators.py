"""LaunchDarkly's own Migrator around the same stores, fed by the SDK's TestData, without events."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from ldclient.client import LDClient
from ldclient.config import Config
from ldclient.context import Context
from ldclient.impl.util import Result
from ldclient.integrations.test_data import TestData
from ldclient.migrations import ExecutionOrder, MigratorBuilder
from ldclient.migrations import Stage as LdStage

__all__ = ["Migrators"]

FLAG = "stage"


class _Migrated:
    """Reads and writes as a proxy does. It has no delete, no batch and no asyncio twin that is not experimental.

    One context serves all operations; one for each key, which a split by key takes, would cost 10 us more.
    """

    def __init__(self, builder: MigratorBuilder, old: Any, new: Any) -> None:
        def read_from(store: Any) -> Callable[[Any], Result]:
            return lambda key: Result.success(store.read(key))

        def write_to(store: Any) -> Callable[[Any], Result]:
            return lambda item: Result.success(store.write(item[0], item[1]))

        builder.read(read_from(old), read_from(new))
        builder.write(write_to(old), write_to(new))
        self._migrator: Any = builder.build()
        if isinstance(self._migrator, str):
            raise TypeError(self._migrator)
        self._context = Context.create("service")

    def read(self, key: str) -> Any:
        return self._migrator.read(FLAG, self._context, LdStage.OFF, key).value

    def write(self, key: str, value: Any) -> None:
        self._migrator.write(FLAG, self._context, LdStage.OFF, (key, value))


class Migrators:
    """The Migrator in one stage: at its least (SERIAL, nothing measured), and as it is by default."""

    def __init__(self, least: LdStage, default: LdStage, old: Any, new: Any) -> None:
        self._clients: list[LDClient] = []
        builder = MigratorBuilder(self._client(least))
        builder.read_execution_order(ExecutionOrder.SERIAL).track_latency(False).track_errors(False)
        self.least = _Migrated(builder, old, new)
        self.default = _Migrated(MigratorBuilder(self._client(default)), old, new)

    def _client(self, stage: LdStage) -> LDClient:
        data: Any = TestData.data_source()
        data.update(data.flag(FLAG).variations(stage.value).variation_for_all(0))
        config = Config("sdk-local", update_processor_class=data, send_events=False)
        client = LDClient(config)
        self._clients.append(client)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_back: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()
