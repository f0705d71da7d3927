"""Tables of SQL databases as stores, and ledgers in them: SQLite, PostgreSQL, MySQL and MariaDB."""

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401 - only to see whether it is there
except ImportError as error:
    raise ImportError('this needs SQLAlchemy: pip install "zddm-flags[sqlalchemy]"') from error

from zddm_adapters._async._sql import AsyncSqlAlchemyAdapter
from zddm_adapters._async._sql_ledger import AsyncSqlAlchemyLedger
from zddm_adapters._sync._sql import SqlAlchemyAdapter
from zddm_adapters._sync._sql_ledger import SqlAlchemyLedger

__all__ = ["AsyncSqlAlchemyAdapter", "AsyncSqlAlchemyLedger", "SqlAlchemyAdapter", "SqlAlchemyLedger"]
