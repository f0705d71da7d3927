"""The canonical bytes of a key: what is hashed, and what names it in the ledger.

Hashed: `str` as UTF-8, `bytes` as they are, `int` as decimal text, `UUID` as its 36 characters. A tuple or
dataclass is the chain of its elements, each as `<length>:<tag><bytes>`, the length being that of tag and
bytes in decimal: `("a", 1)` is `2:sa2:i1`. They may be nested 32 deep, for the depth of Python's stack must not
decide which keys there are.

In the ledger a tag in front tells the types apart: `1` is `i1` and `"1"` is `s1`. The tags are `s` str, `b`
bytes, `i` int, `u` UUID, `t` tuple, `d<length>:<qualified name>` dataclass, `x` the bytes of an `encode=`.
`zddm_flags.vectors` has examples for other languages.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from uuid import UUID

from zddm_flags.errors import InvalidKey

__all__ = ["MAX_DEPTH", "decode", "encode_key", "hashed_bytes", "ledger_key", "tag_and_bytes"]

MAX_DEPTH = 32
"""How deep tuples and dataclasses may be nested in a key."""

LENGTH = re.compile(rb"(0|[1-9][0-9]{0,17}):")


def tag_and_bytes(key: object, depth: int = MAX_DEPTH) -> tuple[bytes, bytes]:
    """Return the type's tag and the bytes that are hashed, for a key of one of the types above.

    A subclass counts as its base, except `bool`, whatever its `__str__`, `__bytes__` or `__iter__` is. A
    dataclass's tag carries its name, so that two classes with equal fields stay two keys: do not rename such a
    class during a migration. Its fields are those that `==` compares, so that equal keys have equal bytes.

    Args:
        key: the key.
        depth: how deep tuples and dataclasses may be nested in it.

    Raises:
        InvalidKey: the type has no canonical encoding, or the key is nested deeper. Thread-safe.
    """
    if isinstance(key, str):
        try:
            return b"s", str.encode(key)
        except UnicodeEncodeError:  # from None: the codec's text quotes the key
            raise InvalidKey("a str key with lone surrogates has no UTF-8 form; pass encode=") from None
    if isinstance(key, bytes):
        return b"b", bytes.__getitem__(key, slice(None))
    if isinstance(key, UUID):
        return b"u", UUID.__str__(key).encode()
    if isinstance(key, int) and not isinstance(key, bool):
        return b"i", _decimal(key)
    if isinstance(key, tuple):
        return b"t", _chain(tuple.__iter__(key), depth)
    if dataclasses.is_dataclass(key) and not isinstance(key, type):
        name = type(key).__qualname__.encode()
        fields = (getattr(key, field.name) for field in dataclasses.fields(key) if field.compare)
        return b"d%d:%s" % (len(name), name), _chain(fields, depth)
    raise InvalidKey(
        f"a key of type {type(key).__name__} has no canonical encoding: use str, bytes, int, UUID, or a "
        "tuple or dataclass of these, or pass encode= (key -> bytes) to TrafficGate"
    )


def _decimal(key: int) -> bytes:
    try:
        return b"%d" % key
    except ValueError as error:  # beyond sys.get_int_max_str_digits()
        raise InvalidKey("an int key of that many digits has no canonical encoding; pass encode=") from error


def _chain(elements: Iterable[object], depth: int) -> bytes:
    if depth == 0:
        raise InvalidKey(f"a key is nested more than {MAX_DEPTH} deep; pass encode=")
    parts = []
    for element in elements:
        tag, data = tag_and_bytes(element, depth - 1)
        parts.append(b"%d:%s%s" % (len(tag) + len(data), tag, data))
    return b"".join(parts)


def encode_key(key: object) -> bytes:
    """The bytes of `key` that are hashed. Raises `InvalidKey`."""
    return tag_and_bytes(key)[1]


def ledger_key(key: object) -> bytes:
    """The type-tagged bytes that name `key` in a ledger. Raises `InvalidKey`."""
    tag, data = tag_and_bytes(key)
    return tag + data


def decode(name: bytes) -> object:
    """The key that `ledger_key` gives this name: a str, bytes, int, UUID, or tuple of these.

    A key of a subclass comes back as one of its base. Thread-safe.

    Raises:
        InvalidKey: the key is, or holds, a dataclass; its bytes are those of an `encode=`; or `ledger_key` gives
            no key this name. The text says which tag stands there, and nothing else of the key.
    """
    key = _decoded(name, MAX_DEPTH)
    if ledger_key(key) != name:  # int() and UUID() take more than what is canonical
        raise _no_name()
    return key


def hashed_bytes(name: bytes) -> bytes:
    """The part of a name in a ledger that is hashed: what stands behind the tag, which is not looked into.

    That is what `encode_key` gives for the key, or what an `encode=` gave for it. Thread-safe.

    Raises:
        InvalidKey: the name begins with none of the tags, or ends within that of a dataclass.
    """
    if name[:1] != b"d":
        if name[:1] not in {b"s", b"b", b"i", b"u", b"t", b"x"}:
            raise _no_name()
        return name[1:]
    return name[_measured(name, 1)[1] :]


def _decoded(name: bytes, depth: int) -> object:
    tag, data = name[:1], name[1:]
    try:
        match tag:
            case b"s":
                return data.decode()
            case b"b":
                return data
            case b"i":
                return int(data)
            case b"u":
                return UUID(data.decode())
            case b"t" if depth > 0:
                return tuple(_decoded(element, depth - 1) for element in _elements(data))
            case b"d":
                raise InvalidKey("the name of a dataclass (tag d) does not lead back to the key")
            case b"x":
                raise InvalidKey("a name whose bytes an encode= made (tag x) does not lead back to the key")
            case _:
                raise _no_name()
    except ValueError:  # from None: its text quotes the key
        raise _no_name() from None


def _elements(chain: bytes) -> Iterator[bytes]:
    end = 0
    while end < len(chain):
        start, end = _measured(chain, end)
        yield chain[start:end]


def _measured(data: bytes, at: int) -> tuple[int, int]:
    """Where that begins and ends whose length is said at `at`."""
    length = LENGTH.match(data, at)
    if length is None or length.end() + int(length[1]) > len(data):
        raise _no_name()
    return length.end(), length.end() + int(length[1])


def _no_name() -> InvalidKey:
    return InvalidKey("these bytes are the name of no key in a ledger")


def custom(encode: Callable[[object], bytes]) -> Callable[[object], tuple[bytes, bytes]]:
    """`tag_and_bytes` for a caller's own `encode`, whose bytes must differ for keys that differ."""

    def custom_tag_and_bytes(key: object) -> tuple[bytes, bytes]:
        data = encode(key)
        if not isinstance(data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller's function
            raise InvalidKey(f"encode= returned {type(data).__name__}, not bytes")
        return b"x", data

    return custom_tag_and_bytes
