"""What SQL adapters and ledgers say of their database, for spans."""

from __future__ import annotations

from sqlalchemy import URL
from sqlalchemy.engine import Dialect

from zddm_flags.protocols import StoreInfo

__all__ = ["describe_sql"]


def describe_sql(dialect: Dialect, url: URL, collection: str, *, strong_reads: bool = True) -> StoreInfo:
    """The database of an engine that has this `dialect` and `url`, without I/O.

    A MariaDB under a URL that begins with `mysql` is known as one from its first connection on.
    """
    sqlite = dialect.name == "sqlite"
    return StoreInfo(
        system="mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name,
        collection=collection,
        namespace=None if sqlite else url.database,  # a path is no name of a database
        remote=not sqlite,
        strong_reads=strong_reads,
    )
