"""Write `zddm_flags/vectors/vectors.json`, the examples for other languages; with `--check`, only compare."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from zddm_flags.encoding import encode_key, ledger_key  # noqa: E402 - the path comes first
from zddm_flags.hashing import FNV1a64Hasher, XXH3Hasher, XXH64Hasher, passes, threshold  # noqa: E402

TARGET = ROOT / "zddm_flags" / "vectors" / "vectors.json"

ABOUT = """\
A key passes a gate iff float64(hash) / 2**64 < rate, where float64 rounds the unsigned 64-bit hash to
the nearest IEEE 754 double, ties to even. Rate 0 (or below) passes no key; rate 1 (or above) passes
every key, also the 1024 hashes from 2**64 - 1024 on, which round to 1.0.

keys: `key` is the key in a typed form: int as a decimal string, bytes in hexadecimal, a tuple as a list
of typed forms. `hashed` are the bytes that are hashed, `ledger` those that name the key in a ledger,
both in hexadecimal. Then the hashes of `hashed`: XXH3 (64 bits, seed 0, default secret), XXH64 (seed 0)
and 64-bit FNV-1a, as decimal strings, because a JSON number may lose bits.

Hashed bytes: str as UTF-8, not normalised; bytes as they are; int as decimal text; uuid as its 36
characters in lower case. A tuple, and a dataclass through its compared fields in their order, is the
chain of its elements, each <length>:<ledger bytes>, the length in decimal and in bytes.

Ledger bytes: a tag, then the hashed bytes. Tags: s str, b bytes, i int, u uuid, t tuple, x the bytes of
a custom encoding, and for a dataclass d<length of its name in bytes>:<its name>.

