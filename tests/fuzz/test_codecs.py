"""Bytes that a store gives, read by the codecs: a value that can be written again, or a ValueError."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.effort import examples
from tests.servers import ValkeyServer
from zddm_adapters._codecs import BytesCodec, JsonCodec
from zddm_adapters.redis import RedisAdapter
from zddm_flags.errors import NotApplied

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: "\\ud" not in json.dumps(value) or _is_text(value))
damage = st.tuples(st.integers(0, 99), st.binary(max_size=2), st.integers(0, 2))


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _damaged(data: bytes, place: int, inserted: bytes, dropped: int) -> bytes:
    return data[:place] + inserted + data[place + dropped :]


@given(
    data=st.binary(max_size=30)
    | st.tuples(values, damage).map(lambda found: _damaged(JsonCodec().dumps(found[0]), *found[1]))
    | st.tuples(values, st.sampled_from(["utf-16", "utf-32-be", "utf-8-sig"])).map(
        lambda found: json.dumps(found[0]).encode(found[1])
    )
)
@example(data=b"NaN")
@example(data=b"[1,-Infinity]")
@example(data=b"[" * 100_000)
@example(data=b'{"a":' * 100_000)
@example(data=b"1" * 5000)
@example(data=b"1e400")
@example(data=b'"\\ud800"')
@example(data=b"\xff\xfe")
@example(data=b"")
@examples(500)
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    """Bytes are refused by a ValueError, or are a value that comes back from what is written of it."""
    codec = JsonCodec()
    try:
        value = codec.loads(data)
    except ValueError:
        return
    try:
        written = codec.dumps(value)
    except ValueError:
        # JSON can say 1e400, and half of a character, which no JSON in UTF-8 can hold as Python has them.
        assert _has(
            value, lambda leaf: leaf in (math.inf, -math.inf) or (isinstance(leaf, str) and not _is_text(leaf))
        )
        return
    assert _same(codec.loads(written), value)


def _has(value: Any, wanted: Any) -> bool:
    if isinstance(value, dict):
        return any(_has(name, wanted) or _has(inner, wanted) for name, inner in value.items())
    if isinstance(value, list):
        return any(_has(inner, wanted) for inner in value)
    return bool(wanted(value))


def _same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


nasty = st.recursive(
    st.one_of(
        st.floats(),
        st.binary(max_size=3),
        st.text(st.characters(), max_size=3),
        st.sampled_from([object(), 1j, {1, 2}, range(3)]),
        st.integers(4300, 5000).map(lambda digits: 10**digits),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.binary(max_size=2), inner)
    ),
    max_leaves=4,
)


@given(value=nasty)
@examples(200)
def test_any_object_is_written_or_refused(value: Any) -> None:
    """What JSON cannot hold is refused by a TypeError or ValueError; the rest comes back."""
    codec = JsonCodec()
    try:
        written = codec.dumps(value)
    except (TypeError, ValueError):
        return
    assert _same(codec.loads(written), value)


def test_what_is_nested_too_deep_or_holds_itself_is_refused() -> None:
    """Nesting beyond Python's stack, in either direction, is a ValueError."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    for value in (deep, endless):
        with pytest.raises(ValueError, match=r"too deep|Circular"):
            JsonCodec().dumps(value)
    with pytest.raises(ValueError, match="too deep"):
        JsonCodec().loads(b"[" * 100_000 + b"]" * 100_000)
    while deep:
        deep = deep[0]


@given(data=st.binary())
@examples(30)
def test_bytes_are_bytes(data: bytes) -> None:
    """The codec for bytes changes none, in either direction."""
    assert BytesCodec().loads(data) is BytesCodec().dumps(data) is data


@given(
    data=st.binary(max_size=20) | st.sampled_from([b"null", b"NaN", b"[" * 5000, b"1", b'"a"']),
    value=nasty | st.none(),
)
@example(data=b"null", value=None)
@example(data=b"[" * 5000, value=None)
@examples(100)
def test_an_adapter_never_takes_what_is_there_for_absent(
    valkey_server: ValkeyServer, data: bytes, value: Any
) -> None:
    """Whatever is stored is read as a value or raises; what cannot be stored is certainly not applied."""
    with valkey_server.client() as client:
        adapter: RedisAdapter[str, Any] = RedisAdapter(client, prefix="fuzz-codec:", codec=JsonCodec())
        client.set("fuzz-codec:a", data)
        try:
            assert adapter.read("a") is not None
            assert adapter.read_many(["a"])["a"] is not None
        except (TypeError, ValueError):
            for read in (lambda: adapter.read_many(["a"]), adapter.scan):
                with pytest.raises((TypeError, ValueError)):
                    read()
        try:
            adapter.write("a", value)
        except NotApplied as error:
            cause = error.__cause__
        else:
            assert _same(adapter.read("a"), value)
            return
        assert isinstance(cause, (TypeError, ValueError))
        assert client.get("fuzz-codec:a") == data
