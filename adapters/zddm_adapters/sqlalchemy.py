"""Tables of SQL databases, through SQLAlchemy: SQLite, PostgreSQL, MySQL and MariaDB."""

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401 - only to see whether it is there
except ImportError as error:
    raise ImportError('this needs SQLAlchemy: pip install "zddm-flags[sqlalchemy]"') from error

from zddm_adapters._async._sql import AsyncSqlAlchemyAdapter
from zddm_adapters._sync._sql import SqlAlchemyAdapter

__all__ = ["AsyncSqlAlchemyAdapter", "SqlAlchemyAdapter"]
