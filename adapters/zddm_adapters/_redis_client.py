"""What both worlds ask of a client of redis-py."""

from __future__ import annotations

from typing import Any

from zddm_flags.protocols import StoreInfo

__all__ = ["check_settings", "describe_redis"]


def check_settings(client: Any, *, cluster: bool, strong_reads: bool) -> None:
    """Refuse a client whose settings would break what the adapter promises.

    Raises:
        ValueError: it decodes replies, repeats commands where that cannot be undone, or reads weakly where
            `strong_reads` is said. The text says what to set.
    """
    if client.get_encoder().decode_responses:
        raise ValueError(
            "the client must not decode replies: make it without decode_responses=True, and give the adapter "
            "encode_key=, decode_key= and codec= for what keys and values are"
        )
    if strong_reads and _reads_weakly(client):
        raise ValueError(
            "the client reads from replicas or from a cache of its own, which lag: make it without "
            "read_from_replicas=, load_balancing_strategy= and cache_config=, or say strong_reads=False"
        )
    if cluster and client.retry.get_retries() != 0:
        raise ValueError(
            "a cluster client must not repeat a write whose answer was lost, for the lost one may land later, "
            "over a newer value: make it with retry=Retry(NoBackoff(), 0)"
        )


def describe_redis(client: Any, collection: str | None, *, cluster: bool, strong_reads: bool = True) -> StoreInfo:
    """The number of the database that `client` reaches, without I/O. Valkey is called `redis` too."""
    database = 0 if cluster else client.connection_pool.connection_kwargs.get("db") or 0
    return StoreInfo(system="redis", collection=collection, namespace=str(database), strong_reads=strong_reads)


def _reads_weakly(client: Any) -> bool:
    names = ("read_from_replicas", "load_balancing_strategy")
    if any(getattr(client, name, None) for name in names):
        return True
    pool = getattr(client, "connection_pool", None)
    nodes = getattr(client, "nodes_manager", None)
    return any(getattr(holder, name, None) is not None for holder in (pool, nodes) for name in ("cache", "_cache"))
