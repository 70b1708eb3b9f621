"""Damaged inputs drawn from a seed, each with a command that meets it: stores, weights, YAML, arguments, places."""

from __future__ import annotations

import io
import json
import pickle
import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from safetensors.torch import load_file, save

from tests.damage.arguments import options
from tests.damage.mutations import mutate
from tests.damage.places import PLACES
from tests.damage.supplies import Supplies

FAMILIES = ("stores", "weights", "yaml", "arguments", "places")
Put = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """One damaged input and the command that meets it.

    Attributes:
        what: was done, in words.
        file: the damaged one; None of arguments.
        put: writes the damage in the file's place.
        words: of the command.
    """

    family: str
    what: str
    file: Path | None
    put: Put | None
    words: tuple[str, ...]


def make(number: int, supplies: Supplies) -> Case:
    """The case of a number; the same number makes the same."""
    rng, family = random.Random(f"input {number}"), FAMILIES[number % len(FAMILIES)]
    if family == "arguments":
        words = options(rng, supplies.ground.file, supplies.pipe)
        return Case(family, "an argument that nobody means", None, None, words)
    makers = {"stores": _store, "weights": _weights, "yaml": _yaml}
    if family == "places":
        file, words = _anything(rng, supplies)
        what = sorted(PLACES)[number // len(FAMILIES) % len(PLACES)]
        return Case(family, what, file, PLACES[what], words)
    return makers[family](number, rng, supplies)


def _written(family: str, what: str, file: Path, content: bytes, words: tuple[str, ...]) -> Case:
    return Case(family, what, file, lambda place: place.write_bytes(content), words)


def _anything(rng: random.Random, supplies: Supplies) -> tuple[Path, tuple[str, ...]]:
    """Any file of all, outputs included, and a command that reads or writes it."""
    kinds = [supplies.stored, supplies.stored, supplies.weights, supplies.written, supplies.typed]
    return rng.choice(sorted(rng.choice(kinds).items()))


def _store(number: int, rng: random.Random, supplies: Supplies) -> Case:
    file, words = rng.choice(sorted(supplies.stored.items()))
    content = file.read_bytes()
    if file.suffix == ".parquet" and rng.random() < 0.7:
        what, damaged = _table(content, rng, supplies)
    elif file.suffix in (".json", ".jsonl", ".parquet"):
        what, damaged = mutate(content, file.suffix, number)
    else:
        what, damaged = _bytes(content, rng)
    return _written("stores", what, file, damaged, words)


def _bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    at = rng.randrange(max(1, len(content)))
    return rng.choice(
        [
            (f"cut to {at} bytes", content[:at]),
            (f"byte {at} is flipped", content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]),
            ("bytes are random", rng.randbytes(rng.choice([1, 8, 100, 5000]))),
            ("it is empty", b""),
            ("it is JSON", b'{"a": 1}'),
            ("it stands twice", content * 2),
            (f"{at} zeros come first", bytes(at) + content),
            ("the last byte is missing", content[:-1]),
        ]
    )  # fmt: skip


def _table(content: bytes, rng: random.Random, supplies: Supplies) -> tuple[str, bytes]:
    """A Parquet file that is one, and holds something else."""
    table = parquet.read_table(io.BytesIO(content))
    name = rng.choice(table.column_names)
    at, rows = table.column_names.index(name), table.num_rows
    column = table.column(at)
    changes: list[tuple[str, Callable[[], pa.Table]]] = [
        (f"{name} is called x", lambda: table.rename_columns(["x" if n == name else n for n in table.column_names])),
        ("rows are lost", lambda: table.slice(0, rng.randrange(rows))),
        ("rows stand twice", lambda: pa.concat_tables([table, table.slice(0, 1 + rng.randrange(rows))])),
        ("a row takes another's place", lambda: pa.concat_tables([table.slice(1), table.slice(1, 1)])),
        ("rows are shuffled", lambda: table.take(rng.sample(range(rows), rows))),
        (f"{name} is shifted by a row", lambda: table.set_column(
            at, name, pa.chunked_array([column.slice(1), column.slice(0, 1)], column.type))),
        (f"{name} is null", lambda: table.set_column(at, name, pa.nulls(rows, column.type))),
        (f"a value of {name} is null", lambda: table.set_column(
            at, name, pa.chunked_array([pa.nulls(1, column.type), column.slice(1)], column.type))),
        (f"{name} is in text", lambda: table.set_column(at, name, pa.array(["1"] * rows))),
        (f"{name} is NaN", lambda: table.set_column(at, name, pa.array([float("nan")] * rows))),
        (f"{name} is 0", lambda: table.set_column(at, name, pa.array([0] * rows))),
        (f"{name} is a list", lambda: table.set_column(at, name, pa.array([[1, 2]] * rows))),
        (f"{name} is a date", lambda: table.set_column(at, name, pa.array([10**9] * rows, pa.timestamp("s")))),
        (f"{name} stands twice", lambda: table.append_column(name, column)),
        ("all columns are dropped", lambda: table.select([])),
        ("it is another run's", lambda: parquet.read_table(rng.choice(supplies.expressions))),
    ]  # fmt: skip
    what, change = rng.choice(changes)
    sink = io.BytesIO()
    parquet.write_table(change(), sink)
    return what, sink.getvalue()


