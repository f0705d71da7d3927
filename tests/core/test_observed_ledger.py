"""A ledger that is watched is called as it was before: nothing of a ledger of one's own is hidden or changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from zddm_adapters import InMemoryAdapter
from zddm_flags import InMemoryLedger, Proxy, Telemetry, TrafficGate
from zddm_flags.ledger import Grant, LedgerSummary, Opening
from zddm_flags.tokens import new_token


class Rows:
    """One's own: it has no methods for jobs, takes keyword arguments, and has more than the protocol asks for."""

    __slots__ = ("begun", "more", "rows")

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.begun = 0
        self.more = "more"

    def begin(self, keys: Collection[bytes], token: bytes) -> Grant:
        self.begun += 1
        return self.rows.begin(keys, token)

    def end(self, outcomes: Mapping[bytes, bool], token: bytes) -> None:
        self.rows.end(outcomes, token)

    def dirty(self, keys: Collection[bytes]) -> Collection[bytes]:
        return self.rows.dirty(keys)

    def open_to(self, rate: float) -> Opening:
        return self.rows.open_to(rate)

    def save_checkpoint(self, name: str, data: str, version: int) -> bool:
        return self.rows.save_checkpoint(name, data, version)

    def summary(self) -> LedgerSummary:
        return self.rows.summary()

    def last_summary(self) -> LedgerSummary:
        return self.rows.last_summary()


class Shared:
    shared = True

    def __init__(self) -> None:
        self.rows = Rows(InMemoryLedger().migration("users", "xxh3"))

    def migration(self, name: str, identity: str, token_seconds: float) -> Any:
        return self.rows


@pytest.fixture(params=[True, False], ids=["traced", "untraced"])
def proxy(request: pytest.FixtureRequest) -> Proxy[str, str]:
    ledger: Any = Shared()
    stores = InMemoryAdapter({"ada": "v1"}), InMemoryAdapter[str, str]()
    telemetry = Telemetry(tracer_provider=TracerProvider() if request.param else None)
    return Proxy(TrafficGate(1.0), *stores, name="users", ledger=ledger, telemetry=telemetry)


def rows_of(proxy: Proxy[str, str]) -> Any:
    proxy.write("ada", "v2")
    return proxy.ledger


def test_arguments_by_name(proxy: Proxy[str, str]) -> None:
    """Arguments may be given by name, whatever their names are."""
    rows = rows_of(proxy)
    assert rows.save_checkpoint(name="backfill", data="{}", version=0)
    assert rows.begin(keys=[b"sada"], token=new_token()).contended == frozenset()
    assert set(rows.dirty(keys=[b"sada", b"sada2"])) == {b"sada"}


def test_keys_without_a_length(proxy: Proxy[str, str]) -> None:
    """Keys that have no length, as a generator's, reach a ledger that takes such."""
    assert list(rows_of(proxy).dirty(key for key in [b"sada"])) == []


def test_what_a_ledger_has_and_lacks(proxy: Proxy[str, str]) -> None:
    """It has what the ledger has, and lacks what that lacks."""
    rows = rows_of(proxy)
    assert (rows.more, rows.begun) == ("more", 1)
    assert rows.last_summary().opened == 1.0
    assert not hasattr(rows, "stale_keys")
    assert not hasattr(rows, "withdraw")


def test_a_method_that_is_replaced(proxy: Proxy[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's method of now is called, as an adapter's is: a test of an application may replace it."""
    rows = rows_of(proxy)
    monkeypatch.setattr(Rows, "dirty", lambda *_: [b"sada"])
    assert rows.dirty([]) == [b"sada"]
