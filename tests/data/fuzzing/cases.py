"""A case, the kinds of cases, and the sound data sets that they start from."""

from __future__ import annotations

import functools
import io
import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tests.data import fixtures
from tests.data.fixtures import square
from tests.data.fuzzing.writing import as_json

HEIGHT, WIDTH = fixtures.SIZE


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


def plan(times: float = 1) -> Iterator[tuple[str, int]]:
    """Kind and seed of each case; `times` scales how many there are of the kinds that can have more."""
    for name, (count, more, _) in KINDS.items():
        whole = count if isinstance(count, int) else count()
        for seed in range(math.ceil(whole * times) if more else whole):
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


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {SENTINEL}",)


def ref_with(**fields: Any) -> dict[str, Any]:
    return refs()[0] | fields


def sentence_with(**fields: Any) -> dict[str, Any]:
    return refs()[0]["sentences"][0] | fields


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


def images() -> Files:
    return {file: content for file, content in PRISTINE["refs"].items() if file.startswith("images/")}


def evaluable(content: bytes | None = None) -> Files:
    files = images() | PRISTINE["prepared"]
    return files | {PREDICTIONS: as_json(predictions()) if content is None else content}
