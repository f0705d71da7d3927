"""Rows of a SQL ledger that something else changed, in SQLite, whose columns hold values of any type.

What is not noticed, as docs/guarantees.md says: rows of keys that are gone (or are called otherwise), and rows
that are older. To a ledger a value that it could have written there is an older one: such damage only has to
raise no other error. What it could not have written is judged here, by `damaged_migration` and `damaged_key`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import IntegrityError, OperationalError

from tests.fuzz.effort import examples
from tests.fuzz.ledger_scene import BOTH, CONTENDED, HOUR, IDENTITY, KEYS, PENDING, STALE, LedgerScene
from zddm_adapters.sqlalchemy import SqlAlchemyLedger
from zddm_flags.errors import LedgerMismatch
from zddm_flags.ledger import MigrationLedger

LONGEST_ERROR = 1000
MIGRATION_COLUMNS = ("schema_version", "identity", "opened", "epoch", "incarnation", "token_seconds", "reaped")
KEY_COLUMNS = ("pending", "stale", "contended", "oldest")
ENTRY = re.compile(r"\|[A-Za-z0-9-]{1,48}\.*@([0-9]{16})")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One SQLite file, as a ledger uses it."""
    path = tmp_path_factory.mktemp("fuzz") / "ledger.db"
    found = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    with found.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("PRAGMA synchronous=OFF")
    yield found
    found.dispose()


class Scene(LedgerScene):
    """In a ledger of SQLite."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        super().__init__()

    def migration(self) -> MigrationLedger:
        """As another process has it, which sees the rows for the first time."""
        return SqlAlchemyLedger(self.engine).migration(self.name, IDENTITY, HOUR)

    def summary(self, ledger: MigrationLedger) -> None:
        summary = ledger.summary()
        assert (summary.opened, summary.epoch) == (0.5, 0)
        assert summary.stale >= 0 <= summary.pending
        assert (summary.oldest_pending_seconds or 0.0) >= 0

    # Damage

    def replace(self, table: str, column: str, key: bytes | None, value: Any, *, as_text: bool) -> None:
        """Put a value in a row's column; bytes may be cast to a text that is no UTF-8."""
        which, parameters = (
            ("name = ?", (self.name,)) if key is None else ('migration = ? AND "key" = ?', (self.name, key))
        )
        new = "CAST(? AS TEXT)" if as_text else "?"
        with self.engine.connect() as connection:
            try:
                connection.exec_driver_sql(
                    f"UPDATE zddm_{table} SET {column} = {new} WHERE {which}", (value, *parameters)
                )
            except IntegrityError:
                assume(False)

    def stored(self, table: str, column: str, key: bytes | None) -> Any:
        """What is in a row's column; bytes, where it is a text that is no UTF-8."""
        which, parameters = (
            ("name = ?", (self.name,)) if key is None else ('migration = ? AND "key" = ?', (self.name, key))
        )
        with self.engine.connect() as connection:
            try:
                return connection.exec_driver_sql(
                    f"SELECT {column} FROM zddm_{table} WHERE {which}", parameters
                ).scalar_one()
            except OperationalError:
                return b"no UTF-8"

    def damaged_migration(self) -> bool:
        """Whether the migration's row is one that no ledger of this version wrote for this gate."""
        version, identity, opened, epoch, incarnation, seconds, reaped = (
            self.stored("migrations", column, None) for column in MIGRATION_COLUMNS
        )
        return not (
            version == 1
            and identity == IDENTITY
            and isinstance(opened, float)
            and 0 <= opened <= 1
            and isinstance(epoch, int)
            and epoch >= 0
            and isinstance(incarnation, str)
            and re.fullmatch("[0-9a-f]{32}", incarnation)
            and isinstance(seconds, float)
            and 0 <= seconds < math.inf
            and isinstance(reaped, int)
            and reaped >= 0
        )

    def damaged_key(self, key: bytes) -> bool:
        """Whether a key's row is one that no ledger wrote."""
        pending, stale, contended, oldest = (self.stored("keys", column, key) for column in KEY_COLUMNS)
        if not isinstance(pending, str) or stale not in (0, 1) or contended not in (0, 1):
            return True
        times = ENTRY.findall(pending)
        if len(pending) != 66 * len(times) or re.sub(ENTRY, "", pending):
            return True
        if len(times) > 1 and not contended:
            return True
        return oldest != (int(times[0]) if times else None)


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
QUESTIONS = tuple(call for call in CALLS if call not in {"end", "withdraw"})  # end and withdraw look at keys alone

