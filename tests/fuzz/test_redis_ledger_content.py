"""Redis keys of a ledger that something else changed.

A value that the ledger could have written there is an older one to it: such damage only has to raise no other
error (docs/guarantees.md: nobody notices rows that are older). What it could not have written is judged here, by
`damaged`. A field or member that is gone is always noticed, for the sizes are known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.fuzz.effort import examples
from tests.fuzz.ledger_scene import HOUR, IDENTITY, KEYS, LedgerScene
from tests.servers import ValkeyServer
from zddm_adapters.redis import RedisLedger
from zddm_flags.errors import LedgerMismatch
from zddm_flags.ledger import MigrationLedger

LONGEST_ERROR = 1000
COUNTS = (b"stale", b"entries", b"pending", b"tokens")
META = (b"schema", b"identity", b"incarnation", b"opened", b"epoch", b"reaped", b"token_seconds", *COUNTS)
NUMBER = re.compile(rb"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")
INTEGER = re.compile(rb"0|[1-9][0-9]{0,14}")


@pytest.fixture(scope="module")
def client(valkey_server: ValkeyServer) -> Iterator[Any]:
    """A client, also for what is done beside the ledger."""
    found = valkey_server.client()
    yield found
    found.close()


class Scene(LedgerScene):
    """In a ledger of Valkey."""

    def __init__(self, client: Any) -> None:
        self.client = client
        super().__init__()

    def migration(self) -> MigrationLedger:
        """As another process has it, which sees the rows for the first time."""
        return RedisLedger(self.client).migration(self.name, IDENTITY, HOUR)

    def place(self, part: str) -> str:
        """The name of one of the ledger's Redis keys."""
        return f"{{zddm:{self.name}}}:{part}"

    def forget(self) -> None:
        """Remove all that there is."""
        self.client.delete(*map(self.place, ("meta", "entries", "pending", "tokens", "checkpoints")))

    def summary(self, ledger: MigrationLedger) -> None:
        summary = ledger.summary()
        assert (summary.opened, summary.epoch) == (0.5, 0)
        assert 0 <= summary.stale <= len(KEYS)
        assert summary.pending >= 0
        assert (summary.oldest_pending_seconds or 0.0) >= 0

    def damaged(self) -> bool:
        """Whether anything of the ledger is such as no ledger of this version wrote."""
        meta = self.client.hgetall(self.place("meta"))
        entries = self.client.hgetall(self.place("entries"))
        pending = self.client.zrange(self.place("pending"), 0, -1, withscores=True)
        tokens = self.client.hgetall(self.place("tokens"))
        sizes = dict(zip(COUNTS, (0, len(entries), len(pending), len(tokens)), strict=True))
        return not (
            set(META) <= set(meta)
            and (meta[b"schema"], meta[b"identity"]) == (b"1", IDENTITY.encode())
            and re.fullmatch(rb"[0-9a-f]{24}", meta[b"incarnation"])
            and NUMBER.fullmatch(meta[b"opened"])
            and 0 <= float(meta[b"opened"]) <= 1
            and NUMBER.fullmatch(meta[b"token_seconds"])
            and float(meta[b"token_seconds"]) < math.inf
            and all(INTEGER.fullmatch(meta[name]) for name in (b"epoch", b"reaped", *COUNTS))
            and all(int(meta[name]) == size for name, size in sizes.items() if name != b"stale")
            and int(meta[b"stale"]) <= len(entries)
            and all(map(_is_entry, entries.values()))
            and all(INTEGER.fullmatch(count) and count != b"0" for count in tokens.values())
        )


def _is_entry(text: bytes) -> bool:
    found = re.fullmatch(rb"([s-])([c-])((?:[A-Za-z0-9-]+(?:,[A-Za-z0-9-]+)*)?)", text)
    if found is None:
        return False
    stale, contended, tokens = found.groups()
    many = len(tokens.split(b",")) if tokens else 0
    return many == 1 or (many == 0 and (stale, contended) == (b"s", b"-")) or (many > 1 and contended == b"c")


