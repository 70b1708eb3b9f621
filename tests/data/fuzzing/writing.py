"""How damaged documents are written: JSON and pickles with pieces that no writer would make."""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any


class Text(str):
    """A piece of JSON, taken over as it is."""


class Opcodes(bytes):
    """A piece of a pickle that leaves one value on the stack, taken over as it is."""


def as_json(value: Any) -> bytes:
    pieces: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, Text):
            pieces.append(value)
            return f"@{len(pieces) - 1}@"
        if isinstance(value, dict):
            return {key: marked(inner) for key, inner in value.items()}
        return [marked(inner) for inner in value] if isinstance(value, list | tuple) else value

    text = json.dumps(marked(value))
    return re.sub(r'"@(\d+)@"', lambda found: pieces[int(found[1])], text).encode()


def as_pickle(value: Any, protocol: int = 2) -> bytes:
    if not any(isinstance(inner, Opcodes) for _, inner in places(value)):
        return pickle.dumps(value, protocol)
    return b"\x80\x02" + opcodes_of(value) + b"."


def opcodes_of(value: Any) -> bytes:
    if isinstance(value, Opcodes):
        return bytes(value)
    if isinstance(value, dict):
        return b"(" + b"".join(opcodes_of(part) for pair in value.items() for part in pair) + b"d"
    if isinstance(value, list | tuple):
        return b"(" + b"".join(map(opcodes_of, value)) + (b"l" if isinstance(value, list) else b"t")
    if isinstance(value, str) and len(value) < 256 and all(ord(c) < 256 for c in value):
        return b"U" + bytes([len(value)]) + value.encode("latin1")
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(raw)) + raw
    if type(value) is int and abs(value) < 2**31:
        return b"J" + struct.pack("<i", value)
    return pickle.dumps(value, 2)[2:-1]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value inside of another, with the way to it."""
    yield at, value
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in inside:
        yield from places(inner, (*at, key))


def put(value: Any, at: Sequence[Any], new: Any) -> Any:
    """A copy with another value at that place."""
    if not at:
        return new
    if isinstance(value, dict):
        return {key: put(inner, at[1:], new) if key == at[0] else inner for key, inner in value.items()}
    return [put(inner, at[1:], new) if i == at[0] else inner for i, inner in enumerate(value)]