values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 2, -1, 10**15, 2**63 - 1]),
    st.floats(allow_nan=False),
    st.floats(-1, 2),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["", "true", "false", "nan", "inf", "0x1", "1e400", "\0"]),
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
    column=st.sampled_from(MIGRATION_COLUMNS),
    value=values,
    as_text=st.booleans(),
    call=st.sampled_from(tuple(CALLS)),
    seen=st.booleans(),
)
@example(column="opened", value="many", as_text=False, call="dirty", seen=False)
@example(column="opened", value=1.5, as_text=False, call="begin", seen=True)
@example(column="token_seconds", value="short", as_text=False, call="reap", seen=True)
@example(column="token_seconds", value=-1.0, as_text=False, call="reap", seen=False)
@example(column="epoch", value=b"\xff", as_text=False, call="summary", seen=True)
@example(column="identity", value=b"\xff", as_text=True, call="begin", seen=True)
@example(column="identity", value=b"\xff", as_text=True, call="begin", seen=False)
@examples(250)
def test_a_damaged_migration_is_refused(
    engine: Engine, column: str, value: Any, as_text: bool, call: str, seen: bool
) -> None:
    """Whatever stands in the migration's row: every question raises LedgerMismatch if no ledger wrote it."""
    scene = Scene(engine)
    scene.replace("migrations", column, None, value, as_text=as_text and isinstance(value, bytes))
    damaged = scene.damaged_migration()
    ledger = scene.seen if seen else scene.migration()
    refused = _tell_of_migration(scene, call, ledger, exact=damaged)
    if damaged:
        assert refused or (seen and call not in QUESTIONS)
        assert all(tell(scene, question, ledger) for question in QUESTIONS)


def _tell_of_migration(scene: Scene, call: str, ledger: MigrationLedger, *, exact: bool) -> bool:
    try:
        return tell(scene, call, ledger)
    except AssertionError:
        if exact:
            raise
        return False  # it is told an older `opened`, epoch or patience, and believes it


key_damage = st.tuples(
    st.sampled_from(KEY_COLUMNS),
    st.one_of(
        values.map(lambda value: lambda _: value),
        st.binary(min_size=1, max_size=70).map(lambda junk: lambda old: _bytes(old) + junk),
        st.integers(0, 132).map(lambda length: lambda old: _bytes(old)[:length].decode()),
        st.tuples(st.integers(0, 131), st.characters(max_codepoint=127)).map(
            lambda change: lambda old: _changed(_bytes(old).decode(), *change)
        ),
    ),
    st.booleans(),
)


def _bytes(value: Any) -> bytes:
    return str(value).encode()


def _changed(text: str, place: int, character: str) -> str:
    return text[:place] + character + text[place + 1 :]


@given(
    key=st.sampled_from(KEYS[1:]),
    damage=key_damage,
    call=st.sampled_from(tuple(CALLS)),
    seen=st.booleans(),
)
@example(key=STALE, damage=("stale", lambda _: "true", False), call="dirty", seen=True)
@example(key=PENDING, damage=("pending", lambda _: "", False), call="dirty", seen=True)
@example(key=PENDING, damage=("pending", lambda _: "", False), call="begin_copy", seen=True)
@example(key=PENDING, damage=("pending", lambda _: b"", False), call="begin", seen=True)
@example(key=PENDING, damage=("pending", lambda _: b"\xff", True), call="begin", seen=True)
@example(key=PENDING, damage=("pending", lambda _: b"\xff", True), call="dirty", seen=False)
@example(key=CONTENDED, damage=("contended", lambda _: 0, False), call="end", seen=True)
@example(key=CONTENDED, damage=("contended", lambda _: "yes", False), call="end", seen=True)
@example(key=PENDING, damage=("oldest", lambda _: 0, False), call="reap", seen=True)
@example(key=PENDING, damage=("oldest", lambda _: None, False), call="begin", seen=True)
@example(key=PENDING, damage=("oldest", lambda _: math.inf, False), call="summary", seen=True)
@example(key=PENDING, damage=("oldest", lambda _: -math.inf, False), call="summary", seen=True)
@example(key=BOTH, damage=("stale", lambda _: b"\xff", False), call="withdraw", seen=True)
@examples(400)
def test_a_damaged_key_is_not_trusted(
    engine: Engine, key: bytes, damage: tuple[str, Callable[[Any], Any], bool], call: str, seen: bool
) -> None:
    """Whatever stands in a key's row: no call makes a dirty key clean or free if no ledger wrote that."""
    column, change, as_text = damage
    scene = Scene(engine)
    value = change(scene.stored("keys", column, key))
    scene.replace("keys", column, key, value, as_text=as_text and isinstance(value, bytes))
    damaged = scene.damaged_key(key)
    ledger = scene.seen if seen else scene.migration()
    try:
        refused = tell(scene, call, ledger)
    except AssertionError:
        assert not damaged
        return
    if damaged:
        # What a begin sets anew is right again, whatever it was; reap looks at what is old, and nothing is.
        assert refused or call != "dirty"
        assert refused or call not in {"begin", "begin_copy"} or not scene.damaged_key(key)
        for other in (ledger, scene.migration()):
            tell(scene, "dirty", other)


@given(key=st.sampled_from(KEYS[1:]), name=st.one_of(values, st.sampled_from(KEYS)), seen=st.booleans())
@examples(40)
def test_a_key_that_is_called_otherwise_raises_nothing_else(
    engine: Engine, key: bytes, name: Any, seen: bool
) -> None:
    """A key's row under another name is a row that is gone, which nobody notices: no call raises another error."""
    scene = Scene(engine)
    scene.replace("keys", '"key"', key, name, as_text=False)
    scene.replace("migrations", "token_seconds", None, 0.0, as_text=False)
    ledger = scene.seen if seen else scene.migration()
    for call in CALLS:
        with suppress(AssertionError):  # a key that is called otherwise is clean
            tell(scene, call, ledger)
