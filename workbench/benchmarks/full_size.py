"""Files as large as RefCOCO's own, with random content: annotations of 50,000 referents, and images to go with them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REFERENTS, EXPRESSIONS, IMAGES, OBJECTS = 50_000, 142_210, 19_994, 196_771
"""Referents and images as published of RefCOCO (unc), expressions one more; ten objects per image are our choice."""
SPLITS = {"train": 42_404, "val": 3_811, "testA": 1_975, "testB": 1_810}
CATEGORIES = 80
PHOTOGRAPHS = 24
WORDS = ("man", "woman", "left", "right", "red", "blue", "dog", "of", "the", "in", "middle", "shirt", "with", "chair")


def make(folder: Path, scale: float = 1.0, seed: int = 0) -> Path:
    """Write `<folder>/refcoco/` with instances.json, refs(unc).p and images.

    The images are hard links to a few photograph-like JPEG files of COCO's usual sizes.

    Args:
        scale: fraction of the full size.

    Returns:
        The data set's folder.
    """
    rng = np.random.default_rng(seed)
    place = folder / "refcoco"
    (place / "images").mkdir(parents=True)
    images = _images(rng, place / "images", max(4, int(IMAGES * scale)))
    annotations = [_object(rng, i + 1, images[i % len(images)]) for i in range(int(OBJECTS * scale))]
    refs = _refs(rng, annotations, scale)
    instances = {
        "info": {},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": f"kind {i}", "supercategory": "any"} for i in range(CATEGORIES)],
    }
    (place / "instances.json").write_text(json.dumps(instances))
    (place / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return place


def photograph(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A picture with the detail and noise of a photograph, so that a JPEG of it is about as large as COCO's."""
    coarse = Image.fromarray(rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))


def _images(rng: np.random.Generator, folder: Path, count: int) -> list[dict[str, Any]]:
    sizes = [(480, 640), (640, 480), (426, 640), (427, 640)]
    originals = []
    for number in range(PHOTOGRAPHS):
        height, width = sizes[number % len(sizes)]
        file = folder / f".photograph-{number}.jpg"
        photograph(rng, height, width).save(file, quality=90)
        originals.append((file, height, width))
    images = []
    for image_id in range(1, count + 1):
        file, height, width = originals[image_id % PHOTOGRAPHS]
        name = f"COCO_train2014_{image_id:012d}.jpg"
        os.link(file, folder / name)
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
    for file, *_ in originals:
        file.unlink()
    return images


def _object(rng: np.random.Generator, ann_id: int, image: dict[str, Any]) -> dict[str, Any]:
    height, width = image["height"], image["width"]
    corners = int(rng.integers(12, 45))
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    middle, radius = rng.uniform(0.25, 0.75, 2) * (width, height), rng.uniform(0.05, 0.24) * min(height, width)
    around = radius * rng.uniform(0.8, 1.0, corners)
    points = np.stack([middle[0] + around * np.cos(angle), middle[1] + around * np.sin(angle)], axis=1).round(2)
    low, high = points.min(axis=0), points.max(axis=0)
    polygons = [points.ravel().tolist()]
    if ann_id % 10 == 0:  # some objects are in two parts
        half = corners // 2
        polygons = [points[: half + 1].ravel().tolist(), points[half:].ravel().tolist()]
    return {
        "id": ann_id,
        "image_id": image["id"],
        "category_id": int(rng.integers(1, CATEGORIES + 1)),
        "bbox": [*low.tolist(), *(high - low).round(2).tolist()],
        "area": float((high - low).prod()),
        "segmentation": polygons,
        "iscrowd": 0,
    }


def _refs(rng: np.random.Generator, annotations: list[dict[str, Any]], scale: float) -> list[dict[str, Any]]:
    count, sentences = int(REFERENTS * scale), int(EXPRESSIONS * scale)
    names = [split for split, size in SPLITS.items() for _ in range(max(1, round(size * scale)))]
    names = [*["train"] * (count - len(names)), *names][:count]
    refs: list[dict[str, Any]] = []
    sent_id = 0
    for ref_id, split in enumerate(names):
        annotation = annotations[ref_id]
        # Rounded so that the sentences of all referents add up to the whole number.
        own_count = (ref_id + 1) * sentences // count - sent_id
        own_sentences = []
        for _ in range(own_count):
            tokens = [WORDS[i] for i in rng.integers(0, len(WORDS), int(rng.integers(1, 7)))]
            text = " ".join(tokens)
            own_sentences.append({"raw": text, "sent": text, "sent_id": sent_id, "tokens": tokens})
            sent_id += 1
        refs.append(
            {
                "ref_id": ref_id,
                "ann_id": annotation["id"],
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "file_name": f"COCO_train2014_{annotation['image_id']:012d}_{annotation['id']}.jpg",
                "split": split,
                "sent_ids": [s["sent_id"] for s in own_sentences],
                "sentences": own_sentences,
            }
        )
    return refs
