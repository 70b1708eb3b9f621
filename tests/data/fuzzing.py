"""Damaged data sets, thousands of them, each handed to the command line.

    python -m tests.data.fuzzing SCRATCH [PART OF "KIND SEED"] [TIMES AS MANY]

Every case is a function of its kind and seed. It gets a folder of its own, SCRATCH/case, outside of which nothing may
be written. SCRATCH/outcomes.jsonl gets a line a case, and one at the end. The cases run in a fork: one that takes the
whole process along is an outcome like any other.
"""

from __future__ import annotations

import copyreg
import faulthandler
import functools
import gc
import io
import json
import os
import pickle
import pickletools
import random
import re
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from tests.data import fixtures
from tests.data.fixtures import square

HEIGHT, WIDTH = fixtures.SIZE
SECONDS = 20
MEMORY = 2 * 1024**3
"""Of address space beyond what the libraries take."""
MOST_DEATHS = 40
SENTINEL = "harm"
"""In SCRATCH; what hostile files try to make."""
PAYLOAD = "fuzz_payload"
"""A module that makes the sentinel when it is imported."""

Command = Literal["prepare", "check", "evaluate"]
Files = dict[str, bytes]
"""By path under the root; one that ends in a slash is a folder."""


@dataclass(frozen=True)
class Case:
    """One damaged data set and what is asked of it.

    Attributes:
        refused: it must end with exit code 2.
        more: further arguments.
        results: files under the results folder.
    """

    command: Command
    name: str
    files: Files
    refused: bool = False
    more: tuple[str, ...] = ()
    results: Files = field(default_factory=dict)


Maker = Callable[[random.Random, int], Case]
KINDS: dict[str, tuple[int | Callable[[], int], bool, Maker]] = {}
"""How many cases of each kind there are, whether there can be more, and how to make one."""


def kind(count: int | Callable[[], int], more: bool = True) -> Callable[[Maker], Maker]:
    """A kind of which each seed is a case; one that goes through a list has no more than that."""

    def register(maker: Maker) -> Maker:
        KINDS[maker.__name__] = count, more, maker
        return maker

    return register


def plan(times: int = 1) -> Iterator[tuple[str, int]]:
    for name, (count, more, _) in KINDS.items():
        for seed in range((count if isinstance(count, int) else count()) * (times if more else 1)):
            yield name, seed


def make(name: str, seed: int) -> Case:
    return KINDS[name][2](random.Random(f"{name} {seed}"), seed)


# The pristine data sets

IMAGES = 3
IMAGE = f"images/train2014/{fixtures.file_name(1)}"
INSTANCES = "refcoco/instances.json"
REFS = "refcoco/refs(unc).p"
GREFS = "grefcoco/grefs(unc).json"
ANNS = "anns/refcoco.json"
PREDICTIONS = "predictions.json"
PLACE = "prepared/refcoco-unc"
RECORD = f"{PLACE}/prepared.json"
PRISTINE: dict[str, Files] = {}
"""By form: refs, grefs, released, and prepared, which are the tables of the first."""


def pristine(form: str) -> Files:
    return dict(PRISTINE[form])


def read_back(root: Path) -> Files:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def write_pristine(folder: Path) -> None:
    for form, write in (
        ("refs", fixtures.write_refcoco),
        ("grefs", fixtures.write_grefcoco),
        ("released", fixtures.write_released),
    ):
        write(folder / form, images=IMAGES)
        PRISTINE[form] = read_back(folder / form)


def instances() -> dict[str, Any]:
    return fixtures.instances(IMAGES)


def refs() -> list[dict[str, Any]]:
    return fixtures.refs(IMAGES, fixtures.SPLITS["unc"])


def predictions() -> list[dict[str, Any]]:
    """Of each expression of the first split."""
    mask = fixtures.mask_of(5, 5, 20)
    forms = [fixtures.compressed(mask), [square(5, 5, 20)], fixtures.plain_rle(mask), None]
    return [{"sent_id": i, "segmentation": forms[i % 4]} for i in range(6)]


