"""refshapes: a procedural data set on disk in RefCOCO's own form, the same bytes from the same recipe.

`<folder>/instances.json`, `<folder>/refs(unc).p` and `<folder>/images/COCO_train2014_<12 digits>.png`.
Splits: train, val, testA (attributes and places), testB (relations), testC (combinations never trained on).
With `targets: any` there is `grefs(unc).json` instead, in gRefCOCO's form: the same images and expressions, plus
expressions with several targets and no-target expressions.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from workbench.config import RefshapesRecipe
from workbench.data.paired_scenes import draw_pair, draw_paired_scene
from workbench.data.scenes import (
    HELD_OUT,
    KINDS,
    SHAPES,
    Kind,
    Shape,
    describe,
    describe_nothing,
    describe_several,
    draw_scene,
    mask_of,
    paint,
)
from workbench.errors import DataError
from workbench.files import made_whole

FORMAT_VERSION = 1
"""Incremented when the same recipe gives other bytes; part of the folder's name."""

SPLITS: dict[str, tuple[Kind, ...]] = {
    "train": KINDS,
    "val": KINDS,
    "testA": ("attribute", "place"),
    "testB": ("relation",),
    "testC": KINDS,
}
REFERENTS_PER_IMAGE = 2
SENTENCES_PER_REFERENT = 2
PAIRS_PER_IMAGE = 2
"""Of the second version's sentences."""
PARALLEL_FROM = 1000
"""Images from which on other processes are worth their start."""
MOST_PROCESSES = 8


def folder_name(recipe: RefshapesRecipe) -> str:
    """`refshapes-<8 hex digits>`: each recipe has its own folder."""
    text = json.dumps([FORMAT_VERSION, recipe.document()], sort_keys=True)
    return f"refshapes-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def ensure(data_root: Path, recipe: RefshapesRecipe, progress: Callable[[int, int], None] | None = None) -> Path:
    """The data set's folder under `data_root`, made first when it is missing."""
    folder = data_root / folder_name(recipe)
    if not folder.is_dir():
        make(folder, recipe, progress)
    return folder


