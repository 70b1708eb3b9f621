"""Damage to a record, drawn from a seed: types swapped, keys dropped, cut short, nested, surrogates, huge numbers."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

HUGE = ["1e999", "-1e999", "1" + "0" * 400, "9" * 25, "NaN", "Infinity", "1" + "0" * 5000]
OTHER_TYPES: list[Any] = [None, True, -7, 3.5, "text", [], {}, [[1]], {"x": None}, 10**30, 1e300, ""]
Path_ = tuple[Any, ...]


def mutate(content: bytes, suffix: str, seed: int) -> tuple[str, bytes]:
    """What was done, and the damaged content; the same seed does the same."""
    rng = random.Random(seed)
    if suffix == ".parquet":
        return _parquet(content, rng)
    if suffix == ".jsonl":
        lines = content.splitlines()
        at = rng.randrange(len(lines))
        what, lines[at] = _json(lines[at], rng)
        return f"line {at + 1}: {what}", b"\n".join(lines) + (b"" if rng.random() < 0.2 else b"\n")
    return _json(content, rng)


def _json(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    kinds: list[Callable[[bytes, random.Random], tuple[str, bytes]]] = [
        _swapped, _swapped, _swapped, _dropped, _dropped, _cut, _nested, _surrogate, _huge, _bytes, _whole,
    ]  # fmt: skip
    return rng.choice(kinds)(content, rng)


def _places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Every place of a document, deepest ones included."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _shallow(document: Any, rng: random.Random) -> Path_:
    """A place, near the top more often than deep inside."""
    places = list(_places(document))
    near = [path for path in places if len(path) <= 2]
    return rng.choice(near if near and rng.random() < 0.7 else places or [()])


def _put(document: Any, path: Path_, value: Any) -> Any:
    if not path:
        return value
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


def _swapped(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    document = json.loads(content)
    path, value = _shallow(document, rng), rng.choice(OTHER_TYPES)
    return f"{path} becomes {value!r}", json.dumps(_put(document, path, value)).encode()


def _dropped(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    document = json.loads(content)
    path = _shallow(document, rng)
    if not path:
        return "nothing is left", b"{}"
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return f"{path} is dropped", json.dumps(document).encode()


def _cut(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    length = rng.randrange(len(content))
    return f"cut to {length} bytes", content[:length]


def _nested(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    document = json.loads(content)
    path, depth = _shallow(document, rng), rng.choice([50, 150, 199, 5000, 100_000])
    text = json.dumps(_put(document, path, "NESTED"))
    opening, closing = rng.choice([("[", "]"), ('{"x": ', "}")])
    return f"{path} is nested {depth} deep", text.replace('"NESTED"', f"{opening * depth}1{closing * depth}").encode()


def _surrogate(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    document = json.loads(content)
    path = _shallow(document, rng)
    text = json.dumps(_put(document, path, "SURROGATE"))
    return f"{path} holds a lone surrogate", text.replace("SURROGATE", rng.choice(["\\ud800", "a\\udfffb"])).encode()


def _huge(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    document = json.loads(content)
    path, number = _shallow(document, rng), rng.choice(HUGE)
    text = json.dumps(_put(document, path, "HUGE"))
    return f"{path} becomes {number[:30]}", text.replace('"HUGE"', number).encode()


def _bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    at = rng.randrange(max(1, len(content)))
    return f"byte {at} is another", content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]


def _whole(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    other = rng.choice([b"", b"null", b"[]", b"3", b'"text"', b"\xff\xfe\x00", b"{}", b"\x00" * 50, b"[" * 10])
    return f"all of it becomes {other[:12]!r}", other


def _parquet(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(["cut", "flip", "flip", "drop", "swap", "swap", "rows", "whole"])
    if kind == "cut":
        return _cut(content, rng)
    if kind == "whole":
        return _whole(content, rng)
    if kind == "flip":
        at = rng.randrange(len(content))
        return f"byte {at} is flipped", content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    table = parquet.read_table(io.BytesIO(content))
    name = rng.choice(table.column_names)
    at = table.column_names.index(name)
    if kind == "rows":
        table, what = table.slice(0, rng.randrange(table.num_rows)), "rows are lost"
    elif kind == "drop":
        table, what = table.drop_columns([name]), f"column {name} is dropped"
    else:
        values = rng.choice(
            [pa.array(["text"] * table.num_rows), pa.array([-5] * table.num_rows), pa.array([1.5] * table.num_rows),
             pa.array([None] * table.num_rows), pa.array([[1]] * table.num_rows), pa.array([2**62] * table.num_rows),
             pa.array([float("nan")] * table.num_rows), pa.array([True] * table.num_rows)]
        )  # fmt: skip
        table, what = table.set_column(at, name, values), f"column {name} becomes {values.type}"
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return what, sink.getvalue()


def restore(file: Path, content: bytes) -> None:
    """Put a file's content back, whatever commands made of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
