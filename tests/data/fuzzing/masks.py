"""Segmentations and arrays of masks that are no masks, or huge ones."""

from __future__ import annotations

import functools
import io
import pickle
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from tests.data import fixtures
from tests.data.fixtures import square
from tests.data.fuzzing.cases import (
    HEIGHT,
    PREDICTIONS,
    WIDTH,
    Case,
    Command,
    Hostile,
    instances,
    kind,
    of_file,
    of_refs,
    predictions,
)
from tests.data.fuzzing.damages import hurt
from tests.data.fuzzing.writing import as_json

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