CALLS: dict[str, Callable[[Scene, MigrationLedger], None]] = {
    "begin": lambda scene, ledger: scene.begin(ledger, KEYS),
    "begin_copy": Scene.begin_copy,
    "end": lambda scene, ledger: scene.end(ledger, dict.fromkeys(scene.tokens, True)),
    "withdraw": Scene.withdraw,
    "open_to": Scene.open_to,
    "dirty": Scene.dirty,
    "reap": Scene.reap,
    "summary": Scene.summary,
    "stale_keys": Scene.stale_keys,
    "reset": Scene.reset,
    "checkpoints": Scene.checkpoints,
}

values = st.one_of(
    st.integers(-(2**70), 2**70).map(lambda number: str(number).encode()),
    st.integers(-1, 9).map(lambda number: str(number).encode()),
    st.floats().map(lambda number: repr(number).encode()),
    st.floats(-1, 2).map(lambda number: repr(number).encode()),
    st.sampled_from(
        [b"", b"nan", b"-nan", b"inf", b"-inf", b"0x1p-1", b"0x0", b" 0.5", b"0.5 ", b"5e-1", b"0.5\0", b"1e400"]
    ),
    st.sampled_from([b"--", b"s-", b"-c", b"sc", b"s-,", b"--a,b", b"-ca", b"s-a,,b", b"--a,", b"s-a b"]),
    st.binary(max_size=20),
)


def tell(scene: Scene, call: str, ledger: MigrationLedger) -> bool:
    """Whether the call refused; whatever else it raises is a defect."""
    try:
        CALLS[call](scene, ledger)
    except LedgerMismatch as error:
        return len(str(error)) < LONGEST_ERROR
    return False


@given(
    field=st.sampled_from(META), value=st.none() | values, call=st.sampled_from(tuple(CALLS)), seen=st.booleans()
)
@example(field=b"opened", value=b"0x1p-1", call="begin", seen=True)
@example(field=b"opened", value=b"0x1p-1", call="dirty", seen=False)
@example(field=b"token_seconds", value=b"nan", call="reap", seen=True)
@example(field=b"token_seconds", value=b"-1", call="reap", seen=False)
@example(field=b"epoch", value=b"1.5", call="begin", seen=True)
@example(field=b"epoch", value=b"nan", call="summary", seen=True)
@example(field=b"stale", value=b"-inf", call="end", seen=True)
@example(field=b"incarnation", value=b"", call="dirty", seen=False)
@examples(300)
def test_a_damaged_migration_is_refused(
    client: Any, field: bytes, value: bytes | None, call: str, seen: bool
) -> None:
    """Whatever stands in `meta`: every call raises LedgerMismatch if no ledger wrote it, and changes nothing."""
    scene = Scene(client)
    if value is None:
        client.hdel(scene.place("meta"), field)
    else:
        client.hset(scene.place("meta"), field, value)
    damaged, before = scene.damaged(), client.hgetall(scene.place("meta"))
    ledger = scene.seen if seen else scene.migration()
    try:
        refused = tell(scene, call, ledger)
    except AssertionError:
        assert not damaged  # it is told an older `opened`, epoch or patience, and believes it
    else:
        if damaged:
            assert refused
            assert all(tell(scene, other, ledger) for other in CALLS)
            assert client.hgetall(scene.place("meta")) == before
    scene.forget()


