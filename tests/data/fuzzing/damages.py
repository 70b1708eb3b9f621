"""What can be wrong in any file: values, bytes, and documents bent in one place."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any

from tests.data.fuzzing.writing import Opcodes, Text, places, put


def nested(levels: int) -> Text:
    return Text("[" * levels + "]" * levels)


CLIMBING = (
    "../../etc/passwd", "/etc/passwd", "../secret.jpg", "../../../outside/secret.jpg", "a/b.jpg", "images/../x.jpg",
    "..", ".", "/", "./x.jpg", "x/", "~/x/y", "a\\b.jpg", "..\\..\\x.jpg", "C:\\x.jpg", "nul\0.jpg", "\0", "x" * 5000,
    "é" * 200, "", "//host/x.jpg", "file:///etc/passwd", "x" * 252 + ".jpg", "../" * 50 + "etc/passwd",
)  # fmt: skip
"""Names that lead elsewhere or cannot be names."""

WRONG: tuple[Any, ...] = (
    None, True, False, [], {}, "", "x", "11", 0, 1, -1, 2, 100, 101, 1.5, 1.0, -0.0, 10**9, 2**31, 2**32, 2**53,
    2**53 + 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**400, -(10**400), float("nan"), float("inf"), float("-inf"),
    1e308, 1e18, "\ud800", "two\nlines", "\r", "\x1b[2J", "x" * 5000, "x" * 100_000, [[]], [None], [-1], [100], [{}],
    {"id": 1}, {"": None}, [[[[]]]], ["x"] * 1000, list(range(1000)), {str(i): i for i in range(1000)}, "\0",
    "../../etc/passwd", "train", "０", "1e400", [100, 100], [[100]], {"size": [48, 64], "counts": "x"},
    nested(500), nested(900),
)  # fmt: skip
WRONG_IN_JSON: tuple[Any, ...] = (
    nested(100_000), Text("9" * 5000), Text("-" + "9" * 4000), Text("1e999"), Text("1." + "0" * 5000),
    Text('"\\ud83d"'), Text('{"a":' * 50_000 + "1" + "}" * 50_000), Text('{"id": 1, "id": [2]}'), Text(""),
    Text("-"), Text("0x10"), Text("'x'"), Text("[1,]"), Text("\ufeff1"),
)  # fmt: skip
HUGE_NUMBER = Opcodes(b"\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000)
"""Of more digits than Python writes out."""
WRONG_IN_PICKLES: tuple[Any, ...] = (
    HUGE_NUMBER,
    (), (1,), (100, 101), ("x", None),
    Opcodes(b"]q\x01h\x01a"),  # a list that holds itself
    Opcodes(b"}q\x01U\x01ah\x01s"),
    Opcodes(b"]" * 100_000 + b"a" * 99_999),
    Opcodes(b")" + b"\x85" * 1000),
    Opcodes(b"(" * 20 + b"]" + b"2l" * 20),  # lists of a list twice, twice, …
    Opcodes(b")" + b"2\x86" * 16),
    Opcodes(b"U\x03a'\xff"),
    Opcodes(b"X\x03\x00\x00\x00\xed\xa0\x80"),
    Opcodes(b"F1e999\n"), Opcodes(b"Fnan\n"), Opcodes(b"I01\n"), Opcodes(b"I-99999999999999999999\n"),
)  # fmt: skip


def hurt(rng: random.Random, content: bytes) -> bytes:
    """Bytes with one damage."""
    if not content:
        return rng.randbytes(3)
    raw = bytearray(content)
    at = rng.randrange(len(raw))
    length = rng.choice((1, 1, 2, 4, 8, 16, 64))
    match rng.randrange(9):
        case 0 | 1:
            del raw[at:]
        case 2 | 3:
            for _ in range(rng.randint(1, 8)):
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        case 4:
            del raw[at : at + length]
        case 5:
            raw[at:at] = rng.randbytes(length)
        case 6:
            raw[at:at] = raw[at : at + 8 * length]
        case 7:
            raw[at : at + length] = bytes([rng.choice((0, 0x7F, 0x80, 0xFF))]) * length
        case _:
            number = rng.choice((2**31 - 1, 2**31, 2**32 - 1, 10**9, 2**20))
            raw[at : at + 4] = struct.pack(rng.choice("<>") + "I", number)
    return bytes(raw)


def bend(rng: random.Random, value: Any, wrong: Sequence[Any]) -> Any:
    """A document with one thing in it other than it should be: wrong, gone, there twice, or under another name."""
    at, old = rng.choice(list(places(value)))
    parent: Any = value
    for key in at[:-1]:
        parent = parent[key]
    way = rng.randrange(10)
    if way == 0 and at and isinstance(parent, dict):
        return put(value, at[:-1], {k: v for k, v in parent.items() if k != at[-1]})
    if way == 0 and at:
        return put(value, at[:-1], [v for i, v in enumerate(parent) if i != at[-1]])
    if way == 1 and at and isinstance(parent, list):
        return put(value, at[:-1], [*parent, old])
    if way == 1 and at and isinstance(parent, dict):
        other = rng.choice(("", "ID", "x" * 5000, "two\nlines", "\ud800", "1", " id"))
        return put(value, at[:-1], {other if k == at[-1] else k: v for k, v in parent.items()})
    if way == 2:
        return put(value, at, [old])
    if way == 3:
        return put(value, at, rng.choice(list(places(value)))[1])
    return put(value, at, rng.choice(wrong))


UNREAD = frozenset(
    {"info", "licenses", "license", "coco_url", "flickr_url", "date_captured", "supercategory", "raw", "tokens",
     "sent_ids", "no_target", "area"}
)  # fmt: skip


def slim(value: Any) -> Any:
    """A document without what nobody reads, so that more of the damage matters."""
    if isinstance(value, dict):
        return {key: slim(inner) for key, inner in value.items() if key not in UNREAD}
    return [slim(inner) for inner in value] if isinstance(value, list) else value