@functools.cache
def picture(form: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


# Damages


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
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    if isinstance(value, Opcodes):
        return bytes(value)
    if isinstance(value, dict):
        return b"(" + b"".join(_opcodes(part) for pair in value.items() for part in pair) + b"d"
    if isinstance(value, list | tuple):
        return b"(" + b"".join(map(_opcodes, value)) + (b"l" if isinstance(value, list) else b"t")
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


def often_prepare(rng: random.Random) -> Command:
    return "check" if rng.random() < 0.3 else "prepare"


def of_refs(command: Command, content: bytes | None = None, document: Any = None, **more: Any) -> Case:
    files = pristine("refs")
    if content is not None:
        files[REFS] = content
    if document is not None:
        files[INSTANCES] = as_json(document)
    return Case(command, "refcoco", files, **more)


def of_file(command: Command, form: str, file: str, content: bytes, **more: Any) -> Case:
    return Case(command, "grefcoco" if form == "grefs" else "refcoco", pristine(form) | {file: content}, **more)


# Each form: its bytes, then its structure

PICKLES = (*fixtures.PICKLES.values(), *(functools.partial(pickle.dumps, protocol=p) for p in (0, 1, 4)))


@kind(260)
def bytes_of_refs(rng: random.Random, seed: int) -> Case:
    return of_refs(often_prepare(rng), hurt(rng, PICKLES[seed % len(PICKLES)](refs())))


@kind(250)
def structure_of_refs(rng: random.Random, seed: int) -> Case:
    bent = bend(rng, slim(refs()), (*WRONG, *WRONG_IN_PICKLES))
    return of_refs(often_prepare(rng), as_pickle(bent, (0, 1, 2, 4)[seed % 4]))


@kind(120)
def bytes_of_instances(rng: random.Random, seed: int) -> Case:
    return of_file(often_prepare(rng), "refs", INSTANCES, hurt(rng, PRISTINE["refs"][INSTANCES]))


@kind(240)
def structure_of_instances(rng: random.Random, seed: int) -> Case:
    return of_refs(often_prepare(rng), document=bend(rng, slim(instances()), (*WRONG, *WRONG_IN_JSON)))


@kind(80)
def bytes_of_grefs(rng: random.Random, seed: int) -> Case:
    return of_file(often_prepare(rng), "grefs", GREFS, hurt(rng, PRISTINE["grefs"][GREFS]))


@kind(160)
def structure_of_grefs(rng: random.Random, seed: int) -> Case:
    bent = bend(rng, slim(fixtures.grefs(IMAGES)), (*WRONG, *WRONG_IN_JSON))
    return of_file(often_prepare(rng), "grefs", GREFS, as_json(bent))


@kind(70)
def bytes_of_anns(rng: random.Random, seed: int) -> Case:
    return of_file(often_prepare(rng), "released", ANNS, hurt(rng, PRISTINE["released"][ANNS]))


@kind(150)
def structure_of_anns(rng: random.Random, seed: int) -> Case:
    bent = bend(rng, json.loads(PRISTINE["released"][ANNS]), (*WRONG, *WRONG_IN_JSON))
    return of_file(often_prepare(rng), "released", ANNS, as_json(bent))


@kind(100)
def bytes_of_masks(rng: random.Random, seed: int) -> Case:
    file = f"masks/refcoco/{seed % 9}.npy"
    content = PRISTINE["released"][file]
    # The head is where an array's size is said.
    content = hurt(rng, content[:128]) + content[128:] if rng.random() < 0.7 else hurt(rng, content)
    return of_file(often_prepare(rng), "released", file, content)


# Masks

ZEROS = [0] * 4000 + [HEIGHT * WIDTH]
"""Runs of nothing, more than the image has pixels: they add up, and overflow what merges them."""
COUNTS: tuple[Any, ...] = (
    "", "0", "P", "o" * 12, "`" * 13 + "0", "ooooooo0", "é", "\0\0", "l" * 5000, "0" * 100_000, "/", "~", "1" * 3072,
    [], [0], [3072], [2**31], [2**62], [2**64], [10**400], [-1, 3073], [3071.5, 0.5], [float("nan")], [float("inf")],
    [2**31, -(2**31), 3072], [True, 3071], ["3072"], [[3072]], [None], [1] * 3072, [3072, 0, 0, 0],
    [0] * 100_000 + [3072], [2**32 + 3072], [2**63, 3072 - 2**63], [3072.0], [1e18], [-0.0, 3072], 3072, None, {}, True,
    {"0": 3072}, [1, 0] * 50_000 + [3072 - 50_000], [1, 0] * 1536 + [0, 1] * 1536, ZEROS,
    coco_mask.frPyObjects({"size": list(fixtures.SIZE), "counts": ZEROS}, *fixtures.SIZE)["counts"].decode(),
)  # fmt: skip
SIZES: tuple[Any, ...] = (
    [64, 48], [48], [48, 64, 1], [], None, "48", [48.0, 64.0], ["48", "64"], [10**9, 10**9], [2**31, 2**31], [-48, -64],
    [0, 0], [None, None], [[48], [64]], {"0": 48, "1": 64}, [True, 64], [48, 10**400], 48, [float("nan"), 64],
)  # fmt: skip
COORDINATES: tuple[Any, ...] = (
    1e18, -1e18, float("nan"), float("inf"), float("-inf"), 10**400, -(10**400), 2**31, -(2**31), 2**63, 1e308, 128,
    128.1, -64, -65, 96, 97, True, None, "5", [5], 1e-320, -0.0,
)  # fmt: skip


def bad_segmentation(rng: random.Random) -> Any:
    sound = fixtures.mask_of(rng.randrange(8), 2, 6)
    polygon: list[Any] = square(1, 1, 5)
    match rng.randrange(5):
        case 0:
            return fixtures.compressed(sound) | {"counts": rng.choice(COUNTS)}
        case 1:
            return rng.choice((fixtures.compressed, fixtures.plain_rle))(sound) | {"size": rng.choice(SIZES)}
        case 2:
            rle = fixtures.compressed(sound)
            return rle | {"counts": hurt(rng, rle["counts"].encode()).decode("latin1")}
        case 3:
            for _ in range(rng.randint(1, 4)):
                polygon[rng.randrange(8)] = rng.choice(COORDINATES)
            return [polygon] if rng.random() < 0.7 else [square(2, 2, 3), polygon]
        case _:
            length = rng.choice((0, 1, 2, 4, 5, 6, 7, 10_000, 10_001))
            polygon = [float(rng.randint(-10, 20)) for _ in range(length)]
            return rng.choice(([polygon], [[], polygon], [[polygon]], polygon, [polygon] * 20))


@kind(160)
def segmentations(rng: random.Random, seed: int) -> Case:
    document = instances()
    command: Command = rng.choice(("prepare", "prepare", "check", "evaluate"))
    # Scored is the first image.
    document["annotations"][rng.randrange(3 if command == "evaluate" else 9)]["segmentation"] = bad_segmentation(rng)
    case = of_refs(command, document=document)
    return replace(case, files=case.files | {PREDICTIONS: as_json(predictions())})


@kind(24, more=False)
def huge_images(rng: random.Random, seed: int) -> Case:
    """Sizes that images claim, and polygons that fill them."""
    sizes = (10**9, 10**9), (2**31, 2**31), (2**26, 1), (1, 2**26), (8192, 8192), (8192, 8193), (0, 0), (2**62, 4)
    height, width = sizes[seed % 8]
    document = instances()
    document["images"][0] |= {"height": height, "width": width}
    far = [0.0, 0.0, float(width), 0.0, float(width), float(height), 0.0, float(height)]
    # Each of its edges crosses the image, so that walking along them takes far more than the file.
    zigzag = [float(v) for i in range(4000) for v in (width * (i % 2), height * (i % 2) - i)]
    document["annotations"][0]["segmentation"] = (
        [far],
        [zigzag],
        {"size": [height, width], "counts": [height * width]},
    )[seed // 8]
    for annotation in document["annotations"][1:3]:
        annotation["segmentation"] = []
    return of_refs("prepare", document=document)


def npy(header: str | bytes, version: tuple[int, int] = (1, 0), body: bytes = bytes(HEIGHT * WIDTH)) -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version[0] == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes(version) + length + raw + body


def header(shape: str = "(48, 64)", descr: str = "'|u1'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n"


SHAPES = (
    "(1000000, 1000000)", "(4611686018427387904, 4)", "(-1, 64)", "(-48, -64)", "(48,)", "()", "(48, 64, 2)", "48",
    "(48, 64, 1, 1)", "(True, 3072)", "(48.0, 64)", "('48', 64)", "(0, 64)", "(0, 10**9)", "(48, 64,", "None",
    "(1,)*192", "(64, 48)", "(8192, 8193)", "(8192, 8192)", "(2147483648, 2147483648)", "(" * 300 + ")" * 300,
    "(48, " + "9" * 5000 + ")",
)  # fmt: skip
DESCRIPTIONS = (
    "'|O'", "'<f8'", "'|S1000000000'", "'<U99999999'", "'|V1'", "'M8[s]'", "[('a', '|u1')]", "[('a', '|O')]", "'x'",
    "'<c16'", "None", "()", "'|u1' * 10**9", "'<f2'", "'|b1'", "'|S0'", "__import__('os').system('touch harm')",
    "[('a', '|u1', (1000000, 1000000))]", "'|u1,|u1'", "'" + "x" * 9000 + "'",
)  # fmt: skip
ARRAYS: tuple[Callable[[], bytes], ...] = (
    lambda: b"",
    lambda: b"\x93NUMPY",
    lambda: pickle.dumps(np.zeros(fixtures.SIZE)),
    lambda: b"PK\x03\x04" + bytes(100),
    lambda: _archive(),
    lambda: npy(header(), (9, 9)),
    lambda: npy(header(), (2, 0)),
    lambda: npy(header(), (3, 0)),
    lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    lambda: npy("{'shape': (48, 64)}\n"),
    lambda: npy("x" * 60_000),
    lambda: npy(header() + " " * 9_900),
    lambda: npy(header() + " " * 20_000),
    lambda: npy(b"\xff\xfe" * 50),
    lambda: npy(header(), body=b""),
    lambda: npy(header(descr="'|O'"), body=pickle.dumps(Hostile())),
    lambda: npy(header(descr="'<f4'"), body=struct.pack("<f", float("nan")) * 3072),
    lambda: npy(header(order="True")),
    lambda: npy(header(order="'x'")),
    lambda: npy("[" * 5000),
)


def _archive() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, a=np.zeros(fixtures.SIZE, dtype=np.uint8))
    return stream.getvalue()


@kind(len(SHAPES) + len(DESCRIPTIONS) + len(ARRAYS), more=False)
def arrays(rng: random.Random, seed: int) -> Case:
    contents = [
        *(functools.partial(npy, header(shape=shape)) for shape in SHAPES),
        *(functools.partial(npy, header(descr=descr)) for descr in DESCRIPTIONS),
        *ARRAYS,
    ]
    return of_file("prepare", "released", f"masks/refcoco/{seed % 9}.npy", contents[seed]())


# Pickles that want more than to be read


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {SENTINEL}",)


TOUCH = f"touch {SENTINEL}".encode()
COMMAND = b"S'" + TOUCH + b"'\n"
IMPORTING: dict[str, bytes] = {
    "GLOBAL": b"cos\nsystem\n(" + COMMAND + b"tR",
    "GLOBAL of posix": b"cposix\nsystem\n(" + COMMAND + b"tR",
    "GLOBAL alone": f"c{PAYLOAD}\nanything\n".encode(),
    "GLOBAL with a dotted name": b"\x80\x04cos\npath.os.system\n(" + COMMAND + b"tR",
    "GLOBAL of builtins": f"cbuiltins\nexec\n(S'import {PAYLOAD}'\ntR".encode(),
    "GLOBAL of Python 2": f"c__builtin__\neval\n(S'__import__(\"{PAYLOAD}\")'\ntR".encode(),
    "GLOBAL of pickle": b"cpickle\nloads\n(S" + repr(pickle.dumps(Hostile(), 0))[1:].encode() + b"\ntR",
    "GLOBAL of an ordered dictionary": b"ccollections\nOrderedDict\n)R",
    "GLOBAL of numpy": b"cnumpy\nload\n(S'../../outside/object.npy'\ntR",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93(" + COMMAND + b"tR",
    "STACK_GLOBAL by memo": b"\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93(" + COMMAND + b"tR",
    "STACK_GLOBAL of numbers": b"K\x01K\x02\x93",
    "INST": b"(" + COMMAND + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + COMMAND + b"o",
    "NEWOBJ": b"cos\nsystem\n(" + COMMAND + b"t\x81",
    "NEWOBJ_EX": b"cos\nsystem\n(" + COMMAND + b"t}\x92",
    "EXT1": b"\x82\x4d(" + COMMAND + b"tR",
    "EXT2": b"\x83\x4d\x00(" + COMMAND + b"tR",
    "EXT4": b"\x84\x4d\x00\x00\x00(" + COMMAND + b"tR",
    "EXT1 of nothing": b"\x82\x01",
    "PERSID": b"P" + TOUCH + b"\n",
    "BINPERSID": COMMAND + b"Q",
    "REDUCE of a string": COMMAND + b")R",
    "BUILD": b"}}b",
    "BUILD of a list": b"]}S'append'\nNsb",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"\x97\x98",
    "BYTEARRAY8": b"\x96\x03\x00\x00\x00\x00\x00\x00\x00abc",
    "BINBYTES": b"B\x03\x00\x00\x00abc",
    "SHORT_BINBYTES": b"C\x03abc",
    "BINBYTES8": b"\x8e\x03\x00\x00\x00\x00\x00\x00\x00abc",
    "EMPTY_SET": b"\x8f",
    "ADDITEMS": b"\x8f(K\x01\x90",
    "FROZENSET": b"(K\x01\x91",
}
"""Each leaves one value on the stack, if it is let."""
PLACES = ("alone", "first", "in a sentence", "as a key", "popped")


@kind(len(IMPORTING) * len(PLACES), more=False)
def hostile_pickles(rng: random.Random, seed: int) -> Case:
    wish = Opcodes(list(IMPORTING.values())[seed // len(PLACES)])
    document: Any = refs()
    match PLACES[seed % len(PLACES)]:
        case "alone":
            content = wish + b"."
        case "first":
            content = as_pickle([wish, *document])
        case "in a sentence":
            document[2]["sentences"][0]["sent"] = wish
            content = as_pickle(document)
        case "as a key":
            content = b"\x80\x04(" + _opcodes(document[0])[:-1] + wish + b"Ndl."
        case _:
            # What remains is sound, and the harm is done.
            content = rng.choice((b"", b"\x80\x02", b"\x80\x04")) + wish + b"0" + as_pickle(document)[2:]
    return of_refs("prepare", content, refused=True)


def _shared(one: bytes, times: int) -> Opcodes:
    """A list of the same thing many times over."""
    return Opcodes(b"](" + one + b"q\x01" + b"h\x01" * (times - 1) + b"e")


def _shared_refs(ref: dict[str, Any], times: int) -> bytes:
    return b"\x80\x02" + _shared(_opcodes(ref), times) + b"."


def _ref(**fields: Any) -> dict[str, Any]:
    return refs()[0] | fields


def _sentence(**fields: Any) -> dict[str, Any]:
    return refs()[0]["sentences"][0] | fields


GREEDY: dict[str, Callable[[], bytes]] = {
    "BINUNICODE8": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "BINUNICODE8 of 2**63": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "BINUNICODE": lambda: b"X" + struct.pack("<I", 2**32 - 1) + b"x.",
    "BINSTRING": lambda: b"T" + struct.pack("<i", 2**31 - 1) + b"x.",
    "BINSTRING below zero": lambda: b"T" + struct.pack("<i", -1) + b"x.",
    "BYTEARRAY8": lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"x.",
    "BINBYTES8": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**33) + b"x.",
    "LONG4": lambda: b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "LONG4 below zero": lambda: b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.",
    "LONG4 of a megabyte": lambda: b"\x80\x02\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20 + b".",
    "LONG of many digits": lambda: b"L" + b"9" * 100_000 + b"L\n.",
    "INT of many digits": lambda: b"I" + b"9" * 100_000 + b"\n.",
    "FRAME": lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"].",
    "LONG_BINPUT": lambda: b"]r" + struct.pack("<I", 2**32 - 1) + b".",
    "LONG_BINPUT of 2**28": lambda: b"]r" + struct.pack("<I", 2**28) + b".",
    "PUT": lambda: b"]p99999999999999\n.",
    "PUT below zero": lambda: b"]p-1\n.",
    "LONG_BINGET": lambda: b"j" + struct.pack("<I", 2**32 - 1) + b".",
    "GET": lambda: b"g99999999999999999999999\n.",
    "marks": lambda: b"(" * 1_000_000 + b".",
    "no STOP": lambda: b"]" * 100_000,
    "DUP of nothing": lambda: b"2.",
    "POP of nothing": lambda: b"0.",
    "TUPLE without a mark": lambda: b"t.",
    "APPENDS without a list": lambda: b"(K\x01e.",
    "APPEND to a number": lambda: b"K\x01K\x02a.",
    "SETITEM of a list": lambda: b"}]Ns.",
    "protocol 255": lambda: b"\x80\xff].",
    "unknown opcode": lambda: b"\xff.",
    "one ref 20,000 times": lambda: _shared_refs(refs()[0], 20_000),
    "one sentence 20,000 times": lambda: as_pickle([_ref(sentences=_shared(_opcodes(_sentence()), 20_000))]),
    "one ref with a long id 50,000 times": lambda: _shared_refs(_ref(ref_id="x" * 1_000_000), 50_000),
    "one ref with a long split 20,000 times": lambda: _shared_refs(_ref(split="x" * 1_000_000), 20_000),
    "one list of sentences 1,000 times 1,000": lambda: _laughs(1000, 1000),
    "one list of sentences 20,000 times 20,000": lambda: _laughs(20_000, 20_000),
    "one text 20,000 times": lambda: _long_text(20_000, 1900),
    "one text of a megabyte": lambda: _long_text(3000, 1_000_000),
    "lists 100,000 deep": lambda: b"]" * 100_000 + b"a" * 99_999 + b".",
    "dicts 100,000 deep": lambda: b"}N" * 100_000 + b"}" + b"s" * 100_000 + b".",
    "tuples 100,000 deep as a key": lambda: b"})" + b"\x85" * 100_000 + b"Ns.",
    "tuples 1,000,000 deep as a key": lambda: b"})" + b"\x85" * 1_000_000 + b"Ns.",
    "tuples 1,000,000 deep as an image": lambda: _in_ref("image_id", b")" + b"\x85" * 1_000_000),
    "tuples 1,000,000 deep as a referent": lambda: _in_ref("ann_id", b")" + b"\x85" * 1_000_000),
    "twice, twice, … as a key": lambda: b"})" + b"2\x86" * 60 + b"Ns.",
    "twice, twice, … as an image": lambda: _in_ref("image_id", b")" + b"2\x86" * 60),
    "twice, twice, … as a referent": lambda: _in_ref("ann_id", b"(" * 60 + b"]" + b"2l" * 60),
    "twice, twice, … as a reference": lambda: _in_ref("ref_id", b"(" * 60 + b"]" + b"2l" * 60),
    "twice, twice, … as a split": lambda: _in_ref("split", b"(" * 60 + b"]" + b"2l" * 60),
    "twice, twice, … as a sentence": lambda: _in_sentence("sent", b"(" * 60 + b"]" + b"2l" * 60),
    "twice, twice, … as a sentence's id": lambda: _in_sentence("sent_id", b"(" * 60 + b"]" + b"2l" * 60),
    "twice, twice, … as the list": lambda: b"(" * 60 + b"]" + b"2l" * 60 + b".",
    **{f"a number of many digits as {name}": functools.partial(lambda n: _in_ref(n, HUGE_NUMBER), name)
       for name in ("image_id", "ann_id", "ref_id", "split", "sentences")},
    "a number of many digits as sent_id": lambda: _in_sentence("sent_id", HUGE_NUMBER),
    "a number of many digits as sent": lambda: _in_sentence("sent", HUGE_NUMBER),
    **{f"lists 100,000 deep as {name}": functools.partial(lambda n: _in_ref(n, b"]" * 100_000 + b"a" * 99_999), name)
       for name in ("image_id", "ann_id", "ref_id", "split", "sentences")},
}  # fmt: skip


def _in_ref(name: str, opcodes: bytes) -> bytes:
    return as_pickle([_ref(**{name: Opcodes(opcodes)}), *refs()[1:]])


def _in_sentence(name: str, opcodes: bytes) -> bytes:
    return as_pickle([_ref(sentences=[_sentence(**{name: Opcodes(opcodes)})]), *refs()[1:]])


def _laughs(lists: int, sentences: int) -> bytes:
    """Refs that share one list of one sentence."""
    inner = b"](" + _opcodes(_sentence()) + b"q\x02" + b"h\x02" * (sentences - 1) + b"e"
    return _shared_refs(_ref(sentences=Opcodes(inner)), lists)


def _long_text(times: int, length: int) -> bytes:
    text = b"X" + struct.pack("<I", length) + b"x" * length
    sentence = Opcodes(_opcodes(_sentence(sent=Opcodes(text + b"q\x02"))))
    again = _opcodes(_sentence(sent=Opcodes(b"h\x02"))) + b"q\x03"
    return as_pickle([_ref(sentences=Opcodes(b"](" + sentence + again + b"h\x03" * times + b"e"))])


@kind(100)
def random_pickles(rng: random.Random, seed: int) -> Case:
    """Programs of opcodes in their proper form, in whatever order."""
    common = [op for op in pickletools.opcodes if op.name.startswith(("EMPTY", "BININT", "SHORT", "MARK", "NONE"))]
    program = [rng.choice(common if rng.random() < 0.7 else pickletools.opcodes) for _ in range(rng.randint(2, 40))]
    content = b"".join(op.code.encode("latin1") + _any_argument(rng, op) for op in program)
    return of_refs("prepare", rng.choice((b"", b"\x80\x02", b"\x80\x04")) + content + b"b.l."[seed % 4 :])


def _any_argument(rng: random.Random, op: Any) -> bytes:
    length = 0 if op.arg is None else op.arg.n
    text = rng.choice((b"1", b"-1", b"0", b"2**9", b"'x'", b"os", b"system", b"", b"1_0", b"\xd9\xa1", b"0x1", b"nan"))
    if length >= 0:
        return bytes(rng.choice((0, 0, 1, 2, 255)) for _ in range(length))
    if length == pickletools.UP_TO_NEWLINE:
        return text + b"\n" + (b"system\n" if op.name in ("GLOBAL", "INST") else b"")
    width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}.get(length, 4)
    return len(text).to_bytes(width, "little") + text


@kind(len(GREEDY), more=False)
def greedy_pickles(rng: random.Random, seed: int) -> Case:
    return of_refs("prepare", list(GREEDY.values())[seed]())


# Names that lead elsewhere


def _climbing_cases() -> Iterator[Case]:
    for i, name in enumerate(CLIMBING):
        document = as_json(put(instances(), ("images", 0, "file_name"), name))
        yield of_file("prepare", "refs", INSTANCES, document, refused=True)
        yield of_file("prepare", "grefs", "grefcoco/instances.json", document, refused=True)
        document = as_json(put(json.loads(PRISTINE["released"][ANNS]), ("train", 0, ("iid", "mask_id")[i % 2]), name))
        yield of_file("prepare", "released", ANNS, document, refused=True)
        if "\0" not in name:
            yield Case("evaluate", "refcoco", _evaluable(), True, ("--name", name))
            yield Case("check", name, pristine("refs"), True)
        if "\0" not in name and name:
            yield Case(("prepare", "check", "evaluate")[i % 3], "refcoco", _evaluable(), True, ("--split-by", name))
    for number in (-1, -11, 10**12, 10**400, 2**63):
        document = as_json(put(json.loads(PRISTINE["released"][ANNS]), ("train", 0, "iid"), number))
        yield of_file("prepare", "released", ANNS, document, refused=True)


@functools.cache
def _climbing() -> list[Case]:
    return list(_climbing_cases())


@kind(lambda: len(_climbing()), more=False)
def climbing_names(rng: random.Random, seed: int) -> Case:
    return _climbing()[seed]


# Images


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, body: bytes = b"", more: bytes = b"", colour: int = 2, depth: int = 8) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", body or zlib.compress(bytes(600))) + chunk(b"IEND", b"")


@functools.cache
def bomb(side: int) -> bytes:
    """A sound, black, grey image whose file is a thousandth of its pixels."""
    rows = zlib.compressobj(1)
    body = b"".join(rows.compress(bytes((side + 1) * 256)) for _ in range(side // 256)) + rows.flush()
    return png(side, side, body, colour=0)


def sized_jpeg(width: int, height: int) -> bytes:
    raw = bytearray(picture())
    at = raw.index(b"\xff\xc0")
    raw[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


PICTURES: tuple[Callable[[], bytes], ...] = (
    lambda: b"",
    lambda: b"no picture",
    lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    lambda: picture("GIF"),
    lambda: picture("TIFF"),
    lambda: picture("EPS"),
    lambda: picture("PDF"),
    lambda: picture("ICO"),
    lambda: picture("BMP"),
    lambda: picture("WEBP"),
    lambda: picture("PNG"),
    lambda: picture("JPEG2000"),
    lambda: png(2**31 - 1, 2**31 - 1),
    lambda: png(2**32 - 1, 2**32 - 1),
    lambda: png(0, 0),
    lambda: png(65535, 65535),
    lambda: png(WIDTH, HEIGHT),
    lambda: png(WIDTH, HEIGHT, zlib.compress(bytes(10**8), 1)),
    lambda: png(WIDTH, HEIGHT, b"no stream"),
    lambda: png(WIDTH, HEIGHT, more=chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**8), 1))),
    lambda: png(WIDTH, HEIGHT, more=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8), 1))),
    lambda: png(WIDTH, HEIGHT, more=chunk(b"tEXt", b"x\0" + b"y" * 10**6)),
    lambda: png(WIDTH, HEIGHT, more=struct.pack(">I", 2**31 - 1) + b"tEXt"),
    lambda: png(WIDTH, HEIGHT, colour=3),
    lambda: png(WIDTH, HEIGHT, colour=9),
    lambda: png(WIDTH, HEIGHT, depth=16),
    lambda: png(WIDTH, HEIGHT, depth=0),
    lambda: png(WIDTH, HEIGHT, more=chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    lambda: bomb(8192),
    lambda: sized_jpeg(65535, 65535),
    lambda: sized_jpeg(65500, 1),
    lambda: sized_jpeg(0, 0),
    lambda: sized_jpeg(8192, 8192),
    lambda: picture()[:2],
    lambda: picture()[:-2],
    lambda: picture() + b"\0" * 10**6,
    lambda: picture()[:200] + picture(),
    lambda: picture()[:2] + b"\xff\xe1\xff\xffExif\0\0" + picture()[2:],
    lambda: picture()[:2] + b"\xff\xfe\xff\xff" * 1000 + picture()[2:],
    lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
    lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, WIDTH, -HEIGHT, 1, 8, 1, 0, 0, 0, 2**31, 0),
    lambda: b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\xff" * 10,
)


