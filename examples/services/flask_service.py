"""A Flask service under gunicorn whose users move from one PostgreSQL table to another. To start it: README.md."""

import os
from collections.abc import Mapping
from typing import Any

from flask import Flask, abort, g, request
from opentelemetry import context, propagate
from service_settings import FLAG, NEW_POSTGRESQL, OLD_POSTGRESQL, SERVICE, connect_launchdarkly
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine

from zddm_adapters import MappedAdapter
from zddm_adapters.sqlalchemy import SqlAlchemyAdapter, SqlAlchemyLedger
from zddm_flags import Guard, LaunchDarklySource, Proxy, TrafficGate

User = Mapping[str, Any]
MIGRATION = "users-to-people"  # one for all processes that write to Old
THREADS = 4  # of each worker, to which gunicorn.conf.py holds
POOL = {"pool_size": THREADS, "max_overflow": 1}  # one connection a thread, and one for the guard's probe


def table(name: str, visits: str) -> Table:
    """A table of users, whose columns need not have the same names in Old and in New."""
    return Table(
        name, MetaData(), Column("id", String, primary_key=True), Column("email", String), Column(visits, Integer)
    )


# With preload_app this runs in gunicorn's parent, which connects to LaunchDarkly and to no database.
old_engine = create_engine(os.environ["OLD_DATABASE_URL"], **OLD_POSTGRESQL, **POOL)
new_engine = create_engine(os.environ["NEW_DATABASE_URL"], **NEW_POSTGRESQL, **POOL)
ledger_engine = create_engine(old_engine.url, **OLD_POSTGRESQL, **POOL, isolation_level="AUTOCOMMIT")
engines = (old_engine, new_engine, ledger_engine)
old = SqlAlchemyAdapter(old_engine, table("users", "visits"))
new: MappedAdapter[str, User] = MappedAdapter(
    SqlAlchemyAdapter(new_engine, table("people", "visit_count")),
    load=lambda row: {"email": row["email"], "visits": row["visit_count"]},
    dump=lambda user: {"email": user["email"], "visit_count": user["visits"]},
)
client = connect_launchdarkly()
source = LaunchDarklySource(client, FLAG, SERVICE)
guard = Guard(max_concurrent_calls=THREADS // 2, max_hanging_calls=THREADS // 2)  # the others never wait for New
users = Proxy(TrafficGate(source), old, new, name=MIGRATION, ledger=SqlAlchemyLedger(ledger_engine), guard=guard)
app = Flask(__name__)


@app.before_request
def join_trace() -> None:
    """Make the proxy's spans children of the caller's, which the header `traceparent` names."""
    g.token = context.attach(propagate.extract(request.headers))


@app.teardown_request
def leave_trace(_: BaseException | None) -> None:
    """Let the thread's next request be none of this trace."""
    context.detach(g.token)


@app.get("/users/<string(maxlength=64):key>")
def read(key: str) -> User:
    """The user; 404 where there is none."""
    return users.read(key) or abort(404)


@app.put("/users/<string(maxlength=64):key>")
def write(key: str) -> User:
    """Insert or replace the user. When it answers, Old has it."""
    match request.get_json():
        case {"email": str(email), "visits": int(visits)}:
            user = {"email": email, "visits": visits}
        case _:
            abort(422)
    users.write(key, user)
    return user


@app.delete("/users/<string(maxlength=64):key>")
def delete(key: str) -> tuple[str, int]:
    """Remove the user, if there is one."""
    users.delete(key)
    return "", 204


@app.get("/health")
def health() -> tuple[Mapping[str, Any], int]:
    """Ready while the ledger answers, for writes need it at every rate. Neither New nor the flag is needed."""
    try:
        users.ledger_summary()
        ready = True
    except Exception:
        ready = False
    stats = users.stats()
    found = {"ready": ready, "rate": stats.rollout.read, "guard": stats.guard, "pid": os.getpid()}
    return found, 200 if ready else 503
