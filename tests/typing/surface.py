# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What type checkers see of the public surface. Read by pyright in `make check`; run by nobody."""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, assert_type

from sqlalchemy import Engine, Table

from zddm_adapters import AsyncInMemoryAdapter, InMemoryAdapter, MappedAdapter, ThreadedAdapter
from zddm_adapters.sqlalchemy import SqlAlchemyAdapter
from zddm_flags import (
    AsyncProxy,
    Comparison,
    InMemoryLedger,
    Proxy,
    ProxyStats,
    Rollout,
    StaticSource,
    TrafficGate,
)
from zddm_flags.testing.contract import AsyncStorageAdapterContract, LedgerContract, StorageAdapterContract


@dataclass(frozen=True)
class User:
    """A value."""

    name: str


class ByHand:
    """A store with two methods, whose arguments are named as its author likes."""

    def read(self, user_id: str) -> User | None:
        """Read."""
        return User(user_id)

    def write(self, user_id: str, user: User) -> None:
        """Write."""


gate = TrafficGate(0.5)
assert_type(gate.rate, float)
assert_type(gate.should_pass("key"), bool)
TrafficGate(Rollout(0.1, 0.5))
TrafficGate(StaticSource(0.5))
TrafficGate("0.5")  # pyright: ignore[reportArgumentType] - a rate is no text

users = Proxy(gate, ByHand(), InMemoryAdapter[str, User]())
assert_type(users.read("ada"), User | None)
assert_type(users.read_many(["ada"]), dict[str, User])
assert_type(users.stats(), ProxyStats)
users.write("ada", User("Ada"))
users.write("ada", 1)  # pyright: ignore[reportArgumentType] - the value is a User
users.read(1)  # pyright: ignore[reportArgumentType] - the key is a str
users.write_many({"ada": User("Ada")})

AsyncProxy(gate, ByHand(), ByHand())  # pyright: ignore[reportArgumentType] - blocking stores
Proxy(gate, AsyncInMemoryAdapter[str, int](), InMemoryAdapter[str, int]())  # pyright: ignore[reportArgumentType]

assert_type(Comparison(ignore=["seen_at"]).differing(User("Ada"), None), tuple[str, ...] | None)
Comparison(equal=lambda old, new: old == new)
Comparison(None)  # pyright: ignore[reportCallIssue] - by name only


def of_a_table(engine: Engine, table: Table) -> None:
    """A SQL adapter's values are what `value` says."""
    assert_type(SqlAlchemyAdapter(engine, table, value=User).read("ada"), User | None)
    assert_type(SqlAlchemyAdapter(engine, table).read("ada"), Mapping[str, Any] | None)


async def awaited() -> None:
    """The asyncio side gives the same types, awaited."""
    proxy = AsyncProxy(gate, ThreadedAdapter(ByHand()), AsyncInMemoryAdapter[str, User]())
    assert_type(await proxy.read("ada"), User | None)
    assert_type(await proxy.read_many(["ada"]), dict[str, User])
    assert_type(proxy.stats(), ProxyStats)


names = InMemoryAdapter[str, str]()
mapped: MappedAdapter[str, User] = MappedAdapter(names, load=User, dump=lambda user: user.name)


class ContractOfByHand(StorageAdapterContract):
    """A subclass of a contract says of its generator what it yields."""

    def adapter(self) -> Iterator[ByHand]:
        """Yield one."""
        yield ByHand()

    def make_key(self, number: int) -> int:
        """Make one."""
        return number


class ContractOfThreads(AsyncStorageAdapterContract):
    """The asyncio twin."""

    keys = ("a", "b")

    async def adapter(self) -> AsyncIterator[ThreadedAdapter[str, User]]:
        """Yield one."""
        yield ThreadedAdapter(ByHand())


class ContractOfALedger(LedgerContract):
    """A ledger's."""

    def ledger(self) -> Iterator[InMemoryLedger]:
        """Yield one."""
        yield InMemoryLedger()


ContractOfByHand().test_a_write_is_read()