def _weights(number: int, rng: random.Random, supplies: Supplies) -> Case:
    file, words = rng.choice(sorted(supplies.weights.items()))
    if file.name == "config.json" and rng.random() < 0.8:
        what, damaged = _shape(file.read_bytes(), rng)
    elif file.suffix == ".json":
        what, damaged = mutate(file.read_bytes(), ".json", number)
    elif file.suffix == ".safetensors" and rng.random() < 0.7:
        what, damaged = _tensors(file, rng)
    elif file.suffix == ".pth" and rng.random() < 0.7:
        what, damaged = _pickled(file, rng)
    else:
        what, damaged = _bytes(file.read_bytes(), rng)
    return _written("weights", what, file, damaged, words)


WRONG: tuple[Any, ...] = (1e30, -1, 0, "768", 10**12, None, [], {}, True, 1.5, "nothing", 2**63, -1e30, 7, "")


def _shape(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    document = json.loads(content)
    name, value = rng.choice(sorted(document)), rng.choice(WRONG)
    return f"{name} is {value!r}", json.dumps({**document, name: value}).encode()


def _other(tensor: torch.Tensor, rng: random.Random) -> tuple[str, torch.Tensor]:
    return rng.choice(
        [
            ("of another shape", lambda: torch.zeros(3)),
            ("a number", lambda: torch.tensor(1.0)),
            ("empty", lambda: torch.zeros(0)),
            ("of whole numbers", lambda: torch.zeros(tensor.shape, dtype=torch.int64)),
            ("of booleans", lambda: torch.zeros(tensor.shape, dtype=torch.bool)),
            ("of half precision", lambda: tensor.half()),
            ("transposed", lambda: tensor.T.contiguous() if tensor.ndim == 2 else tensor[None]),
        ]
    )  # fmt: skip


def _tensors(file: Path, rng: random.Random) -> tuple[str, bytes]:
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    kind = rng.choice(["tensor", "tensor", "dropped", "added", "length", "header", "metadata"])
    name = rng.choice([key for key in header if key != "__metadata__"])
    if kind in ("tensor", "dropped", "added"):
        state = load_file(file)
        what = f"{name} is {kind}"
        if kind == "tensor":
            called, change = _other(state[name], rng)
            what, state[name] = f"{name} is {called}", change()
        elif kind == "dropped":
            del state[name]
        else:
            state["x"] = torch.zeros(2)
        return what, save(state, header.get("__metadata__"))
    if kind == "length":
        length = rng.choice([0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1])
        return f"the header's length is {length}", struct.pack("<Q", length) + content[8:]
    if kind == "metadata":
        metadata = header.get("__metadata__", {})
        for key in metadata or {"format": ""}:
            metadata[key] = rng.choice(["", "{}", "[]", "null", "3", "{", '{"backbone": 3}', "[" * 2000,
                                        _number(metadata.get(key, ""), rng)])  # fmt: skip
        return "what it says of itself is another", save(load_file(file), metadata)
    what, damaged = mutate(json.dumps(header).encode(), ".json", rng.randrange(10**6))
    return f"header: {what}", struct.pack("<Q", len(damaged)) + damaged + content[8 + size :]


def _number(text: str, rng: random.Random) -> str:
    """A text with one of its numbers replaced."""
    places = list(re.finditer(r"\d+", text))
    if not places:
        return text
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(["-1", "0", "10000000000", '"x"', "null", "1.5"]) + text[place.end() :]


def _pickled(file: Path, rng: random.Random) -> tuple[str, bytes]:
    state = torch.load(file, weights_only=True)
    name = rng.choice(sorted(state))
    called, change = _other(state[name], rng)
    others: list[tuple[str, Callable[[], Any]]] = [
        ("a list", lambda: [1, 2]),
        ("a number", lambda: 3),
        ("nothing", lambda: None),
        ("a tensor", lambda: torch.zeros(3)),
        ("nested", lambda: {"state_dict": {"state_dict": state}}),
        ("keyed by numbers", lambda: dict(enumerate(state.values()))),
        ("of lists", lambda: {key: [1.0] for key in state}),
        ("without one", lambda: {key: value for key, value in state.items() if key != name}),
        ("with a sparse tensor", lambda: {**state, name: state[name].to_sparse()}),
        ("with a tensor without values", lambda: {**state, name: state[name].to("meta")}),
        ("with a path", lambda: {**state, name: Path("/")}),
        ("of complex numbers", lambda: {key: value.to(torch.complex64) for key, value in state.items()}),
        (f"with {name} {called}", lambda: {**state, name: change()}),
        (f"with {name} {called}", lambda: {**state, name: change()}),
    ]
    what, other = rng.choice(others)
    if rng.random() < 0.2:
        return "a plain pickle", pickle.dumps(rng.choice([{"a": 1}, [1] * 10, Path("/"), {1: {2: 3}}]))
    sink = io.BytesIO()
    torch.save(other(), sink)
    return what, sink.getvalue()


VALUES: tuple[str, ...] = (
    "null", "true", "-7", "3.5", "text", "''", "[]", "{}", "[[1]]", "{x: null}", "1e400", ".nan", "-.inf",
    "2026-01-01", "12:30:45", "0x1f", "0o17", "1_000_000", "9" * 30, "9" * 5000, "!!python/object/apply:os.getcwd []",
    "!!binary aGk=", "!!set {a}", "!!timestamp 2026-01-01", "!!float x", "!!int x", "*nowhere", "&a [*a]",
    "&a {b: *a}", '"\\0"', '"\\ud800"', '"\\U0010ffff"', "${oc.env:HOME}", "${base}", "${a.b", "${.}", "${title}",
    "@x", "`x`", "%x", "'", '"', "[", "{", "|", ">", "- a", "? a", "yes", "\u202e", "é漢字", "\x07", "a: b: c", "[a, b",
    "{<<: {a: 1}}", "[1, a, null, {}]", "x" * 5000, "[" * 60 + "]" * 60,
)  # fmt: skip
LINES: tuple[str, ...] = (
    "\tx: 1", "x: 1", "title: again", "? [a, b]\n: c", "<<: {title: x}", "---", "...", "%YAML 9.9", "3: 4", "null: 1",
    "[a]: b", "'': 1", "é: 1", "base.x: 1", "\x00", "\ufeff", "x: &a [1]\ny: *a", "- 1", "# nothing", "settings:",
    "axes: {a.b: [1, 2]}", "axes: {training.steps: [1, x, {}, 1e400]}", "exclude: [{a: 1}]", "seeds: 0-99999999999",
    "seeds: [1, 1]", "seeds: []", "instead: {a: 1}", "report: {splits: [nowhere], metrics: [x]}",
    "then: [table, table, x]", "baseline: [a]",
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"
    "g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]",
)  # fmt: skip


def _yaml(number: int, rng: random.Random, supplies: Supplies) -> Case:
    file, words = rng.choice(sorted(supplies.typed.items()))
    text = file.read_text()
    if rng.random() < 0.15:
        what, damaged = _bytes(text.encode(), rng)
        return _written("yaml", what, file, damaged, words)
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    if rng.random() < 0.65:
        places = list(re.finditer(r"(?<=: )[^\s,{}\[\]]+|(?<=\[)[^\],{]+|\{[^{}]*\}", text))
        place, value = rng.choice(places), rng.choice(VALUES)
        what, text = f"{place[0]!r} becomes {value[:40]!r}", text[: place.start()] + value + text[place.end() :]
    elif rng.random() < 0.6:
        line = rng.choice(LINES)
        what, text = f"{line[:40]!r} before line {at + 1}", "\n".join([*lines[:at], line, *lines[at:]]) + "\n"
    else:
        what, changed = rng.choice(
            [
                ("a line stands twice", [*lines[:at], lines[at], *lines[at:]]),
                ("a line is missing", lines[:at] + lines[at + 1 :]),
                ("a line is indented", [*lines[:at], f"   {lines[at]}", *lines[at + 1 :]]),
                ("a line is not indented", [*lines[:at], lines[at].lstrip(), *lines[at + 1 :]]),
                ("lines are in another order", rng.sample(lines, len(lines))),
                ("it is nested", ["x: " + rng.choice("[{") * rng.choice([49, 60, 3000, 100_000])]),
            ]
        )  # fmt: skip
        text = "\n".join(changed) + "\n"
    encoding = rng.choice(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "latin-1"])
    damaged = text.encode(encoding, errors="replace").replace(b"\n", rng.choice([b"\n"] * 6 + [b"\r\n", b"\r"]))
    return _written("yaml", f"{what}, in {encoding}", file, damaged, words)