decisions: `hash` is a decimal string, `rate` a JSON number and `rate_hex` the same double as a C99
hexadecimal float, `passes` the decision.
"""

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
"""65 characters, so that no block of a hash repeats another."""

LENGTHS = sorted(
    {*range(33), 63, 64, 65, 95, 96, 97, 127, 128, 129, 130, 143, 144, 145, 159, 160, 161, 191, 192, 193}
    | {223, 224, 225, 239, 240, 241, 242, 255, 256, 257, 299, 300, 511, 512, 513, 1023, 1024, 1025, 2049}
)
"""XXH3 takes another path at 4, 9, 17, 33, 65, 97, 129, 241 and 1025 bytes; XXH64 at 4, 8 and 32."""


def text(length: int) -> str:
    """`length` characters of one byte each."""
    return (CHARACTERS * (length // len(CHARACTERS) + 1))[:length]


def made_dataclass(name: str, **fields: object) -> object:
    """An instance of a frozen dataclass of this name and these fields."""
    return dataclasses.make_dataclass(name, list(fields), frozen=True, slots=True)(**fields)


def keys() -> list[object]:
    """The keys of the vectors."""
    return [
        *(text(length) for length in LENGTHS),
        *(bytes(255 - index % 251 for index in range(length)) for length in (0, 1, 3, 4, 8, 9, 16, 17, 240, 241)),
        *(
            "é",
            "e\u0301",
            "ß",
            "İ",
            "日本語",
            "\U0001f600",
            "a\U0001f468\u200d\U0001f469z",
            "\x00",
            "a\x00b",
            " ",
            "\ufeff",
        ),
        *("user@example.com", "1", "i1", "s1", "2:sa2:i1", "user:0042", "\N{GREEK SMALL LETTER FINAL SIGMA}"),
        *(b"\x00", b"\xff\xfe", b"1", b"user@example.com", b"abc"),
        *(
            0,
            1,
            -1,
            9,
            10,
            42,
            -42,
            255,
            10**6,
            2**31 - 1,
            2**31,
            2**53,
            2**53 + 1,
            2**63 - 1,
            -(2**63),
            2**63,
        ),
        *(2**64 - 1, 2**64, 10**30, -(10**30)),
        *(UUID(int=0), UUID(int=2**128 - 1), UUID("6BA7B810-9DAD-11D1-80B4-00C04FD430C8")),
        *(
            (),
            ("",),
            ("a", 1),
            ("a", "1"),
            ("a1",),
            ("a", 1, b"\x00"),
            (("a",), 1),
            ("a", (1,)),
            ((), ()),
            (((),),),
        ),
        *(("tenant-7", UUID(int=7)), ("é", -5), ("x" * 300, 1), (1, (2, (3, (4, b"five"))))),
        made_dataclass("Point", x=1, y=-2),
        made_dataclass("Größe", wert="m"),
        ("a", made_dataclass("Point", x=1, y=-2)),
    ]


def typed(key: object) -> dict[str, Any]:
    """The language-neutral form of `key`."""
    match key:
        case str():
            return {"type": "str", "value": key}
        case bytes():
            return {"type": "bytes", "value": key.hex()}
        case int():
            return {"type": "int", "value": str(key)}
        case UUID():
            return {"type": "uuid", "value": str(key)}
        case tuple():
            return {"type": "tuple", "value": [typed(element) for element in key]}
        case _:
            names = [field.name for field in dataclasses.fields(key)]  # type: ignore[arg-type]  # the last kind
            value = [{"field": name, **typed(getattr(key, name))} for name in names]
            return {"type": "dataclass", "name": type(key).__name__, "value": value}


def key_vector(key: object) -> dict[str, Any]:
    """A key, its bytes and its hashes."""
    data = encode_key(key)
    hashes = {hasher.name: str(hasher.hash(data)) for hasher in (XXH3Hasher(), XXH64Hasher(), FNV1a64Hasher())}
    return {"key": typed(key), "hashed": data.hex(), "ledger": ledger_key(key).hex(), **hashes}


def decision_vectors() -> list[dict[str, Any]]:
    """Hashes at every edge, and on both sides of the edge of each rate."""
    top = 2**64
    edges = [0, 1, 2, 2**11, 2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2, 2**53 + 3, 2**54 + 2, 2**54 + 6]
    edges += [2**63 - 513, 2**63 - 512, 2**63 - 1, 2**63, 2**63 + 1, 2**63 + 1024, 2**63 + 1025, 2**63 + 3072]
    edges += [top - 3073, top - 3072, top - 2048, top - 1025, top - 1024, top - 1023, top - 2, top - 1]
    rates = [
        0.0,
        5e-324,
        2.0**-64,
        3 * 2.0**-64,
        2.0**-53,
        2.0**-11,
        2.0**-11 + 2.0**-63,
        0.001,
        0.01,
        0.1,
        0.25,
    ]
    rates += [1 / 3, 0.5 - 2.0**-54, 0.5, 0.5 + 2.0**-53, 0.9, 1 - 2.0**-52, 1 - 2.0**-53, 1.0]
    return [
        {"hash": str(value), "rate": rate, "rate_hex": rate.hex(), "passes": passes(value, rate)}
        for rate in rates
        for value in sorted(
            {*edges, *(edge for edge in (threshold(rate) - 1, threshold(rate)) if 0 <= edge < top)}
        )
    ]


def rendered() -> str:
    """The text of the file: one vector a line, ASCII only, so that a diff can be read."""

    def lines(items: list[Any]) -> str:
        return "[\n" + ",\n".join(f"    {json.dumps(item)}" for item in items) + "\n  ]"

    members: dict[str, list[Any]] = {
        "about": ABOUT.splitlines(),
        "keys": [key_vector(key) for key in keys()],
        "decisions": decision_vectors(),
    }
    return "{\n" + ",\n".join(f'  "{name}": {lines(items)}' for name, items in members.items()) + "\n}\n"


def main() -> int:
    """Generate or check; exit code 1 where the checked-in file differs."""
    wanted = rendered()
    same = TARGET.exists() and TARGET.read_bytes() == wanted.encode()
    if "--check" in sys.argv[1:]:
        print("test vectors: up to date" if same else f"{TARGET.relative_to(ROOT)} differs; generate it anew")
        return 0 if same else 1
    TARGET.write_bytes(wanted.encode())
    print(f"test vectors: {'up to date' if same else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
