"""How values become bytes, for stores that know only bytes."""

from __future__ import annotations

import json
from typing import Any, NoReturn, Protocol, TypeVar

__all__ = ["BytesCodec", "Codec", "JsonCodec"]

V = TypeVar("V")

TOO_DEEP = "a value is nested too deep for JSON"


class Codec(Protocol[V]):
    """Turns values into bytes and back: `loads(dumps(value)) == value`, or else the stores never compare equal.

    An error of `dumps` means that nothing was written. Thread-safe, if the proxy is used from several threads.
    """

    def dumps(self, value: V, /) -> bytes:
        """The bytes to store."""
        ...

    def loads(self, data: bytes, /) -> V:
        """The value of stored bytes; never None."""
        ...


class BytesCodec:
    """Values that are bytes already."""

    def dumps(self, value: bytes, /) -> bytes:
        """`value` itself."""
        return value

    def loads(self, data: bytes, /) -> bytes:
        """`data` itself."""
        return data


class JsonCodec:
    """Values as JSON in UTF-8: what JSON gives back as it was, so no tuples, and mappings with str keys only."""

    def dumps(self, value: Any, /) -> bytes:
        """Compact JSON, the mappings in their own order.

        Raises:
            TypeError: JSON has no form for `value`.
            ValueError: a float is NaN or infinite, a str has lone surrogates, or `value` is nested too deep.
        """
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except RecursionError:
            raise ValueError(TOO_DEEP) from None
        except UnicodeEncodeError:  # from None: the codec's error holds the value
            raise ValueError("a str with lone surrogates has no UTF-8 form") from None

    def loads(self, data: bytes, /) -> Any:
        """The value of a JSON text. Raises ValueError where it is none, or is nested too deep."""
        try:
            return json.loads(data, parse_constant=_refuse)
        except RecursionError:
            raise ValueError(TOO_DEEP) from None


def _refuse(constant: str) -> NoReturn:
    # Python's own extension. A value that cannot be written again would never be copied.
    raise ValueError(f"{constant} is no JSON")