@given(
    part=st.sampled_from(["entries", "tokens"]),
    which=st.integers(0, 3),
    value=st.one_of(
        st.none(),
        values.map(lambda value: lambda _: value),
        st.binary(min_size=1, max_size=9).map(lambda junk: lambda old: old + junk),
        st.integers(0, 70).map(lambda length: lambda old: old[:length]),
        st.tuples(st.integers(0, 70), st.binary(min_size=1, max_size=1)).map(
            lambda change: lambda old: old[: change[0]] + change[1] + old[change[0] + 1 :]
        ),
    ),
    call=st.sampled_from(tuple(CALLS)),
    seen=st.booleans(),
)
@example(part="entries", which=0, value=lambda _: b"--", call="begin_copy", seen=True)
@example(part="entries", which=1, value=lambda old: b"-" + b"-" + old[2:], call="end", seen=True)
@example(part="tokens", which=0, value=lambda _: b"many", call="end", seen=True)
@example(part="tokens", which=0, value=lambda _: b"many", call="withdraw", seen=False)
@example(part="tokens", which=0, value=lambda _: b"-9223372036854775808", call="end", seen=False)
@examples(400)
def test_damaged_fields_are_not_trusted(
    client: Any, part: str, which: int, value: Callable[[bytes], bytes] | None, call: str, seen: bool
) -> None:
    """Whatever stands in a field of a hash: no call makes a dirty key clean or free if no ledger wrote that."""
    scene = Scene(client)
    fields = sorted(client.hgetall(scene.place(part)).items())
    field, old = fields[which % len(fields)]
    if value is None:
        client.hdel(scene.place(part), field)
    else:
        client.hset(scene.place(part), field, value(old))
    damaged = scene.damaged()
    ledger = scene.seen if seen else scene.migration()
    try:
        refused = tell(scene, call, ledger)
    except AssertionError:
        assert not damaged
    else:
        if damaged and part == "entries":
            assert refused or call not in {"begin", "begin_copy"}
        if damaged:
            tell(scene, "dirty", ledger)
            tell(scene, "dirty", scene.migration())
    scene.forget()


@given(
    which=st.integers(0, 4),
    member=st.none() | st.binary(max_size=60),
    score=st.none() | st.floats(allow_nan=False),
    call=st.sampled_from(tuple(CALLS)),
    seen=st.booleans(),
)
@example(which=0, member=None, score=-math.inf, call="summary", seen=True)
@example(which=0, member=None, score=math.inf, call="summary", seen=True)
@example(which=0, member=b"no colon", score=0.0, call="reap", seen=True)
@examples(150)
def test_damaged_times_lose_no_key(
    client: Any, which: int, member: bytes | None, score: float | None, call: str, seen: bool
) -> None:
    """Whatever stands among the times of tokens: a dirty key stays dirty, and no other error is raised."""
    scene = Scene(client)
    pending = scene.place("pending")
    found = client.zrange(pending, 0, -1, withscores=True)
    old_member, old_score = found[which % len(found)]
    client.zrem(pending, old_member)
    client.zadd(pending, {old_member if member is None else member: old_score if score is None else score})
    assume(client.zcard(pending) == len(found))
    ledger = scene.seen if seen else scene.migration()
    try:
        tell(scene, call, ledger)
    except AssertionError:
        assert call == "reap"  # a time that was changed to a long time ago
        assert score is not None
    for other in (ledger, scene.migration()):
        tell(scene, "dirty", other)
    scene.forget()


@given(part=st.sampled_from(["meta", "entries", "pending", "tokens"]), seen=st.booleans(), data=st.data())
@examples(60)
def test_a_key_of_another_kind_is_refused(client: Any, part: str, seen: bool, data: st.DataObject) -> None:
    """If one of the ledger's Redis keys is gone, or is of another kind, every call raises LedgerMismatch."""
    scene = Scene(client)
    place = scene.place(part)
    kind = data.draw(st.sampled_from(["gone", "string", "list", "set", "hash", "zset", "stream"]))
    client.delete(place)
    text = data.draw(st.binary(max_size=20))
    match kind:
        case "string":
            client.set(place, text)
        case "list":
            client.rpush(place, text)
        case "set":
            client.sadd(place, text)
        case "hash":
            client.hset(place, text, text)
        case "zset":
            client.zadd(place, {text: 1.0})
        case "stream":
            client.xadd(place, {b"field": text})
        case _:
            pass
    ledger = scene.seen if seen else scene.migration()
    assert all(tell(scene, call, ledger) for call in CALLS)
    scene.forget()
