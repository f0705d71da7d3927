"""One operation through a proxy, noted before and after."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from tests.torture.history import Outcome, Recorder
from tests.torture.workload import Request
from zddm_flags.errors import LedgerUnavailable, NotApplied, OperationTimedOut

__all__ = ["EXPECTED", "operate", "operate_async", "outcome_of"]

EXPECTED = (OSError, RedisError, SQLAlchemyError, LedgerUnavailable, OperationTimedOut, NotApplied)
"""What an application sees when servers and connections fail. Anything else is a mistake of somebody."""


def outcome_of(error: Exception, request: Request) -> Outcome:
    """What an error says of the stores. Only of a single key is it promised that neither was touched."""
    single = request.kind in {"write", "delete"}
    return "refused" if single and isinstance(error, (LedgerUnavailable, OperationTimedOut)) else "raised"


def operate(proxy: Any, recorder: Recorder, request: Request) -> Exception | None:
    """Do what is requested; returns what it raised."""
    key, keys = request.key, list(request.items)
    found: Mapping[str, bytes | None] = {}
    number = recorder.begin(request.kind, request.items)
    try:
        if request.kind == "read":
            found = {key: proxy.read(key)}
        elif request.kind == "read_many":
            found = proxy.read_many(keys)
        elif request.kind == "write":
            proxy.write(key, request.written[key])
        elif request.kind == "write_many":
            proxy.write_many(request.written)
        else:
            proxy.delete(key)
    except Exception as error:
        recorder.end(number, outcome_of(error, request), error=type(error).__name__)
        return error
    recorder.end(number, "ok", _texts(found))
    return None


async def operate_async(
    proxy: Any, recorder: Recorder, request: Request, patience: float | None
) -> Exception | None:
    """The same, awaited; cancelled after `patience` seconds, if any, which it returns as a TimeoutError."""
    key, keys = request.key, list(request.items)
    found: Mapping[str, bytes | None] = {}
    number = recorder.begin(request.kind, request.items)
    try:
        async with asyncio.timeout(patience):
            if request.kind == "read":
                found = {key: await proxy.read(key)}
            elif request.kind == "read_many":
                found = await proxy.read_many(keys)
            elif request.kind == "write":
                await proxy.write(key, request.written[key])
            elif request.kind == "write_many":
                await proxy.write_many(request.written)
            else:
                await proxy.delete(key)
    except Exception as error:
        recorder.end(number, outcome_of(error, request), error=type(error).__name__)
        return error
    recorder.end(number, "ok", _texts(found))
    return None


def _texts(found: Mapping[str, bytes | None]) -> dict[str, str]:
    return {key: value.decode() for key, value in found.items() if value is not None}