def make(folder: Path, recipe: RefshapesRecipe, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the data set. The folder appears complete or not at all, also when two processes write it at once.

    Args:
        folder: must not exist, or DataError.
        progress: called with (images done, images in all).
    """
    if folder.exists():
        raise DataError(f"{folder} exists already; remove it or name another folder")
    with made_whole(folder) as partial:
        _write(partial, recipe, progress)


def _write(folder: Path, recipe: RefshapesRecipe, progress: Callable[[int, int], None] | None) -> None:
    (folder / "images").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    counts = {split: recipe.train_images if split == "train" else recipe.eval_images for split in SPLITS}
    total, sent_id = sum(counts.values()), 0
    for split, number, picture, scene, sentences in _all_scenes(recipe, counts):
        image_id = len(images) + 1
        file_name = f"COCO_train2014_{image_id:012d}.png"
        Image.fromarray(picture).save(folder / "images" / file_name, compress_level=6)
        images.append({"id": image_id, "file_name": file_name, "width": recipe.width, "height": recipe.height})
        first_annotation = len(annotations) + 1
        annotations += [_annotation(first_annotation + i, image_id, shape, recipe) for i, shape in enumerate(scene)]
        references: list[tuple[list[int], list[str]]] = [([target], texts) for target, texts in sentences.items()]
        if recipe.targets == "any":
            # A generator of its own: the images and the other expressions stay as they are without these.
            references += _generalised(np.random.default_rng([recipe.seed, image_id, 1]), scene, split == "testC")
        for targets, texts in references:
            categories = [SHAPES.index(scene[target].shape) + 1 for target in targets]
            ids = [first_annotation + target for target in targets]
            ref: dict[str, Any] = {
                "ref_id": len(refs) + 1,
                "ann_id": ids[0] if recipe.targets == "one" else ids or [-1],
                "image_id": image_id,
                "category_id": categories[0] if recipe.targets == "one" else categories or [-1],
                "file_name": f"{file_name[:-4]}_{ids[0] if ids else -1}.png",
                "split": split,
                "sent_ids": list(range(sent_id, sent_id + len(texts))),
                "sentences": [
                    {"raw": text, "sent": text, "sent_id": sent_id + i, "tokens": text.split()}
                    for i, text in enumerate(texts)
                ],
            }
            refs.append(ref if recipe.targets == "one" else ref | {"no_target": not targets})
            sent_id += len(texts)
        if progress and (number % 50 == 0 or image_id == total):
            progress(image_id, total)
    instances = {
        "info": {"description": "refshapes", "recipe": recipe.document(), "version": FORMAT_VERSION},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES)],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    if recipe.targets == "any":
        (folder / "grefs(unc).json").write_text(json.dumps(refs))
    else:
        # Protocol 2, as the original files; through JSON first, so that no string is shared and the bytes are stable.
        (folder / "refs(unc).p").write_bytes(pickle.dumps(json.loads(json.dumps(refs)), protocol=2))
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))


def scenes_of(recipe: RefshapesRecipe, split: str) -> Iterator[tuple[int, list[Shape]]]:
    """The scenes that a split's images were made from, each with the image's id; drawn again from the recipe."""
    sizes = {name: recipe.train_images if name == "train" else recipe.eval_images for name in SPLITS}
    before = sum(size for name, size in sizes.items() if list(SPLITS).index(name) < list(SPLITS).index(split))
    for _, number, _, scene, _ in _all_scenes(recipe, {**dict.fromkeys(SPLITS, 0), split: sizes[split]}):
        yield before + number + 1, scene


def _all_scenes(
    recipe: RefshapesRecipe, counts: dict[str, int]
) -> Iterator[tuple[str, int, np.ndarray[Any, Any], list[Shape], dict[int, list[str]]]]:
    places = [(split, number) for split in SPLITS for number in range(counts[split])]
    draw, processes = functools.partial(_scene_at, recipe), len(os.sched_getaffinity(0))
    if len(places) < PARALLEL_FROM or processes == 1:
        yield from map(draw, places)
        return
    with ProcessPoolExecutor(min(processes, MOST_PROCESSES), get_context("spawn"), _leave_ctrl_c_to_parent) as pool:
        yield from pool.map(draw, places, chunksize=64)


def _leave_ctrl_c_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _scene_at(
    recipe: RefshapesRecipe, place: tuple[str, int]
) -> tuple[str, int, np.ndarray[Any, Any], list[Shape], dict[int, list[str]]]:
    """The image of a split with this number."""
    split, number = place
    # One generator per image, so that no image depends on how many others there are, or on who draws them.
    rng = np.random.default_rng([recipe.seed, list(SPLITS).index(split), number])
    draw = _draw_paired if recipe.version == 2 else _draw
    scene, sentences = draw(rng, recipe, SPLITS[split], split)
    return split, number, paint(rng, scene, recipe.width, recipe.height), scene, sentences


def _draw(
    rng: np.random.Generator, recipe: RefshapesRecipe, kinds: tuple[Kind, ...], split: str
) -> tuple[list[Shape], dict[int, list[str]]]:
    """A scene of the first version and its sentences."""
    held_out = split == "testC"
    while True:
        scene = draw_scene(rng, recipe.width, recipe.height, held_out)
        if sentences := _sentences(rng, scene, kinds, only_held_out=held_out):
            return scene, sentences


def _draw_paired(
    rng: np.random.Generator, recipe: RefshapesRecipe, kinds: tuple[Kind, ...], split: str
) -> tuple[list[Shape], dict[int, list[str]]]:
    """A scene of the second version with two pairs of sentences, by shape.

    In training some name one attribute alone: easier sentences, from which a model learns the words.
    """
    held_out = split == "testC"
    wanted = [kinds[int(rng.integers(len(kinds)))] for _ in range(PAIRS_PER_IMAGE)]
    while True:
        scene = draw_paired_scene(rng, recipe.width, recipe.height, held_out)
        texts: list[tuple[int, str]] = []
        for kind in wanted:
            texts += draw_pair(rng, scene, kind, held_out, single=split == "train") or ()
        if len({text for _, text in texts}) == 2 * PAIRS_PER_IMAGE:
            sentences: dict[int, list[str]] = {}
            for target, text in texts:
                sentences.setdefault(target, []).append(text)
            return scene, sentences


def _sentences(
    rng: np.random.Generator, scene: list[Shape], kinds: tuple[Kind, ...], only_held_out: bool
) -> dict[int, list[str]]:
    """Referents of a scene (indices into it) and the sentences for each."""
    chosen: dict[int, list[str]] = {}
    for target in rng.permutation(len(scene)).tolist():
        if only_held_out and (scene[target].colour, scene[target].shape) not in HELD_OUT:
            continue
        texts: list[str] = []
        for kind in rng.permutation(kinds).tolist() * 2:
            text = describe(rng, scene, target, kind)
            if text is not None and text not in texts and len(texts) < SENTENCES_PER_REFERENT:
                texts.append(text)
        if texts:
            chosen[target] = texts
        if len(chosen) == REFERENTS_PER_IMAGE:
            break
    return chosen


def _generalised(rng: np.random.Generator, scene: list[Shape], held_out: bool) -> list[tuple[list[int], list[str]]]:
    """Targets and sentences: one reference to several shapes, and, for half of the scenes, a no-target one."""
    references: list[tuple[list[int], list[str]]] = []
    if several := describe_several(rng, scene):
        references.append((several[1], [several[0]]))
    if rng.random() < 0.5 and (nothing := describe_nothing(rng, scene, held_out)):
        references.append(([], [nothing]))
    return references


def _annotation(ann_id: int, image_id: int, shape: Shape, recipe: RefshapesRecipe) -> dict[str, Any]:
    mask = mask_of(shape, recipe.width, recipe.height)
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "id": ann_id,
        "image_id": image_id,
        "category_id": SHAPES.index(shape.shape) + 1,
        "bbox": [float(v) for v in coco_mask.toBbox(rle)],
        "area": int(mask.sum()),
        "segmentation": {"size": [recipe.height, recipe.width], "counts": rle["counts"].decode("ascii")},
        "iscrowd": 0,
    }