@kind(len(PICTURES) * 2, more=False)
def pictures(rng: random.Random, seed: int) -> Case:
    return of_file(("prepare", "check")[seed % 2], "refs", IMAGE, PICTURES[seed // 2]())


@kind(6, more=False)
def bombs(rng: random.Random, seed: int) -> Case:
    """Large images of which the annotations tell the truth, but for what is inside."""
    side = 8192 if seed < 4 else 8448
    content = (bomb(side), png(side, side), sized_jpeg(side, side))[seed // 2 if seed < 4 else 2]
    document = instances()
    document["images"][0] |= {"height": side, "width": side}
    for annotation in document["annotations"][:3]:
        annotation["segmentation"] = [square(1, 1, 5)]
    files = pristine("refs") | {INSTANCES: as_json(document), IMAGE: content}
    return Case(("prepare", "check")[seed % 2], "refcoco", files)


@kind(120)
def bytes_of_images(rng: random.Random, seed: int) -> Case:
    content = picture(("JPEG", "PNG", "JPEG", "WEBP", "BMP")[seed % 5])
    # Half of the damage to the heads: that is where sizes are.
    content = hurt(rng, content[:64]) + content[64:] if rng.random() < 0.5 else hurt(rng, content)
    return of_file("prepare" if rng.random() < 0.3 else "check", "refs", IMAGE, content)


# Prepared tables


def images() -> Files:
    return {file: content for file, content in PRISTINE["refs"].items() if file.startswith("images/")}


def _prepared(rng: random.Random) -> Files:
    """With the files that they were made from, or without."""
    files = pristine("refs") if rng.random() < 0.5 else images()
    return files | PRISTINE["prepared"]


@kind(120)
def bytes_of_tables(rng: random.Random, seed: int) -> Case:
    files = _prepared(rng)
    file = f"{PLACE}/" + ("images.arrow", "objects.arrow", "expressions.arrow")[seed % 3]
    files[file] = hurt(rng, files[file])
    return Case("check", "refcoco", files)


@kind(60)
def bytes_of_the_record(rng: random.Random, seed: int) -> Case:
    files = _prepared(rng)
    files[RECORD] = hurt(rng, files[RECORD])
    return Case("check", "refcoco", files)


SOURCES = ("/dev/zero", "/dev/stdin", "..", "\0", "", "x" * 5000, "../../../outside/secret.jpg", "\ud800", ".")


@kind(100)
def structure_of_the_record(rng: random.Random, seed: int) -> Case:
    files = _prepared(rng)
    record = json.loads(files[RECORD])
    if seed < len(SOURCES):
        record["sources"][0]["file"] = SOURCES[seed]
    elif seed < 3 * len(SOURCES):
        record[("image_folder", "folder")[seed % 2]] = SOURCES[seed // 2 - len(SOURCES) // 2 - 1]
    else:
        record = bend(rng, record, (*WRONG, *WRONG_IN_JSON, *SOURCES))
    files[RECORD] = as_json(record)
    return Case("check", "refcoco", files)


@kind(60, more=False)
def other_tables(rng: random.Random, seed: int) -> Case:
    """Sound files of Arrow with other columns, or none."""
    import pyarrow as pa

    files = _prepared(rng)
    name = ("images", "objects", "expressions")[seed % 3]
    table = _table(name)
    match seed // 3 % 10:
        case 0:
            table = table.slice(0, 0)
        case 1:
            table = table.slice(1)
        case 2:
            table = pa.concat_tables([table, table])
        case 3:
            table = table.drop_columns(table.column_names[0])
        case 4:
            table = table.rename_columns([f"{column}\n" for column in table.column_names])
        case 5:
            table = table.select(table.column_names[::-1])
        case 6:
            table = pa.table({"x": pa.array([None] * 10)})
        case 7:
            table = pa.table({"x": pa.array(["x" * 10_000])}).replace_schema_metadata({"two\nlines": "x" * 10_000})
        case 8:
            columns = [pa.nulls(len(table), column.type) for column in table.schema]
            table = pa.table(columns, table.schema)
        case _:
            table = pa.table([table[0].dictionary_encode(), *table.columns[1:]], table.column_names)
    files[f"{PLACE}/{name}.arrow"] = _arrow(table, seed % 2 == 0)
    return Case("check", "refcoco", files)


def _table(name: str) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(PRISTINE["prepared"][f"{PLACE}/{name}.arrow"]).read_all()


def _arrow(table: Any, as_file: bool = True) -> bytes:
    import pyarrow as pa

    stream = io.BytesIO()
    with (pa.ipc.new_file if as_file else pa.ipc.new_stream)(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


FORGED: tuple[tuple[str, str, Any], ...] = (
    *(("images", "file_name", name) for name in CLIMBING),
    *(("images", "file_name", name) for name in (None, "two\nlines.jpg")),
    *(("images", name, v) for name in ("height", "width") for v in (0, -1, 2**31 - 1, 13, None)),
    *(("images", "image_id", v) for v in (2, 99, None)),
    *(("objects", "rle", v) for v in (b"", b"x", b"\0\xff", b"o" * 100, b"`" * 13 + b"0", b"l" * 10_000, None)),
    *(("objects", "box", v) for v in ([float("nan")] * 4, [1e308] * 4, [float("inf")] * 4, None)),
    *(("objects", name, None) for name in ("ann_id", "image_id", "category", "crowd", "area")),
    *(("objects", "image_id", v) for v in (99, -1)),
    *(("objects", "area", v) for v in (0, -1, 2**62)),
    *(("expressions", "image_row", v) for v in (3, -1, 2**31 - 1, -(2**31), None)),
    *(("expressions", "object_rows", v) for v in ([5], [-1], [2**31 - 1], [None], [], None, [0] * 1000)),
    *(("expressions", "ann_ids", v) for v in ([99], [None], [], None)),
    *(("expressions", "split", v) for v in ("", "x" * 10_000, "two\nlines", None)),
    *(("expressions", "sentence", v) for v in ("", "x" * 100_000, "two\nlines", None)),
    *(("expressions", name, None) for name in ("ref_id", "sent_id", "image_id", "distractors")),
    *(("expressions", "image_id", v) for v in (99, -1)),
)


@kind(len(FORGED), more=False)
def forged_tables(rng: random.Random, seed: int) -> Case:
    """Tables with a digest that agrees, made by somebody who means harm."""
    import pyarrow as pa

    from workbench.data.tables import digest_of_tables

    name, column, value = FORGED[seed]
    tables = {n: _table(n) for n in ("images", "objects", "expressions")}
    table = tables[name]
    at = table.column_names.index(column)
    values = [value, *table[column].to_pylist()[1:]]
    tables[name] = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    record = json.loads(PRISTINE["prepared"][RECORD])
    record["digest"] = digest_of_tables(tuple(tables.values()))
    files = _prepared(rng) | {
        f"{PLACE}/{name}.arrow": _arrow(tables[name]),
        RECORD: as_json(record),
        PREDICTIONS: as_json(predictions()),
    }
    # What scoring reads, it reads; the rest is looked at.
    scored = column in ("rle", "height", "width", "ann_ids", "split", "sentence", "object_rows", "image_row")
    return Case("evaluate" if scored and rng.random() < 0.6 else "check", "refcoco", files)


# Predictions


def _evaluable(content: bytes | None = None) -> Files:
    files = images() | PRISTINE["prepared"]
    return files | {PREDICTIONS: as_json(predictions()) if content is None else content}


@kind(110)
def bytes_of_predictions(rng: random.Random, seed: int) -> Case:
    return Case("evaluate", "refcoco", _evaluable(hurt(rng, as_json(predictions()))))


@kind(160)
def structure_of_predictions(rng: random.Random, seed: int) -> Case:
    bent = as_json(bend(rng, predictions(), (*WRONG, *WRONG_IN_JSON)))
    more = ((), ("--name", "mine"), ("--split", "val"), ("--by", "length", "--by", "distractors"))[seed % 4]
    return Case("evaluate", "refcoco", _evaluable(bent), more=more)


@kind(110)
def segmentations_of_predictions(rng: random.Random, seed: int) -> Case:
    document = put(predictions(), (rng.randrange(6), "segmentation"), bad_segmentation(rng))
    return Case("evaluate", "refcoco", _evaluable(as_json(document)))


# Things that are not there, or are something else


def _odd_cases() -> Iterator[Case]:
    for form, name in (("refs", "refcoco"), ("grefs", "grefcoco"), ("released", "refcoco")):
        every = pristine(form)
        for file in [file for file in every if "masks" not in file or file.endswith("/0.npy")]:
            rest = {other: content for other, content in every.items() if other != file}
            yield Case("prepare", name, rest)
            yield Case("check", name, rest | {file + "/": b""})
            yield Case("prepare", name, rest | {file: b""})
    for file in PRISTINE["prepared"]:
        rest = {other: content for other, content in _evaluable().items() if other != file}
        yield Case("check", "refcoco", rest)
        yield Case("check", "refcoco", rest | {file + "/": b""})
        yield Case("check", "refcoco", rest | {file: b""})
    everything = pristine("refs")
    yield Case("prepare", "refcoco", everything | {"prepared": b"no folder"}, True)
    yield Case("prepare", "refcoco", everything | {PLACE: b"no folder"})
    yield Case("check", "refcoco", everything | {PLACE: b"no folder"})
    yield Case("check", "refcoco", everything | {"prepared": b"no folder"})
    yield Case("evaluate", "refcoco", images() | PRISTINE["prepared"], True)
    yield Case("evaluate", "refcoco", images() | PRISTINE["prepared"] | {PREDICTIONS + "/": b""}, True)
    no_images = {f: c for f, c in everything.items() if not f.startswith("images/")}
    yield Case("prepare", "refcoco", no_images, True)
    yield Case("prepare", "refcoco", no_images | {"images/train2014": b"no folder"}, True)
    yield Case("check", "refcoco", no_images, True)
    # Nothing in it, and nothing that is meant.
    empty = {"images": [], "annotations": [], "categories": []}
    for command in ("prepare", "check"):
        yield of_refs(command, as_pickle([]))
        yield of_refs(command, as_pickle([]), empty)
        yield of_refs(command, document=empty)
        yield of_refs(command, as_pickle([_ref(sentences=[])]))
        nobody = [ref | {"ann_id": [-1]} for ref in refs()]
        for document in (nobody, []):
            yield of_file(command, "grefs", GREFS, as_json(document))
        for text in (b"{}", b'{"train": []}', b'{"train": [], "val": []}'):
            yield of_file(command, "released", ANNS, text)
    # Names that a message has to bear.
    for name in ("two\nlines.jpg", "two\rlines.jpg", "\x1b[2J.jpg", "\ud800.jpg", "\u2028.jpg", "x" * 251 + ".jpg"):
        yield of_refs("prepare", document=put(instances(), ("images", 0, "file_name"), name), refused=True)
        yield of_refs("check", document=put(instances(), ("images", 0, "file_name"), name))
    for split in ("two\nlines", "\x1b[2J", "\ud800", "x" * 5000, "x" * 64, "a/../b", ""):
        for item in ([], 1, [{"iid": 1}], [{"iid": "x"}]):
            yield of_file("prepare", "released", ANNS, as_json({split: item}))
    many = [_ref(ref_id=i, split=f"{i:064}", sentences=[_sentence(sent_id=i)]) for i in range(1000)]
    yield of_refs("prepare", as_pickle(many))
    yield of_refs("check", as_pickle(many))
    some = as_json([{"sent_id": i, "segmentation": None} for i in range(500, 1000)])
    unprepared = pristine("refs") | {REFS: as_pickle(many), PREDICTIONS: some}
    yield Case("evaluate", "refcoco", unprepared)
    yield Case("evaluate", "refcoco", unprepared, True, ("--split", "nothing"))
    # Published numbers, which `prepare` compares with.
    good = b"dataset,split,metric,value,source\nrefcoco,val,refs,1,somewhere\n"
    for text in (good[:50], good.replace(b",1,", b",x,"), b"\xff\xfe", good + b"refcoco,\0,refs,1,x\n", b"x" * 200_000,
                 good + b'"' + b"y" * 200_000, good + b"\r\r,\n", good.replace(b",1,", b"," + b"9" * 5000 + b","),
                 good.replace(b"val", b"two\nlines"), b""):  # fmt: skip
        case = Case("prepare", "refcoco", everything)
        yield replace(case, results={"reference/dataset_statistics.csv": text})
    yield replace(Case("prepare", "refcoco", everything), results={"reference/dataset_statistics.csv/": b""})
    # The same thing twice.
    for part, at in (("images", 1), ("annotations", 1), ("categories", 1)):
        document = instances()
        document[part][at]["id"] = document[part][0]["id"]
        yield of_refs("prepare", document=document)
        document[part].append(document[part][0])
        yield of_refs("check", document=document)
    for key in ("ref_id", "ann_id", "image_id"):
        yield of_refs("check", as_pickle([ref | {key: refs()[0][key]} for ref in refs()]))
    twice = [*refs(), *refs()]
    yield of_refs("prepare", as_pickle(twice))
    yield of_refs("check", as_pickle(twice))
    yield Case("evaluate", "refcoco", _evaluable(as_json([*predictions(), *predictions()])), True)
    repeated = pristine("refs") | {REFS: as_pickle(twice)}
    yield Case("evaluate", "refcoco", repeated | {PREDICTIONS: as_json(predictions())})


@functools.cache
def _odd() -> list[Case]:
    return list(_odd_cases())


@kind(lambda: len(_odd()), more=False)
def odd_things(rng: random.Random, seed: int) -> Case:
    return _odd()[seed]


# The process that runs them


class Hang(BaseException):
    """A case took too long."""


def _ring(_signal: int, _frame: Any) -> NoReturn:
    raise Hang


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATHS = {
    "os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1,
    "os.chmod": 1, "os.chown": 1, "os.utime": 1, "os.mkfifo": 1, "shutil.rmtree": 1, "shutil.move": 2,
    "shutil.copyfile": 2, "shutil.copytree": 2, "shutil.chown": 1, "shutil.unpack_archive": 2, "tempfile.mkdtemp": 1,
    "tempfile.mkstemp": 1,
}  # fmt: skip
"""Events that change files, and how many of their arguments are paths."""
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "pty.spawn",
    "subprocess.Popen", "socket.", "ctypes.", "pickle.find_class", "urllib.", "webbrowser.", "ftplib.", "http.",
    "smtplib.", "code.__new__", "os.kill", "signal.", "sqlite3.", "builtins.input", "os.chdir",
)  # fmt: skip


class Guard:
    """Notes what a case does that it should not, by the interpreter's audit events, and keeps it from doing it."""

    def __init__(self, own: Path) -> None:
        import workbench

        self.writable = str(own / "root" / "prepared"), str(own / "results")
        packages = Path(coco_mask.__file__).parents[1], Path(workbench.__file__).parent
        self.readable = tuple(map(str, (own, sys.prefix, sys.base_prefix, *packages)))
        self.known: frozenset[str] | None = None
        self.found: list[str] = []
        self.on = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and (what := self._wrong(event, arguments)):
            self.found.append(what)
            raise PermissionError(what)

    def _wrong(self, event: str, arguments: tuple[Any, ...]) -> str:
        if event == "open":
            path, _, flags = arguments
            written = bool((flags or 0) & WRITING)
            if path != os.devnull and not self._within(path, self.writable if written else self.readable):
                return f"open {path!r} {'for writing' if written else 'for reading'}"
        elif event == "import":
            name = str(arguments[0])
            if self.known is not None and name.partition(".")[0] not in self.known:
                return f"import {name}"
        elif event in PATHS:
            for path in arguments[: PATHS[event]]:
                if not self._within(path, self.writable):
                    return f"{event} {path!r}"
        elif event.startswith(FORBIDDEN):
            return f"{event} {arguments!r:.200}"
        return ""

    def _within(self, path: Any, folders: tuple[str, ...]) -> bool:
        if isinstance(path, int):  # a file that is open already
            return True
        full = os.path.realpath(os.path.abspath(os.fsdecode(path)).replace("\0", ""))  # noqa: PTH100
        return any(full == folder or full.startswith(folder + os.sep) for folder in folders)


def _write(root: Path, files: Files) -> None:
    for folder in {os.path.dirname(name) for name in files}:  # noqa: PTH120
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if not name.endswith("/"):
            (root / name).write_bytes(content)


class Ground:
    """A case's folder. Files that two cases in a row share are left as they are: nobody may write to them."""

    def __init__(self, own: Path) -> None:
        self.own = own
        self._there: Files | None = None

    def lay(self, case: Case) -> None:
        root, results = self.own / "root", self.own / "results"
        prepared = any(name.startswith("prepared") for name in case.files)
        if self._there is None or self._there.keys() != case.files.keys() or case.results:
            shutil.rmtree(self.own, ignore_errors=True)
            _write(root, case.files)
            _write(results, case.results)
            results.mkdir(exist_ok=True)
        else:
            _write(root, {n: c for n, c in case.files.items() if c != self._there[n]})
            for folder in (results, *([] if prepared else [root / "prepared"])):
                if folder.is_dir() and any(folder.iterdir()):
                    shutil.rmtree(folder)
            results.mkdir(exist_ok=True)
        known = not (prepared and case.command == "prepare") and not case.results
        self._there = case.files if known else None


def _arguments(case: Case, own: Path) -> list[str]:
    root, results = str(own / "root"), str(own / "results")
    match case.command:
        case "prepare":
            found = ["data", "prepare", "--root", root, "--results", results]
        case "check":
            found = ["data", "check", "--root", root, "--checkpoint-root", str(own / "checkpoints")]
        case "evaluate":
            file = str(own / "root" / PREDICTIONS)
            found = ["evaluate", "--predictions", file, "--root", root, "--results", results, "--dataset", case.name]
    return [*found, *case.more, *(["--", case.name] if case.command != "evaluate" else [])]


def run(case: Case, ground: Ground, guard: Guard) -> dict[str, Any]:
    """One case's outcome: code (exit code, or None), err (the end of what it said), out, seconds, faults."""
    from workbench import cli

    ground.lay(case)
    guard.found = []
    faults: list[str] = []
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    real = sys.stdout, sys.stderr, sys.argv
    code: int | None = None
    began = time.monotonic()
    try:
        sys.stdout, sys.stderr, sys.argv = out, err, ["workbench", *_arguments(case, ground.own)]
        faulthandler.dump_traceback_later(SECONDS + 5, exit=True, file=sys.__stderr__)
        signal.alarm(SECONDS)
        guard.on = True
        try:
            cli.main()
            code = 0
        finally:
            signal.alarm(0)
            guard.on = False
            faulthandler.cancel_dump_traceback_later()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Hang:
        faults.append(f"took more than {SECONDS} s")
    except BaseException:
        faults.append(traceback.format_exc(limit=-8))
    finally:
        sys.stdout, sys.stderr, sys.argv = real
    seconds = time.monotonic() - began
    said = []
    for stream in (out, err):
        stream.flush()
        said.append(stream.detach().getvalue().decode())  # type: ignore[attr-defined]
    faults += guard.found
    return {"code": code, "err": said[1][-8000:], "out": said[0][-300:], "seconds": round(seconds, 3), "faults": faults}


def status(name: str) -> int:
    """Of this process, in bytes: VmRSS is its memory, VmHWM the most it had, VmSize its address space."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def warm_up(ground: Ground, guard: Guard) -> None:
    """Run the commands on what is sound, and on a little that is not, so that all modules are there."""
    for form, name in (("released", "refcoco"), ("grefs", "grefcoco"), ("refs", "refcoco")):
        for command in ("check", "prepare"):
            outcome = run(Case(command, name, pristine(form)), ground, guard)
            assert outcome["code"] == 0, outcome
    PRISTINE["prepared"] = {f: c for f, c in read_back(ground.own / "root").items() if f.startswith(PLACE)}
    by = [word for name in ("length", "kind", "size", "distractors") for word in ("--by", name)]
    outcome = run(Case("evaluate", "refcoco", _evaluable(), more=("--name", "mine", *by)), ground, guard)
    assert outcome["code"] == 0, outcome
    assert run(of_file("check", "refs", IMAGE, b"no picture"), ground, guard)["code"] == 1
    assert run(of_file("prepare", "refs", IMAGE, b"no picture"), ground, guard)["code"] == 2


def work(scratch: Path, process: int, first: int, only: str, times: int) -> None:
    """Run the cases from that number on."""
    import typer

    from workbench import cli

    own = scratch / "case"
    ground, guard = Ground(own), Guard(own)
    sys.addaudithook(guard)
    os.chdir(scratch / "outside")
    write_pristine(scratch / "pristine")
    # Building the commands from their signatures takes longer than most of them do.
    cli.app = typer.main.get_command(cli.app)  # type: ignore[assignment]
    warm_up(ground, guard)
    gc.freeze()
    guard.known = frozenset(name.partition(".")[0] for name in sys.modules) - {PAYLOAD}
    copyreg.add_extension("os", "system", 77)
    signal.signal(signal.SIGALRM, _ring)
    limit = status("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    around = _listing(scratch)
    done = 0
    with (scratch / "outcomes.jsonl").open("a") as lines:
        for number, (name, seed) in enumerate(plan(times)):
            if number < first or only not in f"{name} {seed}":
                continue
            (scratch / "at.json").write_text(json.dumps({"number": number, "kind": name, "seed": seed}))
            case = make(name, seed)
            # From here on the most memory is counted anew: making a case may take more than reading it does.
            Path("/proc/self/clear_refs").write_text("5")
            before = status("VmRSS")
            outcome = run(case, ground, guard)
            grown = status("VmHWM") - before
            if (now := _listing(scratch)) != around:
                outcome["faults"].append(f"wrote beside its folder: {sorted(now ^ around)}")
                around = now
            line = {"kind": name, "seed": seed, "refused": case.refused, "command": case.command, **outcome}
            print(json.dumps({**line, "grown": grown}), file=lines, flush=True)
            done = number + 1
        print(json.dumps({"cases": done, "processes": process}), file=lines, flush=True)


def _listing(scratch: Path) -> frozenset[str]:
    """All that is there but for the case's own folder."""
    here = {entry.name for entry in os.scandir(scratch)} - {"case"}
    return frozenset(here | {f"outside/{entry.name}" for entry in os.scandir(scratch / "outside")})


def main(scratch: Path, only: str = "", times: int = 1) -> int:
    outside = scratch / "outside"
    outside.mkdir(parents=True)
    (outside / "secret.jpg").write_bytes(picture())
    (outside / f"{PAYLOAD}.py").write_text(f"from pathlib import Path\nPath({str(outside / SENTINEL)!r}).touch()\n")
    (outside / "object.npy").write_bytes(npy(header(descr="'|O'"), body=pickle.dumps(Hostile())))
    sys.path.append(str(outside))
    outcomes = scratch / "outcomes.jsonl"
    outcomes.touch()
    # What takes seconds to load is loaded once.

    first = 0
    for process in range(1, MOST_DEATHS + 1):
        (scratch / "at.json").write_text("null")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(scratch, process, first, only, times)
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        _, how = os.waitpid(child, 0)
        if how == 0:
            return 0
        at = json.loads((scratch / "at.json").read_text())
        if at is None:
            return 1
        died = f"the process died: exit {os.waitstatus_to_exitcode(how)}"
        line = {"code": None, "err": "", "out": "", "seconds": 0, "refused": False, "faults": [died], "grown": 0}
        with outcomes.open("a") as lines:
            print(json.dumps({**at, **line}), file=lines)
        first = at["number"] + 1
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), *sys.argv[2:3], *map(int, sys.argv[3:4])))
