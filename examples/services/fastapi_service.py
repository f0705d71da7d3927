"""A FastAPI service whose users move from PostgreSQL to Valkey while it serves them. To start it: README.md."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from pydantic import BaseModel
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from service_settings import FLAG, NEW_VALKEY, OLD_POSTGRESQL, SERVICE, connect_launchdarkly, send_traces
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import create_async_engine

from zddm_adapters.redis import AsyncRedisAdapter, JsonCodec
from zddm_adapters.sqlalchemy import AsyncSqlAlchemyAdapter, AsyncSqlAlchemyLedger
from zddm_flags import AsyncProxy, LaunchDarklySource, TrafficGate

MIGRATION = "users-to-valkey"  # one for all processes that write to Old
COLUMNS = Column("id", String, primary_key=True), Column("email", String), Column("visits", Integer)
USERS = Table("users", MetaData(), *COLUMNS)


class User(BaseModel):
    """What moves."""

    email: str
    visits: int


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
    """Open everything; close it in the opposite order: the proxy first, and last what takes its last spans."""
    async with AsyncExitStack() as stack:
        stack.callback(send_traces())
        old_engine = create_async_engine(os.environ["OLD_DATABASE_URL"], **OLD_POSTGRESQL)
        ledger_engine = create_async_engine(old_engine.url, **OLD_POSTGRESQL, isolation_level="AUTOCOMMIT")
        for engine in (old_engine, ledger_engine):
            stack.push_async_callback(engine.dispose)
        new_client = Redis.from_url(os.environ["NEW_REDIS_URL"], **NEW_VALKEY, retry=Retry(NoBackoff(), 0))
        stack.push_async_callback(new_client.aclose)
        client = stack.enter_context(closing(connect_launchdarkly()))
        source = stack.enter_context(LaunchDarklySource(client, FLAG, SERVICE))
        gate = stack.enter_context(closing(TrafficGate(source)))
        old = AsyncSqlAlchemyAdapter(old_engine, USERS)
        new = AsyncRedisAdapter(new_client, prefix="users:", codec=JsonCodec(), max_wait_seconds=1)
        ledger = AsyncSqlAlchemyLedger(ledger_engine)  # where Old is
        yield {"users": await stack.enter_async_context(AsyncProxy(gate, old, new, name=MIGRATION, ledger=ledger))}


def proxy(request: Request) -> AsyncProxy[str, Any]:
    """What `lifespan` opened."""
    return request.state.users


# From 0.142 on it joins the caller's trace, which the header `traceparent` names. For a probe it makes none.
app = FastAPI(lifespan=lifespan, telemetry={"exclude": lambda scope: scope["path"] == "/health"})
Key = Annotated[str, Path(max_length=64, pattern=r"^[\w.@-]+$")]
Users = Annotated[AsyncProxy[str, Any], Depends(proxy)]


@app.get("/users/{key}")
async def read(key: Key, users: Users) -> User:
    """The user; 404 where there is none."""
    found = await users.read(key)
    if found is None:
        raise HTTPException(404)
    return User(**found)


@app.put("/users/{key}")
async def write(key: Key, user: User, users: Users) -> User:
    """Insert or replace the user. When it answers, Old has it."""
    await users.write(key, user.model_dump())
    return user


@app.delete("/users/{key}", status_code=204)
async def delete(key: Key, users: Users) -> None:
    """Remove the user, if there is one."""
    await users.delete(key)


@app.get("/health")
async def health(users: Users, response: Response) -> dict[str, Any]:
    """Ready while the ledger answers, for writes need it at every rate. Neither New nor the flag is needed."""
    try:
        await users.ledger_summary()
        ready = True
    except Exception:
        ready, response.status_code = False, 503
    stats = users.stats()
    return {"ready": ready, "rate": stats.rollout.read, "guard": stats.guard}
