"""The keys of an adapter among all those of a Redis server, and the cursors of a scan over them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from zddm_flags.errors import Unsupported

__all__ = ["KeySpace", "ScanCursor"]

K = TypeVar("K")

GLOB = re.compile(rb"[][*?\\^-]")
POSITIONS = 2**64  # the server refuses others
CURSOR = re.compile(r"([0-9a-zA-Z_-]+):([0-9]+)(?::([0-9]+):((?:[0-9a-f]{2})*))?")


class KeySpace(Generic[K]):
    """Keys below a prefix."""

    def __init__(
        self, prefix: str | bytes, encode: Callable[[K], bytes], decode: Callable[[bytes], K] | None
    ) -> None:
        self.prefix = prefix.encode() if isinstance(prefix, str) else prefix
        self.pattern = GLOB.sub(rb"\\\g<0>", self.prefix) + b"*"
        self._encode = encode
        self._decode = decode

    def name(self, key: K) -> bytes:
        """What `key` is called in the server. Raises TypeError where the encoding is not bytes."""
        encoded = self._encode(key)
        if not isinstance(encoded, bytes):
            raise TypeError(f"encode_key= must return bytes, not {type(encoded).__name__}")
        return self.prefix + encoded

    def key(self, name: bytes) -> K:
        """The key that is called `name` in the server."""
        if self._decode is None:
            raise Unsupported("a scan needs to make keys of stored ones: give decode_key= beside encode_key=")
        return self._decode(name[len(self.prefix) :])


@dataclass(frozen=True, slots=True)
class ScanCursor:
    """A place in a scan.

    One SCAN may return more keys than a page takes. Such a reply is given in several pages, in the order of the
    names, by repeating the SCAN: `end` is where the reply ended, `last` the name that was given last.
    """

    run: str  # the life of the server that made `position`, for another one orders its keys in another way
    position: int = 0
    end: int | None = None
    last: bytes = b""

    def __str__(self) -> str:
        """What a caller keeps."""
        whole = f"{self.run}:{self.position}"
        return whole if self.end is None else f"{whole}:{self.end}:{self.last.hex()}"

    @classmethod
    def parse(cls, text: str) -> ScanCursor:
        """The cursor of a text. Raises ValueError where it is none."""
        found = CURSOR.fullmatch(text)
        if found is None:
            raise ValueError("this is no cursor of a Redis adapter's scan")
        run, position, end, last = found.groups()
        cursor = cls(run, int(position), None if end is None else int(end), bytes.fromhex(last or ""))
        if cursor.position >= POSITIONS:
            raise ValueError("this is no cursor of a Redis adapter's scan")
        return cursor

    def page(self, names: list[bytes], end: int, limit: int) -> tuple[list[bytes], ScanCursor | None]:
        """The names to give now of those that SCAN gave from here up to `end`, and where to go on.

        A name that was there all the while is given: where the reply ends elsewhere than it did, because the
        server rearranged its keys meanwhile, all of it is given anew.
        """
        left = sorted(name for name in set(names) if self.end != end or name > self.last)
        if len(left) > limit:
            return left[:limit], ScanCursor(self.run, self.position, end, left[limit - 1])
        return left, ScanCursor(self.run, end) if end else None
